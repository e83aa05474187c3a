use std::time::Duration;

use proptest::prelude::*;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use super::*;
use crate::authority::RootAuthority;
use crate::role::Role;
use crate::test_roots::*;

fn root() -> RootAuthority {
    RootAuthority::generate(NOW).unwrap()
}

fn client(certs: &[CertificateDer<'_>], root: &RootAuthority) -> Result<VerifiedChain, ChainError> {
    verify_chain(certs, root.trust(), NOW, Purpose::Client)
}

#[test]
fn refuses_chains_over_the_limits_before_looking_at_them() {
    let root = root();
    let junk = CertificateDer::from(vec![0; 10]);
    let empty = ChainError::Limit(ChainLimitError::Empty);
    assert_eq!(client(&[], &root), Err(empty));
    let long = ChainError::Limit(ChainLimitError::TooLong { certificates: 5 });
    assert_eq!(client(&vec![junk.clone(); 5], &root), Err(long));
    let bytes = MAX_CHAIN_BYTES + 1;
    let large = ChainError::Limit(ChainLimitError::TooLarge { bytes });
    assert_eq!(client(&[vec![0; bytes].into()], &root), Err(large));
    assert!(client(&[junk], &root).is_err());
}

#[test]
fn refuses_a_certificate_of_another_cluster() {
    // Both roots are called swarm-ca, so it is the signature that does not fit.
    let (ours, theirs) = (root(), root());
    let (issued, _) = leaf(&theirs, &profile("n", Role::Manager), NOW);
    assert_eq!(client(&[issued.der], &ours), Err(ChainError::BadSignature));
    let foreign = foreign_root(Duration::from_secs(86_400));
    let (issued, _) = leaf(&foreign, &profile("n", Role::Manager), NOW);
    assert_eq!(client(&[issued.der], &ours), Err(ChainError::UnknownIssuer));
}

#[test]
fn refuses_certificates_out_of_their_validity() {
    let root = root();
    let (issued, _) = leaf(&root, &profile("n", Role::Worker), NOW);
    let at = |now| {
        verify_chain(
            std::slice::from_ref(&issued.der),
            root.trust(),
            now,
            Purpose::Client,
        )
    };
    let (not_before, not_after) = (issued.identity.not_before, issued.identity.not_after);
    let late = not_after + time::Duration::SECOND;
    assert_eq!(
        at(late),
        Err(ChainError::Expired {
            not_after,
            now: late
        })
    );
    at(not_after).unwrap();
    at(not_before).unwrap();
    // The root began at the same minute, so that is found first.
    let early = not_before - time::Duration::SECOND;
    assert_eq!(at(early), Err(ChainError::NoValidRoot { now: early }));
    let (later, _) = leaf(
        &root,
        &profile("n", Role::Worker),
        NOW + time::Duration::days(1),
    );
    let not_before = later.identity.not_before;
    let error = verify_chain(&[later.der], root.trust(), NOW, Purpose::Client).unwrap_err();
    assert_eq!(
        error,
        ChainError::NotValidYet {
            not_before,
            now: NOW
        }
    );
}

#[test]
fn refuses_an_expired_root_though_the_leaf_is_valid() {
    let root = foreign_root(Duration::from_secs(86_400));
    let (issued, _) = leaf(&root, &profile("n", Role::Worker), NOW);
    let now = NOW + time::Duration::days(2);
    assert!(now < issued.identity.not_after);
    let error = verify_chain(&[issued.der], root.trust(), now, Purpose::Client).unwrap_err();
    assert_eq!(error, ChainError::NoValidRoot { now });
}

#[test]
fn refuses_certificates_for_something_else() {
    let authority = root();
    let ca_key = KeyPair::from_pem(&authority.key_pem()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(authority.cert_pem(), ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.not_before = NOW - time::Duration::HOUR;
    params.not_after = NOW + time::Duration::HOUR;
    params.is_ca = IsCa::ExplicitNoCa;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().unwrap();
    let server_only = params.signed_by(&key, &issuer).unwrap().der().clone();
    assert_eq!(
        client(&[server_only], &authority),
        Err(ChainError::WrongPurpose)
    );
    params.extended_key_usages = vec![];
    let nameless = params.signed_by(&key, &issuer).unwrap().der().clone();
    assert!(matches!(
        client(&[nameless], &authority),
        Err(ChainError::Identity(_))
    ));
}

#[test]
fn a_cross_signed_chain_is_trusted_by_old_and_new() {
    let (old, new) = (root(), root());
    let (issued, key) = leaf(&new, &profile("n", Role::Worker), NOW);
    let pem = format!("{}{}", issued.pem, cross_sign(&new, &old));
    let chain = chain_from_pem(pem.as_bytes()).unwrap();
    // Alone, the leaf says nothing to a node that knows only the old root.
    assert_eq!(client(&chain[..1], &old), Err(ChainError::BadSignature));
    for trusted in [&old, &new] {
        let verified = client(&chain, trusted).unwrap();
        assert_eq!(&verified.issuer, new.issuer_info());
    }
    let credentials = NodeCredentials::new(pem.as_bytes(), key, old.trust(), NOW).unwrap();
    assert_eq!(credentials.issuer(), new.issuer_info());
    assert_eq!(credentials.chain().len(), 2);
    assert_eq!(credentials.chain_pem(), pem);
}

#[test]
fn credentials_need_a_whole_chain_and_its_key() {
    let (root, other) = (root(), root());
    let (issued, _) = leaf(&root, &profile("n", Role::Worker), NOW);
    let key = |pem: &str| NodeKey::from_pkcs8_pem(pem.as_bytes()).unwrap();
    let key_pem = leaf(&root, &profile("m", Role::Worker), NOW).1.pkcs8_pem();
    let made = |chain: &str| {
        NodeCredentials::new(chain.as_bytes(), key(&key_pem), root.trust(), NOW).unwrap_err()
    };
    assert_eq!(made(&issued.pem), CredentialsError::KeyMismatch);
    let unrelated = format!("{}{}", issued.pem, other.cert_pem());
    assert_eq!(made(&unrelated), ChainError::Broken { position: 1 }.into());
    assert!(matches!(
        made(""),
        CredentialsError::Chain(ChainError::Pem { .. })
    ));
    assert!(matches!(
        made(&key_pem),
        CredentialsError::Chain(ChainError::Pem { .. })
    ));
    let noisy = format!("text\n{}", issued.pem);
    assert!(matches!(
        made(&noisy),
        CredentialsError::Chain(ChainError::Pem { .. })
    ));
}

#[test]
fn expired_credentials_are_not_taken() {
    let root = root();
    let (issued, key) = leaf(&root, &profile("n", Role::Worker), NOW);
    let now = issued.identity.not_after + time::Duration::SECOND;
    let error = NodeCredentials::new(issued.pem.as_bytes(), key, root.trust(), now).unwrap_err();
    let not_after = issued.identity.not_after;
    assert_eq!(error, ChainError::Expired { not_after, now }.into());
}

#[test]
fn debug_of_credentials_shows_no_private_key() {
    let root = root();
    let credentials = credentials(&root, &profile("n", Role::Worker), NOW);
    let shown = format!("{credentials:?}");
    assert!(shown.contains("NodeKey(public "), "{shown}");
    let pem = credentials.key().pkcs8_pem();
    let line = pem.lines().nth(2).unwrap();
    assert!(!shown.contains(line));
}

proptest! {
    #[test]
    fn a_mutated_chain_is_refused_or_says_the_same(
        at in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let authority = root();
        let (issued, _) = leaf(&authority, &profile("n", Role::Worker), NOW);
        let mut der = issued.der.to_vec();
        for (at, value) in at {
            let at = at.index(der.len());
            der[at] = value;
        }
        if let Some(cut) = cut {
            der.truncate(cut.index(der.len()));
        }
        let mutated = [CertificateDer::from(der)];
        let _ = peer_identity(&mutated);
        if let Ok(verified) = client(&mutated, &authority) {
            prop_assert_eq!(verified.identity, issued.identity);
        }
    }

    #[test]
    fn random_bytes_are_no_chain(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(peer_identity(&[bytes.clone().into()]).is_err());
        prop_assert!(chain_from_pem(&bytes).is_err());
        let block = pem::write(CERTIFICATE, &bytes);
        prop_assert!(TrustBundle::from_pem(block.as_bytes(), NOW).is_err());
    }
}
