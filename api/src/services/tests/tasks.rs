//! Tasks through the routes.

use std::sync::Arc;

use serde_json::{Value, json};
use waxseal_cluster::{
    generic::{discrete, named},
    objects::{
        Actor, ChangeTasks, ContainerStatus, Task, TaskChange, TaskState, TaskStatus, actor::Who,
        command::Op, task_change,
    },
    plan::{Place, build_task},
};

use super::client::{Answer, Client, error};
use crate::{cluster::Cluster, testing::FakeCluster};

/// A task of the service, on the node, running.
async fn add_task(cluster: &Arc<FakeCluster>, service: &str, id: &str, node: &str, slot: u64) {
    let now = cluster.now();
    let mut task = cluster.look(|state| {
        let service = state.services().find(|one| one.id == service).unwrap();
        build_task(service, None, &Place::Slot(slot), id.to_owned(), now).unwrap()
    });
    task.node_id = node.to_owned();
    task.status = Some(TaskStatus {
        timestamp: Some(waxseal_cluster::timestamp(now)),
        state: TaskState::Running.into(),
        message: "started".to_owned(),
        container: Some(ContainerStatus {
            container_id: "c".to_owned(),
            pid: 7,
            exit_code: 0,
        }),
        ..TaskStatus::default()
    });
    create(cluster, task).await;
}

async fn create(cluster: &Arc<FakeCluster>, task: Task) {
    let actor = Actor {
        who: Some(Who::Component("test".to_owned())),
    };
    let op = Op::ChangeTasks(ChangeTasks {
        changes: vec![TaskChange {
            change: Some(task_change::Change::Create(task)),
        }],
    });
    let applied = cluster.propose(actor, op).await.unwrap();
    assert_eq!(applied.changes.len(), 1, "the task was not made");
}

fn ids(answer: &Answer) -> Vec<&str> {
    assert_eq!(answer.0, 200, "{}", answer.1);
    let tasks = answer.1.as_array().unwrap();
    tasks
        .iter()
        .map(|task| task["ID"].as_str().unwrap())
        .collect()
}

fn service(name: &str, network: &str) -> Value {
    json!({
        "Name": name, "Labels": {"l": name},
        "TaskTemplate": {
            "ContainerSpec": {"Image": "bb:1"},
            "Networks": [{"Target": network}],
        },
    })
}

/// Two services with tasks `task1a`, `task1b` and `task2` on `vm` and `w1`.
async fn cluster() -> (Arc<FakeCluster>, Client) {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let worker = cluster.add_worker("w1", false);
    let manager = cluster.local().node_id;
    let web = client.create(&service("web", "host")).await;
    let db = client.create(&service("db", "bridge")).await;
    add_task(&cluster, &web, "task1a", &manager, 1).await;
    add_task(&cluster, &web, "task1b", &worker, 2).await;
    add_task(&cluster, &db, "task2", &worker, 1).await;
    (cluster, client)
}

#[tokio::test]
async fn filters_that_name_nothing_are_refused() {
    let (_, client) = cluster().await;
    for (filters, version, expected) in [
        (
            r#"{"service":["nosuch"]}"#,
            "",
            error(404, "service nosuch not found"),
        ),
        (
            r#"{"service":["web","nosuch"]}"#,
            "",
            error(404, "service nosuch not found"),
        ),
        (
            r#"{"node":["self"]}"#,
            "",
            error(404, "node self not found"),
        ),
        (
            r#"{"desired-state":["bogus"]}"#,
            "/v1.41",
            error(500, "Invalid desired-state filter: 'bogus'"),
        ),
        (
            r#"{"desired-state":["bogus"]}"#,
            "",
            error(500, "Invalid desired-state filter: 'bogus'"),
        ),
        (
            r#"{"bogus":["1"]}"#,
            "/v1.41",
            error(400, "Invalid filter 'bogus'"),
        ),
    ] {
        let answer = client
            .get(&format!("{version}/tasks?filters={filters}"))
            .await;
        assert_eq!(answer, expected, "{filters}");
    }
    assert_eq!(
        client.get("/tasks/nosuch").await,
        error(404, "task nosuch not found")
    );
    assert_eq!(
        client.get("/tasks/nosuch/logs?stdout=1").await,
        error(404, "task nosuch not found")
    );
    assert_eq!(
        client.get("/tasks/task1").await,
        error(400, "task task1 is ambiguous (2 matches found)")
    );
}

