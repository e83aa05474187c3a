//! The sessions that nodes hold with this manager.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::reports::Reports;

/// Registrations of one node within [`RATE_WINDOW`] (swarmkit's limit).
const RATE_LIMIT: usize = 3;
const RATE_WINDOW: Duration = Duration::from_secs(8);

/// One node's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) node_id: String,
    /// Something that the session stream shows may have changed.
    pub(crate) node_changed: Notify,
    /// The node's tasks may have changed.
    pub(crate) tasks_changed: Notify,
    /// Ends every stream of the session.
    pub(crate) ended: CancellationToken,
    /// What the node reported and is not written yet.
    pub(crate) reports: Reports,
    beat: Mutex<Beat>,
}

#[derive(Clone, Copy, Debug)]
struct Beat {
    last: Instant,
    period: Duration,
}

impl Session {
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
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    table: Mutex<Table>,
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
        while recent
            .front()
            .is_some_and(|then| now.duration_since(*then) > RATE_WINDOW)
        {
            recent.pop_front();
        }
        if recent.len() >= RATE_LIMIT {
            return Err(TooManyRegistrations {
                node_id: node_id.to_owned(),
            });
        }
        recent.push_back(now);
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
            tasks_changed: Notify::new(),
            ended: CancellationToken::new(),
            reports: Reports::default(),
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

    /// Ends a node's session and forgets it.
    pub(crate) fn close(&self, node_id: &str) {
        let mut table = lock(&self.table);
        table.registrations.remove(node_id);
        if let Some(session) = table.sessions.remove(node_id) {
            session.ended.cancel();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    #[test]
    fn the_fourth_registration_within_the_window_is_refused() {
        let sessions = Sessions::default();
        for _ in 0..RATE_LIMIT {
            sessions.open("n1", "", "s".into(), PERIOD).unwrap();
        }
        assert!(sessions.open("n1", "", "s".into(), PERIOD).is_err());
        assert!(sessions.open("n2", "", "s".into(), PERIOD).is_ok());
    }

    #[test]
    fn a_foreign_or_ended_session_id_is_not_current() {
        let sessions = Sessions::default();
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
        let sessions = Sessions::default();
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
}
