//! Calls that a manager relays: two doors, one of the leader, one that is not.

use std::{
    collections::BTreeSet,
    future::pending,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::time::OffsetDateTime;
use http::uri::PathAndQuery;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Code, Request, Response, Status, Streaming, async_trait, client::Grpc, metadata::MetadataMap,
};
use waxseal_ca::{
    CertificateExpiry, Csr, LiveTls, NodeCredentials, NodeIdentity, NodeKey, NodeProfile, Purpose,
    Role, RootAuthority, TlsOptions, serial::Serial, server_tls, test_util::ManualClock,
    verify_chain,
};

use super::{
    tests::{CLUSTER, issue},
    *,
};
use crate::{
    Credentials, ManagerChannel, Peer, announced_features, envelope,
    swarmkit::{
        AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, HeartbeatResponse,
        IssueNodeCertificateRequest, IssueNodeCertificateResponse, ListenSubscriptionsRequest,
        LogMessage, NodeCertificateStatusRequest, NodeCertificateStatusResponse,
        PublishLogsMessage, PublishLogsResponse, SessionMessage, SessionRequest,
        SubscriptionMessage, UpdateTaskStatusRequest, UpdateTaskStatusResponse,
        dispatcher_server::{Dispatcher, DispatcherServer},
        log_broker_server::{LogBroker, LogBrokerServer},
        node_ca_server::{NodeCa, NodeCaServer},
    },
};

/// Says who calls and what it claims; counts what is open.
#[derive(Clone, Default)]
struct Services {
    sessions: Arc<AtomicUsize>,
    lines: Arc<AtomicUsize>,
}

