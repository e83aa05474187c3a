use std::cell::RefCell;
use std::collections::HashMap;

use super::*;
use crate::chain::chain_from_pem;
use crate::test_roots::{CLUSTER, NOW, csr, profile, serial};
use crate::{IssuedCertificate, RootAuthority};

const ADDR: &str = "192.0.2.7";
const WINDOW: std::time::Duration = std::time::Duration::from_secs(30 * 86_400);
const BINDING: ChannelBinding = ChannelBinding([7; 32]);

/// A cluster with node `n1`, whose certificate has serial 1.
struct World {
    root: RootAuthority,
    issuers: Vec<KnownIssuer>,
    table: Table,
    window: std::time::Duration,
    old: IssuedCertificate,
    old_key: NodeKey,
    new_key: NodeKey,
    now: OffsetDateTime,
}

#[derive(Default)]
struct Table {
    nodes: HashMap<String, ReturnRecord>,
    keys: HashMap<PublicKeyDigest, String>,
    removed: RefCell<Vec<String>>,
    revoked: Vec<Serial>,
}

impl ReturnTable for Table {
    fn node(&self, node_id: &str) -> Option<ReturnRecord> {
        self.nodes.get(node_id).cloned()
    }

    fn is_removed(&self, node_id: &str) -> bool {
        self.removed
            .borrow()
            .iter()
            .any(|removed| removed == node_id)
    }

    fn node_of_key(&self, key: &PublicKeyDigest) -> Option<String> {
        self.keys.get(key).cloned()
    }

    fn is_revoked(&self, serial: &Serial) -> bool {
        self.revoked.contains(serial)
    }
}

fn known(number: u8, key: &NodeKey) -> KnownCertificate {
    KnownCertificate {
        serial: serial(number),
        public_key: key.public_key_digest(),
    }
}

fn issuer(root: &RootAuthority) -> KnownIssuer {
    KnownIssuer {
        issuer: root.trust().issuer_info().clone(),
        retired_at: None,
        compromised: false,
    }
}

impl World {
    /// A day after the node's certificate has expired.
    fn new() -> World {
        let root = RootAuthority::generate(NOW).unwrap();
        let old_key = NodeKey::generate().unwrap();
        let old = root
            .issue(&profile("n1", Role::Worker), &csr(&old_key), serial(1), NOW)
            .unwrap();
        let record = ReturnRecord {
            role: Role::Worker,
            accepted: true,
            newest: Some(known(1, &old_key)),
            in_use: Some(known(1, &old_key)),
            last_return: None,
            approved: None,
        };
        let mut table = Table::default();
        table.nodes.insert("n1".to_owned(), record);
        table
            .keys
            .insert(old_key.public_key_digest(), "n1".to_owned());
        World {
            issuers: vec![issuer(&root)],
            root,
            table,
            window: WINDOW,
            now: old.identity.not_after + Duration::DAY,
            old,
            old_key,
            new_key: NodeKey::generate().unwrap(),
        }
    }

    fn record(&mut self) -> &mut ReturnRecord {
        self.table.nodes.get_mut("n1").unwrap()
    }

    /// What is sent for this certificate if the statement is the one that `change` makes of
    /// the right one.
    fn ask(&self, change: impl FnOnce(&mut Sent)) -> ReclaimDecision {
        let csr_pem = self.new_key.csr_pem().unwrap();
        let mut sent = Sent {
            certificate: self.old.der.to_vec(),
            csr_pem: csr_pem.clone(),
            signed_csr: csr_pem,
            cluster_id: CLUSTER.to_owned(),
            node_id: "n1".to_owned(),
            unix_seconds: self.now.unix_timestamp(),
            signed_seconds: self.now.unix_timestamp(),
            signed_binding: BINDING,
            binding: Some(BINDING),
            signature: None,
            addr: ADDR.to_owned(),
        };
        change(&mut sent);
        let statement = ReclaimStatement {
            binding: &sent.signed_binding,
            csr_pem: sent.signed_csr.as_bytes(),
            cluster_id: &sent.cluster_id,
            node_id: &sent.node_id,
            unix_seconds: sent.signed_seconds,
        };
        let signature = match sent.signature {
            Some(signature) => signature,
            None => statement.sign(&self.old_key).unwrap(),
        };
        let request = ReclaimRequest {
            certificate: &sent.certificate,
            csr_pem: sent.csr_pem.as_bytes(),
            unix_seconds: sent.unix_seconds,
            signature: &signature,
            addr: &sent.addr,
        };
        let view = ReclaimView {
            cluster_id: CLUSTER,
            issuers: &self.issuers,
            nodes: &self.table,
            window: self.window,
            binding: sent.binding.as_ref(),
        };
        decide_reclaim(&request, &view, self.now)
    }

