//! A manager that does what a test tells it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, async_trait, service::Routes};
use waxseal_ca::{
    CertificateExpiry, Csr, JoinToken, LiveTls, NodeCredentials, NodeIdentity, NodeKey,
    NodeProfile, Role, RootAuthority, TlsOptions, serial::Serial, server_tls,
    test_util::ManualClock,
};
use waxseal_cluster::objects::{
    Certificate, IssuanceState, IssuanceStatus, Node, Secret, SecretSpec, Task, TaskStatus,
};
use waxseal_wire::{
    Acceptor, Connections, Listening, Peer, Relay, announced_features,
    swarmkit::{
        Assignment, AssignmentChange, AssignmentsMessage, AssignmentsRequest,
        GetRootCaCertificateRequest, GetRootCaCertificateResponse, HeartbeatRequest,
        HeartbeatResponse, IssueNodeCertificateRequest, IssueNodeCertificateResponse,
        ListenSubscriptionsRequest, LogMessage, NodeCertificateStatusRequest,
        NodeCertificateStatusResponse, Peer as WirePeer, PublishLogsMessage, PublishLogsResponse,
        SessionMessage, SessionRequest, SubscriptionMessage, UpdateTaskStatusRequest,
        UpdateTaskStatusResponse, WeightedPeer,
        assignment::Item,
        assignment_change::Action,
        assignments_message::Type,
        ca_server::{Ca, CaServer},
        dispatcher_server::{Dispatcher, DispatcherServer},
        log_broker_server::{LogBroker, LogBrokerServer},
        node_ca_server::{NodeCa, NodeCaServer},
    },
    waxseal::{
        HelloRequest, HelloResponse,
        hello_server::{Hello, HelloServer},
    },
};

pub(crate) const CLUSTER: &str = "clusterclusterclusterclus";
const HEARTBEAT: Duration = Duration::from_millis(100);

type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// What the manager saw, and how it is to behave.
pub(crate) struct Behaviour {
    /// Role of the certificates it issues to joiners.
    pub(crate) role: Role,
    /// Signs instead of the cluster's root.
    pub(crate) signer: Option<RootAuthority>,
    /// What it says the time is, relative to the clock.
    pub(crate) clock_offset: time::Duration,
    /// Answers about a certificate that say PENDING first.
    pub(crate) pending_answers: usize,
    /// Answers about a certificate that are refused first, for too many are held.
    pub(crate) full_answers: usize,
    /// Answers to joiners that are lost after the manager has taken note.
    pub(crate) lost_answers: usize,
    /// Certificate requests that came.
    pub(crate) requests: Vec<Vec<u8>>,
    /// Certificate requests are answered only when this has a permit.
    pub(crate) gate: Option<Arc<tokio::sync::Semaphore>>,
    /// Answers about a certificate that show another request first.
    pub(crate) foreign_answers: usize,
    /// Sessions are refused with this.
    pub(crate) refusal: Option<Status>,
    /// The node as each session shows it first.
    pub(crate) node: Option<Node>,
    /// Roots it hands out instead of its own.
    pub(crate) root_ca: Option<Vec<u8>>,
    pub(crate) issued: HashMap<String, (Vec<u8>, Vec<u8>)>,
    pub(crate) joiners_features: Option<Vec<String>>,
    pub(crate) sessions: Vec<(SessionRequest, NodeIdentity)>,
    pub(crate) beats: usize,
    pub(crate) statuses: Vec<(String, TaskStatus)>,
    pub(crate) logs: Vec<LogMessage>,
    pub(crate) logs_closed: bool,
    session: Option<Sender<SessionMessage>>,
    assignments: Option<Sender<AssignmentsMessage>>,
    subscriptions: Option<Sender<SubscriptionMessage>>,
    /// What the next stream of assignments begins with.
    pub(crate) complete: Vec<Item>,
    /// Sends no assignments at all until told.
    pub(crate) hold_assignments: bool,
    mark: u64,
    serial: u8,
}

#[derive(Clone)]
pub(crate) struct Manager {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) root: Arc<RootAuthority>,
    pub(crate) tls: Arc<LiveTls>,
    pub(crate) token: String,
    pub(crate) address: String,
    pub(crate) connections: Connections,
    pub(crate) state: Arc<Mutex<Behaviour>>,
    _listening: Arc<Listening>,
}

#[derive(Clone)]
struct Services {
    clock: Arc<ManualClock>,
    root: Arc<RootAuthority>,
    token: String,
    state: Arc<Mutex<Behaviour>>,
    address: String,
}

