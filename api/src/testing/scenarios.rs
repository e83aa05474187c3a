//! What clients rely on, by recorded exchanges and by hand.

use std::sync::Arc;

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::json;
use waxseal_cluster::objects::{NodeObservation, NodeState, NodeStatus, ObserveNodes};

use super::{FakeCluster, replay::Client};
use crate::{
    cluster::{Cluster, ClusterError, LocalState},
    server::Server,
};

#[tokio::test]
async fn an_inactive_node_answers_as_stock() {
    let mut client = Client::of(&FakeCluster::inactive());
    client
        .replay(include_str!("../../tests/data/inactive.jsonl"))
        .await;
}

#[tokio::test]
async fn secrets_live_as_in_stock() {
    let mut client = Client::of(&FakeCluster::manager().await);
    client
        .replay(include_str!("../../tests/data/secrets.jsonl"))
        .await;
}

#[tokio::test]
async fn configs_live_as_in_stock() {
    let mut client = Client::of(&FakeCluster::manager().await);
    client
        .replay(include_str!("../../tests/data/configs.jsonl"))
        .await;
}

#[tokio::test]
async fn a_new_cluster_answers_as_stock() {
    let mut client = Client::of(&FakeCluster::inactive());
    client
        .replay(include_str!("../../tests/data/swarm-init.jsonl"))
        .await;
}

#[tokio::test]
async fn settings_change_as_in_stock() {
    let mut client = Client::of(&FakeCluster::manager().await);
    client
        .replay(include_str!("../../tests/data/swarm-update.jsonl"))
        .await;
}

#[tokio::test]
async fn negotiation_works_in_every_state() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let states = [
        (LocalState::Inactive, false, "inactive"),
        (LocalState::Pending, false, "pending"),
        (LocalState::Locked, false, "locked"),
        (LocalState::Error, false, "error"),
        (LocalState::Active, false, "active/worker"),
        (LocalState::Active, true, "active/manager"),
    ];
    for (state, control_available, word) in states {
        cluster.set_local(|local| {
            local.state = state;
            local.control_available = control_available;
        });
        for method in ["GET", "HEAD"] {
            let answer = client.send(method, "/_ping", Body::empty()).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.text, if method == "GET" { "OK" } else { "" });
            let header = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
            assert_eq!(header("swarm"), word);
            assert_eq!(header("api-version"), "1.44");
            assert_eq!(header("ostype"), "linux");
            assert_eq!(header("docker-experimental"), "false");
            assert_eq!(
                header("cache-control"),
                "no-cache, no-store, must-revalidate"
            );
            assert_eq!(header("pragma"), "no-cache");
            assert_eq!(header("content-type"), "text/plain; charset=utf-8");
            assert!(header("server").ends_with(" (linux)"));
        }
        assert_eq!(client.get("/version").await.status, 200);
        assert_eq!(client.get("/v1.24/info").await.status, 200);
        assert_eq!(client.get("/events?until=1").await.status, 200);
        assert_eq!(client.get("/waxseal/v1/status").await.status, 200);
    }
}

#[tokio::test]
async fn unknown_pages_bear_no_api_headers() {
    let client = Client::of(&FakeCluster::manager().await);
    let pages = [
        ("GET", "/nosuch"),
        ("GET", "/secrets/"),
        ("GET", "/v1.41x/secrets"),
        ("GET", "/v1.41/secrets/a%2Fb"),
        ("PUT", "/v1.41/secrets"),
        ("DELETE", "/swarm"),
        ("HEAD", "/v1.41/secrets"),
        ("POST", "/_ping"),
    ];
    for (method, path) in pages {
        let answer = client.send(method, path, Body::empty()).await;
        assert_eq!(answer.status, 404, "{method} {path}");
        assert_eq!(answer.message(), "page not found");
        assert_eq!(answer.headers["content-type"], "application/json");
        assert!(!answer.headers.contains_key("api-version"));
    }
    let options = client
        .send("OPTIONS", "/v1.41/secrets", Body::empty())
        .await;
    assert_eq!((options.status.as_u16(), options.text.as_str()), (200, ""));
}

