//! How many tasks there are, where, and when their records go.

use time::Duration;

use crate::{
    is_final,
    objects::{
        Availability, NetworkAttachmentConfig, NodeState, RemoveNode, RemoveService,
        ReplicatedService, TaskState, command::Op, service_spec::Mode,
    },
    observed_state,
    plan::{
        MAX_CHANGES, MAX_REPLICAS,
        testing::{World, engine_node, global, native_node, replicated, task_spec},
    },
};

#[test]
fn services_without_possible_tasks_are_left_alone() {
    let mut world = World::with_nodes(1);
    let mut overlay = replicated("overlay", 1);
    task_spec(&mut overlay).networks = vec![NetworkAttachmentConfig {
        target: "ingress".to_owned(),
        ..NetworkAttachmentConfig::default()
    }];
    world.add_service(overlay);
    world.settle();
    assert_eq!(world.state.tasks().count(), 0);
}

#[test]
fn an_absurd_number_of_replicas_is_bounded() {
    let mut world = World::new();
    world.add_service(replicated("web", u64::MAX));
    let planned = world.plan();
    assert_eq!(planned.changes.len(), MAX_CHANGES);
    assert_eq!(planned.wake_at, Some(world.now), "the rest follows at once");
    const { assert!(MAX_REPLICAS < u64::MAX) };
}

#[test]
fn slots_are_filled_from_the_lowest() {
    let mut world = World::with_nodes(2);
    world.add_service(replicated("web", 3));
    world.run();
    let slots =
        |world: &World| -> Vec<u64> { world.wanted("web").iter().map(|task| task.slot).collect() };
    assert_eq!(slots(&world), [1, 2, 3]);
    assert_eq!(world.running("web"), 3);
    world.scale("web", 1);
    world.run();
    assert_eq!(slots(&world), [1]);
    assert_eq!(
        world.state.tasks().count(),
        1,
        "records of the others are gone"
    );
    world.scale("web", 4);
    world.run();
    assert_eq!(slots(&world), [1, 2, 3, 4]);
    world.scale("web", 0);
    world.run();
    assert_eq!(world.state.tasks().count(), 0);
    assert!(world.update_status("web").is_none(), "scaling is no update");
}

#[test]
fn what_does_not_run_goes_first_then_what_crowds_a_node() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated("web", 2));
    world.run();
    world.add_node(native_node("n2"));
    world.scale("web", 4);
    world.run();
    assert_eq!(
        world.spread("web").values().copied().collect::<Vec<_>>(),
        [2, 2]
    );
    let first = world.wanted("web")[0].id.clone();
    world.report(&first, TaskState::Failed);
    world.settle();
    world.scale("web", 3);
    world.run();
    let slots: Vec<u64> = world.wanted("web").iter().map(|task| task.slot).collect();
    assert_eq!(slots, [2, 3, 4], "the slot that waited for a restart went");
    world.scale("web", 2);
    world.run();
    assert_eq!(
        world.spread("web").values().copied().collect::<Vec<_>>(),
        [1, 1]
    );
}

#[test]
fn a_slot_that_is_asked_for_again_waits_for_its_old_task() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated("web", 2));
    world.run();
    world.scale("web", 1);
    world.settle();
    world.scale("web", 2);
    world.settle();
    let tasks = world.wanted("web");
    assert_eq!(tasks.len(), 2);
    assert_eq!(tasks[1].desired_state(), TaskState::Ready);
    world.run();
    assert_eq!(world.running("web"), 2);
}

#[test]
fn a_drained_nodes_tasks_move_and_never_run_twice() {
    let mut world = World::with_nodes(2);
    world.add_service(replicated("web", 2));
    world.run();
    world.change_node("n1", |spec| spec.availability = Availability::Drain as i32);
    let wake_at = world.settle();
    let moved = world
        .wanted("web")
        .into_iter()
        .find(|task| task.desired_state() == TaskState::Ready);
    let moved = moved.unwrap().clone();
    assert_eq!(moved.node_id, "n2");
    assert!(wake_at.is_some(), "the old task is not waited for forever");
    world.run();
    assert_eq!(world.spread("web")["n2"], 2);
    assert_eq!(world.running("web"), 2);
    // Back in service it takes new tasks only.
    world.change_node("n1", |spec| spec.availability = Availability::Active as i32);
    world.run();
    assert_eq!(world.spread("web")["n2"], 2);
}

