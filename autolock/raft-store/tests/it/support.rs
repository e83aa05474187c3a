//! A small command, a small state machine, and short cuts.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex};

use openraft::storage::{RaftLogStorageExt, RaftStateMachine};
use openraft::{
    AnyError, CommittedLeaderId, Entry, EntryPayload, LogId, RaftLogReader, RaftSnapshotBuilder,
    Snapshot, StorageError, StorageIOError, StoredMembership,
};
use waxseal_autolock::{Dek, DekRing, Owner};
use waxseal_raft_store::{
    Disk, LogLimits, LogStore, Member, Meta, Opened, Payload, PayloadError, SnapshotData,
    SnapshotStore, StoreError, StoreOptions, open,
};

/// Bytes that a real manager would keep secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Note(pub(crate) Vec<u8>);

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Note({} bytes)", self.0.len())
    }
}

impl Payload for Note {
    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(bytes: &[u8]) -> Result<Self, PayloadError> {
        Ok(Self(bytes.to_vec()))
    }
}

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Note,
        R = (),
        NodeId = u64,
        Node = Member,
        Entry = Entry<TypeConfig>,
        SnapshotData = SnapshotData,
        AsyncRuntime = openraft::TokioRuntime,
);

pub(crate) type Log = LogStore<TypeConfig>;

pub(crate) fn owner() -> Owner {
    Owner {
        cluster_id: "cluster".into(),
        node_id: "node".into(),
        raft_id: 7,
    }
}

pub(crate) fn dek(byte: u8) -> Dek {
    let filled = Dek::generate(|bytes| {
        bytes.fill(byte);
        Ok::<_, std::convert::Infallible>(())
    });
    match filled {
        Ok(dek) => dek,
        Err(never) => match never {},
    }
}

/// Small segments, no threads but the writer's.
pub(crate) fn small_limits() -> LogLimits {
    LogLimits {
        segment_bytes: 16 * 1024,
        max_entry_bytes: 8 * 1024,
        cache_bytes: 2 * 1024,
        read_bytes: 1024,
        reserve_bytes: 1024,
        prepare_in_background: false,
    }
}

pub(crate) fn options(dir: &Path, current: u8, retired: &[u8]) -> StoreOptions {
    let deks = DekRing::new(dek(current), retired.iter().map(|byte| dek(*byte)));
    StoreOptions {
        limits: small_limits(),
        ..StoreOptions::new(dir, owner(), deks)
    }
}

pub(crate) fn open_in(dir: &Path) -> Result<Opened<TypeConfig>, StoreError> {
    open(options(dir, 1, &[]))
}

pub(crate) fn open_on(
    disk: &Arc<impl Disk>,
    current: u8,
    retired: &[u8],
) -> Result<Opened<TypeConfig>, StoreError> {
    open(StoreOptions {
        disk: disk.clone(),
        ..options(Path::new("/sim"), current, retired)
    })
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(term, 7), index)
}

pub(crate) fn note(term: u64, index: u64, bytes: Vec<u8>) -> Entry<TypeConfig> {
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Note(bytes)),
    }
}

/// Appends notes of some length at the indices and waits until they are durable.
pub(crate) async fn append(
    log: &mut Log,
    indices: impl IntoIterator<Item = u64>,
    len: usize,
) -> Result<(), StorageError<u64>> {
    let entries: Vec<_> = indices
        .into_iter()
        .map(|index| note(1, index, vec![index as u8; len]))
        .collect();
    log.blocking_append(entries).await
}

pub(crate) async fn read(
    log: &mut Log,
    range: impl RangeBounds<u64> + Clone + fmt::Debug + Send,
) -> Vec<(u64, Vec<u8>)> {
    let entries = log.try_get_log_entries(range).await.unwrap();
    entries
        .into_iter()
        .map(|entry| match entry.payload {
            EntryPayload::Normal(note) => (entry.log_id.index, note.0),
            _ => (entry.log_id.index, Vec::new()),
        })
        .collect()
}

/// Runs a test's future.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Keeps notes by index.
#[derive(Debug, Clone)]
pub(crate) struct StateMachine {
    snapshots: SnapshotStore,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, Member>,
    notes: BTreeMap<u64, Vec<u8>>,
}

impl StateMachine {
    pub(crate) fn new(snapshots: SnapshotStore) -> Self {
        Self {
            snapshots,
            state: Arc::default(),
        }
    }

    /// Takes the state from the newest snapshot, as a manager does at start.
    pub(crate) fn restore(&self) -> Result<(), StoreError> {
        match self.snapshots.latest() {
            Some(latest) => self.replace(&latest.meta().clone(), SnapshotData::Stored(latest)),
            None => Ok(()),
        }
    }

    pub(crate) fn notes(&self) -> BTreeMap<u64, Vec<u8>> {
        self.state.lock().unwrap().notes.clone()
    }

    fn build(&self) -> Result<Snapshot<TypeConfig>, StoreError> {
        let draft = self.snapshots.begin()?;
        let meta = {
            let state = self.state.lock().unwrap();
            for (index, note) in &state.notes {
                draft.write(&index.to_be_bytes())?;
                draft.write(&(note.len() as u64).to_be_bytes())?;
                draft.write(note)?;
            }
            Meta {
                last_log_id: state.applied,
                last_membership: state.membership.clone(),
                snapshot_id: format!("{:?}", state.applied.map(|id| id.index)),
            }
        };
        let stored = self.snapshots.install(&meta, SnapshotData::Draft(draft))?;
        Ok(stored.to_openraft())
    }

    fn replace(&self, meta: &Meta, data: SnapshotData) -> Result<(), StoreError> {
        let stored = self.snapshots.install(meta, data)?;
        let bytes = stored.reader().read_to_end()?;
        let mut rest = &bytes[..];
        let mut notes = BTreeMap::new();
        while let Some((index, tail)) = rest.split_first_chunk() {
            let (len, tail) = tail.split_first_chunk().unwrap();
            let (note, tail) = tail.split_at(u64::from_be_bytes(*len) as usize);
            notes.insert(u64::from_be_bytes(*index), note.to_vec());
            rest = tail;
        }
        let membership = meta.last_membership.clone();
        *self.state.lock().unwrap() = State {
            applied: meta.last_log_id,
            membership,
            notes,
        };
        Ok(())
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        self.build()
            .map_err(|err| StorageIOError::write_snapshot(None, AnyError::new(&err)).into())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, Member>), StorageError<u64>> {
        let state = self.state.lock().unwrap();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let mut state = self.state.lock().unwrap();
        let mut answers = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(note) => {
                    state.notes.insert(entry.log_id.index, note.0);
                }
                EntryPayload::Membership(membership) => {
                    state.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotData>, StorageError<u64>> {
        let draft = self
            .snapshots
            .begin()
            .map_err(|err| StorageIOError::write_snapshot(None, AnyError::new(&err)))?;
        Ok(Box::new(SnapshotData::Draft(draft)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        snapshot: Box<SnapshotData>,
    ) -> Result<(), StorageError<u64>> {
        self.replace(meta, *snapshot)
            .map_err(|err| StorageIOError::write_snapshot(None, AnyError::new(&err)).into())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        Ok(self.snapshots.latest().map(|latest| latest.to_openraft()))
    }
}

/// What a storage error of openraft says, causes and all.
pub(crate) fn text(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The files of a directory with their content.
pub(crate) fn files(dir: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    std::fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path())?,
            ))
        })
        .collect()
}
