//! Nodes: their records, what is observed of them, their removal.

use std::sync::Arc;

use super::{Effect, check_version_if_given};
use crate::{
    change::{Change, Refusal},
    feature::{ROTATION_LEVEL, described_level, is_ours},
    meta::Stamp,
    needs,
    objects::{
        Ban, CertificateInUse, CreateNode, Node, NodeObservation, NodeRole, NodeState, NodeStatus,
        ObserveNodes, Reachability, RemoveNode, TaskState, TaskStatus, UpdateNode,
    },
    plan::{desired_role, has_quorum},
    state::State,
    timestamps::later,
};

/// Shown as the status message of tasks whose node was removed.
const ORPHANED_MESSAGE: &str = "the task's node was removed from the cluster";

impl State {
    pub(super) fn create_node(&mut self, op: CreateNode, stamp: &Stamp) -> Result<Effect, Refusal> {
        let node = op.node.ok_or(Refusal::missing("node"))?;
        let asked = node.certificate.clone().unwrap_or_default();
        let mut node = self.prepare_node(node, stamp)?;
        let id = node.id.clone();
        self.check_serial(&id, &asked)?;
        let mut changes = self.reserve_use(&node, stamp)?;
        if let Some(certificate) = &mut node.certificate {
            certificate.source = None;
        }
        self.note_join(&node, &asked, stamp);
        changes.push(self.set_node(&id, Some(node)));
        Ok(changes.into())
    }

    /// A new node's record, checked and stamped.
    pub(super) fn prepare_node(&self, mut node: Node, stamp: &Stamp) -> Result<Node, Refusal> {
        if node.id.is_empty() {
            return Err(Refusal::missing("node id"));
        }
        if node.spec.is_none() {
            return Err(Refusal::missing("node spec"));
        }
        if self.nodes.contains_key(&node.id) {
            return Err(Refusal::NameTaken {
                kind: "node",
                name: node.id,
            });
        }
        if self.bans.holds(&node.id, &stamp.time) {
            return Err(Refusal::precondition(format!(
                "node {} was removed from the cluster and cannot return under this id; \
                 it must leave and join again",
                node.id
            )));
        }
        let (id, role) = (node.id.clone(), node.role);
        if let Some(certificate) = &mut node.certificate {
            certificate.cn = id;
            certificate.role = role;
            node.certified_until = certificate.not_after;
        }
        node.status.get_or_insert_default();
        node.ever_manager = node.role() == NodeRole::Manager;
        node.meta = stamp.created();
        Ok(node)
    }

    pub(super) fn update_node(&mut self, op: UpdateNode, stamp: &Stamp) -> Result<Effect, Refusal> {
        let old = self.existing_node(&op.node_id)?;
        let mut new = Node::clone(&old);
        if let Some(spec) = op.spec {
            new.spec = Some(spec);
        }
        match (wants_manager(&old), wants_manager(&new)) {
            (false, true) => self.check_promotion(&old)?,
            (true, false) => self.check_demotion(&old)?,
            _ => {}
        }
        check_version_if_given(op.expected_version, old.meta.as_ref())?;
        if let Some(role) = op.role {
            let role = NodeRole::try_from(role)
                .map_err(|_| Refusal::invalid("the node's role is unknown"))?;
            set_role(&mut new, role)?;
        }
        new.meta = stamp.updated(old.meta.as_ref());
        Ok(self.set_node(&op.node_id, Some(new)).into())
    }

    /// Whether a worker may be made a manager.
    fn check_promotion(&self, node: &Node) -> Result<(), Refusal> {
        let id = &node.id;
        if node.description.is_none() {
            return Err(Refusal::precondition(format!(
                "node {id} has not said yet what it can do; promote it once `docker node ls` \
                 shows it as Ready"
            )));
        }
        if !is_ours(node) {
            return Err(Refusal::precondition(format!(
                "node {id} is a Docker Engine, which can only be a worker of this cluster; it \
                 stays a worker"
            )));
        }
        let level = described_level(node).unwrap_or_default();
        let needed = self
            .cluster
            .as_ref()
            .map_or(0, |cluster| cluster.feature_level);
        if level < needed {
            return Err(Refusal::precondition(format!(
                "node {id} has feature level {level} and the managers of this cluster have \
                 {needed}; update waxseal on that node, then promote it"
            )));
        }
        Ok(())
    }

