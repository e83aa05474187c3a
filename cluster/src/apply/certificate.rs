//! Certificates of nodes: asked for, then stored.
//!
//! The serial is on record before anything is signed, and only what was signed
//! for the request on record is stored.

use waxseal_ca::PublicKeyDigest;

use super::Effect;
use crate::{
    change::Refusal,
    meta::Stamp,
    objects::{
        Actor, Certificate, CertificateOrigin, IssuanceState, Node, RequestCertificate,
        StoreCertificate, actor::Who,
    },
    state::State,
    timestamps::later,
    trust::signing_certificate,
};

impl State {
    /// Records a request (`RENEW`, `PENDING`), whose CSR and serial replace what
    /// was asked for before, or marks the certificate as one to be renewed (`ROTATE`).
    ///
    /// Role and name are those of the node's record, whatever the command says.
    pub(super) fn request_certificate(
        &mut self,
        op: RequestCertificate,
        actor: &Actor,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let asked = op.certificate.ok_or(Refusal::missing("certificate"))?;
        let node = self.existing_node(&op.node_id)?;
        let mut changes = Vec::new();
        let certificate = match state_of(&asked) {
            IssuanceState::Renew | IssuanceState::Pending => {
                let certificate = requested(&node, asked.clone())?;
                let origin = self.admit_request(&node, &asked, stamp)?;
                changes = self.admit_join_again(&node, &asked, stamp)?;
                changes.extend(self.make_room(&node, origin, stamp));
                self.adopt_certificate(&node);
                let asked = Certificate {
                    role: node.role,
                    ..asked
                };
                self.note_request(&op.node_id, &asked, origin, stamp);
                certificate
            }
            IssuanceState::Rotate => marked(&node, asker(actor)).ok_or(Refusal::Stale)?,
            _ => {
                return Err(Refusal::invalid(
                    "a certificate is requested in state renew, pending or rotate only",
                ));
            }
        };
        let mut new = Node::clone(&node);
        new.certificate = Some(certificate);
        new.meta = stamp.updated(node.meta.as_ref());
        changes.push(self.set_node(&op.node_id, Some(new)));
        Ok(changes.into())
    }

    /// Stores what was signed, or why it was not, for the request on record.
    ///
    /// # Errors
    /// [`Refusal::Stale`] if another request, another role or another root came in
    /// between: nothing counts that a retired root signed.
    pub(super) fn store_certificate(
        &mut self,
        op: StoreCertificate,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let signed = op.certificate.ok_or(Refusal::missing("certificate"))?;
        let node = self.existing_node(&op.node_id)?;
        let issued = match state_of(&signed) {
            IssuanceState::Issued => true,
            IssuanceState::Failed => false,
            _ => {
                return Err(Refusal::invalid(
                    "a certificate is stored in state issued or failed only",
                ));
            }
        };
        let recorded = node.certificate.as_ref().ok_or(Refusal::Stale)?;
        let outstanding = matches!(
            state_of(recorded),
            IssuanceState::Renew | IssuanceState::Pending
        );
        let same_request = signed.serial == recorded.serial
            && (signed.csr.is_empty() || signed.csr == recorded.csr);
        if !outstanding || !same_request || recorded.role != node.role {
            return Err(Refusal::Stale);
        }
        if issued && !self.signs_now(&signed.issuer) {
            return Err(Refusal::Stale);
        }
        let mut new = Node::clone(&node);
        let mut certificate = recorded.clone();
        certificate.status = signed.status;
        if issued {
            if signed.certificate.is_empty() {
                return Err(Refusal::missing("the certificate itself"));
            }
            let not_after = signed.not_after.ok_or(Refusal::missing("not_after"))?;
            if !signed.foreign_serial.is_empty() {
                self.take_foreign_serial(&node.id, &recorded.serial, &signed.foreign_serial)?;
                certificate.serial = signed.foreign_serial;
            }
            certificate.certificate = signed.certificate;
            certificate.not_after = Some(not_after);
            certificate.not_before = signed.not_before;
            certificate.issuer = signed.issuer;
            // Managers that do not name the issuer do not know the field.
            let dated = !certificate.issuer.is_empty();
            new.renewal_asked_at = dated.then_some(stamp.time);
            new.quarantined_at = None;
            new.renewal_reason.clear();
            new.certified_until = Some(
                node.certified_until
                    .map_or(not_after, |until| later(until, not_after)),
            );
        }
        let recorded = self.note_issued(&node, &certificate);
        new.certificate = Some(certificate);
        new.meta = stamp.updated(node.meta.as_ref());
        let mut changes = vec![self.set_node(&op.node_id, Some(new))];
        changes.extend(recorded);
        Ok(changes.into())
    }

