//! When a manager stands for election.
//!
//! Not by the engine's clock, which stands still while its disk syncs: after a
//! silence of the leader longer than what was promised to it, and only if a quorum
//! would vote so. A manager that others do not hear, or that does not hear them, so
//! never deposes a leader that works.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt},
};
use openraft::{LogId, ServerState, Vote};
use tokio::time;
use tokio_util::sync::CancellationToken;
use waxseal_wire::waxseal::{ProbeRequest, ProbeResponse, VoteRequest};

use crate::{
    engine::Engine,
    peers::{Lane, PeerError},
    pulse::{Floor, PROMISE},
    raft::{RaftId, codec},
};

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(20);
/// Those who miss a leader do not stand at the same moment.
const JITTER: Duration = Duration::from_millis(250);
/// A manager whose disk is full leaves it to others for so long.
const NO_ROOM: Duration = Duration::from_secs(3);
/// Pause after a poll that was lost, with as much jitter.
const LOST: Duration = Duration::from_millis(100);
/// Time for the answers to a poll.
const POLL: Duration = Duration::from_millis(400);
/// Time for an election.
const ELECTION: Duration = Duration::from_millis(700);
/// Whoever does not say by then what this manager had is not waited for, if a quorum did;
/// it votes for nobody in this time anyway.
const ASK: Duration = PROMISE;
const ASK_AGAIN: Duration = Duration::from_millis(200);

impl Engine {
    /// Stands for election when there is no leader, until `stopped`.
    pub(crate) async fn keep_electing(self, stopped: CancellationToken) {
        let electing = async {
            let mut jitter = random(JITTER);
            let mut not_before = Instant::now();
            let mut voted = (self.vote(), Instant::now());
            loop {
                time::sleep(LOOK).await;
                let now = Instant::now();
                // A vote for another is its time to lead: who has just handed over has
                // heard nobody for as long as it led itself.
                let vote = self.vote();
                if vote != voted.0 {
                    let for_other = vote.leader_id.node_id != self.me.raft_id;
                    voted = (vote, if for_other { now } else { voted.1 });
                }
                let due = self.pulse.heard_at().max(voted.1) + PROMISE + jitter;
                let Some(others) = self.candidates_peers() else {
                    continue;
                };
                if others.is_empty() {
                    // The only voter; at the start it is asked to lead elsewhere.
                    if now >= not_before {
                        not_before = now + ELECTION;
                        let _ = self.raft.trigger().elect().await;
                    }
                    continue;
                }
                if now < due.max(not_before) || !self.pulse.has_floor() {
                    continue;
                }
                // One whose disk takes commands goes first.
                if now < due + NO_ROOM && !self.has_room() {
                    continue;
                }
                if self.poll(&others).await && self.stand(false).await.is_ok() {
                    self.await_election().await;
                }
                jitter = random(JITTER);
                not_before = Instant::now() + LOST + random(LOST);
            }
        };
        stopped.run_until_cancelled(electing).await;
    }

    fn vote(&self) -> Vote<RaftId> {
        self.raft.server_metrics().borrow().vote
    }

    /// The other voters, if this manager is one and does not lead.
    fn candidates_peers(&self) -> Option<Vec<RaftId>> {
        let view = self.raft.server_metrics();
        let view = view.borrow();
        let membership = view.membership_config.membership();
        let voters: Vec<_> = membership.voter_ids().collect();
        if view.state == ServerState::Leader || !voters.contains(&self.me.raft_id) {
            return None;
        }
        let me = self.me.raft_id;
        Some(voters.into_iter().filter(|voter| *voter != me).collect())
    }

    /// Whether a quorum would vote for this manager.
    async fn poll(&self, others: &[RaftId]) -> bool {
        let own = self.raft.server_metrics().borrow().vote;
        let vote = Vote::new(own.leader_id.term + 1, self.me.raft_id);
        let last = self.last_log();
        let mut polls: FuturesUnordered<_> = others
            .iter()
            .map(|voter| self.poll_one(*voter, &vote, last))
            .collect();
        // Who does not answer is not waited for once the others are enough.
        let mut granted = Vec::new();
        let has_quorum = |granted: &[RaftId]| {
            self.with_quorum(|quorum| {
                quorum.is_one(|id| *id == self.me.raft_id || granted.contains(id))
            })
        };
        while !has_quorum(&granted) {
            match polls.next().await {
                Some(answer) => granted.extend(answer),
                None => return false,
            }
        }
        tracing::debug!(
            for_me = granted.len(),
            of = others.len(),
            "a quorum would vote so"
        );
        true
    }

