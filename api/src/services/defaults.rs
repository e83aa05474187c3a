//! What `insertDefaults=true` fills in when a client reads a service.
//!
//! Observed on a Docker Engine 20.10: the endpoint spec and the health check
//! are left as they are, a restart policy or an update policy that is there
//! only gets the delay and the monitoring time it lacks.

use super::spec::{RestartPolicyJson, ServiceSpecJson, UpdateConfigJson};

/// Between the signal to stop and the kill, nanoseconds.
const STOP_GRACE_PERIOD: i64 = 10_000_000_000;
/// Before a restart, nanoseconds.
const RESTART_DELAY: i64 = 5_000_000_000;
/// How long an updated task is watched, nanoseconds.
const UPDATE_MONITOR: i64 = 5_000_000_000;

/// Fills in what the spec leaves open.
pub(super) fn insert_defaults(spec: &mut ServiceSpecJson) {
    let task = &mut spec.task_template;
    if let Some(container) = &mut task.container_spec {
        container.stop_grace_period.get_or_insert(STOP_GRACE_PERIOD);
        container.dns_config.get_or_insert_default();
    }
    task.resources.get_or_insert_default();
    task.restart_policy
        .get_or_insert_with(|| RestartPolicyJson {
            condition: "any".to_owned(),
            delay: None,
            max_attempts: Some(0),
            window: None,
        })
        .delay
        .get_or_insert(RESTART_DELAY);
    task.placement.get_or_insert_default();
    for config in [&mut spec.update_config, &mut spec.rollback_config] {
        let config = config.get_or_insert_with(|| UpdateConfigJson {
            parallelism: 1,
            delay: 0,
            failure_action: "pause".to_owned(),
            monitor: 0,
            max_failure_ratio: 0.0,
            order: "stop-first".to_owned(),
        });
        if config.monitor == 0 {
            config.monitor = UPDATE_MONITOR;
        }
    }
}
