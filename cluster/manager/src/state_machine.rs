//! The state as the engine's state machine, and its snapshots.

use std::sync::{Arc, PoisonError, RwLock};

use openraft::{
    EntryPayload, LogId, RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StorageIOError,
    StoredMembership, storage::RaftStateMachine,
};
use tokio::sync::broadcast;
use waxseal_cluster::{
    ChangeRecord, Refusal, Restorer, State, Vault, date_time, decode_batch, objects::Command,
};
use waxseal_raft_store::{Member, SnapshotData, SnapshotStore, StoreError, StoredSnapshot};

use crate::raft::{Outcomes, RaftId, TypeConfig};

type StorageResult<T> = Result<T, StorageError<RaftId>>;

/// The state with what the engine knows of it.
pub(crate) struct StateMachine {
    state: Arc<RwLock<State>>,
    vault: Arc<dyn Vault>,
    position: Position,
    changes: broadcast::Sender<ChangeRecord>,
    snapshots: SnapshotStore,
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
    /// # Errors
    /// If the snapshot cannot be read or is of a newer format.
    pub(crate) fn open(
        snapshots: SnapshotStore,
        vault: Arc<dyn Vault>,
        changes: broadcast::Sender<ChangeRecord>,
    ) -> Result<StateMachine, RestoreError> {
        let (state, position) = match snapshots.latest() {
            None => (State::new(Arc::clone(&vault)), Position::default()),
            Some(snapshot) => restore(&snapshot, &vault)?,
        };
        let state = Arc::new(RwLock::new(state));
        Ok(StateMachine {
            state,
            vault,
            position,
            changes,
            snapshots,
        })
    }

    /// The state, for readers.
    pub(crate) fn state(&self) -> Arc<RwLock<State>> {
        Arc::clone(&self.state)
    }

    /// Applies an entry's commands; the write lock is held for each of them alone.
    fn apply_batch(&self, batch: &[u8]) -> Result<Outcomes, ApplyError> {
        let commands = decode_batch(batch)?;
        let mut outcomes = Vec::with_capacity(commands.len());
        for command in commands {
            outcomes.push(self.apply_command(command?)?);
        }
        Ok(outcomes)
    }

    fn apply_command(
        &self,
        command: Command,
    ) -> Result<Result<waxseal_cluster::Applied, Refusal>, ApplyError> {
        let time = command.time.as_ref().and_then(date_time);
        let outcome = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.apply(command)
        };
        match &outcome {
            // Applying what is not understood, or skipping it, would part this replica from others.
            Err(refusal @ Refusal::TooNew { .. }) => {
                return Err(ApplyError::Refused(refusal.clone()));
            }
            Ok(applied) if !applied.changes.is_empty() => {
                let time = time.unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
                // Nobody may be listening.
                let _ = self.changes.send(ChangeRecord {
                    time,
                    changes: applied.changes.clone(),
                });
            }
            _ => {}
        }
        Ok(outcome)
    }
}

/// An entry that this binary cannot apply; the manager stops.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    #[error(transparent)]
    Codec(#[from] waxseal_cluster::CodecError),
    #[error(transparent)]
    Refused(Refusal),
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
}

fn restore(
    snapshot: &StoredSnapshot,
    vault: &Arc<dyn Vault>,
) -> Result<(State, Position), RestoreError> {
    let meta = snapshot.meta();
    let mut restorer = Restorer::new(Arc::clone(vault));
    restorer.add(&snapshot.reader().read_to_end()?)?;
    let position = Position {
        last_applied: meta.last_log_id,
        membership: meta.last_membership.clone(),
    };
    Ok((restorer.finish()?, position))
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
        let mut answers = Vec::new();
        for entry in entries {
            let outcomes = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Membership(membership) => {
                    self.position.membership =
                        StoredMembership::new(Some(entry.log_id), membership);
                    Vec::new()
                }
                EntryPayload::Normal(payload) => self
                    .apply_batch(payload.batch())
                    .map_err(|error| StorageIOError::apply(entry.log_id, anyerror_of(&error)))?,
            };
            self.position.last_applied = Some(entry.log_id);
            answers.push(outcomes);
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            // Objects are shared, so the copy is small and appliers do not wait for the disk.
            state: self
                .state
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
            position: self.position.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> StorageResult<Box<SnapshotData>> {
        let snapshots = self.snapshots.clone();
        let draft = blocking(move || snapshots.begin())
            .await
            .map_err(write_error)?;
        Ok(Box::new(SnapshotData::Draft(draft)))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<RaftId, Member>,
        snapshot: Box<SnapshotData>,
    ) -> StorageResult<()> {
        let (snapshots, meta) = (self.snapshots.clone(), meta.clone());
        let installed = blocking(move || snapshots.install(&meta, *snapshot))
            .await
            .map_err(write_error)?;
        let (state, position) = restore(&installed, &self.vault).map_err(|error| {
            let signature = Some(installed.meta().signature());
            StorageIOError::read_snapshot(signature, anyerror_of(&error))
        })?;
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.position = position;
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
    state: State,
    position: Position,
    snapshots: SnapshotStore,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> StorageResult<Snapshot<TypeConfig>> {
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
        let (state, snapshots) = (self.state.clone(), self.snapshots.clone());
        let stored = blocking(move || {
            let draft = snapshots.begin()?;
            for piece in state.snapshot_pieces() {
                draft.write(&piece)?;
            }
            snapshots.install(&meta, SnapshotData::Draft(draft))
        })
        .await
        .map_err(write_error)?;
        Ok(stored.to_openraft())
    }
}

/// Runs disk work off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(StoreError::Stopped),
    }
}

fn write_error(error: StoreError) -> StorageError<RaftId> {
    StorageIOError::write_snapshot(None, anyerror_of(&error)).into()
}

fn anyerror_of(error: &(dyn std::error::Error + 'static)) -> openraft::AnyError {
    openraft::AnyError::from_dyn(error, None)
}
