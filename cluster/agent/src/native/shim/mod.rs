//! The shim: one process of one thread per task, which outlives the daemon that started it.
//!
//! It is in the host's own mount namespace; the task's namespaces are its child's. When it is
//! killed, the kernel kills the child (parent-death signal), with it everything in the child's pid
//! namespace, and with the last process the mounts and the memory of the task's files.
//!
//! In order: 1. known signals and descriptors, own session; 2. without root a user namespace;
//! 3. hardening; 4. the control socket, by which an executor knows that it is there; 5. the launch
//! frame; 6. the child, until its program runs; 7. the record of who it is; 8. the answer;
//! 9. serving until the task ends; 10. the exit record.

mod child;
mod serve;
mod start;
mod talk;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use rustix::fs::Mode;
use waxseal_mount::{Forked, UserNamespace, View, child_status, fork, harden, signals};

use super::cgroup;
use super::control;
use super::frame::{self, Answer};
use super::types::HostReport;

/// The second argument that asks what the host offers, in place of a task's id.
pub(super) const PROBE: &str = "--probe";

/// Why a task does not run.
#[derive(Debug)]
enum Fault {
    /// The specification cannot be carried out here.
    Rejected(String),
    /// Something failed.
    Failed(String),
}

impl Fault {
    fn failed(doing: &str, error: &io::Error) -> Self {
        Self::Failed(format!("could not {doing}: {error}"))
    }
}

/// What the binary does when its first argument is `shim`: holds one native task. It must be called
/// first thing in `main`, before any thread, file or runtime is made.
pub fn shim_main() -> ExitCode {
    if let Err(error) = known_state() {
        eprintln!("error: the shim could not start: {error}");
        return ExitCode::FAILURE;
    }
    let streams = io::stdin().as_fd().try_clone_to_owned().and_then(|input| {
        Ok((
            File::from(input),
            File::from(io::stdout().as_fd().try_clone_to_owned()?),
        ))
    });
    let Ok((input, mut output)) = streams else {
        return ExitCode::FAILURE;
    };
    let namespace = own_namespace();
    let hardened = harden::null_stdio()
        .and_then(|()| harden::undumpable())
        .and_then(|()| harden::no_core_files());
    if std::env::args_os().nth(2).is_some_and(|word| word == PROBE) {
        let report = serde_json::to_vec(&probe(&namespace));
        let told = report.is_ok_and(|report| output.write_all(&report).is_ok());
        return if told {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let begun = match (namespace, hardened) {
        (Ok(one_uid), Ok(())) => begin(input, one_uid),
        (Err(reason), _) => Err(Fault::Rejected(reason)),
        (_, Err(error)) => Err(Fault::failed("harden the shim", &error)),
    };
    let answer = match &begun {
        Ok(_) => Answer::Started,
        Err(Fault::Rejected(reason)) => Answer::Rejected {
            reason: reason.clone(),
        },
        Err(Fault::Failed(what)) => Answer::Failed { what: what.clone() },
    };
    // The daemon may be gone; the task runs on and the next daemon finds it.
    let _ = control::line(&answer).and_then(|line| output.write_all(&line));
    drop(output);
    match begun {
        Ok(server) => server.serve(),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Nothing inherited: signals at their defaults and all blocked, descriptors 0–2 only, files
/// private, an own session, no way to more privileges.
fn known_state() -> io::Result<()> {
    signals::reset()?;
    signals::block_all()?;
    #[expect(
        unsafe_code,
        reason = "only the start of main can know that no descriptor is owned"
    )]
    // SAFETY: by this function's place nothing in this process owns a descriptor above 2 yet.
    unsafe {
        harden::close_inherited()?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o077));
    // Refused if this process leads a session already, which is as good.
    let _ = rustix::process::setsid();
    harden::no_new_privileges()
}

/// Without root, a user namespace; whether there is one, or why there cannot be.
fn own_namespace() -> Result<bool, String> {
    if rustix::process::geteuid().is_root() {
        return Ok(false);
    }
    UserNamespace::enter().map(|_| true).map_err(|error| {
        format!(
            "without root native tasks need user namespaces, and this kernel refuses one \
             ({error}); allow them (sysctl user.max_user_namespaces, \
             kernel.apparmor_restrict_unprivileged_userns), or run the daemon as root"
        )
    })
}

fn begin(input: File, one_uid: bool) -> Result<serve::Server, Fault> {
    let listener = UnixListener::bind(control::SOCKET)
        .map_err(|error| Fault::failed("make the control socket", &error))?;
    let (mut launch, files) = frame::read(input)
        .map_err(|error| Fault::failed("read the task's specification", &error))?;
    if let Some(group) = &launch.shim_cgroup {
        cgroup::enter(group, std::process::id())
            .map_err(|error| Fault::failed("enter the shims' cgroup", &error))?;
    }
    let started = start::start(&launch, files, one_uid)?;
    // The task has them; nothing of what it was told need stay here.
    launch.env.clear();
    launch.argv.clear();
    serve::Server::new(launch, listener, started)
}

/// Tries in a child what a task would get.
fn probe(namespace: &Result<bool, String>) -> HostReport {
    let mut report = HostReport {
        pid_namespace: false,
        user_namespace: *namespace == Ok(true),
        noswap: false,
        limits: false,
        notes: Vec::new(),
    };
    if let Err(reason) = namespace {
        report.notes.push(reason.clone());
        return report;
    }
    report.pid_namespace = in_child(true, || {
        View::enter().is_ok_and(|mut view| view.mount_proc().is_ok())
    });
    report.noswap = in_child(false, || {
        let Ok(mut view) = View::enter() else {
            return false;
        };
        view.files(&[start::sample()]).is_ok() && !view.notes().needs_locking
    });
    if !report.pid_namespace {
        report.notes.push(start::NO_PID_NAMESPACE.to_owned());
        if !report.user_namespace {
            report.notes.push(start::SHARED_PROC.to_owned());
        }
    }
    if !report.noswap {
        report.notes.push(start::NO_NOSWAP.to_owned());
    }
    report
}

/// Whether `work` succeeds in a process of its own.
fn in_child(pid_namespace: bool, work: impl FnOnce() -> bool) -> bool {
    match fork(pid_namespace) {
        Ok(Forked::Child) => std::process::exit(i32::from(!work())),
        Ok(Forked::Parent(child)) => loop {
            match child_status(Some(child)) {
                Ok(Some((_, status))) => return status.exit_status() == Some(0),
                // Signals are blocked, so the child's end waits to be taken.
                Ok(None) if signals::wait().is_ok() => {}
                _ => return false,
            }
        },
        Err(_) => false,
    }
}
