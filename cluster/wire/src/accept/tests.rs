//! The listener against clients that behave and clients that do not.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Code, Request, Response, Status, async_trait};
use waxseal_ca::{
    CertificateExpiry, Csr, LiveTls, NodeCredentials, NodeIdentity, NodeKey, NodeProfile, Role,
    RootAuthority, TlsOptions, serial::Serial, server_tls, test_util::ManualClock,
};

use super::*;
use crate::{
    Credentials, DispatcherService, ManagerChannel, Unreachable,
    swarmkit::{
        AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, HeartbeatResponse,
        IssueNodeCertificateRequest, IssueNodeCertificateResponse, NodeCertificateStatusRequest,
        NodeCertificateStatusResponse, SessionMessage, SessionRequest, UpdateTaskStatusRequest,
        UpdateTaskStatusResponse,
        dispatcher_server::Dispatcher,
        node_ca_server::{NodeCa, NodeCaServer},
    },
};

pub(super) const CLUSTER: &str = "clusterclusterclusterclus";

/// Says who calls; its sessions stay open.
struct Echo;

#[async_trait]
impl Dispatcher for Echo {
    type SessionStream = ReceiverStream<Result<SessionMessage, Status>>;
    type AssignmentsStream = ReceiverStream<Result<AssignmentsMessage, Status>>;