#[tokio::test]
async fn tasks_are_listed_by_filters() {
    let (_, client) = cluster().await;
    for (filters, expected) in [
        ("", vec!["task1a", "task1b", "task2"]),
        (r#"{"service":["web"]}"#, vec!["task1a", "task1b"]),
        (
            r#"{"service":{"web":true,"db":true}}"#,
            vec!["task1a", "task1b", "task2"],
        ),
        (r#"{"node":["w1"]}"#, vec!["task1b", "task2"]),
        (r#"{"node":["w1"],"service":["web"]}"#, vec!["task1b"]),
        (r#"{"name":["web"]}"#, vec!["task1a", "task1b"]),
        (r#"{"name":["web.2"]}"#, vec!["task1b"]),
        (r#"{"id":["task2"]}"#, vec!["task2"]),
        (r#"{"label":["l=db"]}"#, vec!["task2"]),
        (
            r#"{"desired-state":["Running"]}"#,
            vec!["task1a", "task1b", "task2"],
        ),
        (r#"{"desired-state":["shutdown","complete"]}"#, vec![]),
        (r#"{"runtime":["plugin"]}"#, vec![]),
    ] {
        let answer = client.get(&format!("/tasks?filters={filters}")).await;
        assert_eq!(ids(&answer), expected, "{filters}");
    }
    let status = client
        .get("/services?status=1&filters={\"name\":[\"web\"]}")
        .await
        .1;
    assert_eq!(
        status[0]["ServiceStatus"],
        json!({"RunningTasks": 2, "DesiredTasks": 1, "CompletedTasks": 0})
    );
}

/// Clients that wait for an update poll this.
#[tokio::test]
async fn tasks_of_an_earlier_spec_are_not_up_to_date() {
    let (_, client) = cluster().await;
    let path = r#"/tasks?filters={"_up-to-date":{"true":true},"service":{"web":true}}"#;
    let update = async |change: &dyn Fn(&mut Value)| {
        let mut spec = client.get("/services/web").await.1["Spec"].clone();
        change(&mut spec);
        let version = client.version("web").await;
        let path = format!("/services/web/update?version={version}");
        assert_eq!(client.post(&path, &spec).await.0, 200);
    };
    assert_eq!(ids(&client.get(path).await), ["task1a", "task1b"]);
    update(&|spec| spec["Mode"]["Replicated"]["Replicas"] = json!(5)).await;
    assert_eq!(ids(&client.get(path).await), ["task1a", "task1b"]);
    // Other constraints alone do not replace tasks whose nodes satisfy them.
    update(&|spec| {
        spec["TaskTemplate"]["Placement"] = json!({"Constraints": ["node.hostname==w1"]})
    })
    .await;
    assert_eq!(ids(&client.get(path).await), ["task1b"]);
    update(&|spec| spec["TaskTemplate"]["ForceUpdate"] = json!(1)).await;
    assert_eq!(ids(&client.get(path).await), Vec::<&str>::new());
    assert_eq!(
        ids(&client.get(&path.replace("\"true\":true", "")).await).len(),
        2
    );
}

#[tokio::test]
async fn a_task_looks_as_in_the_engine() {
    let (cluster, client) = cluster().await;
    let (status, mut task) = client.get("/v1.41/tasks/task1a").await;
    assert_eq!(status, 200);
    let web = client.get("/services/web").await.1["ID"].clone();
    let node = cluster.local().node_id;
    let version = task["Version"]["Index"].take();
    assert!(version.is_u64());
    let (created, updated) = (task["CreatedAt"].take(), task["UpdatedAt"].take());
    assert_eq!(created, updated);
    assert!(created.as_str().unwrap().starts_with("2026-11-20T04:"));
    let timestamp = task["Status"]["Timestamp"].take();
    assert!(timestamp.as_str().unwrap().ends_with('Z'));
    assert_eq!(
        task,
        json!({
            "ID": "task1a", "Version": {"Index": null}, "CreatedAt": null, "UpdatedAt": null,
            "Labels": {},
            "Spec": {
                "ContainerSpec": {"Image": "bb:1", "Isolation": "default"},
                "Networks": [{"Target": "host"}], "ForceUpdate": 0,
            },
            "ServiceID": web, "Slot": 1, "NodeID": node,
            "Status": {
                "Timestamp": null, "State": "running", "Message": "started",
                "ContainerStatus": {"ContainerID": "c", "PID": 7, "ExitCode": 0},
                "PortStatus": {},
            },
            "DesiredState": "running",
            "NetworksAttachments": [{"Network": {
                "ID": "host", "Version": {"Index": 0},
                "CreatedAt": "0001-01-01T00:00:00Z", "UpdatedAt": "0001-01-01T00:00:00Z",
                "Spec": {"Name": "host", "Labels": {"com.docker.swarm.predefined": "true"},
                    "DriverConfiguration": {"Name": "host"}, "Scope": "swarm"},
                "DriverState": {"Name": "host"},
            }}],
        })
    );
    let newer = client.get("/tasks/task2").await.1;
    assert_eq!(newer["Volumes"], Value::Null);
    assert!(newer.as_object().unwrap().contains_key("Volumes"));
    assert_eq!(newer.get("NetworksAttachments"), None);
}

#[tokio::test]
async fn a_task_shows_what_it_was_given() {
    let (cluster, client) = cluster().await;
    let mut task = cluster.look(|state| Task::clone(state.task("task1a").unwrap()));
    task.id = "task3".to_owned();
    task.assigned_generic_resources = vec![named("gpu", "a\u{1b}"), discrete("fpga", 2)];
    create(&cluster, task).await;
    assert_eq!(
        client.get("/tasks/task3").await.1["GenericResources"],
        json!([
            {"NamedResourceSpec": {"Kind": "gpu", "Value": "a\\u{1b}"}},
            {"DiscreteResourceSpec": {"Kind": "fpga", "Value": 2}},
        ])
    );
}
