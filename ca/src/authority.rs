//! The signing root: makes and loads the root certificate and key, issues node certificates.

use std::cell::Cell;
use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, DnValue, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, PublicKeyData, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};
use zeroize::Zeroizing;

use crate::ROOT_COMMON_NAME;
use crate::chain::{
    ChainError, ChainLimitError, IssuerInfo, MAX_CHAIN_CERTIFICATES, chain_from_pem, check_strictly,
};
use crate::csr::Csr;
use crate::identity::{IdentityError, NodeIdentity, has_single_attributes};
use crate::key::{EcdsaSigner, KeyError, NodeKey};
use crate::pem;
use crate::profile::{ExpectedLeaf, NodeProfile, Origin, ProfileViolation, backdated};
use crate::root::{TrustBundle, TrustError, may_sign_certificates};
use crate::serial::{SERIAL_BYTES, Serial};

/// Life of a generated root: 7,300 days (spec/pki.md §1, `RootCAExpiration`).
const ROOT_LIFE: time::Duration = time::Duration::seconds(630_720_000);

/// What a leaf lives beyond its expiry, since its start is backdated by as much.
const LEAF_SLACK: time::Duration = time::Duration::HOUR;

/// A root certificate with its private key, ready to sign.
///
/// The key pair is read and the issuer's name decoded once; issuing costs one signature and one
/// verification.
pub struct RootAuthority {
    trust: TrustBundle,
    cert_pem: String,
    /// Subject and key of who signs: the root's own, or an intermediate's below it.
    info: IssuerInfo,
    /// What leads from a leaf to the root, in PEM, the signing certificate first; empty if the
    /// root signs itself.
    way_pem: String,
    pkcs8: Zeroizing<Vec<u8>>,
    signer: EcdsaSigner,
    issuer: CertificateParams,
    subject_key_id: Vec<u8>,
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
}

/// Why a root cannot sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootAuthorityError {
    /// The operating system gave no random bytes.
    #[error("no random bytes could be had from the operating system; look at its log")]
    Random,
    /// The root's dates are beyond the calendar.
    #[error("this host's clock is too far off to make a root certificate; set it, then try again")]
    Clock,
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] TrustError),
    /// More than one certificate.
    #[error("the signing certificate is a bundle of several; give exactly one")]
    SeveralCertificates,
    /// The key.
    #[error(
        "the root's private key cannot be used; give an unencrypted PKCS#8 key on P-256 or P-384"
    )]
    Key(#[source] KeyError),
    /// A certificate on the way to the root is not signed by the next, or may not sign.
    #[error(
        "the signing certificate does not lead to the root that comes with it, {problem}; give the \
         intermediate first and the root last"
    )]
    Way {
        /// What is wrong with it.
        problem: ChainError,
    },
    /// The key is for another certificate.
    #[error("certificate key mismatch; give the private key that belongs to the root certificate")]
    KeyMismatch,
    /// A name or extension that cannot be copied into certificates faithfully.
    #[error(
        "the root's {field} cannot be carried into node certificates; use a root with a plain \
         subject and a subjectKeyIdentifier"
    )]
    Unsuitable {
        /// In X.509's words.
        field: &'static str,
    },
    /// The encoder failed.
    #[error("the root certificate could not be made; report this as a fault")]
    Encoding,
}

/// Why a certificate was not issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The root is out of its validity.
    #[error(
        "the root certificate is not valid at this time; set this host's clock, or rotate the \
         root with `docker swarm ca --rotate`"
    )]
    RootNotValid,
    /// The leaf's dates are beyond the calendar.
    #[error("the certificate's dates are beyond the calendar; set this host's clock")]
    Clock,
    /// What was to be signed, or what came out, is not what the profile says.
    #[error("a certificate was not signed; report this as a fault")]
    Profile(#[from] ProfileViolation),
    /// Encoding or signing failed.
    #[error("a certificate could not be signed; report this as a fault")]
    Signing,
    /// What came out cannot be read back or does not verify.
    #[error("a signed certificate did not verify and was thrown away; report this as a fault")]
    Unreadable,
}

/// A freshly signed node certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// The certificate in DER.
    pub der: CertificateDer<'static>,
    /// The certificate as one PEM block, for the node and the record.
    pub pem: String,
    /// What it says.
    pub identity: NodeIdentity,
}

/// An operator's intermediate with its way to a root.
struct SigningWay {
    trust: TrustBundle,
    root_pem: String,
    /// Not empty; the one that signs first.
    intermediates: Vec<CertificateDer<'static>>,
}

