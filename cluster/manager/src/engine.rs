//! The consensus engine on its log: start, snapshots, keys, stop.
//!
//! Who leads is `leadership.rs`, elections are `elections.rs`, members `membership.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{
    CommittedLeaderId, EntryPayload, LogId, Membership, StorageHelper, Vote,
    error::RaftError,
    storage::{RaftLogStorage, RaftStateMachine},
};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use waxseal_autolock::{Dek, Owner};
use waxseal_cluster::{MAX_COMMAND_BYTES, objects::RaftConfig};
use waxseal_raft_store::{LogLimits, LogStore, Member, SnapshotPolicy, SnapshotStore, StoreError};

use crate::{
    core::Core,
    error::{RotateError, StartError},
    leadership::Leader,
    monitor::Monitor,
    peers::Peers,
    pulse::{Floor, Pulse, Quorum},
    raft::{Identity, Raft, RaftId, TypeConfig, commits::Commits, network::Network},
    room::Room,
    state_machine::StateMachine,
};

/// Signs of life of a leader (requirements.md, Elections).
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(175);
/// The engine's own clock runs slower, as signs of life and elections are not its:
/// this is the time that a member has to take entries, disk and network included.
const APPEND_MILLIS: u64 = 800;
/// Time for the answer to a vote; and the engine's own lease, which is within
/// [`PROMISE`](crate::pulse::PROMISE).
const VOTE_MILLIS: std::ops::Range<u64> = 850..900;
/// A manager that has not caught up with its own log by then does not start.
const CATCH_UP: Duration = Duration::from_secs(60);
/// Pause between two looks at whether it has caught up.
const CATCH_UP_PAUSE: Duration = Duration::from_millis(5);
/// How often it is checked whether a snapshot is due.
const SNAPSHOT_CHECK: Duration = Duration::from_secs(1);
/// A snapshot that is not there by then is not waited for.
const SNAPSHOT_WAIT: Duration = Duration::from_secs(60);
/// Tries at finishing a rotation; each ends with everything written so far behind a snapshot.
const RETIRE_TRIES: usize = 20;
const RETIRE_PAUSE: Duration = Duration::from_millis(50);

/// The engine with its log and snapshots; clones share them.
#[derive(Clone)]
pub(crate) struct Engine {
    pub(crate) raft: Raft,
    pub(crate) log: LogStore<TypeConfig>,
    pub(crate) snapshots: SnapshotStore,
    pub(crate) monitor: Monitor,
    pub(crate) me: Arc<Identity>,
    pub(crate) peers: Peers,
    pub(crate) pulse: Pulse,
    pub(crate) commits: Commits,
    pub(crate) leader: watch::Sender<Leader>,
    /// The membership changes one step at a time.
    pub(crate) changing: Arc<Mutex<()>>,
    /// The leadership is handed over once at a time.
    pub(crate) handing: Arc<Mutex<()>>,
    pub(crate) room: Room,
}

