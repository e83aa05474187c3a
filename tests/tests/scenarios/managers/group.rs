//! Managers join, die and come back.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use waxseal_tests::{
    Engine, Managers, Workload, eventually, long_run, manager_token, next_write, node_id, scenario,
    standings,
};

use super::{FAILOVER, SOON};

/// Deaths of a manager under load.
const KILLS: usize = 4;
const LONG_KILLS: usize = 60;
/// How often three of seven die.
const TRIPLES: usize = 1;
const LONG_TRIPLES: usize = 12;
/// Entries that a manager missed, and the time to get them.
const ENTRIES: u64 = 400;
const LONG_ENTRIES: u64 = 100_000;
const CATCH_UP: Duration = Duration::from_secs(60);
/// Clients at each manager.
const CLIENTS: usize = 2;
/// Load before a manager dies, and until it is started again.
const LOAD: Duration = Duration::from_millis(700);

#[test]
fn three_managers_as_the_stock_cli_shows_them() -> Result<()> {
    scenario("group", |scene| {
        let group = Managers::start(scene, 3, &[])?;
        for node in &group.nodes {
            // 1. The table, and one node.
            let rows =
                node.docker
                    .ok(&["node", "ls", "--format", "{{.Status}} {{.ManagerStatus}}"])?;
            let mut rows: Vec<&str> = rows.lines().collect();
            rows.sort_unstable();
            ensure!(
                rows == ["Ready Leader", "Ready Reachable", "Ready Reachable"],
                "{rows:?}"
            );
            let own = node
                .engine
                .get(&format!("/nodes/{}", node_id(&node.engine)?))?;
            let status = &own["ManagerStatus"];
            ensure!(
                status["Addr"] == node.remote() && status["Reachability"] == "reachable",
                "{status}"
            );
            ensure!(
                !matches!(status.get("Leader"), Some(Value::Bool(false))),
                "Leader is there only when it is true: {status}"
            );
            ensure!(own["Spec"]["Role"] == "manager", "{own}");
            // 2. What the daemon says of itself.
            eventually("info names all managers", SOON, || {
                let info = node.docker.ok(&["info"])?;
                for line in ["Is Manager: true", "Managers: 3", "Nodes: 3"] {
                    ensure!(
                        info.lines().any(|found| found.trim() == line),
                        "no {line:?}: {info}"
                    );
                }
                for other in &group.nodes {
                    ensure!(
                        info.contains(&other.remote()),
                        "no {}: {info}",
                        other.remote()
                    );
                }
                Ok(())
            })?;
            let other = node.docker.ok(&["node", "inspect", "self", "--pretty"])?;
            ensure!(other.contains("Raft Status:\t\tReachable"), "{other}");
        }
        // 3. All answer all: what one acknowledged, each of the others has at once.
        for (index, node) in group.nodes.iter().enumerate() {
            let name = format!("made-{index}");
            node.docker
                .ok_with_input(&["secret", "create", &name, "-"], b"x")?;
            for other in &group.nodes {
                other.docker.ok(&["secret", "inspect", &name])?;
            }
        }
        for words in [
            &["swarm", "join-token", "-q", "manager"][..],
            &["swarm", "join-token", "-q", "worker"],
            &["swarm", "ca"],
        ] {
            let said = group.nodes[0].docker.ok(words)?;
            for node in &group.nodes[1..] {
                ensure!(node.docker.ok(words)? == said, "{words:?} differ");
            }
        }
        // 4. A worker joins through a follower.
        let follower = group.followers()?[0];
        let worker = scene.waxseal("worker")?;
        worker.join(
            &group.nodes[0].worker_token()?,
            &group.nodes[follower].remote(),
        )?;
        let rows = group.nodes[0].docker.ok(&["node", "ls", "-q"])?;
        ensure!(rows.lines().count() == 4, "{rows}");
        worker.docker.ok(&["swarm", "leave"])?;
        Ok(())
    })
}

#[test]
fn an_address_that_nobody_reaches_is_refused_before_it_counts() -> Result<()> {
    scenario("unreachable", |scene| {
        let first = scene.waxseal("first")?;
        first.init(&[])?;
        let node = scene.waxseal("node")?;
        let token = manager_token(&first)?;
        // Nobody listens there.
        let nowhere = format!("{}:1", node.address);
        let said = node.docker.fails(&[
            "swarm",
            "join",
            "--listen-addr",
            &node.remote(),
            "--advertise-addr",
            &nowhere,
            "--token",
            &token,
            &first.remote(),
        ])?;
        ensure!(
            said.contains(&nowhere) && said.contains("--advertise-addr"),
            "{said}"
        );
        node.reaches("inactive")?;
        next_write(&first.engine, "after", FAILOVER)?;
        let managers = first
            .docker
            .ok(&["info", "--format", "{{.Swarm.Managers}}"])?;
        ensure!(managers == "1", "{managers}");
        // The same node, reached.
        node.join(&token, &first.remote())?;
        let group = Managers {
            nodes: vec![first, node],
        };
        group.settled()?;
        let info = group.nodes[0].docker.run(&["info"])?;
        ensure!(
            info.err().contains("two-manager configuration"),
            "{}",
            info.err()
        );
        Ok(())
    })
}

