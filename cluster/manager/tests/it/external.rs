//! An external CA signs: Debian's cfssl server, which demands the manager's certificate.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};
use waxseal_ca::{Clock, Csr, NodeCredentials, NodeKey, Role, SystemClock, serial::Serial};
use waxseal_cluster::objects::{
    Certificate, Cluster, ExternalCa, IssuanceState, NodeRole, SignerTrouble, external_ca::Protocol,
};
use waxseal_manager::{Manager, NewCluster, Start};
use waxseal_wire::swarmkit::{IssueNodeCertificateRequest, NodeCertificateStatusRequest};

use crate::support::{DEADLINE, World, add_worker, node, open_session};

/// As an operator configures it for a swarm (spec/pki.md §12).
const GOOD: &str = r#"{"signing": {
    "default": {
        "usages": ["digital signature", "key encipherment", "server auth", "client auth"],
        "expiry": "2160h", "backdate": "1h"
    }
}}"#;
/// Certificates that could not be used as clients.
const SERVERS_ONLY: &str = r#"{"signing": {
    "default": {
        "usages": ["digital signature", "key encipherment", "server auth"],
        "expiry": "2160h", "backdate": "1h"
    }
}}"#;

/// A cfssl server with the key of a world's root.
struct Cfssl {
    directory: TempDir,
    port: u16,
    running: Option<Child>,
}

impl Cfssl {
    fn of(world: &World, config: &str) -> Cfssl {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("root.pem", world.root.cert_pem());
        write("root.key", &world.root.key_pem());
        write("config.json", config);
        write("names", "subjectAltName=IP:127.0.0.1");
        let script = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -keyout tls.key -subj /CN=cfssl -out tls.csr && \
             openssl x509 -req -in tls.csr -CA root.pem -CAkey root.key -CAcreateserial -days 30 \
             -extfile names -out tls.pem";
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(&directory)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        Cfssl {
            directory,
            port,
            running: None,
        }
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/api/v1/cfssl/sign", self.port)
    }

