//! The state as the engine's state machine, and its snapshots.

#![allow(clippy::result_large_err, reason = "the error is the engine's")]

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use openraft::{
    EntryPayload, LogId, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError,
    StoredMembership, storage::RaftStateMachine,
};
use prost::encoding::WireType;
use tokio::sync::broadcast;
use waxseal_cluster::{
    Applied, Change, ChangeRecord, FrozenState, Refusal, Restorer, State, Vault, date_time,
    decode_batch, objects::Command,
};
use waxseal_raft_store::{Member, SnapshotData, SnapshotStore, StoreError, StoredSnapshot};
use zeroize::Zeroizing;

use crate::{
    error::{ApplyError, Failure},
    monitor::Monitor,
    raft::{Outcomes, RaftId, TypeConfig},
};

/// Pause before a first snapshot is tried again on a full disk.
const FULL_PAUSE: Duration = Duration::from_secs(1);

type StorageResult<T> = Result<T, StorageError<RaftId>>;

/// The state with what the engine knows of it.
pub(crate) struct StateMachine {
    state: Arc<RwLock<State>>,
    vault: Arc<dyn Vault>,
    position: Position,
    changes: broadcast::Sender<ChangeRecord>,
    snapshots: SnapshotStore,
    monitor: Monitor,
    /// The newest feature level that is read here.
    feature_level: u32,
}

/// How far the log is applied.
#[derive(Clone, Debug, Default)]
struct Position {
    last_applied: Option<LogId<RaftId>>,
    membership: StoredMembership<RaftId, Member>,
}

impl StateMachine {
    /// The state of the newest snapshot, or an empty one.
    ///
    /// Blocks.
    ///
    /// # Errors
    /// If the snapshot cannot be read, is of a newer format or of a cluster of a newer
    /// feature level.
    pub(crate) fn open(
        snapshots: SnapshotStore,
        vault: Arc<dyn Vault>,
        changes: broadcast::Sender<ChangeRecord>,
        monitor: Monitor,
        feature_level: u32,
    ) -> Result<StateMachine, RestoreError> {
        let (state, position) = match snapshots.latest() {
            None => (State::new(Arc::clone(&vault)), Position::default()),
            Some(snapshot) => restore(&snapshot, &vault, feature_level)?,
        };
        let state = Arc::new(RwLock::new(state));
        Ok(StateMachine {
            state,
            vault,
            position,
            changes,
            snapshots,
            monitor,
            feature_level,
        })
    }

    /// The state, for readers.
    pub(crate) fn state(&self) -> Arc<RwLock<State>> {
        Arc::clone(&self.state)
    }

    fn apply_entry(
        &mut self,
        entry: openraft::Entry<TypeConfig>,
        news: &mut Vec<ChangeRecord>,
    ) -> StorageResult<Outcomes> {
        let outcomes = match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Membership(membership) => {
                self.position.membership = StoredMembership::new(Some(entry.log_id), membership);
                Vec::new()
            }
            EntryPayload::Normal(payload) => {
                // The engine waits for ever on a state machine that panicked.
                catch_unwind(AssertUnwindSafe(|| self.apply_batch(payload.batch(), news)))
                    .unwrap_or(Err(ApplyError::Panicked))
                    .map_err(|error| self.not_applied(entry.log_id, error))?
            }
        };
        self.position.last_applied = Some(entry.log_id);
        Ok(outcomes)
    }

    /// Applies an entry's commands; the write lock is held for each of them alone.
    fn apply_batch(
        &self,
        batch: &[u8],
        news: &mut Vec<ChangeRecord>,
    ) -> Result<Outcomes, ApplyError> {
        let commands = decode_batch(batch)?;
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            outcomes.push(self.apply_command(command?, news)?);
        }
        Ok(outcomes)
    }

    fn not_applied(&self, log_id: LogId<RaftId>, error: ApplyError) -> StorageError<RaftId> {
        let cause = anyerror_of(&error);
        self.monitor.fail(Failure::Entry {
            index: log_id.index,
            source: error,
        });
        StorageIOError::apply(log_id, cause).into()
    }

    fn apply_command(
        &self,
        command: Command,
        news: &mut Vec<ChangeRecord>,
    ) -> Result<Result<Applied, Refusal>, ApplyError> {
        let time = command.time.as_ref().and_then(date_time);
        let outcome = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let outcome = state.apply(command);
            check_level(&state, self.feature_level).map_err(ApplyError::Level)?;
            outcome
        };
        match &outcome {
            // Applying what is not understood, or skipping it, would part this replica from others.
            Err(refusal @ Refusal::TooNew { .. }) => {
                return Err(ApplyError::Refused(refusal.clone()));
            }
            Ok(applied) if !applied.changes.is_empty() && self.monitor.is_live() => {
                let time = time.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
                news.push(ChangeRecord {
                    time,
                    changes: applied.changes.clone(),
                });
            }
            _ => {}
        }
        Ok(outcome)
    }
}

