//! Every kind of certificate that we issue, in the eyes of a third-party linter: pkilint, which
//! checks RFC 5280 clause by clause.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_ca::{
    CertificateExpiry, Clock, Csr, NodeKey, NodeProfile, Role, RootAuthority, SystemClock,
    serial::Serial,
};
use waxseal_tests::{require, run};

use crate::installed::installed;

const LIMIT: Duration = Duration::from_secs(60);

/// Findings that the profile brings with it, each with its reason. All are as swarmkit's
/// certificates have them (cfssl's as well), which Docker Engines and our members share a wire
/// with.
const EXCEPTIONS: &[(&str, &str)] = &[
    (
        "pkix.key_usage_value_prohibited_for_ec",
        "keyEncipherment says nothing of an elliptic key (RFC 8813 section 3), but swarmkit's \
         profile has it and its external CAs write it; it allows nothing",
    ),
    (
        "pkix.invalid_domain_name_syntax",
        "the names are those under which members verify each other: a role, a node id, `swarm-ca`; \
         single labels, which RFC 1034's preferred syntax allows and the linter does not",
    ),
];

struct Certificates {
    directory: tempfile::TempDir,
    /// Issuer and subject of each pair.
    pairs: Vec<(PathBuf, PathBuf)>,
    all: BTreeSet<PathBuf>,
}

impl Certificates {
    fn write(&mut self, name: &str, pem: &str) -> Result<PathBuf> {
        let path = self.directory.path().join(name);
        std::fs::write(&path, pem)?;
        self.all.insert(path.clone());
        Ok(path)
    }

    /// The root and a leaf for each role.
    fn root(&mut self, name: &str, root: &RootAuthority) -> Result<()> {
        let issuer = self.write(&format!("{name}.pem"), root.cert_pem())?;
        self.leaves(name, root, &issuer)
    }

    /// Leaves of an operator's intermediate, which itself is the operator's to lint.
    fn below(&mut self, name: &str, intermediate: &RootAuthority) -> Result<()> {
        let issuer = self.directory.path().join(format!("{name}.pem"));
        std::fs::write(&issuer, intermediate.way_pem())?;
        self.leaves(name, intermediate, &issuer)
    }

    /// A root that another one signed, and a leaf of it.
    fn crossed(&mut self, name: &str, old: &RootAuthority, new: &RootAuthority) -> Result<()> {
        let issuer = self.write(&format!("{name}-old.pem"), old.cert_pem())?;
        let cross = old.cross_sign(new.trust(), SystemClock.now())?;
        let cross = self.write(&format!("{name}-cross.pem"), &cross)?;
        self.pairs.push((issuer, cross.clone()));
        self.leaves(name, new, &cross)
    }

    fn leaves(&mut self, name: &str, root: &RootAuthority, issuer: &Path) -> Result<()> {
        for (role, serial) in [(Role::Manager, 0x11), (Role::Worker, 0x7f)] {
            let key = NodeKey::generate()?;
            let csr = Csr::parse(key.csr_pem()?.as_bytes())?;
            let profile = NodeProfile {
                cluster_id: "cluster00000000000000000a".to_owned(),
                node_id: "node000000000000000000001".to_owned(),
                role,
                expiry: CertificateExpiry::DEFAULT,
            };
            let serial = Serial::from_bytes(&[serial; 20])?;
            let issued = root.issue(&profile, &csr, serial, SystemClock.now())?;
            let subject = self.write(&format!("{name}-{role}.pem"), &issued.pem)?;
            self.pairs.push((issuer.to_owned(), subject));
        }
        Ok(())
    }
}

/// A root with a P-384 key and another subject, as an operator may give it.
fn given_root(directory: &Path) -> Result<RootAuthority> {
    let (key, cert) = (directory.join("given.key"), directory.join("given.crt"));
    let script = format!(
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out '{key}' && \
         openssl req -x509 -sha384 -days 3650 -key '{key}' -subj '/O=Example/CN=Example Root' \
         -addext 'keyUsage=critical,keyCertSign,cRLSign' -out '{cert}'",
        key = key.display(),
        cert = cert.display()
    );
    require("openssl", "openssl")?;
    let made = run(Command::new("sh").args(["-c", &script]), LIMIT)?;
    ensure!(made.code == 0, "openssl: {}", made.err());
    let root = RootAuthority::from_pem(
        &std::fs::read(cert)?,
        &std::fs::read(key)?,
        SystemClock.now(),
    )?;
    Ok(root)
}

