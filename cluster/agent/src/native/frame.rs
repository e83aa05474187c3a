//! What the executor tells a new shim over its standard input, and what the shim answers.
//!
//! | Bytes | Meaning |
//! |---|---|
//! | 4 | `WXSH` |
//! | 4 | length of the header, little endian |
//! | … | the header: [`Launch`] as JSON |
//! | … | the files' contents, one after the other, as long as the header says |
//!
//! Both sides are the same binary, so the format has no versions.

use std::io::{self, Read};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use waxseal_mount::{
    BindMount, FileKind, MAX_FILES, MAX_VAULT_BYTES, TaskFile, TmpfsMount, lock_memory,
};
use zeroize::Zeroizing;

use super::ulimit::Ulimit;
use super::users::Identity;

const MAGIC: [u8; 4] = *b"WXSH";

/// The largest header: the 1.5 MiB a command may have, with JSON's escapes.
const MAX_HEADER_BYTES: usize = 8 << 20;

/// Everything about a task but the contents of its files. No `Debug`: env may hold anything.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Launch {
    pub(super) task_id: String,
    /// Program and arguments; never empty.
    pub(super) argv: Vec<String>,
    /// `NAME=value`.
    pub(super) env: Vec<(String, String)>,
    /// The working directory, absolute.
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) hostname: Option<String>,
    pub(super) stop_signal: i32,
    pub(super) grace_ms: u64,
    pub(super) read_only: bool,
    /// A reaping init is pid 1; else the task is.
    pub(super) init: bool,
    /// A network namespace of its own, with loopback only.
    pub(super) own_network: bool,
    pub(super) binds: Vec<Bind>,
    pub(super) tmpfs: Vec<Tmpfs>,
    /// What the task must not see; absolute.
    pub(super) covered: Vec<PathBuf>,
    pub(super) files: Vec<FileHeader>,
    /// Bit n is capability n.
    pub(super) capabilities: u64,
    pub(super) ulimits: Vec<Ulimit>,
    pub(super) oom_score_adj: i64,
    /// The task's cgroup, made by the executor.
    pub(super) cgroup: Option<PathBuf>,
    /// Where the shim itself goes, beside the tasks' cgroups.
    pub(super) shim_cgroup: Option<PathBuf>,
    pub(super) log_dir: PathBuf,
    /// Stop the task when no daemon has spoken for so long.
    pub(super) orphan_stop_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
    pub(super) read_only: bool,
    pub(super) read_only_below: bool,
    pub(super) recursive: bool,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tmpfs {
    pub(super) target: PathBuf,
    pub(super) bytes: u64,
    pub(super) mode: u32,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileHeader {
    pub(super) secret: bool,
    pub(super) path: PathBuf,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) bytes: u64,
}

/// The shim's answer, one line of JSON on its standard output.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The task's program runs.
    Started,
    /// The specification cannot be carried out here.
    Rejected { reason: String },
    /// Something failed.
    Failed { what: String },
}

impl From<&TaskFile> for FileHeader {
    fn from(file: &TaskFile) -> Self {
        Self {
            secret: file.kind == FileKind::Secret,
            path: file.path.clone(),
            uid: file.uid,
            gid: file.gid,
            mode: file.mode,
            bytes: file.data.len() as u64,
        }
    }
}

impl From<&Bind> for BindMount {
    fn from(bind: &Bind) -> Self {
        Self {
            source: bind.source.clone(),
            target: bind.target.clone(),
            read_only: bind.read_only,
            read_only_below: bind.read_only_below,
            recursive: bind.recursive,
        }
    }
}

impl From<&Tmpfs> for TmpfsMount {
    fn from(tmpfs: &Tmpfs) -> Self {
        Self {
            target: tmpfs.target.clone(),
            bytes: tmpfs.bytes,
            mode: tmpfs.mode,
        }
    }
}

/// The frame up to the files' contents, which follow as they are.
pub(super) fn head(launch: &Launch) -> io::Result<Vec<u8>> {
    let header = serde_json::to_vec(launch)?;
    if header.len() > MAX_HEADER_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "the specification is too large",
        ));
    }
    let length = u32::try_from(header.len()).map_err(io::Error::other)?;
    Ok([&MAGIC[..], &length.to_le_bytes(), &header].concat())
}

