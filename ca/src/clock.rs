//! Wall time behind a trait, so that tests can move it.

use std::fmt::Debug;
use std::time::SystemTime;

use time::OffsetDateTime;

/// A source of wall time, in UTC.
///
/// Wall time decides validity and expiry; it may jump. Timeouts belong to a monotonic clock and
/// are not this trait's business.
pub trait Clock: Send + Sync + Debug {
    /// The current wall time.
    fn now(&self) -> OffsetDateTime;
}

/// The operating system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where wall time is read"
    )]
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from(SystemTime::now())
    }
}
