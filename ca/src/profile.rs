//! What a node certificate must look like (spec/pki.md §3.1), written and checked.
//!
//! The order of extensions is the encoder's own and differs from cfssl's; no verifier looks at it.

use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;
use x509_parser::certificate::TbsCertificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME, OID_X509_ORGANIZATIONAL_UNIT,
};
use x509_parser::x509::X509Version;

use crate::identity::{NodeIdentity, has_single_attributes, is_id};
use crate::role::Role;
use crate::serial::Serial;
use crate::{BACKDATE, CA_SERVER_NAME};

/// digitalSignature and keyEncipherment as x509-parser holds them, bit 0 lowest.
const KEY_USAGE_FLAGS: u16 = 1 | 1 << 2;

/// Least life that an operator may choose (spec/pki.md §1, `MinNodeCertExpiration`).
const MIN_EXPIRY: Duration = Duration::from_secs(60 * 60);
/// Most, so that every date fits a certificate: a hundred years.
const MAX_EXPIRY: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// For whom a node certificate is, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeProfile {
    /// Id of the cluster: subject O.
    pub cluster_id: String,
    /// Id of the node: subject CN and a SAN.
    pub node_id: String,
    /// Role: subject OU and a SAN.
    pub role: Role,
    /// Life of the certificate.
    pub expiry: CertificateExpiry,
}

/// How long a node certificate lives from the time of signing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CertificateExpiry(Duration);

/// Why a duration is no certificate life.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExpiryError {
    /// Below an hour; the wording is the engine's.
    #[error("minimum certificate expiry time is: 1h0m0s; give a longer --cert-expiry")]
    TooShort,
    /// Above a hundred years.
    #[error("maximum certificate expiry time is: 876000h0m0s; give a shorter --cert-expiry")]
    TooLong,
}

/// How a certificate departs from its profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("the certificate's {field} is not as its profile says")]
pub struct ProfileViolation {
    /// The field, in X.509's words.
    pub field: &'static str,
}

impl CertificateExpiry {
    /// 90 days.
    pub const DEFAULT: Self = Self(Duration::from_secs(90 * 24 * 60 * 60));

    /// A life of at least an hour and at most a hundred years.
    ///
    /// # Errors
    /// See [`ExpiryError`].
    pub fn new(expiry: Duration) -> Result<Self, ExpiryError> {
        if expiry < MIN_EXPIRY {
            Err(ExpiryError::TooShort)
        } else if expiry > MAX_EXPIRY {
            Err(ExpiryError::TooLong)
        } else {
            Ok(Self(expiry))
        }
    }

    /// A life below the minimum, for tests of renewal; no product option leads here.
    pub const fn danger_short_lived(expiry: Duration) -> Self {
        Self(expiry)
    }

    /// The duration.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl Default for CertificateExpiry {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// `now` rounded to the nearest minute, half a minute up, less the backdate.
///
/// `None` beyond the calendar.
pub(crate) fn backdated(now: OffsetDateTime) -> Option<OffsetDateTime> {
    let minute = time::Duration::MINUTE;
    let half_up = now.checked_add(minute / 2)?;
    let over = time::Duration::nanoseconds(
        i64::try_from(
            half_up
                .unix_timestamp_nanos()
                .rem_euclid(minute.whole_nanoseconds()),
        )
        .ok()?,
    );
    half_up
        .checked_sub(over)?
        .checked_sub(time::Duration::try_from(BACKDATE).ok()?)
}

/// A node certificate down to the last field: what the encoder is given and what is compared with
/// what it made.
pub(crate) struct ExpectedLeaf<'a> {
    pub(crate) profile: &'a NodeProfile,
    pub(crate) serial: Serial,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
    pub(crate) spki_der: &'a [u8],
    pub(crate) subject_key_id: Vec<u8>,
    pub(crate) issuer_der: &'a [u8],
    pub(crate) authority_key_id: &'a [u8],
    /// Object identifier of the signature, dotted.
    pub(crate) signature: &'a str,
    pub(crate) origin: Origin,
}

