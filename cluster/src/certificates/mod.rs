//! Every certificate that was asked for, until some time after it ended: found by
//! serial, by node, and by when it may be forgotten.
//!
//! A cluster has many (each node renews all its life), so records are kept small:
//! [`Record`] is what is held, `CertificateRecord` what a snapshot bears.

mod record;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use record::SERIAL_BYTES;
pub use record::{Record, Revoked, Standing, serial_of};

use crate::objects::{Certificate, CertificateOrigin, RequestSource};

/// How long after the first session with a newer certificate the older ones of the node
/// still count: its other connections move over in that time.
pub const SUPERSEDED_GRACE_SECS: i64 = 60;
/// How long after its end a certificate stays on record (stock keeps the bans of removed
/// nodes that much longer), so that a leader whose clock ran ahead forgets nothing early.
pub(crate) const RETENTION_SECS: i64 = 7 * 24 * 60 * 60;
/// Records that one command forgets at most, so that none of them takes long.
const FORGET_AT_ONCE: usize = 256;

/// A certificate's serial number as a record is found by it: big-endian, padded.
pub type SerialKey = [u8; SERIAL_BYTES];

/// The records of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Certificates {
    by_serial: BTreeMap<SerialKey, Arc<Record>>,
    /// In the order in which they were asked for.
    by_node: BTreeMap<Arc<str>, Box<[SerialKey]>>,
    by_end: BTreeSet<(i64, SerialKey)>,
    /// What records share.
    issuers: BTreeSet<Arc<[u8]>>,
    tokens: BTreeSet<Arc<str>>,
}

impl Certificates {
    pub(crate) fn get(&self, serial: &SerialKey) -> Option<&Arc<Record>> {
        self.by_serial.get(serial)
    }

    /// All, by serial.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.by_serial.values()
    }

    /// Those of each node in the order in which they were asked for.
    pub(crate) fn by_nodes(&self) -> impl Iterator<Item = &Arc<Record>> {
        let serials = self.by_node.values().flatten();
        serials.filter_map(|serial| self.by_serial.get(serial))
    }

    /// Those of a node, in the order in which they were asked for.
    pub(crate) fn of_node(&self, node_id: &str) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        let serials = self.by_node.get(node_id).into_iter().flatten();
        serials.filter_map(|serial| self.by_serial.get(serial))
    }

    /// The node's newest that was issued.
    pub(crate) fn newest_of(&self, node_id: &str) -> Option<&Arc<Record>> {
        self.of_node(node_id).rfind(|record| record.is_issued())
    }

    /// Adds a record, or puts it in place of the one with its serial.
    pub(crate) fn put(&mut self, mut record: Record) -> Arc<Record> {
        let serial = record.serial;
        if let Some(issuer) = record.issuer.take() {
            record.issuer = Some(shared(&mut self.issuers, issuer));
        }
        if let Some(token) = record.token.take() {
            record.token = Some(shared(&mut self.tokens, token));
        }
        record.node_id = self.noted(&record.node_id, &serial);
        let record = Arc::new(record);
        let old = self.by_serial.insert(serial, Arc::clone(&record));
        if let Some(end) = old.and_then(|old| old.forgotten_at()) {
            self.by_end.remove(&(end, serial));
        }
        if let Some(end) = record.forgotten_at() {
            self.by_end.insert((end, serial));
        }
        record
    }

    /// Changes a record.
    pub(crate) fn change(
        &mut self,
        serial: &SerialKey,
        change: impl FnOnce(&mut Record),
    ) -> Option<RecordChange> {
        let old = Arc::clone(self.by_serial.get(serial)?);
        let mut new = Record::clone(&old);
        change(&mut new);
        if new == *old {
            return None;
        }
        let new = self.put(new);
        Some(RecordChange { old, new })
    }

    /// Forgets a record.
    pub(crate) fn remove(&mut self, serial: &SerialKey) {
        let Some(record) = self.by_serial.remove(serial) else {
            return;
        };
        if let Some(end) = record.forgotten_at() {
            self.by_end.remove(&(end, *serial));
        }
        let serials = self.by_node.remove(&record.node_id);
        let left: Vec<_> = serials
            .into_iter()
            .flatten()
            .filter(|other| other != serial)
            .collect();
        if !left.is_empty() {
            self.by_node
                .insert(Arc::clone(&record.node_id), left.into());
        }
        if let Some(issuer) = &record.issuer {
            unshare(&mut self.issuers, issuer);
        }
        if let Some(token) = &record.token {
            unshare(&mut self.tokens, token);
        }
    }

    /// Forgets what ended long before `now`, unless `keep` says that it is still needed.
    pub(crate) fn forget_ended(&mut self, now: i64, keep: impl Fn(&Record) -> bool) {
        let ended: Vec<_> = self
            .by_end
            .iter()
            .take_while(|(end, _)| *end <= now)
            .map(|(_, serial)| *serial)
            .filter(|serial| self.get(serial).is_none_or(|record| !keep(record)))
            .take(FORGET_AT_ONCE)
            .collect();
        for serial in ended {
            self.remove(&serial);
        }
    }

    /// Takes note of a node's serial; answers the id that its records share.
    fn noted(&mut self, node_id: &Arc<str>, serial: &SerialKey) -> Arc<str> {
        let Some((shared, serials)) = self.by_node.remove_entry(node_id) else {
            self.by_node
                .insert(Arc::clone(node_id), Box::new([*serial]));
            return Arc::clone(node_id);
        };
        let serials = match serials.contains(serial) {
            true => serials,
            false => [&*serials, &[*serial]].concat().into(),
        };
        self.by_node.insert(Arc::clone(&shared), serials);
        shared
    }
}

/// The one of its kind that all records share.
fn shared<T: Ord + ?Sized>(known: &mut BTreeSet<Arc<T>>, value: Arc<T>) -> Arc<T> {
    if let Some(known) = known.get(&value) {
        return Arc::clone(known);
    }
    known.insert(Arc::clone(&value));
    value
}

/// Forgets what only a record that goes still has.
fn unshare<T: Ord + ?Sized>(known: &mut BTreeSet<Arc<T>>, value: &Arc<T>) {
    // The record's and the set's own; a reader's copy only keeps it a little longer.
    if Arc::strong_count(value) <= 2 {
        known.remove(value);
    }
}

/// A record before and after.
pub(crate) struct RecordChange {
    pub(crate) old: Arc<Record>,
    pub(crate) new: Arc<Record>,
}

/// A record that a request begins. Only what is stored later was issued.
pub(crate) fn requested(
    node_id: &str,
    certificate: &Certificate,
    origin: CertificateOrigin,
    now: i64,
) -> Option<Record> {
    let mut record = Record::of_certificate(node_id, certificate)?;
    let source = certificate.source.as_ref();
    record.origin = origin;
    record.address = source.and_then(|source| source.address.parse().ok());
    record.token = token_of(source);
    record.requested_at = now;
    record.issuer = None;
    (record.not_before, record.not_after) = (0, 0);
    Some(record)
}

fn token_of(source: Option<&RequestSource>) -> Option<Arc<str>> {
    let token = source.map(|source| source.token.as_str())?;
    (!token.is_empty()).then(|| token.into())
}
