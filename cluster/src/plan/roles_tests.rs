use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::{
    feature::{FEATURE_LEVEL, feature_level_plugin},
    objects::{PluginDescription, RemoveNode},
    plan::testing::{World, engine, engine_node, native_node},
};

const FIRST: &str = "manager";
/// The level of clusters whose managers are all of this binary.
const LEVEL: u32 = FEATURE_LEVEL;

/// A Raft group beside a state: who is in it, who is up, what the leader believes.
struct Group {
    world: World,
    members: BTreeMap<u64, Member>,
    leader: Option<u64>,
    up: BTreeSet<String>,
    /// Whom the leader believes to be up.
    seen: BTreeSet<String>,
    /// Nodes whose certificate says manager.
    certified: BTreeSet<String>,
    last_id: u64,
}

#[derive(Clone)]
struct Member {
    node_id: String,
    voter: bool,
}

impl Group {
    /// One manager and the workers `n1`, `n2`, …, a Docker Engine `engine` and `old`,
    /// whose level is below the cluster's.
    fn new(workers: usize) -> Group {
        let mut world = World::new();
        let mut described = node_of_level("x", Some(LEVEL));
        let observed = NodeObservation {
            node_id: FIRST.into(),
            description: described.description.take(),
            ..NodeObservation::default()
        };
        world.apply(Op::ObserveNodes(ObserveNodes {
            nodes: vec![observed],
        }));
        let mut names = vec![FIRST.to_owned()];
        for index in 1..=workers {
            let name = format!("n{index}");
            world.add_node(node_of_level(&name, Some(LEVEL)));
            names.push(name);
        }
        world.add_node(engine_node("engine"));
        world.add_node(node_of_level("old", None));
        let first = Member {
            node_id: FIRST.into(),
            voter: true,
        };
        let all: BTreeSet<_> = names.into_iter().collect();
        let mut group = Group {
            world,
            members: BTreeMap::from([(1, first)]),
            leader: Some(1),
            up: all.clone(),
            seen: all,
            certified: BTreeSet::from([FIRST.to_owned()]),
            last_id: 1,
        };
        group.run_plan(usize::MAX);
        group
    }

    /// With the first so many workers as managers, all up, the first manager leading.
    fn with_managers(managers: usize, workers: usize) -> Group {
        let mut group = Group::new(workers.max(managers - 1));
        for index in 1..managers {
            group.wish(&format!("n{index}"), NodeRole::Manager).unwrap();
        }
        group.settle();
        assert_eq!(group.voters().len(), managers);
        group
    }

    fn view(&self) -> Vec<MemberView> {
        let views = self.members.iter().map(|(&raft_id, member)| MemberView {
            raft_id,
            node_id: member.node_id.clone(),
            addr: format!("{}:2377", member.node_id),
            voter: member.voter,
            leader: self.leader == Some(raft_id),
            reachable: self.seen.contains(&member.node_id),
        });
        views.collect()
    }

    fn plan(&self) -> RolesPlan {
        plan_roles(&self.world.state, &self.view(), LEVEL)
    }

    fn voters(&self) -> BTreeSet<String> {
        let voters = self.members.values().filter(|member| member.voter);
        voters.map(|member| member.node_id.clone()).collect()
    }

    /// Whether the leader is up and a quorum with it: else nothing is committed.
    fn commits(&self) -> bool {
        let is_up = |member: &&Member| self.up.contains(&member.node_id);
        let voters = || self.members.values().filter(|member| member.voter);
        let leads = self.leader.and_then(|id| self.members.get(&id));
        leads.is_some_and(|leader| is_up(&leader))
            && has_quorum(voters().filter(is_up).count(), voters().count())
    }

    fn wish(&mut self, node_id: &str, role: NodeRole) -> Result<(), String> {
        let node = self.world.state.node(node_id).ok_or("gone")?;
        let mut spec = node.spec.clone().unwrap();
        spec.set_desired_role(role);
        let op = Op::UpdateNode(UpdateNode {
            node_id: node_id.into(),
            spec: Some(spec),
            ..UpdateNode::default()
        });
        let applied = self.world.try_apply(op);
        applied.map(drop).map_err(|refusal| refusal.to_string())
    }

