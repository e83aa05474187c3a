//! Clocks of managers that are wrong.

use std::{fs, process::Command, thread::sleep, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use waxseal_ca::{Clock, SystemClock};
use waxseal_tests::{
    DaemonClock, Managers, Scene, Waxseal, Workload, eventually, long_run, next_write, node_id,
    require, run, scenario, standings,
};

use super::{FAILOVER, SOON};

/// The cluster is made in the past, so that a clock that goes back lies within its certificates.
const YOUTH: time::Duration = time::Duration::days(-10);
/// Off by so much, either way; within certificates and beyond them.
const HOURS: time::Duration = time::Duration::hours(2);
const DAYS: time::Duration = time::Duration::days(100);
/// A clock is wrong for so long.
const WRONG: Duration = Duration::from_secs(2);
/// From the correction until the manager is one of them again (issue 3).
const BACK: Duration = Duration::from_secs(10);
/// What is recorded may be so old, or the test so slow.
const MINUTES: time::Duration = time::Duration::minutes(2);
/// Certificates begin that much before they are signed.
const BACKDATE: time::Duration = time::Duration::HOUR;

fn with_clock(scene: &Scene, name: &str) -> Result<(Waxseal, DaemonClock)> {
    let clock = DaemonClock::new(scene, name, YOUTH)?;
    let options = clock.options();
    Ok((Waxseal::start(scene, name, &options)?, clock))
}

/// What is on record is of the cluster's youth or of this test.
struct Times {
    begin: OffsetDateTime,
}

impl Times {
    fn check(&self, time: OffsetDateTime, what: &str) -> Result<()> {
        let now = SystemClock.now();
        let within = |shift| (self.begin - shift - MINUTES..=now - shift + MINUTES).contains(&time);
        ensure!(
            within(time::Duration::ZERO) || within(-YOUTH),
            "{what} is of {time}"
        );
        Ok(())
    }

    /// All objects that a manager shows.
    fn of_objects(&self, node: &Waxseal) -> Result<()> {
        for kind in ["secrets", "nodes", "services", "tasks"] {
            let list = node.engine.get(&format!("/{kind}"))?;
            for object in list.as_array().context("no list")? {
                self.of_object(object)?;
            }
        }
        self.of_object(&node.engine.get("/swarm")?)
    }

    fn of_object(&self, object: &Value) -> Result<()> {
        for name in ["CreatedAt", "UpdatedAt"] {
            let time = object[name].as_str().context("no time")?;
            let what = format!("{name} of {}", object["ID"]);
            self.check(OffsetDateTime::parse(time, &Rfc3339)?, &what)?;
        }
        Ok(())
    }

    /// The certificate that a node has.
    fn of_certificate(&self, node: &Waxseal) -> Result<()> {
        self.check(begins(node)? + BACKDATE, "a certificate")
    }
}

/// When a node's certificate begins to be valid.
fn begins(node: &Waxseal) -> Result<OffsetDateTime> {
    let file = node.data_root().join("swarm/certificates/swarm-node.crt");
    let mut command = Command::new(require("openssl", "openssl")?);
    command.args([
        "x509",
        "-noout",
        "-startdate",
        "-dateopt",
        "iso_8601",
        "-in",
    ]);
    let said = run(command.arg(file), SOON)?.out();
    let date = said.strip_prefix("notBefore=").context(said.clone())?;
    Ok(OffsetDateTime::parse(&date.replace(' ', "T"), &Rfc3339)?)
}

/// A node's certificate as it is on disk.
fn certificate(node: &Waxseal) -> Result<Vec<u8>> {
    Ok(fs::read(
        node.data_root().join("swarm/certificates/swarm-node.crt"),
    )?)
}

/// Whether a manager answers for the cluster, is known by `asked` to be there, and has its session.
fn is_back(node: &Waxseal, asked: &Waxseal) -> Result<()> {
    let hasty = node.engine.clone().with_limit(BACK);
    hasty.get("/secrets")?;
    let id = node_id(&node.engine)?;
    let all = standings(&asked.engine)?;
    let own = all.iter().find(|one| one.id == id).context("unknown")?;
    ensure!(
        own.reachability == "reachable" && own.state == "ready",
        "{own:?}"
    );
    Ok(())
}

#[test]
fn one_wrong_clock_of_three_is_outvoted() -> Result<()> {
    scenario("clocks", |scene| {
        let mut group = Managers { nodes: Vec::new() };
        let mut clocks = Vec::new();
        for index in 0..3 {
            let (node, clock) = with_clock(scene, &format!("m{index}"))?;
            clocks.push(clock);
            match group.nodes.first() {
                None => drop(node.init(&[])?),
                Some(first) => {
                    drop(node.join(&waxseal_tests::manager_token(first)?, &first.remote())?)
                }
            }
            group.nodes.push(node);
        }
        let (worker, clock) = with_clock(scene, "worker")?;
        worker.join(&group.nodes[0].worker_token()?, &group.nodes[0].remote())?;
        clocks.push(clock);
        let times = Times {
            begin: SystemClock.now(),
        };
        for clock in &clocks {
            clock.set_right()?;
        }
        group.settled()?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, 1, &[])?;
        let offsets: &[(bool, time::Duration)] = match long_run() {
            true => &[
                (false, HOURS),
                (true, HOURS),
                (false, -HOURS),
                (true, -HOURS),
                (false, DAYS),
                (true, DAYS),
                (false, -DAYS),
                (true, -DAYS),
            ],
            false => &[(true, DAYS), (true, HOURS), (false, -DAYS)],
        };
        for (round, (leads, offset)) in offsets.iter().enumerate() {
            let leader = group.leader(round % 3)?;
            let wrong = if *leads { leader } else { (leader + 1) % 3 };
            let (one, other) = ((wrong + 1) % 3, (wrong + 2) % 3);
            let what = format!("{offset}, the leader's: {leads}");
            clocks[wrong].set(*offset)?;
            // 1. Both others acknowledge, and what is signed is signed by a right clock.
            for asked in [one, other] {
                let name = format!("c{round}-{asked}");
                let took = next_write(&group.nodes[asked].engine, &name, FAILOVER)
                    .with_context(|| what.clone())?;
                println!("{what}: a write took {took:?}");
            }
            let former = certificate(&worker)?;
            let id = node_id(&worker.engine)?;
            eventually("the worker is to renew", SOON, || {
                group.nodes[one]
                    .cli
                    .ok(&["node", "renew", "--detach", &id])
                    .map(drop)
            })?;
            sleep(WRONG);
            let leader = group.leader(one)?;
            ensure!(leader != wrong, "{what}: it still leads");
            eventually("the worker has another certificate", SOON, || {
                ensure!(certificate(&worker)? != former, "the same");
                Ok(())
            })
            .with_context(|| what.clone())?;
            // 2. Set right, it is one of them again.
            clocks[wrong].set_right()?;
            eventually("it is back", BACK, || {
                is_back(&group.nodes[wrong], &group.nodes[one])
            })
            .with_context(|| what.clone())?;
            group.settled()?;
            // 3. Nothing on record has its time.
            times.of_objects(&group.nodes[one]).context(what.clone())?;
            for node in group.nodes.iter().chain([&worker]) {
                times.of_certificate(node).context(what.clone())?;
            }
        }
        // 4. One that starts with a wrong clock is in error until it is set.
        let wrong = group.followers()?[0];
        let other = (wrong + 1) % 3;
        group.nodes[wrong].kill()?;
        clocks[wrong].set(-DAYS)?;
        group.nodes[wrong].up()?;
        group.nodes[wrong].reaches("error")?;
        clocks[wrong].set_right()?;
        eventually("it starts", BACK, || {
            is_back(&group.nodes[wrong], &group.nodes[other])
        })?;
        load.finish(&all, scene.dir())?;
        worker.docker.ok(&["swarm", "leave"])?;
        Ok(())
    })
}

