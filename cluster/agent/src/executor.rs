//! What runs tasks, as the worker sees it.

use std::io;

use futures::future::BoxFuture;
use tokio::sync::mpsc;

use crate::native::{
    Adopted, Exit, LaunchError, LogOptions, LogRecord, NativeExecutor, RunningTask, TaskLaunch,
    is_native_image,
};

/// Runs tasks and keeps them and their logs over restarts of the daemon.
pub trait Executor: Send + Sync {
    /// Whether tasks of this image run here.
    fn runs_image(&self, image: &str) -> bool;

    /// Whether the task could start here: what [`Executor::launch`] refuses before it
    /// starts anything.
    ///
    /// # Errors
    /// Mostly `Rejected`.
    fn check(&self, launch: &TaskLaunch) -> Result<(), LaunchError>;

    /// Starts a task; it runs when this completes.
    ///
    /// # Errors
    /// Says whether the task is to be REJECTED or FAILED.
    fn launch(&self, launch: TaskLaunch) -> BoxFuture<'_, Result<Box<dyn Execution>, LaunchError>>;

    /// The tasks of earlier daemons, by id, running or ended.
    ///
    /// # Errors
    /// If the records cannot be read.
    fn adopt(&self) -> BoxFuture<'_, io::Result<Vec<(String, Found)>>>;

    /// Deletes a task's records and logs, and ends it if it still runs. Unknown ids are fine.
    ///
    /// # Errors
    /// If something of it is left.
    fn remove<'a>(&'a self, task_id: &'a str) -> BoxFuture<'a, io::Result<()>>;

    /// A task's log, oldest record first.
    ///
    /// # Errors
    /// `NotFound` if there is none here.
    fn logs(&self, task_id: &str, options: LogOptions) -> io::Result<mpsc::Receiver<LogRecord>>;

    /// Whether tasks are to end when this node is removed from its cluster.
    fn stops_orphans(&self) -> bool {
        false
    }
}

/// A task of an earlier daemon.
pub enum Found {
    /// It still runs.
    Running(Box<dyn Execution>),
    /// It ended meanwhile.
    Ended(Exit),
}

/// A running task. Dropping it leaves the task alone.
pub trait Execution: Send + Sync {
    /// The main process, in the host's numbering.
    fn pid(&self) -> u32;

    /// Waits for the end; may be asked again after it.
    fn wait(&self) -> BoxFuture<'_, Exit>;

    /// Sends the task's own stop signal, and SIGKILL after its own grace period. Does
    /// not wait for the end.
    ///
    /// # Errors
    /// If the task's shim cannot be spoken to.
    fn stop(&self) -> BoxFuture<'_, io::Result<()>>;

    /// What is weaker than it could be for this task, one sentence each.
    fn notes(&self) -> &[String] {
        &[]
    }
}

impl Executor for NativeExecutor {
    fn runs_image(&self, image: &str) -> bool {
        is_native_image(image)
    }

    fn check(&self, launch: &TaskLaunch) -> Result<(), LaunchError> {
        NativeExecutor::check(self, launch)
    }

    fn launch(&self, launch: TaskLaunch) -> BoxFuture<'_, Result<Box<dyn Execution>, LaunchError>> {
        Box::pin(async move {
            let task = NativeExecutor::launch(self, launch).await?;
            Ok(Box::new(task) as Box<dyn Execution>)
        })
    }

    fn adopt(&self) -> BoxFuture<'_, io::Result<Vec<(String, Found)>>> {
        Box::pin(async move {
            let adopted = self.adopt_all().await?;
            Ok(adopted
                .into_iter()
                .map(|task| match task {
                    Adopted::Running(task) => {
                        (task.task_id().to_owned(), Found::Running(Box::new(task)))
                    }
                    Adopted::Ended { task_id, exit } => (task_id, Found::Ended(exit)),
                })
                .collect())
        })
    }

    fn remove<'a>(&'a self, task_id: &'a str) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(NativeExecutor::remove(self, task_id))
    }

    fn logs(&self, task_id: &str, options: LogOptions) -> io::Result<mpsc::Receiver<LogRecord>> {
        NativeExecutor::logs(self, task_id, options)
    }

    fn stops_orphans(&self) -> bool {
        NativeExecutor::stops_orphans(self)
    }
}

impl Execution for RunningTask {
    fn pid(&self) -> u32 {
        RunningTask::pid(self)
    }

    fn wait(&self) -> BoxFuture<'_, Exit> {
        Box::pin(RunningTask::wait(self))
    }

    fn stop(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(RunningTask::stop(self, None, None))
    }

    fn notes(&self) -> &[String] {
        RunningTask::notes(self)
    }
}
