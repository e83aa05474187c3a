//! What is looked at in certificates that are none of a cluster's: those of an operator's CA for
//! the API over TCP.

use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::root::may_sign_certificates;

/// A certificate of whatever CA, unverified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutsideCertificate {
    /// Start of its validity.
    pub not_before: OffsetDateTime,
    /// End of its validity.
    pub not_after: OffsetDateTime,
    /// Whether it is a CA's that may sign others.
    pub is_ca: bool,
}

impl OutsideCertificate {
    /// Reads one certificate in DER; nothing if it is none.
    pub fn read(der: &[u8]) -> Option<OutsideCertificate> {
        let Ok(([], certificate)) = X509Certificate::from_der(der) else {
            return None;
        };
        let validity = certificate.validity();
        Some(OutsideCertificate {
            not_before: validity.not_before.to_datetime(),
            not_after: validity.not_after.to_datetime(),
            is_ca: may_sign_certificates(&certificate),
        })
    }

    /// Whether it is valid at that time.
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_roots::{NOW, leaf, profile};
    use crate::{Role, RootAuthority, chain_from_pem};

    #[test]
    fn what_is_no_certificate_says_nothing() {
        assert_eq!(OutsideCertificate::read(b""), None);
        assert_eq!(OutsideCertificate::read(&[0x30, 0x80]), None);
        let root = RootAuthority::generate(NOW).unwrap();
        let mut der = chain_from_pem(root.cert_pem().as_bytes()).unwrap()[0].to_vec();
        der.push(0);
        assert_eq!(OutsideCertificate::read(&der), None);
    }

    #[test]
    fn cas_are_told_from_others_and_times_are_read() {
        let root = RootAuthority::generate(NOW).unwrap();
        let der = chain_from_pem(root.cert_pem().as_bytes()).unwrap()[0].to_vec();
        let ca = OutsideCertificate::read(&der).unwrap();
        assert!(ca.is_ca && ca.is_valid_at(NOW));
        assert!(!ca.is_valid_at(ca.not_before - time::Duration::SECOND));
        assert!(!ca.is_valid_at(ca.not_after + time::Duration::SECOND));
        let (issued, _) = leaf(&root, &profile("n1", Role::Worker), NOW);
        assert!(!OutsideCertificate::read(&issued.der).unwrap().is_ca);
    }
}
