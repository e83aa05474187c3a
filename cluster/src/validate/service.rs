//! Rules of a service's spec.

use prost_types::Duration;
use waxseal_secrets::{Kind, Reference, Target, TargetFiles, check_labels};

use crate::{
    change::Refusal,
    naming::name_of,
    objects::{
        ConfigReference, ContainerSpec, EndpointSpec, FileTarget, GenericResource, HealthConfig,
        PortConfig, Resources, RestartPolicy, SecretReference, ServiceSpec, TaskSpec, UpdateConfig,
        config_reference, endpoint_spec::ResolutionMode, generic_resource::Resource,
        port_config::PublishMode, privileges::credential_spec, service_spec::Mode,
    },
    plan,
    templates::faulty_field,
    validate::{image::is_reference, labels_of},
};

/// Longest name of a service: a DNS label (RFC 1035 section 2.3.4).
const MAX_NAME_BYTES: usize = 63;
/// Most secrets or configs of one service: a bound for what a task brings along.
const MAX_REFERENCES: usize = 500;
/// Least memory that a limit or reservation may name, in bytes (swarmkit's 4 MiB).
const MIN_MEMORY_BYTES: i64 = 4 * 1024 * 1024;
/// Least share of a processor, in billionths (swarmkit's 0.001).
const MIN_NANO_CPUS: i64 = 1_000_000;
/// Shortest interval of a health check other than "unset", in nanoseconds (the
/// Docker Engine's one millisecond).
const MIN_HEALTH_NANOS: i128 = 1_000_000;

/// A service as a user wants it. That its secrets and configs exist is checked
/// when the command is applied.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn validate_service_spec(spec: &ServiceSpec) -> Result<(), Refusal> {
    check_name(name_of(spec.annotations.as_ref()))?;
    check_labels(labels_of(spec.annotations.as_ref()))?;
    let task = spec.task.as_ref();
    let task = task.ok_or_else(|| Refusal::invalid("mismatched Runtime and *Spec fields"))?;
    check_task(task)?;
    check_mode(spec)?;
    for update in [spec.update.as_ref(), spec.rollback.as_ref()] {
        update.map_or(Ok(()), check_update)?;
    }
    spec.endpoint.as_ref().map_or(Ok(()), check_endpoint)
}

/// Letters, digits, `-` and `_`, the first and last a letter or digit.
fn check_name(name: &str) -> Result<(), Refusal> {
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(Refusal::invalid("name must be provided"));
    };
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() && bytes.iter().all(inner)) {
        return Err(Refusal::invalid(
            "name must be valid as a DNS name component",
        ));
    }
    if bytes.len() > MAX_NAME_BYTES {
        return Err(Refusal::invalid("name must be 63 characters or fewer"));
    }
    Ok(())
}

fn check_task(task: &TaskSpec) -> Result<(), Refusal> {
    let container = task.container.as_ref();
    let container =
        container.ok_or_else(|| Refusal::invalid("mismatched Runtime and *Spec fields"))?;
    if let Some(resources) = &task.resources {
        for part in [resources.limits.as_ref(), resources.reservations.as_ref()] {
            part.map_or(Ok(()), check_resources)?;
        }
        if let Some(reserved) = &resources.reservations {
            reserved.generic.iter().try_for_each(check_generic)?;
        }
    }
    task.restart.as_ref().map_or(Ok(()), check_restart)?;
    if let Some(placement) = &task.placement {
        plan::parse_constraints(&placement.constraints)
            .map_err(|error| Refusal::invalid(error.to_string()))?;
    }
    check_container(container)?;
    let mut files = TargetFiles::default();
    check_secrets(&container.secrets, &mut files)?;
    check_configs(container, &mut files)?;
    check_templates(container)?;
    // Networks: whatever cannot become a task's attachment is refused here.
    plan::attachments(task).map(|_| ())
}

