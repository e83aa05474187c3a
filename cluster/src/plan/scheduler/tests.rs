//! What goes where, and in what words a task is told that nothing fits.

mod generic;

use std::collections::BTreeMap;

use time::Duration;

use super::schedule;
use crate::{
    generic::{discrete, named},
    objects::{
        Availability, ChangeTasks, ContainerSpec, Driver, EndpointSpec, GenericResource, GlobalJob,
        GlobalService, Mount, Node, NodeState, Placement, PlacementPreference, Platform,
        PortConfig, ReplicatedJob, ReplicatedService, ResourceRequirements, Resources, Service,
        ServiceSpec, SpreadOver, TaskState, command::Op, mount, port_config, service_spec::Mode,
    },
    observed_state,
    plan::testing::{
        World, container, description, engine, engine_node, expanding_node, global, limiting_node,
        native_node, replicated, task_spec,
    },
};

/// The reason that the only task of `spec` waits for on these nodes; empty if it
/// does not wait.
fn reason(nodes: Vec<Node>, spec: ServiceSpec) -> String {
    let mut world = World::new();
    for node in nodes {
        world.add_node(node);
    }
    let service = world.add_service(spec);
    world.settle();
    let task = world.only(&service);
    let status = task.status.clone().unwrap();
    let state = observed_state(&task);
    if state == TaskState::Pending {
        assert!(task.node_id.is_empty() || task.slot == 0);
        status.err
    } else {
        assert_eq!(state, TaskState::Assigned, "{status:?}");
        assert!(!task.node_id.is_empty() && status.err.is_empty());
        String::new()
    }
}

fn web(change: impl FnOnce(&mut ServiceSpec)) -> ServiceSpec {
    let mut spec = replicated("web", 1);
    change(&mut spec);
    spec
}

fn constrained(constraint: &str) -> ServiceSpec {
    web(|spec| {
        task_spec(spec)
            .placement
            .get_or_insert_default()
            .constraints = vec![constraint.to_owned()];
    })
}

fn image(name: &str) -> ServiceSpec {
    web(|spec| container(spec).image = name.to_owned())
}

fn reserving(resources: Resources) -> ServiceSpec {
    web(|spec| {
        task_spec(spec).resources = Some(ResourceRequirements {
            reservations: Some(resources),
            ..ResourceRequirements::default()
        });
    })
}

fn wanting(name: &str, replicas: u64, generic: Vec<GenericResource>) -> ServiceSpec {
    let mut spec = reserving(Resources {
        generic,
        ..Resources::default()
    });
    spec.annotations.as_mut().unwrap().name = name.to_owned();
    spec.mode = replicated(name, replicas).mode;
    spec
}

fn offering(id: &str, generic: Vec<GenericResource>) -> Node {
    let mut node = native_node(id);
    description(&mut node).resources.as_mut().unwrap().generic = generic;
    node
}

fn limited(change: impl FnOnce(&mut Resources)) -> ServiceSpec {
    web(|spec| {
        let resources = task_spec(spec).resources.get_or_insert_default();
        change(resources.limits.get_or_insert_default());
    })
}

fn policy(name: &str) -> Node {
    let mut node = native_node("n1");
    let label = super::LABEL_NATIVE_TASKS.to_owned();
    engine(&mut node).labels.insert(label, name.to_owned());
    node
}

fn with_state(state: NodeState) -> Node {
    let mut node = native_node("n1");
    node.status.as_mut().unwrap().state = state as i32;
    node
}

fn with_availability(availability: Availability) -> Node {
    let mut node = native_node("n1");
    node.spec.as_mut().unwrap().availability = availability as i32;
    node
}

fn on_platform(architecture: &str, os: &str) -> ServiceSpec {
    web(|spec| {
        let placement = task_spec(spec).placement.get_or_insert_default();
        placement.platforms = vec![Platform {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
        }];
    })
}

fn bare(id: &str) -> Node {
    let mut node = native_node(id);
    node.description = None;
    node
}

