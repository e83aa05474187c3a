//! Brings a [`FakeCluster`] to where a recorded one stood, as far as the rest of the cluster
//! (dispatcher, scheduler, agents, the local daemon) decides it and not the API: nodes, tasks,
//! progress of updates and of a root's rotation, objects that were there before the recording.
//!
//! What is brought in is what the stock answer shows, in objects of ours; the API under test has to
//! render it as stock did.

use serde_json::Value;
use waxseal_ca::RootAuthority;
use waxseal_cluster::{
    objects::{self, NodeRole, NodeState, Reachability, TaskState, update_status},
    timestamp,
};

use super::FakeCluster;
use crate::{
    cluster::{Cluster, LocalNode, LocalState},
    services::{ServiceSpecJson, service_spec},
};

/// Text of a field, empty if it is not there.
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Bytes of a field in base64; some for any.
fn decoded(value: &Value) -> Vec<u8> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    match value.as_str() {
        Some("…") => b"any".to_vec(),
        other => STANDARD.decode(other.unwrap_or_default()).unwrap(),
    }
}

fn time_of(value: &Value) -> Option<prost_types::Timestamp> {
    let format = &time::format_description::well_known::Rfc3339;
    let parsed = time::OffsetDateTime::parse(value.as_str()?, format);
    Some(timestamp(parsed.unwrap()))
}

fn labels(value: &Value) -> std::collections::BTreeMap<String, String> {
    let map = value.as_object();
    map.into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), text(value)))
        .collect()
}

fn meta(object: &Value) -> Option<objects::Meta> {
    Some(objects::Meta {
        version: Some(objects::Version {
            index: object["Version"]["Index"].as_u64().unwrap(),
        }),
        created_at: time_of(&object["CreatedAt"]),
        updated_at: time_of(&object["UpdatedAt"]),
    })
}

fn annotations(spec: &Value) -> Option<objects::Annotations> {
    Some(objects::Annotations {
        name: text(&spec["Name"]),
        labels: labels(&spec["Labels"]),
    })
}

/// What a node says of itself in `/info`.
pub(super) fn local(swarm: &Value) -> LocalNode {
    let managers = swarm["RemoteManagers"].as_array();
    LocalNode {
        state: match swarm["LocalNodeState"].as_str().unwrap() {
            "inactive" => LocalState::Inactive,
            "pending" => LocalState::Pending,
            "active" => LocalState::Active,
            "locked" => LocalState::Locked,
            "error" => LocalState::Error,
            other => panic!("state {other}"),
        },
        node_id: text(&swarm["NodeID"]),
        node_addr: text(&swarm["NodeAddr"]),
        control_available: swarm["ControlAvailable"] == true,
        entering: false,
        error: text(&swarm["Error"]),
        remote_managers: managers
            .into_iter()
            .flatten()
            .map(|manager| (text(&manager["NodeID"]), text(&manager["Addr"])))
            .collect(),
        warnings: Vec::new(),
    }
}

fn node(shown: &Value) -> objects::Node {
    let (spec, description) = (&shown["Spec"], &shown["Description"]);
    let role = match spec["Role"].as_str().unwrap() {
        "manager" => NodeRole::Manager,
        _ => NodeRole::Worker,
    };
    let mut wish = objects::NodeSpec {
        annotations: annotations(spec),
        ..objects::NodeSpec::default()
    };
    wish.set_desired_role(role);
    wish.set_membership(objects::Membership::Accepted);
    wish.set_availability(match spec["Availability"].as_str().unwrap() {
        "pause" => objects::Availability::Pause,
        "drain" => objects::Availability::Drain,
        _ => objects::Availability::Active,
    });
    let mut status = objects::NodeStatus {
        addr: text(&shown["Status"]["Addr"]),
        message: text(&shown["Status"]["Message"]),
        ..objects::NodeStatus::default()
    };
    status.set_state(match shown["Status"]["State"].as_str().unwrap() {
        "ready" => NodeState::Ready,
        "down" => NodeState::Down,
        "disconnected" => NodeState::Disconnected,
        _ => NodeState::Unknown,
    });
    let mut node = objects::Node {
        id: text(&shown["ID"]),
        meta: meta(shown),
        spec: Some(wish),
        status: Some(status),
        description: description.get("Hostname").map(|_| described(description)),
        manager_status: shown.get("ManagerStatus").map(manager_status),
        ..objects::Node::default()
    };
    node.set_role(match node.manager_status.is_some() {
        true => NodeRole::Manager,
        false => NodeRole::Worker,
    });
    node
}

