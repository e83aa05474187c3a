//! The mount calls, thinly: detached trees that are attached by descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree, unmount,
};

/// How a new tmpfs is made.
pub(crate) struct TmpfsOptions {
    /// Bytes it may hold, rounded up to pages by the kernel; 0 leaves the kernel's bound.
    pub(crate) bytes: u64,
    /// Inodes it may have, its root included; `None` leaves the kernel's bound.
    pub(crate) inodes: Option<u64>,
    /// Permission bits of its root.
    pub(crate) mode: u32,
    /// Owner and group of its root.
    pub(crate) owner: Option<(u32, u32)>,
    /// Ask for pages that never reach swap.
    pub(crate) noswap: bool,
    /// What the mount forbids.
    pub(crate) flags: MountAttrFlags,
}

/// A detached tmpfs, and whether the kernel promised `noswap` (6.4 and newer, not in a user
/// namespace, where it answers EINVAL).
pub(crate) fn new_tmpfs(options: &TmpfsOptions) -> io::Result<(OwnedFd, bool)> {
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: String| fsconfig_set_string(fs.as_fd(), key, value);
    set("source", "waxseal".to_owned())?;
    if options.bytes > 0 {
        set("size", options.bytes.to_string())?;
    }
    if let Some(inodes) = options.inodes {
        set("nr_inodes", inodes.to_string())?;
    }
    set("mode", format!("{:o}", options.mode))?;
    if let Some((uid, gid)) = options.owner {
        set("uid", uid.to_string())?;
        set("gid", gid.to_string())?;
    }
    let noswap = options.noswap && fsconfig_set_flag(fs.as_fd(), "noswap").is_ok();
    fsconfig_create(fs.as_fd())?;
    let mount = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, options.flags)?;
    Ok((mount, noswap))
}

/// A detached copy of the mount at `path`, with all that is mounted below it if `recursive`.
pub(crate) fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_NO_AUTOMOUNT
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(open_tree(dir, path, flags)?)
}

/// Attaches a detached tree over `path`, which is looked up from `dir`; links are not followed.
pub(crate) fn attach(tree: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    Ok(move_mount(
        tree,
        "",
        dir,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// Attaches a detached tree over an absolute path.
pub(crate) fn attach_at(tree: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    attach(tree, CWD, path)
}

/// Takes an attached mount away again; copies of it stay. Leaves the process in `/`.
pub(crate) fn detach(mount: BorrowedFd<'_>) -> io::Result<()> {
    rustix::process::fchdir(mount)?;
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Adds restrictions to a mount, and to all below it if `recursive`.
pub(crate) fn restrict(
    mount: BorrowedFd<'_>,
    flags: MountAttrFlags,
    recursive: bool,
) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: u64::from(flags.bits()),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let mut at = libc::AT_EMPTY_PATH;
    if recursive {
        at |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a NUL-terminated literal, the attributes live through the call, and
    // their size is passed along.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            at,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Everything that a mount of data may forbid.
pub(crate) fn inert() -> MountAttrFlags {
    MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
}
