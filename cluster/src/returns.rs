//! What is on record of nodes whose certificates count no more, and how long it counts.
//!
//! Whether a node may return is decided in `waxseal_ca::reclaim`.

use std::time::Duration;

use prost_types::Timestamp;

use crate::{
    objects::{Cluster, Node, PendingReturn},
    state::State,
    timestamps::instant,
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
