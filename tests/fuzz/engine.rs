//! JSON, paths and queries of the Engine API, through the whole of it over a state in memory.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use time::{OffsetDateTime, macros::datetime};
use tokio::{runtime::Runtime, sync::broadcast};
use waxseal_api::{
    Cluster, ClusterError, DaemonInfo, EngineService, InitRequest, JoinRequest, LocalNode,
    LocalState, LogLine, LogRequest, Server,
};
use waxseal_ca::{JoinToken, JoinTokens, RootAuthority};
use waxseal_cluster::{
    Applied, ChangeRecord, NewCluster, PlainVault, State, default_cluster_spec, new_cluster,
    objects::{
        self, Actor, Annotations, Bootstrap, Command, CreateNode, Node, NodeRole, NodeSpec,
        UpdateCluster, actor::Who, command::Op,
    },
    timestamp,
};
use zeroize::Zeroizing;

use crate::Target;

const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);
const MANAGER: &str = "node00000000000000000000a";
const WORKER: &str = "node00000000000000000000b";

pub(crate) fn targets() -> Vec<Target> {
    // What the API makes once is not of the first input.
    WORLD.with_borrow(|_| ());
    vec![Target {
        name: "engine",
        words: &[
            "null",
            "true",
            "-1",
            "1e99",
            "18446744073709551616",
            "\"\"",
            "[]",
            "{}",
            ",",
            ":",
            "\"Name\":",
            "\"Labels\":{",
            "\"CAConfig\":{",
            "\"ExternalCAs\":[",
            "\"TaskTemplate\":{",
            "\"Secrets\":[",
            "\"ContainerSpec\":{",
            "\\u0000",
            "\\ud800",
            "[[[[",
            "{\"a\":{\"a\":",
            "?filters={",
            "&version=",
            "/secrets/",
            "/services/",
            "%00",
            "%2f",
            "/v1.24",
            "POST ",
        ],
        // The API answers in pieces of its own, and texts with what was wrong.
        room: (1 << 20, 256),
        seeds: crate::no_seeds,
        check,
    }]
}

/// A cluster of a manager and a worker, made anew for each input.
struct InMemory {
    state: Mutex<State>,
    changes: broadcast::Sender<ChangeRecord>,
}

impl InMemory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no check panics while it holds it")
    }

    fn apply(&self, actor: Actor, op: Op) -> Result<Applied, ClusterError> {
        let command = Command::new(actor, timestamp(NOW), op);
        Ok(self.state().apply(command)?)
    }
}

struct World {
    runtime: Runtime,
    start: State,
    cluster: Arc<InMemory>,
    service: EngineService,
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

impl World {
    fn new() -> World {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let cluster = Arc::new(InMemory {
            state: Mutex::new(State::new(Arc::new(PlainVault))),
            changes: broadcast::Sender::new(16),
        });
        let actor = Actor {
            who: Some(Who::Component("fuzz".to_owned())),
        };
        for op in beginning() {
            cluster.apply(actor.clone(), op).expect("the beginning");
        }
        let start = cluster.state().clone();
        let service = Server::new(Arc::clone(&cluster)).service(Some(0));
        World {
            runtime,
            start,
            cluster,
            service,
        }
    }
}

fn beginning() -> [Op; 2] {
    let root = RootAuthority::generate(NOW).expect("a root");
    let tokens = JoinTokens::generate(root.trust().digest(), &[1; 16], &[2; 16]);
    let text = |token: &JoinToken| token.expose_text().to_owned();
    let cluster = new_cluster(NewCluster {
        id: "cluster000000000000000001".to_owned(),
        root_ca: objects::RootCa {
            ca_key: root.key_pem().as_bytes().to_vec(),
            ca_cert: root.cert_pem().as_bytes().to_vec(),
            join_tokens: Some(objects::JoinTokens {
                worker: text(tokens.token(waxseal_ca::Role::Worker)),
                manager: text(tokens.token(waxseal_ca::Role::Manager)),
            }),
            ..objects::RootCa::default()
        },
        spec: default_cluster_spec(),
        unlock_key: None,
    });
    let node = |id: &str, role: NodeRole| Node {
        id: id.to_owned(),
        role: role.into(),
        spec: Some(NodeSpec {
            desired_role: role.into(),
            annotations: Some(Annotations::default()),
            ..NodeSpec::default()
        }),
        ..Node::default()
    };
    [
        Op::Bootstrap(Bootstrap {
            cluster: Some(cluster),
            node: Some(node(MANAGER, NodeRole::Manager)),
        }),
        Op::CreateNode(CreateNode {
            node: Some(node(WORKER, NodeRole::Worker)),
        }),
    ]
}

/// `METHOD PATH` on the first line, the body after it.
fn check(input: &[u8]) -> String {
    let line_end = input
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(input.len());
    let (line, body) = input.split_at(line_end);
    let body = body.strip_prefix(b"\n").unwrap_or(body);
    let Some((method, path)) = std::str::from_utf8(line)
        .ok()
        .and_then(|line| line.split_once(' '))
    else {
        return "no request line".to_owned();
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::copy_from_slice(body)));
    let Ok(request) = request else {
        return "no HTTP".to_owned();
    };
    // Their answers have no end.
    if ["/events", "/logs"]
        .iter()
        .any(|end| request.uri().path().ends_with(end))
    {
        return "a stream".to_owned();
    }
    WORLD.with_borrow_mut(|world| {
        *world.cluster.state() = world.start.clone();
        let (status, answer) = world.runtime.block_on(async {
            let response = world.service.answer(request).await;
            let status = response.status();
            let answer = response
                .into_body()
                .collect()
                .await
                .expect("a whole answer");
            (status, answer.to_bytes())
        });
        judge(&world.cluster, &world.start, status, &answer);
        let text = String::from_utf8_lossy(&answer);
        format!("{method} {status} {text}")
    })
}

