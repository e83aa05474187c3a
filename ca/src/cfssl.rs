//! Signing by an external CA that speaks cfssl's protocol (spec/pki.md §12): the messages, and
//! what is taken of its answers.
//!
//! The connection is the shell's. What comes back is compared with the same profile as what is
//! signed here, before anybody stores it.

use std::fmt;

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;
use webpki::EndEntityCert;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::authority::{IssuedCertificate, key_id, subject_key_id};
use crate::chain::{IssuerInfo, issuer_info};
use crate::csr::Csr;
use crate::identity::NodeIdentity;
use crate::pem;
use crate::profile::{ExpectedLeaf, NodeProfile, Origin, ProfileViolation, dns_names};
use crate::root::{TrustBundle, TrustError, may_sign_certificates};
use crate::rotation::LEAST_LIFE;
use crate::serial::Serial;
use crate::skew::stamp;

/// Most bytes of an answer: a certificate takes 2 KiB, an error text less.
pub const MAX_RESPONSE_BYTES: usize = 64 * 1024;
/// Most bytes of a text of the CA that an error shows.
const MAX_TEXT_BYTES: usize = 256;
/// Most bytes of a certificate that the CA sends.
const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;

/// Profile of the CA's configuration under which a root is cross-signed.
const CROSS_SIGN_PROFILE: &str = "CA";
/// basicConstraints, and CA:TRUE without path length in DER, as hex.
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const CA_TRUE: &str = "30030101ff";

/// Go's zero time, which the protocol writes where nothing is asked for.
const NO_TIME: &str = "0001-01-01T00:00:00Z";

const CERTIFICATE: &str = "CERTIFICATE";
/// Signatures that a leaf may bear, as those of roots: ECDSA or RSA with SHA-2.
const LEAF_SIGNATURES: [&str; 6] = [
    "1.2.840.10045.4.3.2",
    "1.2.840.10045.4.3.3",
    "1.2.840.10045.4.3.4",
    "1.2.840.113549.1.1.11",
    "1.2.840.113549.1.1.12",
    "1.2.840.113549.1.1.13",
];

/// Why an external CA gave no certificate. The texts are those that users of the protocol know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CfsslError {
    /// Another status than 200.
    #[error("unexpected status code in CSR response: {status} - {body}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// Not the JSON that was expected.
    #[error("unable to parse JSON response: {problem}")]
    Json {
        /// What is wrong with it.
        problem: String,
    },
    /// The CA refused, with reasons.
    #[error("response errors: {errors}")]
    Refused {
        /// As cfssl lists them.
        errors: String,
    },
    /// The CA refused without a reason.
    #[error("certificate signing request failed")]
    Failed,
    /// The result is no object.
    #[error("invalid result type: {found}")]
    Result {
        /// Its type in Go's words.
        found: &'static str,
    },
    /// The certificate is no text.
    #[error("invalid result certificate field type: {found}")]
    Certificate {
        /// Its type in Go's words.
        found: &'static str,
    },
}

impl CfsslError {
    /// Whether asking again is of no use; else the request stays and is tried again.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Status { .. } | Self::Json { .. })
    }
}

/// Why a certificate of an external CA is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignCertificateError {
    /// Not one certificate in PEM.
    #[error("the external CA sent no readable certificate; look at its log")]
    Unreadable,
    /// Another key signed it.
    #[error(
        "the external CA's certificate is not signed by the root that the cluster has for it; give \
         its certificate with --ca-cert"
    )]
    OtherIssuer,
    /// It departs from the profile.
    #[error(
        "{violation}; change the external CA's signing profile to the usages digital signature, \
         key encipherment, server auth and client auth"
    )]
    Profile {
        /// How.
        violation: ProfileViolation,
    },
    /// Not valid now.
    #[error(
        "the external CA's certificate is valid from {} to {}, and it is {} here; compare the \
         clocks of the hosts",
        stamp(*not_before), stamp(*not_after), stamp(*now)
    )]
    Validity {
        /// Start of its validity.
        not_before: OffsetDateTime,
        /// End of its validity.
        not_after: OffsetDateTime,
        /// The time it was judged at.
        now: OffsetDateTime,
    },
    /// The cross-signed root is not the root that was sent.
    #[error(
        "the external CA changed the {field} of the root that it cross-signed; allow CA \
         certificates and the extension 2.5.29.19 in its profile named CA, and use a root whose \
         subject is a common name alone"
    )]
    OtherRoot {
        /// In X.509's words.
        field: &'static str,
    },
    /// Cross-signed, the root would pass for one that signed itself.
    #[error(
        "the external CA's root and the new one have the same name, and what it signed does not \
         say whose key it means; give a root with another name with --ca-cert and --ca-key"
    )]
    SameName,
}

