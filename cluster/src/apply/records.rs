//! The records of certificates: begun by a request, completed by what was signed, superseded
//! by a session with a newer one, revoked by an operator.

use std::sync::Arc;

use prost_types::Timestamp;

use super::Effect;
use crate::{
    certificates::{self, Record, Revoked, SUPERSEDED_GRACE_SECS, SerialKey, Standing, serial_of},
    change::{Change, Refusal},
    feature::{RECORDS_LEVEL, check_feature},
    meta::Stamp,
    objects::{
        Actor, Certificate, CertificateOrigin, IssuanceState, Node, NodeObservation, NodeRole,
        Reachability, RevokeCertificates, actor::Who,
    },
    plan::has_quorum,
    state::State,
};

/// Certificates of one node that count at a time: the one in use, its successor, and room for
/// answers that were lost.
pub const MAX_LIVE_CERTIFICATES: usize = 8;
/// Time from one renewal that nobody asked a node for to its next.
pub const UNASKED_RENEWAL_SECS: i64 = 10;
/// Bytes of the reason of a revocation.
const MAX_REASON_BYTES: usize = 256;

impl State {
    /// Whether certificates are recorded: all managers read it then.
    pub(super) fn keeps_records(&self) -> bool {
        let level = self.cluster.as_ref().map(|cluster| cluster.feature_level);
        level.is_some_and(|level| level >= RECORDS_LEVEL)
    }

    /// Who asked for a certificate that a node requests, if it may have one now.
    ///
    /// # Errors
    /// [`Refusal::Exhausted`] if it has as many as it may, or asks too often by itself.
    pub(super) fn admit_request(
        &self,
        node: &Node,
        asked: &Certificate,
        stamp: &Stamp,
    ) -> Result<CertificateOrigin, Refusal> {
        let origin = origin_of(node, asked);
        if !self.keeps_records() {
            return Ok(origin);
        }
        if is_asked_for(origin) {
            self.check_serial(&node.id, asked)?;
            return Ok(origin);
        }
        self.check_room(node, asked, stamp)?;
        if origin == CertificateOrigin::Renewal {
            self.check_pause(node, stamp.time.seconds)?;
        }
        Ok(origin)
    }

    /// Room for a certificate that the cluster asked a node for, as a change of role or a
    /// rotation must not wait: the oldest that count end, but never the one in use.
    pub(super) fn make_room(
        &mut self,
        node: &Node,
        origin: CertificateOrigin,
        stamp: &Stamp,
    ) -> Vec<Change> {
        if !self.keeps_records() || !is_asked_for(origin) {
            return Vec::new();
        }
        let now = stamp.time.seconds;
        let records = self.certificates.of_node(&node.id);
        let live: Vec<&Arc<Record>> = records
            .filter(|record| record.standing(now) == Standing::Valid)
            .collect();
        let excess = (live.len() + 1).saturating_sub(MAX_LIVE_CERTIFICATES);
        let in_use = live.iter().rfind(|record| record.used_at != 0);
        let in_use = in_use.map(|record| record.serial);
        let ended: Vec<SerialKey> = live
            .iter()
            .map(|record| record.serial)
            .filter(|serial| Some(*serial) != in_use)
            .take(excess)
            .collect();
        let end = |record: &mut Record| record.superseded_at = now - SUPERSEDED_GRACE_SECS;
        ended
            .iter()
            .filter_map(|serial| self.change_record(serial, end))
            .collect()
    }

    /// Records the request of a node that returns by its former key.
    ///
    /// # Errors
    /// As [`State::admit_request`]; [`Refusal::Precondition`] if what it shows was revoked.
    pub(super) fn admit_return(
        &mut self,
        node: &Node,
        presented: &[u8],
        asked: &Certificate,
        stamp: &Stamp,
    ) -> Result<(), Refusal> {
        if !self.keeps_records() {
            return Ok(());
        }
        let shown = serial_of(presented).and_then(|serial| self.certificates.get(&serial));
        if shown.is_some_and(|record| record.revoked.is_some()) {
            return Err(Refusal::precondition(format!(
                "certificate {} of node {} was revoked; run `docker swarm leave --force` on that \
                 node, then join with a token to come back as a new node",
                hex(presented),
                node.id
            )));
        }
        self.check_room(node, asked, stamp)?;
        self.adopt_certificate(node);
        let asked = Certificate {
            role: node.role,
            ..asked.clone()
        };
        self.note_request(&node.id, &asked, CertificateOrigin::Return, stamp);
        Ok(())
    }

