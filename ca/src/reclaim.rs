//! Return of a node by proof of possession: what it signs, and whether it gets a certificate.
//!
//! A node whose certificate has expired, or whose issuer is the cluster's root no more, cannot
//! identify itself in a handshake. It still has the key of its last certificate. Over a
//! connection on which it verified a manager and presented nothing, it signs what only holds
//! there and now, and for one new key:
//!
//! | Part of the statement | What it prevents |
//! |---|---|
//! | a context string | a signature made for another protocol, such as a TLS handshake |
//! | exporter of the TLS connection (RFC 8446 §7.5) | relaying the proof over another connection |
//! | SHA-256 of the new certificate request | a certificate for another key |
//! | cluster id, node id | use in another cluster, or for another node |
//! | time, within 5 min of the manager's | use at another time |
//!
//! What the manager decides is [`decide_reclaim`]; it takes the state of its cluster as
//! arguments and says what to put on record.

use std::fmt;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use webpki::{EndEntityCert, ring as algorithms};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::chain::IssuerInfo;
use crate::csr::{Csr, CsrError};
use crate::digest::PublicKeyDigest;
use crate::identity::{IdentityError, NodeIdentity, peer_identity};
use crate::key::{KeyError, NodeKey};
use crate::role::Role;
use crate::root_path::is_signed_by;
use crate::serial::Serial;
use crate::skew::{spell, stamp};

/// Label of the TLS exporter that binds a proof to its connection. RFC 5705 §4 leaves labels
/// that begin so to private use.
pub const RECLAIM_EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL waxseal reclaim v1";
/// How far the time in a proof and the manager's may lie apart: as for authenticators elsewhere
/// (RFC 4120 §5.2.6), and far more than hosts disagree that keep their time.
pub const RECLAIM_SKEW: Duration = Duration::minutes(5);
/// For how long, and from one address only, a certificate that brought its node back does so
/// once more: the answer may have been lost with the process that waited for it.
pub const RECLAIM_RETRY: Duration = Duration::minutes(10);

/// First part of what is signed.
const CONTEXT: &[u8] = b"waxseal reclaim of a node identity, version 1";
/// Largest certificate that is looked at, in bytes of DER.
const MAX_CERTIFICATE_BYTES: usize = 4 * 1024;

/// What both ends of one TLS connection know, and nobody else: 32 bytes of its exporter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ChannelBinding([u8; 32]);

impl ChannelBinding {
    /// What the exporter gave, or a manager on record says that it gave.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChannelBinding(..)")
    }
}

/// What the old key signs.
#[derive(Debug, Clone, Copy)]
pub struct ReclaimStatement<'a> {
    /// The connection that it is sent over.
    pub binding: &'a ChannelBinding,
    /// The request for the new certificate, as sent.
    pub csr_pem: &'a [u8],
    /// From the old certificate.
    pub cluster_id: &'a str,
    /// From the old certificate.
    pub node_id: &'a str,
    /// Seconds since 1970 by the node's clock.
    pub unix_seconds: i64,
}

impl ReclaimStatement<'_> {
    /// The bytes that are signed: each part after its length, 4 bytes, big-endian.
    fn message(&self) -> Vec<u8> {
        let csr: [u8; 32] = Sha256::digest(self.csr_pem).into();
        let seconds = self.unix_seconds.to_be_bytes();
        let parts: [&[u8]; 6] = [
            CONTEXT,
            self.binding.as_bytes(),
            &csr,
            self.cluster_id.as_bytes(),
            self.node_id.as_bytes(),
            &seconds,
        ];
        let mut message = Vec::new();
        for part in parts {
            let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
            message.extend_from_slice(&length.to_be_bytes());
            message.extend_from_slice(part);
        }
        message
    }

    /// Signs with the key of the old certificate: ECDSA in DER, with SHA-256 on P-256 and
    /// SHA-384 on P-384.
    ///
    /// # Errors
    /// [`KeyError::Signing`].
    pub fn sign(&self, old_key: &NodeKey) -> Result<Vec<u8>, KeyError> {
        old_key.sign(&self.message())
    }

    fn is_signed(&self, signature: &[u8], certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else {
            return false;
        };
        let message = self.message();
        [algorithms::ECDSA_P256_SHA256, algorithms::ECDSA_P384_SHA384]
            .into_iter()
            .any(|algorithm| {
                certificate
                    .verify_signature(algorithm, &message, signature)
                    .is_ok()
            })
    }
}