    /// Whether the others go on without this manager, as far as the record says who is
    /// reached; the loop that owns roles looks again before it takes the node out.
    fn check_demotion(&self, node: &Node) -> Result<(), Refusal> {
        let others = || {
            let nodes = self.nodes.values();
            nodes.filter(|other| other.id != node.id && wants_manager(other))
        };
        if !others().any(|other| other.manager_status.is_some()) {
            return Err(Refusal::precondition(
                "attempting to demote the last manager of the swarm",
            ));
        }
        if node.manager_status.is_none() {
            return Ok(());
        }
        let statuses = || others().filter_map(|other| other.manager_status.as_ref());
        let reachable = statuses()
            .filter(|status| status.leader || status.reachability() == Reachability::Reachable);
        if !has_quorum(reachable.count(), statuses().count()) {
            return Err(Refusal::precondition(
                "can't remove member from the raft: this would result in a loss of quorum",
            ));
        }
        Ok(())
    }

    /// Removes a node, bans its id and orphans its tasks.
    pub(super) fn remove_node(&mut self, op: RemoveNode, stamp: &Stamp) -> Result<Effect, Refusal> {
        let node = self.existing_node(&op.node_id)?;
        let id = op.node_id;
        if wants_manager(&node) || node.role() == NodeRole::Manager || node.manager_status.is_some()
        {
            return Err(Refusal::precondition(format!(
                "node {id} is a cluster manager and is a member of the raft cluster. \
                 It must be demoted to worker before removal"
            )));
        }
        let state = node.status.as_ref().map(|status| status.state());
        if state == Some(NodeState::Ready) && !op.force {
            return Err(Refusal::precondition(format!(
                "node {id} is not down and can't be removed"
            )));
        }
        self.forget_requests(&id);
        self.free_use(&id);
        let mut changes = vec![self.set_node(&id, None)];
        self.bans.insert(Ban {
            node_id: id.clone(),
            // Without a date there is no telling, and the ban stays.
            expires_at: op
                .ban_expires_at
                .map(|end| node.certified_until.map_or(end, |until| later(end, until))),
        });
        changes.extend(self.orphan_tasks(&id, stamp));
        Ok(changes.into())
    }

    /// Nobody will ever report on these tasks again.
    pub(super) fn orphan_tasks(&mut self, node_id: &str, stamp: &Stamp) -> Vec<Change> {
        let orphans: Vec<_> = self
            .tasks_of_node(node_id)
            .filter(|task| !needs::is_final(task))
            .map(Arc::clone)
            .collect();
        let orphaned = |task: &Arc<_>| {
            let mut task = crate::objects::Task::clone(task);
            task.status = Some(TaskStatus {
                timestamp: Some(stamp.time),
                applied_at: Some(stamp.time),
                message: ORPHANED_MESSAGE.into(),
                ..task.status.take().unwrap_or_default()
            });
            if let Some(status) = &mut task.status {
                status.set_state(TaskState::Orphaned);
            }
            task.meta = stamp.updated(task.meta.as_ref());
            task
        };
        orphans
            .iter()
            .map(orphaned)
            .map(|task| {
                let id = task.id.clone();
                self.set_task(&id, Some(task))
            })
            .collect()
    }

