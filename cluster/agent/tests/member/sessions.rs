//! Sessions: what managers say of themselves, the root and this node.

use std::time::{Duration, Instant};

use tonic::Status;
use waxseal_agent::SessionStatus;
use waxseal_ca::{Clock, IssuerRules, PublicKeyDigest, Role, RootAuthority};
use waxseal_cluster::objects::{Node, NodeRole, NodeSpec};
use waxseal_wire::swarmkit::{EncryptionKey, Peer, SessionMessage, WeightedPeer};

use crate::{
    host::{Host, wait_for_status},
    manager::{Manager, secret, task},
};

/// As a manager says it to a node that was removed.
const REMOVED: &str = "Permission denied: node node was removed from swarm";

#[tokio::test]
async fn a_session_says_who_this_node_is_and_that_it_lives() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    let request = manager
        .wait_for(|behaviour| behaviour.sessions.first().map(|s| s.0.clone()))
        .await;
    let description = request.description.unwrap();
    assert_eq!(request.session_id, "");
    assert_eq!(description.platform.unwrap().os, "linux");
    let tls = description.tls_info.unwrap();
    assert_eq!(tls.trust_root, manager.root.trust().pem());
    assert_eq!(
        tls.cert_issuer_public_key,
        manager.root.issuer_info().public_key_der
    );
    wait_for_status(&agent, |status| status.session.is_registered()).await;
    manager
        .wait_for(|behaviour| (behaviour.beats > 2).then_some(()))
        .await;
}

#[tokio::test]
async fn a_lost_connection_is_made_anew_with_the_old_session_id() {
    let (manager, host) = (Manager::start().await, Host::default());
    let _agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    assert_eq!(manager.connections.close_node("node"), 1);
    let again = manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(|session| session.0.clone()))
        .await;
    assert_eq!(again.session_id, "session");
}

#[tokio::test]
async fn a_removed_node_keeps_its_tasks_and_says_so() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "")]);
    let agent = host.agent(&manager);
    host.wait_for(|kept| kept.tasks.get("t").map(drop)).await;
    let refusal = Status::permission_denied(REMOVED);
    manager.with(|behaviour| behaviour.refusal = Some(refusal));
    manager.connections.close_node("node");
    wait_for_status(&agent, |status| match &status.session {
        SessionStatus::Refused { error } => error.contains("docker swarm leave"),
        _ => false,
    })
    .await;
    assert!(host.with(|kept| kept.stopped.is_empty() && kept.removed.is_empty()));
}

#[tokio::test]
async fn a_removed_node_that_stops_orphans_stops_its_tasks() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "")]);
    host.with(|kept| kept.stops_orphans = true);
    let agent = host.agent(&manager);
    host.wait_for(|kept| kept.tasks.get("t").map(drop)).await;
    // Any other refusal is no removal.
    let refusal = Status::permission_denied("another organization");
    manager.with(|behaviour| behaviour.refusal = Some(refusal));
    manager.connections.close_node("node");
    wait_for_status(&agent, |status| {
        matches!(status.session, SessionStatus::Refused { .. })
    })
    .await;
    assert!(host.with(|kept| kept.stopped.is_empty()));
    let refusal = Status::permission_denied(REMOVED);
    manager.with(|behaviour| behaviour.refusal = Some(refusal));
    host.wait_for(|kept| kept.removed.contains(&"t".to_owned()).then_some(()))
        .await;
    assert_eq!(host.with(|kept| kept.stopped.clone()), ["t"]);
    wait_for_status(&agent, |status| match &status.session {
        SessionStatus::Refused { error } => error.contains("its tasks are stopped"),
        _ => false,
    })
    .await;
}

#[tokio::test]
async fn managers_are_kept_and_an_empty_list_is_not_believed() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    manager.say(|message| message.managers.clear()).await;
    let second = Peer {
        node_id: "second".to_owned(),
        addr: "127.0.0.1:1".to_owned(),
    };
    manager
        .say(|message| {
            message.managers.push(WeightedPeer {
                peer: None,
                weight: 5,
            });
            message.managers.push(WeightedPeer {
                peer: Some(second),
                weight: 5,
            });
        })
        .await;
    wait_for_status(&agent, |status| status.managers.len() == 2).await;
    let kept = host.with(|kept| kept.managers.clone());
    assert!(kept.iter().all(|managers| !managers.is_empty()), "{kept:?}");
}

