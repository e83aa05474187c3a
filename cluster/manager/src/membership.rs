//! Who is a member of the Raft group: taking in, taking out, other addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{
    ChangeMembers,
    error::{ChangeMembershipError, ClientWriteError, RaftError},
};
use tokio::{sync::OwnedMutexGuard, time};
use tonic::Status;
use waxseal_cluster::{
    objects::NodeRole,
    plan::{self, MemberView},
};
use waxseal_raft_store::Member;
use waxseal_wire::{
    peer_text,
    waxseal::{JoinResponse, Joined, ProbeRequest, ProbeResponse, join_response::Answer},
};

use crate::{
    core::Core,
    engine::Engine,
    error::MembershipError,
    leadership::Leader,
    peers::chain_text,
    raft::{RaftId, codec},
};

/// Time for a manager that is to join to answer where it says it is (issue 3).
const BACK_DIAL: Duration = Duration::from_secs(5);
/// Time for the members to agree on a change.
const AGREE: Duration = Duration::from_secs(10);
/// A new member that makes no progress for so long is given up. A snapshot shows none
/// before it is installed.
const NO_PROGRESS: Duration = Duration::from_secs(240);
/// Time for one try at it.
const PROBE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// A new member with no more than these entries to come may vote (the engine's
/// `replication_lag_threshold`).
const NEAR: u64 = 50;
/// Voters at most; more make writes slower and nothing safer (Docker's advice).
const MAX_VOTERS: usize = 15;

type Change = ChangeMembers<RaftId, Member>;

impl Engine {
    /// Takes a manager in as a member, once it is known to be reachable and has caught
    /// up; or says who leads.
    ///
    /// # Errors
    /// `FailedPrecondition` with what to do about it, `Unavailable` to be tried again.
    pub(crate) async fn take_in(
        &self,
        core: &Core,
        raft_id: RaftId,
        member: Member,
        feature_level: u32,
    ) -> Result<JoinResponse, Status> {
        if let Some(other) = self.ask_other()? {
            return Ok(other);
        }
        let needed = core.read(|state| {
            // 1. A manager on record: whoever is to become one is that first.
            let role = state.node(&member.node_id).map(|node| node.role());
            if role != Some(NodeRole::Manager) {
                return Err(Status::failed_precondition(
                    "the node is no manager on record yet; try again",
                ));
            }
            Ok(state.cluster().map_or(0, |cluster| cluster.feature_level))
        })?;
        // 2. It understands what the others write.
        if feature_level < needed {
            return Err(Status::failed_precondition(format!(
                "this manager has feature level {feature_level}, the swarm needs {needed}; \
                 install a newer version and join again",
            )));
        }
        let joined = self.join_member(core, raft_id, &member).await;
        joined.map_err(|error| match error {
            MembershipError::NotLeader
            | MembershipError::NotCommitted { .. }
            | MembershipError::Stopped => Status::unavailable(error.to_string()),
            error => Status::failed_precondition(error.to_string()),
        })?;
        tracing::info!(node = %member.node_id, addr = %member.addr, "a manager joined");
        let unlock_key_epoch = core.read(|state| {
            let key = state
                .cluster()
                .and_then(|cluster| cluster.unlock_key.as_ref());
            key.map_or(0, |key| key.epoch)
        });
        let members = self.members().into_iter().map(|member| {
            let raft_id = member.raft_id;
            codec::member_out(
                raft_id,
                &Member {
                    node_id: member.node_id,
                    addr: member.addr,
                },
            )
        });
        Ok(JoinResponse {
            answer: Some(Answer::Joined(Joined {
                members: members.collect(),
                incarnation: self.me.incarnation(),
                unlock_key_epoch,
            })),
        })
    }

    /// Notes that a member is reached elsewhere, or says who leads.
    ///
    /// # Errors
    /// As [`Self::take_in`].
    pub(crate) async fn take_address(
        &self,
        core: &Core,
        raft_id: RaftId,
        member: Member,
    ) -> Result<JoinResponse, Status> {
        if let Some(other) = self.ask_other()? {
            return Ok(other);
        }
        let known = self
            .members()
            .into_iter()
            .find(|known| known.raft_id == raft_id);
        if known.is_none_or(|known| known.node_id != member.node_id) {
            return Err(Status::failed_precondition(
                "this manager is no member of the swarm's managers any more; run \
                 `docker swarm leave --force` on it and join it again",
            ));
        }
        let moved = async {
            self.back_dial(raft_id, &member).await?;
            self.set_address(raft_id, member).await
        };
        moved.await.map_err(|error| match error {
            MembershipError::Unreachable { .. } => Status::failed_precondition(error.to_string()),
            error => Status::unavailable(error.to_string()),
        })?;
        let unlock_key_epoch = core.read(|state| {
            let key = state
                .cluster()
                .and_then(|cluster| cluster.unlock_key.as_ref());
            key.map_or(0, |key| key.epoch)
        });
        Ok(JoinResponse {
            answer: Some(Answer::Joined(Joined {
                members: Vec::new(),
                incarnation: self.me.incarnation(),
                unlock_key_epoch,
            })),
        })
    }

