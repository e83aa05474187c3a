//! The cluster object: its first command, and changes of settings, keys and tokens.

use super::{Effect, check_version_if_given};
use crate::{
    change::Refusal,
    meta::Stamp,
    objects::{Bootstrap, Cluster, UpdateCluster},
    state::State,
};

/// Past roots on record; a way from one to the present root is as long at most.
pub const MAX_PAST_ROOTS: usize = 16;

impl State {
    /// The first command of a cluster: it and its first manager appear together.
    pub(super) fn bootstrap(&mut self, op: Bootstrap, stamp: &Stamp) -> Result<Effect, Refusal> {
        if self.cluster.is_some() {
            return Err(Refusal::precondition("the cluster exists already"));
        }
        let mut cluster = op.cluster.ok_or(Refusal::missing("cluster"))?;
        check_whole(&cluster)?;
        let node = op.node.ok_or(Refusal::missing("node"))?;
        let node = self.prepare_node(node, stamp)?;
        cluster.meta = stamp.created();
        let founding = node.clone();
        let id = node.id.clone();
        let changes = vec![self.set_cluster(cluster), self.set_node(&id, Some(node))];
        self.note_founding(&founding, stamp);
        Ok(changes.into())
    }

    pub(super) fn update_cluster(
        &mut self,
        op: UpdateCluster,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let mut new = op.cluster.ok_or(Refusal::missing("cluster"))?;
        let old = self.cluster.as_deref().ok_or(Refusal::Stale)?;
        if new.id != old.id {
            return Err(Refusal::not_found("cluster", &new.id));
        }
        check_whole(&new)?;
        check_version_if_given(op.expected_version, old.meta.as_ref())?;
        check_counters(old, &new)?;
        new.meta = stamp.updated(old.meta.as_ref());
        Ok(self.set_cluster(new).into())
    }
}

/// The parts that readers of the state rely on.
fn check_whole(cluster: &Cluster) -> Result<(), Refusal> {
    if cluster.id.is_empty() {
        return Err(Refusal::missing("cluster id"));
    }
    if cluster.spec.is_none() {
        return Err(Refusal::missing("cluster spec"));
    }
    if cluster.root_ca.is_none() {
        return Err(Refusal::missing("root CA"));
    }
    if cluster.past_roots.len() > MAX_PAST_ROOTS {
        return Err(Refusal::invalid("the record holds 16 past roots at most"));
    }
    Ok(())
}

/// What only grows: a lower one could bring a retired key or binary back.
fn check_counters(old: &Cluster, new: &Cluster) -> Result<(), Refusal> {
    let key = |cluster: &Cluster| cluster.unlock_key.clone().unwrap_or_default();
    let (old_key, new_key) = (key(old), key(new));
    if new_key.epoch < old_key.epoch
        || (new_key.epoch == old_key.epoch && new_key.key != old_key.key)
    {
        return Err(Refusal::invalid(
            "the unlock key changes without a higher epoch",
        ));
    }
    if new.feature_level < old.feature_level {
        return Err(Refusal::invalid("the cluster's feature level only rises"));
    }
    if new.incarnation < old.incarnation {
        return Err(Refusal::invalid("the cluster's incarnation only rises"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        meta::version_of,
        objects::{UnlockKeyRecord, command::Op},
        testing::{bootstrapped, run},
    };

    fn update(state: &mut State, cluster: Cluster, version: u64) -> Result<u64, Refusal> {
        let op = Op::UpdateCluster(UpdateCluster {
            cluster: Some(cluster),
            expected_version: version,
        });
        run(state, op).map(|applied| applied.version)
    }

    fn current(state: &State) -> Cluster {
        state.cluster().unwrap().as_ref().clone()
    }

    #[test]
    fn another_id_a_stale_version_and_missing_parts_are_refused() {
        let mut state = bootstrapped();
        let mut other = current(&state);
        other.id = "other".into();
        let refusal = update(&mut state, other, 0).unwrap_err();
        assert!(matches!(
            refusal,
            Refusal::NotFound {
                kind: "cluster",
                ..
            }
        ));
        let same = current(&state);
        for version in [2, u64::MAX] {
            assert_eq!(
                update(&mut state, same.clone(), version),
                Err(Refusal::Stale)
            );
        }
        let mut hollow = current(&state);
        hollow.root_ca = None;
        assert!(matches!(
            update(&mut state, hollow, 0),
            Err(Refusal::Invalid { .. })
        ));
    }

    #[test]
    fn a_retired_unlock_key_does_not_come_back() {
        let mut state = bootstrapped();
        let with_key = |state: &State, key: &[u8], epoch| {
            let mut cluster = current(state);
            cluster.unlock_key = Some(UnlockKeyRecord {
                key: key.into(),
                epoch,
            });
            cluster
        };
        let first = with_key(&state, b"first", 1);
        assert_eq!(update(&mut state, first.clone(), 1), Ok(2));
        let swapped = with_key(&state, b"second", 1);
        assert!(update(&mut state, swapped, 0).is_err());
        let second = with_key(&state, b"second", 2);
        assert_eq!(update(&mut state, second, 0), Ok(3));
        assert!(update(&mut state, first, 0).is_err());
        let mut none = current(&state);
        none.unlock_key = None;
        assert!(update(&mut state, none, 0).is_err());
        let off = with_key(&state, b"", 3);
        assert_eq!(update(&mut state, off, 0), Ok(4));
    }

    #[test]
    fn feature_level_and_incarnation_only_rise() {
        let mut state = bootstrapped();
        let mut lower = current(&state);
        lower.feature_level = 0;
        assert!(update(&mut state, lower, 0).is_err());
        let mut lower = current(&state);
        lower.incarnation = 0;
        assert!(update(&mut state, lower, 0).is_err());
    }

    #[test]
    fn an_update_keeps_the_time_of_creation() {
        let mut state = bootstrapped();
        let mut cluster = current(&state);
        cluster.meta = None;
        assert_eq!(update(&mut state, cluster, 1), Ok(2));
        let cluster = current(&state);
        assert_eq!(version_of(cluster.meta.as_ref()), 2);
        assert!(cluster.meta.unwrap().created_at.is_some());
    }
}
