//! How long the disk takes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So many of the latest writes are looked at.
const LATEST: usize = 15;
/// Fewer say nothing.
const FEW: usize = 5;

/// Durations of the latest writes with their syncs, of a single writer.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// In microseconds; 0: none yet.
    latest: [AtomicU64; LATEST],
    next: AtomicU64,
}

impl Pace {
    pub(crate) fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        let place = usize::try_from(next % LATEST as u64).unwrap_or(0);
        self.latest[place].store(micros, Ordering::Relaxed);
    }

    pub(crate) fn median(&self) -> Option<Duration> {
        let latest = self
            .latest
            .iter()
            .map(|micros| micros.load(Ordering::Relaxed));
        let mut latest: Vec<_> = latest.filter(|micros| *micros > 0).collect();
        if latest.len() < FEW {
            return None;
        }
        latest.sort_unstable();
        Some(Duration::from_micros(latest[latest.len() / 2]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stall_is_no_slow_disk() {
        let pace = Pace::default();
        for _ in 0..FEW - 1 {
            pace.note(Duration::from_secs(9));
        }
        assert_eq!(pace.median(), None, "too few");
        for _ in 0..LATEST {
            pace.note(Duration::from_millis(2));
        }
        pace.note(Duration::from_secs(9));
        assert_eq!(pace.median(), Some(Duration::from_millis(2)));
        for _ in 0..LATEST {
            pace.note(Duration::from_millis(600));
        }
        assert_eq!(pace.median(), Some(Duration::from_millis(600)));
    }
}
