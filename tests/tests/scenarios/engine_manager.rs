//! A daemon of ours as a worker of a stock Docker Engine.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxseal_tests::{
    DaemonOptions, Dockerd, NetworkNamespace, Waxseal, clock_environment, eventually, holds_for,
    scenario,
};

use super::join::refused;

/// Until tasks have moved.
const SOON: Duration = Duration::from_secs(40);
/// Secrets of this size, so many that the first assignment set passes 5 MiB.
const LARGE_BYTES: usize = 480_000;
const LARGE_COUNT: usize = 11;

#[test]
fn our_agent_serves_a_stock_manager() -> Result<()> {
    scenario("stock-manager", |scene| {
        // A stock manager makes bridges and tunnels: it gets a network of its own.
        let namespace = NetworkNamespace::new(scene)?;
        let manager = Dockerd::start(scene, "manager", Some(&namespace))?;
        let options = DaemonOptions {
            wrapper: namespace.enter(),
            arguments: ["gpu=g1", "gpu=g2"]
                .map(|one| format!("--node-generic-resource={one}"))
                .to_vec(),
            ..DaemonOptions::default()
        };
        let mut worker = Waxseal::start(scene, "worker", &options)?;
        let remote = format!("{}:2377", manager.address);
        manager.docker.ok(&[
            "swarm",
            "init",
            "--listen-addr",
            &remote,
            "--advertise-addr",
            &remote,
            "--availability",
            "drain",
        ])?;
        let token = manager
            .docker
            .ok(&["swarm", "join-token", "-q", "worker"])?;
        // It does not tell its time. Its certificates do, as far as they can: the root begins five
        // minutes before it was made.
        for (name, offset, words) in [
            ("behind", "-3h", "at least 2 h 5"),
            ("beyond", "+2400h", "clock is ahead by that much"),
        ] {
            let options = DaemonOptions {
                wrapper: namespace.enter(),
                environment: clock_environment(offset)?,
                ..DaemonOptions::default()
            };
            let node = Waxseal::start(scene, name, &options)?;
            let said = refused(&node, &token, &remote)?;
            ensure!(
                said.contains("clock") && said.contains(words),
                "{offset}: {said}"
            );
        }
        let said = worker.join(&token, &remote)?;
        ensure!(
            said.contains("This node joined a swarm as a worker."),
            "{said}"
        );
        let id = joined(&manager, &worker, &remote)?;
        small_task(&manager, &worker)?;
        large_set(&manager, &mut worker)?;
        worker.docker.ok(&["swarm", "leave"])?;
        worker.reaches("inactive")?;
        eventually("the manager sees it leave", SOON, || {
            status_is(&manager, &id, "Down")
        })?;
        Ok(())
    })
}

fn status_is(manager: &Dockerd, id: &str, status: &str) -> Result<()> {
    let rows = manager
        .docker
        .ok(&["node", "ls", "--format", "{{.ID}} {{.Status}}"])?;
    ensure!(
        rows.lines().any(|row| row == format!("{id} {status}")),
        "{rows}"
    );
    Ok(())
}

fn joined(manager: &Dockerd, worker: &Waxseal, remote: &str) -> Result<String> {
    let info = &worker.engine.get("/info")?["Swarm"];
    ensure!(
        info["LocalNodeState"] == "active" && info["ControlAvailable"] == false,
        "{info}"
    );
    ensure!(
        info["RemoteManagers"].to_string().contains(remote),
        "{info}"
    );
    let id = info["NodeID"].as_str().unwrap_or_default().to_owned();
    eventually("the worker is ready", SOON, || {
        status_is(manager, &id, "Ready")
    })?;
    let output = waxseal_tests::run(
        std::process::Command::new("openssl")
            .args(["x509", "-noout", "-subject", "-nameopt", "RFC2253", "-in"])
            .arg(worker.data_root().join("swarm/certificates/swarm-node.crt")),
        SOON,
    )?;
    let cluster = &manager.engine.get("/swarm")?["ID"];
    let cluster = cluster.as_str().unwrap_or_default();
    let subject = format!("subject=CN={id},OU=swarm-worker,O={cluster}");
    ensure!(output.out() == subject, "{} is not {subject}", output.out());
    Ok(id)
}

