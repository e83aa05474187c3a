//! Jobs: their iterations, and what becomes of tasks that do not complete.

use time::Duration;

use crate::{
    is_final,
    objects::{
        Availability, RestartPolicy, Task, TaskState, UpdateService, command::Op,
        restart_policy::Condition, service_spec::Mode,
    },
    observed_state,
    plan::{
        is_wanted,
        testing::{World, container, global_job, native_node, replicated_job, task_spec},
    },
};

/// Tasks that run, oldest first.
fn running(world: &World) -> Vec<Task> {
    let mut tasks: Vec<Task> = world
        .state
        .tasks()
        .filter(|task| observed_state(task) == TaskState::Running && is_wanted(task))
        .map(|task| Task::clone(task))
        .collect();
    tasks.sort_by_key(|task| task.id.clone());
    tasks
}

fn end_all(world: &mut World, end: TaskState) {
    for task in running(world) {
        assert!(world.report(&task.id, end));
    }
    world.run();
}

fn iteration(world: &World) -> u64 {
    let status = world.service("job").job_status.unwrap();
    status.job_iteration.unwrap().index
}

/// Completed tasks of the present iteration.
fn completed(world: &World) -> usize {
    let now = iteration(world);
    let tasks = world.state.tasks_of_service("job");
    let counts = |task: &&std::sync::Arc<Task>| {
        task.job_iteration.is_some_and(|of| of.index == now)
            && observed_state(task) == TaskState::Complete
    };
    tasks.filter(counts).count()
}

fn update(world: &mut World) {
    world.change_service("job", |spec| task_spec(spec).force_update += 1);
    world.run();
}

#[test]
fn a_job_without_place_or_room_makes_no_tasks() {
    for (at_a_time, completions) in [(0, 3), (3, 0)] {
        let mut world = World::with_nodes(1);
        world.add_service(replicated_job("job", at_a_time, completions));
        world.run();
        assert_eq!(world.state.tasks().count(), 0);
    }
    let mut world = World::new();
    world.add_service(global_job("job"));
    world.run();
    assert_eq!(world.state.tasks().count(), 0);
}

#[test]
fn so_many_run_at_a_time_until_all_have_completed() {
    let mut world = World::with_nodes(2);
    world.add_service(replicated_job("job", 2, 5));
    world.run();
    for (runs, done) in [(2, 0), (2, 2), (1, 4), (0, 5)] {
        let tasks = running(&world);
        assert_eq!((tasks.len(), completed(&world)), (runs, done));
        for task in &tasks {
            assert_eq!(task.desired_state(), TaskState::Complete);
            assert_eq!(task.job_iteration.unwrap().index, 0);
        }
        end_all(&mut world, TaskState::Complete);
    }
    let mut slots: Vec<u64> = world.state.tasks().map(|task| task.slot).collect();
    slots.sort_unstable();
    assert_eq!(slots, [0, 1, 2, 3, 4]);
    assert!(world.update_status("job").is_none());
    world.run_for(Duration::hours(1));
    assert_eq!(world.state.tasks().count(), 5, "what is done stays done");
}

#[test]
fn what_fails_is_tried_again_as_the_policy_says() {
    let table = [
        (Condition::None, 0, 1),
        (Condition::OnFailure, 2, 3),
        (Condition::Any, 1, 2),
    ];
    for (condition, max_attempts, expected) in table {
        let mut world = World::with_nodes(1);
        let mut job = replicated_job("job", 1, 2);
        task_spec(&mut job).restart = Some(RestartPolicy {
            condition: condition as i32,
            max_attempts,
            ..RestartPolicy::default()
        });
        world.add_service(job);
        world.run();
        let mut tries = [0; 2];
        for _ in 0..10 {
            for task in running(&world) {
                tries[usize::try_from(task.slot).unwrap()] += 1;
                assert!(world.report(&task.id, TaskState::Failed));
            }
            world.run_for(Duration::seconds(6));
        }
        // What is given up in one slot is tried in the next.
        assert_eq!(tries, [expected; 2], "{condition:?}");
        assert!(running(&world).is_empty() && completed(&world) == 0);
        // Attempts of the iteration before do not count against the next.
        update(&mut world);
        assert_eq!(running(&world).len(), 1);
    }
}

#[test]
fn a_restart_waits_for_its_delay_and_others_do_not() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated_job("job", 1, 2));
    world.run();
    let first = running(&world).remove(0);
    world.report(&first.id, TaskState::Failed);
    world.run();
    assert_eq!(running(&world)[0].slot, 1);
    world.run_for(Duration::seconds(4));
    end_all(&mut world, TaskState::Complete);
    assert!(running(&world).is_empty());
    world.run_for(Duration::seconds(2));
    assert_eq!(running(&world)[0].slot, 0);
}

