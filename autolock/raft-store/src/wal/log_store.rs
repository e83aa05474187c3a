//! openraft's log store over the log.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{
    AnyError, Entry, EntryPayload, LogId, RaftLogReader, StorageError, StorageIOError, Vote,
};
use prost::Message as _;
use tokio::sync::oneshot;
use waxseal_autolock::{Dek, DekId, RecordKind, scrub_registers};

use super::core::{Core, NewRecord, Sealed};
use super::open::LogFull;
use super::writer::Done;
use crate::options::{LogUsage, SnapshotPolicy};
use crate::payload::{Payload, StoreConfig};
use crate::records::{DiskMembership, RECORDS_FORMAT};
use crate::{PayloadError, SnapshotStore, StoreError};

/// Between two looks at whether a segment's file was made.
const SPARE_LOOK: Duration = Duration::from_millis(10);

type RaftResult<T> = Result<T, StorageError<u64>>;

/// openraft's log and vote. Cheap to clone, all clones are one log; the last one dropped waits
/// for what is queued.
pub struct LogStore<C: StoreConfig> {
    core: Arc<Core>,
    snapshots: SnapshotStore,
    config: PhantomData<fn() -> C>,
}

/// openraft's reader of the log.
pub struct LogReader<C: StoreConfig> {
    core: Arc<Core>,
    config: PhantomData<fn() -> C>,
}

impl<C: StoreConfig> Clone for LogStore<C> {
    fn clone(&self) -> Self {
        Self::new(self.core.clone(), self.snapshots.clone())
    }
}

impl<C: StoreConfig> fmt::Debug for LogStore<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogStore({})", self.core.dir.display())
    }
}

impl<C: StoreConfig> fmt::Debug for LogReader<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogReader({})", self.core.dir.display())
    }
}

impl<C: StoreConfig> LogStore<C> {
    pub(crate) fn new(core: Arc<Core>, snapshots: SnapshotStore) -> Self {
        Self {
            core,
            snapshots,
            config: PhantomData,
        }
    }

    /// Whether a command of this encoded size may be proposed now. To be asked before proposing.
    ///
    /// # Errors
    /// [`LogFull`], to be told to the client; nothing is wrong with the node but for
    /// [`LogFull::Stopped`].
    pub fn can_accept(&self, bytes: usize) -> Result<(), LogFull> {
        self.core.can_accept(bytes)
    }

    /// How much of the log lies behind an index; all of it for `None`.
    pub fn usage_since(&self, index: Option<u64>) -> LogUsage {
        self.core.usage_since(index)
    }

    /// Up to which index to purge after a snapshot at `snapshot_index`: what the policy keeps
    /// stays. `None` if there is nothing to purge. Give it to `Raft::trigger().purge_log`.
    pub fn purge_target(&self, snapshot_index: u64, policy: &SnapshotPolicy) -> Option<u64> {
        self.core.purge_target(snapshot_index, policy)
    }

    /// Seals everything from now on under `new`, which the key file on disk must hold already.
    /// Returns when log and vote no longer write under the former key. Then: take a snapshot (or
    /// [`SnapshotStore::reseal`]), purge the log up to it, and once [`Self::retired_in_use`] is
    /// empty drop the retired keys from the key file and call [`Self::forget_retired`].
    ///
    /// # Errors
    /// [`StoreError::NoSpace`] on a full disk: nothing was done, the log goes on under the
    /// former key, and the manager tries again later. After any other the manager restarts
    /// with both keys.
    pub async fn rotate_dek(&self, new: Dek) -> Result<(), StoreError> {
        // When what is queued is written, the next segment's file was asked for.
        self.wait(|done| self.core.flush(done)).await?;
        self.core.spare.retry();
        while self.core.spare.is_preparing() {
            tokio::time::sleep(SPARE_LOOK).await;
        }
        self.wait(|done| self.core.rotate_dek(new, done)).await
    }

    /// The retired keys that a file on disk still needs: of the log or a snapshot. The vote is
    /// always under the current one.
    pub fn retired_in_use(&self) -> Vec<DekId> {
        let current = self.core.keys.ring().current().id();
        let mut in_use: BTreeSet<_> = self.core.deks_in_use().into_iter().collect();
        in_use.extend(self.snapshots.deks_in_use());
        in_use.remove(&current);
        in_use.into_iter().collect()
    }

