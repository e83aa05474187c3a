//! From the JSON of a service spec to the object that the state holds.
//!
//! A value that no variant stands for is an error, never the default: what a
//! client asked for and did not get must not look granted.

use prost_types::Duration;
use waxseal_cluster::{
    objects::{
        Annotations, DiscreteGenericResource, EndpointSpec, GenericResource, GlobalJob,
        GlobalService, NamedGenericResource, NetworkAttachmentConfig, Placement,
        PlacementPreference, Platform, PortConfig, ReplicatedJob, ReplicatedService,
        ResourceRequirements, Resources, RestartPolicy, ServiceSpec, SpreadOver, TaskSpec,
        UpdateConfig, endpoint_spec, generic_resource, port_config, restart_policy, service_spec,
        update_config,
    },
    plan::parse_constraints,
};

use super::{
    container_into_object, native,
    refuse::refuse_unsupported,
    spec::{
        EndpointSpecJson, GenericResourceJson, NetworkAttachmentConfigJson, PlacementJson,
        PortConfigJson, ResourceRequirementsJson, RestartPolicyJson, ServiceModeJson,
        ServiceSpecJson, TaskSpecJson, UpdateConfigJson,
    },
};
use crate::{
    error::{ApiError, Code},
    json::common::duration,
    networks,
};

/// Replicas of a replicated service that names no number.
const DEFAULT_REPLICAS: u64 = 1;

/// The object that `spec` describes.
///
/// # Errors
/// 400 with the engine's text for a value of no variant or parts that do not
/// fit together; 501 naming what this release does not offer; 404 for a
/// network that does not exist.
pub(crate) fn service_spec(spec: ServiceSpecJson) -> Result<ServiceSpec, ApiError> {
    check_runtime(&spec.task_template)?;
    check_mode(&spec.mode)?;
    refuse_unsupported(&spec)?;
    native::check_command(&spec.task_template)?;
    check_constraints(&spec.task_template)?;
    let mut task = task_spec(spec.task_template)?;
    task.networks.extend(attachments(spec.networks)?);
    Ok(ServiceSpec {
        annotations: Some(Annotations {
            name: spec.name,
            labels: spec.labels,
        }),
        task: Some(task),
        mode: Some(mode(spec.mode)),
        update: spec.update_config.map(update_config).transpose()?,
        rollback: spec.rollback_config.map(update_config).transpose()?,
        endpoint: spec.endpoint_spec.map(endpoint).transpose()?,
    })
}

/// Only container services are described by a container spec.
fn check_runtime(task: &TaskSpecJson) -> Result<(), ApiError> {
    match task.runtime.as_str() {
        "" | "container" if task.container_spec.is_some() => Ok(()),
        "" | "container" => Err(ApiError::bad_request("mismatched Runtime and *Spec fields")),
        "plugin" => Err(ApiError::not_implemented(
            "plugin services (TaskTemplate.Runtime \"plugin\") are not offered; install the plugin on each engine with docker plugin install",
        )),
        _ => Err(ApiError::bad_request("unsupported runtime")),
    }
}

/// What is no constraint has another code than other bad values, as in the engine.
fn check_constraints(task: &TaskSpecJson) -> Result<(), ApiError> {
    let placement = task.placement.as_ref();
    let constraints = placement.map_or(&[][..], |placement| &placement.constraints);
    match parse_constraints(constraints) {
        Ok(_) => Ok(()),
        Err(error) => Err(ApiError::rpc(Code::Unknown, error)),
    }
}

fn check_mode(mode: &ServiceModeJson) -> Result<(), ApiError> {
    let set = [
        mode.replicated.is_some(),
        mode.global.is_some(),
        mode.replicated_job.is_some(),
        mode.global_job.is_some(),
    ];
    if set.into_iter().filter(|set| *set).count() > 1 {
        return Err(ApiError::bad_request("must specify only one service mode"));
    }
    Ok(())
}

