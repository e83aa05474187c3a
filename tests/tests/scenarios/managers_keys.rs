//! Several managers and their keys: joined sealed, autolock off and on, a rotation while one is
//! away, demotion and promotion, and the way back when the others are lost.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{Waxseal, eventually, scenario};

use super::texts;

const SOON: Duration = Duration::from_secs(40);
const NO_LEADER: &str = "The swarm does not have a leader.";

#[test]
fn keys_follow_roles_and_the_cluster_on_every_manager() -> Result<()> {
    scenario("managers-keys", |scene| {
        let mut nodes = [
            scene.waxseal("one")?,
            scene.waxseal("two")?,
            scene.waxseal("three")?,
        ];
        joins_are_sealed(&nodes)?;
        one_is_away_during_a_rotation(&mut nodes)?;
        autolock_goes_off_and_on(&nodes)?;
        a_demotion_leaves_no_key_and_a_promotion_makes_new_ones(&nodes)?;
        leaving_is_told_and_done(&nodes)
    })
}

#[test]
fn what_is_left_of_a_cluster_goes_on_alone() -> Result<()> {
    scenario("managers-force-new", |scene| {
        let mut nodes = [scene.waxseal("one")?, scene.waxseal("two")?];
        joins_are_sealed(&nodes)?;
        let [one, two] = &mut nodes;
        one.docker
            .ok_with_input(&["secret", "create", "kept", "-"], b"content")?;
        let key = one.unlock_key()?;
        two.kill()?;
        one.restart()?;
        one.reaches("locked")?;
        let force = ["swarm", "init", "--force-new-cluster"];
        one.docker.refused(&force, texts::LOCKED)?;
        // Half of the managers are no quorum; the key opens this one all the same.
        one.unlock(&key)?;
        let said = one.docker.fails(&["node", "ls"])?;
        ensure!(said.contains(NO_LEADER), "{said}");
        let info = one.engine.get("/info")?;
        let error = info["Swarm"]["Error"].as_str().unwrap_or_default();
        ensure!(error.contains(NO_LEADER), "{info}");
        let group = one.cli.ok(&["manager", "ls"])?;
        ensure!(group.contains("2 of 2 managers"), "{group}");
        ensure!(one.cli.ok(&["status"])?.contains("--force-new-cluster"));
        let said = one.docker.ok(&force)?;
        ensure!(said.contains("is now a manager"), "{said}");
        let names = one.docker.ok(&["secret", "ls", "--format", "{{.Name}}"])?;
        ensure!(names == "kept", "{names}");
        ensure!(one.unlock_key()? == key);
        one.docker
            .ok_with_input(&["secret", "create", "new", "-"], b"content")?;
        eventually("it is the only manager", SOON, || {
            let managers = one
                .docker
                .ok(&["node", "ls", "--format", "{{.ManagerStatus}}"])?;
            ensure!(
                managers.split_whitespace().collect::<Vec<_>>() == ["Leader"],
                "{managers}"
            );
            Ok(())
        })?;
        // Who comes back belongs to what was before.
        two.up()?;
        two.reaches("locked")?;
        two.unlock(&key)?;
        let said = two.docker.fails(&["secret", "ls"])?;
        ensure!(said.contains(NO_LEADER), "{said}");
        ensure!(one.docker.ok(&["secret", "ls", "-q"])?.lines().count() == 2);
        eventually("it is told what to do", SOON, || {
            let said = two.cli.ok(&["status"])?;
            ensure!(said.contains("goes on without this manager"), "{said}");
            Ok(())
        })?;
        two.docker.ok(&["swarm", "leave", "--force"])?;
        let token = one.docker.ok(&["swarm", "join-token", "-q", "manager"])?;
        two.join(&token, &one.remote())?;
        reaches_managers(one, 2)
    })
}

/// Founds a locked cluster on the first node, of which the others become managers.
fn joins_are_sealed(nodes: &[Waxseal]) -> Result<()> {
    let (first, rest) = nodes.split_first().context("no node")?;
    first.init(&["--autolock"])?;
    let token = first.docker.ok(&["swarm", "join-token", "-q", "manager"])?;
    for node in rest {
        let said = node.join(&token, &first.remote())?;
        ensure!(said.contains("joined a swarm as a manager"), "{said}");
        is_sealed(node, true)?;
    }
    reaches_managers(first, nodes.len())?;
    for node in nodes {
        ensure!(node.unlock_key()? == first.unlock_key()?);
        let group: Value =
            serde_json::from_str(&node.cli.ok(&["manager", "ls", "--format", "json"])?)?;
        ensure!(group["quorum"]["voters"] == nodes.len(), "{group}");
    }
    Ok(())
}

fn reaches_managers(node: &Waxseal, count: usize) -> Result<()> {
    eventually("all managers are reachable", SOON, || {
        let managers = node
            .docker
            .ok(&["node", "ls", "--format", "{{.ManagerStatus}}"])?;
        let leaders = managers.matches("Leader").count();
        let reachable = managers.matches("Reachable").count();
        ensure!((leaders, reachable) == (1, count - 1), "{managers}");
        Ok(())
    })
}