    /// Plans and runs the first so many steps.
    fn run_plan(&mut self, steps: usize) {
        for step in self.plan().steps.into_iter().take(steps) {
            if !self.commits() {
                return;
            }
            self.run(&step);
            self.check();
        }
    }

    fn run(&mut self, step: &RoleStep) {
        match step {
            RoleStep::Propose(op) => {
                let _ = self.world.try_apply(Op::clone(op));
            }
            RoleStep::RemoveMember { raft_id } => {
                let as_seen = |group: &Group| {
                    let voters = || group.members.values().filter(|member| member.voter);
                    let seen = voters().filter(|member| group.seen.contains(&member.node_id));
                    has_quorum(seen.count(), voters().count())
                };
                assert_ne!(Some(*raft_id), self.leader, "a leader takes itself out");
                let removed = self.members.remove(raft_id);
                let counted = removed.is_some_and(|member| member.voter);
                assert!(
                    !counted || as_seen(self),
                    "the quorum is gone by our own action"
                );
            }
            RoleStep::TransferLeadership { to } => {
                let target = self.members.get(to);
                if target.is_some_and(|member| member.voter && self.up.contains(&member.node_id)) {
                    self.leader = Some(*to);
                }
            }
        }
    }

    /// What holds after every step.
    fn check(&self) {
        let state = &self.world.state;
        for member in self.members.values().filter(|member| member.voter) {
            let node = state.node(&member.node_id).expect("a voter has a record");
            assert_eq!(node.role(), NodeRole::Manager, "{} counts", member.node_id);
        }
        let stays = |node_id: &String| {
            let node = state.node(node_id).unwrap();
            desired_role(node) == NodeRole::Manager
        };
        assert!(
            self.voters().iter().any(stays),
            "the last manager is demoted"
        );
        let level = state.cluster().unwrap().feature_level;
        for node_id in self.voters() {
            let described = described_level(state.node(&node_id).unwrap());
            assert!(described >= Some(level), "{node_id} is below the cluster");
        }
        for never in ["engine", "old"] {
            if let Some(node) = state.node(never) {
                assert_eq!(desired_role(node), NodeRole::Worker, "{never}");
            }
        }
    }

    /// The node asks for a certificate; its record says which.
    fn renew(&mut self, node_id: &str) {
        let Some(node) = self.world.state.node(node_id) else {
            return;
        };
        match node.role() {
            NodeRole::Manager => self.certified.insert(node_id.into()),
            NodeRole::Worker => self.certified.remove(node_id),
        };
    }

    fn join_begins(&mut self, node_id: &str) {
        let known = self
            .members
            .values()
            .any(|member| member.node_id == node_id);
        let may = self.certified.contains(node_id) && joins(&self.world.state, node_id);
        if known || !may || !self.up.contains(node_id) || !self.commits() {
            return;
        }
        self.last_id += 1;
        let learner = Member {
            node_id: node_id.into(),
            voter: false,
        };
        self.members.insert(self.last_id, learner);
    }

    fn join_ends(&mut self, node_id: &str) {
        if !joins(&self.world.state, node_id) || !self.commits() || !self.up.contains(node_id) {
            return;
        }
        let mut learners = self.members.values_mut();
        if let Some(member) = learners.find(|member| member.node_id == node_id) {
            member.voter = true;
            self.seen.insert(node_id.into());
        }
    }

    fn elect(&mut self, choice: usize) {
        let candidates: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, member)| member.voter && self.up.contains(&member.node_id))
            .map(|(id, _)| *id)
            .collect();
        let voters = self.voters().len();
        self.leader =
            has_quorum(candidates.len(), voters).then(|| candidates[choice % candidates.len()]);
        // A new leader has heard of nobody, and believes in all for its first second.
        self.seen = self
            .members
            .values()
            .map(|member| member.node_id.clone())
            .collect();
    }

    /// All are up; what was asked for comes true in a bounded number of rounds.
    fn settle(&mut self) {
        let names: Vec<_> = self
            .world
            .state
            .nodes()
            .map(|node| node.id.clone())
            .collect();
        self.up = names.iter().cloned().collect();
        self.seen.clone_from(&self.up);
        if !self.commits() {
            self.elect(0);
            self.seen.clone_from(&self.up);
        }
        for _ in 0..8 * names.len() {
            self.run_plan(usize::MAX);
            for name in &names {
                self.renew(name);
                self.join_begins(name);
                self.join_ends(name);
            }
            self.check();
            if self.is_settled() {
                return;
            }
        }
        panic!("no end: {:?}, {:?}", self.plan(), self.view());
    }

    fn is_settled(&self) -> bool {
        let state = &self.world.state;
        let wished = state
            .nodes()
            .filter(|node| desired_role(node) == NodeRole::Manager);
        let wished: BTreeSet<_> = wished.map(|node| node.id.clone()).collect();
        let shown = |node: &Node| node.manager_status.is_some() == wished.contains(&node.id);
        self.plan() == RolesPlan::default()
            && self.voters() == wished
            && self.members.values().all(|member| member.voter)
            && state
                .nodes()
                .all(|node| node.role() == desired_role(node) && shown(node))
    }
}

