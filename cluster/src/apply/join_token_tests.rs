use std::collections::BTreeMap;

use super::*;
use crate::{
    change::Applied,
    join_tokens::{RESERVATION_SECS, TokenStanding},
    objects::{
        CreateNode, IssuanceState, IssuanceStatus, NodeObservation, ObserveNodes,
        RequestCertificate, RequestSource, ReturnReservations, StateSnapshot, StoreCertificate,
        UpdateCluster, command::Op,
    },
    testing::{FlippingVault, at, bootstrapped, command, node},
};

const HOST: &str = "192.0.2.7";
const OTHER: &str = "192.0.2.8";

fn apply(state: &mut State, now: i64, op: Op) -> Result<Applied, Refusal> {
    state.apply(command(now, op))
}

fn token(uses: u32) -> LimitedToken {
    LimitedToken {
        id: "t1".into(),
        role: NodeRole::Worker.into(),
        secret_digest: vec![1; 32],
        expires_at: Some(at(5000)),
        uses,
        ..LimitedToken::default()
    }
}

fn create(state: &mut State, token: LimitedToken) -> Result<Applied, Refusal> {
    let token = Some(token);
    apply(state, 1000, Op::CreateJoinToken(CreateJoinToken { token }))
}

fn with_token(token: LimitedToken) -> State {
    let mut state = bootstrapped();
    create(&mut state, token).unwrap();
    state
}

fn asked(number: u8, address: &str, state: IssuanceState) -> Certificate {
    Certificate {
        csr: vec![number],
        serial: vec![number],
        certificate: b"pem".to_vec(),
        not_after: Some(at(90_000)),
        source: Some(RequestSource {
            address: address.into(),
            token: "t1".into(),
        }),
        status: Some(IssuanceStatus {
            state: state.into(),
            err: String::new(),
        }),
        ..Certificate::default()
    }
}

/// A join as far as its certificate.
fn join(state: &mut State, number: u8, address: &str, now: i64) -> Result<Applied, Refusal> {
    let id = format!("n{number}");
    let mut joining = node(&id, NodeRole::Worker);
    joining.certificate = Some(Certificate {
        certificate: Vec::new(),
        not_after: None,
        ..asked(number, address, IssuanceState::Pending)
    });
    let applied = apply(
        state,
        now,
        Op::CreateNode(CreateNode {
            node: Some(joining),
        }),
    )?;
    let store = StoreCertificate {
        node_id: id,
        certificate: Some(asked(number, address, IssuanceState::Issued)),
    };
    apply(state, now, Op::StoreCertificate(store)).unwrap();
    Ok(applied)
}

fn session(state: &mut State, number: u8, now: i64) {
    let observed = NodeObservation {
        node_id: format!("n{number}"),
        session_started: true,
        session_serial: vec![number],
        ..NodeObservation::default()
    };
    let nodes = vec![observed];
    apply(state, now, Op::ObserveNodes(ObserveNodes { nodes })).unwrap();
}

fn refused(state: &mut State, number: u8, address: &str, now: i64) -> String {
    let before = state.snapshot();
    let refusal = join(state, number, address, now).unwrap_err();
    assert_eq!(state.snapshot(), before, "a refused join changed the state");
    refusal.to_string()
}

fn standing(state: &State, now: i64) -> TokenStanding {
    state.join_token("t1").unwrap().standing(now)
}

fn is_revoked(state: &State, number: u8) -> bool {
    let record = state.certificate(&[number]);
    record.is_some_and(|record| record.revoked.is_some())
}

#[test]
fn tokens_that_are_not_made() {
    let mut state = bootstrapped();
    let faults: [fn(&mut LimitedToken); 9] = [
        |token| token.id.clear(),
        |token| token.id = "worker".into(),
        |token| token.role = 7,
        |token| token.secret_digest.truncate(31),
        |token| token.expires_at = None,
        |token| token.expires_at = Some(at(1000)),
        |token| token.expires_at = Some(at(1000 + MAX_TOKEN_TTL_SECS + 1)),
        |token| token.uses = 0,
        |token| token.cidrs = vec!["10.0.0.0/33".into()],
    ];
    for (index, fault) in faults.into_iter().enumerate() {
        let mut token = token(1);
        fault(&mut token);
        assert!(create(&mut state, token).is_err(), "fault {index}");
    }
    create(&mut state, token(1)).unwrap();
    assert!(matches!(
        create(&mut state, token(1)),
        Err(Refusal::NameTaken { .. })
    ));
    let mut many = token(MAX_TOKEN_USES + 1);
    many.id = "t2".into();
    assert!(create(&mut state, many).is_err());
}

