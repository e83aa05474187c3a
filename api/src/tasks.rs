//! Tasks: list and inspect.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State as Shares, response::Response};
use serde::Serialize;
use waxseal_cluster::{
    Lookup, State,
    objects::{NetworkAttachment, Task, TaskSpec, TaskState, TaskStatus},
    plan::is_current,
    task_name,
};

use crate::{
    cluster::Cluster,
    error::{ApiError, found},
    extract::{Id, Params},
    filters::Filters,
    json::{
        common::{Labels, Meta, Time},
        node::node_generic,
        node_text::node_text,
    },
    respond,
    server::Shared,
    services::{GenericResourceJson, IterationJson, PortConfigJson, TaskSpecJson, port, task_spec},
    table::{Routes, doc},
    version::ApiVersion,
};

/// Filters of the list.
const FILTERS: [&str; 8] = [
    "_up-to-date",
    "desired-state",
    "id",
    "label",
    "name",
    "node",
    "runtime",
    "service",
];

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/tasks",
            doc("List tasks").query(&["filters"]).lists("Task"),
            list,
        )
        .get("/tasks/{id}", doc("A task").answers("Task"), inspect)
}

/// `Task`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskJson {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: Meta,
    labels: Labels,
    spec: TaskSpecJson,
    #[serde(rename = "ServiceID", skip_serializing_if = "String::is_empty")]
    service_id: String,
    #[serde(skip_serializing_if = "is_zero")]
    slot: u64,
    #[serde(rename = "NodeID", skip_serializing_if = "String::is_empty")]
    node_id: String,
    status: TaskStatusJson,
    desired_state: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks_attachments: Vec<NetworkAttachmentJson>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    generic_resources: Vec<GenericResourceJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_iteration: Option<IterationJson>,
    /// From 1.42 on, always `null`: there are no cluster volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    volumes: Option<()>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `TaskStatus`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TaskStatusJson {
    timestamp: Time,
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    err: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_status: Option<ContainerStatusJson>,
    port_status: PortStatusJson,
}

/// `ContainerStatus`.
#[derive(Clone, Debug, Serialize)]
struct ContainerStatusJson {
    #[serde(rename = "ContainerID")]
    container_id: String,
    #[serde(rename = "PID")]
    pid: i32,
    #[serde(rename = "ExitCode")]
    exit_code: i32,
}

/// `PortStatus`.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct PortStatusJson {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PortConfigJson>,
}

/// `NetworkAttachment`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkAttachmentJson {
    network: NetworkJson,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
}

/// `Network`, as it stands in a task.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkJson {
    #[serde(rename = "ID")]
    id: String,
    #[serde(flatten)]
    meta: Meta,
    spec: NetworkSpecJson,
    driver_state: DriverName,
}

/// `NetworkSpec`, as it stands in a task.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSpecJson {
    name: String,
    labels: Labels,
    driver_configuration: DriverName,
    scope: &'static str,
}

/// `Driver` without options.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct DriverName {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
}

/// What a client of that version reads of `task`.
fn task_json(task: &Task, version: ApiVersion) -> TaskJson {
    TaskJson {
        id: task.id.clone(),
        meta: Meta::of(task.meta.as_ref()),
        labels: task
            .annotations
            .as_ref()
            .map(|annotations| annotations.labels.clone())
            .unwrap_or_default(),
        spec: task_spec(task.spec.as_ref().unwrap_or(&TaskSpec::default())),
        service_id: task.service_id.clone(),
        slot: task.slot,
        node_id: task.node_id.clone(),
        status: status_json(&task.status.clone().unwrap_or_default()),
        desired_state: state_name(task.desired_state()),
        networks_attachments: task.networks.iter().filter_map(attachment).collect(),
        generic_resources: task
            .assigned_generic_resources
            .iter()
            .map(node_generic)
            .collect(),
        job_iteration: task.job_iteration.as_ref().map(Into::into),
        volumes: version.is_modern().then_some(()),
    }
}

fn status_json(status: &TaskStatus) -> TaskStatusJson {
    TaskStatusJson {
        timestamp: Time::of(status.timestamp.as_ref()),
        state: state_name(status.state()),
        message: node_text(&status.message).into_owned(),
        err: node_text(&status.err).into_owned(),
        container_status: status
            .container
            .as_ref()
            .map(|container| ContainerStatusJson {
                container_id: node_text(&container.container_id).into_owned(),
                pid: container.pid,
                exit_code: container.exit_code,
            }),
        port_status: PortStatusJson {
            ports: status
                .port_status
                .iter()
                .flat_map(|status| &status.ports)
                .map(port)
                .collect(),
        },
    }
}

fn attachment(attachment: &NetworkAttachment) -> Option<NetworkAttachmentJson> {
    let network = attachment.network.as_ref()?;
    let spec = network.spec.clone().unwrap_or_default();
    let annotations = spec.annotations.unwrap_or_default();
    let driver = |driver: Option<&waxseal_cluster::objects::Driver>| DriverName {
        name: driver.map(|driver| driver.name.clone()).unwrap_or_default(),
    };
    Some(NetworkAttachmentJson {
        network: NetworkJson {
            id: network.id.clone(),
            meta: Meta::of(network.meta.as_ref()),
            spec: NetworkSpecJson {
                name: annotations.name,
                labels: annotations.labels,
                driver_configuration: driver(spec.driver_config.as_ref()),
                scope: "swarm",
            },
            driver_state: driver(network.driver_state.as_ref()),
        },
        addresses: attachment.addresses.clone(),
    })
}