#[tokio::test]
async fn what_engines_do_is_refused_with_a_reason() {
    let client = Client::of(&FakeCluster::inactive());
    for path in [
        "/containers/json",
        "/v1.44/images/json",
        "/volumes",
        "/system/df",
        "/plugins",
    ] {
        let answer = client.get(path).await;
        assert_eq!(answer.status, 501, "{path}");
        let message = answer.message();
        assert!(message.starts_with("containers are run by Docker Engine workers; "));
    }
}

#[tokio::test]
async fn manager_calls_say_where_the_node_stands() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    type Case = (fn() -> ClusterError, u16, &'static str);
    let cases: [Case; 7] = [
        (
            || ClusterError::NotInSwarm,
            503,
            "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.",
        ),
        (
            || ClusterError::NotManager,
            503,
            "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.",
        ),
        (
            || ClusterError::Preparing,
            503,
            "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.",
        ),
        (
            || ClusterError::Locked,
            503,
            "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.",
        ),
        (
            || ClusterError::CertificatesExpired,
            503,
            "Swarm certificates have expired. To replace them, leave the swarm and join again.",
        ),
        (
            || ClusterError::NoLeader,
            500,
            "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.",
        ),
        (
            || ClusterError::Storage("no space left on disk; free some and try again".to_owned()),
            500,
            "no space left on disk; free some and try again",
        ),
    ];
    let body = json!({"Name": "a", "Data": "eA=="});
    for (why, status, text) in cases {
        cluster.refuse(why);
        for answer in [
            client.get("/swarm").await,
            client.get("/swarm/unlockkey").await,
            client.get("/nodes").await,
            client.get("/secrets").await,
            client.get("/configs/x").await,
            client.post("/secrets/create", &body).await,
            client.post("/secrets/create", &json!({})).await,
            client.post("/swarm/update?version=1", &json!({})).await,
            client.post("/nodes/x/update?version=1", &json!({})).await,
            client.send("DELETE", "/secrets/a", Body::empty()).await,
        ] {
            assert_eq!(
                (answer.status.as_u16(), answer.message().as_str()),
                (status, text)
            );
        }
        // What is wrong with the request by itself comes first.
        assert_eq!(client.post("/swarm/update", &json!({})).await.status, 400);
        assert_eq!(
            client.get("/secrets?filters=%7B%22x%22:[]%7D").await.status,
            400
        );
        assert_eq!(client.get("/info").await.status, 200);
    }
}

#[tokio::test]
async fn bodies_are_read_in_the_manner_of_the_version() {
    let client = Client::of(&FakeCluster::manager().await);
    let cases = [
        ("", "got EOF while reading request body", ""),
        (
            "{\"Name\":",
            "unexpected EOF",
            "invalid JSON: unexpected EOF",
        ),
        ("{} x", "", "unexpected content after JSON"),
        (
            "[]",
            "json: cannot unmarshal array into Go value of type swarm.SecretSpec",
            "invalid JSON: json: cannot unmarshal array into Go value of type swarm.SecretSpec",
        ),
        (
            "{\"Labels\":{\"a\":1}}",
            "json: cannot unmarshal number into Go struct field SecretSpec.Labels of type string",
            "invalid JSON: json: cannot unmarshal number into Go struct field SecretSpec.Labels of type string",
        ),
        (
            "x",
            "invalid character 'x' looking for beginning of value",
            "invalid JSON: invalid character 'x' looking for beginning of value",
        ),
    ];
    let otherwise = "rpc error: code = InvalidArgument desc = name must be provided";
    for (body, old, new) in cases {
        for (path, text) in [("/v1.41", old), ("/v1.42", new)] {
            let answer = client
                .send("POST", &format!("{path}/secrets/create"), body)
                .await;
            assert_eq!(answer.status, 400);
            let text = if text.is_empty() { otherwise } else { text };
            assert_eq!(answer.message(), text, "{path} {body}");
        }
    }
}

