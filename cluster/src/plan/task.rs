//! What a task looks like, its states, and what its networks become.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::times::moment;
use crate::{
    Refusal,
    objects::{
        Annotations, Cluster, Driver, Endpoint, Network, NetworkAttachment, NetworkSpec, Node,
        NodeState, PortConfig, Service, Task, TaskSpec, TaskState, TaskStatus, port_config,
        service_spec::Mode,
    },
    observed_state, timestamp,
};

/// The reserved image name of native tasks.
const HOST_IMAGE: &str = "host";
/// Names by which Docker's reference rules mean the same repository.
const HOST_PREFIXES: [&str; 6] = [
    "",
    "library/",
    "docker.io/",
    "docker.io/library/",
    "index.docker.io/",
    "index.docker.io/library/",
];
/// Label by which an engine knows that a network is its own, not swarm's.
const LABEL_PREDEFINED: &str = "com.docker.swarm.predefined";

/// Where a task of a service belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A replicated service's slot, from 1; a replicated job's, from 0.
    Slot(u64),
    /// A global service's node.
    Node(String),
}

/// Whether the task is meant to run: desired state up to RUNNING, of a job's up to
/// COMPLETE.
pub fn is_wanted(task: &Task) -> bool {
    task.desired_state <= TaskState::Complete as i32
}

/// Whether a service's tasks are to end: a job.
pub fn is_job(service: &Service) -> bool {
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    matches!(mode, Some(Mode::ReplicatedJob(_) | Mode::GlobalJob(_)))
}

/// Whether a node may be running the task, or is about to: it was handed to one
/// and no end was reported. `node` is the node it is assigned to; one that is
/// gone or down counts as running nothing.
pub(super) fn occupies(task: &Task, node: Option<&Node>) -> bool {
    let state = observed_state(task);
    (TaskState::Assigned..=TaskState::Running).contains(&state)
        && node.is_some_and(|node| node_state(node) != NodeState::Down)
}

/// Whether the task ended by itself: not stopped, not lost with its node.
pub(super) fn ended_by_itself(task: &Task) -> bool {
    matches!(
        observed_state(task),
        TaskState::Complete | TaskState::Failed | TaskState::Rejected
    )
}

/// When the last status was recorded, by a manager's clock where there is one; a
/// node's clock is believed only for the past.
pub(super) fn status_time(task: &Task) -> Option<OffsetDateTime> {
    let updated = updated_at(task);
    let status = task.status.as_ref()?;
    let reported = status.applied_at.as_ref().or(status.timestamp.as_ref());
    match (moment(reported), updated) {
        (Some(reported), Some(updated)) => Some(reported.min(updated)),
        (reported, updated) => reported.or(updated),
    }
}

