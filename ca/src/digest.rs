//! SHA-256 digests that name a trust bundle or a public key.

use std::fmt;

use sha2::{Digest, Sha256};

/// SHA-256 over the exact PEM bytes of a trust bundle (spec/pki.md §2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BundleDigest([u8; 32]);

impl BundleDigest {
    /// The digest of these exact bytes, parsed or not.
    pub fn of(pem: &[u8]) -> Self {
        Self(Sha256::digest(pem).into())
    }

    /// A digest read elsewhere, as from a join token.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// 64 lower-case hexadecimal digits.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Display for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for BundleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BundleDigest({self})")
    }
}

/// SHA-256 over the DER of a SubjectPublicKeyInfo: the name of a node's key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKeyDigest([u8; 32]);

impl PublicKeyDigest {
    /// The name of the key in the first certificate of a PEM bundle, in which there may be text
    /// as in any root that an operator gives; nothing if it cannot be read. Verifies nothing.
    pub fn of_certificate_pem(pem: &[u8]) -> Option<Self> {
        let issuers = crate::chain::IssuerInfo::all_from_pem(pem).ok()?;
        Some(Self::of_spki(&issuers.first()?.public_key_der))
    }

    /// The digest of a SubjectPublicKeyInfo in DER.
    pub fn of_spki(spki_der: &[u8]) -> Self {
        Self(Sha256::digest(spki_der).into())
    }

    /// A digest read from a record.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PublicKeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for PublicKeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKeyDigest({self})")
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_sha256_in_lower_case() {
        // FIPS 180-2, appendix B.1.
        let digest = BundleDigest::of(b"abc");
        assert_eq!(
            digest.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            format!("sha256:{}", PublicKeyDigest::of_spki(b"abc")),
            digest.to_string()
        );
    }
}
