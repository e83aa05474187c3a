//! Routes of configs.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use waxseal_cluster::{
    config_name,
    objects::{self, CreateConfig, RemoveConfig, UpdateConfigObject, command::Op},
    validate_config_spec,
};

use crate::{
    cluster::Cluster,
    error::{ApiError, found},
    extract::{Caller, Id, Json, Params},
    filters::Filters,
    json::{
        common::new_id,
        config::{Config, ConfigSpec},
    },
    respond,
    secrets::Created,
    server::Shared,
    table::{Routes, doc},
    version::ApiVersion,
};

const KIND: &str = "config";
const FILTERS: &[&str] = &["id", "name", "label"];
/// From here on clients may ask for templates.
const TEMPLATING_SINCE: ApiVersion = ApiVersion::new(37);

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/configs",
            doc("List configs").query(&["filters"]).lists("Config"),
            list::<C>,
        )
        .post(
            "/configs/create",
            doc("Make a config")
                .success(StatusCode::CREATED)
                .answers("IdResponse"),
            create::<C>,
        )
        .get(
            "/configs/{id}",
            doc("A config").answers("Config"),
            inspect::<C>,
        )
        .delete(
            "/configs/{id}",
            doc("Remove a config")
                .success(StatusCode::NO_CONTENT)
                .empty(),
            remove::<C>,
        )
        .post(
            "/configs/{id}/update",
            doc("Replace the labels of a config")
                .query(&["version"])
                .empty(),
            update::<C>,
        )
}

async fn list<C: Cluster>(
    State(api): State<Shared<C>>,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = params.filters(FILTERS)?;
    let configs = api
        .read(move |state| {
            let shown = state.configs().filter(|config| passes(&filters, config));
            shown.cloned().collect::<Vec<_>>()
        })
        .await?;
    respond::list(configs.iter().map(|config| Config::from(&**config)))
}

fn passes(filters: &Filters, config: &objects::Config) -> bool {
    if filters.is_empty() {
        return true;
    }
    let name = config_name(config);
    let labels = config
        .spec
        .as_ref()
        .and_then(|spec| spec.annotations.as_ref())
        .map(|annotations| &annotations.labels);
    filters.prefix("id", &config.id)
        && filters.prefix_any_case("name", name)
        && filters.stored_labels("label", labels.unwrap_or(&Default::default()))
}

async fn create<C: Cluster>(
    State(api): State<Shared<C>>,
    version: ApiVersion,
    Caller(actor): Caller,
    Json(spec): Json<ConfigSpec>,
) -> Result<Response, ApiError> {
    if spec.templating.is_some() && version < TEMPLATING_SINCE {
        return Err(ApiError::bad_request(format!(
            "config templating is not supported on the specified API version: {version}"
        )));
    }
    let spec = objects::ConfigSpec::from(spec);
    if let Err(refusal) = validate_config_spec(&spec) {
        // Where the node stands counts more than what is wrong with the config.
        api.read(|_| ()).await?;
        return Err(refusal.into());
    }
    let id = new_id()?;
    let config = objects::Config {
        id: id.clone(),
        spec: Some(spec),
        ..objects::Config::default()
    };
    let op = Op::CreateConfig(CreateConfig {
        config: Some(config),
    });
    api.propose(actor, op).await?;
    respond::json(StatusCode::CREATED, &Created { id })
}

async fn find<C: Cluster>(api: &Shared<C>, input: &str) -> Result<Arc<objects::Config>, ApiError> {
    let wanted = input.to_owned();
    let lookup = api.read(move |state| state.find_config(&wanted)).await?;
    found(lookup, KIND, input)
}

async fn inspect<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
) -> Result<Response, ApiError> {
    respond::ok(&Config::from(&*find(&api, &id).await?))
}

async fn remove<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    Caller(actor): Caller,
) -> Result<Response, ApiError> {
    let config = find(&api, &id).await?;
    let op = Op::RemoveConfig(RemoveConfig {
        config_id: config.id.clone(),
    });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

async fn update<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    params: Params,
    Caller(actor): Caller,
    Json(spec): Json<ConfigSpec>,
) -> Result<Response, ApiError> {
    let expected_version = params.version_plain(KIND)?;
    let config = find(&api, &id).await?;
    let op = Op::UpdateConfig(UpdateConfigObject {
        config_id: config.id.clone(),
        expected_version,
        spec: Some(spec.into()),
    });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::OK))
}
