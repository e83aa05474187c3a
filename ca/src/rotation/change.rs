//! What a change of the CA's settings asks for: nothing, a rotation, or the end of one.
//!
//! The order of checks and the texts are a stock manager's (spec/pki.md §11.2).

use time::OffsetDateTime;

use crate::authority::{IssueError, RootAuthority, RootAuthorityError};
use crate::cfssl::cross_sign_request;
use crate::chain::IssuerInfo;
use crate::cross::CrossSignError;
use crate::key::KeyError;
use crate::pem;
use crate::root::{TrustBundle, TrustError};

/// A root that is to be the cluster's has at least so long to live.
pub(crate) const LEAST_LIFE: time::Duration = time::Duration::days(365);

/// The root as the cluster object has it.
#[derive(Clone, Copy)]
pub struct Present<'a> {
    /// The trusted root.
    pub cert_pem: &'a [u8],
    /// Its key, or that of the intermediate in `way_pem`; empty with an external signer.
    pub key_pem: &'a [u8],
    /// An operator's intermediate that signs, and what leads from it to the root; empty if the
    /// root itself signs.
    pub way_pem: &'a [u8],
    /// The root to be, while one rotates.
    pub target_pem: Option<&'a [u8]>,
    /// The counter of the last rotation that was forced.
    pub forced: u64,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// A root to rotate to; empty: none in particular. Or an intermediate below the present root,
    /// the certificates in order and the root last.
    pub cert_pem: &'a [u8],
    /// Its key; empty: an external signer has it.
    pub key_pem: &'a [u8],
    /// A counter other than the last one asks for a new root.
    pub forced: u64,
}

/// What becomes of the root.
pub enum Change {
    /// Nothing.
    Nothing,
    /// The present root stays, and this key signs; a rotation ends.
    Stay {
        /// PKCS#8 in PEM; empty with an external signer.
        key_pem: zeroize::Zeroizing<String>,
        /// The intermediate that the key is of, and what leads from it to the root, in PEM; empty
        /// for the root's own key.
        way_pem: String,
    },
    /// The rotation that runs goes on, with this key.
    Continue {
        /// PKCS#8 in PEM; empty with an external signer.
        key_pem: zeroize::Zeroizing<String>,
    },
    /// A rotation begins, in the place of one that runs.
    Rotate(Box<NewRoot>),
    /// The same, once the external signer of the present root has signed the one to be.
    RotateOnceSigned(Box<UnsignedRoot>),
}

/// The root to be.
pub struct NewRoot {
    /// One PEM block.
    pub cert_pem: String,
    /// PKCS#8 in PEM; empty with an external signer.
    pub key_pem: zeroize::Zeroizing<String>,
    /// The root to be, signed by the present one; one PEM block.
    pub cross_signed_pem: String,
}

/// A root to be, whose cross-signing is asked of others.
pub struct UnsignedRoot {
    cert_pem: String,
    key_pem: zeroize::Zeroizing<String>,
    /// What is posted to the external signer.
    pub request: String,
    /// Whom its answer is to be about.
    pub info: IssuerInfo,
}

impl UnsignedRoot {
    /// With the certificate that the present root's signer made of it, which is checked.
    pub fn signed(self, cross_signed_pem: String) -> NewRoot {
        NewRoot {
            cert_pem: self.cert_pem,
            key_pem: self.key_pem,
            cross_signed_pem,
        }
    }
}

/// Why the change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeRefusal {
    /// A key alone.
    #[error("if a signing CA key is provided, the signing CA cert must also be provided")]
    KeyAlone,
    /// Neither the present root's key nor the next one's is here: nobody here can ask the one to
    /// vouch for the other.
    #[error(
        "rotating from one external CA to a different external CA is not supported; rotate to a \
         root of the cluster's own with `docker swarm ca --rotate` first, and from that to the \
         other external CA"
    )]
    BothExternal,
    /// An intermediate signs, and the root's key is elsewhere.
    #[error(
        "an operator's intermediate signs and the root's key is not here, so that nothing can \
         vouch for another root; give the next intermediate below the same root with `waxseal ca \
         rotate --cert CHAIN --key KEY`, or make a new cluster for the new root"
    )]
    RootIsOffline,
    /// An intermediate below another root.
    #[error(
        "the intermediate leads to another root than the one that the cluster trusts; give one \
         below that, or make a new cluster for the other root"
    )]
    OtherRoot,
    /// The present root vouches for nodes alone.
    #[error(
        "the present root allows no CA below it (its path length is 0), so it cannot vouch for \
         another one; make a new cluster for the new root"
    )]
    PathLength,
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
    /// No request could be made of its key.
    #[error("the new root's key cannot be put into a request: {0}")]
    Request(IssueError),
    /// It could not be signed by the present root.
    #[error("unable to generate a cross-signed certificate for root rotation: {0}")]
    CrossSign(CrossSignError),
}

