//! Status reports of one node, gathered into few commands.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use waxseal_cluster::objects::TaskReport;

/// Reports that a node may have waiting; more than it has tasks is a fault.
const MAX_WAITING: usize = 16 * 1024;

/// Gathers reports; each caller returns only when its own have taken effect.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    waiting: Mutex<Vec<TaskReport>>,
    /// Held by the caller that writes. Its time is that of the last command.
    writing: tokio::sync::Mutex<Option<Instant>>,
}

/// The node reported more than is kept for it.
#[derive(Debug, thiserror::Error)]
#[error("more than {MAX_WAITING} task reports wait; report less often")]
pub(crate) struct TooManyReports;

impl Reports {
    /// Adds reports and sees to it that they are written, no sooner than `pause`
    /// after the command before. Reports whose command failed wait for the next.
    pub(crate) async fn add<E, F>(
        &self,
        reports: impl Iterator<Item = TaskReport>,
        pause: Duration,
        write: impl FnOnce(Vec<TaskReport>) -> F,
    ) -> Result<Result<(), E>, TooManyReports>
    where
        F: Future<Output = Result<(), E>>,
    {
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let before = waiting.len();
            waiting.extend(reports.take(MAX_WAITING + 1 - before.min(MAX_WAITING)));
            if waiting.len() > MAX_WAITING {
                waiting.truncate(before);
                return Err(TooManyReports);
            }
        }
        let mut last = self.writing.lock().await;
        if let Some(rest) = last.and_then(|then| pause.checked_sub(then.elapsed())) {
            tokio::time::sleep(rest).await;
        }
        let batch = self.take();
        if batch.is_empty() {
            return Ok(Ok(())); // the caller before wrote them
        }
        let kept = batch.clone();
        let written = write(batch).await;
        *last = Some(Instant::now());
        if written.is_err() {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.splice(0..0, kept);
        }
        Ok(written)
    }

    fn take(&self) -> Vec<TaskReport> {
        std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(id: &str) -> TaskReport {
        TaskReport {
            task_id: id.to_owned(),
            status: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_command_loses_no_report() {
        let reports = Reports::default();
        let failed = reports.add([report("a")].into_iter(), Duration::ZERO, |_| async {
            Err("down")
        });
        assert_eq!(failed.await.unwrap(), Err("down"));
        let mut seen = Vec::new();
        let written = reports
            .add([report("b")].into_iter(), Duration::ZERO, |batch| {
                seen.extend(batch.into_iter().map(|report| report.task_id));
                async { Ok::<(), &str>(()) }
            })
            .await;
        assert_eq!(written.unwrap(), Ok(()));
        assert_eq!(seen, ["a", "b"]);
    }

    #[tokio::test]
    async fn more_than_the_bound_is_refused_whole() {
        let reports = Reports::default();
        let many = std::iter::repeat_with(|| report("a")).take(MAX_WAITING + 1);
        let refused = reports
            .add(many, Duration::ZERO, |_| async { Ok::<(), ()>(()) })
            .await;
        assert!(refused.is_err());
        assert!(reports.take().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn reports_that_wait_together_share_a_command() {
        let reports = Reports::default();
        let commands = std::sync::atomic::AtomicUsize::new(0);
        let calls = (0..10).map(|n| {
            reports.add(
                [report(&n.to_string())].into_iter(),
                Duration::from_millis(100),
                |_| async {
                    commands.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    Ok::<(), ()>(())
                },
            )
        });
        futures::future::join_all(calls).await;
        assert_eq!(
            commands.into_inner(),
            2,
            "the first at once, the rest together"
        );
    }
}
