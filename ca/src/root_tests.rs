use std::time::Duration;

use proptest::prelude::*;
use rcgen::{IsCa, KeyPair, KeyUsagePurpose};

use super::*;
use crate::authority::RootAuthority;
use crate::test_roots::{NOW, cross_sign, foreign_params};

const DAY: Duration = Duration::from_secs(86_400);

/// `openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=legacy -sha1 -days 3650`.
const SHA1_ROOT: &str = include_str!("../testdata/sha1-root.crt");
/// The same with `-sha256`.
const RSA_ROOT: &str = include_str!("../testdata/rsa-root.crt");

fn refused(pem: &str) -> TrustError {
    TrustBundle::from_pem(pem.as_bytes(), NOW).unwrap_err()
}

fn self_signed(params: &rcgen::CertificateParams) -> String {
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .pem()
}

#[test]
fn refuses_what_is_no_bundle() {
    let root = RootAuthority::generate(NOW).unwrap();
    let key = root.key_pem();
    for pem in ["", "hello", key.as_str(), &" ".repeat(MAX_BUNDLE_BYTES + 1)] {
        assert!(matches!(refused(pem), TrustError::Pem { .. }), "{pem}");
    }
    let many = root.cert_pem().repeat(MAX_ROOTS + 1);
    assert!(matches!(refused(&many), TrustError::Pem { .. }));
    let garbage = pem::write("CERTIFICATE", b"garbage");
    let second = format!("{}{}", root.cert_pem(), garbage.as_str());
    assert_eq!(refused(&second), TrustError::Malformed { position: 2 });
}

#[test]
fn refuses_signatures_that_engines_refuse() {
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let cert = foreign_params(DAY).self_signed(&ed25519).unwrap().pem();
    let error = refused(&cert);
    assert!(
        matches!(error, TrustError::UnsupportedSignature { position: 1, .. }),
        "{error}"
    );
    let error = refused(SHA1_ROOT);
    assert!(
        matches!(error, TrustError::UnsupportedSignature { position: 1, .. }),
        "{error}"
    );
}

#[test]
fn refuses_roots_that_do_not_stand_for_themselves() {
    let (new, old) = (
        RootAuthority::generate(NOW).unwrap(),
        RootAuthority::generate(NOW).unwrap(),
    );
    // Cross-signed under equal names, so that it looks self-signed.
    assert_eq!(
        refused(&cross_sign(&new, &old)),
        TrustError::BadSignature { position: 1 }
    );

    let mut der = pem::read_one(old.cert_pem().as_bytes(), 4096, &["CERTIFICATE"])
        .unwrap()
        .der;
    let last = der.len() - 1;
    der[last] ^= 1;
    let broken = pem::write("CERTIFICATE", &der);
    assert_eq!(refused(&broken), TrustError::BadSignature { position: 1 });
}

#[test]
fn refuses_leaves_as_roots() {
    for is_ca in [IsCa::NoCa, IsCa::ExplicitNoCa] {
        let mut params = foreign_params(DAY);
        params.is_ca = is_ca;
        assert_eq!(
            refused(&self_signed(&params)),
            TrustError::NotACa { position: 1 }
        );
    }
    let mut params = foreign_params(DAY);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    assert_eq!(
        refused(&self_signed(&params)),
        TrustError::NotACa { position: 1 }
    );
}

#[test]
fn refuses_roots_out_of_their_validity() {
    let cert = self_signed(&foreign_params(DAY));
    let at = |now| TrustBundle::from_pem(cert.as_bytes(), now).unwrap_err();
    let early = at(NOW - time::Duration::hours(2));
    assert!(
        matches!(early, TrustError::NotValidYet { position: 1, .. }),
        "{early}"
    );
    let late = at(NOW + time::Duration::days(2));
    assert!(
        matches!(late, TrustError::Expired { position: 1, .. }),
        "{late}"
    );
}

#[test]
fn the_digest_covers_the_exact_bytes() {
    let root = RootAuthority::generate(NOW).unwrap();
    let plain = TrustBundle::from_pem(root.cert_pem().as_bytes(), NOW).unwrap();
    let commented = format!("# ours\n{}", root.cert_pem());
    let commented = TrustBundle::from_pem(commented.as_bytes(), NOW).unwrap();
    assert_ne!(plain.digest(), commented.digest());
    assert_eq!(plain.pem(), root.cert_pem().as_bytes());
    assert_eq!(plain.issuer_info(), commented.issuer_info());
}

#[test]
fn only_roots_valid_at_the_time_are_anchors() {
    let short = self_signed(&foreign_params(DAY));
    let long = self_signed(&foreign_params(DAY * 10));
    let trust = TrustBundle::from_pem(format!("{short}{long}").as_bytes(), NOW).unwrap();
    let count = |days| trust.valid_anchors(NOW + time::Duration::days(days)).len();
    assert_eq!((count(-1), count(0), count(5), count(20)), (0, 2, 1, 0));
    assert_eq!(trust.not_after(), NOW + time::Duration::DAY);
}

#[test]
fn accepts_rsa_roots() {
    TrustBundle::from_pem(RSA_ROOT.as_bytes(), NOW + time::Duration::DAY).unwrap();
}

proptest! {
    #[test]
    fn a_mutated_root_is_refused(at: prop::sample::Index, value: u8) {
        let root = RootAuthority::generate(NOW).unwrap();
        let der = root.trust().only_root().unwrap().to_vec();
        let mut mutated = der.clone();
        let at = at.index(der.len());
        mutated[at] = value;
        prop_assume!(mutated != der);
        let pem = pem::write("CERTIFICATE", &mutated);
        prop_assert!(TrustBundle::from_pem(pem.as_bytes(), NOW).is_err());
        let pair = RootAuthority::from_pem(pem.as_bytes(), root.key_pem().as_bytes(), NOW);
        prop_assert!(pair.is_err());
    }
}
