//! Objects and commands for tests.

use std::sync::Arc;

use prost_types::Timestamp;

use crate::{
    change::{Applied, Refusal},
    defaults::{NewCluster, default_cluster_spec, new_cluster},
    objects::{
        Actor, Annotations, Bootstrap, Certificate, ChangeTasks, Command, Config, ConfigReference,
        ConfigSpec, ContainerSpec, CreateConfig, CreateNode, CreateSecret, CreateService,
        FileTarget, IssuanceState, IssuanceStatus, Node, NodeRole, NodeSpec, PluginDescription,
        ReplicatedService, ReportTasks, RootCa, Secret, SecretReference, SecretSpec, Service,
        ServiceSpec, Task, TaskChange, TaskReport, TaskSpec, TaskState, TaskStatus, actor::Who,
        command::Op, config_reference, service_spec::Mode, task_change,
    },
    state::State,
    vault::Vault,
};

/// The first manager of every test cluster.
pub(crate) const MANAGER: &str = "manager1";

/// Keeps payloads recognisably changed, so that an unsealed one is seen.
pub(crate) struct FlippingVault;

impl Vault for FlippingVault {
    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        plain.iter().map(|byte| !byte).collect()
    }

    fn open(&self, sealed: &[u8]) -> zeroize::Zeroizing<Vec<u8>> {
        zeroize::Zeroizing::new(self.seal(sealed))
    }
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

pub(crate) fn command(seconds: i64, op: Op) -> Command {
    let who = Who::Component("test".into());
    Command::new(Actor { who: Some(who) }, at(seconds), op)
}

/// A state with a cluster and its first manager, at version 1.
pub(crate) fn bootstrapped() -> State {
    let mut state = State::new(Arc::new(FlippingVault));
    run(&mut state, bootstrap()).unwrap();
    state
}

/// Applies an operation at second 1000.
pub(crate) fn run(state: &mut State, op: Op) -> Result<Applied, Refusal> {
    state.apply(command(1000, op))
}

pub(crate) fn bootstrap() -> Op {
    Op::Bootstrap(Bootstrap {
        cluster: Some(new_cluster(NewCluster {
            id: "cluster1".into(),
            root_ca: RootCa::default(),
            spec: default_cluster_spec(),
            unlock_key: None,
        })),
        node: Some(node(MANAGER, NodeRole::Manager)),
    })
}

pub(crate) fn annotations(name: &str) -> Option<Annotations> {
    Some(Annotations {
        name: name.into(),
        ..Annotations::default()
    })
}

pub(crate) fn node(id: &str, role: NodeRole) -> Node {
    Node {
        id: id.into(),
        role: role.into(),
        spec: Some(NodeSpec {
            desired_role: role.into(),
            ..NodeSpec::default()
        }),
        ..Node::default()
    }
}

/// Makes a node describe itself with these plugins, (type, name).
pub(crate) fn describe(node: &mut Node, plugins: &[(&str, &str)]) {
    let plugins = plugins.iter().map(|(kind, name)| PluginDescription {
        r#type: (*kind).into(),
        name: (*name).into(),
    });
    let description = node.description.get_or_insert_default();
    description.engine.get_or_insert_default().plugins = plugins.collect();
}

/// A certificate in this state, as it stands on record.
pub(crate) fn certificate(state: IssuanceState, serial: u8) -> Certificate {
    Certificate {
        csr: vec![serial, 1],
        serial: vec![serial],
        certificate: b"pem".to_vec(),
        not_after: Some(at(9000)),
        status: Some(IssuanceStatus {
            state: state.into(),
            err: String::new(),
        }),
        ..Certificate::default()
    }
}

pub(crate) fn create_worker(id: &str) -> Op {
    Op::CreateNode(CreateNode {
        node: Some(node(id, NodeRole::Worker)),
    })
}

pub(crate) fn create_secret(id: &str, name: &str, data: &[u8]) -> Op {
    Op::CreateSecret(CreateSecret {
        secret: Some(Secret {
            id: id.into(),
            spec: Some(SecretSpec {
                annotations: annotations(name),
                data: data.into(),
                ..SecretSpec::default()
            }),
            ..Secret::default()
        }),
    })
}

