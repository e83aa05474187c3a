use super::*;
use crate::{
    change::Applied,
    objects::{
        IssuanceStatus, ManagerStatus, ObserveNodes, RemoveNode, RequestCertificate, RequestSource,
        StateSnapshot, StoreCertificate, UpdateCluster, command::Op,
    },
    testing::{FlippingVault, MANAGER, at, bootstrapped, command, create_worker, run},
};

const YEAR: i64 = 365 * 24 * 60 * 60;

fn serial(number: u8) -> SerialKey {
    let mut serial = [0; 20];
    serial[19] = number;
    serial
}

fn certificate(state: IssuanceState, number: u8, now: i64) -> Certificate {
    Certificate {
        csr: vec![number, 1],
        serial: serial(number).to_vec(),
        certificate: b"pem".to_vec(),
        not_before: Some(at(now - 3600)),
        not_after: Some(at(now + YEAR)),
        public_key_digest: vec![number; 32],
        source: Some(RequestSource {
            address: "192.0.2.7".into(),
            token: String::new(),
        }),
        status: Some(IssuanceStatus {
            state: state.into(),
            err: String::new(),
        }),
        ..Certificate::default()
    }
}

fn apply(state: &mut State, now: i64, op: Op) -> Result<Applied, Refusal> {
    state.apply(command(now, op))
}

fn request(state: &mut State, number: u8, now: i64) -> Result<Applied, Refusal> {
    let op = RequestCertificate {
        node_id: "w1".into(),
        certificate: Some(certificate(IssuanceState::Renew, number, now)),
    };
    apply(state, now, Op::RequestCertificate(op))
}

fn store(state: &mut State, number: u8, now: i64) -> Result<Applied, Refusal> {
    let op = StoreCertificate {
        node_id: "w1".into(),
        certificate: Some(certificate(IssuanceState::Issued, number, now)),
    };
    apply(state, now, Op::StoreCertificate(op))
}

fn renew(state: &mut State, number: u8, now: i64) {
    request(state, number, now).unwrap();
    store(state, number, now).unwrap();
}

fn session(state: &mut State, number: u8, now: i64) {
    let observed = NodeObservation {
        node_id: "w1".into(),
        session_started: true,
        session_serial: serial(number).to_vec(),
        ..NodeObservation::default()
    };
    let nodes = vec![observed];
    apply(state, now, Op::ObserveNodes(ObserveNodes { nodes })).unwrap();
}

fn with_worker() -> State {
    let mut state = bootstrapped();
    run(&mut state, create_worker("w1")).unwrap();
    state
}

fn standing(state: &State, number: u8, now: i64) -> Option<Standing> {
    Some(state.certificate(&serial(number))?.standing(now))
}

fn revoke(serials: &[u8], node_id: &str, force: bool) -> Op {
    Op::RevokeCertificates(RevokeCertificates {
        serials: serials.iter().map(|n| serial(*n).to_vec()).collect(),
        node_id: node_id.into(),
        reason: "lost".into(),
        force,
    })
}

#[test]
fn a_node_does_not_renew_by_itself_more_than_once_in_ten_seconds() {
    let mut state = with_worker();
    // Its first is that of its join.
    renew(&mut state, 8, 1000);
    renew(&mut state, 1, 1000);
    for now in [1000, 1009] {
        let refusal = request(&mut state, 2, now).unwrap_err();
        let Refusal::Exhausted { reason } = refusal else {
            panic!("{refusal:?}");
        };
        assert!(
            reason.ends_with(&format!("try again in {} s", 1010 - now)),
            "{reason}"
        );
    }
    renew(&mut state, 2, 1010);
    // A manager's wish is no matter of time.
    let mark = RequestCertificate {
        node_id: "w1".into(),
        certificate: Some(certificate(IssuanceState::Rotate, 0, 1011)),
    };
    apply(&mut state, 1011, Op::RequestCertificate(mark)).unwrap();
    renew(&mut state, 3, 1011);
    let origins: Vec<_> = state
        .certificates_of("w1")
        .map(|record| record.origin)
        .collect();
    assert_eq!(
        origins,
        [
            CertificateOrigin::Join,
            CertificateOrigin::Renewal,
            CertificateOrigin::Renewal,
            CertificateOrigin::Rotation,
        ]
    );
    assert!(request(&mut state, 4, 1012).is_err());
    // A clock that went back is no reason to wait for it.
    renew(&mut state, 4, 500);
}

