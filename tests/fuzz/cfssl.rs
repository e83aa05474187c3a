//! Answers of external CAs: the message, and the certificates in it.

use std::sync::LazyLock;

use waxseal_ca::{
    Csr, ExternalIssuer, IssuerInfo, NodeKey, PublicKeyDigest, RootAuthority, Serial,
    cfssl::{MAX_RESPONSE_BYTES, read_response},
};

use crate::{
    Target,
    pki::{NOW, profile},
};

pub(crate) fn targets() -> Vec<Target> {
    vec![Target {
        name: "cfssl",
        words: &[
            r#""success":true"#,
            r#""success":false"#,
            r#""result":{"certificate":""#,
            r#""errors":[{"code":1000,"message":""#,
            "-----BEGIN CERTIFICATE-----\\n",
            "\\n-----END CERTIFICATE-----\\n",
            "null",
            "\\u0000",
            "[[[[[[[[",
            "1e999",
        ],
        // The text, its values, and a certificate in PEM and DER.
        room: (64 << 10, 64),
        seeds,
        check,
    }]
}

/// An external CA, what it was asked to sign, and what it signs.
struct World {
    issuer: ExternalIssuer,
    csr: Csr,
    leaf: Vec<u8>,
    leaf_pem: String,
    next: IssuerInfo,
    cross_pem: String,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let root = || RootAuthority::generate(NOW).expect("a root");
    let (authority, next) = (root(), root());
    let key = NodeKey::generate().expect("a key");
    let csr = Csr::parse(key.csr_pem().expect("a request").as_bytes()).expect("its own request");
    let serial = Serial::from_bytes(&[7; 20]).expect("a serial");
    let issued = authority
        .issue(&profile(), &csr, serial, NOW)
        .expect("a certificate");
    let cross = authority.cross_sign(next.trust(), NOW);
    World {
        issuer: ExternalIssuer::from_pem(authority.cert_pem().as_bytes(), NOW).expect("a root"),
        csr,
        leaf: issued.der.to_vec(),
        leaf_pem: issued.pem,
        next: next.issuer_info().clone(),
        cross_pem: cross.expect("a signature"),
    }
});

fn answer(pem: &str) -> Vec<u8> {
    let body = serde_json::json!({
        "success": true, "result": {"certificate": pem}, "errors": [], "messages": [],
    });
    body.to_string().into_bytes()
}

fn seeds() -> Vec<Vec<u8>> {
    vec![answer(&WORLD.leaf_pem), answer(&WORLD.cross_pem)]
}

/// Nothing is taken but the one leaf and the one root that the CA was asked for.
fn check(input: &[u8]) -> String {
    if input.len() > MAX_RESPONSE_BYTES {
        return "not read as a whole".to_owned();
    }
    // Whatever it is, with another status it is an error that can be shown.
    let error = read_response(503, input).expect_err("a certificate in a failure");
    assert!(
        error.to_string().len() < 512,
        "{} bytes",
        error.to_string().len()
    );
    let pem = match read_response(200, input) {
        Ok(pem) => pem,
        Err(error) => {
            let text = error.to_string();
            assert!(text.len() < 512, "{} bytes", text.len());
            // Its texts are the CA's.
            let what = text.split(['{', ':']).next().unwrap_or_default();
            return what.to_owned();
        }
    };
    let (world, profile) = (&*WORLD, profile());
    let leaf = world.issuer.accept_leaf(&pem, &profile, &world.csr, NOW);
    let cross = world.issuer.accept_cross_signed(&pem, &world.next, NOW);
    match (leaf, cross) {
        (Ok(_), Ok(_)) => panic!("a leaf is no root"),
        (Ok(issued), _) => {
            assert_eq!(issued.der.as_ref(), world.leaf, "another leaf");
            assert_eq!(issued.identity.node_id, profile.node_id);
            "a leaf".to_owned()
        }
        (_, Ok(taken)) => {
            let key = PublicKeyDigest::of_certificate_pem(taken.as_bytes());
            let asked = PublicKeyDigest::of_spki(&world.next.public_key_der);
            assert_eq!(key, Some(asked), "another root");
            "a root".to_owned()
        }
        (Err(leaf), Err(cross)) => format!("{leaf}; {cross}"),
    }
}
