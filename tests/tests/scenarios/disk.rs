//! A disk that is slow, fails, is full, or stops in the middle of a write.

use std::{
    fs,
    path::{Path, PathBuf},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use waxseal_tests::{
    DaemonOptions, Engine, Scene, SecretLoad, Waxseal, eventually,
    fault::{Effect, Fault, Op, Rule, SOCKET_VARIABLE},
    scenario,
};

const SOON: Duration = Duration::from_secs(20);
/// A sync of a slow disk.
const STALL: Duration = Duration::from_secs(1);
/// A sync that does not end unless it is told.
const FOREVER: Duration = Duration::from_secs(3600);
/// What does not wait for the disk is answered by then, on a busy machine too.
const AT_ONCE: Duration = Duration::from_millis(700);
/// Creations at once.
const CLIENTS: usize = 8;

fn with_faults(scene: &Scene, name: &str) -> Result<(Waxseal, Fault)> {
    let options = DaemonOptions {
        faults: true,
        ..DaemonOptions::default()
    };
    let node = Waxseal::start(scene, name, &options)?;
    let fault = Fault::on(&node);
    Ok((node, fault))
}

/// The status of an attempt to create a secret, and how long it took.
fn create(engine: &Engine, name: &str) -> Result<(u16, String, Duration)> {
    let begin = Instant::now();
    let body = json!({"Name": name, "Data": "eA=="});
    let answer = engine.call("POST", "/secrets/create", Some(&body))?;
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    Ok((answer.status.as_u16(), said, begin.elapsed()))
}

fn made(engine: &Engine, name: &str) -> Result<Duration> {
    let (status, said, time) = create(engine, name)?;
    ensure!(status == 201, "{name}: {status} {said}");
    Ok(time)
}

fn names(node: &Waxseal) -> Result<Vec<String>> {
    let list = node.docker.ok(&["secret", "ls", "--format", "{{.Name}}"])?;
    Ok(list.lines().map(str::to_owned).collect())
}

#[test]
fn a_slow_disk_delays_writes_and_nothing_else() -> Result<()> {
    scenario("slow", |scene| {
        let (node, fault) = with_faults(scene, "node")?;
        node.init(&[])?;
        let worker = scene.waxseal("worker")?;
        worker.join(&node.worker_token()?, &node.remote())?;
        made(&node.engine, "before")?;
        // 1. A second per sync: those that wait share one, and reads do not wait.
        fault.delay("raft/log-", Op::Sync, STALL)?;
        let begin = Instant::now();
        let times = thread::scope(|scope| {
            let creating: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let engine = &node.engine;
                    scope.spawn(move || made(engine, &format!("slow{number}")))
                })
                .collect();
            while begin.elapsed() < STALL {
                let look = Instant::now();
                node.engine.get("/secrets")?;
                node.engine.get("/nodes")?;
                ensure!(
                    look.elapsed() < AT_ONCE,
                    "reads waited {:?}",
                    look.elapsed()
                );
                sleep(Duration::from_millis(50));
            }
            creating
                .into_iter()
                .map(|thread| thread.join().map_err(|_| anyhow!("panicked"))?)
                .collect::<Result<Vec<_>>>()
        })?;
        ensure!(
            times.iter().all(|time| *time >= STALL),
            "acknowledged before the sync: {times:?}"
        );
        ensure!(
            begin.elapsed() < STALL * 5,
            "{CLIENTS} creations took {:?}: they did not share syncs",
            begin.elapsed()
        );
        // 2. A sync that does not end: nothing is acknowledged, nobody is lost.
        fault.clear()?;
        fault.delay("raft/log-", Op::Sync, FOREVER)?;
        thread::scope(|scope| {
            let held = scope.spawn(|| made(&node.engine, "held"));
            eventually("the sync is held", SOON, || {
                ensure!(fault.hits()? > 0, "no sync");
                Ok(())
            })?;
            sleep(2 * STALL);
            let answered = held.is_finished();
            let ready = node.docker.ok(&["node", "ls", "--format", "{{.Status}}"]);
            fault.clear()?;
            ensure!(!answered, "acknowledged before the sync");
            let ready = ready?;
            ensure!(
                ready.lines().filter(|state| *state == "Ready").count() == 2,
                "{ready}"
            );
            held.join().map_err(|_| anyhow!("panicked"))?
        })?;
        ensure!(made(&node.engine, "after")? < STALL);
        let names = names(&node)?;
        ensure!(
            names.len() == CLIENTS + 3 && names.contains(&"held".to_owned()),
            "{names:?}"
        );
        worker.docker.ok(&["swarm", "leave"])?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn a_broken_disk_stops_the_manager_and_loses_nothing() -> Result<()> {
    scenario("broken", |scene| {
        let (mut node, fault) = with_faults(scene, "node")?;
        node.init(&[])?;
        let mut kept = Vec::new();
        for (number, rule) in [
            Rule::new(Effect::Broken, Op::Sync, "raft/log-"),
            Rule::new(Effect::Broken, Op::Write, "raft/log-"),
            Rule::new(Effect::Full, Op::Write, "raft/log-"),
            // A part of a record reaches the disk.
            Rule::new(Effect::Cut(100), Op::Write, "raft/log-"),
        ]
        .into_iter()
        .enumerate()
        {
            // Alone: what meets the fault is not acknowledged.
            fault.set(&rule)?;
            let (status, said, _) = create(&node.engine, &format!("alone{number}"))?;
            ensure!(status >= 500, "{rule}: {status} {said}");
            stopped(&node, &fault).context(rule.to_string())?;
            node.restart()?;
            node.reaches("active")?;
            kept.extend(under_load(&node, &fault, &rule, number).context(rule.to_string())?);
            stopped(&node, &fault).context(rule.to_string())?;
            node.restart()?;
            node.reaches("active")?;
            let names = names(&node)?;
            for name in &kept {
                ensure!(names.contains(name), "{rule}: {name} was lost");
            }
            made(&node.engine, &format!("after{number}"))?;
            kept.push(format!("after{number}"));
        }
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// Names of what was acknowledged until the disk failed.
fn under_load(node: &Waxseal, fault: &Fault, rule: &Rule, number: usize) -> Result<Vec<String>> {
    let load = SecretLoad::start(&node.engine, &format!("f{number}"), CLIENTS);
    eventually("the load runs", SOON, || {
        ensure!(load.count() >= CLIENTS, "{} made", load.count());
        Ok(())
    })?;
    fault.set(rule)?;
    node.reaches("error")?;
    // The clients end with the first refusal.
    let all = load.finish();
    ensure!(
        fault.hits()? == 1,
        "written {} times to a broken disk",
        fault.hits()?
    );
    Ok(all.into_iter().map(|made| made.name).collect())
}

/// Says what is broken and what helps, and goes on refusing on a disk that is whole again: what
/// a failed sync left there only a start finds out.
fn stopped(node: &Waxseal, fault: &Fault) -> Result<()> {
    node.reaches("error")?;
    let error = node.engine.get("/info")?["Swarm"]["Error"].to_string();
    for part in ["raft/log-", "check the disk", "start again"] {
        ensure!(error.contains(part), "no {part:?} in {error}");
    }
    fault.clear()?;
    let (status, said, _) = create(&node.engine, "late")?;
    ensure!(status == 503, "{status} {said}");
    node.engine.call("GET", "/secrets", None)?.expect(503)?;
    node.engine.call("GET", "/_ping", None)?.expect(200)?;
    Ok(())
}

#[test]
fn short_writes_are_no_faults() -> Result<()> {
    scenario("short", |scene| {
        let (mut node, fault) = with_faults(scene, "node")?;
        for part in ["raft/", "certificates/", "node.pb"] {
            fault.set(&Rule::new(Effect::Short(61), Op::Write, part))?;
        }
        node.init(&["--autolock"])?;
        for number in 0..10 {
            made(&node.engine, &format!("s{number}"))?;
        }
        let key = node.unlock_key()?;
        ensure!(fault.hits()? > 100, "{} short writes only", fault.hits()?);
        node.kill()?;
        node.up()?;
        node.reaches("locked")?;
        node.unlock(&key)?;
        ensure!(names(&node)?.len() == 10);
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn a_key_file_is_replaced_whole_or_not_at_all() -> Result<()> {
    scenario("keyfile", |scene| {
        let (mut node, fault) = with_faults(scene, "node")?;
        // 1. An init that cannot write is none.
        for (part, op) in [
            ("swarm-node.key", Op::Write),
            ("node.pb", Op::Sync),
            ("raft/", Op::Allocate),
            ("certificates/", Op::Rename),
        ] {
            fault.full(part, op)?;
            let said = node
                .init(&[])
                .err()
                .context(format!("{part} was not needed"))?;
            let said = format!("{said:#}").to_lowercase();
            ensure!(said.contains("no space"), "{part}: {said}");
            node.reaches("inactive")?;
            fault.clear()?;
        }
        node.init(&[])?;
        made(&node.engine, "before")?;
        // 2. Autolock is asked for while the key file cannot be written: it stays as it is, and
        //    follows once it can.
        let file = key_file(&node);
        let open = fs::read(&file)?;
        fault.full("swarm-node.key", Op::Sync)?;
        let said = node.docker.fails(&["swarm", "update", "--autolock=true"])?;
        for part in ["swarm-node.key", "o space left", "it is tried again"] {
            ensure!(said.contains(part), "no {part:?} in {said}");
        }
        let key = node.unlock_key()?;
        ensure!(fs::read(&file)? == open, "the key file was changed");
        made(&node.engine, "meanwhile")?;
        fault.clear()?;
        eventually("the key file is sealed", SOON, || {
            let text = fs::read_to_string(&file)?;
            ensure!(!text.contains("PRIVATE KEY"), "still open");
            Ok(())
        })?;
        node.restart()?;
        node.reaches("locked")?;
        // 3. A log that cannot be read is named; the node stays locked until it can.
        fault.broken("raft/log-", Op::Read)?;
        let body = json!({"UnlockKey": key});
        let answer = node
            .engine
            .call("POST", "/swarm/unlock", Some(&body))?
            .expect(500)?;
        let error = answer.message()?;
        ensure!(
            error.contains("raft/log-") && error.contains("check the disk"),
            "{error}"
        );
        node.reaches("locked")?;
        fault.clear()?;
        node.unlock(&key)?;
        ensure!(
            names(&node)? == ["before", "meanwhile"],
            "{:?}",
            names(&node)?
        );
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn a_snapshot_waits_for_room_and_names_a_broken_disk() -> Result<()> {
    scenario("snapshot", |scene| {
        let (mut node, fault) = with_faults(scene, "node")?;
        node.init(&["--autolock"])?;
        made(&node.engine, "before")?;
        // A rotation of the unlock key ends with a snapshot, so that no file needs the former key.
        let rotate = ["swarm", "unlock-key", "--rotate", "-q"];
        let snapshots = |node: &Waxseal| -> Result<Vec<String>> {
            let names = fs::read_dir(node.data_root().join("swarm/raft"))?;
            let names = names.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            let names: Vec<String> = names.collect::<Result<_>>()?;
            Ok(names
                .into_iter()
                .filter(|name| name.ends_with(".snap"))
                .collect())
        };
        let file = key_file(&node);
        // 1. Without room it waits, and nothing else does.
        fault.full("raft/snapshot-", Op::Allocate)?;
        node.docker.ok(&rotate)?;
        eventually("it is tried", SOON, || {
            ensure!(fault.hits()? > 0, "not yet");
            Ok(())
        })?;
        made(&node.engine, "meanwhile")?;
        ensure!(snapshots(&node)?.is_empty(), "{:?}", snapshots(&node)?);
        let held = fs::read(&file)?;
        fault.clear()?;
        forgotten(&file, &held)?;
        ensure!(snapshots(&node)?.len() == 1, "{:?}", snapshots(&node)?);
        // 2. A disk that fails meanwhile stops the manager, whose next start goes on with it.
        fault.broken("raft/snapshot-", Op::Sync)?;
        let key = node.docker.ok(&rotate)?;
        node.reaches("error")?;
        let error = node.engine.get("/info")?["Swarm"]["Error"].to_string();
        ensure!(
            error.contains("raft/snapshot-") && error.contains("check the disk"),
            "{error}"
        );
        let former = snapshots(&node)?;
        node.restart()?;
        node.reaches("locked")?;
        // 3. A vote that cannot be written is no start; another try is.
        fault.broken("raft/vote", Op::Sync)?;
        let body = json!({"UnlockKey": key});
        let answer = node
            .engine
            .call("POST", "/swarm/unlock", Some(&body))?
            .expect(500)?;
        let said = answer.message()?;
        ensure!(
            said.contains("raft/vote") && said.contains("check the disk"),
            "{said}"
        );
        fault.clear()?;
        node.unlock(&key)?;
        let mut names = names(&node)?;
        names.sort();
        ensure!(names == ["before", "meanwhile"], "{names:?}");
        eventually("a snapshot under the new key", SOON, || {
            ensure!(snapshots(&node)? != former, "{former:?}");
            Ok(())
        })?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn key_file(node: &Waxseal) -> PathBuf {
    node.data_root().join("swarm/certificates/swarm-node.key")
}

/// A rotation ends with the key file written anew, without former keys of the log.
fn forgotten(file: &Path, held: &[u8]) -> Result<()> {
    eventually("former keys are forgotten", SOON, || {
        ensure!(fs::read(file)? != held, "the key file is as it was");
        Ok(())
    })
}

#[test]
fn rotations_that_overtake_each_other_lose_no_key() -> Result<()> {
    scenario("overtaken", |scene| {
        let (mut node, fault) = with_faults(scene, "node")?;
        node.init(&["--autolock"])?;
        made(&node.engine, "before")?;
        // 1. The next rotation begins while the snapshot of this one is on its way to the disk.
        let rotate = ["swarm", "unlock-key", "--rotate", "-q"];
        fault.delay("raft/snapshot-", Op::Sync, FOREVER)?;
        node.docker.ok(&rotate)?;
        eventually("the sync is held", SOON, || {
            ensure!(fault.hits()? > 0, "no sync");
            Ok(())
        })?;
        let key = node.docker.ok(&rotate)?;
        // 2. Once no file needs a former key, the key file is written without it.
        let file = key_file(&node);
        let held = fs::read(&file)?;
        fault.clear()?;
        forgotten(&file, &held)?;
        made(&node.engine, "after")?;
        node.restart()?;
        node.reaches("locked")?;
        node.unlock(&key)?;
        let mut names = names(&node)?;
        names.sort();
        ensure!(names == ["after", "before"], "{names:?}");
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn a_forced_cluster_that_is_cut_short_can_be_left() -> Result<()> {
    scenario("forced", |scene| {
        let (mut node, fault) = with_faults(scene, "node")?;
        node.init(&[])?;
        made(&node.engine, "before")?;
        // 1. Its disk fails on the way: it is no member of what was before any more, and
        //    not of what is to come.
        fault.broken("raft/", Op::Sync)?;
        let force = ["swarm", "init", "--force-new-cluster"];
        let said = node.docker.fails(&force)?;
        ensure!(said.contains("could not be started"), "{said}");
        // 2. What it was to become is given up.
        node.docker.ok(&["swarm", "leave", "--force"])?;
        node.reaches("inactive")?;
        fault.clear()?;
        // 3. Nothing of it is left.
        node.init(&[])?;
        ensure!(names(&node)?.is_empty());
        made(&node.engine, "after")?;
        node.restart()?;
        node.reaches("active")?;
        ensure!(names(&node)? == ["after"]);
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn the_product_knows_no_faults() -> Result<()> {
    scenario("nofault", |scene| {
        // It opens no such socket,
        let socket = scene.dir().join("faults");
        let options = DaemonOptions {
            environment: vec![(SOCKET_VARIABLE, socket.display().to_string())],
            ..DaemonOptions::default()
        };
        let node = Waxseal::start(scene, "node", &options)?;
        node.init(&[])?;
        ensure!(!socket.exists(), "{} was made", socket.display());
        node.docker.ok(&["swarm", "leave", "--force"])?;
        // and does not even hold the name of the variable, which the other build does.
        let machine = scene.machine();
        for (program, holds) in [(&machine.waxseal, false), (&machine.waxseal_fault, true)] {
            let bytes = fs::read(program)?;
            let name = SOCKET_VARIABLE.as_bytes();
            let found = bytes.windows(name.len()).any(|window| window == name);
            ensure!(found == holds, "{}: {found}", program.display());
        }
        Ok(())
    })
}