#[test]
fn a_node_has_no_more_than_eight_certificates_that_count() {
    let mut state = with_worker();
    for number in 1..=8u8 {
        renew(&mut state, number, 1000 + 10 * i64::from(number));
    }
    let refusal = request(&mut state, 9, 1100).unwrap_err();
    assert!(matches!(&refusal, Refusal::Exhausted { reason } if reason.contains("cert ls")));
    run(&mut state, revoke(&[3], "", false)).unwrap();
    renew(&mut state, 9, 1100);
    assert!(request(&mut state, 10, 1200).is_err());
    // With the newest in use, the others make room.
    session(&mut state, 9, 1200);
    assert!(request(&mut state, 10, 1259).is_err());
    renew(&mut state, 10, 1260);
}

#[test]
fn what_the_cluster_asks_for_makes_room_for_itself() {
    let mut state = with_worker();
    renew(&mut state, 1, 1000);
    session(&mut state, 1, 1001);
    for number in 2..=8u8 {
        renew(&mut state, number, 1000 + 10 * i64::from(number));
    }
    assert!(request(&mut state, 9, 1100).is_err());
    let mark = RequestCertificate {
        node_id: "w1".into(),
        certificate: Some(certificate(IssuanceState::Rotate, 0, 1100)),
    };
    apply(&mut state, 1100, Op::RequestCertificate(mark)).unwrap();
    renew(&mut state, 9, 1100);
    // The oldest ended, but not the one in use.
    assert_eq!(standing(&state, 1, 1100), Some(Standing::Valid));
    assert_eq!(standing(&state, 2, 1100), Some(Standing::Superseded));
    assert_eq!(standing(&state, 3, 1100), Some(Standing::Valid));
    assert!(request(&mut state, 10, 1200).is_err());
}

#[test]
fn what_came_before_the_one_in_use_counts_for_a_minute_more() {
    let mut state = with_worker();
    renew(&mut state, 1, 1000);
    session(&mut state, 1, 1001);
    renew(&mut state, 2, 2000);
    // Issued is not in use.
    assert_eq!(standing(&state, 1, 9000), Some(Standing::Valid));
    session(&mut state, 1, 2001);
    assert_eq!(standing(&state, 1, 9000), Some(Standing::Valid));
    session(&mut state, 2, 2002);
    assert_eq!(standing(&state, 1, 2061), Some(Standing::Valid));
    assert_eq!(standing(&state, 1, 2062), Some(Standing::Superseded));
    // A session with the old one within the minute changes nothing.
    session(&mut state, 1, 2030);
    session(&mut state, 2, 2050);
    assert_eq!(standing(&state, 1, 2062), Some(Standing::Superseded));
    assert_eq!(standing(&state, 2, 9000), Some(Standing::Valid));
    let record = state.certificate(&serial(1)).unwrap();
    assert_eq!((record.used_at, record.superseded_at), (1001, 2002));
}

#[test]
fn only_what_was_issued_stays_on_record() {
    let mut state = with_worker();
    request(&mut state, 1, 1000).unwrap();
    assert_eq!(standing(&state, 1, 1000), Some(Standing::Requested));
    request(&mut state, 2, 1001).unwrap();
    assert_eq!(standing(&state, 1, 1001), None);
    let failed = StoreCertificate {
        node_id: "w1".into(),
        certificate: Some(Certificate {
            certificate: Vec::new(),
            ..certificate(IssuanceState::Failed, 2, 1001)
        }),
    };
    apply(&mut state, 1001, Op::StoreCertificate(failed)).unwrap();
    assert_eq!(standing(&state, 2, 1001), None);
    request(&mut state, 3, 1002).unwrap();
    let remove = RemoveNode {
        node_id: "w1".into(),
        force: true,
        ban_expires_at: None,
    };
    run(&mut state, Op::RemoveNode(remove)).unwrap();
    assert_eq!(standing(&state, 3, 1002), None);
}