#[test]
fn a_minority_dies_under_load_and_comes_back() -> Result<()> {
    scenario("kills", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, CLIENTS, &[])?;
        let kills = if long_run() { LONG_KILLS } else { KILLS };
        let mut times = Vec::new();
        for round in 0..kills {
            sleep(LOAD);
            // The leader and a follower in turn.
            let leader = group.leader(round % 3)?;
            let dies = match round % 2 {
                0 => leader,
                _ => (leader + 1) % 3,
            };
            group.nodes[dies].kill()?;
            let asked = (dies + 1) % 3;
            let time = next_write(&group.nodes[asked].engine, &format!("k{round}"), FAILOVER)?;
            times.push((dies == leader, time));
            sleep(LOAD);
            group.nodes[dies].up()?;
            group
                .settled()
                .with_context(|| format!("after kill {round}"))?;
        }
        let count = load.finish(&all, scene.dir())?;
        println!("{count} acknowledged; next write after a kill (of the leader?): {times:?}");
        Ok(())
    })
}

#[test]
fn all_die_at_once_and_come_back() -> Result<()> {
    scenario("all-die", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, CLIENTS, &[])?;
        sleep(LOAD);
        for node in &mut group.nodes {
            node.kill()?;
        }
        for node in &mut group.nodes {
            node.up()?;
        }
        group.settled()?;
        sleep(LOAD);
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}

#[test]
fn without_a_quorum_nothing_is_answered_as_if_there_were() -> Result<()> {
    scenario("no-quorum", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        let leader = group.leader(0)?;
        for index in (0..3).filter(|index| *index != leader) {
            group.nodes[index].kill()?;
        }
        let left = &group.nodes[leader];
        let no_leader = "The swarm does not have a leader. It's possible that too few managers are \
                         online. Make sure more than half of the managers are online.";
        for words in [
            &["node", "ls"][..],
            &["secret", "ls"],
            &["service", "ls"],
            &["swarm", "join-token", "worker"],
        ] {
            eventually(format!("{words:?} is refused"), SOON, || {
                let said = left.docker.fails(words)?;
                ensure!(said.contains(no_leader), "{said}");
                Ok(())
            })?;
        }
        let info = left.engine.get("/info")?;
        ensure!(
            info["Swarm"]["LocalNodeState"] == "active",
            "{}",
            info["Swarm"]
        );
        ensure!(
            info["Swarm"]["Error"]
                .as_str()
                .unwrap_or_default()
                .contains(no_leader),
            "{}",
            info["Swarm"]["Error"]
        );
        // One of the two is enough.
        let back = (leader + 1) % 3;
        group.nodes[back].up()?;
        next_write(&group.nodes[leader].engine, "again", SOON)?;
        Ok(())
    })
}

