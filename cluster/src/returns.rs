//! What is on record of nodes whose certificates count no more, and how long it counts.
//!
//! Whether a node may return is decided in `waxseal_ca::reclaim`.

use std::time::Duration;

use prost_types::Timestamp;

use crate::{
    feature::is_ours,
    objects::{Cluster, Node, NodeState, PendingReturn, PossibleClone},
    state::State,
    timestamps::{date_time, instant},
};

/// The cluster's feature level from which on returns are on record.
pub const RETURNS_LEVEL: u32 = 3;

/// For how long after its certificate stopped counting a node returns by itself, unless the
/// operator said otherwise: 30 days.
///
/// A certificate that was not renewed has at least a fifth of its 90 days left, so that a host
/// is gone for seven weeks or more when this ends: longer than a repair or a holiday takes. A
/// disk that was thrown away is of use to its finder for as long, which is what a longer window
/// would cost.
pub const DEFAULT_RETURN_WINDOW: Duration = Duration::from_secs(30 * DAY_SECS);
/// The longest window, as long as no certificate lives: a hundred years.
pub const MAX_RETURN_WINDOW: Duration = Duration::from_secs(100 * 365 * DAY_SECS);
/// For how long after it last asked a node is shown as waiting for an operator.
pub const PENDING_RETURN_LIFE: Duration = Duration::from_secs(7 * DAY_SECS);
/// For how long after it was last seen a possible clone is shown.
pub const CLONE_LIFE: Duration = Duration::from_secs(30 * DAY_SECS);
/// Nodes that wait for an operator at once: what a person looks through.
pub const PENDING_RETURNS: usize = 256;
/// For how long an operator's approval counts.
pub const APPROVAL_LIFE: Duration = Duration::from_secs(DAY_SECS);

const DAY_SECS: u64 = 24 * 60 * 60;

/// Whether all managers keep what returns put on record.
pub fn are_on_record(state: &State) -> bool {
    let level = |cluster: &std::sync::Arc<Cluster>| cluster.feature_level;
    state.cluster().map_or(0, level) >= RETURNS_LEVEL
}

/// For how long after its certificate stopped counting a node returns by itself; zero is never.
pub fn return_window(cluster: &Cluster) -> Duration {
    let window = cluster.return_window;
    window
        .and_then(|window| Duration::try_from(window).ok())
        .unwrap_or(DEFAULT_RETURN_WINDOW)
}

/// The request of a node that waits for an operator, unless it has not asked for long.
pub fn pending_return<'n>(node: &'n Node, now: &Timestamp) -> Option<&'n PendingReturn> {
    let life = i64::try_from(PENDING_RETURN_LIFE.as_secs()).unwrap_or(i64::MAX);
    let is_live = |pending: &&PendingReturn| {
        let asked = pending.asked_at.as_ref();
        asked.is_some_and(|asked| asked.seconds.saturating_add(life) > now.seconds)
    };
    node.pending_return.as_ref().filter(is_live)
}

/// Who presented a certificate of a node that was replaced, unless that was long ago.
pub fn possible_clone<'n>(node: &'n Node, now: &Timestamp) -> Option<&'n PossibleClone> {
    let life = i64::try_from(CLONE_LIFE.as_secs()).unwrap_or(i64::MAX);
    let is_live = |clone: &&PossibleClone| {
        let at = clone.at.as_ref();
        at.is_some_and(|at| at.seconds.saturating_add(life) > now.seconds)
    };
    node.possible_clone.as_ref().filter(is_live)
}

/// Whether an operator lets the holder of this key return as this node now.
pub fn is_approved(node: &Node, public_key_digest: &[u8], now: &Timestamp) -> bool {
    node.return_approval.as_ref().is_some_and(|approval| {
        let counts = |until| instant(until) > instant(now);
        approval.public_key_digest == public_key_digest
            && approval.until.as_ref().is_some_and(counts)
    })
}

/// Whether a certificate of a node is one that it may return with: the newest, or the one of
/// its latest session while nobody has seen the newest in use.
pub fn may_return_with(node: &Node, serial: &[u8]) -> bool {
    let newest = node.certificate.as_ref().map(|newest| &newest.serial);
    let in_use = node.in_use.as_ref().map(|in_use| &in_use.serial);
    !serial.is_empty()
        && [newest, in_use]
            .into_iter()
            .flatten()
            .any(|known| known == serial)
}

/// What an operator should know of a node whose certificate counts no more, or may be in two
/// places, and the command that helps; nothing of a node that is well.
pub fn standing(node: &Node, cluster: &Cluster, now: &Timestamp) -> Option<String> {
    let copied = possible_clone(node, now).map(|clone| {
        let addr = &clone.addr;
        format!(
            "a certificate of it that was replaced was presented from {addr}, so that it may have \
             been copied: see `waxseal node returns`"
        )
    });
    match (copied, absence(node, cluster, now)) {
        (Some(copied), Some(absence)) => Some(format!("{copied}; {absence}")),
        (copied, absence) => copied.or(absence),
    }
}