fn node_of_level(name: &str, level: Option<u32>) -> Node {
    let mut node = native_node(name);
    if let Some(level) = level {
        engine(&mut node).plugins.push(PluginDescription {
            r#type: crate::plan::PLUGIN_TYPE.into(),
            name: feature_level_plugin(level),
        });
    }
    node
}

#[test]
fn without_a_leader_nothing_is_planned() {
    let mut group = Group::with_managers(3, 3);
    group.leader = None;
    group.wish("n3", NodeRole::Manager).unwrap();
    assert_eq!(group.plan(), RolesPlan::default());
}

#[test]
fn the_last_manager_is_not_demoted() {
    let last = "attempting to demote the last manager of the swarm";
    let mut group = Group::new(2);
    assert_eq!(group.wish(FIRST, NodeRole::Worker), Err(last.into()));
    // One who was asked to be a manager and is none yet does not stand in.
    group.wish("n1", NodeRole::Manager).unwrap();
    group.run_plan(usize::MAX);
    assert_eq!(group.wish(FIRST, NodeRole::Worker), Err(last.into()));
    group.settle();
    group.wish(FIRST, NodeRole::Worker).unwrap();
    assert_eq!(group.wish("n1", NodeRole::Worker), Err(last.into()));
    group.settle();
    assert_eq!(group.voters(), BTreeSet::from(["n1".to_owned()]));
}

#[test]
fn a_demotion_that_costs_the_quorum_is_refused() {
    let mut group = Group::with_managers(3, 3);
    group.seen.remove("n2");
    group.up.remove("n2");
    group.run_plan(usize::MAX);
    assert_eq!(
        group.wish("n1", NodeRole::Worker),
        Err("can't remove member from the raft: this would result in a loss of quorum".into())
    );
    // The one that is away may go.
    group.wish("n2", NodeRole::Worker).unwrap();
    group.run_plan(usize::MAX);
    group.run_plan(usize::MAX);
    assert_eq!(
        group.world.state.node("n2").unwrap().role(),
        NodeRole::Worker
    );
    group.wish("n1", NodeRole::Worker).unwrap();
    group.settle();
}

#[test]
fn a_demotion_waits_where_the_record_did_not_know() {
    let mut group = Group::with_managers(3, 3);
    group.wish("n1", NodeRole::Worker).unwrap();
    group.seen.remove("n2");
    let plan = group.plan();
    assert_eq!(plan.waiting, ["n1"]);
    assert!(
        !plan
            .steps
            .iter()
            .any(|step| matches!(step, RoleStep::RemoveMember { .. }))
    );
    group.seen.insert("n2".into());
    assert!(matches!(
        group.plan().steps[..],
        [RoleStep::Propose(_), RoleStep::RemoveMember { .. }]
    ));
}

#[test]
fn a_leader_hands_over_before_it_goes() {
    let mut group = Group::with_managers(3, 3);
    group.wish("n1", NodeRole::Worker).unwrap();
    group.wish(FIRST, NodeRole::Worker).unwrap();
    group.settle();
    group.wish(FIRST, NodeRole::Manager).unwrap();
    group.settle();
    let leader = group.leader.unwrap();
    let leads = group.members[&leader].node_id.clone();
    group.wish(&leads, NodeRole::Worker).unwrap();
    let handover = group.plan().steps;
    assert!(matches!(handover[..], [RoleStep::TransferLeadership { to }] if to != leader));
    // The other one is gone meanwhile: nobody to hand over to, and no quorum without it.
    group.seen = BTreeSet::from([leads.clone()]);
    let plan = group.plan();
    assert_eq!(plan.waiting, [leads]);
}

