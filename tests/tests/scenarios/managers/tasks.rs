//! Tasks outlive whatever their managers go through.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{Managers, Waxseal, eventually, next_write, scenario};

use super::SOON;

/// So long nothing is killed without cause: past the time that nodes are given to find a leader.
const WATCH: Duration = Duration::from_secs(6);
/// Until services are as they should be, on a busy machine.
const CONVERGE: Duration = Duration::from_secs(60);

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

/// Ids of the running tasks of a service from before an update, and of those that it made.
fn by_mark(manager: &Waxseal, service: &str) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut old, mut new) = (BTreeSet::new(), BTreeSet::new());
    for id in running(manager, service)? {
        let task = manager.engine.get(&format!("/tasks/{id}"))?;
        if task["Status"]["State"] != "running" {
            continue;
        }
        let env = task["Spec"]["ContainerSpec"]["Env"].as_array();
        let is_new = env.is_some_and(|env| env.iter().any(|entry| entry == "MARK=1"));
        if is_new { &mut new } else { &mut old }.insert(id);
    }
    Ok((old, new))
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
                // Time enough to find it halfway and kill somebody.
                "--update-delay",
                "5s",
                "--update-monitor",
                "100ms",
                image,
                "sh",
                "-c",
                script,
            ])?;
        }
        eventually("all run", CONVERGE, || {
            let list = docker.ok(&["service", "ls", "--format", "{{.Replicas}}"])?;
            ensure!(list == "2/2\n2/2", "{list}");
            Ok(())
        })?;
        // 2. The leader dies halfway through updates, is locked, another one leads on.
        for name in ["web", "native"] {
            docker.ok(&["service", "update", "-d", "--env-add", "MARK=1", name])?;
        }
        eventually("both updates are halfway", CONVERGE, || {
            for name in ["web", "native"] {
                let (old, new) = by_mark(&group.nodes[0], name)?;
                ensure!(old.len() == 1 && new.len() == 1, "{old:?}, {new:?}");
            }
            Ok(())
        })?;
        let leader = group.leader(0)?;
        group.nodes[leader].kill()?;
        let asked = (leader + 1) % 3;
        next_write(&group.nodes[asked].engine, "next", SOON)?;
        let updated = |name: &str| -> Result<BTreeSet<String>> {
            let node = &group.nodes[asked];
            let service = node.engine.get(&format!("/services/{name}"))?;
            let status = &service["UpdateStatus"];
            ensure!(status["State"] == "completed", "{status}");
            let (old, new) = by_mark(node, name)?;
            ensure!(old.is_empty() && new.len() == 2, "{old:?}, {new:?}");
            // What was replaced before is not replaced again.
            let all = node.docker.ok(&["service", "ps", "-q", name])?;
            ensure!(all.lines().count() == 4, "{all}");
            Ok(new)
        };
        let (both, containers) = eventually("the next one ends them", CONVERGE, || {
            let containers = engine.containers()?;
            ensure!(containers.len() == 2, "{containers:?}");
            Ok(((updated("web")?, updated("native")?), containers))
        })?;
        // 3. It is back; then all die.
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
        // 4. Nothing was started anew, and what comes later still reaches both.
        for node in &group.nodes {
            let now = (running(node, "web")?, running(node, "native")?);
            ensure!(now == both, "{now:?}, {both:?}");
        }
        ensure!(engine.containers()? == containers, "containers changed");
        eventually("both scale", CONVERGE, || {
            docker.ok(&["service", "scale", "-d", "web=3", "native=3"])?;
            let list = docker.ok(&["service", "ls", "--format", "{{.Replicas}}"])?;
            ensure!(list == "3/3\n3/3", "{list}");
            Ok(())
        })?;
        for name in ["web", "native"] {
            let logs = docker.ok(&["service", "logs", "--raw", name])?;
            // Two that were replaced, and three.
            ensure!(
                logs.lines().filter(|line| *line == "shared").count() == 5,
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
