//! How a manager becomes a member, and how it tells that it moved.

use std::time::{Duration, Instant};

use openraft::ServerState;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use waxseal_cluster::plan::MemberView;
use waxseal_wire::{
    ManagerChannel,
    waxseal::{JoinRequest, Joined, MoveRequest, ProbeRequest, RaftMember, join_response::Answer},
};

use crate::{
    engine::Engine,
    error::{MembershipError, StartError},
    leadership::Leader,
    peers::chain_text,
};

/// Time to find a leader that answers; it may just be elected.
const FIND: Duration = Duration::from_secs(20);
/// Time for the leader to bring this manager up to date and make it a voter.
const TAKEN_IN: Duration = Duration::from_secs(300);
/// Time to have applied, once a member, what was acknowledged.
const CATCH_UP: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(5);
/// How often a manager that moved tells.
const TELL: Duration = Duration::from_secs(1);

impl Engine {
    /// Becomes a member of the cluster of `remotes`; returns once it is a voter and has
    /// applied what was acknowledged before.
    ///
    /// # Errors
    /// [`StartError::Join`] with the words of the manager that refused;
    /// [`StartError::NotCaughtUp`] if it is a voter that did not hear of a leader.
    pub(crate) async fn join(
        &self,
        remotes: &[String],
        addr: &str,
        feature_level: u32,
    ) -> Result<(), StartError> {
        let joined = self.ask_to_join(remotes, addr, feature_level).await?;
        self.me.learn_incarnation(joined.incarnation);
        time::timeout(CATCH_UP, self.await_membership())
            .await
            .map_err(|_| StartError::NotCaughtUp { within: CATCH_UP })
    }

    async fn ask_to_join(
        &self,
        remotes: &[String],
        addr: &str,
        feature_level: u32,
    ) -> Result<Joined, StartError> {
        let begun = Instant::now();
        let mut trouble = Trouble::default();
        let mut queue: Vec<String> = Vec::new();
        let mut rest = remotes.iter().cycle();
        while begun.elapsed() < FIND {
            let remote = match queue.pop() {
                Some(leader) => leader,
                None => match rest.next() {
                    Some(remote) => remote.clone(),
                    None => break,
                },
            };
            let channel = match self.peers.dial(&remote).await {
                Ok(channel) => channel,
                Err(error) => {
                    trouble.reason = format!("{remote}: {}", chain_text(&error));
                    time::sleep(PAUSE).await;
                    continue;
                }
            };
            match self.ask_one_to_join(&channel, addr, feature_level).await {
                Ok(Answer::Joined(joined)) => return Ok(joined),
                Ok(Answer::Ask(leader)) => queue.push(leader.addr),
                Err(status) if is_final(&status) => return Err(trouble.refused(&status)),
                Err(status) => trouble.not_answered(&remote, &status),
            }
            time::sleep(PAUSE).await;
        }
        Err(trouble.given_up())
    }