impl Engine {
    /// Starts the engine; what the log says is committed is applied when it returns.
    /// With `alone` it is the only member from now on, whoever was one before.
    pub(crate) async fn start(
        owner: &Owner,
        alone: Option<Member>,
        peers: Peers,
        mut log: LogStore<TypeConfig>,
        snapshots: SnapshotStore,
        mut machine: StateMachine,
        monitor: Monitor,
    ) -> Result<Engine, StartError> {
        let config = openraft::Config {
            cluster_name: owner.cluster_id.clone(),
            heartbeat_interval: APPEND_MILLIS,
            election_timeout_min: VOTE_MILLIS.start,
            election_timeout_max: VOTE_MILLIS.end,
            enable_elect: false,
            // The log is purged by bytes, not by entries alone; see `keep_snapshots`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: 50,
            ..openraft::Config::default()
        };
        let config = Arc::new(config.validate().map_err(refused)?);
        let me = Arc::new(Identity::new(
            &owner.cluster_id,
            &owner.node_id,
            owner.raft_id,
        ));
        let (pulse, commits) = (Pulse::new(), Commits::new());
        if let Some(member) = alone {
            let forced = force_alone(&me, member, &mut log, &mut machine).await;
            if !forced.map_err(|error| monitor.start_error(error))? {
                return Err(StartError::NothingToForce);
            }
        }
        let others = resume_as_follower(&me, &mut log, &mut machine)
            .await
            .map_err(|error| monitor.start_error(error))?;
        if !others {
            pulse.set_floor(Floor::default());
        }
        let network = Network {
            me: Arc::clone(&me),
            peers: peers.clone(),
            pulse: pulse.clone(),
            commits: commits.clone(),
        };
        let raft = Raft::new(owner.raft_id, config, network, log.clone(), machine)
            .await
            .map_err(|fatal| monitor.start_error(fatal))?;
        // It answers once its metrics say what the log does.
        let initialized = raft.is_initialized().await;
        initialized.map_err(|fatal| monitor.start_error(fatal))?;
        Ok(Engine {
            raft,
            log,
            snapshots,
            monitor,
            me,
            peers,
            pulse,
            commits,
            leader: watch::Sender::default(),
            changing: Arc::default(),
            handing: Arc::default(),
            room: Room::default(),
        })
    }

    /// Returns once this manager leads and has applied all that was acknowledged.
    pub(crate) async fn catch_up(&self) -> Result<(), StartError> {
        match tokio::time::timeout(CATCH_UP, self.lead()).await {
            Ok(result) => result,
            Err(_) => Err(StartError::NotCaughtUp { within: CATCH_UP }),
        }
    }

