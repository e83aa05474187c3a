//! Roles on record, manager statuses and feature levels of a manager at work.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tonic::{Code, Request};
use waxseal_ca::{NodeKey, Role};
use waxseal_cluster::{
    FEATURE_LEVEL, feature_level_plugin,
    objects::{
        EngineDescription, Node, NodeDescription, NodeObservation, NodeRole, NodeSpec,
        ObserveNodes, PluginDescription, Reachability, UpdateNode, command::Op,
    },
    plan::{PLUGIN_HOST, PLUGIN_TYPE},
};
use waxseal_manager::{Manager, ProposeError, Start, component};
use waxseal_wire::{FEATURE_MANAGER, swarmkit::IssueNodeCertificateRequest};

use crate::support::{DEADLINE, World, create_secret};

async fn propose(manager: &Manager, op: Op) -> Result<(), ProposeError> {
    manager.propose(component("test"), op).await.map(drop)
}

/// Makes a node say of itself that it is one of ours, at a feature level.
async fn describe(manager: &Manager, node_id: &str, level: u32) {
    let plugin = |name: String| PluginDescription {
        r#type: PLUGIN_TYPE.into(),
        name,
    };
    let engine = EngineDescription {
        plugins: vec![
            plugin(PLUGIN_HOST.into()),
            plugin(feature_level_plugin(level)),
        ],
        ..EngineDescription::default()
    };
    let described = NodeObservation {
        node_id: node_id.into(),
        description: Some(NodeDescription {
            engine: Some(engine),
            ..NodeDescription::default()
        }),
        ..NodeObservation::default()
    };
    let nodes = vec![described];
    propose(manager, Op::ObserveNodes(ObserveNodes { nodes }))
        .await
        .unwrap();
}

async fn wish(manager: &Manager, node_id: &str, role: NodeRole) -> Result<(), ProposeError> {
    let spec = NodeSpec {
        desired_role: role.into(),
        ..NodeSpec::default()
    };
    let op = Op::UpdateNode(UpdateNode {
        node_id: node_id.into(),
        spec: Some(spec),
        ..UpdateNode::default()
    });
    propose(manager, op).await
}

/// Waits until a node's record is as it should be.
async fn until(manager: &Manager, node_id: &str, holds: impl Fn(&Node) -> bool) {
    let waiting = async {
        while !manager.read(|state| state.node(node_id).is_some_and(|node| holds(node))) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_on_record_follow_the_wish() {
    let world = World::new();
    let manager = world.found().await;
    until(&manager, "manager", |node| {
        node.manager_status.as_ref().is_some_and(|status| {
            status.leader
                && status.raft_id == 7
                && status.addr == "192.0.2.1:2377"
                && status.reachability() == Reachability::Reachable
        })
    })
    .await;
    let last = wish(&manager, "manager", NodeRole::Worker)
        .await
        .unwrap_err();
    assert!(
        last.to_string().contains("last manager of the swarm"),
        "{last}"
    );
    assert!(
        wish(&manager, "w1", NodeRole::Manager).await.is_err(),
        "it has not spoken"
    );
    describe(&manager, "w1", FEATURE_LEVEL).await;
    for _ in 0..2 {
        wish(&manager, "w1", NodeRole::Manager).await.unwrap();
        until(&manager, "w1", |node| node.role() == NodeRole::Manager).await;
        wish(&manager, "w1", NodeRole::Worker).await.unwrap();
        until(&manager, "w1", |node| node.role() == NodeRole::Worker).await;
    }
    manager.read(|state| {
        let node = state.node("w1").unwrap();
        assert!(node.manager_status.is_none() && node.ever_manager);
    });
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binary_below_the_clusters_level_does_not_start() {
    let mut world = World::new();
    let manager = world.found().await;
    create_secret(&manager, "s1", 10).await.unwrap();
    manager.shutdown(DEADLINE).await;
    drop(manager);
    // 1. From the log.
    world.level = Some(FEATURE_LEVEL - 1);
    let refused = match world.start(Start::Resume).await {
        Ok(_) => panic!("it started"),
        Err(error) => chain(&error),
    };
    let words = format!(
        "the cluster has feature level {FEATURE_LEVEL} and this binary reads up to {}",
        FEATURE_LEVEL - 1
    );
    assert!(refused.contains(&words), "{refused}");
    // 2. Nothing was changed by it.
    world.level = None;
    let manager = world.start(Start::Resume).await.unwrap();
    assert_eq!(manager.read(|state| state.secrets().count()), 1);
    manager.shutdown(DEADLINE).await;
    drop(manager);
    // 3. The level rises once all managers say that they have it.
    let higher = FEATURE_LEVEL + 1;
    world.level = Some(higher);
    let manager = world.start(Start::Resume).await.unwrap();
    let level = |manager: &Manager| manager.read(|state| state.cluster().unwrap().feature_level);
    assert_eq!(level(&manager), FEATURE_LEVEL);
    describe(&manager, "manager", higher).await;
    let risen = async {
        while level(&manager) < higher {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, risen).await.unwrap();
    manager.shutdown(DEADLINE).await;
    drop(manager);
    world.level = None;
    assert!(world.start(Start::Resume).await.is_err());
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manager_token_is_for_nodes_of_ours() {
    let world = World::new();
    let manager = world.found().await;
    let joiner = world.joiner(&manager).await;
    let request = || IssueNodeCertificateRequest {
        csr: NodeKey::generate().unwrap().csr_pem().unwrap().into_bytes(),
        token: world.tokens.token(Role::Manager).expose_text().into(),
        ..Default::default()
    };
    // A Docker Engine announces nothing.
    let refused = joiner
        .node_ca()
        .issue_node_certificate(request())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("join-token worker"), "{refused}");
    assert_eq!(
        manager.read(|state| state.nodes().count()),
        2,
        "a record was made"
    );
    let mut announced = Request::new(request());
    let features = FEATURE_MANAGER.parse().unwrap();
    announced
        .metadata_mut()
        .insert("waxseal-features", features);
    let answer = joiner
        .node_ca()
        .issue_node_certificate(announced)
        .await
        .unwrap();
    let node_id = answer.into_inner().node_id;
    until(&manager, &node_id, |node| {
        node.role() == NodeRole::Manager && node.ever_manager
    })
    .await;
    manager.shutdown(DEADLINE).await;
}
