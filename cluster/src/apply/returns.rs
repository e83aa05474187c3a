//! Nodes that return by proof of possession: granted, noted, approved.

use super::Effect;
use crate::{
    change::Refusal,
    meta::Stamp,
    objects::{
        ApproveReturn, Certificate, CertificateInUse, Cluster, GrantReturn, IssuanceState,
        IssuanceStatus, LastReturn, Node, NoteReturn, ReturnApproval, SetReturnWindow,
    },
    returns::{MAX_RETURN_WINDOW, PENDING_RETURNS, may_return_with, pending_return},
    state::State,
};

impl State {
    /// Records the request of a node that proved to hold its former key.
    ///
    /// # Errors
    /// [`Refusal::Stale`] if the record says something else than it was judged by: of two
    /// holders of one key, one is granted.
    pub(super) fn grant_return(
        &mut self,
        op: GrantReturn,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let asked = op.certificate.ok_or(Refusal::missing("certificate"))?;
        let node = self.existing_node(&op.node_id)?;
        let known = node.certificate.as_ref().ok_or(Refusal::Stale)?;
        if known.serial != op.expected_serial || !may_return_with(&node, &op.presented_serial) {
            return Err(Refusal::Stale);
        }
        if asked.status.as_ref().map(IssuanceStatus::state) != Some(IssuanceState::Renew) {
            return Err(Refusal::invalid(
                "a return is granted with a request in state renew only",
            ));
        }
        let certificate = super::certificate::requested(&node, asked.clone())?;
        self.admit_return(&node, &op.presented_serial, &asked, stamp)?;
        let mut new = Node::clone(&node);
        // What it came with counts until what it gets is seen in use.
        if known.serial == op.presented_serial {
            new.in_use = Some(presented(known, stamp));
        }
        new.last_return = Some(LastReturn {
            presented_serial: op.presented_serial,
            granted_serial: asked.serial.clone(),
            addr: op.addr,
            at: Some(stamp.time),
        });
        new.certificate = Some(certificate);
        new.pending_return = None;
        new.return_approval = None;
        new.meta = stamp.updated(node.meta.as_ref());
        Ok(self.set_node(&op.node_id, Some(new)).into())
    }

    /// Records that a node waits for an operator, or that it may have a clone.
    ///
    /// # Errors
    /// [`Refusal::Precondition`] if too many nodes wait.
    pub(super) fn note_return(&mut self, op: NoteReturn, stamp: &Stamp) -> Result<Effect, Refusal> {
        let node = self.existing_node(&op.node_id)?;
        let mut new = Node::clone(&node);
        if let Some(mut pending) = op.pending {
            match pending_return(&node, &stamp.time) {
                Some(known) if known.public_key_digest == pending.public_key_digest => {
                    pending.since = known.since;
                }
                Some(_) => {}
                None => self.check_room_for_returns(stamp)?,
            }
            pending.asked_at = Some(stamp.time);
            pending.since.get_or_insert(stamp.time);
            new.pending_return = Some(pending);
        }
        if let Some(mut clone) = op.clone {
            let count = node.possible_clone.as_ref().map_or(0, |known| known.count);
            clone.count = count.saturating_add(clone.count.max(1));
            clone.at = Some(stamp.time);
            new.possible_clone = Some(clone);
        }
        new.meta = stamp.updated(node.meta.as_ref());
        Ok(self.set_node(&op.node_id, Some(new)).into())
    }

    fn check_room_for_returns(&self, stamp: &Stamp) -> Result<(), Refusal> {
        let nodes = self.nodes.values();
        let waiting = nodes.filter(|node| pending_return(node, &stamp.time).is_some());
        if waiting.count() < PENDING_RETURNS {
            return Ok(());
        }
        Err(Refusal::precondition(format!(
            "{PENDING_RETURNS} nodes wait already for `waxseal node approve`; approve or remove \
             some, then this one asks again"
        )))
    }

    /// Lets the node return that waits with this key.
    ///
    /// # Errors
    /// [`Refusal::Precondition`] if it does not wait, or with another key.
    pub(super) fn approve_return(
        &mut self,
        op: ApproveReturn,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let node = self.existing_node(&op.node_id)?;
        let waits = pending_return(&node, &stamp.time)
            .is_some_and(|pending| pending.public_key_digest == op.public_key_digest);
        if !waits {
            return Err(Refusal::precondition(format!(
                "node {} does not wait with this key; `waxseal node returns` shows who does",
                op.node_id
            )));
        }
        let mut new = Node::clone(&node);
        new.return_approval = Some(ReturnApproval {
            public_key_digest: op.public_key_digest,
            until: Some(op.until.ok_or(Refusal::missing("end of the approval"))?),
        });
        new.possible_clone = None;
        new.meta = stamp.updated(node.meta.as_ref());
        Ok(self.set_node(&op.node_id, Some(new)).into())
    }

