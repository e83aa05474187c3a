//! Task statuses on their way to a manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time};
use tonic::{Code, Status};
use waxseal_cluster::objects::TaskStatus;
use waxseal_wire::{
    ManagerChannel,
    swarmkit::{TaskStatusUpdate, UpdateTaskStatusRequest},
};

use crate::certificate::bounded;

/// Statuses in one call: far below any message limit, error texts included.
const BATCH: usize = 256;
/// How long further statuses are waited for before a call, so that quick ones go together.
const COALESCE: Duration = Duration::from_millis(20);

/// The last status of each task that runs or ran here, and which of them managers do
/// not know yet.
#[derive(Default)]
pub(crate) struct Reports {
    kept: Mutex<Kept>,
    changed: Notify,
}

#[derive(Default)]
struct Kept {
    last: BTreeMap<String, TaskStatus>,
    unsent: BTreeSet<String>,
}

impl Reports {
    /// Notes a task's status; one that goes backwards is ignored.
    pub(crate) fn report(&self, task_id: &str, status: TaskStatus) {
        let mut kept = self.lock();
        if kept
            .last
            .get(task_id)
            .is_some_and(|last| last.state > status.state)
        {
            return;
        }
        kept.last.insert(task_id.to_owned(), status);
        kept.unsent.insert(task_id.to_owned());
        drop(kept);
        self.changed.notify_one();
    }

    /// Forgets a task that is not assigned any more.
    pub(crate) fn forget(&self, task_id: &str) {
        let mut kept = self.lock();
        kept.last.remove(task_id);
        kept.unsent.remove(task_id);
    }

    /// Sends what there is and what comes, everything once more at first: a new session
    /// may be with a manager that missed some.
    ///
    /// # Errors
    /// The first status that is not `NotFound`; nothing is lost by it.
    pub(crate) async fn send_all(
        &self,
        channel: &ManagerChannel,
        session_id: &str,
    ) -> Result<std::convert::Infallible, Status> {
        self.resend_all();
        loop {
            let batch = self.take();
            if batch.is_empty() {
                self.changed.notified().await;
                time::sleep(COALESCE).await;
                continue;
            }
            let request = UpdateTaskStatusRequest::new(session_id, batch);
            let mut dispatcher = channel.dispatcher();
            match bounded(request, |request| dispatcher.update_task_status(request)).await {
                Ok(_) => {}
                // The manager does not know the task any more, so that its status is moot.
                Err(status) if status.code() == Code::NotFound => {}
                Err(status) => return Err(status),
            }
        }
    }

    fn resend_all(&self) {
        let mut kept = self.lock();
        kept.unsent = kept.last.keys().cloned().collect();
    }

    fn take(&self) -> Vec<TaskStatusUpdate> {
        let mut kept = self.lock();
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(task_id) = kept.unsent.pop_first()
        {
            if let Some(status) = kept.last.get(&task_id).cloned() {
                batch.push(TaskStatusUpdate {
                    task_id,
                    status: Some(status),
                });
            }
        }
        batch
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // No code that holds the lock leaves it half changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use waxseal_cluster::objects::TaskState;

    use super::*;

    fn status(state: TaskState) -> TaskStatus {
        TaskStatus {
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_status_that_goes_backwards_is_ignored() {
        let reports = Reports::default();
        reports.report("a", status(TaskState::Running));
        reports.report("a", status(TaskState::Preparing));
        let sent = reports.take();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].status.as_ref().unwrap().state(), TaskState::Running);
    }

    #[test]
    fn quick_statuses_go_as_one_and_a_new_session_gets_all_again() {
        let reports = Reports::default();
        reports.report("a", status(TaskState::Accepted));
        reports.report("a", status(TaskState::Running));
        reports.report("b", status(TaskState::Running));
        assert_eq!(reports.take().len(), 2);
        assert!(reports.take().is_empty());
        reports.resend_all();
        reports.forget("b");
        assert_eq!(reports.take().len(), 1);
    }

    #[test]
    fn a_batch_is_bounded() {
        let reports = Reports::default();
        for task in 0..BATCH + 1 {
            reports.report(&task.to_string(), status(TaskState::Running));
        }
        assert_eq!(reports.take().len(), BATCH);
        assert_eq!(reports.take().len(), 1);
    }
}
