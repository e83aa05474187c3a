//! Tasks to nodes.
//!
//! Tasks that wait are taken by service and spec, the longest waiting first; for
//! each such group the nodes that fit are found once and tasks are spread over
//! them. A task that no node fits is told why, in its status.

pub(super) mod constraint;
pub(super) mod filter;
mod load;
mod spread;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use time::OffsetDateTime;

use self::{
    filter::{Needs, Unfit, reservations},
    load::{Fleet, Load, host_ports},
    spread::{Spread, descriptors},
};
use super::{
    build_task,
    changes::Changes,
    check_outgoing_task, is_wanted,
    task::{Place, created_at},
};
use crate::{
    State,
    objects::{Service, Task, TaskChange, TaskState, TaskStatus, service_spec::Mode},
    observed_state, timestamp,
};

/// Type of the plugin entries by which our nodes say what they can do.
pub const PLUGIN_TYPE: &str = "Waxseal";
/// Plugin name: runs native tasks (image `host`).
pub const PLUGIN_HOST: &str = "host";
/// Plugin name: can enforce limits of native tasks (delegated cgroup v2).
pub const PLUGIN_LIMITS: &str = "limits";
/// Plugin name: runs images besides native tasks.
pub const PLUGIN_ENGINE: &str = "engine";
/// Engine label with the native-task policy: `off`, `nonroot` or `any` (absent: `any`).
pub const LABEL_NATIVE_TASKS: &str = "waxseal.native-tasks";

/// Finds a node for every task that waits for one: state ASSIGNED, or PENDING with
/// the reasons why not. A task that must not go to any node is REJECTED.
pub fn schedule(state: &State, now: OffsetDateTime) -> Vec<TaskChange> {
    let mut changes = Changes::default();
    let groups = waiting(state, now, &mut changes);
    if groups.is_empty() {
        return changes.into_list();
    }
    let mut fleet = Fleet::new(state, now);
    for tasks in groups {
        if !changes.has_room() {
            break;
        }
        match tasks.first() {
            Some(task) if task.node_id.is_empty() => {
                place_group(state, &tasks, &mut fleet, now, &mut changes);
            }
            _ => confirm_group(state, &tasks, &mut fleet, now, &mut changes),
        }
    }
    changes.into_list()
}

/// Why no node could take a task of `service` now, in the words of a task that waits; empty if
/// there are no nodes. `None` if one could, or if the service asks for no task.
///
/// What tasks of the service itself hold counts as free: an update makes room for their successors.
pub fn unplaceable(state: &State, service: &Service, now: OffsetDateTime) -> Option<String> {
    if !asks_for_tasks(service) {
        return None;
    }
    let cluster = state.cluster().map(AsRef::as_ref);
    // What cannot be built is refused elsewhere.
    let task = build_task(service, cluster, &Place::Slot(1), String::new(), now).ok()?;
    let needs = Needs::of(&task, state)?;
    // Else it makes no difference what the nodes have to do.
    let takes = task
        .spec
        .as_ref()
        .is_some_and(|spec| reservations(spec).is_some())
        || host_ports(&task).next().is_some();
    let others = takes.then(|| state.tasks()).into_iter().flatten();
    let others = others.filter(|other| other.service_id != service.id);
    let fleet = Fleet::with_tasks(state, others.map(AsRef::as_ref), now);
    let mut unfit: BTreeMap<Unfit, usize> = BTreeMap::new();
    for load in &fleet.loads {
        *unfit.entry(needs.unfit(load)?).or_default() += 1;
    }
    Some(reasons(&unfit))
}

/// Whether there is to be a task, if nodes are.
fn asks_for_tasks(service: &Service) -> bool {
    let mode = service.spec.as_ref().and_then(|spec| spec.mode.as_ref());
    match mode {
        Some(Mode::Replicated(replicated)) => replicated.replicas > 0,
        Some(Mode::ReplicatedJob(job)) => job.max_concurrent > 0 && job.total_completions > 0,
        Some(Mode::Global(_) | Mode::GlobalJob(_)) => true,
        None => false,
    }
}

/// Tasks without a node, and those that belong on one but are not handed to it yet
/// (of global services), in groups of one service, spec and kind.
fn waiting<'a>(state: &'a State, now: OffsetDateTime, changes: &mut Changes) -> Vec<Vec<&'a Task>> {
    let mut groups: BTreeMap<_, Vec<&Task>> = BTreeMap::new();
    for task in state.tasks() {
        if observed_state(task) >= TaskState::Assigned || !is_wanted(task) {
            continue;
        }
        if let Err(fault) = check_outgoing_task(task) {
            if changes.has_room() {
                changes.set_status(task, rejected(fault.to_string(), now));
            }
            continue;
        }
        let version = task.spec_version.map_or(0, |version| version.index);
        let key = (&task.service_id, version, task.node_id.is_empty());
        groups.entry(key).or_default().push(task);
    }
    let mut groups: Vec<Vec<&Task>> = groups.into_values().collect();
    for tasks in &mut groups {
        tasks.sort_by_key(|task| (created_at(task), task.slot));
    }
    groups.sort_by_key(|tasks| tasks.first().map(|task| created_at(task)));
    groups
}

