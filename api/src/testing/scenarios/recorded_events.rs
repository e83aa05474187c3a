//! Events that stock showed, made of the same changes here.
//!
//! There are none of networks: none can be made.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use time::OffsetDateTime;
use waxseal_cluster::{
    Change, ChangeRecord,
    objects::{self, Availability, NodeRole, NodeState, service_spec, update_status},
};

use super::super::{FakeCluster, replay::Client};
use crate::server::Server;

const STREAM: &str = include_str!("../../../tests/data/transcripts/events-stream.jsonl");
const CALLS: &str = include_str!("../../../tests/data/transcripts/events.jsonl");

/// What an attribute was before (`old`) or became (`new`).
type Attributes = BTreeMap<String, String>;

fn attribute<'a>(attributes: &'a Attributes, what: &str, when: &str) -> Option<&'a str> {
    attributes
        .get(&format!("{what}.{when}"))
        .map(String::as_str)
}

fn annotations(attributes: &Attributes) -> Option<objects::Annotations> {
    Some(objects::Annotations {
        name: attributes["name"].clone(),
        ..objects::Annotations::default()
    })
}

fn node(id: &str, attributes: &Attributes, when: &str) -> Arc<objects::Node> {
    let mut spec = objects::NodeSpec::default();
    spec.set_availability(match attribute(attributes, "availability", when) {
        Some("pause") => Availability::Pause,
        Some("drain") => Availability::Drain,
        _ => Availability::Active,
    });
    let mut status = objects::NodeStatus::default();
    status.set_state(match attribute(attributes, "state", when) {
        Some("ready") => NodeState::Ready,
        Some("down") => NodeState::Down,
        _ => NodeState::Unknown,
    });
    let mut node = objects::Node {
        id: id.to_owned(),
        spec: Some(spec),
        status: Some(status),
        description: Some(objects::NodeDescription {
            hostname: attributes["name"].clone(),
            ..objects::NodeDescription::default()
        }),
        ..objects::Node::default()
    };
    node.set_role(match attribute(attributes, "role", when) {
        Some("manager") => NodeRole::Manager,
        _ => NodeRole::Worker,
    });
    Arc::new(node)
}

fn service(id: &str, attributes: &Attributes, when: &str) -> Arc<objects::Service> {
    use update_status::State;
    let state = attribute(attributes, "updatestate", when).map(|state| match state {
        "updating" => State::Updating,
        "paused" => State::Paused,
        "completed" => State::Completed,
        "rollback_started" => State::RollbackStarted,
        "rollback_paused" => State::RollbackPaused,
        "rollback_completed" => State::RollbackCompleted,
        other => panic!("update state {other}"),
    });
    let replicas = attribute(attributes, "replicas", when).map_or(1, |text| text.parse().unwrap());
    let image = attribute(attributes, "image", when).unwrap_or("bb:1");
    Arc::new(objects::Service {
        id: id.to_owned(),
        spec: Some(objects::ServiceSpec {
            annotations: annotations(attributes),
            task: Some(objects::TaskSpec {
                container: Some(objects::ContainerSpec {
                    image: image.to_owned(),
                    ..objects::ContainerSpec::default()
                }),
                ..objects::TaskSpec::default()
            }),
            mode: Some(service_spec::Mode::Replicated(objects::ReplicatedService {
                replicas,
            })),
            ..objects::ServiceSpec::default()
        }),
        update_status: state.map(|state| objects::UpdateStatus {
            state: state.into(),
            ..objects::UpdateStatus::default()
        }),
        ..objects::Service::default()
    })
}

