//! What tasks are given of generic resources.

use super::{offering, wanting};
use crate::{
    generic::{discrete, named},
    objects::{
        ChangeTasks, GlobalService, NodeObservation, ObserveNodes, command::Op, service_spec::Mode,
    },
    plan::{scheduler::schedule, testing::World},
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
