//! A slot: the tasks of a service that follow one another in one place, and how
//! it stands.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};

use super::{
    View,
    restart::{self, Verdict},
};
use crate::{
    is_final,
    objects::{Availability, Node, NodeState, Service, Task, TaskSpec, TaskState},
    observed_state,
    plan::{
        Place,
        changes::Changes,
        is_job, is_wanted,
        scheduler::constraint::satisfies_all,
        task::{created_at, ended_by_itself, node_state, occupies, status_time, updated_at},
        times::{after, span},
    },
};

/// How long a task that was told to stop holds up its successor beyond its grace
/// period (swarmkit's value); a node that is away is judged by heartbeats instead.
const STOP_TIMEOUT: Duration = Duration::minutes(1);
/// Grace period between the stop signal and the kill if the service names none.
const DEFAULT_GRACE: Duration = Duration::seconds(10);

/// The tasks of a service in one place.
#[derive(Debug)]
pub(super) struct Slot<'a> {
    pub(super) place: Place,
    /// Tasks that count, oldest first.
    pub(super) tasks: Vec<&'a Task>,
    /// Tasks that were told to go, and may still run.
    pub(super) leaving: Vec<&'a Task>,
}

/// How a slot stands once what cannot go on in it was told to stop.
#[derive(Debug)]
pub(super) enum Standing<'a> {
    /// Something runs or is about to: a task of the current spec, one of an
    /// earlier one, or both while the one takes over from the other.
    Held {
        current: Option<&'a Task>,
        stale: Option<&'a Task>,
    },
    /// Nothing runs; a new task is due at this time.
    Due(OffsetDateTime),
    /// Nothing runs and, by the restart policy, nothing shall. The last task.
    Ended(&'a Task),
}

impl<'a> Slot<'a> {
    /// An empty one.
    pub(super) fn new(place: Place) -> Slot<'a> {
        Slot {
            place,
            tasks: Vec::new(),
            leaving: Vec::new(),
        }
    }

    /// Whether a new task in this slot has to wait for one that still runs.
    pub(super) fn blocked_until(&self, view: &View<'a>, except: Option<&Task>) -> Blocked {
        let mut blocked = Blocked::No;
        for other in self.tasks.iter().chain(&self.leaving) {
            let is_other = except.is_none_or(|task| task.id != other.id);
            let node = view.node(&other.node_id);
            if !is_other || !occupies(other, node) {
                continue;
            }
            blocked = blocked.max(if is_wanted(other) {
                Blocked::ByWanted
            } else {
                match stop_deadline(other) {
                    Some(deadline) if deadline <= view.now => Blocked::No,
                    Some(deadline) => Blocked::Until(deadline),
                    None => Blocked::No,
                }
            });
        }
        blocked
    }
}

/// What holds up a task that is ready to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blocked {
    /// Nothing.
    No,
    /// A task that was told to stop; at this time it is waited for no longer.
    Until(OffsetDateTime),
    /// A task that is meant to run.
    ByWanted,
}

/// When a task that was told to stop is waited for no longer. Any report of it
/// puts this off: the node is at work on it.
fn stop_deadline(task: &Task) -> Option<OffsetDateTime> {
    let spec = task.spec.as_ref();
    let container = spec.and_then(|spec| spec.container.as_ref());
    let grace = container.and_then(|container| container.stop_grace_period.as_ref());
    let grace = grace.map_or(DEFAULT_GRACE, span);
    updated_at(task).map(|told| after(after(told, grace), STOP_TIMEOUT))
}

/// Sorts a service's tasks into slots.
pub(super) fn slots_of<'a>(
    tasks: impl Iterator<Item = &'a Task>,
    place: impl Fn(&Task) -> Place,
) -> BTreeMap<Place, Slot<'a>> {
    let mut slots = BTreeMap::new();
    for task in tasks {
        let place = place(task);
        let slot = slots
            .entry(place.clone())
            .or_insert_with(|| Slot::new(place));
        if task.desired_state < TaskState::Remove as i32 {
            slot.tasks.push(task);
        } else {
            slot.leaving.push(task);
        }
    }
    for slot in slots.values_mut() {
        slot.tasks
            .sort_by_key(|task| (created_at(task), !is_final(task)));
    }
    slots
}

