//! Rolling updates: slots whose task is of an earlier spec get a new one, so many
//! at a time, and the service says truthfully how far that is.
//!
//! How an update goes is read off the tasks: those of the current spec that were
//! made since it started. A failure is noticed from the history of the slot.

use time::{Duration, OffsetDateTime};

use super::{
    Draft, Settled, View, add_task,
    restart::{self, Verdict},
    slot::{Slot, Standing, is_current},
};
use crate::{
    is_final,
    objects::{
        Service, Task, TaskState, UpdateConfig, UpdateService, UpdateStatus,
        command::Op,
        update_config::{FailureAction, Order},
        update_status::State,
    },
    observed_state,
    plan::{
        Place,
        task::{created_at, ended_by_itself, running_since, status_time},
        times::{after, moment, span},
    },
    timestamp, version_of,
};

/// For how long a new task is watched if the service does not say (engine's default).
const DEFAULT_MONITOR: Duration = Duration::seconds(5);
/// How long getting ready (the pull of an image) may take. When a task that has ended
/// began to run is not on record if its node never said so, and of tasks of managers
/// before feature level 4: one that ends within this and the monitored time from its
/// making counts as having failed early.
const PREPARATION: Duration = Duration::minutes(10);

/// The rules of an update, with defaults filled in.
struct Rules {
    /// At most so many slots at once; `None`: all.
    parallelism: Option<usize>,
    delay: Duration,
    monitor: Duration,
    failure_action: FailureAction,
    max_failure_ratio: f32,
    order: Order,
}

impl Rules {
    fn of(config: Option<&UpdateConfig>) -> Rules {
        let default = UpdateConfig {
            parallelism: 1,
            ..UpdateConfig::default()
        };
        let config = config.unwrap_or(&default);
        Rules {
            parallelism: match config.parallelism {
                0 => None,
                some => Some(usize::try_from(some).unwrap_or(usize::MAX)),
            },
            delay: config.delay.as_ref().map_or(Duration::ZERO, span),
            monitor: config.monitor.as_ref().map_or(DEFAULT_MONITOR, span),
            failure_action: config.failure_action(),
            max_failure_ratio: config.max_failure_ratio,
            order: config.order(),
        }
    }
}

/// Where a slot is in an update.
enum Progress<'a> {
    /// Has a task of an earlier spec, or ended with one; its turn comes.
    Stale(Option<&'a Task>),
    /// Its new task is not running yet.
    UnderWay,
    /// Its new task runs since then.
    Running { since: OffsetDateTime, new: bool },
    /// Nothing more to do for the update, or the restart policy's business.
    Done,
    /// Nothing to do before this time.
    Waits(OffsetDateTime),
    /// Waits for a change of the state.
    Stuck,
}

/// What an update that is under way works with.
struct Update {
    rules: Rules,
    started_at: OffsetDateTime,
    is_rollback: bool,
}

