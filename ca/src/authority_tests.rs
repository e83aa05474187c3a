use std::time::Duration;

use rcgen::{KeyPair, SigningKey};
use x509_parser::extensions::{GeneralName, ParsedExtension};

use super::*;
use crate::chain::{Purpose, verify_chain};
use crate::profile::CertificateExpiry;
use crate::role::Role;
use crate::test_roots::*;

const DAY: Duration = Duration::from_secs(86_400);

fn load(cert: &str, key: &str) -> RootAuthorityError {
    RootAuthority::from_pem(cert.as_bytes(), key.as_bytes(), NOW).unwrap_err()
}

#[test]
fn refuses_a_key_of_another_root() {
    let (one, other) = (
        RootAuthority::generate(NOW).unwrap(),
        RootAuthority::generate(NOW).unwrap(),
    );
    assert_eq!(
        load(one.cert_pem(), &other.key_pem()),
        RootAuthorityError::KeyMismatch
    );
}

#[test]
fn refuses_bundles_leaves_and_broken_pairs() {
    let root = RootAuthority::generate(NOW).unwrap();
    let twice = root.cert_pem().repeat(2);
    assert_eq!(
        load(&twice, &root.key_pem()),
        RootAuthorityError::SeveralCertificates
    );
    let (issued, key) = leaf(&root, &profile("n", Role::Manager), NOW);
    let error = load(&issued.pem, &key.pkcs8_pem());
    assert_eq!(error, TrustError::NotSelfSigned { position: 1 }.into());
    assert!(matches!(
        load(root.cert_pem(), "x"),
        RootAuthorityError::Key(_)
    ));
    assert!(matches!(
        load("x", &root.key_pem()),
        RootAuthorityError::Certificate(_)
    ));
}

#[test]
fn refuses_a_name_that_it_could_not_carry_into_leaves() {
    let key = KeyPair::generate().unwrap();
    let mut params = foreign_params(DAY);
    let odd = DnValue::TeletexString("odd".try_into().unwrap());
    params
        .distinguished_name
        .push(DnType::OrganizationName, odd);
    let cert = params.self_signed(&key).unwrap().pem();
    let error = load(&cert, &key.serialize_pem());
    assert_eq!(error, RootAuthorityError::Unsuitable { field: "subject" });
}

#[test]
fn signs_nothing_outside_of_its_own_validity() {
    let root = foreign_root(DAY);
    let key = NodeKey::generate().unwrap();
    for now in [
        NOW - time::Duration::hours(2),
        NOW + time::Duration::days(2),
    ] {
        let result = root.issue(&profile("n", Role::Worker), &csr(&key), serial(1), now);
        assert_eq!(result, Err(IssueError::RootNotValid));
    }
}

#[test]
fn refuses_ids_that_are_none() {
    let root = RootAuthority::generate(NOW).unwrap();
    let key = NodeKey::generate().unwrap();
    for id in ["", "a/b", "a\0", "ä"] {
        let result = root.issue(&profile(id, Role::Worker), &csr(&key), serial(1), NOW);
        let violation = ProfileViolation {
            field: "subject CN",
        };
        assert_eq!(result, Err(IssueError::Profile(violation)), "{id:?}");
        let mut other = profile("n", Role::Worker);
        other.cluster_id = id.to_owned();
        let result = root.issue(&other, &csr(&key), serial(1), NOW);
        let violation = ProfileViolation { field: "subject O" };
        assert_eq!(result, Err(IssueError::Profile(violation)), "{id:?}");
    }
}

#[test]
fn refuses_dates_beyond_the_calendar() {
    let root = RootAuthority::generate(NOW).unwrap();
    let key = NodeKey::generate().unwrap();
    let mut endless = profile("n", Role::Worker);
    endless.expiry = CertificateExpiry::danger_short_lived(Duration::MAX);
    let result = root.issue(&endless, &csr(&key), serial(1), NOW);
    assert_eq!(result, Err(IssueError::Clock));
}

/// What is expected of a leaf for the tests below.
fn expected<'a>(
    root: &'a RootAuthority,
    profile: &'a NodeProfile,
    request: &'a Csr,
) -> ExpectedLeaf<'a> {
    ExpectedLeaf {
        profile,
        serial: serial(1),
        not_before: NOW - time::Duration::HOUR,
        not_after: NOW + time::Duration::DAY,
        spki_der: request.spki_der(),
        subject_key_id: key_id(request.key().der_bytes()),
        issuer_der: &root.issuer_info().subject_der,
        authority_key_id: &root.subject_key_id,
        signature: "1.2.840.10045.4.3.2",
        origin: Origin::Own,
    }
}

