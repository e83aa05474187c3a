//! How much output a node may bring.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use waxseal_wire::swarmkit::{LogMessage, LogStream};

/// Bytes of lines of one node in a second, over all readers (requirements.md, worker input).
const BYTES_PER_SECOND: u64 = 1024 * 1024;
/// What may come at once: the bytes of so long.
const BURST: Duration = Duration::from_secs(1);
/// What each line costs beside its bytes.
const LINE_BYTES: u64 = 64;
/// Bytes of one line; engines cut at 16 KiB.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// One node's budget; clones share it. A bucket that holds a [`BURST`].
#[derive(Clone, Debug)]
pub(super) struct Budget {
    /// When what was taken so far will have come at the allowed rate.
    spent_until: Arc<Mutex<Instant>>,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget {
            spent_until: Arc::new(Mutex::new(Instant::now())),
        }
    }
}

impl Budget {
    /// Takes the cost of a line if there is so much.
    pub(super) fn try_take(&self, line: &LogMessage) -> bool {
        let mut spent_until = self.lock();
        let now = Instant::now();
        if *spent_until > now + BURST {
            return false;
        }
        *spent_until = (*spent_until).max(now) + cost(line);
        true
    }

    /// Takes the cost of a line, and waits until it could have come.
    pub(super) async fn take(&self, line: &LogMessage) {
        let wait = {
            let mut spent_until = self.lock();
            let now = Instant::now();
            let begin = (*spent_until).max(now);
            *spent_until = begin + cost(line);
            begin.saturating_duration_since(now).saturating_sub(BURST)
        };
        tokio::time::sleep(wait).await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.spent_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn cost(line: &LogMessage) -> Duration {
    let bytes = u64::try_from(line.data.len()).unwrap_or(u64::MAX);
    Duration::from_micros(
        bytes.saturating_add(LINE_BYTES).saturating_mul(1_000_000) / BYTES_PER_SECOND,
    )
}

/// Cuts what a node could make arbitrarily large.
pub(super) fn bound_line(line: &mut LogMessage) {
    line.data.truncate(MAX_LINE_BYTES);
    // Nobody reads them.
    line.attrs.clear();
}

/// The line that stands for dropped ones, of which `last` was the last.
pub(super) fn dropped_note(count: u64, last: LogMessage) -> LogMessage {
    LogMessage {
        stream: LogStream::Stderr.into(),
        data: format!("waxseal: {count} log lines dropped here\n").into_bytes(),
        attrs: Vec::new(),
        ..last
    }
}

#[cfg(test)]
mod tests {
    use waxseal_wire::swarmkit::LogAttr;

    use super::*;

    fn line(bytes: usize) -> LogMessage {
        LogMessage {
            data: vec![b'x'; bytes],
            ..LogMessage::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_burst_a_line_is_refused_until_time_has_passed() {
        let budget = Budget::default();
        let taken = (0..1_000)
            .take_while(|_| budget.try_take(&line(16_384)))
            .count();
        assert!((64..=130).contains(&taken), "{taken}");
        tokio::time::advance(BURST).await;
        assert!(budget.try_take(&line(16_384)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_at_the_allowed_rate() {
        let budget = Budget::default();
        let start = Instant::now();
        for _ in 0..640 {
            budget.take(&line(16_384)).await;
        }
        let elapsed = start.elapsed();
        assert!(elapsed > Duration::from_secs(8), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(11), "{elapsed:?}");
    }

    #[test]
    fn a_line_is_cut() {
        let mut long = line(1 << 20);
        let attr = LogAttr {
            key: "k".into(),
            value: "v".repeat(200_000),
        };
        long.attrs = vec![attr; 100];
        bound_line(&mut long);
        assert_eq!((long.data.len(), long.attrs.len()), (MAX_LINE_BYTES, 0));
    }
}
