//! Random numbers for waits and choices.

/// A random number that spreads load. Nothing secret depends on it, so that a system
/// without random bytes for a moment gets the middle of the range rather than an error.
pub(crate) fn spread() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}