#[test]
fn the_signer_refuses_whatever_departs_from_the_profile() {
    type Change = fn(&mut CertificateParams);
    let changes: [(&str, Change); 14] = [
        ("serial", |params| {
            params.serial_number = Some(SerialNumber::from_slice(&[9]))
        }),
        ("notBefore", |params| {
            params.not_before -= time::Duration::SECOND
        }),
        ("notAfter", |params| {
            params.not_after += time::Duration::SECOND
        }),
        ("subject OU", |params| {
            params
                .distinguished_name
                .push(DnType::OrganizationalUnitName, "swarm-manager");
        }),
        ("subject O", |params| {
            params
                .distinguished_name
                .push(DnType::OrganizationName, "x")
        }),
        ("subject CN", |params| {
            params.distinguished_name.push(DnType::CommonName, "x")
        }),
        ("subject", |params| {
            params.distinguished_name.push(DnType::CountryName, "CH")
        }),
        ("subjectAltName", |params| {
            let name = CA_SERVER.try_into().unwrap();
            params.subject_alt_names.push(rcgen::SanType::DnsName(name));
        }),
        ("basicConstraints", |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        }),
        ("extension list", |params| {
            params.use_authority_key_identifier_extension = false
        }),
        ("keyUsage", |params| {
            params.key_usages.push(KeyUsagePurpose::KeyCertSign)
        }),
        ("extKeyUsage", |params| {
            params
                .extended_key_usages
                .push(rcgen::ExtendedKeyUsagePurpose::Any);
        }),
        ("subjectKeyIdentifier", |params| {
            params.key_identifier_method = KeyIdMethod::PreSpecified(vec![1]);
        }),
        ("extension list", |params| {
            let extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
            params.custom_extensions.push(extension);
        }),
    ];
    const CA_SERVER: &str = "swarm-ca";
    let root = RootAuthority::generate(NOW).unwrap();
    let (worker, key) = (profile("n", Role::Worker), NodeKey::generate().unwrap());
    let request = csr(&key);
    let expected = expected(&root, &worker, &request);
    for (field, change) in changes {
        let mut params = expected.params().unwrap();
        change(&mut params);
        let signer = ProfiledSigner::new(&root.signer, &expected);
        let signed = params.signed_by(request.key(), &Issuer::from_params(&root.issuer, &signer));
        assert!(signed.is_err(), "{field}");
        assert_eq!(signer.violation.take(), Some(ProfileViolation { field }));
    }
}

#[test]
fn the_signer_refuses_another_key_issuer_and_anything_that_is_no_certificate() {
    let (root, other) = (RootAuthority::generate(NOW).unwrap(), foreign_root(DAY));
    let (worker, key) = (profile("n", Role::Worker), NodeKey::generate().unwrap());
    let request = csr(&key);
    let expected = expected(&root, &worker, &request);
    let params = expected.params().unwrap();
    let theirs = csr(&NodeKey::generate().unwrap());
    let violation = |key: &Csr, issuer: &CertificateParams| {
        let signer = ProfiledSigner::new(&root.signer, &expected);
        let issuer = Issuer::from_params(issuer, &signer);
        assert!(params.signed_by(key.key(), &issuer).is_err());
        signer.violation.take().unwrap().field
    };
    assert_eq!(violation(&theirs, &root.issuer), "public key");
    assert_eq!(violation(&request, &other.issuer), "issuer");
    let signer = ProfiledSigner::new(&root.signer, &expected);
    assert!(signer.sign(b"anything").is_err());
    assert_eq!(
        signer.violation.take(),
        Some(ProfileViolation { field: "encoding" })
    );
}