#[test]
fn each_change_begins_an_iteration() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated_job("job", 2, 3));
    world.run();
    end_all(&mut world, TaskState::Complete);
    let old = running(&world);
    assert_eq!((old.len(), completed(&world)), (1, 2));
    world.change_service("job", |spec| {
        let labels = &mut spec.annotations.as_mut().unwrap().labels;
        labels.insert("a".to_owned(), "b".to_owned());
    });
    world.settle();
    let left = world.state.task(&old[0].id).unwrap();
    assert_eq!(left.desired_state(), TaskState::Remove);
    assert_eq!((iteration(&world), completed(&world)), (1, 0));
    world.run();
    assert!(world.state.task(&old[0].id).is_none());
    end_all(&mut world, TaskState::Complete);
    end_all(&mut world, TaskState::Complete);
    assert_eq!(completed(&world), 3);
    // To go back is a change too.
    world.apply(Op::UpdateService(UpdateService {
        service_id: "job".to_owned(),
        rollback: true,
        ..UpdateService::default()
    }));
    world.run();
    assert_eq!((iteration(&world), completed(&world)), (2, 0));
    assert!(world.update_status("job").is_none());
    assert_eq!(running(&world).len(), 2);
}

#[test]
fn what_failed_as_its_iteration_ended_stays_ended() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated_job("job", 1, 1));
    world.run();
    let failed = running(&world).remove(0).id;
    world.change_service("job", |spec| task_spec(spec).force_update += 1);
    // Its node reports between plan and change: it is not told to go.
    let planned = world.plan();
    assert!(world.report(&failed, TaskState::Failed));
    world.carry_out(planned);
    world.run();
    let failed = world.state.task(&failed).unwrap();
    assert_eq!(failed.desired_state(), TaskState::Shutdown);
    assert_eq!(running(&world).len(), 1);
}

#[test]
fn history_of_a_place_is_trimmed_and_what_counts_stays() {
    let mut world = World::with_nodes(1);
    world.keep_history(2);
    world.add_service(replicated_job("job", 1, 1));
    world.run();
    for _ in 0..8 {
        end_all(&mut world, TaskState::Complete);
        assert_eq!(completed(&world), 1);
        update(&mut world);
    }
    let ended = world.state.tasks().filter(|task| is_final(task)).count();
    assert_eq!(ended, 1, "beside the one that runs");
    end_all(&mut world, TaskState::Complete);
    world.keep_history(0);
    world.run();
    assert_eq!(completed(&world), 1);
    assert!(running(&world).is_empty());
}

#[test]
fn a_drained_node_hands_its_job_on_and_no_two_run_it() {
    let mut world = World::with_nodes(2);
    world.add_service(replicated_job("job", 1, 1));
    world.run();
    let first = running(&world).remove(0);
    world.change_node(&first.node_id, |spec| {
        spec.availability = Availability::Drain as i32;
    });
    world.settle();
    let only: Vec<_> = world.state.tasks().collect();
    assert_eq!(only.len(), 1, "the other one waits until this has stopped");
    assert_eq!(only[0].desired_state(), TaskState::Shutdown);
    world.run();
    let second = running(&world).remove(0);
    assert_ne!(second.node_id, first.node_id);
    assert_eq!(second.slot, 0);
}

#[test]
fn a_global_job_runs_once_on_each_node_that_was_there() {
    let mut world = World::with_nodes(2);
    world.change_node("n2", |spec| {
        spec.availability = Availability::Pause as i32;
    });
    world.add_service(global_job("job"));
    world.run();
    assert_eq!(running(&world).len(), 1);
    end_all(&mut world, TaskState::Complete);
    world.add_node(native_node("n3"));
    world.run();
    assert!(
        running(&world).is_empty(),
        "who joins later has no part in it"
    );
    world.change_node("n2", |spec| {
        spec.availability = Availability::Active as i32;
    });
    world.run();
    assert_eq!(running(&world)[0].node_id, "n2");
    end_all(&mut world, TaskState::Complete);
    world.run_for(Duration::hours(1));
    assert_eq!(completed(&world), 2);
    update(&mut world);
    assert_eq!(
        running(&world).len(),
        3,
        "the next iteration is everybody's"
    );
}

#[test]
fn what_may_not_be_asked_of_a_job() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated_job("job", 1, 1));
    let mut other = world.service("job").spec.clone().unwrap();
    other.mode = Some(Mode::GlobalJob(crate::objects::GlobalJob {}));
    container(&mut other).image = "host".to_owned();
    let refused = world.try_apply(Op::UpdateService(UpdateService {
        service_id: "job".to_owned(),
        spec: Some(other),
        ..UpdateService::default()
    }));
    let text = refused.unwrap_err().to_string();
    assert_eq!(text, "service mode change is not allowed");
}
