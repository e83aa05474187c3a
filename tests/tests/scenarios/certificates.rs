//! Certificates, seen by openssl.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use waxseal_tests::{Waxseal, eventually, require, run, scenario};

const LIMIT: Duration = Duration::from_secs(20);
/// 90 days, and the hour by which a certificate is backdated.
const DEFAULT_LIFE_SECS: i64 = (90 * 24 + 1) * 3600;
/// Certificates begin at a whole minute.
const MINUTE_SECS: i64 = 60;

fn openssl(words: &[&str], file: &Path) -> Result<String> {
    let output = run(
        Command::new(require("openssl", "openssl")?)
            .args(words)
            .arg(file),
        LIMIT,
    )?;
    ensure!(
        output.code == 0,
        "openssl {words:?}: {} {}",
        output.out(),
        output.err()
    );
    Ok(output.out())
}

/// A date of `openssl x509 -dates -dateopt iso_8601`, in seconds.
fn seconds(line: &str) -> Result<i64> {
    let output = run(Command::new("date").args(["-u", "+%s", "-d", line]), LIMIT)?;
    ensure!(output.code == 0, "date: {}", output.err());
    Ok(output.out().parse()?)
}

struct Certificates {
    root: std::path::PathBuf,
    leaf: std::path::PathBuf,
    key: std::path::PathBuf,
}

impl Certificates {
    fn of(node: &Waxseal) -> Certificates {
        let dir = node.data_root().join("swarm/certificates");
        Certificates {
            root: dir.join("swarm-root-ca.crt"),
            leaf: dir.join("swarm-node.crt"),
            key: dir.join("swarm-node.key"),
        }
    }

    fn serial(&self) -> Result<String> {
        openssl(&["x509", "-noout", "-serial", "-in"], &self.leaf)
    }
}

