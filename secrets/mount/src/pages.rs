//! Pages that stay out of swap, for where the tmpfs itself does not promise it.

use std::ffi::{OsStr, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap, munmap};

/// Locks the pages of a buffer in memory for the rest of the process's life, as far as
/// `RLIMIT_MEMLOCK` lets it. Locked pages stay locked for a forked child that shares them.
///
/// # Errors
/// When the limit does not allow it.
pub fn lock_memory(buffer: &mut [u8]) -> io::Result<()> {
    if buffer.is_empty() {
        return Ok(());
    }
    // SAFETY: the range is a live buffer's; locking does not change it.
    Ok(unsafe { mlock(buffer.as_mut_ptr().cast(), buffer.len()) }?)
}

/// A shared mapping of a file whose pages are locked; unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut c_void,
    len: usize,
}

impl Mapping {
    /// Maps and locks `len` bytes (not 0) of a file, for reading, and for writing if asked.
    pub(crate) fn locked(file: BorrowedFd<'_>, len: usize, writable: bool) -> io::Result<Self> {
        let mut protection = ProtFlags::READ;
        if writable {
            protection |= ProtFlags::WRITE;
        }
        // SAFETY: the kernel chooses the place, so no other memory is touched.
        let start = unsafe { mmap(ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0) }?;
        let mapping = Self { start, len };
        // SAFETY: the range is this mapping's own.
        unsafe { mlock(start, len) }?;
        Ok(mapping)
    }

    /// Copies `data` to the mapping's start.
    pub(crate) fn fill(&mut self, data: &[u8]) {
        let len = data.len().min(self.len);
        // SAFETY: `start` is valid for `self.len` bytes, which the mapping alone owns, and the
        // callers map for writing what they fill; a fresh mapping does not overlap `data`.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.start.cast(), len) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `locked` and nothing else points into it. A failure
        // leaves the mapping until the process ends, which harms nothing.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

/// Files whose pages are kept out of swap for as long as this lives.
#[derive(Debug, Default)]
pub struct LockedPages {
    mappings: Vec<Mapping>,
}

impl LockedPages {
    /// Locks the pages of all files under `dir`, a [vault's](crate::Vault::directory) own.
    ///
    /// # Errors
    /// When a file cannot be opened or `RLIMIT_MEMLOCK` does not allow as much.
    pub fn lock(dir: BorrowedFd<'_>) -> io::Result<Self> {
        let mut pages = Self::default();
        pages.add_directory(dir)?;
        Ok(pages)
    }

    fn add_directory(&mut self, dir: BorrowedFd<'_>) -> io::Result<()> {
        for entry in Dir::read_from(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let path = Path::new(OsStr::from_bytes(name.to_bytes()));
            if entry.file_type() == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(dir, path, flags, Mode::empty())?;
                self.add_directory(below.as_fd())?;
            } else {
                self.add(dir, path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn add(&mut self, dir: BorrowedFd<'_>, name: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
        let size = rustix::fs::fstat(&file)?.st_size;
        let len = usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        if len > 0 {
            self.mappings
                .push(Mapping::locked(file.as_fd(), len, false)?);
        }
        Ok(())
    }
}
