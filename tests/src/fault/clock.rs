//! The wall clock that a file says how far it is off.

use std::{fs, path::PathBuf};

use time::{Duration, OffsetDateTime};
use waxseal_ca::{Clock, SystemClock};

/// The system's clock, off by what a file says, in seconds.
#[derive(Debug)]
pub struct MovedClock(PathBuf);

impl MovedClock {
    /// That of a file, which is read at each look and replaced as a whole.
    #[must_use]
    pub fn of(file: PathBuf) -> MovedClock {
        MovedClock(file)
    }
}

impl Clock for MovedClock {
    fn now(&self) -> OffsetDateTime {
        let text = fs::read_to_string(&self.0).expect("a clock's file can be read");
        let offset = text.trim().parse().expect("a clock's file holds seconds");
        SystemClock.now() + Duration::seconds(offset)
    }
}
