//! Services: routes, and their JSON in the submodules.

mod container;
mod container_from_object;
mod container_into_object;
mod defaults;
mod from_object;
mod into_object;
mod names;
mod native;
mod refuse;
mod spec;
#[cfg(test)]
mod tests;
mod view;
mod warnings;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, State as Shares},
    response::Response,
};
use http::{StatusCode, request::Parts};
use serde::Serialize;
use time::OffsetDateTime;
use waxseal_cluster::{
    MAX_REGISTRY_AUTH_BYTES, Refusal, State,
    objects::{
        CreateService, RemoveService, Service, ServiceSpec, UpdateService, command::Op,
        container_spec::PullOptions, service_spec::Mode,
    },
    plan::is_host_image,
    service_name, validate_service_spec,
};
use zeroize::Zeroizing;

pub(crate) use from_object::{generic, port, task_spec};
#[cfg(test)]
pub(crate) use into_object::service_spec;
pub(crate) use spec::{GenericResourceJson, PortConfigJson, ServiceSpecJson, TaskSpecJson};
pub(crate) use view::IterationJson;

use crate::{
    cluster::Cluster,
    error::{ApiError, found},
    extract::{Caller, Id, Json, Params},
    filters::Filters,
    json::common::new_id,
    respond,
    server::Shared,
    table::{Extracted, Routes, Takes, doc},
    version::ApiVersion,
};

/// Where clients put registry credentials: base64url JSON, taken as it is.
const REGISTRY_AUTH: &str = "x-registry-auth";
/// Filters of the list.
const FILTERS: [&str; 5] = ["id", "label", "mode", "name", "runtime"];

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/services",
            doc("List services")
                .query(&["filters", "status"])
                .lists("Service"),
            list,
        )
        .post(
            "/services/create",
            doc("Make a service")
                .success(StatusCode::CREATED)
                .answers("IdResponse"),
            create,
        )
        .get(
            "/services/{id}",
            doc("A service")
                .query(&["insertDefaults"])
                .answers("Service"),
            inspect,
        )
        .delete("/services/{id}", doc("Remove a service").empty(), remove)
        .post(
            "/services/{id}/update",
            doc("Replace a service's spec, or go back")
                .query(&["version", "registryAuthFrom", "rollback"])
                .answers("Warnings"),
            update,
        )
}

async fn list<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    version: ApiVersion,
    params: Params,
) -> Result<Response, ApiError> {
    // 20.10 answers 400 here where it has 500 for the other lists.
    let filters = params
        .filters(&FILTERS)
        .map_err(|error| ApiError::bad_request(error.message))?;
    // Clients before 1.41 do not know the field.
    let with_status = version >= ApiVersion::new(41) && params.flag("status")?;
    let services = api
        .cluster
        .read(move |state| {
            state
                .services()
                .filter(|service| is_listed(service, &filters))
                .map(|service| {
                    let status = with_status.then(|| view::service_status(state, service));
                    (Arc::clone(service), status)
                })
                .collect::<Vec<_>>()
        })
        .await?;
    respond::list(
        services
            .iter()
            .map(|(service, status)| view::service(service, false, *status)),
    )
}

fn is_listed(service: &Service, filters: &Filters) -> bool {
    let spec = service.spec.as_ref();
    let annotations = spec.and_then(|spec| spec.annotations.as_ref());
    let mode = match spec.and_then(|spec| spec.mode.as_ref()) {
        Some(Mode::Global(_)) => "global",
        Some(Mode::ReplicatedJob(_)) => "replicated-job",
        Some(Mode::GlobalJob(_)) => "global-job",
        Some(Mode::Replicated(_)) | None => "replicated",
    };
    filters.prefix("id", &service.id)
        && filters.prefix("name", service_name(service))
        && filters.any("mode", |wanted| wanted == mode)
        && filters.any("runtime", |wanted| wanted == "container")
        && match annotations {
            Some(annotations) => filters.stored_labels("label", &annotations.labels),
            None => filters.values("label").is_empty(),
        }
}