fn key_file(node: &Waxseal) -> Result<String> {
    let path = node.data_root().join("swarm/certificates/swarm-node.key");
    Ok(fs::read_to_string(path)?)
}

fn is_sealed(node: &Waxseal, sealed: bool) -> Result<()> {
    let text = key_file(node)?;
    ensure!(
        text.contains("SEALED") == sealed,
        "{}",
        text.lines().next().unwrap_or_default()
    );
    ensure!(text.contains("BEGIN PRIVATE KEY") != sealed);
    Ok(())
}

fn one_is_away_during_a_rotation(nodes: &mut [Waxseal; 3]) -> Result<()> {
    let [one, two, three] = nodes;
    let old = one.unlock_key()?;
    three.kill()?;
    two.docker.ok(&["swarm", "unlock-key", "--rotate"])?;
    let new = one.unlock_key()?;
    ensure!(new != old && two.unlock_key()? == new);
    three.up()?;
    three.reaches("locked")?;
    let wrong = format!("{new}\n");
    three
        .docker
        .refused_with_input(&["swarm", "unlock"], wrong.as_bytes(), texts::WRONG_KEY)?;
    three.unlock(&old)?;
    // It catches up: from then on it takes the new key and no other.
    eventually("the third follows", SOON, || {
        ensure!(three.unlock_key()? == new);
        Ok(())
    })?;
    std::thread::sleep(Duration::from_secs(1));
    three.restart()?;
    three.reaches("locked")?;
    let wrong = format!("{old}\n");
    three
        .docker
        .refused_with_input(&["swarm", "unlock"], wrong.as_bytes(), texts::WRONG_KEY)?;
    three.unlock(&new)?;
    reaches_managers(one, 3)
}

fn autolock_goes_off_and_on(nodes: &[Waxseal; 3]) -> Result<()> {
    let old = nodes[0].unlock_key()?;
    nodes[2]
        .docker
        .ok(&["swarm", "update", "--autolock=false"])?;
    for node in nodes {
        eventually("it is open", SOON, || is_sealed(node, false))?;
    }
    nodes[1]
        .docker
        .ok(&["swarm", "update", "--autolock=true"])?;
    for node in nodes {
        eventually("it is sealed", SOON, || is_sealed(node, true))?;
        ensure!(node.unlock_key()? != old);
    }
    Ok(())
}

fn id(node: &Waxseal) -> Result<String> {
    let info = node.engine.get("/info")?;
    Ok(info["Swarm"]["NodeID"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

fn raft_id(of: &Waxseal, asked: &Waxseal) -> Result<String> {
    let text = asked.cli.ok(&["manager", "ls", "--format", "json"])?;
    let group: Value = serde_json::from_str(&text)?;
    let (own, managers) = (id(of)?, group["managers"].as_array());
    let member = managers.and_then(|all| all.iter().find(|one| one["node_id"] == *own));
    let member = member.context("not in the group")?;
    ensure!(member["voter"] == true, "{member}");
    Ok(member["raft_id"].to_string())
}

fn a_demotion_leaves_no_key_and_a_promotion_makes_new_ones(nodes: &[Waxseal; 3]) -> Result<()> {
    let [one, _, three] = nodes;
    let (name, before) = (id(three)?, raft_id(three, one)?);
    one.docker.ok(&["node", "demote", &name])?;
    eventually("it is a worker", SOON, || {
        is_sealed(three, false)?;
        ensure!(!key_file(three)?.contains("SEALED"));
        ensure!(!three.data_root().join("swarm/raft").exists());
        ensure!(three.engine.get("/info")?["Swarm"]["ControlAvailable"] == false);
        Ok(())
    })?;
    reaches_managers(one, 2)?;
    one.docker.ok(&["node", "promote", &name])?;
    eventually("it is a manager again", SOON, || {
        is_sealed(three, true)?;
        ensure!(raft_id(three, one)? != before, "the same membership");
        ensure!(three.docker.ok(&["node", "ls", "-q"])?.lines().count() == 3);
        Ok(())
    })?;
    reaches_managers(one, 3)
}

fn leaving_is_told_and_done(nodes: &[Waxseal; 3]) -> Result<()> {
    let [one, _, three] = nodes;
    let said = three.docker.fails(&["swarm", "leave"])?;
    ensure!(said.contains("participating as a manager"), "{said}");
    three.docker.ok(&["swarm", "leave", "--force"])?;
    ensure!(
        fs::read_dir(three.data_root().join("swarm"))?
            .next()
            .is_none()
    );
    reaches_managers(one, 2)?;
    let text = one.cli.ok(&["manager", "ls"])?;
    ensure!(text.contains("2 of 2 managers"), "{text}");
    Ok(())
}