fn small_task(manager: &Dockerd, worker: &Waxseal) -> Result<()> {
    let docker = &manager.docker;
    docker.ok_with_input(&["secret", "create", "db_pass", "-"], b"from stock\n")?;
    docker.ok(&[
        "service",
        "create",
        "--no-resolve-image",
        "--name",
        "web",
        "--network",
        "host",
        "--secret",
        "db_pass",
        "--update-monitor",
        "1s",
        "--stop-signal",
        "KILL",
        "--generic-resource",
        "gpu=1",
        "host",
        "sh",
        "-c",
        "cat /run/secrets/db_pass; echo $DOCKER_RESOURCE_GPU; exec sleep 1000",
    ])?;
    eventually("the log has the secret", SOON, || {
        let text = docker.ok(&["service", "logs", "--raw", "web"])?;
        ensure!(text == "from stock\ng1", "{text}");
        Ok(())
    })?;
    // Any other image is refused with its reason.
    docker.ok(&[
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--name",
        "image",
        "--network",
        "host",
        "--restart-condition",
        "none",
        "bb:1",
        "true",
    ])?;
    eventually("the image is rejected", SOON, || {
        let format = "{{.CurrentState}}|{{.Error}}";
        let row = docker.ok(&["service", "ps", "image", "--no-trunc", "--format", format])?;
        ensure!(
            row.starts_with("Rejected ") && row.contains("host"),
            "{row}"
        );
        Ok(())
    })?;
    docker.ok(&["service", "rm", "image"])?;
    docker.ok(&["service", "rm", "web"])?;
    nothing_runs(worker)
}

fn nothing_runs(worker: &Waxseal) -> Result<()> {
    eventually("the worker has no task", SOON, || {
        let left = std::fs::read_dir(worker.exec_root().join("tasks"))?.count();
        ensure!(left == 0, "{left} tasks");
        Ok(())
    })
}

/// 5 MiB of secrets arrive with a task, and again as the first assignment set of a session.
fn large_set(manager: &Dockerd, worker: &mut Waxseal) -> Result<()> {
    let docker = &manager.docker;
    let mut words: Vec<String> = [
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--name",
        "large",
        "--network",
        "host",
        "--stop-signal",
        "KILL",
    ]
    .map(str::to_owned)
    .to_vec();
    for number in 0..LARGE_COUNT {
        let name = format!("large{number}");
        let letter = b'a' + u8::try_from(number)?;
        docker.ok_with_input(
            &["secret", "create", &name, "-"],
            &vec![letter; LARGE_BYTES],
        )?;
        words.extend(["--secret".to_owned(), name]);
    }
    let script = "cat /run/secrets/large* | wc -c; echo end; exec sleep 1000";
    words.extend(["host", "sh", "-c", script].map(str::to_owned));
    docker.ok(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let read = format!("{}\nend", LARGE_BYTES * LARGE_COUNT);
    eventually("the task has read all of it", SOON, || {
        let text = docker.ok(&["service", "logs", "--raw", "large"])?;
        ensure!(text == read, "{text:?}");
        Ok(())
    })?;
    let running = || {
        let format = "{{.ID}} {{.DesiredState}}";
        docker.ok(&["service", "ps", "large", "--no-trunc", "--format", format])
    };
    let before = running()?;
    ensure!(
        before.lines().count() == 1 && before.ends_with(" Running"),
        "{before}"
    );
    worker.restart()?;
    worker.reaches("active")?;
    let id = worker.engine.get("/info")?["Swarm"]["NodeID"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    eventually("the worker is back", SOON, || {
        status_is(manager, &id, "Ready")
    })?;
    // The task is the one from before: the set was taken, and it was adopted.
    holds_for("the task goes on", Duration::from_secs(8), || {
        let now = running()?;
        ensure!(now == before, "{now}");
        status_is(manager, &id, "Ready")
    })?;
    let text = docker.ok(&["service", "logs", "--raw", "large"])?;
    ensure!(text == read, "{text:?}");
    docker.ok(&["service", "rm", "large"])?;
    nothing_runs(worker)
}
