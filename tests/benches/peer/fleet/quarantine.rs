//! A root that rotates under a fleet of which some are away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use waxseal_tests::{Engine, Scene};

use super::{
    Host, raise_descriptors,
    rotation::{trusted, wait_finished},
};
use crate::server::{Server, Side};

/// Members, and those of them that are away.
const MEMBERS: usize = 1_000;
const AWAY: usize = MEMBERS / 20;
/// So many join at once.
const AT_ONCE: usize = 250;
/// The operator's.
const DEADLINE: Duration = Duration::from_secs(8);
/// Trust switches within this after it, and a look at the cluster takes a moment.
const GRACE: Duration = Duration::from_secs(1);
/// Until members that vanished are known to be away.
const DOWN: Duration = Duration::from_secs(60);
/// Until the others have followed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The rotation ends at its deadline and nobody who is healthy notices.
pub(crate) fn quarantine(scene: &Scene) -> Result<()> {
    raise_descriptors(MEMBERS)?;
    let server = Server::start(scene, Side::Ours, "fleet-quarantine", false)?;
    let mut host = Host::gathered(&server, MEMBERS, AT_ONCE, 2)?;
    host.lose(AWAY)?;
    let engine = server.engine.clone();
    host.during("those who vanished are down", DOWN, move || {
        wait_down(&engine)
    })?;
    eprintln!("  {AWAY} of {MEMBERS} members are down");
    let tally = &host.fleet.tally;
    let before = (tally.failed_handshakes.get(), tally.broken.get());
    let engine = server.engine.clone();
    let begin = Instant::now();
    let ended = host.during("the rotation ends", PATIENCE, move || {
        let before = trusted(&engine.get("/swarm")?)?;
        let body = json!({
            "deadline_secs": DEADLINE.as_secs(),
            "laggards": "quarantine",
        });
        let path = "/waxseal/v1/ca/rotate";
        engine.call("POST", path, Some(&body))?.expect(202)?;
        wait_finished(&engine, &before)?;
        Ok(begin.elapsed())
    })?;
    let healthy = MEMBERS - AWAY;
    host.until("all healthy members have followed", PATIENCE, |fleet| {
        Ok(fleet.moved() == healthy)
    })?;
    let settled = begin.elapsed();
    host.check()?;
    let tally = &host.fleet.tally;
    let failed = tally.failed_handshakes.get() - before.0;
    let broken = tally.broken.get() - before.1;
    println!(
        "{MEMBERS} members, {AWAY} of them down, deadline {} s: ended after {:.2} s, {healthy} settled \
         under the new root after {:.2} s; of these failed handshakes {failed}, broken sessions {broken}",
        DEADLINE.as_secs(),
        ended.as_secs_f64(),
        settled.as_secs_f64(),
    );
    ensure!(
        ended <= DEADLINE + GRACE,
        "the rotation went on after its deadline"
    );
    ensure!(failed == 0, "healthy members had failed handshakes");
    ensure!(broken == 0, "sessions of healthy members broke");
    Ok(())
}

fn wait_down(engine: &Engine) -> Result<()> {
    let begin = Instant::now();
    loop {
        let nodes = engine.get("/nodes")?;
        let is_down = |node: &&Value| node["Status"]["State"] == "down";
        let nodes = nodes.as_array().context("not a list")?;
        if nodes.iter().filter(is_down).count() == AWAY {
            return Ok(());
        }
        ensure!(begin.elapsed() < DOWN, "they are not down");
        std::thread::sleep(Duration::from_millis(500));
    }
}
