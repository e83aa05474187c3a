//! Rotation of the root: managers, engines and our workers all at once.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use waxseal_tests::{
    Engine, Managers, Scene, Waxseal, eventually, holds_for, require, run, scenario,
};

const SOON: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(20);

/// The cluster as a manager shows it.
fn swarm(engine: &Engine) -> Result<Value> {
    engine.get("/swarm")
}

fn trust_root(engine: &Engine) -> Result<String> {
    let swarm = swarm(engine)?;
    let root = swarm["TLSInfo"]["TrustRoot"].as_str().context("no root")?;
    Ok(root.to_owned())
}

/// Our own word for how it stands.
fn status(node: &Waxseal) -> Result<Value> {
    let text = node.cli.ok(&["ca", "status", "--format", "json"])?;
    serde_json::from_str(&text).context("no JSON")
}

fn begins(engine: &Engine) -> Result<Value> {
    let now = swarm(engine)?;
    let mut spec = now["Spec"].clone();
    let forced = spec["CAConfig"]["ForceRotate"].as_u64().unwrap_or(0);
    spec["CAConfig"]["ForceRotate"] = json!(forced + 1);
    let version = &now["Version"]["Index"];
    engine
        .call(
            "POST",
            &format!("/swarm/update?version={version}"),
            Some(&spec),
        )?
        .expect(200)?;
    swarm(engine)
}

/// Every node shows the cluster's root and issuer, and `docker node ls` says so.
fn all_ready(node: &Waxseal, count: usize) -> Result<()> {
    eventually("every node is ready", SOON, || {
        let rows = node
            .docker
            .ok(&["node", "ls", "--format", "{{.TLSStatus}}"])?;
        let ready = rows.lines().filter(|row| *row == "Ready").count();
        ensure!(ready == count && rows.lines().count() == count, "{rows}");
        Ok(())
    })
}

/// What `openssl` says of a node's chain under a root, strictly.
fn verifies(scene: &Scene, chain: &Path, root: &str) -> Result<()> {
    let roots = scene.dir().join("root.pem");
    fs::write(&roots, root)?;
    let output = run(
        Command::new(require("openssl", "openssl")?)
            .args(["verify", "-x509_strict", "-purpose", "sslclient", "-CAfile"])
            .arg(&roots)
            .arg("-untrusted")
            .args([chain, chain]),
        LIMIT,
    )?;
    ensure!(output.code == 0, "{} {}", output.out(), output.err());
    Ok(())
}

fn chain_of(data_root: &Path) -> std::path::PathBuf {
    data_root.join("swarm/certificates/swarm-node.crt")
}

#[test]
fn managers_an_engine_and_our_worker_rotate_with_a_task_running() -> Result<()> {
    scenario("rotation", |scene| {
        let group = Managers::start(scene, 3, &[])?;
        let asked = &group.nodes[1];
        let worker = scene.waxseal("worker")?;
        worker.join(&asked.worker_token()?, &asked.remote())?;
        let engine = scene.dockerd("engine")?;
        engine.join(&asked.worker_token()?, &asked.remote())?;
        all_ready(asked, 5)?;
        let create = [
            "service",
            "create",
            "--no-resolve-image",
            "--name",
            "web",
            "--network",
            "host",
            "--constraint",
            "node.role==worker",
            "--mode",
            "global",
            "bb:1",
            "sleep",
            "10000",
        ];
        asked.docker.ok(&create)?;
        let containers = eventually("the task runs", SOON, || {
            let found = engine.containers()?;
            ensure!(found.len() == 1, "{found:?}");
            Ok(found)
        })?;
        let (old_root, old_token) = (trust_root(&asked.engine)?, asked.worker_token()?);

        // 1. The stock CLI sees it through and prints the new root.
        let said = asked.docker.ok(&["swarm", "ca", "--rotate"])?;
        let root = trust_root(&asked.engine)?;
        ensure!(root != old_root, "the root is the old one");
        ensure!(said.ends_with(root.trim_end()), "{said}");
        ensure!(said.contains("desired root digest: sha256:"), "{said}");
        ensure!(asked.docker.ok(&["swarm", "ca"])? == root.trim_end());
        all_ready(asked, 5)?;

        // 2. Tasks did not notice; both tokens are new and the old ones dead.
        ensure!(engine.containers()? == containers, "the task was restarted");
        ensure!(asked.worker_token()? != old_token);
        let late = scene.waxseal("late")?;
        let refused =
            late.docker
                .fails(&["swarm", "join", "--token", &old_token, &asked.remote()])?;
        ensure!(!refused.is_empty());

        // 3. Chains lead to both roots, for anybody's verifier.
        let mut chains: Vec<_> = group
            .nodes
            .iter()
            .map(|node| chain_of(node.data_root()))
            .collect();
        chains.push(chain_of(worker.data_root()));
        chains.push(chain_of(&engine.dir().join("data")));
        for chain in &chains {
            verifies(scene, chain, &root)?;
            verifies(scene, chain, &old_root)?;
        }

        // 4. It goes on as before: who joins now, a secret, another leader.
        late.join(&asked.worker_token()?, &asked.remote())?;
        all_ready(asked, 6)?;
        verifies(scene, &chain_of(late.data_root()), &root)?;
        asked
            .docker
            .ok_with_input(&["secret", "create", "after", "-"], b"x")?;
        group.settled()
    })
}

