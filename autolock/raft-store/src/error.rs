//! What goes wrong in a store.

use std::io;
use std::path::{Path, PathBuf};

use waxseal_autolock::FormatError;

/// A store that cannot be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk refused.
    #[error("cannot {action} {}; check the disk and its free space, then start again", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Bytes on disk are not what was written.
    #[error(
        "{} is corrupt at offset {offset} ({what}); restore the directory from a backup, or leave \
         the cluster with `docker swarm leave --force` and join again",
        file.display()
    )]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// A newer program wrote it.
    #[error(
        "{} has format {version}, this program reads up to {supported}; start the newer program",
        file.display()
    )]
    TooNew {
        /// The file.
        file: PathBuf,
        /// The format that it names.
        version: u32,
        /// The newest format that this program reads.
        supported: u32,
    },
    /// It belongs to another cluster, node or membership.
    #[error(
        "{} was written by another cluster or node; restore the directory that belongs to this \
         node's key file",
        file.display()
    )]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// It is sealed under a key that the key file does not hold.
    #[error(
        "{} is sealed under key {dek_id}, which the key file does not hold; restore key file and \
         log from one backup",
        file.display()
    )]
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// The id of the missing key.
        dek_id: String,
    },
    /// An earlier write failed, so nothing more is written.
    #[error("the log stopped after a failed write; check the disk, then restart the daemon")]
    Stopped,
    /// There is no space for the log's next segment. Nothing was done.
    #[error(
        "no space for {}; free some space on its file system, and it is tried again",
        file.display()
    )]
    NoSpace {
        /// The file that could not be allocated.
        file: PathBuf,
    },
    /// The random source failed.
    #[error("the system gives no random bytes; restart the daemon")]
    Random,
    /// A command is larger than the log takes.
    #[error(
        "a command of {bytes} bytes is larger than the {limit} that the log takes; make it smaller"
    )]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

impl StoreError {
    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io {
            file: file.to_owned(),
            action,
            source,
        }
    }

    pub(crate) fn corrupt(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            file: file.to_owned(),
            offset,
            what: what.into(),
        }
    }

    /// The format error of a thing at `offset` of `file`.
    pub(crate) fn format(file: &Path, offset: u64, err: FormatError) -> Self {
        let file = file.to_owned();
        match err {
            FormatError::TooNew {
                version, supported, ..
            } => Self::TooNew {
                file,
                version: version.into(),
                supported: supported.into(),
            },
            FormatError::Foreign { .. } => Self::Foreign { file },
            FormatError::UnknownKey { dek_id, .. } => Self::UnknownKey {
                file,
                dek_id: dek_id.to_string(),
            },
            damage => Self::Corrupt {
                file,
                offset,
                what: damage.to_string(),
            },
        }
    }

    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => source.kind() == io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}
