//! The restart supervisor: whether and when a slot in which nothing runs gets a
//! new task.
//!
//! What it knows of earlier attempts is in the slot's history, which the reaper
//! keeps for as long as it is needed here.

use time::{Duration, OffsetDateTime};

use super::{
    View,
    slot::{Slot, is_displaced},
};
use crate::{
    is_final,
    objects::{RestartPolicy, Task, TaskState, restart_policy::Condition},
    observed_state,
    plan::{
        reaper::MAX_HISTORY,
        task::{ended_by_itself, status_time},
        times::{after, span},
    },
};

/// Delay before a restart if the service names none (swarmkit's default).
const DEFAULT_DELAY: Duration = Duration::seconds(5);

/// What becomes of a slot in which nothing runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It stays as it is until the service changes.
    Never,
    /// A new task is due at this time.
    At(OffsetDateTime),
}

/// What becomes of a slot whose last task does not run, or must not.
///
/// A task that ended is followed after the policy's delay; one that lost its place (node gone,
/// down or drained) at once. Condition `none` means that it is never followed, whatever it lost,
/// since it may have run to its end unseen.
pub(super) fn verdict(view: &View<'_>, slot: &Slot<'_>, last: &Task) -> Verdict {
    let policy = last.spec.as_ref().and_then(|spec| spec.restart.as_ref());
    let state = observed_state(last);
    let condition = policy.map_or(Condition::Any, RestartPolicy::condition);
    let again = match condition {
        Condition::None => false,
        Condition::OnFailure => state != TaskState::Complete,
        Condition::Any => true,
    };
    if !again || policy.is_some_and(|policy| is_exhausted(policy, slot, last)) {
        return Verdict::Never;
    }
    let ended = status_time(last);
    let due = match ended {
        // Also what its node says to have stopped: nothing that it makes up comes without delay.
        Some(ended) if is_final(last) && !is_displaced(view, last) => {
            let delay = policy.and_then(|policy| policy.delay.as_ref());
            after(ended, delay.map_or(DEFAULT_DELAY, span))
        }
        _ => view.now,
    };
    Verdict::At(due)
}

/// Whether the tasks of the slot have ended as often as the policy allows: the
/// first, and `max_attempts` that followed it, all of one spec version and iteration, and
/// since that came to the slot last: a rollback begins anew. With a window only ends count
/// that lie in it, back from the last one.
fn is_exhausted(policy: &RestartPolicy, slot: &Slot<'_>, last: &Task) -> bool {
    // History keeps no more, so that is the most that can be told from unlimited.
    let allowed = policy.max_attempts.min(MAX_HISTORY - 1);
    if allowed == 0 {
        return false;
    }
    let window = policy.window.as_ref().map(span);
    let window = window.filter(|window| !window.is_zero());
    let since = window.and_then(|window| status_time(last)?.checked_sub(window));
    let is_alike = |task: &&&Task| {
        task.spec_version == last.spec_version && task.job_iteration == last.job_iteration
    };
    let counts = |task: &&&Task| {
        ended_by_itself(task)
            && since.is_none_or(|since| status_time(task).is_some_and(|ended| ended >= since))
    };
    let newest_first = slot.tasks.iter().rev();
    let row = newest_first
        .skip_while(|task| task.id != last.id)
        .take_while(is_alike);
    let ends = row.filter(counts).count();
    u64::try_from(ends).unwrap_or(u64::MAX) > allowed
}