/// The name of a state in JSON and in filters.
fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::New => "new",
        TaskState::Pending => "pending",
        TaskState::Assigned => "assigned",
        TaskState::Accepted => "accepted",
        TaskState::Preparing => "preparing",
        TaskState::Ready => "ready",
        TaskState::Starting => "starting",
        TaskState::Running => "running",
        TaskState::Complete => "complete",
        TaskState::Shutdown => "shutdown",
        TaskState::Failed => "failed",
        TaskState::Rejected => "rejected",
        TaskState::Remove => "remove",
        TaskState::Orphaned => "orphaned",
    }
}

/// All names of states.
const STATES: [TaskState; 14] = [
    TaskState::New,
    TaskState::Pending,
    TaskState::Assigned,
    TaskState::Accepted,
    TaskState::Preparing,
    TaskState::Ready,
    TaskState::Starting,
    TaskState::Running,
    TaskState::Complete,
    TaskState::Shutdown,
    TaskState::Failed,
    TaskState::Rejected,
    TaskState::Remove,
    TaskState::Orphaned,
];

async fn list<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    version: ApiVersion,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = params.filters(&FILTERS)?;
    check_states(&filters)?;
    let tasks = api
        .cluster
        .read(move |state| select(state, &filters))
        .await??;
    respond::list(tasks.iter().map(|task| task_json(task, version)))
}

/// Only names of states may stand in `desired-state`; empty means any.
fn check_states(filters: &Filters) -> Result<(), ApiError> {
    let is_state = |value: &str| {
        value.is_empty()
            || STATES
                .iter()
                .any(|state| state_name(*state).eq_ignore_ascii_case(value))
    };
    let values = filters.values("desired-state");
    match values.iter().find(|value| !is_state(value)) {
        None => Ok(()),
        Some(value) => Err(ApiError::internal(format!(
            "Invalid desired-state filter: '{value}'"
        ))),
    }
}

/// The tasks that the filters let through.
///
/// # Errors
/// 404 or 400 if a service or node filter names none or several.
fn select(state: &State, filters: &Filters) -> Result<Vec<Arc<Task>>, ApiError> {
    let services = filters
        .values("service")
        .iter()
        .map(|input| {
            let lookup = match input.as_str() {
                "" => any_of(state.services()),
                input => state.find_service(input),
            };
            Ok(found(lookup, "service", input)?.id.clone())
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    let nodes = filters
        .values("node")
        .iter()
        .map(|input| {
            let lookup = match input.as_str() {
                "" => any_of(state.nodes()),
                input => state.find_node(input),
            };
            Ok(found(lookup, "node", input)?.id.clone())
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    let is_one_of = |ids: &[String], id: &str| ids.is_empty() || ids.iter().any(|one| one == id);
    let is_selected = |task: &Task| {
        is_one_of(&services, &task.service_id)
            && is_one_of(&nodes, &task.node_id)
            && is_listed(state, task, filters)
    };
    // Polled often, for a single service: do not walk all tasks for that.
    Ok(match services.as_slice() {
        [service] => state
            .tasks_of_service(service)
            .filter(|task| is_selected(task))
            .cloned()
            .collect(),
        _ => state
            .tasks()
            .filter(|task| is_selected(task))
            .cloned()
            .collect(),
    })
}

/// What an empty filter finds, the prefix of every id.
fn any_of<'a, T: 'a>(mut all: impl Iterator<Item = &'a Arc<T>>) -> Lookup<T> {
    match (all.next(), all.count()) {
        (None, _) => Lookup::NotFound,
        (Some(only), 0) => Lookup::Found(Arc::clone(only)),
        (Some(_), more) => Lookup::Ambiguous(1 + more),
    }
}

fn is_listed(state: &State, task: &Task, filters: &Filters) -> bool {
    let none = BTreeMap::new();
    let labels = task
        .service_annotations
        .as_ref()
        .map_or(&none, |annotations| &annotations.labels);
    filters.prefix("id", &task.id)
        && filters.any("name", |name| task_name(task).starts_with(name))
        && filters.stored_labels("label", labels)
        && filters.any("runtime", |runtime| runtime == "container")
        && filters.word("desired-state", state_name(task.desired_state()))
        // Clients send the value `true`; an engine looks at none.
        && (filters.values("_up-to-date").is_empty()
            || state.service(&task.service_id).is_some_and(|service| {
                is_current(service, task, state.node(&task.node_id).map(AsRef::as_ref))
            }))
}

async fn inspect<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    version: ApiVersion,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let task = api
        .cluster
        .read(move |state| found(state.find_task(&id), "task", &id))
        .await??;
    respond::ok(&task_json(&task, version))
}

#[cfg(test)]
mod tests {
    use waxseal_cluster::objects::ContainerStatus;

    use super::*;

    #[test]
    fn what_a_node_says_of_a_task_moves_no_terminal() {
        let evil = || "no\x1b[2J\nway\u{202e}".to_owned();
        let status = TaskStatus {
            message: evil(),
            err: evil(),
            container: Some(ContainerStatus {
                container_id: evil(),
                ..ContainerStatus::default()
            }),
            ..TaskStatus::default()
        };
        let shown = serde_json::to_value(status_json(&status)).unwrap();
        for text in [
            &shown["Message"],
            &shown["Err"],
            &shown["ContainerStatus"]["ContainerID"],
        ] {
            assert_eq!(text, r"no\u{1b}[2J way\u{202e}");
        }
    }
}