fn judge(cluster: &InMemory, start: &State, status: StatusCode, answer: &[u8]) {
    let after = cluster.state();
    if !status.is_success() {
        assert!(
            after.snapshot() == start.snapshot(),
            "what was refused with {status} changed the state"
        );
        // Errors are one JSON object, or plain text for clients that are too old.
        let text = String::from_utf8_lossy(answer);
        let is_error = serde_json::from_slice::<serde_json::Value>(answer)
            .is_ok_and(|json| json["message"].is_string() || json["title"].is_string());
        assert!(
            is_error || text.contains("is too old"),
            "{status} with {text:?}"
        );
        return;
    }
    // What was taken is whole: it is sent, stored and shown as it is.
    let restored = State::restore(after.snapshot(), Arc::new(PlainVault)).expect("a whole state");
    assert!(
        restored.snapshot() == after.snapshot(),
        "it is not restored"
    );
    let key = "PRIVATE KEY";
    assert!(
        !String::from_utf8_lossy(answer).contains(key),
        "a key is shown"
    );
}

impl Cluster for InMemory {
    fn daemon(&self) -> DaemonInfo {
        DaemonInfo {
            id: "FUZZ".to_owned(),
            name: "host".to_owned(),
            data_root: "/var/lib/waxseal".to_owned(),
            labels: Vec::new(),
            generic_resources: Vec::new(),
            debug: false,
            kernel_version: "6.1.0".to_owned(),
            operating_system: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            architecture: "x86_64".to_owned(),
            cpus: 2,
            memory_bytes: 1 << 30,
            cgroup_version: 2,
            started_at: NOW,
        }
    }

    fn local(&self) -> LocalNode {
        LocalNode {
            state: LocalState::Active,
            node_id: MANAGER.to_owned(),
            node_addr: "10.77.0.1".to_owned(),
            control_available: true,
            entering: false,
            error: String::new(),
            remote_managers: vec![(MANAGER.to_owned(), "10.77.0.1:2377".to_owned())],
            warnings: Vec::new(),
        }
    }

    fn now(&self) -> OffsetDateTime {
        NOW
    }

    async fn init(&self, _: InitRequest) -> Result<String, ClusterError> {
        Err(ClusterError::AlreadyInSwarm)
    }

    async fn join(&self, _: JoinRequest) -> Result<(), ClusterError> {
        Err(ClusterError::AlreadyInSwarm)
    }

    async fn leave(&self, _: bool) -> Result<(), ClusterError> {
        Err(ClusterError::LeaveRefused("a manager".to_owned()))
    }

    async fn unlock(&self, _: Zeroizing<String>) -> Result<(), ClusterError> {
        Err(ClusterError::NotLocked)
    }

    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R, ClusterError> {
        Ok(read(&self.state()))
    }

    async fn propose(&self, actor: Actor, op: Op) -> Result<Applied, ClusterError> {
        self.apply(actor, op)
    }

    async fn update_cluster(
        &self,
        actor: Actor,
        cluster: objects::Cluster,
        expected_version: u64,
    ) -> Result<(), ClusterError> {
        let op = Op::UpdateCluster(UpdateCluster {
            cluster: Some(cluster),
            expected_version,
        });
        self.apply(actor, op).map(drop)
    }

    fn changes(&self) -> broadcast::Receiver<ChangeRecord> {
        self.changes.subscribe()
    }

    async fn logs(
        &self,
        _: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, ClusterError>>, ClusterError> {
        Ok(stream::empty().boxed())
    }
}
