//! Waits after failures.

use std::time::Duration;

/// The wait before a session is tried again: random below a bound that grows from
/// 0.1 s to 8 s, as a Docker Engine waits.
#[derive(Debug, Default)]
pub(crate) struct SessionBackoff {
    bound: Duration,
}

const SESSION_FIRST: Duration = Duration::from_millis(100);
const SESSION_LONGEST: Duration = Duration::from_secs(8);

impl SessionBackoff {
    /// The manager registered this node: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.bound = Duration::ZERO;
    }

    /// The wait before the next try.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        self.bound = (self.bound * 2 + SESSION_FIRST).min(SESSION_LONGEST);
        below(self.bound, random)
    }
}

const POLL_FIRST: Duration = Duration::from_secs(1);
const POLL_LONGEST: Duration = Duration::from_secs(30);

/// The wait before a certificate's status is asked for once more, after `polls` answers
/// without it: random below `min(1 s + 1 s × 2^(polls − 1), 30 s)`, as swarmkit waits.
pub(crate) fn poll_wait(polls: u32, random: u64) -> Duration {
    let Some(doublings) = polls.checked_sub(1) else {
        return Duration::ZERO;
    };
    let growth = POLL_FIRST.saturating_mul(1u32.checked_shl(doublings).unwrap_or(u32::MAX));
    below(
        (POLL_FIRST.saturating_add(growth)).min(POLL_LONGEST),
        random,
    )
}

fn below(bound: Duration, random: u64) -> Duration {
    let millis = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX).max(1);
    Duration::from_millis(random % millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_waits_grow_to_eight_seconds_and_start_anew() {
        let mut backoff = SessionBackoff::default();
        let bounds: Vec<_> = (0..9)
            .map(|_| {
                backoff.next(0);
                backoff.bound.as_millis()
            })
            .collect();
        assert_eq!(bounds, [100, 300, 700, 1500, 3100, 6300, 8000, 8000, 8000]);
        backoff.reset();
        assert!(backoff.next(u64::MAX) < Duration::from_millis(100));
    }

    #[test]
    fn a_wait_is_below_its_bound() {
        for random in [0, 1, 12_345, u64::MAX] {
            assert_eq!(poll_wait(0, random), Duration::ZERO);
            assert!(poll_wait(1, random) < Duration::from_secs(2));
            assert!(poll_wait(40, random) < Duration::from_secs(30));
            assert!(poll_wait(u32::MAX, random) < Duration::from_secs(30));
        }
    }
}