/// Who calls, by the peer, and what else came along.
fn told<T>(request: &Request<T>) -> Result<String, Status> {
    let peer = Peer::of(request)?;
    let node = peer.identity.as_ref().map_or("-", |id| id.node_id.as_str());
    let relayed_by = peer.relayed_by.as_deref().unwrap_or("-");
    let claims = [
        "forwarded_cert",
        "forwarded_cert_cn",
        "redirect",
        "remote_addr",
    ];
    let metadata: &MetadataMap = request.metadata();
    let claimed = claims.iter().filter(|name| metadata.contains_key(**name));
    let sealed = metadata.contains_key("waxseal-envelope-bin");
    let features = announced_features(request)?.is_some();
    Ok(format!(
        "{node} {relayed_by} {} {} {sealed} {features}",
        peer.address.ip(),
        claimed.count()
    ))
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

type Messages<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Dispatcher for Services {
    type SessionStream = Messages<SessionMessage>;
    type AssignmentsStream = ReceiverStream<Result<AssignmentsMessage, Status>>;

    async fn session(
        &self,
        request: Request<SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let message = SessionMessage {
            session_id: told(&request)?,
            ..Default::default()
        };
        let (sender, receiver) = mpsc::channel(1);
        let _ = sender.try_send(Ok(message));
        self.sessions.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.sessions));
        let messages = ReceiverStream::new(receiver).map(move |message| {
            let _ = (&open, &sender);
            message
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let mut answer = Response::new(HeartbeatResponse::default());
        let told = told(&request)?.parse().unwrap();
        answer.metadata_mut().insert("told", told);
        Ok(answer)
    }

    async fn update_task_status(
        &self,
        _: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        Err(Status::failed_precondition("a refusal in trailers"))
    }

    async fn assignments(
        &self,
        _: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        // Two large messages, then an end of its own.
        let (sender, receiver) = mpsc::channel(3);
        for count in [1, 2] {
            let message = AssignmentsMessage {
                results_in: "x".repeat(count * 3_000_000),
                ..Default::default()
            };
            let _ = sender.try_send(Ok(message));
        }
        let _ = sender.try_send(Err(Status::aborted("node must disconnect")));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

#[async_trait]
impl NodeCa for Services {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        Ok(Response::new(IssueNodeCertificateResponse {
            node_id: told(&request)?,
            ..Default::default()
        }))
    }

    async fn node_certificate_status(
        &self,
        _: Request<NodeCertificateStatusRequest>,
    ) -> Result<Response<NodeCertificateStatusResponse>, Status> {
        pending().await
    }
}

#[async_trait]
impl LogBroker for Services {
    type ListenSubscriptionsStream = ReceiverStream<Result<SubscriptionMessage, Status>>;

    async fn listen_subscriptions(
        &self,
        _: Request<ListenSubscriptionsRequest>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    /// Reads as long as it is told to, and no further.
    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let mut stream = request.into_inner();
        while let Some(message) = stream.next().await {
            let message = message?;
            self.lines
                .fetch_add(message.messages.len(), Ordering::SeqCst);
            if message.subscription_id == "stop" {
                return pending().await;
            }
        }
        Ok(Response::new(PublishLogsResponse {}))
    }
}

/// As a manager does it: the node table, then the chain.
struct Table {
    trust: waxseal_ca::TrustBundle,
    clock: Arc<ManualClock>,
    demoted: Mutex<BTreeSet<String>>,
}

impl Vouch for Table {
    fn vouch(
        &self,
        relayer: &NodeIdentity,
        claim: &RelayClaim<'_>,
    ) -> Result<Option<NodeIdentity>, Status> {
        if self.demoted.lock().unwrap().contains(&relayer.node_id) {
            return Err(Status::permission_denied("no manager any more"));
        }
        if claim.chain.is_empty() {
            return Ok(None);
        }
        let verified = verify_chain(claim.chain, &self.trust, self.clock.now(), Purpose::Client);
        let verified = verified.map_err(|error| Status::unauthenticated(error.to_string()))?;
        Ok(Some(verified.identity))
    }
}

struct Door {
    address: String,
    services: Services,
    course: watch::Sender<Course>,
    connections: Connections,
    _listening: Listening,
}

/// A leader, a manager that relays to it, and what both rest on.
struct World {
    clock: Arc<ManualClock>,
    root: RootAuthority,
    table: Arc<Table>,
    leader: Door,
    follower: Door,
    over: CancellationToken,
}

impl World {
    async fn new() -> World {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let clock = Arc::new(ManualClock::at(now));
        let root = RootAuthority::generate(now).unwrap();
        let table = Arc::new(Table {
            trust: root.trust().clone(),
            clock: clock.clone(),
            demoted: Mutex::default(),
        });
        let leader = door(&root, &clock, &table, "leader");
        let follower = door(&root, &clock, &table, "follower");
        leader.course.send_replace(Course::Here);
        let world = World {
            clock,
            root,
            table,
            leader,
            follower,
            over: CancellationToken::new(),
        };
        world.lead_to_leader().await;
        world
    }

    async fn lead_to_leader(&self) {
        let channel = self.dial(&self.leader, "follower", Role::Manager).await;
        let leader = ToLeader {
            channel,
            incarnation: 1,
            over: self.over.clone(),
        };
        self.follower
            .course
            .send_replace(Course::Leader(Arc::new(leader)));
    }

    fn live(&self, credentials: Arc<NodeCredentials>) -> Arc<LiveTls> {
        let trust = Arc::new(self.root.trust().clone());
        LiveTls::new(trust, Some(credentials), self.clock.clone())
    }

    async fn dial(&self, door: &Door, node_id: &str, role: Role) -> ManagerChannel {
        let live = self.live(issue(&self.root, self.clock.now(), node_id, role));
        ManagerChannel::dial(&door.address, Credentials::Member(&live))
            .await
            .unwrap()
    }

    async fn joiner(&self, door: &Door) -> ManagerChannel {
        let trust = Arc::new(self.root.trust().clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let credentials = Credentials::Join {
            trust: &trust,
            clock: &clock,
        };
        ManagerChannel::dial(&door.address, credentials)
            .await
            .unwrap()
    }
}

fn door(root: &RootAuthority, clock: &Arc<ManualClock>, table: &Arc<Table>, name: &str) -> Door {
    let trust = Arc::new(root.trust().clone());
    let credentials = issue(root, clock.now(), name, Role::Manager);
    let live = LiveTls::new(trust, Some(credentials), clock.clone());
    let services = Services::default();
    let (course, following) = watch::channel(Course::Nowhere);
    let connections = Connections::new();
    let acceptor = Acceptor {
        routes: Routes::new(DispatcherServer::new(services.clone()))
            .add_service(NodeCaServer::new(services.clone()))
            .add_service(LogBrokerServer::new(services.clone())),
        tls: server_tls(&live, TlsOptions::default()).unwrap(),
        clock: clock.clone(),
        connections: connections.clone(),
        relay: Relay {
            course: following,
            vouch: Arc::clone(table) as Arc<dyn Vouch>,
        },
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let listening = acceptor
        .serve(TcpListener::from_std(listener).unwrap())
        .unwrap();
    Door {
        address: listening.address().to_string(),
        services,
        course,
        connections,
        _listening: listening,
    }
}

fn with_headers<T>(message: T, headers: &[(&str, &str)]) -> Request<T> {
    let mut all = http::HeaderMap::new();
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        all.append(name, value.parse().unwrap());
    }
    let mut request = Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(all);
    request
}

/// A heartbeat with whatever headers, under whatever path; answers who was seen.
async fn beat(
    channel: &ManagerChannel,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<String, Status> {
    let request = with_headers(HeartbeatRequest::default(), headers);
    let mut client = Grpc::new(channel.clone());
    client
        .ready()
        .await
        .map_err(|error| Status::unknown(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<HeartbeatRequest, HeartbeatResponse>::default();
    let path = path.parse::<PathAndQuery>().unwrap();
    let answer = client.unary(request, path, codec).await?;
    Ok(answer
        .metadata()
        .get("told")
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned())
}

const BEAT: &str = "/docker.swarmkit.v1.Dispatcher/Heartbeat";
const RELAYED_BEAT: &str = "/waxseal.v1.Relay/docker.swarmkit.v1.Dispatcher/Heartbeat";

/// An envelope with these certificates, as a relaying manager makes it.
fn envelope_of(credentials: Option<&NodeCredentials>) -> String {
    let mut headers = http::HeaderMap::new();
    let chain = credentials
        .map(|own| own.chain().to_vec())
        .unwrap_or_default();
    let peer = Peer {
        sealing: None,
        address: "192.0.2.9:1".parse().unwrap(),
        identity: None,
        chain: chain.into(),
        relayed_by: None,
        binding: None,
    };
    envelope::enclose(&mut headers, &peer, 1).unwrap();
    let value = headers.values().next().unwrap();
    value.to_str().unwrap().to_owned()
}

fn code<T>(answer: Result<T, Status>) -> Code {
    answer.err().map_or(Code::Ok, |status| status.code())
}

async fn becomes(count: &AtomicUsize, wanted: usize) {
    let reached = async {
        while count.load(Ordering::SeqCst) != wanted {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(10), reached).await.unwrap();
}

#[tokio::test]
async fn who_claims_to_speak_for_others_speaks_for_itself() {
    let world = World::new().await;
    let manager = issue(&world.root, world.clock.now(), "someone", Role::Manager);
    let sealed = envelope_of(Some(&manager));
    let claims = [
        ("waxseal-envelope-bin", sealed.as_str()),
        ("forwarded_cert", "true"),
        ("forwarded_cert_cn", "someone"),
        ("forwarded_cert_org", CLUSTER),
        ("forwarded_cert_ou", "swarm-manager"),
        ("remote_addr", "192.0.2.9:1"),
        ("redirect", "192.0.2.9:1"),
        ("waxseal-features", "native-tasks"),
    ];
    let direct = world.dial(&world.leader, "worker", Role::Worker).await;
    let seen = beat(&direct, BEAT, &claims).await.unwrap();
    assert_eq!(seen, "worker - 127.0.0.1 0 false true");
    let relayed = world.dial(&world.follower, "worker", Role::Worker).await;
    let seen = beat(&relayed, BEAT, &claims).await.unwrap();
    assert_eq!(seen, "worker follower 127.0.0.1 0 false true");
    // A manager's own calls are its own too.
    let direct = world.dial(&world.leader, "other", Role::Manager).await;
    let seen = beat(&direct, BEAT, &claims).await.unwrap();
    assert_eq!(seen, "other - 127.0.0.1 0 false true");
    // And one who joins remains without a name.
    let joiner = world.joiner(&world.follower).await;
    let mut request = Request::new(IssueNodeCertificateRequest::default());
    let value = "swarm-manager".parse().unwrap();
    request.metadata_mut().insert("forwarded_cert_ou", value);
    let answer = joiner.node_ca().issue_node_certificate(request).await;
    assert_eq!(
        answer.unwrap().into_inner().node_id,
        "- follower 127.0.0.1 0 false false"
    );
}

#[tokio::test]
async fn what_is_for_managers_is_refused_to_others() {
    let world = World::new().await;
    let worker = world.dial(&world.leader, "worker", Role::Worker).await;
    let joiner = world.joiner(&world.leader).await;
    let own = issue(&world.root, world.clock.now(), "worker", Role::Worker);
    let sealed = envelope_of(Some(&own));
    let headers = [("waxseal-envelope-bin", sealed.as_str())];
    for path in [
        RELAYED_BEAT,
        "/waxseal.v1.Relay/",
        "/waxseal.v1.Raft/Append",
        "/waxseal.v1.Raft/Snapshot",
        "/waxseal.v1.Control/Propose",
        "/waxseal.v1.Control/UnlockKey",
    ] {
        assert_eq!(
            code(beat(&worker, path, &headers).await),
            Code::PermissionDenied,
            "{path}"
        );
        assert_eq!(
            code(beat(&joiner, path, &headers).await),
            Code::PermissionDenied,
            "{path}"
        );
    }
    // A manager reaches them; here is none that answers.
    let manager = world.dial(&world.leader, "follower", Role::Manager).await;
    let answer = beat(&manager, "/waxseal.v1.Control/Propose", &[]).await;
    assert_eq!(code(answer), Code::Unimplemented);
}

#[tokio::test]
async fn a_demoted_manager_relays_nothing() {
    let world = World::new().await;
    let sealed = envelope_of(Some(&issue(
        &world.root,
        world.clock.now(),
        "worker",
        Role::Worker,
    )));
    let headers = [("waxseal-envelope-bin", sealed.as_str())];
    let demoted = world.dial(&world.leader, "demoted", Role::Manager).await;
    assert!(beat(&demoted, RELAYED_BEAT, &headers).await.is_ok());
    let table = &world.table;
    table.demoted.lock().unwrap().insert("demoted".to_owned());
    let refused = beat(&demoted, RELAYED_BEAT, &headers).await;
    assert_eq!(code(refused), Code::PermissionDenied);
    // Through it nobody is served either.
    table.demoted.lock().unwrap().insert("follower".to_owned());
    let worker = world.dial(&world.follower, "worker", Role::Worker).await;
    let refused = beat(&worker, BEAT, &[]).await;
    assert_eq!(code(refused), Code::PermissionDenied);
}

#[tokio::test]
async fn the_leader_believes_certificates_alone() {
    let (world, other) = (World::new().await, World::new().await);
    let manager = world.dial(&world.leader, "follower", Role::Manager).await;
    let now = world.clock.now();
    let relayed = async |sealed: &str| {
        let headers = [("waxseal-envelope-bin", sealed)];
        beat(&manager, RELAYED_BEAT, &headers).await
    };
    let good = envelope_of(Some(&issue(&world.root, now, "worker", Role::Worker)));
    assert_eq!(
        relayed(&good).await.unwrap(),
        "worker follower 192.0.2.9 0 false false"
    );
    // 1. Of another cluster.
    let foreign = envelope_of(Some(&issue(&other.root, now, "worker", Role::Worker)));
    assert_eq!(code(relayed(&foreign).await), Code::Unauthenticated);
    // 2. No certificate, garbage, and none at all.
    assert_eq!(
        code(relayed(&envelope_of(None)).await),
        Code::Unauthenticated
    );
    assert_eq!(code(relayed("AAAA").await), Code::InvalidArgument);
    assert_eq!(
        code(beat(&manager, RELAYED_BEAT, &[]).await),
        Code::InvalidArgument
    );
    let twice = [
        ("waxseal-envelope-bin", good.as_str()),
        ("waxseal-envelope-bin", good.as_str()),
    ];
    assert_eq!(
        code(beat(&manager, RELAYED_BEAT, &twice).await),
        Code::InvalidArgument
    );
    // 3. Larger than an envelope may be.
    let large = "A".repeat(limits::ENVELOPE_LIMIT * 4 / 3 + 8);
    assert_eq!(code(relayed(&large).await), Code::InvalidArgument);
    // 4. Other services, relaying itself among them.
    let headers = [("waxseal-envelope-bin", good.as_str())];
    for service in [
        "waxseal.v1.Relay/docker.swarmkit.v1.Dispatcher/Heartbeat",
        "waxseal.v1.Control/Propose",
        "docker.swarmkit.v1.CA/GetRootCACertificate",
    ] {
        let path = format!("/waxseal.v1.Relay/{service}");
        assert_eq!(
            code(beat(&manager, &path, &headers).await),
            Code::PermissionDenied,
            "{path}"
        );
    }
    // 5. Expired. The relaying manager's own would be too: it has a longer one.
    let key = NodeKey::generate().unwrap();
    let csr = Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap();
    let profile = NodeProfile {
        cluster_id: CLUSTER.to_owned(),
        node_id: "brief".to_owned(),
        role: Role::Worker,
        expiry: CertificateExpiry::new(Duration::from_secs(3600)).unwrap(),
    };
    let serial = Serial::from_random([7; 20]).unwrap();
    let issued = world.root.issue(&profile, &csr, serial, now).unwrap();
    let brief = NodeCredentials::new(issued.pem.as_bytes(), key, world.root.trust(), now).unwrap();
    let brief = envelope_of(Some(&brief));
    assert!(relayed(&brief).await.is_ok());
    world.clock.advance(::time::Duration::hours(3));
    assert_eq!(code(relayed(&brief).await), Code::Unauthenticated);
}

#[tokio::test]
async fn streams_and_refusals_come_through_as_they_are() {
    let world = World::new().await;
    let channel = world.dial(&world.follower, "worker", Role::Worker).await;
    // A refusal without messages.
    let request = UpdateTaskStatusRequest::default();
    let refused = channel
        .dispatcher()
        .update_task_status(request)
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "a refusal in trailers");
    // Messages larger than any window, and a status after them.
    let request = AssignmentsRequest::default();
    let mut messages = channel
        .dispatcher()
        .assignments(request)
        .await
        .unwrap()
        .into_inner();
    for count in [1, 2] {
        let message = messages.next().await.unwrap().unwrap();
        assert_eq!(message.results_in.len(), count * 3_000_000);
    }
    let end = messages.next().await.unwrap().unwrap_err();
    assert_eq!(
        (end.code(), end.message()),
        (Code::Aborted, "node must disconnect")
    );
    assert!(messages.next().await.is_none());
    // A stream from the node, to its own end.
    let (sender, receiver) = mpsc::channel(4);
    let publishing = tokio::spawn({
        let mut log_broker = channel.log_broker();
        async move { log_broker.publish_logs(ReceiverStream::new(receiver)).await }
    });
    for _ in 0..100 {
        sender.send(lines("go", 1000)).await.unwrap();
    }
    drop(sender);
    publishing.await.unwrap().unwrap();
    assert_eq!(world.leader.services.lines.load(Ordering::SeqCst), 100);
}

fn lines(id: &str, bytes: usize) -> PublishLogsMessage {
    PublishLogsMessage {
        subscription_id: id.to_owned(),
        messages: vec![LogMessage {
            data: vec![b'x'; bytes],
            ..Default::default()
        }],
        close: false,
    }
}

#[tokio::test]
async fn who_is_not_read_waits_and_others_do_not() {
    let world = World::new().await;
    let channel = world.dial(&world.follower, "worker", Role::Worker).await;
    let (sender, receiver) = mpsc::channel(1);
    let publishing = tokio::spawn({
        let mut log_broker = channel.log_broker();
        async move { log_broker.publish_logs(ReceiverStream::new(receiver)).await }
    });
    sender.send(lines("stop", 1)).await.unwrap();
    let mut sent = 0;
    let flood = async {
        loop {
            sender.send(lines("stop", 60_000)).await.unwrap();
            sent += 60_000;
        }
    };
    assert!(timeout(Duration::from_secs(2), flood).await.is_err());
    // What both connections and their ends may hold, not more.
    assert!(sent < 8 * 1024 * 1024, "{sent} bytes were taken");
    let seen = timeout(Duration::from_secs(5), beat(&channel, BEAT, &[])).await;
    assert!(seen.unwrap().is_ok());
    let other = world.dial(&world.follower, "other", Role::Worker).await;
    let seen = timeout(Duration::from_secs(5), beat(&other, BEAT, &[])).await;
    assert!(seen.unwrap().is_ok());
    publishing.abort();
}

#[tokio::test]
async fn an_end_on_either_side_ends_the_other() {
    let world = World::new().await;
    let open = &world.leader.services.sessions;
    let channel = world.dial(&world.follower, "worker", Role::Worker).await;
    let session = async || {
        let answer = channel
            .dispatcher()
            .session(SessionRequest::default())
            .await;
        let mut messages = answer.unwrap().into_inner();
        messages.next().await.unwrap().unwrap();
        messages
    };
    // 1. The node hangs up.
    let messages = session().await;
    becomes(open, 1).await;
    drop(messages);
    becomes(open, 0).await;
    // 2. The node is removed, as the leader sees it: at once, while the relaying
    //    manager has not heard of it.
    let mut messages = session().await;
    assert_eq!(
        world.leader.connections.addresses_of_node("worker").len(),
        1
    );
    assert_eq!(world.leader.connections.close_node("worker"), 1);
    let end = messages.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    becomes(open, 0).await;
    assert_eq!(
        world.leader.connections.count(),
        1,
        "the relaying manager's"
    );
    // 3. The leadership ends.
    let mut messages = session().await;
    world.follower.course.send_replace(Course::Nowhere);
    world.over.cancel();
    let end = messages.next().await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::Unavailable);
    becomes(open, 0).await;
    // 4. Without a leader no call is answered.
    let answer = timeout(Duration::from_secs(5), beat(&channel, BEAT, &[])).await;
    assert_eq!(code(answer.unwrap()), Code::Unavailable);
}

#[tokio::test]
async fn a_relayed_call_goes_no_further() {
    let world = World::new().await;
    // The leader has lost its place to the one that relays to it.
    let channel = world.dial(&world.follower, "leader", Role::Manager).await;
    let leader = ToLeader {
        channel,
        incarnation: 1,
        over: CancellationToken::new(),
    };
    world
        .leader
        .course
        .send_replace(Course::Leader(Arc::new(leader)));
    let worker = world.dial(&world.follower, "worker", Role::Worker).await;
    let answer = timeout(Duration::from_secs(5), beat(&worker, BEAT, &[])).await;
    assert_eq!(code(answer.unwrap()), Code::Unavailable);
}

#[tokio::test]
async fn a_call_waits_for_a_leader_that_comes_soon() {
    let world = World::new().await;
    world.follower.course.send_replace(Course::Nowhere);
    let worker = world.dial(&world.follower, "worker", Role::Worker).await;
    let waiting = tokio::spawn(async move { beat(&worker, BEAT, &[]).await });
    time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    world.lead_to_leader().await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_nodes_budget_holds_for_what_is_relayed() {
    let world = World::new().await;
    let direct = world.dial(&world.leader, "worker", Role::Worker).await;
    let relayed = world.dial(&world.follower, "worker", Role::Worker).await;
    let mut sessions = Vec::new();
    for number in 0..limits::STREAMS_PER_NODE {
        let channel = if number % 2 == 0 { &direct } else { &relayed };
        let answer = channel
            .dispatcher()
            .session(SessionRequest::default())
            .await;
        sessions.push(answer.unwrap());
    }
    for channel in [&direct, &relayed] {
        let answer = channel
            .dispatcher()
            .session(SessionRequest::default())
            .await;
        assert_eq!(code(answer), Code::ResourceExhausted);
    }
    let other = world.dial(&world.follower, "other", Role::Worker).await;
    assert!(beat(&other, BEAT, &[]).await.is_ok());
    // Bytes as well: without a certificate few are taken, at the first door already.
    let joiner = world.joiner(&world.follower).await;
    let request = IssueNodeCertificateRequest {
        csr: vec![b'x'; limits::JOIN_MESSAGE_LIMIT],
        ..Default::default()
    };
    let answer = joiner.node_ca().issue_node_certificate(request).await;
    assert_eq!(code(answer), Code::ResourceExhausted);
}

#[tokio::test]
async fn callers_without_a_certificate_have_places_of_their_own() {
    let world = World::new().await;
    let manager = world.dial(&world.leader, "follower", Role::Manager).await;
    let sealed = envelope_of(None);
    let call = || {
        let headers = [("waxseal-envelope-bin", sealed.as_str())];
        let request = with_headers(NodeCertificateStatusRequest::default(), &headers);
        let mut client = Grpc::new(manager.clone());
        async move {
            client
                .ready()
                .await
                .map_err(|error| Status::unknown(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<
                NodeCertificateStatusRequest,
                NodeCertificateStatusResponse,
            >::default();
            let path = PathAndQuery::from_static(
                "/waxseal.v1.Relay/docker.swarmkit.v1.NodeCA/NodeCertificateStatus",
            );
            client.unary(request, path, codec).await
        }
    };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..=limits::RELAYED_ANONYMOUS_CALLS {
        calls.spawn(call());
    }
    let first = timeout(Duration::from_secs(10), calls.join_next()).await;
    let refused = first.unwrap().unwrap().unwrap();
    assert_eq!(code(refused), Code::ResourceExhausted);
    let next = timeout(Duration::from_millis(200), calls.join_next()).await;
    assert!(next.is_err(), "the others are held");
    let worker = world.dial(&world.follower, "worker", Role::Worker).await;
    assert!(beat(&worker, BEAT, &[]).await.is_ok());
}