#[tokio::test]
async fn bodies_must_say_that_they_are_json_from_1_42_on() {
    let service = Server::new(FakeCluster::manager().await).service(None);
    let create = |version: &str, content_type: Option<&str>| {
        let mut request = http::Request::post(format!("/{version}/secrets/create"));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = json!({"Name": format!("n{version}").replace('.', "-"), "Data": "eA=="});
        service.answer(request.body(Body::from(body.to_string())).unwrap())
    };
    assert_eq!(create("v1.41", Some("text/plain")).await.status(), 201);
    let refused = create("v1.42", Some("text/plain")).await;
    assert_eq!(refused.status(), 400);
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(
        b"{\"message\":\"unsupported Content-Type header (text/plain): must be 'application/json'\"}"
    ));
    assert_eq!(create("v1.42", None).await.status(), 400);
    let with_charset = Some("application/json; charset=utf-8");
    assert_eq!(create("v1.43", with_charset).await.status(), 201);
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let client = Client::of(&FakeCluster::manager().await);
    // The largest that the CLI sends: a config of twice the limit.
    let sent = json!({"Name": "a", "Data": "A".repeat(2_730_668)});
    let answer = client.post("/configs/create", &sent).await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.message().ends_with("less than 1024000 bytes"),
        "{}",
        answer.message()
    );

    let sent = json!({"Name": "a", "Data": "A".repeat(5 << 20)});
    let answer = client.post("/configs/create", &sent).await;
    assert_eq!(answer.status, 413);
    assert_eq!(
        answer.message(),
        "request body is larger than 4194304 bytes"
    );

    // Without a length, in pieces.
    let piece = || Ok::<_, std::io::Error>(bytes::Bytes::from(vec![b' '; 1 << 20]));
    let pieces = futures::stream::iter((0..5).map(move |_| piece()));
    let response = client
        .open("POST", "/configs/create", Body::from_stream(pieces))
        .await;
    assert_eq!(response.status(), 413);
}

#[tokio::test]
async fn limits_of_secrets_and_configs() {
    let client = Client::of(&FakeCluster::manager().await);
    for (kind, limit) in [("secret", 512_000), ("config", 1_024_000)] {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let create = async |name: &str, bytes: usize| {
            let body = json!({"Name": name, "Data": STANDARD.encode(vec![1; bytes])});
            client.post(&format!("/{kind}s/create"), &body).await
        };
        assert_eq!(create("most", limit - 1).await.status, 201);
        let refused = create("more", limit).await;
        assert_eq!(refused.status, 400);
        assert_eq!(
            refused.message(),
            format!(
                "rpc error: code = InvalidArgument desc = {kind} data must be larger than 0 and less than {limit} bytes"
            )
        );
    }
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let body = json!({"Name": "s", "Data": "bWFya2Vy"});
    let created = client.post("/secrets/create", &body).await;
    let answers = [
        created.text.clone(),
        client.get("/secrets").await.text,
        client.get("/secrets/s").await.text,
        client.post("/secrets/create", &body).await.text,
        client.get("/info").await.text,
        client.get("/events?since=0&until=1795149341").await.text,
    ];
    assert!(
        answers
            .iter()
            .all(|text| !text.contains("marker") && !text.contains("bWFya2Vy"))
    );
    let id = created.json()["ID"].as_str().unwrap().to_owned();
    let stored = cluster.look(|state| state.secret_payload(&id));
    assert_eq!(&**stored.unwrap(), b"marker");
}

#[tokio::test]
async fn the_caller_is_on_record() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    client
        .post("/secrets/create", &json!({"Name": "s", "Data": "eA=="}))
        .await;
    let who = cluster.actors().pop().unwrap().who;
    assert_eq!(
        who,
        Some(waxseal_cluster::objects::actor::Who::SocketUid(1000))
    );
}

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

#[tokio::test]
async fn init_is_checked_before_anything_is_made() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let listen = "0.0.0.0:2377";
    let cases = [
        (
            json!({}),
            400,
            "invalid ListenAddr \"\": invalid empty address",
        ),
        (
            json!({"ListenAddr": listen, "Spec": {"Name": "x"}}),
            400,
            "swarm spec must be named \"default\"",
        ),
        (
            json!({"ListenAddr": listen, "Availability": "bogus"}),
            500,
            "invalid Availability: \"bogus\"",
        ),
        (
            json!({"ListenAddr": listen, "DataPathPort": 80}),
            500,
            "Datapath port number is not in valid range (1024-49151) : 80",
        ),
        (
            json!({"ListenAddr": listen, "DefaultAddrPool": ["foo"], "SubnetSize": 24}),
            500,
            "invalid base pool foo: invalid CIDR address: foo",
        ),
        (
            json!({"ListenAddr": listen, "Spec": {"CAConfig": {"NodeCertExpiry": 600_000_000_000_i64}}}),
            500,
            "error updating cluster settings: rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s",
        ),
    ];
    for (body, status, text) in cases {
        let answer = client.post("/swarm/init", &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.message().as_str()),
            (status, text)
        );
        assert_eq!(cluster.local().state, LocalState::Inactive);
    }
    let external = json!({"ListenAddr": listen, "Spec": {"CAConfig": {"ExternalCAs": [{"Protocol": "cfssl", "URL": "https://127.0.0.1:9"}]}}});
    let answer = client.post("/swarm/init", &external).await;
    assert_eq!(answer.status, 501);
    assert!(
        answer
            .message()
            .starts_with("external CAs are not offered yet")
    );
}

