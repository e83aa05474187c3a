//! Certificate requests from outside: only the key is taken.
//!
//! rcgen's own reader takes the key's type from the signature algorithm and refuses harmless
//! extensions (spec/dependencies.md §5), so requests are read here. Subject, attributes and
//! extensions of a request are ignored: what a certificate says comes from the manager's record.

use rcgen::PublicKeyData;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_SIG_ECDSA_WITH_SHA256,
    OID_SIG_ECDSA_WITH_SHA384,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, X509Version};

use crate::digest::PublicKeyDigest;
use crate::pem::{self, PemError};

/// Largest request that is read, in bytes of PEM. An engine's has about 330; one with an RSA key
/// of 8,192 bits, which still gets its proper refusal, about 3,000.
pub const MAX_CSR_PEM_BYTES: usize = 8 * 1024;

const LABELS: [&str; 2] = ["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"];

/// A certificate request whose sender has proved to hold the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Csr {
    key: rcgen::SubjectPublicKeyInfo,
    spki_der: Vec<u8>,
    digest: PublicKeyDigest,
}

/// Why a certificate request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsrError {
    /// Not one clean PEM block of the right type, or too large.
    #[error(
        "the certificate request cannot be read, {problem}; send one PEM block of type \
         CERTIFICATE REQUEST"
    )]
    Pem {
        /// What is wrong with it.
        problem: PemError,
    },
    /// Not a request in DER.
    #[error("the certificate request is malformed; make a new one with a P-256 key")]
    Malformed,
    /// Bytes after the request, inside the PEM block.
    #[error("the certificate request is followed by {bytes} more byte(s); make a new one")]
    TrailingBytes {
        /// How many.
        bytes: usize,
    },
    /// A key that is neither P-256 nor P-384.
    #[error("the certificate request is for {kind} key; make a new one with a P-256 key")]
    UnsupportedKey {
        /// What it is for, with article.
        kind: &'static str,
    },
    /// Signed with another algorithm than ECDSA with SHA-256 or SHA-384.
    #[error(
        "the certificate request is not signed with ECDSA and SHA-256 or SHA-384; make a new one"
    )]
    UnsupportedSignature,
    /// The proof of possession fails.
    #[error(
        "the certificate request is not signed by the key it is for; make a new one with the key \
         at hand"
    )]
    BadSignature,
}

impl Csr {
    /// Reads one PEM block of type `CERTIFICATE REQUEST` or `NEW CERTIFICATE REQUEST` and
    /// verifies the proof of possession.
    ///
    /// # Errors
    /// See [`CsrError`].
    pub fn parse(pem: &[u8]) -> Result<Self, CsrError> {
        let block = pem::read_one(pem, MAX_CSR_PEM_BYTES, &LABELS)
            .map_err(|problem| CsrError::Pem { problem })?;
        let (rest, request) =
            X509CertificationRequest::from_der(&block.der).map_err(|_| CsrError::Malformed)?;
        if !rest.is_empty() {
            return Err(CsrError::TrailingBytes { bytes: rest.len() });
        }
        let info = &request.certification_request_info;
        if info.version != X509Version::V1 {
            return Err(CsrError::Malformed);
        }
        check_key_algorithm(&info.subject_pki.algorithm)?;
        let signed_with = &request.signature_algorithm.algorithm;
        if ![OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384].contains(signed_with) {
            return Err(CsrError::UnsupportedSignature);
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::BadSignature)?;
        let spki_der = info.subject_pki.raw.to_vec();
        let key = rcgen::SubjectPublicKeyInfo::from_der(&spki_der)
            .ok()
            // One key has one encoding, else it would have several digests.
            .filter(|key| key.subject_public_key_info() == spki_der)
            .ok_or(CsrError::Malformed)?;
        let digest = PublicKeyDigest::of_spki(&spki_der);
        Ok(Self {
            key,
            spki_der,
            digest,
        })
    }

    /// The key for rcgen.
    pub(crate) fn key(&self) -> &rcgen::SubjectPublicKeyInfo {
        &self.key
    }

    /// The contents of the public key's BIT STRING.
    pub(crate) fn key_bytes(&self) -> &[u8] {
        rcgen::PublicKeyData::der_bytes(&self.key)
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The name of the public key.
    pub fn public_key_digest(&self) -> PublicKeyDigest {
        self.digest
    }
}

impl std::fmt::Debug for Csr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Csr({})", self.digest)
    }
}

