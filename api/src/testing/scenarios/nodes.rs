//! Nodes.

use axum::body::Body;
use serde_json::json;
use waxseal_cluster::{
    objects::{NodeObservation, NodeState, NodeStatus, ObserveNodes},
    plan::MemberView,
};

use super::super::{FakeCluster, replay::Client};
use crate::cluster::{Cluster, ClusterError, ManagerGroup};

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
        ("%7B%22name%22:[%22w%22]%7D", 1),
        ("%7B%22name%22:[%22W%22]%7D", 0),
        (
            "%7B%22role%22:[%22%22],%22membership%22:[%22Accepted%22]%7D",
            2,
        ),
        ("%7B%22role%22:[%22Manager%22,%22%22]%7D", 1),
        ("%7B%22node.label%22:[%22dc=%22]%7D", 1),
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
    let (status, text) = update(&engine, None, "manager", "active").await;
    assert_eq!(status, 400);
    assert!(text.contains("is a Docker Engine"), "{text}");
    // Whoever wrote the state says who may be one.
    assert_eq!(update(&ours, None, "manager", "active").await.0, 200);
    assert_eq!(update(&ours, None, "worker", "active").await.0, 200);
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
    let bare = client
        .post("/nodes/nosuch/update?version=1", &json!({}))
        .await;
    assert_eq!(bare.message(), "invalid Role: \"\"");
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

#[tokio::test]
async fn the_raft_group_is_shown_with_and_without_a_leader() {
    let cluster = FakeCluster::manager().await;
    let own = cluster.local().node_id;
    let client = Client::of(&cluster);
    let route = "/waxseal/v1/managers";
    let member = |raft_id, node_id: &str, voter| MemberView {
        raft_id,
        node_id: node_id.to_owned(),
        addr: format!("10.77.0.{raft_id}:2377"),
        voter,
        leader: false,
        reachable: false,
    };
    let mut group = ManagerGroup {
        members: vec![
            member(1, &own, true),
            member(2, "other", true),
            member(3, "third", true),
            member(4, "new", false),
        ],
        leader: Some(own.clone()),
        lag: Some(7),
    };
    cluster.set_group(group.clone());
    let shown = client.get(route).await.json();
    assert_eq!(shown["leader"], json!(own));
    assert_eq!(shown["quorum"], json!({"voters": 3, "needed": 2}));
    assert_eq!(
        shown["managers"][0],
        json!({
            "node_id": own, "hostname": "vm", "raft_id": "0000000000000001",
            "addr": "10.77.0.1:2377", "voter": true, "leader": true,
            "reachability": "reachable", "self": true
        })
    );
    assert_eq!(shown["managers"][3]["voter"], json!(false));
    assert_eq!(shown["managers"][3]["reachability"], json!("unknown"));

    // Nobody leads: reads of the state fail, this does not, and says what to do.
    group.leader = None;
    cluster.set_group(group);
    cluster.refuse(|| ClusterError::NoLeader);
    let shown = client.get(route).await.json();
    assert_eq!(shown["leader"], json!(null));
    assert_eq!(shown["managers"].as_array().unwrap().len(), 4);
    let info = client.get("/info").await.json();
    let error = info["Swarm"]["Error"].as_str().unwrap();
    assert!(
        error.contains("The swarm does not have a leader."),
        "{error}"
    );
    assert_eq!(info["Swarm"]["ControlAvailable"], json!(true));
    let status = client.get("/waxseal/v1/status").await.json();
    assert_eq!(status["group"]["quorum"]["needed"], json!(2));
    let next = status["next"].to_string();
    assert!(next.contains("--force-new-cluster"), "{next}");
}

#[tokio::test]
async fn a_peer_is_an_address_and_given_to_managers_only() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let route = "/waxseal/v1/managers/peer";
    let refused = client.post(route, &json!({"addr": "10.0.0.9"})).await;
    assert_eq!(refused.status.as_u16(), 503);
    assert_eq!(
        client.get("/waxseal/v1/managers").await.status.as_u16(),
        503
    );

    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    for bad in [
        json!({}),
        json!({"addr": ""}),
        json!({"address": "10.0.0.9"}),
    ] {
        assert_eq!(client.post(route, &bad).await.status.as_u16(), 400, "{bad}");
    }
    let taken = client.post(route, &json!({"addr": "10.0.0.9"})).await;
    assert_eq!(taken.status.as_u16(), 202);
    assert_eq!(cluster.contacts(), ["10.0.0.9:2377"]);
}
