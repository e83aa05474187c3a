//! The openraft log, vote and snapshots on disk, every record sealed.
//!
//! [`open`] reads a directory and gives a [`LogStore`] (openraft's `RaftLogStorage`) and a
//! [`SnapshotStore`], from which a state machine takes and gives its snapshots. What commands are
//! is not known here: they are bytes behind [`Payload`]. What the bytes on disk look like is
//! `waxseal-autolock`'s; this crate owns files, their order and what is synced when.
//!
//! All file I/O goes through [`Disk`], so that tests can cut the power at any moment.

mod atomic;
mod disk;
mod error;
mod keys;
mod options;
mod payload;
mod records;
#[cfg(any(test, feature = "sim"))]
mod sim;
mod snapshots;
mod wal;

pub use atomic::{PRIVATE_DIR_MODE, PRIVATE_FILE_MODE, write_atomically};
pub use disk::{Disk, DiskFile, OpenMode, OsDisk};
pub use error::StoreError;
pub use options::{LogLimits, LogUsage, SnapshotPolicy, StoreOptions};
pub use payload::{Member, Payload, PayloadError, StoreConfig};
#[cfg(any(test, feature = "sim"))]
pub use sim::{DangerSimDisk, Fault};
pub use snapshots::{
    Meta, SnapshotData, SnapshotDraft, SnapshotReader, SnapshotStore, StoredSnapshot,
};
pub use wal::{LogFull, LogReader, LogStore, Opened, Recovery, TornTail, open, remove_all};
