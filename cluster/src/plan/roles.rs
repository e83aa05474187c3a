//! Roles: what was asked of a node, its record and its membership of the Raft group,
//! brought together one durable step at a time.
//!
//! A node's role is in three places: its spec (what the operator wants), its record
//! (what its next certificate says, and what it may do now) and the Raft group (whether
//! it counts). They change in this order (spec/pki.md section 9):
//!
//! - promotion: spec, record; then the node renews its certificate and joins the group;
//! - demotion: spec; then the leader takes it out of the group; then the record; then
//!   the node renews its certificate.
//!
//! So whoever counts in the group is a manager on record. The plan sees state and
//! membership only, so any leader goes on where another one stopped.

use std::cmp::Reverse;

use crate::{
    State,
    feature::described_level,
    objects::{
        Cluster, ManagerStatus, Node, NodeObservation, NodeRole, ObserveNodes, Reachability,
        UpdateCluster, UpdateNode, command::Op,
    },
};

/// A member of the Raft group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its Raft id, used once.
    pub raft_id: u64,
    /// The node that it is.
    pub node_id: String,
    /// Where it is reached, `host:port`.
    pub addr: String,
    /// Whether it counts; a learner does not.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Whether the leader has heard of it of late; always of the leader itself.
    pub reachable: bool,
}

/// One step of [`RolesPlan`]; repeated, it does no harm.
#[derive(Clone, Debug, PartialEq)]
pub enum RoleStep {
    /// Propose this. What the state refuses was planned on an older view.
    Propose(Box<Op>),
    /// Take this member out of the Raft group.
    RemoveMember {
        /// Which.
        raft_id: u64,
    },
    /// Hand the leadership over: this leader is to leave the group, and the next one
    /// takes it out.
    TransferLeadership {
        /// To whom.
        to: u64,
    },
}

/// What [`plan_roles`] asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RolesPlan {
    /// In this order; after one that fails, plan anew. At most one of them changes the
    /// membership or the leader, and it is the last.
    pub steps: Vec<RoleStep>,
    /// Nodes whose demotion waits until enough of the other managers are reachable.
    pub waiting: Vec<String>,
}

/// What brings the cluster closer to the roles that were asked for, by its leader.
///
/// `members` is the effective membership, learners included; `own_level` the feature
/// level of this binary. Without a leader among the members there is nothing to do.
///
/// What runs the steps must not let a node become a member of the group between this
/// plan and a step that makes a node a worker on record; see [`joins`].
pub fn plan_roles(state: &State, members: &[MemberView], own_level: u32) -> RolesPlan {
    let mut plan = RolesPlan::default();
    if !members.iter().any(|member| member.leader) {
        return plan;
    }
    plan.steps.extend(observations(state, members));
    plan.steps.extend(record_steps(state, members));
    plan.steps.extend(raised_level(state, own_level));
    membership_step(state, members, &mut plan);
    plan
}

/// Whether a node may join the Raft group now: it is a manager on record and is meant
/// to stay one. Looked at when the join begins, and again, with no step of the plan in
/// between, when the learner becomes a voter.
pub fn joins(state: &State, node_id: &str) -> bool {
    state.node(node_id).is_some_and(|node| {
        node.role() == NodeRole::Manager && desired_role(node) == NodeRole::Manager
    })
}

/// Whether the group without this member has a quorum that the leader reaches.
pub fn keeps_quorum(members: &[MemberView], raft_id: u64) -> bool {
    let rest = || {
        let voters = members.iter().filter(|member| member.voter);
        voters.filter(move |member| member.raft_id != raft_id)
    };
    let reachable = rest().filter(|member| member.reachable || member.leader);
    has_quorum(reachable.count(), rest().count())
}

/// Whether so many reachable managers are a quorum of all. There is none of no managers.
pub(crate) fn has_quorum(reachable: usize, managers: usize) -> bool {
    reachable > managers / 2
}

/// The role that the operator wants.
pub(crate) fn desired_role(node: &Node) -> NodeRole {
    let spec = node.spec.as_ref();
    spec.map_or(NodeRole::Worker, |spec| spec.desired_role())
}

/// One command for all manager statuses that are not what the leader sees.
fn observations(state: &State, members: &[MemberView]) -> Option<RoleStep> {
    let nodes: Vec<_> = state
        .nodes()
        .filter_map(|node| {
            let seen = manager_status(members, &node.id);
            (seen != node.manager_status).then(|| NodeObservation {
                node_id: node.id.clone(),
                not_a_member: seen.is_none(),
                manager_status: seen,
                ..NodeObservation::default()
            })
        })
        .collect();
    let observe = ObserveNodes { nodes };
    (!observe.nodes.is_empty()).then_some(RoleStep::Propose(Box::new(Op::ObserveNodes(observe))))
}

