//! A service as clients see it.

use serde::Serialize;
use waxseal_cluster::{
    State,
    objects::{JobStatus, Service, TaskState, UpdateStatus, Version, service_spec, update_status},
    observed_state,
    plan::{is_current, is_job},
};

use super::{
    defaults::insert_defaults,
    from_object,
    spec::{EndpointSpecJson, PortConfigJson, ServiceSpecJson, is_default},
};
use crate::json::common::{Meta, Time};

/// `Service`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceJson {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) meta: Meta,
    pub(crate) spec: ServiceSpecJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) previous_spec: Option<Box<ServiceSpecJson>>,
    pub(crate) endpoint: EndpointJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) update_status: Option<UpdateStatusJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) service_status: Option<ServiceStatusJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job_status: Option<JobStatusJson>,
}

/// `Endpoint`: what the service is reachable by. Without ports it is bare.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct EndpointJson {
    pub(crate) spec: EndpointSpecJson,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortConfigJson>,
}

/// `UpdateStatus`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct UpdateStatusJson {
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) completed_at: Option<Time>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) message: String,
}

/// `ServiceStatus`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct ServiceStatusJson {
    pub(crate) running_tasks: u64,
    pub(crate) desired_tasks: u64,
    pub(crate) completed_tasks: u64,
}

/// The number of a job's iteration; the first one, 0, is left out as stock does.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct IterationJson {
    #[serde(rename = "Index", skip_serializing_if = "is_default")]
    index: u64,
}

impl From<&Version> for IterationJson {
    fn from(version: &Version) -> IterationJson {
        IterationJson {
            index: version.index,
        }
    }
}

/// `JobStatus`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct JobStatusJson {
    pub(crate) job_iteration: IterationJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_execution: Option<Time>,
}

/// What a client reads of `service`; with `fill`, what its spec leaves open is
/// filled in.
pub(crate) fn service(
    service: &Service,
    fill: bool,
    status: Option<ServiceStatusJson>,
) -> ServiceJson {
    let mut spec = service
        .spec
        .as_ref()
        .map(from_object::service_spec)
        .unwrap_or_default();
    if fill {
        insert_defaults(&mut spec);
    }
    ServiceJson {
        id: service.id.clone(),
        meta: Meta::of(service.meta.as_ref()),
        spec,
        previous_spec: service
            .previous_spec
            .as_ref()
            .map(|spec| Box::new(from_object::service_spec(spec))),
        endpoint: endpoint(service),
        update_status: service.update_status.as_ref().and_then(update_status_json),
        service_status: status,
        job_status: service.job_status.as_ref().map(job_status),
    }
}

/// All ports are the nodes' own and all networks predefined, so nothing has to
/// be allocated; as in the engine it is bare without ports and networks.
fn endpoint(service: &Service) -> EndpointJson {
    let spec = service.spec.as_ref();
    let networks = spec
        .and_then(|spec| spec.task.as_ref())
        .map_or(&[][..], |task| &task.networks);
    match spec.and_then(|spec| spec.endpoint.as_ref()) {
        Some(endpoint) if !(endpoint.ports.is_empty() && networks.is_empty()) => EndpointJson {
            spec: from_object::endpoint_spec(endpoint),
            ports: endpoint.ports.iter().map(from_object::port).collect(),
        },
        _ => EndpointJson::default(),
    }
}

fn update_status_json(status: &UpdateStatus) -> Option<UpdateStatusJson> {
    use update_status::State;
    let state = match status.state() {
        State::Unknown => return None,
        State::Updating => "updating",
        State::Paused => "paused",
        State::Completed => "completed",
        State::RollbackStarted => "rollback_started",
        State::RollbackPaused => "rollback_paused",
        State::RollbackCompleted => "rollback_completed",
    };
    Some(UpdateStatusJson {
        state,
        started_at: status.started_at.as_ref().map(|at| Time::of(Some(at))),
        completed_at: status.completed_at.as_ref().map(|at| Time::of(Some(at))),
        message: status.message.clone(),
    })
}

fn job_status(status: &JobStatus) -> JobStatusJson {
    JobStatusJson {
        job_iteration: (&status.job_iteration.unwrap_or_default()).into(),
        last_execution: status.last_execution.as_ref().map(|at| Time::of(Some(at))),
    }
}

/// How many tasks of a service run and how many should.
///
/// A task counts as running by its own state alone, so during an update there
/// may be more running than desired. Of a job only the present iteration counts; what
/// is desired is as many as may run at a time, on nodes those that have not ended.
pub(crate) fn service_status(state: &State, service: &Service) -> ServiceStatusJson {
    let job = is_job(service);
    let (mut running, mut wanted, mut completed) = (0, 0, 0);
    for task in state.tasks_of_service(&service.id) {
        if job && !is_current(service, task, None) {
            continue;
        }
        let observed = observed_state(task);
        running += u64::from(observed == TaskState::Running);
        completed += u64::from(job && observed == TaskState::Complete);
        wanted += u64::from(match task.desired_state() {
            TaskState::Running => true,
            TaskState::Complete => observed < TaskState::Complete,
            _ => false,
        });
    }
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    ServiceStatusJson {
        running_tasks: running,
        desired_tasks: match mode {
            Some(service_spec::Mode::Replicated(replicated)) => replicated.replicas,
            Some(service_spec::Mode::ReplicatedJob(job)) => job.max_concurrent,
            Some(service_spec::Mode::Global(_) | service_spec::Mode::GlobalJob(_)) | None => wanted,
        },
        completed_tasks: completed,
    }
}
