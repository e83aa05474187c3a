//! Who a certificate says its holder is.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::{TbsCertificate, X509Certificate};
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name, X509Version};

use crate::chain::{self, ChainLimitError};
use crate::digest::PublicKeyDigest;
use crate::role::Role;
use crate::serial::{Serial, SerialError};

/// Longest cluster or node id in bytes: X.520's bound for these attributes, and for a DNS label.
pub const MAX_ID_BYTES: usize = 63;

/// The holder of a node certificate, read from its subject.
///
/// It is only as good as the verification that came before: in TLS by [`crate::tls`], outside by
/// [`crate::verify_chain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Id of the cluster: subject O.
    pub cluster_id: String,
    /// Role: subject OU.
    pub role: Role,
    /// Id of the node: subject CN.
    pub node_id: String,
    /// Serial number of the certificate.
    pub serial: Serial,
    /// Start of validity, inclusive.
    pub not_before: OffsetDateTime,
    /// End of validity, inclusive.
    pub not_after: OffsetDateTime,
    /// Keys of the certificates that came with it: its issuer's is among them, unless that is a
    /// root. What else is there is the holder's choice.
    pub above: Arc<[PublicKeyDigest]>,
}

/// Why a certificate names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The chain is empty or over its limits.
    #[error(transparent)]
    Limit(#[from] ChainLimitError),
    /// Not an X.509 version 3 certificate.
    #[error("the certificate cannot be read")]
    Malformed,
    /// A needed attribute is missing.
    #[error("the certificate's subject has no {attribute}")]
    Missing {
        /// `O`, `OU` or `CN`.
        attribute: &'static str,
    },
    /// An attribute stands there twice, so that two readers could disagree.
    #[error("the certificate's subject has more than one {attribute}")]
    Repeated {
        /// `O`, `OU` or `CN`.
        attribute: &'static str,
    },
    /// Neither UTF8String nor PrintableString.
    #[error("the {attribute} of the certificate's subject is no UTF8String or PrintableString")]
    StringType {
        /// `O`, `OU` or `CN`.
        attribute: &'static str,
    },
    /// Not an id: empty, too long, or with characters that ids do not have.
    #[error("the {attribute} of the certificate's subject is not an id")]
    NotAnId {
        /// `O` or `CN`.
        attribute: &'static str,
    },
    /// An OU that is no role.
    #[error("the OU of the certificate's subject is neither swarm-manager nor swarm-worker")]
    UnknownRole,
    /// A serial that RFC 5280 does not allow.
    #[error(transparent)]
    Serial(#[from] SerialError),
}

impl NodeIdentity {
    /// Reads the identity of a parsed certificate.
    pub(crate) fn from_tbs(tbs: &TbsCertificate<'_>) -> Result<Self, IdentityError> {
        if tbs.version != X509Version::V3 {
            return Err(IdentityError::Malformed);
        }
        let subject = &tbs.subject;
        let cluster_id = only(subject.iter_organization(), "O")?;
        let role = only(subject.iter_organizational_unit(), "OU")?;
        let node_id = only(subject.iter_common_name(), "CN")?;
        if !is_id(cluster_id) {
            return Err(IdentityError::NotAnId { attribute: "O" });
        }
        if !is_id(node_id) {
            return Err(IdentityError::NotAnId { attribute: "CN" });
        }
        Ok(Self {
            cluster_id: cluster_id.to_owned(),
            role: Role::from_ou(role).ok_or(IdentityError::UnknownRole)?,
            node_id: node_id.to_owned(),
            serial: Serial::from_bytes(tbs.raw_serial())?,
            not_before: tbs.validity.not_before.to_datetime(),
            not_after: tbs.validity.not_after.to_datetime(),
            above: Arc::default(),
        })
    }
}

/// The identity in the leaf of a chain that TLS has verified.
///
/// # Errors
/// See [`IdentityError`]; the limits of a chain are checked here too, before anything is parsed.
pub fn peer_identity(certs: &[CertificateDer<'_>]) -> Result<NodeIdentity, IdentityError> {
    chain::check_limits(certs)?;
    let (leaf, above) = certs.split_first().ok_or(ChainLimitError::Empty)?;
    let identity = match X509Certificate::from_der(leaf) {
        Ok(([], certificate)) => NodeIdentity::from_tbs(&certificate.tbs_certificate),
        _ => Err(IdentityError::Malformed),
    };
    // What cannot be read has signed nothing that was verified.
    let above = above.iter().filter_map(|der| chain::issuer_info(der).ok());
    let above = above.map(|issuer| PublicKeyDigest::of_spki(&issuer.public_key_der));
    Ok(NodeIdentity {
        above: above.collect(),
        ..identity?
    })
}

/// Whether a text can be a cluster or node id: ids name files and DNS labels, and are logged.
pub(crate) fn is_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=MAX_ID_BYTES).contains(&text.len())
        && text.bytes().all(allowed)
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

/// The text of the only attribute of its kind.
fn only<'n, 'a: 'n>(
    mut attributes: impl Iterator<Item = &'n AttributeTypeAndValue<'a>>,
    attribute: &'static str,
) -> Result<&'n str, IdentityError> {
    let first = attributes
        .next()
        .ok_or(IdentityError::Missing { attribute })?;
    if attributes.next().is_some() {
        return Err(IdentityError::Repeated { attribute });
    }
    text(first).ok_or(IdentityError::StringType { attribute })
}

