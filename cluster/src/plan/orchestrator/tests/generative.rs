//! Random events on a small cluster; after each one the plans are run to their
//! fixpoint and the invariants below are checked.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use time::Duration;

use crate::{
    generic::{GenericStock, discrete, named},
    is_final,
    objects::{
        Availability, GenericResource, NodeState, RemoveNode, RemoveService, RestartPolicy,
        Service, ServiceSpec, Task, TaskState, UpdateConfig, UpdateService, command::Op,
        generic_resource::Resource, restart_policy::Condition, service_spec::Mode,
        update_config::Order,
    },
    observed_state,
    plan::{
        is_current, is_wanted, schedule,
        testing::{
            World, container, description, engine_node, global, global_job, native_node,
            replicated, replicated_job, task_spec,
        },
    },
};

const NODES: usize = 4;
const SERVICES: usize = 3;

#[derive(Clone, Debug)]
enum Event {
    NodeState(usize, NodeState),
    Availability(usize, Availability),
    RemoveNode(usize),
    AddNode(usize),
    Label(usize, bool),
    Create(usize, Shape),
    Scale(usize, u64),
    Update(usize, u8),
    Rollback(usize),
    Remove(usize),
    /// The n-th task that a node holds ends or advances so.
    Report(prop::sample::Index, TaskState),
    /// An update, and a report of a task between its plans and the changes that they ask for.
    UpdateInRace(usize, u8, prop::sample::Index, TaskState),
    /// All reachable nodes do as told.
    Obey,
    Pass(u32),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Replicated,
    Global,
    ReplicatedJob,
    GlobalJob,
}

/// What a service is like.
#[derive(Clone, Debug)]
struct Shape {
    mode: Kind,
    replicas: u64,
    condition: Condition,
    max_attempts: u64,
    order: Order,
    parallelism: u64,
    failure_action: i32,
    constrained: bool,
    engine: bool,
    /// Of a generic resource.
    gpus: i64,
}

fn shape() -> impl Strategy<Value = Shape> {
    let conditions = prop_oneof![
        1 => Just(Condition::None),
        1 => Just(Condition::OnFailure),
        4 => Just(Condition::Any)
    ];
    let restart = (conditions, prop_oneof![3 => Just(0u64), 1 => 1..4u64]);
    let update = (any::<bool>(), 0..3u64, 0..3i32);
    let kinds = prop_oneof![
        2 => Just(Kind::Replicated),
        2 => Just(Kind::Global),
        1 => Just(Kind::ReplicatedJob),
        1 => Just(Kind::GlobalJob)
    ];
    let gpus = prop_oneof![2 => Just(0i64), 1 => 1..4i64];
    let place = (kinds, 0..6u64, any::<bool>(), any::<bool>(), gpus);
    (restart, update, place).prop_map(|((condition, max_attempts), update, place)| Shape {
        mode: place.0,
        replicas: place.1,
        condition,
        max_attempts,
        order: if update.0 {
            Order::StartFirst
        } else {
            Order::StopFirst
        },
        parallelism: update.1,
        failure_action: update.2,
        constrained: place.2,
        engine: place.3,
        gpus: place.4,
    })
}

fn event() -> impl Strategy<Value = Event> {
    let node = 1..=NODES;
    let service = 1..=SERVICES;
    let state = prop_oneof![
        Just(NodeState::Ready),
        Just(NodeState::Down),
        Just(NodeState::Unknown)
    ];
    let availability = prop_oneof![
        2 => Just(Availability::Active),
        1 => Just(Availability::Pause),
        1 => Just(Availability::Drain)
    ];
    let report = prop_oneof![
        Just(TaskState::Running),
        Just(TaskState::Failed),
        Just(TaskState::Rejected),
        Just(TaskState::Complete),
        Just(TaskState::Shutdown)
    ];
    let (service_in_race, state_in_race) = (service.clone(), report.clone());
    prop_oneof![
        2 => (node.clone(), state).prop_map(|(node, state)| Event::NodeState(node, state)),
        2 => (node.clone(), availability).prop_map(|(node, to)| Event::Availability(node, to)),
        1 => node.clone().prop_map(Event::RemoveNode),
        1 => node.clone().prop_map(Event::AddNode),
        1 => (node, any::<bool>()).prop_map(|(node, label)| Event::Label(node, label)),
        4 => (service.clone(), shape()).prop_map(|(service, shape)| Event::Create(service, shape)),
        2 => (service.clone(), 0..7u64).prop_map(|(service, to)| Event::Scale(service, to)),
        3 => (service.clone(), 0..3u8).prop_map(|(service, version)| Event::Update(service, version)),
        1 => service.clone().prop_map(Event::Rollback),
        1 => service.prop_map(Event::Remove),
        6 => (any::<prop::sample::Index>(), report).prop_map(|(task, to)| Event::Report(task, to)),
        2 => (service_in_race, 0..3u8, any::<prop::sample::Index>(), state_in_race).prop_map(
            |(service, version, task, to)| Event::UpdateInRace(service, version, task, to)
        ),
        4 => Just(Event::Obey),
        4 => (1..60_000u32).prop_map(Event::Pass),
    ]
}