    pub(super) fn set_return_window(
        &mut self,
        op: &SetReturnWindow,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let window = op.window.ok_or(Refusal::missing("window"))?;
        let allowed =
            std::time::Duration::try_from(window).is_ok_and(|window| window <= MAX_RETURN_WINDOW);
        if !allowed {
            return Err(Refusal::invalid(
                "the return window is 0 s to 876000 h; give one within",
            ));
        }
        let old = self.cluster.as_deref().ok_or(Refusal::Stale)?;
        let mut new = Cluster::clone(old);
        new.return_window = Some(window);
        new.meta = stamp.updated(old.meta.as_ref());
        Ok(self.set_cluster(new).into())
    }
}

fn presented(known: &Certificate, stamp: &Stamp) -> CertificateInUse {
    CertificateInUse {
        serial: known.serial.clone(),
        public_key_digest: known.public_key_digest.clone(),
        since: Some(stamp.time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Applied,
        objects::{
            NodeObservation, ObserveNodes, PendingReturn, PossibleClone, RequestCertificate,
            StoreCertificate, command::Op,
        },
        returns::{is_approved, return_window},
        testing::{at, bootstrapped, command, create_worker, run},
    };

    fn certificate(state: IssuanceState, serial: u8) -> Certificate {
        Certificate {
            csr: vec![serial, 1],
            serial: vec![serial],
            public_key_digest: vec![serial, 9],
            certificate: b"pem".to_vec(),
            not_after: Some(at(900)),
            status: Some(IssuanceStatus {
                state: state.into(),
                err: String::new(),
            }),
            ..Certificate::default()
        }
    }

    fn issue(state: &mut State, serial: u8) {
        let request = Op::RequestCertificate(RequestCertificate {
            node_id: "w1".into(),
            certificate: Some(certificate(IssuanceState::Renew, serial)),
        });
        // Not sooner after the one before than a node may.
        let now = 1000 + 10 * i64::from(serial);
        state.apply(command(now, request)).unwrap();
        store(state, serial);
    }

    fn store(state: &mut State, serial: u8) {
        let store = StoreCertificate {
            node_id: "w1".into(),
            certificate: Some(certificate(IssuanceState::Issued, serial)),
        };
        run(state, Op::StoreCertificate(store)).unwrap();
    }

    fn session(state: &mut State, serial: u8) {
        let nodes = vec![NodeObservation {
            node_id: "w1".into(),
            session_started: true,
            session_serial: vec![serial],
            ..NodeObservation::default()
        }];
        run(state, Op::ObserveNodes(ObserveNodes { nodes })).unwrap();
    }

    fn grant(state: &mut State, presented: u8, expected: u8, new: u8) -> Result<Applied, Refusal> {
        let op = Op::GrantReturn(GrantReturn {
            node_id: "w1".into(),
            presented_serial: vec![presented],
            certificate: Some(certificate(IssuanceState::Renew, new)),
            addr: "192.0.2.7".into(),
            expected_serial: vec![expected],
        });
        run(state, op)
    }

    fn note(state: &mut State, id: &str, key: u8, clone: bool) -> Result<Applied, Refusal> {
        let pending = PendingReturn {
            public_key_digest: vec![key],
            ..PendingReturn::default()
        };
        let op = Op::NoteReturn(NoteReturn {
            node_id: id.into(),
            pending: (!clone).then_some(pending),
            clone: clone.then(|| PossibleClone {
                serial: vec![key],
                ..PossibleClone::default()
            }),
        });
        run(state, op)
    }

    fn with_worker(serial: u8) -> State {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        issue(&mut state, serial);
        state
    }

    fn worker(state: &State) -> Node {
        state.node("w1").unwrap().as_ref().clone()
    }

    #[test]
    fn a_replaced_certificate_brings_nobody_back() {
        let mut state = with_worker(1);
        session(&mut state, 1);
        issue(&mut state, 2);
        session(&mut state, 2);
        assert_eq!(grant(&mut state, 1, 2, 3).unwrap_err(), Refusal::Stale);
        assert_eq!(grant(&mut state, 9, 2, 3).unwrap_err(), Refusal::Stale);
        assert!(grant(&mut state, 2, 2, 3).is_ok());
    }

    #[test]
    fn what_is_on_its_way_does_not_lock_out_what_was_in_use() {
        let mut state = with_worker(1);
        session(&mut state, 1);
        issue(&mut state, 2);
        // Neither an unsigned request nor a certificate that nobody has seen.
        grant(&mut state, 1, 2, 3).unwrap();
        assert_eq!(worker(&state).in_use.unwrap().serial, [1]);
        grant(&mut state, 1, 3, 4).unwrap();
        store(&mut state, 4);
        session(&mut state, 4);
        assert_eq!(grant(&mut state, 1, 4, 5).unwrap_err(), Refusal::Stale);
    }

    #[test]
    fn of_two_that_hold_one_key_one_is_granted() {
        let mut state = with_worker(1);
        grant(&mut state, 1, 1, 2).unwrap();
        assert_eq!(grant(&mut state, 1, 1, 3).unwrap_err(), Refusal::Stale);
        let record = worker(&state);
        assert_eq!(record.certificate.unwrap().serial, [2]);
        let last = record.last_return.unwrap();
        assert_eq!(
            (last.presented_serial, last.granted_serial),
            (vec![1], vec![2])
        );
    }

    #[test]
    fn a_session_with_an_older_certificate_takes_nothing_into_use() {
        let mut state = with_worker(1);
        issue(&mut state, 2);
        session(&mut state, 1);
        assert_eq!(worker(&state).in_use, None);
        session(&mut state, 2);
        session(&mut state, 1);
        assert_eq!(worker(&state).in_use.unwrap().serial, [2]);
    }

    #[test]
    fn an_operator_lets_in_who_waits_with_the_key_that_was_shown() {
        let mut state = with_worker(1);
        let approve = |state: &mut State, key: u8, at_second| {
            let op = Op::ApproveReturn(ApproveReturn {
                node_id: "w1".into(),
                public_key_digest: vec![key],
                until: Some(at(1_500)),
            });
            state.apply(command(at_second, op))
        };
        assert!(approve(&mut state, 7, 1000).is_err(), "nobody waits");
        note(&mut state, "w1", 7, false).unwrap();
        note(&mut state, "w1", 7, true).unwrap();
        assert!(approve(&mut state, 8, 1000).is_err(), "another key");
        let late = 1001 + i64::try_from(crate::returns::PENDING_RETURN_LIFE.as_secs()).unwrap();
        assert!(approve(&mut state, 7, late).is_err(), "long ago");
        approve(&mut state, 7, 1000).unwrap();
        let record = worker(&state);
        assert_eq!(record.possible_clone, None);
        assert!(is_approved(&record, &[7], &at(1_499)));
        assert!(!is_approved(&record, &[7], &at(1_500)));
        assert!(!is_approved(&record, &[8], &at(1_001)));
        grant(&mut state, 1, 1, 2).unwrap();
        let record = worker(&state);
        assert_eq!(
            (record.pending_return, record.return_approval),
            (None, None)
        );
    }

    #[test]
    fn no_more_wait_than_a_person_looks_through() {
        let mut state = bootstrapped();
        let id = |number: usize| format!("n{number}");
        for number in 0..=PENDING_RETURNS {
            run(&mut state, create_worker(&id(number))).unwrap();
        }
        for number in 0..PENDING_RETURNS {
            note(&mut state, &id(number), 1, false).unwrap();
        }
        assert!(note(&mut state, &id(PENDING_RETURNS), 1, false).is_err());
        // Those that wait ask again, and a clone is noted always.
        note(&mut state, &id(3), 1, false).unwrap();
        note(&mut state, &id(PENDING_RETURNS), 1, true).unwrap();
        note(&mut state, &id(PENDING_RETURNS), 1, true).unwrap();
        let noted = state.node(&id(PENDING_RETURNS)).unwrap();
        assert_eq!(noted.possible_clone.as_ref().unwrap().count, 2);
    }

    #[test]
    fn the_window_is_bounded() {
        let mut state = bootstrapped();
        let set = |state: &mut State, seconds| {
            let window = Some(prost_types::Duration { seconds, nanos: 0 });
            run(state, Op::SetReturnWindow(SetReturnWindow { window }))
        };
        assert!(set(&mut state, -1).is_err());
        assert!(set(&mut state, i64::MAX).is_err());
        let window = |state: &State| return_window(state.cluster().unwrap());
        assert_eq!(window(&state), crate::returns::DEFAULT_RETURN_WINDOW);
        set(&mut state, 0).unwrap();
        assert!(window(&state).is_zero());
    }
}
