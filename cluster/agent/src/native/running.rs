//! A task that runs under its shim, as the daemon sees it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags, openat};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use waxseal_mount::{is_alive, signals};

use super::cgroup;
use super::check::{millis, parse_stop_signal};
use super::control::{self, MAX_LINE_BYTES, Reply, Request};
use super::records::{self, ExitRecord, Meta, TaskDirs};
use super::types::Exit;

/// How long a living shim may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the kernel may take to end what was killed.
const DYING: Duration = Duration::from_secs(10);

/// Between two looks at what is about to change.
const LOOK: Duration = Duration::from_millis(20);

/// What is said of a task whose shim left no exit record.
const LOST: &str = "the task's shim was killed, and the task with it";

/// A task that runs under its shim. Dropping it leaves the task alone.
#[derive(Debug, Clone)]
pub struct RunningTask {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    task: ShimTask,
    /// While it is open the shim knows that it has a daemon.
    _presence: Option<UnixStream>,
}

/// A task with what is known of it on disk.
#[derive(Debug, Clone)]
pub(super) struct ShimTask {
    pub(super) dirs: TaskDirs,
    pub(super) meta: Meta,
    pub(super) cgroup: Option<std::path::PathBuf>,
}

impl RunningTask {
    /// Connects to the shim of a task that is there.
    pub(super) async fn connect(task: ShimTask) -> io::Result<Self> {
        let mut presence = connect(&task.dirs.state).await?;
        let reply = timeout(ANSWER, request(&mut presence, &Request::Status)).await??;
        if reply != Reply::Running {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Self {
            shared: Arc::new(Shared {
                task,
                _presence: Some(presence),
            }),
        })
    }

    /// The task's id.
    pub fn task_id(&self) -> &str {
        &self.shared.task.meta.task_id
    }

    /// The main process, in the host's numbering.
    pub fn pid(&self) -> u32 {
        self.shared.task.meta.pid
    }

    /// What is weaker than it could be for this task, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.shared.task.meta.notes
    }

    /// Waits for the end; may be called any number of times, also after it. Cancel-safe.
    pub async fn wait(&self) -> Exit {
        self.shared.task.wait().await.into()
    }

    /// Sends `signal` (a name or number; `None`: the task's own, else SIGTERM), and SIGKILL after
    /// `grace` (`None`: the task's own, else 10 s). Returns when it is asked for, not at the end.
    ///
    /// # Errors
    /// `InvalidInput` for what is no signal; else when a living shim does not answer.
    pub async fn stop(&self, signal: Option<&str>, grace: Option<Duration>) -> io::Result<()> {
        let signal = signal.map(parse_stop_signal).transpose();
        let signal = signal.map_err(|text| io::Error::new(ErrorKind::InvalidInput, text))?;
        self.shared
            .task
            .tell(Request::Stop {
                signal,
                grace_ms: grace.map(millis),
            })
            .await
    }

    /// Ends the task at once. Returns when it is asked for, not at the end.
    ///
    /// # Errors
    /// When a living shim does not answer.
    pub async fn kill(&self) -> io::Result<()> {
        self.shared.task.tell(Request::Kill).await
    }
}

impl ShimTask {
    pub(super) fn shim_lives(&self) -> bool {
        self.of_this_boot() && is_alive(self.meta.shim_pid, self.meta.shim_start)
    }

    /// Pids and start times of another boot name other processes.
    fn of_this_boot(&self) -> bool {
        records::boot_id().is_ok_and(|boot| boot == self.meta.boot_id)
    }

