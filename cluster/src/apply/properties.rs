//! Random commands: what must hold whatever is applied.

use std::{collections::BTreeSet, sync::Arc};

use proptest::{collection::vec, prelude::*};
use prost::Message;

use crate::{
    change::Refusal,
    codec::{decode_command, encode_command},
    meta::version_of,
    needs,
    objects::{
        Certificate, Command, IssuanceState, IssuanceStatus, Meta, NodeObservation, NodeState,
        NodeStatus, ObserveNodes, RemoveConfig, RemoveNode, RemoveSecret, RemoveService,
        RequestCertificate, SecretSpec, StoreCertificate, TaskState, TaskUpdate, UpdateSecret,
        UpdateService, command::Op, task_change,
    },
    snapshot::Restorer,
    state::State,
    testing::{
        FlippingVault, annotations, at, bootstrapped, change_tasks, command, create_config,
        create_secret, create_service, create_worker, report, service_spec, status, task_of,
    },
};

/// What is tried next; ids come from small pools, so that commands meet.
#[derive(Clone, Debug)]
enum Step {
    CreateNode(u8),
    RemoveNode(u8, bool, Option<i64>),
    Observe(u8, NodeState),
    Request(u8, u8),
    Store(u8, u8),
    CreateSecret(u8, u8),
    LabelSecret(u8, bool),
    RemoveSecret(u8),
    CreateConfig(u8),
    RemoveConfig(u8),
    CreateService(u8, u8, Option<u8>),
    UpdateService(u8, u8, Option<u8>, bool),
    RemoveService(u8),
    CreateTask(u8, u8, Option<u8>),
    UpdateTask(u8, bool, Option<TaskState>, Option<u8>, Option<TaskState>),
    RemoveTask(u8),
    Report(u8, u8, TaskState),
}

fn steps() -> impl Strategy<Value = Vec<(Step, i64)>> {
    let task_state = || {
        prop_oneof![
            Just(TaskState::Pending),
            Just(TaskState::Assigned),
            Just(TaskState::Running),
            Just(TaskState::Shutdown),
            Just(TaskState::Failed),
            Just(TaskState::Remove),
            Just(TaskState::Orphaned),
        ]
    };
    let node_state = prop_oneof![Just(NodeState::Ready), Just(NodeState::Down)];
    let id = || 0..4u8;
    let maybe = || proptest::option::of(0..4u8);
    let ban_end = proptest::option::of(0..3000i64);
    let step = prop_oneof![
        1 => id().prop_map(Step::CreateNode),
        1 => (id(), any::<bool>(), ban_end).prop_map(|(a, b, c)| Step::RemoveNode(a, b, c)),
        1 => (id(), node_state).prop_map(|(a, b)| Step::Observe(a, b)),
        1 => (id(), id()).prop_map(|(a, b)| Step::Request(a, b)),
        1 => (id(), id()).prop_map(|(a, b)| Step::Store(a, b)),
        1 => (id(), id()).prop_map(|(a, b)| Step::CreateSecret(a, b)),
        1 => (id(), any::<bool>()).prop_map(|(a, b)| Step::LabelSecret(a, b)),
        1 => id().prop_map(Step::RemoveSecret),
        1 => id().prop_map(Step::CreateConfig),
        1 => id().prop_map(Step::RemoveConfig),
        1 => (id(), id(), maybe()).prop_map(|(a, b, c)| Step::CreateService(a, b, c)),
        1 => (id(), id(), maybe(), any::<bool>())
            .prop_map(|(a, b, c, d)| Step::UpdateService(a, b, c, d)),
        1 => id().prop_map(Step::RemoveService),
        3 => (id(), id(), maybe()).prop_map(|(a, b, c)| Step::CreateTask(a, b, c)),
        3 => (
            id(),
            any::<bool>(),
            proptest::option::of(task_state()),
            maybe(),
            proptest::option::of(task_state())
        )
            .prop_map(|(a, b, c, d, e)| Step::UpdateTask(a, b, c, d, e)),
        2 => id().prop_map(Step::RemoveTask),
        4 => (id(), id(), task_state()).prop_map(|(a, b, c)| Step::Report(a, b, c)),
    ];
    vec((step, 0..3000i64), 0..120)
}

