//! Verification of certificate chains outside TLS, and a node's credentials.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage, ring as algorithms};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::digest::PublicKeyDigest;
use crate::identity::{IdentityError, NodeIdentity, peer_identity};
use crate::key::NodeKey;
use crate::pem::{self, Limits, Outside, PemError};
use crate::root::{MAX_BUNDLE_BYTES, MAX_ROOTS, TrustBundle, may_sign_certificates};
use crate::skew::stamp;

/// Most certificates in a chain: leaf, a cross-signed root, and room for an external signer's
/// intermediates.
pub const MAX_CHAIN_CERTIFICATES: usize = 4;
/// Most bytes of DER in a chain, checked before any signature is.
pub const MAX_CHAIN_BYTES: usize = 16 * 1024;
/// Most bytes of a chain in PEM: base64 adds a third, and lines and frames a little.
const MAX_CHAIN_PEM_BYTES: usize = 2 * MAX_CHAIN_BYTES;

const CERTIFICATE: &str = "CERTIFICATE";

/// Signatures that a chain may bear: those accepted of roots (spec/pki.md §2.2) which ring can
/// verify. Ed25519 is not among them, as Docker Engines refuse it.
pub(crate) static CHAIN_ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    algorithms::ECDSA_P256_SHA256,
    algorithms::ECDSA_P256_SHA384,
    algorithms::ECDSA_P384_SHA256,
    algorithms::ECDSA_P384_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA256,
    algorithms::RSA_PKCS1_2048_8192_SHA384,
    algorithms::RSA_PKCS1_2048_8192_SHA512,
];

/// What the holder of a certificate is about to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Be called: EKU serverAuth.
    Server,
    /// Call: EKU clientAuth.
    Client,
}

/// Who signed a certificate, as shown in `TLSInfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerInfo {
    /// Subject of the issuer, a DER Name.
    pub subject_der: Vec<u8>,
    /// Public key of the issuer, a DER SubjectPublicKeyInfo.
    pub public_key_der: Vec<u8>,
}

impl IssuerInfo {
    /// Subjects and keys of the CA certificates in a PEM text, which are not verified.
    ///
    /// # Errors
    /// [`ChainError::Pem`], and [`ChainError::Identity`] for what is no certificate.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<IssuerInfo>, ChainError> {
        let limits = Limits {
            bytes: MAX_BUNDLE_BYTES,
            blocks: MAX_ROOTS,
        };
        let blocks =
            pem::read(pem, limits, Outside::Skip).map_err(|problem| ChainError::Pem { problem })?;
        blocks.iter().map(|block| issuer_info(&block.der)).collect()
    }
}

/// A chain that is not even looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainLimitError {
    /// No certificate.
    #[error("there is no certificate")]
    Empty,
    /// Too many certificates.
    #[error("the certificate chain has {certificates} certificates, and at most 4 are accepted")]
    TooLong {
        /// How many.
        certificates: usize,
    },
    /// Too many bytes.
    #[error("the certificate chain has {bytes} bytes, and at most 16384 are accepted")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
}

