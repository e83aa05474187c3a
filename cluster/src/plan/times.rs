//! Wall times and spans of the objects, as plans reckon with them.

use prost_types::{Duration as ProtoDuration, Timestamp};
use time::{Duration, OffsetDateTime};

use crate::date_time;

/// A time out of an object that may lack it; `None` too if it is no time that can be.
pub(super) fn moment(at: Option<&Timestamp>) -> Option<OffsetDateTime> {
    at.and_then(date_time)
}

/// A span out of an object; a negative one counts as none at all.
pub(super) fn span(length: &ProtoDuration) -> Duration {
    let length = Duration::seconds(length.seconds)
        .saturating_add(Duration::nanoseconds(i64::from(length.nanos)));
    length.max(Duration::ZERO)
}

/// `at + length`, at the end of time if that is beyond it.
pub(super) fn after(at: OffsetDateTime, length: Duration) -> OffsetDateTime {
    at.saturating_add(length)
}

/// The earlier of two wake-up times.
pub(super) fn earlier(
    one: Option<OffsetDateTime>,
    other: Option<OffsetDateTime>,
) -> Option<OffsetDateTime> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_cannot_be_are_none() {
        for (seconds, nanos) in [(i64::MAX, 0), (0, -1), (0, i32::MAX)] {
            assert_eq!(moment(Some(&Timestamp { seconds, nanos })), None);
        }
    }

    #[test]
    fn a_negative_span_is_none_at_all() {
        let negative = ProtoDuration {
            seconds: -5,
            nanos: -1,
        };
        assert_eq!(span(&negative), Duration::ZERO);
        let endless = ProtoDuration {
            seconds: i64::MAX,
            nanos: i32::MAX,
        };
        let end = after(OffsetDateTime::UNIX_EPOCH, span(&endless));
        assert!(end > OffsetDateTime::UNIX_EPOCH + Duration::days(365_000));
    }
}
