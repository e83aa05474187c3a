//! Which secrets and configs a service or task refers to, and when a task is final.

use std::collections::BTreeSet;

use waxseal_secrets::TaskNeeds;

use crate::objects::{Service, ServiceSpec, Task, TaskSpec, TaskState};

/// Ids of the secrets that a task of this spec may read.
pub fn secret_ids(spec: &TaskSpec) -> impl Iterator<Item = &str> {
    let container = spec.container.iter();
    container
        .flat_map(|container| &container.secrets)
        .map(|reference| reference.secret_id.as_str())
}

/// Ids of the configs that a task of this spec may read.
pub fn config_ids(spec: &TaskSpec) -> impl Iterator<Item = &str> {
    let container = spec.container.iter();
    container
        .flat_map(|container| &container.configs)
        .map(|reference| reference.config_id.as_str())
}

/// Whether a task has reported a state that it never leaves.
pub fn is_final(task: &Task) -> bool {
    observed_state(task) > TaskState::Running
}

/// The state that a task is known to be in; a task without status is new.
pub fn observed_state(task: &Task) -> TaskState {
    task.status
        .as_ref()
        .map_or(TaskState::New, |status| status.state())
}

/// What a task asks of its node.
pub(crate) fn of_task(
    task: &Task,
) -> TaskNeeds<impl Iterator<Item = &str>, impl Iterator<Item = &str>> {
    TaskNeeds {
        is_final: is_final(task),
        secrets: task.spec.iter().flat_map(secret_ids),
        configs: task.spec.iter().flat_map(config_ids),
    }
}

/// All secret ids that keep a secret from being removed because of a service:
/// those of its spec and of the spec that a rollback would bring back.
pub(crate) fn secrets_of_service(service: &Service) -> BTreeSet<&str> {
    task_specs(service).flat_map(secret_ids).collect()
}

/// As [`secrets_of_service`], for configs.
pub(crate) fn configs_of_service(service: &Service) -> BTreeSet<&str> {
    task_specs(service).flat_map(config_ids).collect()
}

fn task_specs(service: &Service) -> impl Iterator<Item = &TaskSpec> {
    let specs: [Option<&ServiceSpec>; 2] = [service.spec.as_ref(), service.previous_spec.as_ref()];
    specs
        .into_iter()
        .flatten()
        .filter_map(|spec| spec.task.as_ref())
}