impl SigningWay {
    /// Each certificate signed by the next, the root last; within their validity, and allowed
    /// to sign.
    fn from_pem(pem: &[u8], now: OffsetDateTime) -> Result<Self, RootAuthorityError> {
        let in_way = |problem| RootAuthorityError::Way { problem };
        let mut chain = chain_from_pem(pem).map_err(in_way)?;
        check_strictly(&chain, now).map_err(in_way)?;
        let root = chain
            .pop()
            .unwrap_or_else(|| CertificateDer::from(Vec::new()));
        let root_pem = pem::write("CERTIFICATE", &root).to_string();
        let trust = TrustBundle::from_pem(root_pem.as_bytes(), now)?;
        if chain.is_empty() {
            return Err(RootAuthorityError::Unsuitable { field: "way" });
        }
        for der in &chain {
            let (_, certificate) = X509Certificate::from_der(der)
                .map_err(|_| TrustError::Malformed { position: 1 })?;
            if !may_sign_certificates(&certificate) {
                return Err(in_way(ChainError::MayNotSign));
            }
        }
        // A leaf, those on the way, and room for a root that is cross-signed one day.
        if chain.len() + 2 > MAX_CHAIN_CERTIFICATES {
            return Err(in_way(ChainError::Limit(ChainLimitError::TooLong {
                certificates: chain.len() + 2,
            })));
        }
        Ok(Self {
            trust,
            root_pem,
            intermediates: chain,
        })
    }
}

