//! The few things that a store does to files, so that a test can put another disk below.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use crate::atomic::{PRIVATE_DIR_MODE, PRIVATE_FILE_MODE};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    ReadWrite,
    /// A new file, mode 0600; an error if it exists.
    CreateNew,
}

/// A place for files. Nothing done here is durable before the sync that belongs to it.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens or creates a file. A new name is durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// As the system gives them; so for all of these.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Renames, replacing what has that name; durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// As the system gives them.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable after [`Self::sync_dir`].
    ///
    /// # Errors
    /// As the system gives them.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names of the files in a directory, sorted.
    ///
    /// # Errors
    /// As the system gives them.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a directory, mode 0700, with its parents; nothing if it exists.
    ///
    /// # Errors
    /// As the system gives them.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// As the system gives them.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync + 'static {
    /// Reads at most a buffer full; 0 at the end.
    ///
    /// # Errors
    /// As the system gives them.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes a part of `bytes`, how much is returned.
    ///
    /// # Errors
    /// As the system gives them.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes content and what is needed to read it durable (`fdatasync`).
    ///
    /// # Errors
    /// As the system gives them; content is then unknown and no later sync helps.
    fn sync_data(&self) -> io::Result<()>;
    /// Reserves `len` bytes that read as zeros.
    ///
    /// # Errors
    /// As the system gives them, `StorageFull` above all.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts the file; durable after a sync.
    ///
    /// # Errors
    /// As the system gives them.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Bytes in the file.
    ///
    /// # Errors
    /// As the system gives them.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are none.
    ///
    /// # Errors
    /// As the system gives them.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// As [`Self::write_at`]; a part may have been written.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }

    /// Reads until the buffer is full or the file ends; returns how much.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    fn read_full_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(filled)
    }
}

/// The files of the system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsDisk;

impl Disk for OsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true).mode(PRIVATE_FILE_MODE);
            }
        }
        Ok(Arc::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(PRIVATE_DIR_MODE)
            .create(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        match fallocate(self, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // File systems that cannot reserve: write zeros.
            Err(rustix::io::Errno::OPNOTSUPP) => write_zeros(self, len),
            Err(err) => Err(err.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|meta| meta.len())
    }
}

fn write_zeros(file: &File, len: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < len {
        let part = zeros
            .len()
            .min(usize::try_from(len - offset).unwrap_or(usize::MAX));
        DiskFile::write_all_at(file, &zeros[..part], offset)?;
        offset += part as u64;
    }
    Ok(())
}
