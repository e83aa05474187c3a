//! Events.

use std::sync::Arc;

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::json;

use super::super::{FakeCluster, replay::Client};
use crate::server::Server;

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
    // As an engine does: the key says no kind, and several add up.
    for (filters, found) in [
        (r#"{"service":["d"]}"#, 1),
        (r#"{"container":["db"],"secret":["db"]}"#, 1),
        (r#"{"secret":["db"],"config":["c"]}"#, 0),
        (r#"{"secret":["DB"]}"#, 0),
        (r#"{"image":["d"]}"#, 0),
    ] {
        let filters = filters
            .replace('"', "%22")
            .replace('{', "%7B")
            .replace('}', "%7D");
        assert_eq!(
            past(&format!("&filters={filters}")).await,
            found,
            "{filters}"
        );
    }
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
    let client = Client::of(&FakeCluster::manager().await);
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
            .starts_with("256 clients read events or logs already")
    );
    // Logs are read in the same places.
    let body = json!({
        "Name": "s", "TaskTemplate": {"ContainerSpec": {"Image": "bb:1"}, "Networks": [{"Target": "host"}]},
    });
    assert_eq!(client.post("/services/create", &body).await.status, 201);
    let logs = client.get("/services/s/logs?stdout=1").await;
    assert_eq!(logs.status, 503, "{}", logs.text);
    readers.pop();
    assert_eq!(
        client.open("GET", "/events", Body::empty()).await.status(),
        200
    );
}