    /// Observations of nodes that are gone, and such as say nothing new, are skipped.
    pub(super) fn observe_nodes(&mut self, op: ObserveNodes, stamp: &Stamp) -> Effect {
        let mut effect = Effect::default();
        // Managers below that level do not know the field.
        let dated = self
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.feature_level >= ROTATION_LEVEL);
        for observation in op.nodes {
            if self.nodes.contains_key(&observation.node_id) {
                effect
                    .changes
                    .extend(self.note_arrival(&observation, stamp));
            }
            let seen = self
                .nodes
                .get(&observation.node_id)
                .and_then(|node| observe(node, observation, stamp, dated));
            match seen {
                Some(node) => {
                    let id = node.id.clone();
                    effect.changes.push(self.set_node(&id, Some(node)));
                }
                None => effect.skipped += 1,
            }
        }
        effect
    }

    pub(super) fn existing_node(&self, id: &str) -> Result<Arc<Node>, Refusal> {
        self.nodes
            .get(id)
            .map(Arc::clone)
            .ok_or_else(|| Refusal::not_found("node", id))
    }
}

fn wants_manager(node: &Node) -> bool {
    desired_role(node) == NodeRole::Manager
}

/// The wish may have changed since the role was planned.
fn set_role(node: &mut Node, role: NodeRole) -> Result<(), Refusal> {
    if desired_role(node) != role {
        return Err(Refusal::Stale);
    }
    match role {
        NodeRole::Manager => node.ever_manager = true,
        // It is no member of the Raft group: who makes it a worker saw to that.
        NodeRole::Worker => node.manager_status = None,
    }
    node.role = role.into();
    Ok(())
}

/// The node as now known, or nothing if it is known so already.
fn observe(node: &Node, observation: NodeObservation, stamp: &Stamp, dated: bool) -> Option<Node> {
    let mut new = node.clone();
    let state = |node: &Node| node.status.as_ref().map(NodeStatus::state);
    if let Some(mut description) = observation.description {
        // Decoded, it has room for more.
        if let Some(engine) = &mut description.engine {
            engine.plugins.shrink_to_fit();
        }
        new.description = Some(description);
    }
    if observation.status.is_some() {
        new.status = observation.status;
    }
    if dated && state(&new) != state(node) {
        new.state_since = Some(stamp.time);
    }
    if observation.manager_status.is_some() || observation.not_a_member {
        new.manager_status = observation.manager_status;
    }
    if observation.clock.is_some() {
        new.clock = observation.clock;
    }
    if observation.session_started {
        new.first_session_at.get_or_insert(stamp.time);
    }
    take_into_use(&mut new, &observation.session_serial, stamp);
    if new == *node {
        return None;
    }
    new.meta = stamp.updated(node.meta.as_ref());
    Some(new)
}

