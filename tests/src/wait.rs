//! Bounded waits.

use std::{
    fmt,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Between the first two looks; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// No pause is longer.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` gives `Ok`; its last error is the reason if it never does.
///
/// # Errors
/// When `limit` is over.
pub fn eventually<T>(
    what: impl fmt::Display,
    limit: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if begin.elapsed() >= limit => {
                return Err(error.context(format!("{what}: not within {limit:?}")));
            }
            Err(_) => sleep(pause),
        }
        pause = PAUSE.min(2 * pause);
    }
}

/// Looks again and again for `time`: every look must be `Ok`.
///
/// # Errors
/// The first look that fails.
pub fn holds_for(
    what: impl fmt::Display,
    time: Duration,
    mut look: impl FnMut() -> Result<()>,
) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < time {
        if let Err(error) = look() {
            bail!("{what}: no longer after {:?}: {error:#}", begin.elapsed());
        }
        sleep(PAUSE);
    }
    Ok(())
}