    async fn ask_one_to_join(
        &self,
        channel: &ManagerChannel,
        addr: &str,
        feature_level: u32,
    ) -> Result<Answer, Status> {
        let request = JoinRequest {
            header: Some(self.me.header(0)),
            addr: addr.to_owned(),
            feature_level,
        };
        let mut client = channel.raft();
        let answer = time::timeout(TAKEN_IN, client.join(request)).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("it did not answer"))??;
        answer
            .into_inner()
            .answer
            .ok_or_else(|| Status::internal("an answer without content"))
    }

    async fn await_membership(&self) {
        loop {
            let is_voter = {
                let view = self.raft.server_metrics();
                let view = view.borrow();
                matches!(view.state, ServerState::Follower | ServerState::Leader)
            };
            if is_voter && self.has_caught_up() {
                return;
            }
            time::sleep(LOOK).await;
        }
    }

    /// Whether it has applied what a leader said to be committed, since it began.
    pub(crate) fn has_caught_up(&self) -> bool {
        let applied = self.raft.data_metrics().borrow().last_applied;
        let committed = self.pulse.committed();
        committed.is_some() && applied >= committed
    }

    /// Tells the leader where this manager is reached, if the membership says otherwise,
    /// until it is on record or `stopped`.
    pub(crate) async fn keep_address(self, addr: String, stopped: CancellationToken) {
        let telling = async {
            loop {
                let own = self
                    .members()
                    .into_iter()
                    .find(|m| m.raft_id == self.me.raft_id);
                if own.is_some_and(|own| own.addr != addr) {
                    if let Err(error) = self.tell_address(&addr).await {
                        tracing::debug!(%error, "the new address of this manager is not known yet");
                    }
                    time::sleep(TELL).await;
                } else {
                    time::sleep(TELL * 10).await;
                }
            }
        };
        stopped.run_until_cancelled(telling).await;
    }

    async fn tell_address(&self, addr: &str) -> Result<(), String> {
        let leader = self.leader.borrow().clone();
        match leader {
            Leader::Me { .. } => {
                let member = waxseal_raft_store::Member {
                    node_id: self.me.node_id.clone(),
                    addr: addr.to_owned(),
                };
                let set = self.set_address(self.me.raft_id, member).await;
                set.map_err(|error| error.to_string())
            }
            Leader::Other { raft_id, .. } => {
                let channel = self.peers.channel(raft_id, crate::peers::Lane::Pulse).await;
                let channel = channel.map_err(|error| error.to_string())?;
                let request = MoveRequest {
                    header: Some(self.me.header(raft_id)),
                    addr: addr.to_owned(),
                };
                let moved = channel.raft().r#move(request).await;
                moved
                    .map(drop)
                    .map_err(|status| status.message().to_owned())
            }
            Leader::None => {
                // Whoever is still where it was learns where this one is, so that they
                // can elect one.
                let members = self.members();
                let is_on_record = |other: &RaftMember| {
                    let same = |known: &MemberView| {
                        known.raft_id == other.raft_id && known.addr == other.addr
                    };
                    members.iter().any(same)
                };
                for member in &members {
                    if member.raft_id == self.me.raft_id {
                        continue;
                    }
                    // It may know where others are that this one does not reach.
                    if let Ok(answer) = self.probe(member.raft_id, addr).await {
                        for other in answer.members {
                            let is_other = other.raft_id != member.raft_id;
                            if is_other && !is_on_record(&other) {
                                self.peers.moved(other.raft_id, &other.addr);
                            }
                        }
                    }
                }
                Err("there is no leader".to_owned())
            }
        }
    }

    /// Finds a member at an address that the membership does not know, as an operator
    /// names one after all have moved.
    ///
    /// # Errors
    /// [`MembershipError`]: nobody there, or no member.
    pub(crate) async fn add_peer(&self, addr: &str, own: &str) -> Result<(), MembershipError> {
        let unreachable = |reason: String| MembershipError::Unreachable {
            addr: addr.to_owned(),
            from: own.to_owned(),
            reason,
        };
        let channel = self.peers.dial(addr).await;
        let channel = channel.map_err(|error| unreachable(chain_text(&error)))?;
        let node_id = channel.server().map(|server| server.node_id.clone());
        let member = self.members().into_iter().find(|member| {
            Some(&member.node_id) == node_id.as_ref() && member.raft_id != self.me.raft_id
        });
        let Some(member) = member else {
            return Err(MembershipError::Refused {
                reason: format!("the node at {addr} is no other manager of this swarm"),
            });
        };
        let request = ProbeRequest {
            header: Some(self.me.header(member.raft_id)),
            addr: own.to_owned(),
        };
        let answer = channel.raft().probe(request).await;
        answer.map_err(|status| unreachable(status.message().to_owned()))?;
        self.peers.moved(member.raft_id, addr);
        Ok(())
    }
}

/// What stood in the way of a manager that asks to be taken in.
struct Trouble {
    reason: String,
    /// A leader may have made it a voter, without the answer that says so.
    may_count: bool,
}

impl Default for Trouble {
    fn default() -> Trouble {
        Trouble {
            reason: "no manager to ask".to_owned(),
            may_count: false,
        }
    }
}

impl Trouble {
    fn not_answered(&mut self, remote: &str, status: &Status) {
        self.reason = format!("{remote}: {}", status.message());
        self.may_count |= !is_refusal(status);
    }

    /// What is refused now says nothing of a question before that was not answered.
    fn refused(self, status: &Status) -> StartError {
        StartError::Join {
            reason: status.message().to_owned(),
            may_count: self.may_count,
        }
    }

    fn given_up(self) -> StartError {
        StartError::Join {
            reason: self.reason,
            may_count: self.may_count,
        }
    }
}

/// Nothing has changed.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::FailedPrecondition | Code::PermissionDenied | Code::InvalidArgument
    )
}

/// Asking again does not help.
fn is_final(status: &Status) -> bool {
    is_refusal(status) && !status.message().contains("try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may_count(error: StartError) -> bool {
        match error {
            StartError::Join { may_count, .. } => may_count,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn only_a_refusal_ends_a_join_that_nobody_counts_on() {
        let lost = Status::unavailable("the connection was lost");
        let early = Status::failed_precondition("no manager on record yet; try again");
        let refused = Status::failed_precondition("not reached from here");
        // Nobody was asked, or it was said that nothing happened.
        assert!(!may_count(Trouble::default().given_up()));
        assert!(!may_count(Trouble::default().refused(&refused)));
        let mut trouble = Trouble::default();
        trouble.not_answered("m1", &early);
        assert!(!is_final(&early) && is_final(&refused) && !is_final(&lost));
        assert!(!may_count(trouble.refused(&refused)));
        // An answer was lost: the leader may have gone on.
        let lost_and = |then: fn(Trouble, &Status) -> StartError| {
            let mut trouble = Trouble::default();
            trouble.not_answered("m1", &lost);
            trouble.not_answered("m1", &early);
            may_count(then(trouble, &refused))
        };
        assert!(lost_and(|trouble, _| trouble.given_up()));
        assert!(lost_and(Trouble::refused));
    }
}