#[test]
fn openssl_accepts_our_chain_and_reads_its_fields() -> Result<()> {
    scenario("openssl", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let worker = scene.waxseal("worker")?;
        worker.join(&manager.worker_token()?, &manager.remote())?;
        root(&Certificates::of(&manager))?;
        leaf(&manager, &manager, "swarm-manager", &["swarm-ca"])?;
        leaf(&worker, &manager, "swarm-worker", &[])?;
        // The root's key is in the sealed state only.
        for node in [&manager, &worker] {
            let names = fs::read_dir(node.data_root().join("swarm/certificates"))?;
            let names = names
                .map(|entry| Ok(entry?.file_name()))
                .collect::<Result<Vec<_>>>()?;
            ensure!(names.len() == 3, "{names:?}");
        }
        listener(&manager)?;
        renewed(&manager, &worker)?;
        shorter_life(&manager, &worker)?;
        worker.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn root(files: &Certificates) -> Result<()> {
    let text = openssl(&["x509", "-noout", "-text", "-in"], &files.root)?;
    for part in [
        "Issuer: CN = swarm-ca",
        "Subject: CN = swarm-ca",
        "Signature Algorithm: ecdsa-with-SHA256",
        "ASN1 OID: prime256v1",
        "X509v3 Basic Constraints: critical\n                CA:TRUE",
        "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign",
        "X509v3 Subject Key Identifier:",
    ] {
        ensure!(text.contains(part), "no {part:?} in {text}");
    }
    Ok(())
}

fn leaf(node: &Waxseal, manager: &Waxseal, role: &str, more_names: &[&str]) -> Result<()> {
    let files = Certificates::of(node);
    let root = files.root.display().to_string();
    let verified = openssl(
        &["verify", "-x509_strict", "-check_ss_sig", "-CAfile", &root],
        &files.leaf,
    )?;
    ensure!(verified.ends_with(": OK"), "{verified}");
    for purpose in ["sslserver", "sslclient"] {
        openssl(
            &[
                "verify",
                "-x509_strict",
                "-purpose",
                purpose,
                "-CAfile",
                &root,
            ],
            &files.leaf,
        )?;
    }
    let swarm = &manager.engine.get("/swarm")?["ID"];
    let cluster = swarm.as_str().context("no cluster id")?;
    let info = &node.engine.get("/info")?["Swarm"]["NodeID"];
    let id = info.as_str().context("no node id")?;
    let names: Vec<String> = [role, id]
        .iter()
        .chain(more_names)
        .map(|name| format!("DNS:{name}"))
        .collect();
    let text = openssl(&["x509", "-noout", "-text", "-in"], &files.leaf)?;
    for part in [
        "Issuer: CN = swarm-ca".to_owned(),
        format!("Subject: O = {cluster}, OU = {role}, CN = {id}"),
        "Signature Algorithm: ecdsa-with-SHA256".to_owned(),
        "ASN1 OID: prime256v1".to_owned(),
        format!("X509v3 Subject Alternative Name: \n                {}", names.join(", ")),
        "X509v3 Extended Key Usage: \n                TLS Web Server Authentication, TLS Web Client Authentication".to_owned(),
        "X509v3 Basic Constraints: critical\n                CA:FALSE".to_owned(),
        "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment".to_owned(),
        "X509v3 Subject Key Identifier:".to_owned(),
        "X509v3 Authority Key Identifier:".to_owned(),
    ] {
        ensure!(text.contains(&part), "no {part:?} in {text}");
    }
    ensure!(life(&files)? == DEFAULT_LIFE_SECS, "{text}");
    // The key fits, is nobody else's to read, and openssl reads it.
    let public = openssl(&["pkey", "-pubout", "-in"], &files.key)?;
    ensure!(public == openssl(&["x509", "-noout", "-pubkey", "-in"], &files.leaf)?);
    let mode = fs::metadata(&files.key)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the key file has mode {mode:o}");
    Ok(())
}

/// Length of the leaf's life; it begins an hour ago.
fn life(files: &Certificates) -> Result<i64> {
    let dates = openssl(&["x509", "-noout", "-dates", "-in"], &files.leaf)?;
    let date = |name: &str| {
        let line = dates
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .context("no date")?;
        seconds(line)
    };
    let (begin, end) = (date("notBefore=")?, date("notAfter=")?);
    let age = seconds("now")? - begin;
    ensure!(
        (3600 - MINUTE_SECS..=3600 + 2 * MINUTE_SECS).contains(&age),
        "begins {age} s ago"
    );
    Ok(end - begin)
}

/// What a client sees that connects to the port.
fn listener(manager: &Waxseal) -> Result<()> {
    let files = Certificates::of(manager);
    for name in ["swarm-manager", "swarm-ca"] {
        let output = run(
            Command::new("openssl")
                .args([
                    "s_client",
                    "-connect",
                    &manager.remote(),
                    "-servername",
                    name,
                ])
                .args([
                    "-verify_hostname",
                    name,
                    "-verify_return_error",
                    "-alpn",
                    "h2",
                    "-CAfile",
                ])
                .arg(&files.root),
            LIMIT,
        )?;
        let text = output.out();
        ensure!(
            text.contains("Verify return code: 0 (ok)"),
            "{text} {}",
            output.err()
        );
        ensure!(
            text.contains("TLSv1.3") && text.contains("ALPN protocol: h2"),
            "{text}"
        );
        ensure!(!text.contains("New, TLSv1.2"), "{text}");
    }
    let old = run(
        Command::new("openssl").args(["s_client", "-tls1_2", "-connect", &manager.remote()]),
        LIMIT,
    )?;
    ensure!(
        old.code != 0,
        "TLS 1.2 is taken without its option: {}",
        old.out()
    );
    Ok(())
}

/// A renewal on demand gives another serial and another key; the old file is gone.
fn renewed(manager: &Waxseal, worker: &Waxseal) -> Result<()> {
    for node in [worker, manager] {
        let files = Certificates::of(node);
        let (serial, key) = (files.serial()?, fs::read(&files.key)?);
        let id = &node.engine.get("/info")?["Swarm"]["NodeID"];
        manager
            .cli
            .ok(&["node", "renew", id.as_str().context("no node id")?])?;
        eventually("the node has another certificate", LIMIT, || {
            ensure!(files.serial()? != serial, "{serial}");
            Ok(())
        })?;
        ensure!(fs::read(&files.key)? != key, "the key is still the old one");
        openssl(
            &[
                "verify",
                "-x509_strict",
                "-CAfile",
                &files.root.display().to_string(),
            ],
            &files.leaf,
        )?;
    }
    manager.docker.ok(&["node", "ls"])?;
    Ok(())
}

/// A shorter life holds for what is issued from then on.
fn shorter_life(manager: &Waxseal, worker: &Waxseal) -> Result<()> {
    manager
        .docker
        .ok(&["swarm", "update", "--cert-expiry", "2h"])?;
    let files = Certificates::of(worker);
    let serial = files.serial()?;
    let id = &worker.engine.get("/info")?["Swarm"]["NodeID"];
    manager
        .cli
        .ok(&["node", "renew", id.as_str().context("no node id")?])?;
    eventually("the life is shorter", LIMIT, || {
        ensure!(files.serial()? != serial, "{serial}");
        let life = life(&files)?;
        ensure!(life == 3 * 3600, "{life}");
        Ok(())
    })
}