    /// Connects to a shim that has just said that its task runs. A short task may have ended by now;
    /// then there is nobody to connect to, and its record says how.
    pub(super) async fn run_or_ended(self) -> io::Result<RunningTask> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let error = match RunningTask::connect(self.clone()).await {
                Ok(running) => return Ok(running),
                Err(error) => error,
            };
            if self.recorded().is_some() || !self.shim_lives() {
                let shared = Shared {
                    task: self,
                    _presence: None,
                };
                return Ok(RunningTask {
                    shared: Arc::new(shared),
                });
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
            sleep(LOOK).await;
        }
    }

    /// Asks for something; a task that has ended already is fine.
    async fn tell(&self, what: Request) -> io::Result<()> {
        let answered = async {
            let mut stream = connect(&self.dirs.state).await?;
            timeout(ANSWER, request(&mut stream, &what)).await?
        };
        match answered.await {
            Ok(Reply::Stopping | Reply::Ended(_)) => Ok(()),
            Ok(_) => Err(ErrorKind::InvalidData.into()),
            // It has ended, or ends just now and hears nobody.
            Err(_) if self.recorded().is_some() || !self.shim_lives() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How the task ended, once it has.
    pub(super) async fn wait(&self) -> ExitRecord {
        loop {
            if let Some(record) = self.recorded() {
                return record;
            }
            let asked = async {
                let mut stream = connect(&self.dirs.state).await?;
                request(&mut stream, &Request::Wait).await
            };
            if let Ok(Reply::Ended(record)) = asked.await {
                return record;
            }
            if !self.shim_lives() {
                // It may have written its record after the first look.
                return match self.recorded() {
                    Some(record) => record,
                    None => self.bury().await,
                };
            }
            sleep(LOOK).await;
        }
    }

    fn recorded(&self) -> Option<ExitRecord> {
        match self.dirs.exit() {
            Ok(record) => record,
            Err(error) => Some(ExitRecord::lost(&format!(
                "the task ended, and its exit record cannot be read: {error}"
            ))),
        }
    }

    /// Sees to it that nothing is left of a task whose shim is gone, and records that.
    async fn bury(&self) -> ExitRecord {
        if let Some(group) = &self.cgroup {
            let _ = cgroup::kill(group);
        }
        let Meta { pid, pid_start, .. } = self.meta;
        let deadline = Instant::now() + DYING;
        while self.of_this_boot() && is_alive(pid, pid_start) && Instant::now() < deadline {
            let _ = signals::send(pid.cast_signed(), libc::SIGKILL);
            sleep(LOOK).await;
        }
        if let Some(group) = &self.cgroup {
            let _ = cgroup::remove(group);
        }
        let lost = ExitRecord::lost(LOST);
        match records::write_exit(&self.dirs.state, &lost) {
            Ok(()) => self.recorded().unwrap_or(lost),
            Err(_) => lost,
        }
    }

    /// Ends the task however it takes, and its shim.
    ///
    /// # Errors
    /// `TimedOut` when the shim outlives SIGKILL, as a process stuck in the kernel does.
    pub(super) async fn end(&self) -> io::Result<()> {
        let deadline = Instant::now() + DYING;
        while self.shim_lives() && Instant::now() < deadline {
            // With its record on disk the shim ends by itself.
            if self.recorded().is_none() {
                let _asked_again_if_it_failed = self.tell(Request::Kill).await;
            }
            sleep(LOOK).await;
        }
        let deadline = Instant::now() + DYING;
        while self.shim_lives() {
            if Instant::now() >= deadline {
                let text = format!(
                    "the task's shim, process {}, outlives SIGKILL",
                    self.meta.shim_pid
                );
                return Err(io::Error::new(ErrorKind::TimedOut, text));
            }
            let _ = signals::send(self.meta.shim_pid.cast_signed(), libc::SIGKILL);
            sleep(LOOK).await;
        }
        if self.recorded().is_none() {
            self.bury().await;
        }
        Ok(())
    }
}

/// Connects to a shim's socket, by a path short enough for a socket's name.
pub(super) async fn connect(state: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir: OwnedFd = openat(CWD, state, flags, Mode::empty())?;
    let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), control::SOCKET);
    let stream = UnixStream::connect(path).await?;
    let peer = stream.peer_cred()?.uid();
    if peer != rustix::process::geteuid().as_raw() {
        return Err(ErrorKind::PermissionDenied.into());
    }
    Ok(stream)
}

/// Asks and waits for the reply.
async fn request(stream: &mut UnixStream, request: &Request) -> io::Result<Reply> {
    stream.write_all(&control::line(request)?).await?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream).take(MAX_LINE_BYTES as u64);
    reader.read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}
