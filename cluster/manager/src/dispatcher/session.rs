//! The sessions that nodes hold with this manager.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{clock::SessionClock, messages::ROOT_TURNS, reports::Reports};

/// Calls of one kind of one node within [`RATE_WINDOW`] (swarmkit's limit).
pub(crate) const RATE_LIMIT: usize = 3;
/// Registrations of one node alone: a rotation of the root is two, for the certificate and for
/// the root, and another one may follow at once.
const REGISTRATIONS: usize = 2 * RATE_LIMIT;
const RATE_WINDOW: Duration = Duration::from_secs(8);
/// A node that missed so many beats is not alive (swarmkit's value; the plan of
/// nodes judges by it too).
const MISSED_BEATS: u32 = 3;

/// One node's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) node_id: String,
    /// Something that the session stream shows may have changed.
    pub(crate) node_changed: Notify,
    /// Marked when the node's tasks may have changed; each stream watches it for
    /// itself, so that none takes another's wake-up.
    tasks_changed: watch::Sender<()>,
    assignments: Mutex<Turns>,
    /// Ends every stream of the session.
    pub(crate) ended: CancellationToken,
    /// What the node reported and is not written yet.
    pub(crate) reports: Reports,
    pub(crate) clock: SessionClock,
    beat: Mutex<Beat>,
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    last: Instant,
    period: Duration,
}

/// The streams of assignments of a session.
#[derive(Debug, Default)]
struct Turns {
    /// Ends the latest.
    latest: CancellationToken,
    /// When the recent ones began.
    recent: VecDeque<Instant>,
}

/// The session's assignments were opened too often: each begins with all payloads.
#[derive(Debug, thiserror::Error)]
#[error("too many streams of assignments; open no more than {RATE_LIMIT} in {} s", RATE_WINDOW.as_secs())]
pub(crate) struct TooManyTurns;

/// What a stream of assignments goes by.
#[derive(Debug)]
pub(crate) struct AssignmentsTurn {
    /// Marked when the node's tasks may have changed since the turn began.
    pub(crate) tasks_changed: watch::Receiver<()>,
    /// Cancelled when another stream takes over or the session ends.
    pub(crate) over: CancellationToken,
}

impl Session {
    /// Begins a stream of assignments, and ends the one before.
    pub(crate) fn begin_assignments(&self) -> Result<AssignmentsTurn, TooManyTurns> {
        let mut turns = lock(&self.assignments);
        if !note_call(&mut turns.recent, Instant::now(), RATE_LIMIT) {
            return Err(TooManyTurns);
        }
        let over = self.ended.child_token();
        std::mem::replace(&mut turns.latest, over.clone()).cancel();
        Ok(AssignmentsTurn {
            tasks_changed: self.tasks_changed.subscribe(),
            over,
        })
    }

    /// The node's tasks may have changed.
    pub(crate) fn wake_assignments(&self) {
        self.tasks_changed.send_replace(());
    }

    /// Takes note that the node is alive and will beat again within `period`.
    pub(crate) fn beat(&self, period: Duration) {
        *lock(&self.beat) = Beat {
            last: Instant::now(),
            period,
        };
    }

    /// Since when, and with which period, the node has been silent.
    pub(crate) fn silence(&self) -> (Duration, Duration) {
        let beat = *lock(&self.beat);
        (beat.last.elapsed(), beat.period)
    }
}

/// All sessions, by node.
#[derive(Debug)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
    /// Of nodes that are told of another root.
    pub(super) root_turns: Arc<Semaphore>,
    /// Ends all of them, also those that are opened later.
    stopped: CancellationToken,
}

#[derive(Debug, Default)]
struct Table {
    sessions: BTreeMap<String, Arc<Session>>,
    registrations: BTreeMap<String, VecDeque<Instant>>,
}

/// The node registered too often.
#[derive(Debug, thiserror::Error)]
#[error("node {node_id} exceeded rate limit count of registrations")]
pub(crate) struct TooManyRegistrations {
    node_id: String,
}

impl Sessions {
    /// No sessions yet; `stopped` ends each.
    pub(crate) fn new(stopped: CancellationToken) -> Sessions {
        Sessions {
            table: Mutex::default(),
            root_turns: Arc::new(Semaphore::new(ROOT_TURNS)),
            stopped,
        }
    }

    /// Opens a session; one that the node held ends. The id that the node shows
    /// is kept if it is the current one.
    pub(crate) fn open(
        &self,
        node_id: &str,
        shown_id: &str,
        new_id: String,
        period: Duration,
    ) -> Result<Arc<Session>, TooManyRegistrations> {
        let mut table = lock(&self.table);
        let now = Instant::now();
        let recent = table.registrations.entry(node_id.to_owned()).or_default();
        if !note_call(recent, now, REGISTRATIONS) {
            return Err(TooManyRegistrations {
                node_id: node_id.to_owned(),
            });
        }
        let before = table.sessions.get(node_id);
        if let Some(before) = before {
            before.ended.cancel();
        }
        let id = match before {
            Some(before) if before.id == shown_id => shown_id.to_owned(),
            _ => new_id,
        };
        let session = Arc::new(Session {
            id,
            node_id: node_id.to_owned(),
            node_changed: Notify::new(),
            tasks_changed: watch::channel(()).0,
            assignments: Mutex::default(),
            ended: self.stopped.child_token(),
            reports: Reports::default(),
            clock: SessionClock::default(),
            beat: Mutex::new(Beat { last: now, period }),
        });
        table
            .sessions
            .insert(node_id.to_owned(), Arc::clone(&session));
        Ok(session)
    }