async fn inspect<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    Id(id): Id,
    params: Params,
) -> Result<Response, ApiError> {
    let fill = params.flag("insertDefaults")?;
    let service = api
        .cluster
        .read(move |state| found(state.find_service(&id), "service", &id))
        .await??;
    respond::ok(&view::service(&service, fill, None))
}

/// `ServiceCreateResponse`; before 1.42 without `Warnings` when there are none.
#[derive(Serialize)]
struct Created {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    warnings: Option<Warnings>,
}

/// `null` when there are none.
#[derive(Serialize)]
struct Warnings {
    #[serde(rename = "Warnings")]
    warnings: Option<Vec<String>>,
}

impl Warnings {
    fn of(warnings: Vec<String>) -> Warnings {
        Warnings {
            warnings: (!warnings.is_empty()).then_some(warnings),
        }
    }
}

async fn create<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    Caller(actor): Caller,
    version: ApiVersion,
    RegistryAuth(auth): RegistryAuth,
    Json(spec): Json<ServiceSpecJson>,
) -> Result<Response, ApiError> {
    let mut spec = into_object::service_spec(spec)?;
    if let Some(auth) = auth {
        set_registry_auth(&mut spec, Some(auth));
    }
    check_native(&*api.cluster, &spec)?;
    let random = names::random()?;
    let now = api.cluster.now();
    let (spec, warnings) = api
        .cluster
        .read(move |state| {
            name_if_nameless(state, &mut spec, random);
            validate_service_spec(&spec)?;
            let warnings = warnings::warnings(state, "", &spec, now);
            Ok::<_, Refusal>((spec, warnings))
        })
        .await??;
    let id = new_id()?;
    let service = Service {
        id: id.clone(),
        spec: Some(spec),
        ..Service::default()
    };
    let op = Op::CreateService(CreateService {
        service: Some(service),
    });
    api.cluster.propose(actor, op).await?;
    let warnings = Warnings::of(warnings);
    let is_shown = version.is_modern() || warnings.warnings.is_some();
    respond::json(
        StatusCode::CREATED,
        &Created {
            id,
            warnings: is_shown.then_some(warnings),
        },
    )
}

/// What every node would reject is refused at once.
fn check_native<C: Cluster>(cluster: &C, spec: &ServiceSpec) -> Result<(), ApiError> {
    let container = spec.task.as_ref().and_then(|task| task.container.as_ref());
    match container.filter(|container| is_host_image(&container.image)) {
        Some(container) => cluster
            .check_native(container)
            .map_err(|why| ApiError::invalid_argument(format!("ContainerSpec: {why}"))),
        None => Ok(()),
    }
}

fn name_if_nameless(state: &State, spec: &mut ServiceSpec, random: [u8; names::RANDOM_BYTES]) {
    let annotations = spec.annotations.get_or_insert_default();
    if annotations.name.is_empty() {
        annotations.name = names::choose(random, |name| {
            state
                .services()
                .any(|service| service_name(service).eq_ignore_ascii_case(name))
        });
    }
}

/// The credentials that came with the request, if any.
struct RegistryAuth(Option<Zeroizing<String>>);

impl<S: Send + Sync> FromRequestParts<S> for RegistryAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<RegistryAuth, ApiError> {
        let Some(value) = parts.headers.get(REGISTRY_AUTH) else {
            return Ok(RegistryAuth(None));
        };
        let text = value.to_str().map_err(|_| {
            ApiError::bad_request("invalid X-Registry-Auth header: not printable text")
        })?;
        if text.len() > MAX_REGISTRY_AUTH_BYTES {
            return Err(ApiError::bad_request(format!(
                "X-Registry-Auth has {} bytes, at most {MAX_REGISTRY_AUTH_BYTES} are allowed",
                text.len()
            )));
        }
        let auth = (!text.is_empty()).then(|| Zeroizing::new(text.to_owned()));
        Ok(RegistryAuth(auth))
    }
}

impl Extracted for RegistryAuth {
    fn describe(takes: &mut Takes) {
        takes.headers.push(REGISTRY_AUTH);
    }
}

fn set_registry_auth(spec: &mut ServiceSpec, auth: Option<Zeroizing<String>>) {
    let container = spec.task.as_mut().and_then(|task| task.container.as_mut());
    if let Some(container) = container {
        container.pull_options = auth.map(|mut auth| PullOptions {
            registry_auth: std::mem::take(&mut *auth),
        });
    }
}