/// When the task was made.
pub(super) fn created_at(task: &Task) -> OffsetDateTime {
    let created = task.meta.as_ref().and_then(|meta| meta.created_at.as_ref());
    moment(created).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// When the task's node first said that it runs, if that is on record.
pub(super) fn running_since(task: &Task) -> Option<OffsetDateTime> {
    moment(task.running_since.as_ref())
}

/// When anything of the task was changed last.
pub(super) fn updated_at(task: &Task) -> Option<OffsetDateTime> {
    moment(task.meta.as_ref().and_then(|meta| meta.updated_at.as_ref()))
}

/// The node's state; UNKNOWN if it has none.
pub(super) fn node_state(node: &Node) -> NodeState {
    node.status
        .as_ref()
        .and_then(|status| NodeState::try_from(status.state).ok())
        .unwrap_or(NodeState::Unknown)
}

/// Whether an image name means a native task: `host`, `host:latest`,
/// `docker.io/library/host`, each also with a digest.
///
/// Any other tag is an image like any other: a version of the host is not a thing.
pub fn is_host_image(image: &str) -> bool {
    let name = image.split_once('@').map_or(image, |(name, _)| name);
    let name = name.strip_suffix(":latest").unwrap_or(name);
    HOST_PREFIXES
        .iter()
        .any(|prefix| name.strip_prefix(prefix) == Some(HOST_IMAGE))
}

/// A new task of a service, state NEW, desired RUNNING or, of a job, COMPLETE.
///
/// The name is left empty as swarmkit does: engines and [`crate::task_name`] make it
/// from service, place and id.
///
/// # Errors
/// [`Refusal::Invalid`] if the service has no task template or asks for a network
/// that is not offered.
pub fn build_task(
    service: &Service,
    cluster: Option<&Cluster>,
    place: &Place,
    id: String,
    now: OffsetDateTime,
) -> Result<Task, Refusal> {
    let invalid = |reason: &str| Refusal::Invalid {
        reason: reason.to_owned(),
    };
    let service_spec = service.spec.as_ref();
    let service_spec = service_spec.ok_or_else(|| invalid("the service has no spec"))?;
    let spec = service_spec.task.clone();
    let spec = spec.ok_or_else(|| invalid("the service has no task template"))?;
    let defaults = cluster
        .and_then(|cluster| cluster.spec.as_ref())
        .and_then(|spec| spec.task_defaults.as_ref());
    let log_driver = spec.log_driver.clone();
    let log_driver = log_driver.or_else(|| defaults.and_then(|all| all.log_driver.clone()));
    let (slot, node_id) = match place {
        Place::Slot(slot) => (*slot, String::new()),
        Place::Node(node) => (0, node.clone()),
    };
    let (desired_state, job_iteration) = match is_job(service) {
        true => {
            let status = service.job_status.as_ref();
            let iteration = status.and_then(|status| status.job_iteration);
            (TaskState::Complete, iteration)
        }
        false => (TaskState::Running, None),
    };
    Ok(Task {
        id,
        networks: attachments(&spec)?,
        spec: Some(spec),
        service_id: service.id.clone(),
        slot,
        node_id,
        annotations: Some(Annotations::default()),
        service_annotations: service_spec.annotations.clone(),
        status: Some(TaskStatus {
            timestamp: Some(timestamp(now)),
            state: TaskState::New as i32,
            message: "created".to_owned(),
            ..TaskStatus::default()
        }),
        desired_state: desired_state as i32,
        endpoint: Some(Endpoint {
            spec: service_spec.endpoint.clone(),
            ports: host_ports(service),
            virtual_ips: Vec::new(),
        }),
        log_driver,
        spec_version: service.spec_version,
        job_iteration,
        ..Task::default()
    })
}

/// The ports that the node itself opens for each task.
fn host_ports(service: &Service) -> Vec<PortConfig> {
    let spec = service.spec.as_ref();
    let endpoint = spec.and_then(|spec| spec.endpoint.as_ref());
    let ports = endpoint.map_or(&[][..], |endpoint| &endpoint.ports);
    ports
        .iter()
        .filter(|port| port.publish_mode == port_config::PublishMode::Host as i32)
        .cloned()
        .collect()
}

/// The networks of a task as an engine wants them: none for the engine's default
/// network (`bridge`, `default`), one for `host` or `none`, always with a driver
/// state, since an engine dies of a task without it, at each start anew.
///
/// # Errors
/// [`Refusal::Invalid`] for any other network and for more than one.
pub fn attachments(spec: &TaskSpec) -> Result<Vec<NetworkAttachment>, Refusal> {
    let wanted = match spec.networks.as_slice() {
        [] => return Ok(Vec::new()),
        [wanted] => wanted,
        several => {
            let reason = format!(
                "{} networks asked for one task; use one of host, none, bridge",
                several.len()
            );
            return Err(Refusal::Invalid { reason });
        }
    };
    let name = match wanted.target.as_str() {
        "bridge" | "default" => return Ok(Vec::new()),
        name @ ("host" | "none") => name,
        other => {
            let reason = format!(
                "network {} is not offered; use one of host, none, bridge",
                other.chars().take(64).collect::<String>().escape_debug()
            );
            return Err(Refusal::Invalid { reason });
        }
    };
    let driver = Driver {
        name: name.to_owned(),
        options: BTreeMap::new(),
    };
    let network = Network {
        id: name.to_owned(),
        meta: None,
        spec: Some(NetworkSpec {
            annotations: Some(Annotations {
                name: name.to_owned(),
                labels: BTreeMap::from([(LABEL_PREDEFINED.to_owned(), "true".to_owned())]),
            }),
            driver_config: Some(driver.clone()),
            ..NetworkSpec::default()
        }),
        driver_state: Some(driver),
    };
    Ok(vec![NetworkAttachment {
        network: Some(network),
        ..NetworkAttachment::default()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{
        EndpointSpec, Meta, NetworkAttachmentConfig, ServiceSpec, TaskDefaults, Version,
    };
    use crate::{is_final, task_name};

    fn with_networks(targets: &[&str]) -> TaskSpec {
        let networks = targets.iter().map(|target| NetworkAttachmentConfig {
            target: (*target).to_owned(),
            ..NetworkAttachmentConfig::default()
        });
        TaskSpec {
            networks: networks.collect(),
            ..TaskSpec::default()
        }
    }

    #[test]
    fn other_networks_and_several_are_refused() {
        for targets in [
            &["ingress"][..],
            &["backend"],
            &[""],
            &["HOST"],
            &["host", "none"],
        ] {
            let refused = attachments(&with_networks(targets));
            assert!(
                matches!(refused, Err(Refusal::Invalid { .. })),
                "{targets:?}"
            );
        }
    }

    #[test]
    fn a_networks_name_from_outside_is_cut_and_escaped() {
        let name = format!("a\n{}", "x".repeat(500));
        let refused = attachments(&with_networks(&[&name])).unwrap_err();
        let text = refused.to_string();
        assert!(text.len() < 160 && !text.contains('\n'), "{text}");
    }

    #[test]
    fn predefined_networks_have_a_driver_state() {
        for name in ["host", "none"] {
            let attached = attachments(&with_networks(&[name])).unwrap();
            let network = attached[0].network.as_ref().unwrap();
            assert_eq!(network.driver_state.as_ref().unwrap().name, name);
            let annotations = network.spec.as_ref().unwrap().annotations.as_ref().unwrap();
            assert_eq!(annotations.name, name);
            assert_eq!(annotations.labels[LABEL_PREDEFINED], "true");
            assert_eq!(attached.len(), 1);
        }
        assert_eq!(attachments(&with_networks(&["bridge"])), Ok(Vec::new()));
        assert_eq!(attachments(&with_networks(&[])), Ok(Vec::new()));
    }

    #[test]
    fn images_that_mean_the_host() {
        for image in [
            "host",
            "host:latest",
            "library/host",
            "docker.io/library/host",
            "docker.io/library/host:latest",
            "docker.io/host",
            "index.docker.io/library/host",
            "host@sha256:0000",
            "host:latest@sha256:0000",
        ] {
            assert!(is_host_image(image), "{image}");
        }
        for image in [
            "",
            "hosts",
            "host:1",
            "Host",
            "ghost",
            "localhost/host",
            "example.com/library/host",
            "other/host",
            "docker.io/library/host/x",
            "host/latest",
            "latest",
            "@host",
            ":latest",
        ] {
            assert!(!is_host_image(image), "{image}");
        }
    }

    #[test]
    fn a_service_without_template_makes_no_task() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let mut service = Service::default();
        let place = Place::Slot(1);
        assert!(build_task(&service, None, &place, "t".to_owned(), now).is_err());
        service.spec = Some(ServiceSpec::default());
        assert!(build_task(&service, None, &place, "t".to_owned(), now).is_err());
    }

    fn web() -> Service {
        let port = |mode: port_config::PublishMode, published_port| PortConfig {
            publish_mode: mode as i32,
            published_port,
            ..PortConfig::default()
        };
        Service {
            id: "service1".to_owned(),
            spec: Some(ServiceSpec {
                annotations: Some(Annotations {
                    name: "web".to_owned(),
                    ..Annotations::default()
                }),
                task: Some(with_networks(&["host"])),
                endpoint: Some(EndpointSpec {
                    ports: vec![
                        port(port_config::PublishMode::Host, 80),
                        port(port_config::PublishMode::Ingress, 81),
                    ],
                    ..EndpointSpec::default()
                }),
                ..ServiceSpec::default()
            }),
            spec_version: Some(Version { index: 7 }),
            ..Service::default()
        }
    }

    #[test]
    fn a_task_carries_what_its_service_says() {
        let now = OffsetDateTime::UNIX_EPOCH;
        let logs = |name: &str| Driver {
            name: name.to_owned(),
            ..Driver::default()
        };
        let mut cluster = Cluster::default();
        cluster.spec.get_or_insert_default().task_defaults = Some(TaskDefaults {
            log_driver: Some(logs("syslog")),
        });
        let mut service = web();
        let place = Place::Slot(3);
        let task = build_task(&service, Some(&cluster), &place, "t1".to_owned(), now).unwrap();
        assert_eq!(task_name(&task), "web.3.t1");
        assert_eq!(observed_state(&task), TaskState::New);
        assert!(is_wanted(&task));
        assert_eq!(task.spec_version, service.spec_version);
        assert_eq!(task.networks.len(), 1);
        assert_eq!(task.log_driver, Some(logs("syslog")));
        let ports = task.endpoint.unwrap().ports;
        assert_eq!(ports.len(), 1, "only host ports");
        assert_eq!(ports[0].published_port, 80);

        let template = service.spec.as_mut().unwrap().task.as_mut().unwrap();
        template.log_driver = Some(logs("none"));
        let place = Place::Node("node1".to_owned());
        let task = build_task(&service, Some(&cluster), &place, "t2".to_owned(), now).unwrap();
        assert_eq!(task.log_driver, Some(logs("none")), "the task's own wins");
        assert_eq!(task_name(&task), "web.node1.t2");
        assert_eq!((task.slot, task.node_id.as_str()), (0, "node1"));
    }

    #[test]
    fn a_nodes_clock_is_not_believed_for_the_future() {
        let recorded = OffsetDateTime::UNIX_EPOCH + time::Duration::hours(1);
        let future = recorded + time::Duration::days(300);
        let mut task = Task {
            meta: Some(Meta {
                updated_at: Some(timestamp(recorded)),
                ..Meta::default()
            }),
            status: Some(TaskStatus {
                timestamp: Some(timestamp(future)),
                ..TaskStatus::default()
            }),
            ..Task::default()
        };
        assert_eq!(status_time(&task), Some(recorded));
        let applied = recorded - time::Duration::minutes(5);
        task.status.as_mut().unwrap().applied_at = Some(timestamp(applied));
        assert_eq!(status_time(&task), Some(applied));
    }

    #[test]
    fn an_unknown_state_counts_as_new() {
        let mut task = Task::default();
        assert_eq!(observed_state(&task), TaskState::New);
        task.status = Some(TaskStatus {
            state: 12345,
            ..TaskStatus::default()
        });
        assert_eq!(observed_state(&task), TaskState::New);
        assert!(!is_final(&task));
    }
}
