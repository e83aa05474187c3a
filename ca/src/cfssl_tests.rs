use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyUsagePurpose,
};
use time::macros::datetime;

use super::*;
use crate::RootAuthority;
use crate::key::NodeKey;
use crate::profile::CertificateExpiry;
use crate::role::Role;

const NOW: OffsetDateTime = datetime!(2026-11-20 07:00 UTC);

fn profile(role: Role) -> NodeProfile {
    NodeProfile {
        cluster_id: "clusterid".to_owned(),
        node_id: "nodeid".to_owned(),
        role,
        expiry: CertificateExpiry::DEFAULT,
    }
}

fn request() -> (Csr, String) {
    let pem = NodeKey::generate().unwrap().csr_pem().unwrap();
    (Csr::parse(pem.as_bytes()).unwrap(), pem)
}

/// An external CA: a root with its key as the encoder's own.
struct Outside {
    issuer: Issuer<'static, rcgen::KeyPair>,
    public: ExternalIssuer,
}

fn outside() -> Outside {
    let root = RootAuthority::generate(NOW).unwrap();
    let key = rcgen::KeyPair::from_pem(&root.key_pem()).unwrap();
    let public = ExternalIssuer::from_pem(root.cert_pem().as_bytes(), NOW).unwrap();
    let der = CertificateDer::from(public.der().to_vec());
    Outside {
        issuer: Issuer::from_ca_cert_der(&der, key).unwrap(),
        public,
    }
}

/// What cfssl signs with the usages that its profile must have.
fn params(profile: &NodeProfile, csr: &Csr) -> CertificateParams {
    let names: Vec<_> = dns_names(profile).into_iter().map(str::to_owned).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = NOW - time::Duration::HOUR;
    params.not_after = NOW + time::Duration::DAY;
    params.serial_number = Some(vec![5; 19].into());
    params.distinguished_name = rcgen::DistinguishedName::new();
    let name = &mut params.distinguished_name;
    name.push(DnType::OrganizationName, profile.cluster_id.as_str());
    name.push(DnType::OrganizationalUnitName, profile.role.ou());
    name.push(DnType::CommonName, profile.node_id.as_str());
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
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(csr.key_bytes()));
    params
}

fn judge(
    change: impl FnOnce(&mut CertificateParams),
) -> Result<IssuedCertificate, ForeignCertificateError> {
    let outside = outside();
    let profile = profile(Role::Manager);
    let (csr, _) = request();
    let mut params = params(&profile, &csr);
    change(&mut params);
    let pem = params.signed_by(csr.key(), &outside.issuer).unwrap().pem();
    outside.public.accept_leaf(&pem, &profile, &csr, NOW)
}

fn departs(change: impl FnOnce(&mut CertificateParams)) -> &'static str {
    match judge(change) {
        Err(ForeignCertificateError::Profile { violation }) => violation.field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn certificates_that_depart_from_the_profile_are_refused() {
    assert_eq!(
        departs(|params| params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "swarm-worker")),
        "subject OU"
    );
    assert_eq!(
        departs(|params| params
            .distinguished_name
            .push(DnType::CommonName, "another")),
        "subject CN"
    );
    assert_eq!(
        departs(|params| params
            .distinguished_name
            .remove(DnType::OrganizationName)
            .then_some(())
            .unwrap()),
        "subject"
    );
    assert_eq!(
        departs(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        "basicConstraints"
    );
    assert_eq!(
        departs(|params| params.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        "keyUsage"
    );
    assert_eq!(
        departs(|params| drop(params.extended_key_usages.pop())),
        "extKeyUsage"
    );
    assert_eq!(
        departs(|params| drop(params.subject_alt_names.pop())),
        "subjectAltName"
    );
    assert_eq!(
        departs(|params| params
            .custom_extensions
            .push(CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]))),
        "extension list"
    );
}

#[test]
fn a_certificate_of_another_issuer_key_or_time_is_refused() {
    let (outside, other) = (outside(), outside());
    let profile = profile(Role::Worker);
    let (csr, _) = request();
    let (another, _) = request();
    let sign = |csr: &Csr, by: &Outside| {
        let certificate = params(&profile, csr).signed_by(csr.key(), &by.issuer);
        certificate.unwrap().pem()
    };
    let accept = |pem: &str| outside.public.accept_leaf(pem, &profile, &csr, NOW);
    assert_eq!(
        accept(&sign(&csr, &other)),
        Err(ForeignCertificateError::OtherIssuer)
    );
    let violation = ProfileViolation {
        field: "public key",
    };
    assert_eq!(
        accept(&sign(&another, &outside)),
        Err(ForeignCertificateError::Profile { violation })
    );
    // The algorithm outside of what is signed: of another tag, which nodes would not read.
    let good = accept(&sign(&csr, &outside)).unwrap();
    let mut der = good.der.to_vec();
    let algorithm = [0x30, 0x0a, 0x06, 0x08];
    let at = der
        .windows(4)
        .rposition(|bytes| bytes == algorithm)
        .unwrap();
    der[at + 2] = 0x16;
    let bent = pem::write(CERTIFICATE, &der);
    assert_eq!(accept(&bent), Err(ForeignCertificateError::Unreadable));
    for junk in [
        "",
        "junk",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        assert_eq!(accept(junk), Err(ForeignCertificateError::Unreadable));
    }
    let early = judge(|params| params.not_before = NOW + time::Duration::MINUTE).unwrap_err();
    assert_eq!(
        early.to_string(),
        "the external CA's certificate is valid from 2026-11-20T07:01:00Z to \
         2026-11-21T07:00:00Z, and it is 2026-11-20T07:00:00Z here; compare the clocks of the hosts"
    );
}

