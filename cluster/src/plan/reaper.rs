//! Tasks that are no longer needed: those told to go, and old history.

use std::cmp::Reverse;

use time::OffsetDateTime;

use super::{
    changes::Changes,
    is_wanted,
    task::{created_at, node_state, status_time},
};
use crate::{
    State, is_final,
    objects::{NodeState, Task, TaskState, TaskStatus},
    observed_state, timestamp,
};

/// Tasks kept for each slot, the running one included, unless the cluster says
/// otherwise (swarmkit's default).
const DEFAULT_RETENTION: i64 = 5;
/// Most tasks kept for a slot, however much history is asked for.
pub(super) const MAX_HISTORY: u64 = 1_000;

/// How many tasks of a slot the cluster keeps, the running one included.
pub(super) fn retention(state: &State) -> u64 {
    let spec = state.cluster().and_then(|cluster| cluster.spec.as_ref());
    let orchestration = spec.and_then(|spec| spec.orchestration.as_ref());
    let limit = orchestration.map_or(DEFAULT_RETENTION, |settings| {
        settings.task_history_retention_limit
    });
    // Negative means all.
    u64::try_from(limit).map_or(MAX_HISTORY, |limit| limit.min(MAX_HISTORY))
}

/// A task that was told to go: its record goes when it has ended or never began,
/// and when its node is gone or down. A node that returns is told anew what it has
/// to run, and stops the rest.
pub(super) fn dismiss(state: &State, task: &Task, now: OffsetDateTime, changes: &mut Changes) {
    if is_final(task) || observed_state(task) < TaskState::Assigned {
        changes.remove(task);
        return;
    }
    let node = state.node(&task.node_id);
    if node.is_none_or(|node| node_state(node) == NodeState::Down) {
        changes.set_status(task, orphaned(task, now));
    }
}

/// The status of a task that nobody will report on again.
pub(super) fn orphaned(task: &Task, now: OffsetDateTime) -> TaskStatus {
    TaskStatus {
        timestamp: Some(timestamp(now)),
        applied_at: Some(timestamp(now)),
        state: TaskState::Orphaned as i32,
        message: "the task's node is gone or down for too long".to_owned(),
        ..task.status.clone().unwrap_or_default()
    }
}

/// Removes the oldest ended tasks of a slot beyond what is kept. The newest stays, and in
/// a slot in which nothing runs the one that ended last: from them the next plan sees how
/// the slot stands.
pub(super) fn trim_history(tasks: &[&Task], retention: u64, changes: &mut Changes) {
    let kept = tasks.iter().map(|task| attempts_kept(task)).max();
    let kept = kept.unwrap_or(0).max(retention).max(1);
    let kept = usize::try_from(kept).unwrap_or(usize::MAX);
    if tasks.len() <= kept {
        return;
    }
    let mut newest_first = tasks.to_vec();
    newest_first.sort_by_key(|task| Reverse((created_at(task), !is_final(task))));
    let is_over = |task: &Task| {
        let never_began = !is_wanted(task) && observed_state(task) < TaskState::Assigned;
        is_final(task) || never_began
    };
    let last_to_end = match tasks.iter().all(|task| is_over(task)) {
        true => tasks.iter().max_by_key(|task| status_time(task)),
        false => None,
    };
    let is_last = |task: &Task| last_to_end.is_some_and(|last| last.id == task.id);
    let surplus = newest_first
        .iter()
        .skip(1)
        .rev()
        .filter(|task| is_over(task) && !is_last(task))
        .take(tasks.len() - kept);
    for task in surplus {
        if !changes.has_room() {
            return;
        }
        changes.remove(task);
    }
}

/// History that is needed to count restarts when they are limited.
fn attempts_kept(task: &Task) -> u64 {
    let restart = task.spec.as_ref().and_then(|spec| spec.restart.as_ref());
    match restart.map_or(0, |policy| policy.max_attempts) {
        0 => 0,
        attempts => attempts.saturating_add(1).min(MAX_HISTORY),
    }
}
