//! The consensus engine on its log: start, snapshots, keys, stop.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use openraft::{
    ChangeMembers,
    error::{ClientWriteError, RaftError},
};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use waxseal_autolock::{Dek, Owner};
use waxseal_raft_store::{LogLimits, LogStore, Member, SnapshotPolicy, SnapshotStore, StoreError};

use crate::{
    error::{MembershipError, RotateError, StartError},
    leadership::{Leader, MemberView},
    monitor::Monitor,
    raft::{NoPeers, Raft, RaftId, TypeConfig},
    state_machine::StateMachine,
};

/// Heartbeats of a leader (requirements.md, Elections).
const HEARTBEAT: Duration = Duration::from_millis(175);
/// A follower stands for election after a time between these without a heartbeat.
const ELECTION: std::ops::Range<u64> = 600..1_200;
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
    leader: watch::Sender<Leader>,
    /// See [`Engine::hold_membership`].
    membership: Arc<Mutex<()>>,
}

impl Engine {
    /// Starts the engine; what the log says is committed is applied when it returns.
    pub(crate) async fn start(
        owner: &Owner,
        log: LogStore<TypeConfig>,
        snapshots: SnapshotStore,
        machine: StateMachine,
        monitor: Monitor,
    ) -> Result<Engine, StartError> {
        let config = openraft::Config {
            cluster_name: owner.cluster_id.clone(),
            heartbeat_interval: u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX),
            election_timeout_min: ELECTION.start,
            election_timeout_max: ELECTION.end,
            // The log is purged by bytes, not by entries alone; see `keep_snapshots`.
            snapshot_policy: openraft::SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: 50,
            ..openraft::Config::default()
        };
        let config = Arc::new(config.validate().map_err(refused)?);
        let raft = Raft::new(owner.raft_id, config, NoPeers, log.clone(), machine)
            .await
            .map_err(|fatal| monitor.start_error(fatal))?;
        Ok(Engine {
            raft,
            log,
            snapshots,
            monitor,
            leader: watch::Sender::default(),
            membership: Arc::default(),
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
                Ok(_) => {
                    let term = self.raft.metrics().borrow().current_term;
                    self.leader.send_replace(Leader::Me { term });
                    return Ok(());
                }
                Err(RaftError::Fatal(fatal)) => return Err(failed(fatal)),
                Err(RaftError::APIError(_)) => tokio::time::sleep(CATCH_UP_PAUSE).await,
            }
        }
    }

    /// Takes snapshots and purges the log behind them, by bytes and by entries,
    /// until the manager stops.
    pub(crate) async fn keep_snapshots(self, stopped: CancellationToken) {
        let policy = SnapshotPolicy::default();
        let mut tick = tokio::time::interval(SNAPSHOT_CHECK);
        let mut waits = false;
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stopped.cancelled() => return,
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

    /// Who leads; the only voter, once it has begun.
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

    /// The members that the newest membership names.
    pub(crate) fn members(&self) -> Vec<MemberView> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = &metrics.membership_config;
        let voters: BTreeSet<_> = membership.membership().voter_ids().collect();
        let leads = |raft_id| metrics.current_leader == Some(raft_id);
        let view = |(raft_id, member): (&RaftId, &Member)| MemberView {
            raft_id: *raft_id,
            node_id: member.node_id.clone(),
            addr: member.addr.clone(),
            voter: voters.contains(raft_id),
            leader: leads(*raft_id),
            reachable: leads(*raft_id),
        };
        membership.nodes().map(view).collect()
    }

    /// While this is held nobody becomes a voter here. What makes a learner a voter
    /// takes it, looks once more whether the record lets the node join
    /// ([`waxseal_cluster::plan::joins`]), and keeps it until the change is committed;
    /// what makes a node a worker on record takes it before it looks at the members.
    pub(crate) async fn hold_membership(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.membership).lock_owned().await
    }

    /// Takes a voter or learner out of the group; nothing is done if it is none.
    /// Not for the leader itself, which hands over first.
    pub(crate) async fn remove_member(&self, raft_id: RaftId) -> Result<(), MembershipError> {
        let _held = self.hold_membership().await;
        let members = self.members();
        let Some(member) = members.into_iter().find(|member| member.raft_id == raft_id) else {
            return Ok(());
        };
        let ids = BTreeSet::from([raft_id]);
        let change = match member.voter {
            true => ChangeMembers::RemoveVoters(ids),
            false => ChangeMembers::RemoveNodes(ids),
        };
        match self.raft.change_membership(change, false).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(MembershipError::NotLeader)
            }
            Err(RaftError::APIError(error)) => Err(MembershipError::NotCommitted {
                reason: error.to_string(),
            }),
            Err(RaftError::Fatal(_)) => Err(MembershipError::Stopped),
        }
    }

    /// Hands the leadership over.
    pub(crate) async fn transfer_leadership(
        &self,
        _to: Option<RaftId>,
    ) -> Result<(), MembershipError> {
        match self.members().iter().any(|member| !member.leader) {
            true => Err(MembershipError::NotLeader),
            false => Err(MembershipError::NotTaken {
                within: Duration::ZERO,
            }),
        }
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
