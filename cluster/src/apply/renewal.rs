//! Nodes that are to renew, and those that a rotation of the root ended without.

use super::{
    Effect,
    certificate::{asker, marked},
};
use crate::{
    meta::Stamp,
    objects::{Actor, MarkForRenewal, Node, QuarantineNodes},
    state::State,
};

impl State {
    /// Marks the certificates of many nodes as ones to be renewed.
    pub(super) fn mark_for_renewal(
        &mut self,
        op: MarkForRenewal,
        actor: &Actor,
        stamp: &Stamp,
    ) -> Effect {
        self.change_nodes(&op.node_ids, stamp, |node| {
            node.certificate = Some(marked(node, asker(actor))?);
            node.renewal_asked_at = Some(stamp.time);
            node.renewal_reason.clone_from(&op.reason);
            Some(())
        })
    }

    /// Notes that a rotation of the root ends without these nodes.
    pub(super) fn quarantine_nodes(&mut self, op: &QuarantineNodes, stamp: &Stamp) -> Effect {
        self.change_nodes(&op.node_ids, stamp, |node| {
            node.quarantined_at = Some(stamp.time);
            Some(())
        })
    }

    /// Changes each of these nodes; those that are gone, or stay as they are, are skipped.
    fn change_nodes(
        &mut self,
        node_ids: &[String],
        stamp: &Stamp,
        mut change: impl FnMut(&mut Node) -> Option<()>,
    ) -> Effect {
        let mut effect = Effect::default();
        for id in node_ids {
            let changed = self.nodes.get(id).and_then(|old| {
                let mut new = Node::clone(old);
                change(&mut new)?;
                new.meta = stamp.updated(old.meta.as_ref());
                Some(new)
            });
            match changed {
                Some(new) => effect.changes.push(self.set_node(id, Some(new))),
                None => effect.skipped += 1,
            }
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Applied,
        objects::{
            CertificateOrigin, IssuanceState, RequestCertificate, StoreCertificate, command::Op,
        },
        testing::{at, bootstrapped, certificate, command, create_worker, run},
    };

    fn renew(state: &mut State, second: i64, serial: u8) {
        let asked = Op::RequestCertificate(RequestCertificate {
            node_id: "w1".into(),
            certificate: Some(certificate(IssuanceState::Renew, serial)),
        });
        state.apply(command(second, asked)).unwrap();
        let stored = Op::StoreCertificate(StoreCertificate {
            node_id: "w1".into(),
            certificate: Some(certificate(IssuanceState::Issued, serial)),
        });
        state.apply(command(second, stored)).unwrap();
    }

    fn all() -> Vec<String> {
        vec!["w1".to_owned(), "w2".to_owned(), "gone".to_owned()]
    }

    fn mark(state: &mut State) -> Applied {
        let mark = MarkForRenewal {
            node_ids: all(),
            reason: "root rotation".into(),
        };
        run(state, Op::MarkForRenewal(mark)).unwrap()
    }

    #[test]
    fn marks_skip_who_cannot_be_asked_and_go_with_the_renewal() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        run(&mut state, create_worker("w2")).unwrap();
        renew(&mut state, 900, 1);
        let applied = mark(&mut state);
        assert_eq!((applied.changes.len(), applied.skipped), (1, 2));
        let marked = state.node("w1").unwrap().clone();
        let asked = marked.certificate.as_ref().unwrap();
        assert_eq!(
            asked.status.as_ref().unwrap().state(),
            IssuanceState::Rotate
        );
        assert_eq!(asked.asked(), CertificateOrigin::Rotation);
        assert_eq!(marked.renewal_asked_at, Some(at(1000)));
        assert_eq!(marked.renewal_reason, "root rotation");
        assert_eq!(mark(&mut state).skipped, 3, "once");
        let quarantine = Op::QuarantineNodes(QuarantineNodes { node_ids: all() });
        assert_eq!(run(&mut state, quarantine).unwrap().skipped, 1);
        assert_eq!(state.node("w2").unwrap().quarantined_at, Some(at(1000)));
        renew(&mut state, 1001, 2);
        let renewed = state.node("w1").unwrap();
        let left = (renewed.renewal_asked_at, renewed.quarantined_at);
        assert_eq!(left, (None, None));
        assert!(renewed.renewal_reason.is_empty());
    }
}
