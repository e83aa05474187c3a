//! Forking, and knowing a process again.

use std::fs;
use std::io;

use rustix::process::{Pid, WaitOptions, WaitStatus, wait, waitpid};

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The process that forked, with the child's pid in its own numbering.
    Parent(u32),
}

/// Forks this process, which must have one thread; with `pid_namespace` the child is pid 1 of a new
/// one.
///
/// # Errors
/// `InvalidInput` when the process has more than one thread, since the others would be missing in
/// the child with their locks held; else the kernel's answer.
pub fn fork(pid_namespace: bool) -> io::Result<Forked> {
    // Asking for what is so anyway: refused with EINVAL exactly when there are other threads.
    // SAFETY: without other threads the call changes nothing.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut flags = libc::SIGCHLD as libc::c_ulong;
    if pid_namespace {
        flags |= libc::CLONE_NEWPID as libc::c_ulong;
    }
    let none = 0 as libc::c_ulong;
    // SAFETY: without CLONE_VM and with no new stack this is fork(2): the child runs on a copy of
    // this memory. The process has one thread, so no lock is held by anybody else. The argument
    // order differs between machines, but all after the flags are zero.
    match unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(
            u32::try_from(pid).map_err(io::Error::other)?,
        )),
    }
}

/// Takes the status of one ended child: the given one, or any with `None`. `Ok(None)`: no such
/// child has ended (or there is none).
///
/// # Errors
/// The kernel's answer, other than that there are no children.
pub fn child_status(pid: Option<u32>) -> io::Result<Option<(u32, WaitStatus)>> {
    let pid = pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    loop {
        // Without a pid, `waitpid` takes children of this process's group only.
        let ended = match pid {
            Some(pid) => waitpid(Some(pid), WaitOptions::NOHANG),
            None => wait(WaitOptions::NOHANG),
        };
        match ended {
            Ok(ended) => return Ok(ended.map(|(pid, status)| (pid_number(pid), status))),
            Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn pid_number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// The processes whose parent is this one, by `/proc`.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn children() -> io::Result<Vec<u32>> {
    let me = std::process::id().to_string();
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if stat_field(pid, 4).as_ref() == Some(&me) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// When a process started, in clock ticks since boot (field 22 of `/proc/PID/stat`): with the pid
/// it names a process for the time this machine is up. `None` when there is no such process.
pub fn start_time(pid: u32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// Whether the process with this pid and start time is there and not a zombie.
pub fn is_alive(pid: u32, started: u64) -> bool {
    let state = stat_field(pid, 3);
    state.is_some_and(|state| state != "Z" && state != "X") && start_time(pid) == Some(started)
}

/// A field of `/proc/PID/stat`, counted from 1 as in proc(5), from 3 on.
fn stat_field(pid: u32, number: usize) -> Option<String> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name in parentheses may hold anything, parentheses too.
    let (_, fields) = text.rsplit_once(')')?;
    fields
        .split_ascii_whitespace()
        .nth(number.checked_sub(3)?)
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || held.recv());
        assert_eq!(fork(false).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        drop(hold);
        let _ = other.join();
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let me = std::process::id();
        let started = start_time(me).unwrap();
        assert!(is_alive(me, started));
        assert!(!is_alive(me, started + 1));
        assert_eq!(start_time(u32::MAX), None);
    }
}
