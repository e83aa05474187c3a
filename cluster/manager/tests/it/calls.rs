//! Who may call what.

use std::time::Duration;

use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use waxseal_ca::{CertificateExpiry, JoinTokens, NodeKey, Role};
use waxseal_cluster::objects::{RemoveNode, command::Op};
use waxseal_manager::{Manager, component};
use waxseal_wire::{
    ManagerChannel,
    swarmkit::{
        AssignmentsRequest, HeartbeatRequest, IssueNodeCertificateRequest,
        ListenSubscriptionsRequest, NodeCertificateStatusRequest, PublishLogsMessage,
        SessionRequest, UpdateTaskStatusRequest,
    },
};

use crate::support::{CLUSTER, CUT_OFF, DEADLINE, World, add_worker, is_cut, open_session};

fn csr() -> Vec<u8> {
    NodeKey::generate().unwrap().csr_pem().unwrap().into_bytes()
}

/// The code that each call of a member answers with.
async fn codes(channel: &ManagerChannel) -> Vec<(&'static str, Code)> {
    fn code<T>(answer: Result<T, Status>) -> Code {
        answer.map_or_else(|status| status.code(), |_| Code::Ok)
    }
    let session_id = String::new;
    let mut dispatcher = channel.dispatcher();
    let mut logs = channel.log_broker();
    let session = dispatcher.session(SessionRequest::default()).await;
    let beat = HeartbeatRequest {
        session_id: session_id(),
    };
    let beat = dispatcher.heartbeat(beat).await;
    let status = UpdateTaskStatusRequest::new(session_id(), Vec::new());
    let status = dispatcher.update_task_status(status).await;
    let assignments = AssignmentsRequest {
        session_id: session_id(),
    };
    let assignments = dispatcher.assignments(assignments).await;
    let listen = logs
        .listen_subscriptions(ListenSubscriptionsRequest {})
        .await;
    let publish = logs
        .publish_logs(tokio_stream::iter([PublishLogsMessage::default()]))
        .await;
    let issue = IssueNodeCertificateRequest {
        csr: csr(),
        ..Default::default()
    };
    let issue = channel.node_ca().issue_node_certificate(issue).await;
    let status_of = NodeCertificateStatusRequest {
        node_id: "w1".into(),
    };
    let status_of = channel.node_ca().node_certificate_status(status_of).await;
    vec![
        ("session", code(session)),
        ("heartbeat", code(beat)),
        ("update task status", code(status)),
        ("assignments", code(assignments)),
        ("listen", code(listen)),
        ("publish", code(publish)),
        ("issue", code(issue)),
        ("status", code(status_of)),
    ]
}

async fn remove(manager: &Manager, node_id: &str) {
    let removal = RemoveNode {
        node_id: node_id.into(),
        force: true,
        ..RemoveNode::default()
    };
    let removed = manager.propose(component("test"), Op::RemoveNode(removal));
    removed.await.unwrap();
}

