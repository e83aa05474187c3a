//! What a change of the CA's settings asks for: nothing, a rotation, or the end of one.
//!
//! The order of checks and the texts are a stock manager's (spec/pki.md §11.2).

use time::OffsetDateTime;

use crate::authority::{RootAuthority, RootAuthorityError};
use crate::cross::CrossSignError;
use crate::key::KeyError;
use crate::pem;
use crate::root::{TrustBundle, TrustError};

/// A root that is to be the cluster's has at least so long to live.
const LEAST_LIFE: time::Duration = time::Duration::days(365);

/// The root as the cluster object has it.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    /// The trusted root.
    pub cert_pem: &'a [u8],
    /// Its key; empty with an external signer.
    pub key_pem: &'a [u8],
    /// The root to be, while one rotates.
    pub target_pem: Option<&'a [u8]>,
    /// The counter of the last rotation that was forced.
    pub forced: u64,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// A root to rotate to; empty: none in particular.
    pub cert_pem: &'a [u8],
    /// Its key.
    pub key_pem: &'a [u8],
    /// A counter other than the last one asks for a new root.
    pub forced: u64,
}

/// What becomes of the root.
pub enum Change {
    /// Nothing.
    Nothing,
    /// The present root stays, and signs with this key; a rotation ends.
    Stay {
        /// PKCS#8 in PEM.
        key_pem: zeroize::Zeroizing<String>,
    },
    /// The rotation that runs goes on, with this key.
    Continue {
        /// PKCS#8 in PEM.
        key_pem: zeroize::Zeroizing<String>,
    },
    /// A rotation begins, in the place of one that runs.
    Rotate(Box<NewRoot>),
}

/// The root to be.
pub struct NewRoot {
    /// One PEM block.
    pub cert_pem: String,
    /// PKCS#8 in PEM.
    pub key_pem: zeroize::Zeroizing<String>,
    /// The root to be, signed by the present one; one PEM block.
    pub cross_signed_pem: String,
}

/// Why the change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeRefusal {
    /// A key alone.
    #[error("if a signing CA key is provided, the signing CA cert must also be provided")]
    KeyAlone,
    /// A certificate alone, and nobody to sign with it.
    #[error(
        "there must be at least one valid, reachable external CA corresponding to the desired CA \
         certificate"
    )]
    NoSigner,
    /// The present root's key is with an external signer.
    #[error(
        "there must be at least one valid, reachable external CA corresponding to the current CA \
         certificate"
    )]
    NoPresentKey,
    /// Not a certificate, with a key.
    #[error(
        "invalid root certificates: {{\"code\":1003,\"message\":\"Failed to parse certificate\"}}"
    )]
    InvalidRoot,
    /// Not a certificate, without a key.
    #[error("could not parse the desired CA certificate")]
    Unreadable,
    /// Several.
    #[error("the desired CA certificate cannot contain multiple certificates")]
    Several,
    /// Not a root that members accept.
    #[error("error while validating Root CA Certificate: {0}")]
    NotARoot(TrustError),
    /// It ends within a year.
    #[error("CA certificate expires too soon")]
    ExpiresTooSoon,
    /// Encrypted.
    #[error("malformed private key: {{\"code\":2100,\"message\":\"Private key is encrypted.\"}}")]
    EncryptedKey,
    /// Not a key that can sign here.
    #[error("malformed private key: {0}")]
    Key(KeyError),
    /// Of another certificate.
    #[error("certificate key mismatch")]
    KeyMismatch,
    /// A new certificate for the old key.
    #[error("Cannot update to a cert with an identical key")]
    SameKey,
    /// It cannot sign certificates of nodes.
    #[error("{0}")]
    Unsuitable(RootAuthorityError),
    /// It could not be signed by the present root.
    #[error("unable to generate a cross-signed certificate for root rotation: {0}")]
    CrossSign(CrossSignError),
}