    /// Whether a node may have one certificate more.
    fn check_room(&self, node: &Node, asked: &Certificate, stamp: &Stamp) -> Result<(), Refusal> {
        let now = stamp.time.seconds;
        self.check_serial(&node.id, asked)?;
        let records = self.certificates.of_node(&node.id);
        let live = records.filter(|record| record.standing(now) == Standing::Valid);
        if live.count() >= MAX_LIVE_CERTIFICATES {
            return Err(Refusal::Exhausted {
                reason: format!(
                    "node {id} has {MAX_LIVE_CERTIFICATES} certificates that count; the older ones \
                     go 60 s after its first session with the newest, or revoke them: `waxseal \
                     cert ls --node {id}`",
                    id = node.id
                ),
            });
        }
        Ok(())
    }

    /// Whether the node's latest renewal that nobody asked for is long enough ago for another.
    fn check_pause(&self, node: &Node, now: i64) -> Result<(), Refusal> {
        let mut records = self.certificates.of_node(&node.id);
        let last = records
            .rfind(|record| record.is_issued() && record.origin == CertificateOrigin::Renewal);
        let since = last.map_or(i64::MAX, |record| now.saturating_sub(record.requested_at));
        // One from the future says that the clock went back.
        if !(0..UNASKED_RENEWAL_SECS).contains(&since) {
            return Ok(());
        }
        let wait = UNASKED_RENEWAL_SECS - since;
        Err(Refusal::Exhausted {
            reason: format!(
                "this node asks too often for a new certificate; try again in {wait} s"
            ),
        })
    }

    /// Whether a serial is not that of a certificate already.
    pub(super) fn check_serial(&self, node_id: &str, asked: &Certificate) -> Result<(), Refusal> {
        let taken = serial_of(&asked.serial).and_then(|serial| self.certificates.get(&serial));
        match taken.is_some_and(|record| record.is_issued() || *record.node_id != *node_id) {
            true => Err(Refusal::invalid(
                "the serial is that of another certificate",
            )),
            false => Ok(()),
        }
    }

    /// An external CA signed a request under a serial of its own: the record, and what waits
    /// for the node's first session, go by that from now on.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] for the serial of another certificate.
    pub(super) fn take_foreign_serial(
        &mut self,
        node_id: &str,
        recorded: &[u8],
        foreign: &[u8],
    ) -> Result<(), Refusal> {
        let (Some(old), Some(new)) = (serial_of(recorded), serial_of(foreign)) else {
            return Err(Refusal::invalid("the serial is none"));
        };
        let asked = Certificate {
            serial: foreign.to_vec(),
            ..Certificate::default()
        };
        self.check_serial(node_id, &asked)?;
        if let Some(record) = self.certificates.get(&old).cloned() {
            self.certificates.remove(&old);
            let mut record = Record::clone(&record);
            record.serial = new;
            self.certificates.put(record);
        }
        self.rename_reservation(node_id, recorded, foreign);
        Ok(())
    }

    /// Begins the record of a request, in place of one of the node that was never signed.
    pub(super) fn note_request(
        &mut self,
        node_id: &str,
        asked: &Certificate,
        origin: CertificateOrigin,
        stamp: &Stamp,
    ) {
        if !self.keeps_records() {
            return;
        }
        self.forget_requests(node_id);
        let now = stamp.time.seconds;
        if let Some(record) = certificates::requested(node_id, asked, origin, now) {
            self.certificates.put(record);
        }
    }

    /// What the node's record says of its certificate becomes a record, if it has none: so
    /// those of before are taken over.
    pub(super) fn adopt_certificate(&mut self, node: &Node) {
        if self.keeps_records()
            && let Some(record) = self.unrecorded(node)
        {
            self.certificates.put(record);
        }
    }

