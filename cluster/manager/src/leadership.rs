//! Who leads: found out, shown, lost in time, and handed over.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use openraft::{ServerState, Vote};
use tokio::{
    task::JoinHandle,
    time::{self, sleep},
};
use tokio_util::sync::CancellationToken;
use waxseal_ca::Clock;
use waxseal_cluster::{date_time, plan::MemberView};
use waxseal_raft_store::Member;
use waxseal_wire::waxseal::{BeatRequest, RaftMatched};

use crate::{
    engine::{Engine, HEARTBEAT},
    peers::Lane,
    pulse::NoVote,
    raft::{RaftId, codec},
    timekeeping::Timekeeper,
};

/// How often it is looked whether a leader is still one.
const LOOK: Duration = Duration::from_millis(25);
/// The same where there is one voter, which nobody can depose.
const LOOK_ALONE: Duration = Duration::from_secs(1);
/// A new leader that could not find out within this time that it has applied all that
/// was acknowledged tries again.
const CONFIRM: Duration = Duration::from_secs(2);
/// Time for the answer to a sign of life.
const BEAT: Duration = Duration::from_millis(500);
/// So many unanswered in a row, and the connection is made anew.
const LOST_BEATS: u32 = 2;
/// An engine that did nothing for so long hangs, on its disk as a rule: it looks at
/// its clock more often. A leader with such an engine gives no sign of life.
const HANGS: Duration = Duration::from_secs(4);
/// A leader whose disk takes longer for the median write hands over.
const SLOW: Duration = Duration::from_millis(500);
const PACE_LOOK: Duration = Duration::from_millis(500);
/// After that it may lead for so long, if nobody else does better.
const PACE_REST: Duration = Duration::from_secs(60);

/// What an operator is told of a leader's clock.
pub(crate) const CLOCK_OFF: &str =
    "this manager's clock is over 5 min off those of the others; set it";

/// Who leads, as a manager knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leader {
    /// This manager: it has applied all that was acknowledged, and a quorum has heard
    /// it of late.
    Me {
        /// Its term.
        term: u64,
    },
    /// Another, which was heard of late.
    Other {
        /// Its Raft id.
        raft_id: RaftId,
        /// Its node's id.
        node_id: String,
        /// Where it is reached, `host:port`.
        addr: String,
    },
    /// None that this manager knows of.
    #[default]
    None,
}

impl Engine {
    /// Publishes who leads, until `stopped`.
    pub(crate) async fn keep_leadership(self, time: Arc<Timekeeper>, stopped: CancellationToken) {
        let mut server = self.raft.server_metrics();
        let mut known_membership = None;
        let mut confirmed = None;
        let mut confirming: Option<(u64, JoinHandle<bool>)> = None;
        loop {
            let (leads, is_alone, term) = {
                let view = server.borrow_and_update();
                let membership = &view.membership_config;
                if known_membership != Some(*membership.log_id()) {
                    known_membership = Some(*membership.log_id());
                    self.meet(membership.nodes());
                }
                let leads = view.state == ServerState::Leader && self.is_mine(&view.vote);
                self.pulse.lead(leads.then_some(view.vote));
                let mut voters = membership.membership().voter_ids();
                let is_alone = voters.all(|id| id == self.me.raft_id);
                (leads, is_alone, view.vote.leader_id.term)
            };
            // What was found out in another term says nothing of this one.
            confirmed = confirmed.filter(|known| *known == term);
            confirming = confirming.filter(|(known, _)| *known == term);
            if !leads || !self.has_lease() || self.has_right_time() != Some(true) {
                confirmed = None;
                confirming = None;
            } else if confirmed != Some(term) && confirming.is_none() {
                confirming = Some((term, tokio::spawn(self.clone().confirm())));
            }
            self.publish(match confirmed {
                Some(term) => Leader::Me { term },
                None if leads => Leader::None,
                None => self.heard_leader(),
            });
            let look = if is_alone && confirmed.is_some() {
                LOOK_ALONE
            } else {
                LOOK
            };
            tokio::select! {
                changed = server.changed() => if changed.is_err() { break },
                done = async { (&mut confirming.as_mut()?.1).await.ok() }, if confirming.is_some() => {
                    let term = confirming.take().map(|(term, _)| term);
                    confirmed = term.filter(|_| done == Some(true));
                    // All that is on record is applied, and nothing of this term is yet.
                    time.learn();
                }
                () = sleep(look) => {}
                () = stopped.cancelled() => break,
            }
        }
        self.publish(Leader::None);
    }

    /// Whether all that was acknowledged before now is applied here, and this manager
    /// still leads.
    async fn confirm(self) -> bool {
        let confirmed = time::timeout(CONFIRM, self.raft.ensure_linearizable()).await;
        matches!(confirmed, Ok(Ok(_)))
    }