/// The text of an attribute, if it is of one of the two types that all readers agree on.
fn text<'n>(attribute: &'n AttributeTypeAndValue<'_>) -> Option<&'n str> {
    let value = attribute.attr_value();
    matches!(value.tag(), Tag::Utf8String | Tag::PrintableString)
        .then(|| std::str::from_utf8(value.data).ok())
        .flatten()
}

/// Whether each RDN of a name has exactly one attribute, as in every name of this system.
pub(crate) fn has_single_attributes(name: &X509Name<'_>) -> bool {
    name.iter().all(|rdn| rdn.iter().count() == 1)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::*;
    use crate::chain::{MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES};

    fn certificate(attributes: &[(DnType, DnValue)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .der()
            .clone()
    }

    fn subject(o: &str, ou: &str, cn: &str) -> Vec<(DnType, DnValue)> {
        vec![
            (DnType::OrganizationName, o.into()),
            (DnType::OrganizationalUnitName, ou.into()),
            (DnType::CommonName, cn.into()),
        ]
    }

    fn refused(attributes: &[(DnType, DnValue)]) -> IdentityError {
        peer_identity(&[certificate(attributes)]).unwrap_err()
    }

    #[test]
    fn the_keys_of_what_came_with_a_leaf_are_told_and_garbage_is_none() {
        let leaf = certificate(&subject("c", "swarm-worker", "n"));
        let above = certificate(&subject("c", "swarm-manager", "m"));
        assert_eq!(
            *peer_identity(std::slice::from_ref(&leaf)).unwrap().above,
            []
        );
        let key = chain::issuer_info(&above).unwrap().public_key_der;
        let chain = [leaf, CertificateDer::from(vec![0x30]), above];
        let identity = peer_identity(&chain).unwrap();
        assert_eq!(*identity.above, [PublicKeyDigest::of_spki(&key)]);
    }

    #[test]
    fn refuses_missing_attributes() {
        for (index, attribute) in ["O", "OU", "CN"].into_iter().enumerate() {
            let mut attributes = subject("c", "swarm-worker", "n");
            attributes.remove(index);
            assert_eq!(refused(&attributes), IdentityError::Missing { attribute });
        }
    }

    #[test]
    fn refuses_two_ous() {
        // rcgen holds one value per type; under another type of the same length the second OU is
        // written, and its OID is then patched. The signature is not looked at here.
        let mut attributes = subject("c", "swarm-worker", "n");
        attributes.push((
            DnType::CustomDnType(vec![2, 5, 4, 13]),
            "swarm-manager".into(),
        ));
        let mut der = certificate(&attributes).to_vec();
        let description = [0x06, 0x03, 0x55, 0x04, 13];
        while let Some(at) = der.windows(5).position(|window| window == description) {
            der[at + 4] = 11;
        }
        let error = peer_identity(&[der.into()]).unwrap_err();
        assert_eq!(error, IdentityError::Repeated { attribute: "OU" });
    }

    #[test]
    fn refuses_unknown_roles_and_odd_ids() {
        for ou in ["swarm-ca", "", "SWARM-MANAGER"] {
            assert_eq!(refused(&subject("c", ou, "n")), IdentityError::UnknownRole);
        }
        for id in ["", "a/b", "..", "-a", "a b", "a\n", "ä", &"a".repeat(64)] {
            let error = refused(&subject("c", "swarm-worker", id));
            assert_eq!(error, IdentityError::NotAnId { attribute: "CN" }, "{id:?}");
            let error = refused(&subject(id, "swarm-worker", "n"));
            assert_eq!(error, IdentityError::NotAnId { attribute: "O" }, "{id:?}");
        }
    }

    #[test]
    fn refuses_other_string_types() {
        let mut attributes = subject("c", "swarm-worker", "n");
        attributes[1].1 = DnValue::Ia5String("swarm-manager".try_into().unwrap());
        assert_eq!(
            refused(&attributes),
            IdentityError::StringType { attribute: "OU" }
        );
        attributes[1].1 = DnValue::TeletexString("swarm-manager".try_into().unwrap());
        assert_eq!(
            refused(&attributes),
            IdentityError::StringType { attribute: "OU" }
        );
    }

    #[test]
    fn refuses_chains_over_the_limits() {
        let leaf = certificate(&subject("c", "swarm-worker", "n"));
        let many = vec![leaf.clone(); MAX_CHAIN_CERTIFICATES + 1];
        assert!(matches!(peer_identity(&many), Err(IdentityError::Limit(_))));
        let long = vec![leaf.clone(), vec![0; MAX_CHAIN_BYTES].into()];
        assert!(matches!(peer_identity(&long), Err(IdentityError::Limit(_))));
        assert!(matches!(peer_identity(&[]), Err(IdentityError::Limit(_))));
        let mut trailing = leaf.to_vec();
        trailing.push(0);
        assert_eq!(
            peer_identity(&[trailing.into()]),
            Err(IdentityError::Malformed)
        );
    }

    #[test]
    fn reads_both_string_types() {
        let mut attributes = subject("c", "swarm-manager", "n");
        attributes[0].1 = DnValue::PrintableString("c".try_into().unwrap());
        let identity = peer_identity(&[certificate(&attributes)]).unwrap();
        assert_eq!(identity.cluster_id, "c");
        assert_eq!(identity.role, Role::Manager);
        assert_eq!(identity.node_id, "n");
    }
}