    fn asks(&self) -> ReclaimDecision {
        self.ask(|_| {})
    }
}

struct Sent {
    certificate: Vec<u8>,
    csr_pem: String,
    signed_csr: String,
    cluster_id: String,
    node_id: String,
    unix_seconds: i64,
    signed_seconds: i64,
    signed_binding: ChannelBinding,
    binding: Option<ChannelBinding>,
    signature: Option<Vec<u8>>,
    addr: String,
}

fn refused(decision: ReclaimDecision) -> ReclaimRefusal {
    match decision {
        ReclaimDecision::Refuse(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

fn granted(decision: &ReclaimDecision) -> bool {
    matches!(decision, ReclaimDecision::Grant { .. })
}

fn waits(decision: ReclaimDecision) -> ReturnWait {
    match decision {
        ReclaimDecision::Wait { reason, .. } => reason,
        other => panic!("does not wait: {other:?}"),
    }
}

#[test]
fn a_proof_for_another_connection_request_node_cluster_or_time_is_refused() {
    let world = World::new();
    let other = || ChannelBinding([8; 32]);
    let bad = |change: fn(&mut Sent)| refused(world.ask(change));
    assert_eq!(bad(|sent| sent.binding = None), ReclaimRefusal::NoBinding);
    for change in [
        (|sent| sent.signed_binding = ChannelBinding([8; 32])) as fn(&mut Sent),
        |sent| sent.signed_csr = NodeKey::generate().unwrap().csr_pem().unwrap(),
        |sent| sent.csr_pem = NodeKey::generate().unwrap().csr_pem().unwrap(),
        |sent| sent.node_id = "n2".to_owned(),
        |sent| sent.cluster_id = "another".to_owned(),
        |sent| sent.signed_seconds += 1,
        |sent| sent.signature = Some(Vec::new()),
        |sent| sent.signature = Some(vec![0x30; 70]),
    ] {
        assert_eq!(refused(world.ask(change)), ReclaimRefusal::BadProof);
    }
    // A man in the middle has a connection of his own to the manager.
    let relayed = refused(world.ask(|sent| sent.binding = Some(other())));
    assert_eq!(relayed, ReclaimRefusal::BadProof);
}

#[test]
fn a_signature_by_another_key_is_refused() {
    let mut world = World::new();
    world.old_key = NodeKey::generate().unwrap();
    assert_eq!(refused(world.asks()), ReclaimRefusal::BadProof);
}

#[test]
fn clocks_that_disagree_are_told_which_way() {
    let world = World::new();
    for (seconds, way) in [(301, "ahead of"), (-301, "behind")] {
        let refusal = refused(world.ask(|sent| {
            sent.unix_seconds += seconds;
            sent.signed_seconds += seconds;
        }));
        let text = refusal.to_string();
        assert!(text.contains("5 min") && text.contains(way), "{text}");
    }
    assert!(granted(&world.ask(|sent| {
        sent.unix_seconds += 300;
        sent.signed_seconds += 300;
    })));
    let never = refused(world.ask(|sent| sent.unix_seconds = i64::MAX));
    assert_eq!(never, ReclaimRefusal::BadProof);
}

#[test]
fn certificates_of_others_are_refused() {
    let mut world = World::new();
    let bytes = refused(world.ask(|sent| sent.certificate = vec![0x30; 100]));
    assert!(matches!(bytes, ReclaimRefusal::Certificate(_)), "{bytes:?}");
    let large = refused(world.ask(|sent| sent.certificate = vec![0; MAX_CERTIFICATE_BYTES + 1]));
    assert!(matches!(large, ReclaimRefusal::Certificate(_)), "{large:?}");
    // A root with the same name that this cluster never had.
    let thief = RootAuthority::generate(NOW).unwrap();
    let forged = thief.issue(
        &profile("n1", Role::Worker),
        &csr(&world.old_key),
        serial(1),
        NOW,
    );
    let forged = forged.unwrap().der.to_vec();
    let refusal = refused(world.ask(|sent| sent.certificate = forged));
    assert_eq!(refusal, ReclaimRefusal::UnknownIssuer);
    // One of the same root for another cluster.
    let mut elsewhere = profile("n1", Role::Worker);
    elsewhere.cluster_id = "another".to_owned();
    let issued = world
        .root
        .issue(&elsewhere, &csr(&world.old_key), serial(1), NOW);
    world.old = issued.unwrap();
    let refusal = refused(world.ask(|sent| sent.cluster_id = "another".to_owned()));
    assert_eq!(refusal, ReclaimRefusal::OtherCluster);
}

#[test]
fn a_compromised_issuer_proves_nothing_even_if_it_was_trusted_twice() {
    let mut world = World::new();
    let mut compromised = world.issuers[0].clone();
    compromised.compromised = true;
    world.issuers.push(compromised);
    assert_eq!(refused(world.asks()), ReclaimRefusal::CompromisedIssuer);
}

#[test]
fn nodes_that_are_no_members_are_refused() {
    let mut world = World::new();
    world.table.removed.borrow_mut().push("n1".to_owned());
    assert!(matches!(
        refused(world.asks()),
        ReclaimRefusal::Removed { .. }
    ));
    world.table.removed.borrow_mut().clear();
    world.record().accepted = false;
    assert!(matches!(
        refused(world.asks()),
        ReclaimRefusal::NotAccepted { .. }
    ));
    world.record().accepted = true;
    world.table.revoked.push(serial(1));
    assert!(matches!(
        refused(world.asks()),
        ReclaimRefusal::Revoked { .. }
    ));
    world.table.revoked.clear();
    world.table.nodes.clear();
    assert!(matches!(
        refused(world.asks()),
        ReclaimRefusal::Removed { .. }
    ));
}

#[test]
fn an_older_certificate_is_a_possible_clones() {
    let mut world = World::new();
    let newer = NodeKey::generate().unwrap();
    world.record().newest = Some(known(2, &newer));
    world.record().in_use = Some(known(2, &newer));
    let clone = ReclaimRefusal::PossibleClone {
        node_id: "n1".to_owned(),
        serial: serial(1),
    };
    assert_eq!(refused(world.asks()), clone);
    // An operator's approval is for a node that waits, not for this.
    world.record().approved = Some(world.old_key.public_key_digest());
    assert_eq!(refused(world.asks()), clone);
    // The right serial with another key than the record has.
    world.record().newest = Some(known(1, &newer));
    assert_eq!(refused(world.asks()), clone);
    world.record().newest = None;
    assert_eq!(refused(world.asks()), clone);
}

#[test]
fn what_was_lost_on_its_way_locks_nobody_out() {
    let mut world = World::new();
    let lost = NodeKey::generate().unwrap();
    world.record().newest = Some(known(2, &lost));
    let ReclaimDecision::Grant {
        presented,
        expected,
        ..
    } = world.asks()
    else {
        panic!()
    };
    assert_eq!((presented, expected), (serial(1), serial(2)));
}

#[test]
fn the_new_key_is_nobodys_yet() {
    let mut world = World::new();
    let new_key = world.new_key.public_key_digest();
    world.table.keys.insert(new_key, "n2".to_owned());
    assert_eq!(refused(world.asks()), ReclaimRefusal::KeyInUse);
    world.table.keys.clear();
    world.new_key = NodeKey::from_pkcs8_pem(world.old_key.pkcs8_pem().as_bytes()).unwrap();
    assert_eq!(refused(world.asks()), ReclaimRefusal::KeyInUse);
    world.new_key = NodeKey::generate().unwrap();
    let garbage = refused(world.ask(|sent| {
        sent.csr_pem = "garbage".to_owned();
        sent.signed_csr = "garbage".to_owned();
    }));
    assert!(matches!(garbage, ReclaimRefusal::Csr(_)), "{garbage:?}");
}

#[test]
fn outside_the_window_it_waits_for_an_operator() {
    let mut world = World::new();
    let expired = world.old.identity.not_after;
    world.now = expired + WINDOW;
    assert!(granted(&world.asks()));
    world.now += Duration::SECOND;
    let outside = ReturnWait::OutsideWindow { since: expired };
    assert_eq!(waits(world.asks()), outside);
    world.window = std::time::Duration::ZERO;
    world.now = expired + Duration::SECOND;
    assert_eq!(waits(world.asks()), outside);
    world.record().approved = Some(world.new_key.public_key_digest());
    assert_eq!(waits(world.asks()), outside, "another key was approved");
    world.record().approved = Some(world.old_key.public_key_digest());
    assert!(granted(&world.asks()));
}

#[test]
fn a_root_that_was_replaced_counts_from_then() {
    let mut world = World::new();
    let replaced = NOW + Duration::DAY;
    world.issuers[0].retired_at = Some(replaced);
    world.now = replaced + WINDOW;
    assert!(granted(&world.asks()), "within its own life");
    world.now += Duration::SECOND;
    let outside = ReturnWait::OutsideWindow { since: replaced };
    assert_eq!(waits(world.asks()), outside);
}

#[test]
fn a_certificate_that_counts_needs_no_window() {
    let mut world = World::new();
    world.now = NOW;
    world.window = std::time::Duration::ZERO;
    assert!(granted(&world.asks()));
}

#[test]
fn a_certificate_that_brought_somebody_back_does_so_once() {
    let mut world = World::new();
    let granted_key = NodeKey::generate().unwrap();
    let at = world.now;
    world.record().newest = Some(known(2, &granted_key));
    world.record().last_return = Some(FormerReturn {
        presented: serial(1),
        granted: serial(2),
        addr: ADDR.to_owned(),
        at,
    });
    // The same host once more, soon.
    assert!(granted(&world.asks()));
    let elsewhere = world.ask(|sent| sent.addr = "192.0.2.8".to_owned());
    let taken = ReturnWait::TakenBefore {
        addr: ADDR.to_owned(),
        at,
    };
    assert_eq!(waits(elsewhere), taken);
    world.now += RECLAIM_RETRY + Duration::SECOND;
    assert_eq!(waits(world.asks()), taken);
    // The same request, from wherever and whenever: it is the same key that gets it.
    world.new_key = granted_key;
    let again = world.ask(|sent| sent.addr = "192.0.2.8".to_owned());
    assert!(matches!(again, ReclaimDecision::Again { .. }), "{again:?}");
}

#[test]
fn what_is_signed_is_unambiguous() {
    let message = |cluster_id: &str, node_id: &str| {
        let statement = ReclaimStatement {
            binding: &BINDING,
            csr_pem: b"csr",
            cluster_id,
            node_id,
            unix_seconds: 1,
        };
        statement.message()
    };
    assert_ne!(message("ab", "c"), message("a", "bc"));
    assert!(message("a", "b")[4..].starts_with(CONTEXT));
    assert_eq!(format!("{BINDING:?}"), "ChannelBinding(..)");
}

#[test]
fn keys_on_p384_prove_themselves_too() {
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut world = World::new();
    world.old_key = NodeKey::from_pkcs8_pem(p384.serialize_pem().as_bytes()).unwrap();
    let issued = world.root.issue(
        &profile("n1", Role::Worker),
        &csr(&world.old_key),
        serial(1),
        NOW,
    );
    world.old = issued.unwrap();
    let known = known(1, &world.old_key);
    world.record().newest = Some(known);
    assert!(granted(&world.asks()));
    assert_eq!(chain_from_pem(world.old.pem.as_bytes()).unwrap().len(), 1);
}
