//! Nodes whose certificates ended while they were off.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{DaemonClock, Scene, Waxseal, eventually, node_id, run, scenario};

const SOON: Duration = Duration::from_secs(60);
/// Beyond the life of a certificate of an hour.
const LATER: Duration = Duration::from_secs(90 * 60);

/// The wall clock of some daemons, which a test moves while they run.
struct WallClock {
    clock: DaemonClock,
    ahead: Duration,
}

impl WallClock {
    fn new(scene: &Scene) -> Result<WallClock> {
        Ok(WallClock {
            clock: DaemonClock::new(scene, "all", time::Duration::ZERO)?,
            ahead: Duration::ZERO,
        })
    }

    fn advance(&mut self, by: Duration) -> Result<()> {
        self.ahead += by;
        self.clock.set(time::Duration::try_from(self.ahead)?)
    }

    fn daemon(&self, scene: &Scene, name: &str) -> Result<Waxseal> {
        Waxseal::start(scene, name, &self.clock.options())
    }
}

/// What a node says is wrong.
fn warnings(node: &Waxseal) -> Result<String> {
    let status = node.engine.get("/waxseal/v1/status")?;
    Ok(status["warnings"].to_string())
}

fn seen(manager: &Waxseal, id: &str) -> Result<Value> {
    manager.engine.get(&format!("/nodes/{id}"))
}

fn is_ready(manager: &Waxseal, id: &str) -> Result<()> {
    eventually(format!("{id} is ready"), SOON, || {
        let node = seen(manager, id)?;
        ensure!(node["Status"]["State"] == "ready", "{}", node["Status"]);
        Ok(())
    })
}

fn serial(node: &Waxseal) -> Result<String> {
    let leaf = node.data_root().join("swarm/certificates/swarm-node.crt");
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-serial", "-in"]).arg(leaf);
    Ok(run(&mut openssl, SOON)?.out())
}

/// Gives a node a certificate of an hour; what is issued later lives as before.
fn shorten(manager: &Waxseal, id: &str) -> Result<()> {
    manager
        .docker
        .ok(&["swarm", "update", "--cert-expiry", "1h"])?;
    manager.cli.ok(&["node", "renew", id])?;
    manager
        .docker
        .ok(&["swarm", "update", "--cert-expiry", "2160h"])?;
    Ok(())
}

/// Off for longer than its certificate lived.
fn miss(clock: &mut WallClock, manager: &Waxseal, node: &mut Waxseal, id: &str) -> Result<()> {
    shorten(manager, id)?;
    is_ready(manager, id)?;
    node.stop()?;
    clock.advance(LATER)?;
    eventually("it is known to be away", SOON, || {
        let seen = seen(manager, id)?;
        let message = seen["Status"]["Message"].as_str().unwrap_or_default();
        ensure!(message.contains("its certificate expired"), "{seen}");
        Ok(())
    })
}

#[test]
fn a_worker_whose_certificate_expired_returns_once_and_not_for_ever() -> Result<()> {
    scenario("returns", |scene| {
        let mut clock = WallClock::new(scene)?;
        let manager = clock.daemon(scene, "manager")?;
        manager.init(&[])?;
        let mut worker = clock.daemon(scene, "worker")?;
        worker.join(&manager.worker_token()?, &manager.remote())?;
        let id = node_id(&worker.engine)?;
        is_ready(&manager, &id)?;

        // 1. Within the window: by itself, as the same node, with a new key.
        miss(&mut clock, &manager, &mut worker, &id)?;
        let old = serial(&worker)?;
        let copy = copied(scene, &worker, &clock)?;
        worker.up()?;
        is_ready(&manager, &id)?;
        ensure!(serial(&worker)? != old, "{old}");
        ensure!(node_id(&worker.engine)? == id, "another node");
        eventually("it says that all is well", SOON, || {
            let warnings = warnings(&worker)?;
            ensure!(warnings == "[]", "{warnings}");
            Ok(())
        })?;

        // 2. A copy of its disk of before: refused, and shown.
        clone_is_refused(&manager, &worker, copy, &id)?;

        // 3. Outside the window: an operator decides.
        manager.cli.ok(&["node", "return-window", "0s"])?;
        miss(&mut clock, &manager, &mut worker, &id)?;
        worker.up()?;
        eventually("it waits", SOON, || {
            let warnings = warnings(&worker)?;
            ensure!(warnings.contains("waxseal node approve"), "{warnings}");
            Ok(())
        })?;
        let returns = manager.cli.ok(&["node", "returns"])?;
        ensure!(
            returns.contains(&id) && returns.contains("key sha256:"),
            "{returns}"
        );
        let other = ["node", "approve", &id, "--key", "00ff00ff"];
        let refused = manager.cli.fails(&other)?;
        ensure!(refused.contains("waits with key"), "{refused}");
        manager.cli.ok(&["node", "approve", &id])?;
        is_ready(&manager, &id)?;

        // 4. Once it was removed, never.
        manager.cli.ok(&["node", "return-window", "30d"])?;
        miss(&mut clock, &manager, &mut worker, &id)?;
        manager.docker.ok(&["node", "rm", "--force", &id])?;
        worker.up()?;
        eventually("it is told that it was removed", SOON, || {
            let warnings = warnings(&worker)?;
            ensure!(warnings.contains("was removed from swarm"), "{warnings}");
            Ok(())
        })
    })
}

