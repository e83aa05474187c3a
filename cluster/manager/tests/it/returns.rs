//! Nodes that return with nothing but their old key.

use std::time::Duration;

use tonic::{Code, Status};
use waxseal_ca::{
    CertificateExpiry, Clock, Csr, IssuerRules, NodeCredentials, NodeKey, NodeProfile, Role,
    RootAuthority, reclaim::ReclaimStatement, root_path::follow_root_path, serial::Serial,
};
use waxseal_cluster::objects::{
    ApproveReturn, Certificate, IssuanceState, IssuanceStatus, NodeRole, PastRoot, RemoveNode,
    RequestCertificate, SetReturnWindow, StoreCertificate, UpdateCluster, command::Op,
};
use waxseal_manager::{Manager, component};
use waxseal_wire::{
    ManagerChannel,
    waxseal::{PathRequest, PathResponse, ReclaimRequest, reclaim_response::Outcome},
};

use crate::{
    group::Group,
    support::{CLUSTER, World, add_node, open_session},
};

/// How long the certificates live of nodes that go absent.
const LIFE: Duration = Duration::from_secs(600);

/// A node's last certificate and its key.
struct Absent {
    node_id: String,
    key: NodeKey,
    pem: String,
    leaf: Vec<u8>,
}

impl Absent {
    /// With a certificate that the cluster issued and has on record.
    async fn of(world: &World, manager: &Manager, node_id: &str, serial: u8) -> Absent {
        let key = NodeKey::generate().unwrap();
        let csr_pem = key.csr_pem().unwrap();
        let csr = Csr::parse(csr_pem.as_bytes()).unwrap();
        let profile = NodeProfile {
            cluster_id: CLUSTER.into(),
            node_id: node_id.into(),
            role: Role::Worker,
            expiry: CertificateExpiry::danger_short_lived(LIFE),
        };
        let serial = Serial::from_bytes(&[7, serial]).unwrap();
        let now = world.clock.now();
        let issued = world.root.issue(&profile, &csr, serial, now).unwrap();
        let certificate = |state: IssuanceState| Certificate {
            csr: csr_pem.clone().into_bytes(),
            serial: serial.as_bytes().to_vec(),
            public_key_digest: key.public_key_digest().as_bytes().to_vec(),
            certificate: issued.pem.clone().into_bytes(),
            not_after: Some(waxseal_cluster::timestamp(issued.identity.not_after)),
            status: Some(IssuanceStatus {
                state: state.into(),
                err: String::new(),
            }),
            ..Certificate::default()
        };
        let requested = Op::RequestCertificate(RequestCertificate {
            node_id: node_id.into(),
            certificate: Some(certificate(IssuanceState::Renew)),
        });
        propose(manager, requested).await;
        let stored = Op::StoreCertificate(StoreCertificate {
            node_id: node_id.into(),
            certificate: Some(certificate(IssuanceState::Issued)),
        });
        propose(manager, stored).await;
        Absent {
            node_id: node_id.into(),
            key,
            leaf: issued.der.to_vec(),
            pem: issued.pem,
        }
    }

    /// Has a session while the certificate counts.
    async fn was_here(&self, world: &World, manager: &Manager) {
        let key = NodeKey::from_pkcs8_pem(self.key.pkcs8_pem().as_bytes()).unwrap();
        let (trust, now) = (world.root.trust(), world.clock.now());
        let own = NodeCredentials::new(self.pem.as_bytes(), key, trust, now).unwrap();
        let channel = world.dial(manager, own).await;
        open_session(&channel).await.unwrap();
    }

    /// A proof for this connection and a new key.
    fn proof(&self, world: &World, bound_to: &ManagerChannel, new_key: &NodeKey) -> ReclaimRequest {
        let csr = new_key.csr_pem().unwrap().into_bytes();
        let unix_seconds = world.clock.now().unix_timestamp();
        let statement = ReclaimStatement {
            binding: bound_to.binding().unwrap(),
            csr_pem: &csr,
            cluster_id: CLUSTER,
            node_id: &self.node_id,
            unix_seconds,
        };
        let signature = statement.sign(&self.key).unwrap();
        ReclaimRequest {
            certificate: self.leaf.clone(),
            csr,
            unix_seconds,
            signature,
        }
    }

    /// Proves itself with a new key, which it gets a certificate for.
    async fn asks(&self, world: &World, manager: &Manager) -> Result<(Outcome, NodeKey), Status> {
        let channel = world.joiner(manager).await;
        let new_key = NodeKey::generate().unwrap();
        let proof = self.proof(world, &channel, &new_key);
        send(&channel, proof)
            .await
            .map(|outcome| (outcome, new_key))
    }
}

async fn propose(manager: &Manager, op: Op) {
    manager.propose(component("test"), op).await.unwrap();
}

async fn send(channel: &ManagerChannel, proof: ReclaimRequest) -> Result<Outcome, Status> {
    let answer = channel.reclaim().reclaim(proof).await?;
    Ok(answer.into_inner().outcome.unwrap())
}

