//! How many members may renew at the same time: as many as the leader gets through.

use std::time::{Duration, Instant};

/// The window at the start of a rotation. A renewal takes a member about 1 s, half of which it
/// waits by itself, and a leader of two cores gets through some 400 in that time.
const FIRST: usize = 512;
/// At least so many, however slow it goes.
const LEAST: usize = 16;
/// Members that renew at once at most: each is a connection, a request and a session that the
/// leader holds in memory.
pub const MOST_AT_ONCE: usize = 4096;
/// Renewals that take longer say that the leader has too many at once …
const SLOW: Duration = Duration::from_secs(4);
/// … and faster ones that it could have more.
const FAST: Duration = Duration::from_secs(2);
/// The window is judged so often.
const PERIOD: Duration = Duration::from_millis(500);

/// A window that follows how long renewals take.
#[derive(Debug)]
pub struct Pace {
    window: usize,
    judged: Option<Instant>,
    completed: usize,
    /// When one completed last, or the first was asked.
    moved: Option<Instant>,
    /// Something completed in the last period.
    is_moving: bool,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            window: FIRST,
            judged: None,
            completed: 0,
            moved: None,
            is_moving: false,
        }
    }
}

impl Pace {
    /// Most members that renew at the same time.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Takes note of how it goes: `busy` members are renewing, `completed` have so far.
    ///
    /// By Little's law, a renewal takes as long as it takes to complete what is busy.
    pub fn note(&mut self, busy: usize, completed: usize, now: Instant) {
        let moved = *self.moved.get_or_insert(now);
        let Some(judged) = self.judged else {
            self.judged = Some(now);
            self.completed = completed;
            return;
        };
        let period = now.saturating_duration_since(judged);
        if period < PERIOD {
            return;
        }
        let gone = completed.saturating_sub(self.completed);
        let was_moving = std::mem::replace(&mut self.is_moving, gone > 0);
        self.judged = Some(now);
        self.completed = completed;
        if gone > 0 || busy == 0 {
            self.moved = Some(now);
        }
        // What does not fill the window says nothing about it, nor does a period in which the
        // first only began to complete.
        if busy * 2 < self.window || (gone > 0 && !was_moving) {
            return;
        }
        let each = period.checked_div(u32::try_from(gone).unwrap_or(u32::MAX));
        let took = each.map(|each| each.saturating_mul(u32::try_from(busy).unwrap_or(u32::MAX)));
        match took {
            Some(took) if took <= FAST => self.window = (self.window * 3 / 2).min(MOST_AT_ONCE),
            Some(took) if took <= SLOW => {}
            None if now.saturating_duration_since(moved) < SLOW => {}
            _ => self.window = (self.window * 3 / 4).max(LEAST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The window after 10 s with a leader that completes `rate` per second.
    fn settled(rate: usize) -> usize {
        let mut pace = Pace::default();
        let start = Instant::now();
        for step in 0..20u32 {
            let busy = pace.window();
            let completed = rate * step as usize / 2;
            pace.note(busy, completed, start + PERIOD * step);
        }
        pace.window()
    }

    #[test]
    fn the_window_follows_what_the_leader_gets_through() {
        let slow = settled(20);
        assert!((LEAST..=80).contains(&slow), "{slow}");
        let fast = settled(1_000);
        assert!((1_500..=4_000).contains(&fast), "{fast}");
        assert_eq!(settled(1_000_000), MOST_AT_ONCE);
        assert_eq!(settled(0), LEAST);
    }

    #[test]
    fn nothing_is_judged_before_the_first_can_have_completed() {
        let mut pace = Pace::default();
        let start = Instant::now();
        // Members wait by themselves, and the first period with completions is a short one.
        for (step, completed) in [(0, 0), (1, 0), (2, 0), (3, 20)] {
            pace.note(FIRST, completed, start + PERIOD * step);
            assert_eq!(pace.window(), FIRST, "step {step}");
        }
        pace.note(FIRST, 420, start + PERIOD * 4);
        assert!(pace.window() > FIRST);
    }

    #[test]
    fn a_window_that_is_not_filled_stays() {
        let mut pace = Pace::default();
        let start = Instant::now();
        for step in 0..20u32 {
            pace.note(3, 0, start + PERIOD * step);
        }
        assert_eq!(pace.window(), FIRST);
    }
}