#[test]
fn no_node_fits() {
    const NOT_AVAILABLE: &str = "no suitable node (2 nodes not available for new tasks)";
    let manager = "1 node not available for new tasks";
    let also_manager = |what: &str| format!("no suitable node ({manager}; {what})");
    // The drained manager without description is a node like any other.
    let one = |node: Node| vec![node];
    let table: Vec<(Vec<Node>, ServiceSpec, String)> = vec![
        (
            Vec::new(),
            image("host"),
            format!("no suitable node ({manager})"),
        ),
        (
            one(with_state(NodeState::Unknown)),
            image("host"),
            NOT_AVAILABLE.to_owned(),
        ),
        (
            one(with_state(NodeState::Down)),
            image("host"),
            NOT_AVAILABLE.to_owned(),
        ),
        (
            one(with_availability(Availability::Pause)),
            image("host"),
            NOT_AVAILABLE.to_owned(),
        ),
        (
            one(with_availability(Availability::Drain)),
            image("host"),
            NOT_AVAILABLE.to_owned(),
        ),
        (
            one({
                let mut node = native_node("n1");
                node.spec.as_mut().unwrap().membership = 0;
                node
            }),
            image("host"),
            NOT_AVAILABLE.to_owned(),
        ),
        (
            one(engine_node("n1")),
            image("host:latest"),
            also_manager("native tasks (image host) not supported on 1 node"),
        ),
        (
            one(bare("n1")),
            image("host"),
            also_manager("native tasks (image host) not supported on 1 node"),
        ),
        (
            one(native_node("n1")),
            image("busybox"),
            also_manager("only native tasks (image host) supported on 1 node"),
        ),
        (
            one(policy("off")),
            image("host"),
            also_manager("native tasks (image host) not supported on 1 node"),
        ),
        (
            one(policy("nonroot")),
            image("host"),
            also_manager("native tasks of this user not allowed on 1 node"),
        ),
        (
            one(policy("nonroot")),
            web(|spec| container(spec).user = "0:5".to_owned()),
            also_manager("native tasks of this user not allowed on 1 node"),
        ),
        (
            one(policy("unheard-of")),
            web(|spec| container(spec).user = "1000".to_owned()),
            also_manager("native tasks of this user not allowed on 1 node"),
        ),
        (
            one(native_node("n1")),
            limited(|limits| limits.memory_bytes = 1),
            also_manager("limits of native tasks not enforceable on 1 node"),
        ),
        (
            one(native_node("n1")),
            web(|spec| container(spec).pids_limit = 5),
            also_manager("limits of native tasks not enforceable on 1 node"),
        ),
        (
            one(native_node("n1")),
            reserving(Resources {
                memory_bytes: (1 << 30) + 1,
                ..Resources::default()
            }),
            also_manager("insufficient resources on 1 node"),
        ),
        (
            one(native_node("n1")),
            reserving(Resources {
                generic: vec![GenericResource::default()],
                ..Resources::default()
            }),
            also_manager("insufficient resources on 1 node"),
        ),
        (
            one(offering("n1", vec![named("gpu", "a"), discrete("fpga", 4)])),
            wanting("web", 1, vec![discrete("gpu", 2)]),
            also_manager("insufficient resources on 1 node"),
        ),
        (
            one(offering("n1", vec![named("gpu", "a"), discrete("fpga", 4)])),
            wanting("web", 1, vec![discrete("gpu", 1), discrete("fpga", 5)]),
            also_manager("insufficient resources on 1 node"),
        ),
        // None of them, of a kind that the node does not know.
        (
            one(offering("n1", vec![named("gpu", "a")])),
            wanting("web", 1, vec![discrete("tpu", 0)]),
            also_manager("insufficient resources on 1 node"),
        ),
        // By name: nobody may.
        (
            one(offering("n1", vec![named("gpu", "a")])),
            wanting("web", 1, vec![named("gpu", "a")]),
            also_manager("insufficient resources on 1 node"),
        ),
        (
            one(native_node("n1")),
            web(|spec| {
                task_spec(spec).log_driver = Some(Driver {
                    name: "syslog".to_owned(),
                    ..Driver::default()
                });
            }),
            also_manager("missing plugin on 1 node"),
        ),
        (
            one(engine_node("n1")),
            web(|spec| {
                *container(spec) = with_volume("busybox", "nfs");
            }),
            also_manager("missing plugin on 1 node"),
        ),
        (
            vec![native_node("n1"), native_node("n2")],
            constrained("node.hostname==other"),
            format!(
                "no suitable node (scheduling constraints not satisfied on 2 nodes; {manager})"
            ),
        ),
        (
            one(native_node("n1")),
            constrained("what is this"),
            also_manager("scheduling constraints not satisfied on 1 node"),
        ),
        (
            one(native_node("n1")),
            on_platform("arm64", "linux"),
            also_manager("unsupported platform on 1 node"),
        ),
        (
            one(native_node("n1")),
            web(|spec| container(spec).env = vec!["A={{.Task.ID}}".to_owned()]),
            also_manager("templates not supported (update waxseal there) on 1 node"),
        ),
        (
            one(native_node("n1")),
            on_platform("", "windows"),
            also_manager("unsupported platform on 1 node"),
        ),
    ];
    for (nodes, spec, expected) in table {
        let what = format!("{spec:?}");
        assert_eq!(reason(nodes, spec), expected, "{what}");
    }
}

