//! Node states from heartbeats, and what follows when a node stays away.

use time::{Duration, OffsetDateTime};

use super::{
    changes::Changes,
    reaper::orphaned,
    roles::desired_role,
    task::node_state,
    times::{after, moment},
};
use crate::{
    State, is_final,
    objects::{
        Node, NodeObservation, NodeRole, NodeState, NodeStatus, RemoveNode, TaskChange, TaskState,
        UpdateNode,
    },
    observed_state, timestamp, version_of,
};

/// So many periods without a heartbeat make a node DOWN (swarmkit's value).
const MISSED_PERIODS: i32 = 3;
/// As many again are granted after a change of the leader: nodes have to find it.
const MISSED_PERIODS_UNKNOWN: i32 = 6;
/// Period if a node's own is not known: 5 s, and the half second it may be more.
const DEFAULT_PERIOD: Duration = Duration::milliseconds(5_500);
/// After this long the tasks of a node that is down are given up, and a node record
/// that never had a session is removed.
const GIVEN_UP_AFTER: Duration = Duration::hours(24);

/// What the dispatcher knows of a node's session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Time since the last heartbeat (or the session's start), by a monotonic clock.
    pub age: Duration,
    /// The period that the node was told last.
    pub period: Duration,
}

/// What [`check_nodes`] asks for.
#[derive(Clone, Debug, Default)]
pub struct NodesPlan {
    /// Nodes whose state changes; for one `ObserveNodes` command.
    pub observations: Vec<NodeObservation>,
    /// Node records that never had a session; one `RemoveNode` command each.
    pub removals: Vec<RemoveNode>,
    /// Managers whose join came to nothing: workers first, then [`Self::removals`].
    pub demotions: Vec<UpdateNode>,
    /// Tasks of nodes that are away for good become ORPHANED.
    pub task_changes: Vec<TaskChange>,
    /// When to ask again if nothing happens before.
    pub wake_after: Option<Duration>,
}

impl NodesPlan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.observations.is_empty()
            && self.removals.is_empty()
            && self.demotions.is_empty()
            && self.task_changes.is_empty()
    }

    fn wake(&mut self, wait: Duration) {
        let wait = wait.max(Duration::ZERO);
        self.wake_after = Some(self.wake_after.map_or(wait, |known| known.min(wait)));
    }
}

/// Judges all nodes.
///
/// `sessions` gives a node's session. The dispatcher keeps it when its stream
/// breaks, until the node is judged down or has a new one, so a short break is none.
/// `serving_for` is how long this manager has been accepting sessions as leader,
/// by a monotonic clock: a node that was ready and has no session here is UNKNOWN
/// until then, and keeps its tasks.
pub fn check_nodes(
    state: &State,
    sessions: &dyn Fn(&str) -> Option<Heartbeat>,
    serving_for: Duration,
    now: OffsetDateTime,
) -> NodesPlan {
    let mut plan = NodesPlan::default();
    let mut changes = Changes::default();
    for node in state.nodes() {
        let known = node_state(node);
        let judged = match sessions(&node.id) {
            Some(heartbeat) => judge_session(heartbeat, &mut plan),
            None => judge_absence(node, serving_for, &mut plan),
        };
        match judged {
            Some((judged, message)) if judged != known => {
                plan.observations.push(observation(node, judged, message));
            }
            _ => {}
        }
        if known == NodeState::Down {
            give_up_tasks(state, node, now, &mut plan, &mut changes);
        }
        if has_joined(node) || !given_up(node, now, &mut plan) {
            continue;
        }
        match (desired_role(node), node.role()) {
            (NodeRole::Manager, _) => plan.demotions.extend(demotion(node)),
            (NodeRole::Worker, NodeRole::Worker) => plan.removals.push(removal(node, now)),
            // The record follows the wish.
            (NodeRole::Worker, NodeRole::Manager) => {}
        }
    }
    plan.task_changes = changes.into_list();
    plan
}

fn judge_session(heartbeat: Heartbeat, plan: &mut NodesPlan) -> Option<(NodeState, &'static str)> {
    let left = heartbeat.period.saturating_mul(MISSED_PERIODS) - heartbeat.age;
    if left.is_positive() {
        plan.wake(left);
        Some((NodeState::Ready, ""))
    } else {
        Some((NodeState::Down, "heartbeat failure"))
    }
}

/// A node without session: down stays down; one that never had a session is not
/// judged; any other gets time to find this manager.
fn judge_absence(
    node: &Node,
    serving_for: Duration,
    plan: &mut NodesPlan,
) -> Option<(NodeState, &'static str)> {
    let state = node_state(node);
    if state == NodeState::Down || node.first_session_at.is_none() {
        return None;
    }
    let grace = DEFAULT_PERIOD.saturating_mul(MISSED_PERIODS_UNKNOWN);
    let left = grace - serving_for;
    if left.is_positive() {
        plan.wake(left);
        let message = "node moved to unknown state due to a change of the leader";
        Some((NodeState::Unknown, message))
    } else {
        let message = "heartbeat failure for node in \"unknown\" state";
        Some((NodeState::Down, message))
    }
}

