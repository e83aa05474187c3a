//! Mounts that hide what is the daemon's, and that keep the control groups from being written to.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstatfs, openat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};

use crate::error::MountError;
use crate::sys::{self, TmpfsOptions};

/// The kernel's numbers for the file systems of control groups, v1 and v2 (`linux/magic.h`).
const CGROUP_MAGIC: [u64; 2] = [0x0027_e0eb, 0x6367_7270];

/// What is shown in place of a file: nothing can be read from it and nobody connects to it.
const NOTHING: &str = "/dev/null";

/// Mounts an empty directory over one that is there; nothing can be made in it.
pub(crate) fn directory(path: &Path) -> Result<(), MountError> {
    let failed = |error| MountError::step("cover", path, error);
    let options = TmpfsOptions {
        bytes: 4096,
        inodes: Some(1),
        mode: 0o555,
        owner: None,
        noswap: false,
        flags: sys::inert() | MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    let (tree, _) = sys::new_tmpfs(&options).map_err(failed)?;
    sys::attach_at(tree.as_fd(), path).map_err(failed)
}

/// Puts nothing in the place of a file or socket in a mirror. The host's own is taken away first:
/// what is mounted on it is gone once the host removes it.
pub(crate) fn file(path: &Path) -> Result<(), MountError> {
    let failed = |error| MountError::step("cover", path, error);
    match unmount(path, UnmountFlags::DETACH) {
        // The host removed it while the mirror was made.
        Err(Errno::INVAL) => {}
        other => other.map_err(|error| failed(error.into()))?,
    }
    let tree = sys::clone_tree(CWD, Path::new(NOTHING), false).map_err(failed)?;
    let flags = sys::inert() | MountAttrFlags::MOUNT_ATTR_RDONLY;
    sys::restrict(tree.as_fd(), flags, false).map_err(failed)?;
    sys::attach_at(tree.as_fd(), path).map_err(failed)
}

/// Makes every mounted hierarchy of control groups read-only in this mount namespace.
pub(crate) fn cgroups() -> Result<(), MountError> {
    let table = Path::new("/proc/self/mountinfo");
    let mounts = fs::read(table).map_err(|error| MountError::step("read", table, error))?;
    for path in mounts.split(|byte| *byte == b'\n').filter_map(cgroup_mount) {
        let failed = |error: std::io::Error| MountError::step("make read-only", &path, error);
        let mount = match openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            // Out of reach for the task too, which has no more rights than this process.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => continue,
            other => other.map_err(|error| failed(error.into()))?,
        };
        let kind = fstatfs(&mount).map_err(|error| failed(error.into()))?;
        // Another file system may be mounted over it.
        if CGROUP_MAGIC.contains(&kind.f_type.cast_unsigned()) {
            let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
            sys::restrict(mount.as_fd(), flags, false).map_err(failed)?;
        }
    }
    Ok(())
}

/// The mount point of a line of mountinfo that is a hierarchy of control groups.
fn cgroup_mount(line: &[u8]) -> Option<PathBuf> {
    let mark = b" - cgroup";
    line.windows(mark.len()).position(|part| part == mark)?;
    let path = line.split(|byte| *byte == b' ').nth(4)?;
    Some(PathBuf::from(OsString::from_vec(unescaped(path))))
}

/// Without mountinfo's escapes: a backslash and three octal digits for space, tab, newline and
/// backslash.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let digit = |byte: u8| {
            (b'0'..=b'7')
                .contains(&byte)
                .then(|| u32::from(byte - b'0'))
        };
        let escaped = match *after {
            [a, b, c, ..] if *first == b'\\' => digit(a)
                .zip(digit(b))
                .zip(digit(c))
                .and_then(|((a, b), c)| u8::try_from(a * 64 + b * 8 + c).ok()),
            _ => None,
        };
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_in_mountinfo() {
        let found = |line: &str| cgroup_mount(line.as_bytes());
        assert_eq!(
            found("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw"),
            None
        );
        assert_eq!(found(""), None);
        assert_eq!(
            found("32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu"),
            Some("/sys/fs/cgroup/cpu".into())
        );
        assert_eq!(
            found(r"41 31 0:38 / /mnt/a\040b\134\09 rw shared:1 - cgroup2 none rw"),
            Some(r"/mnt/a b\\09".into())
        );
    }
}
