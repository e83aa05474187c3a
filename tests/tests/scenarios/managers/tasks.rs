//! Tasks outlive whatever their managers go through.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{Managers, Waxseal, eventually, next_write, scenario};

use super::SOON;

/// So long nothing is killed without cause: past the time that nodes are given to find a leader.
const WATCH: Duration = Duration::from_secs(6);

/// Ids of the running tasks of a service.
fn running(manager: &Waxseal, service: &str) -> Result<BTreeSet<String>> {
    let list = [
        "service",
        "ps",
        "-q",
        "--no-trunc",
        "--filter",
        "desired-state=running",
        service,
    ];
    Ok(manager
        .docker
        .ok(&list)?
        .lines()
        .map(str::to_owned)
        .collect())
}

#[test]
fn tasks_run_on_through_deaths_locks_and_new_leaders() -> Result<()> {
    scenario("tasks", |scene| {
        let mut group = Managers::start(scene, 3, &["--autolock", "--availability", "drain"])?;
        let key = group.nodes[0].unlock_key()?;
        for node in &group.nodes[1..] {
            let id = waxseal_tests::node_id(&node.engine)?;
            node.docker
                .ok(&["node", "update", "--availability", "drain", &id])?;
        }
        // 1. A Docker Engine and a worker of ours, joined through different managers.
        let token = group.nodes[0].worker_token()?;
        let engine = scene.dockerd("engine")?;
        engine.join(&token, &group.nodes[1].remote())?;
        let worker = scene.waxseal("worker")?;
        worker.join(&token, &group.nodes[2].remote())?;
        let docker = group.nodes[0].docker.clone();
        docker.ok_with_input(&["secret", "create", "db_pass", "-"], b"shared\n")?;
        let script = "cat /run/secrets/db_pass; trap 'exit 0' TERM; sleep 1000 & wait";
        for (name, image) in [("web", "bb:1"), ("native", "host")] {
            docker.ok(&[
                "service",
                "create",
                "-d",
                "--no-resolve-image",
                "--name",
                name,
                "--network",
                "host",
                "--secret",
                "db_pass",
                "--replicas",
                "2",
                image,
                "sh",
                "-c",
                script,
            ])?;
        }
        let both = eventually("all run", Duration::from_secs(60), || {
            let list = docker.ok(&["service", "ls", "--format", "{{.Replicas}}"])?;
            ensure!(list == "2/2\n2/2", "{list}");
            Ok((
                running(&group.nodes[0], "web")?,
                running(&group.nodes[0], "native")?,
            ))
        })?;
        let containers = engine.containers()?;
        // 2. The leader dies, is locked, another one leads; then all die.
        let leader = group.leader(0)?;
        group.nodes[leader].kill()?;
        let asked = (leader + 1) % 3;
        next_write(&group.nodes[asked].engine, "next", SOON)?;
        sleep(WATCH);
        group.nodes[leader].up()?;
        group.nodes[leader].unlock(&key)?;
        group.settled()?;
        for node in &mut group.nodes {
            node.kill()?;
        }
        for node in &mut group.nodes {
            node.up()?;
            node.unlock(&key)?;
        }
        group.settled()?;
        sleep(WATCH);
        // 3. Nothing was started anew, and what comes later still reaches both.
        for node in &group.nodes {
            let now = (running(node, "web")?, running(node, "native")?);
            ensure!(now == both, "{now:?}, {both:?}");
        }
        ensure!(engine.containers()? == containers, "containers changed");
        eventually("both scale", Duration::from_secs(60), || {
            docker.ok(&["service", "scale", "-d", "web=3", "native=3"])?;
            let list = docker.ok(&["service", "ls", "--format", "{{.Replicas}}"])?;
            ensure!(list == "3/3\n3/3", "{list}");
            Ok(())
        })?;
        for name in ["web", "native"] {
            let logs = docker.ok(&["service", "logs", "--raw", name])?;
            ensure!(
                logs.lines().filter(|line| *line == "shared").count() == 3,
                "{logs}"
            );
            docker.ok(&["service", "rm", name])?;
        }
        eventually("no task is left", SOON, || {
            let left = waxseal_tests::processes_below(&worker.exec_root().join("tasks"))?;
            ensure!(left.is_empty(), "{left:?}");
            ensure!(engine.containers()?.is_empty(), "containers");
            Ok(())
        })?;
        worker.docker.ok(&["swarm", "leave"])?;
        Ok(())
    })
}
