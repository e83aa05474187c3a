//! A fleet that joins at once.

use std::{rc::Rc, time::Duration, time::Instant};

use anyhow::{Context, Result};
use waxseal_tests::Scene;

use super::{Host, raise_descriptors};
use crate::{
    measure::{Measured, measure},
    report::{self, Pairs},
    server::{Server, Side, order},
};

/// Members that join at the same moment.
const MEMBERS: usize = 1_000;
/// The time to stay below, in seconds.
const TARGET: f64 = 1.5;
/// Until all are in.
const PATIENCE: Duration = Duration::from_secs(60);

struct Joined {
    /// To the last session.
    whole: Measured,
    refused: usize,
    failed_handshakes: usize,
}

/// From the first call to the last session's first message; a latency is one member's.
pub(crate) fn joins(scene: &Scene, rounds: usize) -> Result<()> {
    raise_descriptors(MEMBERS)?;
    let mut pairs = Pairs::default();
    for round in 0..rounds {
        for side in order(round) {
            let joined = join_once(scene, side, round)?;
            eprintln!(
                "  {side:?}: {:.2} s, tried again {}, failed handshakes {}",
                joined.whole.elapsed.as_secs_f64(),
                joined.refused,
                joined.failed_handshakes,
            );
            match side {
                Side::Ours => pairs.ours.push(joined.whole),
                Side::Stock => pairs.other.push(joined.whole),
            }
        }
    }
    report::rates("members that join at once, to a session", &pairs, None);
    let title = format!("{MEMBERS} joins at once, all with a session");
    report::figure(&title, "s", &pairs, Some(TARGET), |run| {
        run.elapsed.as_secs_f64()
    });
    Ok(())
}

fn join_once(scene: &Scene, side: Side, round: usize) -> Result<Joined> {
    let server = Server::start(scene, side, &format!("fleet-joins{round}"), false)?;
    let (mut host, prepared) = Host::new(&server, MEMBERS, 1)?;
    let fleet = Rc::clone(&host.fleet);
    let whole = measure(&[&server], || {
        let begin = Instant::now();
        host.join(prepared, PATIENCE)?;
        let standings = fleet.standings.borrow();
        let first = |at: Option<Instant>| Ok(at.context("no session")? - begin);
        standings.iter().map(|one| first(one.first)).collect()
    })?;
    host.check()?;
    Ok(Joined {
        whole,
        refused: fleet.tally.refused_joins.get(),
        failed_handshakes: fleet.tally.failed_handshakes.get(),
    })
}
