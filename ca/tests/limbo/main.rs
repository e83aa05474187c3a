//! Chains of another maker, in the shape of C2SP's x509-limbo, and what this crate says of them.
//!
//! `vectors.json` is made by `generate.py`.

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use waxseal_ca::{Purpose, TrustBundle, chain_from_pem, verify_chain};

const VECTORS: &str = include_str!("vectors.json");

fn text<'v>(case: &'v Value, field: &str) -> &'v str {
    case[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {case}"))
}

fn joined(case: &Value, field: &str) -> String {
    let texts = case[field].as_array().expect("a list").iter();
    texts.map(|text| text.as_str().expect("a text")).collect()
}

/// The verdict on a case, with its reason.
fn judge(case: &Value) -> Result<(), String> {
    let now = OffsetDateTime::parse(text(case, "validation_time"), &Rfc3339).expect("a time");
    let purpose = match text(case, "validation_kind") {
        "SERVER" => Purpose::Server,
        "CLIENT" => Purpose::Client,
        other => panic!("{other}"),
    };
    let roots = joined(case, "trusted_certs");
    let trust =
        TrustBundle::from_pem(roots.as_bytes(), now).map_err(|error| format!("root: {error}"))?;
    let leaf = text(case, "peer_certificate");
    let chain = leaf.to_owned() + &joined(case, "untrusted_intermediates");
    let chain = chain_from_pem(chain.as_bytes()).map_err(|error| error.to_string())?;
    let verified = verify_chain(&chain, &trust, now, purpose).map_err(|error| error.to_string())?;
    assert_eq!(verified.identity.node_id, "nodeid");
    Ok(())
}

#[test]
fn every_chain_is_judged_as_expected() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["testcases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let id = text(case, "id");
        let verdict = judge(case);
        match (text(case, "expected_result"), &verdict) {
            ("SUCCESS", Ok(())) | ("FAILURE", Err(_)) => {}
            (expected, _) => wrong.push(format!("{id}: expected {expected}, found {verdict:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // A file that was cut would leave little to judge.
    assert!(cases.len() >= 80, "{} cases", cases.len());
}

/// Each refusal is for the reason that the case is about, not for another one.
#[test]
fn refusals_say_what_is_wrong() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let cases = vectors["testcases"].as_array().unwrap();
    for (id, part) in [
        (
            "path::same-name",
            "a signature in the certificate chain is wrong",
        ),
        ("path::other-name", "was not issued by this cluster"),
        ("path::five", "has more than 4"),
        (
            "rotation::back",
            "a signature in the certificate chain is wrong",
        ),
        ("validity::before", "is not valid before"),
        ("validity::after", "is not valid after"),
        ("validity::intermediate", "is not valid after"),
        ("validity::root", "root certificate 1 is not valid after"),
        (
            "validity::root-early",
            "root certificate 1 is not valid before",
        ),
        ("keys::ed25519-sha256", "is signed with 1.3.101.112"),
        ("keys::p521-sha512", "is signed with 1.2.840.10045.4.3.4"),
        ("constraints::intermediate-as-root", "is not self-signed"),
        ("constraints::root-no-basic", "is not a CA certificate"),
        ("constraints::no-sign", "may not sign others"),
        ("constraints::path-0-exceeded", "PathLenConstraintViolated"),
        ("purpose::server-client", "must not be used for this side"),
        ("purpose::client-server", "must not be used for this side"),
        ("identity::two-units", "OU"),
        ("identity::path", "CN"),
    ] {
        let case = cases.iter().find(|case| text(case, "id") == id);
        let refusal = judge(case.unwrap_or_else(|| panic!("{id}"))).unwrap_err();
        assert!(refusal.contains(part), "{id}: {refusal}");
    }
}
