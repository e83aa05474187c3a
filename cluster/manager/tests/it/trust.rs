//! Certificates that count no more, and join tokens with limits, across managers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use prost_types::Timestamp;
use tokio::{task::JoinSet, time::timeout};
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use waxseal_ca::{
    CertificateExpiry, Clock, Csr, NodeCredentials, NodeKey, NodeProfile, Role, RootAuthority,
    Serial, generate_limited, rotation::NewRoot,
};
use waxseal_cluster::{
    RotationOptions, Standing, abort_rotation,
    objects::{
        Cluster, CreateJoinToken, IssuanceState, LimitedToken, NodeRole, RevokeCertificates,
        UpdateCluster, command::Op,
    },
    start_rotation, timestamp,
};
use waxseal_manager::{Manager, component};
use waxseal_wire::{
    Credentials, ManagerChannel,
    swarmkit::{HeartbeatRequest, IssueNodeCertificateRequest, NodeCertificateStatusRequest},
};

use crate::{
    group::Group,
    support::{CLUSTER, CUT_OFF, DEADLINE, is_cut, open_session},
};

/// Joins that race for one use.
const RACING: usize = 1_000;
/// Of them at once: strangers have so many streams and no more.
const AT_ONCE: usize = 64;

/// Joins as far as the certificate.
async fn join(
    group: &Group,
    joiner: &ManagerChannel,
    token: &str,
) -> Result<(String, Arc<NodeCredentials>), Status> {
    let key = NodeKey::generate().unwrap();
    let csr = key.csr_pem().unwrap().into_bytes();
    let request = IssueNodeCertificateRequest {
        csr: csr.clone(),
        token: token.into(),
        ..Default::default()
    };
    let mut node_ca = joiner.node_ca();
    let issued = node_ca.issue_node_certificate(request).await?;
    let node_id = issued.into_inner().node_id;
    loop {
        let status = NodeCertificateStatusRequest {
            node_id: node_id.clone(),
        };
        let answer = node_ca.node_certificate_status(status).await?.into_inner();
        let certificate = answer.certificate.unwrap_or_default();
        if answer.status.unwrap_or_default().state() != IssuanceState::Issued {
            continue;
        }
        if certificate.csr != csr {
            return Err(Status::aborted("another request came in between"));
        }
        let (trust, now) = (group.world.root.trust(), group.world.clock.now());
        let credentials = NodeCredentials::new(&certificate.certificate, key, trust, now);
        return Ok((node_id, credentials.unwrap()));
    }
}

async fn dial(group: &Group, addr: &str, credentials: Arc<NodeCredentials>) -> ManagerChannel {
    let live = group.world.live(group.world.root.trust(), credentials);
    let dialled = ManagerChannel::dial(addr, Credentials::Member(&live));
    dialled.await.unwrap()
}

fn at(group: &Group, site: usize) -> &Manager {
    group.sites[site].manager()
}