/// A state in which most steps find something: every node, secret, config and
/// service of the pools exists, and some tasks.
fn peopled() -> State {
    let mut state = bootstrapped();
    let all = |step: fn(u8) -> Step| (0..4).map(step);
    let objects = all(Step::CreateNode)
        .chain(all(|id| Step::CreateSecret(id, id)))
        .chain(all(Step::CreateConfig))
        .chain(all(|id| Step::CreateService(id, id, Some(id))))
        .chain(all(|id| Step::CreateTask(id, id, Some(id))));
    for step in objects {
        let op = op(&state, &step).unwrap();
        assert_eq!(state.apply(command(1, op)).unwrap().skipped, 0);
    }
    state
}

fn version(meta: Option<Option<&Meta>>) -> u64 {
    meta.map_or(0, version_of)
}

/// The operation for a step, built on what the state holds.
fn op(state: &State, step: &Step) -> Option<Op> {
    let spec = |state: &State, name: &u8, secret: &Option<u8>| {
        let id = secret.map(|secret| format!("s{secret}"));
        let found = id.as_deref().and_then(|id| state.secret(id));
        let named = found.map(|secret| (secret.id.as_str(), crate::secret_name(secret)));
        let configs: Vec<_> = state
            .configs()
            .map(|config| (config.id.as_str(), crate::config_name(config)))
            .take(1)
            .collect();
        service_spec(&format!("svc{name}"), named.as_slice(), &configs)
    };
    let certificate = |serial: u8, state: IssuanceState| Certificate {
        csr: vec![serial],
        serial: vec![serial],
        certificate: b"pem".to_vec(),
        not_after: Some(at(i64::from(serial) * 1000)),
        status: Some(IssuanceStatus {
            state: state.into(),
            err: String::new(),
        }),
        ..Certificate::default()
    };
    Some(match step {
        Step::CreateNode(id) => create_worker(&format!("w{id}")),
        Step::RemoveNode(id, force, end) => Op::RemoveNode(RemoveNode {
            node_id: format!("w{id}"),
            force: *force,
            ban_expires_at: end.map(at),
        }),
        Step::Observe(id, state) => Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: format!("w{id}"),
                status: Some(NodeStatus {
                    state: (*state).into(),
                    ..NodeStatus::default()
                }),
                session_started: true,
                ..NodeObservation::default()
            }],
        }),
        Step::Request(id, serial) => Op::RequestCertificate(RequestCertificate {
            node_id: format!("w{id}"),
            certificate: Some(certificate(*serial, IssuanceState::Renew)),
        }),
        Step::Store(id, serial) => Op::StoreCertificate(StoreCertificate {
            node_id: format!("w{id}"),
            certificate: Some(certificate(*serial, IssuanceState::Issued)),
        }),
        Step::CreateSecret(id, name) => {
            create_secret(&format!("s{id}"), &format!("name{name}"), &[*id, *name])
        }
        Step::LabelSecret(id, stale) => {
            let secret = state.secret(&format!("s{id}"))?;
            Op::UpdateSecret(UpdateSecret {
                secret_id: secret.id.clone(),
                expected_version: version(Some(secret.meta.as_ref())) + u64::from(*stale),
                spec: Some(SecretSpec {
                    annotations: annotations(crate::secret_name(secret)),
                    ..SecretSpec::default()
                }),
            })
        }
        Step::RemoveSecret(id) => Op::RemoveSecret(RemoveSecret {
            secret_id: format!("s{id}"),
        }),
        Step::CreateConfig(id) => create_config(&format!("c{id}"), &format!("conf{id}"), &[*id]),
        Step::RemoveConfig(id) => Op::RemoveConfig(RemoveConfig {
            config_id: format!("c{id}"),
        }),
        Step::CreateService(id, name, secret) => {
            create_service(&format!("v{id}"), spec(state, name, secret))
        }
        Step::UpdateService(id, name, secret, rollback) => Op::UpdateService(UpdateService {
            service_id: format!("v{id}"),
            spec: Some(spec(state, name, secret)),
            rollback: *rollback,
            ..UpdateService::default()
        }),
        Step::RemoveService(id) => Op::RemoveService(RemoveService {
            service_id: format!("v{id}"),
        }),
        Step::CreateTask(id, service, node) => {
            state.service(&format!("v{service}"))?;
            let node = node.map_or(String::new(), |node| format!("w{node}"));
            let service = format!("v{service}");
            let mut task = task_of(state, &service, &format!("t{id}"), &node);
            if node.is_empty() {
                task.status = Some(status(TaskState::Pending));
            }
            change_tasks([task_change::Change::Create(task)])
        }
        Step::UpdateTask(id, stale, desired, node, observed) => {
            let task = state.task(&format!("t{id}"))?;
            change_tasks([task_change::Change::Update(TaskUpdate {
                task_id: task.id.clone(),
                expected_version: version(Some(task.meta.as_ref())) - u64::from(*stale),
                desired_state: desired.map(Into::into),
                node_id: node.map(|node| format!("w{node}")),
                status: observed.map(status),
                ..TaskUpdate::default()
            })])
        }
        Step::RemoveTask(id) => change_tasks([task_change::Change::Remove(format!("t{id}"))]),
        Step::Report(node, task, state) => report(&format!("w{node}"), &format!("t{task}"), *state),
    })
}

