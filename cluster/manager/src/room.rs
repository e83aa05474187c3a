//! What is done about commands that a leader's disk has no room for: another manager may
//! have it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// After nobody else could take over, commands are refused at once for so long.
const REST: Duration = Duration::from_secs(10);

/// Shared by what writes and what hands over; clones are one.
#[derive(Clone, Default)]
pub(crate) struct Room(Arc<Shared>);

#[derive(Default)]
struct Shared {
    missed: Notify,
    /// When no other manager was found to have any.
    sought: Mutex<Option<Instant>>,
}

impl Room {
    /// There is none for a command. Answers whether another manager is asked to lead.
    pub(crate) fn is_missed(&self) -> bool {
        let sought = *self.0.sought.lock().unwrap_or_else(PoisonError::into_inner);
        let is_sought = sought.is_none_or(|at| at.elapsed() > REST);
        if is_sought {
            self.0.missed.notify_one();
        }
        is_sought
    }

    /// Completes when there was none.
    pub(crate) async fn missed(&self) {
        self.0.missed.notified().await;
    }

    /// No other manager could take over.
    pub(crate) fn not_elsewhere(&self) {
        let mut sought = self.0.sought.lock().unwrap_or_else(PoisonError::into_inner);
        *sought = Some(Instant::now());
    }
}