#[test]
fn engines_silent_nodes_and_old_ones_are_not_promoted() {
    let mut group = Group::new(1);
    let mut silent = native_node("silent");
    silent.description = None;
    group.world.add_node(silent);
    let old = format!("has feature level 1 and the managers of this cluster have {LEVEL}");
    for (node, reason) in [
        ("engine", "is a Docker Engine"),
        ("silent", "has not said yet"),
        ("old", &old),
    ] {
        let before = group.world.state.node(node).cloned();
        let refused = group.wish(node, NodeRole::Manager).unwrap_err();
        assert!(refused.contains(reason), "{refused}");
        assert_eq!(group.world.state.node(node).cloned(), before);
    }
}

#[test]
fn a_role_follows_the_wish_of_its_time_only() {
    let mut group = Group::new(2);
    group.wish("n1", NodeRole::Manager).unwrap();
    let planned = group.plan().steps;
    group.wish("n1", NodeRole::Worker).unwrap();
    for step in &planned {
        group.run(step);
    }
    assert_eq!(
        group.world.state.node("n1").unwrap().role(),
        NodeRole::Worker
    );
}

#[test]
fn a_manager_is_removed_after_its_demotion_only() {
    let mut group = Group::with_managers(3, 3);
    let remove = |group: &mut Group| {
        let op = Op::RemoveNode(RemoveNode {
            node_id: "n1".into(),
            force: true,
            ..RemoveNode::default()
        });
        group
            .world
            .try_apply(op)
            .map(drop)
            .map_err(|refusal| refusal.to_string())
    };
    let refusal = "node n1 is a cluster manager and is a member of the raft cluster. It must be \
                   demoted to worker before removal";
    assert_eq!(remove(&mut group), Err(refusal.into()));
    group.wish("n1", NodeRole::Worker).unwrap();
    assert_eq!(remove(&mut group), Err(refusal.into()));
    group.settle();
    assert_eq!(remove(&mut group), Ok(()));
    assert_eq!(group.plan(), RolesPlan::default());
}

#[test]
fn who_has_no_record_or_a_newer_self_leaves_the_group() {
    let mut group = Group::with_managers(3, 3);
    let member = |node_id: &str| Member {
        node_id: node_id.into(),
        voter: true,
    };
    group.members.insert(77, member("nobody"));
    assert_eq!(group.plan().steps, [RoleStep::RemoveMember { raft_id: 77 }]);
    group.members.remove(&77);
    // A disk that was lost: the node came back under a new id, the old one is silent.
    let mut views = group.view();
    let old = views.iter_mut().find(|view| view.node_id == "n2").unwrap();
    let old_id = old.raft_id;
    let new = MemberView {
        raft_id: 99,
        ..old.clone()
    };
    old.reachable = false;
    views.push(new);
    let steps = plan_roles(&group.world.state, &views, LEVEL).steps;
    assert!(
        steps.contains(&RoleStep::RemoveMember { raft_id: old_id }),
        "{steps:?}"
    );
    assert!(!steps.contains(&RoleStep::RemoveMember { raft_id: 99 }));
}

#[test]
fn the_feature_level_rises_when_all_managers_have_it() {
    let mut group = Group::with_managers(3, 3);
    let raised = |plan: &RolesPlan| {
        plan.steps.iter().find_map(|step| match step {
            RoleStep::Propose(op) => match &**op {
                Op::UpdateCluster(update) => Some(update.cluster.as_ref()?.feature_level),
                _ => None,
            },
            _ => None,
        })
    };
    let next = LEVEL + 1;
    for (index, name) in [FIRST, "n1", "n2"].into_iter().enumerate() {
        let plan = plan_roles(&group.world.state, &group.view(), next);
        assert_eq!(raised(&plan), None, "after {index}");
        let observed = NodeObservation {
            node_id: name.into(),
            description: node_of_level(name, Some(next)).description,
            ..NodeObservation::default()
        };
        group.world.apply(Op::ObserveNodes(ObserveNodes {
            nodes: vec![observed],
        }));
    }
    // Not beyond what the leader itself can read.
    assert_eq!(raised(&group.plan()), None);
    let plan = plan_roles(&group.world.state, &group.view(), next);
    assert_eq!(raised(&plan), Some(next));
    for step in &plan.steps {
        group.run(step);
    }
    assert_eq!(group.world.state.cluster().unwrap().feature_level, next);
    assert_eq!(
        raised(&plan_roles(&group.world.state, &group.view(), next)),
        None
    );
    // A worker at the former level is not promoted any more.
    assert!(group.wish("n3", NodeRole::Manager).is_err());
}