#[test]
fn what_a_caller_says_of_use_counts_for_nothing() {
    let mut forged = token(2);
    forged.spent = 9;
    forged.revoked_at = Some(at(1));
    forged.reservations = vec![Reservation::default()];
    let state = with_token(forged);
    assert_eq!(standing(&state, 1000), TokenStanding::Open);
}

#[test]
fn tokens_that_do_not_admit_say_why() {
    let mut state = with_token(token(1));
    assert!(refused(&mut state, 1, HOST, 5000).contains("has expired"));
    let mut near = token(1);
    near.cidrs = vec!["198.51.100.9/24".into()];
    let mut state = with_token(near);
    let text = refused(&mut state, 1, HOST, 2000);
    assert!(
        text.contains(HOST) && text.contains("198.51.100.0/24"),
        "{text}"
    );
    assert!(refused(&mut state, 1, "", 2000).contains("unknown address"));
    join(&mut state, 1, "198.51.100.77", 2000).unwrap();
    session(&mut state, 1, 2001);
    assert!(refused(&mut state, 2, "198.51.100.77", 2002).contains("is spent"));

    let mut state = with_token(token(1));
    let mut cluster = state.cluster().unwrap().as_ref().clone();
    cluster.root_ca.as_mut().unwrap().ca_cert_hash = "sha256:other".into();
    let rotate = UpdateCluster {
        cluster: Some(cluster),
        expected_version: 0,
    };
    apply(&mut state, 2000, Op::UpdateCluster(rotate)).unwrap();
    assert!(refused(&mut state, 1, HOST, 2000).contains("was replaced"));
    let revoke = RevokeJoinToken {
        token_id: "t1".into(),
    };
    apply(&mut state, 2000, Op::RevokeJoinToken(revoke)).unwrap();
    assert!(refused(&mut state, 1, HOST, 2000).contains("was revoked"));
    let gone = RevokeJoinToken {
        token_id: "t9".into(),
    };
    let refusal = apply(&mut state, 2000, Op::RevokeJoinToken(gone)).unwrap_err();
    assert_eq!(refusal.to_string(), "join token t9 not found");
}

#[test]
fn a_token_of_another_role_admits_nobody() {
    let mut managers = token(1);
    managers.role = NodeRole::Manager.into();
    let mut state = with_token(managers);
    assert_eq!(join(&mut state, 1, HOST, 2000).unwrap_err(), Refusal::Stale);
}

#[test]
fn one_use_is_one_node() {
    let mut state = with_token(token(1));
    join(&mut state, 1, HOST, 2000).unwrap();
    assert_eq!(standing(&state, 2001), TokenStanding::Reserved);
    let text = refused(&mut state, 2, OTHER, 2100);
    assert!(
        text.contains("under way") && text.contains("in 500 s"),
        "{text}"
    );
    session(&mut state, 1, 2200);
    assert_eq!(standing(&state, 2201), TokenStanding::Spent);
    for address in [HOST, OTHER] {
        assert!(refused(&mut state, 2, address, 9_000_000 / 2000).contains("is spent"));
    }
    let record = state.certificate(&[1]).unwrap();
    assert_eq!(record.token.as_deref(), Some("t1"));
    assert_eq!(record.address, HOST.parse().ok());
}

#[test]
fn the_same_address_takes_its_reservation_over() {
    let mut state = with_token(token(1));
    join(&mut state, 1, HOST, 2000).unwrap();
    join(&mut state, 2, HOST, 2002).unwrap();
    assert!(state.node("n1").is_none() && is_revoked(&state, 1));
    // What comes too late of the first is nobody's.
    session(&mut state, 1, 2003);
    assert_eq!(standing(&state, 2003), TokenStanding::Reserved);
    session(&mut state, 2, 2004);
    assert_eq!(standing(&state, 2004), TokenStanding::Spent);
    assert!(!is_revoked(&state, 2));
}