/// Only a named curve of the two, without which the same point means another key.
fn check_key_algorithm(algorithm: &AlgorithmIdentifier<'_>) -> Result<(), CsrError> {
    if algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY {
        let kind = match algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.113549.1.1.1" => "an RSA",
            "1.3.101.112" => "an Ed25519",
            _ => "an unknown kind of",
        };
        return Err(CsrError::UnsupportedKey { kind });
    }
    let curve = algorithm
        .parameters
        .as_ref()
        .and_then(|parameters| parameters.as_oid().ok());
    match curve {
        Some(curve) if curve == OID_EC_P256 || curve == OID_NIST_EC_P384 => Ok(()),
        _ => Err(CsrError::UnsupportedKey {
            kind: "an EC (neither P-256 nor P-384)",
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::key::NodeKey;

    /// `openssl req -new -newkey rsa:1024 -nodes -subj / -outform PEM`.
    const RSA_1024: &str = include_str!("../testdata/rsa1024.csr");

    fn der_of(pem: &str) -> Vec<u8> {
        pem::read_one(pem.as_bytes(), MAX_CSR_PEM_BYTES, &LABELS)
            .unwrap()
            .der
            .to_vec()
    }

    fn parse_der(der: &[u8]) -> Result<Csr, CsrError> {
        Csr::parse(pem::write(LABELS[0], der).as_bytes())
    }

    fn good() -> Vec<u8> {
        der_of(&NodeKey::generate().unwrap().csr_pem().unwrap())
    }

    #[test]
    fn refuses_rsa_and_ed25519() {
        let error = Csr::parse(RSA_1024.as_bytes()).unwrap_err();
        assert_eq!(error, CsrError::UnsupportedKey { kind: "an RSA" });
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = CertificateParams::default()
            .serialize_request(&ed25519)
            .unwrap();
        let error = Csr::parse(request.pem().unwrap().as_bytes()).unwrap_err();
        assert_eq!(error, CsrError::UnsupportedKey { kind: "an Ed25519" });
    }

    #[test]
    fn refuses_another_curve() {
        // P-256's OID, 1.2.840.10045.3.1.7, turned into that of another curve.
        let mut der = good();
        let p256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let at = der.windows(8).position(|window| window == p256).unwrap();
        der[at + 7] = 0x01;
        let kind = "an EC (neither P-256 nor P-384)";
        assert_eq!(parse_der(&der), Err(CsrError::UnsupportedKey { kind }));
    }

    #[test]
    fn refuses_another_signature_algorithm() {
        // ecdsa-with-SHA256, 1.2.840.10045.4.3.2, turned into ecdsa-with-SHA512.
        let mut der = good();
        let sha256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
        let at = der.windows(8).position(|window| window == sha256).unwrap();
        der[at + 7] = 0x04;
        assert_eq!(parse_der(&der), Err(CsrError::UnsupportedSignature));
    }

    #[test]
    fn refuses_a_request_for_a_key_of_somebody_else() {
        let (mine, theirs) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let der = der_of(&mine.csr_pem().unwrap());
        let at = der
            .windows(91)
            .position(|window| window == mine.spki_der())
            .unwrap();
        let mut forged = der.clone();
        forged[at..at + 91].copy_from_slice(theirs.spki_der());
        assert_eq!(parse_der(&forged), Err(CsrError::BadSignature));
    }

    #[test]
    fn refuses_what_surrounds_a_request() {
        let mut der = good();
        der.extend([0, 0]);
        assert_eq!(parse_der(&der), Err(CsrError::TrailingBytes { bytes: 2 }));
        let pem = NodeKey::generate().unwrap().csr_pem().unwrap();
        for text in [
            format!("{pem}{pem}"),
            format!("{pem}x"),
            pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
            "\n".repeat(MAX_CSR_PEM_BYTES + 1),
            String::new(),
        ] {
            assert!(
                matches!(Csr::parse(text.as_bytes()), Err(CsrError::Pem { .. })),
                "{text}"
            );
        }
        assert_eq!(parse_der(b"\x30\x00"), Err(CsrError::Malformed));
    }

    #[test]
    fn takes_our_own_and_the_key_of_any_other_subject() {
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap();
        assert_eq!(csr.spki_der(), key.spki_der());
        assert_eq!(csr.public_key_digest(), key.public_key_digest());

        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = CertificateParams::new(vec!["swarm-ca".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "swarm-manager");
        let pem = params.serialize_request(&p384).unwrap().pem().unwrap();
        let pem = pem.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
        let csr = Csr::parse(pem.as_bytes()).unwrap();
        assert_eq!(csr.spki_der(), p384.subject_public_key_info());
    }

    #[test]
    fn our_request_has_an_empty_subject_and_no_attributes() {
        let der = good();
        let (_, request) = X509CertificationRequest::from_der(&der).unwrap();
        let info = &request.certification_request_info;
        assert_eq!(info.subject.as_raw(), [0x30, 0x00]);
        assert!(info.attributes().is_empty());
        assert_eq!(
            request.signature_algorithm.algorithm,
            OID_SIG_ECDSA_WITH_SHA256
        );
    }

    proptest! {
        #[test]
        fn random_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Csr::parse(&bytes).is_err());
            prop_assert!(parse_der(&bytes).is_err());
        }

        #[test]
        fn a_mutated_request_is_refused_or_for_the_same_key(
            at: prop::sample::Index, value: u8, cut: prop::sample::Index,
        ) {
            let der = good();
            let same = parse_der(&der).unwrap();
            let mut mutated = der.clone();
            let at = at.index(der.len());
            mutated[at] = value;
            if let Ok(csr) = parse_der(&mutated) {
                prop_assert_eq!(csr, same);
            }
            prop_assert!(parse_der(&der[..cut.index(der.len())]).is_err());
        }
    }
}
