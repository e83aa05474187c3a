//! Services to tasks.
//!
//! For each service: its tasks are sorted into slots, each slot is settled (what
//! ended or lost its place is told to stop), the number of slots is brought to
//! what is asked for, slots in which nothing runs get a new task when it is due,
//! and slots with tasks of an earlier spec are rolled, some at a time. Jobs are
//! brought to their completions instead.

mod global;
mod job;
mod replicated;
mod restart;
mod slot;
mod update;

#[cfg(test)]
mod tests;

pub use self::slot::is_current;
use time::OffsetDateTime;

use self::slot::{Blocked, Slot, Standing};
use super::{Place, build_task, changes::Changes, reaper, times::earlier};
use crate::{
    State,
    objects::{Node, Service, Task, TaskChange, TaskState, command::Op, service_spec::Mode},
};

/// About the most task changes in one plan; the rest follows in the next round.
/// A plan always fits into one command, and is to be applied as one: what belongs
/// together is then done together.
pub const MAX_CHANGES: usize = 1_000;

/// Largest task that is made, in bytes; validation refuses service specs so large.
pub const MAX_TASK_BYTES: usize = 1024 * 1024;

/// Most slots of a replicated service that a plan fills; validation refuses more.
pub const MAX_REPLICAS: u64 = 100_000;

/// What [`orchestrate`] asks for.
#[derive(Clone, Debug, Default)]
pub struct Planned {
    /// For one `ChangeTasks` command: changes of existing tasks, then new tasks.
    pub changes: Vec<TaskChange>,
    /// `UpdateService` commands: progress of updates, rollbacks. Each names the
    /// version it was derived from, so that a stale one is refused.
    pub service_updates: Vec<Op>,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<OffsetDateTime>,
}

/// What every step sees.
pub(super) struct View<'a> {
    state: &'a State,
    now: OffsetDateTime,
}

impl<'a> View<'a> {
    fn node(&self, id: &str) -> Option<&'a Node> {
        self.state.node(id).map(|node| &**node)
    }
}

/// What the steps add to.
struct Draft<'i> {
    changes: Changes,
    service_updates: Vec<Op>,
    wake_at: Option<OffsetDateTime>,
    ids: &'i mut dyn FnMut() -> String,
}

impl Draft<'_> {
    fn wake(&mut self, at: OffsetDateTime) {
        self.wake_at = earlier(self.wake_at, Some(at));
    }
}

/// A slot and how it stands.
struct Settled<'a> {
    slot: Slot<'a>,
    standing: Standing<'a>,
}

/// Brings the tasks closer to what the services ask for. `ids` makes a new
/// object id at each call.
pub fn orchestrate(state: &State, now: OffsetDateTime, ids: &mut dyn FnMut() -> String) -> Planned {
    let view = View { state, now };
    let mut draft = Draft {
        changes: Changes::default(),
        service_updates: Vec::new(),
        wake_at: None,
        ids,
    };
    for service in state.services() {
        if !draft.changes.has_room() {
            break;
        }
        match service.spec.as_ref().and_then(|spec| spec.mode.as_ref()) {
            Some(Mode::Replicated(mode)) => {
                replicated::plan(&view, service, mode.replicas, &mut draft);
            }
            Some(Mode::Global(_)) => global::plan(&view, service, &mut draft),
            Some(Mode::ReplicatedJob(mode)) => {
                job::plan_replicated(&view, service, mode, &mut draft);
            }
            Some(Mode::GlobalJob(_)) => job::plan_global(&view, service, &mut draft),
            None => {}
        }
    }
    dismiss_all(&view, &mut draft);
    if !draft.changes.has_room() {
        draft.wake(now);
    }
    Planned {
        changes: draft.changes.into_list(),
        service_updates: draft.service_updates,
        wake_at: draft.wake_at,
    }
}

/// Tasks that were told to go, and those whose service is gone.
fn dismiss_all(view: &View<'_>, draft: &mut Draft<'_>) {
    for task in view.state.tasks() {
        if !draft.changes.has_room() {
            return;
        }
        if task.desired_state >= TaskState::Remove as i32 {
            reaper::dismiss(view.state, task, view.now, &mut draft.changes);
        } else if view.state.service(&task.service_id).is_none() {
            draft.changes.want(task, TaskState::Remove);
        }
    }
}

/// Tells all tasks of a slot to go.
fn clear(slot: &Slot<'_>, draft: &mut Draft<'_>) {
    for task in &slot.tasks {
        draft.changes.want(task, TaskState::Remove);
    }
}

/// Adds a new task of the service to a slot. It is to run at once, or to get ready
/// while another one there still runs.
fn add_task(
    view: &View<'_>,
    service: &Service,
    slot: &Slot<'_>,
    at_once: bool,
    draft: &mut Draft<'_>,
) {
    let cluster = view.state.cluster().map(|cluster| &**cluster);
    let id = (draft.ids)();
    // A service that no task can be made of was refused by validation.
    let Ok(mut task) = build_task(service, cluster, &slot.place, id, view.now) else {
        return;
    };
    if !at_once && slot.blocked_until(view, None) != Blocked::No {
        task.desired_state = TaskState::Ready as i32;
    }
    // What is made of the state goes into a command as what came into it.
    view.state.open_in(task.spec.as_mut());
    draft.changes.create(task);
}

/// Lets the task of a slot start that was to wait until another one has stopped.
fn release(view: &View<'_>, slot: &Slot<'_>, task: &Task, draft: &mut Draft<'_>) {
    if task.desired_state >= TaskState::Running as i32 {
        return;
    }
    match slot.blocked_until(view, Some(task)) {
        Blocked::No => draft.changes.want(task, TaskState::Running),
        Blocked::Until(deadline) => draft.wake(deadline),
        Blocked::ByWanted => {}
    }
}

/// Keeps slots that stay filled: starts what waited, replaces what ended when it is
/// due, rolls updates, trims history. `takes_new` says of a place whether a
/// new task can be put there now.
fn tend(
    view: &View<'_>,
    service: &Service,
    settled: &[Settled<'_>],
    takes_new: &dyn Fn(&Place) -> bool,
    draft: &mut Draft<'_>,
) {
    let retention = reaper::retention(view.state);
    for Settled { slot, standing } in settled {
        if !draft.changes.has_room() {
            return;
        }
        match standing {
            Standing::Held { current, stale } => {
                for task in [current, stale].into_iter().flatten() {
                    release(view, slot, task, draft);
                }
            }
            Standing::Due(due) if takes_new(&slot.place) => {
                if *due <= view.now {
                    add_task(view, service, slot, false, draft);
                } else {
                    draft.wake(*due);
                }
            }
            Standing::Due(_) | Standing::Ended(_) => {}
        }
        reaper::trim_history(&slot.tasks, retention, &mut draft.changes);
    }
    update::plan(view, service, settled, takes_new, draft);
}