#[test]
fn with_free_uses_neighbours_do_not_take_over_from_each_other() {
    let mut state = with_token(token(2));
    join(&mut state, 1, HOST, 2000).unwrap();
    join(&mut state, 2, HOST, 2000).unwrap();
    assert!(state.node("n1").is_some());
    join(&mut state, 3, HOST, 2001).unwrap();
    assert!(state.node("n1").is_none() && state.node("n2").is_some());
    assert!(refused(&mut state, 4, OTHER, 2002).contains("under way"));
}

#[test]
fn what_is_not_spent_in_time_returns_and_its_certificate_is_revoked() {
    let mut state = with_token(token(1));
    join(&mut state, 1, HOST, 2000).unwrap();
    let back = || Op::ReturnReservations(ReturnReservations {});
    apply(&mut state, 2000 + RESERVATION_SECS - 1, back()).unwrap();
    assert!(state.node("n1").is_some());
    // Whoever asks first after that, the leader or a join.
    let mut other = state.clone();
    apply(&mut state, 2000 + RESERVATION_SECS, back()).unwrap();
    assert!(state.node("n1").is_none() && is_revoked(&state, 1));
    assert_eq!(standing(&state, 2700), TokenStanding::Open);
    join(&mut other, 2, OTHER, 2000 + RESERVATION_SECS).unwrap();
    assert!(other.node("n1").is_none() && is_revoked(&other, 1));
    assert_eq!(other.join_token("t1").unwrap().reservations.len(), 1);
    // One that came in spite of it, while its use was not returned yet, has spent it.
    let mut late = with_token(token(1));
    join(&mut late, 1, HOST, 2000).unwrap();
    session(&mut late, 1, 2000 + RESERVATION_SECS);
    apply(&mut late, 2000 + RESERVATION_SECS, back()).unwrap();
    assert!(late.node("n1").is_some());
    assert_eq!(standing(&late, 2601), TokenStanding::Spent);
}

#[test]
fn a_revoked_token_undoes_the_joins_that_are_under_way() {
    let mut state = with_token(token(2));
    join(&mut state, 1, HOST, 2000).unwrap();
    session(&mut state, 1, 2001);
    join(&mut state, 2, OTHER, 2002).unwrap();
    let revoke = RevokeJoinToken {
        token_id: "t1".into(),
    };
    apply(&mut state, 2003, Op::RevokeJoinToken(revoke)).unwrap();
    assert!(state.node("n1").is_some() && !is_revoked(&state, 1));
    assert!(state.node("n2").is_none() && is_revoked(&state, 2));
}

#[test]
fn the_same_key_asks_again_within_its_reservation() {
    let mut state = with_token(token(1));
    join(&mut state, 1, HOST, 2000).unwrap();
    let again = |number: u8| {
        Op::RequestCertificate(RequestCertificate {
            node_id: "n1".into(),
            certificate: Some(asked(number, HOST, IssuanceState::Renew)),
        })
    };
    apply(&mut state, 2001, again(2)).unwrap();
    assert_eq!(state.join_token("t1").unwrap().reservations[0].serial, [2]);
    session(&mut state, 1, 2002);
    let refusal = apply(&mut state, 2003, again(3)).unwrap_err().to_string();
    assert!(refusal.contains("is spent"), "{refusal}");
}

#[test]
fn tokens_survive_a_snapshot_and_dead_ones_are_forgotten() {
    let mut labelled = token(3);
    labelled.labels = BTreeMap::from([("site".to_owned(), "a".to_owned())]);
    let mut state = with_token(labelled);
    join(&mut state, 1, HOST, 2000).unwrap();
    let snapshot: StateSnapshot = state.snapshot();
    let mut again = State::restore(snapshot, Arc::new(FlippingVault)).unwrap();
    assert_eq!(again.join_tokens, state.join_tokens);
    assert_eq!(again.reserving, state.reserving);
    session(&mut again, 1, 2001);
    assert_eq!(again.join_token("t1").unwrap().spent, 1);
    let back = || Op::ReturnReservations(ReturnReservations {});
    apply(&mut again, 5000 + DEAD_TOKEN_SECS - 1, back()).unwrap();
    assert!(again.join_token("t1").is_some());
    apply(&mut again, 5000 + DEAD_TOKEN_SECS, back()).unwrap();
    assert!(again.join_token("t1").is_none());
}
