//! Starts shims, finds those of an earlier daemon, and reads what they leave.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;
use waxseal_mount::TaskFile;

use super::cgroup::{self, Delegation};
use super::check::{self, Host, millis};
use super::error::LaunchError;
use super::frame::{self, Answer, Launch};
use super::logs::{self, LogOptions, LogRecord};
use super::records::{self, ExitRecord, TaskDirs, is_task_id};
use super::running::{RunningTask, ShimTask, connect};
use super::shim::PROBE;
use super::types::{Adopted, HostReport, NativeConfig, OrphanPolicy, TaskLaunch};
use super::users::Database;

/// How long a start may take: mirrored directories and large files included.
const START: Duration = Duration::from_secs(60);

/// The longest answer of a shim.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// What is said of a task of which only the log is left.
const NOT_HERE: &str = "the task's state is gone, as after a restart of the machine";

/// Runs native tasks on this host, one shim each.
#[derive(Debug)]
pub struct NativeExecutor {
    config: NativeConfig,
    delegation: Result<Delegation, String>,
    root: bool,
}

impl NativeExecutor {
    /// An executor over these directories; they are made (0700) if they are not there. If a cgroup
    /// was delegated to this process, it moves to a leaf of it.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn new(config: NativeConfig) -> io::Result<Self> {
        records::create_private(&records::state_root(&config))?;
        records::create_private(&records::log_root(&config))?;
        let delegation = Delegation::find(config.cgroup.as_deref());
        Ok(Self {
            config,
            delegation,
            root: rustix::process::geteuid().is_root(),
        })
    }

    /// Whether limits of CPU, memory and pids are enforced here; a launch with limits is refused
    /// where they are not.
    pub fn limits_enforceable(&self) -> bool {
        self.delegation.is_ok()
    }

    /// Whether tasks are to end when nobody is left who wants them.
    pub fn stops_orphans(&self) -> bool {
        self.config.orphans == OrphanPolicy::Stop
    }

    /// What this host offers, found out by a shim that tries.
    ///
    /// # Errors
    /// When the shim cannot be started or does not answer.
    pub async fn probe(&self) -> io::Result<HostReport> {
        let mut command = Command::new(&self.config.shim_exe);
        command
            .arg0("waxseal")
            .args(["shim", PROBE])
            .env_clear()
            .current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let output = timeout(START, command.kill_on_drop(true).output()).await??;
        let mut report: HostReport = serde_json::from_slice(&output.stdout)?;
        report.limits = self.limits_enforceable();
        if let Err(reason) = &self.delegation {
            report
                .notes
                .push(format!("limits cannot be enforced: {reason}"));
        }
        Ok(report)
    }

    /// Whether the task could start here: what [`launch`](Self::launch) refuses before it starts
    /// anything.
    ///
    /// # Errors
    /// [`LaunchError::Rejected`], naming what is not possible.
    pub fn check(&self, task: &TaskLaunch) -> Result<(), LaunchError> {
        self.plan(task).map(|_| ())
    }

    fn plan(&self, task: &TaskLaunch) -> Result<(Launch, cgroup::Limits), LaunchError> {
        if !is_task_id(&task.task_id) {
            return Err(LaunchError::rejected(
                "a task's id has letters and digits only",
            ));
        }
        let uname = rustix::system::uname();
        let hostname = uname.nodename().to_string_lossy();
        let host = Host {
            root: self.root,
            users: self.config.users,
            limits: self.delegation.as_ref().map(|_| ()).map_err(String::as_str),
            database: &Database::read(),
            hostname: &hostname,
        };
        check::plan(task, &host)
    }

    /// Starts a task; its program runs when this returns. Dropped before it is done, it may leave a
    /// task behind that [`adopt_all`](Self::adopt_all) finds and [`remove`](Self::remove) ends.
    ///
    /// # Errors
    /// See [`LaunchError`]; no record is left then.
    pub async fn launch(&self, task: TaskLaunch) -> Result<RunningTask, LaunchError> {
        let (mut launch, limits) = self.plan(&task)?;
        let dirs = TaskDirs::new(&self.config, &task.task_id);
        dirs.create().map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => LaunchError::Exists {
                task_id: task.task_id.clone(),
            },
            _ => LaunchError::io("make the task's directories", error),
        })?;
        let started = match self.complete(&mut launch, &limits, &dirs) {
            Ok(()) => self.start(&launch, &task.files, &dirs).await,
            Err(error) => Err(LaunchError::io("make the task's cgroup", error)),
        };
        if started.is_err() {
            self.forget(&task.task_id, &dirs);
        }
        started
    }

    /// Adds what only the executor knows.
    fn complete(
        &self,
        launch: &mut Launch,
        limits: &cgroup::Limits,
        dirs: &TaskDirs,
    ) -> io::Result<()> {
        if let Ok(delegation) = &self.delegation {
            launch.cgroup = Some(delegation.create(&launch.task_id, limits)?);
            launch.shim_cgroup = Some(delegation.shims()?);
        }
        // The shim's own working directory is the state directory.
        launch.log_dir = std::path::absolute(&dirs.logs)?;
        let covered = self.config.covered.iter().map(std::path::absolute);
        launch.covered = covered.collect::<io::Result<_>>()?;
        launch.orphan_stop_ms = match self.config.orphans {
            OrphanPolicy::Keep => None,
            OrphanPolicy::Stop => Some(millis(self.config.orphan_after)),
        };
        Ok(())
    }

    async fn start(
        &self,
        launch: &Launch,
        files: &[TaskFile],
        dirs: &TaskDirs,
    ) -> Result<RunningTask, LaunchError> {
        let mut command = Command::new(&self.config.shim_exe);
        command
            .arg0("waxseal")
            .args(["shim", &launch.task_id])
            .env_clear();
        command.current_dir(&dirs.state);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut shim = command
            .spawn()
            .map_err(|error| LaunchError::io("start the shim", error))?;
        let answer = match timeout(START, converse(&mut shim, launch, files)).await {
            Ok(answer) => answer,
            Err(late) => Err(late.into()),
        };
        let fault = match answer {
            Ok(Answer::Started) => {
                // Takes the shim's status at its end, if this daemon is still there then.
                tokio::spawn(async move { shim.wait().await });
                return self.meet(&launch.task_id, dirs).await;
            }
            Ok(Answer::Rejected { reason }) => LaunchError::Rejected { reason },
            Ok(Answer::Failed { what }) => LaunchError::Failed { what },
            Err(error) => LaunchError::io("hear from the shim", error),
        };
        let _ = shim.kill().await;
        Err(fault)
    }

    async fn meet(&self, task_id: &str, dirs: &TaskDirs) -> Result<RunningTask, LaunchError> {
        let failed = |error| LaunchError::io("connect to the shim", error);
        let task = self.known(task_id, dirs).map_err(failed)?;
        let task = task.ok_or_else(|| failed(ErrorKind::NotFound.into()))?;
        task.run_or_ended().await.map_err(failed)
    }

    fn known(&self, task_id: &str, dirs: &TaskDirs) -> io::Result<Option<ShimTask>> {
        let cgroup = self
            .delegation
            .as_ref()
            .ok()
            .map(|delegation| delegation.path(task_id));
        let meta = dirs.meta()?;
        Ok(meta.map(|meta| ShimTask {
            dirs: dirs.clone(),
            meta,
            cgroup,
        }))
    }

    /// The tasks of earlier daemons: those that run and those that ended and were not removed. A
    /// launch that was cut short leaves nothing; a task of which only the log is left, as after a
    /// restart of the machine, has ended.
    ///
    /// # Errors
    /// When the records cannot be listed; a task whose own records cannot be read is given as
    /// ended, with the reason as its message.
    pub async fn adopt_all(&self) -> io::Result<Vec<Adopted>> {
        let mut ids = BTreeSet::new();
        for root in [
            records::state_root(&self.config),
            records::log_root(&self.config),
        ] {
            for entry in std::fs::read_dir(root)? {
                let name = entry?.file_name();
                ids.extend(
                    name.to_str()
                        .filter(|name| is_task_id(name))
                        .map(str::to_owned),
                );
            }
        }
        let mut adopted = Vec::new();
        for task_id in ids {
            adopted.extend(self.adopt(&task_id).await);
        }
        Ok(adopted)
    }

    async fn adopt(&self, task_id: &str) -> Option<Adopted> {
        let dirs = TaskDirs::new(&self.config, task_id);
        let ended = |record: ExitRecord| {
            Some(Adopted::Ended {
                task_id: task_id.to_owned(),
                exit: record.into(),
            })
        };
        let unreadable = |error: io::Error| {
            ended(ExitRecord::lost(&format!(
                "the task's records cannot be read: {error}"
            )))
        };
        if !dirs.state.exists() {
            return ended(ExitRecord::lost(NOT_HERE));
        }
        match dirs.exit() {
            Ok(Some(record)) => return ended(record),
            Ok(None) => {}
            Err(error) => return unreadable(error),
        }
        let mut task = self.known(task_id, &dirs);
        if matches!(task, Ok(None)) && connect(&dirs.state).await.is_ok() {
            // A shim that is about to start its task: the launch was asked for, so it counts.
            for _ in 0..START.as_secs() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                task = self.known(task_id, &dirs);
                if !matches!(task, Ok(None)) || connect(&dirs.state).await.is_err() {
                    break;
                }
            }
        }
        match task {
            Err(error) => unreadable(error),
            Ok(None) => {
                self.forget(task_id, &dirs);
                None
            }
            Ok(Some(task)) => match RunningTask::connect(task.clone()).await {
                Ok(running) => Some(Adopted::Running(running)),
                // Its shim is gone, or ends just now.
                Err(_) => ended(task.wait().await),
            },
        }
    }

    /// Deletes a task's records and logs; ends it first if it still runs. Unknown ids are fine.
    ///
    /// # Errors
    /// When something cannot be deleted, or the kernel does not let the task go.
    pub async fn remove(&self, task_id: &str) -> io::Result<()> {
        if !is_task_id(task_id) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a task's id"));
        }
        let dirs = TaskDirs::new(&self.config, task_id);
        if let Ok(Some(task)) = self.known(task_id, &dirs) {
            task.end().await?;
        }
        if let Ok(delegation) = &self.delegation {
            let _ = cgroup::remove(&delegation.path(task_id));
        }
        dirs.delete()
    }

    fn forget(&self, task_id: &str, dirs: &TaskDirs) {
        if let Ok(delegation) = &self.delegation {
            let _ = cgroup::remove(&delegation.path(task_id));
        }
        if let Err(error) = dirs.delete() {
            tracing::warn!(task_id, %error, "the directories of a task could not be deleted");
        }
    }

    /// A task's log records, oldest first, through a bounded channel; ends with the last record,
    /// or, when following, once the task has ended or the receiver is dropped. Must be called in a
    /// tokio runtime.
    ///
    /// # Errors
    /// `NotFound` when no log of the task is here.
    pub fn logs(
        &self,
        task_id: &str,
        options: LogOptions,
    ) -> io::Result<mpsc::Receiver<LogRecord>> {
        if !is_task_id(task_id) {
            return Err(ErrorKind::NotFound.into());
        }
        let dirs = TaskDirs::new(&self.config, task_id);
        let log_dir = dirs.logs.clone();
        let ended = move || !matches!(dirs.exit(), Ok(None)) || !dirs.state.exists();
        logs::follow(&log_dir, options, ended)
    }
}

/// Sends the launch and hears the answer. A shim that refuses early closes its input, and its
/// answer says why.
async fn converse(shim: &mut Child, launch: &Launch, files: &[TaskFile]) -> io::Result<Answer> {
    let (Some(mut input), Some(output)) = (shim.stdin.take(), shim.stdout.take()) else {
        return Err(ErrorKind::BrokenPipe.into());
    };
    let head = frame::head(launch)?;
    let sent = async {
        input.write_all(&head).await?;
        for file in files {
            input.write_all(&file.data).await?;
        }
        input.flush().await
    };
    let sent = sent.await;
    drop(input);
    let mut line = Vec::new();
    let mut output = BufReader::new(output.take(MAX_ANSWER_BYTES));
    output.read_until(b'\n', &mut line).await?;
    match serde_json::from_slice(&line) {
        Ok(answer) => Ok(answer),
        Err(error) => sent.and(Err(error.into())),
    }
}
