//! From the object that the state holds to the JSON of a service spec.
//!
//! What a client sent comes back as it sent it, with the defaults that the
//! engine fills in at creation (spec/engine-api.md §5.6 "Read back"). The
//! registry credentials of a service are never part of it.

use waxseal_cluster::objects::{
    ContainerSpec, EndpointSpec, GenericResource, NetworkAttachmentConfig, Placement, PortConfig,
    ResourceRequirements, RestartPolicy, ServiceSpec, TaskSpec, UpdateConfig, endpoint_spec,
    generic_resource, port_config, restart_policy, service_spec, update_config,
};

use super::{
    container_from_object,
    spec::{
        DiscreteGenericResourceJson, EndpointSpecJson, GenericResourceJson, GlobalServiceJson,
        LimitJson, NamedGenericResourceJson, NetworkAttachmentConfigJson, PlacementJson,
        PlacementPreferenceJson, PlatformJson, PortConfigJson, ReplicatedJobJson,
        ReplicatedServiceJson, ResourceRequirementsJson, ResourcesJson, RestartPolicyJson,
        ServiceModeJson, ServiceSpecJson, SpreadOverJson, TaskSpecJson, UpdateConfigJson,
    },
};
use crate::json::common::nanos;

/// What a client reads of a service's spec.
pub(crate) fn service_spec(spec: &ServiceSpec) -> ServiceSpecJson {
    let annotations = spec.annotations.clone().unwrap_or_default();
    let mut task_template = spec.task.as_ref().map(task_spec).unwrap_or_default();
    "container".clone_into(&mut task_template.runtime);
    ServiceSpecJson {
        name: annotations.name,
        labels: annotations.labels,
        task_template,
        mode: mode(spec.mode.as_ref()),
        update_config: spec.update.as_ref().map(update_config),
        rollback_config: spec.rollback.as_ref().map(update_config),
        networks: Vec::new(),
        endpoint_spec: spec.endpoint.as_ref().map(endpoint_spec),
    }
}

/// What a client reads of a task's spec: as in the service, without `Runtime`.
///
/// The container spec is always set: the CLI dereferences it.
pub(crate) fn task_spec(task: &TaskSpec) -> TaskSpecJson {
    let none;
    let container = match &task.container {
        Some(container) => container,
        None => {
            none = ContainerSpec::default();
            &none
        }
    };
    TaskSpecJson {
        resources: resources(task.resources.as_ref(), container.pids_limit),
        container_spec: Some(Box::new(container_from_object::container_spec(container))),
        plugin_spec: None,
        network_attachment_spec: None,
        restart_policy: task.restart.as_ref().map(restart_policy),
        placement: task.placement.as_ref().map(placement),
        networks: task.networks.iter().map(attachment).collect(),
        log_driver: task.log_driver.as_ref().map(Into::into),
        force_update: task.force_update,
        runtime: String::new(),
    }
}

fn mode(mode: Option<&service_spec::Mode>) -> ServiceModeJson {
    use service_spec::Mode;
    let mut json = ServiceModeJson::default();
    match mode {
        Some(Mode::Replicated(replicated)) => {
            json.replicated = Some(ReplicatedServiceJson {
                replicas: Some(replicated.replicas),
            });
        }
        Some(Mode::Global(_)) => json.global = Some(GlobalServiceJson {}),
        Some(Mode::ReplicatedJob(job)) => {
            json.replicated_job = Some(ReplicatedJobJson {
                max_concurrent: Some(job.max_concurrent),
                total_completions: Some(job.total_completions),
            });
        }
        Some(Mode::GlobalJob(_)) => json.global_job = Some(GlobalServiceJson {}),
        None => {}
    }
    json
}

/// The limit of processes is kept in the container's part of the object.
fn resources(
    requirements: Option<&ResourceRequirements>,
    pids: i64,
) -> Option<ResourceRequirementsJson> {
    let mut json = requirements.map(|requirements| ResourceRequirementsJson {
        limits: requirements.limits.as_ref().map(|limits| LimitJson {
            nano_cpus: limits.nano_cpus,
            memory_bytes: limits.memory_bytes,
            pids: 0,
        }),
        reservations: requirements
            .reservations
            .as_ref()
            .map(|reservations| ResourcesJson {
                nano_cpus: reservations.nano_cpus,
                memory_bytes: reservations.memory_bytes,
                generic_resources: reservations.generic.iter().map(generic).collect(),
            }),
        swap_bytes: requirements.swap_bytes,
        memory_swappiness: requirements.memory_swappiness,
    });
    if pids != 0 {
        json.get_or_insert_default()
            .limits
            .get_or_insert_default()
            .pids = pids;
    }
    json
}