    /// Forgets what ended long ago, but for what a node still holds: it must stay revoked when
    /// it comes back.
    pub(super) fn forget_ended_certificates(&mut self, now: &Timestamp) {
        let nodes = &self.nodes;
        self.certificates.forget_ended(now.seconds, |record| {
            let node = nodes.get(&*record.node_id);
            let certificate = node.and_then(|node| node.certificate.as_ref());
            certificate.is_some_and(|held| serial_of(&held.serial) == Some(record.serial))
        });
    }

    /// Completes the record of what was signed, or drops that of what was not.
    pub(super) fn note_issued(&mut self, node: &Node, stored: &Certificate) -> Option<Change> {
        let serial = serial_of(&stored.serial)?;
        if !self.keeps_records() {
            return None;
        }
        if stored.certificate.is_empty() {
            self.certificates.remove(&serial);
            return None;
        }
        let issued = Record::of_certificate(&node.id, stored)?;
        let Some(old) = self.certificates.get(&serial).cloned() else {
            // Asked for before records were kept.
            let new = Some(self.certificates.put(issued));
            return Some(Change::Certificate { old: None, new });
        };
        let mut new = Record::clone(&old);
        new.issuer = issued.issuer;
        new.not_before = issued.not_before;
        new.not_after = issued.not_after;
        new.role = issued.role;
        let new = Some(self.certificates.put(new));
        Some(Change::Certificate {
            old: Some(old),
            new,
        })
    }

    /// A node opened a session with a certificate: those before it are superseded.
    pub(super) fn note_session(
        &mut self,
        node_id: &str,
        serial: &[u8],
        stamp: &Stamp,
    ) -> Vec<Change> {
        let Some(serial) = serial_of(serial) else {
            return Vec::new();
        };
        let now = stamp.time.seconds;
        let is_used = |record: &&Arc<Record>| record.serial == serial && record.is_issued();
        if !self
            .certificates
            .of_node(node_id)
            .any(|record| is_used(&record))
        {
            return Vec::new();
        }
        let older: Vec<SerialKey> = self
            .certificates
            .of_node(node_id)
            .take_while(|record| record.serial != serial)
            .filter(|record| record.is_issued() && record.superseded_at == 0)
            .map(|record| record.serial)
            .collect();
        let mut changes = Vec::new();
        changes.extend(self.change_record(&serial, |record| {
            if record.used_at == 0 {
                record.used_at = now;
            }
        }));
        for serial in older {
            changes.extend(self.change_record(&serial, |record| record.superseded_at = now));
        }
        changes
    }

    /// A session began, or the node is a member of the Raft group: what it joined with is in
    /// use.
    pub(super) fn note_arrival(
        &mut self,
        observation: &NodeObservation,
        stamp: &Stamp,
    ) -> Vec<Change> {
        if observation.session_started || observation.manager_status.is_some() {
            self.spend_use(&observation.node_id, stamp);
        }
        self.note_session(&observation.node_id, &observation.session_serial, stamp)
    }

    /// Records the first request of a node, or its certificate if it brings one.
    pub(super) fn note_join(&mut self, node: &Node, asked: &Certificate, stamp: &Stamp) {
        let asked = Certificate {
            role: node.role,
            ..asked.clone()
        };
        self.note_request(&node.id, &asked, CertificateOrigin::Join, stamp);
    }

    /// Records the certificate that the first manager made for itself.
    pub(super) fn note_founding(&mut self, node: &Node, stamp: &Stamp) {
        let Some(certificate) = &node.certificate else {
            return;
        };
        if let Some(mut record) = Record::of_certificate(&node.id, certificate) {
            record.origin = CertificateOrigin::Founding;
            record.requested_at = stamp.time.seconds;
            self.certificates.put(record);
        }
    }

    fn change_record(
        &mut self,
        serial: &SerialKey,
        change: impl FnOnce(&mut Record),
    ) -> Option<Change> {
        let certificates::RecordChange { old, new } = self.certificates.change(serial, change)?;
        Some(Change::Certificate {
            old: Some(old),
            new: Some(new),
        })
    }