/// Starts, continues, pauses, rolls back or completes the update of a service.
pub(super) fn plan(
    view: &View<'_>,
    service: &Service,
    settled: &[Settled<'_>],
    takes_new: &dyn Fn(&Place) -> bool,
    draft: &mut Draft<'_>,
) {
    let status = service.update_status.as_ref();
    let spec = service.spec.as_ref();
    let is_rollback = match status.map_or(State::Unknown, UpdateStatus::state) {
        // Until somebody changes the service.
        State::Paused | State::RollbackPaused => return,
        State::Updating => false,
        State::RollbackStarted => true,
        State::Unknown | State::Completed | State::RollbackCompleted => {
            if settled
                .iter()
                .any(|one| is_stale(view, service, one, takes_new))
            {
                start(view, service, draft);
            }
            return;
        }
    };
    let config = spec.and_then(|spec| {
        let config = if is_rollback {
            &spec.rollback
        } else {
            &spec.update
        };
        config.as_ref()
    });
    let started_at = status.and_then(|status| moment(status.started_at.as_ref()));
    let update = Update {
        rules: Rules::of(config),
        started_at: started_at.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        is_rollback,
    };
    if let Some(failed) = decisive_failure(view, service, settled, &update)
        && act_on_failure(view, service, &update, failed, draft)
    {
        return;
    }
    advance(view, service, settled, &update, takes_new, draft);
}

/// Whether the slot's turn in an update is still to come.
fn is_stale(
    view: &View<'_>,
    service: &Service,
    settled: &Settled<'_>,
    takes_new: &dyn Fn(&Place) -> bool,
) -> bool {
    // A paused node keeps what it has and is left out.
    takes_new(&settled.slot.place)
        && match &settled.standing {
            Standing::Held { current, stale } => current.is_none() && stale.is_some(),
            Standing::Due(_) => false,
            Standing::Ended(last) => !is_current(service, last, view.node(&last.node_id)),
        }
}

/// Rolls as many slots as may be under way at once, or completes the update.
fn advance(
    view: &View<'_>,
    service: &Service,
    settled: &[Settled<'_>],
    update: &Update,
    takes_new: &dyn Fn(&Place) -> bool,
    draft: &mut Draft<'_>,
) {
    let mut busy = 0;
    let mut unfinished = false;
    let mut turns = Vec::new();
    for one in settled {
        match progress(view, service, one, update, takes_new) {
            Progress::Stale(task) => turns.push((one, task)),
            Progress::UnderWay => busy += 1,
            Progress::Running { since, new } if new => {
                let rested = after(since, update.rules.delay);
                if rested > view.now {
                    busy += 1;
                    draft.wake(rested);
                }
                let watched = after(since, update.rules.monitor);
                if watched > view.now {
                    unfinished = true;
                    draft.wake(watched);
                }
            }
            Progress::Running { .. } | Progress::Done => {}
            Progress::Waits(until) => {
                unfinished = true;
                draft.wake(until);
            }
            Progress::Stuck => unfinished = true,
        }
    }
    if turns.is_empty() {
        if busy == 0 && !unfinished {
            complete(view, service, update, draft);
        }
        return;
    }
    // First those in which nothing runs: they cost no availability.
    turns.sort_by_key(|(_, task)| {
        task.is_some_and(|task| observed_state(task) == TaskState::Running)
    });
    let free = update
        .rules
        .parallelism
        .map_or(usize::MAX, |most| most.saturating_sub(busy));
    for (one, task) in turns.into_iter().take(free) {
        if !draft.changes.has_room() {
            return;
        }
        roll(view, service, &one.slot, task, update, draft);
    }
}

fn progress<'a>(
    view: &View<'_>,
    service: &Service,
    one: &Settled<'a>,
    update: &Update,
    takes_new: &dyn Fn(&Place) -> bool,
) -> Progress<'a> {
    let failed = || first_failure(view, service, &one.slot, update).is_some();
    match &one.standing {
        Standing::Held {
            current: Some(task),
            ..
        } => {
            if observed_state(task) == TaskState::Running {
                let since = running_since(task).or_else(|| status_time(task));
                let since = since.unwrap_or(view.now);
                let new = created_at(task) >= update.started_at;
                Progress::Running { since, new }
            } else if failed() {
                Progress::Done
            } else {
                Progress::UnderWay
            }
        }
        // A paused node keeps what it has and is left out.
        _ if !takes_new(&one.slot.place) => Progress::Done,
        Standing::Held {
            current: None,
            stale,
        } => {
            match last_attempt(view, service, &one.slot, update) {
                // Start-first: the earlier one still runs, the new one did not hold.
                Some(attempt) => match restart::verdict(view, &one.slot, attempt) {
                    Verdict::Never => Progress::Done,
                    Verdict::At(due) if due > view.now => Progress::Waits(due),
                    Verdict::At(_) => Progress::Stale(*stale),
                },
                None => Progress::Stale(*stale),
            }
        }
        Standing::Due(_) if failed() => Progress::Done,
        Standing::Due(_) => Progress::Stuck,
        Standing::Ended(last) if is_current(service, last, view.node(&last.node_id)) => {
            Progress::Done
        }
        Standing::Ended(_) => Progress::Stale(None),
    }
}

/// The latest task of the current spec that the update put into the slot.
fn last_attempt<'a>(
    view: &View<'_>,
    service: &Service,
    slot: &Slot<'a>,
    update: &Update,
) -> Option<&'a Task> {
    attempts(view, service, slot, update).last()
}

/// The tasks of the current spec made since the update started, oldest first.
fn attempts<'a>(
    view: &View<'_>,
    service: &Service,
    slot: &Slot<'a>,
    update: &Update,
) -> impl DoubleEndedIterator<Item = &'a Task> {
    slot.tasks.iter().copied().filter(move |task| {
        created_at(task) >= update.started_at && is_current(service, task, view.node(&task.node_id))
    })
}

