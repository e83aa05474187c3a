//! Renewal, due or wanted.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use waxseal_ca::{Clock, Role, RootAuthority};
use waxseal_cluster::objects::IssuanceState;

use crate::{
    host::{Host, wait_for_status},
    manager::{Manager, credentials, node_in},
};

#[tokio::test]
async fn a_node_marked_rotate_renews_once_and_makes_a_new_session() {
    let (manager, host) = (Manager::start().await, Host::default());
    let _agent = host.agent(&manager);
    let old = manager
        .wait_for(|behaviour| behaviour.sessions.first().map(|s| s.1.clone()))
        .await;
    manager
        .say(|message| message.node = Some(node_in(IssuanceState::Rotate)))
        .await;
    manager
        .say(|message| message.node = Some(node_in(IssuanceState::Rotate)))
        .await;
    let new = manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(|s| s.1.clone()))
        .await;
    assert_ne!(old.serial, new.serial);
    assert_eq!(old.node_id, new.node_id);
    assert_eq!(
        host.with(|kept| kept.identities[0].0.clone()),
        new.serial.to_string()
    );
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(host.with(|kept| kept.identities.len()), 1);
}

#[tokio::test]
async fn a_request_during_a_renewal_makes_another() {
    let (manager, host) = (Manager::start().await, Host::default());
    let gate = Arc::new(Semaphore::new(0));
    manager.with(|behaviour| behaviour.gate = Some(Arc::clone(&gate)));
    let agent = host.agent(&manager);
    agent.renewals().request();
    manager
        .wait_for(|behaviour| behaviour.requests.first().map(drop))
        .await;
    // Its key is older than this.
    agent.renewals().request();
    gate.add_permits(10);
    host.wait_for(|kept| kept.identities.get(1).map(drop)).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(host.with(|kept| kept.identities.len()), 2);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_kept_is_not_used() {
    let (manager, host) = (Manager::start().await, Host::default());
    host.with(|kept| kept.store_fails = true);
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| behaviour.sessions.first().map(drop))
        .await;
    agent.renewals().request();
    wait_for_status(&agent, |status| {
        status
            .renewal
            .error
            .as_ref()
            .is_some_and(|error| error.contains("cannot keep"))
    })
    .await;
    assert_eq!(manager.with(|behaviour| behaviour.sessions.len()), 1);
    // It is tried again with a wait that grows.
    host.with(|kept| kept.store_fails = false);
    wait_for_status(&agent, |status| status.renewal.error.is_none()).await;
    manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(drop))
        .await;
}

#[tokio::test]
async fn a_certificate_of_unknown_roots_is_not_taken() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| behaviour.sessions.first().map(drop))
        .await;
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    // Neither if the manager shows its root: it does not cover this node's present one.
    manager.with(|behaviour| {
        behaviour.root_ca = Some(other.trust().pem().to_vec());
        behaviour.signer = Some(other);
    });
    agent.renewals().request();
    wait_for_status(&agent, |status| {
        status
            .renewal
            .error
            .as_ref()
            .is_some_and(|error| error.contains("vouch"))
    })
    .await;
    assert!(host.with(|kept| kept.identities.is_empty()));
}

#[tokio::test]
async fn roots_that_cover_old_and_new_are_taken_with_the_certificate() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| behaviour.sessions.first().map(drop))
        .await;
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    let both = [manager.root.trust().pem(), other.trust().pem()].concat();
    let trust = waxseal_ca::TrustBundle::from_pem(&both, manager.clock.now()).unwrap();
    manager.tls.swap_trust(std::sync::Arc::new(trust));
    manager.with(|behaviour| {
        behaviour.root_ca = Some(both.clone());
        behaviour.signer = Some(other);
    });
    agent.renewals().request();
    host.wait_for(|kept| kept.identities.first().cloned())
        .await
        .1
        .eq(&both)
        .then_some(())
        .expect("both roots are kept");
    manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(drop))
        .await;
}

#[tokio::test]
async fn a_fresh_certificate_is_due_in_the_second_half_of_its_life() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    wait_for_status(&agent, |status| status.renewal.due.is_some()).await;
    let due = agent.status().borrow().renewal.due.unwrap();
    let left = due - manager.clock.now();
    assert!(
        left > time::Duration::days(44) && left < time::Duration::days(73),
        "{left}"
    );
    manager
        .wait_for(|behaviour| (behaviour.beats > 2).then_some(()))
        .await;
    assert!(host.with(|kept| kept.identities.is_empty()));
}

#[tokio::test]
async fn a_due_certificate_is_renewed_by_itself() {
    let (manager, host) = (Manager::start().await, Host::default());
    let _agent = host.aged_agent(&manager, time::Duration::days(75));
    host.wait_for(|kept| kept.identities.first().map(drop))
        .await;
}

#[tokio::test]
async fn a_wish_after_managers_that_did_not_count_is_heard() {
    let (manager, host) = (Manager::start().await, Host::default());
    let agent = host.agent(&manager);
    wait_for_status(&agent, |status| status.session.is_registered()).await;
    // 1. Its certificate leads nowhere: this node takes its own for a former one, in vain.
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    let own = manager.tls.credentials().unwrap();
    let foreign = credentials(&other, "manager", Role::Manager, manager.clock.as_ref());
    manager.tls.swap_identity(foreign);
    manager.connections.close_node("node");
    wait_for_status(&agent, |status| status.renewal.error.is_some()).await;
    // 2. It counts again, and wants a renewal from the first.
    manager.with(|behaviour| behaviour.node = Some(node_in(IssuanceState::Rotate)));
    manager.tls.swap_identity(own);
    host.wait_for(|kept| kept.identities.first().map(drop))
        .await;
    wait_for_status(&agent, |status| status.renewal.away.is_none()).await;
}
