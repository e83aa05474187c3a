//! Node ids that were removed and must not come back while a certificate of
//! theirs could still be valid.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::Timestamp;

use crate::{objects::Ban, timestamps::instant};

/// The bans of a state, found by node id and by when they end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bans {
    by_node: BTreeMap<String, Ban>,
    by_end: BTreeSet<((i64, i32), String)>,
}

impl Bans {
    pub(crate) fn get(&self, node_id: &str) -> Option<&Ban> {
        self.by_node.get(node_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Ban> {
        self.by_node.values()
    }

    /// Whether the node is banned at `now`, dropped bans or not.
    pub(crate) fn holds(&self, node_id: &str, now: &Timestamp) -> bool {
        self.get(node_id).is_some_and(|ban| {
            ban.expires_at
                .as_ref()
                .is_none_or(|end| instant(end) > instant(now))
        })
    }

    /// Adds a ban. One that stands already is only ever prolonged.
    pub(crate) fn insert(&mut self, mut ban: Ban) {
        if let Some(old) = self.by_node.get(&ban.node_id) {
            ban.expires_at = match (old.expires_at, ban.expires_at) {
                (Some(old), Some(new)) => Some(crate::timestamps::later(old, new)),
                _ => None,
            };
            if let Some(end) = &old.expires_at {
                self.by_end.remove(&(instant(end), ban.node_id.clone()));
            }
        }
        if let Some(end) = &ban.expires_at {
            self.by_end.insert((instant(end), ban.node_id.clone()));
        }
        self.by_node.insert(ban.node_id.clone(), ban);
    }

    /// Drops the bans that have ended at `now`.
    pub(crate) fn expire(&mut self, now: &Timestamp) {
        while self
            .by_end
            .first()
            .is_some_and(|(end, _)| *end <= instant(now))
        {
            if let Some((_, node_id)) = self.by_end.pop_first() {
                self.by_node.remove(&node_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;

    fn ban(end: Option<i64>) -> Ban {
        Ban {
            node_id: "n".into(),
            expires_at: end.map(at),
        }
    }

    #[test]
    fn a_second_ban_only_prolongs() {
        for (first, second, end) in [
            (Some(5), Some(9), Some(9)),
            (Some(9), Some(5), Some(9)),
            (Some(5), None, None),
            (None, Some(5), None),
        ] {
            let mut bans = Bans::default();
            bans.insert(ban(first));
            bans.insert(ban(second));
            assert_eq!(bans.get("n"), Some(&ban(end)));
            bans.expire(&at(8));
            assert_eq!(bans.get("n"), Some(&ban(end)));
        }
    }

    #[test]
    fn a_ban_ends_at_its_second() {
        let mut bans = Bans::default();
        bans.insert(ban(Some(5)));
        assert!(bans.holds("n", &at(4)));
        assert!(!bans.holds("n", &at(5)));
        bans.expire(&at(5));
        assert_eq!(bans.iter().count(), 0);
    }
}
