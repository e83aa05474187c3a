//! A node's private key, and the signer that the root uses too.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

use crate::digest::PublicKeyDigest;
use crate::pem::{self, PemError};

/// Largest key file that is read, in bytes; a P-384 key has about 300.
const MAX_KEY_PEM_BYTES: usize = 16 * 1024;

const PKCS8: &str = "PRIVATE KEY";
const PKCS8_ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";

/// The key pair of a node: P-256 when made here, P-256 or P-384 when loaded.
pub struct NodeKey {
    pkcs8: Zeroizing<Vec<u8>>,
    spki_der: Vec<u8>,
    signer: EcdsaSigner,
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The operating system gave no random bytes.
    #[error("no random bytes could be had from the operating system; look at its log")]
    Random,
    /// Not one clean PEM block.
    #[error(
        "the private key cannot be read, {problem}; restore the key file, or leave the swarm and \
         join again"
    )]
    Pem {
        /// What is wrong with it.
        problem: PemError,
    },
    /// Sealed under a passphrase or an unlock key.
    #[error("the private key is encrypted; unlock this node first with `docker swarm unlock`")]
    Encrypted,
    /// The older EC form.
    #[error(
        "the private key is in the SEC 1 form; convert it with \
         `openssl pkcs8 -topk8 -nocrypt -in KEY -out NEW`"
    )]
    Sec1,
    /// RSA, Ed25519, another curve.
    #[error(
        "the private key is neither P-256 nor P-384; make one with `openssl genpkey \
             -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
    )]
    Unsupported,
    /// Not PKCS#8, or a public half that does not fit.
    #[error("the private key is damaged; restore the key file, or leave the swarm and join again")]
    Malformed,
    /// Signing failed.
    #[error("the private key could not sign; restore the key file, or join again")]
    Signing,
}

impl NodeKey {
    /// A fresh P-256 key.
    ///
    /// # Errors
    /// [`KeyError::Random`] when the operating system has no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| KeyError::Random)?;
        Self::from_pkcs8_der(Zeroizing::new(document.as_ref().to_vec()))
    }

    /// Reads one unencrypted PKCS#8 `PRIVATE KEY` block, P-256 or P-384, and nothing else.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn from_pkcs8_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let labels = [PKCS8, PKCS8_ENCRYPTED, SEC1];
        let block = pem::read_one(pem, MAX_KEY_PEM_BYTES, &labels)
            .map_err(|problem| KeyError::Pem { problem })?;
        match block.label.as_str() {
            PKCS8 => Self::from_pkcs8_der(block.der),
            PKCS8_ENCRYPTED => Err(KeyError::Encrypted),
            _ => Err(KeyError::Sec1),
        }
    }

    fn from_pkcs8_der(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyError> {
        let signer = EcdsaSigner::from_pkcs8(&pkcs8)?;
        let spki_der = signer.subject_public_key_info();
        Ok(Self {
            pkcs8,
            spki_der,
            signer,
        })
    }

    /// The key as one PKCS#8 `PRIVATE KEY` block, which `openssl` reads.
    pub fn pkcs8_pem(&self) -> Zeroizing<String> {
        pem::write(PKCS8, &self.pkcs8)
    }

    /// A certificate request with an empty subject and no attributes, as PEM
    /// `CERTIFICATE REQUEST` (spec/pki.md §3.1).
    ///
    /// # Errors
    /// [`KeyError::Signing`].
    pub fn csr_pem(&self) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&self.signer)
            .map_err(|_| KeyError::Signing)?;
        Ok(pem::write("CERTIFICATE REQUEST", request.der()).to_string())
    }

    /// The public half as SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The name of the public half.
    pub fn public_key_digest(&self) -> PublicKeyDigest {
        PublicKeyDigest::of_spki(&self.spki_der)
    }

    /// An ECDSA signature in DER: with SHA-256 on P-256, with SHA-384 on P-384.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        rcgen::SigningKey::sign(&self.signer, message).map_err(|_| KeyError::Signing)
    }

    /// The key for rustls.
    pub(crate) fn tls_key(&self) -> PrivateKeyDer<'_> {
        PrivatePkcs8KeyDer::from(self.pkcs8.as_slice()).into()
    }

    pub(crate) fn into_parts(self) -> (Zeroizing<Vec<u8>>, EcdsaSigner) {
        (self.pkcs8, self.signer)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(public {})", self.public_key_digest())
    }
}

/// An ECDSA key that signs for rcgen: P-256 with SHA-256 or P-384 with SHA-384.
pub(crate) struct EcdsaSigner {
    pair: EcdsaKeyPair,
    algorithm: &'static rcgen::SignatureAlgorithm,
    random: SystemRandom,
}

impl EcdsaSigner {
    fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        type Curve = (
            &'static EcdsaSigningAlgorithm,
            &'static rcgen::SignatureAlgorithm,
        );
        let curves: [Curve; 2] = [
            (
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &rcgen::PKCS_ECDSA_P256_SHA256,
            ),
            (
                &ECDSA_P384_SHA384_ASN1_SIGNING,
                &rcgen::PKCS_ECDSA_P384_SHA384,
            ),
        ];
        let random = SystemRandom::new();
        for (curve, algorithm) in curves {
            match EcdsaKeyPair::from_pkcs8(curve, pkcs8, &random) {
                Ok(pair) => {
                    return Ok(Self {
                        pair,
                        algorithm,
                        random,
                    });
                }
                Err(rejected) if rejected.to_string() == "WrongAlgorithm" => {}
                Err(_) => return Err(KeyError::Malformed),
            }
        }
        Err(KeyError::Unsupported)
    }
}

impl PublicKeyData for EcdsaSigner {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.algorithm
    }
}

impl rcgen::SigningKey for EcdsaSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&self.random, message);
        Ok(signature
            .map_err(|_| rcgen::Error::RemoteKeyError)?
            .as_ref()
            .to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(pem: &str) -> KeyError {
        NodeKey::from_pkcs8_pem(pem.as_bytes()).unwrap_err()
    }

    #[test]
    fn refuses_other_kinds_of_key() {
        assert_eq!(refused(&pem::write(SEC1, b"x")), KeyError::Sec1);
        assert_eq!(
            refused(&pem::write(PKCS8_ENCRYPTED, b"x")),
            KeyError::Encrypted
        );
        assert_eq!(refused(&pem::write(PKCS8, b"x")), KeyError::Malformed);
        assert!(matches!(
            refused(&pem::write("CERTIFICATE", b"x")),
            KeyError::Pem { .. }
        ));
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(refused(&ed25519.serialize_pem()), KeyError::Unsupported);
    }

    #[test]
    fn refuses_a_key_cut_short() {
        let key = NodeKey::generate().unwrap();
        let cut = pem::write(PKCS8, &key.pkcs8[..key.pkcs8.len() - 1]);
        assert_eq!(refused(&cut), KeyError::Malformed);
    }

    #[test]
    fn survives_pem() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pkcs8_pem(key.pkcs8_pem().as_bytes()).unwrap();
        assert_eq!(again.spki_der(), key.spki_der());
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let loaded = NodeKey::from_pkcs8_pem(p384.serialize_pem().as_bytes()).unwrap();
        assert_eq!(loaded.spki_der(), p384.subject_public_key_info());
    }

    #[test]
    fn debug_shows_only_the_public_half() {
        let key = NodeKey::generate().unwrap();
        let shown = format!("{key:?}");
        assert_eq!(
            shown,
            format!("NodeKey(public {})", key.public_key_digest())
        );
    }
}