#[tokio::test]
async fn init_lays_settings_over_the_defaults() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let body = json!({
        "ListenAddr": "0.0.0.0:2377",
        "AutoLockManagers": true,
        "Spec": {"Labels": {"a": "b"}, "Dispatcher": {"HeartbeatPeriod": 7_000_000_000_i64}, "Raft": {"KeepOldSnapshots": 2}},
    });
    let node = client.post("/swarm/init", &body).await;
    assert_eq!(node.json(), json!(cluster.local().node_id));
    let spec = client.get("/swarm").await.json()["Spec"].clone();
    assert_eq!(
        spec,
        json!({
            "Name": "default", "Labels": {"a": "b"},
            "Orchestration": {"TaskHistoryRetentionLimit": 5},
            "Raft": {"SnapshotInterval": 10000, "KeepOldSnapshots": 2, "LogEntriesForSlowFollowers": 500, "ElectionTick": 10, "HeartbeatTick": 1},
            "Dispatcher": {"HeartbeatPeriod": 7_000_000_000_i64},
            "CAConfig": {"NodeCertExpiry": 7_776_000_000_000_000_i64},
            "TaskDefaults": {}, "EncryptionConfig": {"AutoLockManagers": true},
        })
    );
    let key = client.get("/swarm/unlockkey").await.json()["UnlockKey"].clone();
    assert_eq!(key.as_str().unwrap().len(), "SWMKEY-1-".len() + 43);
}

#[tokio::test]
async fn join_requests_are_checked() {
    let client = Client::of(&FakeCluster::inactive());
    let listen = "0.0.0.0:2377";
    let cases = [
        (
            json!({}),
            400,
            "invalid ListenAddr \"\": invalid empty address",
        ),
        (
            json!({"ListenAddr": listen}),
            400,
            "at least 1 RemoteAddr is required to join",
        ),
        (
            json!({"ListenAddr": listen, "RemoteAddrs": [""]}),
            400,
            "invalid remoteAddr \"\": invalid empty address",
        ),
        (
            json!({"ListenAddr": listen, "RemoteAddrs": ["h"], "Availability": "x"}),
            500,
            "invalid Availability: \"x\"",
        ),
        (
            json!({"ListenAddr": listen, "RemoteAddrs": ["h", "[::1]"]}),
            503,
            "h:2377 [::1]:2377 cannot be reached",
        ),
    ];
    for (body, status, text) in cases {
        let answer = client.post("/swarm/join", &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.message().as_str()),
            (status, text)
        );
    }
}