fn check_resources(resources: &Resources) -> Result<(), Refusal> {
    if resources.nano_cpus != 0 && resources.nano_cpus < MIN_NANO_CPUS {
        return Err(Refusal::invalid(format!(
            "invalid cpu value {}: Must be at least 0.001",
            resources.nano_cpus as f64 / 1e9
        )));
    }
    if resources.memory_bytes != 0 && resources.memory_bytes < MIN_MEMORY_BYTES {
        return Err(Refusal::invalid(format!(
            "invalid memory value {}: Must be at least 4MiB",
            resources.memory_bytes
        )));
    }
    Ok(())
}

/// A name cannot be asked for, nor less than nothing: no node would ever have it. The words are
/// those of the stock CLI.
fn check_generic(resource: &GenericResource) -> Result<(), Refusal> {
    match &resource.resource {
        Some(Resource::NamedResourceSpec(named)) => Err(Refusal::invalid(format!(
            "invalid generic-resource request `{}={}`, Named Generic Resources is not supported \
             for service create or update; ask for a number of them",
            named.kind, named.value
        ))),
        Some(Resource::DiscreteResourceSpec(wanted)) if wanted.value < 0 => {
            Err(Refusal::invalid(format!(
                "invalid generic resource specification: cannot ask for negative resource {}",
                wanted.kind
            )))
        }
        Some(Resource::DiscreteResourceSpec(wanted)) if wanted.kind.is_empty() => Err(
            Refusal::invalid("invalid generic resource specification: a resource has no kind"),
        ),
        Some(Resource::DiscreteResourceSpec(_)) => Ok(()),
        None => Err(Refusal::invalid(
            "invalid generic resource specification: a resource is neither named nor discrete",
        )),
    }
}

fn check_restart(policy: &RestartPolicy) -> Result<(), Refusal> {
    check_not_negative("TaskSpec: restart-delay", policy.delay.as_ref())?;
    check_not_negative("TaskSpec: restart-window", policy.window.as_ref())
}

fn check_container(container: &ContainerSpec) -> Result<(), Refusal> {
    let image = container.image.as_str();
    if image.is_empty() {
        return Err(Refusal::invalid(
            "ContainerSpec: image reference must be provided",
        ));
    }
    if !is_reference(image) {
        return Err(Refusal::invalid(format!(
            "ContainerSpec: \"{}\" is not a valid repository/tag",
            image
                .escape_debug()
                .to_string()
                .chars()
                .take(256)
                .collect::<String>()
        )));
    }
    check_not_negative(
        "ContainerSpec: stop-grace-period",
        container.stop_grace_period.as_ref(),
    )?;
    let mut targets: Vec<&str> = container.mounts.iter().map(|m| m.target.as_str()).collect();
    targets.sort_unstable();
    if let Some(twice) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Refusal::invalid(format!(
            "ContainerSpec: duplicate mount point: {}",
            twice[0]
        )));
    }
    container.healthcheck.as_ref().map_or(Ok(()), check_health)
}

fn check_health(health: &HealthConfig) -> Result<(), Refusal> {
    let intervals = [
        ("Interval", &health.interval),
        ("Timeout", &health.timeout),
        ("StartPeriod", &health.start_period),
        ("StartInterval", &health.start_interval),
    ];
    for (name, duration) in intervals {
        let nanos = duration.as_ref().map_or(0, nanos_of);
        if nanos != 0 && nanos < MIN_HEALTH_NANOS {
            return Err(Refusal::invalid(format!(
                "ContainerSpec: {name} in HealthConfig cannot be less than 1ms"
            )));
        }
    }
    if health.retries < 0 {
        return Err(Refusal::invalid(
            "ContainerSpec: Retries in HealthConfig cannot be negative",
        ));
    }
    Ok(())
}

fn check_secrets(references: &[SecretReference], files: &mut TargetFiles) -> Result<(), Refusal> {
    check_count(Kind::Secret, references.len())?;
    let references = references.iter().map(|reference| Reference {
        id: &reference.secret_id,
        name: &reference.secret_name,
        target: reference.file.as_ref().map(file_target),
    });
    files.add(Kind::Secret, references)?;
    Ok(())
}

