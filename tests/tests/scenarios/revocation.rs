//! Certificates on record, superseded and revoked, with three managers.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{Managers, Waxseal, eventually, node_id, scenario, standings};

const SOON: Duration = Duration::from_secs(40);
/// After the first session with the newer one, and a little for who looks.
const GRACE: Duration = Duration::from_secs(60);

/// A node's certificates as a manager shows them, the newest first.
fn certificates(manager: &Waxseal, node: &str) -> Result<Vec<Value>> {
    let list = manager
        .cli
        .ok(&["cert", "ls", "--node", node, "--format", "json"])?;
    let list: Value = serde_json::from_str(&list)?;
    Ok(list["certificates"].as_array().context("no list")?.clone())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn certificates_are_on_record_and_are_revoked_everywhere() -> Result<()> {
    scenario("revoke", |scene| {
        let group = Managers::start(scene, 3, &[])?;
        let leader = &group.nodes[group.leader(0)?];
        let follower = &group.nodes[group.followers()?[0]];
        let worker = scene.waxseal("worker")?;
        worker.join(&leader.worker_token()?, &follower.remote())?;
        let id = node_id(&worker.engine)?;
        let engine = scene.dockerd("engine")?;
        engine.join(&leader.worker_token()?, &follower.remote())?;
        let engine_id = engine.node_id()?;
        // 1. Refused: what is not there, and a manager's newest.
        let said = leader.cli.fails(&["cert", "revoke", "00ff00ff"])?;
        ensure!(said.contains("certificate 00ff00ff not found"), "{said}");
        let manager_id = node_id(&follower.engine)?;
        let said = leader
            .cli
            .fails(&["cert", "revoke", "--node", &manager_id])?;
        ensure!(said.contains("waxseal node renew"), "{said}");
        // 2. On record on each manager: who asked, over what, from where.
        let first = certificates(follower, &id)?;
        ensure!(first.len() == 1, "{first:?}");
        let joined = &first[0];
        ensure!(
            joined["origin"] == "join"
                && joined["token"] == "worker"
                && joined["standing"] == "valid"
                && text(&joined["address"]).starts_with("127.")
                && text(&joined["issuer"]).len() == 64,
            "{joined}"
        );
        let founding = certificates(leader, &node_id(&group.nodes[0].engine)?)?;
        ensure!(
            founding.iter().any(|one| one["origin"] == "founding"),
            "{founding:?}"
        );
        // 3. A renewal supersedes, from the first session with the new one.
        leader.cli.ok(&["node", "renew", &id, &engine_id])?;
        let renewed = eventually("the node uses its new certificate", SOON, || {
            let all = certificates(follower, &id)?;
            ensure!(all.len() == 2, "{all:?}");
            let former = all.iter().find(|one| one["serial"] == joined["serial"]);
            let former = former.context("the former is gone")?;
            ensure!(!former["superseded_at"].is_null(), "{all:?}");
            let newest = all.iter().find(|one| one["serial"] != joined["serial"]);
            Ok(newest.context("no newest")?.clone())
        })?;
        ensure!(renewed["origin"] == "operator", "{renewed}");
        let serial = text(&joined["serial"]);
        let standing = |serial: &str| -> Result<String> {
            let shown = follower
                .cli
                .ok(&["cert", "inspect", serial, "--format", "json"])?;
            let shown: Value = serde_json::from_str(&shown)?;
            Ok(text(&shown[0]["standing"]))
        };
        ensure!(standing(&serial[..16])? == "valid", "superseded at once");
        sleep(GRACE);
        eventually("the former certificate is superseded", SOON, || {
            let standing = standing(&serial)?;
            ensure!(standing == "superseded", "{standing}");
            Ok(())
        })?;
        // An engine that kept its session over the renewal was cut off once, and is back with its
        // newest: what it is to run reaches it.
        eventually("the engine uses its new certificate", SOON, || {
            let all = certificates(follower, &engine_id)?;
            let of = |origin| all.iter().find(move |one| one["origin"] == origin);
            let (joined, newest) = (of("join"), of("operator"));
            let is_used = newest.is_some_and(|one| !one["used_at"].is_null());
            let is_past = joined.is_some_and(|one| !one["superseded_at"].is_null());
            ensure!(all.len() == 2 && is_used && is_past, "{all:?}");
            Ok(())
        })?;
        let constraint = format!("node.id=={engine_id}");
        leader.docker.ok(&[
            "service",
            "create",
            "--detach",
            "--no-resolve-image",
            "--name",
            "after",
            "--network",
            "host",
            "--constraint",
            &constraint,
            "bb:1",
            "sleep",
            "10000",
        ])?;
        eventually("the engine runs it", SOON, || {
            let running = engine.containers()?;
            ensure!(running.len() == 1, "{running:?}");
            Ok(())
        })?;
        leader.docker.ok(&["service", "rm", "after"])?;
        // 4. Revoked: the node is cut off, and told so; it is down soon.
        let serial = text(&renewed["serial"]);
        let begun = Instant::now();
        let said = follower
            .cli
            .ok(&["cert", "revoke", &serial, "--reason", "stolen host"])?;
        ensure!(
            said.contains("cut off") && said.contains("swarm leave"),
            "{said}"
        );
        eventually("the worker is told", SOON, || {
            let log = std::fs::read_to_string(worker.log())?;
            ensure!(log.contains("was revoked"), "no word of it");
            Ok(())
        })?;
        println!(
            "the worker was told {:?} after the revocation",
            begun.elapsed()
        );
        eventually("the node is down", SOON, || {
            let all = standings(&leader.engine)?;
            let node = all.iter().find(|one| one.id == id).context("no record")?;
            ensure!(node.state == "down", "{node:?}");
            Ok(())
        })?;
        let shown = follower.cli.ok(&["cert", "inspect", &serial])?;
        ensure!(
            shown.contains("stolen host") && shown.contains("uid "),
            "{shown}"
        );
        // 5. As it was told: it leaves and joins as a new node.
        worker.docker.ok(&["swarm", "leave", "--force"])?;
        worker.join(&leader.worker_token()?, &leader.remote())?;
        ensure!(node_id(&worker.engine)? != id);
        leader.docker.ok(&["node", "rm", "--force", &id])?;
        worker.docker.ok(&["swarm", "leave"])?;
        engine.docker.ok(&["swarm", "leave"])?;
        Ok(())
    })
}
