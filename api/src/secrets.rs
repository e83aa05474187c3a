//! Routes of secrets.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use waxseal_cluster::{
    objects::{self, CreateSecret, RemoveSecret, UpdateSecret, command::Op},
    secret_name, validate_secret_spec,
};

use crate::{
    cluster::Cluster,
    error::{ApiError, found},
    extract::{Caller, Id, Json, Params},
    filters::Filters,
    json::{
        common::new_id,
        secret::{Secret, SecretSpec},
    },
    respond,
    server::Shared,
    table::{Routes, doc},
    version::ApiVersion,
};

const KIND: &str = "secret";
const FILTERS: &[&str] = &["id", "name", "names", "label"];
/// From here on clients may ask for templates.
const TEMPLATING_SINCE: ApiVersion = ApiVersion::new(37);

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/secrets",
            doc("List secrets").query(&["filters"]).lists("Secret"),
            list::<C>,
        )
        .post(
            "/secrets/create",
            doc("Make a secret")
                .success(StatusCode::CREATED)
                .answers("IdResponse"),
            create::<C>,
        )
        .get(
            "/secrets/{id}",
            doc("A secret").answers("Secret"),
            inspect::<C>,
        )
        .delete(
            "/secrets/{id}",
            doc("Remove a secret")
                .success(StatusCode::NO_CONTENT)
                .empty(),
            remove::<C>,
        )
        .post(
            "/secrets/{id}/update",
            doc("Replace the labels of a secret")
                .query(&["version"])
                .empty(),
            update::<C>,
        )
}

/// The answer to the creation of an object.
#[derive(Serialize)]
pub(crate) struct Created {
    /// Its id.
    #[serde(rename = "ID")]
    pub(crate) id: String,
}

async fn list<C: Cluster>(
    State(api): State<Shared<C>>,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = params.filters(FILTERS)?;
    let secrets = api
        .read(move |state| {
            let shown = state.secrets().filter(|secret| passes(&filters, secret));
            shown.cloned().collect::<Vec<_>>()
        })
        .await?;
    respond::list(secrets.iter().map(|secret| Secret::from(&**secret)))
}

fn passes(filters: &Filters, secret: &objects::Secret) -> bool {
    if filters.is_empty() {
        return !secret.internal;
    }
    let name = secret_name(secret);
    let labels = secret
        .spec
        .as_ref()
        .and_then(|spec| spec.annotations.as_ref())
        .map(|annotations| &annotations.labels);
    !secret.internal
        && filters.prefix("id", &secret.id)
        && filters.prefix_any_case("name", name)
        && filters.any("names", |wanted| wanted.eq_ignore_ascii_case(name))
        && filters.stored_labels("label", labels.unwrap_or(&Default::default()))
}

async fn create<C: Cluster>(
    State(api): State<Shared<C>>,
    version: ApiVersion,
    Caller(actor): Caller,
    Json(spec): Json<SecretSpec>,
) -> Result<Response, ApiError> {
    if spec.templating.is_some() && version < TEMPLATING_SINCE {
        return Err(ApiError::bad_request(format!(
            "secret templating is not supported on the specified API version: {version}"
        )));
    }
    let spec = objects::SecretSpec::from(spec);
    if let Err(refusal) = validate_secret_spec(&spec) {
        // Where the node stands counts more than what is wrong with the secret.
        api.read(|_| ()).await?;
        return Err(refusal.into());
    }
    let id = new_id()?;
    let secret = objects::Secret {
        id: id.clone(),
        spec: Some(spec),
        ..objects::Secret::default()
    };
    let op = Op::CreateSecret(CreateSecret {
        secret: Some(secret),
    });
    api.propose(actor, op).await?;
    respond::json(StatusCode::CREATED, &Created { id })
}

async fn find<C: Cluster>(api: &Shared<C>, input: &str) -> Result<Arc<objects::Secret>, ApiError> {
    let wanted = input.to_owned();
    let lookup = api.read(move |state| state.find_secret(&wanted)).await?;
    found(lookup, KIND, input)
}

async fn inspect<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
) -> Result<Response, ApiError> {
    respond::ok(&Secret::from(&*find(&api, &id).await?))
}

async fn remove<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    Caller(actor): Caller,
) -> Result<Response, ApiError> {
    let secret = find(&api, &id).await?;
    let op = Op::RemoveSecret(RemoveSecret {
        secret_id: secret.id.clone(),
    });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

async fn update<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    params: Params,
    Caller(actor): Caller,
    Json(spec): Json<SecretSpec>,
) -> Result<Response, ApiError> {
    let expected_version = params.version_plain(KIND)?;
    let secret = find(&api, &id).await?;
    let op = Op::UpdateSecret(UpdateSecret {
        secret_id: secret.id.clone(),
        expected_version,
        spec: Some(spec.into()),
    });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::OK))
}