fn check_configs(container: &ContainerSpec, files: &mut TargetFiles) -> Result<(), Refusal> {
    let configs = container.configs.as_slice();
    check_count(Kind::Config, configs.len())?;
    let references = configs.iter().map(|reference| Reference {
        id: &reference.config_id,
        name: &reference.config_name,
        target: reference.target.as_ref().map(|target| match target {
            config_reference::Target::File(file) => file_target(file),
            config_reference::Target::Runtime(_) => Target::Runtime,
        }),
    });
    files.add(Kind::Config, references)?;
    check_credential_config(container)
}

/// A credential spec's config must be among the references, for the runtime.
fn check_credential_config(container: &ContainerSpec) -> Result<(), Refusal> {
    let credential = container
        .privileges
        .as_ref()
        .and_then(|privileges| privileges.credential_spec.as_ref());
    let Some(credential_spec::Source::Config(id)) =
        credential.and_then(|credential| credential.source.as_ref())
    else {
        return Ok(());
    };
    let is_it = |reference: &&ConfigReference| {
        reference.config_id == *id
            && matches!(reference.target, Some(config_reference::Target::Runtime(_)))
    };
    match container.configs.iter().find(is_it) {
        Some(_) => Ok(()),
        None => Err(Refusal::invalid(format!(
            "CredentialSpec references config '{id}', but that config isn't in config references \
             with RuntimeTarget"
        ))),
    }
}

fn check_count(kind: Kind, count: usize) -> Result<(), Refusal> {
    if count > MAX_REFERENCES {
        return Err(Refusal::invalid(format!(
            "{count} {kind} references, at most {MAX_REFERENCES} are allowed; split the service"
        )));
    }
    Ok(())
}

fn file_target(file: &FileTarget) -> Target<'_> {
    Target::File {
        name: &file.name,
        uid: &file.uid,
        gid: &file.gid,
        mode: file.mode,
    }
}

/// A template that no node expands is refused by the name of what has it, without its value.
fn check_templates(container: &ContainerSpec) -> Result<(), Refusal> {
    match faulty_field(container) {
        None => Ok(()),
        Some((field, error)) => Err(Refusal::invalid(format!(
            "{field} is no template that can be expanded: {error}"
        ))),
    }
}

fn check_mode(spec: &ServiceSpec) -> Result<(), Refusal> {
    match spec.mode.as_ref() {
        None => Err(Refusal::invalid("must specify a service mode")),
        Some(Mode::Replicated(replicated)) => within_replicas("replicas", replicated.replicas),
        Some(Mode::Global(_)) => Ok(()),
        Some(Mode::ReplicatedJob(job)) => {
            within_replicas("tasks at a time", job.max_concurrent)?;
            within_replicas("completions", job.total_completions)?;
            check_job(spec)
        }
        Some(Mode::GlobalJob(_)) => check_job(spec),
    }
}

fn within_replicas(what: &str, count: u64) -> Result<(), Refusal> {
    if count > plan::MAX_REPLICAS {
        return Err(Refusal::invalid(format!(
            "{count} {what}, at most {} are allowed",
            plan::MAX_REPLICAS
        )));
    }
    Ok(())
}

/// Nothing of a job is rolled: a change of it is run anew, all at once.
fn check_job(spec: &ServiceSpec) -> Result<(), Refusal> {
    for (config, what) in [(&spec.update, "an update"), (&spec.rollback, "a rollback")] {
        if config.is_some() {
            return Err(Refusal::invalid(format!("Jobs may not have {what} config")));
        }
    }
    Ok(())
}

