//! The shim's child: makes the task's namespaces and view, then becomes the task, or its init.
//!
//! In order: 1. die with the shim; 2. namespaces; 3. the view, with the files; 4. their pages are
//! locked, if they must be, and their contents wiped from this memory; 5. with an init, another
//! process goes on; 6. limits, working directory, identity, capabilities; 7. the program is looked
//! up; 8. the shim puts the process in its cgroup and says go; 9. the program.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};

use rustix::fs::{Access, Mode, access};
use rustix::process::{Gid, Signal, Uid, WaitStatus};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use waxseal_mount::{
    BindMount, CapSet, Forked, MountError, Notes, TaskFile, TmpfsMount, Vault, View, child_status,
    fork, isolate, set_hostname, signals,
};

use super::super::frame::Launch;
use super::Fault;
use super::start::NO_NOSWAP;
use super::talk::{ChildEnd, Message};

/// What a task's files are created with unless it sets its own: the usual mask.
const TASK_UMASK: u32 = 0o022;

/// What a shell answers for a command that could not be started.
const EXIT_NOT_STARTED: i32 = 127;

/// The task's ends of the pipes.
pub(super) struct Outputs {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
    pub(super) outcome: OwnedFd,
}

/// How the main process ended, as an init tells it: a kind and a number.
pub(super) const OUTCOME_BYTES: usize = 5;
pub(super) const OUTCOME_EXITED: u8 = 0;
pub(super) const OUTCOME_SIGNALLED: u8 = 1;

/// The number of the capability to signal any process (capabilities(7)).
const CAP_KILL: u32 = 5;

/// Runs in the child, and does not come back.
pub(super) fn run(
    launch: &Launch,
    files: &mut Vec<TaskFile>,
    shim: ChildEnd,
    outputs: Outputs,
    one_uid: bool,
    pid_namespace: bool,
) -> ! {
    match prepare(launch, files, &shim, pid_namespace) {
        Ok(()) => {}
        Err(Trouble::ProcRefused) => {
            shim.say(&Message::ProcRefused);
            exit(EXIT_NOT_STARTED);
        }
        Err(Trouble::Fault(fault)) => fail(&shim, fault),
    }
    if launch.init && pid_namespace {
        match fork(false) {
            Ok(Forked::Child) => {}
            Ok(Forked::Parent(main)) => {
                drop((shim, outputs.stdout, outputs.stderr));
                be_init(main, outputs.outcome);
            }
            Err(error) => fail(&shim, Fault::failed("make a process for the task", &error)),
        }
    }
    drop(outputs.outcome);
    let fault = become_task(launch, &shim, outputs.stdout, outputs.stderr, one_uid);
    fail(&shim, fault)
}

fn fail(shim: &ChildEnd, fault: Fault) -> ! {
    shim.say(&match fault {
        Fault::Rejected(reason) => Message::Rejected(reason),
        Fault::Failed(what) => Message::Failed(what),
    });
    exit(EXIT_NOT_STARTED)
}

enum Trouble {
    ProcRefused,
    Fault(Fault),
}

impl From<MountError> for Trouble {
    fn from(error: MountError) -> Self {
        if matches!(error, MountError::ProcRefused { .. }) {
            return Self::ProcRefused;
        }
        let refusal = error.is_refusal();
        let text = match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self::Fault(if refusal {
            Fault::Rejected(text)
        } else {
            Fault::Failed(text)
        })
    }
}

fn prepare(
    launch: &Launch,
    files: &mut Vec<TaskFile>,
    shim: &ChildEnd,
    pid_namespace: bool,
) -> Result<(), Trouble> {
    let failed =
        |doing: &'static str| move |error: io::Error| Trouble::Fault(Fault::failed(doing, &error));
    die_with_parent().map_err(failed("tie the task to its shim"))?;
    isolate(launch.own_network).map_err(failed("make the task's namespaces"))?;
    if let Some(name) = &launch.hostname {
        set_hostname(name).map_err(failed("set the hostname"))?;
    }
    let mut view = View::enter()?;
    if launch.read_only {
        view.make_read_only()?;
    }
    if pid_namespace {
        view.mount_proc()?;
    }
    // Before anything is added: what is added is taken from the view as it then is.
    view.protect_cgroups()?;
    view.cover(&launch.covered)?;
    view.bind(&launch.binds.iter().map(BindMount::from).collect::<Vec<_>>())?;
    view.tmpfs(
        &launch
            .tmpfs
            .iter()
            .map(TmpfsMount::from)
            .collect::<Vec<_>>(),
    )?;
    let vault = view.files(files)?;
    // Wipes this process's copy; the shim wipes its own.
    files.clear();
    tell_view(shim, view.notes(), vault.as_ref())
        .map_err(failed("hand the files' pages to the shim"))
}

/// Tells what there is to know, and hands over the files' directory if their pages must be locked:
/// this process's own locks end with the program's start.
fn tell_view(shim: &ChildEnd, notes: &Notes, vault: Option<&Vault>) -> io::Result<()> {
    let mut told = Vec::new();
    for path in &notes.mirrored {
        told.push(format!(
            "`{}` is a tmpfs with the node's entries in the task's view; what the task creates \
             directly in it stays in the task",
            path.display()
        ));
    }
    let directory = match vault {
        Some(vault) if notes.needs_locking => {
            told.push(NO_NOSWAP.to_owned());
            Some(vault.directory()?)
        }
        _ => None,
    };
    // A few words about many mirrors would be a message too long.
    told.truncate(MAX_NOTES);
    shim.ask(
        &Message::View { notes: told },
        directory.as_ref().map(AsFd::as_fd),
    )
}

