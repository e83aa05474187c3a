//! Signals of a process of one thread: blocked, waited for, sent, by number.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

/// The highest signal number on Linux.
pub const MAX_SIGNAL: i32 = 64;

/// Sets every signal to its default and blocks none, as a new program expects it.
///
/// # Errors
/// When the kernel refuses the mask.
pub fn reset() -> io::Result<()> {
    // The kernel's `sigaction` with handler SIG_DFL and no flags: all zero on every machine, and
    // no larger than this. The C library would leave its own two signals as they were inherited.
    let default = [0u64; 8];
    let mask_bytes = MAX_SIGNAL / 8;
    for signal in 1..=MAX_SIGNAL {
        // SAFETY: the kernel reads one `sigaction` from the array and writes none. No handler is
        // installed. KILL and STOP, which may not be set, are refused, which is as good.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                mask_bytes as usize,
            )
        };
    }
    unblock_all()
}

/// Blocks no signal.
///
/// # Errors
/// When the kernel refuses.
pub fn unblock_all() -> io::Result<()> {
    set_mask(false)
}

/// Blocks all signals: they wait until [`wait`] or a [`SignalFd`] takes them. A program started
/// from here inherits that.
///
/// # Errors
/// When the kernel refuses.
pub fn block_all() -> io::Result<()> {
    set_mask(true)
}

fn full_set() -> libc::sigset_t {
    // SAFETY: a set of integers, filled by the next call.
    let mut set = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a live set.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

fn set_mask(full: bool) -> io::Result<()> {
    let set = full_set();
    let how = if full {
        libc::SIG_BLOCK
    } else {
        libc::SIG_UNBLOCK
    };
    // SAFETY: the set lives through the call; no old set is asked for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Waits for the next signal, all of them being blocked, and takes it.
///
/// # Errors
/// The kernel's answer; interruptions are waited through.
pub fn wait() -> io::Result<i32> {
    let set = full_set();
    loop {
        // SAFETY: the set lives through the call; no details are asked for.
        match unsafe { libc::sigwaitinfo(&raw const set, ptr::null_mut()) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            signal => return Ok(signal),
        }
    }
}

/// Sends a signal to a process, or to all of a group with a negative number.
///
/// # Errors
/// When there is no such process or it may not be signalled.
pub fn send(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    if unsafe { libc::kill(pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A descriptor that is readable when a signal waits, all of them being blocked.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Takes all signals.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> io::Result<Self> {
        let set = full_set();
        // SAFETY: the set lives through the call, which makes a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that waits, if any.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn take(&self) -> io::Result<Option<i32>> {
        // SAFETY: all zeroes is a valid record of integers.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is one whole record, and the kernel writes whole records only.
        let got = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        if got.cast_unsigned() == size {
            return Ok(Some(info.ssi_signo.cast_signed()));
        }
        let error = io::Error::last_os_error();
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