    async fn session(
        &self,
        request: Request<SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = Peer::of(&request)?;
        let session_id = peer.member()?.node_id.clone();
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let message = SessionMessage {
            session_id,
            ..Default::default()
        };
        sender
            .send(Ok(message))
            .await
            .map_err(|_| Status::internal("gone"))?;
        tokio::spawn(async move { sender.closed().await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        Peer::of(&request)?.member()?;
        Ok(Response::new(HeartbeatResponse::default()))
    }

    async fn update_task_status(
        &self,
        _: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        _: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// Issues nothing; held calls are counted.
#[derive(Default)]
struct Desk {
    held: Arc<AtomicUsize>,
}

#[async_trait]
impl NodeCa for Desk {
    async fn issue_node_certificate(
        &self,
        _: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        Ok(Response::new(IssueNodeCertificateResponse::default()))
    }

    async fn node_certificate_status(
        &self,
        _: Request<NodeCertificateStatusRequest>,
    ) -> Result<Response<NodeCertificateStatusResponse>, Status> {
        self.held.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }
}

struct World {
    held: Arc<AtomicUsize>,
    clock: Arc<ManualClock>,
    root: RootAuthority,
    manager: Arc<LiveTls>,
    listening: Listening,
    connections: Connections,
    address: String,
}

impl World {
    async fn new() -> World {
        World::with(Connections::new()).await
    }

    async fn with(connections: Connections) -> World {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let clock = Arc::new(ManualClock::at(now));
        let root = RootAuthority::generate(now).unwrap();
        let trust = Arc::new(root.trust().clone());
        let credentials = issue(&root, now, "manager", Role::Manager);
        let manager = LiveTls::new(trust, Some(credentials), clock.clone());
        let desk = Desk::default();
        let held = Arc::clone(&desk.held);
        let acceptor = Acceptor {
            routes: Routes::new(DispatcherService::new(Echo)).add_service(NodeCaServer::new(desk)),
            tls: server_tls(&manager, TlsOptions::default()).unwrap(),
            clock: clock.clone(),
            connections: connections.clone(),
            relay: Relay::none(),
        };
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let listening = acceptor.serve(listener).unwrap();
        let address = listening.address().to_string();
        World {
            held,
            clock,
            root,
            manager,
            listening,
            connections,
            address,
        }
    }

    fn credentials(&self, node_id: &str, role: Role) -> Arc<NodeCredentials> {
        issue(&self.root, self.clock.now(), node_id, role)
    }

    fn live(&self, node_id: &str, role: Role) -> Arc<LiveTls> {
        let trust = Arc::new(self.root.trust().clone());
        LiveTls::new(
            trust,
            Some(self.credentials(node_id, role)),
            self.clock.clone(),
        )
    }

    async fn joiner(&self) -> ManagerChannel {
        let trust = Arc::new(self.root.trust().clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let credentials = Credentials::Join {
            trust: &trust,
            clock: &clock,
        };
        ManagerChannel::dial(&self.address, credentials)
            .await
            .unwrap()
    }

    async fn dial(&self, live: &Arc<LiveTls>) -> Result<ManagerChannel, crate::DialError> {
        ManagerChannel::dial(&self.address, Credentials::Member(live)).await
    }
}

pub(super) fn issue(
    root: &RootAuthority,
    now: OffsetDateTime,
    node_id: &str,
    role: Role,
) -> Arc<NodeCredentials> {
    let key = NodeKey::generate().unwrap();
    let csr = Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap();
    let profile = NodeProfile {
        cluster_id: CLUSTER.to_owned(),
        node_id: node_id.to_owned(),
        role,
        expiry: CertificateExpiry::default(),
    };
    let serial = Serial::from_random([7; 20]).unwrap();
    let issued = root.issue(&profile, &csr, serial, now).unwrap();
    NodeCredentials::new(issued.pem.as_bytes(), key, root.trust(), now).unwrap()
}

async fn heartbeat(channel: &ManagerChannel) -> Result<(), Status> {
    let request = HeartbeatRequest {
        session_id: "s".to_owned(),
    };
    channel.dispatcher().heartbeat(request).await.map(drop)
}

#[tokio::test]
async fn more_may_call_at_once_than_systems_queue_unasked() {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody takes them. One beyond the queue would not be answered however often it tries.
    let patience = Duration::from_secs(10);
    let connect = |_| std::net::TcpStream::connect_timeout(&address, patience).unwrap();
    let callers: Vec<_> = (0..200).map(connect).collect();
    assert_eq!(callers.len(), 200);
}

#[tokio::test]
async fn a_caller_without_certificate_is_no_member() {
    let world = World::new().await;
    let channel = world.joiner().await;
    assert_eq!(
        heartbeat(&channel).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    let channel = ManagerChannel::dial(&world.address, Credentials::FetchRoot)
        .await
        .unwrap();
    assert_eq!(
        heartbeat(&channel).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(world.connections.count(), 0);
}

#[tokio::test]
async fn without_a_certificate_only_small_requests_are_taken() {
    let world = World::new().await;
    let channel = world.joiner().await;
    let issue = |bytes| {
        let request = IssueNodeCertificateRequest {
            csr: vec![b'x'; bytes],
            ..Default::default()
        };
        let mut node_ca = channel.node_ca();
        async move { node_ca.issue_node_certificate(request).await }
    };
    issue(limits::JOIN_MESSAGE_LIMIT / 2).await.unwrap();
    let refused = issue(limits::JOIN_MESSAGE_LIMIT).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Many at once, as large as gRPC lets them be: none is taken, nobody is harmed.
    let flood: Vec<_> = (0..128)
        .map(|_| tokio::spawn(issue(limits::SERVER_MESSAGE_LIMIT)))
        .collect();
    for call in flood {
        assert!(call.await.unwrap().is_err());
    }
    let worker = world.live("worker", Role::Worker);
    let member = world.dial(&worker).await.unwrap();
    heartbeat(&member).await.unwrap();
    let request = IssueNodeCertificateRequest {
        csr: vec![b'x'; limits::JOIN_MESSAGE_LIMIT],
        ..Default::default()
    };
    let answer = member.node_ca().issue_node_certificate(request).await;
    answer.unwrap();
}

#[tokio::test]
async fn without_a_certificate_few_calls_are_open_at_once() {
    let world = World::new().await;
    let channel = world.joiner().await;
    let calls: Vec<_> = (0..40)
        .map(|_| {
            let request = NodeCertificateStatusRequest::default();
            let mut node_ca = channel.node_ca();
            tokio::spawn(async move { node_ca.node_certificate_status(request).await })
        })
        .collect();
    let few = limits::ANONYMOUS_STREAMS as usize;
    let reached = async {
        while world.held.load(Ordering::SeqCst) < few {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), reached).await.unwrap();
    time::sleep(Duration::from_millis(100)).await;
    assert_eq!(world.held.load(Ordering::SeqCst), few);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn refusals_are_no_resets() {
    let world = World::new().await;
    let channel = world
        .dial(&world.live("worker", Role::Worker))
        .await
        .unwrap();
    for _ in 0..=2 * limits::RESETS_PER_WINDOW {
        let request = crate::waxseal::HelloRequest::default();
        let refused = channel.hello().greet(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unimplemented);
    }
    heartbeat(&channel).await.unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_root_is_refused_on_both_sides() {
    let (world, other) = (World::new().await, World::new().await);
    // The client does not trust the manager.
    let foreign = other.live("worker", Role::Worker);
    let error = world.dial(&foreign).await.err().unwrap();
    assert!(
        matches!(error.cause, Unreachable::UnknownIssuer),
        "{error:?}"
    );
    assert!(error.is_certificate_failure());
    // The manager does not trust the client, and says so before a call is made.
    let trust = Arc::new(world.root.trust().clone());
    foreign.swap_trust(trust);
    let error = world.dial(&foreign).await.err().unwrap();
    assert!(
        matches!(error.cause, Unreachable::CertificateRefused { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_clock_that_is_off_is_told_with_its_direction() {
    let world = World::new().await;
    // The root is older than the leaves.
    world.clock.advance(::time::Duration::days(30));
    let worker = world.live("worker", Role::Worker);
    world
        .manager
        .swap_identity(world.credentials("manager", Role::Manager));
    world.clock.advance(::time::Duration::days(-2));
    let error = world.dial(&worker).await.err().unwrap();
    assert!(
        matches!(error.cause, Unreachable::Clock { .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("at least 2 d 0 h behind"),
        "{error}"
    );
    world.clock.advance(::time::Duration::days(400));
    let error = world.dial(&worker).await.err().unwrap();
    assert!(
        matches!(error.cause, Unreachable::Clock { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("ahead"), "{error}");
    // Before the root was made nothing of the cluster is valid.
    world.clock.advance(::time::Duration::days(-800));
    let error = world.dial(&worker).await.err().unwrap();
    assert!(
        matches!(error.cause, Unreachable::Clock { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn nobody_there_and_somebody_else_there_are_told_apart() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    let silent = tokio::spawn(async move {
        let (mut stream, _) = free.accept().await.unwrap();
        stream.write_all(b"220 mail\r\n").await.unwrap();
    });
    let error = ManagerChannel::dial(&address, Credentials::Member(&worker))
        .await
        .err()
        .unwrap();
    assert!(matches!(error.cause, Unreachable::Tls(_)), "{error:?}");
    silent.await.unwrap();
    let error = ManagerChannel::dial(&address, Credentials::Member(&worker))
        .await
        .err()
        .unwrap();
    assert!(matches!(error.cause, Unreachable::Refused), "{error:?}");
}

#[tokio::test]
async fn a_removal_closes_open_connections_at_once() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let other = world.live("other", Role::Worker);
    let channel = world.dial(&worker).await.unwrap();
    let kept = world.dial(&other).await.unwrap();
    let session = channel
        .dispatcher()
        .session(SessionRequest::default())
        .await
        .unwrap();
    let mut messages = session.into_inner();
    assert_eq!(messages.next().await.unwrap().unwrap().session_id, "worker");
    assert_eq!(world.connections.addresses_of_node("worker").len(), 1);
    assert_eq!(world.connections.close_node("worker"), 1);
    assert!(messages.next().await.unwrap().is_err());
    channel.closed().await;
    assert!(heartbeat(&channel).await.is_err());
    heartbeat(&kept).await.unwrap();
    assert_eq!(world.connections.close_node("worker"), 0);
}

#[tokio::test]
async fn a_removed_node_is_served_as_a_stranger() {
    let removed = Arc::new(Mutex::new(vec!["removed".to_owned()]));
    let banned = Arc::clone(&removed);
    let admit = move |identity: &NodeIdentity| !banned.lock().unwrap().contains(&identity.node_id);
    let world = World::with(Connections::admitting(Arc::new(admit))).await;
    let live = world.live("removed", Role::Worker);
    let channel = world.dial(&live).await.unwrap();
    assert_eq!(world.connections.count(), 0);
    // The services see who calls, and tell it; but it gets no more than a stranger.
    heartbeat(&channel).await.unwrap();
    let request = IssueNodeCertificateRequest {
        csr: vec![b'x'; limits::JOIN_MESSAGE_LIMIT],
        ..Default::default()
    };
    let refused = channel.node_ca().issue_node_certificate(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
    let member = world
        .dial(&world.live("member", Role::Worker))
        .await
        .unwrap();
    heartbeat(&member).await.unwrap();
    assert_eq!(world.connections.count(), 1);
    // Removed while it is connected: the registry closes it, and no other comes in.
    removed.lock().unwrap().push("member".to_owned());
    assert_eq!(world.connections.close_node("member"), 1);
    member.closed().await;
}

#[tokio::test]
async fn many_prompt_joiners_of_one_address_are_served() {
    let world = World::new().await;
    let mut channels = Vec::new();
    for _ in 0..4 * limits::ANONYMOUS_IDLE_PER_ADDRESS {
        let channel = world.joiner().await;
        let request = NodeCertificateStatusRequest::default();
        let mut node_ca = channel.node_ca();
        let call = tokio::spawn(async move { node_ca.node_certificate_status(request).await });
        channels.push((channel, call));
    }
    let reached = async {
        while world.held.load(Ordering::SeqCst) < channels.len() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), reached).await.unwrap();
    // Those that wait for an answer stay, however long they wait.
    time::sleep(limits::ANONYMOUS_PROMPT + Duration::from_millis(500)).await;
    for (channel, call) in channels {
        assert!(!call.is_finished());
        let request = IssueNodeCertificateRequest::default();
        let answer = channel.node_ca().issue_node_certificate(request).await;
        answer.unwrap();
        call.abort();
    }
}

#[tokio::test]
async fn few_connections_of_one_address_wait_without_a_call() {
    let world = World::new().await;
    let mut channels = Vec::new();
    for _ in 0..2 * limits::ANONYMOUS_IDLE_PER_ADDRESS {
        channels.push(world.joiner().await);
    }
    let surplus = async {
        for channel in &channels[..limits::ANONYMOUS_IDLE_PER_ADDRESS] {
            channel.closed().await;
        }
    };
    timeout(Duration::from_secs(10), surplus).await.unwrap();
    for channel in &channels[limits::ANONYMOUS_IDLE_PER_ADDRESS..] {
        let request = IssueNodeCertificateRequest::default();
        let answer = channel.node_ca().issue_node_certificate(request).await;
        answer.unwrap();
    }
}

#[tokio::test]
async fn silent_connections_do_not_keep_a_member_out() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let mut silent = Vec::new();
    for _ in 0..super::handshakes::bound_here() + 64 {
        silent.push(TcpStream::connect(&world.address).await.unwrap());
    }
    // Although it is of their address.
    heartbeat(&world.dial(&worker).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn only_connections_of_a_named_certificate_are_closed() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let channel = world.dial(&worker).await.unwrap();
    heartbeat(&channel).await.unwrap();
    let other = Serial::from_random([8; 20]).unwrap();
    assert_eq!(world.connections.close_certificate("worker", &other), 0);
    let serial = worker.identity().unwrap().serial;
    assert_eq!(world.connections.close_certificate("worker", &serial), 1);
    channel.closed().await;
}

#[tokio::test]
async fn an_open_connection_does_not_outlive_its_certificate() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let channel = world.dial(&worker).await.unwrap();
    heartbeat(&channel).await.unwrap();
    world.clock.advance(::time::Duration::days(100));
    assert_eq!(
        heartbeat(&channel).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn a_node_keeps_its_newest_connections() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let first = world.dial(&worker).await.unwrap();
    let mut later = Vec::new();
    for _ in 0..limits::CONNECTIONS_PER_NODE {
        later.push(world.dial(&worker).await.unwrap());
    }
    first.closed().await;
    for channel in &later {
        heartbeat(channel).await.unwrap();
    }
    assert_eq!(world.connections.count(), limits::CONNECTIONS_PER_NODE);
}

#[tokio::test]
async fn too_many_resets_end_a_connection() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let channel = world.dial(&worker).await.unwrap();
    let ended = async {
        loop {
            // Opened and dropped: the stream is reset.
            if channel
                .dispatcher()
                .session(SessionRequest::default())
                .await
                .is_err()
            {
                break;
            }
        }
    };
    timeout(Duration::from_secs(20), ended).await.unwrap();
    // Others are not affected.
    heartbeat(&world.dial(&worker).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_managers_resets_are_of_many() {
    let world = World::new().await;
    let follower = world.live("follower", Role::Manager);
    let channel = world.dial(&follower).await.unwrap();
    for _ in 0..=2 * limits::RESETS_PER_WINDOW {
        // Opened and dropped, as API clients hang up.
        let mut dispatcher = channel.dispatcher();
        drop(dispatcher.session(SessionRequest::default()).await.unwrap());
    }
    heartbeat(&channel).await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_come_is_cut() {
    let world = World::new().await;
    let mut end = [0; 16];
    // Nothing at all ends sooner than a handshake that stops.
    let mut stream = TcpStream::connect(&world.address).await.unwrap();
    let read = timeout(Duration::from_secs(4), stream.read(&mut end)).await;
    assert_eq!(read.unwrap().unwrap(), 0);
    let mut stream = TcpStream::connect(&world.address).await.unwrap();
    stream.write_all(&[0x16]).await.unwrap();
    let read = timeout(Duration::from_secs(8), stream.read(&mut end)).await;
    // A reset where a byte was left unread.
    assert!(read.unwrap().unwrap_or(0) == 0);
}

#[tokio::test]
async fn garbage_is_cut_and_harms_nobody() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        &[0; 4096],
    ] {
        let mut stream = TcpStream::connect(&world.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // An alert or a reset; anything but a hang.
        let _ = timeout(Duration::from_secs(8), stream.read_to_end(&mut answer))
            .await
            .unwrap();
    }
    heartbeat(&world.dial(&worker).await.unwrap())
        .await
        .unwrap();
}

#[tokio::test]
async fn shutdown_cuts_what_does_not_end_by_itself() {
    let world = World::new().await;
    let worker = world.live("worker", Role::Worker);
    let channel = world.dial(&worker).await.unwrap();
    let session = channel
        .dispatcher()
        .session(SessionRequest::default())
        .await
        .unwrap();
    let mut messages = session.into_inner();
    messages.next().await.unwrap().unwrap();
    world.listening.shutdown(Duration::from_millis(200)).await;
    assert!(messages.next().await.unwrap().is_err());
    let credentials = Credentials::Member(&worker);
    assert!(
        ManagerChannel::dial(&world.address, credentials)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let world = World::new().await;
    let channel = world
        .dial(&world.live("worker", Role::Worker))
        .await
        .unwrap();
    let answer = channel
        .hello()
        .greet(crate::waxseal::HelloRequest::default())
        .await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}