/// A generic resource, of a reservation or assigned to a task.
pub(crate) fn generic(resource: &GenericResource) -> GenericResourceJson {
    use generic_resource::Resource;
    match &resource.resource {
        Some(Resource::NamedResourceSpec(named)) => GenericResourceJson {
            named_resource_spec: Some(NamedGenericResourceJson {
                kind: named.kind.clone(),
                value: named.value.clone(),
            }),
            discrete_resource_spec: None,
        },
        Some(Resource::DiscreteResourceSpec(discrete)) => GenericResourceJson {
            named_resource_spec: None,
            discrete_resource_spec: Some(DiscreteGenericResourceJson {
                kind: discrete.kind.clone(),
                value: discrete.value,
            }),
        },
        None => GenericResourceJson::default(),
    }
}

fn restart_policy(policy: &RestartPolicy) -> RestartPolicyJson {
    use restart_policy::Condition;
    let condition = match policy.condition() {
        Condition::None => "none",
        Condition::OnFailure => "on-failure",
        Condition::Any => "any",
    };
    RestartPolicyJson {
        condition: condition.to_owned(),
        delay: policy.delay.as_ref().map(|length| nanos(Some(length))),
        max_attempts: Some(policy.max_attempts),
        window: policy.window.as_ref().map(|length| nanos(Some(length))),
    }
}

fn placement(placement: &Placement) -> PlacementJson {
    PlacementJson {
        constraints: placement.constraints.clone(),
        preferences: placement
            .preferences
            .iter()
            .map(|preference| PlacementPreferenceJson {
                spread: preference.spread.as_ref().map(|spread| SpreadOverJson {
                    spread_descriptor: spread.spread_descriptor.clone(),
                }),
            })
            .collect(),
        max_replicas: placement.max_replicas,
        platforms: placement
            .platforms
            .iter()
            .map(|platform| PlatformJson {
                architecture: platform.architecture.clone(),
                os: platform.os.clone(),
            })
            .collect(),
    }
}

fn attachment(network: &NetworkAttachmentConfig) -> NetworkAttachmentConfigJson {
    NetworkAttachmentConfigJson {
        target: network.target.clone(),
        aliases: network.aliases.clone(),
        driver_opts: network.driver_attachment_opts.clone(),
    }
}

fn update_config(config: &UpdateConfig) -> UpdateConfigJson {
    use update_config::{FailureAction, Order};
    let failure_action = match config.failure_action() {
        FailureAction::Pause => "pause",
        FailureAction::Continue => "continue",
        FailureAction::Rollback => "rollback",
    };
    let order = match config.order() {
        Order::StopFirst => "stop-first",
        Order::StartFirst => "start-first",
    };
    UpdateConfigJson {
        parallelism: config.parallelism,
        delay: nanos(config.delay.as_ref()),
        failure_action: failure_action.to_owned(),
        monitor: nanos(config.monitor.as_ref()),
        max_failure_ratio: config.max_failure_ratio,
        order: order.to_owned(),
    }
}

/// An endpoint spec, of a service's spec or of its endpoint.
pub(super) fn endpoint_spec(endpoint: &EndpointSpec) -> EndpointSpecJson {
    use endpoint_spec::ResolutionMode;
    let mode = match endpoint.mode() {
        ResolutionMode::Vip => "vip",
        ResolutionMode::Dnsrr => "dnsrr",
    };
    EndpointSpecJson {
        mode: mode.to_owned(),
        ports: endpoint.ports.iter().map(port).collect(),
    }
}

/// A port, of an endpoint or of a task's status.
pub(crate) fn port(port: &PortConfig) -> PortConfigJson {
    use port_config::{Protocol, PublishMode};
    let protocol = match port.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let publish_mode = match port.publish_mode() {
        PublishMode::Ingress => "ingress",
        PublishMode::Host => "host",
    };
    PortConfigJson {
        name: port.name.clone(),
        protocol: protocol.to_owned(),
        target_port: port.target_port,
        published_port: port.published_port,
        publish_mode: publish_mode.to_owned(),
    }
}