/// What is shown of a node as a manager; nothing of a node that does not count. Of two
/// members of one node the one that is alive.
fn manager_status(members: &[MemberView], node_id: &str) -> Option<ManagerStatus> {
    let voters = members.iter().filter(|member| member.voter);
    let own = voters.filter(|member| member.node_id == node_id);
    let member = own.max_by_key(|member| (member.leader, member.reachable))?;
    let reachability = if member.leader || member.reachable {
        Reachability::Reachable
    } else {
        Reachability::Unreachable
    };
    Some(ManagerStatus {
        raft_id: member.raft_id,
        addr: member.addr.clone(),
        leader: member.leader,
        reachability: reachability.into(),
    })
}

/// Records follow the wish: to manager at once, to worker once the node is no member.
fn record_steps(state: &State, members: &[MemberView]) -> Vec<RoleStep> {
    let is_member = |node: &Node| members.iter().any(|member| member.node_id == node.id);
    let due = state.nodes().filter(|node| match desired_role(node) {
        NodeRole::Manager => node.role() == NodeRole::Worker,
        NodeRole::Worker => node.role() == NodeRole::Manager && !is_member(node),
    });
    let step = |node: &Node| {
        RoleStep::Propose(Box::new(Op::UpdateNode(UpdateNode {
            node_id: node.id.clone(),
            role: Some(desired_role(node).into()),
            ..UpdateNode::default()
        })))
    };
    due.map(|node| step(node)).collect()
}

/// The level that all managers on record have, if it is above the cluster's.
fn raised_level(state: &State, own_level: u32) -> Option<RoleStep> {
    let cluster = state.cluster()?;
    let managers = state
        .nodes()
        .filter(|node| node.role() == NodeRole::Manager || desired_role(node) == NodeRole::Manager);
    let mut common = own_level;
    for node in managers {
        common = common.min(described_level(node)?);
    }
    if common <= cluster.feature_level {
        return None;
    }
    let raised = Cluster {
        feature_level: common,
        ..Cluster::clone(cluster)
    };
    Some(RoleStep::Propose(Box::new(Op::UpdateCluster(
        UpdateCluster {
            cluster: Some(raised),
            expected_version: crate::version_of(cluster.meta.as_ref()),
        },
    ))))
}

/// At most one member leaves at a time. Who does not count goes first, then who is not
/// reached: each of them leaves the others a larger share; the leader goes last.
fn membership_step(state: &State, members: &[MemberView], plan: &mut RolesPlan) {
    let mut leaving: Vec<_> = members
        .iter()
        .filter(|member| is_leaving(state, members, member))
        .collect();
    leaving.sort_by_key(|member| {
        (
            member.voter,
            member.reachable,
            member.leader,
            member.raft_id,
        )
    });
    for member in &leaving {
        if member.voter && !keeps_quorum(members, member.raft_id) {
            plan.waiting.push(member.node_id.clone());
            continue;
        }
        if !member.leader {
            // First on record: it is not counted on for the demotion of another meanwhile.
            plan.steps
                .extend(no_member_any_more(state, members, member));
            let raft_id = member.raft_id;
            plan.steps.push(RoleStep::RemoveMember { raft_id });
            return;
        }
        let successors = members
            .iter()
            .filter(|other| other.voter && other.reachable && !other.leader);
        // One who stays, if there is one: another would have to hand over again.
        match successors.min_by_key(|other| (leaving.contains(other), Reverse(other.raft_id))) {
            Some(next) => {
                let to = next.raft_id;
                plan.steps.push(RoleStep::TransferLeadership { to });
                return;
            }
            None => plan.waiting.push(member.node_id.clone()),
        }
    }
}

/// That a node is no member, unless it is one under another id or the record says so already.
fn no_member_any_more(
    state: &State,
    members: &[MemberView],
    member: &MemberView,
) -> Option<RoleStep> {
    state.node(&member.node_id)?.manager_status.as_ref()?;
    let mut others = members
        .iter()
        .filter(|other| other.raft_id != member.raft_id);
    if others.any(|other| other.node_id == member.node_id) {
        return None;
    }
    let gone = NodeObservation {
        node_id: member.node_id.clone(),
        not_a_member: true,
        ..NodeObservation::default()
    };
    let observe = ObserveNodes { nodes: vec![gone] };
    Some(RoleStep::Propose(Box::new(Op::ObserveNodes(observe))))
}

/// Whether a member has no business in the group: its node is gone, is or becomes a
/// worker, or is in the group under a newer id.
fn is_leaving(state: &State, members: &[MemberView], member: &MemberView) -> bool {
    let Some(node) = state.node(&member.node_id) else {
        return true;
    };
    let is_manager = desired_role(node) == NodeRole::Manager && node.role() == NodeRole::Manager;
    let replaced = members.iter().any(|other| {
        let is_newer = other.raft_id != member.raft_id && other.node_id == member.node_id;
        is_newer && other.voter && (other.reachable || other.leader)
    });
    !is_manager || (replaced && !member.reachable && !member.leader)
}

#[cfg(test)]
#[path = "roles_tests.rs"]
mod tests;
