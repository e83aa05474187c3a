//! One certificate on record.

use std::{net::IpAddr, sync::Arc};

use prost_types::Timestamp;

use crate::{
    certificates::{RETENTION_SECS, SUPERSEDED_GRACE_SECS, SerialKey},
    objects::{
        Certificate, CertificateOrigin, CertificateRecord, NodeRole, RequestSource, Revocation,
    },
};

/// Bytes of a serial (RFC 5280 §4.1.2.2).
pub(super) const SERIAL_BYTES: usize = 20;
/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;

/// A certificate on record, as it is held in memory. Times are in seconds since the Unix
/// epoch, 0 for none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The serial number, which it was asked for with.
    pub serial: SerialKey,
    /// Whose.
    pub node_id: Arc<str>,
    /// The role that it says.
    pub role: NodeRole,
    /// Who asked for it.
    pub origin: CertificateOrigin,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The token that a join was admitted by: `worker`, `manager`, or the id of a limited one.
    pub token: Option<Arc<str>>,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub public_key: [u8; DIGEST_BYTES],
    /// When it was asked for.
    pub requested_at: i64,
    /// SHA-256 of its issuer's SubjectPublicKeyInfo; none while it is not issued, and of
    /// certificates from before records were kept.
    pub issuer: Option<Arc<[u8]>>,
    /// Start of validity.
    pub not_before: i64,
    /// End of validity; 0 while it is not issued.
    pub not_after: i64,
    /// The first session that was opened with it.
    pub used_at: i64,
    /// The first session that was opened with a later one.
    pub superseded_at: i64,
    /// Set when it was revoked.
    pub revoked: Option<Box<Revoked>>,
}

/// That a certificate was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// When, in seconds since the Unix epoch.
    pub at: i64,
    /// By whom.
    pub by: String,
    /// Why, in the words of whoever did it.
    pub reason: String,
}

/// What a certificate counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Asked for and not signed yet.
    Requested,
    /// It counts.
    Valid,
    /// A newer one of the node is in use and its grace is over.
    Superseded,
    /// It was revoked.
    Revoked,
    /// It is past its end.
    Expired,
}

impl Standing {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Requested => "requested",
            Standing::Valid => "valid",
            Standing::Superseded => "superseded",
            Standing::Revoked => "revoked",
            Standing::Expired => "expired",
        }
    }
}

/// A serial as records are found by it; nothing for bytes that are none.
pub fn serial_of(bytes: &[u8]) -> Option<SerialKey> {
    let significant = &bytes[bytes.iter().position(|byte| *byte != 0)?..];
    let padding = SERIAL_BYTES.checked_sub(significant.len())?;
    let mut serial = [0; SERIAL_BYTES];
    serial[padding..].copy_from_slice(significant);
    Some(serial)
}

impl Record {
    /// What a node's record says of its certificate.
    pub(crate) fn of_certificate(node_id: &str, certificate: &Certificate) -> Option<Record> {
        Some(Record {
            serial: serial_of(&certificate.serial)?,
            node_id: node_id.into(),
            role: certificate.role(),
            origin: CertificateOrigin::Unknown,
            address: None,
            token: None,
            public_key: digest(&certificate.public_key_digest),
            requested_at: 0,
            issuer: issuer(&certificate.issuer),
            not_before: seconds(certificate.not_before.as_ref()),
            not_after: seconds(certificate.not_after.as_ref()),
            used_at: 0,
            superseded_at: 0,
            revoked: None,
        })
    }

    /// Whether it was signed.
    pub fn is_issued(&self) -> bool {
        self.not_after != 0
    }

    /// What it counts for at `now`.
    pub fn standing(&self, now: i64) -> Standing {
        if self.revoked.is_some() {
            Standing::Revoked
        } else if !self.is_issued() {
            Standing::Requested
        } else if now > self.not_after {
            Standing::Expired
        } else if self.is_superseded(now) {
            Standing::Superseded
        } else {
            Standing::Valid
        }
    }

    /// When it stops to count because a newer one is in use; nothing while none is.
    pub fn superseded_from(&self) -> Option<i64> {
        (self.superseded_at != 0).then(|| self.superseded_at + SUPERSEDED_GRACE_SECS)
    }

    fn is_superseded(&self, now: i64) -> bool {
        self.superseded_from().is_some_and(|from| from <= now)
    }

    /// When it may be forgotten. What was never issued goes with its node or the next request.
    pub(crate) fn forgotten_at(&self) -> Option<i64> {
        self.is_issued()
            .then(|| self.not_after.saturating_add(RETENTION_SECS))
    }