fn check_update(update: &UpdateConfig) -> Result<(), Refusal> {
    check_not_negative("TaskSpec: update-delay", update.delay.as_ref())?;
    check_not_negative("TaskSpec: update-monitor", update.monitor.as_ref())?;
    if !(0.0..=1.0).contains(&update.max_failure_ratio) {
        return Err(Refusal::invalid(
            "TaskSpec: update-maxfailureratio cannot be less than 0 or bigger than 1",
        ));
    }
    Ok(())
}

fn check_endpoint(endpoint: &EndpointSpec) -> Result<(), Refusal> {
    let ingress = |port: &&PortConfig| port.publish_mode() == PublishMode::Ingress;
    let first_ingress = endpoint.ports.iter().find(ingress);
    if first_ingress.is_some() && endpoint.mode() == ResolutionMode::Dnsrr {
        return Err(Refusal::invalid(
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode",
        ));
    }
    if let Some(port) = first_ingress {
        return Err(Refusal::invalid(format!(
            "port {0} is published in ingress mode, which is not offered; publish it on the nodes \
             themselves with --publish mode=host,target={0}",
            port.target_port
        )));
    }
    let mut published = Vec::new();
    for port in &endpoint.ports {
        if port.target_port == 0 || port.target_port > u32::from(u16::MAX) {
            return Err(Refusal::invalid(format!(
                "EndpointSpec: target port {} is not between 1 and 65535",
                port.target_port
            )));
        }
        if port.published_port > u32::from(u16::MAX) {
            return Err(Refusal::invalid(format!(
                "EndpointSpec: published port {} is not between 1 and 65535",
                port.published_port
            )));
        }
        let place = (port.protocol, port.published_port);
        if port.published_port != 0 && published.contains(&place) {
            return Err(Refusal::invalid(
                "EndpointSpec: duplicate published ports provided",
            ));
        }
        published.push(place);
    }
    Ok(())
}

fn check_not_negative(what: &str, duration: Option<&Duration>) -> Result<(), Refusal> {
    if duration.is_some_and(|duration| nanos_of(duration) < 0) {
        return Err(Refusal::invalid(format!("{what} cannot be negative")));
    }
    Ok(())
}