/// The first of the slot's new tasks that ended early.
fn first_failure<'a>(
    view: &View<'_>,
    service: &Service,
    slot: &Slot<'a>,
    update: &Update,
) -> Option<&'a Task> {
    attempts(view, service, slot, update).find(|task| {
        let began = running_since(task);
        let began = began.unwrap_or_else(|| after(created_at(task), PREPARATION));
        let in_time = after(began, update.rules.monitor);
        ended_by_itself(task) && status_time(task).is_none_or(|ended| ended <= in_time)
    })
}

/// The latest failure, if there are more than the rules bear with. At most one
/// counts for each slot.
fn decisive_failure<'a>(
    view: &View<'_>,
    service: &Service,
    settled: &[Settled<'a>],
    update: &Update,
) -> Option<&'a Task> {
    let failures: Vec<&Task> = settled
        .iter()
        .filter_map(|one| first_failure(view, service, &one.slot, update))
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "far fewer slots than 2^24")]
    let ratio = failures.len() as f32 / settled.len() as f32;
    let latest = failures.into_iter().max_by_key(|task| status_time(task));
    latest.filter(|_| ratio > update.rules.max_failure_ratio)
}

/// Pauses the update or rolls it back; false if the rules say to go on.
fn act_on_failure(
    view: &View<'_>,
    service: &Service,
    update: &Update,
    failed: &Task,
    draft: &mut Draft<'_>,
) -> bool {
    let what = |verb: &str| {
        format!(
            "{verb} due to failure or early termination of task {}",
            failed.id
        )
    };
    let paused = if update.is_rollback {
        State::RollbackPaused
    } else {
        State::Paused
    };
    let (state, message) = match update.rules.failure_action {
        FailureAction::Continue => return false,
        FailureAction::Pause => (paused, what("update paused")),
        // A rollback is never rolled back.
        FailureAction::Rollback if update.is_rollback => (paused, what("rollback paused")),
        FailureAction::Rollback if service.previous_spec.is_some() => {
            (State::RollbackStarted, what("update rolled back"))
        }
        FailureAction::Rollback => (paused, what("update paused")),
    };
    let rolls_back = state == State::RollbackStarted;
    let started_at = if rolls_back {
        Some(timestamp(view.now))
    } else {
        started_at(service)
    };
    let status = UpdateStatus {
        state: state as i32,
        started_at,
        completed_at: None,
        message,
    };
    note(service, status, rolls_back, draft);
    true
}

fn start(view: &View<'_>, service: &Service, draft: &mut Draft<'_>) {
    let status = UpdateStatus {
        state: State::Updating as i32,
        started_at: Some(timestamp(view.now)),
        completed_at: None,
        message: "update in progress".to_owned(),
    };
    note(service, status, false, draft);
}

fn complete(view: &View<'_>, service: &Service, update: &Update, draft: &mut Draft<'_>) {
    let (state, message) = if update.is_rollback {
        (State::RollbackCompleted, "rollback completed")
    } else {
        (State::Completed, "update completed")
    };
    let status = UpdateStatus {
        state: state as i32,
        started_at: started_at(service),
        completed_at: Some(timestamp(view.now)),
        message: message.to_owned(),
    };
    note(service, status, false, draft);
}

fn started_at(service: &Service) -> Option<prost_types::Timestamp> {
    service
        .update_status
        .as_ref()
        .and_then(|status| status.started_at)
}

fn note(service: &Service, status: UpdateStatus, rollback: bool, draft: &mut Draft<'_>) {
    draft.service_updates.push(Op::UpdateService(UpdateService {
        service_id: service.id.clone(),
        expected_version: version_of(service.meta.as_ref()),
        spec: None,
        rollback,
        update_status: Some(status),
    }));
}

/// Gives a slot a new task. Its old one is told to stop now, or, with start-first,
/// when the new one runs.
fn roll(
    view: &View<'_>,
    service: &Service,
    slot: &Slot<'_>,
    old: Option<&Task>,
    update: &Update,
    draft: &mut Draft<'_>,
) {
    let start_first = update.rules.order == Order::StartFirst;
    if let Some(old) = old
        && !start_first
        && !is_final(old)
    {
        draft.changes.want(old, TaskState::Shutdown);
    }
    add_task(view, service, slot, start_first, draft);
}
