//! Cross-signing: a root's certificate once more, issued by the root before it.
//!
//! It leads from leaves of the new root to nodes that know only the old one, and shows whoever
//! missed a rotation the way to the present root.

use rcgen::{CertificateParams, CustomExtension, Issuer, PublicKeyData, SerialNumber};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ParsedExtension, X509Extension};
use x509_parser::oid_registry::OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Version;

use crate::authority::{RootAuthority, distinguished_name};
use crate::pem;
use crate::root::TrustBundle;

/// Why a root was not cross-signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CrossSignError {
    /// More than one certificate.
    #[error("the new root is a bundle of several certificates; give exactly one")]
    SeveralCertificates,
    /// A chain in which two certificates have one key does not verify (spec/pki.md §11.2).
    #[error("the new root has the same key as the present one; make a new key")]
    SameKey,
    /// The signing root is out of its validity.
    #[error("the present root certificate is not valid at this time; set this host's clock")]
    RootNotValid,
    /// A name or key that cannot be written back as it is.
    #[error("the new root's {field} cannot be copied; use a root with a plain subject")]
    Unsuitable {
        /// In X.509's words.
        field: &'static str,
    },
    /// Encoding or signing failed, or what came out is not what went in.
    #[error("the new root could not be cross-signed; report this as a fault")]
    Signing,
}

impl RootAuthority {
    /// The certificate of `root`, one PEM block, with this root as its issuer: serial, subject,
    /// key, validity and extensions stay; the authorityKeyIdentifier is this root's in any case,
    /// as without one `openssl` takes equal names for self-signed (spec/pki.md §11.3).
    ///
    /// # Errors
    /// See [`CrossSignError`].
    pub fn cross_sign(
        &self,
        root: &TrustBundle,
        now: OffsetDateTime,
    ) -> Result<String, CrossSignError> {
        if !self.is_valid(now) {
            return Err(CrossSignError::RootNotValid);
        }
        let der = root
            .only_root()
            .ok_or(CrossSignError::SeveralCertificates)?;
        let Ok(([], certificate)) = X509Certificate::from_der(der) else {
            return Err(CrossSignError::Signing);
        };
        if certificate.public_key().raw == self.issuer_info().public_key_der {
            return Err(CrossSignError::SameKey);
        }
        let signed = self.sign_again(&certificate)?;
        self.check_cross(&certificate, &signed)?;
        Ok(pem::write("CERTIFICATE", &signed).to_string())
    }

    fn sign_again(
        &self,
        root: &X509Certificate<'_>,
    ) -> Result<CertificateDer<'static>, CrossSignError> {
        let unsuitable = |field| CrossSignError::Unsuitable { field };
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(root.tbs_certificate.raw_serial()));
        params.not_before = root.validity().not_before.to_datetime();
        params.not_after = root.validity().not_after.to_datetime();
        params.distinguished_name =
            distinguished_name(root.subject()).ok_or(unsuitable("subject"))?;
        params.use_authority_key_identifier_extension = true;
        // All as they stand, bytes for bytes; the encoder adds none of its own to these.
        params.custom_extensions = kept(root)
            .map(copy)
            .collect::<Option<_>>()
            .ok_or(unsuitable("extension list"))?;
        let key = rcgen::SubjectPublicKeyInfo::from_der(root.public_key().raw)
            .map_err(|_| unsuitable("public key"))?;
        if key.subject_public_key_info() != root.public_key().raw {
            return Err(unsuitable("public key"));
        }
        let issuer = Issuer::from_params(self.issuer_params(), self.signer());
        let signed = params
            .signed_by(&key, &issuer)
            .map_err(|_| CrossSignError::Signing)?;
        Ok(signed.der().clone())
    }

    /// Reads the result as a relying party would, and compares it with what it was made of.
    fn check_cross(&self, root: &X509Certificate<'_>, der: &[u8]) -> Result<(), CrossSignError> {
        let Ok(([], cross)) = X509Certificate::from_der(der) else {
            return Err(CrossSignError::Signing);
        };
        let same = cross.version() == X509Version::V3
            && cross.tbs_certificate.raw_serial() == root.tbs_certificate.raw_serial()
            && cross.subject().as_raw() == root.subject().as_raw()
            && cross.public_key().raw == root.public_key().raw
            && cross.validity() == root.validity()
            && kept(&cross).map(parts).eq(kept(root).map(parts));
        let issued = cross.issuer().as_raw() == self.issuer_info().subject_der
            && authority_key_id(&cross) == Some(self.subject_key_id())
            && self.verify(&cross).is_ok();
        if same && issued {
            Ok(())
        } else {
            Err(CrossSignError::Signing)
        }
    }
}