#[tokio::test]
async fn keys_and_promotion_by_an_engine_are_ignored_and_shown() {
    let (manager, host) = (Manager::start_as(false).await, Host::default());
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    let spec = NodeSpec {
        desired_role: NodeRole::Manager.into(),
        ..Default::default()
    };
    manager
        .say(|message| {
            message.network_bootstrap_keys = vec![EncryptionKey::default()];
            message.node = Some(Node {
                spec: Some(spec),
                role: NodeRole::Manager.into(),
                ..Default::default()
            });
        })
        .await;
    wait_for_status(&agent, |status| status.ignored.len() == 2).await;
    manager
        .say(|message| message.node = Some(Node::default()))
        .await;
    wait_for_status(&agent, |status| status.ignored.is_empty()).await;
    assert!(host.with(|kept| kept.identities.is_empty()));
}

#[tokio::test]
async fn another_role_on_record_has_the_certificate_renewed() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    let mut renewed = agent.renewed();
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    manager.with(|behaviour| behaviour.role = Role::Manager);
    manager
        .say(|message| {
            message.node = Some(Node {
                role: NodeRole::Manager.into(),
                ..Default::default()
            });
        })
        .await;
    renewed.changed().await.unwrap();
    // Back: a session is refused rather than told.
    manager.with(|behaviour| {
        behaviour.role = Role::Worker;
        let text = "Permission denied: the certificate says swarm-manager, the node's record says \
                    swarm-worker; renew the certificate";
        behaviour.refusal = Some(Status::permission_denied(text));
    });
    manager.connections.close_node("node");
    renewed.changed().await.unwrap();
    assert_eq!(host.with(|kept| kept.identities.len()), 2);
}

#[tokio::test]
async fn a_root_that_does_not_cover_this_node_is_refused() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    manager
        .say(|message| message.root_ca = other.trust().pem().to_vec())
        .await;
    wait_for_status(&agent, |status| status.ignored.len() == 1).await;
    manager
        .say(|message| message.root_ca = b"garbage".to_vec())
        .await;
    assert!(host.with(|kept| kept.roots.is_empty()));
    assert_eq!(manager.with(|behaviour| behaviour.sessions.len()), 1);
}

#[tokio::test]
async fn a_root_that_covers_this_node_is_kept_then_used() {
    let (manager, host) = (Manager::start().await, Host::default());
    let _agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    let both = [manager.root.trust().pem(), other.trust().pem()].concat();
    manager.say(|message| message.root_ca = both.clone()).await;
    let again = manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(|session| session.0.clone()))
        .await;
    assert_eq!(
        again.description.unwrap().tls_info.unwrap().trust_root,
        both
    );
    assert_eq!(host.with(|kept| kept.roots[0].clone()), both);
}

#[tokio::test]
async fn a_manager_of_another_ca_below_the_root_is_not_believed() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    wait_for_status(&agent, |status| status.session.is_registered()).await;
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    let key = |root: &RootAuthority| {
        let key = PublicKeyDigest::of_spki(&root.issuer_info().public_key_der);
        key.as_bytes().to_vec()
    };
    let counts = async |issuers: &[&RootAuthority]| {
        manager
            .say(|message| {
                message.issuers = issuers.iter().map(|root| key(root)).collect();
                message.issuer_rules = true;
                // What is said of this shows that the message was read.
                message.root_ca = b"garbage".to_vec();
            })
            .await;
        wait_for_status(&agent, |status| status.ignored.len() == 1).await;
        manager.connections.close_node("node");
    };
    counts(&[&other, &manager.root]).await;
    manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(drop))
        .await;
    wait_for_status(&agent, |status| status.ignored.is_empty()).await;
    counts(&[&other]).await;
    wait_for_status(&agent, |status| match &status.session {
        SessionStatus::Failing { error, .. } | SessionStatus::Refused { error } => {
            error.contains("not issued by this cluster's CA")
        }
        _ => false,
    })
    .await;
    assert_eq!(manager.with(|behaviour| behaviour.sessions.len()), 2);
}