/// Why a chain is not trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// Empty or over the limits.
    #[error(transparent)]
    Limit(#[from] ChainLimitError),
    /// Not a PEM chain.
    #[error("the certificate chain cannot be read, {problem}")]
    Pem {
        /// What is wrong with it.
        problem: PemError,
    },
    /// The leaf names no node.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A certificate is not valid yet; see [`crate::describe_validity_skew`].
    #[error(
        "a certificate is not valid before {}, and it is {} here; compare the clocks of the hosts",
        stamp(*not_before), stamp(*now)
    )]
    NotValidYet {
        /// Start of its validity.
        not_before: OffsetDateTime,
        /// The time it was judged at.
        now: OffsetDateTime,
    },
    /// A certificate has expired.
    #[error(
        "a certificate is not valid after {}, and it is {} here; renew it, or leave the swarm and \
         join again",
        stamp(*not_after), stamp(*now)
    )]
    Expired {
        /// End of its validity.
        not_after: OffsetDateTime,
        /// The time it was judged at.
        now: OffsetDateTime,
    },
    /// Every root of the bundle is out of its validity.
    #[error(
        "no root certificate of the cluster is valid at {}; compare the clocks of the hosts, or \
         rotate the root with `docker swarm ca --rotate`",
        stamp(*now)
    )]
    NoValidRoot {
        /// The time it was judged at.
        now: OffsetDateTime,
    },
    /// No root signed it, directly or not.
    #[error("the certificate was not issued by this cluster; join with a token of this cluster")]
    UnknownIssuer,
    /// A signature is wrong, as also happens when two clusters' roots bear the same name.
    #[error(
        "a signature in the certificate chain is wrong, so it is not of this cluster; join with a \
         token of this cluster"
    )]
    BadSignature,
    /// The EKU does not allow it.
    #[error("the certificate must not be used for this side of a connection; renew it")]
    WrongPurpose,
    /// A certificate is not signed by the one after it.
    #[error(
        "the certificates do not form a chain: number {position} is not signed by the next one"
    )]
    Broken {
        /// 1 for the leaf.
        position: usize,
    },
    /// An intermediate is no CA's, or not for signing.
    #[error(
        "a certificate in the chain may not sign others; give it the key usage keyCertSign, or \
         leave it out"
    )]
    MayNotSign,
    /// The root signed who issued it, but that key is not on the cluster's record.
    #[error(
        "the certificate was issued by a CA below the cluster's root that is not the cluster's own; \
         join with a token of this cluster"
    )]
    ForeignIssuer,
    /// The root signed who issued it once, and that has come to an end.
    #[error(
        "the certificate was issued by a root that the cluster gave up; renew it, or run `docker \
         swarm leave --force` on that node and join again"
    )]
    FormerIssuer,
    /// The peer called as a manager is none.
    #[error("the peer is not a manager but a {role}; call a manager's address", role = .0)]
    NotAManager(crate::Role),
    /// The peer is of another cluster under the same root.
    #[error("the peer belongs to another cluster, {found}; call a manager of this cluster")]
    OtherCluster {
        /// The peer's cluster id.
        found: String,
    },
    /// Anything else that webpki refuses.
    #[error("the certificate chain is not acceptable, {0}")]
    Unacceptable(webpki::Error),
}

/// Why a chain and a key are not this node's credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The leaf is for another key.
    #[error(
        "the certificate is not for this node's private key; restore the matching pair, or leave \
         the swarm and join again"
    )]
    KeyMismatch,
    /// rustls does not take the key.
    #[error("the private key is not usable for TLS; leave the swarm and join again")]
    UnusableKey,
}

/// A verified chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChain {
    /// Who holds the leaf.
    pub identity: NodeIdentity,
    /// Who signed the leaf.
    pub issuer: IssuerInfo,
}

/// Whose leaves count, of all the CAs that lead to the trusted root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IssuerRules {
    /// The keys whose leaves count, if others below the root could sign some.
    pub only: Option<Vec<PublicKeyDigest>>,
    /// Keys that the root has vouched for, and whose leaves count no more.
    pub refused: Vec<PublicKeyDigest>,
}

impl IssuerRules {
    /// Whether what this issuer signs counts.
    ///
    /// # Errors
    /// [`ChainError::ForeignIssuer`] and [`ChainError::FormerIssuer`].
    pub fn check(&self, issuer: &IssuerInfo) -> Result<(), ChainError> {
        if self.only.is_none() && self.refused.is_empty() {
            return Ok(());
        }
        let key = PublicKeyDigest::of_spki(&issuer.public_key_der);
        if self.refused.contains(&key) {
            return Err(ChainError::FormerIssuer);
        }
        match &self.only {
            Some(only) if !only.contains(&key) => Err(ChainError::ForeignIssuer),
            _ => Ok(()),
        }
    }
}