    async fn poll_one(
        &self,
        voter: RaftId,
        vote: &Vote<RaftId>,
        last: Option<LogId<RaftId>>,
    ) -> Option<RaftId> {
        let asking = async {
            let channel = self.peers.channel(voter, Lane::Pulse).await.ok()?;
            let request = VoteRequest {
                header: Some(self.me.header(voter)),
                vote: Some(codec::vote_out(vote)),
                last: last.map(codec::log_id_out),
            };
            channel.raft().poll(request).await.ok()
        };
        match time::timeout(POLL, asking).await {
            Ok(answer) => answer?.into_inner().granted.then_some(voter),
            Err(_) => {
                self.peers.suspect(voter);
                None
            }
        }
    }

    async fn await_election(&self) {
        let begun = Instant::now();
        while begun.elapsed() < ELECTION {
            let leads = self.raft.server_metrics().borrow().state == ServerState::Leader;
            if leads || self.pulse.leader(Instant::now()).is_some() {
                break;
            }
            time::sleep(LOOK / 4).await;
        }
    }

    /// Asks the others what this manager had in its log: it votes for nobody before,
    /// and then as if it had that still.
    pub(crate) async fn ask_what_was(self, addr: String, stopped: CancellationToken) {
        let asking = async {
            let mut answers = BTreeMap::new();
            // Nobody is elected without a quorum either, and a disk that was set back comes
            // up before its network as a rule.
            while !self.with_quorum(|quorum| {
                quorum.is_one(|id| *id == quorum.me || answers.contains_key(id))
            }) {
                let voters = self.with_quorum(|quorum| {
                    let voters = quorum.membership.voter_ids();
                    let is_due = |id: &RaftId| *id != quorum.me && !answers.contains_key(id);
                    voters.filter(is_due).collect::<BTreeSet<_>>()
                });
                if voters.is_empty() {
                    time::sleep(ASK_AGAIN).await;
                }
                let asked = voters.iter().map(|voter| self.ask_one(*voter, &addr));
                let told = voters.iter().copied().zip(join_all(asked).await);
                answers.extend(told.filter_map(|(voter, answer)| Some((voter, answer?))));
            }
            let mut floor = Floor::default();
            let mut had = None;
            for answer in answers.into_values() {
                had = had.max(answer.matched.map(codec::log_id_in));
                let known = [answer.committed, answer.matched];
                let known = known.into_iter().flatten().map(codec::log_id_in).max();
                floor.log = floor.log.max(known);
                let term = answer.vote.map_or(0, |vote| vote.term);
                floor.term = floor.term.max(term);
            }
            // What the others committed since then is no loss.
            if had > self.last_log() {
                tracing::warn!(
                    "others remember more of this manager's log than it has; it votes as if it \
                     had it, and catches up from the leader"
                );
            }
            self.pulse.set_floor(floor);
        };
        stopped.run_until_cancelled(asking).await;
    }

    async fn ask_one(&self, voter: RaftId, addr: &str) -> Option<ProbeResponse> {
        let asking = async {
            loop {
                match self.probe(voter, addr).await {
                    Ok(answer) => return answer,
                    Err(error) => tracing::debug!(%error, voter, "asked in vain"),
                }
                time::sleep(ASK_AGAIN).await;
            }
        };
        time::timeout(ASK, asking).await.ok()
    }

    /// Asks a member who it is and what it knows, and tells it where this one is.
    pub(crate) async fn probe(
        &self,
        member: RaftId,
        addr: &str,
    ) -> Result<ProbeResponse, PeerError> {
        let channel = self.peers.channel(member, Lane::Pulse).await?;
        let request = ProbeRequest {
            header: Some(self.me.header(member)),
            addr: addr.to_owned(),
        };
        let answer = time::timeout(POLL, channel.raft().probe(request)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(PeerError::Unreachable(status.message().to_owned())),
            Err(_) => Err(PeerError::Unreachable("it did not answer".to_owned())),
        }
    }
}

/// Up to `most`. Without random bytes it is half of it.
fn random(most: Duration) -> Duration {
    let mut byte = [128];
    let _ = getrandom::fill(&mut byte);
    most * u32::from(byte[0]) / 256
}