fn spec_of(name: &str, shape: &Shape) -> ServiceSpec {
    let mut spec = match shape.mode {
        Kind::Replicated => replicated(name, shape.replicas),
        Kind::Global => global(name),
        Kind::ReplicatedJob => replicated_job(name, shape.parallelism + 1, shape.replicas),
        Kind::GlobalJob => global_job(name),
    };
    if matches!(shape.mode, Kind::Replicated | Kind::Global) {
        spec.update = Some(UpdateConfig {
            parallelism: shape.parallelism,
            order: shape.order as i32,
            failure_action: shape.failure_action,
            ..UpdateConfig::default()
        });
        spec.rollback = spec.update;
    }
    if shape.engine {
        container(&mut spec).image = "busybox".to_owned();
    }
    let task = task_spec(&mut spec);
    task.restart = Some(RestartPolicy {
        condition: shape.condition as i32,
        max_attempts: shape.max_attempts,
        ..RestartPolicy::default()
    });
    if shape.gpus > 0 {
        let resources = task.resources.get_or_insert_default();
        let reserved = resources.reservations.get_or_insert_default();
        reserved.generic = vec![discrete("gpu", shape.gpus)];
    }
    if shape.constrained {
        let placement = task.placement.get_or_insert_default();
        placement.constraints = vec!["node.labels.disk==ssd".to_owned()];
    }
    spec
}

/// Odd nodes are ours, even ones are engines.
fn add_node(world: &mut World, index: usize) {
    let id = format!("n{index}");
    // A removed node never returns under its id.
    if world.state.node(&id).is_some() || world.state.is_banned(&id) {
        return;
    }
    let mut node = if index % 2 == 1 {
        native_node(&id)
    } else {
        engine_node(&id)
    };
    let offered = &mut description(&mut node)
        .resources
        .get_or_insert_default()
        .generic;
    if index > 2 {
        offered.push(discrete("gpu", 5));
    } else {
        offered.extend(["a", "b", "c", "d"].map(|name| named("gpu", name)));
    }
    world.add_node(node);
}

fn happen(world: &mut World, event: &Event) {
    let has_node = |world: &World, id: &str| world.state.node(id).is_some();
    match event {
        Event::NodeState(index, state) => {
            let id = format!("n{index}");
            if has_node(world, &id) {
                world.set_node_state(&id, *state);
            }
        }
        Event::Availability(index, availability) => {
            let id = format!("n{index}");
            if has_node(world, &id) {
                world.change_node(&id, |spec| spec.availability = *availability as i32);
            }
        }
        Event::Label(index, fits) => {
            let id = format!("n{index}");
            if has_node(world, &id) {
                world.change_node(&id, |spec| {
                    let labels = &mut spec.annotations.get_or_insert_default().labels;
                    let value = if *fits { "ssd" } else { "hdd" };
                    labels.insert("disk".to_owned(), value.to_owned());
                });
            }
        }
        Event::RemoveNode(index) => {
            let _absent = world.try_apply(Op::RemoveNode(RemoveNode {
                node_id: format!("n{index}"),
                force: true,
                ban_expires_at: None,
            }));
        }
        Event::AddNode(index) => add_node(world, *index),
        Event::Report(index, state) => report(world, *index, *state),
        Event::UpdateInRace(service, version, index, state) => {
            service_event(world, &Event::Update(*service, *version));
            // One to start the update, one to roll tasks.
            for _ in 0..2 {
                let planned = world.plan();
                report(world, *index, *state);
                world.carry_out(planned);
            }
        }
        Event::Obey => {
            world.run();
        }
        Event::Pass(millis) => world.pass(Duration::milliseconds(i64::from(*millis))),
        on_service => service_event(world, on_service),
    }
}