#[test]
fn five_managers_lose_two() -> Result<()> {
    scenario("five", |scene| {
        let mut group = Managers::start(scene, 5, &[])?;
        let all = group.engines(0..5);
        let load = Workload::start(&all, 1, &[])?;
        sleep(LOAD);
        let leader = group.leader(0)?;
        let dead = [leader, (leader + 1) % 5];
        for index in dead {
            group.nodes[index].kill()?;
        }
        let asked = (leader + 2) % 5;
        let time = next_write(&group.nodes[asked].engine, "three", FAILOVER)?;
        println!("next write after two of five died: {time:?}");
        // They are seen to be away; a third may not go.
        let engine = group.nodes[asked].engine.clone();
        eventually("two are away", SOON, || {
            let all = standings(&engine)?;
            let away = all.iter().filter(|one| one.reachability == "unreachable");
            ensure!(away.count() == 2, "{all:?}");
            Ok(())
        })?;
        let id = node_id(&group.nodes[(leader + 3) % 5].engine)?;
        let said = group.nodes[asked].docker.fails(&["node", "demote", &id])?;
        ensure!(
            said.contains("this would result in a loss of quorum"),
            "{said}"
        );
        for index in dead {
            group.nodes[index].up()?;
        }
        group.settled()?;
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}

#[test]
fn seven_managers_lose_any_three() -> Result<()> {
    scenario("seven", |scene| {
        let mut group = Managers::start(scene, 7, &[])?;
        let all = group.engines(0..7);
        let load = Workload::start(&all, 1, &[])?;
        let rounds = if long_run() { LONG_TRIPLES } else { TRIPLES };
        for round in 0..rounds {
            sleep(LOAD);
            // With the leader, and without it.
            let first = group.leader(round % 7)? + round % 2;
            let step = 1 + round % 3;
            let dead: Vec<usize> = (0..3).map(|number| (first + number * step) % 7).collect();
            for index in &dead {
                group.nodes[*index].kill()?;
            }
            for index in (0..7).filter(|index| !dead.contains(index)) {
                let name = format!("four{round}-{index}");
                let time = next_write(&group.nodes[index].engine, &name, FAILOVER)?;
                println!("{dead:?} died; next write through {index}: {time:?}");
            }
            for index in dead {
                group.nodes[index].up()?;
            }
            group.settled()?;
        }
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}

/// One that was away catches up while the others go on.
#[test]
fn a_manager_that_missed_many_entries_catches_up() -> Result<()> {
    scenario("catch-up", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        let away = group.followers()?[0];
        group.nodes[away].kill()?;
        let engine = group.nodes[group.leader((away + 1) % 3)?].engine.clone();
        // Each waits for the one before, so that none shares an entry; what is made goes again.
        let mut connection = engine.connect()?;
        let entries = if long_run() { LONG_ENTRIES } else { ENTRIES };
        let begin = Instant::now();
        for _ in 0..entries / 2 {
            let body = json!({"Name": "short-lived", "Data": "eA=="});
            let made = connection.call("POST", "/secrets/create", Some(&body))?;
            let id = made.expect(201)?.json()?["ID"].clone();
            let path = format!("/secrets/{}", id.as_str().context("no id")?);
            connection.call("DELETE", &path, None)?.expect(204)?;
        }
        next_write(&engine, "last", FAILOVER)?;
        let wrote = begin.elapsed();
        let all = group.engines(0..3);
        let begin = Instant::now();
        group.nodes[away].up()?;
        next_write(&engine, "meanwhile", FAILOVER)?;
        let secrets = eventually("it has caught up", CATCH_UP, || {
            group.nodes[away].engine.get("/secrets")
        })?;
        println!(
            "{entries} entries, written in {wrote:?}, caught up in {:?}",
            begin.elapsed()
        );
        let count = secrets.as_array().map_or(0, Vec::len);
        ensure!(count == 2, "{count} secrets");
        group.settled()?;
        // It is as good as the others: it carries on when one of them goes.
        let other = (0..3).find(|index| *index != away).context("no other")?;
        group.nodes[other].kill()?;
        next_write(&all[away], "after", FAILOVER)?;
        group.nodes[other].up()?;
        group.settled()
    })
}

/// Whoever talks to a manager that stays gets its answers, if late.
#[test]
fn managers_are_restarted_one_by_one_and_no_call_fails() -> Result<()> {
    scenario("rolling", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        for restarted in 0..3 {
            let others: Vec<usize> = (0..3).filter(|index| *index != restarted).collect();
            let engines = group.engines(others);
            let stop = AtomicBool::new(false);
            let failures = Mutex::new(Vec::new());
            let longest = Mutex::new(Duration::ZERO);
            thread::scope(|scope| -> Result<()> {
                for (client, engine) in engines.iter().enumerate() {
                    let (stop, failures, longest) = (&stop, &failures, &longest);
                    scope.spawn(move || {
                        for number in 0.. {
                            if stop.load(Ordering::Relaxed) {
                                return;
                            }
                            let name = format!("r{restarted}-{client}-{number}");
                            let begin = Instant::now();
                            let done = one_call(engine, &name);
                            let mut longest =
                                longest.lock().unwrap_or_else(PoisonError::into_inner);
                            *longest = longest.max(begin.elapsed());
                            if let Err(error) = done {
                                let text = format!("{name} after {:?}: {error:#}", begin.elapsed());
                                failures
                                    .lock()
                                    .unwrap_or_else(PoisonError::into_inner)
                                    .push(text);
                            }
                        }
                    });
                }
                let restart = (|| {
                    sleep(LOAD);
                    group.nodes[restarted].restart()?;
                    group.settled()?;
                    sleep(LOAD);
                    Ok(())
                })();
                stop.store(true, Ordering::Relaxed);
                restart
            })?;
            let longest = longest.into_inner().unwrap_or_else(PoisonError::into_inner);
            println!("manager {restarted} restarted; the longest call took {longest:?}");
            let failures = failures
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            ensure!(
                failures.is_empty(),
                "{} calls failed: {failures:#?}",
                failures.len()
            );
        }
        Ok(())
    })
}

/// A write and a read of it.
fn one_call(engine: &Engine, name: &str) -> Result<()> {
    let body = json!({"Name": name, "Data": "eA=="});
    let made = engine
        .call("POST", "/secrets/create", Some(&body))?
        .expect(201)?
        .json()?;
    let id = made["ID"].as_str().context("no id")?;
    engine
        .call("GET", &format!("/secrets/{id}"), None)?
        .expect(200)?;
    Ok(())
}