/// Decides what a change asks for, and makes what it needs: a new root, its signature by the
/// present one. Whether external signers that it relies on are there is the caller's to see.
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
                rotate(present, &Given::Whole(Box::new(root)), now)
            }
        };
    }
    // 1. An intermediate below the root: trust stays, and only who signs changes.
    if let Some(change) = intermediate(present, wanted, now)? {
        return Ok(change);
    }
    // 2. Certificate and key, by themselves.
    let root = Given::read(wanted, now)?;
    if root.trust().not_after() < now + LEAST_LIFE {
        return Err(ChangeRefusal::ExpiresTooSoon);
    }
    // 3. The root that is trusted already: whatever goes on ends.
    if root.is_in(present.cert_pem) {
        return Ok(Change::Stay {
            key_pem: root.key_pem(),
            way_pem: String::new(),
        });
    }
    // 4. The root that is on its way already.
    if present.target_pem.is_some_and(|target| root.is_in(target)) {
        let key_pem = root.key_pem();
        return Ok(Change::Continue { key_pem });
    }
    rotate(present, &root, now)
}

/// What is asked for with several certificates and a key, if they are a way to a root.
fn intermediate(
    present: &Present<'_>,
    wanted: &Wanted<'_>,
    now: OffsetDateTime,
) -> Result<Option<Change>, ChangeRefusal> {
    let certificates = IssuerInfo::all_from_pem(wanted.cert_pem);
    if wanted.key_pem.is_empty() || certificates.is_ok_and(|all| all.len() < 2) {
        return Ok(None);
    }
    let authority = RootAuthority::intermediate_from_pem(wanted.cert_pem, wanted.key_pem, now);
    let authority = match authority {
        Ok(authority) => authority,
        Err(RootAuthorityError::KeyMismatch) => return Err(ChangeRefusal::KeyMismatch),
        // No way at all: what a stock manager says of it follows.
        Err(_) => return Ok(None),
    };
    if first_der(present.cert_pem).as_deref() != authority.trust().only_root() {
        return Err(ChangeRefusal::OtherRoot);
    }
    if authority.not_after() < now + LEAST_LIFE {
        return Err(ChangeRefusal::ExpiresTooSoon);
    }
    Ok(Some(Change::Stay {
        key_pem: authority.key_pem(),
        way_pem: authority.way_pem().to_owned(),
    }))
}

fn first_der(pem: &[u8]) -> Option<Vec<u8>> {
    let chain = crate::chain::chain_from_pem(pem).ok()?;
    Some(chain.first()?.to_vec())
}

/// A root that is asked for.
enum Given {
    /// With its key.
    Whole(Box<RootAuthority>),
    /// Whose key an external signer has.
    Public(Box<TrustBundle>),
}

impl Given {
    fn read(wanted: &Wanted<'_>, now: OffsetDateTime) -> Result<Given, ChangeRefusal> {
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
            return Ok(Given::Public(Box::new(trust)));
        }
        let cert = pem::write("CERTIFICATE", der);
        let authority = RootAuthority::from_pem(cert.as_bytes(), wanted.key_pem, now);
        let authority = authority.map_err(|error| match error {
            RootAuthorityError::Key(KeyError::Encrypted) => ChangeRefusal::EncryptedKey,
            RootAuthorityError::Key(error) => ChangeRefusal::Key(error),
            RootAuthorityError::KeyMismatch => ChangeRefusal::KeyMismatch,
            RootAuthorityError::SeveralCertificates => ChangeRefusal::Several,
            RootAuthorityError::Certificate(error) => ChangeRefusal::NotARoot(error),
            other => ChangeRefusal::Unsuitable(other),
        })?;
        Ok(Given::Whole(Box::new(authority)))
    }

    fn trust(&self) -> &TrustBundle {
        match self {
            Given::Whole(authority) => authority.trust(),
            Given::Public(trust) => trust,
        }
    }

    fn key_pem(&self) -> zeroize::Zeroizing<String> {
        match self {
            Given::Whole(authority) => authority.key_pem(),
            Given::Public(_) => zeroize::Zeroizing::default(),
        }
    }

    /// The text that becomes the cluster's: a given one as it came, which pins its bytes.
    fn cert_pem(&self) -> String {
        match self {
            Given::Whole(authority) => authority.cert_pem().to_owned(),
            Given::Public(trust) => String::from_utf8_lossy(trust.pem()).into_owned(),
        }
    }

    /// Whether it is the first certificate of `pem`.
    fn is_in(&self, pem: &[u8]) -> bool {
        first_der(pem).is_some_and(|der| Some(der.as_slice()) == self.trust().only_root())
    }
}