/// What a node sends.
#[derive(Debug, Clone, Copy)]
pub struct ReclaimRequest<'a> {
    /// Its last certificate, the leaf alone, in DER.
    pub certificate: &'a [u8],
    /// The request for the new one, PEM.
    pub csr_pem: &'a [u8],
    /// Seconds since 1970 by its clock.
    pub unix_seconds: i64,
    /// [`ReclaimStatement::sign`].
    pub signature: &'a [u8],
    /// From where it calls, without port.
    pub addr: &'a str,
}

/// A CA whose certificates the cluster knows as its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownIssuer {
    /// Subject and key.
    pub issuer: IssuerInfo,
    /// When another took its place.
    pub retired_at: Option<OffsetDateTime>,
    /// The operator said that its key is known to others.
    pub compromised: bool,
}

/// A certificate as a node's record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownCertificate {
    /// Its serial.
    pub serial: Serial,
    /// Its key.
    pub public_key: PublicKeyDigest,
}

/// The latest return of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerReturn {
    /// Serial of the certificate that it came with.
    pub presented: Serial,
    /// Serial of the one it was granted.
    pub granted: Serial,
    /// From where, without port.
    pub addr: String,
    /// When.
    pub at: OffsetDateTime,
}

/// A node's record, as far as a return is judged by it.
#[derive(Debug, Clone)]
pub struct ReturnRecord {
    /// The role that its next certificate names.
    pub role: Role,
    /// Whether it is admitted.
    pub accepted: bool,
    /// What it asked for last, whether signed or not.
    pub newest: Option<KnownCertificate>,
    /// The certificate of its latest session, which is the newest unless that was never used.
    pub in_use: Option<KnownCertificate>,
    /// Its latest return.
    pub last_return: Option<FormerReturn>,
    /// The key whose holder an operator lets in at this time.
    pub approved: Option<PublicKeyDigest>,
}

/// The nodes of a cluster.
pub trait ReturnTable {
    /// A node's record.
    fn node(&self, node_id: &str) -> Option<ReturnRecord>;
    /// Whether a node was removed.
    fn is_removed(&self, node_id: &str) -> bool;
    /// Which node has this key, by its newest certificate or request.
    fn node_of_key(&self, key: &PublicKeyDigest) -> Option<String>;
    /// Whether an operator revoked a certificate.
    fn is_revoked(&self, serial: &Serial) -> bool;
}

/// What a return is judged by.
#[derive(Clone, Copy)]
pub struct ReclaimView<'a> {
    /// Id of this cluster.
    pub cluster_id: &'a str,
    /// Those that sign now, and those that did.
    pub issuers: &'a [KnownIssuer],
    /// The nodes.
    pub nodes: &'a dyn ReturnTable,
    /// For how long after its certificate stopped counting a node returns by itself.
    pub window: std::time::Duration,
    /// Of the connection that the request came over.
    pub binding: Option<&'a ChannelBinding>,
}

/// Why a node waits for an operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReturnWait {
    /// Away for longer than the window.
    #[error("its certificate counts no more since {}, longer ago than nodes return by themselves", stamp(*since))]
    OutsideWindow {
        /// Since when it does not count.
        since: OffsetDateTime,
    },
    /// Its certificate brought a host back already.
    #[error("its certificate brought a host at {addr} back at {} already", stamp(*at))]
    TakenBefore {
        /// From where.
        addr: String,
        /// When.
        at: OffsetDateTime,
    },
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReclaimDecision {
    /// Record, then sign.
    Grant {
        /// For whom.
        node_id: String,
        /// What it presented.
        presented: Serial,
        /// The newest serial on record, which must still be that when this is recorded.
        expected: Serial,
        /// The verified request.
        csr: Csr,
    },
    /// This key was granted before; its certificate is there, or comes.
    Again {
        /// For whom.
        node_id: String,
        /// The key.
        key: PublicKeyDigest,
    },
    /// To be put on record, for an operator to approve.
    Wait {
        /// Who.
        node_id: String,
        /// What it presented.
        presented: KnownCertificate,
        /// Why.
        reason: ReturnWait,
    },
    /// Refuse.
    Refuse(ReclaimRefusal),
}