    /// Forgets the retired keys that no file needs any more.
    pub fn forget_retired(&self) {
        self.core.keys.forget_retired_except(&self.retired_in_use());
    }

    /// Completes when something could not be written, with the cause: the manager has to stop.
    pub async fn failed(&self) -> Arc<StoreError> {
        loop {
            let notified = self.core.progress.failed.notified();
            if let Some(failure) = self.core.progress.failure.get() {
                return failure.clone();
            }
            notified.await;
        }
    }

    /// Writes what is queued, notes the log's end in the vote file and refuses later writes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn close(&self) -> Result<(), StoreError> {
        self.wait(|done| self.core.close(done)).await
    }

    /// Asks the writer and waits for its answer.
    async fn wait(
        &self,
        ask: impl FnOnce(Done) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        ask(Box::new(move |result| {
            // Whoever asked may have gone.
            let _ = done.send(result);
        }))?;
        match answer.await {
            Ok(Ok(())) => Ok(()),
            // The cause is in `failed` and in the log.
            Ok(Err(_)) | Err(_) => Err(StoreError::Stopped),
        }
    }

    /// Appends an entry and waits until it is durable; for a log that no engine runs on.
    ///
    /// # Errors
    /// As openraft's `append`.
    pub async fn append_synced(&self, entry: C::Entry) -> RaftResult<()> {
        let records = [EntryRecord::<C>::new(entry)];
        let appended = self
            .wait(|done| self.core.append(&records, Some(done)))
            .await;
        appended.map_err(|err| StorageIOError::write_logs(AnyError::new(&err)).into())
    }

    /// How long the disk took for the latest writes: the median, once there were a few.
    pub fn sync_pace(&self) -> Option<Duration> {
        self.core.progress.pace.median()
    }

    fn reader(&self) -> LogReader<C> {
        LogReader {
            core: self.core.clone(),
            config: PhantomData,
        }
    }
}

impl<C: StoreConfig> LogReader<C> {
    /// Reads entries; those that are on disk on a blocking thread.
    async fn read(&self, range: Range<u64>, budget: Option<usize>) -> RaftResult<Vec<C::Entry>> {
        let sealed = self.core.find(range, budget);
        let opened = match sealed.iter().any(Sealed::is_on_disk) {
            false => open_entries::<C>(&sealed),
            true => tokio::task::spawn_blocking(move || {
                let opened = open_entries::<C>(&sealed);
                // The thread waits for other work with what it opened last in its registers.
                scrub_registers();
                opened
            })
            .await
            .map_err(|err| StorageIOError::read_logs(AnyError::error(err)))?,
        };
        opened.map_err(|err| StorageIOError::read_log_at_index(err.index, err.cause).into())
    }
}

impl<C: StoreConfig> RaftLogReader<C> for LogReader<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + fmt::Debug + Send>(
        &mut self,
        range: RB,
    ) -> RaftResult<Vec<C::Entry>> {
        self.read(half_open(&range), None).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> RaftResult<Vec<C::Entry>> {
        let budget = self.core.limits.read_bytes;
        self.read(start..end, Some(budget)).await
    }
}

impl<C: StoreConfig> RaftLogReader<C> for LogStore<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + fmt::Debug + Send>(
        &mut self,
        range: RB,
    ) -> RaftResult<Vec<C::Entry>> {
        self.reader().try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> RaftResult<Vec<C::Entry>> {
        self.reader().limited_get_log_entries(start, end).await
    }
}

impl<C: StoreConfig> RaftLogStorage<C> for LogStore<C> {
    type LogReader = LogReader<C>;