#[test]
fn a_task_that_does_not_stop_is_waited_for_only_so_long() {
    let mut world = World::with_nodes(2);
    world.add_service(replicated("web", 1));
    world.run();
    let stuck = world.only("web");
    world.change_node(&stuck.node_id, |spec| {
        spec.availability = Availability::Drain as i32
    });
    let deadline = world.settle().unwrap();
    assert_eq!(world.only("web").desired_state(), TaskState::Ready);
    world.now = deadline;
    world.settle();
    assert_eq!(world.only("web").desired_state(), TaskState::Running);
    assert_eq!(
        observed_state(world.state.task(&stuck.id).unwrap()),
        TaskState::Running
    );
}

#[test]
fn a_paused_node_keeps_what_it_has() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated("web", 1));
    world.add_service(global("everywhere"));
    world.run();
    world.change_node("n1", |spec| spec.availability = Availability::Pause as i32);
    world.scale("web", 2);
    world.run();
    assert_eq!((world.running("web"), world.running("everywhere")), (1, 1));
    let task = world.only("everywhere");
    world.report(&task.id, TaskState::Failed);
    world.run_for(Duration::minutes(1));
    assert_eq!(world.wanted("everywhere").len(), 0, "but takes no new ones");
    world.change_node("n1", |spec| spec.availability = Availability::Active as i32);
    world.run();
    assert_eq!((world.running("web"), world.running("everywhere")), (2, 1));
}

#[test]
fn tasks_of_a_node_that_is_down_are_replaced_at_once() {
    let mut world = World::with_nodes(2);
    world.add_service(replicated("web", 2));
    world.run();
    world.set_node_state("n1", NodeState::Unknown);
    world.run();
    assert_eq!(world.spread("web").len(), 2, "not known is not down");
    world.set_node_state("n1", NodeState::Down);
    world.run();
    assert_eq!(world.spread("web")["n2"], 2);
    assert_eq!(world.running("web"), 2);
    // It comes back and still runs the old one, which is told to stop.
    world.set_node_state("n1", NodeState::Ready);
    world.run();
    assert_eq!(world.spread("web")["n2"], 2);
    let left: Vec<_> = world.state.tasks_of_node("n1").collect();
    assert!(left.iter().all(|task| is_final(task)), "{left:?}");
}

#[test]
fn tasks_leave_a_node_whose_labels_no_longer_fit() {
    let mut world = World::with_nodes(2);
    let labels = |spec: &mut crate::objects::NodeSpec, value: &str| {
        let labels = &mut spec.annotations.get_or_insert_default().labels;
        labels.insert("disk".to_owned(), value.to_owned());
    };
    world.change_node("n1", |spec| labels(spec, "ssd"));
    let mut spec = replicated("web", 1);
    let placement = task_spec(&mut spec).placement.get_or_insert_default();
    placement.constraints = vec!["node.labels.disk==ssd".to_owned()];
    world.add_service(spec);
    world.run();
    assert_eq!(world.only("web").node_id, "n1");
    world.change_node("n1", |spec| labels(spec, "hdd"));
    world.run();
    assert_eq!(world.only("web").node_id, "");
    world.change_node("n2", |spec| labels(spec, "ssd"));
    world.run();
    assert_eq!(world.only("web").node_id, "n2");
}

