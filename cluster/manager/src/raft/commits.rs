//! When followers are told what is committed.
//!
//! The engine tells each of them right after a commit, by an append without entries, and sends
//! it nothing else until that is answered. Under load the next entries, which tell it as well,
//! are about to come, and twice the messages cost half the throughput: so an append without
//! entries waits a moment for them, unless somebody waits for a follower to apply.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time};

/// For how long next entries are waited for: one write after the other, or a batch of many clients,
/// comes sooner on a busy machine too.
const PAUSE: Duration = Duration::from_millis(20);
/// Followers that asked within this time ask again soon.
const AWAITED: Duration = Duration::from_millis(50);

/// Shared by what sends and what knows who waits; clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Commits(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    start: Instant,
    /// When a follower asked last, in milliseconds since the start, plus one; 0: never.
    awaited: AtomicU64,
    now: Notify,
}

impl Commits {
    pub(crate) fn new() -> Commits {
        Commits(Arc::new(Shared {
            start: Instant::now(),
            awaited: AtomicU64::new(0),
            now: Notify::new(),
        }))
    }

    /// A follower is to apply what is committed, on behalf of somebody who waits.
    pub(crate) fn awaited(&self) {
        let millis = self.0.start.elapsed().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.0
            .awaited
            .store(millis.saturating_add(1), Ordering::Relaxed);
        self.0.now.notify_waiters();
    }

    /// Whether somebody waits for a follower, or did just now.
    pub(crate) fn are_awaited(&self) -> bool {
        match self.0.awaited.load(Ordering::Relaxed) {
            0 => false,
            millis => self.0.start.elapsed() < Duration::from_millis(millis) + AWAITED,
        }
    }

    /// Completes when next entries are not waited for any longer.
    pub(crate) async fn due(&self) {
        let now = self.0.now.notified();
        if self.are_awaited() {
            return;
        }
        // Whoever asks from here on wakes it up.
        let _ = time::timeout(PAUSE, now).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long() {
        let commits = Commits::new();
        assert!(!commits.are_awaited());
        let begin = time::Instant::now();
        commits.due().await;
        assert!(begin.elapsed() >= PAUSE && begin.elapsed() < 2 * PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_ends_the_wait() {
        let commits = Commits::new();
        let waiting = tokio::spawn({
            let commits = commits.clone();
            async move { commits.due().await }
        });
        tokio::task::yield_now().await;
        let begin = time::Instant::now();
        commits.awaited();
        waiting.await.unwrap();
        assert!(commits.are_awaited());
        commits.due().await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