fn service_event(world: &mut World, event: &Event) {
    let (Event::Create(index, _)
    | Event::Scale(index, _)
    | Event::Update(index, _)
    | Event::Rollback(index)
    | Event::Remove(index)) = event
    else {
        unreachable!("{event:?}");
    };
    let id = format!("s{index}");
    let exists = world.state.service(&id).is_some();
    match event {
        Event::Create(_, shape) if !exists => {
            world.add_service(spec_of(&id, shape));
        }
        Event::Scale(_, replicas) if exists => {
            let spec = world.service(&id).spec.as_ref().unwrap();
            if matches!(spec.mode, Some(Mode::Replicated(_))) {
                world.scale(&id, *replicas);
            }
        }
        Event::Update(_, version) if exists => world.change_service(&id, |spec| {
            container(spec).env = vec![format!("V={version}")];
        }),
        Event::Rollback(_) if exists => {
            let _without_previous = world.try_apply(Op::UpdateService(UpdateService {
                service_id: id,
                rollback: true,
                ..UpdateService::default()
            }));
        }
        Event::Remove(_) if exists => {
            world.apply(Op::RemoveService(RemoveService { service_id: id }));
        }
        _ => {}
    }
}

fn report(world: &mut World, index: prop::sample::Index, state: TaskState) {
    let held: Vec<String> = world
        .state
        .tasks()
        .filter(|task| observed_state(task) >= TaskState::Assigned && !is_final(task))
        .map(|task| task.id.clone())
        .collect();
    if !held.is_empty() {
        let id = &held[index.index(held.len())];
        world.report(id, state);
    }
}

/// The tasks of a service by place.
fn places(world: &World, service: &str) -> BTreeMap<String, Vec<Task>> {
    let mut places: BTreeMap<String, Vec<Task>> = BTreeMap::new();
    for task in world.state.tasks_of_service(service) {
        let place = match task.slot {
            0 => task.node_id.clone(),
            slot => slot.to_string(),
        };
        places.entry(place).or_default().push(Task::clone(task));
    }
    places
}

/// Meant to run and not a job's task that has.
fn is_to_run(task: &Task) -> bool {
    is_wanted(task) && !has_completed_its_job(task)
}

fn has_completed_its_job(task: &Task) -> bool {
    task.job_iteration.is_some() && observed_state(task) == TaskState::Complete
}

fn no_two_wanted_in_one_place_beyond_start_first(world: &World) {
    for service in world.state.services() {
        let update = service.spec.as_ref().unwrap().update.unwrap_or_default();
        for (place, tasks) in places(world, &service.id) {
            let wanted = tasks.iter().filter(|task| is_to_run(task));
            let wanted: Vec<_> = wanted.collect();
            let most = if update.order() == Order::StartFirst {
                2
            } else {
                1
            };
            assert!(wanted.len() <= most, "{place}: {wanted:#?}");
            let running = wanted
                .iter()
                .filter(|task| observed_state(task) == TaskState::Running);
            assert!(running.count() <= 1, "{place}: {wanted:#?}");
        }
    }
}

fn nothing_wanted_on_a_node_that_holds_no_tasks(world: &World) {
    for task in world.state.tasks().filter(|task| is_to_run(task)) {
        if task.node_id.is_empty() {
            continue;
        }
        let node = world.state.node(&task.node_id).unwrap();
        let spec = node.spec.as_ref().unwrap();
        assert_ne!(spec.availability(), Availability::Drain, "{task:#?}");
        let state = node.status.as_ref().unwrap().state();
        assert_ne!(state, NodeState::Down, "{task:#?}");
    }
}

fn nothing_ended_is_wanted(world: &World) {
    for task in world.state.tasks() {
        assert!(!is_to_run(task) || !is_final(task), "{task:#?}");
    }
}

