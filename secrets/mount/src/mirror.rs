//! Directories of the host that a task sees with more entries than they have.
//!
//! A mount point cannot be made on the host's disk. So a tmpfs takes the directory's place in the
//! task's view, every entry of the host's directory is bound into it, and the new entry is made in
//! the tmpfs. What the task creates directly in such a directory stays in the task.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fstat, mkdirat,
    openat, readlinkat, statat, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::error::MountError;
use crate::sys::{self, TmpfsOptions};

/// The entries that a mirrored directory may have. Each costs a mount in the task's table, and the
/// kernel's default bound is 100,000 mounts in a namespace.
pub const MAX_MIRROR_ENTRIES: usize = 4096;

/// What a task can create directly in one mirrored directory, in bytes.
pub const MIRROR_BYTES: u64 = 16 << 20;

/// What a task can create directly in one mirrored directory, in files.
const MIRROR_INODES: u64 = 4096;

/// A directory that a tmpfs has taken the place of.
#[derive(Debug)]
pub(crate) struct Mirror {
    /// The directory, as the task names it.
    pub(crate) path: PathBuf,
    /// The tmpfs's root.
    pub(crate) root: OwnedFd,
    /// The tmpfs's device number, by which its own directories are known.
    pub(crate) device: u64,
}

impl Mirror {
    /// Puts a tmpfs over `path` (canonical) and binds the host's entries into it. For `/` the tmpfs
    /// becomes the process's root.
    pub(crate) fn build(path: &Path) -> Result<Self, MountError> {
        let failed = |doing| move |error: io::Error| MountError::step(doing, path, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let host = openat(CWD, path, flags, Mode::empty())
            .map_err(|error| MountError::step("read the directory", path, error))?;
        let names = entries(&host, path)?;
        let meta = fstat(&host).map_err(|error| MountError::step("stat", path, error))?;

        let root = tmpfs_like(&meta, names.len()).map_err(failed("make a tmpfs for"))?;
        let device = fstat(&root)
            .map_err(|error| MountError::step("stat", path, error))?
            .st_dev;
        // Stacked on `/` it is reachable by its descriptor only, until it becomes the root.
        sys::attach_at(root.as_fd(), path).map_err(failed("mount over"))?;
        for name in &names {
            let name = Path::new(OsStr::from_bytes(name.to_bytes()));
            copy_entry(host.as_fd(), root.as_fd(), name)
                .map_err(|error| MountError::step("bind", path.join(name), error))?;
        }
        if path == Path::new("/") {
            become_root(root.as_fd()).map_err(failed("change"))?;
        }
        Ok(Self {
            path: path.to_owned(),
            root,
            device,
        })
    }
}

fn entries(host: &OwnedFd, path: &Path) -> Result<Vec<std::ffi::CString>, MountError> {
    let failed = |error: Errno| MountError::step("list", path, error);
    let mut names = Vec::new();
    for entry in Dir::read_from(host).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name: &CStr = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if names.len() == MAX_MIRROR_ENTRIES {
            let limit = MAX_MIRROR_ENTRIES;
            return Err(MountError::TooManyEntries {
                path: path.to_owned(),
                limit,
            });
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// A tmpfs whose root looks like the directory: same mode, and same owner where this user
/// namespace knows it.
fn tmpfs_like(meta: &Stat, entries: usize) -> io::Result<OwnedFd> {
    let mut options = TmpfsOptions {
        bytes: MIRROR_BYTES,
        inodes: Some(entries as u64 + MIRROR_INODES),
        mode: meta.st_mode & 0o7777,
        owner: Some((meta.st_uid, meta.st_gid)),
        noswap: false,
        flags: MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV,
    };
    if let Ok((mount, _)) = sys::new_tmpfs(&options) {
        return Ok(mount);
    }
    options.owner = None;
    sys::new_tmpfs(&options).map(|(mount, _)| mount)
}

/// Binds one entry into the mirror; links are copied. One that has gone meanwhile is left out.
fn copy_entry(host: BorrowedFd<'_>, mirror: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let meta = match statat(host, name, flags) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    match FileType::from_raw_mode(meta.st_mode) {
        FileType::Symlink => {
            let target = readlinkat(host, name, Vec::new())?;
            symlinkat(target, mirror, name)?;
            // In a user namespace the owner may have no number; a link's owner protects nothing.
            let (uid, gid) = (Uid::from_raw(meta.st_uid), Gid::from_raw(meta.st_gid));
            let _ = chownat(
                mirror,
                name,
                Some(uid),
                Some(gid),
                AtFlags::SYMLINK_NOFOLLOW,
            );
            return Ok(());
        }
        FileType::Directory => make_directory(mirror, name)?,
        _ => make_file(mirror, name)?,
    }
    match sys::clone_tree(host, name, true) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Its placeholder stays, empty: the host removed it while the mirror was made.
            Ok(())
        }
        tree => sys::attach(tree?.as_fd(), mirror, name),
    }
}

/// A new directory that anybody may pass, whatever the umask.
pub(crate) fn make_directory(dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    mkdirat(dir, name, Mode::from_raw_mode(0o755))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(dir, name, flags, Mode::empty())?;
    Ok(fchmod(&opened, Mode::from_raw_mode(0o755))?)
}

/// A new empty file for something to be mounted on.
pub(crate) fn make_file(dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::from_raw_mode(0o400))?;
    Ok(())
}

/// Makes a mount that is stacked on `/` the root of this process and takes the old one away.
fn become_root(root: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = openat(CWD, "/", flags, Mode::empty())?;
    rustix::process::fchdir(root)?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => sys::detach(old.as_fd()),
        // The initial ramfs cannot be pivoted away from; there the new root stays on top of it.
        Err(Errno::INVAL) => {
            rustix::process::chroot(".")?;
            Ok(rustix::process::chdir("/")?)
        }
        Err(error) => Err(error.into()),
    }
}
