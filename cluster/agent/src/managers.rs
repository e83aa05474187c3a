//! The managers a node knows.

use std::collections::HashMap;

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

/// What this node found out about managers itself, by their addresses.
///
/// Each failure in a row halves how likely a manager is to be chosen; a success makes
/// good for all. A manager that comes back is found again, as none is ever left out.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    failures: HashMap<String, u32>,
}

/// Beyond so many failures a manager is no less likely to be chosen.
const FAILURE_LIMIT: u32 = 6;
/// How finely weights are told apart: [`FAILURE_LIMIT`] halvings of one leave one.
const FINENESS: u64 = 1 << FAILURE_LIMIT;

impl Observed {
    pub(crate) fn failed(&mut self, address: &str) {
        let failures = self.failures.entry(address.to_owned()).or_default();
        *failures = failures.saturating_add(1).min(FAILURE_LIMIT);
    }

    pub(crate) fn served(&mut self, address: &str) {
        self.failures.remove(address);
    }

    /// Forgets managers that there are no more.
    pub(crate) fn retain(&mut self, managers: &[ManagerAddress]) {
        let is_known = |address: &String| managers.iter().any(|known| known.address == *address);
        self.failures.retain(|address, _| is_known(address));
    }

    /// How likely a manager is to be chosen, never 0.
    fn weight(&self, manager: &ManagerAddress, all_are_zero: bool) -> u64 {
        let said = match all_are_zero {
            true => 1,
            false => manager.weight.clamp(0, WEIGHT_LIMIT).unsigned_abs(),
        };
        let failures = self.failures.get(&manager.address).copied();
        (said * FINENESS) >> failures.unwrap_or(0)
    }

    /// A manager by weight; any of them if all weights are 0. Those that were `tried`
    /// are taken only if there is no other.
    pub(crate) fn choose<'m>(
        &self,
        managers: &'m [ManagerAddress],
        tried: &[String],
        random: u64,
    ) -> Option<&'m ManagerAddress> {
        let others: Vec<_> = managers
            .iter()
            .filter(|manager| !tried.contains(&manager.address))
            .collect();
        let candidates = match others.is_empty() {
            true => managers.iter().collect(),
            false => others,
        };
        let all_are_zero = candidates.iter().all(|manager| manager.weight <= 0);
        let weight = |manager: &ManagerAddress| self.weight(manager, all_are_zero);
        let total: u64 = candidates.iter().map(|manager| weight(manager)).sum();
        let mut point = random.checked_rem(total)?;
        candidates.into_iter().find(|manager| {
            let found = point < weight(manager);
            point = point.saturating_sub(weight(manager));
            found
        })
    }
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

    fn choose<'m>(
        managers: &'m [ManagerAddress],
        tried: &[&str],
        random: u64,
    ) -> Option<&'m ManagerAddress> {
        let tried: Vec<_> = tried.iter().map(|address| (*address).to_owned()).collect();
        Observed::default().choose(managers, &tried, random)
    }

    /// How often each is chosen when the random numbers go round evenly.
    fn shares(observed: &Observed, managers: &[ManagerAddress], rounds: u64) -> Vec<u64> {
        let count = |manager: &ManagerAddress| {
            let chosen = (0..rounds).filter(|random| {
                observed.choose(managers, &[], *random).unwrap().address == manager.address
            });
            chosen.count() as u64
        };
        managers.iter().map(count).collect()
    }

    #[test]
    fn choice_follows_weight() {
        let managers = [manager("a:1", 1), manager("b:1", 3)];
        let shares = shares(&Observed::default(), &managers, 4 * FINENESS);
        assert_eq!(shares, [FINENESS, 3 * FINENESS]);
    }

    #[test]
    fn failures_make_a_manager_less_likely_and_a_success_makes_good() {
        let managers = [manager("a:1", 10), manager("b:1", 10)];
        let mut observed = Observed::default();
        observed.failed("a:1");
        assert_eq!(
            shares(&observed, &managers, 15 * FINENESS),
            [5 * FINENESS, 10 * FINENESS]
        );
        for _ in 0..100 {
            observed.failed("a:1");
        }
        let [seldom, _] = shares(&observed, &managers, 10 * FINENESS + 10)[..] else {
            panic!()
        };
        assert_eq!(seldom, 10, "but it is found again");
        observed.served("a:1");
        assert_eq!(
            shares(&observed, &managers, 20 * FINENESS),
            [10 * FINENESS, 10 * FINENESS]
        );
        observed.failed("b:1");
        observed.retain(&managers[..1]);
        assert!(observed.failures.is_empty());
    }

    #[test]
    fn no_list_no_choice_and_weight_zero_is_still_a_choice() {
        assert_eq!(choose(&[], &[], 7), None);
        assert!(choose(&[manager("a:1", 0), manager("b:1", 0)], &[], 7).is_some());
        assert!(choose(&[manager("a:1", -5)], &[], 7).is_some());
    }

    #[test]
    fn those_that_were_tried_are_taken_only_when_there_is_no_other() {
        let both = [manager("a:1", 1), manager("b:1", 1)];
        for random in 0..4 {
            assert_eq!(choose(&both, &["a:1"], random).unwrap().address, "b:1");
            assert_eq!(choose(&both[..1], &["a:1"], random).unwrap().address, "a:1");
            assert!(choose(&both, &["a:1", "b:1"], random).is_some());
        }
    }
}