/// What stands between a node and its session, as far as its certificate does.
fn absence(node: &Node, cluster: &Cluster, now: &Timestamp) -> Option<String> {
    let id = &node.id;
    if let Some(pending) = pending_return(node, now) {
        let (addr, reason) = (&pending.addr, &pending.reason);
        return Some(format!(
            "asks from {addr} to be let back in ({reason}): run `waxseal node approve {id}`"
        ));
    }
    let state = node.status.as_ref().map(|status| status.state());
    if state == Some(NodeState::Ready) {
        return None;
    }
    let why = why_away(node, cluster, now)?;
    Some(match (is_ours(node), return_window(cluster).is_zero()) {
        (false, _) => format!(
            "{why}, and a Docker Engine cannot prove itself anew: run `docker swarm leave` on it, \
             join it with `docker swarm join-token worker`, then remove this record with `docker \
             node rm {id}`"
        ),
        (true, false) => format!("{why}: it proves itself with its key when it is back"),
        (true, true) => {
            format!("{why}: once it is back, it waits for `waxseal node approve {id}`")
        }
    })
}

/// Why the certificate that a node holds does not count.
fn why_away(node: &Node, cluster: &Cluster, now: &Timestamp) -> Option<String> {
    let certificate = node.certificate.as_ref();
    let ended = certificate.and_then(|certificate| certificate.not_after.as_ref());
    if let Some(ended) = ended.filter(|ended| instant(ended) < instant(now)) {
        let day = date_time(ended).map_or_else(String::new, |at| format!(" on {}", at.date()));
        return Some(format!("its certificate expired{day}"));
    }
    let root = cluster.root_ca.as_ref()?;
    let held = node.description.as_ref()?.tls_info.as_ref()?;
    let missed = !held.trust_root.is_empty()
        && held.trust_root != root.ca_cert
        && root.root_rotation.is_none();
    missed.then(|| "it was away when the root was rotated".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{
            Certificate, NodeDescription, NodeRole, NodeStatus, NodeTlsInfo, RootCa, RootRotation,
        },
        testing::{at, describe, node},
    };

    const NOW: Timestamp = Timestamp {
        seconds: 1_000,
        nanos: 0,
    };

    fn cluster() -> Cluster {
        Cluster {
            root_ca: Some(RootCa {
                ca_cert: b"present".to_vec(),
                ..RootCa::default()
            }),
            ..Cluster::default()
        }
    }

    fn down(plugins: &[(&str, &str)], trust: &[u8], not_after: i64) -> Node {
        let mut down = node("n1", NodeRole::Worker);
        down.description = Some(NodeDescription {
            tls_info: Some(NodeTlsInfo {
                trust_root: trust.to_vec(),
                ..NodeTlsInfo::default()
            }),
            ..NodeDescription::default()
        });
        describe(&mut down, plugins);
        down.status = Some(NodeStatus {
            state: NodeState::Down.into(),
            ..NodeStatus::default()
        });
        down.certificate = Some(Certificate {
            not_after: Some(at(not_after)),
            ..Certificate::default()
        });
        down
    }

    fn told(node: &Node) -> String {
        standing(node, &cluster(), &NOW).unwrap_or_default()
    }

    #[test]
    fn nodes_that_are_well_or_only_down_are_told_nothing_of() {
        assert_eq!(told(&down(&[], b"present", 2_000)), "");
        assert_eq!(told(&down(&[], b"", 2_000)), "");
        let mut ready = down(&[], b"former", 10);
        ready.status.as_mut().unwrap().set_state(NodeState::Ready);
        assert_eq!(told(&ready), "");
        let mut rotating = cluster();
        let root = rotating.root_ca.as_mut().unwrap();
        root.root_rotation = Some(RootRotation::default());
        let before = down(&[], b"former", 2_000);
        assert_eq!(standing(&before, &rotating, &NOW), None);
    }

    #[test]
    fn engines_leave_and_join_and_ours_prove_themselves() {
        for (trust, not_after, why) in [
            (&b"present"[..], 10, "expired on 1970-01-01"),
            (b"former", 2_000, "away when the root was rotated"),
        ] {
            let engine = told(&down(&[("Network", "host")], trust, not_after));
            assert!(engine.contains(why), "{engine}");
            assert!(engine.contains("docker swarm leave"), "{engine}");
            let ours = told(&down(&[("Waxseal", "host")], trust, not_after));
            assert!(ours.contains(why) && ours.contains("its key"), "{ours}");
            assert!(!ours.contains("leave"), "{ours}");
        }
    }

    #[test]
    fn a_clone_is_told_first_and_not_for_ever() {
        let mut noted = down(&[("Waxseal", "host")], b"former", 10);
        noted.pending_return = Some(PendingReturn {
            addr: "192.0.2.1".into(),
            asked_at: Some(NOW),
            ..PendingReturn::default()
        });
        assert!(told(&noted).contains("waxseal node approve n1"));
        noted.possible_clone = Some(PossibleClone {
            addr: "192.0.2.2".into(),
            at: Some(NOW),
            ..PossibleClone::default()
        });
        let both = told(&noted);
        let (clone, pending) = (both.find("192.0.2.2"), both.find("192.0.2.1"));
        assert!(clone.is_some() && clone < pending, "{both}");
        noted.possible_clone.as_mut().unwrap().at = Some(at(1_000 - 30 * 86_400));
        assert!(!told(&noted).contains("192.0.2.2"));
    }
}