#[derive(Serialize)]
struct Request<'a> {
    hosts: Option<Vec<&'a str>>,
    certificate_request: &'a str,
    subject: Subject<'a>,
    profile: &'a str,
    crl_override: &'a str,
    label: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<[Extension<'a>; 1]>,
    #[serde(rename = "NotBefore")]
    not_before: &'a str,
    #[serde(rename = "NotAfter")]
    not_after: &'a str,
    #[serde(rename = "ReturnPrecert")]
    return_precert: bool,
    metadata: Option<()>,
}

#[derive(Serialize)]
struct Subject<'a> {
    #[serde(rename = "CN")]
    common_name: &'a str,
    names: Vec<Names<'a>>,
    #[serde(rename = "SerialNumber")]
    serial_number: &'a str,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "UPPERCASE")]
struct Names<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    st: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    l: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    o: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ou: Option<&'a str>,
}

#[derive(Serialize)]
struct Extension<'a> {
    id: &'a str,
    critical: bool,
    value: &'a str,
}

impl Request<'_> {
    fn to_json(&self) -> String {
        // Only strings, lists and flags: nothing that serialisation can refuse.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What is posted for a node's certificate. How long it lives the CA decides alone.
pub fn node_request(csr_pem: &str, profile: &NodeProfile) -> String {
    Request {
        hosts: Some(dns_names(profile)),
        certificate_request: csr_pem,
        subject: Subject {
            common_name: &profile.node_id,
            names: vec![Names {
                o: Some(&profile.cluster_id),
                ou: Some(profile.role.ou()),
                ..Names::default()
            }],
            serial_number: "",
        },
        profile: "",
        crl_override: "",
        label: "",
        extensions: None,
        not_before: NO_TIME,
        not_after: NO_TIME,
        return_precert: false,
        metadata: None,
    }
    .to_json()
}

/// What is posted to have a new root cross-signed: a request of its key, and its subject.
///
/// # Errors
/// [`TrustError`] if `root_pem` is no single root.
pub fn cross_sign_request(
    csr_pem: &str,
    root_pem: &[u8],
    now: OffsetDateTime,
) -> Result<String, TrustError> {
    let root = TrustBundle::from_pem(root_pem, now)?;
    let malformed = TrustError::Malformed { position: 1 };
    let der = root.only_root().ok_or(malformed.clone())?;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| malformed)?;
    let subject = certificate.subject();
    let names = Names {
        c: first(subject.iter_country()),
        st: first(subject.iter_state_or_province()),
        l: first(subject.iter_locality()),
        o: first(subject.iter_organization()),
        ou: first(subject.iter_organizational_unit()),
    };
    Ok(Request {
        hosts: None,
        certificate_request: csr_pem,
        subject: Subject {
            common_name: first(subject.iter_common_name()).unwrap_or_default(),
            names: vec![names],
            serial_number: "",
        },
        profile: CROSS_SIGN_PROFILE,
        crl_override: "",
        label: "",
        extensions: Some([Extension {
            id: BASIC_CONSTRAINTS,
            critical: true,
            value: CA_TRUE,
        }]),
        not_before: NO_TIME,
        not_after: NO_TIME,
        return_precert: false,
        metadata: None,
    }
    .to_json())
}

fn first<'n, 'a: 'n>(
    mut attributes: impl Iterator<Item = &'n x509_parser::x509::AttributeTypeAndValue<'a>>,
) -> Option<&'n str> {
    attributes.next()?.as_str().ok()
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    errors: Option<Vec<Reason>>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{} {}}}", self.code, self.message)
    }
}