/// Reads a whole frame. Contents go to memory that is locked, as far as the limits let it, before
/// they arrive, and that is wiped on drop.
///
/// # Errors
/// `InvalidData` for what is no frame or exceeds a bound, `UnexpectedEof` for a piece of one.
pub(super) fn read(mut from: impl Read) -> io::Result<(Launch, Vec<TaskFile>)> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut start = [0; 8];
    from.read_exact(&mut start)?;
    let [magic @ .., _, _, _, _] = start;
    let [_, _, _, _, length @ ..] = start;
    let length = u32::from_le_bytes(length) as usize;
    if magic != MAGIC || length > MAX_HEADER_BYTES {
        return Err(invalid("no launch frame"));
    }
    let mut header = vec![0; length];
    from.read_exact(&mut header)?;
    let launch: Launch = serde_json::from_slice(&header)?;
    let total = launch
        .files
        .iter()
        .try_fold(0u64, |sum, file| sum.checked_add(file.bytes));
    if launch.files.len() > MAX_FILES || total.is_none_or(|total| total > MAX_VAULT_BYTES) {
        return Err(invalid("too many files, or too large"));
    }
    let mut files = Vec::with_capacity(launch.files.len());
    for file in &launch.files {
        let length = usize::try_from(file.bytes).map_err(io::Error::other)?;
        let mut data = Zeroizing::new(vec![0; length]);
        let _best_effort = lock_memory(&mut data);
        from.read_exact(&mut data)?;
        let kind = if file.secret {
            FileKind::Secret
        } else {
            FileKind::Config
        };
        let (uid, gid, mode) = (file.uid, file.gid, file.mode);
        files.push(TaskFile {
            kind,
            path: file.path.clone(),
            uid,
            gid,
            mode,
            data,
        });
    }
    Ok((launch, files))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(files: Vec<FileHeader>) -> Launch {
        Launch {
            task_id: "t1".into(),
            argv: vec!["true".into()],
            env: vec![("A".into(), "b\0\u{1f980}".into())],
            dir: "/".into(),
            identity: Identity {
                uid: 1,
                gid: 2,
                groups: vec![3],
                home: "/".into(),
            },
            hostname: None,
            stop_signal: 15,
            grace_ms: 10_000,
            read_only: false,
            init: true,
            own_network: false,
            binds: Vec::new(),
            tmpfs: Vec::new(),
            covered: Vec::new(),
            files,
            capabilities: 0,
            ulimits: Vec::new(),
            oom_score_adj: 0,
            cgroup: None,
            shim_cgroup: None,
            log_dir: "/tmp".into(),
            orphan_stop_ms: None,
        }
    }

    fn file(bytes: u64) -> FileHeader {
        FileHeader {
            secret: true,
            path: "/run/secrets/a".into(),
            uid: 0,
            gid: 0,
            mode: 0o400,
            bytes,
        }
    }

    fn refused(bytes: &[u8]) -> io::ErrorKind {
        read(bytes).err().unwrap().kind()
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let head = head(&launch(vec![file(3)])).unwrap();
        assert_eq!(refused(b""), io::ErrorKind::UnexpectedEof);
        assert_eq!(refused(&head), io::ErrorKind::UnexpectedEof);
        assert_eq!(
            refused(&head[..head.len() - 1]),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(refused(b"WXSI\x02\0\0\0{}"), io::ErrorKind::InvalidData);
        assert_eq!(refused(b"WXSH\xff\xff\xff\xff"), io::ErrorKind::InvalidData);
    }

    #[test]
    fn sizes_are_bounded_before_anything_is_allocated() {
        for files in [
            vec![file(MAX_VAULT_BYTES + 1)],
            vec![file(u64::MAX), file(2)],
            vec![file(0); MAX_FILES + 1],
        ] {
            assert_eq!(
                refused(&head(&launch(files)).unwrap()),
                io::ErrorKind::InvalidData
            );
        }
    }

    #[test]
    fn a_frame_comes_back_whole() {
        let sent = launch(vec![file(3), file(0), file(2)]);
        let bytes = [head(&sent).unwrap(), b"abcde".to_vec()].concat();
        let (got, files) = read(&bytes[..]).unwrap();
        assert!(got == sent);
        let contents: Vec<_> = files.iter().map(|file| file.data.as_slice()).collect();
        assert_eq!(contents, [&b"abc"[..], b"", b"de"]);
    }
}