#[test]
fn alone_or_two_a_manager_in_the_past_signs_nothing_and_says_so() -> Result<()> {
    scenario("past", |scene| {
        let (first, clock) = with_clock(scene, "first")?;
        first.init(&[])?;
        let (second, second_clock) = with_clock(scene, "second")?;
        second.join(&waxseal_tests::manager_token(&first)?, &first.remote())?;
        let (worker, worker_clock) = with_clock(scene, "worker")?;
        worker.join(&first.worker_token()?, &first.remote())?;
        let mut group = Managers {
            nodes: vec![first, second],
        };
        group.settled()?;
        let clocks = [clock, second_clock];
        for clock in clocks.iter().chain([&worker_clock]) {
            clock.set_right()?;
        }
        // Who led hands over: its clock jumped.
        sleep(WRONG);
        group.settled()?;
        // 1. One of two. One that jumps while it leads would hand over; this one takes over
        //    as it is.
        let leader = group.leader(0)?;
        let other = 1 - leader;
        next_write(&group.nodes[leader].engine, "now", SOON)?;
        clocks[other].set(-HOURS)?;
        group.nodes[leader].restart()?;
        group.settled()?;
        eventually("the other is seen to lead", SOON, || {
            ensure!(group.leader(leader)? == other, "it does not");
            Ok(())
        })?;
        signs_nothing(scene, &group.nodes[other], &clocks[other], "two")?;
        // 2. Alone, also when it starts so.
        group.settled()?;
        let mut alone = group.nodes.remove(other);
        group.nodes[0].docker.ok(&["swarm", "leave", "--force"])?;
        eventually("it is alone", SOON, || {
            let shown = alone.cli.ok(&["manager", "ls"])?;
            ensure!(shown.contains("1 of 1 managers"), "{shown}");
            Ok(())
        })?;
        next_write(&alone.engine, "alone", SOON)?;
        let clock = &clocks[other];
        clock.set(-HOURS)?;
        alone.kill()?;
        alone.up()?;
        alone.reaches("active")?;
        signs_nothing(scene, &alone, clock, "alone")?;
        // 3. Who has a certificate and is to renew it is told as well.
        clock.set(-HOURS)?;
        let former = certificate(&worker)?;
        let id = node_id(&worker.engine)?;
        alone.cli.ok(&["node", "renew", "--detach", &id])?;
        eventually("the worker is refused", SOON, || {
            let status = worker.cli.ok(&["status"])?;
            ensure!(is_told(&status), "{status}");
            Ok(())
        })?;
        ensure!(certificate(&worker)? == former, "a certificate was signed");
        clock.set_right()?;
        worker.docker.ok(&["swarm", "leave"])?;
        Ok(())
    })
}

