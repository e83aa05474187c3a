//! Every node in every state, and how requests are read.

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::json;

use super::super::{FakeCluster, replay::Client};
use crate::cluster::{ClusterError, LocalState};
use crate::server::Server;

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
async fn unknown_pages_of_ours_are_problems() {
    let client = Client::of(&FakeCluster::inactive());
    let answer = client.get("/waxseal/v1/nosuch").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(answer.json()["detail"], "page not found");
}
