//! Signs of life between managers, apart from the engine.
//!
//! The engine stands still while its disk syncs; what is heard and said here does
//! not. A follower that has heard its leader promises it, for [`PROMISE`], not to
//! help elect another: a leader that a quorum answered within [`LEASE`] is the only
//! one. The promise is kept by each manager's own door, through which all votes come,
//! on top of the engine's own rules.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use openraft::{LogId, Membership, Vote};
use time::OffsetDateTime;
use waxseal_raft_store::Member;

use crate::raft::RaftId;

/// How long after a sign of life of its leader a manager helps elect no other
/// (requirements.md, Elections: 600 to 1,200 ms).
pub(crate) const PROMISE: Duration = Duration::from_millis(1_000);
/// How long a leader relies on the promise, from when it sent what was answered. The
/// difference is for clocks that do not run alike.
pub(crate) const LEASE: Duration = Duration::from_millis(850);
/// A member that answered within this time is reachable.
pub(crate) const REACHABLE: Duration = Duration::from_secs(3);
/// A leader whose clock is further off its peers' median hands over and proposes
/// nothing (issue 3, Clocks).
pub(crate) const CLOCK_OFF: time::Duration = time::Duration::minutes(5);
/// Of two clocks nobody knows which is wrong.
const WITNESSES: usize = 2;

/// Shared by what talks to other managers; clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Pulse(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// The sign of life of a leader that was heard last; at start the start itself, as
    /// what was promised before is forgotten.
    heard: Heard,
    /// The vote that the engine is asked for.
    considering: Option<Vote<RaftId>>,
    /// The highest vote that was given.
    granted: Option<Vote<RaftId>>,
    /// The vote that this manager stands for, until its engine has it.
    campaigning: Option<Vote<RaftId>>,
    leading: Option<Leading>,
    /// When members last answered this manager.
    answered: BTreeMap<RaftId, Instant>,
    /// What leaders said that members have in their logs.
    matched: BTreeMap<RaftId, LogId<RaftId>>,
    /// What a leader said to be committed.
    told: Option<LogId<RaftId>>,
    floor: Option<Floor>,
}

#[derive(Debug)]
struct Heard {
    vote: Option<Vote<RaftId>>,
    at: Instant,
}

#[derive(Debug)]
struct Leading {
    vote: Vote<RaftId>,
    since: Instant,
    acked: BTreeMap<RaftId, Instant>,
    /// By how much the clocks of others are ahead of this manager's.
    ahead: BTreeMap<RaftId, time::Duration>,
    /// This manager's clock when it was last held against another, unless it had jumped.
    compared: Option<(OffsetDateTime, Instant)>,
    jumped: bool,
    /// Acknowledgements sent for before do not count.
    revoked: Option<Instant>,
    handing_over: bool,
}

/// What this manager must have had in its log and promised before, by what others
/// remember: a disk that was set back does not know. It votes as if it still had it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Floor {
    pub(crate) log: Option<LogId<RaftId>>,
    pub(crate) term: u64,
}

/// Why a vote is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoVote {
    /// There is a leader.
    Led,
    /// The others were not asked yet what this manager had.
    Unsure,
    /// The candidate has less than this manager had, or stands in an old term.
    Behind,
    /// It stands already; its engine does not have the vote yet.
    Stands,
}

/// While the engine decides on a vote.
pub(crate) struct Considering {
    pulse: Pulse,
    vote: Vote<RaftId>,
}

impl Considering {
    /// The engine gave the vote: no former leader is followed from now on, also before
    /// the engine's metrics say so.
    pub(crate) fn granted(self) {
        let mut state = self.pulse.lock();
        if state.granted.is_none_or(|other| other < self.vote) {
            state.granted = Some(self.vote);
        }
    }
}

impl Drop for Considering {
    fn drop(&mut self) {
        let mut state = self.pulse.lock();
        if state.considering == Some(self.vote) {
            state.considering = None;
        }
    }
}