fn manager_status(shown: &Value) -> objects::ManagerStatus {
    let mut status = objects::ManagerStatus {
        raft_id: 1,
        addr: text(&shown["Addr"]),
        leader: shown["Leader"] == true,
        ..objects::ManagerStatus::default()
    };
    status.set_reachability(match shown["Reachability"].as_str().unwrap() {
        "reachable" => Reachability::Reachable,
        "unreachable" => Reachability::Unreachable,
        _ => Reachability::Unknown,
    });
    status
}

fn described(shown: &Value) -> objects::NodeDescription {
    let (platform, resources) = (&shown["Platform"], &shown["Resources"]);
    let (engine, tls) = (&shown["Engine"], &shown["TLSInfo"]);
    objects::NodeDescription {
        hostname: text(&shown["Hostname"]),
        platform: Some(objects::Platform {
            architecture: text(&platform["Architecture"]),
            os: text(&platform["OS"]),
        }),
        resources: Some(objects::Resources {
            nano_cpus: resources["NanoCPUs"].as_i64().unwrap_or(0),
            memory_bytes: resources["MemoryBytes"].as_i64().unwrap_or(0),
            ..objects::Resources::default()
        }),
        engine: Some(objects::EngineDescription {
            engine_version: text(&engine["EngineVersion"]),
            labels: labels(&engine["Labels"]),
            plugins: vec![objects::PluginDescription {
                r#type: "Network".to_owned(),
                name: "overlay".to_owned(),
            }],
        }),
        tls_info: Some(objects::NodeTlsInfo {
            trust_root: text(&tls["TrustRoot"]).into_bytes(),
            cert_issuer_subject: decoded(&tls["CertIssuerSubject"]),
            cert_issuer_public_key: decoded(&tls["CertIssuerPublicKey"]),
        }),
        ..objects::NodeDescription::default()
    }
}

fn task_state(shown: &Value) -> TaskState {
    match shown.as_str().unwrap() {
        "new" => TaskState::New,
        "pending" => TaskState::Pending,
        "assigned" => TaskState::Assigned,
        "accepted" => TaskState::Accepted,
        "preparing" => TaskState::Preparing,
        "ready" => TaskState::Ready,
        "starting" => TaskState::Starting,
        "running" => TaskState::Running,
        "complete" => TaskState::Complete,
        "shutdown" => TaskState::Shutdown,
        "failed" => TaskState::Failed,
        "rejected" => TaskState::Rejected,
        "remove" => TaskState::Remove,
        "orphaned" => TaskState::Orphaned,
        other => panic!("state {other}"),
    }
}

fn task(shown: &Value, services: &[std::sync::Arc<objects::Service>]) -> objects::Task {
    let service_id = text(&shown["ServiceID"]);
    let service = services.iter().find(|one| one.id == service_id);
    let mut spec = serde_json::Map::new();
    spec.insert("TaskTemplate".to_owned(), shown["Spec"].clone());
    let spec: ServiceSpecJson = serde_json::from_value(spec.into()).unwrap();
    let status = &shown["Status"];
    let number = |value: &Value| i32::try_from(value.as_i64().unwrap_or(0)).unwrap();
    let container = status.get("ContainerStatus");
    let mut task = objects::Task {
        id: text(&shown["ID"]),
        meta: meta(shown),
        spec: service_spec(spec).unwrap().task,
        slot: shown["Slot"].as_u64().unwrap_or(0),
        node_id: text(&shown["NodeID"]),
        annotations: Some(objects::Annotations {
            name: String::new(),
            labels: labels(&shown["Labels"]),
        }),
        service_annotations: service.and_then(|one| one.spec.as_ref()?.annotations.clone()),
        spec_version: service.and_then(|one| one.spec_version),
        status: Some(objects::TaskStatus {
            timestamp: time_of(&status["Timestamp"]),
            state: task_state(&status["State"]).into(),
            message: text(&status["Message"]),
            err: text(&status["Err"]),
            container: container.map(|container| objects::ContainerStatus {
                container_id: text(&container["ContainerID"]),
                pid: number(&container["PID"]),
                exit_code: number(&container["ExitCode"]),
            }),
            ..objects::TaskStatus::default()
        }),
        job_iteration: shown.get("JobIteration").map(|iteration| objects::Version {
            index: iteration["Index"].as_u64().unwrap_or(0),
        }),
        service_id,
        ..objects::Task::default()
    };
    task.set_desired_state(task_state(&shown["DesiredState"]));
    task
}