#[test]
fn a_generated_root_is_as_specified() {
    let root = RootAuthority::generate(NOW).unwrap();
    let der = root.trust().only_root().unwrap().to_vec();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let tbs = &certificate.tbs_certificate;
    assert_eq!(tbs.subject.to_string(), "CN=swarm-ca");
    let common_name = tbs.subject.iter_common_name().next().unwrap();
    assert_eq!(common_name.attr_value().tag(), Tag::PrintableString);
    assert_eq!(
        tbs.signature.algorithm.to_id_string(),
        "1.2.840.10045.4.3.2"
    );
    assert_eq!(
        tbs.validity.not_before.to_datetime(),
        NOW - time::Duration::HOUR
    );
    let life = tbs.validity.not_after.to_datetime() - tbs.validity.not_before.to_datetime();
    assert_eq!(life, time::Duration::days(7300));
    assert!(tbs.raw_serial().len() <= 20 && tbs.raw_serial()[0] & 0x80 == 0);
    assert_eq!(tbs.extensions().len(), 3);
    for extension in tbs.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::KeyUsage(usage) => {
                assert!(extension.critical && usage.key_cert_sign() && usage.crl_sign());
                assert_eq!(usage.flags.count_ones(), 2);
            }
            ParsedExtension::BasicConstraints(constraints) => {
                assert!(extension.critical && constraints.ca);
                assert_eq!(constraints.path_len_constraint, None);
            }
            ParsedExtension::SubjectKeyIdentifier(id) => {
                assert_eq!(id.0, key_id(&tbs.subject_pki.subject_public_key.data));
            }
            other => panic!("unexpected extension {other:?}"),
        }
    }
    assert!(root.cert_pem().ends_with("-----END CERTIFICATE-----\n"));
    let again = RootAuthority::from_pem(root.cert_pem().as_bytes(), root.key_pem().as_bytes(), NOW)
        .unwrap();
    assert_eq!(again.cert_pem(), root.cert_pem());
    assert_eq!(again.trust().digest(), root.trust().digest());
}

#[test]
fn a_leaf_is_as_specified() {
    let root = RootAuthority::generate(NOW).unwrap();
    for role in [Role::Worker, Role::Manager] {
        let (issued, key) = leaf(&root, &profile("node1", role), NOW);
        let (_, certificate) = X509Certificate::from_der(&issued.der).unwrap();
        let subject = format!("O={CLUSTER}, OU={}, CN=node1", role.ou());
        assert_eq!(certificate.subject().to_string(), subject);
        assert_eq!(certificate.issuer().to_string(), "CN=swarm-ca");
        assert_eq!(certificate.public_key().raw, key.spki_der());
        assert_eq!(issued.identity.not_before, NOW - time::Duration::HOUR);
        let life = issued.identity.not_after - issued.identity.not_before;
        assert_eq!(life, time::Duration::hours(2161));
        assert_eq!(issued.identity.serial, serial(1));
        assert_eq!(issued.identity.role, role);
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let mut expected = vec![
            GeneralName::DNSName(role.ou()),
            GeneralName::DNSName("node1"),
        ];
        if role == Role::Manager {
            expected.push(GeneralName::DNSName("swarm-ca"));
        }
        assert_eq!(names.value.general_names, expected);
        assert!(!names.critical);
        for purpose in [Purpose::Server, Purpose::Client] {
            let verified = verify_chain(
                std::slice::from_ref(&issued.der),
                root.trust(),
                NOW,
                purpose,
            )
            .unwrap();
            assert_eq!(verified.identity, issued.identity);
            assert_eq!(&verified.issuer, root.issuer_info());
        }
    }
}

#[test]
fn a_short_life_needs_the_dangerous_name() {
    let root = RootAuthority::generate(NOW).unwrap();
    let mut short = profile("n", Role::Worker);
    short.expiry = CertificateExpiry::danger_short_lived(Duration::from_secs(120));
    let (issued, _) = leaf(&root, &short, NOW);
    assert_eq!(issued.identity.not_after, NOW + time::Duration::minutes(2));
}

#[test]
fn roots_of_other_programs_sign_too_with_their_names_kept() {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = foreign_params(DAY);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::CountryName,
        DnValue::PrintableString("CH".try_into().unwrap()),
    );
    params
        .distinguished_name
        .push(DnType::OrganizationName, "Änderung AG");
    params.distinguished_name.push(DnType::CommonName, "Root 1");
    let cert = params.self_signed(&key).unwrap().pem();
    let root =
        RootAuthority::from_pem(cert.as_bytes(), key.serialize_pem().as_bytes(), NOW).unwrap();
    let (issued, _) = leaf(&root, &profile("n", Role::Manager), NOW);
    verify_chain(&[issued.der], root.trust(), NOW, Purpose::Server).unwrap();
}

#[test]
fn a_p384_node_key_is_certified() {
    let root = RootAuthority::generate(NOW).unwrap();
    let pem = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384)
        .unwrap()
        .serialize_pem();
    let key = NodeKey::from_pkcs8_pem(pem.as_bytes()).unwrap();
    let issued = root
        .issue(&profile("n", Role::Worker), &csr(&key), serial(1), NOW)
        .unwrap();
    verify_chain(&[issued.der], root.trust(), NOW, Purpose::Client).unwrap();
}