/// Of the modes, at most one is set: `check_mode` saw to that.
fn mode(mode: ServiceModeJson) -> service_spec::Mode {
    use service_spec::Mode;
    if mode.global.is_some() {
        return Mode::Global(GlobalService {});
    }
    if mode.global_job.is_some() {
        return Mode::GlobalJob(GlobalJob {});
    }
    if let Some(job) = mode.replicated_job {
        return Mode::ReplicatedJob(ReplicatedJob {
            max_concurrent: job.max_concurrent.unwrap_or(DEFAULT_REPLICAS),
            total_completions: job
                .total_completions
                .or(job.max_concurrent)
                .unwrap_or(DEFAULT_REPLICAS),
        });
    }
    let replicas = mode.replicated.and_then(|replicated| replicated.replicas);
    Mode::Replicated(ReplicatedService {
        replicas: replicas.unwrap_or(DEFAULT_REPLICAS),
    })
}

fn task_spec(task: TaskSpecJson) -> Result<TaskSpec, ApiError> {
    let mut container = container_into_object::container_spec(
        // `check_runtime` saw that it is there.
        *task.container_spec.unwrap_or_default(),
    )?;
    let pids = task
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref())
        .map_or(0, |limits| limits.pids);
    container.pids_limit = pids;
    Ok(TaskSpec {
        container: Some(container),
        resources: task.resources.map(resources).transpose()?,
        restart: task.restart_policy.map(restart_policy).transpose()?,
        placement: task.placement.map(placement),
        log_driver: task.log_driver.map(Into::into),
        networks: attachments(task.networks)?,
        force_update: task.force_update,
    })
}

/// Where 0 means "not given".
pub(super) fn duration_unless_zero(nanos: i64) -> Option<Duration> {
    (nanos != 0).then(|| duration(nanos))
}

/// 400 `invalid <what>: "<value>"`, the engine's form.
pub(super) fn invalid(what: &str, value: &str) -> ApiError {
    ApiError::bad_request(format!("invalid {what}: \"{value}\""))
}

fn resources(requirements: ResourceRequirementsJson) -> Result<ResourceRequirements, ApiError> {
    Ok(ResourceRequirements {
        limits: requirements.limits.map(|limits| Resources {
            nano_cpus: limits.nano_cpus,
            memory_bytes: limits.memory_bytes,
            generic: Vec::new(),
        }),
        reservations: requirements
            .reservations
            .map(|reservations| -> Result<Resources, ApiError> {
                Ok(Resources {
                    nano_cpus: reservations.nano_cpus,
                    memory_bytes: reservations.memory_bytes,
                    generic: reservations
                        .generic_resources
                        .into_iter()
                        .map(generic)
                        .collect::<Result<_, _>>()?,
                })
            })
            .transpose()?,
        swap_bytes: requirements.swap_bytes,
        memory_swappiness: requirements.memory_swappiness,
    })
}

fn generic(resource: GenericResourceJson) -> Result<GenericResource, ApiError> {
    use generic_resource::Resource;
    let resource = match (
        resource.named_resource_spec,
        resource.discrete_resource_spec,
    ) {
        (Some(named), None) => Resource::NamedResourceSpec(NamedGenericResource {
            kind: named.kind,
            value: named.value,
        }),
        (None, Some(discrete)) => Resource::DiscreteResourceSpec(DiscreteGenericResource {
            kind: discrete.kind,
            value: discrete.value,
        }),
        _ => {
            return Err(ApiError::bad_request(
                "invalid generic resource: either NamedResourceSpec or DiscreteResourceSpec should be set",
            ));
        }
    };
    Ok(GenericResource {
        resource: Some(resource),
    })
}