#[test]
fn statuses_are_written_when_they_change_only() {
    let mut group = Group::with_managers(3, 3);
    assert_eq!(group.plan(), RolesPlan::default());
    let status = |group: &Group, name: &str| {
        let node = group.world.state.node(name).unwrap();
        let status = node.manager_status.as_ref().unwrap();
        (status.leader, status.reachability(), status.addr.clone())
    };
    assert_eq!(
        status(&group, FIRST),
        (true, Reachability::Reachable, "manager:2377".into())
    );
    group.seen.remove("n1");
    group.run_plan(usize::MAX);
    assert_eq!(status(&group, "n1").1, Reachability::Unreachable);
    assert_eq!(group.plan(), RolesPlan::default());
    group.up.remove(FIRST);
    group.elect(1);
    let steps = group.plan().steps;
    assert_eq!(steps.len(), 1, "one command: {steps:?}");
    group.run_plan(usize::MAX);
    assert!(!status(&group, FIRST).0 && status(&group, "n2").0);
}

#[derive(Clone, Debug)]
enum Event {
    Wish(usize, bool),
    Fail(usize),
    Return(usize),
    Notice,
    Elect(usize),
    Plan(usize),
    Twice,
    Renew(usize),
    JoinBegins(usize),
    JoinEnds(usize),
    Remove(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let node = 0usize..8;
    let event = prop_oneof![
        5 => (node.clone(), any::<bool>()).prop_map(|(node, up)| Event::Wish(node, up)),
        1 => node.clone().prop_map(Event::Fail),
        2 => node.clone().prop_map(Event::Return),
        2 => Just(Event::Notice),
        1 => any::<usize>().prop_map(Event::Elect),
        6 => (1usize..4).prop_map(Event::Plan),
        2 => Just(Event::Twice),
        5 => node.clone().prop_map(Event::Renew),
        5 => node.clone().prop_map(Event::JoinBegins),
        5 => node.clone().prop_map(Event::JoinEnds),
        1 => node.prop_map(Event::Remove),
    ];
    proptest::collection::vec(event, 1..120)
}

fn happen(group: &mut Group, names: &[String], event: &Event) {
    let name = |index: &usize| names[index % names.len()].clone();
    match event {
        Event::Wish(node, manager) if group.commits() => {
            let role = if *manager {
                NodeRole::Manager
            } else {
                NodeRole::Worker
            };
            let _ = group.wish(&name(node), role);
        }
        Event::Fail(node) => drop(group.up.remove(&name(node))),
        Event::Return(node) => drop(group.up.insert(name(node))),
        Event::Notice => group.seen = group.up.clone(),
        Event::Elect(choice) => group.elect(*choice),
        Event::Plan(steps) => group.run_plan(*steps),
        Event::Twice => {
            for step in group.plan().steps {
                for _ in 0..2 {
                    if group.commits() {
                        group.run(&step);
                        group.check();
                    }
                }
            }
        }
        Event::Renew(node) if group.commits() => group.renew(&name(node)),
        Event::JoinBegins(node) => group.join_begins(&name(node)),
        Event::JoinEnds(node) => group.join_ends(&name(node)),
        Event::Remove(node) if group.commits() => {
            let _ = group.world.try_apply(Op::RemoveNode(RemoveNode {
                node_id: name(node),
                force: true,
                ..RemoveNode::default()
            }));
        }
        Event::Wish(..) | Event::Renew(_) | Event::Remove(_) => {}
    }
}

proptest! {
    /// Whatever happens in whatever order, and wherever it is broken off.
    #[test]
    fn who_counts_is_a_manager_and_all_wishes_come_true(events in events()) {
        let mut group = Group::new(5);
        let names: Vec<_> = group.world.state.nodes().map(|node| node.id.clone()).collect();
        for event in &events {
            happen(&mut group, &names, event);
            group.check();
        }
        group.settle();
    }
}
