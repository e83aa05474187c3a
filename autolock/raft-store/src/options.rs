//! What a store is opened with, and when a snapshot is due.

use std::path::PathBuf;
use std::sync::Arc;

use waxseal_autolock::{DekRing, Owner};

use crate::{Disk, OsDisk};

/// What a store is opened with.
#[derive(Debug)]
pub struct StoreOptions {
    /// The directory of log, vote and snapshots; made if it is not there.
    pub dir: PathBuf,
    /// Whose log it is.
    pub owner: Owner,
    /// The keys: the current one of the key file and those of unfinished rotations.
    pub deks: DekRing,
    /// Where files live.
    pub disk: Arc<dyn Disk>,
    /// Sizes.
    pub limits: LogLimits,
}

impl StoreOptions {
    /// Options for the real disk with usual sizes.
    pub fn new(dir: impl Into<PathBuf>, owner: Owner, deks: DekRing) -> Self {
        let limits = LogLimits::default();
        Self {
            dir: dir.into(),
            owner,
            deks,
            disk: Arc::new(OsDisk),
            limits,
        }
    }
}

/// Sizes of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLimits {
    /// Bytes of a segment, allocated when it is made.
    pub segment_bytes: u32,
    /// Bytes of one entry's encoding; also bounded by what a segment holds.
    pub max_entry_bytes: u32,
    /// Sealed bytes of recent entries that are kept in memory.
    pub cache_bytes: usize,
    /// Bytes of entries that one call for replication returns, but always one entry.
    pub read_bytes: usize,
    /// Bytes that [`LogStore::can_accept`](crate::LogStore::can_accept) keeps free for Raft's own
    /// small records once no further segment can be allocated.
    pub reserve_bytes: u32,
    /// Whether the next segment is allocated by a thread of its own. Off where a run must be
    /// repeatable.
    pub prepare_in_background: bool,
}

impl Default for LogLimits {
    /// 16 MiB segments (spec/dependencies.md §4), entries up to 4 MiB (Raft message limit), 4 MiB
    /// cache, 1 MiB reads (rule 8 there), 1 MiB reserve.
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            max_entry_bytes: 4 << 20,
            cache_bytes: 4 << 20,
            read_bytes: 1 << 20,
            reserve_bytes: 1 << 20,
            prepare_in_background: true,
        }
    }
}

/// How much of the log lies behind a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogUsage {
    /// Entries.
    pub entries: u64,
    /// Their sealed bytes on disk.
    pub bytes: u64,
    /// Segments of the whole log: each start of the daemon adds one.
    pub segments: usize,
}

/// When a snapshot is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// Entries since the last one.
    pub max_entries: u64,
    /// Bytes since the last one. Restart reads this much, plus the snapshot.
    pub max_bytes: u64,
    /// Segments of the log, so that a daemon that often restarts does not collect files.
    pub max_segments: usize,
    /// Entries kept behind a snapshot for followers that lag a little.
    pub keep_entries: u64,
    /// Bytes kept behind a snapshot at most.
    pub keep_bytes: u64,
}

impl Default for SnapshotPolicy {
    /// 10,000 entries as swarmkit (`SnapshotInterval`, 500 kept for slow followers) or 64 MiB.
    fn default() -> Self {
        Self {
            max_entries: 10_000,
            max_bytes: 64 << 20,
            max_segments: 64,
            keep_entries: 500,
            keep_bytes: 8 << 20,
        }
    }
}

impl SnapshotPolicy {
    /// Whether a snapshot is due, given the log's usage since the last one.
    pub fn is_due(&self, since_snapshot: LogUsage) -> bool {
        let LogUsage {
            entries,
            bytes,
            segments,
        } = since_snapshot;
        entries > 0
            && (entries >= self.max_entries
                || bytes >= self.max_bytes
                || segments >= self.max_segments)
    }
}
