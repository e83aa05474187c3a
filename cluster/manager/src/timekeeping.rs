//! What a manager's clock is good for while it leads: the times that it puts on record,
//! and whether it signs.
//!
//! Of three managers the other two tell who is wrong (`pulse.rs`), a moment late. So a
//! leader of others whose clock jumps against its monotonic one puts nothing on record any
//! more, and hands over. Where no two others tell, the log does: the past is no time to
//! sign in.

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Instant,
};

use time::OffsetDateTime;
use waxseal_ca::{Clock, describe_set_back};
use waxseal_cluster::{State, date_time};

use crate::pulse::Pulse;

/// The clock of a manager that may lead.
pub(crate) struct Timekeeper {
    clock: Arc<dyn Clock>,
    pulse: Pulse,
    state: Arc<RwLock<State>>,
    /// The newest time, in seconds, that this manager found on record as it began to lead or
    /// put there since. What it puts there later does not lower it.
    newest: AtomicI64,
}

impl Timekeeper {
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        pulse: Pulse,
        state: Arc<RwLock<State>>,
    ) -> Timekeeper {
        Timekeeper {
            clock,
            pulse,
            state,
            newest: AtomicI64::new(i64::MIN),
        }
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// The time for what this manager, which leads, is about to put on record.
    pub(crate) fn stamp(&self) -> OffsetDateTime {
        let now = self.clock.now();
        self.newest
            .fetch_max(now.unix_timestamp(), Ordering::Relaxed);
        now
    }

    /// Takes note of what is on record, before anything is put there in this leadership.
    pub(crate) fn learn(&self) {
        if let Some(last) = self.last_applied() {
            self.newest
                .fetch_max(last.unix_timestamp(), Ordering::Relaxed);
        }
    }

    /// Whether the clock goes on from where the others last agreed with it.
    pub(crate) fn is_steady(&self) -> bool {
        !self.pulse.clock_jumped(self.clock.now(), Instant::now())
    }

    /// What to tell the operator if the clock lies before what is on record.
    pub(crate) fn set_back(&self) -> Option<String> {
        let newest = OffsetDateTime::from_unix_timestamp(self.newest.load(Ordering::Relaxed)).ok();
        let newest = newest.max(self.last_applied())?;
        describe_set_back(self.clock.now(), newest)
    }

    /// Why this manager, which leads, does not sign.
    pub(crate) fn signs_not(&self) -> Option<String> {
        match self.pulse.is_clock_checked() {
            true => None,
            false => self.set_back(),
        }
    }

    fn last_applied(&self) -> Option<OffsetDateTime> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.last_time().and_then(date_time)
    }
}

#[cfg(test)]
mod tests {
    use time::Duration;
    use waxseal_ca::test_util::ManualClock;
    use waxseal_cluster::objects::{CreateNode, NodeRole, command::Op};

    use super::*;
    use crate::testing::{NOW, World, node};

    fn keeper(world: World) -> (Timekeeper, Arc<ManualClock>) {
        let now = OffsetDateTime::from_unix_timestamp(NOW).unwrap();
        let clock = Arc::new(ManualClock::at(now));
        let state = Arc::new(RwLock::new(world.state));
        (Timekeeper::new(clock.clone(), Pulse::new(), state), clock)
    }

    fn run(keeper: &Timekeeper, name: &str) {
        let node = Some(node(name, NodeRole::Worker));
        let create = Op::CreateNode(CreateNode { node });
        let at = waxseal_cluster::timestamp(keeper.stamp());
        let command = waxseal_cluster::objects::Command::new(crate::component("test"), at, create);
        keeper.state.write().unwrap().apply(command).unwrap();
    }

    #[test]
    fn who_lies_before_what_is_on_record_does_not_sign() {
        let (keeper, clock) = keeper(World::new());
        keeper.learn();
        assert_eq!(keeper.signs_not(), None);
        clock.advance(-Duration::HOUR);
        assert_eq!(keeper.signs_not(), None, "an hour is within certificates");
        clock.advance(-Duration::HOUR);
        let said = keeper.signs_not().unwrap();
        assert!(said.contains("2 h 0 min behind"), "{said}");
        // What it puts on record meanwhile makes the clock no better.
        run(&keeper, "late");
        assert!(keeper.signs_not().is_some());
        clock.advance(Duration::HOUR * 2);
        assert_eq!(keeper.signs_not(), None);
    }

    #[test]
    fn a_clock_that_was_ahead_counts_until_the_next_start() {
        let (keeper, clock) = keeper(World::new());
        clock.advance(Duration::days(100));
        run(&keeper, "ahead");
        clock.advance(-Duration::days(100));
        assert!(keeper.signs_not().is_some());
        run(&keeper, "right");
        assert!(keeper.signs_not().is_some());
        let state = Arc::clone(&keeper.state);
        let again = Timekeeper::new(clock, Pulse::new(), state);
        again.learn();
        assert_eq!(again.signs_not(), None);
    }

    #[test]
    fn two_others_know_better_than_the_log() {
        let (keeper, clock) = keeper(World::new());
        clock.advance(Duration::hours(-2));
        keeper.pulse.lead(Some(openraft::Vote::new_committed(4, 1)));
        let told = |member| {
            let now = keeper.now();
            keeper.pulse.clock(member, now, now, Instant::now());
        };
        told(2);
        assert!(keeper.signs_not().is_some());
        told(3);
        assert_eq!(keeper.signs_not(), None);
        assert!(keeper.set_back().is_some(), "it is told all the same");
    }

    #[test]
    fn a_jump_is_seen_before_the_others_tell() {
        let (keeper, clock) = keeper(World::new());
        clock.advance(Duration::days(100));
        assert!(keeper.is_steady(), "it does not lead");
        keeper.pulse.lead(Some(openraft::Vote::new_committed(4, 1)));
        assert!(keeper.is_steady(), "nobody has told");
        let now = keeper.now();
        keeper.pulse.clock(2, now, now, Instant::now());
        clock.advance(Duration::minutes(4));
        assert!(keeper.is_steady());
        for jump in [Duration::hours(2), Duration::hours(-4)] {
            clock.advance(jump);
            assert!(!keeper.is_steady(), "{jump}");
        }
    }
}