    fn start(&mut self) {
        let log = fs::File::create(self.directory.path().join("log")).unwrap();
        let child = Command::new("cfssl")
            .args([
                "serve",
                "-address",
                "127.0.0.1",
                "-port",
                &self.port.to_string(),
            ])
            .args([
                "-ca",
                "root.pem",
                "-ca-key",
                "root.key",
                "-config",
                "config.json",
            ])
            .args(["-tls-cert", "tls.pem", "-tls-key", "tls.key"])
            .args(["-mutual-tls-ca", "root.pem"])
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.running = Some(child.expect("cfssl, of the package golang-cfssl"));
        let end = std::time::Instant::now() + DEADLINE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(
                std::time::Instant::now() < end,
                "cfssl does not listen: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Cfssl {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A cluster whose root's key the CA alone has.
async fn found(world: &World, cfssl: &Cfssl) -> Manager {
    let mut cluster: Cluster = world.cluster();
    cluster.root_ca.as_mut().unwrap().ca_key.clear();
    let settings = cluster.spec.as_mut().unwrap().ca_config.as_mut().unwrap();
    settings.external_cas = vec![ExternalCa {
        protocol: Protocol::Cfssl.into(),
        url: cfssl.url(),
        ..ExternalCa::default()
    }];
    let new = NewCluster {
        cluster,
        node: node("manager", NodeRole::Manager),
    };
    let manager = world.start(Start::Found(Box::new(new))).await.unwrap();
    add_worker(&manager, "w1").await;
    manager
}

/// Asks to join; the node's id and its key.
async fn ask(world: &World, manager: &Manager) -> (String, NodeKey) {
    let key = NodeKey::generate().unwrap();
    let request = IssueNodeCertificateRequest {
        csr: key.csr_pem().unwrap().into_bytes(),
        token: world.tokens.token(Role::Worker).expose_text().into(),
        ..Default::default()
    };
    let joiner = world.joiner(manager).await;
    let answer = joiner.node_ca().issue_node_certificate(request).await;
    (answer.unwrap().into_inner().node_id, key)
}

async fn certificate(world: &World, manager: &Manager, node_id: &str) -> Certificate {
    let joiner = world.joiner(manager).await;
    let request = NodeCertificateStatusRequest {
        node_id: node_id.to_owned(),
    };
    let mut node_ca = joiner.node_ca();
    let answer = timeout(DEADLINE, node_ca.node_certificate_status(request));
    answer
        .await
        .unwrap()
        .unwrap()
        .into_inner()
        .certificate
        .unwrap()
}

fn state(certificate: &Certificate) -> IssuanceState {
    certificate.status.as_ref().unwrap().state()
}

fn trouble(manager: &Manager) -> Option<SignerTrouble> {
    manager.read(|state| state.cluster()?.signer_trouble.clone())
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cfssl_signs_and_while_it_is_down_the_cluster_goes_on() {
    let world = World::at(SystemClock.now());
    let mut cfssl = Cfssl::of(&world, GOOD);
    cfssl.start();
    let manager = found(&world, &cfssl).await;

    // 1. A join: what cfssl signed is the node's credentials, and its serial is on record.
    let (node_id, key) = ask(&world, &manager).await;
    let issued = certificate(&world, &manager, &node_id).await;
    assert_eq!(
        state(&issued),
        IssuanceState::Issued,
        "{:?} {}",
        issued.status,
        cfssl.log()
    );
    let now = world.clock.now();
    let credentials =
        NodeCredentials::new(&issued.certificate, key, world.root.trust(), now).unwrap();
    assert_eq!(credentials.identity().node_id, node_id);
    assert_eq!(credentials.identity().role, Role::Worker);
    let recorded = Serial::from_bytes(&issued.serial).unwrap();
    assert_eq!(credentials.identity().serial, recorded);
    assert!(trouble(&manager).is_none());
    let member = world.dial(&manager, Arc::clone(&credentials)).await;
    let (_messages, _) = open_session(&member).await.unwrap();

    // 2. The CA is down: who asks waits, it is on record, and members go on.
    cfssl.stop();
    let (waiting, _) = ask(&world, &manager).await;
    eventually("the trouble is on record", || trouble(&manager).is_some()).await;
    let text = trouble(&manager).unwrap().error;
    assert!(
        text.starts_with("unable to perform certificate signing request: https://"),
        "{text}"
    );
    let held = certificate(&world, &manager, &waiting).await;
    assert_eq!(state(&held), IssuanceState::Pending);
    open_session(&member).await.unwrap();

    // 3. It is back: who waited is served without asking again, and the record is clean.
    cfssl.start();
    let is_issued = || {
        manager.read(|state| {
            let node = state.node(&waiting)?;
            Some(self::state(node.certificate.as_ref()?) == IssuanceState::Issued)
        })
    };
    eventually("the request is signed", || is_issued() == Some(true)).await;
    eventually("the record is clean", || trouble(&manager).is_none()).await;
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_departs_from_the_profile_is_not_stored() {
    let world = World::at(SystemClock.now());
    let mut cfssl = Cfssl::of(&world, SERVERS_ONLY);
    cfssl.start();
    let manager = found(&world, &cfssl).await;
    let (node_id, _) = ask(&world, &manager).await;
    let refused = certificate(&world, &manager, &node_id).await;
    let status = refused.status.clone().unwrap();
    assert_eq!(status.state(), IssuanceState::Failed);
    assert!(
        status
            .err
            .starts_with("the certificate's extKeyUsage is not"),
        "{}",
        status.err
    );
    assert!(refused.certificate.is_empty());
    manager.shutdown(DEADLINE).await;
}

/// The harness shows what it claims: nobody without a certificate of a manager is signed for.
#[tokio::test(flavor = "multi_thread")]
async fn cfssl_turns_away_who_has_no_certificate() {
    let world = World::at(SystemClock.now());
    let mut cfssl = Cfssl::of(&world, GOOD);
    cfssl.start();
    let key = NodeKey::generate().unwrap();
    let pem = key.csr_pem().unwrap();
    Csr::parse(pem.as_bytes()).unwrap();
    let asked = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{}", cfssl.port)])
        .args(["-CAfile", "root.pem", "-brief"])
        .current_dir(&cfssl.directory)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stderr).into_owned() + &cfssl.log();
    assert!(said.contains("certificate"), "{said}");
    assert!(
        said.contains("didn't provide a certificate")
            || said.contains("bad certificate")
            || said.contains("certificate required"),
        "{said}"
    );
}