/// A daemon on a copy of another's disk, at an address of its own.
fn copied(scene: &Scene, node: &Waxseal, clock: &WallClock) -> Result<Waxseal> {
    let copy = Waxseal::prepare(scene, "copy", &clock.clock.options())?;
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(node.data_root()).arg(copy.data_root());
    let copying = run(&mut cp, SOON)?;
    ensure!(copying.code == 0, "cp: {}", copying.err());
    Ok(copy)
}

fn clone_is_refused(
    manager: &Waxseal,
    worker: &Waxseal,
    mut copy: Waxseal,
    id: &str,
) -> Result<()> {
    copy.up()?;
    eventually("the copy is refused", SOON, || {
        let warnings = warnings(&copy)?;
        ensure!(
            warnings.contains("may be a copy of that node"),
            "{warnings}"
        );
        Ok(())
    })?;
    eventually("it is shown", SOON, || {
        let listed = manager.cli.ok(&["node", "ls"])?;
        ensure!(listed.contains("may have been copied"), "{listed}");
        let returns = manager.cli.ok(&["node", "returns"])?;
        ensure!(returns.contains("may have been copied"), "{returns}");
        Ok(())
    })?;
    copy.kill()?;
    // Who came first is a member as before.
    is_ready(manager, id)?;
    ensure!(warnings(worker)? == "[]", "{}", warnings(worker)?);
    Ok(())
}

#[test]
fn a_manager_whose_certificate_expired_returns_to_the_others() -> Result<()> {
    scenario("manager-returns", |scene| {
        let mut clock = WallClock::new(scene)?;
        let first = clock.daemon(scene, "first")?;
        first.init(&[])?;
        let token = first.docker.ok(&["swarm", "join-token", "-q", "manager"])?;
        let second = clock.daemon(scene, "second")?;
        second.join(&token, &first.remote())?;
        let mut third = clock.daemon(scene, "third")?;
        third.join(&token, &first.remote())?;
        let id = node_id(&third.engine)?;
        miss(&mut clock, &first, &mut third, &id)?;
        first
            .docker
            .ok_with_input(&["secret", "create", "meanwhile", "-"], b"x")?;
        third.up()?;
        is_ready(&first, &id)?;
        eventually("it is reached, and has what was written", SOON, || {
            let node = seen(&first, &id)?;
            let reached = node["ManagerStatus"]["Reachability"] == "reachable";
            ensure!(reached, "{}", node["ManagerStatus"]);
            let secrets = third.engine.get("/secrets")?;
            let secrets = secrets.as_array().context("no list")?;
            ensure!(secrets.len() == 1, "{secrets:?}");
            Ok(())
        })
    })
}

/// Replaces the root without waiting for nodes that are away.
fn rotate(manager: &Waxseal, more: &[&str]) -> Result<String> {
    let mut words = vec!["ca", "rotate", "--deadline", "3s"];
    words.extend(["--laggards", "quarantine"]);
    words.extend(more);
    manager.cli.ok(&words)?;
    let swarm = manager.engine.get("/swarm")?;
    let root = swarm["TLSInfo"]["TrustRoot"].as_str();
    Ok(root.context("no root")?.to_owned())
}

#[test]
fn a_worker_that_missed_rotations_returns_unless_the_root_was_compromised() -> Result<()> {
    scenario("missed", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let mut worker = scene.waxseal("worker")?;
        worker.join(&manager.worker_token()?, &manager.remote())?;
        let id = node_id(&worker.engine)?;
        is_ready(&manager, &id)?;
        let held = || fs::read_to_string(worker_root(scene));

        // 1. Two in a row: from root to root to the present one.
        let old = serial(&worker)?;
        worker.stop()?;
        let first = rotate(&manager, &[])?;
        let second = rotate(&manager, &[])?;
        ensure!(first != second && held()? != second, "no other root");
        worker.up()?;
        is_ready(&manager, &id)?;
        ensure!(serial(&worker)? != old, "{old}");
        ensure!(node_id(&worker.engine)? == id, "another node");
        eventually("it trusts the present root", SOON, || {
            ensure!(held()? == second, "another root");
            Ok(())
        })?;

        // 2. Nothing leads on from a root whose key is in foreign hands.
        worker.stop()?;
        rotate(&manager, &["--compromised"])?;
        worker.up()?;
        eventually("it is told to leave and join", SOON, || {
            let warnings = warnings(&worker)?;
            ensure!(
                warnings.contains("docker swarm leave --force"),
                "{warnings}"
            );
            Ok(())
        })?;
        ensure!(held()? == second, "it took a root that nothing leads to");
        let state = seen(&manager, &id)?["Status"]["State"].clone();
        ensure!(state != "ready", "it is {state}");
        Ok(())
    })
}

fn worker_root(scene: &Scene) -> PathBuf {
    let dir = scene.dir().join("worker/data/swarm/certificates");
    dir.join("swarm-root-ca.crt")
}
