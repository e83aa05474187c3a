//! Timestamps of objects and commands.

use prost_types::Timestamp;
use time::OffsetDateTime;

/// A point in time as objects and commands carry it.
pub fn timestamp(time: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or(0),
    }
}

/// The point in time of a timestamp; nothing if it is out of range, as one
/// from a peer may be.
pub fn date_time(timestamp: &Timestamp) -> Option<OffsetDateTime> {
    let nanos = u32::try_from(timestamp.nanos).ok()?;
    OffsetDateTime::from_unix_timestamp(timestamp.seconds)
        .ok()?
        .replace_nanosecond(nanos)
        .ok()
}

/// For comparison: seconds, then nanoseconds.
pub(crate) fn instant(timestamp: &Timestamp) -> (i64, i32) {
    (timestamp.seconds, timestamp.nanos)
}

/// The later of two.
pub(crate) fn later(a: Timestamp, b: Timestamp) -> Timestamp {
    if instant(&a) >= instant(&b) { a } else { b }
}