    /// Whether this is the digest of the key of the root that signs now. None is that of
    /// a manager from before it was told.
    fn signs_now(&self, issuer: &[u8]) -> bool {
        let signing = self.cluster.as_deref().map(signing_certificate);
        let key = signing.and_then(PublicKeyDigest::of_certificate_pem);
        issuer.is_empty() || key.is_some_and(|key| key.as_bytes() == issuer)
    }
}

/// Who a mark is of: a part of the manager rotates the root.
pub(super) fn asker(actor: &Actor) -> CertificateOrigin {
    match &actor.who {
        Some(Who::Component(_)) => CertificateOrigin::Rotation,
        _ => CertificateOrigin::Operator,
    }
}

pub(super) fn requested(node: &Node, asked: Certificate) -> Result<Certificate, Refusal> {
    if asked.csr.is_empty() {
        return Err(Refusal::missing("CSR"));
    }
    if asked.serial.is_empty() {
        return Err(Refusal::missing("serial"));
    }
    Ok(Certificate {
        role: node.role,
        cn: node.id.clone(),
        certificate: Vec::new(),
        not_after: None,
        not_before: None,
        issuer: Vec::new(),
        asked: CertificateOrigin::Unknown.into(),
        source: None,
        foreign_serial: Vec::new(),
        ..asked
    })
}

/// The certificate as one to be renewed; nothing if there is none, or a request is
/// under way, which the present root will sign.
pub(super) fn marked(node: &Node, asker: CertificateOrigin) -> Option<Certificate> {
    let mut certificate = node.certificate.clone()?;
    match state_of(&certificate) {
        IssuanceState::Renew | IssuanceState::Pending | IssuanceState::Rotate => None,
        _ => {
            certificate
                .status
                .get_or_insert_default()
                .set_state(IssuanceState::Rotate);
            certificate.set_asked(asker);
            Some(certificate)
        }
    }
}

fn state_of(certificate: &Certificate) -> IssuanceState {
    certificate
        .status
        .as_ref()
        .map_or(IssuanceState::Unknown, |status| status.state())
}

#[cfg(test)]
mod tests {
    use waxseal_ca::RootAuthority;

    use super::*;
    use crate::{
        change::Applied,
        objects::{
            Cluster, ManagerStatus, NodeObservation, NodeRole, ObserveNodes, RootCa, RootRotation,
            UpdateCluster, UpdateNode, command::Op,
        },
        testing::{MANAGER, bootstrapped, certificate, create_worker, describe, node, run},
    };

    fn request(state: &mut State, certificate: Certificate) -> Result<Applied, Refusal> {
        let op = Op::RequestCertificate(RequestCertificate {
            node_id: "w1".into(),
            certificate: Some(certificate),
        });
        run(state, op)
    }

    fn store(state: &mut State, certificate: Certificate) -> Result<Applied, Refusal> {
        let op = Op::StoreCertificate(StoreCertificate {
            node_id: "w1".into(),
            certificate: Some(certificate),
        });
        run(state, op)
    }

    fn with_worker() -> State {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        state
    }

