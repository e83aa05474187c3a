use time::Duration;

use super::*;
use crate::digest::BundleDigest;
use crate::key::NodeKey;
use crate::serial::Serial;

const NOW: OffsetDateTime = time::macros::datetime!(2026-11-20 07:00 UTC);
const CLUSTER: &str = "cluster";

#[derive(Default)]
struct Table {
    nodes: Vec<NodeRecord>,
    removed: Vec<&'static str>,
}

impl NodeTable for Table {
    fn node(&self, node_id: &str) -> Option<NodeRecord> {
        self.nodes
            .iter()
            .find(|node| node.node_id == node_id)
            .cloned()
    }

    fn node_by_public_key(&self, key: &PublicKeyDigest) -> Option<NodeRecord> {
        self.nodes
            .iter()
            .find(|node| node.public_key.as_ref() == Some(key))
            .cloned()
    }

    fn is_removed(&self, node_id: &str) -> bool {
        self.removed.contains(&node_id)
    }
}

fn record(node_id: &str, role: Role) -> NodeRecord {
    NodeRecord {
        node_id: node_id.to_owned(),
        role,
        accepted: true,
        was_manager: false,
        public_key: None,
        created_at: NOW - Duration::days(1),
        had_session: true,
    }
}

fn identity(node_id: &str, role: Role) -> NodeIdentity {
    NodeIdentity {
        cluster_id: CLUSTER.to_owned(),
        role,
        node_id: node_id.to_owned(),
        serial: Serial::from_bytes(&[1]).unwrap(),
        not_before: NOW - Duration::days(1),
        not_after: NOW + Duration::days(1),
        above: [].into(),
    }
}

/// A cluster with a manager `m` and a worker `w`.
struct Case {
    table: Table,
    tokens: JoinTokens,
    key: NodeKey,
    managers_allowed: bool,
    caught_up: bool,
}

impl Case {
    fn new() -> Self {
        let nodes = vec![record("m", Role::Manager), record("w", Role::Worker)];
        Self {
            table: Table {
                nodes,
                removed: vec![],
            },
            tokens: JoinTokens::generate(BundleDigest::of(b"root"), &[1; 16], &[2; 16]),
            key: NodeKey::generate().unwrap(),
            managers_allowed: true,
            caught_up: true,
        }
    }

    fn token(&self, role: Role) -> String {
        self.tokens.token(role).expose_text().to_owned()
    }

    fn decide_csr(
        &self,
        csr_pem: &[u8],
        token: &str,
        caller: Option<&NodeIdentity>,
    ) -> IssuanceDecision {
        let view = IssuanceView {
            limited_role: None,
            cluster_id: CLUSTER,
            tokens: &self.tokens,
            nodes: &self.table,
            managers_allowed: self.managers_allowed,
            caught_up: self.caught_up,
        };
        decide_issuance(&JoinRequest { csr_pem, token }, caller, &view, NOW)
    }

    fn decide(&self, token: &str, caller: Option<&NodeIdentity>) -> IssuanceDecision {
        self.decide_csr(self.key.csr_pem().unwrap().as_bytes(), token, caller)
    }