fn with_volume(image: &str, driver: &str) -> ContainerSpec {
    let driver = Driver {
        name: driver.to_owned(),
        ..Driver::default()
    };
    ContainerSpec {
        image: image.to_owned(),
        mounts: vec![Mount {
            r#type: mount::Type::Volume as i32,
            volume_options: Some(mount::VolumeOptions {
                driver_config: Some(driver),
                ..mount::VolumeOptions::default()
            }),
            ..Mount::default()
        }],
        ..ContainerSpec::default()
    }
}

#[test]
fn the_node_fits() {
    let table: Vec<(Node, ServiceSpec)> = vec![
        (native_node("n1"), image("host")),
        (engine_node("n1"), image("busybox")),
        (policy("any"), image("host")),
        (
            policy("nonroot"),
            web(|spec| container(spec).user = "www-data:0".to_owned()),
        ),
        (limiting_node("n1"), limited(|limits| limits.nano_cpus = 5)),
        // An engine enforces limits whatever it says.
        (
            engine_node("n1"),
            web(|spec| {
                container(spec).image = "busybox".to_owned();
                container(spec).pids_limit = 5;
            }),
        ),
        (native_node("n1"), constrained("node.hostname==HOST-N1")),
        (native_node("n1"), on_platform("amd64", "linux")),
        (native_node("n1"), on_platform("", "")),
        (
            expanding_node("n1"),
            web(|spec| container(spec).hostname = "{{.Task.ID}}".to_owned()),
        ),
        (
            engine_node("n1"),
            web(|spec| {
                container(spec).image = "busybox".to_owned();
                container(spec).hostname = "{{.Task.ID}}".to_owned();
            }),
        ),
        (
            engine_node("n1"),
            web(|spec| *container(spec) = with_volume("busybox", "local")),
        ),
        (
            native_node("n1"),
            reserving(Resources {
                memory_bytes: 1 << 30,
                nano_cpus: 4_000_000_000,
                ..Resources::default()
            }),
        ),
    ];
    for (node, spec) in table {
        let what = format!("{spec:?}");
        assert_eq!(reason(vec![node], spec), "", "{what}");
    }
}

/// As [`super::unplaceable`], of a service that is not there yet.
fn unplaceable(world: &World, spec: ServiceSpec) -> Option<String> {
    let service = Service {
        spec: Some(spec),
        ..Service::default()
    };
    super::unplaceable(&world.state, &service, world.now)
}

#[test]
fn what_no_node_could_take_is_known_before_there_are_tasks() {
    let half = |name: &str| {
        let mut spec = reserving(Resources {
            nano_cpus: 2_500_000_000,
            ..Resources::default()
        });
        spec.annotations.as_mut().unwrap().name = name.to_owned();
        spec
    };
    let manager = "1 node not available for new tasks";
    let mut world = World::new();
    assert_eq!(unplaceable(&world, image("host")).unwrap(), manager);
    world.add_node(native_node("n1"));
    assert_eq!(unplaceable(&world, image("host")), None);
    assert_eq!(
        unplaceable(&world, image("busybox")).unwrap(),
        format!("{manager}; only native tasks (image host) supported on 1 node")
    );
    // Of four processors, two and a half fit once.
    assert_eq!(unplaceable(&world, half("b")), None);
    world.add_service(half("a"));
    world.run();
    assert_eq!(world.running("a"), 1);
    assert_eq!(
        unplaceable(&world, half("b")).unwrap(),
        format!("{manager}; insufficient resources on 1 node")
    );
    // Its own task makes room for the next one.
    let service = world.service("a").clone();
    assert_eq!(super::unplaceable(&world.state, &service, world.now), None);
}

#[test]
fn a_service_without_tasks_lacks_no_node() {
    let world = World::new();
    let job = |max_concurrent, total_completions| {
        Mode::ReplicatedJob(ReplicatedJob {
            max_concurrent,
            total_completions,
        })
    };
    let replicated = |replicas| Mode::Replicated(ReplicatedService { replicas });
    for (mode, lacks) in [
        (replicated(0), false),
        (replicated(1), true),
        (job(0, 1), false),
        (job(1, 0), false),
        (job(1, 1), true),
        (Mode::Global(GlobalService {}), true),
        (Mode::GlobalJob(GlobalJob {}), true),
    ] {
        let spec = web(|spec| spec.mode = Some(mode));
        assert_eq!(unplaceable(&world, spec).is_some(), lacks, "{mode:?}");
    }
}