fn rotate(
    present: &Present<'_>,
    root: &Given,
    now: OffsetDateTime,
) -> Result<Change, ChangeRefusal> {
    if !present.way_pem.is_empty() {
        return Err(ChangeRefusal::RootIsOffline);
    }
    let present_trust =
        TrustBundle::from_pem(present.cert_pem, now).map_err(ChangeRefusal::NotARoot)?;
    if !present_trust.may_have_cas_below() {
        return Err(ChangeRefusal::PathLength);
    }
    if present.key_pem.is_empty() {
        return ask_to_sign(&present_trust, root, now);
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
        cert_pem: root.cert_pem(),
        key_pem: root.key_pem(),
        cross_signed_pem,
    })))
}

fn ask_to_sign(
    present: &TrustBundle,
    root: &Given,
    now: OffsetDateTime,
) -> Result<Change, ChangeRefusal> {
    let Given::Whole(authority) = root else {
        return Err(ChangeRefusal::BothExternal);
    };
    let info = authority.issuer_info();
    if info.public_key_der == present.issuer_info().public_key_der {
        return Err(ChangeRefusal::SameKey);
    }
    let csr = authority.csr_pem().map_err(ChangeRefusal::Request)?;
    let request = cross_sign_request(&csr, authority.cert_pem().as_bytes(), now)
        .map_err(ChangeRefusal::NotARoot)?;
    Ok(Change::RotateOnceSigned(Box::new(UnsignedRoot {
        cert_pem: root.cert_pem(),
        key_pem: root.key_pem(),
        request,
        info: info.clone(),
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
                way_pem: b"",
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

    /// What is decided where an external signer has the present root's key.
    fn asked_of_external(root: &RootAuthority, cert: &str, key: &str) -> Result<Change, String> {
        let present = Present {
            cert_pem: root.cert_pem().as_bytes(),
            key_pem: b"",
            way_pem: b"",
            target_pem: None,
            forced: 0,
        };
        let wanted = Wanted {
            cert_pem: cert.as_bytes(),
            key_pem: key.as_bytes(),
            forced: 1,
        };
        decide_change(&present, &wanted, NOW).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn without_the_present_key_its_holder_is_asked_to_cross_sign() {
        let (root, other) = (generated(), generated());
        let Err(refused) = asked_of_external(&root, other.cert_pem(), "") else {
            panic!("not refused");
        };
        assert!(refused.starts_with("rotating from one external CA to a different external CA"));
        for (cert, key) in [
            ("", String::new()),
            (other.cert_pem(), other.key_pem().to_string()),
        ] {
            let Ok(Change::RotateOnceSigned(new)) = asked_of_external(&root, cert, &key) else {
                panic!("nobody is asked");
            };
            let request: serde_json::Value = serde_json::from_str(&new.request).unwrap();
            assert_eq!(request["profile"], "CA");
            let csr = request["certificate_request"].as_str().unwrap();
            let csr = crate::csr::Csr::parse(csr.as_bytes()).unwrap();
            assert_eq!(csr.spki_der(), new.info.public_key_der);
            let signed = new.signed("cross".to_owned());
            assert!(signed.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
            assert_eq!(signed.cross_signed_pem, "cross");
        }
    }

    #[test]
    fn keys_go_to_external_signers_and_come_back() {
        let (held, target) = (Held::new(), generated());
        let key_of = |change| match change {
            Ok(Change::Stay { key_pem, .. } | Change::Continue { key_pem }) => key_pem,
            _ => panic!("something else"),
        };
        let handed = held.asked(Some(&target), held.root.cert_pem(), "", 7);
        assert!(key_of(handed).is_empty());
        let handed = held.asked(Some(&target), target.cert_pem(), "", 7);
        assert!(key_of(handed).is_empty());
        let given = asked_of_external(&held.root, held.root.cert_pem(), &held.key);
        assert_eq!(
            *key_of(given.map_err(|_| ChangeRefusal::KeyAlone)),
            *held.key
        );
        let Ok(Change::Rotate(new)) = held.asked(None, target.cert_pem(), "", 7) else {
            panic!("no rotation");
        };
        assert!(new.key_pem.is_empty());
        assert_eq!(new.cert_pem, target.cert_pem());
    }

    #[test]
    fn a_root_that_allows_no_ca_below_it_vouches_for_none() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = crate::test_roots::foreign_params(Duration::from_secs(2 * 365 * 86_400));
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let cert = params.self_signed(&key).unwrap().pem();
        for key in [key.serialize_pem(), String::new()] {
            let present = Present {
                cert_pem: cert.as_bytes(),
                key_pem: key.as_bytes(),
                way_pem: b"",
                target_pem: None,
                forced: 0,
            };
            let wanted = Wanted {
                cert_pem: b"",
                key_pem: b"",
                forced: 1,
            };
            let refused = decide_change(&present, &wanted, NOW).err();
            assert_eq!(refused, Some(ChangeRefusal::PathLength));
        }
    }
}
