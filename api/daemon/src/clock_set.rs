//! A host that starts before its clock is right: what failed for it is tried again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use waxseal_ca::Clock;

use crate::daemon::Daemon;

/// How often it is looked whether somebody set the clock.
const LOOK: Duration = Duration::from_secs(2);
/// A clock that differs by more from the monotonic one was set.
const SET: time::Duration = time::Duration::MINUTE;

/// The wall clock, held against the monotonic one since it was last looked at.
struct Held {
    wall: time::OffsetDateTime,
    since: Instant,
}

impl Held {
    fn new(clock: &dyn Clock) -> Held {
        Held {
            wall: clock.now(),
            since: Instant::now(),
        }
    }

    fn was_set(&self, clock: &dyn Clock) -> bool {
        (clock.now() - self.wall - self.since.elapsed()).abs() > SET
    }
}

impl Daemon {
    /// Tries a start that failed once more after the clock was set: certificates may be
    /// valid then.
    pub(crate) fn resume_when_clock_is_set(self: &Arc<Daemon>) {
        let daemon = Arc::downgrade(self);
        let (clock, stopped) = (Arc::clone(&self.shared.clock), self.stopped.clone());
        let held = Held::new(&*clock);
        tokio::spawn(async move {
            while !held.was_set(&*clock) {
                let pause = tokio::time::sleep(LOOK);
                if stopped.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
            if let Some(daemon) = daemon.upgrade() {
                tracing::info!("the clock was set; the node is started again");
                daemon.resume_failed().await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use waxseal_ca::test_util::ManualClock;

    use super::*;

    #[test]
    fn a_clock_that_runs_on_was_not_set() {
        let clock = ManualClock::at(time::OffsetDateTime::UNIX_EPOCH);
        let held = Held::new(&clock);
        clock.advance(time::Duration::SECOND * 30);
        assert!(!held.was_set(&clock));
        clock.advance(time::Duration::DAY);
        assert!(held.was_set(&clock));
        clock.advance(-time::Duration::DAY * 2);
        assert!(held.was_set(&clock));
    }
}
