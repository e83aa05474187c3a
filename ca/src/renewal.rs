//! When a node renews its certificate, and how long it waits after a failure.

use std::time::Duration;

use time::OffsetDateTime;

/// First wait after a failed renewal (spec/pki.md §1).
const BACKOFF_BASE: Duration = Duration::from_secs(5);
/// What is added, doubled with each further failure.
const BACKOFF_FACTOR: Duration = Duration::from_secs(5);
/// The longest wait.
const BACKOFF_MAX: Duration = Duration::from_secs(60 * 60);

/// The time at which a certificate is to be renewed: a whole number of minutes after
/// `not_before`, between 50 and 80 % of its whole span, chosen by `random`.
///
/// The span includes the backdate, so a very short-lived certificate may be due at once: the
/// result can lie in the past, which means now. Never before `not_before`, whatever the input
/// (spec/pki.md §8.1).
pub fn renewal_time(
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    random: u64,
) -> OffsetDateTime {
    let minutes = u64::try_from((not_after - not_before).whole_minutes()).unwrap_or(0);
    let lower = minutes / 2;
    let upper = minutes * 4 / 5;
    let after = match upper.checked_sub(lower) {
        None | Some(0) => lower,
        Some(window) => lower + random % window,
    };
    let after = time::Duration::minutes(i64::try_from(after).unwrap_or(i64::MAX / 60));
    not_before.checked_add(after).unwrap_or(not_after)
}

/// How long to wait after `failures` failed renewals in a row: chosen by `random` from
/// 0 up to, not including, `min(5 s + 5 s × 2^(failures − 1), 1 h)`; nothing after no failure
/// (spec/pki.md §8.1).
pub fn renewal_backoff(failures: u32, random: u64) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let growth = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
    let ceiling = BACKOFF_FACTOR
        .saturating_mul(growth)
        .saturating_add(BACKOFF_BASE);
    let ceiling = ceiling.min(BACKOFF_MAX).as_millis() as u64; // at most an hour: fits
    Duration::from_millis(random % ceiling)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn after(span: time::Duration, random: u64) -> time::Duration {
        renewal_time(START, START + span, random) - START
    }

    #[test]
    fn a_span_of_no_or_negative_length_is_due_at_once() {
        assert_eq!(after(time::Duration::ZERO, 7), time::Duration::ZERO);
        assert_eq!(after(-time::Duration::HOUR, 7), time::Duration::ZERO);
    }

    #[test]
    fn a_three_minute_certificate_is_due_after_one_minute() {
        for random in [0, 1, u64::MAX] {
            assert_eq!(
                after(time::Duration::minutes(3), random),
                time::Duration::MINUTE
            );
        }
    }

    #[test]
    fn the_default_certificate_is_due_between_half_and_four_fifths() {
        let span = time::Duration::hours(2161);
        assert_eq!(after(span, 0), time::Duration::minutes(2161 * 30));
        let window = 2161 * 48 - 2161 * 30;
        assert_eq!(
            after(span, window - 1),
            time::Duration::minutes(2161 * 48 - 1)
        );
        assert_eq!(after(span, window), time::Duration::minutes(2161 * 30));
    }

    #[test]
    fn the_wait_grows_to_an_hour() {
        assert_eq!(renewal_backoff(0, u64::MAX), Duration::ZERO);
        let longest = |failures| renewal_backoff(failures, most_below(failures));
        assert_eq!(longest(1), Duration::from_millis(9_999));
        assert_eq!(longest(2), Duration::from_millis(14_999));
        assert_eq!(longest(3), Duration::from_millis(24_999));
        assert_eq!(longest(40), Duration::from_millis(3_599_999));
        assert_eq!(longest(u32::MAX), Duration::from_millis(3_599_999));
    }

    fn most_below(failures: u32) -> u64 {
        let growth = 2u64.saturating_pow(failures - 1);
        growth
            .saturating_mul(5_000)
            .saturating_add(5_000)
            .min(3_600_000)
            - 1
    }

    proptest! {
        #[test]
        fn renewal_lies_in_whole_minutes_within_the_window(
            minutes in 10i64..6_000_000, random: u64,
        ) {
            let span = time::Duration::minutes(minutes);
            let after = after(span, random);
            prop_assert_eq!(after.whole_seconds() % 60, 0);
            prop_assert!(after.whole_minutes() >= minutes / 2);
            prop_assert!(after.whole_minutes() < minutes * 4 / 5);
        }

        #[test]
        fn nothing_panics(from: i32, to: i32, failures: u32, random: u64) {
            let at = |secs: i32| START + time::Duration::seconds(secs.into());
            prop_assert!(renewal_time(at(from), at(to), random) >= at(from));
            prop_assert!(renewal_backoff(failures, random) < BACKOFF_MAX);
        }
    }
}