/// A session is held with the newest certificate: the one before it comes back no more.
fn take_into_use(node: &mut Node, serial: &[u8], stamp: &Stamp) {
    let Some(newest) = &node.certificate else {
        return;
    };
    let known = node.in_use.as_ref().map(|in_use| in_use.serial.as_slice());
    if serial.is_empty() || newest.serial != serial || known == Some(serial) {
        return;
    }
    node.in_use = Some(CertificateInUse {
        serial: serial.to_vec(),
        public_key_digest: newest.public_key_digest.clone(),
        since: Some(stamp.time),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        meta::version_of,
        objects::{
            Certificate, ManagerStatus, NodeDescription, NodeSpec, RequestCertificate,
            StoreCertificate, command::Op,
        },
        testing::{
            MANAGER, at, bootstrapped, command, create_worker, node, run, with_running_service,
        },
    };

    fn remove(id: &str, force: bool, ban_end: Option<i64>) -> Op {
        Op::RemoveNode(RemoveNode {
            node_id: id.into(),
            force,
            ban_expires_at: ban_end.map(at),
        })
    }

    fn observe_state(id: &str, state: NodeState) -> Op {
        Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: id.into(),
                status: Some(NodeStatus {
                    state: state.into(),
                    ..NodeStatus::default()
                }),
                session_started: true,
                ..NodeObservation::default()
            }],
        })
    }

    #[test]
    fn a_state_is_dated_from_when_it_changed() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        let since = |state: &State| state.node("w1").unwrap().state_since;
        assert_eq!(since(&state), None);
        for (second, seen, dated) in [
            (5, NodeState::Ready, 5),
            (6, NodeState::Ready, 5),
            (7, NodeState::Down, 7),
        ] {
            let op = observe_state("w1", seen);
            state.apply(command(second, op)).unwrap();
            assert_eq!(since(&state), Some(at(dated)));
        }
        // Where a manager may not know the field, none writes it.
        let mut older = bootstrapped();
        let mut cluster = crate::objects::Cluster::clone(older.cluster().unwrap());
        cluster.feature_level = ROTATION_LEVEL - 1;
        older.set_cluster(cluster);
        run(&mut older, create_worker("w1")).unwrap();
        run(&mut older, observe_state("w1", NodeState::Ready)).unwrap();
        assert_eq!(since(&older), None);
    }

    #[test]
    fn a_manager_is_not_removed() {
        let mut state = bootstrapped();
        for force in [false, true] {
            let refusal = run(&mut state, remove(MANAGER, force, None)).unwrap_err();
            assert_eq!(
                refusal.to_string(),
                "node manager1 is a cluster manager and is a member of the raft cluster. \
                 It must be demoted to worker before removal"
            );
        }
    }

    #[test]
    fn a_ready_node_is_removed_by_force_only() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        run(&mut state, observe_state("w1", NodeState::Ready)).unwrap();
        let refusal = run(&mut state, remove("w1", false, None)).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "node w1 is not down and can't be removed"
        );
        run(&mut state, remove("w1", true, None)).unwrap();
        assert!(state.node("w1").is_none());
        let refusal = run(&mut state, remove("w1", true, None)).unwrap_err();
        assert_eq!(refusal.to_string(), "node w1 not found");
    }

    #[test]
    fn a_ban_outlives_a_node_made_anew() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        run(&mut state, remove("w1", false, Some(5000))).unwrap();
        assert!(state.is_banned("w1"));
        assert_eq!(state.banned_until("w1"), Some(&at(5000)));
        let refusal = run(&mut state, create_worker("w1")).unwrap_err();
        assert!(matches!(refusal, Refusal::Precondition { .. }));
        assert!(state.is_banned("w1"));
    }

    #[test]
    fn a_ban_ends_by_the_time_of_commands() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        run(&mut state, create_worker("w2")).unwrap();
        run(&mut state, remove("w1", false, Some(5000))).unwrap();
        run(&mut state, remove("w2", false, None)).unwrap();
        state.apply(command(4999, create_worker("w3"))).unwrap();
        assert_eq!(state.bans().count(), 2);
        state.apply(command(5000, create_worker("w1"))).unwrap();
        assert!(!state.is_banned("w1"));
        // Without an end it stays.
        state.apply(command(i64::MAX, create_worker("w4"))).unwrap();
        assert!(state.is_banned("w2") && state.banned_until("w2").is_none());
    }

    #[test]
    fn a_ban_lasts_as_long_as_any_certificate_of_the_node() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        for (serial, not_after) in [(1u8, 9000), (2, 6000)] {
            let certificate = |status: crate::objects::IssuanceState| Certificate {
                csr: vec![serial],
                serial: vec![serial],
                certificate: b"pem".to_vec(),
                not_after: Some(at(not_after)),
                status: Some(crate::objects::IssuanceStatus {
                    state: status.into(),
                    err: String::new(),
                }),
                ..Certificate::default()
            };
            let request = Op::RequestCertificate(RequestCertificate {
                node_id: "w1".into(),
                certificate: Some(certificate(crate::objects::IssuanceState::Renew)),
            });
            // Not sooner after the one before than a node may.
            let now = 1000 + 10 * i64::from(serial);
            state.apply(command(now, request)).unwrap();
            let store = Op::StoreCertificate(StoreCertificate {
                node_id: "w1".into(),
                certificate: Some(certificate(crate::objects::IssuanceState::Issued)),
            });
            state.apply(command(now, store)).unwrap();
        }
        run(&mut state, remove("w1", false, Some(6000))).unwrap();
        assert_eq!(state.banned_until("w1"), Some(&at(9000)));
    }

    #[test]
    fn tasks_of_a_removed_node_are_orphaned() {
        let mut state = with_running_service();
        let applied = run(&mut state, remove("w1", false, None)).unwrap();
        assert_eq!(applied.changes.len(), 2);
        let task = state.task("t1").unwrap();
        assert_eq!(needs::observed_state(task), TaskState::Orphaned);
        assert_eq!(version_of(task.meta.as_ref()), applied.version);
        assert!(state.assignment_set("w1").is_empty());
    }

    #[test]
    fn a_node_is_made_whole_or_not_at_all() {
        let mut state = bootstrapped();
        let bad = [
            Node::default(),
            node("", NodeRole::Worker),
            Node {
                spec: None,
                ..node("w1", NodeRole::Worker)
            },
        ];
        for node in bad {
            let op = Op::CreateNode(CreateNode { node: Some(node) });
            assert!(matches!(run(&mut state, op), Err(Refusal::Invalid { .. })));
        }
        let again = run(&mut state, create_worker(MANAGER)).unwrap_err();
        assert!(matches!(again, Refusal::NameTaken { kind: "node", .. }));
    }

    #[test]
    fn the_last_manager_is_not_demoted() {
        let mut state = bootstrapped();
        let demote = |version| {
            Op::UpdateNode(UpdateNode {
                node_id: MANAGER.into(),
                expected_version: version,
                spec: Some(NodeSpec::default()),
                role: None,
            })
        };
        assert_eq!(
            run(&mut state, demote(1)).unwrap_err().to_string(),
            "attempting to demote the last manager of the swarm"
        );
        let second = Op::CreateNode(CreateNode {
            node: Some(node("manager2", NodeRole::Manager)),
        });
        run(&mut state, second).unwrap();
        let joined = Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: "manager2".into(),
                manager_status: Some(ManagerStatus::default()),
                ..NodeObservation::default()
            }],
        });
        // Who has not joined the others yet does not stand in for them.
        assert!(run(&mut state, demote(1)).is_err());
        run(&mut state, joined).unwrap();
        assert_eq!(run(&mut state, demote(7)).unwrap_err(), Refusal::Stale);
        run(&mut state, demote(1)).unwrap();
        let manager = state.node(MANAGER).unwrap();
        // The role itself follows by a command of its own.
        assert_eq!(manager.role(), NodeRole::Manager);
        assert!(!wants_manager(manager));
    }

    #[test]
    fn an_observation_that_says_nothing_new_changes_nothing() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        run(&mut state, observe_state("w1", NodeState::Ready)).unwrap();
        let node = Arc::clone(state.node("w1").unwrap());
        assert_eq!(node.first_session_at, Some(at(1000)));
        let same = state
            .apply(command(2000, observe_state("w1", NodeState::Ready)))
            .unwrap();
        assert_eq!((same.changes.len(), same.skipped), (0, 1));
        assert_eq!(state.node("w1").unwrap(), &node);
        let gone = run(&mut state, observe_state("nobody", NodeState::Down)).unwrap();
        assert_eq!((gone.changes.len(), gone.skipped), (0, 1));
    }

    #[test]
    fn unset_parts_of_an_observation_stay() {
        let mut state = bootstrapped();
        let described = Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: MANAGER.into(),
                description: Some(NodeDescription {
                    hostname: "host-a".into(),
                    ..NodeDescription::default()
                }),
                ..NodeObservation::default()
            }],
        });
        run(&mut state, described).unwrap();
        run(&mut state, observe_state(MANAGER, NodeState::Ready)).unwrap();
        let node = state.node(MANAGER).unwrap();
        assert_eq!(crate::hostname(node), "host-a");
        assert_eq!(node.status.as_ref().unwrap().state(), NodeState::Ready);
    }
}