#[test]
fn a_serial_is_used_once() {
    let mut state = with_worker();
    renew(&mut state, 1, 1000);
    assert!(matches!(
        request(&mut state, 1, 2000),
        Err(Refusal::Invalid { .. })
    ));
    run(&mut state, create_worker("w2")).unwrap();
    let op = RequestCertificate {
        node_id: "w2".into(),
        certificate: Some(certificate(IssuanceState::Renew, 1, 2000)),
    };
    let refusal = apply(&mut state, 2000, Op::RequestCertificate(op)).unwrap_err();
    assert!(matches!(refusal, Refusal::Invalid { .. }));
}

#[test]
fn revocations_that_are_refused() {
    let mut state = with_worker();
    renew(&mut state, 1, 1000);
    let before = state.snapshot();
    for (op, text) in [
        (
            revoke(&[9], "", false),
            "certificate 0000000000000000000000000000000000000009 not found",
        ),
        (revoke(&[1], MANAGER, false), "not found"),
        (revoke(&[], "nobody", false), "node nobody not found"),
        (revoke(&[], "", false), "serial or node"),
        (
            revoke(&[], MANAGER, false),
            "has no certificate that counts",
        ),
    ] {
        let refusal = run(&mut state, op).unwrap_err().to_string();
        assert!(refusal.contains(text), "{refusal}");
    }
    let mut long = revoke(&[1], "", false);
    if let Op::RevokeCertificates(op) = &mut long {
        op.reason = "x\ny".into();
    }
    assert!(run(&mut state, long).is_err());
    assert_eq!(state.snapshot(), before);
    run(&mut state, revoke(&[1], "", false)).unwrap();
    let refusal = run(&mut state, revoke(&[1], "", false))
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("was revoked before"), "{refusal}");
}

#[test]
fn a_revoked_certificate_stays_so_and_says_by_whom() {
    let mut state = with_worker();
    renew(&mut state, 1, 1000);
    renew(&mut state, 2, 1010);
    let applied = run(&mut state, revoke(&[], "w1", false)).unwrap();
    assert_eq!(applied.changes.len(), 2);
    for number in [1, 2] {
        assert_eq!(standing(&state, number, 1020), Some(Standing::Revoked));
    }
    let revoked = state
        .certificate(&serial(2))
        .unwrap()
        .revoked
        .clone()
        .unwrap();
    assert_eq!(
        (revoked.by.as_str(), revoked.reason.as_str()),
        ("test", "lost")
    );
    session(&mut state, 2, 1030);
    assert_eq!(standing(&state, 2, 1030), Some(Standing::Revoked));
}

#[test]
fn a_request_that_is_revoked_makes_no_good_certificate() {
    let mut state = with_worker();
    request(&mut state, 1, 1000).unwrap();
    run(&mut state, revoke(&[], "w1", false)).unwrap();
    store(&mut state, 1, 1001).unwrap();
    assert_eq!(standing(&state, 1, 1001), Some(Standing::Revoked));
}

#[test]
fn the_newest_of_a_manager_goes_by_force_and_with_a_quorum_only() {
    let mut state = bootstrapped();
    let manager = |node_id: &str, reachability: Reachability| NodeObservation {
        node_id: node_id.into(),
        manager_status: Some(ManagerStatus {
            reachability: reachability.into(),
            ..ManagerStatus::default()
        }),
        ..NodeObservation::default()
    };
    let observe = |nodes| Op::ObserveNodes(ObserveNodes { nodes });
    for id in ["m2", "m3"] {
        let node = Some(crate::testing::node(id, NodeRole::Manager));
        run(
            &mut state,
            Op::CreateNode(crate::objects::CreateNode { node }),
        )
        .unwrap();
    }
    let renewed = |state: &mut State, number: u8| {
        for (issuance, stored) in [(IssuanceState::Renew, false), (IssuanceState::Issued, true)] {
            let certificate = Some(certificate(issuance, number, 1000));
            let node_id = "m2".to_owned();
            let op = match stored {
                false => Op::RequestCertificate(RequestCertificate {
                    node_id,
                    certificate,
                }),
                true => Op::StoreCertificate(StoreCertificate {
                    node_id,
                    certificate,
                }),
            };
            apply(state, 1000 + 10 * i64::from(number), op).unwrap();
        }
    };
    renewed(&mut state, 1);
    renewed(&mut state, 2);
    let up = Reachability::Reachable;
    let all = vec![manager(MANAGER, up), manager("m2", up), manager("m3", up)];
    run(&mut state, observe(all)).unwrap();
    let refusal = run(&mut state, revoke(&[2], "", false))
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("waxseal node renew m2"), "{refusal}");
    let down = Reachability::Unreachable;
    run(&mut state, observe(vec![manager("m3", down)])).unwrap();
    let refusal = run(&mut state, revoke(&[2], "", true))
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("no quorum"), "{refusal}");
    // Its former one is nobody's way to the others.
    run(&mut state, revoke(&[1], "", false)).unwrap();
    run(&mut state, observe(vec![manager("m3", up)])).unwrap();
    run(&mut state, revoke(&[2], "", true)).unwrap();
}