impl RootAuthority {
    /// A new P-256 root, `CN=swarm-ca`, 20 years from `now` backdated by [`crate::BACKDATE`].
    ///
    /// As spec/pki.md §2.1 says, but for the backdate: an hour, as leaves have, so that a node
    /// whose clock lags by less can join a new cluster.
    ///
    /// # Errors
    /// [`RootAuthorityError::Random`] and [`RootAuthorityError::Clock`].
    pub fn generate(now: OffsetDateTime) -> Result<Self, RootAuthorityError> {
        let key = NodeKey::generate().map_err(|_| RootAuthorityError::Random)?;
        let mut random = [0; SERIAL_BYTES];
        SystemRandom::new()
            .fill(&mut random)
            .map_err(|_| RootAuthorityError::Random)?;
        let serial = Serial::from_random(random).map_err(|_| RootAuthorityError::Random)?;

        let not_before = backdated(now).ok_or(RootAuthorityError::Clock)?;
        let not_after = not_before
            .checked_add(ROOT_LIFE)
            .ok_or(RootAuthorityError::Clock)?;
        let encoding = |_| RootAuthorityError::Encoding;
        let mut name = DistinguishedName::new();
        let common_name = ROOT_COMMON_NAME.try_into().map_err(encoding)?;
        name.push(DnType::CommonName, DnValue::PrintableString(common_name));
        let (pkcs8, signer) = key.into_parts();
        let mut params = CertificateParams::default();
        params.not_before = not_before;
        params.not_after = not_after;
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(signer.der_bytes()));
        let certificate = params.self_signed(&signer).map_err(encoding)?;
        let cert_pem = pem::write("CERTIFICATE", certificate.der()).to_string();
        Self::assemble(cert_pem, pkcs8, signer, now)
    }

    /// Loads a root certificate (one block) and its PKCS#8 key (P-256 or P-384).
    ///
    /// # Errors
    /// See [`RootAuthorityError`].
    pub fn from_pem(
        cert_pem: &[u8],
        key_pem: &[u8],
        now: OffsetDateTime,
    ) -> Result<Self, RootAuthorityError> {
        let key = NodeKey::from_pkcs8_pem(key_pem).map_err(RootAuthorityError::Key)?;
        let (pkcs8, signer) = key.into_parts();
        // PEM that the bundle accepts is ASCII; the bytes stay as they are, for the digest.
        let cert_pem = String::from_utf8_lossy(cert_pem).into_owned();
        Self::assemble(cert_pem, pkcs8, signer, now)
    }

    fn assemble(
        cert_pem: String,
        pkcs8: Zeroizing<Vec<u8>>,
        signer: EcdsaSigner,
        now: OffsetDateTime,
    ) -> Result<Self, RootAuthorityError> {
        let trust = TrustBundle::from_pem(cert_pem.as_bytes(), now)?;
        let der = trust
            .only_root()
            .ok_or(RootAuthorityError::SeveralCertificates)?
            .to_vec();
        Self::with(trust, cert_pem, String::new(), &der, pkcs8, signer)
    }

    /// Loads an operator's own intermediate below a root whose key stays elsewhere: its
    /// certificate, any more on the way, and the root last; and the intermediate's PKCS#8 key.
    ///
    /// # Errors
    /// See [`RootAuthorityError`].
    pub fn intermediate_from_pem(
        bundle_pem: &[u8],
        key_pem: &[u8],
        now: OffsetDateTime,
    ) -> Result<Self, RootAuthorityError> {
        let way = SigningWay::from_pem(bundle_pem, now)?;
        let key = NodeKey::from_pkcs8_pem(key_pem).map_err(RootAuthorityError::Key)?;
        let (pkcs8, signer) = key.into_parts();
        let der = way.intermediates[0].clone();
        let way_pem = crate::chain::chain_to_pem(&way.intermediates);
        Self::with(way.trust, way.root_pem, way_pem, &der, pkcs8, signer)
    }

    fn with(
        trust: TrustBundle,
        cert_pem: String,
        way_pem: String,
        signing_der: &[u8],
        pkcs8: Zeroizing<Vec<u8>>,
        signer: EcdsaSigner,
    ) -> Result<Self, RootAuthorityError> {
        let (_, certificate) = X509Certificate::from_der(signing_der)
            .map_err(|_| TrustError::Malformed { position: 1 })?;
        if certificate.public_key().raw != signer.subject_public_key_info() {
            return Err(RootAuthorityError::KeyMismatch);
        }
        let subject_key_id =
            subject_key_id(&certificate).ok_or(RootAuthorityError::Unsuitable {
                field: "subjectKeyIdentifier",
            })?;
        let mut issuer = CertificateParams::default();
        issuer.distinguished_name = distinguished_name(certificate.subject())
            .ok_or(RootAuthorityError::Unsuitable { field: "subject" })?;
        issuer.key_identifier_method = KeyIdMethod::PreSpecified(subject_key_id.clone());
        let not_before = certificate.validity().not_before.to_datetime();
        let not_after = certificate.validity().not_after.to_datetime();
        let info = IssuerInfo {
            subject_der: certificate.subject().as_raw().to_vec(),
            public_key_der: certificate.public_key().raw.to_vec(),
        };
        Ok(Self {
            trust,
            cert_pem,
            info,
            way_pem,
            pkcs8,
            signer,
            issuer,
            subject_key_id,
            not_before,
            not_after,
        })
    }

    /// The root certificate, exactly as generated or loaded.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The private key as one PKCS#8 `PRIVATE KEY` block.
    pub fn key_pem(&self) -> Zeroizing<String> {
        pem::write("PRIVATE KEY", &self.pkcs8)
    }

    /// A request of this root's key, for another CA to cross-sign it, as PEM.
    ///
    /// # Errors
    /// [`IssueError::Signing`].
    pub fn csr_pem(&self) -> Result<String, IssueError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.issuer.distinguished_name.clone();
        let request = params
            .serialize_request(&self.signer)
            .map_err(|_| IssueError::Signing)?;
        Ok(pem::write("CERTIFICATE REQUEST", request.der()).to_string())
    }

    /// The root as a trust bundle, with its digest.
    pub fn trust(&self) -> &TrustBundle {
        &self.trust
    }

    /// Subject and key of who signs, for `TLSInfo`.
    pub fn issuer_info(&self) -> &IssuerInfo {
        &self.info
    }

    /// What goes with each leaf so that it leads to the root, in PEM: the intermediate that
    /// signs, and any between it and the root. Empty if the root signs itself.
    pub fn way_pem(&self) -> &str {
        &self.way_pem
    }

    /// Signs a node certificate for the key of `csr`.
    ///
    /// `profile` comes from the manager's own record, never from the request; `serial` is
    /// recorded by the caller before this is called.
    ///
    /// # Errors
    /// See [`IssueError`].
    pub fn issue(
        &self,
        profile: &NodeProfile,
        csr: &Csr,
        serial: Serial,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, IssueError> {
        // 1. A root signs nothing outside of its own validity.
        if !self.is_valid(now) {
            return Err(IssueError::RootNotValid);
        }
        // 2. Every field of the certificate is settled before the encoder sees it.
        let not_before = backdated(now).ok_or(IssueError::Clock)?;
        let not_after = time::Duration::try_from(profile.expiry.duration())
            .ok()
            .and_then(|expiry| expiry.checked_add(LEAF_SLACK))
            .and_then(|life| not_before.checked_add(life))
            .ok_or(IssueError::Clock)?;
        let signature = dotted(self.signer.algorithm());
        let expected = ExpectedLeaf {
            profile,
            serial,
            not_before,
            not_after,
            spki_der: csr.spki_der(),
            subject_key_id: key_id(csr.key().der_bytes()),
            issuer_der: &self.issuer_info().subject_der,
            authority_key_id: &self.subject_key_id,
            signature,
            origin: Origin::Own,
        };
        // 3. The encoder's work is compared with the profile, then signed.
        let params = expected.params()?;
        let signer = ProfiledSigner::new(&self.signer, &expected);
        let signed = params.signed_by(csr.key(), &Issuer::from_params(&self.issuer, &signer));
        let der = match (signed, signer.violation.take()) {
            (Ok(certificate), None) => certificate.der().clone(),
            (_, Some(violation)) => return Err(violation.into()),
            (Err(_), None) => return Err(IssueError::Signing),
        };
        // 4. The result is read, compared and verified again, as a relying party would.
        let Ok(([], certificate)) = X509Certificate::from_der(&der) else {
            return Err(IssueError::Unreadable);
        };
        expected.check(&certificate.tbs_certificate)?;
        self.verify(&certificate)?;
        let identity = NodeIdentity::from_tbs(&certificate.tbs_certificate)
            .map_err(|_: IdentityError| IssueError::Unreadable)?;
        let pem = pem::write("CERTIFICATE", &der).to_string();
        Ok(IssuedCertificate { der, pem, identity })
    }

    /// Whether this root may sign at `now`.
    pub(crate) fn is_valid(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// End of this root's validity.
    pub fn not_after(&self) -> OffsetDateTime {
        self.not_after
    }

    /// What its certificates name their issuer's key by.
    pub(crate) fn subject_key_id(&self) -> &[u8] {
        &self.subject_key_id
    }

    pub(crate) fn issuer_params(&self) -> &CertificateParams {
        &self.issuer
    }

    pub(crate) fn signer(&self) -> &EcdsaSigner {
        &self.signer
    }

    pub(crate) fn verify(&self, certificate: &X509Certificate<'_>) -> Result<(), IssueError> {
        let (_, key) = SubjectPublicKeyInfo::from_der(&self.issuer_info().public_key_der)
            .map_err(|_| IssueError::Unreadable)?;
        certificate
            .verify_signature(Some(&key))
            .map_err(|_| IssueError::Unreadable)
    }
}

impl fmt::Debug for RootAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootAuthority({})", self.trust.digest())
    }
}

