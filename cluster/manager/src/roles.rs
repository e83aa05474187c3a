//! The loop that brings roles, records and the Raft group together, while this manager
//! leads. What is due is planned elsewhere ([`plan_roles`]); here it is carried out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use waxseal_cluster::plan::{MemberView, RoleStep, plan_roles};

use crate::{
    core::Core,
    engine::Engine,
    error::{MembershipError, ProposeError},
    raft::RaftId,
};

/// How long a change of who is reachable waits at most until it is on record.
const TICK: Duration = Duration::from_millis(500);
/// Rounds of planning without a pause; each removes one member at most.
const MAX_ROUNDS: usize = 16;

/// A new member that is silent for so long before it counts has been given up by whoever
/// took it in, or that leader is gone. If it comes back it asks to be taken in anew.
const GIVEN_UP: Duration = Duration::from_secs(20);

/// What the loop works on.
pub(crate) struct Roles {
    pub(crate) core: Arc<Core>,
    pub(crate) engine: Engine,
    /// The newest feature level that this manager serves.
    pub(crate) feature_level: u32,
    /// A node changed, or the membership.
    pub(crate) due: Arc<Notify>,
    /// The leadership has ended.
    pub(crate) stopped: CancellationToken,
}

/// Why a step was not carried out; planned anew later.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Propose(#[from] ProposeError),
    #[error(transparent)]
    Membership(#[from] MembershipError),
}

impl Roles {
    /// Runs until the leadership ends. Every step stands for itself, so a leader that
    /// ends between two leaves the rest to the next one.
    pub(crate) async fn run(self) {
        let mut waiting = BTreeSet::new();
        let mut silent = BTreeMap::new();
        let stopped = self.stopped.clone();
        let keep = async {
            loop {
                if let Err(error) = self.settle(&mut waiting).await {
                    tracing::debug!(%error, "a change of role could not be carried out; it is tried again");
                }
                if let Err(error) = self.drop_given_up(&mut silent).await {
                    tracing::debug!(%error, "a new member that is gone is a learner still");
                }
                tokio::select! {
                    () = self.due.notified() => {}
                    () = tokio::time::sleep(TICK) => {}
                }
            }
        };
        // What is broken off is on record or is not; either is gone on from.
        stopped.run_until_cancelled(keep).await;
    }

    /// Plans and carries out until nothing is due.
    async fn settle(&self, waiting: &mut BTreeSet<String>) -> Result<(), StepError> {
        for _ in 0..MAX_ROUNDS {
            // No node becomes a voter between the plan and what it says of records.
            let still = self.engine.hold_membership().await;
            let members = self.engine.members();
            let plan = self
                .core
                .read(|state| plan_roles(state, &members, self.feature_level));
            tell_waiting(waiting, plan.waiting);
            if plan.steps.is_empty() {
                return Ok(());
            }
            let mut change = None;
            for step in plan.steps {
                match step {
                    RoleStep::Propose(op) => self.propose(*op).await?,
                    // The last step, if there is one.
                    other => change = Some(other),
                }
            }
            drop(still);
            match change {
                Some(RoleStep::RemoveMember { raft_id }) => {
                    self.engine.remove_member(raft_id).await?;
                }
                Some(RoleStep::TransferLeadership { to }) => {
                    tracing::info!(
                        "this manager leads and is to become a worker; another takes over"
                    );
                    self.engine.transfer_leadership(Some(to)).await?;
                }
                Some(RoleStep::Propose(_)) | None => {}
            }
        }
        Ok(())
    }

    /// Takes out who was to become a member and is not there any more.
    async fn drop_given_up(
        &self,
        silent: &mut BTreeMap<RaftId, Instant>,
    ) -> Result<(), MembershipError> {
        let members = self.engine.members();
        for raft_id in given_up(silent, &members, Instant::now()) {
            tracing::warn!(
                raft_id,
                "a manager began to join and is not there any more; it is no member"
            );
            self.engine.remove_member(raft_id).await?;
        }
        Ok(())
    }

    async fn propose(&self, op: waxseal_cluster::objects::command::Op) -> Result<(), StepError> {
        match self.core.propose_as("roles", op).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(refusal)) => {
                tracing::debug!(%refusal, "a planned change of role was refused");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Members that never counted and were silent all the time since they were first seen so.
fn given_up(
    silent: &mut BTreeMap<RaftId, Instant>,
    members: &[MemberView],
    now: Instant,
) -> Vec<RaftId> {
    let learners = members
        .iter()
        .filter(|member| !member.voter && !member.reachable);
    let learners: BTreeSet<_> = learners.map(|member| member.raft_id).collect();
    silent.retain(|raft_id, _| learners.contains(raft_id));
    let is_given_up = |raft_id: &RaftId| {
        let since = *silent.entry(*raft_id).or_insert(now);
        now.saturating_duration_since(since) >= GIVEN_UP
    };
    learners.into_iter().filter(is_given_up).collect()
}

/// Says once of each node that its demotion waits.
fn tell_waiting(known: &mut BTreeSet<String>, waiting: Vec<String>) {
    let waiting: BTreeSet<String> = waiting.into_iter().collect();
    for node in waiting.difference(known) {
        tracing::warn!(
            %node,
            "a demotion waits: without this manager the others that are reachable are no quorum"
        );
    }
    *known = waiting;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(raft_id: RaftId, voter: bool, reachable: bool) -> MemberView {
        MemberView {
            raft_id,
            node_id: format!("n{raft_id}"),
            addr: "192.0.2.1:2377".to_owned(),
            voter,
            leader: raft_id == 1,
            reachable,
        }
    }

    #[test]
    fn who_never_counted_and_is_silent_is_given_up_in_time() {
        let mut silent = BTreeMap::new();
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let members = [
            member(1, true, true),
            member(2, true, false),
            member(3, false, true),
            member(4, false, false),
        ];
        assert!(given_up(&mut silent, &members, at(0)).is_empty());
        assert!(given_up(&mut silent, &members, at(19)).is_empty());
        assert_eq!(given_up(&mut silent, &members, at(20)), [4]);
        // It answered, and the time begins anew.
        let back = [member(4, false, true)];
        assert!(given_up(&mut silent, &back, at(21)).is_empty());
        assert!(given_up(&mut silent, &members, at(22)).is_empty());
        assert_eq!(given_up(&mut silent, &members, at(42)), [4]);
    }
}
