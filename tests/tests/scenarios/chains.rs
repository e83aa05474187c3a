//! Every chain that members show in every phase of a rotation, in the eyes of others: OpenSSL,
//! strictly; Go's crypto/x509, which stock engines verify with, in Debian's cfssl; rustls' webpki
//! verifiers, and our own. Their clocks are right, 50 min slow or 50 min fast.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::WebPkiClientVerifier,
};
use time::OffsetDateTime;
use waxseal_ca::{
    CertificateExpiry, Clock, Csr, NodeKey, NodeProfile, Purpose, Role, RootAuthority, SystemClock,
    TrustBundle, chain_from_pem, serial::Serial, verify_chain,
};
use waxseal_tests::{require, run};

const LIMIT: Duration = Duration::from_secs(30);
/// How far verifiers' clocks are off; certificates are backdated by an hour.
const SKEWS: [time::Duration; 3] = [
    time::Duration::minutes(-50),
    time::Duration::ZERO,
    time::Duration::minutes(50),
];

/// A chain as a member shows it, and whom it is to convince.
struct Case {
    name: String,
    /// Leaf first.
    chain: String,
    /// Roots whose holders believe it.
    believed_by: Vec<(&'static str, String)>,
    /// Roots whose holders do not.
    refused_by: Vec<(&'static str, String)>,
}

/// A leaf of a manager: both sides of a connection verify it.
fn leaf(authority: &RootAuthority, now: OffsetDateTime) -> Result<String> {
    let key = NodeKey::generate()?;
    let csr = Csr::parse(key.csr_pem()?.as_bytes())?;
    let profile = NodeProfile {
        cluster_id: "cluster00000000000000000a".to_owned(),
        node_id: "node000000000000000000001".to_owned(),
        role: Role::Manager,
        expiry: CertificateExpiry::DEFAULT,
    };
    let mut random = [0; 20];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("{error}"))?;
    let issued = authority.issue(&profile, &csr, Serial::from_random(random)?, now)?;
    Ok(issued.pem)
}

/// Roots that an operator made some hours ago, and an intermediate below the first.
struct Brought {
    directory: tempfile::TempDir,
}

impl Brought {
    fn make() -> Result<Brought> {
        let directory = tempfile::tempdir()?;
        fs::write(
            directory.path().join("ca.ext"),
            "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
             subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
        )?;
        require("openssl", "openssl")?;
        require("faketime", "faketime")?;
        let root = |name: &str, curve: &str| {
            format!(
                "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve} -out {name}.key
                 faketime -f -3h openssl req -x509 -days 3650 -key {name}.key \
                    -subj '/O=Example/CN={name}' -out {name}.pem \
                    -addext keyUsage=critical,keyCertSign,cRLSign\n"
            )
        };
        let script = root("one", "P-256")
            + &root("two", "P-384")
            + "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                  -keyout below.key -subj /CN=below -out below.csr
               faketime -f -3h openssl x509 -req -in below.csr -CA one.pem -CAkey one.key \
                  -CAcreateserial -days 3650 -extfile ca.ext -out below.pem";
        let made = run(
            Command::new("sh")
                .args(["-ec", &script])
                .current_dir(&directory),
            LIMIT,
        )?;
        ensure!(made.code == 0, "openssl: {}", made.err());
        Ok(Brought { directory })
    }

    fn read(&self, file: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.directory.path().join(file))?)
    }

    fn root(&self, name: &str, now: OffsetDateTime) -> Result<RootAuthority> {
        let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
        Ok(RootAuthority::from_pem(
            &self.read(&cert)?,
            &self.read(&key)?,
            now,
        )?)
    }

    fn intermediate(&self, now: OffsetDateTime) -> Result<RootAuthority> {
        let way = [self.read("below.pem")?, self.read("one.pem")?].concat();
        let key = self.read("below.key")?;
        Ok(RootAuthority::intermediate_from_pem(&way, &key, now)?)
    }
}

/// What members show from before a rotation until after the next one has begun.
fn phases(names: &str, roots: [&RootAuthority; 3], now: OffsetDateTime) -> Result<Vec<Case>> {
    let [old, new, third] = roots;
    let [by_old, by_new, by_third] = [leaf(old, now)?, leaf(new, now)?, leaf(third, now)?];
    let cross = old.cross_sign(new.trust(), now)?;
    let second = new.cross_sign(third.trust(), now)?;
    let pem = |which: &'static str, root: &RootAuthority| (which, root.cert_pem().to_owned());
    let case = |phase: &str, chain: String, believed: &[&'static str]| {
        let all = [pem("old", old), pem("new", new), pem("third", third)];
        let (believed_by, refused_by) = all
            .into_iter()
            .partition(|(which, _)| believed.contains(which));
        Case {
            name: format!("{names}: {phase}"),
            chain,
            believed_by,
            refused_by,
        }
    };
    Ok(vec![
        case("before", by_old, &["old"]),
        case(
            "in the middle, and for a day after",
            format!("{by_new}{cross}"),
            &["old", "new"],
        ),
        case("after", by_new, &["new"]),
        case(
            "in the middle of the next",
            format!("{by_third}{second}{cross}"),
            &["old", "new", "third"],
        ),
    ])
}

fn below(intermediate: &RootAuthority, other: &RootAuthority, now: OffsetDateTime) -> Result<Case> {
    let chain = leaf(intermediate, now)? + intermediate.way_pem();
    Ok(Case {
        name: "below an intermediate".to_owned(),
        chain,
        believed_by: vec![("its root", intermediate.cert_pem().to_owned())],
        refused_by: vec![("another", other.cert_pem().to_owned())],
    })
}

/// Where a case's files are.
struct Files {
    leaf: PathBuf,
    chain: PathBuf,
    root: PathBuf,
}