fn nanos_of(duration: &Duration) -> i128 {
    i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        generic::{discrete, named},
        objects::{
            GlobalJob, Mount, NetworkAttachmentConfig, Placement, Privileges, ReplicatedJob,
            ReplicatedService, ResourceRequirements, RuntimeTarget, mount, port_config,
            privileges::CredentialSpec,
        },
        testing::{annotations, service_spec},
    };

    fn spec() -> ServiceSpec {
        service_spec("web", &[("s1", "db")], &[("c1", "app")])
    }

    fn refused(change: impl FnOnce(&mut ServiceSpec)) -> String {
        let mut spec = spec();
        change(&mut spec);
        validate_service_spec(&spec).unwrap_err().to_string()
    }

    fn refused_container(change: impl FnOnce(&mut ContainerSpec)) -> String {
        refused(|spec| change(spec.task.as_mut().unwrap().container.as_mut().unwrap()))
    }

    fn refused_task(change: impl FnOnce(&mut TaskSpec)) -> String {
        refused(|spec| change(spec.task.as_mut().unwrap()))
    }

    fn seconds(seconds: i64) -> Option<Duration> {
        Some(Duration { seconds, nanos: 0 })
    }

    #[test]
    fn names() {
        let dns = "name must be valid as a DNS name component";
        for name in ["a.b", "-a", "a-", "_a", "a b", "ä", "a/b"] {
            assert_eq!(refused(|spec| spec.annotations = annotations(name)), dns);
        }
        assert_eq!(
            refused(|spec| spec.annotations = None),
            "name must be provided"
        );
        let long = "a".repeat(64);
        assert_eq!(
            refused(|spec| spec.annotations = annotations(&long)),
            "name must be 63 characters or fewer"
        );
        for name in ["a", "A9", "a-b_c", &long[1..]] {
            let mut spec = spec();
            spec.annotations = annotations(name);
            assert_eq!(validate_service_spec(&spec), Ok(()), "{name}");
        }
    }

    #[test]
    fn parts_that_must_be_there() {
        let runtime = "mismatched Runtime and *Spec fields";
        assert_eq!(refused(|spec| spec.task = None), runtime);
        assert_eq!(refused_task(|task| task.container = None), runtime);
        assert_eq!(
            refused_container(|container| container.image.clear()),
            "ContainerSpec: image reference must be provided"
        );
        assert_eq!(
            refused_container(|container| container.image = "a b".into()),
            "ContainerSpec: \"a b\" is not a valid repository/tag"
        );
        assert_eq!(
            refused_container(|container| container.image = "bb:1@bad".into()),
            "ContainerSpec: \"bb:1@bad\" is not a valid repository/tag"
        );
        assert_eq!(
            refused(|spec| spec.mode = None),
            "must specify a service mode"
        );
    }

    #[test]
    fn references() {
        let twice = |container: &mut ContainerSpec| {
            let mut second = container.secrets[0].clone();
            second.secret_name = "other".into();
            container.secrets.push(second);
        };
        assert_eq!(
            refused_container(twice),
            "secret references 'db' and 'other' have a conflicting target: 'db'"
        );
        let both_kinds = |container: &mut ContainerSpec| {
            let config = container.configs[0].target.as_mut().unwrap();
            let config_reference::Target::File(file) = config else {
                panic!("the config of the example is a file");
            };
            file.name = "/run/secrets/db".into();
        };
        assert_eq!(
            refused_container(both_kinds),
            "secret reference 'db' and config reference 'app' have a conflicting target: \
             '/run/secrets/db'"
        );
        assert_eq!(
            refused_container(|container| container.secrets[0].secret_id.clear()),
            "malformed secret reference"
        );
        assert_eq!(
            refused_container(|container| container.secrets[0].file = None),
            "malformed secret reference, no target provided"
        );
        assert_eq!(
            refused_container(|container| container.configs[0].target = None),
            "malformed config reference, no target provided"
        );
        let named_owner = refused_container(|container| {
            container.secrets[0].file.as_mut().unwrap().uid = "root".into();
        });
        assert!(
            named_owner.contains("uid 'root' is not a decimal number"),
            "{named_owner}"
        );
        let many = refused_container(|container| {
            container.secrets = vec![container.secrets[0].clone(); MAX_REFERENCES + 1];
        });
        assert!(many.starts_with("501 secret references"), "{many}");
    }

    #[test]
    fn a_credential_spec_needs_its_config_for_the_runtime() {
        let with_credentials = |container: &mut ContainerSpec| {
            container.privileges = Some(Privileges {
                credential_spec: Some(CredentialSpec {
                    source: Some(credential_spec::Source::Config("c1".into())),
                }),
                ..Privileges::default()
            });
        };
        let text = refused_container(with_credentials);
        assert!(
            text.starts_with("CredentialSpec references config 'c1', but that config isn't"),
            "{text}"
        );
        let mut spec = spec();
        let container = spec.task.as_mut().unwrap().container.as_mut().unwrap();
        with_credentials(container);
        container.configs[0].target = Some(config_reference::Target::Runtime(RuntimeTarget {}));
        assert_eq!(validate_service_spec(&spec), Ok(()));
    }

    #[test]
    fn templates_are_refused_without_their_value() {
        let env =
            refused_container(|c| c.env = vec!["A={{.Task.ID}}".into(), "PW={{hunter2}}".into()]);
        assert!(
            env.starts_with("environment variable PW is no template that can be expanded: line 1"),
            "{env}"
        );
        assert!(!env.contains("hunter2"));
        let hostname = refused_container(|c| c.hostname = "{{secret \"pw\"}}".into());
        assert!(
            hostname.ends_with("function `secret` works in secrets and configs only"),
            "{hostname}"
        );
        let with = |change: fn(&mut Mount)| {
            move |container: &mut ContainerSpec| {
                let mut mount = Mount {
                    target: "/t".into(),
                    ..Mount::default()
                };
                change(&mut mount);
                container.mounts = vec![mount];
            }
        };
        let source = refused_container(with(|mount| mount.source = "/{{.Task}}".into()));
        assert!(source.starts_with("mount /t is no template"), "{source}");
        let label = refused_container(with(|mount| {
            mount.volume_options = Some(mount::VolumeOptions {
                labels: [("k".to_owned(), "{{with 1}}".to_owned())].into(),
                ..Default::default()
            });
        }));
        assert!(label.contains("`with` is not offered"), "{label}");
    }

    #[test]
    fn templates_that_nodes_expand() {
        let mut spec = spec();
        let container = spec.task.as_mut().unwrap().container.as_mut().unwrap();
        container.env = vec!["A={{.Task.Slot}}".into(), "B={}} {".into()];
        container.hostname = "{{if eq .Task.Slot \"1\"}}first{{else}}other{{end}}".into();
        container.mounts = vec![Mount {
            source: "{{.Service.Name}}-{{index .Service.Labels \"a.b\"}}".into(),
            target: "/{{.Task.ID}}".into(),
            ..Mount::default()
        }];
        assert_eq!(validate_service_spec(&spec), Ok(()));
    }

    #[test]
    fn ports() {
        let port = |mode: PublishMode, target_port, published_port| PortConfig {
            target_port,
            published_port,
            publish_mode: mode.into(),
            protocol: port_config::Protocol::Tcp.into(),
            ..PortConfig::default()
        };
        let with = |mode: ResolutionMode, ports: Vec<PortConfig>| {
            refused(|spec| {
                spec.endpoint = Some(EndpointSpec {
                    mode: mode.into(),
                    ports,
                });
            })
        };
        let ingress = || vec![port(PublishMode::Ingress, 80, 8080)];
        assert_eq!(
            with(ResolutionMode::Dnsrr, ingress()),
            "EndpointSpec: port published with ingress mode can't be used with dnsrr mode"
        );
        assert_eq!(
            with(ResolutionMode::Vip, ingress()),
            "port 80 is published in ingress mode, which is not offered; publish it on the nodes \
             themselves with --publish mode=host,target=80"
        );
        let host = |target, published| port(PublishMode::Host, target, published);
        assert_eq!(
            with(ResolutionMode::Vip, vec![host(80, 8080), host(81, 8080)]),
            "EndpointSpec: duplicate published ports provided"
        );
        for bad in [host(0, 80), host(65536, 80), host(80, 65536)] {
            let text = with(ResolutionMode::Vip, vec![bad]);
            assert!(text.ends_with("is not between 1 and 65535"), "{text}");
        }
    }

    #[test]
    fn networks_and_constraints() {
        let overlay = refused_task(|task| {
            task.networks = vec![NetworkAttachmentConfig {
                target: "my-overlay".into(),
                ..NetworkAttachmentConfig::default()
            }];
        });
        assert!(
            overlay.contains("my-overlay") && overlay.contains("host"),
            "{overlay}"
        );
        let constraint = refused_task(|task| {
            task.placement = Some(Placement {
                constraints: vec!["node.role".into()],
                ..Placement::default()
            });
        });
        assert_eq!(constraint, "constraint expected one operator from ==, !=");
    }

    #[test]
    fn numbers_out_of_range() {
        let resources = |resources: Resources| {
            refused_task(|task| {
                task.resources = Some(ResourceRequirements {
                    limits: Some(resources),
                    ..ResourceRequirements::default()
                });
            })
        };
        let memory = |memory_bytes| {
            resources(Resources {
                memory_bytes,
                ..Resources::default()
            })
        };
        assert_eq!(memory(-1), "invalid memory value -1: Must be at least 4MiB");
        assert_eq!(
            memory(4_194_303),
            "invalid memory value 4194303: Must be at least 4MiB"
        );
        let cpus = resources(Resources {
            nano_cpus: 999_999,
            ..Resources::default()
        });
        assert_eq!(
            cpus,
            "invalid cpu value 0.000999999: Must be at least 0.001"
        );
        let generic = |one| {
            refused_task(|task| {
                let resources = task.resources.get_or_insert_default();
                let reserved = resources.reservations.get_or_insert_default();
                reserved.generic = vec![discrete("fpga", 0), one];
            })
        };
        assert_eq!(
            generic(named("gpu", "a")),
            "invalid generic-resource request `gpu=a`, Named Generic Resources is not supported \
             for service create or update; ask for a number of them"
        );
        for (bad, why) in [
            (discrete("gpu", -1), "cannot ask for negative resource gpu"),
            (discrete("", 1), "a resource has no kind"),
            (
                GenericResource::default(),
                "a resource is neither named nor discrete",
            ),
        ] {
            let expected = format!("invalid generic resource specification: {why}");
            assert_eq!(generic(bad), expected);
        }
        let replicas = refused(|spec| {
            let replicas = u64::MAX;
            spec.mode = Some(Mode::Replicated(ReplicatedService { replicas }));
        });
        assert!(
            replicas.starts_with("18446744073709551615 replicas"),
            "{replicas}"
        );
        for ratio in [-0.1, 1.1, f32::NAN] {
            let text = refused(|spec| {
                spec.update = Some(UpdateConfig {
                    max_failure_ratio: ratio,
                    ..UpdateConfig::default()
                });
            });
            assert!(text.contains("update-maxfailureratio"), "{text}");
        }
        let delay = refused_task(|task| {
            task.restart = Some(RestartPolicy {
                delay: seconds(-1),
                ..RestartPolicy::default()
            });
        });
        assert_eq!(delay, "TaskSpec: restart-delay cannot be negative");
    }

    #[test]
    fn jobs() {
        let job = |at_a_time, completions| {
            Some(Mode::ReplicatedJob(ReplicatedJob {
                max_concurrent: at_a_time,
                total_completions: completions,
            }))
        };
        for (mode, said) in [
            (job(u64::MAX, 1), "18446744073709551615 tasks at a time"),
            (job(1, u64::MAX), "18446744073709551615 completions"),
        ] {
            let text = refused(|spec| spec.mode = mode);
            assert!(text.starts_with(said), "{text}");
        }
        for mode in [job(1, 1), Some(Mode::GlobalJob(GlobalJob {}))] {
            let update = refused(|spec| {
                spec.mode = mode;
                spec.update = Some(UpdateConfig::default());
            });
            assert_eq!(update, "Jobs may not have an update config");
            let rollback = refused(|spec| {
                spec.mode = mode;
                spec.rollback = Some(UpdateConfig::default());
            });
            assert_eq!(rollback, "Jobs may not have a rollback config");
            let job = ServiceSpec { mode, ..spec() };
            assert_eq!(validate_service_spec(&job), Ok(()));
        }
    }

    #[test]
    fn mounts_and_health_checks() {
        let mount = || Mount {
            target: "/t".into(),
            ..Mount::default()
        };
        assert_eq!(
            refused_container(|container| container.mounts = vec![mount(), mount()]),
            "ContainerSpec: duplicate mount point: /t"
        );
        let health = |health: HealthConfig| {
            refused_container(|container| container.healthcheck = Some(health))
        };
        let interval = Some(Duration {
            seconds: 0,
            nanos: 999_999,
        });
        assert_eq!(
            health(HealthConfig {
                interval,
                ..HealthConfig::default()
            }),
            "ContainerSpec: Interval in HealthConfig cannot be less than 1ms"
        );
        assert_eq!(
            health(HealthConfig {
                retries: -1,
                ..HealthConfig::default()
            }),
            "ContainerSpec: Retries in HealthConfig cannot be negative"
        );
    }
}