    /// As a snapshot bears it.
    pub(crate) fn to_object(&self) -> CertificateRecord {
        let address = self.address.map(|address| address.to_string());
        let token = self.token.as_deref().map(str::to_owned);
        let source = (address.is_some() || token.is_some()).then(|| RequestSource {
            address: address.unwrap_or_default(),
            token: token.unwrap_or_default(),
        });
        CertificateRecord {
            serial: self.serial.to_vec(),
            node_id: self.node_id.to_string(),
            role: self.role.into(),
            origin: self.origin.into(),
            source,
            public_key_digest: self.public_key.to_vec(),
            requested_at: timestamp(self.requested_at),
            issuer: self.issuer.as_deref().unwrap_or_default().to_vec(),
            not_before: timestamp(self.not_before),
            not_after: timestamp(self.not_after),
            used_at: timestamp(self.used_at),
            superseded_at: timestamp(self.superseded_at),
            revocation: self.revoked.as_ref().map(|revoked| Revocation {
                at: Some(at(revoked.at)),
                by: revoked.by.clone(),
                reason: revoked.reason.clone(),
            }),
        }
    }

    /// What a snapshot bears; nothing if it lacks serial or node.
    pub(crate) fn of_object(object: CertificateRecord) -> Option<Record> {
        if object.node_id.is_empty() {
            return None;
        }
        let source = object.source.as_ref();
        Some(Record {
            serial: serial_of(&object.serial)?,
            node_id: object.node_id.as_str().into(),
            role: object.role(),
            origin: object.origin(),
            address: source.and_then(|source| source.address.parse().ok()),
            token: super::token_of(source),
            public_key: digest(&object.public_key_digest),
            requested_at: seconds(object.requested_at.as_ref()),
            issuer: issuer(&object.issuer),
            not_before: seconds(object.not_before.as_ref()),
            not_after: seconds(object.not_after.as_ref()),
            used_at: seconds(object.used_at.as_ref()),
            superseded_at: seconds(object.superseded_at.as_ref()),
            revoked: object.revocation.map(|revocation| {
                Box::new(Revoked {
                    at: seconds(revocation.at.as_ref()),
                    by: revocation.by,
                    reason: revocation.reason,
                })
            }),
        })
    }
}

/// All zeros for what is no digest.
fn digest(bytes: &[u8]) -> [u8; DIGEST_BYTES] {
    bytes.try_into().unwrap_or_default()
}

fn issuer(bytes: &[u8]) -> Option<Arc<[u8]>> {
    (bytes.len() == DIGEST_BYTES).then(|| bytes.into())
}

fn seconds(time: Option<&Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds)
}

fn timestamp(seconds: i64) -> Option<Timestamp> {
    (seconds != 0).then(|| at(seconds))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            serial: serial_of(&[7; 20]).unwrap(),
            node_id: "w1".into(),
            role: NodeRole::Manager,
            origin: CertificateOrigin::Rotation,
            address: "2001:db8::1".parse().ok(),
            token: Some("worker".into()),
            public_key: [1; 32],
            requested_at: 10,
            issuer: Some([2; 32].as_slice().into()),
            not_before: 11,
            not_after: 12,
            used_at: 13,
            superseded_at: 14,
            revoked: Some(Box::new(Revoked {
                at: 15,
                by: "uid 0".into(),
                reason: "lost".into(),
            })),
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let faults: [fn(&mut CertificateRecord); 3] = [
            |object| object.serial.clear(),
            |object| object.serial = vec![1; 21],
            |object| object.node_id.clear(),
        ];
        for fault in faults {
            let mut object = record().to_object();
            fault(&mut object);
            assert_eq!(Record::of_object(object), None);
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        assert_eq!(Record::of_object(record().to_object()), Some(record()));
    }

    #[test]
    fn what_was_revoked_is_nothing_else() {
        let mut record = record();
        assert_eq!(record.standing(1000), Standing::Revoked);
        record.revoked = None;
        assert_eq!(record.standing(13), Standing::Expired);
        record.not_after = 1000;
        assert_eq!(record.standing(73), Standing::Valid);
        assert_eq!(record.standing(74), Standing::Superseded);
        record.superseded_at = 0;
        assert_eq!(record.standing(1000), Standing::Valid);
        record.not_after = 0;
        assert_eq!(record.standing(1000), Standing::Requested);
    }
}