impl Manager {
    pub(crate) async fn start() -> Manager {
        Manager::start_as(true).await
    }

    /// Without our own greeting it looks like a stock manager.
    pub(crate) async fn start_as(ours: bool) -> Manager {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let clock = Arc::new(ManualClock::at(now));
        let root = Arc::new(RootAuthority::generate(now).unwrap());
        clock.advance(time::Duration::days(10));
        let state = Arc::new(Mutex::new(Behaviour::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let token = JoinToken::generate(root.trust().digest(), &[5; 16]);
        let token = token.expose_text().to_owned();
        let services = Services {
            clock: clock.clone(),
            root: root.clone(),
            token: token.clone(),
            state: state.clone(),
            address: address.clone(),
        };
        let credentials = credentials(&root, "manager", Role::Manager, clock.as_ref());
        let tls = LiveTls::new(
            Arc::new(root.trust().clone()),
            Some(credentials),
            clock.clone(),
        );
        let mut routes = Routes::new(CaServer::new(services.clone()))
            .add_service(NodeCaServer::new(services.clone()))
            .add_service(DispatcherServer::new(services.clone()))
            .add_service(LogBrokerServer::new(services.clone()));
        if ours {
            routes = routes.add_service(HelloServer::new(services));
        }
        let connections = Connections::new();
        let acceptor = Acceptor {
            routes,
            tls: server_tls(&tls, TlsOptions::default()).unwrap(),
            clock: clock.clone(),
            connections: connections.clone(),
            relay: Relay::none(),
        };
        let listening = Arc::new(acceptor.serve(listener).unwrap());
        Manager {
            clock,
            root,
            tls,
            token,
            address,
            connections,
            state,
            _listening: listening,
        }
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Behaviour) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Waits until `found` gives something.
    pub(crate) async fn wait_for<T>(
        &self,
        mut found: impl FnMut(&mut Behaviour) -> Option<T>,
    ) -> T {
        let waiting = async {
            loop {
                if let Some(result) = self.with(&mut found) {
                    return result;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .expect("it did not happen")
    }

    pub(crate) async fn wait_for_state(&self, task_id: &str, state: i32) -> TaskStatus {
        self.wait_for(|behaviour| {
            let mut statuses = behaviour.statuses.iter();
            statuses
                .find(|(id, status)| id == task_id && status.state == state)
                .map(|(_, status)| status.clone())
        })
        .await
    }

    pub(crate) async fn say(&self, change: impl FnOnce(&mut SessionMessage)) {
        let mut message = self.session_message();
        change(&mut message);
        let sender = self
            .with(|behaviour| behaviour.session.clone())
            .expect("a session");
        sender.send(Ok(message)).await.expect("a session");
    }

    pub(crate) async fn assign(&self, changes: Vec<(Action, Item)>) {
        let (message, sender) = self.with(|behaviour| {
            let applies_to = behaviour.mark.to_string();
            behaviour.mark += 1;
            let message = AssignmentsMessage {
                r#type: Type::Incremental.into(),
                applies_to,
                results_in: behaviour.mark.to_string(),
                changes: changes.into_iter().map(change_of).collect(),
            };
            (message, behaviour.assignments.clone().expect("a stream"))
        });
        sender.send(Ok(message)).await.expect("a stream");
    }

    /// Skips a message, so that the chain breaks with the next.
    pub(crate) fn lose_a_change(&self) {
        self.with(|behaviour| behaviour.mark += 1);
    }

    pub(crate) async fn subscribe(&self, message: SubscriptionMessage) {
        let sender = self
            .wait_for(|behaviour| behaviour.subscriptions.clone())
            .await;
        sender.send(Ok(message)).await.expect("a session");
    }

    fn session_message(&self) -> SessionMessage {
        session_message(&self.address)
    }
}

fn session_message(address: &str) -> SessionMessage {
    let peer = WirePeer {
        node_id: "manager".to_owned(),
        addr: address.to_owned(),
    };
    SessionMessage {
        session_id: "session".to_owned(),
        managers: vec![WeightedPeer {
            peer: Some(peer),
            weight: 1,
        }],
        ..Default::default()
    }
}

impl Behaviour {
    fn new() -> Behaviour {
        Behaviour {
            role: Role::Worker,
            signer: None,
            clock_offset: time::Duration::ZERO,
            pending_answers: 0,
            full_answers: 0,
            lost_answers: 0,
            requests: Vec::new(),
            gate: None,
            foreign_answers: 0,
            refusal: None,
            node: None,
            root_ca: None,
            issued: HashMap::new(),
            joiners_features: None,
            sessions: Vec::new(),
            beats: 0,
            statuses: Vec::new(),
            logs: Vec::new(),
            logs_closed: false,
            session: None,
            assignments: None,
            subscriptions: None,
            complete: Vec::new(),
            hold_assignments: false,
            mark: 0,
            serial: 1,
        }
    }
}

fn change_of((action, item): (Action, Item)) -> AssignmentChange {
    let assignment = Some(Assignment { item: Some(item) });
    AssignmentChange {
        assignment,
        action: action.into(),
    }
}

pub(crate) fn credentials(
    root: &RootAuthority,
    node_id: &str,
    role: Role,
    clock: &dyn waxseal_ca::Clock,
) -> Arc<NodeCredentials> {
    let key = NodeKey::generate().unwrap();
    let pem = sign(
        root,
        key.csr_pem().unwrap().as_bytes(),
        node_id,
        role,
        9,
        clock.now(),
    );
    NodeCredentials::new(&pem, key, root.trust(), clock.now()).unwrap()
}

fn sign(
    root: &RootAuthority,
    csr_pem: &[u8],
    node_id: &str,
    role: Role,
    serial: u8,
    now: OffsetDateTime,
) -> Vec<u8> {
    let csr = Csr::parse(csr_pem).unwrap();
    let profile = NodeProfile {
        cluster_id: CLUSTER.to_owned(),
        node_id: node_id.to_owned(),
        role,
        expiry: CertificateExpiry::default(),
    };
    let serial = Serial::from_random([serial; 20]).unwrap();
    root.issue(&profile, &csr, serial, now)
        .unwrap()
        .pem
        .into_bytes()
}

/// A task of image `host` with one secret.
pub(crate) fn task(id: &str, secret_id: &str) -> Item {
    use waxseal_cluster::objects::{
        ContainerSpec, FileTarget, SecretReference, TaskSpec, TaskState,
    };
    let secrets = if secret_id.is_empty() {
        Vec::new()
    } else {
        vec![SecretReference {
            secret_id: secret_id.to_owned(),
            secret_name: "password".to_owned(),
            file: Some(FileTarget {
                name: "password".to_owned(),
                uid: "0".to_owned(),
                gid: "0".to_owned(),
                mode: 0o444,
            }),
        }]
    };
    let container = ContainerSpec {
        image: "host:latest".to_owned(),
        command: vec!["true".to_owned()],
        secrets,
        ..Default::default()
    };
    Item::Task(Task {
        id: id.to_owned(),
        service_id: "service".to_owned(),
        spec: Some(TaskSpec {
            container: Some(container),
            ..Default::default()
        }),
        status: Some(TaskStatus {
            state: TaskState::Assigned.into(),
            ..Default::default()
        }),
        desired_state: TaskState::Running.into(),
        ..Default::default()
    })
}

pub(crate) fn secret(id: &str, data: &[u8]) -> Item {
    let spec = SecretSpec {
        data: data.to_vec(),
        ..Default::default()
    };
    Item::Secret(Secret {
        id: id.to_owned(),
        spec: Some(spec),
        ..Default::default()
    })
}

/// The node as a manager shows it, with its certificate in this state.
pub(crate) fn node_in(state: IssuanceState) -> Node {
    let status = IssuanceStatus {
        state: state.into(),
        err: String::new(),
    };
    let certificate = Certificate {
        status: Some(status),
        ..Default::default()
    };
    Node {
        id: "node".to_owned(),
        certificate: Some(certificate),
        ..Default::default()
    }
}

#[async_trait]
impl Ca for Services {
    async fn get_root_ca_certificate(
        &self,
        _: Request<GetRootCaCertificateRequest>,
    ) -> Result<Response<GetRootCaCertificateResponse>, Status> {
        let other = self.state.lock().unwrap().root_ca.clone();
        let certificate = other.unwrap_or_else(|| self.root.trust().pem().to_vec());
        Ok(Response::new(GetRootCaCertificateResponse { certificate }))
    }
}

#[async_trait]
impl Hello for Services {
    async fn greet(&self, _: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        use waxseal_ca::Clock;
        let time = self.clock.now() + self.state.lock().unwrap().clock_offset;
        let server_time = Some(prost_types::Timestamp {
            seconds: time.unix_timestamp(),
            nanos: 0,
        });
        Ok(Response::new(HelloResponse {
            server_time,
            ..Default::default()
        }))
    }
}

#[async_trait]
impl NodeCa for Services {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        use waxseal_ca::Clock;
        let features = announced_features(&request)?;
        let caller = Peer::of(&request)?.identity.clone();
        let message = request.into_inner();
        if caller.is_none() && message.token != self.token.as_bytes() {
            let text = "A valid join token is necessary to join this cluster";
            return Err(Status::invalid_argument(text));
        }
        let gate = {
            let mut state = self.state.lock().unwrap();
            state.requests.push(message.csr.clone());
            state.gate.clone()
        };
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        let mut state = self.state.lock().unwrap();
        state.joiners_features = features;
        let node_id = caller.map_or_else(|| "node".to_owned(), |caller| caller.node_id);
        state.serial += 1;
        let root = state.signer.as_ref().unwrap_or(&self.root);
        let (role, serial) = (state.role, state.serial);
        let pem = sign(root, &message.csr, &node_id, role, serial, self.clock.now());
        state.issued.insert(node_id.clone(), (message.csr, pem));
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(Status::unavailable("lost"));
        }
        Ok(Response::new(IssueNodeCertificateResponse {
            node_id,
            node_membership: 1,
        }))
    }

    async fn node_certificate_status(
        &self,
        request: Request<NodeCertificateStatusRequest>,
    ) -> Result<Response<NodeCertificateStatusResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        let answer = |issuance: IssuanceState, csr: Vec<u8>, pem: Vec<u8>| {
            let status = IssuanceStatus {
                state: issuance.into(),
                err: String::new(),
            };
            let certificate = Certificate {
                csr,
                certificate: pem,
                ..Default::default()
            };
            let status = Some(status);
            let certificate = Some(certificate);
            Ok(Response::new(NodeCertificateStatusResponse {
                status,
                certificate,
            }))
        };
        let node_id = request.into_inner().node_id;
        let (csr, pem) = state
            .issued
            .get(&node_id)
            .cloned()
            .ok_or_else(|| Status::not_found("no node"))?;
        if state.pending_answers > 0 {
            state.pending_answers -= 1;
            return answer(IssuanceState::Pending, csr, Vec::new());
        }
        if state.full_answers > 0 {
            state.full_answers -= 1;
            return Err(Status::resource_exhausted("too many calls are held"));
        }
        if state.foreign_answers > 0 {
            state.foreign_answers -= 1;
            return answer(IssuanceState::Issued, b"another".to_vec(), pem);
        }
        answer(IssuanceState::Issued, csr, pem)
    }
}

#[async_trait]
impl Dispatcher for Services {
    type SessionStream = ReceiverStream<Result<SessionMessage, Status>>;
    type AssignmentsStream = ReceiverStream<Result<AssignmentsMessage, Status>>;

    async fn session(
        &self,
        request: Request<SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let identity = Peer::of(&request)?.member()?.clone();
        let mut state = self.state.lock().unwrap();
        if let Some(refusal) = &state.refusal {
            return Err(refusal.clone());
        }
        let (sender, receiver) = mpsc::channel(16);
        let first = SessionMessage {
            node: state.node.clone(),
            ..session_message(&self.address)
        };
        sender.try_send(Ok(first)).unwrap();
        state.session = Some(sender);
        state.sessions.push((request.into_inner(), identity));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn heartbeat(
        &self,
        _: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        self.state.lock().unwrap().beats += 1;
        let period = Some(HEARTBEAT.try_into().unwrap());
        Ok(Response::new(HeartbeatResponse { period }))
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        let updates = request.into_inner().updates.into_iter();
        let statuses = updates.filter_map(|update| Some((update.task_id, update.status?)));
        self.state.lock().unwrap().statuses.extend(statuses);
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        _: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let mut state = self.state.lock().unwrap();
        let (sender, receiver) = mpsc::channel(16);
        if !state.hold_assignments {
            state.mark += 1;
            let changes = state.complete.iter().cloned();
            let message = AssignmentsMessage {
                r#type: Type::Complete.into(),
                applies_to: String::new(),
                results_in: state.mark.to_string(),
                changes: changes
                    .map(|item| change_of((Action::Update, item)))
                    .collect(),
            };
            sender.try_send(Ok(message)).unwrap();
        }
        state.assignments = Some(sender);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[async_trait]
impl LogBroker for Services {
    type ListenSubscriptionsStream = ReceiverStream<Result<SubscriptionMessage, Status>>;

    async fn listen_subscriptions(
        &self,
        _: Request<ListenSubscriptionsRequest>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        self.state.lock().unwrap().subscriptions = Some(sender);
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.next().await {
            let message = message?;
            let mut state = self.state.lock().unwrap();
            state.logs_closed |= message.close;
            state.logs.extend(message.messages);
        }
        Ok(Response::new(PublishLogsResponse {}))
    }
}
