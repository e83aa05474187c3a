//! The managers a node knows.

use waxseal_wire::swarmkit::WeightedPeer;

/// How many managers are kept of a list.
const MANAGER_LIMIT: usize = 64;
/// The longest `host:port` that is kept.
const ADDRESS_LIMIT: usize = 512;
/// The greatest weight, as swarmkit bounds it.
const WEIGHT_LIMIT: i64 = 256;

/// A manager and how likely it is to be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerAddress {
    /// Its node id; empty while only its address is known.
    pub node_id: String,
    /// `host:port`.
    pub address: String,
    /// 0 to 256.
    pub weight: i64,
}

impl ManagerAddress {
    /// A manager of which only the address is known.
    pub fn from_address(address: impl Into<String>) -> ManagerAddress {
        ManagerAddress {
            node_id: String::new(),
            address: address.into(),
            weight: 1,
        }
    }
}

/// The usable entries of a manager's list; empty if there are none.
pub(crate) fn managers_of(peers: &[WeightedPeer]) -> Vec<ManagerAddress> {
    peers
        .iter()
        .filter_map(|entry| {
            let peer = entry.peer.as_ref()?;
            let usable = !peer.addr.is_empty() && peer.addr.len() <= ADDRESS_LIMIT;
            usable.then(|| ManagerAddress {
                node_id: peer.node_id.clone(),
                address: peer.addr.clone(),
                weight: entry.weight.clamp(0, WEIGHT_LIMIT),
            })
        })
        .take(MANAGER_LIMIT)
        .collect()
}

/// A manager by weight; any of them if all weights are 0. `avoid` is taken only if
/// there is no other.
pub(crate) fn choose<'m>(
    managers: &'m [ManagerAddress],
    avoid: Option<&str>,
    random: u64,
) -> Option<&'m ManagerAddress> {
    let others: Vec<_> = managers
        .iter()
        .filter(|manager| Some(manager.address.as_str()) != avoid)
        .collect();
    let candidates = if others.is_empty() {
        managers.iter().collect()
    } else {
        others
    };
    let weight = |manager: &ManagerAddress| manager.weight.clamp(0, WEIGHT_LIMIT).unsigned_abs();
    let total: u64 = candidates.iter().map(|manager| weight(manager)).sum();
    if total == 0 {
        let count = u64::try_from(candidates.len()).unwrap_or(u64::MAX);
        let index = random.checked_rem(count)?;
        return candidates.get(usize::try_from(index).ok()?).copied();
    }
    let mut point = random % total;
    candidates.into_iter().find(|manager| {
        let found = point < weight(manager);
        point = point.saturating_sub(weight(manager));
        found
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use waxseal_wire::swarmkit::Peer;

    fn manager(address: &str, weight: i64) -> ManagerAddress {
        ManagerAddress {
            weight,
            ..ManagerAddress::from_address(address)
        }
    }

    fn entry(address: &str, weight: i64) -> WeightedPeer {
        let peer = Peer {
            node_id: "m".to_owned(),
            addr: address.to_owned(),
        };
        WeightedPeer {
            peer: Some(peer),
            weight,
        }
    }

    #[test]
    fn entries_without_peer_or_address_are_left_out() {
        let list = [
            WeightedPeer {
                peer: None,
                weight: 1,
            },
            entry("", 1),
            entry("a:1", i64::MAX),
        ];
        let managers = managers_of(&list);
        assert_eq!(managers.len(), 1);
        assert_eq!(
            (managers[0].address.as_str(), managers[0].weight),
            ("a:1", 256)
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let list: Vec<_> = (0..1000)
            .map(|port| entry(&format!("a:{port}"), 1))
            .collect();
        assert_eq!(managers_of(&list).len(), MANAGER_LIMIT);
    }

    #[test]
    fn choice_follows_weight() {
        let managers = [manager("a:1", 1), manager("b:1", 3)];
        let chosen: Vec<_> = (0..4)
            .map(|random| choose(&managers, None, random).unwrap().address.as_str())
            .collect();
        assert_eq!(chosen, ["a:1", "b:1", "b:1", "b:1"]);
    }

    #[test]
    fn no_list_no_choice_and_weight_zero_is_still_a_choice() {
        assert_eq!(choose(&[], None, 7), None);
        assert!(choose(&[manager("a:1", 0), manager("b:1", 0)], None, 7).is_some());
        assert!(choose(&[manager("a:1", -5)], None, 7).is_some());
    }

    #[test]
    fn the_one_to_avoid_is_taken_only_alone() {
        let both = [manager("a:1", 1), manager("b:1", 1)];
        for random in 0..4 {
            assert_eq!(choose(&both, Some("a:1"), random).unwrap().address, "b:1");
            assert_eq!(
                choose(&both[..1], Some("a:1"), random).unwrap().address,
                "a:1"
            );
        }
    }
}
