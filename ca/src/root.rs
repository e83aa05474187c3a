//! Trust bundles: the roots that a node believes.

use rustls::pki_types::{CertificateDer, TrustAnchor};
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512, Oid,
};
use x509_parser::prelude::FromDer;

use crate::chain::IssuerInfo;
use crate::digest::BundleDigest;
use crate::pem::{self, Limits, Outside, PemError};
use crate::skew::stamp;

/// Largest bundle that is read, in bytes of PEM; a generated root has about 550.
pub const MAX_BUNDLE_BYTES: usize = 64 * 1024;
/// Most roots in a bundle; a cluster has one, or a few by an operator's choice.
pub const MAX_ROOTS: usize = 16;

/// Signature algorithms of roots that engines accept (spec/pki.md §2.2).
pub(crate) const ROOT_SIGNATURES: [Oid<'static>; 6] = [
    OID_PKCS1_SHA256WITHRSA,
    OID_PKCS1_SHA384WITHRSA,
    OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512,
];

/// One or more self-signed roots, with the exact PEM bytes that they came in.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    pem: Vec<u8>,
    digest: BundleDigest,
    first: Root,
    others: Vec<Root>,
}

#[derive(Debug, Clone)]
struct Root {
    der: Vec<u8>,
    anchor: TrustAnchor<'static>,
    issuer: IssuerInfo,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    /// Most certificates between it and a leaf, if it says so.
    path_len: Option<u32>,
}

/// Why a trust bundle is refused. `position` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Not a PEM bundle.
    #[error("the root certificates cannot be read, {problem}; fetch them again from a manager")]
    Pem {
        /// What is wrong with it.
        problem: PemError,
    },
    /// Not a certificate.
    #[error("root certificate {position} is malformed; fetch it again from a manager")]
    Malformed {
        /// Which.
        position: usize,
    },
    /// An algorithm that Docker Engines refuse, or that ring cannot verify.
    #[error(
        "root certificate {position} is signed with {algorithm}; use ECDSA on P-256 or P-384 with \
         SHA-256 or SHA-384, or RSA with at least 2048 bits and SHA-256, SHA-384 or SHA-512"
    )]
    UnsupportedSignature {
        /// Which.
        position: usize,
        /// The algorithm's object identifier.
        algorithm: String,
    },
    /// Issuer and subject differ.
    #[error("root certificate {position} is not self-signed; give the root, not an intermediate")]
    NotSelfSigned {
        /// Which.
        position: usize,
    },
    /// No basicConstraints with CA:TRUE, or a key usage without keyCertSign.
    #[error("root certificate {position} is not a CA certificate; give one with CA:TRUE")]
    NotACa {
        /// Which.
        position: usize,
    },
    /// It does not verify against itself.
    #[error("the signature of root certificate {position} is wrong; fetch it again from a manager")]
    BadSignature {
        /// Which.
        position: usize,
    },
    /// Not valid yet.
    #[error(
        "root certificate {position} is not valid before {}, and it is {} here; compare the \
         clocks of the hosts",
        stamp(*not_before), stamp(*now)
    )]
    NotValidYet {
        /// Which.
        position: usize,
        /// Start of its validity.
        not_before: OffsetDateTime,
        /// The time it was judged at.
        now: OffsetDateTime,
    },
    /// Expired.
    #[error(
        "root certificate {position} is not valid after {}, and it is {} here; rotate the root \
         with `docker swarm ca --rotate`",
        stamp(*not_after), stamp(*now)
    )]
    Expired {
        /// Which.
        position: usize,
        /// End of its validity.
        not_after: OffsetDateTime,
        /// The time it was judged at.
        now: OffsetDateTime,
    },
}

