//! Opening a directory, and emptying it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};

use waxseal_autolock::{SEGMENT_HEADER_LEN, record_disk_len};

use super::core::{Core, State, new_segment};
use super::index::Cache;
use super::log_store::LogStore;
use super::recovery::{self, Found};
use super::segment_file::{parse_segment_name, segment_name};
use super::spare::Spare;
use super::vote_file::{VOTE_FILE, VoteFile};
use super::writer::{Progress, Writer};
use crate::atomic::TEMPORARY_SUFFIX;
use crate::keys::Keys;
use crate::options::StoreOptions;
use crate::payload::StoreConfig;
use crate::records::DiskState;
use crate::snapshots::{self, SnapshotStore};
use crate::{Disk, StoreError};

/// A segment holds a membership of many managers at least.
const MIN_SEGMENT_BYTES: usize = SEGMENT_HEADER_LEN + 8 * 1024;

/// What [`open`] gives.
#[derive(Debug)]
pub struct Opened<C: StoreConfig> {
    /// Log and vote.
    pub log: LogStore<C>,
    /// Snapshots.
    pub snapshots: SnapshotStore,
    /// What was found.
    pub recovery: Recovery,
}

/// What was found on disk; for the log line at start and for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// Segments read.
    pub segments: usize,
    /// Entries that can be read.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What an interrupted write left at the end, never acknowledged.
    pub torn_tail: Option<TornTail>,
}

/// The end of the last segment, dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the torn record began.
    pub offset: u64,
}

/// The log does not take a command now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogFull {
    /// No space for the next segment.
    #[error("no space left on the disk of the log; free some, reads go on meanwhile")]
    NoSpace,
    /// The command is larger than the log takes.
    #[error(
        "a command of {bytes} bytes is larger than the {limit} that the log takes; make it smaller"
    )]
    TooLarge {
        /// Its bytes.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// An earlier write failed, or the log is closed.
    #[error("the log stopped after a failed write; check the disk, then restart the daemon")]
    Stopped,
}

/// Opens log, vote and snapshots. Blocks; reads and checks every record.
///
/// # Errors
/// Every [`StoreError`]; the manager must not start then.
pub fn open<C: StoreConfig>(options: StoreOptions) -> Result<Opened<C>, StoreError> {
    let (core, snapshots, recovery) = open_all(options)?;
    let log = LogStore::new(Arc::new(core), snapshots.clone());
    Ok(Opened {
        log,
        snapshots,
        recovery,
    })
}

fn open_all(options: StoreOptions) -> Result<(Core, SnapshotStore, Recovery), StoreError> {
    let keys = Arc::new(Keys::new(options.deks.clone()));
    // 1. The directory, and what unfinished writes left in it.
    let names = prepare_dir(&options)?;
    // 2. The vote file, which says where the log begins and how far it had come.
    let (vote_file, mut state) = open_vote(&options, &keys, &names)?;
    // 3. The snapshots, which must cover what was purged.
    let snapshots = SnapshotStore::open(&options, &keys, &names)?;
    check_purged(&options, &state, &snapshots)?;
    // 4. The log.
    let found = recovery::read_log(&options, &keys, &names, &state)?;
    // 5. Names that a killed process had not synced count from here on.
    sync_dir(&*options.disk, &options.dir)?;
    state.first_sequence = state.first_sequence.max(1);
    let recovery = found.recovery.clone();
    let core = start(options, keys, vote_file, state, found)?;
    Ok((core, snapshots, recovery))
}

/// The log alone.
#[cfg(test)]
pub(super) fn open_core(options: StoreOptions) -> Result<Core, StoreError> {
    open_all(options).map(|(core, ..)| core)
}

/// Removes what a store wrote in a directory, for a manager that is demoted or leaves. Blocks.
///
/// # Errors
/// [`StoreError::Io`]; what could not be removed is still there.
pub fn remove_all(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    let names = match disk.list(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names.map_err(|err| StoreError::io(dir, "list", err))?,
    };
    for name in names.iter().filter(|name| is_ours(name)) {
        let path = dir.join(name);
        disk.remove(&path)
            .map_err(|err| StoreError::io(&path, "remove", err))?;
    }
    sync_dir(disk, dir)
}

fn is_ours(name: &str) -> bool {
    let whole = name.strip_suffix(TEMPORARY_SUFFIX).unwrap_or(name);
    whole == VOTE_FILE || parse_segment_name(whole).is_some() || snapshots::is_snapshot_name(whole)
}

fn sync_dir(disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
    disk.sync_dir(dir)
        .map_err(|err| StoreError::io(dir, "sync", err))
}