/// Tells the tasks of a slot to stop that ended, whose node is out of the question,
/// or that another task has taken over from; lets one start that waited for this;
/// and says how the slot stands then.
///
/// Must be called for slots with at least one task that counts.
pub(super) fn settle<'a>(
    view: &View<'a>,
    service: &Service,
    slot: &Slot<'a>,
    changes: &mut Changes,
) -> Option<Standing<'a>> {
    let newest = slot.tasks.last()?;
    let mut current: Vec<&Task> = Vec::new();
    let mut stale: Vec<&Task> = Vec::new();
    for task in slot.tasks.iter().filter(|task| is_wanted(task)) {
        if is_final(task) || is_displaced(view, task) {
            changes.want(task, TaskState::Shutdown);
        } else if is_current(service, task, view.node(&task.node_id)) {
            current.push(task);
        } else {
            stale.push(task);
        }
    }
    let current = keep_best(current, changes);
    let runs = |task: &Task| observed_state(task) == TaskState::Running;
    // It was made to start once the earlier one has stopped. That was told so in the same plan,
    // in vain if its node reported just then; neither would start for the other.
    let waits = |task: &Task| task.desired_state < TaskState::Running as i32;
    let stale = if current.is_some_and(|task| runs(task) || waits(task)) {
        for task in stale {
            changes.want(task, TaskState::Shutdown);
        }
        None
    } else {
        keep_best(stale, changes)
    };
    if current.is_some() || stale.is_some() {
        return Some(Standing::Held { current, stale });
    }
    let last = last_to_end(view, service, slot, newest);
    Some(match restart::verdict(view, slot, last) {
        Verdict::Never => Standing::Ended(last),
        Verdict::At(due) => Standing::Due(due),
    })
}

/// The task whose end is the slot's: the newest, unless one of the current spec outlived it.
/// That is so when a start-first update failed and was rolled back.
fn last_to_end<'a>(
    view: &View<'a>,
    service: &Service,
    slot: &Slot<'a>,
    newest: &'a Task,
) -> &'a Task {
    let is_of_service = |task: &Task| is_current(service, task, view.node(&task.node_id));
    if !is_final(newest) || is_of_service(newest) {
        return newest;
    }
    let outlived = |task: &&&Task| {
        let displaced = is_displaced(view, task);
        let is_later = status_time(task) > status_time(newest);
        let has_ended =
            displaced && !is_final(task) || is_later && (displaced || ended_by_itself(task));
        has_ended && is_of_service(task)
    };
    slot.tasks.iter().rev().find(outlived).unwrap_or(&newest)
}

/// Keeps one of several, rather one that runs, rather an old one.
pub(super) fn keep_best<'a>(tasks: Vec<&'a Task>, changes: &mut Changes) -> Option<&'a Task> {
    let best = *tasks.iter().min_by_key(|task| {
        let runs = observed_state(task) == TaskState::Running;
        (!runs, created_at(task))
    })?;
    for task in tasks {
        if task.id != best.id {
            changes.want(task, TaskState::Shutdown);
        }
    }
    Some(best)
}

/// Whether a task's node is gone, down, drained, or does no longer satisfy the
/// constraints the task was placed by.
pub(super) fn is_displaced(view: &View<'_>, task: &Task) -> bool {
    if task.node_id.is_empty() {
        return false;
    }
    let Some(node) = view.node(&task.node_id) else {
        return true;
    };
    let placement = task.spec.as_ref().and_then(|spec| spec.placement.as_ref());
    let constraints = placement.map_or(&[][..], |placement| &placement.constraints);
    !holds_tasks(node) || !satisfies_all(constraints, node)
}

/// Whether tasks may stay on a node: neither down nor drained.
pub(super) fn holds_tasks(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    let drained = spec.is_some_and(|spec| spec.availability == Availability::Drain as i32);
    !drained && node_state(node) != NodeState::Down
}

/// Whether a task belongs to the job's present iteration.
pub(super) fn is_of_iteration(service: &Service, task: &Task) -> bool {
    let status = service.job_status.as_ref();
    status.is_some_and(|status| status.job_iteration == task.job_iteration)
}

/// Whether a task is what the service now asks for. Of a job, that is what the present
/// iteration made. A task of another spec version
/// is current too if nothing that concerns a task has changed, or only where tasks are
/// placed and its node, if it has one, satisfies the new constraints. Clients that wait
/// for an update ask this too, lest they wait for what the orchestrator leaves alone.
pub fn is_current(service: &Service, task: &Task, node: Option<&Node>) -> bool {
    if is_job(service) {
        return is_of_iteration(service, task);
    }
    if task.spec_version.is_some() && task.spec_version == service.spec_version {
        return true;
    }
    let (Some(service_spec), Some(spec)) = (service.spec.as_ref(), task.spec.as_ref()) else {
        return false;
    };
    let endpoint = task.endpoint.as_ref();
    if endpoint.is_some_and(|endpoint| endpoint.spec != service_spec.endpoint) {
        return false;
    }
    let Some(wanted) = service_spec.task.as_ref() else {
        return false;
    };
    if wanted == spec {
        return true;
    }
    let Some(node) = node else {
        return false;
    };
    let placement = wanted.placement.as_ref();
    let constraints = placement.map_or(&[][..], |placement| &placement.constraints);
    let placed_so = TaskSpec {
        placement: wanted.placement.clone(),
        ..spec.clone()
    };
    satisfies_all(constraints, node) && *wanted == placed_so
}
