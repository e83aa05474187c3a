//! Global services: one task on every node that can run it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Draft, Settled, View, add_task, clear,
    slot::{Slot, holds_tasks, settle, slots_of},
    tend,
};
use crate::{
    objects::{Availability, Membership, Node, NodeState, Service, TaskState},
    plan::{
        Place, is_wanted,
        scheduler::{constraint::satisfies_all, filter},
        task::node_state,
    },
};

/// Plans for one service.
pub(super) fn plan(view: &View<'_>, service: &Service, draft: &mut Draft<'_>) {
    let tasks = view.state.tasks_of_service(&service.id);
    let slots = slots_of(tasks.map(|task| &**task), |task| {
        Place::Node(task.node_id.clone())
    });
    let mut settled = Vec::new();
    let mut filled = BTreeSet::new();
    let mut empty = BTreeMap::new();
    for (place, slot) in slots {
        if !draft.changes.has_room() {
            return;
        }
        let Place::Node(node_id) = &place else {
            continue;
        };
        match view.node(node_id) {
            None => clear(&slot, draft),
            Some(node) if !is_eligible(service, node) => withdraw(&slot, draft),
            Some(_) => match settle(view, service, &slot, &mut draft.changes) {
                Some(standing) => {
                    filled.insert(node_id.clone());
                    settled.push(Settled { slot, standing });
                }
                None => {
                    empty.insert(node_id.clone(), slot);
                }
            },
        }
    }
    let takes_new = |place: &Place| match place {
        Place::Node(id) => view.node(id).is_some_and(takes_new_tasks),
        Place::Slot(_) => false,
    };
    for node in view.state.nodes() {
        if !draft.changes.has_room() {
            return;
        }
        if filled.contains(&node.id) || !is_eligible(service, node) || !takes_new_tasks(node) {
            continue;
        }
        let place = Place::Node(node.id.clone());
        let slot = empty.remove(&node.id).unwrap_or_else(|| Slot::new(place));
        add_task(view, service, &slot, false, draft);
    }
    tend(view, service, &settled, &takes_new, draft);
}

/// Whether a node is one that the service's tasks belong on: a member, neither
/// down nor drained, satisfying the constraints, and able to run them at all. A
/// mixed cluster would else never converge on what only some of its nodes can do.
pub(super) fn is_eligible(service: &Service, node: &Node) -> bool {
    let spec = service.spec.as_ref().and_then(|spec| spec.task.as_ref());
    let Some(spec) = spec else { return false };
    let placement = spec.placement.as_ref();
    let constraints = placement.map_or(&[][..], |placement| &placement.constraints);
    let member = node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.membership == Membership::Accepted as i32);
    member
        && holds_tasks(node)
        && node.description.is_some()
        && satisfies_all(constraints, node)
        && filter::is_capable(spec, node)
}

/// Whether a node is ready and not paused.
pub(super) fn takes_new_tasks(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let active = spec.is_some_and(|spec| spec.availability == Availability::Active as i32);
    active && node_state(node) == NodeState::Ready
}

/// Stops the tasks on a node that they do not belong on for now.
pub(super) fn withdraw(slot: &Slot<'_>, draft: &mut Draft<'_>) {
    for task in slot.tasks.iter().filter(|task| is_wanted(task)) {
        draft.changes.want(task, TaskState::Shutdown);
    }
}