/// Makes the directory, removes temporary files, returns the names of the others.
fn prepare_dir(options: &StoreOptions) -> Result<Vec<String>, StoreError> {
    let StoreOptions {
        dir, disk, limits, ..
    } = options;
    if (limits.segment_bytes as usize) < MIN_SEGMENT_BYTES.max(record_disk_len(0)) {
        let err = io::Error::new(
            io::ErrorKind::InvalidInput,
            "segments this small hold nothing",
        );
        return Err(StoreError::io(dir, "open", err));
    }
    disk.create_dir(dir)
        .map_err(|err| StoreError::io(dir, "create", err))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_dir(&**disk, parent)?;
    }
    let mut names = disk
        .list(dir)
        .map_err(|err| StoreError::io(dir, "list", err))?;
    for name in &names {
        if name.ends_with(TEMPORARY_SUFFIX) && is_ours(name) {
            let path = dir.join(name);
            disk.remove(&path)
                .map_err(|err| StoreError::io(&path, "remove", err))?;
        }
    }
    names.retain(|name| !name.ends_with(TEMPORARY_SUFFIX) && is_ours(name));
    Ok(names)
}

fn open_vote(
    options: &StoreOptions,
    keys: &Arc<Keys>,
    names: &[String],
) -> Result<(VoteFile, DiskState), StoreError> {
    let StoreOptions {
        dir, disk, owner, ..
    } = options;
    if let Some(found) = VoteFile::open(&**disk, dir, owner, keys)? {
        return Ok(found);
    }
    // It is written before all others.
    if let Some(other) = names.first() {
        let what = format!("the vote file is missing, but {other} is there");
        return Err(StoreError::corrupt(&dir.join(VOTE_FILE), 0, what));
    }
    let state = DiskState {
        format: crate::records::RECORDS_FORMAT,
        first_sequence: 1,
        ..DiskState::default()
    };
    Ok((VoteFile::create(&**disk, dir, owner, keys, &state)?, state))
}

/// What was purged from the log must be in a snapshot.
fn check_purged(
    options: &StoreOptions,
    state: &DiskState,
    snapshots: &SnapshotStore,
) -> Result<(), StoreError> {
    let Some(purged) = &state.purged else {
        return Ok(());
    };
    let covered = snapshots
        .latest()
        .and_then(|latest| latest.meta().last_log_id);
    match covered {
        Some(covered) if covered.index >= purged.index => Ok(()),
        _ => {
            let what = format!(
                "no snapshot covers entry {}, which was purged",
                purged.index
            );
            Err(StoreError::corrupt(&options.dir, 0, what))
        }
    }
}

/// Begins the segment of this run and starts the writer.
fn start(
    options: StoreOptions,
    keys: Arc<Keys>,
    vote_file: VoteFile,
    state: DiskState,
    found: Found,
) -> Result<Core, StoreError> {
    let StoreOptions {
        dir,
        owner,
        disk,
        limits,
        ..
    } = options;
    let Found {
        index,
        committed,
        mut segments,
        end,
        spare: blank,
        ..
    } = found;
    let progress = Arc::new(Progress::default());
    let spare = Spare::start(
        disk.clone(),
        dir.clone(),
        limits.segment_bytes,
        limits.prepare_in_background,
    )?;
    let vote = state.vote.map(Into::into);
    let sequence = segments
        .last()
        .map_or(state.first_sequence, |last| last.sequence + 1);
    let first_index = index.next_index().unwrap_or(0);
    let link = end.map(|(link, _)| link);
    let (tail, header) = new_segment(&dir, &owner, &keys, sequence, first_index, link)?;
    if let Some((blank_sequence, file)) = blank.filter(|(number, _)| *number == sequence) {
        spare.offer(blank_sequence, file);
    }
    let mut writer = Writer {
        disk,
        dir: dir.clone(),
        vote_file,
        state,
        spare: spare.clone(),
        progress: progress.clone(),
    };
    if let Err(err) = writer.begin(&tail.segment, &header) {
        spare.stop();
        return Err(err);
    }
    if let (Some(last), Some((_, used))) = (segments.last(), end)
        && let Some(file) = last.file()
    {
        // Gives back what a former run had allocated, and drops its torn tail. It is no loss if
        // that fails.
        let _ = file.set_len(used);
    }
    segments.push(tail.segment.clone());
    let (queue, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("raft-log".into())
        .spawn(move || writer.run(&receiver))
        .map_err(|err| {
            StoreError::io(&dir.join(segment_name(sequence)), "start a thread for", err)
        })?;
    let state = State {
        index,
        cache: Cache::default(),
        vote,
        committed,
        committed_unwritten: false,
        tail,
        segments,
        closed: false,
    };
    Ok(Core {
        dir,
        owner,
        limits,
        keys,
        state: Mutex::new(state),
        progress,
        spare,
        queue: Some(queue),
        writer: Some(thread),
    })
}
