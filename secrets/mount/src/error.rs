//! Why a task's view of the file system could not be made.

use std::io;
use std::path::PathBuf;

/// Why a task's view of the file system could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Two files of a task have the same place.
    #[error("two files are to be at `{path}`; give each its own target")]
    Duplicate {
        /// The place.
        path: PathBuf,
    },
    /// A file's place is a directory, or the other way round.
    #[error("`{path}` is a {found}, and a {wanted} is to be mounted there")]
    WrongType {
        /// The place.
        path: PathBuf,
        /// What it is.
        found: &'static str,
        /// What it had to be.
        wanted: &'static str,
    },
    /// Something on the way to a file's place is no directory.
    #[error("nothing can be placed at `{path}`: `{at}` is not a directory")]
    NotADirectory {
        /// The place.
        path: PathBuf,
        /// What is no directory.
        at: PathBuf,
    },
    /// A symbolic link on the way to a file's place leads nowhere.
    #[error("nothing can be placed at `{path}`: the symbolic link `{at}` leads nowhere")]
    Dangling {
        /// The place.
        path: PathBuf,
        /// The link.
        at: PathBuf,
    },
    /// The place is in a file system that is the kernel's.
    #[error("nothing can be placed at `{path}`: /proc and /sys are the kernel's")]
    Reserved {
        /// The place.
        path: PathBuf,
    },
    /// A directory has more entries than are bound into a task's view.
    #[error(
        "`{path}` has more than {limit} entries and cannot be mirrored for the file in it; choose \
         a smaller directory for that"
    )]
    TooManyEntries {
        /// The directory.
        path: PathBuf,
        /// [`MAX_MIRROR_ENTRIES`](crate::MAX_MIRROR_ENTRIES).
        limit: usize,
    },
    /// More files than a task may have.
    #[error("a task may have {limit} files, and this one has {count}")]
    TooManyFiles {
        /// How many there are.
        count: usize,
        /// [`MAX_FILES`](crate::MAX_FILES).
        limit: usize,
    },
    /// More bytes than a task's files may have.
    #[error("the files of a task may have {limit} bytes together, and these have {bytes}")]
    TooManyBytes {
        /// How many there are.
        bytes: u64,
        /// [`MAX_VAULT_BYTES`](crate::MAX_VAULT_BYTES).
        limit: u64,
    },
    /// The source of a bind mount is not there.
    #[error("the bind source `{path}` does not exist on this node; create it or change the mount")]
    SourceMissing {
        /// The source.
        path: PathBuf,
    },
    /// The source of a bind mount is the daemon's own, or would show what is.
    #[error(
        "the bind source `{path}` is, or shows without its mounts, what belongs to this node's \
         daemon; choose another source"
    )]
    Covered {
        /// The source.
        path: PathBuf,
    },
    /// An owner that the user namespace does not know.
    #[error(
        "`{path}` cannot belong to {uid}:{gid}: without root this node has one uid, which tasks \
         see as 0"
    )]
    Owner {
        /// The file's place.
        path: PathBuf,
        /// The uid asked for.
        uid: u32,
        /// The gid asked for.
        gid: u32,
    },
    /// The kernel refused a fresh `/proc`, as it does where parts of `/proc` are covered.
    #[error("the kernel refuses a fresh /proc")]
    ProcRefused {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("could not {doing} `{path}`")]
    Step {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl MountError {
    /// Whether the request is at fault and not the system: the same request cannot succeed here.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Step { .. } | Self::ProcRefused { .. })
    }

    pub(crate) fn step(
        doing: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Step {
            doing,
            path: path.into(),
            source: source.into(),
        }
    }
}