#[tokio::test]
async fn pinned_issuers_are_kept_until_a_manager_says_in_words_that_none_are() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    wait_for_status(&agent, |status| status.session.is_registered()).await;
    let own = PublicKeyDigest::of_spki(&manager.root.issuer_info().public_key_der);
    let say = async |issuers: &[&[u8]], rules: bool| {
        let said = |message: &mut SessionMessage| {
            message.issuers = issuers.iter().map(|key| key.to_vec()).collect();
            message.issuer_rules = rules;
        };
        manager.say(said).await;
    };
    let pinned = IssuerRules {
        only: Some(vec![own]),
        refused: Vec::new(),
    };
    say(&[own.as_bytes()], true).await;
    host.wait_for(|kept| (kept.issuers.last() == Some(&pinned)).then_some(()))
        .await;
    // 1. A list with something else in it is no list, and is told.
    say(&[own.as_bytes(), &[7; 31]], true).await;
    wait_for_status(&agent, |status| status.ignored.len() == 1).await;
    // 2. A manager that says nothing of it, as a stock one.
    say(&[], false).await;
    wait_for_status(&agent, |status| status.ignored.is_empty()).await;
    assert_eq!(host.with(|kept| kept.issuers.clone()), [pinned]);
    // 3. One whose cluster has no others below its root.
    say(&[], true).await;
    let open = IssuerRules::default();
    host.wait_for(|kept| (kept.issuers.last() == Some(&open)).then_some(()))
        .await;
}

#[tokio::test]
async fn a_root_that_cannot_be_kept_is_not_used() {
    let (manager, host) = (Manager::start().await, Host::default());
    let _agent = host.agent(&manager);
    host.with(|kept| kept.store_fails = true);
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    let both = [manager.root.trust().pem(), other.trust().pem()].concat();
    manager.say(|message| message.root_ca = both.clone()).await;
    let beats = manager.with(|behaviour| behaviour.beats);
    manager
        .wait_for(|behaviour| (behaviour.beats > beats + 2).then_some(()))
        .await;
    assert_eq!(manager.with(|behaviour| behaviour.sessions.len()), 1);
}

#[tokio::test]
async fn a_gap_in_the_assignments_ends_the_session_and_applies_nothing() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("a", "")]);
    let _agent = host.agent(&manager);
    host.wait_for(|kept| kept.tasks.get("a").map(drop)).await;
    manager.lose_a_change();
    manager.with(|behaviour| behaviour.complete.push(task("b", "")));
    let remove = waxseal_wire::swarmkit::assignment_change::Action::Remove;
    manager.assign(vec![(remove, task("a", ""))]).await;
    manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(drop))
        .await;
    host.wait_for(|kept| kept.tasks.get("b").map(drop)).await;
    assert!(host.with(|kept| kept.stopped.is_empty()));
    assert_eq!(manager.with(|behaviour| behaviour.sessions.len()), 2);
}

#[tokio::test]
async fn five_mebibytes_of_secrets_come_in_one_message() {
    let (manager, host) = (Manager::start().await, Host::default());
    let data = vec![7; 500_000];
    let mut complete: Vec<_> = (0..11).map(|n| secret(&format!("s{n}"), &data)).collect();
    complete.push(task("t", "s10"));
    manager.with(|behaviour| behaviour.complete = complete);
    let _agent = host.agent(&manager);
    let launched = host.wait_for(|kept| kept.launched.first().cloned()).await;
    assert_eq!(launched, ("t".to_owned(), vec![data]));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(manager.with(|behaviour| behaviour.sessions.len()), 1);
}

#[tokio::test]
async fn another_manager_is_found_when_one_goes_away() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| (behaviour.beats > 0).then_some(()))
        .await;
    // Two more, of which one is no more there and one never answers a handshake.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let others = [
        "127.0.0.1:1".to_owned(),
        silent.local_addr().unwrap().to_string(),
    ];
    manager
        .say(|message| {
            for addr in others.clone() {
                message.managers.push(WeightedPeer {
                    peer: Some(Peer {
                        node_id: addr.clone(),
                        addr,
                    }),
                    weight: 256,
                });
            }
        })
        .await;
    wait_for_status(&agent, |status| status.managers.len() == 3).await;
    let sessions = manager.with(|behaviour| behaviour.sessions.len());
    let begun = Instant::now();
    manager.connections.close_node("node");
    manager
        .wait_for(|behaviour| (behaviour.sessions.len() > sessions).then_some(()))
        .await;
    // However seldom it is chosen by weight: each is tried once in a round, and the
    // silent one for 2 s.
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(3_500), "{took:?}");
}