impl Pulse {
    pub(crate) fn new() -> Pulse {
        Pulse(Arc::new(Mutex::new(State {
            heard: Heard {
                vote: None,
                at: Instant::now(),
            },
            considering: None,
            granted: None,
            campaigning: None,
            leading: None,
            answered: BTreeMap::new(),
            matched: BTreeMap::new(),
            told: None,
            floor: None,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that holds the lock leaves it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a sign of life of a leader, which is a promise to it. `own` is the
    /// engine's vote.
    ///
    /// Answers whether it is that of a leader still: not while another is being
    /// elected.
    pub(crate) fn hear(&self, vote: &Vote<RaftId>, own: &Vote<RaftId>, now: Instant) -> bool {
        let mut state = self.lock();
        let is_old = vote < own
            || state.heard.vote.as_ref().is_some_and(|heard| vote < heard)
            || state.considering.is_some_and(|other| *vote < other)
            || state.granted.is_some_and(|other| *vote < other);
        // From here on the engine's own vote refuses former leaders.
        if state.campaigning.is_some_and(|stands| stands <= *own) {
            state.campaigning = None;
        }
        let stands = state.campaigning.is_some_and(|stands| *vote < stands);
        if is_old || !vote.committed || stands {
            return false;
        }
        state.heard = Heard {
            vote: Some(*vote),
            at: now,
        };
        true
    }

    /// Takes back what was heard: the engine knows better.
    pub(crate) fn unhear(&self, vote: &Vote<RaftId>) {
        let mut state = self.lock();
        if state.heard.vote.as_ref() == Some(vote) {
            state.heard.vote = None;
        }
    }

    /// Who was heard leading within [`PROMISE`].
    pub(crate) fn leader(&self, now: Instant) -> Option<Vote<RaftId>> {
        let state = self.lock();
        let is_fresh = now.saturating_duration_since(state.heard.at) < PROMISE;
        state.heard.vote.filter(|_| is_fresh)
    }

    /// When a leader was heard last.
    pub(crate) fn heard_at(&self) -> Instant {
        self.lock().heard.at
    }

    /// Whether a vote may be asked of the engine; until the answer is dropped no other
    /// leader is followed.
    ///
    /// # Errors
    /// [`NoVote`].
    pub(crate) fn consider(
        &self,
        vote: &Vote<RaftId>,
        last: Option<LogId<RaftId>>,
        quorum: &Quorum<'_>,
        now: Instant,
    ) -> Result<Considering, NoVote> {
        let mut state = self.lock();
        state.may_vote(vote, last, quorum, now)?;
        if let Some(leading) = &mut state.leading {
            leading.revoked = Some(now);
        }
        if state.considering.is_none_or(|other| other < *vote) {
            state.considering = Some(*vote);
        }
        Ok(Considering {
            pulse: self.clone(),
            vote: *vote,
        })
    }

    /// As [`Self::consider`] in some later term, changing nothing.
    ///
    /// # Errors
    /// [`NoVote`].
    pub(crate) fn would_vote(
        &self,
        candidate: RaftId,
        last: Option<LogId<RaftId>>,
        quorum: &Quorum<'_>,
        now: Instant,
    ) -> Result<(), NoVote> {
        let vote = Vote::new(u64::MAX, candidate);
        self.lock().may_vote(&vote, last, quorum, now)
    }

    /// The term that this manager may have voted in last.
    pub(crate) fn floor_term(&self) -> u64 {
        self.lock().floor.map_or(0, |floor| floor.term)
    }

    /// Begins to stand for election: what a leader of a former term says is not heard any
    /// more, however long the engine's disk takes. `handed_over` by the leader that was
    /// heard.
    ///
    /// # Errors
    /// [`NoVote`].
    pub(crate) fn campaign(
        &self,
        vote: Vote<RaftId>,
        last: Option<LogId<RaftId>>,
        handed_over: bool,
        now: Instant,
    ) -> Result<(), NoVote> {
        let mut state = self.lock();
        let is_led =
            state.heard.vote.is_some() && now.saturating_duration_since(state.heard.at) < PROMISE;
        if is_led && !handed_over {
            return Err(NoVote::Led);
        }
        if state.floor.ok_or(NoVote::Unsure)?.log > last {
            return Err(NoVote::Behind);
        }
        if state.campaigning == Some(vote) {
            return Err(NoVote::Stands);
        }
        state.heard.vote = None;
        state.campaigning = Some(vote);
        Ok(())
    }

    /// The engine did not stand for `vote` and will not.
    pub(crate) fn campaign_over(&self, vote: &Vote<RaftId>) {
        let mut state = self.lock();
        if state.campaigning.as_ref() == Some(vote) {
            state.campaigning = None;
        }
    }

    /// This manager leads under `vote`, or does not.
    pub(crate) fn lead(&self, vote: Option<Vote<RaftId>>) {
        let mut state = self.lock();
        if state.leading.as_ref().map(|leading| leading.vote) == vote {
            return;
        }
        state.leading = vote.map(|vote| Leading {
            vote,
            since: Instant::now(),
            acked: BTreeMap::new(),
            ahead: BTreeMap::new(),
            compared: None,
            jumped: false,
            revoked: None,
            handing_over: false,
        });
    }

    /// A member answered what was sent `at` by a leader under `vote`: it promised.
    pub(crate) fn acked(&self, member: RaftId, vote: &Vote<RaftId>, at: Instant) {
        let mut state = self.lock();
        state.answered.insert(member, Instant::now());
        if let Some(leading) = &mut state.leading
            && leading.vote == *vote
        {
            let last = leading.acked.entry(member).or_insert(at);
            *last = (*last).max(at);
        }
    }

    /// A member's clock says `theirs` where this one's says `own`, `at` that moment.
    pub(crate) fn clock(
        &self,
        member: RaftId,
        theirs: OffsetDateTime,
        own: OffsetDateTime,
        at: Instant,
    ) {
        if let Some(leading) = &mut self.lock().leading {
            leading.ahead.insert(member, theirs - own);
            match leading.has_jumped(own, at) {
                true => leading.jumped = true,
                false => leading.compared = Some((own, at)),
            }
        }
    }

    /// Whether this leader's clock, which says `now`, has jumped since it was last held
    /// against another.
    pub(crate) fn clock_jumped(&self, now: OffsetDateTime, at: Instant) -> bool {
        let state = self.lock();
        let leading = state.leading.as_ref();
        leading.is_some_and(|leading| leading.has_jumped(now, at))
    }

    /// Whether so many have told this leader their time that it is known who is wrong.
    pub(crate) fn is_clock_checked(&self) -> bool {
        let state = self.lock();
        let leading = state.leading.as_ref();
        leading.is_some_and(|leading| leading.ahead.len() >= WITNESSES)
    }

    /// Whether this manager's clock agrees with those of the others; `None` until a
    /// quorum has told its time to this leader. Of two nobody knows which is wrong, but
    /// one that jumped while it led is for the other to judge.
    pub(crate) fn has_right_time(&self, quorum: &Quorum<'_>) -> Option<bool> {
        let state = self.lock();
        let leading = state.leading.as_ref()?;
        let told = |raft_id: &RaftId| *raft_id == quorum.me || leading.ahead.contains_key(raft_id);
        if leading.jumped {
            return Some(false);
        }
        if !quorum.is_one(told) {
            return None;
        }
        let mut ahead: Vec<_> = leading.ahead.values().copied().collect();
        if ahead.len() < WITNESSES {
            return Some(true);
        }
        ahead.sort_unstable();
        // Of an even number the one that is nearer.
        let middle = [ahead[(ahead.len() - 1) / 2], ahead[ahead.len() / 2]];
        Some(middle.iter().any(|ahead| ahead.abs() <= CLOCK_OFF))
    }

    /// A member answered, whatever it said.
    pub(crate) fn answered(&self, member: RaftId) {
        self.lock().answered.insert(member, Instant::now());
    }

    pub(crate) fn is_reachable(&self, member: RaftId, now: Instant) -> bool {
        self.answered_within(member, REACHABLE, now)
    }

    pub(crate) fn answered_within(&self, member: RaftId, within: Duration, now: Instant) -> bool {
        let state = self.lock();
        let answered = state.answered.get(&member);
        answered.is_some_and(|at| now.saturating_duration_since(*at) < within)
    }

    /// Whether this manager leads and a quorum promised to elect no other now.
    pub(crate) fn has_lease(&self, quorum: &Quorum<'_>, now: Instant) -> bool {
        self.lock().has_lease(quorum, now)
    }

    /// Gives up the lease in order to hand over, or takes it up again.
    pub(crate) fn hand_over(&self, begins: bool) {
        if let Some(leading) = &mut self.lock().leading {
            leading.handing_over = begins;
            leading.revoked = Some(Instant::now());
        }
    }

    /// For how long this manager leads.
    pub(crate) fn leads_for(&self) -> Duration {
        let state = self.lock();
        let leading = state.leading.as_ref();
        leading.map_or(Duration::ZERO, |leading| leading.since.elapsed())
    }

    pub(crate) fn is_handing_over(&self) -> bool {
        let state = self.lock();
        state
            .leading
            .as_ref()
            .is_some_and(|leading| leading.handing_over)
    }

    /// What a leader says of the log.
    pub(crate) fn told(
        &self,
        committed: Option<LogId<RaftId>>,
        matched: impl Iterator<Item = (RaftId, LogId<RaftId>)>,
    ) {
        let mut state = self.lock();
        state.told = state.told.max(committed);
        for (raft_id, log_id) in matched {
            let known = state.matched.entry(raft_id).or_insert(log_id);
            *known = (*known).max(log_id);
        }
    }

    /// What a leader said to be committed; `None` if none was heard.
    pub(crate) fn committed(&self) -> Option<LogId<RaftId>> {
        self.lock().told
    }

    /// What a member had, as leaders said.
    pub(crate) fn matched(&self, raft_id: RaftId) -> Option<LogId<RaftId>> {
        self.lock().matched.get(&raft_id).copied()
    }

    /// Forgets members that are none any more.
    pub(crate) fn retain(&self, members: &[RaftId]) {
        let mut state = self.lock();
        state.matched.retain(|raft_id, _| members.contains(raft_id));
        state
            .answered
            .retain(|raft_id, _| members.contains(raft_id));
    }

    /// The others were asked what this manager had.
    pub(crate) fn set_floor(&self, floor: Floor) {
        self.lock().floor = Some(floor);
    }

    pub(crate) fn has_floor(&self) -> bool {
        self.lock().floor.is_some()
    }
}

impl Leading {
    fn has_jumped(&self, now: OffsetDateTime, at: Instant) -> bool {
        let goes_on = |(then, since): (OffsetDateTime, Instant)| {
            let passed = at.saturating_duration_since(since);
            let passed = time::Duration::try_from(passed).unwrap_or(time::Duration::MAX);
            (now - then - passed).abs() <= CLOCK_OFF
        };
        self.jumped || !self.compared.is_none_or(goes_on)
    }
}

impl State {
    fn may_vote(
        &self,
        vote: &Vote<RaftId>,
        last: Option<LogId<RaftId>>,
        quorum: &Quorum<'_>,
        now: Instant,
    ) -> Result<(), NoVote> {
        let candidate = vote.leader_id.node_id;
        let is_fresh = now.saturating_duration_since(self.heard.at) < PROMISE;
        let led_by_other = match &self.heard.vote {
            Some(heard) => is_fresh && heard.leader_id.node_id != candidate,
            // What was promised before the start is not known.
            None => is_fresh && self.leading.is_none() && self.told.is_none(),
        };
        let leads = self
            .leading
            .as_ref()
            .is_some_and(|leading| !leading.handing_over);
        if led_by_other || (leads && self.has_lease(quorum, now)) {
            return Err(NoVote::Led);
        }
        let floor = self.floor.ok_or(NoVote::Unsure)?;
        if floor.log > last || floor.term >= vote.leader_id.term {
            return Err(NoVote::Behind);
        }
        Ok(())
    }

    fn has_lease(&self, quorum: &Quorum<'_>, now: Instant) -> bool {
        let Some(leading) = &self.leading else {
            return false;
        };
        if leading.handing_over {
            return false;
        }
        let is_fresh = |raft_id: &RaftId| {
            *raft_id == quorum.me
                || leading.acked.get(raft_id).is_some_and(|at| {
                    now.saturating_duration_since(*at) < LEASE
                        && leading.revoked.is_none_or(|revoked| *at > revoked)
                })
        };
        quorum.is_one(is_fresh)
    }
}

/// Who has to agree.
pub(crate) struct Quorum<'a> {
    pub(crate) membership: &'a Membership<RaftId, Member>,
    pub(crate) me: RaftId,
}

impl Quorum<'_> {
    /// Whether those who agree are a quorum, of both sides while the membership changes.
    pub(crate) fn is_one(&self, agrees: impl Fn(&RaftId) -> bool) -> bool {
        let configs = self.membership.get_joint_config();
        !configs.is_empty()
            && configs.iter().all(|voters| {
                let agreed = voters.iter().filter(|raft_id| agrees(raft_id)).count();
                agreed * 2 > voters.len()
            })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use openraft::CommittedLeaderId;

    use super::*;

    fn membership(voters: &[u64]) -> Membership<RaftId, Member> {
        let members = voters.iter().map(|id| (*id, Member::default()));
        Membership::new(
            vec![voters.iter().copied().collect::<BTreeSet<_>>()],
            members.collect::<BTreeMap<_, _>>(),
        )
    }

    fn led(term: u64, leader: u64) -> Vote<RaftId> {
        Vote::new_committed(term, leader)
    }

    fn log(term: u64, index: u64) -> Option<LogId<RaftId>> {
        Some(LogId::new(CommittedLeaderId::new(term, 1), index))
    }

    const NONE: Vote<RaftId> = Vote {
        leader_id: openraft::LeaderId {
            term: 0,
            node_id: 0,
        },
        committed: false,
    };

    fn pulse() -> (Pulse, Instant) {
        let pulse = Pulse::new();
        pulse.set_floor(Floor::default());
        (pulse, Instant::now() + PROMISE)
    }

    #[test]
    fn who_hears_a_leader_helps_elect_no_other() {
        let (pulse, now) = pulse();
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 2,
        };
        assert!(pulse.hear(&led(4, 1), &NONE, now));
        let asks = |at| pulse.would_vote(3, None, &quorum, at);
        assert_eq!(asks(now + PROMISE / 2), Err(NoVote::Led));
        assert_eq!(asks(now + PROMISE), Ok(()));
        assert_eq!(
            pulse.campaign(Vote::new(5, 2), None, false, now),
            Err(NoVote::Led)
        );
        assert_eq!(pulse.campaign(Vote::new(5, 2), None, true, now), Ok(()));
    }

    #[test]
    fn what_was_promised_before_a_restart_is_kept() {
        let pulse = Pulse::new();
        pulse.set_floor(Floor::default());
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 2,
        };
        let asked = pulse.would_vote(3, None, &quorum, Instant::now());
        assert_eq!(asked, Err(NoVote::Led));
    }

    #[test]
    fn a_leader_is_not_heard_while_another_is_elected() {
        let (pulse, now) = pulse();
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 2,
        };
        let vote = Vote::new(5, 3);
        let Ok(considering) = pulse.consider(&vote, None, &quorum, now) else {
            panic!("refused");
        };
        assert!(!pulse.hear(&led(4, 1), &NONE, now));
        assert!(pulse.hear(&led(5, 3), &NONE, now));
        drop(considering);
        // Nor one of a term that is over.
        assert!(!pulse.hear(&led(4, 1), &NONE, now));
        assert!(!pulse.hear(&led(6, 1), &led(7, 3), now));
    }

    #[test]
    fn a_vote_that_was_given_is_not_forgotten() {
        let (pulse, now) = pulse();
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 2,
        };
        let considered = pulse.consider(&Vote::new(5, 3), None, &quorum, now);
        drop(considered);
        assert!(pulse.hear(&led(4, 1), &NONE, now), "it was not given");
        let considered = pulse.consider(&Vote::new(5, 3), None, &quorum, now + PROMISE);
        considered.unwrap_or_else(|why| panic!("{why:?}")).granted();
        assert!(!pulse.hear(&led(4, 1), &NONE, now + PROMISE));
        assert!(pulse.hear(&led(5, 3), &NONE, now + PROMISE));
    }