fn credentials(world: &World, outcome: Outcome, key: NodeKey) -> std::sync::Arc<NodeCredentials> {
    let Outcome::Chain(chain) = outcome else {
        panic!("{outcome:?}")
    };
    NodeCredentials::new(&chain, key, world.root.trust(), world.clock.now()).unwrap()
}

async fn absent_world() -> (World, Manager, Absent) {
    let world = World::new();
    let manager = world.found().await;
    let absent = Absent::of(&world, &manager, "w1", 1).await;
    absent.was_here(&world, &manager).await;
    world.clock.advance(time::Duration::minutes(20));
    (world, manager, absent)
}

#[tokio::test]
async fn a_proof_holds_on_its_own_connection_and_for_its_own_request() {
    let (world, manager, absent) = absent_world().await;
    let (its, another) = (world.joiner(&manager).await, world.joiner(&manager).await);
    assert_ne!(its.binding(), another.binding());
    let new_key = NodeKey::generate().unwrap();
    let proof = || absent.proof(&world, &its, &new_key);
    // Who stands in the middle has a connection of its own to the manager.
    let relayed = send(&another, proof()).await.unwrap_err();
    assert_eq!(relayed.code(), Code::Unauthenticated, "{relayed}");
    let stolen = ReclaimRequest {
        csr: NodeKey::generate().unwrap().csr_pem().unwrap().into_bytes(),
        ..proof()
    };
    let refused = send(&its, stolen).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    // With a certificate of its own a caller proves nothing of another's.
    let member = world.worker(&manager, "w1").await;
    assert!(send(&member, proof()).await.is_err());
    assert!(send(&its, proof()).await.is_ok());
    // The same request once more gets the same certificate.
    let first = send(&its, proof()).await.unwrap();
    let second = send(&another, absent.proof(&world, &another, &new_key)).await;
    assert_eq!(second.unwrap(), first);
    manager.shutdown(crate::support::DEADLINE).await;
}

#[tokio::test]
async fn removed_nodes_and_clocks_that_disagree_are_refused() {
    let (world, manager, absent) = absent_world().await;
    let channel = world.joiner(&manager).await;
    let new_key = NodeKey::generate().unwrap();
    let late = absent.proof(&world, &channel, &new_key);
    world.clock.advance(time::Duration::seconds(301));
    let refused = send(&channel, late).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert!(refused.message().contains("behind"), "{refused}");
    let removed = Op::RemoveNode(RemoveNode {
        node_id: "w1".into(),
        force: true,
        ..RemoveNode::default()
    });
    propose(&manager, removed).await;
    let refused = absent.asks(&world, &manager).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("removed"), "{refused}");
    manager.shutdown(crate::support::DEADLINE).await;
}

#[tokio::test]
async fn of_two_copies_of_a_disk_the_second_is_refused_and_shown() {
    let (world, manager, absent) = absent_world().await;
    let (outcome, key) = absent.asks(&world, &manager).await.unwrap();
    let own = credentials(&world, outcome, key);
    assert_eq!(own.identity().node_id, "w1");
    let channel = world.dial(&manager, own).await;
    let (_session, _) = open_session(&channel).await.unwrap();
    for _ in 0..2 {
        let refused = absent.asks(&world, &manager).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains("copy"), "{refused}");
    }
    let noted = manager.read(|state| state.node("w1").unwrap().possible_clone.clone());
    let noted = noted.unwrap();
    assert_eq!((noted.addr.as_str(), noted.count), ("127.0.0.1", 1));
    // Who returned first is a member as before.
    assert!(!channel.is_closed());
    manager.shutdown(crate::support::DEADLINE).await;
}