    /// Drops the records of a node's requests that were not signed.
    pub(super) fn forget_requests(&mut self, node_id: &str) {
        let unsigned: Vec<SerialKey> = self
            .certificates
            .of_node(node_id)
            .filter(|record| !record.is_issued() && record.revoked.is_none())
            .map(|record| record.serial)
            .collect();
        for serial in unsigned {
            self.certificates.remove(&serial);
        }
    }

    /// Revokes all certificates of a node that count.
    pub(super) fn revoke_all_of(&mut self, node_id: &str, revoked: &Revoked) -> Vec<Change> {
        let live = self.certificates.of_node(node_id);
        let live = live.filter(|record| record.standing(revoked.at) == Standing::Valid);
        let serials: Vec<SerialKey> = live.map(|record| record.serial).collect();
        let revoke = |serial| {
            self.change_record(serial, |record| {
                record.revoked = Some(Box::new(revoked.clone()));
            })
        };
        serials.iter().filter_map(revoke).collect()
    }

    /// Certificates are refused from now on.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for a serial or node that is not on record; [`Refusal::Precondition`]
    /// for the newest of a manager without `force`, or if the others have no quorum without it.
    pub(super) fn revoke_certificates(
        &mut self,
        op: RevokeCertificates,
        actor: &Actor,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        check_feature(self, RECORDS_LEVEL, "revoking a certificate")?;
        if op.reason.len() > MAX_REASON_BYTES || op.reason.chars().any(char::is_control) {
            return Err(Refusal::invalid(format!(
                "the reason has at most {MAX_REASON_BYTES} bytes, on one line"
            )));
        }
        // 1. Which, and whether that may be.
        let now = stamp.time.seconds;
        let records = self.records_to_revoke(&op, now)?;
        self.check_managers(&records, op.force)?;
        // 2. From now on.
        let revoked = Revoked {
            at: now,
            by: name_of(actor),
            reason: op.reason,
        };
        let revoke = |record: Record| {
            let old = self.certificates.get(&record.serial).cloned();
            let new = self.certificates.put(Record {
                revoked: Some(Box::new(revoked.clone())),
                ..record
            });
            Change::Certificate {
                old,
                new: Some(new),
            }
        };
        Ok(records.into_iter().map(revoke).collect::<Vec<_>>().into())
    }

    /// What a revocation is about. What has no record yet is found by its node.
    fn records_to_revoke(&self, op: &RevokeCertificates, now: i64) -> Result<Vec<Record>, Refusal> {
        let node_id = op.node_id.as_str();
        if op.serials.is_empty() {
            if node_id.is_empty() {
                return Err(Refusal::missing("serial or node"));
            }
            let recorded = self.certificates.of_node(node_id).filter(|record| {
                matches!(record.standing(now), Standing::Valid | Standing::Requested)
            });
            let mut records: Vec<_> = recorded.map(|record| Record::clone(record)).collect();
            let node = self.nodes.get(node_id);
            records.extend(node.and_then(|node| self.unrecorded(node)));
            if records.is_empty() {
                return Err(match node {
                    Some(_) => Refusal::precondition(format!(
                        "node {node_id} has no certificate that counts; see `waxseal cert ls \
                         --node {node_id}`"
                    )),
                    None => Refusal::not_found("node", node_id),
                });
            }
            return Ok(records);
        }
        let mut records = Vec::new();
        for bytes in &op.serials {
            let record = self.record_or_current(bytes);
            let record = record.filter(|record| node_id.is_empty() || *record.node_id == *node_id);
            let record = record.ok_or_else(|| Refusal::not_found("certificate", &hex(bytes)))?;
            if record.revoked.is_some() {
                return Err(Refusal::precondition(format!(
                    "certificate {} was revoked before; see `waxseal cert inspect {0}`",
                    hex(bytes)
                )));
            }
            records.push(record);
        }
        Ok(records)
    }

