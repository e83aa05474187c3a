//! Roots that operators bring: signed with by cfssl, or kept offline above an intermediate.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use waxseal_tests::{Running, Scene, Waxseal, eventually, require, run, scenario};

const LIMIT: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(40);
/// A life of ten years, as an operator's root has.
const DAYS: &str = "3650";
const CONFIG: &str = r#"{"signing": {
    "default": {
        "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
        "expiry": "2160h", "backdate": "1h"
    },
    "profiles": {"CA": {
        "usages": ["cert sign", "crl sign"], "expiry": "43800h", "backdate": "1h",
        "ca_constraint": {"is_ca": true}, "allowed_extensions": ["2.5.29.19"]
    }}
}}"#;

/// Runs a few lines of shell in a directory.
fn shell(directory: &Path, script: &str) -> Result<String> {
    require("openssl", "openssl")?;
    let made = run(
        Command::new("sh")
            .args(["-ec", script])
            .current_dir(directory),
        LIMIT,
    )?;
    ensure!(made.code == 0, "{script}: {}", made.err());
    Ok(made.out())
}

/// A root with its key in `root.pem` and `root.key`.
fn root(directory: &Path, subject: &str) -> Result<()> {
    fs::create_dir_all(directory)?;
    shell(
        directory,
        &format!(
            "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out root.key
             openssl req -x509 -days {DAYS} -key root.key -subj {subject} -out root.pem \
                -addext keyUsage=critical,keyCertSign,cRLSign"
        ),
    )?;
    Ok(())
}

/// cfssl with the root in a directory, behind TLS that asks for a member's certificate.
struct Cfssl {
    directory: PathBuf,
    port: u16,
    running: Option<Running>,
}

impl Cfssl {
    fn new(directory: &Path) -> Result<Cfssl> {
        fs::write(directory.join("config.json"), CONFIG)?;
        fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1")?;
        shell(
            directory,
            &format!(
                "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                    -keyout tls.key -subj /CN=cfssl -out tls.csr
                 openssl x509 -req -in tls.csr -CA root.pem -CAkey root.key -CAcreateserial \
                    -days {DAYS} -extfile names -out tls.pem"
            ),
        )?;
        fs::copy(directory.join("root.pem"), directory.join("callers.pem"))?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Cfssl {
            directory: directory.to_owned(),
            port,
            running: None,
        })
    }

    fn start(&mut self) -> Result<()> {
        let program = require("cfssl", "golang-cfssl")?;
        let script = format!(
            "cd '{}' && exec '{}' serve -address 127.0.0.1 -port {} -ca root.pem -ca-key root.key \
             -config config.json -tls-cert tls.pem -tls-key tls.key -mutual-tls-ca callers.pem",
            self.directory.display(),
            program.display(),
            self.port
        );
        let words = ["sh", "-c", &script].map(str::to_owned);
        self.running = Some(Running::start(&words, &[], &self.directory.join("log"))?);
        eventually("cfssl listens", LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", self.port))?;
            Ok(())
        })
    }

    /// Also serves members that have certificates of this root.
    fn also_serves(&self, root: &str) -> Result<()> {
        let callers = self.directory.join("callers.pem");
        let known = fs::read_to_string(&callers)?;
        Ok(fs::write(
            callers,
            format!("{}\n{}\n", known.trim(), root.trim()),
        )?)
    }

    fn stop(&mut self) -> Result<()> {
        let mut running = self.running.take().context("cfssl does not run")?;
        running.kill()?;
        Ok(())
    }

    fn option(&self) -> String {
        format!(
            "protocol=cfssl,url=https://127.0.0.1:{}/api/v1/cfssl/sign",
            self.port
        )
    }

    /// How many certificates it has signed.
    fn signed(&self) -> Result<usize> {
        let log = fs::read_to_string(self.directory.join("log"))?;
        Ok(log.matches("signed certificate with serial number").count())
    }
}