/// Notes that fit a message: each has a path of up to 4 KiB.
const MAX_NOTES: usize = 6;

fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(
        Signal::KILL,
    ))?)
}

/// Starts the program in place of this process; comes back with why it could not.
fn become_task(
    launch: &Launch,
    shim: &ChildEnd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    one_uid: bool,
) -> Fault {
    let program = match get_ready(launch, one_uid) {
        Ok(program) => program,
        Err(fault) => return fault,
    };
    let ready = shim
        .ask(&Message::Armed, None)
        .and_then(|()| signals::unblock_all());
    if let Err(error) = ready {
        return Fault::failed("speak to the shim", &error);
    }
    let [name, args @ ..] = &launch.argv[..] else {
        return Fault::Rejected("there is no command".to_owned());
    };
    let error = Command::new(program)
        .arg0(name)
        .args(args)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .exec();
    Fault::Failed(format!("exec: \"{name}\": {}", plain(&error)))
}

/// Everything between the view and the program; gives the program's path.
fn get_ready(launch: &Launch, one_uid: bool) -> Result<PathBuf, Fault> {
    let failed = |doing: &'static str| move |error: io::Error| Fault::failed(doing, &error);
    let _ = rustix::process::setsid();
    if launch.oom_score_adj != 0 {
        OpenOptions::new()
            .write(true)
            .open("/proc/self/oom_score_adj")
            .and_then(|mut file| file.write_all(launch.oom_score_adj.to_string().as_bytes()))
            .map_err(failed("set oom_score_adj"))?;
    }
    for limit in &launch.ulimits {
        limit.apply().map_err(|error| {
            Fault::Failed(format!("could not set ulimit {}: {error}", limit.name))
        })?;
    }
    rustix::process::umask(Mode::from_raw_mode(TASK_UMASK));
    rustix::process::chdir(&launch.dir).map_err(|error| {
        let text = plain(&error.into());
        Fault::Failed(format!("chdir to \"{}\": {text}", launch.dir.display()))
    })?;
    let capabilities = CapSet::from_bits(launch.capabilities);
    capabilities.bound().map_err(failed("drop capabilities"))?;
    if !one_uid {
        become_user(launch).map_err(failed("become the task's user"))?;
    }
    if launch.identity.uid == 0 {
        capabilities.hold().map_err(failed("drop capabilities"))?;
    }
    let program = look_up(launch)?;
    // The kernel forgets it when the user changes.
    die_with_parent().map_err(failed("tie the task to its shim"))?;
    Ok(program)
}

fn become_user(launch: &Launch) -> io::Result<()> {
    let identity = &launch.identity;
    let groups: Vec<_> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    set_thread_groups(&groups)?;
    let gid = Gid::from_raw(identity.gid);
    set_thread_res_gid(gid, gid, gid)?;
    let uid = Uid::from_raw(identity.uid);
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

/// Finds the program as execvp(3) does, with the task's own PATH.
fn look_up(launch: &Launch) -> Result<PathBuf, Fault> {
    let name = launch.argv.first().map_or("", String::as_str);
    let failed = |text: &str| Fault::Failed(format!("exec: \"{name}\": {text}"));
    if name.contains('/') {
        return match runnable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) => Err(failed(&plain(&error))),
        };
    }
    let path = launch
        .env
        .iter()
        .find(|(key, _)| key == "PATH")
        .map_or("", |(_, path)| path);
    let mut denied = false;
    for dir in path.split(':').filter(|dir| !dir.is_empty()) {
        let candidate = Path::new(dir).join(name);
        match runnable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) => denied |= error.kind() == ErrorKind::PermissionDenied,
        }
    }
    Err(failed(if denied {
        "permission denied"
    } else {
        "executable file not found in $PATH"
    }))
}

fn runnable(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    Ok(access(path, Access::EXEC_OK)?)
}

/// The words for an error without its number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Pid 1 of the task's pid namespace: passes signals on to the main process, takes the status of
/// what ends, and ends with the main process; the kernel then ends the rest.
fn be_init(main: u32, outcome: OwnedFd) -> ! {
    let _ = rustix::thread::set_name(c"waxseal-init");
    let _ = rustix::process::chdir("/");
    // All that is left to do with privileges is to signal another user's process.
    let _ = CapSet::from_bits(1 << CAP_KILL).hold();
    loop {
        let Ok(signal) = signals::wait() else {
            exit(EXIT_NOT_STARTED)
        };
        if signal != libc::SIGCHLD {
            let _ = signals::send(main.cast_signed(), signal);
            continue;
        }
        while let Ok(Some((pid, status))) = child_status(None) {
            if pid == main {
                exit(report(status, outcome));
            }
        }
    }
}

/// Tells the shim how the main process ended, which the exit code alone does not; gives that code.
fn report(status: WaitStatus, outcome: OwnedFd) -> i32 {
    let (kind, number, code) = match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (OUTCOME_EXITED, code, code),
        (None, Some(signal)) => (OUTCOME_SIGNALLED, signal, 128 + signal),
        (None, None) => return EXIT_NOT_STARTED,
    };
    let [a, b, c, d] = number.to_le_bytes();
    let _ = rustix::io::write(outcome, &[kind, a, b, c, d]);
    code
}