    #[test]
    fn a_candidate_hears_no_former_leader() {
        let (pulse, now) = pulse();
        assert!(pulse.hear(&led(4, 1), &NONE, now - PROMISE));
        pulse.campaign(Vote::new(5, 2), None, false, now).unwrap();
        assert!(!pulse.hear(&led(4, 1), &NONE, now));
        assert!(pulse.hear(&led(5, 3), &NONE, now));
        pulse.unhear(&led(5, 3));
        let again = pulse.campaign(Vote::new(5, 2), None, false, now);
        assert_eq!(again, Err(NoVote::Stands));
        // The engine's disk may take its time.
        assert!(!pulse.hear(&led(4, 1), &NONE, now + PROMISE * 5));
        pulse.campaign_over(&Vote::new(4, 2));
        assert!(!pulse.hear(&led(4, 1), &NONE, now), "of another campaign");
        pulse.campaign_over(&Vote::new(5, 2));
        assert!(pulse.hear(&led(4, 1), &NONE, now));
    }

    #[test]
    fn a_candidate_whose_vote_is_saved_follows_who_wins() {
        let (pulse, now) = pulse();
        let own = Vote::new(5, 2);
        pulse.campaign(own, None, false, now).unwrap();
        assert!(!pulse.hear(&led(4, 1), &own, now));
        assert!(pulse.hear(&led(5, 3), &own, now));
        // It stands for nothing any more.
        pulse.unhear(&led(5, 3));
        assert!(pulse.hear(&led(4, 1), &NONE, now));
    }