impl TrustBundle {
    /// Reads a PEM bundle and checks each root: a self-signed CA certificate, verified against
    /// itself, with an accepted signature algorithm, valid at `now`.
    ///
    /// Text between the blocks is skipped, as engines do; it counts in the digest.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn from_pem(pem: &[u8], now: OffsetDateTime) -> Result<Self, TrustError> {
        let in_pem = |problem| TrustError::Pem { problem };
        let limits = Limits {
            bytes: MAX_BUNDLE_BYTES,
            blocks: MAX_ROOTS,
        };
        let blocks = pem::read(pem, limits, Outside::Skip).map_err(in_pem)?;
        let mut roots = Vec::with_capacity(blocks.len());
        for (position, block) in (1..).zip(&blocks) {
            if block.label != "CERTIFICATE" {
                return Err(in_pem(PemError::Label));
            }
            roots.push(Root::check(&block.der, position, now)?);
        }
        let mut roots = roots.into_iter();
        let first = roots.next().ok_or(in_pem(PemError::Empty))?;
        Ok(Self {
            pem: pem.to_vec(),
            digest: BundleDigest::of(pem),
            first,
            others: roots.collect(),
        })
    }

    /// The bytes exactly as they came; what `GetRootCACertificate` answers and a token's digest
    /// covers.
    pub fn pem(&self) -> &[u8] {
        &self.pem
    }

    /// SHA-256 over [`TrustBundle::pem`].
    pub fn digest(&self) -> BundleDigest {
        self.digest
    }

    /// Subject and key of the first root, for the cluster's `TLSInfo`.
    pub fn issuer_info(&self) -> &IssuerInfo {
        &self.first.issuer
    }

    /// End of validity of the root that ends first.
    pub fn not_after(&self) -> OffsetDateTime {
        self.roots()
            .map(|root| root.not_after)
            .min()
            .unwrap_or(self.first.not_after)
    }

    /// The roots that are valid at `now`, which rustls does not check of trust anchors.
    pub(crate) fn valid_anchors(&self, now: OffsetDateTime) -> Vec<TrustAnchor<'_>> {
        self.roots()
            .filter(|root| root.not_before <= now && now <= root.not_after)
            .map(|root| TrustAnchor {
                subject: root.anchor.subject.as_ref().into(),
                subject_public_key_info: root.anchor.subject_public_key_info.as_ref().into(),
                name_constraints: root
                    .anchor
                    .name_constraints
                    .as_ref()
                    .map(|constraints| constraints.as_ref().into()),
            })
            .collect()
    }

    /// Subjects and keys of the roots that are valid at `now`.
    pub(crate) fn valid_issuers(&self, now: OffsetDateTime) -> impl Iterator<Item = &IssuerInfo> {
        self.roots()
            .filter(move |root| root.not_before <= now && now <= root.not_after)
            .map(|root| &root.issuer)
    }

    pub(crate) fn issuer_of_anchor(&self, anchor: &TrustAnchor<'_>) -> Option<&IssuerInfo> {
        self.root_of_anchor(anchor).map(|root| &root.issuer)
    }

    /// Whether so many certificates may stand between that root and a leaf. An anchor has no
    /// length for webpki; Docker Engines look at it, and count every certificate.
    pub(crate) fn allows_intermediates(&self, anchor: &TrustAnchor<'_>, count: usize) -> bool {
        let root = self.root_of_anchor(anchor);
        let most = root.and_then(|root| root.path_len);
        most.is_none_or(|most| u32::try_from(count).is_ok_and(|count| count <= most))
    }

    /// Whether the only root allows other CAs below it.
    pub(crate) fn may_have_cas_below(&self) -> bool {
        self.first.path_len != Some(0)
    }

    fn root_of_anchor(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        self.roots().find(|root| {
            root.anchor.subject == anchor.subject
                && root.anchor.subject_public_key_info == anchor.subject_public_key_info
        })
    }

    /// The root in DER, if there is just one.
    pub(crate) fn only_root(&self) -> Option<&[u8]> {
        self.others.is_empty().then_some(self.first.der.as_slice())
    }

    /// How many roots there are.
    pub fn count(&self) -> usize {
        1 + self.others.len()
    }

    /// The roots in DER.
    pub(crate) fn ders(&self) -> impl Iterator<Item = &[u8]> {
        self.roots().map(|root| root.der.as_slice())
    }

    fn roots(&self) -> impl Iterator<Item = &Root> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Root {
    fn check(der: &[u8], position: usize, now: OffsetDateTime) -> Result<Self, TrustError> {
        let malformed = TrustError::Malformed { position };
        let Ok(([], certificate)) = X509Certificate::from_der(der) else {
            return Err(malformed);
        };
        let algorithm = &certificate.signature_algorithm.algorithm;
        let unsupported = || TrustError::UnsupportedSignature {
            position,
            algorithm: algorithm.to_id_string(),
        };
        if !ROOT_SIGNATURES.contains(algorithm) || !is_verifiable(&certificate) {
            return Err(unsupported());
        }
        if certificate.subject().as_raw() != certificate.issuer().as_raw() {
            return Err(TrustError::NotSelfSigned { position });
        }
        if !may_sign_certificates(&certificate) {
            return Err(TrustError::NotACa { position });
        }
        match certificate.verify_signature(None) {
            Ok(()) => {}
            Err(X509Error::SignatureUnsupportedAlgorithm) => return Err(unsupported()),
            Err(_) => return Err(TrustError::BadSignature { position }),
        }
        let not_before = certificate.validity().not_before.to_datetime();
        let not_after = certificate.validity().not_after.to_datetime();
        if now < not_before {
            return Err(TrustError::NotValidYet {
                position,
                not_before,
                now,
            });
        }
        if now > not_after {
            return Err(TrustError::Expired {
                position,
                not_after,
                now,
            });
        }
        let issuer = IssuerInfo {
            subject_der: certificate.subject().as_raw().to_vec(),
            public_key_der: certificate.public_key().raw.to_vec(),
        };
        let anchor = webpki::anchor_from_trusted_cert(&CertificateDer::from(der))
            .map_err(|_| malformed)?
            .to_owned();
        let path_len = match certificate.basic_constraints() {
            Ok(Some(constraints)) => constraints.value.path_len_constraint,
            _ => None,
        };
        Ok(Self {
            der: der.to_vec(),
            path_len,
            anchor,
            issuer,
            not_before,
            not_after,
        })
    }
}

/// Whether ring verifies what this key signs: P-256, P-384, RSA (whose size it checks itself).
fn is_verifiable(certificate: &X509Certificate<'_>) -> bool {
    let algorithm = &certificate.public_key().algorithm;
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = algorithm
            .parameters
            .as_ref()
            .and_then(|parameters| parameters.as_oid().ok());
        return curve.is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384);
    }
    algorithm.algorithm == OID_PKCS1_RSAENCRYPTION
}

/// Whether a certificate is a CA's that may sign others.
pub(crate) fn may_sign_certificates(certificate: &X509Certificate<'_>) -> bool {
    let is_ca =
        matches!(certificate.basic_constraints(), Ok(Some(constraints)) if constraints.value.ca);
    let usage_allows = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    is_ca && usage_allows
}

#[cfg(test)]
#[path = "root_tests.rs"]
mod tests;