#[test]
fn a_task_that_would_harm_a_node_is_rejected() {
    let mut world = World::with_nodes(1);
    world.add_service(web(|spec| container(spec).env = vec!["A={{".to_owned()]));
    let due = world.settle().unwrap();
    let task = world.state.tasks_of_service("web").next().unwrap();
    assert_eq!(observed_state(task), TaskState::Rejected);
    let status = task.status.as_ref().unwrap();
    assert_eq!(
        status.err,
        "environment variable A of the task is no template that can be expanded: line 1: \
         malformed template: an action without its end"
    );
    assert!(task.node_id.is_empty());
    // It is tried again at the pace of restarts, not in a loop.
    assert!(due > world.now + Duration::seconds(4));
}

#[test]
fn a_reason_is_written_once_and_again_only_when_it_changes() {
    let mut world = World::new();
    world.add_service(replicated("web", 3));
    world.settle();
    world.pass(Duration::hours(1));
    assert!(schedule(&world.state, world.now).is_empty());
    world.add_node(engine_node("n1"));
    assert_eq!(schedule(&world.state, world.now).len(), 3);
    world.settle();
    assert!(schedule(&world.state, world.now).is_empty());
    world.add_node(native_node("n2"));
    world.run();
    assert_eq!(world.running("web"), 3);
}

fn counts(pairs: &[(&str, usize)]) -> BTreeMap<String, usize> {
    pairs
        .iter()
        .map(|(node, count)| ((*node).to_owned(), *count))
        .collect()
}

#[test]
fn tasks_spread_by_service_then_by_all() {
    let mut world = World::with_nodes(3);
    world.add_service(replicated("a", 4));
    world.run();
    assert_eq!(
        world.spread("a"),
        counts(&[("n1", 2), ("n2", 1), ("n3", 1)])
    );
    world.add_service(replicated("b", 2));
    world.run();
    assert_eq!(world.spread("b"), counts(&[("n2", 1), ("n3", 1)]));
}

#[test]
fn a_node_on_which_a_service_keeps_failing_is_passed_over() {
    let mut world = World::with_nodes(2);
    let mut spec = constrained("node.id==n1");
    task_spec(&mut spec).restart = None;
    let service = world.add_service(spec);
    for _ in 0..5 {
        world.run();
        let task = world.only(&service);
        assert_eq!(task.node_id, "n1");
        world.report(&task.id, TaskState::Failed);
        world.run_for(Duration::seconds(6));
    }
    let task = world.only(&service);
    world.change_service(&service, |spec| {
        task_spec(spec).placement = Some(Placement::default());
    });
    world.report(&task.id, TaskState::Failed);
    world.run_for(Duration::seconds(6));
    assert_eq!(world.only(&service).node_id, "n2");
}

#[test]
fn tasks_spread_over_labels_first() {
    let mut world = World::new();
    let zones = [
        ("n1", "east"),
        ("n2", "east"),
        ("n3", "east"),
        ("n4", "west"),
    ];
    for (id, zone) in zones {
        let mut node = native_node(id);
        let annotations = node
            .spec
            .as_mut()
            .unwrap()
            .annotations
            .get_or_insert_default();
        annotations
            .labels
            .insert("zone".to_owned(), zone.to_owned());
        world.add_node(node);
    }
    world.add_service({
        let mut spec = replicated("web", 6);
        let spread = |descriptor: &str| PlacementPreference {
            spread: Some(SpreadOver {
                spread_descriptor: descriptor.to_owned(),
            }),
        };
        task_spec(&mut spec).placement = Some(Placement {
            preferences: vec![spread("nonsense"), spread("node.labels.zone")],
            ..Placement::default()
        });
        spec
    });
    world.run();
    let expected = counts(&[("n1", 1), ("n2", 1), ("n3", 1), ("n4", 3)]);
    assert_eq!(world.spread("web"), expected);
}

