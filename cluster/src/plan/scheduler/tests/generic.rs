//! What tasks are given of generic resources.

use std::sync::Arc;

use time::Duration;

use super::{offering, wanting};
use crate::{
    PlainVault, State,
    generic::{discrete, named},
    objects::{
        ChangeTasks, GlobalService, NodeObservation, ObserveNodes, TaskState, command::Op,
        service_spec::Mode, task_change::Change,
    },
    plan::{
        scheduler::schedule,
        testing::{World, container},
    },
};

#[test]
fn names_are_given_in_their_order_and_back_with_the_task() {
    let given = |world: &World, service: &str| {
        let tasks = world.wanted(service).into_iter();
        tasks
            .flat_map(|task| task.assigned_generic_resources.clone())
            .collect::<Vec<_>>()
    };
    let gpus = ["c", "a", "b"].map(|name| named("gpu", name));
    let offered = [&gpus[..], &[discrete("fpga", 4)]].concat();
    let mut world = World::new();
    world.add_node(offering("n1", offered));
    world.add_service(wanting(
        "one",
        1,
        vec![discrete("gpu", 1), discrete("fpga", 3)],
    ));
    world.run();
    assert_eq!(
        given(&world, "one"),
        [discrete("fpga", 3), named("gpu", "c")]
    );
    world.add_service(wanting("two", 2, vec![discrete("gpu", 2)]));
    world.run();
    assert_eq!(world.running("two"), 1);
    assert_eq!(given(&world, "two"), gpus[1..]);
    let mut global = wanting("all", 1, vec![discrete("fpga", 1), discrete("gpu", 0)]);
    global.mode = Some(Mode::Global(GlobalService {}));
    world.add_service(global);
    world.run();
    assert_eq!(given(&world, "all"), [discrete("fpga", 1)]);
    // One that is told to stop has its own until it has.
    world.scale("one", 0);
    world.settle();
    assert_eq!(world.running("two"), 1);
    world.run();
    assert_eq!(world.running("two"), 1, "one is free, two are wanted");
    world.add_service(wanting("three", 1, vec![discrete("gpu", 1)]));
    world.run();
    assert_eq!(given(&world, "three"), gpus[..1]);
}

#[test]
fn what_a_task_has_that_its_node_offers_no_more_is_nobody_elses() {
    let mut world = World::new();
    world.add_node(offering("n1", vec![named("gpu", "a"), named("gpu", "b")]));
    world.add_service(wanting("one", 1, vec![discrete("gpu", 1)]));
    world.run();
    let offered = vec![named("gpu", "b"), named("gpu", "c"), named("gpu", "b")];
    let observation = NodeObservation {
        node_id: "n1".to_owned(),
        description: offering("n1", offered).description,
        ..NodeObservation::default()
    };
    world.apply(Op::ObserveNodes(ObserveNodes {
        nodes: vec![observation],
    }));
    world.add_service(wanting("two", 3, vec![discrete("gpu", 1)]));
    world.run();
    let tasks = world.wanted("two").into_iter();
    let given: Vec<_> = tasks
        .flat_map(|task| task.assigned_generic_resources.clone())
        .collect();
    assert_eq!(given, [named("gpu", "b"), named("gpu", "c")]);
}

#[test]
fn a_plan_of_large_resources_fits_into_a_command() {
    let mut world = World::new();
    let name = |index: usize| named("gpu", &format!("{index:0>1000}"));
    for index in 0..40 {
        world.add_node(offering(&format!("n{index}"), (0..60).map(name).collect()));
    }
    world.add_service(wanting("web", 40, vec![discrete("gpu", 60)]));
    let planned = world.plan().changes;
    world.apply(Op::ChangeTasks(ChangeTasks { changes: planned }));
    let placed = ChangeTasks {
        changes: schedule(&world.state, world.now),
    };
    assert!(!placed.changes.is_empty());
    let bytes = prost::Message::encoded_len(&placed);
    assert!(bytes < crate::MAX_COMMAND_BYTES, "{bytes}");
    world.run();
    assert_eq!(world.running("web"), 40);
}

/// A write of unknown outcome, a new leader: what was planned of an older state comes late.
#[test]
fn what_a_late_plan_gives_is_not_given_twice() {
    let mut world = World::new();
    world.add_node(offering("n1", vec![named("gpu", "a"), named("gpu", "b")]));
    let placed = |world: &mut World, service: &str| {
        world.add_service(wanting(service, 1, vec![discrete("gpu", 1)]));
        let changes = world.plan().changes;
        world.apply(Op::ChangeTasks(ChangeTasks { changes }));
        schedule(&world.state, world.now)
    };
    let late = placed(&mut world, "one");
    let mut other = placed(&mut world, "two");
    // As one who does not know of the first plan's task would give it.
    let two = world.only("two").id;
    other.retain_mut(|change| match &mut change.change {
        Some(Change::Update(update)) if update.task_id == two => {
            update.assigned_generic_resources = vec![named("gpu", "a")];
            true
        }
        _ => false,
    });
    let mut apply = |changes| {
        let applied = world.apply(Op::ChangeTasks(ChangeTasks { changes }));
        (applied.changes.len(), applied.skipped)
    };
    assert_eq!(apply(other), (1, 0));
    assert_eq!(apply(late), (0, 1));
    // Whoever leads next, from a snapshot, knows what is given.
    world.state = State::restore(world.state.snapshot(), Arc::new(PlainVault)).unwrap();
    world.settle();
    let given = |service: &str| world.only(service).assigned_generic_resources;
    assert_eq!(given("two"), [named("gpu", "a")]);
    assert_eq!(given("one"), [named("gpu", "b")]);
}

#[test]
fn a_task_of_a_new_spec_gets_what_its_predecessor_had() {
    let mut world = World::new();
    world.add_node(offering("n1", vec![named("gpu", "a"), named("gpu", "b")]));
    let service = world.add_service(wanting("one", 2, vec![discrete("gpu", 1)]));
    world.run();
    world.change_service(&service, |spec| {
        container(spec).env = vec!["A=b".to_owned()];
    });
    world.run_for(Duration::minutes(1));
    assert_eq!(world.running("one"), 2);
    // One that failed gives it back as well.
    let failed = world.wanted("one")[0].clone();
    world.report(&failed.id, TaskState::Failed);
    world.run_for(Duration::minutes(1));
    assert_eq!(world.running("one"), 2);
    for task in world.wanted("one") {
        let spec = task.spec.as_ref().unwrap();
        assert_eq!(spec.container.as_ref().unwrap().env, ["A=b"]);
        assert_eq!(task.assigned_generic_resources.len(), 1);
    }
}
