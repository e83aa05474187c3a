//! A manager that joins a long log.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde_json::json;
use waxseal_tests::{DaemonOptions, Scene, eventually};

use crate::{
    http,
    measure::median,
    report::millis,
    secrets::Creations,
    server::{Server, Side},
};

/// Entries in the log: each a creation of its own, as one connection makes them.
const ENTRIES: usize = 100_000;
/// Creations between two looks at whether the manager has joined.
const SLICE: usize = 50;
/// Creations on a cluster at rest, to compare with.
const CALM: usize = 1_000;
/// Until the manager has everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// Two managers join one after the other: when one more is a voter, when it answers reads, and
/// what a creation takes meanwhile.
pub(crate) fn catch_up(scene: &Scene) -> Result<()> {
    let first = Server::start(scene, Side::Ours, "long0", false)?;
    let mut next = 0;
    create(&first, ENTRIES, &mut next)?;
    let mut joined = Vec::new();
    for number in ["second", "third"] {
        let calm = create(&first, CALM, &mut next)?;
        let server = Server::boot(
            scene,
            Side::Ours,
            &format!("long-{number}"),
            &DaemonOptions::default(),
        )?;
        let is_done = AtomicBool::new(false);
        let (times, busy) = thread::scope(|scope| {
            let joining = scope.spawn(|| {
                let times = join(&first, &server);
                is_done.store(true, Ordering::Relaxed);
                times
            });
            let mut busy = Vec::new();
            while !is_done.load(Ordering::Relaxed) {
                busy.extend(create(&first, SLICE, &mut next)?);
            }
            let times = joining.join().map_err(|_| anyhow!("panicked"))??;
            anyhow::Ok((times, busy))
        })?;
        let [voter, reads] = times.map(|time| time.as_secs_f64());
        println!(
            "{number} manager joins {ENTRIES} entries: voter after {voter:.2} s, reads after \
             {reads:.2} s; a creation on the leader before: {}, meanwhile: {}",
            latency(calm),
            latency(busy),
        );
        joined.push(server);
    }
    Ok(())
}

/// From the request to join until it is a voter, and until it shows what was there before.
fn join(first: &Server, server: &Server) -> Result<[Duration; 2]> {
    let name = format!("seen-by-{}", server.remote());
    let body = json!({ "Name": name.replace(':', "-"), "Data": "eA==" });
    let made = first.engine.call("POST", "/secrets/create", Some(&body))?;
    let id = made.expect(201)?.json()?["ID"].clone();
    let path = format!("/secrets/{}", id.as_str().context("no id")?);
    let begin = Instant::now();
    server.join(first)?;
    let voter = begin.elapsed();
    eventually("it reads", PATIENCE, || server.engine.get(&path))?;
    Ok([voter, begin.elapsed()])
}

/// One by one; how long each took.
fn create(server: &Server, count: usize, next: &mut usize) -> Result<Vec<Duration>> {
    let creations = Creations::from(*next)?;
    *next += count;
    http::run(server.engine.socket(), 1, count, creations)
}

fn latency(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let Some(most) = times.last() else {
        return "none".to_owned();
    };
    let high = times[times.len() * 99 / 100];
    format!(
        "p50 {:.2} ms, p99 {:.2} ms, most {:.0} ms",
        millis(median(&times)),
        millis(high),
        millis(*most)
    )
}