/// Decides what a change asks for, and makes what it needs: a new root, its signature by the
/// present one.
///
/// # Errors
/// [`ChangeRefusal`].
pub fn decide_change(
    present: &Present<'_>,
    wanted: &Wanted<'_>,
    now: OffsetDateTime,
) -> Result<Change, ChangeRefusal> {
    if wanted.cert_pem.is_empty() {
        return match (wanted.key_pem.is_empty(), wanted.forced == present.forced) {
            (false, _) => Err(ChangeRefusal::KeyAlone),
            (true, true) => Ok(Change::Nothing),
            (true, false) => {
                let root = RootAuthority::generate(now).map_err(ChangeRefusal::Unsuitable)?;
                rotate(present, &root, now)
            }
        };
    }
    // 1. Certificate and key, by themselves.
    let root = read(wanted, now)?;
    if root.not_after() < now + LEAST_LIFE {
        return Err(ChangeRefusal::ExpiresTooSoon);
    }
    // 2. The root that is trusted already: whatever goes on ends.
    if same_root(present.cert_pem, &root) {
        let key_pem = root.key_pem();
        return Ok(Change::Stay { key_pem });
    }
    // 3. The root that is on its way already.
    if present
        .target_pem
        .is_some_and(|target| same_root(target, &root))
    {
        let key_pem = root.key_pem();
        return Ok(Change::Continue { key_pem });
    }
    rotate(present, &root, now)
}

fn read(wanted: &Wanted<'_>, now: OffsetDateTime) -> Result<RootAuthority, ChangeRefusal> {
    let with_key = !wanted.key_pem.is_empty();
    let trust = TrustBundle::from_pem(wanted.cert_pem, now).map_err(|error| match error {
        TrustError::Pem { .. } | TrustError::Malformed { .. } if with_key => {
            ChangeRefusal::InvalidRoot
        }
        TrustError::Pem { .. } | TrustError::Malformed { .. } => ChangeRefusal::Unreadable,
        other => ChangeRefusal::NotARoot(other),
    })?;
    let der = trust.only_root().ok_or(ChangeRefusal::Several)?;
    if !with_key {
        return Err(ChangeRefusal::NoSigner);
    }
    let cert = pem::write("CERTIFICATE", der);
    RootAuthority::from_pem(cert.as_bytes(), wanted.key_pem, now).map_err(|error| match error {
        RootAuthorityError::Key(KeyError::Encrypted) => ChangeRefusal::EncryptedKey,
        RootAuthorityError::Key(error) => ChangeRefusal::Key(error),
        RootAuthorityError::KeyMismatch => ChangeRefusal::KeyMismatch,
        RootAuthorityError::SeveralCertificates => ChangeRefusal::Several,
        RootAuthorityError::Certificate(error) => ChangeRefusal::NotARoot(error),
        other => ChangeRefusal::Unsuitable(other),
    })
}

fn same_root(pem: &[u8], root: &RootAuthority) -> bool {
    let der = |pem: &[u8]| crate::chain::chain_from_pem(pem).ok()?.into_iter().next();
    der(pem).is_some_and(|der| Some(der.as_ref()) == root.trust().only_root())
}