/// `waxseal swarm init` with a certificate and key of the operator's.
fn init(manager: &Waxseal, cert: &Path, key: &Path) -> Result<()> {
    let remote = manager.remote();
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let words = [
        "swarm",
        "init",
        "--listen-addr",
        &remote,
        "--advertise-addr",
        &remote,
    ];
    let brought = ["--ca-cert", &cert, "--ca-key", &key];
    manager.cli.ok(&[&words[..], &brought[..]].concat())?;
    Ok(())
}

fn certificate(node: &Waxseal) -> PathBuf {
    node.data_root().join("swarm/certificates/swarm-node.crt")
}

/// All are there, and hold certificates of who signs now.
fn are_ready(manager: &Waxseal, count: usize) -> Result<()> {
    eventually(format!("{count} nodes are ready"), SOON, || {
        let rows = manager
            .docker
            .ok(&["node", "ls", "--format", "{{.Status}} {{.TLSStatus}}"])?;
        let ready = rows.lines().filter(|row| *row == "Ready Ready").count();
        ensure!(ready == count, "{rows}");
        Ok(())
    })
}

/// Waits until `docker info` warns of the CA, or does so no longer.
fn is_shown_down(manager: &Waxseal, down: bool) -> Result<()> {
    eventually(format!("the CA is shown as down: {down}"), SOON, || {
        let info = manager.engine.get("/info")?;
        let text = info["Warnings"].to_string();
        let warns = text.contains("no certificates are signed since");
        ensure!(warns == down, "{text}");
        let swarm = manager.engine.get("/swarm")?;
        ensure!(swarm["SignerTrouble"].is_null() != down, "{swarm}");
        Ok(())
    })
}

#[test]
fn cfssl_signs_with_the_operators_root_and_the_key_leaves_the_cluster() -> Result<()> {
    scenario("cfssl", |scene| {
        let directory = scene.dir().join("ca");
        root(&directory, "/CN=operator")?;
        let cert = directory.join("root.pem");
        let manager = scene.waxseal("manager")?;
        init(&manager, &cert, &directory.join("root.key"))?;
        let mut cfssl = Cfssl::new(&directory)?;

        // 1. An address that nobody answers at: the key is kept.
        let brought = cert.display().to_string();
        let external = cfssl.option();
        let rotate = ["swarm", "ca", "--rotate", "--detach", "--ca-cert", &brought];
        let handed = [&rotate[..], &["--external-ca", &external]].concat();
        let refused = manager.docker.run(&handed)?;
        let text = "there must be at least one valid, reachable external CA";
        ensure!(refused.err().contains(text), "{}", refused.err());

        // 2. With one that answers the cluster gives its key away.
        cfssl.start()?;
        manager.docker.ok(&handed)?;
        let worker = scene.waxseal("worker")?;
        worker.join(&manager.worker_token()?, &manager.remote())?;
        are_ready(&manager, 2)?;
        ensure!(cfssl.signed()? == 1, "{} signed", cfssl.signed()?);

        // 3. It is down: a renewal waits, members go on, and it is shown; back, all is well.
        cfssl.stop()?;
        let node = worker.engine.get("/info")?["Swarm"]["NodeID"].clone();
        let node = node.as_str().context("a node id")?.to_owned();
        let before = fs::read(certificate(&worker))?;
        // The command would wait for it.
        let renew = format!("/waxseal/v1/nodes/{node}/renew");
        let asked = manager.engine.call("POST", &renew, None)?;
        ensure!(
            asked.status.is_success(),
            "{}: {:?}",
            asked.status,
            asked.message()
        );
        is_shown_down(&manager, true)?;
        are_ready(&manager, 2)?;
        cfssl.start()?;
        is_shown_down(&manager, false)?;
        eventually("the worker has renewed", SOON, || {
            ensure!(fs::read(certificate(&worker))? != before, "as before");
            Ok(())
        })?;
        worker.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        cfssl.stop()
    })
}

/// What `openssl` says of a node's chain under a root in a file, strictly.
fn verifies(root: &Path, chain: &Path) -> Result<()> {
    let (root, chain) = (root.display(), chain.display());
    let directory = Path::new("/");
    let verify = format!(
        "openssl verify -x509_strict -purpose sslclient -CAfile '{root}' -untrusted '{chain}' \
         '{chain}'"
    );
    shell(directory, &verify).map(drop)
}

