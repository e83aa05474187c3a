//! Managers of two feature levels.

use anyhow::{Result, ensure};
use waxseal_cluster::{FEATURE_LEVEL, feature_level_plugin};
use waxseal_tests::{
    DaemonOptions, Managers, Waxseal, Workload, eventually, fault::LEVEL_VARIABLE, manager_token,
    next_write, node_id, scenario,
};

use super::{FAILOVER, SOON};

/// A binary from the future.
const NEXT: u32 = FEATURE_LEVEL + 1;

fn with_level(level: u32) -> DaemonOptions {
    DaemonOptions {
        faults: true,
        quiet: true,
        environment: vec![(LEVEL_VARIABLE, level.to_string())],
        ..DaemonOptions::default()
    }
}

fn replaced(node: &mut Waxseal, level: u32) -> Result<()> {
    node.set_variable(LEVEL_VARIABLE, level.to_string());
    node.restart()
}

/// Waits until a node is known to have a level.
fn describes(asked: &Waxseal, node: &Waxseal, level: u32) -> Result<()> {
    let path = format!("/nodes/{}", node_id(&node.engine)?);
    eventually("its level is known", SOON, || {
        let shown = asked.engine.get(&path)?["Description"]["Engine"]["Plugins"].to_string();
        ensure!(shown.contains(&feature_level_plugin(level)), "{shown}");
        Ok(())
    })
}

#[test]
fn managers_of_two_levels_serve_until_all_have_the_newer() -> Result<()> {
    scenario("levels", |scene| {
        let levels = [FEATURE_LEVEL, NEXT, FEATURE_LEVEL];
        let options = levels.map(with_level).to_vec();
        let mut group = Managers::with(scene, options, &[])?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, 1, &[])?;
        // 1. They serve together, whoever leads, and nothing is newer than the older reads.
        for index in [1, 0] {
            describes(&group.nodes[0], &group.nodes[index], levels[index])?;
            group.nodes[index].restart()?;
            group.settled()?;
            next_write(&all[index], &format!("mixed{index}"), FAILOVER)?;
        }
        replaced(&mut group.nodes[1], FEATURE_LEVEL)?;
        group.settled()?;
        next_write(&all[1], "back", FAILOVER)?;
        // 2. One after the other gets the newer one; the level rises with the last.
        let cluster =
            || -> Result<String> { Ok(all[0].get("/swarm")?["Version"]["Index"].to_string()) };
        let before = cluster()?;
        for (index, engine) in all.iter().enumerate() {
            ensure!(cluster()? == before, "it rose before the last");
            replaced(&mut group.nodes[index], NEXT)?;
            group.settled()?;
            let asked = &group.nodes[(index + 1) % 3];
            describes(asked, &group.nodes[index], NEXT)?;
            next_write(engine, &format!("newer{index}"), FAILOVER)?;
        }
        eventually("the level rises", SOON, || {
            ensure!(cluster()? != before, "the cluster is as it was");
            Ok(())
        })?;
        // 3. From then on the older one stops and says why, and does no harm.
        let old = group.followers()?[0];
        replaced(&mut group.nodes[old], FEATURE_LEVEL)?;
        group.nodes[old].reaches("error")?;
        let error = group.nodes[old].engine.get("/info")?["Swarm"]["Error"].to_string();
        let words = format!(
            "the cluster has feature level {NEXT} and this binary reads up to {FEATURE_LEVEL}"
        );
        ensure!(error.contains(&words), "{error}");
        ensure!(error.contains("start the version"), "{error}");
        let asked = &group.nodes[(old + 1) % 3];
        next_write(&asked.engine, "without", FAILOVER)?;
        let late = Waxseal::start(scene, "late", &with_level(FEATURE_LEVEL))?;
        let own = late.remote();
        let token = manager_token(asked)?;
        let said = late.docker.fails(&[
            "swarm",
            "join",
            "--listen-addr",
            &own,
            "--advertise-addr",
            &own,
            "--token",
            &token,
            &asked.remote(),
        ])?;
        let needed = format!("feature level {FEATURE_LEVEL}, the swarm needs {NEXT}");
        ensure!(said.contains(&needed), "{said}");
        // 4. Its disk is as it was.
        replaced(&mut group.nodes[old], NEXT)?;
        eventually("it follows again", SOON, || all[old].get("/secrets"))?;
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}