/// Spreads tasks of one spec over the nodes that fit.
fn place_group<'a>(
    state: &State,
    tasks: &[&'a Task],
    fleet: &mut Fleet<'a>,
    now: OffsetDateTime,
    changes: &mut Changes,
) {
    let Some(first) = tasks.first() else { return };
    let Some(needs) = Needs::of(first, state) else {
        return;
    };
    let placement = first.spec.as_ref().and_then(|spec| spec.placement.as_ref());
    let descriptors = descriptors(placement);
    let mut spread = Spread::default();
    let mut unfit: BTreeMap<Unfit, usize> = BTreeMap::new();
    for (position, load) in fleet.loads.iter().enumerate() {
        match needs.unfit(load) {
            Some(reason) => *unfit.entry(reason).or_default() += 1,
            None => spread.add(load, position, &first.service_id, &descriptors),
        }
    }
    for task in tasks {
        if !changes.has_room() {
            return;
        }
        let mut take = |load: &mut Load<'a>, _| {
            if let Some(reason) = needs.unfit_now(load) {
                *unfit.entry(reason).or_default() += 1;
                return false;
            }
            hand_over(task, load, now, changes);
            true
        };
        if !spread.place(&mut fleet.loads, &task.service_id, &mut take) {
            suspend(task, explain(&unfit), now, changes);
        }
    }
}

/// Hands tasks to the nodes that they belong on, if those can take them now.
fn confirm_group<'a>(
    state: &State,
    tasks: &[&'a Task],
    fleet: &mut Fleet<'a>,
    now: OffsetDateTime,
    changes: &mut Changes,
) {
    let Some(needs) = tasks.first().and_then(|task| Needs::of(task, state)) else {
        return;
    };
    for task in tasks {
        if !changes.has_room() {
            return;
        }
        // Without its node the task is about to be replaced.
        let Some(position) = fleet.position(&task.node_id) else {
            continue;
        };
        let load = &mut fleet.loads[position];
        match needs.unfit(load) {
            Some(reason) => suspend(task, explain(&BTreeMap::from([(reason, 1)])), now, changes),
            None => hand_over(task, load, now, changes),
        }
    }
}

fn hand_over<'a>(task: &'a Task, load: &mut Load<'a>, now: OffsetDateTime, changes: &mut Changes) {
    let given = load.pick(task.spec.as_ref().and_then(reservations));
    load.add(task, &given);
    changes.assign(task, &load.node.id, given, assigned(now));
}

/// Says why a task waits, unless that is known.
fn suspend(task: &Task, reason: String, now: OffsetDateTime, changes: &mut Changes) {
    let known = task.status.as_ref();
    let is_known = observed_state(task) == TaskState::Pending
        && known.is_some_and(|status| status.err == reason);
    if !is_known {
        let message = "pending task scheduling".to_owned();
        let status = status(TaskState::Pending, message, reason, now);
        changes.set_status(task, status);
    }
}

fn explain(unfit: &BTreeMap<Unfit, usize>) -> String {
    match reasons(unfit) {
        reasons if reasons.is_empty() => "no suitable node".to_owned(),
        reasons => format!("no suitable node ({reasons})"),
    }
}

/// The most frequent reason first; empty if there are no nodes.
fn reasons(unfit: &BTreeMap<Unfit, usize>) -> String {
    let mut reasons: Vec<(&Unfit, &usize)> = unfit.iter().collect();
    reasons.sort_by(|(_, one), (_, other)| other.cmp(one));
    let reasons: Vec<String> = reasons
        .into_iter()
        .map(|(reason, nodes)| reason.explain(*nodes))
        .collect();
    reasons.join("; ")
}

fn assigned(now: OffsetDateTime) -> TaskStatus {
    let message = "scheduler assigned task to node".to_owned();
    status(TaskState::Assigned, message, String::new(), now)
}

fn rejected(fault: String, now: OffsetDateTime) -> TaskStatus {
    let message = "the task cannot be sent to a node".to_owned();
    status(TaskState::Rejected, message, fault, now)
}

fn status(state: TaskState, message: String, err: String, now: OffsetDateTime) -> TaskStatus {
    TaskStatus {
        timestamp: Some(timestamp(now)),
        applied_at: Some(timestamp(now)),
        state: state as i32,
        message,
        err,
        ..TaskStatus::default()
    }
}
