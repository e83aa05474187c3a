//! How far a state must be for a read to miss nothing that was acknowledged.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A read that would not be sure to show everything acknowledged.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No leader was found in time.
    #[error("the swarm does not have a leader")]
    NoLeader,
    /// This manager is too far behind what the leader has.
    #[error("this manager has not caught up with the leader; try again, or ask another manager")]
    Behind,
}

/// Lets readers that come together ask once.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The question that was not asked yet.
    next: Mutex<Option<Arc<Round>>>,
    /// Held by who asks.
    asking: tokio::sync::Mutex<()>,
}

/// One question and its answer: a version.
#[derive(Debug, Default)]
struct Round {
    answer: OnceLock<Option<u64>>,
}

impl Rounds {
    /// The answer to a question that was asked after this call began; `None` if there
    /// was none. Cancel-safe: who waits with a caller that goes away asks in its place.
    pub(super) async fn ask(&self, question: impl Future<Output = Option<u64>>) -> Option<u64> {
        let round = Arc::clone(self.next().get_or_insert_default());
        let _asking = self.asking.lock().await;
        if let Some(answer) = round.answer.get() {
            return *answer;
        }
        // Who comes from here on may have come after something that this does not see.
        self.next().take_if(|next| Arc::ptr_eq(next, &round));
        let answer = question.await;
        *round.answer.get_or_init(|| answer)
    }

    fn next(&self) -> std::sync::MutexGuard<'_, Option<Arc<Round>>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readers_share_a_question_that_was_asked_after_they_came() {
        let rounds = Arc::new(Rounds::default());
        let asked = Arc::new(AtomicU64::new(0));
        let ask = || {
            let (rounds, asked) = (Arc::clone(&rounds), Arc::clone(&asked));
            tokio::spawn(async move {
                let question = async {
                    let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    Some(number)
                };
                rounds.ask(question).await
            })
        };
        let first = ask();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let late: Vec<_> = (0..100).map(|_| ask()).collect();
        assert_eq!(first.await.unwrap(), Some(1));
        for reader in late {
            assert_eq!(reader.await.unwrap(), Some(2), "asked after it came");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_with_one_that_leaves_asks_itself() {
        let rounds = Arc::new(Rounds::default());
        let gone = tokio::spawn({
            let rounds = Arc::clone(&rounds);
            async move { rounds.ask(std::future::pending()).await }
        });
        let with_it = tokio::spawn({
            let rounds = Arc::clone(&rounds);
            async move { rounds.ask(async { Some(7) }).await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!with_it.is_finished());
        gone.abort();
        assert_eq!(with_it.await.unwrap(), Some(7));
    }
}
