//! Three managers with much on record: their memory, and the unlocking of one of them.

use std::{
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use waxseal_tests::Scene;

use crate::{
    group::{Group, MANAGERS},
    joins,
    report::{self, Pairs, millis},
    secrets,
    server::{Side, order},
    unlock::{SECRETS, SETTLE, count, first_list},
};

/// Nodes on record, beside the managers.
const NODES: usize = 1_000;

/// Memory of each after it was filled and after it was unlocked; how long the unlocking takes.
pub(crate) fn standing(scene: &Scene, rounds: usize) -> Result<()> {
    let mut ours = Group::start(scene, Side::Ours, "full", true)?;
    let mut stock = Group::start(scene, Side::Stock, "full", true)?;
    for (side, group) in [(Side::Ours, &ours), (Side::Stock, &stock)] {
        let leader = group.leader(0)?;
        secrets::fill(&group.servers[leader], SECRETS)?;
        joins::fill(&group.servers[leader], NODES)?;
        sleep(SETTLE);
        memory(&format!("{side:?}, leader {leader}, just filled"), group)?;
    }
    let mut pairs = Pairs::default();
    for round in 0..rounds {
        for side in order(round) {
            match side {
                Side::Ours => pairs.ours.push(unlock(&mut ours)?),
                Side::Stock => pairs.other.push(unlock(&mut stock)?),
            }
        }
    }
    let title = format!("a follower: unlock to first list of {SECRETS} secrets");
    report::figure(&title, "ms", &pairs, Some(300.0), |time| millis(*time));
    let time = unlock_all(&mut ours)?;
    println!(
        "ours, all three locked: last needed unlock to first list {:.0} ms",
        millis(time)
    );
    for (side, group) in [(Side::Ours, &ours), (Side::Stock, &stock)] {
        group.settled()?;
        sleep(SETTLE);
        memory(&format!("{side:?}, unlocked"), group)?;
    }
    Ok(())
}

/// One that follows is stopped, started and unlocked; from the unlocking to the list.
fn unlock(group: &mut Group) -> Result<Duration> {
    group.settled()?;
    let leader = group.leader(0)?;
    let key = group.servers[leader].unlock_key()?;
    let server = &mut group.servers[(leader + 1) % MANAGERS];
    server.stop()?;
    server.lock_up()?;
    let begin = Instant::now();
    server.unlock(&key)?;
    let list = first_list(server)?;
    let time = begin.elapsed();
    count(&list)?;
    Ok(time)
}

/// All are stopped, started and unlocked; from the unlocking that makes a quorum to the list.
fn unlock_all(group: &mut Group) -> Result<Duration> {
    group.settled()?;
    let key = group.servers[0].unlock_key()?;
    for server in &mut group.servers {
        server.stop()?;
    }
    for server in &mut group.servers {
        server.lock_up()?;
    }
    group.servers[0].unlock(&key)?;
    let begin = Instant::now();
    group.servers[1].unlock(&key)?;
    let list = first_list(&group.servers[1])?;
    let time = begin.elapsed();
    count(&list)?;
    group.servers[2].unlock(&key)?;
    Ok(time)
}

/// Prints what each of them has in memory: all, and its share of what it shares.
fn memory(title: &str, group: &Group) -> Result<()> {
    let mut shown = Vec::new();
    for server in &group.servers {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", server.pid()?))?;
        let of = |name: &str| -> Result<f64> {
            let line = rollup.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            let kib: f64 = number.with_context(|| format!("no {name}"))?.parse()?;
            Ok(kib / 1024.0)
        };
        shown.push(format!("{:.0} (PSS {:.0})", of("Rss:")?, of("Pss:")?));
    }
    println!(
        "{title}: MiB per manager with {SECRETS} secrets and {NODES} nodes: {}",
        shown.join(", ")
    );
    Ok(())
}