    async fn lead(&self) -> Result<(), StartError> {
        let failed = |fatal| self.monitor.start_error(fatal);
        if !self.raft.is_initialized().await.map_err(failed)? {
            return Err(StartError::Raft {
                reason: "the log has no membership".to_owned(),
            });
        }
        // The only voter need not wait for a silence of others.
        self.raft.trigger().elect().await.map_err(failed)?;
        loop {
            match self.raft.ensure_linearizable().await {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(fatal)) => return Err(failed(fatal)),
                Err(RaftError::APIError(_)) => tokio::time::sleep(CATCH_UP_PAUSE).await,
            }
        }
    }

    /// Takes snapshots and purges the log behind them, by bytes and by the entries that the
    /// cluster's settings name, until the manager stops.
    pub(crate) async fn keep_snapshots(self, core: Arc<Core>, stopped: CancellationToken) {
        let mut tick = tokio::time::interval(SNAPSHOT_CHECK);
        let (mut waits, mut kept) = (false, None);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stopped.cancelled() => return,
            }
            let (policy, older) = core.read(|state| {
                let spec = state.cluster().and_then(|cluster| cluster.spec.as_ref());
                snapshot_settings(spec.and_then(|spec| spec.raft.as_ref()))
            });
            if kept != Some(older) {
                let snapshots = self.snapshots.clone();
                let keeping = move || snapshots.keep_older(older);
                match self.monitor.blocking(keeping).await {
                    Ok(()) => kept = Some(older),
                    Err(error) => tracing::warn!(%error, "an older snapshot stays"),
                }
            }
            let (taken, purged) = {
                let metrics = self.raft.metrics();
                let metrics = metrics.borrow();
                let index = |id: Option<openraft::LogId<_>>| id.map(|id| id.index);
                (index(metrics.snapshot), index(metrics.purged))
            };
            // One that is being written may not be due any more when it is there.
            if policy.is_due(self.log.usage_since(taken)) && self.monitor.work.is_empty() {
                match self.reserve(0).await {
                    Ok(()) if self.raft.trigger().snapshot().await.is_err() => return,
                    Ok(()) => waits = false,
                    Err(error) if !waits => {
                        tracing::warn!(%error, "a snapshot is due and waits for the disk");
                        waits = true;
                    }
                    Err(_) => {}
                }
            }
            let target = taken.and_then(|taken| self.log.purge_target(taken, &policy));
            if let Some(target) =
                target.filter(|target| purged.is_none_or(|purged| *target > purged))
                && self.raft.trigger().purge_log(target).await.is_err()
            {
                return;
            }
        }
    }

    /// Allocates the space that a snapshot takes now, as an engine that cannot
    /// write one ends, and `more`. It is no larger than the one before and what the
    /// log holds since.
    async fn reserve(&self, more: u64) -> Result<(), StoreError> {
        let latest = self.snapshots.latest();
        let index = latest
            .as_ref()
            .and_then(|latest| latest.meta().last_log_id)
            .map(|id| id.index);
        let before = latest.map_or(0, |latest| latest.file_bytes());
        let bytes = before
            .saturating_add(self.log.usage_since(index).bytes)
            .saturating_add(more);
        let snapshots = self.snapshots.clone();
        self.monitor
            .blocking(move || snapshots.reserve(bytes))
            .await
    }

    /// Seals what is written from now on under `new`, if there is room for the
    /// segment that begins with it: a log that cannot begin one ends.
    pub(crate) async fn rotate_dek(&self, new: Dek) -> Result<(), RotateError> {
        let segment = LogLimits::default().segment_bytes;
        self.reserve(segment.into()).await?;
        // Gives back what is not for the snapshot.
        self.reserve(0).await?;
        Ok(self.log.rotate_dek(new).await?)
    }

    /// Sees to it that no file on disk needs a former key.
    pub(crate) async fn retire_deks(&self) -> Result<(), RotateError> {
        for _ in 0..RETIRE_TRIES {
            if self.log.retired_in_use().is_empty() {
                self.log.forget_retired();
                return Ok(());
            }
            self.reserve(0).await?;
            let applied = self.raft.metrics().borrow().last_applied;
            self.raft.trigger().snapshot().await.map_err(ended)?;
            self.raft
                .wait(Some(SNAPSHOT_WAIT))
                .metrics(
                    |metrics| metrics.snapshot >= applied,
                    "a snapshot under the new key",
                )
                .await
                .map_err(ended)?;
            let snapshots = self.snapshots.clone();
            self.monitor.blocking(move || snapshots.reseal()).await?;
            if let Some(index) = applied.map(|id| id.index) {
                self.raft.trigger().purge_log(index).await.map_err(ended)?;
            }
            tokio::time::sleep(RETIRE_PAUSE).await;
        }
        Err(RotateError::InUse)
    }

    /// Who leads.
    pub(crate) fn leader(&self) -> watch::Receiver<Leader> {
        self.leader.subscribe()
    }

    /// Entries of the log that are not applied yet.
    pub(crate) fn lag(&self) -> u64 {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        metrics.last_log_index.unwrap_or(0).saturating_sub(applied)
    }

    /// The last entry of this manager's log.
    pub(crate) fn last_log(&self) -> Option<LogId<RaftId>> {
        self.raft.data_metrics().borrow().last_log
    }

    /// Whether the disk has room for whatever may be proposed.
    pub(crate) fn has_room(&self) -> bool {
        self.log.can_accept(MAX_COMMAND_BYTES).is_ok()
    }

    /// Lets `decide` see who has to agree.
    pub(crate) fn with_quorum<R>(&self, decide: impl FnOnce(&Quorum<'_>) -> R) -> R {
        let view = self.raft.server_metrics();
        let view = view.borrow();
        decide(&Quorum {
            membership: view.membership_config.membership(),
            me: self.me.raft_id,
        })
    }

    /// Whether this manager is the only voter.
    pub(crate) fn is_alone(&self) -> bool {
        self.with_quorum(|quorum| {
            let mut voters = quorum.membership.voter_ids();
            voters.next() == Some(self.me.raft_id) && voters.next().is_none()
        })
    }

    /// Stops the engine and lets the log reach the disk; nothing writes to the
    /// directory after it.
    pub(crate) async fn stop(&self) {
        self.monitor.stopped.cancel();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the Raft engine did not stop cleanly");
        }
        // The engine does not wait for a snapshot that is being written.
        self.monitor.work.close();
        self.monitor.work.wait().await;
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "the log was not closed cleanly; the next start reads its tail");
        }
    }
}

