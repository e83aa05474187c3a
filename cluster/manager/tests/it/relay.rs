//! Any manager answers, whoever leads.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::{Code, Request};
use waxseal_ca::{NodeKey, Role};
use waxseal_cluster::{
    Refusal,
    objects::{IssuanceState, NodeRole, NodeState, RemoveNode, command::Op},
};
use waxseal_manager::{Leader, Manager, ProposeError, ReadError, component};
use waxseal_wire::{
    Credentials, ManagerChannel,
    swarmkit::{
        AssignmentsRequest, GetRootCaCertificateRequest, HeartbeatRequest,
        IssueNodeCertificateRequest, ListenSubscriptionsRequest, LogSubscriptionOptions,
        NodeCertificateStatusRequest,
    },
    waxseal::{HelloRequest, MembersRequest, ReadIndexRequest, UnlockKeyRequest},
};

use crate::{
    group::{Group, Site},
    support::{DEADLINE, add_node, create_secret, open_session},
    way::Way,
};

impl Group {
    /// Managers that follow.
    async fn followers(&self) -> Vec<usize> {
        let leader = self.leader().await;
        self.running().filter(|site| *site != leader).collect()
    }

    fn at(&self, site: usize) -> &Manager {
        self.sites[site].manager()
    }
}

fn has(manager: &Manager, id: &str) -> bool {
    manager.read(|state| state.secret(id).is_some())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_manager_writes_and_shows_what_was_acknowledged() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    for follower in group.followers().await {
        let own = format!("own{follower}");
        create_secret(group.at(follower), &own, 100).await.unwrap();
        assert!(has(group.at(follower), &own), "its own writes at once");
        let taken = create_secret(group.at(follower), &own, 100).await;
        assert!(
            matches!(
                taken,
                Err(ProposeError::Refused(Refusal::NameTaken {
                    kind: "secret",
                    ..
                }))
            ),
            "{taken:?}"
        );
        for number in 0..20 {
            let other = format!("other{follower}-{number}");
            create_secret(group.at(leader), &other, 100).await.unwrap();
            group.at(follower).linearize().await.unwrap();
            assert!(has(group.at(follower), &other), "of others once it asked");
        }
    }
    // Many at once, through all of them; a large one among them.
    let writes = (0..150).map(|number| {
        let manager = group.at(number % 3);
        async move {
            let bytes = if number == 7 { 450_000 } else { 100 };
            create_secret(manager, &format!("many{number}"), bytes).await
        }
    });
    for written in futures_all(writes).await {
        written.unwrap();
    }
    group.end().await;
}