    fn refusal(&self, token: &str, caller: Option<&NodeIdentity>) -> IssuanceRefusal {
        match self.decide(token, caller) {
            IssuanceDecision::Refuse(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn node(&self, token: &str, caller: Option<&NodeIdentity>) -> IssuedNode {
        match self.decide(token, caller) {
            IssuanceDecision::Issue { node, csr } => {
                assert_eq!(csr.public_key_digest(), self.key.public_key_digest());
                node
            }
            other => panic!("not issued: {other:?}"),
        }
    }

    /// A record that this case's key made a moment ago.
    fn just_joined(&mut self, role: Role, age: Duration) -> &mut NodeRecord {
        let record = NodeRecord {
            public_key: Some(self.key.public_key_digest()),
            created_at: NOW - age,
            had_session: false,
            ..record("j", role)
        };
        self.table.nodes.push(record);
        self.table.nodes.last_mut().unwrap()
    }
}

#[test]
fn a_manager_that_has_not_caught_up_waits_whatever_is_asked() {
    let mut case = Case::new();
    case.caught_up = false;
    for (token, caller) in [
        ("", None),
        ("nonsense", None),
        ("", Some(identity("w", Role::Worker))),
    ] {
        let decision = case.decide(token, caller.as_ref());
        assert_eq!(decision, IssuanceDecision::Wait(WaitReason::NotCaughtUp));
    }
}

#[test]
fn a_stranger_needs_a_token() {
    let case = Case::new();
    for token in ["", "SWMTKN-1-x-y"] {
        let refusal = case.refusal(token, None);
        assert!(
            matches!(refusal, IssuanceRefusal::Token(TokenError::Shape { .. })),
            "{refusal}"
        );
    }
    let other = JoinTokens::generate(BundleDigest::of(b"other"), &[1; 16], &[2; 16]);
    let refusal = case.refusal(other.token(Role::Worker).expose_text(), None);
    assert_eq!(refusal, IssuanceRefusal::Token(TokenError::WrongDigest));
    let rotated = JoinTokens::generate(BundleDigest::of(b"root"), &[8; 16], &[9; 16]);
    let refusal = case.refusal(rotated.token(Role::Manager).expose_text(), None);
    assert_eq!(refusal, IssuanceRefusal::Token(TokenError::WrongSecret));
}

#[test]
fn the_token_is_looked_at_before_the_request() {
    let case = Case::new();
    let decision = case.decide_csr(b"not a request", "SWMTKN-1-x-y", None);
    assert!(matches!(
        decision,
        IssuanceDecision::Refuse(IssuanceRefusal::Token(_))
    ));
    let decision = case.decide_csr(b"not a request", &case.token(Role::Worker), None);
    assert!(matches!(
        decision,
        IssuanceDecision::Refuse(IssuanceRefusal::Csr(_))
    ));
}

#[test]
fn a_node_of_another_cluster_is_refused_even_with_a_token() {
    let case = Case::new();
    let mut caller = identity("w", Role::Worker);
    caller.cluster_id = "other".to_owned();
    for token in [String::new(), case.token(Role::Worker)] {
        assert_eq!(
            case.refusal(&token, Some(&caller)),
            IssuanceRefusal::OtherCluster
        );
    }
}

#[test]
fn a_removed_node_is_refused_even_with_a_token() {
    let mut case = Case::new();
    case.table.removed.push("w");
    case.table.nodes.retain(|node| node.node_id != "w");
    let caller = identity("w", Role::Worker);
    for token in [String::new(), case.token(Role::Worker)] {
        let refusal = case.refusal(&token, Some(&caller));
        assert_eq!(
            refusal,
            IssuanceRefusal::NodeRemoved {
                node_id: "w".to_owned()
            }
        );
    }
}

#[test]
fn an_unknown_node_is_refused() {
    let refusal = Case::new().refusal("", Some(&identity("x", Role::Worker)));
    assert_eq!(
        refusal,
        IssuanceRefusal::UnknownNode {
            node_id: "x".to_owned()
        }
    );
}

#[test]
fn a_certificate_out_of_its_validity_is_refused_on_an_open_connection() {
    let case = Case::new();
    let mut expired = identity("w", Role::Worker);
    expired.not_after = NOW - Duration::SECOND;
    assert_eq!(
        case.refusal("", Some(&expired)),
        IssuanceRefusal::CertificateNotValid
    );
    let mut early = identity("w", Role::Worker);
    early.not_before = NOW + Duration::SECOND;
    assert_eq!(
        case.refusal("", Some(&early)),
        IssuanceRefusal::CertificateNotValid
    );
}

#[test]
fn a_manager_certificate_of_a_node_that_never_was_one_is_refused() {
    let refusal = Case::new().refusal("", Some(&identity("w", Role::Manager)));
    assert_eq!(
        refusal,
        IssuanceRefusal::ForgedRole {
            node_id: "w".to_owned()
        }
    );
}

#[test]
fn the_record_s_role_wins_over_the_certificate_s() {
    let mut case = Case::new();
    // Demoted: the old certificate still says manager.
    case.table.nodes[1].was_manager = true;
    let node = case.node("", Some(&identity("w", Role::Manager)));
    assert_eq!(
        node,
        IssuedNode::Existing {
            node_id: "w".to_owned(),
            role: Role::Worker
        }
    );
    // Promoted: the old certificate still says worker.
    let node = case.node("", Some(&identity("m", Role::Worker)));
    assert_eq!(
        node,
        IssuedNode::Existing {
            node_id: "m".to_owned(),
            role: Role::Manager
        }
    );
}

#[test]
fn a_certificate_beats_a_token() {
    let case = Case::new();
    for token in [
        case.token(Role::Manager),
        "nonsense".to_owned(),
        String::new(),
    ] {
        let node = case.node(&token, Some(&identity("w", Role::Worker)));
        assert_eq!(
            node,
            IssuedNode::Existing {
                node_id: "w".to_owned(),
                role: Role::Worker
            }
        );
    }
}

#[test]
fn a_renewal_with_the_key_of_another_node_is_refused() {
    let mut case = Case::new();
    case.table.nodes[0].public_key = Some(case.key.public_key_digest());
    let refusal = case.refusal("", Some(&identity("w", Role::Worker)));
    assert_eq!(refusal, IssuanceRefusal::KeyInUse);
    // Its own, sent again, is no other's.
    let node = case.node("", Some(&identity("m", Role::Manager)));
    assert_eq!(
        node,
        IssuedNode::Existing {
            node_id: "m".to_owned(),
            role: Role::Manager
        }
    );
}

#[test]
fn a_token_does_not_stand_in_for_the_certificate_of_a_node() {
    let mut case = Case::new();
    case.just_joined(Role::Worker, Duration::MINUTE).had_session = true;
    assert_eq!(
        case.refusal(&case.token(Role::Worker), None),
        IssuanceRefusal::KeyInUse
    );
}

#[test]
fn a_removed_node_s_key_does_not_join_again() {
    let mut case = Case::new();
    case.just_joined(Role::Worker, Duration::MINUTE);
    case.table.removed.push("j");
    let refusal = case.refusal(&case.token(Role::Worker), None);
    assert_eq!(
        refusal,
        IssuanceRefusal::NodeRemoved {
            node_id: "j".to_owned()
        }
    );
}

#[test]
fn the_same_join_within_ten_minutes_gives_the_same_node() {
    let mut case = Case::new();
    case.just_joined(Role::Worker, Duration::minutes(10));
    let node = case.node(&case.token(Role::Worker), None);
    assert_eq!(
        node,
        IssuedNode::Existing {
            node_id: "j".to_owned(),
            role: Role::Worker
        }
    );
    // Not with the other token, and not later.
    assert_eq!(
        case.refusal(&case.token(Role::Manager), None),
        IssuanceRefusal::KeyInUse
    );
    case.table.nodes[2].created_at = NOW - Duration::minutes(10) - Duration::SECOND;
    assert_eq!(
        case.refusal(&case.token(Role::Worker), None),
        IssuanceRefusal::KeyInUse
    );
}

#[test]
fn a_node_that_is_not_admitted_waits() {
    let mut case = Case::new();
    case.table.nodes[1].accepted = false;
    let pending = IssuanceDecision::Wait(WaitReason::MembershipPending);
    assert_eq!(case.decide("", Some(&identity("w", Role::Worker))), pending);
    case.just_joined(Role::Worker, Duration::MINUTE).accepted = false;
    assert_eq!(case.decide(&case.token(Role::Worker), None), pending);
}

#[test]
fn the_token_decides_the_role_of_a_new_node() {
    let mut case = Case::new();
    for role in [Role::Worker, Role::Manager] {
        assert_eq!(case.node(&case.token(role), None), IssuedNode::New { role });
    }
    case.managers_allowed = false;
    let refusal = case.refusal(&case.token(Role::Manager), None);
    assert_eq!(refusal, IssuanceRefusal::ManagersNotAllowed);
    assert!(
        refusal
            .to_string()
            .contains("managers of this cluster run waxseal")
    );
    // The manager that is there goes on renewing.
    let node = case.node("", Some(&identity("m", Role::Manager)));
    assert_eq!(
        node,
        IssuedNode::Existing {
            node_id: "m".to_owned(),
            role: Role::Manager
        }
    );
}