    async fn get_log_state(&mut self) -> RaftResult<LogState<C>> {
        let state = self.core.lock();
        let (last_purged_log_id, last_log_id) = (state.index.purged(), state.index.last());
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> LogReader<C> {
        self.reader()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> RaftResult<()> {
        let vote = *vote;
        let saved = self.wait(|done| self.core.save_vote(vote, done)).await;
        saved.map_err(|err| StorageIOError::write_vote(AnyError::new(&err)).into())
    }

    async fn read_vote(&mut self) -> RaftResult<Option<Vote<u64>>> {
        Ok(self.core.lock().vote)
    }

    /// Written with the next entries, as losing it costs nothing but a little time.
    async fn save_committed(&mut self, committed: Option<LogId<u64>>) -> RaftResult<()> {
        self.core.save_committed(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> RaftResult<Option<LogId<u64>>> {
        Ok(self.core.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<C>) -> RaftResult<()>
    where
        I: IntoIterator<Item = C::Entry> + Send,
        I::IntoIter: Send,
    {
        let records: Vec<_> = entries.into_iter().map(EntryRecord::<C>::new).collect();
        let done: Done = Box::new(|result| {
            callback.log_io_completed(result.map_err(io::Error::other));
        });
        let appended = self.core.append(&records, Some(done));
        appended.map_err(|err| StorageIOError::write_logs(AnyError::new(&err)).into())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> RaftResult<()> {
        let truncated = self.wait(|done| self.core.truncate(log_id, done)).await;
        truncated.map_err(|err| StorageIOError::write_logs(AnyError::new(&err)).into())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> RaftResult<()> {
        let purged = self.wait(|done| self.core.purge(log_id, done)).await;
        purged.map_err(|err| StorageIOError::write_logs(AnyError::new(&err)).into())
    }
}

/// An entry about to be sealed.
struct EntryRecord<C: StoreConfig> {
    entry: Entry<C>,
    /// The encoding of a membership.
    membership: Vec<u8>,
    len: usize,
}

impl<C: StoreConfig> EntryRecord<C> {
    fn new(entry: Entry<C>) -> Self {
        let membership = match &entry.payload {
            EntryPayload::Membership(membership) => {
                DiskMembership::from(membership).encode_to_vec()
            }
            EntryPayload::Blank | EntryPayload::Normal(_) => Vec::new(),
        };
        let len = match &entry.payload {
            EntryPayload::Normal(command) => command.encoded_len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => membership.len(),
        };
        Self {
            entry,
            membership,
            len,
        }
    }
}

impl<C: StoreConfig> NewRecord for EntryRecord<C> {
    fn kind(&self) -> RecordKind {
        match self.entry.payload {
            EntryPayload::Blank => RecordKind::Blank,
            EntryPayload::Normal(_) => RecordKind::Normal,
            EntryPayload::Membership(_) => RecordKind::Membership,
        }
    }

    fn log_id(&self) -> LogId<u64> {
        self.entry.log_id
    }

    fn encoded_len(&self) -> usize {
        self.len
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.entry.payload {
            EntryPayload::Normal(command) => command.encode(out),
            EntryPayload::Blank | EntryPayload::Membership(_) => {
                out.extend_from_slice(&self.membership);
            }
        }
    }
}

/// An entry that cannot be read, and why not.
struct Unreadable {
    index: u64,
    cause: AnyError,
}

fn open_entries<C: StoreConfig>(sealed: &[Sealed]) -> Result<Vec<Entry<C>>, Unreadable> {
    sealed.iter().map(open_entry::<C>).collect()
}

fn open_entry<C: StoreConfig>(sealed: &Sealed) -> Result<Entry<C>, Unreadable> {
    let log_id = sealed.log_id();
    let index = log_id.index;
    let body = sealed.open().map_err(|err| Unreadable {
        index,
        cause: AnyError::new(&err),
    })?;
    let unreadable = |err: PayloadError| Unreadable {
        index,
        cause: AnyError::new(&err),
    };
    let payload = match sealed.kind() {
        RecordKind::Normal => EntryPayload::Normal(C::D::decode(&body).map_err(unreadable)?),
        RecordKind::Membership => {
            EntryPayload::Membership(decode_membership(&body).map_err(unreadable)?.into())
        }
        // Only entries are in the index.
        RecordKind::Blank | RecordKind::Truncate | RecordKind::Committed => EntryPayload::Blank,
    };
    Ok(Entry { log_id, payload })
}

fn decode_membership(body: &[u8]) -> Result<DiskMembership, PayloadError> {
    let membership = DiskMembership::decode(body).map_err(|_| PayloadError::Malformed)?;
    match membership.format {
        0 => Err(PayloadError::Malformed),
        version if version > RECORDS_FORMAT => Err(PayloadError::TooNew {
            version,
            supported: RECORDS_FORMAT,
        }),
        _ => Ok(membership),
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}