#[test]
fn a_certificate_as_the_profile_says_is_taken_with_its_own_serial_and_life() {
    let issued = judge(|_| {}).unwrap();
    assert_eq!(issued.identity.role, Role::Manager);
    assert_eq!(issued.identity.not_after, NOW + time::Duration::DAY);
    assert!(issued.pem.ends_with("-----END CERTIFICATE-----\n"));
}

#[test]
fn requests_are_as_the_protocol_has_them() {
    let text = node_request("CSR\n", &profile(Role::Manager));
    assert_eq!(
        text,
        r#"{"hosts":["swarm-manager","nodeid","swarm-ca"],"certificate_request":"CSR\n","subject":{"CN":"nodeid","names":[{"O":"clusterid","OU":"swarm-manager"}],"SerialNumber":""},"profile":"","crl_override":"","label":"","NotBefore":"0001-01-01T00:00:00Z","NotAfter":"0001-01-01T00:00:00Z","ReturnPrecert":false,"metadata":null}"#
    );
    let text = node_request("CSR", &profile(Role::Worker));
    assert!(
        text.starts_with(r#"{"hosts":["swarm-worker","nodeid"],"#),
        "{text}"
    );
    let root = RootAuthority::generate(NOW).unwrap();
    let text = cross_sign_request("CSR", root.cert_pem().as_bytes(), NOW).unwrap();
    assert_eq!(
        text,
        r#"{"hosts":null,"certificate_request":"CSR","subject":{"CN":"swarm-ca","names":[{}],"SerialNumber":""},"profile":"CA","crl_override":"","label":"","extensions":[{"id":"2.5.29.19","critical":true,"value":"30030101ff"}],"NotBefore":"0001-01-01T00:00:00Z","NotAfter":"0001-01-01T00:00:00Z","ReturnPrecert":false,"metadata":null}"#
    );
}

#[test]
fn answers_are_read_as_the_table_says() {
    let read = |status, body: &str| {
        let error = read_response(status, body.as_bytes()).unwrap_err();
        (error.to_string(), error.is_final())
    };
    for (status, body, text, is_final) in [
        (
            400,
            "no\n",
            "unexpected status code in CSR response: 400 - no",
            false,
        ),
        (
            503,
            "",
            "unexpected status code in CSR response: 503 - ",
            false,
        ),
        (
            200,
            r#"{"success":false,"result":null,"errors":[{"code":9002,"message":"CSR Decode failed"},{"code":1,"message":"x"}],"messages":[]}"#,
            "response errors: [{9002 CSR Decode failed} {1 x}]",
            true,
        ),
        (
            200,
            r#"{"success":false}"#,
            "certificate signing request failed",
            true,
        ),
        (
            200,
            r#"{"success":true,"result":null,"errors":null}"#,
            "certificate signing request failed",
            true,
        ),
        (
            200,
            r#"{"success":true,"result":"x"}"#,
            "invalid result type: string",
            true,
        ),
        (
            200,
            r#"{"success":true,"result":{"certificate":7}}"#,
            "invalid result certificate field type: float64",
            true,
        ),
        (
            200,
            r#"{"success":true,"result":{}}"#,
            "invalid result certificate field type: <nil>",
            true,
        ),
    ] {
        assert_eq!(read(status, body), (text.to_owned(), is_final));
    }
    let (text, is_final) = read(200, "<html>");
    assert!(
        text.starts_with("unable to parse JSON response: "),
        "{text}"
    );
    assert!(!is_final);
    assert!(read(500, "a\x1b[2J\nb").0.ends_with("500 - a?[2J?b"));
    let (text, _) = read(500, &"é".repeat(10_000));
    assert!(text.len() < 320, "{} bytes", text.len());
    let taken = read_response(200, br#"{"success":true,"result":{"certificate":"PEM"}}"#);
    assert_eq!(taken.as_deref(), Ok("PEM"));
}

#[test]
fn a_cross_signed_root_must_be_the_root_that_was_sent() {
    let outside = outside();
    let new = RootAuthority::generate(NOW).unwrap();
    let csr = Csr::parse(new.csr_pem().unwrap().as_bytes()).unwrap();
    let params = || {
        let mut params = CertificateParams::default();
        params.not_before = NOW - time::Duration::HOUR;
        params.not_after = NOW + time::Duration::days(366);
        params.serial_number = Some(vec![9; 19].into());
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = rcgen::DnValue::PrintableString("swarm-ca".try_into().unwrap());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params
    };
    let accept = |params: CertificateParams, csr: &Csr| {
        let pem = params.signed_by(csr.key(), &outside.issuer).unwrap().pem();
        outside
            .public
            .accept_cross_signed(&pem, new.issuer_info(), NOW)
    };
    let field = |result| match result {
        Err(ForeignCertificateError::OtherRoot { field }) => field,
        other => panic!("{other:?}"),
    };
    let (another, _) = request();
    assert_eq!(field(accept(params(), &another)), "public key");
    let mut renamed = params();
    renamed
        .distinguished_name
        .push(DnType::CommonName, "swarm-ca");
    assert_eq!(field(accept(renamed, &csr)), "subject");
    let mut leaf = params();
    leaf.is_ca = IsCa::ExplicitNoCa;
    assert_eq!(field(accept(leaf, &csr)), "basicConstraints");
    let mut short = params();
    short.not_after = NOW + time::Duration::days(364);
    assert!(field(accept(short, &csr)).starts_with("validity"));
    let mut nameless = params();
    nameless.use_authority_key_identifier_extension = false;
    assert_eq!(
        accept(nameless, &csr),
        Err(ForeignCertificateError::SameName)
    );
    let pem = accept(params(), &csr).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----\n"));
}