#[test]
fn a_rotation_outlives_its_leader_a_second_one_and_an_abort() -> Result<()> {
    scenario("rotation-again", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        let leader = group.leader(0)?;
        let (asked, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let mut worker = scene.waxseal("worker")?;
        let node = &group.nodes[asked];
        worker.join(&node.worker_token()?, &node.remote())?;
        all_ready(node, 4)?;
        let old_root = trust_root(&node.engine)?;
        worker.stop()?;

        // 1. One that is away holds it up, and is named.
        let first = begins(&node.engine)?;
        ensure!(first["RootRotationInProgress"] == true, "{first}");
        ensure!(trust_root(&node.engine)? == old_root, "trust comes last");
        eventually("only one is missing", SOON, || {
            let status = status(node)?;
            ensure!(status["nodes_done"] == 3, "{status}");
            Ok(())
        })?;
        // 2. A second one takes its place.
        let second = begins(&node.engine)?;
        let key = "CertIssuerPublicKey";
        ensure!(second["TLSInfo"][key] != first["TLSInfo"][key]);
        // 3. Who joins in the middle joins with the tokens that there are.
        let late = scene.waxseal("late")?;
        late.join(&node.worker_token()?, &node.remote())?;
        verifies(scene, &chain_of(late.data_root()), &old_root)?;
        // 4. Back to the root that is trusted, and all hold its certificates again.
        node.cli.ok(&["ca", "rotate", "--abort"])?;
        eventually("all hold certificates of the old root", SOON, || {
            let status = status(node)?;
            ensure!(status["rotating"] == false, "{status}");
            ensure!(status["nodes_done"].as_u64() >= Some(4), "{status}");
            Ok(())
        })?;
        ensure!(trust_root(&node.engine)? == old_root);
        // 5. The leader dies in the middle of the next one; it ends when all are there.
        node.cli.ok(&["ca", "rotate", "--detach"])?;
        group.nodes[leader].kill()?;
        let node = &group.nodes[asked];
        eventually("the others go on", SOON, || {
            let status = status(node)?;
            ensure!(status["nodes_done"].as_u64() >= Some(3), "{status}");
            Ok(())
        })?;
        group.nodes[leader].up()?;
        worker.up()?;
        let node = &group.nodes[asked];
        eventually("it is finished", SOON, || {
            let status = status(node)?;
            ensure!(status["rotating"] == false, "{status}");
            Ok(())
        })?;
        ensure!(trust_root(&node.engine)? != old_root);
        all_ready(&group.nodes[other], 5)?;
        group.settled()
    })
}

/// A manager with a worker that is killed and one that is not.
fn one_is_away(scene: &Scene) -> Result<(Waxseal, Waxseal, Waxseal)> {
    let manager = scene.waxseal("manager")?;
    manager.init(&[])?;
    let mut away = scene.waxseal("away")?;
    let here = scene.waxseal("here")?;
    for node in [&away, &here] {
        node.join(&manager.worker_token()?, &manager.remote())?;
    }
    all_ready(&manager, 3)?;
    away.kill()?;
    Ok((manager, away, here))
}

#[test]
fn a_deadline_ends_it_without_those_who_are_away() -> Result<()> {
    scenario("rotation-deadline", |scene| {
        let (manager, mut away, _here) = one_is_away(scene)?;
        let old_root = trust_root(&manager.engine)?;
        eventually("it is known to be away", SOON, || {
            let plan = manager.cli.ok(&["ca", "rotate", "--plan"])?;
            ensure!(plan.contains("1 of them cannot now"), "{plan}");
            Ok(())
        })?;
        let contradiction =
            manager
                .cli
                .fails(&["ca", "rotate", "--laggards", "wait", "--deadline", "5s"])?;
        ensure!(
            contradiction.contains("a deadline ends nothing"),
            "{contradiction}"
        );

        manager.cli.ok(&["ca", "rotate", "--deadline", "3s"])?;
        ensure!(trust_root(&manager.engine)? != old_root, "not rotated");
        let status = status(&manager)?;
        let nodes = status["nodes"].as_array().context("no nodes")?;
        let out = nodes
            .iter()
            .filter(|node| node["progress"] == "quarantined");
        ensure!(out.count() == 1, "{status}");
        // Its certificate counts no more: it proves itself by its old key and is back.
        away.up()?;
        all_ready(&manager, 3)?;
        Ok(())
    })
}

#[test]
fn laggards_are_removed_at_the_deadline_if_the_operator_says_so() -> Result<()> {
    scenario("rotation-evict", |scene| {
        let (manager, mut away, _here) = one_is_away(scene)?;
        let old_root = trust_root(&manager.engine)?;
        // 1. It would wait for ever, one node at a time.
        let paced = ["ca", "rotate", "--detach", "--pace", "1"];
        manager.cli.ok(&paced)?;
        eventually("only one is missing", SOON, || {
            let status = status(&manager)?;
            ensure!(
                status["pace"] == 1 && status["laggards"] == "wait",
                "{status}"
            );
            ensure!(status["nodes_done"] == 2, "{status}");
            Ok(())
        })?;
        // 2. Told otherwise it ends, and the one that is away is none of the cluster's.
        let evict = ["--laggards", "evict", "--deadline", "1s"];
        let running = ["ca", "rotate", "--running"];
        manager.cli.ok(&[&running[..], &evict].concat())?;
        ensure!(trust_root(&manager.engine)? != old_root, "not rotated");
        all_ready(&manager, 2)?;
        away.up()?;
        holds_for("it is no member any more", Duration::from_secs(3), || {
            let rows = manager.docker.ok(&["node", "ls", "--quiet"])?;
            ensure!(rows.lines().count() == 2, "{rows}");
            Ok(())
        })?;
        all_ready(&manager, 2)
    })
}
