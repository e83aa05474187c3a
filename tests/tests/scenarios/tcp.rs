//! The Engine API over TCP with mutual TLS, and who may open the unix socket.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use waxseal_tests::{DaemonOptions, Scene, require, run, run_with_input, scenario};

const LIMIT: Duration = Duration::from_secs(20);
/// A group that every system has; by number, as its name differs.
const GROUP: u32 = 65534;

/// Certificates of openssl's making, in one directory.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn new(scene: &Scene, name: &str) -> Result<Authority> {
        let authority = Authority {
            dir: scene.dir().join(name),
        };
        fs::create_dir(&authority.dir)?;
        let words = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -days 30 -subj /CN={name}"
        );
        authority.openssl(&words)?;
        Ok(authority)
    }

    fn openssl(&self, words: &str) -> Result<()> {
        let mut command = Command::new(require("openssl", "openssl")?);
        command.args(words.split(' ')).current_dir(&self.dir);
        let output = run(&mut command, LIMIT)?;
        ensure!(output.code == 0, "openssl {words}: {}", output.err());
        Ok(())
    }

    /// A directory with `cert.pem` and `key.pem` of this authority's.
    fn issue(&self, name: &str, extensions: &str, days: i32) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir)?;
        fs::write(dir.join("extensions"), extensions)?;
        self.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}/key.pem -out {name}/csr -subj /CN={name}"))?;
        self.openssl(&format!("x509 -req -in {name}/csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}/cert.pem -days {days} -extfile {name}/extensions"))?;
        Ok(dir)
    }

    fn client(&self, name: &str, days: i32, trusted: &Path) -> Result<PathBuf> {
        let dir = self.issue(name, "extendedKeyUsage=clientAuth", days)?;
        fs::copy(trusted, dir.join("ca.pem"))?;
        Ok(dir)
    }
}

#[test]
fn who_has_a_certificate_may_call_over_tcp_and_nobody_else() -> Result<()> {
    scenario("tcp", |scene| {
        let ours = Authority::new(scene, "ours")?;
        let theirs = Authority::new(scene, "theirs")?;
        let trusted = ours.dir.join("ca.pem");
        let address = scene.address();
        let host = format!("tcp://{address}:2376");
        let server = format!("subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth");
        let server = ours.issue("server", &server, 10)?;
        let path = |path: &Path| path.display().to_string();
        let options = |trusted: &Path| DaemonOptions {
            arguments: [
                "-H",
                &host,
                "--tlsverify",
                "--tlscacert",
                &path(trusted),
                "--tlscert",
                &path(&server.join("cert.pem")),
                "--tlskey",
                &path(&server.join("key.pem")),
                "--group",
                &GROUP.to_string(),
            ]
            .map(str::to_owned)
            .to_vec(),
            address: Some(address),
            ..DaemonOptions::default()
        };
        let mut node = waxseal_tests::Waxseal::start(scene, "node", &options(&trusted))?;
        // Owner, group and mode of the socket are those that a Docker Engine gives its own.
        let socket = fs::metadata(node.dir().join("s"))?;
        ensure!(socket.file_type().is_socket());
        ensure!((socket.uid(), socket.gid(), socket.mode() & 0o777) == (0, GROUP, 0o660));
        node.init(&[])?;

        // 1. No TLS, no certificate, another CA's, one that has expired, a node's.
        let plain = node.docker.over_tcp(&host, None).run(&["node", "ls"])?;
        ensure!(plain.code != 0, "{}", plain.out());
        let nobody = scene.dir().join("nobody");
        fs::create_dir(&nobody)?;
        fs::copy(&trusted, nobody.join("ca.pem"))?;
        let stranger = theirs.client("stranger", 10, &trusted)?;
        let expired = ours.client("expired", -1, &trusted)?;
        let member = scene.dir().join("member");
        fs::create_dir(&member)?;
        let certificates = node.data_root().join("swarm/certificates");
        fs::copy(&trusted, member.join("ca.pem"))?;
        fs::copy(certificates.join("swarm-node.crt"), member.join("cert.pem"))?;
        fs::copy(certificates.join("swarm-node.key"), member.join("key.pem"))?;
        for refused in [&nobody, &stranger, &expired, &member] {
            let said = exchange(address, refused, &[])?;
            ensure!(!said.contains("200 OK"), "{}: {said}", refused.display());
            if refused.join("cert.pem").exists() {
                let docker = node.docker.over_tcp(&host, Some(refused));
                ensure!(docker.run(&["node", "ls"])?.code != 0);
            }
        }
        // 2. What the stock CLI and ours do with a certificate; TLS 1.2 is not taken unasked.
        let client = ours.client("client", 10, &trusted)?;
        for (protocol, taken) in [("-tls1_2", false), ("-tls1_3", true)] {
            let said = exchange(address, &client, &[protocol])?;
            ensure!(said.contains("200 OK") == taken, "{protocol}: {said}");
        }
        let docker = node.docker.over_tcp(&host, Some(&client));
        docker.ok_with_input(&["secret", "create", "s", "-"], b"of a remote caller")?;
        ensure!(docker.ok(&["secret", "ls", "--format", "{{.Name}}"])? == "s");
        ensure!(docker.ok(&["node", "ls", "-q"])?.len() > 20);
        let cli = node.cli.over_tcp(&host, Some(&client));
        ensure!(cli.ok(&["secret", "ls"])?.contains(" s "));
        let without = node.cli.over_tcp(&host, None).run(&["secret", "ls"])?;
        ensure!(without.code == 2, "{}", without.err());
        ensure!(
            without.err().contains("DOCKER_TLS_VERIFY"),
            "{}",
            without.err()
        );
        let other = node.cli.over_tcp(&host, Some(&stranger));
        ensure!(other.run(&["secret", "ls"])?.code == 3);
        // 3. Nodes may call only where the file of CAs says so.
        node.stop()?;
        let both = scene.dir().join("both.pem");
        let mut text = fs::read(&trusted)?;
        text.extend(fs::read(certificates.join("swarm-root-ca.crt"))?);
        fs::write(&both, text)?;
        let mut again = DaemonOptions {
            data_root: Some(node.data_root().to_owned()),
            ..options(&both)
        };
        again.arguments.push("--tls12".to_owned());
        let mut again = waxseal_tests::Waxseal::start(scene, "again", &again)?;
        for protocol in ["-tls1_2", "-tls1_3"] {
            let said = exchange(address, &member, &[protocol])?;
            ensure!(said.contains("200 OK"), "{protocol}: {said}");
        }
        again.stop()
    })
}

/// What openssl is told by `GET /_ping` with these files, or that it is refused.
fn exchange(address: std::net::Ipv4Addr, files: &Path, words: &[&str]) -> Result<String> {
    let mut command = Command::new(require("openssl", "openssl")?);
    command.args([
        "s_client",
        "-ign_eof",
        "-connect",
        &format!("{address}:2376"),
    ]);
    command.arg("-CAfile").arg(files.join("ca.pem")).args(words);
    if files.join("cert.pem").exists() {
        command.arg("-cert").arg(files.join("cert.pem"));
        command.arg("-key").arg(files.join("key.pem"));
    }
    let request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let output = run_with_input(&mut command, request, LIMIT)?;
    Ok(output.out() + &output.err())
}