fn update_status(shown: &Value) -> objects::UpdateStatus {
    use update_status::State;
    let mut status = objects::UpdateStatus {
        started_at: time_of(&shown["StartedAt"]),
        completed_at: time_of(&shown["CompletedAt"]),
        message: text(&shown["Message"]),
        ..objects::UpdateStatus::default()
    };
    status.set_state(match shown["State"].as_str().unwrap() {
        "updating" => State::Updating,
        "paused" => State::Paused,
        "completed" => State::Completed,
        "rollback_started" => State::RollbackStarted,
        "rollback_paused" => State::RollbackPaused,
        "rollback_completed" => State::RollbackCompleted,
        other => panic!("state {other}"),
    });
    status
}

/// Puts the objects of a list, or one of them, in the place of those that are there.
fn put<T>(all: &mut Vec<T>, new: T, id: impl Fn(&T) -> &str) {
    match all.iter_mut().find(|one| id(one) == id(&new)) {
        Some(one) => *one = new,
        None => all.push(new),
    }
}

/// What stock showed under `/nodes`; a list is all there are.
///
/// Hosts of ours only if they are to be `managers`, which engines cannot be here.
pub(super) fn nodes(cluster: &FakeCluster, shown: &Value, is_whole: bool, managers: bool) {
    cluster.edit(|snapshot| {
        let shown: Vec<_> = shown
            .as_array()
            .map_or(vec![shown], |all| all.iter().collect());
        if is_whole {
            let listed = |id: &str| shown.iter().any(|node| node["ID"] == id);
            snapshot.nodes.retain(|node| listed(&node.id));
        }
        for shown in shown {
            let mut new = node(shown);
            let description = new.description.get_or_insert_default();
            if managers {
                let engine = description.engine.get_or_insert_default();
                engine.plugins = super::fake::own_plugins();
            }
            if shown["Description"]["TLSInfo"]["TrustRoot"] == "…" {
                let root = snapshot.cluster.as_ref().and_then(|of| of.root_ca.as_ref());
                let tls = description.tls_info.get_or_insert_default();
                tls.trust_root = root.map_or_else(Vec::new, |root| root.ca_cert.clone());
            }
            // What is asked of a node is asked through the API.
            if let Some(old) = snapshot.nodes.iter().find(|node| node.id == new.id) {
                new.spec.clone_from(&old.spec);
            }
            put(&mut snapshot.nodes, new, |node| &node.id);
        }
    });
}

/// The only node has this id, and the cluster the ports and pools of this one.
pub(super) fn named(cluster: &FakeCluster, node_id: &str, shown: Option<&Value>) {
    cluster.set_local(|local| {
        local.node_id = node_id.to_owned();
        local.remote_managers = vec![(node_id.to_owned(), "10.77.0.1:2377".to_owned())];
    });
    cluster.edit(|snapshot| {
        snapshot.nodes[0].id = node_id.to_owned();
        let of = snapshot.cluster.as_mut().unwrap();
        let Some(shown) = shown else { return };
        let number = |key: &str| u32::try_from(shown[key].as_u64().unwrap()).unwrap();
        let pools = shown["DefaultAddrPool"].as_array();
        of.default_addr_pool = pools.into_iter().flatten().map(text).collect();
        of.subnet_size = number("SubnetSize");
        of.data_path_port = number("DataPathPort");
    });
}

/// So many nodes and managers, if stock counted more or fewer.
pub(super) fn count_nodes(cluster: &FakeCluster, nodes: usize, managers: usize, own: &str) {
    cluster.edit(|snapshot| {
        let is_manager = |node: &objects::Node| node.manager_status.is_some();
        for (is_wanted, count) in [(true, managers), (false, nodes - managers)] {
            let is_own = |node: &objects::Node| node.id == own && is_manager(node) == is_wanted;
            let mut kept = snapshot.nodes.iter().filter(|node| is_own(node)).count();
            snapshot.nodes.retain(|node| {
                let is_kept = is_manager(node) != is_wanted || is_own(node) || kept < count;
                kept += usize::from(is_kept && is_manager(node) == is_wanted && !is_own(node));
                is_kept
            });
            for number in kept..count {
                let mut more =
                    super::fake::node(&format!("{is_wanted}{number}"), "vm", NodeRole::Worker);
                more.meta = snapshot.nodes.first().and_then(|node| node.meta);
                more.manager_status = is_wanted.then(objects::ManagerStatus::default);
                snapshot.nodes.push(more);
            }
        }
    });
}