    #[test]
    fn nothing_is_stored_that_was_not_asked_for() {
        let mut state = with_worker();
        let issued = || certificate(IssuanceState::Issued, 1);
        assert_eq!(store(&mut state, issued()).unwrap_err(), Refusal::Stale);
        request(&mut state, certificate(IssuanceState::Renew, 2)).unwrap();
        assert_eq!(store(&mut state, issued()).unwrap_err(), Refusal::Stale);
        let mut other_csr = certificate(IssuanceState::Issued, 2);
        other_csr.csr = vec![9];
        assert_eq!(store(&mut state, other_csr).unwrap_err(), Refusal::Stale);
        let again = certificate(IssuanceState::Issued, 2);
        store(&mut state, again.clone()).unwrap();
        assert_eq!(store(&mut state, again).unwrap_err(), Refusal::Stale);
    }

    #[test]
    fn a_later_request_replaces_the_one_before() {
        let mut state = with_worker();
        request(&mut state, certificate(IssuanceState::Renew, 1)).unwrap();
        request(&mut state, certificate(IssuanceState::Renew, 2)).unwrap();
        let first = certificate(IssuanceState::Issued, 1);
        assert_eq!(store(&mut state, first).unwrap_err(), Refusal::Stale);
        store(&mut state, certificate(IssuanceState::Issued, 2)).unwrap();
    }