#[test]
fn a_global_service_runs_on_every_node_that_can() {
    let mut world = World::with_nodes(2);
    world.add_node(engine_node("e1"));
    let mut unready = native_node("n3");
    unready.status.as_mut().unwrap().state = NodeState::Unknown as i32;
    world.add_node(unready);
    let mut spec = global("web");
    let placement = task_spec(&mut spec).placement.get_or_insert_default();
    placement.constraints = vec!["node.id!=n2".to_owned()];
    world.add_service(spec);
    world.run();
    assert_eq!(world.spread("web").into_keys().collect::<Vec<_>>(), ["n1"]);
    assert_eq!(world.running("web"), 1);
    world.set_node_state("n3", NodeState::Ready);
    world.run();
    assert_eq!(world.spread("web").len(), 2);
    // One task each, whatever happens to the node.
    world.change_node("n1", |spec| spec.availability = Availability::Drain as i32);
    world.run();
    assert_eq!(world.spread("web").into_keys().collect::<Vec<_>>(), ["n3"]);
    world.change_node("n1", |spec| spec.availability = Availability::Active as i32);
    world.run_for(Duration::seconds(10));
    assert_eq!(
        world.spread("web").into_keys().collect::<Vec<_>>(),
        ["n1", "n3"]
    );
    assert_eq!(world.running("web"), 2);
}

#[test]
fn a_removed_nodes_tasks_go_elsewhere_and_their_records_go() {
    let mut world = World::with_nodes(2);
    world.add_service(global("everywhere"));
    world.add_service(replicated("web", 2));
    world.run();
    world.apply(Op::RemoveNode(RemoveNode {
        node_id: "n1".to_owned(),
        force: true,
        ban_expires_at: None,
    }));
    world.run();
    assert_eq!(
        world.spread("everywhere").into_keys().collect::<Vec<_>>(),
        ["n2"]
    );
    assert_eq!(world.running("web"), 2);
    let records = world.state.tasks_of_service("everywhere").count();
    assert_eq!(records, 1, "no history of a place that is no more");
}

fn remove(world: &mut World, service: &str) {
    world.apply(Op::RemoveService(RemoveService {
        service_id: service.to_owned(),
    }));
}

#[test]
fn a_removed_services_records_go_when_its_tasks_have_stopped() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated("web", 2));
    world.add_service(replicated("waiting", 2));
    world.run();
    remove(&mut world, "web");
    world.settle();
    assert_eq!(
        world.state.tasks_of_service("web").count(),
        2,
        "still running"
    );
    world.run();
    assert_eq!(world.state.tasks_of_service("web").count(), 0);
}

#[test]
fn a_removed_services_records_on_dead_nodes_go_too() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated("web", 1));
    world.run();
    world.set_node_state("n1", NodeState::Down);
    world.settle();
    remove(&mut world, "web");
    world.settle();
    assert_eq!(world.state.tasks().count(), 0);
}

#[test]
fn a_slot_keeps_so_much_history() {
    let mut world = World::with_nodes(1);
    world.add_service(replicated("web", 1));
    world.run();
    for _ in 0..8 {
        let task = world.only("web");
        world.report(&task.id, TaskState::Failed);
        world.run_for(Duration::seconds(6));
    }
    let tasks: Vec<_> = world.state.tasks_of_service("web").collect();
    assert_eq!(tasks.len(), 5, "the running one and four before it");
    assert_eq!(world.running("web"), 1);
}

#[test]
fn without_history_the_last_task_of_an_ended_slot_stays() {
    let mut world = World::with_nodes(1);
    world.keep_history(0);
    let mut spec = replicated("web", 1);
    task_spec(&mut spec).restart = Some(crate::objects::RestartPolicy::default());
    world.add_service(spec);
    world.run();
    let task = world.only("web");
    world.report(&task.id, TaskState::Complete);
    world.run_for(Duration::hours(1));
    assert_eq!(world.state.tasks().count(), 1);
    assert_eq!(world.wanted("web").len(), 0);
    world.change_service("web", |spec| {
        spec.mode = Some(Mode::Replicated(ReplicatedService { replicas: 2 }));
    });
    world.run();
    assert_eq!(world.running("web"), 1, "only the new slot");
}