#[test]
fn the_root_rotates_to_an_external_ca_and_away_from_it() -> Result<()> {
    scenario("external-rotation", |scene| {
        let directory = scene.dir().join("ca");
        root(&directory, "/CN=operator")?;
        let brought = directory.join("root.pem");
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let worker = scene.waxseal("worker")?;
        worker.join(&manager.worker_token()?, &manager.remote())?;
        let engine = scene.dockerd("engine")?;
        engine.join(&manager.worker_token()?, &manager.remote())?;
        are_ready(&manager, 3)?;
        let chains = [
            certificate(&manager),
            certificate(&worker),
            engine.dir().join("data/swarm/certificates/swarm-node.crt"),
        ];
        let trusted = || manager.docker.ok(&["swarm", "ca"]);
        let founding = trusted()?;
        fs::write(directory.join("founding.pem"), &founding)?;

        // 1. From the cluster's own root to one whose key is with cfssl, which signs for all.
        let mut cfssl = Cfssl::new(&directory)?;
        cfssl.also_serves(&founding)?;
        cfssl.start()?;
        let path = brought.display().to_string();
        let external = cfssl.option();
        let rotate = ["swarm", "ca", "--rotate", "--quiet"];
        let to_external = ["--ca-cert", &path, "--external-ca", &external];
        manager.docker.ok(&[&rotate[..], &to_external].concat())?;
        ensure!(trusted()?.trim() == fs::read_to_string(&brought)?.trim());
        are_ready(&manager, 3)?;
        ensure!(cfssl.signed()? >= 3, "{} signed", cfssl.signed()?);
        for chain in &chains {
            verifies(&brought, chain)?;
            verifies(&directory.join("founding.pem"), chain)?;
        }

        // 2. Nobody here can ask for a signature of a root whose key is elsewhere, too.
        let other = scene.dir().join("other");
        root(&other, "/CN=other")?;
        let mut another = Cfssl::new(&other)?;
        another.also_serves(&fs::read_to_string(&brought)?)?;
        another.start()?;
        let path = other.join("root.pem").display().to_string();
        let both = format!("{external},cacert={}", brought.display());
        let option = another.option();
        let refused = manager.docker.fails(&[
            "swarm",
            "ca",
            "--rotate",
            "--ca-cert",
            &path,
            "--external-ca",
            &both,
            "--external-ca",
            &option,
        ])?;
        let text = "rotating from one external CA to a different external CA is not supported";
        ensure!(refused.contains(text), "{refused}");
        another.stop()?;

        // 3. Back to a root of the cluster's own: cfssl signs that, and is asked no more.
        manager.docker.ok(&rotate)?;
        let own = scene.dir().join("own.pem");
        fs::write(&own, trusted()?)?;
        are_ready(&manager, 3)?;
        for chain in &chains {
            verifies(&own, chain)?;
            verifies(&brought, chain)?;
        }
        cfssl.stop()?;
        let late = scene.waxseal("late")?;
        late.join(&manager.worker_token()?, &manager.remote())?;
        are_ready(&manager, 4)
    })
}

/// CAs below one root, each with key and certificate.
fn intermediates(directory: &Path) -> Result<()> {
    root(directory, "/CN=offline")?;
    fs::write(
        directory.join("ca.ext"),
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
         subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
    )?;
    for name in ["ours", "theirs", "next"] {
        shell(
            directory,
            &format!(
                "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                    -keyout {name}.key -subj /CN={name} -out {name}.csr
                 openssl x509 -req -in {name}.csr -CA root.pem -CAkey root.key -CAcreateserial \
                    -days {DAYS} -extfile ca.ext -out {name}.pem
                 cat {name}.pem root.pem > {name}-chain.pem"
            ),
        )?;
    }
    Ok(())
}

