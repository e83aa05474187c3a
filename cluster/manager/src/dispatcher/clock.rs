//! The clocks of nodes, as far as their manager can tell.
//!
//! A member of ours says its time when it opens a session. A stock engine does not; the times
//! that it gives its tasks' steps are all there is. They come late, never early, so of several
//! the furthest ahead is the best.

use std::sync::{Mutex, PoisonError};

use time::OffsetDateTime;
use tonic::Request;
use waxseal_cluster::{
    State, date_time,
    objects::{Node, NodeClock, TaskReport, TaskStatus},
    timestamp,
};
use waxseal_wire::announced_time;

/// A change that is worth an entry of the log, in milliseconds.
const NEWS: i64 = 5_000;

/// What a session shows of its node's clock.
#[derive(Debug, Default)]
pub(crate) struct SessionClock(Mutex<Shown>);

#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// The node said its time: nothing is to be guessed.
    is_told: bool,
    /// Milliseconds ahead, the best guess so far.
    guessed: Option<i64>,
}

impl SessionClock {
    /// The clock that a node of ours tells as it opens the session, if that is news.
    pub(super) fn told<T>(
        &self,
        request: &Request<T>,
        node: Option<&Node>,
        now: OffsetDateTime,
    ) -> Option<NodeClock> {
        let theirs = announced_time(request)?;
        self.lock().is_told = true;
        news(node, millis(theirs - now), now)
    }

    /// What a stock engine's reports let one guess, if that is news.
    pub(super) fn guess(
        &self,
        state: &State,
        node_id: &str,
        reports: &[TaskReport],
        now: OffsetDateTime,
    ) -> Option<NodeClock> {
        let mut shown = self.lock();
        if shown.is_told {
            return None;
        }
        let ahead = reports
            .iter()
            .filter_map(|report| fresh_step(state, report))
            .map(|at| millis(at - now))
            .max()?;
        if shown.guessed.is_some_and(|best| ahead <= best) {
            return None;
        }
        shown.guessed = Some(ahead);
        news(state.node(node_id).map(|node| &**node), ahead, now)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a task's step was, if it is one that was not known before: the others are told again
/// when a session begins.
fn fresh_step(state: &State, report: &TaskReport) -> Option<OffsetDateTime> {
    let status = report.status.as_ref()?;
    let known = state.task(&report.task_id)?;
    let before = known.status.as_ref().map(TaskStatus::state);
    let is_fresh = before.is_none_or(|before| before < status.state());
    status
        .timestamp
        .as_ref()
        .filter(|_| is_fresh)
        .and_then(date_time)
}

fn news(node: Option<&Node>, ahead_millis: i64, now: OffsetDateTime) -> Option<NodeClock> {
    let known = node.and_then(|node| node.clock.as_ref());
    let is_news =
        known.is_none_or(|known| known.ahead_millis.abs_diff(ahead_millis) > NEWS.unsigned_abs());
    is_news.then(|| NodeClock {
        ahead_millis,
        measured_at: Some(timestamp(now)),
    })
}

fn millis(span: time::Duration) -> i64 {
    i64::try_from(span.whole_milliseconds()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use waxseal_cluster::objects::TaskState;
    use waxseal_wire::announce_time;

    use super::*;
    use crate::testing::{NOW, World};

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW).unwrap()
    }

    fn told(known: Option<i64>, ahead: Duration) -> Option<i64> {
        let node = Node {
            clock: known.map(|ahead_millis| NodeClock {
                ahead_millis,
                measured_at: None,
            }),
            ..Node::default()
        };
        let mut request = Request::new(());
        announce_time(&mut request, now() + ahead);
        let clock = SessionClock::default().told(&request, Some(&node), now());
        clock.map(|clock| clock.ahead_millis)
    }

    #[test]
    fn what_is_told_is_kept_when_it_is_new_or_moved_by_over_five_seconds() {
        assert_eq!(told(None, Duration::ZERO), Some(0));
        assert_eq!(told(Some(0), Duration::seconds(5)), None);
        assert_eq!(told(Some(0), Duration::seconds(-6)), Some(-6_000));
        assert_eq!(told(Some(-6_000), Duration::seconds(-9)), None);
        let clock = SessionClock::default();
        assert_eq!(clock.told(&Request::new(()), None, now()), None);
    }

    #[test]
    fn of_an_engines_steps_the_furthest_ahead_counts() {
        let mut world = World::new();
        world.create_task("svc1", "t1", "w1", TaskState::Assigned);
        let step = |state: TaskState, ahead: i64| TaskReport {
            task_id: "t1".into(),
            status: Some(TaskStatus {
                state: state.into(),
                timestamp: Some(timestamp(now() + Duration::seconds(ahead))),
                ..TaskStatus::default()
            }),
        };
        let clock = SessionClock::default();
        let guess = |report| {
            let clock = clock.guess(&world.state, "w1", &[report], now());
            clock.map(|clock| clock.ahead_millis)
        };
        // A step that is known already says when it was, not what time it is.
        assert_eq!(guess(step(TaskState::Assigned, -900)), None);
        assert_eq!(guess(step(TaskState::Running, -20)), Some(-20_000));
        // One that came later is no better.
        assert_eq!(guess(step(TaskState::Running, -60)), None);
        assert_eq!(guess(step(TaskState::Running, 7)), Some(7_000));
        let told = SessionClock::default();
        let mut request = Request::new(());
        announce_time(&mut request, now());
        told.told(&request, None, now());
        let report = step(TaskState::Running, 90);
        assert_eq!(told.guess(&world.state, "w1", &[report], now()), None);
    }
}
