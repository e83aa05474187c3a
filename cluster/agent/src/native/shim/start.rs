//! The shim's side of a start: the child, until its program runs.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use waxseal_mount::{FileKind, Forked, LockedPages, TaskFile, child_status, fork, signals};

use super::super::cgroup;
use super::super::frame::Launch;
use super::Fault;
use super::child::{self, Outputs};
use super::talk::{self, Message, ShimEnd};

pub(super) const NO_PID_NAMESPACE: &str = "the kernel refuses a fresh /proc here, so tasks have \
     no pid namespace; their processes are killed one by one at the end, and some may outlive a \
     shim that is killed";

pub(super) const SHARED_PROC: &str = "without a pid namespace, tasks of one user can read each \
     other's memory and files, secrets among them, through /proc; give each service a user of its \
     own, or run the daemon where a fresh /proc can be mounted";

pub(super) const NO_NOSWAP: &str = "the kernel gives no tmpfs that keeps out of swap here (before \
     6.4, or without root), so the shim locks the pages of the files";

/// A child whose program runs.
pub(super) struct Started {
    /// The shim's child: the task's init, or its main process.
    pub(super) child: u32,
    /// The main process.
    pub(super) main: u32,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    /// Where an init tells how the main process ended.
    pub(super) outcome: OwnedFd,
    pub(super) pid_namespace: bool,
    /// Keeps the files out of swap for as long as the task runs.
    pub(super) pages: LockedPages,
    pub(super) notes: Vec<String>,
}

enum Attempt {
    Runs(Started),
    ProcRefused,
}

/// Starts the task. The files' contents are wiped here when this returns.
pub(super) fn start(
    launch: &Launch,
    mut files: Vec<TaskFile>,
    one_uid: bool,
) -> Result<Started, Fault> {
    if let Attempt::Runs(started) = attempt(launch, &mut files, one_uid, true)? {
        return Ok(started);
    }
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|error| Fault::failed("become the task's subreaper", &error.into()))?;
    match attempt(launch, &mut files, one_uid, false)? {
        Attempt::Runs(mut started) => {
            started.notes.push(NO_PID_NAMESPACE.to_owned());
            // Each of those is in a user namespace of its own, which keeps the others out.
            if !one_uid {
                started.notes.push(SHARED_PROC.to_owned());
            }
            Ok(started)
        }
        Attempt::ProcRefused => Err(Fault::Failed("the kernel refuses /proc".to_owned())),
    }
}

fn attempt(
    launch: &Launch,
    files: &mut Vec<TaskFile>,
    one_uid: bool,
    pid_namespace: bool,
) -> Result<Attempt, Fault> {
    let failed = |error: io::Error| Fault::failed("make pipes for the task", &error);
    let (stdout, task_stdout) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let (stderr, task_stderr) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let (outcome, task_outcome) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    for end in [&stdout, &stderr] {
        let flags = fcntl_getfl(end).map_err(|e| failed(e.into()))?;
        fcntl_setfl(end, flags | OFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
    }
    let (ours, theirs) = talk::pair().map_err(failed)?;
    let child = match fork(pid_namespace) {
        Ok(Forked::Child) => {
            drop((stdout, stderr, outcome, ours));
            let outputs = Outputs {
                stdout: task_stdout,
                stderr: task_stderr,
                outcome: task_outcome,
            };
            child::run(launch, files, theirs, outputs, one_uid, pid_namespace)
        }
        Ok(Forked::Parent(child)) => child,
        Err(error) => return Err(Fault::failed("make a process for the task", &error)),
    };
    drop((task_stdout, task_stderr, task_outcome, theirs));
    let followed = follow(launch, &ours, child);
    if !matches!(followed, Ok(Followed::Runs { .. })) {
        end_child(child);
    }
    match followed? {
        Followed::ProcRefused => Ok(Attempt::ProcRefused),
        Followed::Runs { main, pages, notes } => Ok(Attempt::Runs(Started {
            child,
            main,
            stdout,
            stderr,
            outcome,
            pid_namespace,
            pages,
            notes,
        })),
    }
}

enum Followed {
    ProcRefused,
    Runs {
        main: u32,
        pages: LockedPages,
        notes: Vec<String>,
    },
}

/// Answers the child until its end of the conversation is closed by the program's start.
fn follow(launch: &Launch, ours: &ShimEnd, child: u32) -> Result<Followed, Fault> {
    let lost = |error: io::Error| Fault::failed("follow the task's start", &error);
    let (mut pages, mut all_notes, mut main) = (LockedPages::default(), Vec::new(), None);
    while let Some(received) = ours.receive().map_err(lost)? {
        match received.message {
            Message::ProcRefused => return Ok(Followed::ProcRefused),
            Message::Rejected(reason) => return Err(Fault::Rejected(reason)),
            Message::Failed(what) => return Err(Fault::Failed(what)),
            Message::View { notes } => {
                all_notes = notes;
                if let Some(directory) = received.descriptor {
                    match LockedPages::lock(directory.as_fd()) {
                        Ok(locked) => pages = locked,
                        Err(error) => all_notes.push(format!(
                            "the pages of the task's files could reach swap: they could not be \
                             locked ({error}); raise RLIMIT_MEMLOCK or turn swap off"
                        )),
                    }
                }
            }
            Message::Armed => {
                let pid = received.pid.unwrap_or(child);
                if let Some(group) = &launch.cgroup {
                    cgroup::enter(group, child)
                        .and_then(|()| cgroup::enter(group, pid))
                        .map_err(|error| Fault::failed("put the task in its cgroup", &error))?;
                }
                main = Some(pid);
            }
        }
        ours.go_on().map_err(lost)?;
    }
    match main {
        Some(main) => Ok(Followed::Runs {
            main,
            pages,
            notes: all_notes,
        }),
        None => Err(Fault::Failed(
            "the task's process ended before its program ran".to_owned(),
        )),
    }
}

/// Kills a child that did not start, and takes its status.
fn end_child(child: u32) {
    let _ = signals::send(child.cast_signed(), libc::SIGKILL);
    while let Ok(None) = child_status(Some(child)) {
        if signals::wait().is_err() {
            return;
        }
    }
}

/// A file to try a tmpfs with.
pub(super) fn sample() -> TaskFile {
    TaskFile {
        kind: FileKind::Secret,
        path: "/run/secrets/probe".into(),
        uid: 0,
        gid: 0,
        mode: 0o400,
        data: Vec::new().into(),
    }
}