/// Why a return is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReclaimRefusal {
    /// Nothing binds the proof to a connection.
    #[error(
        "the proof is bound to no TLS 1.3 connection; connect to a manager directly, and update \
         the managers that relay calls"
    )]
    NoBinding,
    /// The clocks disagree.
    #[error(
        "this node's clock is {} {} the manager's ({} here, {} there), and at most 5 min is \
         tolerated; set the clock of the host that is wrong",
        spell(*ahead), if ahead.is_negative() { "behind" } else { "ahead of" },
        stamp(*there), stamp(*there - *ahead)
    )]
    Skew {
        /// By how much the node is ahead.
        ahead: Duration,
        /// What the node says.
        there: OffsetDateTime,
    },
    /// The certificate cannot be read.
    #[error("the node's former certificate cannot be used: {0}")]
    Certificate(#[from] IdentityError),
    /// It is of another cluster.
    #[error(
        "the node's former certificate is of another cluster; run `docker swarm leave --force` on \
         the node, then join it with a token of this cluster"
    )]
    OtherCluster,
    /// Nobody who signs, or signed, for this cluster.
    #[error(
        "the node's former certificate was not issued by this cluster; run `docker swarm leave \
         --force` on the node, then join it with a token of this cluster"
    )]
    UnknownIssuer,
    /// A root whose key others know.
    #[error(
        "the root that issued the node's former certificate was declared compromised, so that it \
         proves nothing; run `docker swarm leave --force` on the node, then join it with a token"
    )]
    CompromisedIssuer,
    /// The signature is wrong: another key, another connection, another request.
    #[error(
        "the proof is not signed by the key of the node's former certificate for this connection \
         and request"
    )]
    BadProof,
    /// The request for a new certificate.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// Removed, or never there.
    #[error(
        "node {node_id} was removed from swarm; run `docker swarm leave --force` on that node, \
         then join with a token to come back as a new node"
    )]
    Removed {
        /// Which.
        node_id: String,
    },
    /// Not admitted.
    #[error("node {node_id} is not admitted to the swarm")]
    NotAccepted {
        /// Which.
        node_id: String,
    },
    /// Revoked.
    #[error(
        "the certificate of node {node_id} was revoked; run `docker swarm leave --force` on that \
         node, then join with a token"
    )]
    Revoked {
        /// Which.
        node_id: String,
    },
    /// An older certificate: a copy of the node's disk, or a backup of it.
    #[error(
        "the certificate of node {node_id} was replaced by a newer one since, so that this host \
         may be a copy of that node; run `docker swarm leave --force` on the one that is not \
         wanted, then join it with a token"
    )]
    PossibleClone {
        /// Which.
        node_id: String,
        /// What was presented.
        serial: Serial,
    },
    /// The new key is the old one, or another node's.
    #[error("the new certificate is asked for with a key that is in use; make a new key")]
    KeyInUse,
}

/// Decides on a node that wants its identity back.
pub fn decide_reclaim(
    request: &ReclaimRequest<'_>,
    view: &ReclaimView<'_>,
    now: OffsetDateTime,
) -> ReclaimDecision {
    match decide(request, view, now) {
        Ok(decision) => decision,
        Err(refusal) => ReclaimDecision::Refuse(refusal),
    }
}

fn decide(
    request: &ReclaimRequest<'_>,
    view: &ReclaimView<'_>,
    now: OffsetDateTime,
) -> Result<ReclaimDecision, ReclaimRefusal> {
    // 1. What costs nothing: the connection, the time, whose certificate it says it is.
    let binding = view.binding.ok_or(ReclaimRefusal::NoBinding)?;
    check_time(request.unix_seconds, now)?;
    if request.certificate.len() > MAX_CERTIFICATE_BYTES {
        return Err(IdentityError::Malformed.into());
    }
    let leaf = CertificateDer::from(request.certificate);
    let identity = peer_identity(std::slice::from_ref(&leaf))?;
    if identity.cluster_id != view.cluster_id {
        return Err(ReclaimRefusal::OtherCluster);
    }
    // 2. The proof, before anything of the cluster's record is told.
    let statement = ReclaimStatement {
        binding,
        csr_pem: request.csr_pem,
        cluster_id: &identity.cluster_id,
        node_id: &identity.node_id,
        unix_seconds: request.unix_seconds,
    };
    if !statement.is_signed(request.signature, &leaf) {
        return Err(ReclaimRefusal::BadProof);
    }
    // 3. Who issued the certificate: only what is on the cluster's record counts.
    let (issuer, old_key) = issuer_of(&leaf, view.issuers)?;
    if issuer.compromised {
        return Err(ReclaimRefusal::CompromisedIssuer);
    }
    let presented = KnownCertificate {
        serial: identity.serial,
        public_key: old_key,
    };
    // 4. The node, by the record at this moment.
    let record = record_of(&identity, view)?;
    let Some(newest) = record.newest else {
        return Err(possible_clone(&identity));
    };
    if newest != presented && record.in_use != Some(presented) {
        return Err(possible_clone(&identity));
    }
    // 5. The new key.
    let csr = Csr::parse(request.csr_pem)?;
    let new_key = csr.public_key_digest();
    let holder = view.nodes.node_of_key(&new_key);
    if new_key == old_key || holder.is_some_and(|holder| holder != identity.node_id) {
        return Err(ReclaimRefusal::KeyInUse);
    }
    let former = record
        .last_return
        .filter(|former| former.presented == presented.serial && newest != presented);
    if newest.public_key == new_key && former.is_some() {
        return Ok(ReclaimDecision::Again {
            node_id: identity.node_id,
            key: new_key,
        });
    }
    // 6. Whether it may by itself, or an operator said so.
    let reason = match former {
        Some(former) if is_retry(&former, request.addr, now) => None,
        Some(FormerReturn { addr, at, .. }) => Some(ReturnWait::TakenBefore { addr, at }),
        None => outside_window(&identity, issuer, view.window, now),
    };
    match reason {
        Some(reason) if record.approved != Some(old_key) => Ok(ReclaimDecision::Wait {
            node_id: identity.node_id,
            presented,
            reason,
        }),
        _ => Ok(ReclaimDecision::Grant {
            node_id: identity.node_id,
            presented: presented.serial,
            expected: newest.serial,
            csr,
        }),
    }
}