fn observation(node: &Node, state: NodeState, message: &str) -> NodeObservation {
    let status = NodeStatus {
        state: state as i32,
        message: message.to_owned(),
        ..node.status.clone().unwrap_or_default()
    };
    NodeObservation {
        node_id: node.id.clone(),
        status: Some(status),
        ..NodeObservation::default()
    }
}

/// Gives up the tasks of a node that has been down for a day: nothing about it has
/// changed for so long, and the last change made it, or found it, down.
fn give_up_tasks(
    state: &State,
    node: &Node,
    now: OffsetDateTime,
    plan: &mut NodesPlan,
    changes: &mut Changes,
) {
    let changed = node.meta.as_ref().and_then(|meta| meta.updated_at.as_ref());
    let Some(changed) = moment(changed) else {
        return;
    };
    let given_up = after(changed, GIVEN_UP_AFTER);
    let tasks = state
        .tasks_of_node(&node.id)
        .filter(|task| !is_final(task) && observed_state(task) >= TaskState::Assigned);
    for task in tasks {
        if given_up > now {
            plan.wake(given_up - now);
            return;
        }
        if !changes.has_room() {
            plan.wake(Duration::ZERO);
            return;
        }
        changes.set_status(task, orphaned(task, now));
    }
}

/// Whether a node was ever more than a record: it had a session, or counts as a manager.
fn has_joined(node: &Node) -> bool {
    node_state(node) == NodeState::Ready
        || node.first_session_at.is_some()
        || node.manager_status.is_some()
}

/// Whether a node has had a certificate for a day: a join that came to nothing by then
/// is given up, so that such records do not pile up.
fn given_up(node: &Node, now: OffsetDateTime, plan: &mut NodesPlan) -> bool {
    let made = node.meta.as_ref().and_then(|meta| meta.created_at.as_ref());
    let Some(made) = moment(made) else {
        return false;
    };
    let given_up = after(made, GIVEN_UP_AFTER);
    if given_up > now {
        plan.wake(given_up - now);
    }
    given_up <= now
}

fn removal(node: &Node, now: OffsetDateTime) -> RemoveNode {
    let certificate = node.certificate.as_ref();
    let not_after = certificate.and_then(|certificate| certificate.not_after);
    RemoveNode {
        node_id: node.id.clone(),
        force: false,
        ban_expires_at: Some(not_after.unwrap_or_else(|| timestamp(now))),
    }
}