#[test]
fn a_branch_without_room_leaves_the_rest_to_the_others() {
    let mut world = World::new();
    for (id, zone) in [("n1", "east"), ("n2", "west")] {
        let mut node = native_node(id);
        engine(&mut node)
            .labels
            .insert("zone".to_owned(), zone.to_owned());
        world.add_node(node);
    }
    world.add_service({
        let mut spec = replicated("web", 3);
        task_spec(&mut spec).placement = Some(Placement {
            constraints: vec!["node.id!=n1".to_owned()],
            preferences: vec![PlacementPreference {
                spread: Some(SpreadOver {
                    spread_descriptor: "engine.labels.zone".to_owned(),
                }),
            }],
            max_replicas: 2,
            ..Placement::default()
        });
        spec
    });
    world.run();
    assert_eq!(world.spread("web"), counts(&[("n2", 2), ("", 1)]));
    let waiting = world
        .wanted("web")
        .into_iter()
        .find(|task| task.node_id.is_empty());
    let reason = &waiting.unwrap().status.as_ref().unwrap().err;
    assert!(
        reason.contains("max replicas per node limit exceed"),
        "{reason}"
    );
}

fn publishing(name: &str, replicas: u64, published_port: u32) -> ServiceSpec {
    let mut spec = replicated(name, replicas);
    spec.endpoint = Some(EndpointSpec {
        ports: vec![PortConfig {
            target_port: 80,
            published_port,
            publish_mode: port_config::PublishMode::Host as i32,
            ..PortConfig::default()
        }],
        ..EndpointSpec::default()
    });
    spec
}

#[test]
fn a_host_port_is_given_once_on_a_node() {
    let mut world = World::with_nodes(2);
    world.add_service(publishing("web", 3, 8080));
    world.run();
    assert_eq!(world.running("web"), 2);
    let waiting = world
        .wanted("web")
        .into_iter()
        .find(|task| task.node_id.is_empty());
    let reason = &waiting.unwrap().status.as_ref().unwrap().err;
    assert!(
        reason.contains("host-mode port already in use on 2 nodes"),
        "{reason}"
    );
    // A port that the node picks itself never clashes.
    world.add_service(publishing("any", 4, 0));
    world.run();
    assert_eq!(world.running("any"), 4);
}

#[test]
fn what_is_reserved_is_held_until_the_task_has_stopped() {
    let mut world = World::with_nodes(1);
    let half = |name: &str, replicas| {
        let mut spec = reserving(Resources {
            memory_bytes: 1 << 29,
            ..Resources::default()
        });
        spec.annotations.as_mut().unwrap().name = name.to_owned();
        spec.mode = replicated(name, replicas).mode;
        spec
    };
    world.add_service(half("a", 2));
    world.run();
    world.add_service(half("b", 1));
    world.run();
    assert_eq!((world.running("a"), world.running("b")), (2, 0));
    world.scale("a", 1);
    world.settle();
    assert_eq!(observed_state(&world.only("b")), TaskState::Pending);
    world.run();
    assert_eq!((world.running("a"), world.running("b")), (1, 1));
}

#[test]
fn a_global_task_waits_for_its_own_node() {
    let mut world = World::new();
    let mut small = native_node("n1");
    description(&mut small).resources = None;
    world.add_node(small);
    world.add_node(native_node("n2"));
    let mut spec = global("web");
    task_spec(&mut spec).resources = task_spec(&mut reserving(Resources {
        memory_bytes: 1,
        ..Resources::default()
    }))
    .resources
    .clone();
    world.add_service(spec);
    world.run();
    assert_eq!(world.running("web"), 1);
    let waiting = world
        .wanted("web")
        .into_iter()
        .find(|task| task.node_id == "n1");
    let status = waiting.unwrap().status.as_ref().unwrap();
    assert_eq!(status.state(), TaskState::Pending);
    assert_eq!(
        status.err,
        "no suitable node (insufficient resources on 1 node)"
    );
}

#[test]
fn the_same_state_gives_the_same_plan() {
    let mut world = World::with_nodes(20);
    world.add_service(replicated("web", 50));
    let planned = world.plan();
    world.apply(Op::ChangeTasks(ChangeTasks {
        changes: planned.changes,
    }));
    let once = schedule(&world.state, world.now);
    assert_eq!(once.len(), 50);
    assert_eq!(once, schedule(&world.state.clone(), world.now));
}

#[test]
fn a_large_fleet_fills_evenly() {
    let mut world = World::with_nodes(300);
    world.add_service(replicated("web", 3_000));
    world.run();
    let spread = world.spread("web");
    assert_eq!(spread.len(), 300);
    assert!(spread.values().all(|count| *count == 10), "{spread:?}");
}
