//! A locked manager with many secrets: its start, its unlocking, its memory.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use waxseal_tests::{Answer, Scene};

use crate::{
    measure::memory_kib,
    report::{self, Pairs},
    secrets::fill,
    server::{Server, Side, order},
};

/// Secrets of 1 KiB in the cluster.
pub(crate) const SECRETS: usize = 10_000;
/// Until the list is there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(1);
/// After the list, before the memory is read: what start and list needed has gone then.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);

/// One start of a locked manager.
struct Start {
    /// From the start of the process until it says that it is locked.
    locked: Duration,
    /// From the unlock call until the list of all secrets has arrived.
    listed: Duration,
    /// Memory of the process a moment after.
    rss_kib: u64,
    /// The most that it had.
    peak_kib: u64,
}

/// Starts, unlocks and lists, each side on the same data again and again.
pub(crate) fn unlock(scene: &Scene, rounds: usize) -> Result<()> {
    let mut ours = Server::start(scene, Side::Ours, "unlock", true)?;
    let mut stock = Server::start(scene, Side::Stock, "unlock", true)?;
    for server in [&ours, &stock] {
        fill(server, SECRETS)?;
        let pid = server.pid()?;
        println!(
            "{:?} with {SECRETS} secrets just created: {:.0} MiB, peak {:.0} MiB",
            server.side,
            memory_kib(pid, "VmRSS")? as f64 / 1024.0,
            memory_kib(pid, "VmHWM")? as f64 / 1024.0,
        );
    }
    let keys = [ours.unlock_key()?, stock.unlock_key()?];
    let mut pairs = Pairs::default();
    for round in 0..rounds {
        for side in order(round) {
            match side {
                Side::Ours => pairs.ours.push(start(&mut ours, &keys[0])?),
                Side::Stock => pairs.other.push(start(&mut stock, &keys[1])?),
            }
        }
    }
    let millis = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mib = |kib: u64| kib as f64 / 1024.0;
    report::figure("process start to locked", "ms", &pairs, None, |start| {
        millis(start.locked)
    });
    let title = format!("unlock to first list of {SECRETS} secrets");
    report::figure(&title, "ms", &pairs, Some(200.0), |start| {
        millis(start.listed)
    });
    let title = format!("memory with {SECRETS} secrets (VmRSS)");
    report::figure(
        &title,
        "MiB",
        &pairs,
        Some(60.0),
        |start| mib(start.rss_kib),
    );
    let title = format!("peak memory with {SECRETS} secrets (VmHWM)");
    report::figure(&title, "MiB", &pairs, None, |start| mib(start.peak_kib));
    Ok(())
}

fn start(server: &mut Server, key: &str) -> Result<Start> {
    server.stop()?;
    let begin = Instant::now();
    server.lock_up()?;
    let locked = begin.elapsed();
    let begin = Instant::now();
    server.unlock(key)?;
    let list = first_list(server)?;
    let listed = begin.elapsed();
    count(&list)?;
    std::thread::sleep(SETTLE);
    let pid = server.pid()?;
    Ok(Start {
        locked,
        listed,
        rss_kib: memory_kib(pid, "VmRSS")?,
        peak_kib: memory_kib(pid, "VmHWM")?,
    })
}

/// Asks for the list of secrets until there is one.
pub(crate) fn first_list(server: &Server) -> Result<Answer> {
    let begin = Instant::now();
    loop {
        let answer = server.engine.call("GET", "/secrets", None)?;
        match answer.status.as_u16() {
            200 => return Ok(answer),
            // Not caught up yet; stock says 500 while there is no leader.
            500 | 503 if begin.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            other => bail!("the list was answered with {other}"),
        }
    }
}

/// All secrets are in the list.
pub(crate) fn count(list: &Answer) -> Result<()> {
    let list = list.json()?;
    let found = list.as_array().context("not a list")?.len();
    ensure!(found == SECRETS, "{found} secrets are there");
    Ok(())
}
