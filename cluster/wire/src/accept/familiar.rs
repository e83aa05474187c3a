//! Where members connected from of late: a flood from elsewhere does not keep them out.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use tokio::time::Instant;

use super::crowd::Group;

/// How long an address stays familiar without a connection of its member: nodes keep
/// one open, and one that was away for longer queues with the others.
const FAMILIAR_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Most nodes whose address is kept; more than a cluster has in practice.
const MAX_NODES: usize = 16_384;

/// The last address of each member. A member has one place here however many
/// addresses it comes from, so that none pushes others out.
#[derive(Debug, Default)]
pub(super) struct Familiar {
    by_node: HashMap<String, (Group, Instant)>,
    /// How many nodes were last seen there, and the latest of them.
    groups: HashMap<Group, (usize, Instant)>,
}

impl Familiar {
    /// Notes from where a member connected.
    pub(super) fn note(&mut self, node_id: &str, address: IpAddr, now: Instant) {
        if self.by_node.len() >= MAX_NODES && !self.by_node.contains_key(node_id) {
            return;
        }
        self.forget(node_id);
        let group = Group::of(address);
        self.by_node.insert(node_id.to_owned(), (group, now));
        let (nodes, latest) = self.groups.entry(group).or_insert((0, now));
        *nodes += 1;
        *latest = now.max(*latest);
    }

    /// Drops what is known of a node that is no member any more.
    pub(super) fn forget(&mut self, node_id: &str) {
        let Some((group, _)) = self.by_node.remove(node_id) else {
            return;
        };
        if let Some((nodes, _)) = self.groups.get_mut(&group) {
            *nodes -= 1;
            if *nodes == 0 {
                self.groups.remove(&group);
            }
        }
    }

    /// Whether a member connected from this address of late.
    pub(super) fn knows(&self, address: IpAddr, now: Instant) -> bool {
        self.groups
            .get(&Group::of(address))
            .is_some_and(|(_, latest)| now.saturating_duration_since(*latest) < FAMILIAR_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn only_the_last_address_of_a_member_counts() {
        let now = Instant::now();
        let mut familiar = Familiar::default();
        assert!(!familiar.knows(HERE, now));
        familiar.note("a", HERE, now);
        familiar.note("b", HERE, now);
        familiar.note("a", THERE, now);
        assert!(familiar.knows(HERE, now) && familiar.knows(THERE, now));
        familiar.note("b", THERE, now);
        assert!(!familiar.knows(HERE, now));
        familiar.forget("a");
        assert!(familiar.knows(THERE, now));
        familiar.forget("b");
        familiar.forget("b");
        assert!(!familiar.knows(THERE, now));
        assert!(familiar.groups.is_empty());
    }

    #[test]
    fn who_was_away_for_long_is_not_known_any_more() {
        let now = Instant::now();
        let mut familiar = Familiar::default();
        familiar.note("a", HERE, now);
        assert!(familiar.knows(HERE, now + FAMILIAR_FOR - Duration::from_secs(1)));
        assert!(!familiar.knows(HERE, now + FAMILIAR_FOR));
    }

    #[test]
    fn the_table_is_bounded() {
        let now = Instant::now();
        let mut familiar = Familiar::default();
        for node in 0..MAX_NODES {
            familiar.note(&node.to_string(), HERE, now);
        }
        familiar.note("one more", THERE, now);
        assert!(!familiar.knows(THERE, now));
        familiar.note("0", THERE, now);
        assert!(familiar.knows(THERE, now));
        assert_eq!(familiar.by_node.len(), MAX_NODES);
    }
}
