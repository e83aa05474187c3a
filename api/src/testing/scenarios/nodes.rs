//! Nodes.

use axum::body::Body;
use serde_json::json;
use waxseal_cluster::objects::{NodeObservation, NodeState, NodeStatus, ObserveNodes};

use super::super::{FakeCluster, replay::Client};
use crate::cluster::Cluster;

#[tokio::test]
async fn nodes_are_listed_by_filters() {
    let cluster = FakeCluster::manager().await;
    let worker = cluster.add_worker("w1", true);
    let client = Client::of(&cluster);
    let set = json!({"Labels": {"dc": "east"}, "Role": "worker", "Availability": "pause"});
    let version = client.get(&format!("/nodes/{worker}")).await.json()["Version"]["Index"].clone();
    let path = format!("/nodes/{worker}/update?version={version}");
    assert_eq!(client.post(&path, &set).await.status, 200);
    let again = client.post(&path, &set).await;
    assert_eq!(again.status, 500);
    assert_eq!(
        again.message(),
        "rpc error: code = Unknown desc = update out of sequence"
    );

    let cases = [
        ("%7B%7D", 2),
        ("%7B%22role%22:%7B%22manager%22:true%7D%7D", 1),
        ("%7B%22role%22:[%22manager%22,%22worker%22]%7D", 2),
        ("%7B%22membership%22:[%22accepted%22]%7D", 2),
        ("%7B%22membership%22:[%22pending%22]%7D", 0),
        ("%7B%22name%22:[%22W%22]%7D", 1),
        ("%7B%22node.label%22:[%22dc=east%22]%7D", 1),
        ("%7B%22node.label%22:[%22dc%22,%22x%22]%7D", 0),
        ("%7B%22label%22:[%22dc%22]%7D", 0),
    ];
    for (filters, count) in cases {
        let answer = client.get(&format!("/v1.41/nodes?filters={filters}")).await;
        assert_eq!(answer.json().as_array().unwrap().len(), count, "{filters}");
    }
    for (key, value) in [("role", "bogus"), ("membership", "bogus")] {
        let path = format!("/nodes?filters=%7B%22{key}%22:[%22{value}%22]%7D");
        let answer = client.get(&path).await;
        assert_eq!(answer.status, 500);
        assert_eq!(answer.message(), format!("Invalid {key} filter: 'bogus'"));
    }
    let unknown = client
        .get("/v1.44/nodes?filters=%7B%22bogus%22:[]%7D")
        .await;
    assert_eq!(
        (unknown.status.as_u16(), unknown.message().as_str()),
        (400, "invalid filter 'bogus'")
    );
    let garbage = client.get("/v1.44/nodes?filters=x").await;
    assert_eq!(
        (garbage.status.as_u16(), garbage.message().as_str()),
        (400, "invalid filter")
    );
}

#[tokio::test]
async fn nodes_change_within_their_rules() {
    let cluster = FakeCluster::manager().await;
    let ours = cluster.add_worker("w1", true);
    let engine = cluster.add_worker("w1", false);
    let first = cluster.local().node_id;
    let client = Client::of(&cluster);
    let update = async |id: &str, version: Option<u64>, role: &str, availability: &str| {
        let current = client.get(&format!("/nodes/{id}")).await.json();
        let version = version.unwrap_or_else(|| current["Version"]["Index"].as_u64().unwrap());
        let spec = json!({"Labels": {}, "Role": role, "Availability": availability});
        let path = format!("/nodes/{id}/update?version={version}");
        let answer = client.post(&path, &spec).await;
        (answer.status.as_u16(), answer.message())
    };
    let bad = |text: &str| (400, text.to_owned());
    assert_eq!(
        update(&ours, None, "bogus", "active").await,
        bad("invalid Role: \"bogus\"")
    );
    assert_eq!(
        update(&ours, None, "", "active").await,
        bad("invalid Role: \"\"")
    );
    assert_eq!(
        update(&ours, None, "worker", "x").await,
        bad("invalid Availability: \"x\"")
    );
    assert_eq!(
        update(&first, None, "worker", "active").await,
        bad(
            "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm"
        )
    );
    let (status, text) = update(&ours, None, "manager", "active").await;
    assert_eq!(status, 501);
    assert!(
        text.ends_with(&format!("node {ours} stays a worker")),
        "{text}"
    );
    let (status, text) = update(&engine, None, "manager", "active").await;
    assert_eq!(status, 400);
    assert!(text.contains("is a Docker Engine"), "{text}");
    assert_eq!(update(&first, None, "manager", "drain").await.0, 200);
    assert_eq!(update(&ours, Some(1), "worker", "active").await.0, 500);

    let w1 = client.get("/nodes/w1").await;
    assert_eq!(
        (w1.status.as_u16(), w1.message()),
        bad("node w1 is ambiguous (2 matches found)")
    );
    let missing = client
        .post(
            "/nodes/nosuch/update?version=1",
            &json!({"Role": "worker", "Availability": "active"}),
        )
        .await;
    assert_eq!(missing.message(), "node nosuch not found");
    let unversioned = client
        .post(&format!("/nodes/{ours}/update"), &json!({}))
        .await;
    assert_eq!(
        unversioned.message(),
        "invalid node version '': strconv.ParseUint: parsing \"\": invalid syntax"
    );
}

#[tokio::test]
async fn nodes_are_removed_when_down_or_by_force() {
    let cluster = FakeCluster::manager().await;
    let [one, two] = ["w1", "w2"].map(|name| cluster.add_worker(name, true));
    let first = cluster.local().node_id;
    let client = Client::of(&cluster);
    let remove = async |path: String| {
        let answer = client.send("DELETE", &path, Body::empty()).await;
        (answer.status.as_u16(), answer.message())
    };
    let refused = |text: String| {
        (
            400,
            format!("rpc error: code = FailedPrecondition desc = {text}"),
        )
    };
    assert_eq!(
        remove(format!("/nodes/{one}")).await,
        refused(format!("node {one} is not down and can't be removed"))
    );
    for query in ["", "?force=1"] {
        assert_eq!(
            remove(format!("/nodes/{first}{query}")).await,
            refused(format!(
                "node {first} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"
            ))
        );
    }
    assert_eq!(
        remove(format!("/nodes/{one}?force=True")).await,
        (200, String::new())
    );
    assert!(cluster.look(|state| state.is_banned(&one)));
    assert_eq!(remove(format!("/nodes/{one}")).await.0, 404);

    let mut status = NodeStatus::default();
    status.set_state(NodeState::Down);
    let down = NodeObservation {
        node_id: two.clone(),
        status: Some(status),
        ..NodeObservation::default()
    };
    let op =
        waxseal_cluster::objects::command::Op::ObserveNodes(ObserveNodes { nodes: vec![down] });
    cluster.propose(Default::default(), op).await.unwrap();
    assert_eq!(remove("/nodes/w2".to_owned()).await, (200, String::new()));
}