#[tokio::test]
async fn tokens_and_unlock_key_rotate() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let update = async |query: &str, auto_lock: bool| {
        let swarm = client.get("/swarm").await.json();
        let mut spec = swarm["Spec"].clone();
        spec["EncryptionConfig"]["AutoLockManagers"] = json!(auto_lock);
        let path = format!("/swarm/update?version={}{query}", swarm["Version"]["Index"]);
        assert_eq!(client.post(&path, &spec).await.status, 200);
        let after = client.get("/swarm").await.json();
        let key = client.get("/swarm/unlockkey").await.json()["UnlockKey"].clone();
        (
            after["JoinTokens"].clone(),
            key.as_str().unwrap().to_owned(),
        )
    };
    let (before, none) = update("", false).await;
    assert_eq!(none, "");
    let (worker, _) = update("&rotateWorkerToken=true", false).await;
    assert_ne!(worker["Worker"], before["Worker"]);
    assert_eq!(worker["Manager"], before["Manager"]);
    let (both, _) = update("&rotateManagerToken=1", false).await;
    assert_eq!(both["Worker"], worker["Worker"]);
    assert_ne!(both["Manager"], worker["Manager"]);
    let parts = |token: &serde_json::Value| {
        let parts: Vec<_> = token
            .as_str()
            .unwrap()
            .split('-')
            .map(str::to_owned)
            .collect();
        (parts[2].clone(), parts[3].clone())
    };
    assert_eq!(
        parts(&both["Worker"]).0,
        parts(&before["Worker"]).0,
        "the digest stays"
    );
    assert_eq!(parts(&both["Worker"]).1.len(), 25);

    let (_, none) = update("&rotateManagerUnlockKey=true", false).await;
    assert_eq!(none, "", "rotation without autolock does nothing");
    let (_, key) = update("", true).await;
    assert!(key.starts_with("SWMKEY-1-"));
    assert_eq!(update("", true).await.1, key);
    let (_, rotated) = update("&rotateManagerUnlockKey=true", true).await;
    assert_ne!(rotated, key);
    assert_eq!(update("", false).await.1, "");
}

#[tokio::test]
async fn changes_of_the_root_are_refused_and_change_nothing() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let swarm = client.get("/swarm").await;
    let before = swarm.json();
    let cases = [
        (
            json!({"ForceRotate": 1}),
            "rotation of the root certificate is not offered yet",
        ),
        (
            json!({"SigningCACert": "x", "SigningCAKey": "y"}),
            "a root certificate and key of your own are not offered yet",
        ),
        (
            json!({"ExternalCAs": [{"Protocol": "cfssl", "URL": "https://a"}]}),
            "external CAs are not offered yet",
        ),
    ];
    for (ca, text) in cases {
        let mut spec = before["Spec"].clone();
        spec["CAConfig"] = ca;
        let path = format!(
            "/swarm/update?version={}&rotateWorkerToken=true",
            before["Version"]["Index"]
        );
        let answer = client.post(&path, &spec).await;
        assert_eq!(answer.status, 501);
        assert!(answer.message().starts_with(text), "{}", answer.message());
        assert_eq!(client.get("/swarm").await.text, swarm.text);
    }
}

#[tokio::test]
async fn unlock_by_state() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let unlock = async |key: &str| {
        let answer = client
            .post("/swarm/unlock", &json!({"UnlockKey": key}))
            .await;
        (answer.status.as_u16(), answer.message())
    };
    assert_eq!(unlock("x").await.0, 503);
    cluster.set_local(|local| local.state = LocalState::Active);
    assert_eq!(unlock("x").await, (409, "swarm is not locked".to_owned()));
    cluster.set_local(|local| local.state = LocalState::Locked);
    assert_eq!(unlock("x").await, (400, "invalid key string".to_owned()));
    assert_eq!(
        unlock("SWMKEY-1-x").await,
        (
            401,
            "swarm could not be unlocked: invalid key provided".to_owned()
        )
    );
    let info = client.get("/info").await.json();
    assert_eq!(info["Swarm"]["LocalNodeState"], "locked");
    assert_eq!(info["Swarm"]["NodeID"], "");
    assert!(
        info["Swarm"]["Error"]
            .as_str()
            .unwrap()
            .contains("needs to be unlocked")
    );
    assert_eq!(unlock("right").await, (200, String::new()));
}

#[tokio::test]
async fn info_warns() {
    let cluster = FakeCluster::manager().await;
    cluster.set_local(|local| local.warnings = vec!["TLS 1.2 is accepted".to_owned()]);
    let info = Client::of(&cluster).get("/info").await.json();
    let warnings: Vec<_> = info["Warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|w| w.as_str().unwrap())
        .collect();
    assert!(warnings[0].contains("socket is root on this host"));
    assert_eq!(warnings[1], "WARNING: TLS 1.2 is accepted");
    assert!(info["Swarm"]["Cluster"].get("JoinTokens").is_none());
}

#[tokio::test]
async fn status_says_what_to_do_next() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let status = client.get("/waxseal/v1/status").await.json();
    assert_eq!(status["state"], "inactive");
    assert!(
        status["next"][0]
            .as_str()
            .unwrap()
            .starts_with("waxseal swarm init")
    );
    cluster.set_local(|local| local.state = LocalState::Locked);
    let status = client.get("/waxseal/v1/status").await.json();
    assert_eq!(
        (&status["state"], &status["role"]),
        (&json!("locked"), &json!("manager"))
    );
    assert!(
        status["next"][0]
            .as_str()
            .unwrap()
            .starts_with("waxseal unlock")
    );
}