/// Sees to it that a manager among others does not lead by what its disk says: the
/// disk may have been set back, and others may have elected another since. Answers
/// whether there are others.
async fn resume_as_follower(
    me: &Identity,
    log: &mut LogStore<TypeConfig>,
    machine: &mut StateMachine,
) -> Result<bool, openraft::StorageError<RaftId>> {
    let membership = StorageHelper::new(log, machine).get_membership().await?;
    let effective = membership.effective();
    let others = effective.voter_ids().any(|voter| voter != me.raft_id);
    if others
        && let Some(vote) = log.read_vote().await?
        && vote.committed
        && vote.leader_id.node_id == me.raft_id
    {
        let vote = Vote::new(vote.leader_id.term, me.raft_id);
        log.save_vote(&vote).await?;
    }
    Ok(others)
}

/// Makes this manager the only member by an entry behind all that its log has, as the
/// leader of a term of its own. Every entry is kept, and committed with it. Broken off
/// between vote and entry, nothing has changed but the term. Answers false if there is
/// nothing, and leaves it so.
async fn force_alone(
    me: &Identity,
    member: Member,
    log: &mut LogStore<TypeConfig>,
    machine: &mut StateMachine,
) -> Result<bool, openraft::StorageError<RaftId>> {
    let vote = log.read_vote().await?.unwrap_or_default();
    let (applied, _) = machine.applied_state().await?;
    let mut last = log.get_log_state().await?.last_log_id;
    if last < applied {
        // A snapshot came and the log behind it did not go yet.
        if let Some(applied) = applied {
            log.purge(applied).await?;
        }
        last = applied;
    }
    if last.is_none() {
        return Ok(false);
    }
    let term = vote
        .leader_id
        .term
        .max(last.map_or(0, |id| id.leader_id.term))
        + 1;
    log.save_vote(&Vote::new_committed(term, me.raft_id))
        .await?;
    let membership = Membership::new(
        vec![BTreeSet::from([me.raft_id])],
        BTreeMap::from([(me.raft_id, member)]),
    );
    let entry = openraft::Entry {
        log_id: LogId::new(
            CommittedLeaderId::new(term, me.raft_id),
            last.map_or(0, |id| id.index + 1),
        ),
        payload: EntryPayload::Membership(membership),
    };
    log.append_synced(entry).await?;
    Ok(true)
}

/// When snapshots are due, and how many older ones stay (`--snapshot-interval`,
/// `--max-snapshots`). Zero entries are what clients send for "not set".
fn snapshot_settings(raft: Option<&RaftConfig>) -> (SnapshotPolicy, usize) {
    let mut policy = SnapshotPolicy::default();
    let Some(raft) = raft else {
        return (policy, 0);
    };
    if raft.snapshot_interval != 0 {
        policy.max_entries = raft.snapshot_interval;
    }
    if raft.log_entries_for_slow_followers != 0 {
        policy.keep_entries = raft.log_entries_for_slow_followers;
    }
    let older = usize::try_from(raft.keep_old_snapshots).unwrap_or(usize::MAX);
    (policy, older)
}

pub(crate) fn refused(error: impl std::fmt::Display) -> StartError {
    StartError::Raft {
        reason: error.to_string(),
    }
}

fn ended(error: impl std::fmt::Display) -> RotateError {
    RotateError::Engine {
        reason: error.to_string(),
    }
}