    /// The record with a serial, or what a node's record says of the certificate with it.
    fn record_or_current(&self, serial: &[u8]) -> Option<Record> {
        let serial = serial_of(serial)?;
        if let Some(record) = self.certificates.get(&serial) {
            return Some(Record::clone(record));
        }
        let mut current = self.nodes.values().filter_map(|node| self.unrecorded(node));
        current.find(|record| record.serial == serial)
    }

    /// The certificate that a node has and that no record is of.
    fn unrecorded(&self, node: &Node) -> Option<Record> {
        let certificate = node.certificate.as_ref()?;
        // One that is asked for only is recorded when it is issued.
        if certificate.certificate.is_empty() {
            return None;
        }
        let record = Record::of_certificate(&node.id, certificate)?;
        let is_known = self.certificates.get(&record.serial).is_some();
        (!is_known).then_some(record)
    }

    /// Whether managers may lose their newest certificate, which cuts them off from the others.
    fn check_managers(&self, records: &[Record], force: bool) -> Result<(), Refusal> {
        let is_newest = |record: &&Record| {
            let newest = self.certificates.newest_of(&record.node_id);
            newest.is_none_or(|newest| newest.serial == record.serial)
        };
        let is_manager = |record: &&Record| {
            let node = self.nodes.get(&*record.node_id);
            node.is_some_and(|node| {
                node.role() == NodeRole::Manager || node.manager_status.is_some()
            })
        };
        let Some(record) = records.iter().find(|&r| is_newest(&r) && is_manager(&r)) else {
            return Ok(());
        };
        let id = &record.node_id;
        if !force {
            return Err(Refusal::precondition(format!(
                "certificate {} is the newest of manager {id}, which could then no longer reach \
                 the other managers, nor renew. If the key leaked: `waxseal node renew {id}` \
                 first, then revoke this one, which has a successor by then. To cut that manager \
                 off: add --force, then demote and remove it",
                hex(&record.serial)
            )));
        }
        let others = self.nodes.values().filter(|node| *node.id != **id);
        let reachable = others
            .filter_map(|node| node.manager_status.as_ref())
            .filter(|status| status.leader || status.reachability() == Reachability::Reachable);
        let all = self
            .nodes
            .values()
            .filter(|node| node.manager_status.is_some());
        if !has_quorum(reachable.count(), all.count()) {
            return Err(Refusal::precondition(format!(
                "without manager {id} the others that are reached have no quorum; `waxseal node \
                 renew {id}`, then revoke its former certificate"
            )));
        }
        Ok(())
    }
}

/// Who asked, by what the node's record says now.
/// Whether the cluster asked the node for it.
fn is_asked_for(origin: CertificateOrigin) -> bool {
    matches!(
        origin,
        CertificateOrigin::Operator | CertificateOrigin::Rotation
    )
}

fn origin_of(node: &Node, asked: &Certificate) -> CertificateOrigin {
    let is_join = asked
        .source
        .as_ref()
        .is_some_and(|source| !source.token.is_empty());
    if is_join {
        return CertificateOrigin::Join;
    }
    let Some(current) = &node.certificate else {
        return CertificateOrigin::Join;
    };
    let state = current.status.as_ref().map(|status| status.state());
    match current.asked() {
        CertificateOrigin::Unknown if current.role == node.role => CertificateOrigin::Renewal,
        _ if state != Some(IssuanceState::Rotate) && current.role == node.role => {
            CertificateOrigin::Renewal
        }
        CertificateOrigin::Rotation => CertificateOrigin::Rotation,
        _ => CertificateOrigin::Operator,
    }
}

/// How a record names who did something.
pub(super) fn name_of(actor: &Actor) -> String {
    match &actor.who {
        Some(Who::SocketUid(uid)) => format!("uid {uid}"),
        Some(Who::NodeId(node_id)) => format!("node {node_id}"),
        Some(Who::Component(name)) => name.clone(),
        None => String::new(),
    }
}

/// A serial as it is shown.
fn hex(bytes: &[u8]) -> String {
    let serial = serial_of(bytes).unwrap_or_default();
    serial.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