/// All extensions but the one that names the issuer's key.
fn kept<'a>(
    certificate: &'a X509Certificate<'a>,
) -> impl Iterator<Item = &'a X509Extension<'a>> + 'a {
    certificate
        .extensions()
        .iter()
        .filter(|extension| extension.oid != OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER)
}

fn parts<'a>(extension: &'a X509Extension<'a>) -> (&'a [u8], bool, &'a [u8]) {
    (
        extension.oid.as_bytes(),
        extension.critical,
        extension.value,
    )
}

fn copy(extension: &X509Extension<'_>) -> Option<CustomExtension> {
    let oid: Vec<u64> = extension.oid.iter()?.collect();
    let mut copy = CustomExtension::from_oid_content(&oid, extension.value.to_vec());
    copy.set_criticality(extension.critical);
    Some(copy)
}

fn authority_key_id<'a>(certificate: &'a X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => Some(id.key_identifier.as_ref()?.0),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::KeyPair;

    use super::*;
    use crate::chain::{ChainError, Purpose, chain_from_pem, verify_chain};
    use crate::role::Role;
    use crate::test_roots::{NOW, foreign_params, foreign_root, leaf, profile};

    const DAY: Duration = Duration::from_secs(86_400);

    fn generated() -> RootAuthority {
        RootAuthority::generate(NOW).unwrap()
    }

    #[test]
    fn refuses_its_own_key_bundles_and_times_outside_of_its_validity() {
        let old = generated();
        assert_eq!(
            old.cross_sign(old.trust(), NOW),
            Err(CrossSignError::SameKey)
        );
        let new = generated();
        let both = format!("{}{}", new.cert_pem(), old.cert_pem());
        let both = TrustBundle::from_pem(both.as_bytes(), NOW).unwrap();
        assert_eq!(
            old.cross_sign(&both, NOW),
            Err(CrossSignError::SeveralCertificates)
        );
        let short = foreign_root(DAY);
        assert_eq!(
            short.cross_sign(new.trust(), NOW + 2 * DAY),
            Err(CrossSignError::RootNotValid)
        );
    }

    #[test]
    fn everything_but_the_issuer_stays() {
        let old = generated();
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let mut params = foreign_params(DAY);
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &[2, 16, 840, 1, 113_730, 1, 13],
            vec![0x16, 2, b'h', b'i'],
        )];
        let pem = params.self_signed(&key).unwrap().pem();
        let new = TrustBundle::from_pem(pem.as_bytes(), NOW).unwrap();
        let cross = old.cross_sign(&new, NOW).unwrap();
        let cross = chain_from_pem(cross.as_bytes()).unwrap();
        let (_, cross) = X509Certificate::from_der(&cross[0]).unwrap();
        let (_, root) = X509Certificate::from_der(new.only_root().unwrap()).unwrap();
        assert_eq!(cross.tbs_certificate.subject, root.tbs_certificate.subject);
        assert_eq!(cross.raw_serial(), root.raw_serial());
        assert_eq!(kept(&cross).count(), kept(&root).count());
        assert_eq!(cross.extensions().len(), root.extensions().len() + 1);
        assert_eq!(authority_key_id(&cross), Some(old.subject_key_id()));
    }

    #[test]
    fn a_leaf_of_the_new_root_is_believed_by_who_knows_only_the_old_one() {
        let (old, new) = (generated(), generated());
        let cross = old.cross_sign(new.trust(), NOW).unwrap();
        for role in [Role::Worker, Role::Manager] {
            let (issued, _) = leaf(&new, &profile("n", role), NOW);
            let chain = chain_from_pem(format!("{}{cross}", issued.pem).as_bytes()).unwrap();
            // Verifiers' clocks may be off by up to the backdate.
            for minutes in [-50, 0, 50] {
                let now = NOW + time::Duration::minutes(minutes);
                for (trust, known) in [(&old, "old"), (&new, "new")] {
                    let verified = verify_chain(&chain, trust.trust(), now, Purpose::Client);
                    let verified = verified.unwrap_or_else(|error| panic!("{known}: {error}"));
                    assert_eq!(&verified.issuer, new.issuer_info(), "{known}");
                }
            }
            let alone = verify_chain(&chain[..1], old.trust(), NOW, Purpose::Client);
            assert!(matches!(
                alone,
                Err(ChainError::BadSignature | ChainError::UnknownIssuer)
            ));
        }
    }
}
