//! Hardening of a process that holds secrets: the daemon and the shim.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Everything below at once, for the daemon's start: not dumpable, no core files, no new
/// privileges, and every inherited descriptor but 0–2 closed on exec.
///
/// Call it before the first thread and before the first secret. An unprivileged process that wants
/// to write its own `uid_map` must do that first: afterwards `/proc/self` belongs to root.
///
/// # Errors
/// The first call that the kernel refused.
pub fn harden_process() -> io::Result<()> {
    undumpable()?;
    no_core_files()?;
    no_new_privileges()?;
    close_on_exec()
}

/// Nobody but root may trace this process or read its memory, and it leaves no core file.
///
/// # Errors
/// When the kernel refuses.
pub fn undumpable() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Sets the limit of core files to 0, soft and hard, for this process and what it starts.
///
/// # Errors
/// When the kernel refuses.
pub fn no_core_files() -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    Ok(setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: Some(0),
        },
    )?)
}

/// No program this process starts gains privileges by set-uid bits or file capabilities.
///
/// # Errors
/// When the kernel refuses.
pub fn no_new_privileges() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// Marks every open descriptor but 0–2 close-on-exec.
///
/// # Errors
/// When the kernel refuses, or is older than 5.11.
pub fn close_on_exec() -> io::Result<()> {
    close_range(libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor but 0–2.
///
/// # Safety
/// No value in this process may own a descriptor above 2: call it first thing in `main`.
///
/// # Errors
/// When the kernel refuses, or is older than 5.9.
pub unsafe fn close_inherited() -> io::Result<()> {
    close_range(0)
}

/// Puts `/dev/null` in the place of descriptors 0–2.
///
/// # Errors
/// When `/dev/null` cannot be opened.
pub fn null_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for standard in 0..=2 {
        // SAFETY: the numbers 0–2 belong to the standard streams, which are used by number only
        // and stay open; `null` is another descriptor, since they are.
        if unsafe { libc::dup2(null.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn close_range(flags: u32) -> io::Result<()> {
    // SAFETY: the call takes numbers only; what closing means is the callers' contract.
    let answer = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, flags) };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
