//! Nodes become managers and workers again.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{
    Managers, Waxseal, Workload, eventually, long_run, next_write, node_id, scenario, standings,
};

use super::{FAILOVER, SOON};

const ROUNDS: usize = 2;
const LONG_ROUNDS: usize = 30;
/// For a change of role: a node with as many certificates as it may have gets the next one once
/// the older ones do not count any more, after a minute, when it asks again.
const CHANGE: Duration = Duration::from_secs(150);

/// Waits for a node's place in the table, `""` for a worker, and its own word for it.
fn becomes(asked: &Waxseal, node: &Waxseal, reachability: &str) -> Result<()> {
    let id = node_id(&node.engine)?;
    eventually(format!("{id} becomes {reachability:?}"), CHANGE, || {
        let all = standings(&asked.engine)?;
        let is = all
            .iter()
            .any(|one| one.id == id && one.reachability == reachability);
        ensure!(is, "{all:?}");
        let info = node.engine.get("/info")?;
        let controls = info["Swarm"]["ControlAvailable"]
            .as_bool()
            .unwrap_or_default();
        ensure!(controls != reachability.is_empty(), "{}", info["Swarm"]);
        Ok(())
    })
}

#[test]
fn a_worker_is_promoted_and_demoted() -> Result<()> {
    scenario("promote", |scene| {
        let first = scene.waxseal("first")?;
        first.init(&[])?;
        let node = scene.waxseal("node")?;
        node.join(&first.worker_token()?, &first.remote())?;
        let (own, id) = (node_id(&first.engine)?, node_id(&node.engine)?);
        let last = "rpc error: code = FailedPrecondition desc = attempting to demote the last \
                    manager of the swarm";
        first.docker.refused(&["node", "demote", &own], last)?;
        for round in 0..2 {
            // 1. Up: it answers, and is sealed as the others are.
            let said = first.docker.ok(&["node", "promote", &id])?;
            ensure!(
                said.contains("promoted to a manager in the swarm"),
                "{said}"
            );
            becomes(&first, &node, "reachable")?;
            ensure!(node_id(&node.engine)? == id, "the node id changed");
            let name = format!("made-{round}");
            node.docker
                .ok_with_input(&["secret", "create", &name, "-"], b"x")?;
            first.docker.ok(&["secret", "inspect", &name])?;
            ensure!(has_log(&node)?, "no log");
            for force in [&["node", "rm", &id][..], &["node", "rm", "--force", &id]] {
                let said = first.docker.fails(force)?;
                ensure!(
                    said.contains(
                        "is a cluster manager and is a member of the raft cluster. It must \
                                   be demoted to worker before removal"
                    ),
                    "{said}"
                );
            }
            // 2. Down: a worker without a log.
            let said = first.docker.ok(&["node", "demote", &id])?;
            ensure!(said.contains("demoted in the swarm"), "{said}");
            becomes(&first, &node, "")?;
            eventually("its log is gone", SOON, || {
                ensure!(!has_log(&node)?, "there is a log");
                Ok(())
            })?;
            ensure!(
                node.docker
                    .fails(&["node", "ls"])?
                    .contains("not a swarm manager")
            );
            next_write(&first.engine, &format!("alone{round}"), FAILOVER)?;
        }
        first.docker.refused(&["node", "demote", &own], last)?;
        node.docker.ok(&["swarm", "leave"])?;
        first.docker.ok(&["node", "rm", "--force", &id])?;
        Ok(())
    })
}

fn has_log(node: &Waxseal) -> Result<bool> {
    let dir = node.data_root().join("swarm/raft");
    Ok(dir.exists() && fs::read_dir(dir)?.next().is_some())
}

#[test]
fn the_leader_is_demoted_and_a_dead_manager_removed() -> Result<()> {
    scenario("demote-leader", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        // 1. The leader hands over and goes.
        let leader = group.leader(0)?;
        let id = node_id(&group.nodes[leader].engine)?;
        let asked = (leader + 1) % 3;
        group.nodes[asked].docker.ok(&["node", "demote", &id])?;
        becomes(&group.nodes[asked], &group.nodes[leader], "")?;
        group.nodes[asked].docker.ok(&["node", "promote", &id])?;
        becomes(&group.nodes[asked], &group.nodes[leader], "reachable")?;
        group.settled()?;
        // 2. One dies: another may not go, the dead one may.
        let dead = group.followers()?[0];
        let dead_id = node_id(&group.nodes[dead].engine)?;
        group.nodes[dead].kill()?;
        let alive: Vec<usize> = (0..3).filter(|index| *index != dead).collect();
        let asked = &group.nodes[alive[0]];
        eventually("it is seen to be away", SOON, || {
            let all = standings(&asked.engine)?;
            let away = all
                .iter()
                .any(|one| one.id == dead_id && one.reachability == "unreachable");
            ensure!(away, "{all:?}");
            Ok(())
        })?;
        let other_id = node_id(&group.nodes[alive[1]].engine)?;
        asked.docker.refused(
            &["node", "demote", &other_id],
            "rpc error: code = FailedPrecondition desc = can't remove member from the raft: this \
             would result in a loss of quorum",
        )?;
        asked.docker.ok(&["node", "demote", &dead_id])?;
        eventually("it is no manager any more", SOON, || {
            let all = standings(&asked.engine)?;
            let is = all
                .iter()
                .any(|one| one.id == dead_id && one.reachability.is_empty());
            ensure!(is, "{all:?}");
            asked
                .docker
                .ok(&["node", "rm", "--force", &dead_id])
                .map(drop)
        })?;
        next_write(&asked.engine, "two", FAILOVER)?;
        // 3. What was removed is nobody, and does not disturb.
        group.nodes[dead].up()?;
        sleep(Duration::from_secs(3));
        let asked = &group.nodes[alive[0]];
        let all = standings(&asked.engine)?;
        ensure!(
            all.len() == 2 && all.iter().all(|one| one.reachability == "reachable"),
            "{all:?}"
        );
        next_write(&asked.engine, "still", FAILOVER)?;
        Ok(())
    })
}

#[test]
fn roles_change_in_a_loop_under_load_with_kills() -> Result<()> {
    scenario("role-loop", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        let node = scene.waxseal("node")?;
        node.join(&group.nodes[0].worker_token()?, &group.nodes[1].remote())?;
        let id = node_id(&node.engine)?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, 1, &[])?;
        let rounds = if long_run() { LONG_ROUNDS } else { ROUNDS };
        for round in 0..rounds {
            for verb in ["promote", "demote"] {
                let dies = group.leader(0)?;
                let asked = (dies + 1) % 3;
                // It may find the record newer than it read it: a status, another's write.
                eventually(verb, SOON, || {
                    group.nodes[asked].docker.ok(&["node", verb, &id]).map(drop)
                })?;
                // In the middle of it.
                sleep(Duration::from_millis(50 * (round as u64 % 5)));
                group.nodes[dies].kill()?;
                let place = if verb == "promote" { "reachable" } else { "" };
                becomes(&group.nodes[asked], &node, place)?;
                group.nodes[dies].up()?;
                next_write(&group.nodes[dies].engine, &format!("{verb}{round}"), SOON)?;
            }
        }
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}
