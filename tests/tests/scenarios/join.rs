//! Our own nodes join: what is refused, what workers say, wrong clocks.

use std::{collections::BTreeMap, io::Write, net::TcpListener, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use waxseal_tests::{DaemonOptions, Scene, Waxseal, clock_environment, eventually, scenario};

use super::texts;

const SOON: Duration = Duration::from_secs(30);

/// `docker swarm join` that must fail, and leave the node inactive.
pub(crate) fn refused(node: &Waxseal, token: &str, remote: &str) -> Result<String> {
    let own = node.remote();
    let said = node.docker.fails(&[
        "swarm",
        "join",
        "--listen-addr",
        &own,
        "--advertise-addr",
        &own,
        "--token",
        token,
        remote,
    ])?;
    node.reaches("inactive")?;
    Ok(said)
}

#[test]
fn joins_are_refused_with_their_reason() -> Result<()> {
    scenario("join", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let node = scene.waxseal("node")?;
        let token = manager.worker_token()?;
        let parts: Vec<&str> = token.split('-').collect();
        let (digest, secret) = (parts[2], parts[3]);
        let zeros = "0".repeat(25);
        let wrong_secret = format!("SWMTKN-1-{digest}-{zeros}");
        let wrong_digest = format!("SWMTKN-1-{}-{secret}", "0".repeat(50));
        let remote = manager.remote();
        // Three different errors for three different faults.
        ensure!(refused(&node, &wrong_secret, &remote)?.contains(texts::WRONG_TOKEN));
        ensure!(refused(&node, &wrong_digest, &remote)?.contains(texts::WRONG_DIGEST));
        for shape in [
            "",
            "SWMTKN",
            &token[..token.len() - 1],
            &format!("{token}0"),
            &token.to_uppercase(),
        ] {
            let said = refused(&node, shape, &remote)?;
            ensure!(said.contains("invalid join token"), "{shape:?}: {said}");
        }
        // Nobody listens.
        let said = refused(&node, &token, &format!("{}:1", manager.address))?;
        ensure!(said.contains("connection refused"), "{said}");
        // Somebody listens who says nothing, and somebody who is no manager.
        let stranger = TcpListener::bind((manager.address, 0))?;
        let said = refused(&node, &token, &stranger.local_addr()?.to_string())?;
        ensure!(said.contains("i/o timeout"), "{said}");
        let address = stranger.local_addr()?.to_string();
        thread::spawn(move || {
            for mut stream in stranger.incoming().flatten() {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            }
        });
        let said = refused(&node, &token, &address)?;
        ensure!(
            said.contains("the TLS handshake failed") && said.contains("check that a manager"),
            "{said}"
        );
        ensure!(
            manager.docker.ok(&["node", "ls", "-q"])?.lines().count() == 1,
            "a record was made"
        );
        let words = ["swarm", "join", "--data-path-addr", "lo", "--token"];
        let said = node
            .docker
            .fails(&[&words[..], &[&token, &remote]].concat())?;
        ensure!(
            said.contains("set by --data-path-addr (DataPathAddr)"),
            "{said}"
        );
        // The good one, with our own CLI's words too.
        node.join(&token, &remote)?;
        ensure!(node.cli.run(&["status"])?.code == 0);
        node.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn a_join_that_failed_behind_the_callers_back_says_why() -> Result<()> {
    scenario("join-background", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let token = manager.worker_token()?;
        let node = scene.waxseal("node")?;
        // Nobody listens there; the caller gives up before the node does.
        let body = serde_json::json!({
            "ListenAddr": "0.0.0.0:2377",
            "RemoteAddrs": [format!("{}:1", manager.address)],
            "JoinToken": token,
        });
        node.engine.leave_early("/swarm/join", &body)?;
        node.reaches("pending")?;
        node.reaches("error")?;
        let info = node.docker.ok(&["info"])?;
        ensure!(info.contains("Swarm: error"), "{info}");
        let cause = info.lines().find(|line| line.trim().starts_with("Error: "));
        ensure!(
            cause.is_some_and(|line| line.contains("connection refused")),
            "{info}"
        );
        let said = node.cli.run(&["status"])?;
        ensure!(said.out().contains("connection refused"), "{}", said.out());
        node.docker.refused(
            &["swarm", "join", "--token", &token, &manager.remote()],
            texts::ALREADY,
        )?;
        // Nothing of it stays.
        node.docker.ok(&["swarm", "leave"])?;
        node.join(&token, &manager.remote())?;
        node.docker.ok(&["swarm", "leave"])?;
        Ok(())
    })
}

#[test]
fn workers_share_the_tasks_and_say_that_they_are_workers() -> Result<()> {
    scenario("workers", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&["--availability", "drain"])?;
        let mut workers = Vec::new();
        for name in ["one", "two"] {
            let node = scene.waxseal(name)?;
            let said = node.join(&manager.worker_token()?, &manager.remote())?;
            ensure!(
                said.contains("This node joined a swarm as a worker."),
                "{said}"
            );
            workers.push(node);
        }
        as_worker(&manager, &workers[0])?;
        manager
            .docker
            .ok_with_input(&["secret", "create", "db_pass", "-"], b"shared\n")?;
        manager.docker.ok(&[
            "service",
            "create",
            "--name",
            "web",
            "--network",
            "host",
            "--secret",
            "db_pass",
            "--replicas",
            "4",
            "--update-monitor",
            "1s",
            "--stop-signal",
            "KILL",
            "host",
            "sh",
            "-c",
            "cat /run/secrets/db_pass; exec sleep 1000",
        ])?;
        ensure!(
            spread(&manager)?.into_values().collect::<Vec<_>>() == [2, 2],
            "{:?}",
            spread(&manager)?
        );
        eventually("all logs are there", SOON, || {
            let text = manager.docker.ok(&["service", "logs", "--raw", "web"])?;
            ensure!(text == ["shared"; 4].join("\n"), "{text}");
            Ok(())
        })?;
        a_worker_goes(&manager, &mut workers)?;
        manager.docker.ok(&["service", "rm", "web"])?;
        eventually("no task is left", SOON, || {
            let left = waxseal_tests::processes_below(&workers[0].exec_root().join("tasks"))?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        workers[0].docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn as_worker(manager: &Waxseal, node: &Waxseal) -> Result<()> {
    for words in [
        &["node", "ls"][..],
        &["secret", "ls"],
        &["service", "ls"],
        &["swarm", "join-token", "worker"],
        &["swarm", "update", "--autolock"],
    ] {
        let said = node.docker.fails(words)?;
        ensure!(said.contains(texts::WORKER), "{words:?}: {said}");
    }
    node.docker.refused(
        &["swarm", "init", "--advertise-addr", "127.0.0.1"],
        texts::ALREADY,
    )?;
    let said = node.docker.fails(&["swarm", "unlock"])?;
    ensure!(said.contains("swarm is not locked"), "{said}");
    let info = node.docker.ok(&["info"])?;
    for line in [
        "Swarm: active",
        "Is Manager: false",
        &format!("Node Address: {}", node.address),
    ] {
        ensure!(
            info.lines().any(|found| found.trim() == line),
            "no {line:?} in {info}"
        );
    }
    ensure!(info.contains(&manager.remote()), "{info}");
    Ok(())
}

/// Running tasks by node.
fn spread(manager: &Waxseal) -> Result<BTreeMap<String, usize>> {
    let mut nodes = BTreeMap::new();
    let tasks = manager
        .engine
        .get("/tasks?filters=%7B%22desired-state%22:%5B%22running%22%5D%7D")?;
    for task in tasks.as_array().context("no list")? {
        if task["Status"]["State"] == "running" {
            *nodes.entry(task["NodeID"].to_string()).or_insert(0) += 1;
        }
    }
    Ok(nodes)
}

/// A worker is cut off: its tasks are made anew elsewhere; it comes back and drops the old ones.
fn a_worker_goes(manager: &Waxseal, workers: &mut Vec<Waxseal>) -> Result<()> {
    let mut gone = workers.pop().context("no worker")?;
    gone.kill()?;
    eventually(
        "the other worker has all tasks",
        Duration::from_secs(60),
        || {
            let nodes = spread(manager)?;
            let states = manager
                .docker
                .ok(&["node", "ls", "--format", "{{.Status}}"])?;
            ensure!(states.contains("Down"), "{states}");
            ensure!(nodes.values().any(|count| *count == 4), "{nodes:?}");
            Ok(())
        },
    )?;
    gone.up()?;
    gone.reaches("active")?;
    eventually("the old tasks are gone there", SOON, || {
        let left = waxseal_tests::processes_below(&gone.exec_root().join("tasks"))?;
        ensure!(left.is_empty(), "{left:?}");
        let states = manager
            .docker
            .ok(&["node", "ls", "--format", "{{.Status}}"])?;
        ensure!(!states.contains("Down"), "{states}");
        Ok(())
    })?;
    gone.docker.ok(&["swarm", "leave"])?;
    Ok(())
}

#[test]
fn a_wrong_clock_is_named_with_its_direction() -> Result<()> {
    scenario("clock", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let token = manager.worker_token()?;
        // Which way and how much: before the certificates begin, more than an hour ahead, and
        // past their end.
        for (name, offset, words) in [
            ("behind", "-3h", ["3 h 0 min behind", "2 h 59 min behind"]),
            ("ahead", "+3h", ["3 h 0 min ahead", "2 h 59 min ahead"]),
            ("beyond", "+2400h", ["100 d 0 h ahead", "99 d 23 h ahead"]),
        ] {
            let node = with_clock(scene, name, offset)?;
            let said = refused(&node, &token, &manager.remote())?;
            ensure!(
                said.contains("clock") && words.iter().any(|words| said.contains(words)),
                "{offset}: {said}"
            );
        }
        // Half an hour either way is no fault, and shown.
        for (name, offset, shown) in [
            ("slow", "-30m", ["-30 min", "-29 min"]),
            ("fast", "+30m", ["+30 min", "+29 min"]),
        ] {
            let node = with_clock(scene, name, offset)?;
            node.join(&token, &manager.remote())?;
            let rows = manager.cli.ok(&["node", "ls"])?;
            ensure!(shown.iter().any(|shown| rows.contains(shown)), "{rows}");
            node.docker.ok(&["swarm", "leave"])?;
        }
        // Where it comes close to one, whoever plans a rotation is told.
        let node = with_clock(scene, "late", "-55m")?;
        node.join(&token, &manager.remote())?;
        let plan = manager.cli.ok(&["ca", "rotate", "--plan"])?;
        let off = ["its clock is 3300 s behind", "its clock is 3299 s behind"];
        ensure!(off.iter().any(|off| plan.contains(off)), "{plan}");
        node.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// A daemon whose wall clock is off; its monotonic clock is not.
fn with_clock(scene: &Scene, name: &str, offset: &str) -> Result<Waxseal> {
    let options = DaemonOptions {
        environment: clock_environment(offset)?,
        ..DaemonOptions::default()
    };
    Waxseal::start(scene, name, &options)
}