/// Signs only what matches the profile.
struct ProfiledSigner<'a> {
    signer: &'a EcdsaSigner,
    expected: &'a ExpectedLeaf<'a>,
    violation: Cell<Option<ProfileViolation>>,
}

impl<'a> ProfiledSigner<'a> {
    fn new(signer: &'a EcdsaSigner, expected: &'a ExpectedLeaf<'a>) -> Self {
        Self {
            signer,
            expected,
            violation: Cell::new(None),
        }
    }

    fn check(&self, tbs: &[u8]) -> Result<(), ProfileViolation> {
        match TbsCertificate::from_der(tbs) {
            Ok(([], tbs)) => self.expected.check(&tbs),
            _ => Err(ProfileViolation { field: "encoding" }),
        }
    }
}

impl PublicKeyData for ProfiledSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.signer.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.signer.algorithm()
    }
}

impl rcgen::SigningKey for ProfiledSigner<'_> {
    fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        if let Err(violation) = self.check(tbs) {
            self.violation.set(Some(violation));
            return Err(rcgen::Error::RemoteKeyError);
        }
        self.signer.sign(tbs)
    }
}

/// SHA-1 over the contents of the key's BIT STRING (RFC 5280 §4.2.1.2, method 1): what engines
/// show and cfssl writes. It names a key and protects nothing.
pub(crate) fn key_id(public_key: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, public_key)
        .as_ref()
        .to_vec()
}

fn dotted(algorithm: &'static rcgen::SignatureAlgorithm) -> &'static str {
    if *algorithm == rcgen::PKCS_ECDSA_P384_SHA384 {
        "1.2.840.10045.4.3.3"
    } else {
        "1.2.840.10045.4.3.2"
    }
}

pub(crate) fn subject_key_id(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    use x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier;
    certificate
        .extensions()
        .iter()
        .find_map(|extension| match extension.parsed_extension() {
            SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        })
}

/// A name for the encoder with types, order and string types kept.
///
/// `None` for a name that it cannot write back as it was: several attributes in one RDN, a type
/// that stands there twice, an unusual string type.
pub(crate) fn distinguished_name(name: &X509Name<'_>) -> Option<DistinguishedName> {
    if !has_single_attributes(name) {
        return None;
    }
    let mut copy = DistinguishedName::new();
    for attribute in name.iter_attributes() {
        let kind = DnType::CustomDnType(attribute.attr_type().iter()?.collect());
        let value = attribute.attr_value();
        let text = std::str::from_utf8(value.data).ok()?;
        let value = match value.tag() {
            Tag::Utf8String => DnValue::Utf8String(text.to_owned()),
            Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
            Tag::Ia5String => DnValue::Ia5String(text.try_into().ok()?),
            _ => return None,
        };
        if copy.get(&kind).is_some() {
            return None;
        }
        copy.push(kind, value);
    }
    Some(copy)
}

#[cfg(test)]
#[path = "authority_tests.rs"]
mod tests;