#[test]
fn ended_ones_are_forgotten_later_but_not_what_a_node_holds() {
    let mut state = with_worker();
    renew(&mut state, 1, 1000);
    run(&mut state, revoke(&[1], "", false)).unwrap();
    renew(&mut state, 2, 2000);
    let week = 7 * 24 * 60 * 60;
    let end = 2000 + YEAR + week;
    let touch = |state: &mut State, now| {
        let id = format!("touch{now}");
        apply(state, now, create_worker(&id)).unwrap();
    };
    touch(&mut state, 1000 + YEAR + week - 1);
    assert_eq!(standing(&state, 1, 0), Some(Standing::Revoked));
    touch(&mut state, 1000 + YEAR + week);
    assert_eq!(standing(&state, 1, 0), None);
    touch(&mut state, end + 1);
    assert_eq!(standing(&state, 2, end), Some(Standing::Expired));
    renew(&mut state, 3, end + 100);
    touch(&mut state, end + 101);
    assert_eq!(standing(&state, 2, end), None);
}

/// A cluster whose managers do not all know records yet keeps none; what it has by then is
/// taken over.
#[test]
fn before_level_three_nothing_is_recorded_and_then_taken_over() {
    let mut snapshot: StateSnapshot = with_worker().snapshot();
    snapshot.cluster.as_mut().unwrap().feature_level = 2;
    let mut state = State::restore(snapshot, Arc::new(FlippingVault)).unwrap();
    renew(&mut state, 1, 1000);
    renew(&mut state, 2, 1001);
    assert_eq!(state.certificates().count(), 0);
    let refusal = run(&mut state, revoke(&[2], "", false))
        .unwrap_err()
        .to_string();
    assert!(refusal.contains("needs feature level 3"), "{refusal}");
    let mut cluster = state.cluster().unwrap().as_ref().clone();
    cluster.feature_level = 3;
    let raise = UpdateCluster {
        cluster: Some(cluster),
        expected_version: 0,
    };
    run(&mut state, Op::UpdateCluster(raise)).unwrap();
    let mut other = state.clone();
    run(&mut other, revoke(&[2], "", false)).unwrap();
    assert_eq!(standing(&other, 2, 1010), Some(Standing::Revoked));
    renew(&mut state, 3, 1020);
    assert_eq!(standing(&state, 2, 1020), Some(Standing::Valid));
    session(&mut state, 3, 1021);
    assert_eq!(standing(&state, 2, 1081), Some(Standing::Superseded));
}

#[test]
fn records_survive_a_snapshot_in_their_order() {
    let mut state = with_worker();
    // Not the order of serials.
    renew(&mut state, 9, 1000);
    session(&mut state, 9, 1001);
    renew(&mut state, 3, 2000);
    session(&mut state, 3, 2001);
    run(&mut state, revoke(&[9], "", false)).unwrap();
    request(&mut state, 5, 3000).unwrap();
    let again = State::restore(state.snapshot(), Arc::new(FlippingVault)).unwrap();
    assert_eq!(again.certificates, state.certificates);
    let order: Vec<_> = again
        .certificates_of("w1")
        .map(|record| record.serial[19])
        .collect();
    assert_eq!(order, [9, 3, 5]);
}