async fn futures_all<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = all.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|cx| {
        let mut done = true;
        for (future, output) in &mut pending {
            if output.is_none() {
                match future.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        match done {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    pending
        .into_iter()
        .filter_map(|(_, output)| output)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_served_through_a_manager_that_follows() {
    let group = Group::of(3).await;
    let follower = group.followers().await[0];
    let leader = group.leader().await;
    add_node(group.at(leader), "w1", NodeRole::Worker).await;
    let worker = group.world.worker(group.at(follower), "w1").await;
    // 1. Its session, with all managers in the list, and what belongs to it.
    let (mut messages, first) = open_session(&worker).await.unwrap();
    let mut managers: Vec<_> = first
        .managers
        .iter()
        .map(|entry| entry.peer.as_ref().unwrap().addr.clone())
        .collect();
    managers.sort();
    let mut expected: Vec<_> = group.sites.iter().map(|site| site.addr()).collect();
    expected.sort();
    assert_eq!(managers, expected);
    assert!(first.managers.iter().all(|entry| entry.weight > 0));
    let session_id = first.session_id;
    let beat = HeartbeatRequest {
        session_id: session_id.clone(),
    };
    worker.dispatcher().heartbeat(beat.clone()).await.unwrap();
    let request = AssignmentsRequest {
        session_id: session_id.clone(),
    };
    let assignments = worker.dispatcher().assignments(request).await.unwrap();
    let mut assignments = assignments.into_inner();
    timeout(DEADLINE, assignments.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let mut log_broker = worker.log_broker();
    let listening = log_broker.listen_subscriptions(ListenSubscriptionsRequest {});
    let mut subscriptions = listening.await.unwrap().into_inner();
    // The address on record is the node's, not that of the manager that relays.
    group.at(leader).linearize().await.unwrap();
    group.at(leader).read(|state| {
        let status = state.node("w1").unwrap().status.clone().unwrap();
        assert_eq!(status.state(), NodeState::Ready);
        assert_eq!(status.addr, "127.0.0.1");
    });
    // 2. A removal ends all of it at once.
    let removal = Op::RemoveNode(RemoveNode {
        node_id: "w1".into(),
        force: true,
        ban_expires_at: Some(prost_types::Timestamp {
            seconds: 1_900_000_000,
            nanos: 0,
        }),
    });
    let removed = Instant::now();
    group
        .at(leader)
        .propose(component("test"), removal)
        .await
        .unwrap();
    let ended = async {
        while let Some(Ok(_)) = messages.next().await {}
        while let Some(Ok(_)) = assignments.next().await {}
        while let Some(Ok(_)) = subscriptions.next().await {}
        worker.closed().await;
    };
    // Some milliseconds; more where many tests share few cores.
    timeout(Duration::from_secs(3), ended).await.unwrap();
    println!(
        "a removal ended relayed streams after {:?}",
        removed.elapsed()
    );
    let again = group.world.worker(group.at(follower), "w1").await;
    let refused = again.dispatcher().heartbeat(beat).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_and_renews_through_a_manager_that_follows() {
    let group = Group::of(3).await;
    let follower = group.followers().await[0];
    let joiner = group.world.joiner(group.at(follower)).await;
    let root = joiner
        .ca()
        .get_root_ca_certificate(GetRootCaCertificateRequest {})
        .await
        .unwrap();
    assert_eq!(
        root.into_inner().certificate,
        group.world.root.cert_pem().as_bytes()
    );
    joiner.hello().greet(HelloRequest::default()).await.unwrap();
    let issue = |token: &str| IssueNodeCertificateRequest {
        csr: NodeKey::generate().unwrap().csr_pem().unwrap().into_bytes(),
        token: token.as_bytes().to_vec(),
        ..Default::default()
    };
    let refused = joiner
        .node_ca()
        .issue_node_certificate(issue("SWMTKN"))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    let token = group.world.tokens.token(Role::Worker);
    let mut node_ca = joiner.node_ca();
    let issued = node_ca.issue_node_certificate(issue(token.expose_text()));
    let node_id = issued.await.unwrap().into_inner().node_id;
    let status = NodeCertificateStatusRequest { node_id };
    let status = timeout(DEADLINE, node_ca.node_certificate_status(status));
    let status = status.await.unwrap().unwrap().into_inner();
    assert_eq!(status.status.unwrap().state(), IssuanceState::Issued);
    // Its own certificate names it when it asks for another.
    let node_id = status.certificate.unwrap().cn;
    let worker = group.world.worker(group.at(follower), &node_id).await;
    let renewed = worker.node_ca().issue_node_certificate(issue("")).await;
    assert_eq!(renewed.unwrap().into_inner().node_id, node_id);
    // Whose certificates are not those of a node is nobody there either.
    let stranger = group.world.worker(group.at(follower), "nobody").await;
    let refused = stranger.node_ca().issue_node_certificate(issue("")).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_hear_of_new_managers() {
    let mut group = Group::of(1).await;
    add_node(group.at(0), "w1", NodeRole::Worker).await;
    let worker = group.world.worker(group.at(0), "w1").await;
    let (mut messages, first) = open_session(&worker).await.unwrap();
    assert_eq!(first.managers.len(), 1);
    group.join(2).await.unwrap();
    let hears = async {
        loop {
            let message = messages.next().await.unwrap().unwrap();
            if message.managers.len() == 2 {
                return;
            }
        }
    };
    timeout(DEADLINE, hears).await.unwrap();
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_leader_is_a_pause_to_clients_of_others() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let follower = group.followers().await[0];
    add_node(group.at(leader), "w1", NodeRole::Worker).await;
    let worker = group.world.worker(group.at(follower), "w1").await;
    let (mut messages, _) = open_session(&worker).await.unwrap();
    let mut killed = None;
    let mut longest = Duration::ZERO;
    for number in 0..200 {
        if number == 100 {
            group.kill(leader);
            killed = Some(Instant::now());
        }
        let id = format!("s{number}");
        let begun = Instant::now();
        // What was created is found by its id: no write is in doubt.
        create_secret(group.at(follower), &id, 100).await.unwrap();
        assert!(has(group.at(follower), &id));
        longest = longest.max(begun.elapsed());
    }
    println!("the longest write across the loss took {longest:?}");
    assert!(longest < Duration::from_secs(5));
    // The session ended with its leader, and another one is to be had.
    let end = timeout(Duration::from_secs(5), async {
        loop {
            if let Some(Err(status)) = messages.next().await {
                return status;
            }
        }
    });
    assert_eq!(end.await.unwrap().code(), Code::Unavailable);
    let registered = async {
        while let Err(status) = open_session(&worker).await {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, registered).await.unwrap();
    println!(
        "the node had a session {:?} later",
        killed.unwrap().elapsed()
    );
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_way_to_the_leader_is_found_out_and_leaves_no_write_in_doubt() {
    let mut first = Site::new(1);
    first.way = Some(Way::to(first.port).await);
    let group = Group::founded_at(first, 3).await;
    assert_eq!(group.leader().await, 0);
    add_node(group.at(0), "w1", NodeRole::Worker).await;
    let worker = group.world.worker(group.at(1), "w1").await;
    let (mut messages, _) = open_session(&worker).await.unwrap();
    // The leader carries the write out, and its answer is lost.
    group.sites[0].slow.set(Duration::from_millis(600));
    let begun = Instant::now();
    let (created, ()) = tokio::join!(create_secret(group.at(1), "in-doubt", 100), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        group.sites[0].way.as_ref().unwrap().fall_silent();
        group.sites[0].slow.set(Duration::ZERO);
    });
    println!("answered after {:?}: {created:?}", begun.elapsed());
    created.unwrap();
    assert!(has(group.at(1), "in-doubt"));
    // So is the session that went that way, and there is another one to be had.
    let ended = async {
        loop {
            if let Some(Err(status)) = messages.next().await {
                return status;
            }
        }
    };
    let status = timeout(DEADLINE, ended).await.unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let registered = async {
        while let Err(status) = open_session(&worker).await {
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(DEADLINE, registered).await.unwrap();
    println!("a new session after {:?}", begun.elapsed());
    assert_eq!(group.leader().await, 0, "nobody else had to lead");
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_nothing_is_answered() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let followers = group.followers().await;
    add_node(group.at(leader), "w1", NodeRole::Worker).await;
    create_secret(group.at(leader), "before", 100)
        .await
        .unwrap();
    group.all_have(&["before".to_owned()]).await;
    let left = followers[0];
    let worker = group.world.worker(group.at(left), "w1").await;
    let (mut messages, _) = open_session(&worker).await.unwrap();
    group.kill(leader);
    group.kill(followers[1]);
    let ended = async { while let Some(Ok(_)) = messages.next().await {} };
    timeout(Duration::from_secs(3), ended).await.unwrap();
    let manager = group.at(left);
    let read = timeout(Duration::from_secs(8), manager.linearize()).await;
    assert!(matches!(read.unwrap(), Err(ReadError::NoLeader)));
    let written = timeout(Duration::from_secs(8), create_secret(manager, "none", 1)).await;
    assert!(matches!(written.unwrap(), Err(ProposeError::NoLeader)));
    assert!(!matches!(*manager.leader().borrow(), Leader::Me { .. }));
    let mut dispatcher = worker.dispatcher();
    let beat = dispatcher.heartbeat(HeartbeatRequest::default());
    let refused = timeout(Duration::from_secs(5), beat).await.unwrap();
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    let joiner = group.world.joiner(manager).await;
    let request = IssueNodeCertificateRequest {
        csr: b"x".to_vec(),
        ..Default::default()
    };
    let refused = joiner.node_ca().issue_node_certificate(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    // What it knows by itself it still says.
    let root = GetRootCaCertificateRequest {};
    joiner.ca().get_root_ca_certificate(root).await.unwrap();
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_alone_ask_for_keys_and_versions() {
    let group = Group::of(2).await;
    let leader = group.leader().await;
    let follower = group.followers().await[0];
    add_node(group.at(leader), "w1", NodeRole::Worker).await;
    let worker = group.world.worker(group.at(leader), "w1").await;
    // A certificate that says more than the record does is not enough.
    let posing = group.world.credentials("w1", Role::Manager);
    let posing = group.world.dial(group.at(leader), posing).await;
    for channel in [&worker, &posing] {
        let mut control = channel.control();
        let key = control.unlock_key(UnlockKeyRequest {}).await;
        assert_eq!(key.unwrap_err().code(), Code::PermissionDenied);
        let read = control.read_index(ReadIndexRequest::default());
        assert_eq!(read.await.unwrap_err().code(), Code::PermissionDenied);
    }
    let credentials = group.world.credentials("manager2", Role::Manager);
    for site in [leader, follower] {
        let channel = group.world.dial(group.at(site), credentials.clone()).await;
        let key = channel.control().unlock_key(UnlockKeyRequest {}).await;
        assert!(key.unwrap().into_inner().version > 0);
        let other = ReadIndexRequest { incarnation: 77 };
        let refused = channel.control().read_index(other).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        let members = channel.control().members(MembersRequest {}).await;
        assert_eq!(members.is_ok(), site == leader);
    }
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_read_through_any_manager() {
    let mut group = Group::of(3).await;
    let follower = group.followers().await[0];
    let options = |follow| LogSubscriptionOptions {
        follow,
        ..Default::default()
    };
    let nothing = group.at(follower).logs(Default::default(), options(false));
    let mut nothing = nothing.await.unwrap();
    let end = timeout(DEADLINE, nothing.recv()).await.unwrap();
    assert!(end.is_none());
    let following = group.at(follower).logs(Default::default(), options(true));
    let mut following = following.await.unwrap();
    let early = timeout(Duration::from_millis(300), following.recv()).await;
    assert!(early.is_err(), "it waits for lines");
    let leader = group.leader().await;
    group.kill(leader);
    // Who follows does not hear of it: it goes on with the next leader.
    let end = timeout(Duration::from_secs(3), following.recv()).await;
    assert!(end.is_err(), "{end:?}");
    group.end().await;
    let end = timeout(DEADLINE, following.recv()).await;
    assert!(end.unwrap().is_none(), "it ends with its manager");
}

/// A manager whose record became a worker's relays for nobody, although its certificate
/// and its connection are still good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_needs_a_manager_on_record() {
    use http::uri::PathAndQuery;
    use tonic::{client::Grpc, metadata::MetadataValue};
    use waxseal_wire::{swarmkit::HeartbeatResponse, waxseal::Envelope};

    let group = Group::of(1).await;
    let manager = group.at(0);
    for (id, role) in [("w1", NodeRole::Worker), ("posing", NodeRole::Worker)] {
        add_node(manager, id, role).await;
    }
    let own = group.world.credentials("w1", Role::Worker);
    let envelope = Envelope {
        chain: own.chain().iter().map(|der| der.to_vec()).collect(),
        remote_addr: "192.0.2.9:1".into(),
        incarnation: 0,
        binding: Vec::new(),
    };
    let relay = async |channel: ManagerChannel| {
        let mut request = Request::new(HeartbeatRequest::default());
        let value = MetadataValue::from_bytes(&prost::Message::encode_to_vec(&envelope));
        let metadata = request.metadata_mut();
        metadata.insert_bin("waxseal-envelope-bin", value);
        let mut client = Grpc::new(channel);
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<HeartbeatRequest, HeartbeatResponse>::default();
        let path = "/waxseal.v1.Relay/docker.swarmkit.v1.Dispatcher/Heartbeat";
        let path = PathAndQuery::from_static(path);
        client.unary(request, path, codec).await.unwrap_err()
    };
    let live = |credentials| group.world.live(group.world.root.trust(), credentials);
    let dial = async |credentials| {
        let address = manager.address().unwrap().to_string();
        let live: Arc<_> = live(credentials);
        ManagerChannel::dial(&address, Credentials::Member(&live))
            .await
            .unwrap()
    };
    let posing = dial(group.world.credentials("posing", Role::Manager)).await;
    assert_eq!(relay(posing).await.code(), Code::PermissionDenied);
    // Of a manager the call is taken; the session it names is none.
    let good = dial(group.world.credentials("manager1", Role::Manager)).await;
    let answer = relay(good).await;
    assert_eq!(answer.code(), Code::InvalidArgument, "{answer}");
    group.end().await;
}
