//! Certificate requests, tokens, bundles, chains and keys.

use std::sync::LazyLock;

use time::{OffsetDateTime, macros::datetime};
use waxseal_ca::{
    BundleDigest, CertificateExpiry, Csr, JoinToken, JoinTokens, NodeKey, NodeProfile, Purpose,
    Role, RootAuthority, Serial, TrustBundle, chain_from_pem, chain_to_pem,
    csr::MAX_CSR_PEM_BYTES,
    root::{MAX_BUNDLE_BYTES, MAX_ROOTS},
    verify_chain,
};

use crate::{Target, no_seeds};

/// When the corpus' certificates are valid.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-20 12:00 UTC);

/// Base64 and DER of a block at its largest, each several times while it is read.
const PEM_ROOM: (usize, usize) = (64 << 10, 24);

pub(crate) fn targets() -> Vec<Target> {
    const PEM: &[&str] = &[
        "-----BEGIN CERTIFICATE-----\n",
        "-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE REQUEST-----\n",
        "-----",
        "\r\n",
        "Proc-Type: 4,ENCRYPTED\n",
        "=",
        "\u{feff}",
    ];
    let target = |name, seeds, check| Target {
        name,
        words: PEM,
        room: PEM_ROOM,
        seeds,
        check,
    };
    vec![
        target("csr", no_seeds, csr),
        target("bundle", no_seeds, bundle),
        target("chain", chains, chain),
        target("node-key", no_seeds, node_key),
        Target {
            words: &["SWMTKN-1-", "SWMTKN-2-", "-", "0", "zzz"],
            ..target("token", tokens, token)
        },
    ]
}

struct Root {
    authority: RootAuthority,
    /// A leaf of it, for the only node there is.
    leaf: Vec<u8>,
}

static ROOT: LazyLock<Root> = LazyLock::new(|| {
    let authority = RootAuthority::generate(NOW).expect("a root");
    let key = NodeKey::generate().expect("a key");
    let csr = Csr::parse(key.csr_pem().expect("a request").as_bytes()).expect("its own request");
    let issued = authority
        .issue(&profile(), &csr, serial(), NOW)
        .expect("a certificate");
    Root {
        leaf: issued.der.to_vec(),
        authority,
    }
});

pub(crate) fn profile() -> NodeProfile {
    NodeProfile {
        cluster_id: "cluster00000000000000000a".to_owned(),
        node_id: "node000000000000000000001".to_owned(),
        role: Role::Worker,
        expiry: CertificateExpiry::DEFAULT,
    }
}

fn serial() -> Serial {
    Serial::from_bytes(&[7; 20]).expect("a serial")
}

fn csr(input: &[u8]) -> String {
    let csr = match Csr::parse(input) {
        Ok(csr) => csr,
        Err(error) => return error.to_string(),
    };
    assert!(input.len() <= MAX_CSR_PEM_BYTES, "over the limit");
    // What is issued for it is for its key, says who we say, and is good at once.
    let authority = &ROOT.authority;
    let issued = authority
        .issue(&profile(), &csr, serial(), NOW)
        .expect("a request that was accepted can be signed");
    let key = csr.spki_der();
    assert!(
        issued.der.windows(key.len()).any(|window| window == key),
        "the certificate is for another key"
    );
    let verified = verify_chain(&[issued.der], authority.trust(), NOW, Purpose::Client)
        .expect("what was signed verifies");
    assert_eq!(verified.identity.node_id, profile().node_id);
    assert_eq!(verified.identity.cluster_id, profile().cluster_id);
    "accepted".to_owned()
}

fn bundle(input: &[u8]) -> String {
    let bundle = match TrustBundle::from_pem(input, NOW) {
        Ok(bundle) => bundle,
        Err(error) => return error.to_string(),
    };
    assert!(input.len() <= MAX_BUNDLE_BYTES, "over the limit");
    let roots = bundle.count();
    assert!(roots <= MAX_ROOTS, "{roots} roots");
    // Tokens name the exact bytes.
    assert_eq!(bundle.pem(), input);
    assert_eq!(bundle.digest(), BundleDigest::of(input));
    let token = JoinToken::generate(bundle.digest(), &[3; 16]);
    token.check_bundle(input).expect("its own token");
    assert!(bundle.not_after() >= NOW, "a root that has ended");
    // A root says nothing of who signed another cluster's leaf.
    let leaf = ROOT.leaf.clone().into();
    assert!(
        verify_chain(&[leaf], &bundle, NOW, Purpose::Client).is_err(),
        "a leaf of another root verifies"
    );
    format!("accepted {}", "root ".repeat(roots))
}

fn chains() -> Vec<Vec<u8>> {
    let leaf = ROOT.leaf.clone().into();
    let root = ROOT.authority.cert_pem();
    let alone = chain_to_pem(&[leaf]);
    vec![
        format!("{alone}{root}").into_bytes(),
        format!("{root}{alone}").into_bytes(),
        format!("{alone}{root}{root}{root}").into_bytes(),
        alone.into_bytes(),
    ]
}

/// Only the one leaf that was issued is ever accepted, whatever surrounds it.
fn chain(input: &[u8]) -> String {
    let chain = match chain_from_pem(input) {
        Ok(chain) => chain,
        Err(error) => return error.to_string(),
    };
    let again = chain_to_pem(&chain);
    assert_eq!(
        chain_from_pem(again.as_bytes()).expect("our own text"),
        chain
    );
    match verify_chain(&chain, ROOT.authority.trust(), NOW, Purpose::Server) {
        Ok(verified) => {
            assert_eq!(chain[0].as_ref(), ROOT.leaf, "another leaf verifies");
            assert_eq!(verified.identity.node_id, profile().node_id);
            format!("accepted {}", "certificate ".repeat(chain.len()))
        }
        Err(error) => error.to_string(),
    }
}

fn node_key(input: &[u8]) -> String {
    let key = match NodeKey::from_pkcs8_pem(input) {
        Ok(key) => key,
        Err(error) => return error.to_string(),
    };
    let text = key.pkcs8_pem();
    let again = NodeKey::from_pkcs8_pem(text.as_bytes()).expect("our own text");
    assert_eq!(again.public_key_digest(), key.public_key_digest());
    // A key that is accepted signs for the public half that it shows.
    let request = key.csr_pem().expect("a request");
    let csr = Csr::parse(request.as_bytes()).expect("proof of possession");
    assert_eq!(csr.public_key_digest(), key.public_key_digest());
    "accepted".to_owned()
}

fn tokens() -> Vec<Vec<u8>> {
    let digest = ROOT.authority.trust().digest();
    [[0; 16], [1; 16], [0xff; 16]]
        .iter()
        .map(|secret| JoinToken::generate(digest, secret).expose_text().into())
        .collect()
}

fn token(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else {
        return "no text".to_owned();
    };
    let token = match JoinToken::parse(text) {
        Ok(token) => token,
        Err(error) => return error.to_string(),
    };
    assert_eq!(token.expose_text(), text);
    // Whoever presents it is let in as what it says, by the cluster that has it and no other.
    let digest = BundleDigest::of(b"other");
    let other = JoinToken::generate(digest, &[9; 16]);
    let tokens = JoinTokens::parse(text, other.expose_text()).expect("two tokens");
    assert_eq!(tokens.role_of(text), Ok(Role::Worker));
    let foreign = JoinTokens::generate(digest, &[4; 16], &[5; 16]);
    assert!(foreign.role_of(text).is_err(), "a foreign token counts");
    "accepted".to_owned()
}