fn restart_policy(policy: RestartPolicyJson) -> Result<RestartPolicy, ApiError> {
    use restart_policy::Condition;
    let condition = match policy.condition.as_str() {
        "" | "any" => Condition::Any,
        "none" => Condition::None,
        "on-failure" => Condition::OnFailure,
        other => return Err(invalid("RestartCondition", other)),
    };
    Ok(RestartPolicy {
        condition: condition.into(),
        delay: policy.delay.map(duration),
        max_attempts: policy.max_attempts.unwrap_or_default(),
        window: policy.window.map(duration),
    })
}

fn placement(placement: PlacementJson) -> Placement {
    Placement {
        constraints: placement.constraints,
        // A preference without a strategy asks for nothing.
        preferences: placement
            .preferences
            .into_iter()
            .filter_map(|preference| preference.spread)
            .map(|spread| PlacementPreference {
                spread: Some(SpreadOver {
                    spread_descriptor: spread.spread_descriptor,
                }),
            })
            .collect(),
        platforms: placement
            .platforms
            .into_iter()
            .map(|platform| Platform {
                architecture: platform.architecture,
                os: platform.os,
            })
            .collect(),
        max_replicas: placement.max_replicas,
    }
}

/// Targets become names: the networks of this release have no other id.
fn attachments(
    networks: Vec<NetworkAttachmentConfigJson>,
) -> Result<Vec<NetworkAttachmentConfig>, ApiError> {
    networks
        .into_iter()
        .map(|network| {
            let found = networks::find(&network.target)
                .ok_or_else(|| networks::not_offered(&network.target))?;
            Ok(NetworkAttachmentConfig {
                target: found.name.to_owned(),
                aliases: network.aliases,
                addresses: Vec::new(),
                driver_attachment_opts: network.driver_opts,
            })
        })
        .collect()
}

fn update_config(config: UpdateConfigJson) -> Result<UpdateConfig, ApiError> {
    use update_config::{FailureAction, Order};
    let failure_action = match config.failure_action.as_str() {
        "" | "pause" => FailureAction::Pause,
        "continue" => FailureAction::Continue,
        "rollback" => FailureAction::Rollback,
        other => {
            return Err(ApiError::bad_request(format!(
                "unrecognized update failure action {other}"
            )));
        }
    };
    let order = match config.order.as_str() {
        "" | "stop-first" => Order::StopFirst,
        "start-first" => Order::StartFirst,
        other => {
            return Err(ApiError::bad_request(format!(
                "unrecognized update order {other}"
            )));
        }
    };
    Ok(UpdateConfig {
        parallelism: config.parallelism,
        delay: duration_unless_zero(config.delay),
        failure_action: failure_action.into(),
        monitor: duration_unless_zero(config.monitor),
        max_failure_ratio: config.max_failure_ratio,
        order: order.into(),
    })
}

fn endpoint(endpoint: EndpointSpecJson) -> Result<EndpointSpec, ApiError> {
    use endpoint_spec::ResolutionMode;
    let mode = match endpoint.mode.to_ascii_lowercase().as_str() {
        "" | "vip" => ResolutionMode::Vip,
        "dnsrr" => ResolutionMode::Dnsrr,
        _ => return Err(invalid("resolution mode", &endpoint.mode)),
    };
    Ok(EndpointSpec {
        mode: mode.into(),
        ports: endpoint
            .ports
            .into_iter()
            .map(port)
            .collect::<Result<_, _>>()?,
    })
}

fn port(port: PortConfigJson) -> Result<PortConfig, ApiError> {
    use port_config::{Protocol, PublishMode};
    let protocol = match port.protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(invalid("port protocol", &port.protocol)),
    };
    let publish_mode = match port.publish_mode.to_ascii_lowercase().as_str() {
        "" | "ingress" => PublishMode::Ingress,
        "host" => PublishMode::Host,
        _ => return Err(invalid("port publish mode", &port.publish_mode)),
    };
    Ok(PortConfig {
        name: port.name,
        protocol: protocol.into(),
        target_port: port.target_port,
        published_port: port.published_port,
        publish_mode: publish_mode.into(),
    })
}