/// Verifies a leaf followed by its intermediates, as TLS would, plus the validity of the roots,
/// which rustls does not look at.
///
/// # Errors
/// See [`ChainError`].
pub fn verify_chain(
    certs: &[CertificateDer<'_>],
    trust: &TrustBundle,
    now: OffsetDateTime,
    purpose: Purpose,
) -> Result<VerifiedChain, ChainError> {
    // 1. Bounds, before anything is parsed or any signature checked.
    check_limits(certs)?;
    let (leaf, intermediates) = certs.split_first().ok_or(ChainLimitError::Empty)?;
    // 2. Only roots that are valid now count.
    let anchors = trust.valid_anchors(now);
    if anchors.is_empty() {
        return Err(ChainError::NoValidRoot { now });
    }
    // 3. The path, its validity and purpose.
    let usage = match purpose {
        Purpose::Server => KeyUsage::server_auth(),
        Purpose::Client => KeyUsage::client_auth(),
    };
    let end_entity = EndEntityCert::try_from(leaf).map_err(from_webpki)?;
    let path = end_entity
        .verify_for_usage(
            CHAIN_ALGORITHMS,
            &anchors,
            intermediates,
            unix_time(now),
            usage,
            None,
            None,
        )
        .map_err(from_webpki)?;
    // 4. What webpki leaves to others: usages of intermediates, the length that a root allows.
    for intermediate in path.intermediate_certificates() {
        if !may_sign_certificates(&parse(&intermediate.der())?) {
            return Err(ChainError::MayNotSign);
        }
    }
    let between = path.intermediate_certificates().count();
    if !trust.allows_intermediates(path.anchor(), between) {
        return Err(webpki::Error::PathLenConstraintViolated.into());
    }
    // 5. Who it is, and who says so.
    let issuer = match path.intermediate_certificates().next() {
        Some(intermediate) => issuer_info(&intermediate.der())?,
        None => trust
            .issuer_of_anchor(path.anchor())
            .ok_or(ChainError::UnknownIssuer)?
            .clone(),
    };
    Ok(VerifiedChain {
        identity: peer_identity(certs)?,
        issuer,
    })
}

/// Reads the certificates of a PEM chain, leaf first, within the limits; verifies nothing.
///
/// # Errors
/// [`ChainError::Limit`] and [`ChainError::Pem`].
pub fn chain_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    let limits = Limits {
        bytes: MAX_CHAIN_PEM_BYTES,
        blocks: MAX_CHAIN_CERTIFICATES,
    };
    let in_pem = |problem| ChainError::Pem { problem };
    let blocks = pem::read(pem, limits, Outside::Refuse).map_err(in_pem)?;
    if blocks.iter().any(|block| block.label != CERTIFICATE) {
        return Err(in_pem(PemError::Label));
    }
    let chain: Vec<_> = blocks
        .into_iter()
        .map(|block| CertificateDer::from(block.der.to_vec()))
        .collect();
    check_limits(&chain)?;
    Ok(chain)
}