fn write(directory: &Path, case: &Case, root: &str) -> Result<Files> {
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = directory.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let end = "-----END CERTIFICATE-----\n";
    let after = case.chain.find(end).context("a leaf")? + end.len();
    let (leaf, rest) = case.chain.split_at(after);
    Ok(Files {
        leaf: write("leaf.pem", leaf)?,
        // Where there is nothing between them, tools still want a file.
        chain: write("between.pem", if rest.is_empty() { root } else { rest })?,
        root: write("root.pem", root)?,
    })
}

/// Whether OpenSSL takes it, as either side of a connection.
fn openssl(files: &Files, now: OffsetDateTime) -> Result<bool> {
    let mut verdicts = Vec::new();
    for purpose in ["sslclient", "sslserver"] {
        let verdict = run(
            Command::new("openssl")
                .args(["verify", "-x509_strict", "-purpose", purpose, "-attime"])
                .arg(now.unix_timestamp().to_string())
                .arg("-CAfile")
                .arg(&files.root)
                .arg("-untrusted")
                .args([&files.chain, &files.leaf]),
            LIMIT,
        )?;
        verdicts.push(verdict.code == 0);
    }
    ensure!(verdicts[0] == verdicts[1], "OpenSSL differs by purpose");
    Ok(verdicts[0])
}

/// Whether Go's crypto/x509 takes it, at this very time.
fn go(files: &Files) -> Result<bool> {
    let verdict = run(
        Command::new(require("cfssl", "golang-cfssl")?)
            .arg("bundle")
            .arg("-ca-bundle")
            .arg(&files.root)
            .arg("-int-bundle")
            .arg(&files.chain)
            .arg("-cert")
            .arg(&files.leaf),
        LIMIT,
    )?;
    let refusal = "Unable to verify the certificate chain";
    let text = verdict.err() + &verdict.out();
    match verdict.code {
        0 => Ok(true),
        _ if text.contains("x509: ") || text.contains(refusal) => Ok(false),
        _ => bail!("cfssl bundle: {text}"),
    }
}

/// Whether rustls' own verifiers take it.
fn webpki(chain: &[CertificateDer<'static>], root: &str, now: OffsetDateTime) -> Result<bool> {
    let mut roots = RootCertStore::empty();
    for der in chain_from_pem(root.as_bytes())? {
        roots.add(der)?;
    }
    let (roots, ring) = (
        Arc::new(roots),
        Arc::new(rustls::crypto::ring::default_provider()),
    );
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now.unix_timestamp().try_into()?));
    let (leaf, between) = chain.split_first().context("a leaf")?;
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&ring))
            .build()?;
    let as_client = clients.verify_client_cert(leaf, between, now).is_ok();
    let servers = WebPkiServerVerifier::builder_with_provider(roots, ring).build()?;
    let name = ServerName::try_from("swarm-manager")?;
    let as_server = servers
        .verify_server_cert(leaf, between, &name, &[], now)
        .is_ok();
    ensure!(as_client == as_server, "webpki differs by purpose");
    Ok(as_client)
}

fn ours(chain: &[CertificateDer<'static>], root: &str, now: OffsetDateTime) -> Result<bool> {
    let trust = TrustBundle::from_pem(root.as_bytes(), now)?;
    let taken = |purpose| verify_chain(chain, &trust, now, purpose).is_ok();
    let (client, server) = (taken(Purpose::Client), taken(Purpose::Server));
    ensure!(client == server, "ours differs by purpose");
    Ok(client)
}

/// What everybody says of one chain under one root.
fn judge(
    directory: &Path,
    case: &Case,
    root: &str,
    now: OffsetDateTime,
) -> Result<Vec<(&'static str, bool)>> {
    let files = write(directory, case, root)?;
    let chain = chain_from_pem(case.chain.as_bytes())?;
    Ok(vec![
        ("OpenSSL", openssl(&files, now)?),
        ("Go", go(&files)?),
        ("webpki", webpki(&chain, root, now)?),
        ("ours", ours(&chain, root, now)?),
    ])
}

#[test]
fn everybody_verifies_every_chain_in_every_phase() -> Result<()> {
    let brought = Brought::make()?;
    let directory = tempfile::tempdir()?;
    let now = SystemClock.now();
    let mut wrong = Vec::new();
    let mut judged = 0;
    for skew in SKEWS {
        // The cluster's clock is off, so that the verifiers', who cannot all be told a time, are.
        let issued_at = now - skew;
        let generated = || RootAuthority::generate(issued_at);
        let equal = [generated()?, generated()?, generated()?];
        let own = [
            brought.root("one", issued_at)?,
            brought.root("two", issued_at)?,
            generated()?,
        ];
        let mut cases = phases("equal names", equal.each_ref(), issued_at)?;
        cases.extend(phases("other names", own.each_ref(), issued_at)?);
        let intermediate = brought.intermediate(issued_at)?;
        cases.push(below(&intermediate, &own[1], issued_at)?);
        for case in &cases {
            let believed = case.believed_by.iter().map(|root| (root, true));
            let refused = case.refused_by.iter().map(|root| (root, false));
            for ((which, root), expected) in believed.chain(refused) {
                for (verifier, verdict) in judge(directory.path(), case, root, now)? {
                    judged += 1;
                    if verdict != expected {
                        wrong.push(format!(
                            "{}, clock {} min off, root {which}: {verifier} says {verdict}",
                            case.name,
                            skew.whole_minutes()
                        ));
                    }
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Two sets of names, four phases and three roots, the intermediate, by four, at three clocks.
    ensure!(judged == (2 * 4 * 3 + 2) * 4 * 3, "{judged} verdicts");
    Ok(())
}
