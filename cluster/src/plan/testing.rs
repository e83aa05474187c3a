//! A small cluster for tests: a state, a clock that moves only when told, ids in
//! order, and nodes that do as their tasks ask.

use std::{collections::BTreeMap, sync::Arc};

use time::{Duration, OffsetDateTime};

use super::{Planned, orchestrate, schedule};
use crate::{
    Applied, FEATURE_LEVEL, PlainVault, Refusal, State,
    objects::{
        Actor, Annotations, Bootstrap, ChangeTasks, Cluster, ClusterSpec, Command, ContainerSpec,
        CreateNode, CreateService, EngineDescription, GlobalJob, GlobalService, Membership, Node,
        NodeDescription, NodeSpec, NodeState, NodeStatus, Platform, PluginDescription,
        ReplicatedJob, ReplicatedService, ReportTasks, Resources, RootCa, Service, ServiceSpec,
        Task, TaskChange, TaskReport, TaskSpec, TaskState, TaskStatus, UpdateCluster, UpdateNode,
        UpdateService, UpdateStatus, actor, command::Op, service_spec::Mode,
    },
    observed_state, timestamp,
};

/// More rounds than any fixpoint here needs.
const MAX_ROUNDS: usize = 60;

pub(super) struct World {
    pub(super) state: State,
    pub(super) now: OffsetDateTime,
    ids: u64,
}

impl World {
    /// A cluster whose only member is a drained manager without description.
    pub(super) fn new() -> World {
        let mut world = World {
            state: State::new(Arc::new(PlainVault)),
            now: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
            ids: 0,
        };
        world.apply(Op::Bootstrap(Bootstrap {
            cluster: Some(Cluster {
                id: "cluster".to_owned(),
                spec: Some(ClusterSpec::default()),
                root_ca: Some(RootCa::default()),
                feature_level: FEATURE_LEVEL,
                ..Cluster::default()
            }),
            node: Some(Node {
                id: "manager".to_owned(),
                spec: Some(NodeSpec {
                    desired_role: 1,
                    availability: 2,
                    membership: Membership::Accepted as i32,
                    ..NodeSpec::default()
                }),
                role: 1,
                ..Node::default()
            }),
        }));
        world
    }

    /// With so many ready native nodes `n1`, `n2`, …
    pub(super) fn with_nodes(count: usize) -> World {
        let mut world = World::new();
        for index in 1..=count {
            world.add_node(native_node(&format!("n{index}")));
        }
        world
    }

    /// How many tasks of a slot are kept.
    pub(super) fn keep_history(&mut self, limit: i64) {
        let mut cluster = Cluster::clone(self.state.cluster().unwrap());
        let spec = cluster.spec.as_mut().unwrap();
        let orchestration = spec.orchestration.get_or_insert_default();
        orchestration.task_history_retention_limit = limit;
        self.apply(Op::UpdateCluster(UpdateCluster {
            cluster: Some(cluster),
            expected_version: 0,
        }));
    }

    pub(super) fn pass(&mut self, span: Duration) {
        self.now += span;
    }

    pub(super) fn try_apply(&mut self, op: Op) -> Result<Applied, Refusal> {
        // No two commands bear the same time, so what is newer is known.
        self.now += Duration::microseconds(1);
        self.state.apply(Command {
            format: 1,
            actor: Some(Actor {
                who: Some(actor::Who::Component("test".to_owned())),
            }),
            time: Some(timestamp(self.now)),
            op: Some(op),
        })
    }

    pub(super) fn apply(&mut self, op: Op) -> Applied {
        self.try_apply(op).unwrap()
    }

    pub(super) fn add_node(&mut self, node: Node) {
        self.apply(Op::CreateNode(CreateNode { node: Some(node) }));
    }

    pub(super) fn change_node(&mut self, id: &str, change: impl FnOnce(&mut NodeSpec)) {
        let mut spec = self.state.node(id).unwrap().spec.clone().unwrap();
        change(&mut spec);
        self.apply(Op::UpdateNode(UpdateNode {
            node_id: id.to_owned(),
            spec: Some(spec),
            ..UpdateNode::default()
        }));
    }

    pub(super) fn set_node_state(&mut self, id: &str, state: NodeState) {
        use crate::objects::{NodeObservation, ObserveNodes};
        let observation = NodeObservation {
            node_id: id.to_owned(),
            status: Some(NodeStatus {
                state: state as i32,
                ..NodeStatus::default()
            }),
            ..NodeObservation::default()
        };
        self.apply(Op::ObserveNodes(ObserveNodes {
            nodes: vec![observation],
        }));
    }

    /// Creates a service and says its id, which is its name.
    pub(super) fn add_service(&mut self, spec: ServiceSpec) -> String {
        let id = spec.annotations.as_ref().unwrap().name.clone();
        self.apply(Op::CreateService(CreateService {
            service: Some(Service {
                id: id.clone(),
                spec: Some(spec),
                ..Service::default()
            }),
        }));
        id
    }

