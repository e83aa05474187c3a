//! What the nodes have to do: tasks, reservations, ports, recent failures.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use time::{Duration, OffsetDateTime};

use super::filter::reservations;
use crate::{
    State,
    generic::GenericStock,
    is_final,
    objects::{
        GenericResource, Node, PortConfig, Resources, Task, TaskSpec, TaskState,
        port_config::PublishMode,
    },
    observed_state,
    plan::{is_wanted, task::status_time},
};

/// How far back failures count (swarmkit's value).
const FAILURE_WINDOW: Duration = Duration::minutes(5);

/// What one node has to do.
pub(super) struct Load<'a> {
    pub(super) node: &'a Node,
    /// Tasks that are meant to run here.
    pub(super) tasks: u32,
    tasks_by_service: BTreeMap<&'a str, u32>,
    failures_by_service: BTreeMap<&'a str, u32>,
    nano_cpus: i64,
    memory_bytes: i64,
    generic: GenericStock<'a>,
    ports: BTreeSet<(i32, u32)>,
}

impl<'a> Load<'a> {
    fn new(node: &'a Node) -> Load<'a> {
        Load {
            node,
            tasks: 0,
            tasks_by_service: BTreeMap::new(),
            failures_by_service: BTreeMap::new(),
            nano_cpus: 0,
            memory_bytes: 0,
            generic: GenericStock::of(node),
            ports: BTreeSet::new(),
        }
    }

    /// Tasks of a service that are meant to run here.
    pub(super) fn tasks_of(&self, service_id: &str) -> u32 {
        self.tasks_by_service.get(service_id).copied().unwrap_or(0)
    }

    /// Tasks of a service that failed here of late.
    pub(super) fn failures_of(&self, service_id: &str) -> u32 {
        self.failures_by_service
            .get(service_id)
            .copied()
            .unwrap_or(0)
    }

    /// Whether so much is not reserved yet.
    pub(super) fn has_resources(&self, wanted: Option<&Resources>) -> bool {
        let Some(wanted) = wanted else { return true };
        let description = self.node.description.as_ref();
        let total = description.and_then(|description| description.resources.as_ref());
        let (nano_cpus, memory_bytes) =
            total.map_or((0, 0), |total| (total.nano_cpus, total.memory_bytes));
        let fits = |wanted: i64, total: i64, used: i64| {
            wanted <= 0 || wanted <= total.saturating_sub(used)
        };
        self.generic.covers(&wanted.generic)
            && fits(wanted.nano_cpus, nano_cpus, self.nano_cpus)
            && fits(wanted.memory_bytes, memory_bytes, self.memory_bytes)
    }

    /// Whether one of the host ports of the task is taken.
    pub(super) fn has_port_of(&self, task: &Task) -> bool {
        host_ports(task).any(|port| self.ports.contains(&port))
    }

    /// What of the node's generic resources the task is given if it is handed to the node.
    pub(super) fn pick(&self, wanted: Option<&Resources>) -> Vec<GenericResource> {
        let picked = wanted.and_then(|wanted| self.generic.pick(&wanted.generic));
        picked.unwrap_or_default()
    }

    /// Notes a task that was handed to the node, with this of its generic resources, and has
    /// not ended.
    pub(super) fn add(&mut self, task: &'a Task, given: &[GenericResource]) {
        if is_wanted(task) {
            self.tasks += 1;
            *self.tasks_by_service.entry(&task.service_id).or_default() += 1;
        }
        // What was told to stop holds on to these until it has.
        let spec: Option<&TaskSpec> = task.spec.as_ref();
        if let Some(reserved) = spec.and_then(reservations) {
            self.nano_cpus = self.nano_cpus.saturating_add(reserved.nano_cpus.max(0));
            self.memory_bytes = self
                .memory_bytes
                .saturating_add(reserved.memory_bytes.max(0));
        }
        self.generic.take(given);
        self.ports.extend(host_ports(task));
    }

    fn add_ended(&mut self, task: &'a Task, now: OffsetDateTime) {
        let failed = matches!(
            observed_state(task),
            TaskState::Failed | TaskState::Rejected
        );
        let recent = status_time(task).is_some_and(|ended| now - ended <= FAILURE_WINDOW);
        if failed && recent {
            *self
                .failures_by_service
                .entry(&task.service_id)
                .or_default() += 1;
        }
    }
}

/// Ports that the node itself opens for the task; those it picks itself never clash.
pub(super) fn host_ports(task: &Task) -> impl Iterator<Item = (i32, u32)> {
    let ports = task
        .endpoint
        .as_ref()
        .map_or(&[][..], |endpoint| &endpoint.ports);
    let is_fixed = |port: &&PortConfig| {
        port.publish_mode == PublishMode::Host as i32 && port.published_port != 0
    };
    ports
        .iter()
        .filter(is_fixed)
        .map(|port| (port.protocol, port.published_port))
}

/// All nodes and their loads, by node id.
pub(super) struct Fleet<'a> {
    pub(super) loads: Vec<Load<'a>>,
    index: HashMap<&'a str, usize>,
}

impl<'a> Fleet<'a> {
    pub(super) fn new(state: &'a State, now: OffsetDateTime) -> Fleet<'a> {
        Fleet::with_tasks(state, state.tasks().map(AsRef::as_ref), now)
    }

    /// As if there were only these tasks.
    pub(super) fn with_tasks(
        state: &'a State,
        tasks: impl Iterator<Item = &'a Task>,
        now: OffsetDateTime,
    ) -> Fleet<'a> {
        let mut loads: Vec<Load<'a>> = state.nodes().map(|node| Load::new(node)).collect();
        let index: HashMap<&str, usize> = loads
            .iter()
            .enumerate()
            .map(|(index, load)| (load.node.id.as_str(), index))
            .collect();
        for task in tasks {
            let Some(load) = index.get(task.node_id.as_str()).map(|at| &mut loads[*at]) else {
                continue;
            };
            if is_final(task) {
                load.add_ended(task, now);
            } else if observed_state(task) >= TaskState::Assigned {
                load.add(task, &task.assigned_generic_resources);
            }
        }
        Fleet { loads, index }
    }

    /// Where a node is in `loads`.
    pub(super) fn position(&self, node_id: &str) -> Option<usize> {
        self.index.get(node_id).copied()
    }
}