#[tokio::test]
async fn outside_the_window_an_operator_decides() {
    let (world, manager, absent) = absent_world().await;
    let window = Some(prost_types::Duration::default());
    propose(&manager, Op::SetReturnWindow(SetReturnWindow { window })).await;
    let (outcome, _) = absent.asks(&world, &manager).await.unwrap();
    let Outcome::Waiting(waiting) = outcome else {
        panic!("{outcome:?}")
    };
    let key = absent.key.public_key_digest();
    assert!(
        waiting.text.contains("waxseal node approve w1"),
        "{waiting:?}"
    );
    assert!(waiting.text.contains(&key.to_string()), "{waiting:?}");
    let pending = manager.read(|state| state.node("w1").unwrap().pending_return.clone());
    assert_eq!(pending.unwrap().public_key_digest, key.as_bytes());
    let until = world.clock.now() + Duration::from_secs(60);
    let approved = Op::ApproveReturn(ApproveReturn {
        node_id: "w1".into(),
        public_key_digest: key.as_bytes().to_vec(),
        until: Some(waxseal_cluster::timestamp(until)),
    });
    propose(&manager, approved).await;
    let (outcome, key) = absent.asks(&world, &manager).await.unwrap();
    credentials(&world, outcome, key);
    manager.shutdown(crate::support::DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_follows_relays_the_proof_with_its_connection() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    let follower = group.running().find(|site| *site != leader).unwrap();
    let (leader, follower) = (
        group.sites[leader].manager(),
        group.sites[follower].manager(),
    );
    add_node(leader, "w1", NodeRole::Worker).await;
    let absent = Absent::of(&group.world, leader, "w1", 1).await;
    let (its, another) = (
        group.world.joiner(follower).await,
        group.world.joiner(follower).await,
    );
    let new_key = NodeKey::generate().unwrap();
    let proof = || absent.proof(&group.world, &its, &new_key);
    let relayed = send(&another, proof()).await.unwrap_err();
    assert_eq!(relayed.code(), Code::Unauthenticated, "{relayed}");
    let outcome = send(&its, proof()).await.unwrap();
    credentials(&group.world, outcome, new_key);
    group.end().await;
}

#[tokio::test]
async fn a_leader_needs_no_certificate_to_renew_its_own() {
    let world = World::new();
    let manager = world.found().await;
    world.clock.advance(time::Duration::days(100));
    let key = NodeKey::generate().unwrap();
    let csr = key.csr_pem().unwrap();
    let own = manager.certify_self(csr.as_bytes()).await.unwrap().unwrap();
    assert_eq!(own.root_pem, world.root.trust().pem());
    let (trust, now) = (world.root.trust(), world.clock.now());
    let own = NodeCredentials::new(&own.chain_pem, key, trust, now).unwrap();
    assert_eq!(own.identity().role, Role::Manager);
    assert_eq!(own.identity().node_id, "manager");
    manager.shutdown(crate::support::DEADLINE).await;
}

#[tokio::test]
async fn the_way_to_the_present_root_is_told_to_who_holds_a_root_of_the_cluster() {
    let world = World::new();
    let manager = world.found().await;
    let channel = world.joiner(&manager).await;
    let ask = async |held: Vec<u8>| channel.root_path().path(PathRequest { held }).await;
    let unknown = ask(vec![7; 32]).await.unwrap_err();
    assert_eq!(unknown.code(), Code::FailedPrecondition);
    let held = world.root.trust().digest().as_bytes().to_vec();
    let answer = ask(held).await.unwrap().into_inner();
    assert!(answer.steps.is_empty());
    assert_eq!(answer.root, world.root.trust().pem());
    manager.shutdown(crate::support::DEADLINE).await;
}

/// The cluster has another root: the former one leads to it, unless it was compromised.
async fn rotate(world: &World, manager: &Manager, new: &RootAuthority, compromised: bool) {
    let now = world.clock.now();
    let mut cluster = manager.read(|state| state.cluster().unwrap().as_ref().clone());
    let root = cluster.root_ca.as_mut().unwrap();
    root.ca_cert = new.cert_pem().into();
    root.ca_key = new.key_pem().as_bytes().to_vec();
    let cross = world.root.cross_sign(new.trust(), now).unwrap();
    cluster.past_roots = vec![PastRoot {
        ca_cert: world.root.cert_pem().into(),
        cross_signed: match compromised {
            true => Vec::new(),
            false => cross.into_bytes(),
        },
        retired_at: Some(waxseal_cluster::timestamp(now)),
        compromised,
        ..PastRoot::default()
    }];
    let op = Op::UpdateCluster(UpdateCluster {
        cluster: Some(cluster),
        expected_version: 0,
    });
    propose(manager, op).await;
}

#[tokio::test]
async fn who_holds_a_former_root_finds_the_present_one_and_returns_under_it() {
    let (world, manager, absent) = absent_world().await;
    let now = world.clock.now();
    let new = RootAuthority::generate(now).unwrap();
    rotate(&world, &manager, &new, false).await;
    let held = world.root.trust();
    let channel = world.joiner(&manager).await;
    let request = PathRequest {
        held: held.digest().as_bytes().to_vec(),
    };
    let answer = channel.root_path().path(request).await.unwrap();
    let PathResponse { steps, root } = answer.into_inner();
    assert_eq!(steps.len(), 1);
    let trust = follow_root_path(held, &steps, &root, &IssuerRules::default(), now).unwrap();
    assert_eq!(trust.pem(), new.trust().pem());
    // The manager's own certificate is of the former root still.
    let (outcome, key) = absent.asks(&world, &manager).await.unwrap();
    let Outcome::Chain(chain) = outcome else {
        panic!("{outcome:?}")
    };
    let own = NodeCredentials::new(&chain, key, &trust, now).unwrap();
    assert_eq!(own.identity().node_id, "w1");
    assert_eq!(own.issuer(), new.trust().issuer_info());
    manager.shutdown(crate::support::DEADLINE).await;
}

#[tokio::test]
async fn a_compromised_root_leads_nowhere_and_proves_nothing() {
    let (world, manager, absent) = absent_world().await;
    let new = RootAuthority::generate(world.clock.now()).unwrap();
    rotate(&world, &manager, &new, true).await;
    let channel = world.joiner(&manager).await;
    let held = world.root.trust().digest().as_bytes().to_vec();
    let closed = channel.root_path().path(PathRequest { held }).await;
    let closed = closed.unwrap_err();
    assert!(closed.message().contains("docker swarm leave"), "{closed}");
    let refused = absent.asks(&world, &manager).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("compromised"), "{refused}");
    manager.shutdown(crate::support::DEADLINE).await;
}
