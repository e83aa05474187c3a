//! Restart policies.

use time::Duration;

use crate::{
    objects::{
        Availability, NodeState, RestartPolicy, ServiceSpec, TaskState, restart_policy::Condition,
    },
    observed_state,
    plan::testing::{World, container, global, replicated, task_spec},
};

fn seconds(count: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: count,
        nanos: 0,
    })
}

fn policy(condition: Condition) -> RestartPolicy {
    RestartPolicy {
        condition: condition as i32,
        ..RestartPolicy::default()
    }
}

fn web(policy: RestartPolicy) -> ServiceSpec {
    let mut spec = replicated("web", 1);
    task_spec(&mut spec).restart = Some(policy);
    spec
}

/// Ends the task of `web` so, waits long, and says whether another one runs.
fn restarts_after(world: &mut World, end: TaskState) -> bool {
    let task = world.only("web");
    assert!(world.report(&task.id, end));
    world.run_for(Duration::seconds(30));
    let tasks = world.wanted("web");
    assert!(tasks.iter().all(|other| other.id != task.id));
    !tasks.is_empty()
}

#[test]
fn conditions() {
    use Condition::{Any, None, OnFailure};
    use TaskState::{Complete, Failed, Rejected};
    let table = [
        (None, Complete, false),
        (None, Failed, false),
        (None, Rejected, false),
        (OnFailure, Complete, false),
        (OnFailure, Failed, true),
        (OnFailure, Rejected, true),
        (Any, Complete, true),
        (Any, Failed, true),
        (Any, Rejected, true),
    ];
    for (condition, end, expected) in table {
        let mut world = World::with_nodes(1);
        world.add_service(web(policy(condition)));
        world.run();
        let restarted = restarts_after(&mut world, end);
        assert_eq!(restarted, expected, "{condition:?} after {end:?}");
        let slots = world.state.tasks_of_service("web").count();
        assert_eq!(slots, if expected { 2 } else { 1 });
    }
}

#[test]
fn a_restart_waits_for_the_delay() {
    // Unasked, a stop is an end like others.
    let ends = [TaskState::Failed, TaskState::Shutdown, TaskState::Orphaned];
    let delays = [(None, 5), (seconds(0), 0), (seconds(90), 90)];
    for (end, (given, waits)) in ends
        .into_iter()
        .flat_map(|end| delays.map(|delay| (end, delay)))
    {
        let mut world = World::with_nodes(1);
        world.add_service(web(RestartPolicy {
            delay: given,
            ..policy(Condition::Any)
        }));
        world.run();
        let task = world.only("web");
        world.report(&task.id, end);
        let ended = world.now;
        let wake_at = world.settle();
        let old = world.state.task(&task.id).unwrap();
        assert_eq!(old.desired_state(), TaskState::Shutdown);
        if waits == 0 {
            assert_eq!(world.wanted("web").len(), 1);
            continue;
        }
        assert_eq!(wake_at, Some(ended + Duration::seconds(waits)));
        world.now = wake_at.unwrap() - Duration::milliseconds(1);
        assert_eq!(world.settle(), wake_at);
        assert_eq!(world.wanted("web").len(), 0);
        world.now = wake_at.unwrap();
        world.settle();
        let new = world.only("web");
        assert_eq!((new.slot, new.id == task.id), (task.slot, false));
    }
}

#[test]
fn attempts_are_limited() {
    let mut world = World::with_nodes(1);
    world.add_service(web(RestartPolicy {
        max_attempts: 8,
        ..policy(Condition::Any)
    }));
    world.run();
    for attempt in 1..=8 {
        assert!(restarts_after(&mut world, TaskState::Failed), "{attempt}");
    }
    assert!(!restarts_after(&mut world, TaskState::Failed));
    world.run_for(Duration::hours(5));
    assert_eq!(world.wanted("web").len(), 0);
    // A new spec starts from nothing.
    world.change_service("web", |spec| container(spec).env = vec!["A=1".to_owned()]);
    world.run();
    assert_eq!(world.running("web"), 1);
    assert!(restarts_after(&mut world, TaskState::Failed));
}

#[test]
fn only_ends_in_the_window_count() {
    let mut world = World::with_nodes(1);
    world.add_service(web(RestartPolicy {
        max_attempts: 2,
        window: seconds(300),
        ..policy(Condition::Any)
    }));
    world.run();
    for _ in 0..6 {
        assert!(restarts_after(&mut world, TaskState::Failed));
        world.pass(Duration::seconds(200));
    }
    // The end before it was 230 seconds ago.
    assert!(restarts_after(&mut world, TaskState::Failed));
    assert!(
        !restarts_after(&mut world, TaskState::Failed),
        "three within the window"
    );
}

#[test]
fn losing_a_node_is_no_attempt() {
    let mut world = World::with_nodes(2);
    world.add_service(web(RestartPolicy {
        max_attempts: 1,
        ..policy(Condition::Any)
    }));
    world.run();
    for _ in 0..4 {
        let task = world.only("web");
        world.set_node_state(&task.node_id, NodeState::Down);
        world.run();
        assert_ne!(world.only("web").node_id, task.node_id);
        world.set_node_state(&task.node_id, NodeState::Ready);
        world.run();
    }
    assert!(restarts_after(&mut world, TaskState::Failed));
    assert!(!restarts_after(&mut world, TaskState::Failed));
}

#[test]
fn what_must_never_run_twice_is_not_moved() {
    let mut world = World::with_nodes(2);
    world.add_service(web(policy(Condition::None)));
    world.run();
    let task = world.only("web");
    world.change_node(&task.node_id, |spec| {
        spec.availability = Availability::Drain as i32
    });
    world.run_for(Duration::minutes(1));
    assert_eq!(world.wanted("web").len(), 0);
    let old = world.state.task(&task.id).unwrap();
    assert_eq!(observed_state(old), TaskState::Shutdown);
}

#[test]
fn a_global_task_restarts_on_its_node() {
    let mut world = World::with_nodes(2);
    let service = world.add_service(global("web"));
    world.run();
    let failed = world.wanted(&service)[0].clone();
    world.report(&failed.id, TaskState::Failed);
    let due = world.settle().unwrap();
    assert_eq!(world.wanted(&service).len(), 1);
    world.now = due;
    world.run();
    assert_eq!(world.running(&service), 2);
    assert_eq!(world.spread(&service)[&failed.node_id], 1);
}