#[tokio::test]
async fn events_are_replayed_and_followed() {
    let cluster = FakeCluster::manager().await;
    let server = Arc::new(Server::new(Arc::clone(&cluster)));
    let follower = tokio::spawn({
        let server = Arc::clone(&server);
        async move { server.follow_changes().await }
    });
    tokio::task::yield_now().await;
    let client = Client::over(server.service(None));
    let live = client
        .open(
            "GET",
            "/events?filters=%7B%22type%22:[%22secret%22]%7D",
            Body::empty(),
        )
        .await;
    assert_eq!(live.headers()["content-type"], "application/json");
    let mut live = live.into_body();
    let created = client
        .post("/secrets/create", &json!({"Name": "db", "Data": "eA=="}))
        .await
        .json();
    client
        .post("/configs/create", &json!({"Name": "c", "Data": "eA=="}))
        .await;
    client.send("DELETE", "/secrets/db", Body::empty()).await;

    let mut seen = Vec::new();
    for _ in 0..2 {
        let frame = live.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(frame.last(), Some(&b'\n'));
        seen.push(serde_json::from_slice::<serde_json::Value>(&frame).unwrap());
    }
    let version = &seen[0];
    assert_eq!(
        *version,
        json!({
            "Type": "secret", "Action": "create",
            "Actor": {"ID": created["ID"], "Attributes": {"name": "db"}},
            "scope": "swarm", "time": version["time"], "timeNano": version["timeNano"],
        })
    );
    assert_eq!(seen[1]["Action"], "remove");
    assert_eq!(
        version["timeNano"].as_i64().unwrap() / 1_000_000_000,
        version["time"].as_i64().unwrap()
    );

    let until = seen[1]["time"].as_i64().unwrap();
    let past = async |query: &str| {
        let path = format!("/events?since=1&until={until}{query}");
        client.get(&path).await.text.lines().count()
    };
    assert_eq!(past("").await, 2, "the third is at a fraction after");
    assert_eq!(past("&filters=%7B%22type%22:[%22config%22]%7D").await, 1);
    assert_eq!(past("&filters=%7B%22secret%22:[%22db%22]%7D").await, 1);
    assert_eq!(past("&filters=%7B%22event%22:[%22remove%22]%7D").await, 0);
    assert_eq!(past("&filters=%7B%22scope%22:[%22local%22]%7D").await, 0);
    assert_eq!(client.get("/events?since=0&until=1").await.text, "");
    follower.abort();
}

#[tokio::test]
async fn bad_event_requests() {
    let client = Client::of(&FakeCluster::inactive());
    let cases = [
        (
            "/v1.41/events?since=abc",
            500,
            "strconv.ParseInt: parsing \"abc\": invalid syntax",
        ),
        (
            "/v1.41/events?since=20&until=10",
            400,
            "`since` time (20) cannot be after `until` time (10)",
        ),
        (
            "/v1.41/events?until=1&filters=x",
            500,
            "invalid character 'x' looking for beginning of value",
        ),
    ];
    for (path, status, text) in cases {
        let answer = client.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), answer.message().as_str()),
            (status, text)
        );
    }
}

#[tokio::test]
async fn readers_of_events_are_bounded() {
    let client = Client::of(&FakeCluster::inactive());
    let mut readers = Vec::new();
    for _ in 0..256 {
        let reader = client.open("GET", "/events", Body::empty()).await;
        assert_eq!(reader.status(), 200);
        readers.push(reader);
    }
    let refused = client.get("/events").await;
    assert_eq!(refused.status, 503);
    assert!(
        refused
            .message()
            .starts_with("256 clients read events already")
    );
    readers.pop();
    assert_eq!(
        client.open("GET", "/events", Body::empty()).await.status(),
        200
    );
}