fn revoke(credentials: &NodeCredentials) -> Op {
    Op::RevokeCertificates(RevokeCertificates {
        serials: vec![credentials.identity().serial.as_bytes().to_vec()],
        reason: "lost".into(),
        ..RevokeCertificates::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_is_cut_off_from_every_manager() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    let follower = group.running().find(|site| *site != leader).unwrap();
    let token = group.world.tokens.token(Role::Worker).expose_text();
    let joiner = group.world.joiner(at(&group, follower)).await;
    let (node_id, credentials) = join(&group, &joiner, token).await.unwrap();
    let bystander = join(&group, &joiner, token).await.unwrap().1;
    // 1. Its session through a manager that follows, and a neighbour's.
    let worker = dial(
        &group,
        &group.sites[follower].addr(),
        Arc::clone(&credentials),
    )
    .await;
    let (mut messages, first) = open_session(&worker).await.unwrap();
    let neighbour = dial(&group, &group.sites[follower].addr(), bystander).await;
    let (_neighbours, neighbours_first) = open_session(&neighbour).await.unwrap();
    let origin = at(&group, leader).read(|state| {
        let record = state.certificate(credentials.identity().serial.as_bytes());
        let record = record.unwrap();
        (record.standing(0), record.token.clone(), record.address)
    });
    let loopback = "127.0.0.1".parse().ok();
    assert_eq!(origin, (Standing::Valid, Some("worker".into()), loopback));
    // 2. Revoked through the other one that follows: all of it ends.
    let other = 3 - leader - follower;
    let begun = Instant::now();
    let revoked = at(&group, other).propose(component("test"), revoke(&credentials));
    revoked.await.unwrap();
    let ended = async {
        while let Some(Ok(_)) = messages.next().await {}
        worker.closed().await;
    };
    timeout(CUT_OFF, ended).await.unwrap();
    println!("cut off {:?} after the revocation began", begun.elapsed());
    // 3. Refused everywhere, for renewals too, and told why.
    let beat = |session_id: &str| HeartbeatRequest {
        session_id: session_id.to_owned(),
    };
    for site in 0..3 {
        let again = dial(&group, &group.sites[site].addr(), Arc::clone(&credentials)).await;
        let refused = again.dispatcher().heartbeat(beat(&first.session_id)).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("was revoked"), "{refused}");
        let renewal = IssueNodeCertificateRequest {
            csr: NodeKey::generate().unwrap().csr_pem().unwrap().into_bytes(),
            ..Default::default()
        };
        let refused = again.node_ca().issue_node_certificate(renewal).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    let mut unharmed = neighbour.dispatcher();
    let beaten = unharmed.heartbeat(beat(&neighbours_first.session_id));
    beaten.await.unwrap();
    assert!(at(&group, leader).read(|state| state.node(&node_id).is_some()));
    group.end().await;
}

/// What whoever has the key of a root to be makes up for a node that there is.
fn forged(group: &Group, target: &RootAuthority, node_id: &str) -> Arc<NodeCredentials> {
    let now = group.world.clock.now();
    let key = NodeKey::generate().unwrap();
    let csr = Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap();
    let profile = NodeProfile {
        cluster_id: CLUSTER.into(),
        node_id: node_id.into(),
        role: Role::Worker,
        expiry: CertificateExpiry::DEFAULT,
    };
    let serial = Serial::from_random([0x5a; 20]).unwrap();
    let leaf = target.issue(&profile, &csr, serial, now).unwrap();
    let vouched = group.world.root.cross_sign(target.trust(), now).unwrap();
    let chain = leaf.pem + &vouched;
    NodeCredentials::new(chain.as_bytes(), key, group.world.root.trust(), now).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_root_signs_that_was_given_up_is_cut_off_from_every_manager() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    let follower = group.running().find(|site| *site != leader).unwrap();
    let token = group.world.tokens.token(Role::Worker).expose_text();
    let joiner = group.world.joiner(at(&group, leader)).await;
    let (node_id, credentials) = join(&group, &joiner, token).await.unwrap();
    let now = group.world.clock.now();
    let target = RootAuthority::generate(now).unwrap();
    let change = async |edit: &dyn Fn(&mut Cluster)| {
        let mut cluster = at(&group, leader).read(|state| Cluster::clone(state.cluster().unwrap()));
        edit(&mut cluster);
        let op = Op::UpdateCluster(UpdateCluster {
            cluster: Some(cluster),
            ..UpdateCluster::default()
        });
        let changed = at(&group, leader).propose(component("test"), op);
        changed.await.unwrap();
    };
    // 1. As long as it is to be the root, what it signs counts.
    let new = NewRoot {
        cert_pem: target.cert_pem().to_owned(),
        key_pem: std::str::from_utf8(target.key_pem().as_bytes())
            .unwrap()
            .to_owned()
            .into(),
        cross_signed_pem: group.world.root.cross_sign(target.trust(), now).unwrap(),
    };
    change(&|cluster| start_rotation(cluster, &new, RotationOptions::default(), timestamp(now)))
        .await;
    let made_up = forged(&group, &target, &node_id);
    let addr = group.sites[follower].addr();
    let stranger = dial(&group, &addr, Arc::clone(&made_up)).await;
    let (_messages, first) = open_session(&stranger).await.unwrap();
    // 2. Given up, that is over, on open connections too; who is on record goes on.
    change(&|cluster| abort_rotation(cluster, timestamp(now))).await;
    timeout(CUT_OFF, stranger.closed()).await.unwrap();
    for site in 0..3 {
        let knows =
            || at(&group, site).read(|state| !state.cluster().unwrap().past_issuers.is_empty());
        let known = async {
            while !knows() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, known).await.unwrap();
        let addr = group.sites[site].addr();
        let again = dial(&group, &addr, Arc::clone(&made_up)).await;
        let beat = HeartbeatRequest {
            session_id: first.session_id.clone(),
        };
        let refused = again.dispatcher().heartbeat(beat).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("former issuer"), "{refused}");
        let renewal = IssueNodeCertificateRequest {
            csr: NodeKey::generate().unwrap().csr_pem().unwrap().into_bytes(),
            ..Default::default()
        };
        let refused = again.node_ca().issue_node_certificate(renewal).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    let worker = dial(&group, &addr, credentials).await;
    open_session(&worker).await.unwrap();
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_whose_certificate_is_revoked_is_no_member_to_the_others() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    let follower = group.running().find(|site| *site != leader).unwrap();
    // What the harness gave it has no record; it renews as a manager does.
    let node_id = group.sites[follower].node_id.clone();
    let own = group.world.credentials(&node_id, Role::Manager);
    let channel = dial(&group, &group.sites[leader].addr(), own).await;
    let (_, renewed) = join(&group, &channel, "").await.unwrap();
    let channel = dial(&group, &group.sites[leader].addr(), Arc::clone(&renewed)).await;
    let unlock = || waxseal_wire::waxseal::UnlockKeyRequest::default();
    channel.control().unlock_key(unlock()).await.unwrap();
    let refused = at(&group, leader).propose(component("test"), revoke(&renewed));
    let refused = refused.await.unwrap_err().to_string();
    assert!(refused.contains("waxseal node renew"), "{refused}");
    let mut forced = revoke(&renewed);
    if let Op::RevokeCertificates(op) = &mut forced {
        op.force = true;
    }
    let revoked = at(&group, leader).propose(component("test"), forced);
    revoked.await.unwrap();
    timeout(CUT_OFF, channel.closed()).await.unwrap();
    for site in 0..3 {
        let again = dial(&group, &group.sites[site].addr(), Arc::clone(&renewed)).await;
        let refused = again.control().unlock_key(unlock()).await.unwrap_err();
        if refused.code() != Code::PermissionDenied {
            // Cut off before the answer was written: by the manager, and for good.
            assert!(is_cut(refused.code()), "{site}: {refused}");
            let closed = timeout(CUT_OFF, again.closed()).await;
            closed.unwrap_or_else(|_| panic!("{site} stays open: {refused}"));
        }
    }
    group.end().await;
}

async fn limited(group: &Group, site: usize, id: &str, uses: u32, cidrs: &[&str]) -> String {
    let secret = [id.len() as u8; 16];
    let (token, digest) = generate_limited(group.world.root.trust().digest(), &secret);
    let kept = LimitedToken {
        id: id.into(),
        role: NodeRole::Worker.into(),
        secret_digest: digest.as_bytes().to_vec(),
        expires_at: Some(Timestamp {
            seconds: group.world.clock.now().unix_timestamp() + 3600,
            nanos: 0,
        }),
        uses,
        cidrs: cidrs.iter().map(|cidr| (*cidr).to_owned()).collect(),
        ..LimitedToken::default()
    };
    let op = Op::CreateJoinToken(CreateJoinToken { token: Some(kept) });
    let created = at(group, site).propose(component("test"), op);
    created.await.unwrap();
    token.expose_text().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_token_counts_where_the_caller_is_seen() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    let follower = group.running().find(|site| *site != leader).unwrap();
    let far = limited(&group, leader, "far", 1, &["192.0.2.0/24"]).await;
    let near = limited(&group, leader, "near", 1, &["127.0.0.0/8"]).await;
    for site in [leader, follower] {
        let joiner = group.world.joiner(at(&group, site)).await;
        let refused = join(&group, &joiner, &far).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        // By the address that the manager saw which relays.
        assert!(refused.message().contains("from 127.0.0.1"), "{refused}");
        // A secret that is not known is told nothing.
        let (guess, _) = generate_limited(group.world.root.trust().digest(), &[99; 16]);
        let refused = join(&group, &joiner, guess.expose_text())
            .await
            .unwrap_err();
        let text = "A valid join token is necessary to join this cluster";
        assert_eq!(refused.message(), text);
    }
    let joiner = group.world.joiner(at(&group, follower)).await;
    let (node_id, credentials) = join(&group, &joiner, &near).await.unwrap();
    let worker = dial(&group, &group.sites[follower].addr(), credentials).await;
    let _session = open_session(&worker).await.unwrap();
    let refused = join(&group, &joiner, &near).await.unwrap_err();
    assert!(refused.message().contains("is spent"), "{refused}");
    at(&group, leader).read(|state| {
        assert_eq!(state.join_token("near").unwrap().spent, 1);
        let record = state.certificates_of(&node_id).next().unwrap();
        assert_eq!(record.token.as_deref(), Some("near"));
    });
    group.end().await;
}

/// One of the many: joins, and opens a session with what it got. Whether it has one.
async fn race(group: &Group, joiner: &ManagerChannel, addr: &str, token: &str) -> bool {
    let begun = Instant::now();
    loop {
        match join(group, joiner, token).await {
            Ok((_, credentials)) => {
                return arrive(group, addr, credentials).await;
            }
            Err(status) => match status.code() {
                // It is another's.
                Code::FailedPrecondition | Code::NotFound | Code::Aborted => return false,
                Code::Unavailable | Code::ResourceExhausted => {
                    assert!(begun.elapsed() < 4 * DEADLINE, "{status}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                _ => panic!("{status}"),
            },
        }
    }
}

/// Opens a session, unless the join was taken over meanwhile.
async fn arrive(group: &Group, addr: &str, credentials: Arc<NodeCredentials>) -> bool {
    let begun = Instant::now();
    let live = group.world.live(group.world.root.trust(), credentials);
    loop {
        assert!(begun.elapsed() < 4 * DEADLINE, "no answer to a session");
        let dialled = ManagerChannel::dial(addr, Credentials::Member(&live)).await;
        let opened = match dialled {
            Ok(worker) => open_session(&worker).await.map(drop),
            Err(error) => Err(Status::unavailable(error.to_string())),
        };
        match opened {
            Ok(()) => return true,
            // What became of it is seen when it is asked again.
            Err(status) if status.code() == Code::Unavailable => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(_) => return false,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_a_thousand_racing_joins_wins_across_a_change_of_leader() {
    let group = Arc::new(Group::of(3).await);
    let leader = group.leader().await;
    let token = limited(&group, leader, "one", 1, &[]).await;
    let followers: Vec<usize> = group.running().filter(|site| *site != leader).collect();
    let won = Arc::new(AtomicUsize::new(0));
    let mut racing = JoinSet::new();
    for lane in 0..AT_ONCE {
        let (group, token, won) = (Arc::clone(&group), token.clone(), Arc::clone(&won));
        let site = followers[lane % followers.len()];
        racing.spawn(async move {
            let addr = group.sites[site].addr();
            let joiner = group.world.joiner(at(&group, site)).await;
            for _ in 0..RACING / AT_ONCE + 1 {
                if race(&group, &joiner, &addr, &token).await {
                    won.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    // The leader goes in the middle of it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    at(&group, leader).transfer_leadership(None).await.unwrap();
    while let Some(lane) = racing.join_next().await {
        lane.unwrap();
    }
    assert_eq!(won.load(Ordering::Relaxed), 1);
    let leader = group.leader().await;
    at(&group, leader).read(|state| {
        let token = state.join_token("one").unwrap();
        assert_eq!((token.spent, token.reservations.len()), (1, 0));
        let live = state.certificates().filter(|record| {
            record.token.as_deref() == Some("one") && record.standing(0) == Standing::Valid
        });
        assert_eq!(live.count(), 1);
    });
    let Ok(group) = Arc::try_unwrap(group) else {
        panic!("the group is in use");
    };
    group.end().await;
}
