//! Rolling updates and what is said of them.

use time::Duration;

use crate::{
    objects::{
        Availability, ChangeTasks, RestartPolicy, ServiceSpec, Task, TaskState, UpdateConfig,
        UpdateService,
        command::Op,
        restart_policy::Condition,
        update_config::{FailureAction, Order},
        update_status::State,
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

fn config(change: impl FnOnce(&mut UpdateConfig)) -> Option<UpdateConfig> {
    let mut config = UpdateConfig {
        parallelism: 1,
        ..UpdateConfig::default()
    };
    change(&mut config);
    Some(config)
}

/// Three running replicas, updated by these rules.
fn world(update: Option<UpdateConfig>) -> World {
    let mut world = World::with_nodes(3);
    let spec = ServiceSpec {
        update,
        ..replicated("web", 3)
    };
    world.add_service(spec);
    world.run();
    assert!(world.update_status("web").is_none());
    world
}

fn update(world: &mut World, env: &str) {
    world.change_service("web", |spec| container(spec).env = vec![env.to_owned()]);
}

fn env(task: &Task) -> &str {
    let container = task.spec.as_ref().unwrap().container.as_ref().unwrap();
    container.env.first().map_or("", String::as_str)
}

/// How many tasks meant to run are of this version.
fn count(world: &World, wanted: &str) -> usize {
    let tasks = world.wanted("web").into_iter();
    tasks.filter(|task| env(task) == wanted).count()
}

fn state(world: &World) -> (State, String) {
    let status = world.update_status("web").unwrap();
    assert!(status.started_at.is_some());
    let completed = matches!(status.state(), State::Completed | State::RollbackCompleted);
    assert_eq!(status.completed_at.is_some(), completed);
    (status.state(), status.message.clone())
}

/// The one task of this version that has not come to run.
fn newcomer(world: &World, wanted: &str) -> Task {
    let tasks = world.wanted("web").into_iter();
    let mut tasks =
        tasks.filter(|task| env(task) == wanted && observed_state(task) < TaskState::Running);
    let one = tasks.next().unwrap().clone();
    assert!(tasks.next().is_none());
    one
}

/// Lets the old task stop and the newcomer run.
fn let_one_run(world: &mut World, wanted: &str) {
    let stopping: Vec<String> = world
        .state
        .tasks()
        .filter(|task| task.desired_state > TaskState::Running as i32)
        .map(|task| task.id.clone())
        .collect();
    for id in stopping {
        world.report(&id, TaskState::Shutdown);
    }
    world.settle();
    let one = newcomer(world, wanted);
    assert_eq!(one.desired_state(), TaskState::Running);
    assert!(world.report(&one.id, TaskState::Running));
}

/// Its node reports of it between plan and change: the change to it is not made, that to
/// its successor is.
#[test]
fn a_task_that_was_not_told_to_stop_is_told_again() {
    for reported in [TaskState::Running, TaskState::Ready] {
        let mut world = world(None);
        update(&mut world, "v2");
        if reported == TaskState::Ready {
            // Another version, while the first of these has yet to start.
            world.settle();
            assert!(world.report(&newcomer(&world, "v2").id, TaskState::Preparing));
        }
        update(&mut world, "v3");
        for started in world.plan().service_updates {
            world.apply(started);
        }
        let planned = world.plan().changes;
        assert!(!planned.is_empty());
        world.pass(Duration::SECOND);
        let ids: Vec<String> = world
            .wanted("web")
            .iter()
            .map(|task| task.id.clone())
            .collect();
        let taken = ids.iter().filter(|id| world.report(id, reported)).count();
        assert!(taken > 0);
        world.apply(Op::ChangeTasks(ChangeTasks { changes: planned }));
        world.run_for(Duration::minutes(1));
        assert_eq!((count(&world, "v3"), world.running("web")), (3, 3));
        assert_eq!(state(&world).0, State::Completed);
    }
}

#[test]
fn slots_are_rolled_one_by_one() {
    let mut world = world(None);
    update(&mut world, "v2");
    world.settle();
    let updating = (State::Updating, "update in progress".to_owned());
    assert_eq!(state(&world), updating);
    for done in 1..=3 {
        assert_eq!((count(&world, "v2"), count(&world, "")), (done, 3 - done));
        assert_eq!(newcomer(&world, "v2").desired_state(), TaskState::Ready);
        let_one_run(&mut world, "v2");
        world.settle();
        assert_eq!(state(&world), updating);
    }
    let watched = world.settle().unwrap();
    assert!(watched <= world.now + Duration::seconds(5));
    world.run_for(Duration::seconds(5));
    let completed = (State::Completed, "update completed".to_owned());
    assert_eq!(state(&world), completed);
    assert_eq!((world.running("web"), count(&world, "v2")), (3, 3));
}

#[test]
fn parallelism_and_delay() {
    let mut some = world(config(|config| {
        config.parallelism = 2;
        config.delay = seconds(20);
    }));
    update(&mut some, "v2");
    some.run();
    assert_eq!(count(&some, "v2"), 2);
    some.run_for(Duration::seconds(19));
    assert_eq!(count(&some, "v2"), 2);
    some.run_for(Duration::seconds(2));
    assert_eq!(count(&some, "v2"), 3);
    let mut all = world(config(|config| config.parallelism = 0));
    update(&mut all, "v2");
    all.settle();
    assert_eq!(count(&all, "v2"), 3);
}

#[test]
fn labels_and_fitting_places_are_no_update_of_tasks() {
    let mut world = world(None);
    world.change_service("web", |spec| {
        let labels = &mut spec.annotations.as_mut().unwrap().labels;
        labels.insert("a".to_owned(), "b".to_owned());
        let placement = task_spec(spec).placement.get_or_insert_default();
        placement.constraints = vec!["node.id!=n9".to_owned()];
        placement.max_replicas = 5;
    });
    world.run();
    assert!(world.update_status("web").is_none());
    assert_eq!(world.state.tasks().count(), 3);
    world.change_service("web", |spec| {
        let placement = task_spec(spec).placement.get_or_insert_default();
        placement.constraints = vec!["node.id!=n1".to_owned()];
    });
    world.run_for(Duration::minutes(1));
    assert_eq!(state(&world).0, State::Completed);
    assert!(!world.spread("web").contains_key("n1"));
    assert_eq!(world.state.tasks().count(), 4, "one slot was rolled");
}

#[test]
fn forcing_rolls_all() {
    let mut world = world(None);
    world.change_service("web", |spec| task_spec(spec).force_update += 1);
    world.run_for(Duration::minutes(1));
    assert_eq!(world.state.tasks().count(), 6);
    assert_eq!(state(&world).0, State::Completed);
}

fn fail_newcomer(world: &mut World, wanted: &str) -> String {
    let failed = newcomer(world, wanted);
    assert!(world.report(&failed.id, TaskState::Rejected));
    world.settle();
    failed.id
}

#[test]
fn a_failure_pauses() {
    let mut world = world(None);
    update(&mut world, "v2");
    world.settle();
    let failed = fail_newcomer(&mut world, "v2");
    let text = format!("update paused due to failure or early termination of task {failed}");
    assert_eq!(state(&world), (State::Paused, text.clone()));
    world.run_for(Duration::minutes(5));
    assert_eq!(count(&world, ""), 2, "nothing more is rolled");
    assert_eq!(state(&world), (State::Paused, text));
    // The next spec starts anew.
    update(&mut world, "v3");
    world.run_for(Duration::minutes(1));
    assert_eq!(state(&world).0, State::Completed);
    assert_eq!(count(&world, "v3"), 3);
}

#[test]
fn an_end_after_running_counts_while_it_is_watched() {
    let mut world = world(None);
    update(&mut world, "v2");
    world.settle();
    let_one_run(&mut world, "v2");
    world.settle();
    let early = world
        .wanted("web")
        .into_iter()
        .find(|task| env(task) == "v2" && observed_state(task) == TaskState::Running);
    let early = early.unwrap().id.clone();
    world.report(&early, TaskState::Complete);
    world.settle();
    assert_eq!(state(&world).0, State::Paused);
    assert!(state(&world).1.ends_with(&early));
}

#[test]
fn an_end_after_it_was_watched_is_no_failure_of_the_update() {
    let mut world = world(config(|config| config.delay = seconds(30)));
    update(&mut world, "v2");
    world.run_for(Duration::seconds(6));
    assert_eq!(count(&world, "v2"), 1);
    let mut tasks = world.wanted("web").into_iter();
    let late = tasks.find(|task| env(task) == "v2").unwrap().id.clone();
    world.report(&late, TaskState::Failed);
    world.run_for(Duration::minutes(3));
    assert_eq!(state(&world).0, State::Completed);
    assert_eq!(count(&world, "v2"), 3);
}

#[test]
fn failures_within_the_ratio_are_borne() {
    let mut world = world(config(|config| config.max_failure_ratio = 0.34));
    update(&mut world, "v2");
    world.settle();
    fail_newcomer(&mut world, "v2");
    assert_eq!(state(&world).0, State::Updating);
    world.run_for(Duration::minutes(1));
    assert_eq!(state(&world).0, State::Completed);
    assert_eq!(count(&world, "v2"), 3);
}

#[test]
fn continue_goes_on() {
    let mut world = world(config(|config| {
        config.failure_action = FailureAction::Continue as i32;
    }));
    update(&mut world, "v2");
    world.settle();
    for _ in 0..3 {
        fail_newcomer(&mut world, "v2");
    }
    world.run_for(Duration::minutes(1));
    assert_eq!(state(&world).0, State::Completed);
    assert_eq!((world.running("web"), count(&world, "v2")), (3, 3));
}

#[test]
fn a_failure_rolls_back() {
    let mut world = world(config(|config| {
        config.failure_action = FailureAction::Rollback as i32;
    }));
    update(&mut world, "v2");
    world.settle();
    let_one_run(&mut world, "v2");
    world.settle();
    let failed = fail_newcomer(&mut world, "v2");
    let text = format!("update rolled back due to failure or early termination of task {failed}");
    assert_eq!(state(&world), (State::RollbackStarted, text));
    assert!(world.service("web").previous_spec.is_none());
    world.run_for(Duration::minutes(1));
    let completed = (State::RollbackCompleted, "rollback completed".to_owned());
    assert_eq!(state(&world), completed);
    assert_eq!((world.running("web"), count(&world, "")), (3, 3));
}

#[test]
fn a_failed_rollback_pauses() {
    for (action, verb) in [
        (FailureAction::Pause, "update paused"),
        (FailureAction::Rollback, "rollback paused"),
    ] {
        let mut world = world(config(|config| {
            config.failure_action = FailureAction::Rollback as i32;
        }));
        world.change_service("web", |spec| {
            spec.rollback = config(|config| config.failure_action = action as i32);
        });
        world.run();
        update(&mut world, "v2");
        world.settle();
        let_one_run(&mut world, "v2");
        world.settle();
        fail_newcomer(&mut world, "v2");
        assert_eq!(state(&world).0, State::RollbackStarted);
        world.settle();
        let failed = newcomer(&world, "");
        world.report(&failed.id, TaskState::Failed);
        world.settle();
        let text = format!(
            "{verb} due to failure or early termination of task {}",
            failed.id
        );
        assert_eq!(state(&world), (State::RollbackPaused, text));
    }
}

#[test]
fn a_rollback_by_hand() {
    let mut world = world(None);
    update(&mut world, "v2");
    world.run_for(Duration::minutes(1));
    world.apply(Op::UpdateService(UpdateService {
        service_id: "web".to_owned(),
        rollback: true,
        ..UpdateService::default()
    }));
    let started = (
        State::RollbackStarted,
        "manually requested rollback".to_owned(),
    );
    assert_eq!(state(&world), started);
    world.settle();
    assert_eq!(
        (count(&world, ""), count(&world, "v2")),
        (1, 2),
        "one by one"
    );
    world.run_for(Duration::minutes(1));
    assert_eq!(state(&world).0, State::RollbackCompleted);
    assert_eq!(count(&world, ""), 3);
}

#[test]
fn start_first_never_has_fewer() {
    let mut world = world(config(|config| config.order = Order::StartFirst as i32));
    update(&mut world, "v2");
    world.settle();
    assert_eq!((count(&world, ""), count(&world, "v2")), (3, 1));
    assert_eq!(newcomer(&world, "v2").desired_state(), TaskState::Running);
    let_one_run(&mut world, "v2");
    world.settle();
    assert_eq!(world.running("web"), 3);
    assert_eq!((count(&world, ""), count(&world, "v2")), (1 + 1, 1 + 1));
    world.run_for(Duration::minutes(1));
    assert_eq!((world.running("web"), count(&world, "v2")), (3, 3));
    assert_eq!(world.wanted("web").len(), 3);
    assert_eq!(state(&world).0, State::Completed);
}

#[test]
fn a_start_first_newcomer_that_fails_is_tried_again_at_the_pace_of_restarts() {
    let mut world = world(config(|config| {
        config.order = Order::StartFirst as i32;
        config.failure_action = FailureAction::Continue as i32;
    }));
    update(&mut world, "v2");
    world.settle();
    let failed = newcomer(&world, "v2");
    world.report(&failed.id, TaskState::Failed);
    let wake_at = world.settle().unwrap();
    assert_eq!(world.running("web"), 3, "the old ones run on");
    let slot = |world: &World| {
        world
            .wanted("web")
            .iter()
            .filter(|t| t.slot == failed.slot)
            .count()
    };
    assert_eq!(slot(&world), 1);
    world.now = wake_at;
    world.run_for(Duration::minutes(1));
    assert_eq!((world.running("web"), count(&world, "v2")), (3, 3));
    assert_eq!(state(&world).0, State::Completed);
}

#[test]
fn a_start_first_newcomer_that_failed_is_remembered_without_history() {
    let mut world = world(config(|config| {
        config.order = Order::StartFirst as i32;
        config.failure_action = FailureAction::Continue as i32;
    }));
    world.keep_history(0);
    update(&mut world, "v2");
    world.settle();
    let failed = newcomer(&world, "v2");
    world.report(&failed.id, TaskState::Failed);
    let due = world.now + Duration::seconds(5);
    assert_eq!(world.settle(), Some(due), "not at once, over and over");
}

/// One slot whose newcomer failed beside it and was rolled back; its task runs on.
fn rolled_back_beside(restart: RestartPolicy, history: i64) -> (World, Task) {
    let mut world = World::with_nodes(1);
    world.keep_history(history);
    let mut spec = replicated("web", 1);
    spec.update = config(|config| {
        config.order = Order::StartFirst as i32;
        config.failure_action = FailureAction::Rollback as i32;
    });
    task_spec(&mut spec).restart = Some(restart);
    world.add_service(spec);
    world.run();
    let stays = world.only("web");
    update(&mut world, "v2");
    world.settle();
    fail_newcomer(&mut world, "v2");
    world.run_for(Duration::minutes(1));
    assert_eq!(state(&world).0, State::RollbackCompleted);
    assert_eq!(world.only("web").id, stays.id);
    (world, stays)
}

#[test]
fn what_ran_on_through_a_failed_update_is_not_run_twice() {
    let ends = [TaskState::Complete, TaskState::Failed];
    for (end, history) in ends.into_iter().zip([5, 0]) {
        let (mut world, stays) = rolled_back_beside(RestartPolicy::default(), history);
        world.report(&stays.id, end);
        world.run_for(Duration::minutes(1));
        assert_eq!(world.wanted("web").len(), 0, "its policy is never to");
        assert_eq!(state(&world).0, State::RollbackCompleted);
    }
}

#[test]
fn what_ran_on_through_a_failed_update_is_followed_after_the_delay() {
    let restart = RestartPolicy {
        condition: Condition::Any as i32,
        delay: seconds(30),
        max_attempts: 1,
        ..RestartPolicy::default()
    };
    let (mut world, stays) = rolled_back_beside(restart, 0);
    world.report(&stays.id, TaskState::Failed);
    world.run_for(Duration::seconds(29));
    assert_eq!(world.wanted("web").len(), 0);
    world.run_for(Duration::seconds(2));
    assert_eq!((world.running("web"), count(&world, "")), (1, 1));
    assert_eq!(state(&world).0, State::RollbackCompleted);
}

#[test]
fn a_rollback_begins_with_no_attempts_behind_it() {
    let mut world = World::with_nodes(1);
    let mut spec = replicated("web", 1);
    task_spec(&mut spec).restart = Some(RestartPolicy {
        condition: Condition::Any as i32,
        max_attempts: 1,
        ..RestartPolicy::default()
    });
    world.add_service(spec);
    world.run();
    let fail = |world: &mut World| {
        let task = world.only("web");
        world.report(&task.id, TaskState::Failed);
        world.run_for(Duration::minutes(1));
    };
    fail(&mut world);
    update(&mut world, "v2");
    world.run_for(Duration::minutes(1));
    world.apply(Op::UpdateService(UpdateService {
        service_id: "web".to_owned(),
        rollback: true,
        ..UpdateService::default()
    }));
    world.run_for(Duration::minutes(1));
    assert_eq!(state(&world).0, State::RollbackCompleted);
    fail(&mut world);
    assert_eq!(world.running("web"), 1, "the first one since");
    fail(&mut world);
    assert_eq!(world.running("web"), 0);
}

#[test]
fn a_spec_replaced_while_it_rolls_out() {
    for order in [Order::StartFirst, Order::StopFirst] {
        let mut world = world(config(|config| config.order = order as i32));
        update(&mut world, "v2");
        world.settle();
        update(&mut world, "v3");
        world.settle();
        assert_eq!(state(&world).0, State::Updating);
        world.run_for(Duration::minutes(1));
        assert_eq!(
            (world.running("web"), count(&world, "v3")),
            (3, 3),
            "{order:?}"
        );
        assert_eq!(world.wanted("web").len(), 3);
        assert_eq!(state(&world).0, State::Completed);
    }
}

#[test]
fn what_cannot_be_placed_leaves_the_update_in_progress() {
    let mut world = world(None);
    update(&mut world, "v2");
    world.change_service("web", |spec| {
        let placement = task_spec(spec).placement.get_or_insert_default();
        placement.constraints = vec!["node.id==nowhere".to_owned()];
    });
    world.run_for(Duration::hours(1));
    assert_eq!(state(&world).0, State::Updating);
    assert_eq!(world.running("web"), 2);
}

#[test]
fn scaling_to_nothing_completes() {
    let mut world = world(None);
    update(&mut world, "v2");
    world.settle();
    world.scale("web", 0);
    world.run_for(Duration::minutes(1));
    assert_eq!(world.wanted("web").len(), 0);
    let status = world.update_status("web");
    assert!(status.is_none_or(|status| status.state() == State::Completed));
}

#[test]
fn an_ended_task_is_updated_too() {
    let mut world = World::with_nodes(1);
    let mut spec = replicated("web", 1);
    task_spec(&mut spec).restart = Some(RestartPolicy::default());
    world.add_service(spec);
    world.run();
    let task = world.only("web");
    world.report(&task.id, TaskState::Complete);
    world.run();
    update(&mut world, "v2");
    world.run_for(Duration::minutes(1));
    assert_eq!(world.running("web"), 1);
    assert_eq!(state(&world).0, State::Completed);
}

#[test]
fn global_services_roll_too_and_paused_nodes_are_left_out() {
    let mut world = World::with_nodes(3);
    world.add_service(global("web"));
    world.run();
    world.change_node("n2", |spec| spec.availability = Availability::Pause as i32);
    update(&mut world, "v2");
    world.settle();
    assert_eq!((count(&world, ""), count(&world, "v2")), (2, 1));
    world.run_for(Duration::minutes(1));
    assert_eq!((count(&world, ""), count(&world, "v2")), (1, 2));
    assert_eq!(state(&world).0, State::Completed);
    world.change_node("n2", |spec| spec.availability = Availability::Active as i32);
    world.run_for(Duration::minutes(1));
    assert_eq!((world.running("web"), count(&world, "v2")), (3, 3));
}