/// The certificate in an answer, which is not looked at yet.
///
/// # Errors
/// See [`CfsslError`].
pub fn read_response(status: u16, body: &[u8]) -> Result<String, CfsslError> {
    if status != 200 {
        return Err(CfsslError::Status {
            status,
            body: cut(String::from_utf8_lossy(body).trim_end()),
        });
    }
    let response: Response = serde_json::from_slice(body).map_err(|error| CfsslError::Json {
        problem: cut(&error.to_string()),
    })?;
    if !response.success || response.result.is_null() {
        let errors = response.errors.unwrap_or_default();
        if errors.is_empty() {
            return Err(CfsslError::Failed);
        }
        let errors: Vec<_> = errors.iter().map(Reason::to_string).collect();
        return Err(CfsslError::Refused {
            errors: cut(&format!("[{}]", errors.join(" "))),
        });
    }
    let Value::Object(mut result) = response.result else {
        return Err(CfsslError::Result {
            found: go_type(&response.result),
        });
    };
    match result.remove("certificate").unwrap_or_default() {
        Value::String(pem) => Ok(pem),
        other => Err(CfsslError::Certificate {
            found: go_type(&other),
        }),
    }
}

/// What Go calls a JSON value.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// At most [`MAX_TEXT_BYTES`] of a text, without what a terminal obeys.
fn cut(text: &str) -> String {
    let end = text.floor_char_boundary(MAX_TEXT_BYTES);
    // No longer than what they stand for.
    text[..end].replace(char::is_control, "?")
}

/// The public half of a root whose key an external CA holds.
#[derive(Debug, Clone)]
pub struct ExternalIssuer {
    der: Vec<u8>,
    info: IssuerInfo,
    subject_key_id: Option<Vec<u8>>,
}