    #[test]
    fn a_lease_is_a_quorum_of_answers_and_ends() {
        let (pulse, now) = pulse();
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 1,
        };
        pulse.acked(2, &led(4, 1), now);
        assert!(!pulse.has_lease(&quorum, now), "it does not lead");
        pulse.lead(Some(led(4, 1)));
        assert!(!pulse.has_lease(&quorum, now), "of before it led");
        pulse.acked(2, &led(3, 1), now);
        assert!(!pulse.has_lease(&quorum, now), "of another term");
        pulse.acked(2, &led(4, 1), now);
        assert!(pulse.has_lease(&quorum, now));
        assert!(!pulse.has_lease(&quorum, now + LEASE));
        let asks = pulse.would_vote(3, None, &quorum, now);
        assert_eq!(asks, Err(NoVote::Led));
        pulse.hand_over(true);
        assert!(!pulse.has_lease(&quorum, now));
        assert!(pulse.consider(&Vote::new(5, 3), None, &quorum, now).is_ok());
    }

    #[test]
    fn a_vote_that_is_considered_ends_the_lease() {
        let (pulse, now) = pulse();
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 1,
        };
        pulse.lead(Some(led(4, 1)));
        pulse.acked(2, &led(4, 1), now - LEASE);
        let Ok(considering) = pulse.consider(&Vote::new(5, 3), None, &quorum, now) else {
            panic!("refused");
        };
        pulse.acked(2, &led(4, 1), now - LEASE / 2);
        assert!(!pulse.has_lease(&quorum, now), "sent for before the vote");
        drop(considering);
        pulse.acked(2, &led(4, 1), now + LEASE / 4);
        assert!(pulse.has_lease(&quorum, now + LEASE / 2));
    }

    #[test]
    fn a_clock_is_wrong_if_most_others_say_so() {
        let (pulse, _) = pulse();
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 1,
        };
        let (right, wrong) = (time::Duration::minutes(4), time::Duration::hours(-2));
        let own = OffsetDateTime::UNIX_EPOCH;
        let tell = |member, ahead| pulse.clock(member, own + ahead, own, Instant::now());
        pulse.lead(Some(led(4, 1)));
        assert_eq!(pulse.has_right_time(&quorum), None, "nobody told");
        tell(2, wrong);
        assert_eq!(pulse.has_right_time(&quorum), Some(true), "of two");
        tell(3, right);
        assert_eq!(pulse.has_right_time(&quorum), Some(true));
        tell(3, wrong);
        assert_eq!(pulse.has_right_time(&quorum), Some(false));
        pulse.lead(Some(led(5, 1)));
        assert_eq!(pulse.has_right_time(&quorum), None, "of another term");
    }

    #[test]
    fn a_clock_that_jumps_is_wrong_before_most_others_say_so() {
        let (pulse, now) = pulse();
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 1,
        };
        let right = OffsetDateTime::UNIX_EPOCH;
        pulse.lead(Some(led(4, 1)));
        pulse.clock(2, right, right, now);
        pulse.clock(3, right, right, now);
        // What the third told before counts for the clock that was.
        pulse.clock(2, right, right + time::Duration::HOUR, now);
        assert_eq!(pulse.has_right_time(&quorum), Some(false));
        assert!(pulse.clock_jumped(right + time::Duration::HOUR, now));
        pulse.clock(2, right, right, now);
        assert!(pulse.clock_jumped(right, now), "another is to lead");
        pulse.lead(Some(led(5, 1)));
        assert!(!pulse.clock_jumped(right, now));
    }

    #[test]
    fn both_sides_of_a_change_must_agree() {
        let members = [1, 2, 3, 4].map(|id| (id, Member::default()));
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4])],
            BTreeMap::from(members),
        );
        let quorum = Quorum {
            membership: &membership,
            me: 1,
        };
        assert!(!quorum.is_one(|id| [1, 2].contains(id)));
        assert!(quorum.is_one(|id| [2, 3].contains(id)));
        assert!(quorum.is_one(|id| [1, 2, 4].contains(id)));
    }

    #[test]
    fn a_disk_that_was_set_back_votes_as_if_it_were_not() {
        let pulse = Pulse::new();
        let now = Instant::now() + PROMISE;
        let membership = membership(&[1, 2, 3]);
        let quorum = Quorum {
            membership: &membership,
            me: 2,
        };
        let asks = |term, last| {
            let asked = pulse.consider(&Vote::new(term, 3), last, &quorum, now);
            asked.map(drop)
        };
        assert_eq!(asks(9, log(4, 150)), Err(NoVote::Unsure));
        pulse.set_floor(Floor {
            log: log(4, 200),
            term: 6,
        });
        assert_eq!(asks(9, log(4, 150)), Err(NoVote::Behind));
        assert_eq!(asks(6, log(4, 200)), Err(NoVote::Behind));
        assert_eq!(asks(7, log(4, 200)), Ok(()));
        assert_eq!(asks(7, log(5, 160)), Ok(()));
        let stands = |last| pulse.campaign(Vote::new(7, 2), last, false, now);
        assert_eq!(stands(log(4, 199)), Err(NoVote::Behind));
        assert_eq!(stands(log(4, 200)), Ok(()));
    }
}