    /// The answer of a manager that does not lead.
    fn ask_other(&self) -> Result<Option<JoinResponse>, Status> {
        if matches!(&*self.leader.borrow(), Leader::Me { .. }) {
            return Ok(None);
        }
        let (raft_id, member) = self
            .leading_member()
            .ok_or_else(|| Status::unavailable("the swarm does not have a leader"))?;
        Ok(Some(JoinResponse {
            answer: Some(Answer::Ask(codec::member_out(raft_id, &member))),
        }))
    }

    /// While this is held nobody becomes a voter or is taken out. What makes a node a
    /// worker on record takes it before it looks at the members.
    pub(crate) async fn hold_membership(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
    }

    async fn join_member(
        &self,
        core: &Core,
        raft_id: RaftId,
        member: &Member,
    ) -> Result<(), MembershipError> {
        // 1. Reachable, before it can harm: a voter that nobody reaches costs quorum.
        self.back_dial(raft_id, member).await?;
        let known = self.members();
        if known.iter().filter(|known| known.voter).count() >= MAX_VOTERS {
            return Err(MembershipError::Refused {
                reason: format!("a swarm has {MAX_VOTERS} managers at most; add workers instead"),
            });
        }
        // 2. Asked again after an answer was lost, this goes on where it was.
        let same = known.iter().find(|known| known.raft_id == raft_id);
        if same.is_none_or(|same| same.addr != member.addr) {
            let _held = self.hold_membership().await;
            let change = Change::SetNodes(BTreeMap::from([(raft_id, member.clone())]));
            self.change(change, true).await?;
        }
        // 3. A learner until it has what the others have.
        let caught_up = self.await_learner(raft_id).await;
        let held = self.hold_membership().await;
        if let Err(error) = caught_up {
            if same.is_none_or(|same| !same.voter) {
                self.drop_learner(raft_id).await;
            }
            return Err(error);
        }
        // 4. A voter, if that is still what it is meant to be. A former membership of the
        //    same node is none any more: its disk is gone.
        if !core.read(|state| plan::joins(state, &member.node_id)) {
            self.drop_learner(raft_id).await;
            return Err(MembershipError::Refused {
                reason: "the node is not meant to be a manager any more".to_owned(),
            });
        }
        let known = self.members();
        let is_former =
            |known: &&MemberView| known.node_id == member.node_id && known.raft_id != raft_id;
        let former: BTreeSet<_> = known.iter().filter(is_former).map(|m| m.raft_id).collect();
        let voters = known.iter().filter(|known| known.voter).map(|m| m.raft_id);
        let voters: BTreeSet<_> = voters
            .chain([raft_id])
            .filter(|voter| !former.contains(voter))
            .collect();
        self.change(Change::ReplaceAllVoters(voters), false).await?;
        drop(held);
        Ok(())
    }

    async fn drop_learner(&self, raft_id: RaftId) {
        let change = Change::RemoveNodes(BTreeSet::from([raft_id]));
        if let Err(error) = self.change(change, true).await {
            tracing::warn!(%error, "a manager that did not join is still a learner");
        }
    }