/// What stock showed under `/tasks`; a list is all there are.
pub(super) fn tasks(cluster: &FakeCluster, shown: &Value) {
    let one = [shown.clone()];
    let listed = shown.as_array().map_or(&one[..], Vec::as_slice);
    let services: Vec<_> = cluster.look(|state| state.services().cloned().collect());
    let listed: Vec<_> = listed.iter().map(|shown| task(shown, &services)).collect();
    cluster.edit(|snapshot| {
        if shown.is_array() {
            snapshot.tasks.clear();
        }
        for task in listed {
            put(&mut snapshot.tasks, task, |task| &task.id);
        }
    });
}

fn spec_of(shown: &Value) -> objects::ServiceSpec {
    let spec: ServiceSpecJson = serde_json::from_value(shown.clone()).unwrap();
    service_spec(spec).unwrap()
}

/// How far updates and jobs were, by what stock showed under `/services`.
pub(super) fn progress(cluster: &FakeCluster, shown: &Value) {
    cluster.edit(|snapshot| {
        let one = [shown.clone()];
        for shown in shown.as_array().map_or(&one[..], Vec::as_slice) {
            let mut services = snapshot.services.iter_mut();
            let Some(service) = services.find(|service| shown["ID"] == service.id) else {
                continue;
            };
            service.update_status = shown.get("UpdateStatus").map(update_status);
            let state = text(&shown["UpdateStatus"]["State"]);
            if state.starts_with("rollback") {
                service.spec = Some(spec_of(&shown["Spec"]));
                service.previous_spec = shown.get("PreviousSpec").map(spec_of);
            }
            service.job_status = shown.get("JobStatus").map(|job| objects::JobStatus {
                job_iteration: Some(objects::Version {
                    index: job["JobIteration"]["Index"].as_u64().unwrap_or(0),
                }),
                last_execution: time_of(&job["LastExecution"]),
            });
        }
    });
}

/// Whether the root is rotated: one begins that no request of the recording began, or all
/// certificates are renewed.
pub(super) fn rotation(cluster: &FakeCluster, in_progress: &Value) {
    let to_be = RootAuthority::generate(cluster.now()).unwrap();
    cluster.edit(|snapshot| {
        let cluster = snapshot.cluster.as_mut();
        let Some(root) = cluster.and_then(|cluster| cluster.root_ca.as_mut()) else {
            return;
        };
        match in_progress.as_bool() {
            Some(true) if root.root_rotation.is_none() => {
                root.root_rotation = Some(objects::RootRotation {
                    ca_cert: to_be.cert_pem().into(),
                    ca_key: to_be.key_pem().as_bytes().to_vec(),
                    ..objects::RootRotation::default()
                });
            }
            Some(false) => {
                if let Some(rotation) = root.root_rotation.take() {
                    root.ca_cert = rotation.ca_cert;
                    root.ca_key = rotation.ca_key;
                }
            }
            _ => {}
        }
    });
}

/// Adds an object that was there before the recording, as it was shown first.
pub(super) fn given(cluster: &FakeCluster, kind: &str, shown: &Value) {
    let (id, spec) = (text(&shown["ID"]), &shown["Spec"]);
    let previous = || shown.get("PreviousSpec").map(spec_of);
    let specs = (kind == "services").then(|| (spec_of(spec), previous()));
    cluster.edit(|snapshot| match kind {
        "secrets" => snapshot.secrets.push(objects::Secret {
            id,
            meta: meta(shown),
            spec: Some(objects::SecretSpec {
                annotations: annotations(spec),
                data: b"given".to_vec(),
                ..objects::SecretSpec::default()
            }),
            ..objects::Secret::default()
        }),
        "configs" => snapshot.configs.push(objects::Config {
            id,
            meta: meta(shown),
            spec: Some(objects::ConfigSpec {
                annotations: annotations(spec),
                data: decoded(&spec["Data"]),
                ..objects::ConfigSpec::default()
            }),
        }),
        "services" => {
            let (spec, previous_spec) = specs.unwrap();
            snapshot.services.push(objects::Service {
                id,
                meta: meta(shown),
                spec: Some(spec),
                previous_spec,
                spec_version: Some(objects::Version { index: 1 }),
                ..objects::Service::default()
            });
        }
        other => panic!("{other} cannot be given"),
    });
}
