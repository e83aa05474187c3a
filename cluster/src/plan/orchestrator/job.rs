//! Jobs: tasks that are to end, each place once in every iteration.
//!
//! An iteration begins with the service and with each change of it; its number is in
//! the service's job status and in its tasks. Tasks of earlier ones that have not
//! ended are told to go, and not waited for.
//!
//! A replicated job has a slot, from 0 on, for each completion that is asked for; a
//! global one has every node that fits and was there when the iteration began. A
//! place in which a task has completed is done. One in which a task failed, or lost
//! its node, gets another as the restart policy says.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::{
    Draft, MAX_REPLICAS, View, add_task, clear,
    global::{is_eligible, takes_new_tasks, withdraw},
    restart::{self, Verdict},
    slot::{Blocked, Slot, is_displaced, is_of_iteration, keep_best, slots_of},
};
use crate::{
    is_final,
    objects::{Node, ReplicatedJob, Service, Task, TaskState},
    observed_state,
    plan::{Place, changes::Changes, is_wanted, reaper, times::moment},
};

/// How a place of the job stands.
enum Standing {
    /// A task of the iteration has completed.
    Completed,
    /// A task is on its way.
    Active,
    /// A new task is due at this time.
    Due(OffsetDateTime),
    /// Nothing more happens before the service or a task changes.
    Stuck,
}

/// Plans for a job of so many completions, some at a time.
pub(super) fn plan_replicated(
    view: &View<'_>,
    service: &Service,
    job: &ReplicatedJob,
    draft: &mut Draft<'_>,
) {
    let slots = sorted(view, service, |task| Place::Slot(task.slot), draft);
    let mut active = 0;
    let mut standings = BTreeMap::new();
    for (place, slot) in slots {
        if !draft.changes.has_room() {
            return;
        }
        let standing = settle(view, &slot, &mut draft.changes);
        active += u64::from(matches!(standing, Standing::Active));
        standings.insert(place, (slot, standing));
    }
    let total = job.total_completions.min(MAX_REPLICAS);
    for place in (0..total).map(Place::Slot) {
        if active >= job.max_concurrent || !draft.changes.has_room() {
            return;
        }
        active += match standings.get(&place) {
            None => {
                add_task(view, service, &Slot::new(place), true, draft);
                1
            }
            Some((slot, Standing::Due(due))) => {
                u64::from(start_when_due(view, service, slot, *due, draft))
            }
            Some((_, Standing::Completed | Standing::Active | Standing::Stuck)) => 0,
        };
    }
}

/// Plans for a job of one completion on each node.
pub(super) fn plan_global(view: &View<'_>, service: &Service, draft: &mut Draft<'_>) {
    let place_of = |task: &Task| Place::Node(task.node_id.clone());
    let mut slots = sorted(view, service, place_of, draft);
    for node in view.state.nodes() {
        if !draft.changes.has_room() {
            return;
        }
        let place = Place::Node(node.id.clone());
        let slot = slots.remove(&place);
        if !is_eligible(service, node) {
            if let Some(slot) = slot {
                withdraw(&slot, draft);
            }
            continue;
        }
        let is_open = takes_new_tasks(node) && was_there(service, node);
        match slot {
            None if is_open => add_task(view, service, &Slot::new(place), true, draft),
            None => {}
            Some(slot) => match settle(view, &slot, &mut draft.changes) {
                Standing::Due(due) if is_open => {
                    start_when_due(view, service, &slot, due, draft);
                }
                Standing::Completed | Standing::Active | Standing::Stuck | Standing::Due(_) => {}
            },
        }
    }
    // Those of nodes that are gone.
    for slot in slots.values() {
        clear(slot, draft);
    }
}

/// Whether a node was a member when the iteration began: one that joins later does not
/// run what may be long forgotten.
fn was_there(service: &Service, node: &Node) -> bool {
    let status = service.job_status.as_ref();
    let began = moment(status.and_then(|status| status.last_execution.as_ref()));
    let joined = moment(node.meta.as_ref().and_then(|meta| meta.created_at.as_ref()));
    match (joined, began) {
        (Some(joined), Some(began)) => joined <= began,
        (None, _) | (_, None) => true,
    }
}

/// The tasks of the present iteration by place. Those of earlier ones are told to go, or to
/// stay ended, and history is trimmed, of which what has completed in this iteration is no part.
fn sorted<'a>(
    view: &View<'a>,
    service: &Service,
    place: impl Fn(&Task) -> Place,
    draft: &mut Draft<'_>,
) -> BTreeMap<Place, Slot<'a>> {
    let tasks = || view.state.tasks_of_service(&service.id).map(|task| &**task);
    let counts =
        |task: &Task| is_of_iteration(service, task) && observed_state(task) == TaskState::Complete;
    let past = slots_of(tasks().filter(|task| !counts(task)), &place);
    let retention = reaper::retention(view.state);
    for slot in past.values() {
        for task in &slot.tasks {
            if !draft.changes.has_room() || is_of_iteration(service, task) {
                continue;
            }
            match observed_state(task) {
                TaskState::Complete => {}
                // It ended as the iteration did.
                _ if is_final(task) => draft.changes.want(task, TaskState::Shutdown),
                _ => draft.changes.want(task, TaskState::Remove),
            }
        }
        reaper::trim_history(&slot.tasks, retention, &mut draft.changes);
    }
    slots_of(tasks().filter(|task| is_of_iteration(service, task)), place)
}

/// Tells the tasks of a place to stop that ended without having completed, lost their
/// node, or are one too many, and says how the place stands then.
fn settle(view: &View<'_>, slot: &Slot<'_>, changes: &mut Changes) -> Standing {
    let completed = |task: &&Task| observed_state(task) == TaskState::Complete;
    let is_done = slot.tasks.iter().copied().any(|task| completed(&task));
    let mut active: Vec<&Task> = Vec::new();
    for task in slot.tasks.iter().copied().filter(|task| is_wanted(task)) {
        if completed(&task) {
            continue;
        }
        if is_done || is_final(task) || is_displaced(view, task) {
            changes.want(task, TaskState::Shutdown);
        } else {
            active.push(task);
        }
    }
    if is_done {
        return Standing::Completed;
    }
    if keep_best(active, changes).is_some() {
        return Standing::Active;
    }
    // Told to go with the service: there is nothing left to do.
    let Some(last) = slot.tasks.last() else {
        return Standing::Stuck;
    };
    match restart::verdict(view, slot, last) {
        Verdict::Never => Standing::Stuck,
        Verdict::At(due) => Standing::Due(due),
    }
}

/// Puts a task into a place once it is due and what was told to stop there has stopped: no
/// two do the same work. Says whether it did.
fn start_when_due(
    view: &View<'_>,
    service: &Service,
    slot: &Slot<'_>,
    due: OffsetDateTime,
    draft: &mut Draft<'_>,
) -> bool {
    if due > view.now {
        draft.wake(due);
        return false;
    }
    match slot.blocked_until(view, None) {
        Blocked::No => {
            add_task(view, service, slot, true, draft);
            true
        }
        Blocked::Until(deadline) => {
            draft.wake(deadline);
            false
        }
        Blocked::ByWanted => false,
    }
}