/// A chain as normalized PEM, leaf first.
pub fn chain_to_pem(chain: &[CertificateDer<'_>]) -> String {
    chain
        .iter()
        .map(|certificate| pem::write(CERTIFICATE, certificate).to_string())
        .collect()
}

/// Refuses a chain over its limits, before anything is parsed.
pub(crate) fn check_limits(certs: &[CertificateDer<'_>]) -> Result<(), ChainLimitError> {
    if certs.is_empty() {
        return Err(ChainLimitError::Empty);
    }
    if certs.len() > MAX_CHAIN_CERTIFICATES {
        return Err(ChainLimitError::TooLong {
            certificates: certs.len(),
        });
    }
    let bytes = certs.iter().map(|certificate| certificate.len()).sum();
    if bytes > MAX_CHAIN_BYTES {
        return Err(ChainLimitError::TooLarge { bytes });
    }
    Ok(())
}

/// Subject and key of a CA certificate.
pub(crate) fn issuer_info(der: &[u8]) -> Result<IssuerInfo, ChainError> {
    let certificate = parse(der)?;
    Ok(IssuerInfo {
        subject_der: certificate.subject().as_raw().to_vec(),
        public_key_der: certificate.public_key().raw.to_vec(),
    })
}

/// Every certificate within its validity and signed by the next, needed for a path or not
/// (spec/pki.md §8.3): what a node keeps and serves must be whole.
pub(crate) fn check_strictly(
    chain: &[CertificateDer<'_>],
    now: OffsetDateTime,
) -> Result<(), ChainError> {
    let parsed = chain
        .iter()
        .map(|der| parse(der))
        .collect::<Result<Vec<_>, _>>()?;
    for certificate in &parsed {
        check_validity(certificate, now)?;
    }
    for (position, pair) in (1..).zip(parsed.windows(2)) {
        let signed = pair[0].issuer().as_raw() == pair[1].subject().as_raw()
            && pair[0].verify_signature(Some(pair[1].public_key())).is_ok();
        if !signed {
            return Err(ChainError::Broken { position });
        }
    }
    Ok(())
}

fn check_validity(
    certificate: &X509Certificate<'_>,
    now: OffsetDateTime,
) -> Result<(), ChainError> {
    let not_before = certificate.validity().not_before.to_datetime();
    let not_after = certificate.validity().not_after.to_datetime();
    if now < not_before {
        return Err(ChainError::NotValidYet { not_before, now });
    }
    if now > not_after {
        return Err(ChainError::Expired { not_after, now });
    }
    Ok(())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ChainError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(IdentityError::Malformed.into()),
    }
}

pub(crate) fn unix_time(at: OffsetDateTime) -> UnixTime {
    let seconds = u64::try_from(at.unix_timestamp()).unwrap_or(0);
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

pub(crate) fn wall_time(at: UnixTime) -> OffsetDateTime {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

impl From<webpki::Error> for ChainError {
    fn from(error: webpki::Error) -> ChainError {
        from_webpki(error)
    }
}

fn from_webpki(error: webpki::Error) -> ChainError {
    match error {
        webpki::Error::CertExpired { time, not_after } => ChainError::Expired {
            not_after: wall_time(not_after),
            now: wall_time(time),
        },
        webpki::Error::CertNotValidYet { time, not_before } => ChainError::NotValidYet {
            not_before: wall_time(not_before),
            now: wall_time(time),
        },
        webpki::Error::UnknownIssuer => ChainError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => ChainError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => ChainError::WrongPurpose,
        other => ChainError::Unacceptable(other),
    }
}

/// A node's chain and key, checked to belong together and to be trusted.
pub struct NodeCredentials {
    verified: VerifiedChain,
    chain_pem: String,
    key: NodeKey,
    certified: Arc<CertifiedKey>,
}

impl NodeCredentials {
    /// Checks what came from a manager, or from the disk: each certificate of the chain is
    /// within its validity and signed by the next, the chain leads to `trust` for both sides of
    /// a connection, and its leaf is for `key`.
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub fn new(
        chain_pem: &[u8],
        key: NodeKey,
        trust: &TrustBundle,
        now: OffsetDateTime,
    ) -> Result<Arc<Self>, CredentialsError> {
        let chain = chain_from_pem(chain_pem)?;
        check_strictly(&chain, now)?;
        let verified = verify_chain(&chain, trust, now, Purpose::Server)?;
        verify_chain(&chain, trust, now, Purpose::Client)?;
        let leaf = chain
            .first()
            .ok_or(ChainError::Limit(ChainLimitError::Empty))?;
        if parse(leaf)?.public_key().raw != key.spki_der() {
            return Err(CredentialsError::KeyMismatch);
        }
        let chain_pem = chain_to_pem(&chain);
        let signer = rustls::crypto::ring::sign::any_ecdsa_type(&key.tls_key())
            .map_err(|_| CredentialsError::UnusableKey)?;
        let certified = Arc::new(CertifiedKey::new(chain, signer));
        Ok(Arc::new(Self {
            verified,
            chain_pem,
            key,
            certified,
        }))
    }

    /// What a node has on its disk, of which certificates may have expired: as
    /// [`NodeCredentials::new`], at the time at which the first of them ended, if that is past.
    /// No peer takes them then; their key proves who this node is ([`crate::reclaim`]).
    ///
    /// # Errors
    /// See [`CredentialsError`].
    pub fn lapsed(
        chain_pem: &[u8],
        key: NodeKey,
        trust: &TrustBundle,
        now: OffsetDateTime,
    ) -> Result<Arc<Self>, CredentialsError> {
        let mut at = now;
        for der in &chain_from_pem(chain_pem)? {
            at = at.min(parse(der)?.validity().not_after.to_datetime());
        }
        Self::new(chain_pem, key, trust, at)
    }

    /// Who this node is.
    pub fn identity(&self) -> &NodeIdentity {
        &self.verified.identity
    }

    /// Who signed the leaf, for `TLSInfo`.
    pub fn issuer(&self) -> &IssuerInfo {
        &self.verified.issuer
    }

    /// The chain, leaf first, in DER.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The chain, leaf first, as normalized PEM: what goes into `swarm-node.crt`.
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The private key.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for NodeCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCredentials")
            .field("identity", &self.verified.identity)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