/// What a replica sees of a command: version, changes, or why not.
fn outcome(state: &mut State, command: Command) -> Result<(u64, Vec<String>, usize), Refusal> {
    state.apply(command).map(|applied| {
        let changes = applied.changes.iter().map(|change| format!("{change:?}"));
        (applied.version, changes.collect(), applied.skipped)
    })
}

fn bytes(state: &State) -> Vec<u8> {
    state.snapshot().encode_to_vec()
}

fn restored(state: &State) -> State {
    let mut restorer = Restorer::new(Arc::new(FlippingVault));
    for piece in state.freeze().pieces() {
        restorer.add(&piece).unwrap();
    }
    restorer.finish().unwrap()
}

/// What is referred to is there, and indices are those of a state made anew.
fn check_invariants(state: &State) -> Result<(), TestCaseError> {
    let mut used: BTreeSet<&str> = BTreeSet::new();
    for service in state.services() {
        for spec in [&service.spec, &service.previous_spec]
            .into_iter()
            .flatten()
        {
            used.extend(spec.task.iter().flat_map(needs::secret_ids));
        }
    }
    for task in state
        .tasks()
        .filter(|task| !needs::is_final(task) && task.desired_state() < TaskState::Remove)
    {
        used.extend(task.spec.iter().flat_map(needs::secret_ids));
        let placed = task.node_id.is_empty() || state.node(&task.node_id).is_some();
        prop_assert!(placed, "task {} is on a node that is gone", task.id);
    }
    for id in used {
        prop_assert!(state.secret(id).is_some(), "secret {id} is gone but in use");
    }
    for secret in state.secrets() {
        prop_assert!(
            secret
                .spec
                .as_ref()
                .is_some_and(|spec| spec.data.is_empty())
        );
    }
    let anew = restored(state);
    prop_assert_eq!(&anew.secret_names, &state.secret_names);
    prop_assert_eq!(&anew.config_names, &state.config_names);
    prop_assert_eq!(&anew.service_names, &state.service_names);
    prop_assert_eq!(&anew.hostnames, &state.hostnames);
    prop_assert_eq!(&anew.tasks_by_node, &state.tasks_by_node);
    prop_assert_eq!(&anew.tasks_by_service, &state.tasks_by_service);
    prop_assert_eq!(&anew.secret_users, &state.secret_users);
    prop_assert_eq!(&anew.config_users, &state.config_users);
    prop_assert_eq!(&anew.bans, &state.bans);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn replicas_agree_with_and_without_a_snapshot(steps in steps(), cut in 0..120usize) {
        let (mut one, mut other) = (peopled(), peopled());
        for (index, (step, time)) in steps.iter().enumerate() {
            if index == cut {
                other = restored(&other);
            }
            let Some(op) = op(&one, step) else { continue };
            let command = command(*time, op);
            // As a follower gets it: through the log.
            let logged = encode_command(&command).unwrap();
            let before = bytes(&one);
            let leaders = outcome(&mut one, command);
            let followers = outcome(&mut other, decode_command(&logged).unwrap());
            match &leaders {
                Ok((version, ..)) => prop_assert_eq!(one.version(), *version),
                Err(_) => prop_assert_eq!(&before, &bytes(&one), "refused, yet changed"),
            }
            prop_assert_eq!(leaders, followers);
        }
        prop_assert_eq!(bytes(&one), bytes(&other));
        check_invariants(&one)?;
    }

    #[test]
    fn pieces_joined_are_the_snapshot(steps in steps()) {
        let mut state = peopled();
        for (step, time) in &steps {
            if let Some(op) = op(&state, step) {
                let _ = state.apply(command(*time, op));
            }
        }
        let joined: Vec<u8> = state.freeze().pieces().flat_map(|piece| piece.to_vec()).collect();
        prop_assert_eq!(&joined, &bytes(&state));
        let again = State::restore(state.snapshot(), Arc::new(FlippingVault)).unwrap();
        prop_assert_eq!(bytes(&again), joined);
    }
}
