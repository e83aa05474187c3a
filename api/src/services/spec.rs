//! The JSON of a service spec and of the task template in it.
//!
//! Names, order and the rule of what is left out when empty are those of the
//! Engine API (spec/engine-api.md §5.6). Durations are integer nanoseconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::container::ContainerSpecJson;
use crate::json::common::Driver;

/// Whether a value is what its type has when nothing was said.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Whether a list has no entries.
pub(super) fn is_empty<T>(list: &[T]) -> bool {
    list.is_empty()
}

/// `ServiceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ServiceSpec", rename_all = "PascalCase")]
pub(crate) struct ServiceSpecJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) task_template: TaskSpecJson,
    pub(crate) mode: ServiceModeJson,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) update_config: Option<UpdateConfigJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rollback_config: Option<UpdateConfigJson>,
    /// Where clients before API 1.25 put what is in the task template now.
    #[serde(skip_serializing)]
    pub(crate) networks: Vec<NetworkAttachmentConfigJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) endpoint_spec: Option<EndpointSpecJson>,
}

/// `TaskSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "TaskSpec", rename_all = "PascalCase")]
pub(crate) struct TaskSpecJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) container_spec: Option<Box<ContainerSpecJson>>,
    /// Read only to be refused.
    #[serde(skip_serializing)]
    pub(crate) plugin_spec: Option<Value>,
    /// Read only to be refused.
    #[serde(skip_serializing)]
    pub(crate) network_attachment_spec: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) resources: Option<ResourceRequirementsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) restart_policy: Option<RestartPolicyJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) placement: Option<PlacementJson>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) networks: Vec<NetworkAttachmentConfigJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) log_driver: Option<Driver>,
    pub(crate) force_update: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) runtime: String,
}

/// `ServiceMode`: at most one is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ServiceMode", rename_all = "PascalCase")]
pub(crate) struct ServiceModeJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replicated: Option<ReplicatedServiceJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) global: Option<GlobalServiceJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replicated_job: Option<ReplicatedJobJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) global_job: Option<GlobalServiceJson>,
}

/// `ReplicatedService`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ReplicatedService", rename_all = "PascalCase")]
pub(crate) struct ReplicatedServiceJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replicas: Option<u64>,
}

/// `GlobalService`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "GlobalService")]
pub(crate) struct GlobalServiceJson {}

/// `ReplicatedJob`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ReplicatedJob", rename_all = "PascalCase")]
pub(crate) struct ReplicatedJobJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_concurrent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) total_completions: Option<u64>,
}

/// `UpdateConfig`, for updates and for rollbacks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "UpdateConfig", rename_all = "PascalCase")]
pub(crate) struct UpdateConfigJson {
    pub(crate) parallelism: u64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) delay: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) failure_action: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) monitor: i64,
    #[serde(serialize_with = "ratio")]
    pub(crate) max_failure_ratio: f32,
    pub(crate) order: String,
}

/// A whole ratio is written without a fraction: `0`, not `0.0`.
fn ratio<S: Serializer>(ratio: &f32, serializer: S) -> Result<S::Ok, S::Error> {
    match *ratio {
        0.0 => serializer.serialize_u8(0),
        1.0 => serializer.serialize_u8(1),
        other => serializer.serialize_f32(other),
    }
}

/// `EndpointSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "EndpointSpec", rename_all = "PascalCase")]
pub(crate) struct EndpointSpecJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) mode: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) ports: Vec<PortConfigJson>,
}

/// `PortConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "PortConfig", rename_all = "PascalCase")]
pub(crate) struct PortConfigJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) protocol: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) target_port: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) published_port: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) publish_mode: String,
}

/// `ResourceRequirements`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ResourceRequirements", rename_all = "PascalCase")]
pub(crate) struct ResourceRequirementsJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<LimitJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reservations: Option<ResourcesJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) swap_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_swappiness: Option<i64>,
}

/// `Limit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Limit", rename_all = "PascalCase")]
pub(crate) struct LimitJson {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_default")]
    pub(crate) nano_cpus: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) memory_bytes: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) pids: i64,
}

/// `Resources` of a reservation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Resources", rename_all = "PascalCase")]
pub(crate) struct ResourcesJson {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_default")]
    pub(crate) nano_cpus: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) memory_bytes: i64,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) generic_resources: Vec<GenericResourceJson>,
}

/// `GenericResource`: one of the two is set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "GenericResource", rename_all = "PascalCase")]
pub(crate) struct GenericResourceJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) named_resource_spec: Option<NamedGenericResourceJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) discrete_resource_spec: Option<DiscreteGenericResourceJson>,
}

/// `NamedGenericResource`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "NamedGenericResource", rename_all = "PascalCase")]
pub(crate) struct NamedGenericResourceJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) value: String,
}

/// `DiscreteGenericResource`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "DiscreteGenericResource", rename_all = "PascalCase")]
pub(crate) struct DiscreteGenericResourceJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) value: i64,
}

/// `RestartPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "RestartPolicy", rename_all = "PascalCase")]
pub(crate) struct RestartPolicyJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) condition: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_attempts: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) window: Option<i64>,
}

/// `Placement`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Placement", rename_all = "PascalCase")]
pub(crate) struct PlacementJson {
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) constraints: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) preferences: Vec<PlacementPreferenceJson>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) max_replicas: u64,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) platforms: Vec<PlatformJson>,
}

/// `PlacementPreference`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "PlacementPreference", rename_all = "PascalCase")]
pub(crate) struct PlacementPreferenceJson {
    pub(crate) spread: Option<SpreadOverJson>,
}

/// `SpreadOver`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "SpreadOver", rename_all = "PascalCase")]
pub(crate) struct SpreadOverJson {
    pub(crate) spread_descriptor: String,
}

/// `Platform`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Platform", rename_all = "PascalCase")]
pub(crate) struct PlatformJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) architecture: String,
    #[serde(rename = "OS", skip_serializing_if = "String::is_empty")]
    pub(crate) os: String,
}

/// `NetworkAttachmentConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "NetworkAttachmentConfig", rename_all = "PascalCase")]
pub(crate) struct NetworkAttachmentConfigJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) target: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) aliases: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) driver_opts: BTreeMap<String, String>,
}