pub(crate) fn create_config(id: &str, name: &str, data: &[u8]) -> Op {
    Op::CreateConfig(CreateConfig {
        config: Some(Config {
            id: id.into(),
            spec: Some(ConfigSpec {
                annotations: annotations(name),
                data: data.into(),
                ..ConfigSpec::default()
            }),
            ..Config::default()
        }),
    })
}

fn file(name: &str) -> FileTarget {
    FileTarget {
        name: name.into(),
        uid: "0".into(),
        gid: "0".into(),
        mode: 0o444,
    }
}

/// A replicated service of image `host`; references are (id, name).
pub(crate) fn service_spec(
    name: &str,
    secrets: &[(&str, &str)],
    configs: &[(&str, &str)],
) -> ServiceSpec {
    let secrets = secrets.iter().map(|(id, name)| SecretReference {
        secret_id: (*id).into(),
        secret_name: (*name).into(),
        file: Some(file(name)),
    });
    let configs = configs.iter().map(|(id, name)| ConfigReference {
        config_id: (*id).into(),
        config_name: (*name).into(),
        target: Some(config_reference::Target::File(file(name))),
    });
    ServiceSpec {
        annotations: annotations(name),
        task: Some(TaskSpec {
            container: Some(ContainerSpec {
                image: "host".into(),
                secrets: secrets.collect(),
                configs: configs.collect(),
                ..ContainerSpec::default()
            }),
            ..TaskSpec::default()
        }),
        mode: Some(Mode::Replicated(ReplicatedService { replicas: 1 })),
        ..ServiceSpec::default()
    }
}

pub(crate) fn create_service(id: &str, spec: ServiceSpec) -> Op {
    Op::CreateService(CreateService {
        service: Some(Service {
            id: id.into(),
            spec: Some(spec),
            ..Service::default()
        }),
    })
}

/// A task of a service in the state, as the orchestrator would make it.
pub(crate) fn task_of(state: &State, service_id: &str, id: &str, node_id: &str) -> Task {
    let service = state.service(service_id).unwrap();
    let spec = service.spec.as_ref().unwrap();
    Task {
        id: id.into(),
        service_id: service_id.into(),
        slot: 1,
        node_id: node_id.into(),
        spec: spec.task.clone(),
        service_annotations: spec.annotations.clone(),
        status: Some(status(TaskState::Assigned)),
        desired_state: TaskState::Running.into(),
        spec_version: service.spec_version,
        ..Task::default()
    }
}

pub(crate) fn status(state: TaskState) -> TaskStatus {
    TaskStatus {
        state: state.into(),
        ..TaskStatus::default()
    }
}

pub(crate) fn change_tasks(changes: impl IntoIterator<Item = task_change::Change>) -> Op {
    Op::ChangeTasks(ChangeTasks {
        changes: changes
            .into_iter()
            .map(|change| TaskChange {
                change: Some(change),
            })
            .collect(),
    })
}

pub(crate) fn report(node_id: &str, task_id: &str, state: TaskState) -> Op {
    Op::ReportTasks(ReportTasks {
        node_id: node_id.into(),
        reports: vec![TaskReport {
            task_id: task_id.into(),
            status: Some(status(state)),
        }],
    })
}

/// A worker `w1`, a secret `s1` named `db`, a config `c1` named `app`, a service
/// `svc1` named `web` that uses both, its task `t1` on the worker.
pub(crate) fn with_running_service() -> State {
    let mut state = bootstrapped();
    run(&mut state, create_worker("w1")).unwrap();
    run(&mut state, create_secret("s1", "db", b"payload")).unwrap();
    run(&mut state, create_config("c1", "app", b"data")).unwrap();
    let spec = service_spec("web", &[("s1", "db")], &[("c1", "app")]);
    run(&mut state, create_service("svc1", spec)).unwrap();
    let task = task_of(&state, "svc1", "t1", "w1");
    let created = change_tasks([task_change::Change::Create(task)]);
    assert_eq!(run(&mut state, created).unwrap().skipped, 0);
    state
}
