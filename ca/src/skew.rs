//! Words for clocks that disagree.

use time::{Duration, OffsetDateTime};

use crate::BACKDATE;

/// What to tell the operator when this host's clock and a peer's differ by more than the
/// backdate: which way and by how much. `None` while they agree well enough.
pub fn describe_skew(local_now: OffsetDateTime, remote_now: OffsetDateTime) -> Option<String> {
    let ahead = local_now - remote_now;
    if ahead.unsigned_abs() <= BACKDATE {
        return None;
    }
    Some(format!(
        "this host's clock is {} {} the manager's ({} here, {} there), and at most {} is \
         tolerated; set the clock of the host that is wrong, then try again",
        spell(ahead),
        if ahead.is_positive() {
            "ahead of"
        } else {
            "behind"
        },
        stamp(local_now),
        stamp(remote_now),
        spell(Duration::try_from(BACKDATE).unwrap_or(Duration::HOUR)),
    ))
}

/// What to tell the operator when a manager's certificate is not valid by this host's clock.
///
/// The manager's own time is not known from a certificate alone; it is at least `not_before`
/// plus the backdate, and less than `not_after` unless the certificate really has expired.
/// `None` while `local_now` lies within the validity.
pub fn describe_validity_skew(
    local_now: OffsetDateTime,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Option<String> {
    if local_now < not_before {
        let signed = not_before.checked_add(Duration::HOUR).unwrap_or(not_before);
        return Some(format!(
            "this host's clock is at least {} behind the manager's: it says {}, and the manager \
             signed its certificate at {}; set this host's clock, then try again",
            spell(signed - local_now),
            stamp(local_now),
            stamp(signed),
        ));
    }
    if local_now > not_after {
        return Some(format!(
            "the manager's certificate ended at {}, {} ago by this host's clock ({}): either this \
             host's clock is ahead by that much or the certificate has expired; set this host's \
             clock, or restart the manager so that it renews",
            stamp(not_after),
            spell(local_now - not_after),
            stamp(local_now),
        ));
    }
    None
}

/// What to tell the operator when a cluster's root is not valid yet by this host's clock. How
/// far a root was backdated is not known: an hour by ours, five minutes by a stock manager.
/// `None` while it is valid.
pub fn describe_root_skew(local_now: OffsetDateTime, not_before: OffsetDateTime) -> Option<String> {
    (local_now < not_before).then(|| {
        format!(
            "this host's clock is at least {} behind the cluster's: it says {}, and the cluster's \
             root certificate is valid from {}; set this host's clock, then try again",
            spell(not_before - local_now),
            stamp(local_now),
            stamp(not_before),
        )
    })
}

/// What to tell the operator of a manager whose clock lies before `newest`, the newest time that
/// its cluster has on record. `None` while it lies less than the backdate before it.
pub fn describe_set_back(local_now: OffsetDateTime, newest: OffsetDateTime) -> Option<String> {
    let behind = newest - local_now;
    (behind > BACKDATE).then(|| {
        format!(
            "this manager's clock is {} behind what the swarm has on record ({} here, {} there), \
             in which time it signs no certificates; set the clock, or restart the daemon if it is \
             right",
            spell(behind),
            stamp(local_now),
            stamp(newest),
        )
    })
}

/// Hours and minutes below two days, days and hours above.
pub(crate) fn spell(span: Duration) -> String {
    let minutes = span.unsigned_abs().as_secs() / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60, minutes % 60);
    if days >= 2 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {minutes} min")
    } else {
        format!("{minutes} min")
    }
}

/// A time as `2026-11-20T07:00:00Z`.
pub(crate) fn stamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-20 07:00 UTC);

    #[test]
    fn says_which_way_and_how_much() {
        let ahead = describe_skew(NOW + Duration::minutes(150), NOW).unwrap();
        assert!(
            ahead.contains("2 h 30 min ahead of the manager's"),
            "{ahead}"
        );
        assert!(ahead.contains("2026-11-20T09:30:00Z here"), "{ahead}");
        let behind = describe_skew(NOW - Duration::days(3), NOW).unwrap();
        assert!(behind.contains("3 d 0 h behind the manager's"), "{behind}");
    }

    #[test]
    fn an_hour_is_tolerated() {
        assert_eq!(describe_skew(NOW + Duration::HOUR, NOW), None);
        assert_eq!(describe_skew(NOW, NOW + Duration::HOUR), None);
        assert!(describe_skew(NOW, NOW + Duration::HOUR + Duration::SECOND).is_some());
    }

    #[test]
    fn a_manager_that_lives_in_the_past_is_told() {
        assert_eq!(describe_set_back(NOW, NOW - Duration::days(9)), None);
        assert_eq!(describe_set_back(NOW, NOW + BACKDATE), None);
        let said = describe_set_back(NOW, NOW + Duration::days(3)).unwrap();
        assert!(said.contains("3 d 0 h behind"), "{said}");
        assert!(said.contains("2026-11-23T07:00:00Z there"), "{said}");
    }

    #[test]
    fn a_root_tells_no_more_than_it_knows() {
        assert_eq!(describe_root_skew(NOW, NOW), None);
        let behind = describe_root_skew(NOW - Duration::minutes(175), NOW).unwrap();
        assert!(behind.contains("at least 2 h 55 min behind"), "{behind}");
    }

    #[test]
    fn a_certificate_tells_the_direction() {
        let (from, to) = (NOW, NOW + Duration::days(90));
        assert_eq!(describe_validity_skew(NOW, from, to), None);
        let behind = describe_validity_skew(NOW - Duration::HOUR, from, to).unwrap();
        assert!(behind.contains("at least 2 h 0 min behind"), "{behind}");
        let ahead = describe_validity_skew(to + Duration::days(5), from, to).unwrap();
        assert!(ahead.contains("5 d 0 h ago"), "{ahead}");
    }
}