fn as_many_places_as_asked_for(world: &World) {
    for service in world.state.services() {
        let spec = service.spec.as_ref().unwrap();
        let Some(Mode::Replicated(mode)) = spec.mode else {
            continue;
        };
        let staying: BTreeSet<u64> = world
            .state
            .tasks_of_service(&service.id)
            .filter(|task| task.desired_state() < TaskState::Remove)
            .map(|task| task.slot)
            .collect();
        assert_eq!(staying.len() as u64, mode.replicas, "{staying:?}");
    }
}

fn history_is_bounded(world: &World) {
    for service in world.state.services() {
        for (place, tasks) in places(world, &service.id) {
            // Five, and what must not be removed yet: tasks that may still run, and the one
            // by which the place of a job is done.
            let counts = |task: &&Task| is_final(task) && !is_what_counts(service, task);
            let ended = tasks.iter().filter(counts).count();
            assert!(ended <= 5, "{place}: {ended}");
        }
    }
}

/// A task that makes the place of a job done.
fn is_what_counts(service: &Service, task: &Task) -> bool {
    has_completed_its_job(task) && is_current(service, task, None)
}

fn jobs_stay_within_bounds(world: &World) {
    for service in world.state.services() {
        let tasks = || world.state.tasks_of_service(&service.id);
        let done: Vec<_> = tasks()
            .filter(|task| is_what_counts(service, task))
            .map(|task| (task.slot, &task.node_id))
            .collect();
        let under_way = tasks().filter(|task| is_to_run(task)).count() as u64;
        match service.spec.as_ref().unwrap().mode.unwrap() {
            Mode::ReplicatedJob(job) => {
                assert!(under_way <= job.max_concurrent, "{service:#?}");
                let slots: BTreeSet<u64> = done.iter().map(|(slot, _)| *slot).collect();
                assert!(slots.iter().all(|slot| *slot < job.total_completions));
                // Nothing runs in a slot that is done.
                let again = |task: &Task| is_to_run(task) && slots.contains(&task.slot);
                assert!(!tasks().any(|task| again(task)), "{service:#?}");
            }
            Mode::GlobalJob(_) => {
                let again = |task: &Task| {
                    is_to_run(task) && done.iter().any(|(_, node)| **node == task.node_id)
                };
                assert!(!tasks().any(|task| again(task)), "{service:#?}");
            }
            Mode::Replicated(_) | Mode::Global(_) => {}
        }
        let old = |task: &Task| is_to_run(task) && task.job_iteration.is_some();
        let is_old = |task: &Task| old(task) && !is_current(service, task, None);
        assert!(!tasks().any(|task| is_old(task)), "{service:#?}");
    }
}

/// Ends well the tasks of jobs that run.
fn finish_jobs(world: &mut World) {
    let running: Vec<String> = world
        .state
        .tasks()
        .filter(|task| is_to_run(task) && task.job_iteration.is_some())
        .filter(|task| observed_state(task) == TaskState::Running)
        .map(|task| task.id.clone())
        .collect();
    for id in running {
        world.report(&id, TaskState::Complete);
    }
}

fn nothing_is_left_of_removed_services_but_what_runs(world: &World) {
    for task in world.state.tasks() {
        if world.state.service(&task.service_id).is_none() {
            let state = observed_state(task);
            let may_run = (TaskState::Assigned..=TaskState::Running).contains(&state);
            assert!(
                may_run && task.desired_state() == TaskState::Remove,
                "{task:#?}"
            );
        }
    }
}

/// What live tasks of a node were given is offered there, and is theirs alone; each has as much
/// as it reserves.
fn what_is_given_is_given_once(world: &World) {
    for node in world.state.nodes() {
        let mut stock = GenericStock::of(node);
        for task in world.state.tasks_of_node(&node.id) {
            if is_final(task) {
                continue;
            }
            let given = &task.assigned_generic_resources;
            assert!(stock.take(given), "{node:#?} {task:#?}");
            let resources = task.spec.as_ref().unwrap().resources.as_ref();
            let reserved = resources.and_then(|resources| resources.reservations.as_ref());
            let wanted = reserved.map_or(0, |reserved| number_of(&reserved.generic));
            let has_been_handed_over = observed_state(task) >= TaskState::Assigned;
            let expected = if has_been_handed_over { wanted } else { 0 };
            assert_eq!(number_of(given), expected, "{task:#?}");
        }
    }
}