    #[test]
    fn a_certificate_for_a_role_that_was_lost_is_not_stored() {
        let mut state = with_worker();
        let role = |role: NodeRole| {
            Op::UpdateNode(UpdateNode {
                node_id: "w1".into(),
                spec: Some(node("w1", role).spec.unwrap()),
                role: Some(role.into()),
                ..UpdateNode::default()
            })
        };
        let mut described = node("w1", NodeRole::Worker);
        describe(
            &mut described,
            &[("Waxseal", "host"), ("Waxseal", "level-9")],
        );
        let described = Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: "w1".into(),
                description: described.description,
                ..NodeObservation::default()
            }],
        });
        run(&mut state, described).unwrap();
        let leader = Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: MANAGER.into(),
                manager_status: Some(ManagerStatus::default()),
                ..NodeObservation::default()
            }],
        });
        run(&mut state, leader).unwrap();
        run(&mut state, role(NodeRole::Manager)).unwrap();
        request(&mut state, certificate(IssuanceState::Renew, 1)).unwrap();
        run(&mut state, role(NodeRole::Worker)).unwrap();
        let issued = certificate(IssuanceState::Issued, 1);
        assert_eq!(store(&mut state, issued).unwrap_err(), Refusal::Stale);
    }

    #[test]
    fn role_and_name_are_the_records_own() {
        let mut state = with_worker();
        let mut forged = certificate(IssuanceState::Renew, 1);
        forged.role = NodeRole::Manager.into();
        forged.cn = "manager1".into();
        request(&mut state, forged.clone()).unwrap();
        forged.status = certificate(IssuanceState::Issued, 1).status;
        store(&mut state, forged).unwrap();
        let stored = state.node("w1").unwrap().certificate.clone().unwrap();
        assert_eq!(
            (stored.role(), stored.cn.as_str()),
            (NodeRole::Worker, "w1")
        );
        assert_eq!(state_of(&stored), IssuanceState::Issued);
        assert_eq!(stored.certificate, b"pem");
    }

    #[test]
    fn states_and_parts_that_do_not_fit() {
        let mut state = with_worker();
        for wrong in [
            IssuanceState::Issued,
            IssuanceState::Failed,
            IssuanceState::Unknown,
        ] {
            let refusal = request(&mut state, certificate(wrong, 1)).unwrap_err();
            assert!(matches!(refusal, Refusal::Invalid { .. }));
        }
        let mut no_serial = certificate(IssuanceState::Renew, 1);
        no_serial.serial.clear();
        assert!(request(&mut state, no_serial).is_err());
        let mut no_csr = certificate(IssuanceState::Renew, 1);
        no_csr.csr.clear();
        assert!(request(&mut state, no_csr).is_err());
        request(&mut state, certificate(IssuanceState::Renew, 1)).unwrap();
        for wrong in [IssuanceState::Renew, IssuanceState::Rotate] {
            assert!(store(&mut state, certificate(wrong, 1)).is_err());
        }
        let mut no_end = certificate(IssuanceState::Issued, 1);
        no_end.not_after = None;
        assert!(store(&mut state, no_end).is_err());
    }

    #[test]
    fn rotation_marks_an_issued_certificate_only() {
        let mut state = with_worker();
        let rotate = || certificate(IssuanceState::Rotate, 7);
        assert_eq!(request(&mut state, rotate()).unwrap_err(), Refusal::Stale);
        request(&mut state, certificate(IssuanceState::Renew, 1)).unwrap();
        assert_eq!(request(&mut state, rotate()).unwrap_err(), Refusal::Stale);
        store(&mut state, certificate(IssuanceState::Issued, 1)).unwrap();
        request(&mut state, rotate()).unwrap();
        let marked = state.node("w1").unwrap().certificate.clone().unwrap();
        assert_eq!(
            (marked.serial, marked.certificate),
            (vec![1], b"pem".to_vec())
        );
        assert_eq!(request(&mut state, rotate()).unwrap_err(), Refusal::Stale);
    }

    #[test]
    fn what_a_retired_root_signed_is_not_stored() {
        let mut state = with_worker();
        let pem = |root: &RootAuthority| root.cert_pem().as_bytes().to_vec();
        let now = time::macros::datetime!(2026-11-20 13:00 UTC);
        let [first, second] = [(); 2].map(|()| RootAuthority::generate(now).unwrap());
        let root = |state: &mut State, change: &dyn Fn(&mut RootCa)| {
            let mut cluster = Cluster::clone(state.cluster().unwrap());
            change(cluster.root_ca.as_mut().unwrap());
            let op = Op::UpdateCluster(UpdateCluster {
                cluster: Some(cluster),
                expected_version: 0,
            });
            run(state, op).unwrap();
        };
        let key = |root: &RootAuthority| {
            let digest = PublicKeyDigest::of_spki(&root.issuer_info().public_key_der);
            digest.as_bytes().to_vec()
        };
        let signed_by = |root: &RootAuthority| Certificate {
            issuer: key(root),
            ..certificate(IssuanceState::Issued, 1)
        };
        root(&mut state, &|root| root.ca_cert = pem(&first));
        request(&mut state, certificate(IssuanceState::Renew, 1)).unwrap();
        root(&mut state, &|root| {
            root.root_rotation = Some(RootRotation {
                ca_cert: pem(&second),
                ..RootRotation::default()
            });
        });
        let refused = |state: &mut State, root: &RootAuthority| {
            assert_eq!(store(state, signed_by(root)).unwrap_err(), Refusal::Stale);
        };
        refused(&mut state, &first);
        let before = state.clone();
        store(&mut state, signed_by(&second)).unwrap();
        // Aborted before it was stored, it is the other one's turn again.
        let mut state = before;
        root(&mut state, &|root| root.root_rotation = None);
        refused(&mut state, &second);
        store(&mut state, signed_by(&first)).unwrap();
        let kept = state.node("w1").unwrap().certificate.clone().unwrap();
        assert_eq!(kept.issuer, key(&first));
    }

    #[test]
    fn a_failure_is_recorded_with_its_cause() {
        let mut state = with_worker();
        request(&mut state, certificate(IssuanceState::Renew, 1)).unwrap();
        let mut failed = certificate(IssuanceState::Failed, 1);
        failed.status.as_mut().unwrap().err = "no signer".into();
        store(&mut state, failed).unwrap();
        let stored = state.node("w1").unwrap().certificate.clone().unwrap();
        assert_eq!(stored.status.as_ref().unwrap().err, "no signer");
        assert!(stored.certificate.is_empty() && stored.not_after.is_none());
    }
}
