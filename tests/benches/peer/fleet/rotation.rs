//! A root that rotates under a fleet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{Engine, Scene};

use super::{Host, raise_descriptors};
use crate::{
    measure::{Measured, measure, memory_kib},
    server::{Server, Side},
};

/// Fleets of both sides; for the stock manager the larger ones take minutes.
const BOTH: [usize; 2] = [100, 500];
/// Of ours alone, and the seconds to stay below.
const OURS: [(usize, f64); 2] = [(1_000, 4.0), (10_000, 40.0)];
/// Peak memory by idle memory to stay below.
const MEMORY_TARGET: f64 = 2.0;
/// So many join at once.
const AT_ONCE: usize = 250;
/// Until what the joins brought up has settled, and the joins do not count as registrations of late.
const SETTLE: Duration = Duration::from_secs(9);
/// Until a rotation is over.
const PATIENCE: Duration = Duration::from_secs(180);
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(50);

struct Rotated {
    /// Until the manager says that it is over.
    finished: Duration,
    /// Until every member has a session under the new root.
    settled: Duration,
    idle_kib: u64,
    measured: Measured,
}

/// Times, memory and processor time of rotations.
pub(crate) fn rotation(scene: &Scene) -> Result<()> {
    raise_descriptors(OURS[1].0)?;
    for size in BOTH {
        let ours = rotate_once(scene, Side::Ours, size)?;
        let stock = rotate_once(scene, Side::Stock, size)?;
        let ratio = stock.settled.as_secs_f64() / ours.settled.as_secs_f64();
        println!("rotation of the root with {size} members: stock takes {ratio:.1}× as long");
    }
    for (size, target) in OURS {
        let rotated = rotate_once(scene, Side::Ours, size)?;
        println!(
            "rotation of the root with {size} members: {:.2} s, target < {target} s; peak memory \
             {:.2}× idle, target < {MEMORY_TARGET}×",
            rotated.settled.as_secs_f64(),
            rotated.measured.peak_kib as f64 / rotated.idle_kib as f64,
        );
    }
    Ok(())
}

fn rotate_once(scene: &Scene, side: Side, size: usize) -> Result<Rotated> {
    let server = Server::start(scene, side, &format!("fleet-rotation{size}"), false)?;
    let mut host = Host::gathered(&server, size, AT_ONCE, 2)?;
    eprintln!("  {side:?}: {size} members joined");
    host.rest(SETTLE);
    let idle_kib = memory_kib(server.pid()?, "VmRSS")?;
    let engine = server.engine.clone();
    let mut finished = None;
    let measured = measure(&[&server], || {
        let begin = Instant::now();
        let rotating = std::thread::spawn(move || {
            let before = begin_rotation(&engine)?;
            wait_finished(&engine, &before)?;
            anyhow::Ok(begin.elapsed())
        });
        let mut shown = Instant::now();
        host.until("all are settled under the new root", PATIENCE, |fleet| {
            if shown.elapsed() > Duration::from_secs(2) {
                shown = Instant::now();
                eprintln!("  {} of {size} settled", fleet.moved());
            }
            Ok(fleet.moved() == size && rotating.is_finished())
        })?;
        let settled = begin.elapsed();
        let ended = rotating.join();
        finished = Some(ended.map_err(|_| anyhow::anyhow!("the watcher panicked"))??);
        Ok(vec![settled])
    })?;
    host.check()?;
    let tally = &host.fleet.tally;
    let rotated = Rotated {
        finished: finished.context("not finished")?,
        settled: measured.elapsed,
        idle_kib,
        measured,
    };
    println!(
        "{side:?}, {size} members: rotated in {:.2} s, settled under the new root in {:.2} s; server \
         CPU {:.2} s, client CPU {:.2} s; memory {:.0} MiB idle, {:.0} MiB peak; failed handshakes \
         {}, broken sessions {}",
        rotated.finished.as_secs_f64(),
        rotated.settled.as_secs_f64(),
        rotated.measured.server_cpu.as_secs_f64(),
        rotated.measured.client_cpu.as_secs_f64(),
        rotated.idle_kib as f64 / 1024.0,
        rotated.measured.peak_kib as f64 / 1024.0,
        tally.failed_handshakes.get(),
        tally.broken.get(),
    );
    if side == Side::Ours {
        ensure!(
            tally.failed_handshakes.get() == 0,
            "members had failed handshakes"
        );
    }
    Ok(rotated)
}

/// As `docker swarm ca --rotate` does; answers the present root.
fn begin_rotation(engine: &Engine) -> Result<String> {
    let mut swarm = engine.get("/swarm")?;
    let version = swarm["Version"]["Index"].as_u64().context("no version")?;
    let before = trusted(&swarm)?;
    let count = &mut swarm["Spec"]["CAConfig"]["ForceRotate"];
    *count = Value::from(count.as_u64().unwrap_or_default() + 1);
    let path = format!("/swarm/update?version={version}");
    engine
        .call("POST", &path, Some(&swarm["Spec"]))?
        .expect(200)?;
    Ok(before)
}

/// Waits until no rotation runs and another root is trusted.
pub(super) fn wait_finished(engine: &Engine, before: &str) -> Result<()> {
    let begin = Instant::now();
    loop {
        let swarm = engine.get("/swarm")?;
        if swarm["RootRotationInProgress"] == false && trusted(&swarm)? != before {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "the rotation does not end");
        std::thread::sleep(LOOK);
    }
}

/// The root that the cluster trusts.
pub(super) fn trusted(swarm: &Value) -> Result<String> {
    let root = swarm["TLSInfo"]["TrustRoot"].as_str();
    Ok(root.context("no root")?.to_owned())
}
