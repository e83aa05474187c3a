//! What the state machine tells those who watch it.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use waxseal_raft_store::{Member, StoreError};

use crate::{
    error::{Failure, StartError},
    raft::RaftId,
};

type Metrics = openraft::RaftMetrics<RaftId, Member>;

/// Shared by the state machine, which the engine owns, and the manager.
///
/// The engine flattens errors to text; the cause itself is kept here.
#[derive(Clone, Debug, Default)]
pub(crate) struct Monitor {
    cause: Arc<OnceLock<Failure>>,
    live: Arc<AtomicBool>,
    /// Disk work of the state machine; a stop waits for it.
    pub(crate) work: TaskTracker,
    /// Ends what waits for space on the disk.
    pub(crate) stopped: CancellationToken,
}

impl Monitor {
    /// Keeps the first cause.
    pub(crate) fn fail(&self, cause: Failure) {
        // A later one follows from the first.
        let _ = self.cause.set(cause);
    }

    /// From now on changes are news: what the log brought at start was announced
    /// by the process that wrote it.
    pub(crate) fn go_live(&self) {
        self.live.store(true, Ordering::Release);
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// The cause, or the engine's words if it has none of ours.
    pub(crate) fn failure(&self, words: impl std::fmt::Display) -> Failure {
        self.cause.get().cloned().unwrap_or(Failure::Engine {
            reason: words.to_string(),
        })
    }

    /// As [`Self::failure`], for a manager that does not start.
    pub(crate) fn start_error(&self, words: impl std::fmt::Display) -> StartError {
        StartError::Failed(self.failure(words))
    }

    /// Completes when the engine has ended.
    pub(crate) async fn engine_failed(&self, mut metrics: watch::Receiver<Metrics>) -> Failure {
        let ended = metrics
            .wait_for(|metrics| metrics.running_state.is_err())
            .await;
        let words = ended.ok().and_then(|metrics| {
            let fatal = metrics.running_state.as_ref().err()?;
            Some(fatal.to_string())
        });
        // Without a word it dropped its end of the channel.
        self.failure(words.as_deref().unwrap_or("it panicked"))
    }

    /// Runs disk work off the runtime's threads.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let work = move || {
            let done = work();
            waxseal_autolock::scrub_registers();
            done
        };
        match self.work.spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Stopped),
        }
    }
}
