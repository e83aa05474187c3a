//! One task, from its assignment to its end.
//!
//! The worker moves a task towards its desired state and never back; whether a new one
//! takes its place is the manager's decision.

use std::{sync::Arc, time::Duration};

use prost_types::Timestamp;
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use waxseal_cluster::objects::{ContainerStatus, Task, TaskState, TaskStatus};

use crate::{
    assignments::AssignedSet,
    executor::{Execution, Found},
    native::{Exit, LaunchError, TaskLaunch},
    order::{NodeNames, OrderError, order},
    shared::{Shared, timestamp},
};

/// The pause before something that failed here is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How often a node that leaves tries to delete a task's records before it goes on.
const LEAVE_ATTEMPTS: u32 = 5;
/// How long a task may outlive its grace period on a node that leaves: SIGKILL was sent,
/// and what is stuck in the kernel then may never end.
const LEAVE_MARGIN: Duration = Duration::from_secs(10);
/// The grace period of a task that names none, as an engine has it.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// The same for a task of an earlier daemon whose own one only its shim knows.
const UNKNOWN_GRACE: Duration = Duration::from_secs(120);

/// What the manager wants of a task.
#[derive(Clone)]
pub(crate) enum Wanted {
    /// It is assigned, with a desired state.
    Assigned(Arc<Task>),
    /// It is assigned no more: stop it and delete what it left.
    Removed,
}

impl Wanted {
    fn desired(&self) -> TaskState {
        match self {
            Wanted::Assigned(task) => task.desired_state(),
            Wanted::Removed => TaskState::Remove,
        }
    }

    fn ends_task(&self) -> bool {
        self.desired() >= TaskState::Shutdown
    }
}

/// Owns one task.
pub(crate) struct TaskDriver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) task: Arc<Task>,
    pub(crate) wanted: watch::Receiver<Wanted>,
    pub(crate) assigned: watch::Receiver<Option<AssignedSet>>,
    /// The task as an earlier daemon left it.
    pub(crate) found: Option<Found>,
    /// Cancelled when the node leaves its cluster and does not wait for ever any more.
    pub(crate) leaving: CancellationToken,
}

/// Why a task did not come to run: the state and the error to report.
struct NotStarted {
    state: TaskState,
    /// What it was about to do, as engines say it.
    message: &'static str,
    error: String,
}

impl TaskDriver {
    /// Runs the task and deletes it once it is not assigned any more.
    ///
    /// # Errors
    /// While the node leaves: why something of the task is left.
    pub(crate) async fn run(mut self) -> Result<(), String> {
        self.live().await;
        // The worker drops the sender only when it ends itself; the task is kept then.
        if self
            .wanted
            .wait_for(|wanted| matches!(wanted, Wanted::Removed))
            .await
            .is_err()
        {
            return Ok(());
        }
        let removed = self.remove().await;
        self.shared.reports.forget(&self.task.id);
        removed
    }

    /// Tries until it succeeds; on a node that leaves [`LEAVE_ATTEMPTS`] times at least.
    async fn remove(&self) -> Result<(), String> {
        let mut attempts = 0;
        while let Err(error) = self.shared.executor.remove(&self.task.id).await {
            attempts += 1;
            if self.leaving.is_cancelled() && attempts >= LEAVE_ATTEMPTS {
                return Err(error.to_string());
            }
            warn!(task = %self.task.id, %error, "cannot delete a task's records, trying again");
            time::sleep(RETRY_PAUSE).await;
        }
        Ok(())
    }

    async fn live(&mut self) {
        let mut running_since = None;
        let execution = match self.found.take() {
            Some(Found::Ended(exit)) => {
                let stopped = self.wanted.borrow().ends_task();
                return self.report_exit(0, &exit, stopped);
            }
            Some(Found::Running(execution)) => {
                running_since = self.known_running_since();
                execution
            }
            None => match self.start().await {
                Ok(Some(execution)) => execution,
                Ok(None) => return,
                Err(NotStarted {
                    state,
                    message,
                    error,
                }) => {
                    info!(task = %self.task.id, ?state, error, "task did not start");
                    return self.report(state, message, &error, None);
                }
            },
        };
        self.accompany(execution.as_ref(), running_since).await;
    }