/// The change that the event tells; nothing of networks.
fn change_of(event: &Value) -> Option<ChangeRecord> {
    let id = event["Actor"]["ID"].as_str().unwrap();
    let attributes: Attributes =
        serde_json::from_value(event["Actor"]["Attributes"].clone()).unwrap();
    let (was, is) = match event["Action"].as_str().unwrap() {
        "create" => (false, true),
        "update" => (true, true),
        _ => (true, false),
    };
    let change = match event["Type"].as_str().unwrap() {
        "secret" => {
            let secret = Arc::new(objects::Secret {
                id: id.to_owned(),
                spec: Some(objects::SecretSpec {
                    annotations: annotations(&attributes),
                    ..objects::SecretSpec::default()
                }),
                ..objects::Secret::default()
            });
            Change::Secret {
                old: was.then(|| Arc::clone(&secret)),
                new: is.then_some(secret),
            }
        }
        "config" => {
            let config = Arc::new(objects::Config {
                id: id.to_owned(),
                spec: Some(objects::ConfigSpec {
                    annotations: annotations(&attributes),
                    ..objects::ConfigSpec::default()
                }),
                ..objects::Config::default()
            });
            Change::Config {
                old: was.then(|| Arc::clone(&config)),
                new: is.then_some(config),
            }
        }
        "node" => Change::Node {
            old: was.then(|| node(id, &attributes, "old")),
            new: is.then(|| node(id, &attributes, "new")),
        },
        "service" => Change::Service {
            old: was.then(|| service(id, &attributes, "old")),
            new: is.then(|| service(id, &attributes, "new")),
        },
        _ => return None,
    };
    let nanos = i128::from(event["timeNano"].as_i64().unwrap());
    Some(ChangeRecord {
        time: OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap(),
        changes: vec![change],
    })
}

/// A client of a server that saw these changes.
async fn after(events: &[Value]) -> Client {
    let cluster = FakeCluster::manager().await;
    cluster.advance(60 * 60);
    let server = Arc::new(Server::new(Arc::clone(&cluster)));
    let client = Client::over(server.service(None));
    let follower = tokio::spawn(async move { server.follow_changes().await });
    tokio::task::yield_now().await;
    for event in events {
        cluster.announce(change_of(event).unwrap());
        tokio::task::yield_now().await;
    }
    follower.abort();
    client
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn events_are_told_as_stock_tells_them() {
    let recorded = lines(STREAM).into_iter();
    let recorded: Vec<_> = recorded
        .filter_map(|line| line.get("event").cloned())
        .filter(|event| event["Type"] != "network")
        .collect();
    assert_eq!(recorded.len(), 67);
    let client = after(&recorded).await;
    let until = recorded
        .iter()
        .filter_map(|event| event["time"].as_i64())
        .max();
    let path = format!("/events?since=1&until={}", until.unwrap() + 1);
    let told = lines(&client.get(&path).await.text);
    assert_eq!(told.len(), recorded.len());
    for (told, recorded) in told.iter().zip(&recorded) {
        assert_eq!(told, recorded);
    }
}

#[tokio::test]
async fn events_are_chosen_as_stock_chooses_them() {
    let calls = lines(CALLS).into_iter().filter(|call| {
        // Without an end they are followed: `events_are_replayed_and_followed`.
        let path = call["path"].as_str();
        path.is_some_and(|path| path.contains("until="))
    });
    let calls: Vec<_> = calls.collect();
    let stream = |call: &Value| match call["answer"]["$stream"].as_array() {
        Some(events) => events.clone(),
        None => Vec::new(),
    };
    // A long one was cut; what is left stands in its place.
    let is_offered = |event: &Value| event.is_object() && event["Type"] != "network";
    let mut all = BTreeMap::new();
    for event in calls.iter().flat_map(stream).filter(is_offered) {
        all.insert(event["timeNano"].as_i64().unwrap(), event);
    }
    let client = after(&all.into_values().collect::<Vec<_>>()).await;
    assert_eq!(calls.len(), 4);
    for call in calls {
        let path = call["path"].as_str().unwrap();
        let recorded = stream(&call);
        let mut told = lines(&client.get(path).await.text);
        let expected: Vec<_> = recorded
            .iter()
            .filter(|event| is_offered(event))
            .cloned()
            .collect();
        if recorded.iter().any(Value::is_string) {
            told.retain(|event| expected.contains(event));
        }
        // Stock had more events in between and had forgotten the first ones.
        let first = expected.first().map(|event| event["timeNano"].as_i64());
        told.retain(|event| Some(event["timeNano"].as_i64()) >= first);
        assert_eq!(told, expected, "{path}");
    }
}
