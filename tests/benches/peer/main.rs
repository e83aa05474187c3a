//! Measures us against a stock Docker Engine: the same client against both in turn, pair by pair.
//!
//! Clients share the processors with the server, so they are one thread of as little work as will
//! do: constant requests, answers looked at as far as needed. A joiner dials, shakes hands in
//! TLS 1.3 and makes both gRPC calls; keys and requests are made before the clock starts, every
//! certificate is checked after it stopped, the manager's own at the first connection.
//!
//! `cargo bench -p waxseal-tests --bench peer`, as root, with Debian's `docker.io`; it builds the
//! release binary first. Data lies below `TMPDIR`, so that another disk (or a tmpfs, to see the
//! processors alone) can be measured. `-- --rounds N` and `-- --only WORD` are understood. One
//! manager each: `secrets`, `lists`, `objects` (lists of 10,000 of a kind), `joins`, `unlock`.
//! Three managers each: `managers` (creations and reads), `failover` (leaders that go, disks that
//! stall), `catchup` (ours alone), `memory` (and unlocking). Fleets of simulated members, of one
//! manager each: `fleet-joins`, `fleet-idle`, `fleet-rotation` (of the root), `fleet-quarantine`
//! (ours alone), `fanout` (a service's secret to its tasks).

mod catchup;
mod dialler;
mod failover;
mod fleet;
mod group;
mod h2;
mod http;
mod joins;
mod lists;
mod machine;
mod managers;
mod measure;
mod report;
mod secrets;
mod server;
mod standing;
mod unlock;

use std::{env, process::Command, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use waxseal_tests::{Scene, scenario};

/// Pairs of runs, unless asked otherwise.
const ROUNDS: usize = 3;
/// So many are the most that loopback ports and the disk are asked to bear.
const MAX_ROUNDS: usize = 20;

/// Parts that can be measured by themselves.
const PARTS: [&str; 14] = [
    "secrets",
    "lists",
    "objects",
    "joins",
    "unlock",
    "managers",
    "failover",
    "catchup",
    "memory",
    "fleet-joins",
    "fleet-idle",
    "fleet-rotation",
    "fleet-quarantine",
    "fanout",
];

/// What to measure.
struct Plan {
    rounds: usize,
    only: Option<String>,
}

impl Plan {
    fn from_arguments() -> Result<Plan> {
        let mut plan = Plan {
            rounds: ROUNDS,
            only: None,
        };
        let mut words = env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                // From cargo.
                "--bench" => {}
                "--rounds" => {
                    let rounds = words.next().context("--rounds needs a number")?;
                    plan.rounds = rounds.parse().context("--rounds needs a number")?;
                    ensure!(
                        (1..=MAX_ROUNDS).contains(&plan.rounds),
                        "--rounds is 1 to {MAX_ROUNDS}"
                    );
                }
                "--only" => {
                    let only = words.next().context("--only needs a word")?;
                    ensure!(
                        PARTS.contains(&only.as_str()),
                        "--only is one of {}",
                        PARTS.join(", ")
                    );
                    plan.only = Some(only);
                }
                other => bail!("unknown argument {other}"),
            }
        }
        Ok(plan)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

fn main() -> Result<()> {
    let plan = Plan::from_arguments()?;
    build()?;
    scenario("bench", |scene| {
        machine::describe(scene.dir())?;
        for part in PARTS {
            if plan.wants(part) {
                let begin = Instant::now();
                println!("{part}, load {}:", machine::load()?);
                measure_part(scene, part, plan.rounds)?;
                println!("({part}: {:.0} s)\n", begin.elapsed().as_secs_f64());
            }
        }
        Ok(())
    })
}

fn measure_part(scene: &Scene, part: &str, rounds: usize) -> Result<()> {
    match part {
        "secrets" => secrets::create(scene, rounds),
        "lists" => secrets::read(scene, rounds),
        "objects" => lists::objects(scene, rounds),
        "joins" => joins::certify(scene, rounds),
        "unlock" => unlock::unlock(scene, rounds),
        "managers" => managers::measure_all(scene, rounds),
        "failover" => {
            failover::failover(scene, rounds)?;
            failover::stall(scene)
        }
        "catchup" => catchup::catch_up(scene),
        "memory" => standing::standing(scene, rounds),
        "fleet-joins" => fleet::joins(scene, rounds),
        "fanout" => fleet::fanout(scene, rounds),
        "fleet-idle" => fleet::idle(scene),
        "fleet-rotation" => fleet::rotation(scene),
        "fleet-quarantine" => fleet::quarantine(scene),
        other => bail!("no part is called {other}"),
    }
}

/// The binary that is measured, by the cargo that runs this; without one it must be there.
fn build() -> Result<()> {
    let Some(cargo) = env::var_os("CARGO") else {
        return Ok(());
    };
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "waxseal"])
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the release binary is not built");
    Ok(())
}