    /// Since when managers know that it runs: a new daemon makes no news of it.
    fn known_running_since(&self) -> Option<Timestamp> {
        let known = self.task.status.as_ref()?;
        match known.state() {
            TaskState::Running => known.timestamp,
            _ => None,
        }
    }

    /// Brings a task that is not known here to run, or to its end without having run.
    async fn start(&mut self) -> Result<Option<Box<dyn Execution>>, NotStarted> {
        // 1. What managers saw of it before counts: no task runs twice.
        let seen = self
            .task
            .status
            .as_ref()
            .map_or(TaskState::New, TaskStatus::state);
        if seen > TaskState::Running {
            return Ok(None);
        }
        if seen >= TaskState::Starting {
            return Err(NotStarted {
                state: TaskState::Failed,
                message: "started",
                error: "the task's process is gone, as after a restart of the host".to_owned(),
            });
        }
        self.report(TaskState::Accepted, "accepted", "", None);
        if self.ended_early() {
            return Ok(None);
        }
        // 2. Whether it could run here at all.
        self.report(TaskState::Preparing, "preparing", "", None);
        self.order("preparing")?;
        self.report(TaskState::Ready, "prepared", "", None);
        // 3. The manager may want it ready first and running later.
        let decided =
            |wanted: &Wanted| wanted.desired() >= TaskState::Running || wanted.ends_task();
        if self.wanted.wait_for(decided).await.is_err() || self.ended_early() {
            return Ok(None);
        }
        // 4. Secrets are put together only now, so that they lie around no longer than needed.
        let launch = self.order("starting")?;
        self.report(TaskState::Starting, "starting", "", None);
        match self.shared.executor.launch(launch).await {
            Ok(execution) => {
                for note in execution.notes() {
                    warn!(task = %self.task.id, "{note}");
                }
                Ok(Some(execution))
            }
            Err(error) => Err(not_launched("starting", &error)),
        }
    }

    /// Reports a task that is to end before it began.
    fn ended_early(&self) -> bool {
        let ends = self.wanted.borrow().ends_task();
        if ends {
            self.report(TaskState::Shutdown, "shutdown", "", None);
        }
        ends
    }

    fn order(&self, message: &'static str) -> Result<TaskLaunch, NotStarted> {
        let assigned = self.assigned.borrow();
        let nothing = AssignedSet::default();
        let set = assigned.as_ref().unwrap_or(&nothing);
        let node = NodeNames {
            node_id: &self.shared.node_id,
            hostname: &self.shared.facts.hostname,
            architecture: &self.shared.facts.architecture,
        };
        let executor = &self.shared.executor;
        let launch = order(&self.task, set, &node, |image| executor.runs_image(image));
        let launch = launch.map_err(|error| NotStarted {
            state: match error {
                OrderError::Rejected(_) => TaskState::Rejected,
                OrderError::Failed(_) => TaskState::Failed,
            },
            message,
            error: error.to_string(),
        })?;
        executor
            .check(&launch)
            .map_err(|error| not_launched(message, &error))?;
        Ok(launch)
    }

    /// Watches a running task until its end, stopping it when that is wanted.
    async fn accompany(&mut self, execution: &dyn Execution, running_since: Option<Timestamp>) {
        let pid = i32::try_from(execution.pid()).unwrap_or(0);
        let _running = Running::count(&self.shared);
        let container = ContainerStatus {
            container_id: self.task.id.clone(),
            pid,
            exit_code: 0,
        };
        let since = running_since.unwrap_or_else(|| timestamp(self.shared.now()));
        self.report_since(since, TaskState::Running, "started", "", Some(container));
        let ended_by_itself = tokio::select! {
            exit = execution.wait() => Some(exit),
            wanted = ends(&mut self.wanted) => match wanted {
                Ok(()) => None,
                Err(_) => return,
            },
        };
        let stopped = ended_by_itself.is_none();
        let exit = match ended_by_itself {
            Some(exit) => exit,
            None => tokio::select! {
                exit = execution.wait() => exit,
                never = keep_asking_to_stop(execution, &self.task.id) => match never {},
                // What is left of it is ended the hard way, and reported if that fails.
                () = self.out_of_patience() => return,
            },
        };
        self.report_exit(pid, &exit, stopped);
    }

