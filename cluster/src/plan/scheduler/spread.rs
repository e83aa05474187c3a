//! Which of the fitting nodes: tasks are spread over them, and before that over
//! the values of labels, if the service prefers so.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use super::{constraint::label_value, load::Load};
use crate::objects::{Node, Placement};

/// From so many recent failures on a node is passed over for others (swarmkit's value).
const MANY_FAILURES: u32 = 5;
/// Most preferences that are followed; each is a level of the tree that nodes are
/// chosen from.
const MAX_PREFERENCES: usize = 16;

/// How good a node is for a service's next task, best first: few failures, few
/// tasks of the service, few tasks at all; the place in the fleet decides the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    many_failures: u32,
    tasks_of_service: u32,
    tasks: u32,
    failures: u32,
    position: usize,
}

impl Rank {
    fn of(load: &Load<'_>, position: usize, service_id: &str) -> Rank {
        let failures = load.failures_of(service_id);
        Rank {
            many_failures: if failures >= MANY_FAILURES {
                failures
            } else {
                0
            },
            tasks_of_service: load.tasks_of(service_id),
            tasks: load.tasks,
            failures,
            position,
        }
    }
}

/// Nodes that fit, in the branches that the placement preferences make of them.
#[derive(Default)]
pub(super) struct Spread {
    /// Tasks of the service in this branch.
    tasks: u32,
    branches: BTreeMap<String, Spread>,
    nodes: BinaryHeap<Reverse<Rank>>,
}

impl Spread {
    /// Adds a node that fits. `descriptors` are the labels to spread over, outermost
    /// first, as [`descriptors`] gives them.
    pub(super) fn add(
        &mut self,
        load: &Load<'_>,
        position: usize,
        service_id: &str,
        descriptors: &[String],
    ) {
        let tasks = load.tasks_of(service_id);
        let mut branch = self;
        branch.tasks = branch.tasks.saturating_add(tasks);
        for descriptor in descriptors {
            let value = spread_value(load.node, descriptor).unwrap_or("").to_owned();
            branch = branch.branches.entry(value).or_default();
            branch.tasks = branch.tasks.saturating_add(tasks);
        }
        branch
            .nodes
            .push(Reverse(Rank::of(load, position, service_id)));
    }

    /// Puts one task on the best node. `take` is offered nodes by their position
    /// until it takes one; a node that it does not take is never offered again.
    pub(super) fn place<'a>(
        &mut self,
        loads: &mut [Load<'a>],
        service_id: &str,
        take: &mut dyn FnMut(&mut Load<'a>, usize) -> bool,
    ) -> bool {
        while let Some(Reverse(rank)) = self.nodes.pop() {
            let load = &mut loads[rank.position];
            if take(load, rank.position) {
                let rank = Rank::of(load, rank.position, service_id);
                self.nodes.push(Reverse(rank));
                self.tasks = self.tasks.saturating_add(1);
                return true;
            }
        }
        while let Some(value) = self.emptiest_branch() {
            let branch = self.branches.get_mut(&value);
            if branch.is_some_and(|branch| branch.place(loads, service_id, take)) {
                self.tasks = self.tasks.saturating_add(1);
                return true;
            }
            self.branches.remove(&value);
        }
        false
    }

    fn emptiest_branch(&self) -> Option<String> {
        let emptiest = self.branches.iter().min_by_key(|(_, branch)| branch.tasks);
        emptiest.map(|(value, _)| value.clone())
    }
}

/// The labels that a service prefers to be spread over; what is no label is
/// ignored, as swarmkit does.
pub(super) fn descriptors(placement: Option<&Placement>) -> Vec<String> {
    let preferences = placement.map_or(&[][..], |placement| &placement.preferences);
    let nobody = Node::default();
    preferences
        .iter()
        .filter_map(|preference| preference.spread.as_ref())
        .map(|spread| spread.spread_descriptor.clone())
        .filter(|descriptor| spread_value(&nobody, descriptor).is_some())
        .take(MAX_PREFERENCES)
        .collect()
}

fn spread_value<'n>(node: &'n Node, descriptor: &str) -> Option<&'n str> {
    label_value(node, descriptor, &descriptor.to_ascii_lowercase())
}
