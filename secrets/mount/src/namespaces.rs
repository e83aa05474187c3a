//! The namespaces of a task beside its mounts.

use std::fs;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// A user namespace in which this process's own uid and gid are 0 and nothing else has a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserNamespace {
    /// The uid outside.
    pub uid: u32,
    /// The gid outside.
    pub gid: u32,
}

impl UserNamespace {
    /// Moves this process, which must have one thread and be dumpable, into a new user namespace
    /// with its own uid as 0. It holds every capability there and none outside.
    ///
    /// # Errors
    /// When the kernel forbids user namespaces to unprivileged users, or the process has threads.
    pub fn enter() -> io::Result<Self> {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        // SAFETY: the kernel refuses a process with threads; credentials of the one thread change
        // as this function says.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?;
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
        Ok(Self { uid, gid })
    }
}

/// Gives this process ipc and uts namespaces of its own, and if `network` a network namespace with
/// loopback only.
///
/// # Errors
/// When the kernel refuses.
pub fn isolate(network: bool) -> io::Result<()> {
    let mut flags = UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if network {
        flags |= UnshareFlags::NEWNET;
    }
    // SAFETY: these namespaces change what names and numbers mean to the kernel, not memory or
    // descriptors of this process.
    unsafe { unshare_unsafe(flags) }?;
    if network { loopback_up() } else { Ok(()) }
}

/// Sets the host name in this process's uts namespace, which must be its own.
///
/// # Errors
/// When it is longer than 64 bytes or the kernel refuses.
pub fn set_hostname(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

fn loopback_up() -> io::Result<()> {
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zeroes is a valid `ifreq`: a name of NULs and integers.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which lives through the call.
    let answer = unsafe {
        libc::ioctl(
            socket.as_raw_fd(),
            libc::SIOCSIFFLAGS as _,
            &raw const request,
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