fn number_of(resources: &[GenericResource]) -> i64 {
    let numbers = resources.iter().map(|one| match &one.resource {
        Some(Resource::DiscreteResourceSpec(discrete)) => discrete.value,
        Some(Resource::NamedResourceSpec(_)) => 1,
        None => 0,
    });
    numbers.sum()
}

fn plans_ask_for_nothing(world: &mut World) {
    let planned = world.plan();
    assert!(planned.changes.is_empty(), "{:#?}", planned.changes);
    assert!(planned.service_updates.is_empty());
    assert!(schedule(&world.state, world.now).is_empty());
    assert!(planned.wake_at.is_none_or(|at| at > world.now), "spins");
}

fn check(world: &mut World) {
    world.settle();
    plans_ask_for_nothing(world);
    no_two_wanted_in_one_place_beyond_start_first(world);
    nothing_wanted_on_a_node_that_holds_no_tasks(world);
    nothing_ended_is_wanted(world);
    as_many_places_as_asked_for(world);
    history_is_bounded(world);
    jobs_stay_within_bounds(world);
    what_is_given_is_given_once(world);
    nothing_is_left_of_removed_services_but_what_runs(world);
}

/// With all nodes well and time enough, every service that is restarted without
/// limit runs whole.
fn converges(world: &mut World) {
    for index in 1..=NODES {
        let id = format!("n{index}");
        if world.state.node(&id).is_some() {
            world.set_node_state(&id, NodeState::Ready);
            world.change_node(&id, |spec| spec.availability = Availability::Active as i32);
        }
    }
    world.run_for(Duration::minutes(3));
    // Of a job with as many completions as may be asked for, at most so many follow.
    for _ in 0..8 {
        finish_jobs(world);
        world.run_for(Duration::minutes(1));
    }
    check(world);
    for service in world.state.services() {
        let spec = service.spec.as_ref().unwrap();
        let task = spec.task.as_ref().unwrap();
        let restart = task.restart.as_ref().unwrap();
        let image = &task.container.as_ref().unwrap().image;
        let parity = usize::from(image == "host");
        let began = service.job_status.and_then(|status| status.last_execution);
        let can_run = |node: &crate::objects::Node| {
            let index: usize = node.id.trim_start_matches('n').parse().unwrap_or(0);
            let labels = &node.spec.as_ref().unwrap().annotations;
            let disk = labels.as_ref().and_then(|all| all.labels.get("disk"));
            let joined = node.meta.as_ref().and_then(|meta| meta.created_at);
            let was_there = began.is_none_or(|began| {
                let joined = joined.unwrap();
                (joined.seconds, joined.nanos) <= (began.seconds, began.nanos)
            });
            index > 0
                && (was_there || !matches!(spec.mode, Some(Mode::GlobalJob(_))))
                && index % 2 == parity
                && (task.placement.is_none() || disk.is_some_and(|disk| disk == "ssd"))
        };
        let able = world.state.nodes().filter(|node| can_run(node)).count();
        if restart.condition() != Condition::Any || restart.max_attempts > 0 {
            continue;
        }
        // There may never be enough of what these reserve.
        if task.resources.is_some() {
            continue;
        }
        let (expected, is_job) = match spec.mode.unwrap() {
            Mode::Replicated(_) | Mode::ReplicatedJob(_) if able == 0 => continue,
            Mode::Replicated(mode) => (usize::try_from(mode.replicas).unwrap(), false),
            Mode::Global(_) => (able, false),
            Mode::ReplicatedJob(job) => (usize::try_from(job.total_completions).unwrap(), true),
            Mode::GlobalJob(_) => (able, true),
        };
        let tasks = world.state.tasks_of_service(&service.id);
        // A node that has since lost the label has done its part too.
        let is_replicated = matches!(spec.mode, Some(Mode::ReplicatedJob(_)));
        let done = |task: &Task| {
            let node = world.state.node(&task.node_id);
            is_what_counts(service, task)
                && (is_replicated || node.is_some_and(|node| can_run(node)))
        };
        let reached = match is_job {
            true => tasks.filter(|task| done(task)).count(),
            false => world.running(&service.id),
        };
        assert_eq!(reached, expected, "{service:#?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn invariants_hold_whatever_happens(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::new();
        for index in 1..=NODES {
            add_node(&mut world, index);
        }
        for event in &events {
            happen(&mut world, event);
            check(&mut world);
        }
        converges(&mut world);
    }
}