fn stored_registry_auth(state: &State, spec: Option<&ServiceSpec>) -> Option<Zeroizing<String>> {
    state.registry_auth(spec?.task.as_ref()?)
}

/// What an update does to the spec.
enum Change {
    /// Replace it; the credentials come from the request or from a spec.
    Replace(Box<ServiceSpec>, Auth),
    /// Bring the previous one back; the body is not looked at.
    Rollback,
}

/// Where the registry credentials of an updated service come from.
enum Auth {
    Header(Zeroizing<String>),
    CurrentSpec,
    PreviousSpec,
}

impl Auth {
    fn of(sent: Option<Zeroizing<String>>, params: &Params) -> Result<Auth, ApiError> {
        if let Some(auth) = sent {
            return Ok(Auth::Header(auth));
        }
        match params.text("registryAuthFrom") {
            "" | "spec" => Ok(Auth::CurrentSpec),
            "previous-spec" => Ok(Auth::PreviousSpec),
            _ => Err(ApiError::internal("unsupported registryAuthFrom value")),
        }
    }

    /// The credentials, given the service as it stands.
    fn resolve(
        self,
        state: &State,
        service: &Service,
    ) -> Result<Option<Zeroizing<String>>, ApiError> {
        match self {
            Auth::Header(auth) => Ok(Some(auth)),
            Auth::CurrentSpec => Ok(stored_registry_auth(state, service.spec.as_ref())),
            Auth::PreviousSpec => match &service.previous_spec {
                Some(previous) => Ok(stored_registry_auth(state, Some(previous))),
                None => Err(ApiError::internal("service does not have a previous spec")),
            },
        }
    }
}

async fn update<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    Caller(actor): Caller,
    Id(id): Id,
    params: Params,
    RegistryAuth(auth): RegistryAuth,
    Json(spec): Json<ServiceSpecJson>,
) -> Result<Response, ApiError> {
    let expected_version = params.version("service")?;
    let change = match params.text("rollback") {
        "" | "none" => {
            let spec = into_object::service_spec(spec)?;
            check_native(&*api.cluster, &spec)?;
            Change::Replace(Box::new(spec), Auth::of(auth, &params)?)
        }
        "previous" => Change::Rollback,
        other => {
            return Err(ApiError::internal(format!(
                "unrecognized rollback option {other}"
            )));
        }
    };
    let now = api.cluster.now();
    let (mut update, warnings) = api
        .cluster
        .read(move |state| plan_update(state, &id, change, now))
        .await??;
    update.expected_version = expected_version;
    api.cluster
        .propose(actor, Op::UpdateService(update))
        .await?;
    respond::ok(&Warnings::of(warnings))
}

/// The operation that an update asks for, and what to tell the client of it.
/// That name and mode stay, and that there is a spec to roll back to, is
/// checked when it is applied.
fn plan_update(
    state: &State,
    input: &str,
    change: Change,
    now: OffsetDateTime,
) -> Result<(UpdateService, Vec<String>), ApiError> {
    let service = found(state.find_service(input), "service", input)?;
    let warnings = |spec: &ServiceSpec| warnings::warnings(state, &service.id, spec, now);
    let mut update = UpdateService {
        service_id: service.id.clone(),
        ..UpdateService::default()
    };
    match change {
        Change::Rollback => {
            update.rollback = true;
            let previous = service.previous_spec.as_ref();
            let warnings = previous.map_or_else(Vec::new, warnings);
            Ok((update, warnings))
        }
        Change::Replace(mut spec, auth) => {
            validate_service_spec(&spec)?;
            set_registry_auth(&mut spec, auth.resolve(state, &service)?);
            let warnings = warnings(&spec);
            update.spec = Some(*spec);
            Ok((update, warnings))
        }
    }
}

async fn remove<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    Caller(actor): Caller,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let service = api
        .cluster
        .read(move |state| found(state.find_service(&id), "service", &id))
        .await??;
    let op = Op::RemoveService(RemoveService {
        service_id: service.id.clone(),
    });
    api.cluster.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::OK))
}
