//! Replacing a file so that a reader, and a power failure, finds the old or the new one whole.

use std::io;
use std::path::{Path, PathBuf};

use crate::{Disk, OpenMode};

/// Mode of files that hold keys or sealed data.
pub const PRIVATE_FILE_MODE: u32 = 0o600;

/// Mode of directories of such files.
pub const PRIVATE_DIR_MODE: u32 = 0o700;

/// What a file is called until it is whole.
pub(crate) const TEMPORARY_SUFFIX: &str = ".tmp";

/// Writes `bytes` under a temporary name (mode 0600), syncs, renames to `path`, syncs the
/// directory. Once it has returned, `path` has these bytes whatever happens; if it fails or never
/// returns, the old or the new ones.
///
/// # Errors
/// As the disk gives them. `path` is not half written.
pub fn write_atomically(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = temporary_name(path);
    let result = write_temporary(disk, &temporary, bytes).and_then(|()| {
        disk.rename(&temporary, path)?;
        disk.sync_dir(dir)
    });
    if result.is_err() {
        // Gives back the space; the name is ours, and a leftover would be replaced anyway.
        let _ = disk.remove(&temporary);
    }
    result
}

/// The name that a file has until it is whole.
pub(crate) fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY_SUFFIX);
    name.into()
}

fn write_temporary(disk: &dyn Disk, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    // What an interrupted write left behind.
    match disk.remove(temporary) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let file = disk.open(temporary, OpenMode::CreateNew)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}