    pub(super) fn change_service(&mut self, id: &str, change: impl FnOnce(&mut ServiceSpec)) {
        let mut spec = self.service(id).spec.clone().unwrap();
        change(&mut spec);
        self.apply(Op::UpdateService(UpdateService {
            service_id: id.to_owned(),
            spec: Some(spec),
            ..UpdateService::default()
        }));
    }

    pub(super) fn scale(&mut self, id: &str, replicas: u64) {
        self.change_service(id, |spec| {
            spec.mode = Some(Mode::Replicated(ReplicatedService { replicas }));
        });
    }

    pub(super) fn service(&self, id: &str) -> &Service {
        self.state.service(id).unwrap()
    }

    pub(super) fn update_status(&self, id: &str) -> Option<&UpdateStatus> {
        self.service(id).update_status.as_ref()
    }

    /// Plans once, without applying.
    pub(super) fn plan(&mut self) -> Planned {
        let (state, ids) = (&self.state, &mut self.ids);
        orchestrate(state, self.now, &mut || {
            *ids += 1;
            format!("id{ids:06}")
        })
    }

    /// Applies plans until they ask for nothing; says when they want to be woken.
    pub(super) fn settle(&mut self) -> Option<OffsetDateTime> {
        for _ in 0..MAX_ROUNDS {
            let planned = self.plan();
            let placed = schedule(&self.state, self.now);
            let asks = !planned.changes.is_empty() || !planned.service_updates.is_empty();
            if !asks && placed.is_empty() {
                return planned.wake_at;
            }
            self.carry_out(planned);
            self.change_tasks(placed);
        }
        panic!("no fixpoint after {MAX_ROUNDS} rounds: {:?}", self.plan());
    }

    /// Does what a plan asks for, as far as the state still allows it.
    pub(super) fn carry_out(&mut self, planned: Planned) {
        self.change_tasks(planned.changes);
        for update in planned.service_updates {
            match self.try_apply(update) {
                Ok(_) | Err(Refusal::Stale) => {}
                Err(refused) => panic!("{refused}"),
            }
        }
    }

    fn change_tasks(&mut self, changes: Vec<TaskChange>) {
        if !changes.is_empty() {
            self.apply(Op::ChangeTasks(ChangeTasks { changes }));
        }
    }

    /// A report as its node would make it; says whether it was taken.
    pub(super) fn report(&mut self, task_id: &str, state: TaskState) -> bool {
        let Some(task) = self.state.task(task_id) else {
            return false;
        };
        let report = TaskReport {
            task_id: task_id.to_owned(),
            status: Some(TaskStatus {
                timestamp: Some(timestamp(self.now)),
                state: state as i32,
                ..TaskStatus::default()
            }),
        };
        let node_id = task.node_id.clone();
        let applied = self.apply(Op::ReportTasks(ReportTasks {
            node_id,
            reports: vec![report],
        }));
        !applied.changes.is_empty()
    }

    /// Lets all nodes that are not down do what their tasks ask for, and plans,
    /// until nothing moves.
    pub(super) fn run(&mut self) -> Option<OffsetDateTime> {
        for _ in 0..MAX_ROUNDS {
            let wake_at = self.settle();
            let due: Vec<(String, TaskState)> = self
                .state
                .tasks()
                .filter(|task| self.is_reachable(task))
                .filter_map(|task| Some((task.id.clone(), next_state(task)?)))
                .collect();
            if due.is_empty() {
                return wake_at;
            }
            for (id, state) in due {
                self.report(&id, state);
            }
        }
        panic!("tasks never come to rest");
    }

    fn is_reachable(&self, task: &Task) -> bool {
        let node = self.state.node(&task.node_id);
        node.is_some_and(|node| {
            let status = node.status.as_ref();
            status.is_none_or(|status| status.state() != NodeState::Down)
        })
    }

    /// Runs, sleeping until each wake-up time, for `span`.
    pub(super) fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            match self.run() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = self.now.max(end);
        self.run();
    }

    /// The tasks of a service that are meant to run, by slot and id.
    pub(super) fn wanted(&self, service: &str) -> Vec<&Task> {
        let mut tasks: Vec<&Task> = self
            .state
            .tasks_of_service(service)
            .map(|task| &**task)
            .filter(|task| super::is_wanted(task))
            .collect();
        tasks.sort_by_key(|task| (task.slot, task.id.clone()));
        tasks
    }

    /// How many tasks of a service run and are meant to.
    pub(super) fn running(&self, service: &str) -> usize {
        let tasks = self.wanted(service).into_iter();
        tasks
            .filter(|task| observed_state(task) == TaskState::Running)
            .count()
    }

    /// The only task of a service that is meant to run.
    pub(super) fn only(&self, service: &str) -> Task {
        let wanted = self.wanted(service);
        assert_eq!(wanted.len(), 1, "{wanted:?}");
        wanted[0].clone()
    }

    /// What runs where: node id to number of tasks.
    pub(super) fn spread(&self, service: &str) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for task in self.wanted(service) {
            *spread.entry(task.node_id.clone()).or_default() += 1;
        }
        spread
    }
}