    pub(crate) fn publish(&self, leader: Leader) {
        self.leader.send_if_modified(|known| {
            let leader = match leader {
                // It was looked up before.
                Leader::Me { .. } if self.pulse.is_handing_over() => Leader::None,
                leader => leader,
            };
            let is_news = *known != leader;
            if is_news {
                tracing::info!(?leader, "the leader of the swarm changed");
                *known = leader;
            }
            is_news
        });
    }

    pub(crate) fn is_mine(&self, vote: &Vote<RaftId>) -> bool {
        vote.committed && vote.leader_id.node_id == self.me.raft_id
    }

    /// Knows the members from now on, and no others.
    fn meet<'a>(&self, members: impl Iterator<Item = (&'a RaftId, &'a Member)>) {
        let mut ids = Vec::new();
        for (raft_id, member) in members {
            self.peers.note(*raft_id, member);
            ids.push(*raft_id);
        }
        self.peers.retain(&ids);
        self.pulse.retain(&ids);
    }

    fn heard_leader(&self) -> Leader {
        let Some(vote) = self.pulse.leader(Instant::now()) else {
            return Leader::None;
        };
        let raft_id = vote.leader_id.node_id;
        let view = self.raft.server_metrics();
        let view = view.borrow();
        match view.membership_config.membership().get_node(&raft_id) {
            Some(member) => Leader::Other {
                raft_id,
                node_id: member.node_id.clone(),
                addr: member.addr.clone(),
            },
            None => Leader::None,
        }
    }

    /// The leader for who asks another.
    pub(crate) fn leading_member(&self) -> Option<(RaftId, Member)> {
        let raft_id = match &*self.leader.borrow() {
            Leader::Me { .. } => self.me.raft_id,
            Leader::Other { raft_id, .. } => *raft_id,
            Leader::None => return None,
        };
        let view = self.raft.server_metrics();
        let view = view.borrow();
        let member = view.membership_config.membership().get_node(&raft_id);
        member.map(|member| (raft_id, member.clone()))
    }

    /// Whether this manager leads and no other can have been elected since it last
    /// heard of a quorum. Cheap.
    pub(crate) fn has_lease(&self) -> bool {
        self.with_quorum(|quorum| self.pulse.has_lease(quorum, Instant::now()))
    }

    /// As [`Pulse::has_right_time`](crate::pulse::Pulse::has_right_time).
    pub(crate) fn has_right_time(&self) -> Option<bool> {
        self.with_quorum(|quorum| self.pulse.has_right_time(quorum))
    }

    /// [`Self::has_lease`], for who has no engine.
    pub(crate) fn lease(&self) -> Box<dyn Fn() -> bool + Send + Sync> {
        let engine = self.clone();
        Box::new(move || engine.has_lease())
    }

    /// Hands over while this manager leads on a disk that is too slow (requirements.md,
    /// Elections) or full, or by a wrong clock, until `stopped`.
    pub(crate) async fn keep_pace(self, stopped: CancellationToken) {
        let keeping = async {
            loop {
                let no_room = tokio::select! {
                    () = time::sleep(PACE_LOOK) => false,
                    () = self.room.missed() => true,
                };
                if self.is_alone() {
                    continue;
                }
                let leads = matches!(&*self.leader.borrow(), Leader::Me { .. });
                let pace = self.log.sync_pace().filter(|pace| leads && *pace > SLOW);
                if self.has_right_time() == Some(false) {
                    tracing::error!("{CLOCK_OFF}; another manager is to lead");
                } else if let Some(pace) = pace {
                    tracing::warn!(
                        median_ms = pace.as_millis(),
                        "the disk of the log is slow; another manager is to lead"
                    );
                } else if leads && no_room {
                    tracing::warn!("the disk of the log is full; another manager is to lead");
                } else {
                    continue;
                }
                if let Err(error) = self.transfer_leadership(None).await {
                    tracing::warn!(%error, "no other manager took over");
                    self.room.not_elsewhere();
                }
                // Others may be as slow; nobody's clock is better than all.
                if pace.is_some() {
                    time::sleep(PACE_REST).await;
                }
            }
        };
        stopped.run_until_cancelled(keeping).await;
    }

    /// The members that the newest membership names.
    pub(crate) fn members(&self) -> Vec<MemberView> {
        let leader = self.leading_member().map(|(raft_id, _)| raft_id);
        let view = self.raft.server_metrics();
        let view = view.borrow();
        let membership = view.membership_config.membership();
        let voters: BTreeSet<_> = membership.voter_ids().collect();
        let now = Instant::now();
        let view = |(raft_id, member): (&RaftId, &Member)| MemberView {
            raft_id: *raft_id,
            node_id: member.node_id.clone(),
            addr: member.addr.clone(),
            voter: voters.contains(raft_id),
            leader: leader == Some(*raft_id),
            reachable: *raft_id == self.me.raft_id || self.pulse.is_reachable(*raft_id, now),
        };
        membership.nodes().map(view).collect()
    }

    /// Gives signs of life while this manager leads, until `stopped`.
    pub(crate) async fn keep_beating(self, clock: Arc<dyn Clock>, stopped: CancellationToken) {
        let mut server = self.raft.server_metrics();
        let mut metrics = self.raft.metrics();
        let mut worked = Instant::now();
        let beating: Arc<Mutex<BTreeSet<RaftId>>> = Arc::default();
        let mut tick = time::interval(HEARTBEAT);
        tick.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                // A new leader is not waited for.
                changed = server.changed() => if changed.is_err() { return },
                () = stopped.cancelled() => return,
            }
            if metrics.has_changed().unwrap_or(false) {
                worked = Instant::now();
            }
            let Some((request, members)) = self.beat(&mut metrics) else {
                continue;
            };
            if worked.elapsed() > HANGS || self.pulse.is_handing_over() {
                continue;
            }
            for member in members {
                let mut under_way = beating.lock().unwrap_or_else(PoisonError::into_inner);
                if under_way.insert(member) {
                    let (engine, beating) = (self.clone(), Arc::clone(&beating));
                    let request = request.clone();
                    let (clock, stopped) = (Arc::clone(&clock), stopped.clone());
                    tokio::spawn(async move {
                        stopped
                            .run_until_cancelled(engine.send_beat(member, request, &clock))
                            .await;
                        let mut under_way = beating.lock().unwrap_or_else(PoisonError::into_inner);
                        under_way.remove(&member);
                    });
                }
            }
        }
    }

    /// The sign of life to all others, if this manager leads.
    fn beat(
        &self,
        metrics: &mut tokio::sync::watch::Receiver<openraft::RaftMetrics<RaftId, Member>>,
    ) -> Option<(BeatRequest, Vec<RaftId>)> {
        let view = metrics.borrow_and_update();
        let leads = view.state == ServerState::Leader && self.is_mine(&view.vote);
        let replication = view.replication.as_ref().filter(|_| leads)?;
        let others = view.membership_config.nodes().map(|(raft_id, _)| *raft_id);
        let others: Vec<_> = others.filter(|id| *id != self.me.raft_id).collect();
        if others.is_empty() {
            return None;
        }
        let matched = replication.iter().filter_map(|(raft_id, matched)| {
            Some(RaftMatched {
                raft_id: *raft_id,
                matched: Some(codec::log_id_out((*matched)?)),
            })
        });
        let request = BeatRequest {
            header: None,
            vote: Some(codec::vote_out(&view.vote)),
            committed: view.last_applied.map(codec::log_id_out),
            matched: matched.collect(),
        };
        Some((request, others))
    }

    async fn send_beat(&self, member: RaftId, mut request: BeatRequest, clock: &Arc<dyn Clock>) {
        let mut lost = 0;
        loop {
            let Ok(channel) = self.peers.channel(member, Lane::Pulse).await else {
                return;
            };
            request.header = Some(self.me.header(member));
            let at = Instant::now();
            let mut client = channel.raft();
            let Ok(answer) = time::timeout(BEAT, client.beat(request.clone())).await else {
                lost += 1;
                if lost >= LOST_BEATS {
                    tracing::debug!(member, "no answer to signs of life; dialling anew");
                    self.peers.suspect(member);
                    return;
                }
                continue;
            };
            let Ok(answer) = answer.map(tonic::Response::into_inner) else {
                return;
            };
            let (Ok(sent), Ok(theirs)) =
                (codec::vote_in(request.vote), codec::vote_in(answer.vote))
            else {
                return;
            };
            if let Some(theirs) = answer.time.as_ref().and_then(date_time) {
                self.pulse
                    .clock(member, theirs, clock.now(), Instant::now());
            }
            if answer.follows {
                self.pulse.acked(member, &sent, at);
            } else {
                self.pulse.answered(member);
                if theirs > sent {
                    // The engine finds out who leads by itself.
                    let _ = self.raft.trigger().heartbeat().await;
                }
            }
            return;
        }
    }

    /// Stands for election at once. `handed_over` by the leader.
    pub(crate) async fn stand(&self, handed_over: bool) -> Result<(), NoVote> {
        let own = self.raft.server_metrics().borrow().vote;
        let vote = Vote::new(own.leader_id.term + 1, self.me.raft_id);
        self.pulse
            .campaign(vote, self.last_log(), handed_over, Instant::now())?;
        let engine = self.clone();
        // Goes on if who asked for it does not wait.
        let standing = tokio::spawn(async move {
            // Without an engine there is no election.
            let _ = engine.raft.trigger().elect().await;
            // Answered once the vote is on disk: the engine does one after the other.
            let own = engine.raft.with_raft_state(|state| *state.vote_ref());
            if own.await.is_ok_and(|own| own < vote) {
                engine.pulse.campaign_over(&vote);
            }
        });
        let _ = standing.await;
        Ok(())
    }
}