impl ExternalIssuer {
    /// Reads one root certificate.
    ///
    /// # Errors
    /// See [`TrustError`]; [`TrustError::Malformed`] also for several certificates.
    pub fn from_pem(cert_pem: &[u8], now: OffsetDateTime) -> Result<Self, TrustError> {
        let trust = TrustBundle::from_pem(cert_pem, now)?;
        let malformed = TrustError::Malformed { position: 2 };
        let der = trust.only_root().ok_or(malformed.clone())?.to_vec();
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| malformed)?;
        let subject_key_id = subject_key_id(&certificate);
        Ok(Self {
            info: trust.issuer_info().clone(),
            subject_key_id,
            der,
        })
    }

    /// Subject and key, for `TLSInfo`.
    pub fn issuer_info(&self) -> &IssuerInfo {
        &self.info
    }

    /// Takes a node's certificate that the CA signed, if it is what the profile says: subject,
    /// names, key, usages and signature. Serial and validity are the CA's own.
    ///
    /// # Errors
    /// See [`ForeignCertificateError`].
    pub fn accept_leaf(
        &self,
        pem: &str,
        profile: &NodeProfile,
        csr: &Csr,
        now: OffsetDateTime,
    ) -> Result<IssuedCertificate, ForeignCertificateError> {
        // 1. One certificate, of this issuer.
        let der = read_certificate(pem)?;
        let certificate = self.signed(&der)?;
        let tbs = &certificate.tbs_certificate;
        // 2. Every field that is ours to say.
        let in_profile = |violation| ForeignCertificateError::Profile { violation };
        let violation = |field| in_profile(ProfileViolation { field });
        let signature = certificate.signature_algorithm.algorithm.to_id_string();
        if !LEAF_SIGNATURES.contains(&signature.as_str()) {
            return Err(violation("signature"));
        }
        let serial = Serial::from_bytes(tbs.raw_serial()).map_err(|_| violation("serial"))?;
        let expected = ExpectedLeaf {
            profile,
            serial,
            not_before: tbs.validity.not_before.to_datetime(),
            not_after: tbs.validity.not_after.to_datetime(),
            spki_der: csr.spki_der(),
            subject_key_id: key_id(csr.key_bytes()),
            issuer_der: &self.info.subject_der,
            authority_key_id: self.subject_key_id.as_deref().unwrap_or_default(),
            signature: &signature,
            origin: Origin::External,
        };
        expected.check(tbs).map_err(in_profile)?;
        check_validity(&certificate, now)?;
        let identity = NodeIdentity::from_tbs(tbs).map_err(|_| violation("subject"))?;
        let pem = pem::write(CERTIFICATE, &der).to_string();
        Ok(IssuedCertificate { der, pem, identity })
    }

    /// Takes a root that the CA cross-signed, if it is the root that was sent; as PEM.
    ///
    /// # Errors
    /// See [`ForeignCertificateError`].
    pub fn accept_cross_signed(
        &self,
        pem: &str,
        root: &IssuerInfo,
        now: OffsetDateTime,
    ) -> Result<String, ForeignCertificateError> {
        let der = read_certificate(pem)?;
        let certificate = self.signed(&der)?;
        let other = |field| ForeignCertificateError::OtherRoot { field };
        let found = issuer_info(&der).map_err(|_| ForeignCertificateError::Unreadable)?;
        if found.public_key_der != root.public_key_der {
            return Err(other("public key"));
        }
        if found.subject_der != root.subject_der {
            return Err(other("subject"));
        }
        if !may_sign_certificates(&certificate) {
            return Err(other("basicConstraints"));
        }
        // Without it, verifiers that go by names take equal ones for self-signed.
        let is_named_alike = found.subject_der == self.info.subject_der;
        if is_named_alike && authority_key_id(&certificate) != self.subject_key_id.as_deref() {
            return Err(ForeignCertificateError::SameName);
        }
        check_validity(&certificate, now)?;
        // Chains end with it for those who know the present root alone.
        if certificate.validity().not_after.to_datetime() < now + LEAST_LIFE {
            return Err(other("validity, which ends within a year,"));
        }
        Ok(pem::write(CERTIFICATE, &der).to_string())
    }

    fn signed<'d>(
        &self,
        der: &'d CertificateDer<'_>,
    ) -> Result<X509Certificate<'d>, ForeignCertificateError> {
        let Ok(([], certificate)) = X509Certificate::from_der(der) else {
            return Err(ForeignCertificateError::Unreadable);
        };
        // What nodes verify with reads more strictly, as the algorithm outside of what is signed.
        EndEntityCert::try_from(der).map_err(|_| ForeignCertificateError::Unreadable)?;
        let other = ForeignCertificateError::OtherIssuer;
        if certificate.issuer().as_raw() != self.info.subject_der {
            return Err(other);
        }
        let (_, key) =
            SubjectPublicKeyInfo::from_der(&self.info.public_key_der).map_err(|_| other.clone())?;
        certificate
            .verify_signature(Some(&key))
            .map_err(|_| other)?;
        Ok(certificate)
    }

    /// The root in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

fn read_certificate(pem: &str) -> Result<CertificateDer<'static>, ForeignCertificateError> {
    pem::read_one(pem.as_bytes(), MAX_CERTIFICATE_BYTES, &[CERTIFICATE])
        .map(|block| CertificateDer::from(block.der.to_vec()))
        .map_err(|_| ForeignCertificateError::Unreadable)
}

/// The key that a certificate says signed it.
fn authority_key_id<'c>(certificate: &'c X509Certificate<'_>) -> Option<&'c [u8]> {
    use x509_parser::extensions::ParsedExtension::AuthorityKeyIdentifier;
    let mut extensions = certificate.extensions().iter();
    extensions.find_map(|extension| match extension.parsed_extension() {
        AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|key| key.0),
        _ => None,
    })
}

/// Good now, or nobody could use it.
fn check_validity(
    certificate: &X509Certificate<'_>,
    now: OffsetDateTime,
) -> Result<(), ForeignCertificateError> {
    let not_before = certificate.validity().not_before.to_datetime();
    let not_after = certificate.validity().not_after.to_datetime();
    if now < not_before || now > not_after {
        return Err(ForeignCertificateError::Validity {
            not_before,
            not_after,
            now,
        });
    }
    Ok(())
}

#[cfg(test)]
#[path = "cfssl_tests.rs"]
mod tests;