fn check_time(unix_seconds: i64, now: OffsetDateTime) -> Result<(), ReclaimRefusal> {
    let there =
        OffsetDateTime::from_unix_timestamp(unix_seconds).map_err(|_| ReclaimRefusal::BadProof)?;
    let ahead = there - now;
    if ahead.unsigned_abs() > RECLAIM_SKEW.unsigned_abs() {
        return Err(ReclaimRefusal::Skew { ahead, there });
    }
    Ok(())
}

/// Who on the cluster's record signed this certificate, and for which key.
fn issuer_of<'i>(
    leaf: &CertificateDer<'_>,
    issuers: &'i [KnownIssuer],
) -> Result<(&'i KnownIssuer, PublicKeyDigest), ReclaimRefusal> {
    let Ok(([], certificate)) = X509Certificate::from_der(leaf) else {
        return Err(IdentityError::Malformed.into());
    };
    let key = PublicKeyDigest::of_spki(certificate.public_key().raw);
    let signed = |known: &&KnownIssuer| is_signed_by(&certificate, &known.issuer);
    // A root that was the cluster's twice is compromised if it ever was.
    let mut found = issuers.iter().filter(signed);
    let first = found.next().ok_or(ReclaimRefusal::UnknownIssuer)?;
    Ok((found.find(|known| known.compromised).unwrap_or(first), key))
}

fn record_of(
    identity: &NodeIdentity,
    view: &ReclaimView<'_>,
) -> Result<ReturnRecord, ReclaimRefusal> {
    let node_id = || identity.node_id.clone();
    if view.nodes.is_removed(&identity.node_id) {
        return Err(ReclaimRefusal::Removed { node_id: node_id() });
    }
    let record = view
        .nodes
        .node(&identity.node_id)
        .ok_or_else(|| ReclaimRefusal::Removed { node_id: node_id() })?;
    if !record.accepted {
        return Err(ReclaimRefusal::NotAccepted { node_id: node_id() });
    }
    if view.nodes.is_revoked(&identity.serial) {
        return Err(ReclaimRefusal::Revoked { node_id: node_id() });
    }
    Ok(record)
}

fn possible_clone(identity: &NodeIdentity) -> ReclaimRefusal {
    ReclaimRefusal::PossibleClone {
        node_id: identity.node_id.clone(),
        serial: identity.serial,
    }
}

/// Whether it is likely the same host again, whose answer was lost.
fn is_retry(former: &FormerReturn, addr: &str, now: OffsetDateTime) -> bool {
    former.addr == addr && (now - former.at).unsigned_abs() <= RECLAIM_RETRY.unsigned_abs()
}

fn outside_window(
    identity: &NodeIdentity,
    issuer: &KnownIssuer,
    window: std::time::Duration,
    now: OffsetDateTime,
) -> Option<ReturnWait> {
    // A certificate that still counts needs no window: with it the node could renew as well.
    let expired = (identity.not_after < now).then_some(identity.not_after);
    let since = [expired, issuer.retired_at].into_iter().flatten().min()?;
    let away = (now - since).max(Duration::ZERO).unsigned_abs();
    let waits = window.is_zero() || away > window;
    waits.then_some(ReturnWait::OutsideWindow { since })
}

#[cfg(test)]
#[path = "reclaim_tests.rs"]
mod tests;