    /// Looks whether a manager is where it says it is, from here.
    async fn back_dial(&self, raft_id: RaftId, member: &Member) -> Result<(), MembershipError> {
        let unreachable = |reason: String| MembershipError::Unreachable {
            addr: peer_text(&member.addr),
            from: self.own_address(),
            reason: peer_text(&reason),
        };
        let begun = Instant::now();
        let mut trouble = String::new();
        // It may only just have begun to listen.
        let answer = loop {
            let left = BACK_DIAL.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return Err(unreachable(trouble));
            }
            let probing = time::timeout(left.min(PROBE), self.probe_at(raft_id, &member.addr));
            match probing.await {
                Ok(Ok(answer)) => break answer,
                Ok(Err(error)) => trouble = error,
                Err(_) => trouble = "no answer in time".to_owned(),
            }
            time::sleep(LOOK * 5).await;
        };
        if answer.node_id != member.node_id || answer.raft_id != raft_id {
            return Err(unreachable("another manager answers there".to_owned()));
        }
        Ok(())
    }

    async fn probe_at(&self, raft_id: RaftId, addr: &str) -> Result<ProbeResponse, String> {
        let channel = self.peers.dial(addr).await;
        let channel = channel.map_err(|error| chain_text(&error))?;
        let request = ProbeRequest {
            header: Some(self.me.header(raft_id)),
            addr: String::new(),
        };
        let answer = channel.raft().probe(request).await;
        let answer = answer.map_err(|status| status.message().to_owned())?;
        Ok(answer.into_inner())
    }

    fn own_address(&self) -> String {
        let members = self.members();
        let own = members
            .iter()
            .find(|member| member.raft_id == self.me.raft_id);
        own.map_or_else(String::new, |own| own.addr.clone())
    }

    /// Returns once a learner has what the others have.
    async fn await_learner(&self, raft_id: RaftId) -> Result<(), MembershipError> {
        let mut progress = (None, Instant::now());
        loop {
            let (last, matched, leads) = {
                let view = self.raft.metrics();
                let view = view.borrow();
                let replication = view.replication.as_ref();
                let matched =
                    replication.and_then(|known| (*known.get(&raft_id)?).map(|id| id.index));
                (view.last_log_index, matched, replication.is_some())
            };
            if !leads {
                return Err(MembershipError::NotLeader);
            }
            if let (Some(last), Some(matched)) = (last, matched)
                && matched + NEAR >= last
            {
                return Ok(());
            }
            if progress.0 != matched {
                progress = (matched, Instant::now());
            }
            let silent = !self.pulse.is_reachable(raft_id, Instant::now());
            let since = progress.1.elapsed();
            if since > NO_PROGRESS || (silent && since > BACK_DIAL) {
                return Err(MembershipError::NotCommitted {
                    reason: "the new manager does not catch up".to_owned(),
                });
            }
            time::sleep(LOOK).await;
        }
    }

    /// Takes a member out; a leader only others.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub(crate) async fn remove_member(&self, raft_id: RaftId) -> Result<(), MembershipError> {
        let _held = self.hold_membership().await;
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.raft_id == raft_id) else {
            return Ok(());
        };
        if !member.voter {
            let change = Change::RemoveNodes(BTreeSet::from([raft_id]));
            return self.change(change, true).await;
        }
        if raft_id == self.me.raft_id {
            return Err(MembershipError::Refused {
                reason: "a leader does not take itself out; hand the leadership over first"
                    .to_owned(),
            });
        }
        let change = Change::RemoveVoters(BTreeSet::from([raft_id]));
        self.change(change, false).await
    }

    /// Puts on record where a member is reached.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub(crate) async fn set_address(
        &self,
        raft_id: RaftId,
        member: Member,
    ) -> Result<(), MembershipError> {
        let _held = self.hold_membership().await;
        let members = self.members();
        let known = members.iter().find(|known| known.raft_id == raft_id);
        let known = known.ok_or(MembershipError::Unknown { raft_id })?;
        if known.addr == member.addr {
            return Ok(());
        }
        let change = Change::SetNodes(BTreeMap::from([(raft_id, member)]));
        self.change(change, true).await
    }

    /// Ends a change that a former leader left half done.
    pub(crate) async fn settle_membership(&self) {
        let _held = self.hold_membership().await;
        let last = self.with_quorum(|quorum| {
            let configs = quorum.membership.get_joint_config();
            configs.last().filter(|_| configs.len() > 1).cloned()
        });
        if let Some(voters) = last
            && let Err(error) = self.change(Change::ReplaceAllVoters(voters), false).await
        {
            tracing::warn!(%error, "a change of the managers is half done still");
        }
    }

    async fn change(&self, change: Change, retain: bool) -> Result<(), MembershipError> {
        let changing = async {
            loop {
                let error = match self.raft.change_membership(change.clone(), retain).await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                };
                match error {
                    RaftError::Fatal(_) => return Err(MembershipError::Stopped),
                    RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => {
                        return Err(MembershipError::NotLeader);
                    }
                    RaftError::APIError(ClientWriteError::ChangeMembershipError(
                        ChangeMembershipError::InProgress(_),
                    )) => time::sleep(LOOK).await,
                    RaftError::APIError(error) => return Err(not_committed(error)),
                }
            }
        };
        time::timeout(AGREE, changing)
            .await
            .unwrap_or_else(|_| Err(not_committed("no quorum answered")))
    }
}

fn not_committed(reason: impl fmt::Display) -> MembershipError {
    MembershipError::NotCommitted {
        reason: reason.to_string(),
    }
}