/// A snapshot that does not become a state; the manager does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// Its file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its content.
    #[error(
        "the newest snapshot cannot be read; start the binary that wrote it, or restore a backup"
    )]
    Content(#[from] Refusal),
    /// The cluster's feature level.
    #[error(transparent)]
    Level(#[from] TooOld),
}

/// The cluster has risen above this binary: what it would read next it may not know.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the cluster has feature level {cluster} and this binary reads up to {binary}; start the \
     version that ran on the other managers"
)]
pub struct TooOld {
    /// The cluster's level.
    pub cluster: u32,
    /// The newest one that this binary reads.
    pub binary: u32,
}

fn check_level(state: &State, binary: u32) -> Result<(), TooOld> {
    match state.cluster().map(|cluster| cluster.feature_level) {
        Some(cluster) if cluster > binary => Err(TooOld { cluster, binary }),
        _ => Ok(()),
    }
}

/// Reads a snapshot chunk by chunk: of its plaintext no more than a chunk and one
/// object are in memory at a time.
fn restore(
    snapshot: &StoredSnapshot,
    vault: &Arc<dyn Vault>,
    feature_level: u32,
) -> Result<(State, Position), RestoreError> {
    let mut restorer = Restorer::new(Arc::clone(vault));
    let mut reader = snapshot.reader();
    let mut rest = Zeroizing::new(Vec::new());
    while let Some(chunk) = reader.next_chunk()? {
        rest.extend_from_slice(&chunk);
        let whole = whole_fields(&rest);
        restorer.add(&rest[..whole])?;
        rest.drain(..whole);
    }
    // What is left over is no field; the restorer says so.
    restorer.add(&rest)?;
    let meta = snapshot.meta();
    let position = Position {
        last_applied: meta.last_log_id,
        membership: meta.last_membership.clone(),
    };
    let state = restorer.finish()?;
    check_level(&state, feature_level)?;
    Ok((state, position))
}

/// Bytes of the fields of a message that are whole in `bytes`. A snapshot's pieces
/// are one message, and any division of it between fields can be read in turn.
fn whole_fields(bytes: &[u8]) -> usize {
    let mut left = bytes;
    while let Some(after) = after_field(left) {
        left = after;
    }
    bytes.len() - left.len()
}