/// Each call is answered so, or the manager cut the caller off before it had answered.
async fn all_refused(channel: &ManagerChannel, codes: Vec<(&str, Code)>, refused: &[Code]) {
    for (call, code) in codes {
        if refused.contains(&code) {
            continue;
        }
        assert!(is_cut(code), "{call}: {code:?}");
        let closed = timeout(CUT_OFF, channel.closed()).await;
        assert!(closed.is_ok(), "{call}: {code:?} and still open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_service_answers_a_certificate_without_a_record() {
    let world = World::new();
    let manager = world.found().await;
    let stranger = world.credentials("nobody", Role::Worker);
    let channel = world.dial(&manager, stranger).await;
    let codes = codes(&channel).await;
    let refused = [
        Code::PermissionDenied,
        Code::NotFound,
        Code::Unauthenticated,
    ];
    all_refused(&channel, codes, &refused).await;
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_role_reaches_nothing() {
    let world = World::new();
    let manager = world.found().await;
    let forged = world.credentials("w1", Role::Manager);
    let channel = world.dial(&manager, forged).await;
    let mut codes = codes(&channel).await;
    // The certificate of its own record is no secret from it.
    codes.retain(|(call, _)| *call != "status");
    all_refused(&channel, codes, &[Code::PermissionDenied]).await;
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_certificate_is_refused_on_an_open_connection() {
    let world = World::new();
    let manager = world.found().await;
    let life = CertificateExpiry::danger_short_lived(Duration::from_secs(600));
    let short = world.issue(CLUSTER, "w1", Role::Worker, life);
    let channel = world.dial(&manager, short).await;
    world.clock.advance(time::Duration::days(2));
    let codes = codes(&channel).await;
    all_refused(&channel, codes, &[Code::Unauthenticated]).await;
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_closes_the_connection_and_the_next_one_reaches_nothing() {
    let world = World::new();
    let manager = world.found().await;
    let worker = world.worker(&manager, "w1").await;
    let (_session, _) = open_session(&worker).await.unwrap();
    remove(&manager, "w1").await;
    timeout(DEADLINE, worker.closed()).await.unwrap();
    let again = world.worker(&manager, "w1").await;
    let codes = codes(&again).await;
    let refused = [
        Code::PermissionDenied,
        Code::NotFound,
        Code::Unauthenticated,
        Code::InvalidArgument, // a join without a token
    ];
    all_refused(&again, codes, &refused).await;
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_stream_of_assignments_takes_over() {
    let world = World::new();
    let manager = world.found().await;
    let worker = world.worker(&manager, "w1").await;
    let (_session, first) = open_session(&worker).await.unwrap();
    let request = || AssignmentsRequest {
        session_id: first.session_id.clone(),
    };
    let old = worker.dispatcher().assignments(request()).await.unwrap();
    let mut old = old.into_inner();
    assert!(old.next().await.unwrap().is_ok());
    let new = worker.dispatcher().assignments(request()).await.unwrap();
    let mut new = new.into_inner();
    assert!(new.next().await.unwrap().is_ok());
    let ended = timeout(DEADLINE, old.next()).await.unwrap();
    assert_eq!(ended.unwrap().unwrap_err().code(), Code::Aborted);
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_is_signed_once_and_its_status_is_the_joiners_alone() {
    let world = World::new();
    let manager = world.found().await;
    add_worker(&manager, "w2").await;
    let joiner = world.joiner(&manager).await;
    let request = IssueNodeCertificateRequest {
        csr: csr(),
        token: world.tokens.token(Role::Worker).expose_text().into(),
        ..Default::default()
    };
    let issue = |request: IssueNodeCertificateRequest| {
        let mut ca = joiner.node_ca();
        async move { ca.issue_node_certificate(request).await }
    };
    let node_id = issue(request.clone()).await.unwrap().into_inner().node_id;
    let again = issue(request.clone()).await.unwrap().into_inner().node_id;
    assert_eq!(node_id, again, "the same key and token are the same join");
    let status = |node_id: &str| NodeCertificateStatusRequest {
        node_id: node_id.to_owned(),
    };
    let mut ca = joiner.node_ca();
    let answer = ca.node_certificate_status(status(&node_id)).await.unwrap();
    let certificate = answer.into_inner().certificate.unwrap();
    assert!(!certificate.certificate.is_empty());
    assert_eq!(certificate.cn, node_id);
    // Ten minutes later it is nobody's without a certificate.
    world.clock.advance(time::Duration::minutes(11));
    let late = ca.node_certificate_status(status(&node_id)).await;
    assert_eq!(late.unwrap_err().code(), Code::PermissionDenied);
    let mut wrong = request;
    let others = JoinTokens::generate(world.root.trust().digest(), &[3; 16], &[4; 16]);
    wrong.token = others.token(Role::Worker).expose_text().into();
    wrong.csr = csr();
    let refused = issue(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    manager.shutdown(DEADLINE).await;
}