/// What a manager says to the certificate of a manager that another CA of the root made up.
fn stranger(
    scene: &Scene,
    manager: &Waxseal,
    directory: &Path,
    own: &str,
    other: &str,
) -> Result<()> {
    let cluster = manager.engine.get("/swarm")?["ID"].clone();
    let cluster = cluster.as_str().context("a cluster id")?;
    let node = manager.engine.get("/info")?["Swarm"]["NodeID"].clone();
    let node = node.as_str().context("a node id")?;
    fs::write(
        directory.join("leaf.ext"),
        "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n\
         keyUsage=critical,digitalSignature\n",
    )?;
    let call = |ca: &str| -> Result<String> {
        shell(
            directory,
            &format!(
                "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
                    -keyout leaf.key -subj /O={cluster}/OU=swarm-manager/CN={node} -out leaf.csr
                 openssl x509 -req -in leaf.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial \
                    -days 30 -extfile leaf.ext -out leaf.pem
                 (sleep 1; echo) | openssl s_client -connect {remote} -CAfile root.pem -alpn h2 \
                    -cert leaf.pem -key leaf.key -cert_chain {ca}.pem -servername swarm-manager \
                    2>&1 || true",
                remote = manager.remote()
            ),
        )
    };
    // The same by the cluster's own CA gets through the handshake: the issuer is what decides.
    let own = call(own)?;
    ensure!(!own.contains("alert"), "{own}");
    let foreign = call(other)?;
    ensure!(foreign.contains("alert"), "{foreign}");
    let log = fs::read_to_string(manager.log())?;
    let logged = scene.dir().display();
    ensure!(log.contains("ForeignIssuer"), "{logged} does not say why");
    Ok(())
}

#[test]
fn an_intermediate_signs_and_others_below_its_root_make_no_members() -> Result<()> {
    scenario("intermediate", |scene| {
        let directory = scene.dir().join("ca");
        intermediates(&directory)?;
        let manager = scene.waxseal("manager")?;
        init(
            &manager,
            &directory.join("ours-chain.pem"),
            &directory.join("ours.key"),
        )?;
        // The root's key never was on this host's disk for the daemon: it starts without.
        fs::rename(directory.join("root.key"), directory.join("root.away"))?;
        let worker = scene.waxseal("worker")?;
        let token = manager.worker_token()?;
        worker.join(&token, &manager.remote())?;
        let engine = scene.dockerd("engine")?;
        engine.join(&token, &manager.remote())?;
        are_ready(&manager, 3)?;
        let chains = [
            certificate(&manager),
            certificate(&worker),
            engine.dir().join("data/swarm/certificates/swarm-node.crt"),
        ];
        let top = directory.join("root.pem");
        for chain in &chains {
            verifies(&top, chain)?;
        }
        stranger(scene, &manager, &directory, "ours", "theirs")?;
        are_ready(&manager, 3)?;

        // Nothing here can vouch for another root; another CA below the same one takes over.
        let refused = manager.docker.fails(&["swarm", "ca", "--rotate"])?;
        ensure!(refused.contains("below the same root"), "{refused}");
        let (next, key) = (directory.join("next-chain.pem"), directory.join("next.key"));
        let (next, key) = (next.display().to_string(), key.display().to_string());
        let before = fs::read(&chains[2])?;
        manager
            .cli
            .ok(&["ca", "rotate", "--cert", &next, "--key", &key])?;
        are_ready(&manager, 3)?;
        ensure!(
            fs::read(&chains[2])? != before,
            "the engine has not renewed"
        );
        for chain in &chains {
            verifies(&top, chain)?;
        }
        // Who has renewed is left alone.
        let held = fs::read(&chains[1])?;
        std::thread::sleep(Duration::from_secs(3));
        ensure!(fs::read(&chains[1])? == held, "it renews again and again");
        ensure!(token == manager.worker_token()?, "the root is the same");
        // Nobody needs the former one any more: whoever has its key makes no members.
        stranger(scene, &manager, &directory, "next", "ours")?;
        engine.docker.ok(&["swarm", "leave"])?;
        worker.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}