/// What follows the first field; `None` if it is not whole, or is no field.
fn after_field(mut bytes: &[u8]) -> Option<&[u8]> {
    let (_, wire_type) = prost::encoding::decode_key(&mut bytes).ok()?;
    let length = match wire_type {
        WireType::Varint => {
            prost::encoding::decode_varint(&mut bytes).ok()?;
            0
        }
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => {
            usize::try_from(prost::encoding::decode_varint(&mut bytes).ok()?).ok()?
        }
        WireType::StartGroup | WireType::EndGroup => return None,
    };
    bytes.get(length..)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(
        &mut self,
    ) -> StorageResult<(Option<LogId<RaftId>>, StoredMembership<RaftId, Member>)> {
        Ok((self.position.last_applied, self.position.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> StorageResult<Vec<Outcomes>>
    where
        I: IntoIterator<Item = openraft::Entry<TypeConfig>> + Send,
        I::IntoIter: Send,
    {
        let mut news = Vec::new();
        let answers = entries
            .into_iter()
            .map(|entry| self.apply_entry(entry, &mut news))
            .collect();
        // Told together, before anybody is answered: a follower that is woken for
        // each of them costs more than the command.
        for record in news {
            // Nobody may be listening.
            let _ = self.changes.send(record);
        }
        answers
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            monitor: self.monitor.clone(),
            // Objects are shared, so the copy is small and appliers do not wait for the disk.
            state: Arc::new(
                self.state
                    .read()
                    .unwrap_or_else(PoisonError::into_inner)
                    .freeze(),
            ),
            position: self.position.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<SnapshotData>> {
        let snapshots = self.snapshots.clone();
        let draft = self
            .monitor
            .blocking(move || snapshots.begin())
            .await
            .map_err(|error| write_error(&self.monitor, error))?;
        Ok(Box::new(SnapshotData::Draft(draft)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<RaftId, Member>,
        snapshot: Box<SnapshotData>,
    ) -> StorageResult<()> {
        let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
        let installed = self
            .monitor
            .blocking(move || snapshots.install(&meta, *snapshot))
            .await
            .map_err(|error| write_error(&self.monitor, error))?;
        let restored = restore(&installed, &self.vault, self.feature_level);
        let (state, position) = restored.map_err(|error| {
            let signature = Some(installed.meta().signature());
            StorageIOError::read_snapshot(signature, anyerror_of(&error))
        })?;
        let (old, new) = {
            let mut current = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let old = current.cluster().cloned();
            *current = state;
            (old, current.cluster().cloned())
        };
        self.position = position;
        if self.monitor.is_live() {
            // Of all that changed, what managers themselves go by.
            let _ = self.changes.send(ChangeRecord {
                time: time::OffsetDateTime::UNIX_EPOCH,
                changes: vec![Change::Cluster { old, new }],
            });
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> StorageResult<Option<Snapshot<TypeConfig>>> {
        Ok(self
            .snapshots
            .latest()
            .map(|snapshot| snapshot.to_openraft()))
    }
}

/// Writes a snapshot of the state as it was when the builder was made.
pub(crate) struct Builder {
    state: Arc<FrozenState>,
    position: Position,
    snapshots: SnapshotStore,
    monitor: Monitor,
}

impl Builder {
    async fn write(&self) -> Result<StoredSnapshot, StoreError> {
        let Position {
            last_applied,
            membership,
        } = self.position.clone();
        let index = last_applied.map_or(0, |id| id.index);
        let term = last_applied.map_or(0, |id| id.leader_id.term);
        let meta = SnapshotMeta {
            last_log_id: last_applied,
            last_membership: membership,
            snapshot_id: format!("{term}-{index}"),
        };
        let (state, snapshots) = (Arc::clone(&self.state), self.snapshots.clone());
        let writing = move || {
            let draft = snapshots.begin()?;
            for piece in state.pieces() {
                draft.write(&piece)?;
            }
            snapshots.install(&meta, SnapshotData::Draft(draft))
        };
        self.monitor.blocking(writing).await
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    /// On a full disk the one before is the newest still: the engine takes an
    /// error as the end of itself, and a full disk must not be that. Before there
    /// is any, it waits for space.
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<TypeConfig>> {
        loop {
            let error = match self.write().await {
                Ok(stored) => return Ok(stored.to_openraft()),
                Err(error) => error,
            };
            if !error.is_full() || self.monitor.stopped.is_cancelled() {
                return Err(write_error(&self.monitor, error));
            }
            tracing::warn!(%error, "no space for a snapshot; the log keeps what it would hold");
            if let Some(before) = self.snapshots.latest() {
                return Ok(before.to_openraft());
            }
            tokio::select! {
                () = tokio::time::sleep(FULL_PAUSE) => {}
                () = self.monitor.stopped.cancelled() => {}
            }
        }
    }
}

fn write_error(monitor: &Monitor, error: StoreError) -> StorageError<RaftId> {
    let cause = anyerror_of(&error);
    monitor.fail(Failure::Store(Arc::new(error)));
    StorageIOError::write_snapshot(None, cause).into()
}

fn anyerror_of(error: &(dyn std::error::Error + 'static)) -> openraft::AnyError {
    openraft::AnyError::from_dyn(error, None)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use waxseal_autolock::{Dek, DekRing, Owner};
    use waxseal_cluster::{CodecError, PlainVault, Wiped, objects::StateSnapshot};
    use waxseal_raft_store::{DangerSimDisk, StoreOptions};

    use super::*;
    use crate::testing::World;

    #[test]
    fn a_snapshot_may_be_cut_anywhere() {
        let world = World::with_secret(&[1; 3_000]);
        let whole: Vec<u8> = world
            .state
            .freeze()
            .pieces()
            .flat_map(|piece| piece.to_vec())
            .collect();
        let expected = StateSnapshot::decode(&whole[..]).unwrap();
        for chunk_bytes in [61, 64, 1_000, 1_000_000] {
            let mut restorer = Restorer::new(Arc::new(PlainVault));
            let mut rest = Vec::new();
            for chunk in whole.chunks(chunk_bytes) {
                rest.extend_from_slice(chunk);
                let fields = whole_fields(&rest);
                restorer.add(&rest[..fields]).unwrap();
                rest.drain(..fields);
            }
            assert!(rest.is_empty());
            let state = restorer.finish().unwrap();
            assert_eq!(state.version(), expected.version);
            assert_eq!(*state.secret_payload("s1").unwrap(), [1; 3_000]);
            assert_eq!(state.nodes().count(), 3);
        }
    }

    fn opened(disk: &Arc<DangerSimDisk>, monitor: &Monitor) -> StateMachine {
        let dek = Dek::generate(|bytes| {
            bytes.fill(1);
            Ok::<_, ()>(())
        });
        let owner = Owner {
            cluster_id: "c".into(),
            node_id: "n".into(),
            raft_id: 7,
        };
        let options = StoreOptions {
            disk: disk.clone(),
            ..StoreOptions::new("/sim", owner, DekRing::new(dek.unwrap(), []))
        };
        let opened = waxseal_raft_store::open::<TypeConfig>(options).unwrap();
        let changes = broadcast::channel(1).0;
        let vault = Arc::new(PlainVault);
        let level = crate::FEATURE_LEVEL;
        StateMachine::open(opened.snapshots, vault, changes, monitor.clone(), level).unwrap()
    }

    fn entry(index: u64, batch: Vec<u8>) -> openraft::Entry<TypeConfig> {
        let leader = openraft::CommittedLeaderId::new(1, 7);
        openraft::Entry {
            log_id: LogId::new(leader, index),
            payload: EntryPayload::Normal(Wiped::new(batch).into()),
        }
    }

    #[tokio::test]
    async fn a_full_disk_leaves_the_snapshot_before_and_no_failure() {
        let disk = Arc::new(DangerSimDisk::new(1));
        let monitor = Monitor::default();
        let mut machine = opened(&disk, &monitor);
        *machine.state.write().unwrap() = World::with_secret(&[1; 200_000]).state;
        // Before there is any, it waits.
        disk.set_capacity(Some(disk.used()));
        let mut builder = machine.get_snapshot_builder().await;
        let waiting = tokio::time::timeout(FULL_PAUSE / 2, builder.build_snapshot());
        assert!(waiting.await.is_err());
        disk.set_capacity(None);
        machine.position.last_applied = Some(entry(1, Vec::new()).log_id);
        let mut builder = machine.get_snapshot_builder().await;
        let first = builder.build_snapshot().await.unwrap();
        disk.set_capacity(Some(disk.used()));
        machine.position.last_applied = Some(entry(2, Vec::new()).log_id);
        let mut builder = machine.get_snapshot_builder().await;
        let second = builder.build_snapshot().await.unwrap();
        assert_eq!(second.meta.snapshot_id, first.meta.snapshot_id);
        disk.set_capacity(None);
        let third = builder.build_snapshot().await.unwrap();
        assert_ne!(third.meta.snapshot_id, first.meta.snapshot_id);
        assert!(matches!(
            monitor.failure("none"),
            Failure::Engine { reason } if reason == "none"
        ));
    }

    #[tokio::test]
    async fn an_entry_that_cannot_be_applied_is_told_with_its_place() {
        let disk = Arc::new(DangerSimDisk::new(1));
        let monitor = Monitor::default();
        let mut machine = opened(&disk, &monitor);
        // A batch of a newer format.
        assert!(machine.apply([entry(5, vec![2, 0, 0])]).await.is_err());
        let failure = monitor.failure("the engine's words");
        assert!(matches!(
            failure,
            Failure::Entry {
                index: 5,
                source: ApplyError::Codec(CodecError::TooNew { found: 2, .. })
            }
        ));
        assert!(
            failure
                .to_string()
                .contains("start the version that wrote it")
        );
    }

    #[test]
    fn what_is_no_field_is_left_over() {
        assert_eq!(whole_fields(&[]), 0);
        assert_eq!(whole_fields(&[0x08]), 0, "a key without its value");
        assert_eq!(whole_fields(&[0x08, 0x01, 0x0a, 0x05, 1]), 2, "cut short");
        assert_eq!(whole_fields(&[0x0b]), 0, "a group");
        let length = [&[0x0a][..], &[0xff; 9], &[0x01]].concat();
        assert_eq!(whole_fields(&length), 0, "longer than memory");
    }
}