#[test]
fn debug_does_not_show_the_key() {
    let root = RootAuthority::generate(NOW).unwrap();
    assert_eq!(
        format!("{root:?}"),
        format!("RootAuthority({})", root.trust().digest())
    );
}

/// A root whose key is elsewhere, and two CAs below it with theirs.
fn offline() -> (RootAuthority, [(String, String); 2]) {
    let root = RootAuthority::generate(NOW).unwrap();
    let issuer_key = KeyPair::from_pem(&root.key_pem()).unwrap();
    let der = CertificateDer::from(root.trust().only_root().unwrap().to_vec());
    let issuer = Issuer::from_ca_cert_der(&der, issuer_key).unwrap();
    let below = ["ours", "theirs"].map(|name| {
        let key = KeyPair::generate().unwrap();
        let mut params = foreign_params(DAY);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &issuer).unwrap().pem();
        (cert, key.serialize_pem())
    });
    (root, below)
}

fn below(root: &RootAuthority, (cert, key): &(String, String)) -> RootAuthority {
    let bundle = format!("{cert}{}", root.cert_pem());
    RootAuthority::intermediate_from_pem(bundle.as_bytes(), key.as_bytes(), NOW).unwrap()
}

#[test]
fn an_intermediate_must_lead_to_the_root_that_comes_with_it() {
    let (root, [ours, theirs]) = offline();
    let (stranger, _) = offline();
    let load = |bundle: String, key: &str| {
        RootAuthority::intermediate_from_pem(bundle.as_bytes(), key.as_bytes(), NOW).unwrap_err()
    };
    let other = load(format!("{}{}", ours.0, stranger.cert_pem()), &ours.1);
    assert!(matches!(other, RootAuthorityError::Way { .. }), "{other}");
    let upside_down = load(format!("{}{}", root.cert_pem(), ours.0), &ours.1);
    assert!(matches!(upside_down, RootAuthorityError::Way { .. }));
    let alone = load(root.cert_pem().to_owned(), &root.key_pem());
    assert!(matches!(alone, RootAuthorityError::Unsuitable { .. }));
    let foreign_key = load(format!("{}{}", ours.0, root.cert_pem()), &theirs.1);
    assert_eq!(foreign_key, RootAuthorityError::KeyMismatch);
    let (issued, key) = leaf(&root, &profile("n", Role::Manager), NOW);
    let as_issuer = load(
        format!("{}{}", issued.pem, root.cert_pem()),
        &key.pkcs8_pem(),
    );
    assert!(
        matches!(as_issuer, RootAuthorityError::Way { .. }),
        "{as_issuer}"
    );
}

#[test]
fn leaves_of_an_intermediate_lead_to_the_root_and_only_pinned_issuers_count() {
    let (root, [ours, theirs]) = offline();
    let (ours, theirs) = (below(&root, &ours), below(&root, &theirs));
    assert_eq!(ours.trust().digest(), root.trust().digest());
    let chain = |authority: &RootAuthority| {
        let (issued, _) = leaf(authority, &profile("n", Role::Manager), NOW);
        let text = issued.pem + authority.way_pem();
        let chain = crate::chain::chain_from_pem(text.as_bytes()).unwrap();
        let verified = verify_chain(&chain, root.trust(), NOW, Purpose::Client).unwrap();
        assert_eq!(&verified.issuer, authority.issuer_info());
        verified
    };
    let (member, stranger) = (chain(&ours), chain(&theirs));
    let clock = std::sync::Arc::new(crate::test_util::ManualClock::at(NOW));
    let live = crate::LiveTls::new(std::sync::Arc::new(root.trust().clone()), None, clock);
    assert_eq!(live.check_issuer(&stranger), Ok(()), "nothing is pinned");
    let key = crate::PublicKeyDigest::of_spki(&ours.issuer_info().public_key_der);
    live.rule_issuers(crate::IssuerRules {
        only: Some(vec![key]),
        refused: Vec::new(),
    });
    assert_eq!(live.check_issuer(&member), Ok(()));
    let refused = live.check_issuer(&stranger);
    assert_eq!(refused, Err(ChainError::ForeignIssuer));
    // By name, whoever else counts.
    live.rule_issuers(crate::IssuerRules {
        only: None,
        refused: vec![key],
    });
    assert_eq!(live.check_issuer(&stranger), Ok(()));
    let refused = live.check_issuer(&member);
    assert_eq!(refused, Err(ChainError::FormerIssuer));
}
