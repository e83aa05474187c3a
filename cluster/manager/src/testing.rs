//! A state with tasks, and a core around it that cannot write.

use std::sync::{Arc, RwLock};

use time::OffsetDateTime;
use waxseal_ca::test_util::ManualClock;
use waxseal_cluster::{
    Change, NewCluster, PlainVault, State, default_cluster_spec, new_cluster,
    objects::{
        Annotations, Bootstrap, ChangeTasks, Command, ContainerSpec, CreateNode, CreateSecret,
        CreateService, FileTarget, Node, NodeRole, NodeSpec, ReplicatedService, RootCa, Secret,
        SecretReference, SecretSpec, Service, ServiceSpec, Task, TaskChange, TaskSpec, TaskState,
        TaskStatus, command::Op, service_spec::Mode, task_change,
    },
    timestamp,
};

use crate::{control::Group, core::Core, manager::component};

pub(crate) const NOW: i64 = 1_800_000_000;
pub(crate) const CLUSTER: &str = "cluster1";

/// A cluster with the workers `w1` and `w2` and the secret `s1`, its service `svc1`.
pub(crate) struct World {
    pub(crate) state: State,
}

impl World {
    pub(crate) fn new() -> World {
        World::with_secret(b"payload")
    }

    pub(crate) fn with_secret(payload: &[u8]) -> World {
        let mut world = World {
            state: State::new(Arc::new(PlainVault)),
        };
        let cluster = new_cluster(NewCluster {
            id: CLUSTER.into(),
            root_ca: RootCa::default(),
            spec: default_cluster_spec(),
            unlock_key: None,
        });
        world.run(Op::Bootstrap(Bootstrap {
            cluster: Some(cluster),
            node: Some(node("m1", NodeRole::Manager)),
        }));
        for id in ["w1", "w2"] {
            let node = Some(node(id, NodeRole::Worker));
            world.run(Op::CreateNode(CreateNode { node }));
        }
        world.create_secret("s1", payload);
        world.create_service("svc1", &["s1"]);
        world
    }

    pub(crate) fn run(&mut self, op: Op) -> Vec<Change> {
        let now = OffsetDateTime::from_unix_timestamp(NOW).unwrap();
        let command = Command::new(component("test"), timestamp(now), op);
        self.state.apply(command).unwrap().changes
    }

    pub(crate) fn create_secret(&mut self, id: &str, payload: &[u8]) {
        let spec = SecretSpec {
            annotations: annotations(&format!("{id}-name")),
            data: payload.to_vec(),
            ..SecretSpec::default()
        };
        let secret = Secret {
            id: id.into(),
            spec: Some(spec),
            ..Secret::default()
        };
        self.run(Op::CreateSecret(CreateSecret {
            secret: Some(secret),
        }));
    }

    pub(crate) fn create_service(&mut self, id: &str, secrets: &[&str]) {
        let references = secrets.iter().map(|secret| SecretReference {
            secret_id: (*secret).into(),
            secret_name: format!("{secret}-name"),
            file: Some(FileTarget {
                name: (*secret).into(),
                uid: "0".into(),
                gid: "0".into(),
                mode: 0o444,
            }),
        });
        let container = ContainerSpec {
            image: "host".into(),
            secrets: references.collect(),
            ..ContainerSpec::default()
        };
        let spec = ServiceSpec {
            annotations: annotations(&format!("{id}-name")),
            task: Some(TaskSpec {
                container: Some(container),
                ..TaskSpec::default()
            }),
            mode: Some(Mode::Replicated(ReplicatedService { replicas: 1 })),
            ..ServiceSpec::default()
        };
        let service = Service {
            id: id.into(),
            spec: Some(spec),
            ..Service::default()
        };
        self.run(Op::CreateService(CreateService {
            service: Some(service),
        }));
    }

    /// A task of a service on a node, as it was last reported.
    pub(crate) fn task(&self, service: &str, id: &str, node: &str, observed: TaskState) -> Task {
        let service = self.state.service(service).unwrap();
        let spec = service.spec.as_ref().unwrap();
        Task {
            id: id.into(),
            service_id: service.id.clone(),
            slot: 1,
            node_id: node.into(),
            spec: spec.task.clone(),
            service_annotations: spec.annotations.clone(),
            status: Some(TaskStatus {
                state: observed.into(),
                ..TaskStatus::default()
            }),
            desired_state: TaskState::Running.into(),
            spec_version: service.spec_version,
            ..Task::default()
        }
    }

    pub(crate) fn create_task(&mut self, service: &str, id: &str, node: &str, state: TaskState) {
        let task = self.task(service, id, node, state);
        self.change_task(task_change::Change::Create(task));
        assert!(self.state.task(id).is_some());
    }

    pub(crate) fn change_task(&mut self, change: task_change::Change) -> Vec<Change> {
        let change = TaskChange {
            change: Some(change),
        };
        self.run(Op::ChangeTasks(ChangeTasks {
            changes: vec![change],
        }))
    }

    /// A core on this state; nothing can be proposed.
    pub(crate) fn core(self) -> Arc<Core> {
        let now = OffsetDateTime::from_unix_timestamp(NOW).unwrap();
        let state = Arc::new(RwLock::new(self.state));
        let clock = Arc::new(ManualClock::at(now));
        Arc::new(Core {
            node_id: "m1".into(),
            cluster_id: CLUSTER.into(),
            advertise_addr: "192.0.2.1:2377".into(),
            feature_level: crate::FEATURE_LEVEL,
            group: Arc::new(Group::ended(Arc::clone(&state), clock.clone())),
            state,
            clock,
        })
    }
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

fn annotations(name: &str) -> Option<Annotations> {
    Some(Annotations {
        name: name.into(),
        ..Annotations::default()
    })
}