/// One that comes back after all is refused when it asks to be taken in.
fn demotion(node: &Node) -> Option<UpdateNode> {
    let mut spec = node.spec.clone()?;
    spec.set_desired_role(NodeRole::Worker);
    Some(UpdateNode {
        node_id: node.id.clone(),
        expected_version: version_of(node.meta.as_ref()),
        spec: Some(spec),
        ..UpdateNode::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{Availability, ManagerStatus, ObserveNodes, TaskChange, command::Op},
        plan::testing::{World, native_node, replicated},
    };

    const PERIOD: Duration = Duration::seconds(5);
    const LONG: Duration = Duration::hours(1);

    /// The leader has written of itself that it counts.
    fn led(mut world: World) -> World {
        world.apply(Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: "manager".to_owned(),
                manager_status: Some(ManagerStatus::default()),
                ..NodeObservation::default()
            }],
        }));
        world
    }

    fn beat(age_secs: i64) -> Option<Heartbeat> {
        Some(Heartbeat {
            age: Duration::seconds(age_secs),
            period: PERIOD,
        })
    }

    /// A cluster with one worker that has had a session, in this state.
    fn world(state: NodeState) -> World {
        let mut world = led(World::with_nodes(1));
        world.apply(Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: "n1".to_owned(),
                session_started: true,
                status: Some(NodeStatus {
                    state: state as i32,
                    addr: "10.0.0.1".to_owned(),
                    ..NodeStatus::default()
                }),
                ..NodeObservation::default()
            }],
        }));
        world
    }

    fn check(world: &World, session: Option<Heartbeat>, serving_for: Duration) -> NodesPlan {
        let sessions = |id: &str| if id == "n1" { session } else { None };
        check_nodes(&world.state, &sessions, serving_for, world.now)
    }

    #[test]
    fn states_by_heartbeat() {
        use NodeState::{Down, Ready, Unknown};
        let soon = Duration::seconds(1);
        // State, session, time as leader; the state it becomes, if it changes.
        let table = [
            (Ready, beat(0), LONG, None),
            (Ready, beat(14), LONG, None),
            (Ready, beat(15), LONG, Some(Down)),
            (Ready, None, soon, Some(Unknown)),
            (Ready, None, LONG, Some(Down)),
            (Unknown, None, soon, None),
            (Unknown, None, Duration::seconds(32), None),
            (Unknown, None, Duration::seconds(33), Some(Down)),
            (Unknown, beat(1), soon, Some(Ready)),
            (Down, None, soon, None),
            (Down, None, LONG, None),
            (Down, beat(1), LONG, Some(Ready)),
        ];
        for (state, session, serving_for, expected) in table {
            let what = format!("{state:?} {session:?} {serving_for}");
            let mut world = world(state);
            let plan = check(&world, session, serving_for);
            let found = plan.observations.iter().map(|seen| {
                let status = seen.status.as_ref().unwrap();
                assert_eq!(
                    (seen.node_id.as_str(), status.addr.as_str()),
                    ("n1", "10.0.0.1")
                );
                status.state()
            });
            let found: Vec<NodeState> = found.collect();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{what}");
            world.apply(Op::ObserveNodes(ObserveNodes {
                nodes: plan.observations,
            }));
            assert!(check(&world, session, serving_for).is_empty(), "{what}");
        }
    }

    #[test]
    fn it_asks_to_be_woken_when_the_next_heartbeat_is_overdue() {
        let world = world(NodeState::Ready);
        let wait = check(&world, beat(4), LONG).wake_after;
        assert_eq!(wait, Some(Duration::seconds(11)));
    }

    #[test]
    fn a_node_that_never_had_a_session_is_not_judged_and_goes_after_a_day() {
        let mut world = led(World::new());
        let mut node = native_node("n1");
        node.status = None;
        node.description = None;
        world.add_node(node);
        let plan = check(&world, None, LONG);
        assert!(plan.is_empty());
        assert!(plan.wake_after.unwrap() <= Duration::hours(24));
        world.pass(Duration::hours(24));
        let plan = check(&world, None, LONG);
        assert_eq!(plan.removals.len(), 1, "and never the manager: {plan:?}");
        assert_eq!(plan.removals[0].node_id, "n1");
        for removal in plan.removals {
            world.apply(Op::RemoveNode(removal));
        }
        assert!(check(&world, None, LONG).is_empty());
    }

    #[test]
    fn a_manager_that_never_joined_is_demoted_and_goes() {
        let mut world = led(World::new());
        let mut node = native_node("n1");
        node.status = None;
        node.role = NodeRole::Manager as i32;
        node.spec.as_mut().unwrap().desired_role = NodeRole::Manager as i32;
        world.add_node(node);
        world.pass(Duration::hours(23));
        assert!(check(&world, None, LONG).is_empty());
        world.pass(Duration::hours(1));
        let plan = check(&world, None, LONG);
        let [demotion] = plan.demotions.as_slice() else {
            panic!("and never one that is a manager: {plan:?}");
        };
        assert!(plan.removals.is_empty() && demotion.node_id == "n1");
        world.apply(Op::UpdateNode(demotion.clone()));
        // Its record says manager still: that is another plan's.
        assert!(check(&world, None, LONG).is_empty());
        world.apply(Op::UpdateNode(UpdateNode {
            node_id: "n1".to_owned(),
            role: Some(NodeRole::Worker as i32),
            ..UpdateNode::default()
        }));
        let plan = check(&world, None, LONG);
        world.apply(Op::RemoveNode(plan.removals[0].clone()));
        assert!(check(&world, None, LONG).is_empty());
    }

    #[test]
    fn a_worker_on_its_way_to_manager_is_kept() {
        let mut world = led(World::new());
        let mut node = native_node("n1");
        node.first_session_at = Some(timestamp(world.now));
        node.status.as_mut().unwrap().set_state(NodeState::Down);
        node.spec.as_mut().unwrap().desired_role = NodeRole::Manager as i32;
        world.add_node(node);
        world.pass(Duration::days(3));
        assert!(check(&world, None, LONG).is_empty());
    }

    #[test]
    fn tasks_of_a_node_that_stays_down_are_given_up_after_a_day() {
        let mut world = world(NodeState::Ready);
        world.add_service(replicated("web", 3));
        world.run();
        world.set_node_state("n1", NodeState::Down);
        world.run();
        let plan = check(&world, None, LONG);
        assert!(plan.is_empty());
        let wait = plan.wake_after.unwrap();
        world.pass(wait);
        let changes = check(&world, None, LONG).task_changes;
        assert_eq!(changes.len(), 3);
        world.apply(Op::ChangeTasks(crate::objects::ChangeTasks { changes }));
        let orphans = |world: &World| {
            let tasks = world.state.tasks_of_node("n1");
            tasks
                .filter(|task| observed_state(task) == TaskState::Orphaned)
                .count()
        };
        assert_eq!(orphans(&world), 3);
        let again: Vec<TaskChange> = check(&world, None, LONG).task_changes;
        assert_eq!(again, Vec::new());
    }

    #[test]
    fn a_node_that_returned_keeps_its_tasks() {
        let mut world = world(NodeState::Ready);
        world.add_service(replicated("web", 1));
        world.run();
        world.pass(Duration::days(2));
        let spec = world.state.node("n1").unwrap().spec.clone();
        world.apply(Op::UpdateNode(UpdateNode {
            node_id: "n1".to_owned(),
            spec: spec.map(|mut spec| {
                spec.availability = Availability::Pause as i32;
                spec
            }),
            ..UpdateNode::default()
        }));
        assert!(check(&world, beat(1), LONG).is_empty());
    }
}