    /// The node's session, if it is the one with this id and has not ended.
    pub(crate) fn current(&self, node_id: &str, session_id: &str) -> Option<Arc<Session>> {
        let session = self.of_node(node_id)?;
        (session.id == session_id && !session.ended.is_cancelled()).then_some(session)
    }

    /// The node's session.
    pub(crate) fn of_node(&self, node_id: &str) -> Option<Arc<Session>> {
        lock(&self.table).sessions.get(node_id).cloned()
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        lock(&self.table).sessions.values().cloned().collect()
    }

    /// Ends this session, and forgets it if it is still its node's.
    pub(crate) fn end(&self, session: &Arc<Session>) {
        session.ended.cancel();
        let mut table = lock(&self.table);
        let current = table.sessions.get(&session.node_id);
        if current.is_some_and(|current| Arc::ptr_eq(current, session)) {
            table.sessions.remove(&session.node_id);
        }
    }

    /// Ends the session of a node that was judged down: it has to register again.
    /// One that the node opened, or beat in, since then goes on.
    pub(crate) fn end_silent(&self, node_id: &str) {
        let Some(session) = self.of_node(node_id) else {
            return;
        };
        let (age, period) = session.silence();
        if age >= period * MISSED_BEATS {
            self.end(&session);
        }
    }

    /// Ends a node's session and forgets it.
    pub(crate) fn close(&self, node_id: &str) {
        let mut table = lock(&self.table);
        table.registrations.remove(node_id);
        if let Some(session) = table.sessions.remove(node_id) {
            session.ended.cancel();
        }
    }
}

/// Whether a call is within `limit` per [`RATE_WINDOW`]; if so it is noted.
pub(crate) fn note_call(recent: &mut VecDeque<Instant>, now: Instant, limit: usize) -> bool {
    while recent
        .front()
        .is_some_and(|then| now.duration_since(*then) > RATE_WINDOW)
    {
        recent.pop_front();
    }
    let within = recent.len() < limit;
    if within {
        recent.push_back(now);
    }
    within
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    #[test]
    fn one_registration_too_many_within_the_window_is_refused() {
        let sessions = Sessions::new(CancellationToken::new());
        for _ in 0..REGISTRATIONS {
            sessions.open("n1", "", "s".into(), PERIOD).unwrap();
        }
        assert!(sessions.open("n1", "", "s".into(), PERIOD).is_err());
        assert!(sessions.open("n2", "", "s".into(), PERIOD).is_ok());
    }

    #[test]
    fn a_foreign_or_ended_session_id_is_not_current() {
        let sessions = Sessions::new(CancellationToken::new());
        sessions.open("n1", "", "one".into(), PERIOD).unwrap();
        assert!(sessions.current("n1", "two").is_none());
        assert!(sessions.current("n2", "one").is_none());
        let session = sessions.current("n1", "one").unwrap();
        sessions.close("n1");
        assert!(session.ended.is_cancelled());
        assert!(sessions.current("n1", "one").is_none());
    }

    #[test]
    fn a_new_registration_ends_the_old_streams_and_keeps_a_shown_id() {
        let sessions = Sessions::new(CancellationToken::new());
        let old = sessions.open("n1", "", "one".into(), PERIOD).unwrap();
        let new = sessions.open("n1", "one", "two".into(), PERIOD).unwrap();
        assert!(old.ended.is_cancelled());
        assert_eq!(new.id, "one");
        assert_eq!(
            sessions
                .open("n1", "other", "three".into(), PERIOD)
                .unwrap()
                .id,
            "three"
        );
    }

    #[test]
    fn a_second_stream_of_assignments_takes_over_and_both_hear_of_changes() {
        let sessions = Sessions::new(CancellationToken::new());
        let session = sessions.open("n1", "", "one".into(), PERIOD).unwrap();
        let first = session.begin_assignments().unwrap();
        let second = session.begin_assignments().unwrap();
        assert!(first.over.is_cancelled());
        assert!(!second.over.is_cancelled());
        session.wake_assignments();
        assert!(first.tasks_changed.has_changed().unwrap());
        assert!(second.tasks_changed.has_changed().unwrap());
        sessions.end(&session);
        assert!(second.over.is_cancelled());
        let late = session.begin_assignments().unwrap();
        assert!(late.over.is_cancelled());
        assert!(session.begin_assignments().is_err(), "too often");
    }

    #[test]
    fn a_stop_ends_sessions_also_those_opened_after_it() {
        let stopped = CancellationToken::new();
        let sessions = Sessions::new(stopped.clone());
        let before = sessions.open("n1", "", "one".into(), PERIOD).unwrap();
        stopped.cancel();
        let after = sessions.open("n2", "", "two".into(), PERIOD).unwrap();
        assert!(before.ended.is_cancelled() && after.ended.is_cancelled());
        assert!(sessions.current("n2", "two").is_none());
    }

    #[test]
    fn the_end_of_an_old_session_is_not_that_of_the_new_one() {
        let sessions = Sessions::new(CancellationToken::new());
        let old = sessions.open("n1", "", "one".into(), PERIOD).unwrap();
        sessions.open("n1", "", "two".into(), PERIOD).unwrap();
        sessions.end(&old);
        assert!(sessions.current("n1", "two").is_some());
        sessions.end_silent("n1");
        assert!(
            sessions.current("n1", "two").is_some(),
            "it has just beaten"
        );
        sessions.open("n2", "", "x".into(), Duration::ZERO).unwrap();
        sessions.end_silent("n2");
        assert!(sessions.of_node("n2").is_none());
    }
}