    /// Completes when the node leaves and the task had all the time that it was promised.
    async fn out_of_patience(&self) {
        self.leaving.cancelled().await;
        let spec = self.task.spec.as_ref();
        let grace = match spec.and_then(|spec| spec.container.as_ref()) {
            None => UNKNOWN_GRACE,
            Some(container) => container
                .stop_grace_period
                .and_then(|period| Duration::try_from(period).ok())
                .unwrap_or(DEFAULT_GRACE),
        };
        time::sleep(grace.saturating_add(LEAVE_MARGIN)).await;
    }

    fn report_exit(&self, pid: i32, exit: &Exit, stopped: bool) {
        let container = ContainerStatus {
            container_id: self.task.id.clone(),
            pid,
            exit_code: exit.code,
        };
        let (state, message, error) = if stopped {
            (TaskState::Shutdown, "shutdown", String::new())
        } else if exit.code == 0 {
            (TaskState::Complete, "finished", String::new())
        } else {
            (TaskState::Failed, "started", exit_error(exit))
        };
        self.report(state, message, &error, Some(container));
    }

    /// Reports a status that is so from now on.
    fn report(
        &self,
        state: TaskState,
        message: &str,
        error: &str,
        container: Option<ContainerStatus>,
    ) {
        let now = timestamp(self.shared.now());
        self.report_since(now, state, message, error, container);
    }

    /// Reports a status, unless the task is not this node's any more.
    fn report_since(
        &self,
        since: Timestamp,
        state: TaskState,
        message: &str,
        error: &str,
        container: Option<ContainerStatus>,
    ) {
        if matches!(*self.wanted.borrow(), Wanted::Removed) {
            return;
        }
        let status = TaskStatus {
            timestamp: Some(since),
            state: state.into(),
            message: message.to_owned(),
            err: error.to_owned(),
            container,
            port_status: None,
            applied_by: self.shared.node_id.clone(),
            applied_at: Some(timestamp(self.shared.now())),
        };
        self.shared.reports.report(&self.task.id, status);
    }
}

/// Completes when the task is to end; fails when the worker is gone.
async fn ends(wanted: &mut watch::Receiver<Wanted>) -> Result<(), watch::error::RecvError> {
    wanted.wait_for(Wanted::ends_task).await.map(drop)
}

/// In an engine's words, with what else is known.
fn exit_error(exit: &Exit) -> String {
    let mut text = format!("task: non-zero exit ({})", exit.code);
    if exit.oom {
        text.push_str(": out of memory; raise the service's --limit-memory");
    }
    if let Some(message) = &exit.message {
        text.push_str(": ");
        text.push_str(message);
    }
    text
}

fn not_launched(message: &'static str, error: &LaunchError) -> NotStarted {
    let state = if error.is_rejected() {
        TaskState::Rejected
    } else {
        TaskState::Failed
    };
    let mut text = error.to_string();
    if let Some(cause) = std::error::Error::source(error) {
        text = format!("{text}: {cause}");
    }
    NotStarted {
        state,
        message,
        error: text,
    }
}

async fn keep_asking_to_stop(execution: &dyn Execution, task_id: &str) -> std::convert::Infallible {
    while let Err(error) = execution.stop().await {
        warn!(task = task_id, %error, "cannot stop a task, trying again");
        time::sleep(RETRY_PAUSE).await;
    }
    std::future::pending().await
}

/// Counts a running task in the agent's status.
struct Running<'s>(&'s Shared);

impl Running<'_> {
    fn count(shared: &Shared) -> Running<'_> {
        shared
            .status
            .send_modify(|status| status.running_tasks += 1);
        Running(shared)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0
            .status
            .send_modify(|status| status.running_tasks -= 1);
    }
}