fn rotate(
    present: &Present<'_>,
    root: &RootAuthority,
    now: OffsetDateTime,
) -> Result<Change, ChangeRefusal> {
    if present.key_pem.is_empty() {
        return Err(ChangeRefusal::NoPresentKey);
    }
    let old = RootAuthority::from_pem(present.cert_pem, present.key_pem, now)
        .map_err(ChangeRefusal::Unsuitable)?;
    let cross_signed_pem = old
        .cross_sign(root.trust(), now)
        .map_err(|error| match error {
            CrossSignError::SameKey => ChangeRefusal::SameKey,
            other => ChangeRefusal::CrossSign(other),
        })?;
    Ok(Change::Rotate(Box::new(NewRoot {
        cert_pem: root.cert_pem().to_owned(),
        key_pem: root.key_pem(),
        cross_signed_pem,
    })))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::test_roots::{NOW, foreign_root};

    fn generated() -> RootAuthority {
        RootAuthority::generate(NOW).unwrap()
    }

    struct Held {
        root: RootAuthority,
        key: zeroize::Zeroizing<String>,
    }

    impl Held {
        fn new() -> Held {
            let root = generated();
            let key = root.key_pem();
            Held { root, key }
        }

        fn asked(
            &self,
            target: Option<&RootAuthority>,
            cert: &str,
            key: &str,
            forced: u64,
        ) -> Result<Change, ChangeRefusal> {
            let present = Present {
                cert_pem: self.root.cert_pem().as_bytes(),
                key_pem: self.key.as_bytes(),
                target_pem: target.map(|root| root.cert_pem().as_bytes()),
                forced: 7,
            };
            let wanted = Wanted {
                cert_pem: cert.as_bytes(),
                key_pem: key.as_bytes(),
                forced,
            };
            decide_change(&present, &wanted, NOW)
        }

        fn refused(&self, cert: &str, key: &str) -> String {
            match self.asked(None, cert, key, 7) {
                Err(refusal) => refusal.to_string(),
                Ok(_) => panic!("not refused"),
            }
        }
    }

    #[test]
    fn refusals_have_the_texts_of_a_stock_manager() {
        let (held, new, other) = (Held::new(), generated(), generated());
        let (cert, key) = (new.cert_pem(), new.key_pem());
        assert_eq!(
            held.refused("", &key),
            "if a signing CA key is provided, the signing CA cert must also be provided"
        );
        assert_eq!(
            held.refused(&key, cert),
            "invalid root certificates: {\"code\":1003,\"message\":\"Failed to parse certificate\"}"
        );
        assert_eq!(
            held.refused("x", ""),
            "could not parse the desired CA certificate"
        );
        assert_eq!(
            held.refused(&format!("{cert}{}", other.cert_pem()), &key),
            "the desired CA certificate cannot contain multiple certificates"
        );
        assert_eq!(
            held.refused(cert, &other.key_pem()),
            "certificate key mismatch"
        );
        let no_signer = held.refused(cert, "");
        assert!(no_signer.ends_with("corresponding to the desired CA certificate"));
        let short = foreign_root(Duration::from_secs(86_400));
        assert_eq!(
            held.refused(short.cert_pem(), &short.key_pem()),
            "CA certificate expires too soon"
        );
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert_eq!(
            held.refused(cert, encrypted),
            "malformed private key: {\"code\":2100,\"message\":\"Private key is encrypted.\"}"
        );
    }

    #[test]
    fn another_certificate_for_the_same_key_is_refused() {
        let held = Held::new();
        let key = rcgen::KeyPair::from_pem(&held.key).unwrap();
        let mut params = crate::test_roots::foreign_params(Duration::from_secs(2 * 365 * 86_400));
        params
            .distinguished_name
            .push(rcgen::DnType::OrganizationName, "again");
        let again = params.self_signed(&key).unwrap().pem();
        assert_eq!(
            held.refused(&again, &held.key),
            "Cannot update to a cert with an identical key"
        );
    }

    #[test]
    fn any_other_counter_asks_for_a_new_root() {
        let held = Held::new();
        assert!(matches!(held.asked(None, "", "", 7), Ok(Change::Nothing)));
        for forced in [6, 8] {
            let Ok(Change::Rotate(new)) = held.asked(None, "", "", forced) else {
                panic!("no rotation");
            };
            let root =
                RootAuthority::from_pem(new.cert_pem.as_bytes(), new.key_pem.as_bytes(), NOW);
            assert_ne!(root.unwrap().issuer_info(), held.root.issuer_info());
            assert_ne!(new.cross_signed_pem, new.cert_pem);
        }
    }

    #[test]
    fn the_present_root_ends_a_rotation_and_the_next_one_goes_on() {
        let (held, target, other) = (Held::new(), generated(), generated());
        let spaced = format!("{}\n", held.root.cert_pem());
        let stay = held.asked(Some(&target), &spaced, &held.key, 8);
        assert!(matches!(stay, Ok(Change::Stay { .. })));
        let on = held.asked(Some(&target), target.cert_pem(), &target.key_pem(), 7);
        assert!(matches!(on, Ok(Change::Continue { .. })));
        let replaced = held.asked(Some(&target), other.cert_pem(), &other.key_pem(), 7);
        assert!(matches!(replaced, Ok(Change::Rotate(_))));
    }

    #[test]
    fn without_the_present_key_nothing_is_cross_signed() {
        let root = generated();
        let present = Present {
            cert_pem: root.cert_pem().as_bytes(),
            key_pem: b"",
            target_pem: None,
            forced: 0,
        };
        let wanted = Wanted {
            cert_pem: b"",
            key_pem: b"",
            forced: 1,
        };
        assert!(matches!(
            decide_change(&present, &wanted, NOW),
            Err(ChangeRefusal::NoPresentKey)
        ));
    }
}