/// Who made a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This crate: each extension of the profile, nothing else.
    Own,
    /// An external CA: it may say besides where it answers for its certificates, as long as
    /// nobody must understand that.
    External,
}

/// The DNS names of a node, in order: OU, node id, and the CA's name for managers.
pub(crate) fn dns_names(profile: &NodeProfile) -> Vec<&str> {
    let mut names = vec![profile.role.ou(), profile.node_id.as_str()];
    if profile.role == Role::Manager {
        names.push(CA_SERVER_NAME);
    }
    names
}

impl ExpectedLeaf<'_> {
    /// What the encoder is given.
    pub(crate) fn params(&self) -> Result<CertificateParams, ProfileViolation> {
        let violation = |field| move |_| ProfileViolation { field };
        for (id, field) in [
            (&self.profile.cluster_id, "subject O"),
            (&self.profile.node_id, "subject CN"),
        ] {
            if !is_id(id) {
                return Err(ProfileViolation { field });
            }
        }
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, self.profile.cluster_id.as_str());
        name.push(DnType::OrganizationalUnitName, self.profile.role.ou());
        name.push(DnType::CommonName, self.profile.node_id.as_str());
        let mut params = CertificateParams::default();
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params.serial_number = Some(SerialNumber::from_slice(self.serial.as_bytes()));
        params.distinguished_name = name;
        params.subject_alt_names = dns_names(self.profile)
            .into_iter()
            .map(|dns| dns.try_into().map(SanType::DnsName))
            .collect::<Result<_, rcgen::Error>>()
            .map_err(violation("subjectAltName"))?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(self.subject_key_id.clone());
        Ok(params)
    }

    /// Compares a to-be-signed certificate with the profile, every field of it.
    pub(crate) fn check(&self, tbs: &TbsCertificate<'_>) -> Result<(), ProfileViolation> {
        let require = |holds: bool, field| holds.then_some(()).ok_or(ProfileViolation { field });
        require(tbs.version == X509Version::V3, "version")?;
        require(
            Serial::from_bytes(tbs.raw_serial()) == Ok(self.serial),
            "serial",
        )?;
        require(
            tbs.signature.algorithm.to_id_string() == self.signature,
            "signature",
        )?;
        require(tbs.issuer.as_raw() == self.issuer_der, "issuer")?;
        require(
            tbs.validity.not_before.to_datetime() == self.not_before,
            "notBefore",
        )?;
        require(
            tbs.validity.not_after.to_datetime() == self.not_after,
            "notAfter",
        )?;
        require(tbs.subject_pki.raw == self.spki_der, "public key")?;
        require(
            tbs.issuer_uid.is_none() && tbs.subject_uid.is_none(),
            "unique identifier",
        )?;
        let order = [
            OID_X509_ORGANIZATION_NAME,
            OID_X509_ORGANIZATIONAL_UNIT,
            OID_X509_COMMON_NAME,
        ];
        let ordered = tbs
            .subject
            .iter_attributes()
            .map(|attribute| attribute.attr_type());
        require(
            ordered.eq(order.iter()) && has_single_attributes(&tbs.subject),
            "subject",
        )?;
        let identity =
            NodeIdentity::from_tbs(tbs).map_err(|_| ProfileViolation { field: "subject" })?;
        require(identity.cluster_id == self.profile.cluster_id, "subject O")?;
        require(identity.role == self.profile.role, "subject OU")?;
        require(identity.node_id == self.profile.node_id, "subject CN")?;
        self.check_extensions(tbs)
    }

    /// Each of the six extensions once, and nothing else that [`Origin`] does not allow.
    fn check_extensions(&self, tbs: &TbsCertificate<'_>) -> Result<(), ProfileViolation> {
        let mut seen = Vec::with_capacity(6);
        for extension in tbs.extensions() {
            let parsed = extension.parsed_extension();
            let adds = matches!(
                parsed,
                ParsedExtension::AuthorityInfoAccess(_)
                    | ParsedExtension::CRLDistributionPoints(_)
                    | ParsedExtension::CertificatePolicies(_)
            );
            if adds && self.origin == Origin::External && !extension.critical {
                continue;
            }
            let (field, critical, holds) = self.check_extension(parsed);
            if !holds || extension.critical != critical || seen.contains(&field) {
                return Err(ProfileViolation { field });
            }
            seen.push(field);
        }
        if seen.len() == 6 {
            Ok(())
        } else {
            Err(ProfileViolation {
                field: "extension list",
            })
        }
    }

    /// Name, criticality and agreement of one extension.
    fn check_extension(&self, extension: &ParsedExtension<'_>) -> (&'static str, bool, bool) {
        match extension {
            ParsedExtension::KeyUsage(usage) => ("keyUsage", true, usage.flags == KEY_USAGE_FLAGS),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let more = usage.any
                    || usage.code_signing
                    || usage.email_protection
                    || usage.time_stamping
                    || usage.ocsp_signing
                    || !usage.other.is_empty();
                (
                    "extKeyUsage",
                    false,
                    usage.server_auth && usage.client_auth && !more,
                )
            }
            ParsedExtension::BasicConstraints(constraints) => {
                let leaf = !constraints.ca && constraints.path_len_constraint.is_none();
                ("basicConstraints", true, leaf)
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                ("subjectKeyIdentifier", false, id.0 == self.subject_key_id)
            }
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                let key = id.key_identifier.as_ref().map(|key| key.0);
                let only = id.authority_cert_issuer.is_none() && id.authority_cert_serial.is_none();
                (
                    "authorityKeyIdentifier",
                    false,
                    only && key == Some(self.authority_key_id),
                )
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                let expected = dns_names(self.profile);
                let same = names.general_names.len() == expected.len()
                    && names.general_names.iter().zip(&expected).all(
                        |(name, dns)| matches!(name, GeneralName::DNSName(found) if found == dns),
                    );
                ("subjectAltName", false, same)
            }
            _ => ("extension list", false, false),
        }
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_life_below_an_hour_or_above_a_century_is_refused() {
        let hour = Duration::from_secs(3600);
        assert_eq!(
            CertificateExpiry::new(Duration::ZERO),
            Err(ExpiryError::TooShort)
        );
        let almost = hour - Duration::from_nanos(1);
        assert_eq!(CertificateExpiry::new(almost), Err(ExpiryError::TooShort));
        assert_eq!(
            CertificateExpiry::new(Duration::MAX),
            Err(ExpiryError::TooLong)
        );
        assert_eq!(CertificateExpiry::new(hour).unwrap().duration(), hour);
        assert_eq!(CertificateExpiry::DEFAULT.duration(), hour * 2160);
    }

    #[test]
    fn backdating_rounds_to_the_nearest_minute() {
        for (now, start) in [
            (
                datetime!(2026-11-20 07:00:00 UTC),
                datetime!(2026-11-20 06:00 UTC),
            ),
            (
                datetime!(2026-11-20 07:00:29.999 UTC),
                datetime!(2026-11-20 06:00 UTC),
            ),
            (
                datetime!(2026-11-20 07:00:30 UTC),
                datetime!(2026-11-20 06:01 UTC),
            ),
            (
                datetime!(2026-11-20 23:59:59 UTC),
                datetime!(2026-11-20 23:00 UTC),
            ),
        ] {
            assert_eq!(backdated(now), Some(start), "{now}");
        }
        assert_eq!(
            backdated(OffsetDateTime::new_utc(time::Date::MAX, time::Time::MAX)),
            None
        );
        assert_eq!(
            backdated(OffsetDateTime::new_utc(
                time::Date::MIN,
                time::Time::MIDNIGHT
            )),
            None
        );
    }
}
