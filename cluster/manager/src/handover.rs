//! How a leader hands over: to one that answers, has all of the log and room for more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{LogId, Vote, storage::RaftLogStorage};
use tokio::time;
use waxseal_wire::waxseal::CampaignRequest;

use crate::{
    engine::Engine,
    error::MembershipError,
    leadership::Leader,
    peers::Lane,
    pulse::PROMISE,
    raft::{RaftId, codec},
};

/// Time for another manager to take over.
const HAND_OVER: Duration = Duration::from_secs(6);
/// Time for one of them to have what the others have.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Time for its answer when it is asked to stand.
const ANSWER: Duration = Duration::from_millis(500);
/// Time for it to be elected: its disk and those of a quorum have to note it.
const ELECTED: Duration = Duration::from_secs(3);
/// Commands that were on their way to the engine are there by then.
const LAST_WRITES: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(5);

impl Engine {
    /// Hands the leadership over (spec/dependencies.md §3, rule 5); returns once another
    /// leads. Once begun it goes on, also if what asked for it ends with the leadership.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub(crate) async fn transfer_leadership(
        &self,
        to: Option<RaftId>,
    ) -> Result<(), MembershipError> {
        // The end of one must not give the lease back that another has given up.
        let one = Arc::clone(&self.handing).lock_owned().await;
        let engine = self.clone();
        let handing = tokio::spawn(async move {
            let stopped = engine.monitor.stopped.clone();
            let handed = stopped.run_until_cancelled(engine.hand_over(to)).await;
            drop(one);
            handed.unwrap_or(Err(MembershipError::Stopped))
        });
        handing.await.unwrap_or(Err(MembershipError::Stopped))
    }

    async fn hand_over(&self, to: Option<RaftId>) -> Result<(), MembershipError> {
        let vote = self.raft.server_metrics().borrow().vote;
        if !self.is_mine(&vote) {
            return Err(MembershipError::NotLeader);
        }
        if self.heirs(to)?.is_empty() {
            return Err(MembershipError::NotTaken {
                within: Duration::ZERO,
            });
        }
        // This manager's engine votes for no other in the time of its own lease, which it
        // counts from its election. It leads until then: the heir must have heard it.
        time::sleep(PROMISE.saturating_sub(self.pulse.leads_for())).await;
        let heirs = self.heirs(to)?;
        let begun = Instant::now();
        let handing = async {
            for heir in heirs {
                // While it leads still: who cannot take over is no reason to stop.
                if self.may_stand(heir, &vote, true).await && self.hand_to(heir, &vote).await {
                    return Ok(());
                }
            }
            Err(MembershipError::NotTaken {
                within: begun.elapsed(),
            })
        };
        let handed = time::timeout(HAND_OVER, handing).await;
        handed.unwrap_or(Err(MembershipError::NotTaken { within: HAND_OVER }))
    }

    /// Who is asked to take over, in this order: the one that was named, or those heard
    /// of late, first who has most of the log.
    fn heirs(&self, to: Option<RaftId>) -> Result<Vec<RaftId>, MembershipError> {
        let voters = self.members().into_iter().filter(|member| member.voter);
        let voters = voters.map(|member| member.raft_id);
        let mut others: Vec<_> = voters.filter(|voter| *voter != self.me.raft_id).collect();
        if let Some(raft_id) = to {
            return match others.contains(&raft_id) {
                true => Ok(vec![raft_id]),
                false => Err(MembershipError::Unknown { raft_id }),
            };
        }
        let now = Instant::now();
        others.retain(|voter| self.pulse.answered_within(*voter, PROMISE, now));
        others.sort_by_key(|voter| std::cmp::Reverse(self.matched(*voter)));
        Ok(others)
    }

    fn matched(&self, member: RaftId) -> Option<LogId<RaftId>> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics
            .replication
            .as_ref()
            .and_then(|known| *known.get(&member)?)
    }

    /// Whether a member, or another that stood meanwhile, leads.
    async fn hand_to(&self, heir: RaftId, vote: &Vote<RaftId>) -> bool {
        let _silent = Silent::new(self);
        // 1. It has all there is, and no more comes: who has more than the candidate
        //    does not vote for it.
        time::sleep(LAST_WRITES).await;
        // What the engine was given before is in its log when it answers.
        if self.raft.with_raft_state(|_| ()).await.is_err() {
            return false;
        }
        let Ok(log) = self.log.clone().get_log_state().await else {
            return false;
        };
        let begun = Instant::now();
        while self.leads_as(vote) && self.matched(heir) < log.last_log_id {
            if begun.elapsed() > CATCH_UP {
                tracing::debug!(heir, "it has not caught up");
                return false;
            }
            time::sleep(LOOK).await;
        }
        // 2. It stands for election.
        if self.leads_as(vote) && !self.may_stand(heir, vote, false).await {
            return false;
        }
        // 3. It, or whoever won, leads.
        let asked = Instant::now();
        while asked.elapsed() < ELECTED {
            let heard = self.pulse.leader(Instant::now());
            if heard.is_some_and(|other| other > *vote) {
                return true;
            }
            time::sleep(LOOK).await;
        }
        false
    }

    fn leads_as(&self, vote: &Vote<RaftId>) -> bool {
        self.raft.server_metrics().borrow().vote == *vote
    }

    /// Asks a member to stand for election, or only whether it could; whether it may do so.
    async fn may_stand(&self, heir: RaftId, vote: &Vote<RaftId>, ask: bool) -> bool {
        let Ok(channel) = self.peers.channel(heir, Lane::Pulse).await else {
            return false;
        };
        let request = CampaignRequest {
            header: Some(self.me.header(heir)),
            vote: Some(codec::vote_out(vote)),
            ask,
        };
        match time::timeout(ANSWER, channel.raft().campaign(request)).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) => {
                tracing::debug!(%status, heir, "the manager does not take over");
                false
            }
            Err(_) => {
                self.peers.suspect(heir);
                false
            }
        }
    }
}

/// While it is there this manager gives no signs of life, takes no commands, and what it
/// commits is not acknowledged by its lease. After that it leads as before, if it still
/// does.
struct Silent<'a>(&'a Engine);

impl Silent<'_> {
    fn new(engine: &Engine) -> Silent<'_> {
        engine.pulse.hand_over(true);
        engine.raft.runtime_config().heartbeat(false);
        engine.publish(Leader::None);
        Silent(engine)
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
        self.0.pulse.hand_over(false);
    }
}