fn is_told(text: &str) -> bool {
    let behind = ["1 h 59 min behind", "2 h 0 min behind"];
    text.contains("signs no certificates; set the clock")
        && behind.iter().any(|words| text.contains(words))
}

/// Its clock goes back, it signs nothing, its clock is set right, it signs.
fn signs_nothing(scene: &Scene, manager: &Waxseal, clock: &DaemonClock, name: &str) -> Result<()> {
    clock.set(-HOURS)?;
    // 1. Writes go on; the operator sees what is wrong.
    let body = json!({"Name": format!("past-{name}"), "Data": "eA=="});
    let answer = manager
        .engine
        .call("POST", "/secrets/create", Some(&body))?;
    answer.expect(201)?;
    eventually("the operator is told", SOON, || {
        let status = manager.cli.ok(&["status"])?;
        ensure!(is_told(&status), "{status}");
        let info = manager.docker.run(&["info"])?;
        ensure!(is_told(&info.err()), "{}", info.err());
        Ok(())
    })?;
    // 2. Who asks for a certificate is told why there is none; a clock as wrong as this one
    //    shows no difference to it.
    let (joiner, joiners_clock) = with_clock(scene, &format!("joins-{name}"))?;
    joiners_clock.set(-HOURS)?;
    let token = manager.worker_token()?;
    let said = super::super::join::refused(&joiner, &token, &manager.remote())?;
    ensure!(is_told(&said), "{said}");
    // 3. Set right, it signs.
    clock.set_right()?;
    joiners_clock.set_right()?;
    eventually("it signs", BACK, || {
        let said = joiner.join(&token, &manager.remote());
        if let Err(error) = said {
            bail!("{error}");
        }
        Ok(())
    })?;
    let begins = begins(&joiner)? + BACKDATE;
    ensure!(
        (SystemClock.now() - begins).abs() < MINUTES,
        "it begins at {begins}"
    );
    let status = manager.cli.ok(&["status"])?;
    ensure!(!is_told(&status), "{status}");
    joiner.docker.ok(&["swarm", "leave"])?;
    Ok(())
}