/// An operator's CA below a root whose key is elsewhere.
fn given_intermediate(directory: &Path) -> Result<RootAuthority> {
    let script = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -keyout below.key -subj /O=Example/CN=Below -out below.csr
         printf 'basicConstraints=critical,CA:TRUE,pathlen:0\nsubjectKeyIdentifier=hash\n\
             keyUsage=critical,keyCertSign,cRLSign\nauthorityKeyIdentifier=keyid\n' >below.ext
         openssl x509 -req -in below.csr -CA given.crt -CAkey given.key -CAcreateserial -sha384 \
             -days 3000 -extfile below.ext -out below.crt";
    let made = run(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(directory),
        LIMIT,
    )?;
    ensure!(made.code == 0, "openssl: {}", made.err());
    let read = |name: &str| std::fs::read(directory.join(name));
    let way = [read("below.crt")?, read("given.crt")?].concat();
    let key = read("below.key")?;
    Ok(RootAuthority::intermediate_from_pem(
        &way,
        &key,
        SystemClock.now(),
    )?)
}

fn linter(name: &str) -> Result<Command> {
    let path = format!("pkilint/bin/{name}");
    let mut command = Command::new(installed(&path, "tests/lint/install")?);
    command.args(["lint", "-f", "json", "-s", "NOTICE"]);
    Ok(command)
}

/// What the linter finds, as `code: where`.
fn findings(command: &mut Command) -> Result<Vec<(String, String)>> {
    let output = run(command, LIMIT)?;
    let report: Value = serde_json::from_str(&output.out())
        .with_context(|| format!("{command:?}: {}", output.err()))?;
    let results = report["results"].as_array().context("results")?;
    let mut found = Vec::new();
    for result in results {
        let place = result["node_path"].as_str().context("node_path")?;
        for finding in result["finding_descriptions"]
            .as_array()
            .context("findings")?
        {
            let code = finding["code"].as_str().context("code")?;
            found.push((code.to_owned(), format!("{place} {}", finding["message"])));
        }
    }
    Ok(found)
}

#[test]
fn a_third_party_linter_finds_only_what_the_profile_states() -> Result<()> {
    let mut certificates = Certificates {
        directory: tempfile::tempdir()?,
        pairs: Vec::new(),
        all: BTreeSet::new(),
    };
    let generated = RootAuthority::generate(SystemClock.now())?;
    certificates.root("generated", &generated)?;
    let given = given_root(certificates.directory.path())?;
    certificates.root("given", &given)?;
    let below = given_intermediate(certificates.directory.path())?;
    certificates.below("below", &below)?;
    // Of equal names, and to and from a root of the operator's.
    let next = RootAuthority::generate(SystemClock.now())?;
    certificates.crossed("equal", &generated, &next)?;
    certificates.crossed("to-given", &generated, &given)?;
    certificates.crossed("from-given", &given, &next)?;

    let mut unexpected = Vec::new();
    let mut seen = BTreeSet::new();
    let mut judge = |subject: &Path, command: &mut Command| -> Result<()> {
        for (code, place) in findings(command)? {
            if EXCEPTIONS.iter().any(|(exception, _)| *exception == code) {
                seen.insert(code);
            } else {
                unexpected.push(format!("{}: {code}: {place}", subject.display()));
            }
        }
        Ok(())
    };
    for certificate in &certificates.all {
        judge(certificate, linter("lint_pkix_cert")?.arg(certificate))?;
    }
    for (issuer, subject) in &certificates.pairs {
        let mut pair = linter("lint_pkix_signer_signee_cert_chain")?;
        judge(subject, pair.arg(issuer).arg(subject))?;
    }
    ensure!(unexpected.is_empty(), "{}", unexpected.join("\n"));
    // An exception that is no longer needed goes; and a linter that finds nothing looks at nothing.
    for (exception, reason) in EXCEPTIONS {
        ensure!(
            seen.contains(*exception),
            "not found: {exception} ({reason})"
        );
    }
    Ok(())
}
