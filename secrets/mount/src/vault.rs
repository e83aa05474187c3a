//! The tmpfs that holds the contents of a task's files.
//!
//! It is filled while nothing can reach it and read-only from then on. Single files and directories
//! of it are then bound to their places. With the last of these mounts, which live in the task's
//! mount namespace only, the memory is the kernel's again.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, mkdirat, openat};
use rustix::mount::MountAttrFlags;

use crate::error::MountError;
use crate::pages::{LockedPages, Mapping};
use crate::sys::{self, TmpfsOptions};

/// The files a task may have: bounds the mounts and inodes of one task. The engine has no bound; a
/// service is limited by the 1.5 MiB that a command may have.
pub const MAX_FILES: usize = 1024;

/// The bytes a task's files may have together: 128 secrets of the largest size.
pub const MAX_VAULT_BYTES: u64 = 64 << 20;

/// What every page size of Linux divides; tmpfs counts whole pages.
const PAGE_BYTES: u64 = 64 << 10;

/// One file in the vault.
pub(crate) struct VaultFile<'a> {
    /// Its name in the vault, relative; directories on the way are made.
    pub(crate) name: PathBuf,
    /// Where the task will see it, for errors.
    pub(crate) target: &'a Path,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mode: u32,
    pub(crate) data: &'a [u8],
}

/// A filled, read-only tmpfs.
#[derive(Debug)]
pub struct Vault {
    mount: OwnedFd,
    noswap: bool,
    locked: io::Result<LockedPages>,
}

impl Vault {
    /// Makes the tmpfs, detached, with these files, and seals it read-only.
    pub(crate) fn build(files: &[VaultFile<'_>]) -> Result<Self, MountError> {
        let root = Path::new("the files' tmpfs");
        let directories = directories_of(files);
        let options = TmpfsOptions {
            bytes: room_for(files)?,
            inodes: Some((files.len() + directories.len() + 1) as u64),
            mode: 0o700,
            owner: None,
            noswap: true,
            flags: sys::inert(),
        };
        let (mount, noswap) =
            sys::new_tmpfs(&options).map_err(|error| MountError::step("make", root, error))?;
        for directory in &directories {
            mkdirat(&mount, directory, Mode::from_raw_mode(0o755))
                .map_err(|error| place_error(files, directory, error.into()))?;
            // The process's umask must not decide.
            let opened = open_directory(mount.as_fd(), directory)
                .map_err(|error| MountError::step("open", directory, error))?;
            fchmod(&opened, Mode::from_raw_mode(0o755))
                .map_err(|error| MountError::step("set the mode of", directory, error))?;
        }
        let mut locked = Ok(LockedPages::default());
        for file in files {
            write_file(mount.as_fd(), file, noswap, &mut locked)?;
        }
        sys::restrict(
            mount.as_fd(),
            MountAttrFlags::MOUNT_ATTR_RDONLY | sys::inert(),
            false,
        )
        .map_err(|error| MountError::step("make read-only", root, error))?;
        Ok(Self {
            mount,
            noswap,
            locked,
        })
    }

    /// Whether the kernel promised that no page of it reaches swap.
    pub fn noswap(&self) -> bool {
        self.noswap
    }

    /// Without `noswap`: why the pages could not be locked in this process either, if so.
    pub fn lock_failure(&self) -> Option<&io::Error> {
        if self.noswap {
            None
        } else {
            self.locked.as_ref().err()
        }
    }

    /// The vault's own root, for a process that locks the pages for as long as the task runs.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn directory(&self) -> io::Result<OwnedFd> {
        open_directory(self.mount.as_fd(), Path::new("."))
    }

    pub(crate) fn mount(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }

    /// A detached mount of one file or directory; the vault must be attached somewhere (kernels
    /// before 6.15 copy no detached mounts).
    pub(crate) fn part(&self, name: &Path) -> io::Result<OwnedFd> {
        sys::clone_tree(self.mount.as_fd(), name, false)
    }
}

/// All directories on the way to the files, parents first.
fn directories_of(files: &[VaultFile<'_>]) -> BTreeSet<PathBuf> {
    let parents = files.iter().flat_map(|file| file.name.ancestors().skip(1));
    parents
        .filter(|path| !path.as_os_str().is_empty())
        .map(Path::to_path_buf)
        .collect()
}

fn room_for(files: &[VaultFile<'_>]) -> Result<u64, MountError> {
    if files.len() > MAX_FILES {
        return Err(MountError::TooManyFiles {
            count: files.len(),
            limit: MAX_FILES,
        });
    }
    let bytes: u64 = files.iter().map(|file| file.data.len() as u64).sum();
    if bytes > MAX_VAULT_BYTES {
        return Err(MountError::TooManyBytes {
            bytes,
            limit: MAX_VAULT_BYTES,
        });
    }
    let pages: u64 = files
        .iter()
        .map(|file| (file.data.len() as u64).div_ceil(PAGE_BYTES))
        .sum();
    Ok((pages + 1) * PAGE_BYTES)
}

fn write_file(
    root: BorrowedFd<'_>,
    file: &VaultFile<'_>,
    noswap: bool,
    locked: &mut io::Result<LockedPages>,
) -> Result<(), MountError> {
    let failed = |doing| move |error: io::Error| MountError::step(doing, file.target, error);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(root, &file.name, flags, Mode::from_raw_mode(0o600))
        .map_err(|error| place_error(std::slice::from_ref(file), &file.name, error.into()))?;
    let mut kept = None;
    if !noswap && locked.is_ok() && !file.data.is_empty() {
        match fill_locked(opened.as_fd(), file.data) {
            Ok(mapping) => kept = Some(mapping),
            Err(error) => *locked = Err(error),
        }
    }
    let mut opened = std::fs::File::from(opened);
    if kept.is_none() {
        opened.write_all(file.data).map_err(failed("write"))?;
    } else if let Ok(pages) = locked {
        // The mapping for writing would keep the mount from becoming read-only; the one for
        // reading is there before it goes, so the pages are never unlocked.
        if let Err(error) = pages.add(root, &file.name) {
            *locked = Err(error);
        }
    }
    drop(kept);
    let (uid, gid) = (Uid::from_raw(file.uid), Gid::from_raw(file.gid));
    fchown(&opened, Some(uid), Some(gid)).map_err(|error| match error {
        rustix::io::Errno::INVAL | rustix::io::Errno::PERM => MountError::Owner {
            path: file.target.to_owned(),
            uid: file.uid,
            gid: file.gid,
        },
        error => MountError::step("set the owner of", file.target, error),
    })?;
    fchmod(&opened, Mode::from_raw_mode(file.mode & 0o777))
        .map_err(|error| MountError::step("set the mode of", file.target, error))
}

/// Gives the file its pages, locks them, and only then writes.
fn fill_locked(file: BorrowedFd<'_>, data: &[u8]) -> io::Result<Mapping> {
    rustix::fs::ftruncate(file, data.len() as u64)?;
    let mut mapping = Mapping::locked(file, data.len(), true)?;
    mapping.fill(data);
    Ok(mapping)
}

/// A name that is there already, or that needs a file to be a directory, is the request's fault.
fn place_error(files: &[VaultFile<'_>], name: &Path, error: io::Error) -> MountError {
    let owner = files.iter().find(|file| file.name.starts_with(name));
    let path = owner.map_or(name, |file| file.target).to_owned();
    match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            MountError::Duplicate { path }
        }
        _ => MountError::step("create", path, error),
    }
}

fn open_directory(root: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(root, name, flags, Mode::empty())?)
}