/// What a well-behaved node reports next of a task.
fn next_state(task: &Task) -> Option<TaskState> {
    let state = observed_state(task);
    let handed_over = (TaskState::Assigned..=TaskState::Running).contains(&state);
    // A task of a job runs until a test says otherwise.
    let next = if super::is_wanted(task) {
        task.desired_state().min(TaskState::Running)
    } else {
        TaskState::Shutdown
    };
    (handed_over && next > state).then_some(next)
}

fn named(name: &str) -> Option<Annotations> {
    Some(Annotations {
        name: name.to_owned(),
        ..Annotations::default()
    })
}

/// A replicated service of native tasks.
pub(super) fn replicated(name: &str, replicas: u64) -> ServiceSpec {
    ServiceSpec {
        annotations: named(name),
        task: Some(TaskSpec {
            container: Some(ContainerSpec {
                image: "host".to_owned(),
                ..ContainerSpec::default()
            }),
            ..TaskSpec::default()
        }),
        mode: Some(Mode::Replicated(ReplicatedService { replicas })),
        ..ServiceSpec::default()
    }
}

/// A global service of native tasks.
pub(super) fn global(name: &str) -> ServiceSpec {
    ServiceSpec {
        mode: Some(Mode::Global(GlobalService {})),
        ..replicated(name, 0)
    }
}

/// A replicated job of native tasks.
pub(super) fn replicated_job(name: &str, at_a_time: u64, completions: u64) -> ServiceSpec {
    ServiceSpec {
        mode: Some(Mode::ReplicatedJob(ReplicatedJob {
            max_concurrent: at_a_time,
            total_completions: completions,
        })),
        ..replicated(name, 0)
    }
}

/// A global job of native tasks.
pub(super) fn global_job(name: &str) -> ServiceSpec {
    ServiceSpec {
        mode: Some(Mode::GlobalJob(GlobalJob {})),
        ..replicated(name, 0)
    }
}

pub(super) fn task_spec(spec: &mut ServiceSpec) -> &mut TaskSpec {
    spec.task.as_mut().unwrap()
}

pub(super) fn container(spec: &mut ServiceSpec) -> &mut ContainerSpec {
    task_spec(spec).container.as_mut().unwrap()
}

fn plugin(kind: &str, name: &str) -> PluginDescription {
    PluginDescription {
        r#type: kind.to_owned(),
        name: name.to_owned(),
    }
}

/// A ready worker as a stock engine describes itself.
pub(super) fn engine_node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        spec: Some(NodeSpec {
            membership: Membership::Accepted as i32,
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            state: NodeState::Ready as i32,
            ..NodeStatus::default()
        }),
        description: Some(NodeDescription {
            hostname: format!("host-{id}"),
            platform: Some(Platform {
                architecture: "x86_64".to_owned(),
                os: "linux".to_owned(),
            }),
            resources: Some(Resources {
                nano_cpus: 4_000_000_000,
                memory_bytes: 1 << 30,
                generic: Vec::new(),
            }),
            engine: Some(EngineDescription {
                plugins: vec![plugin("Log", "json-file"), plugin("Volume", "local")],
                ..EngineDescription::default()
            }),
            ..NodeDescription::default()
        }),
        ..Node::default()
    }
}

pub(super) fn description(node: &mut Node) -> &mut NodeDescription {
    node.description.as_mut().unwrap()
}

pub(super) fn engine(node: &mut Node) -> &mut EngineDescription {
    description(node).engine.as_mut().unwrap()
}

/// A ready worker of ours, without limits of native tasks.
pub(super) fn native_node(id: &str) -> Node {
    let mut node = engine_node(id);
    engine(&mut node).plugins = vec![
        plugin("Log", "json-file"),
        plugin(super::PLUGIN_TYPE, super::PLUGIN_HOST),
    ];
    node
}

/// A ready worker of ours that enforces limits.
pub(super) fn limiting_node(id: &str) -> Node {
    let mut node = native_node(id);
    let plugins = &mut engine(&mut node).plugins;
    plugins.push(plugin(super::PLUGIN_TYPE, super::PLUGIN_LIMITS));
    node
}

/// A ready worker of ours that expands templates.
pub(super) fn expanding_node(id: &str) -> Node {
    let mut node = native_node(id);
    let level = crate::feature_level_plugin(crate::TEMPLATES_LEVEL);
    let plugins = &mut engine(&mut node).plugins;
    plugins.push(plugin(super::PLUGIN_TYPE, &level));
    node
}
