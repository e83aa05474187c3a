//! SIGKILL at random moments while secrets are created.

use std::{
    collections::BTreeMap,
    env,
    thread::{self, sleep},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use waxseal_tests::{
    Acknowledged, DaemonOptions, Engine, Scene, SecretLoad, Waxseal, eventually, long_run, scenario,
};

/// Kills, and kills of a long run.
const ROUNDS: usize = 200;
const LONG_ROUNDS: usize = 2_000;
/// Clusters that are killed side by side.
const LANES: usize = 2;
/// Kills of one cluster; another follows, so that lists stay short.
const ROUNDS_OF_A_CLUSTER: usize = 25;
/// Clients at once, per cluster.
const CLIENTS: usize = 4;
/// The load runs for up to this time before the kill.
const LONGEST_LOAD: Duration = Duration::from_millis(128);
/// Secrets whose content a task reads at the end.
const SAMPLE: usize = 40;
const SOON: Duration = Duration::from_secs(30);

/// What happened in all rounds.
#[derive(Default)]
struct Counts {
    acknowledged: usize,
    /// There, though the kill cut the answer off.
    unanswered: usize,
}

#[test]
fn every_acknowledged_secret_outlives_a_kill() -> Result<()> {
    let seed = seed()?;
    let played = scenario("kill", |scene| {
        let rounds = if long_run() { LONG_ROUNDS } else { ROUNDS };
        let lanes: Vec<Result<Counts>> = thread::scope(|scope| {
            let lane = |number| {
                move || {
                    play(
                        scene,
                        number,
                        rounds / LANES,
                        &mut Random::new(seed, number),
                    )
                }
            };
            let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(lane(number))).collect();
            let joined = lanes.into_iter().map(|lane| lane.join());
            joined
                .map(|end| end.unwrap_or_else(|_| Err(anyhow!("a lane panicked"))))
                .collect()
        });
        let mut all = Counts::default();
        for lane in lanes {
            let counts = lane?;
            all.acknowledged += counts.acknowledged;
            all.unanswered += counts.unanswered;
        }
        println!(
            "{rounds} kills, {} secrets acknowledged, {} there whose answer was cut off",
            all.acknowledged, all.unanswered
        );
        ensure!(
            all.acknowledged >= rounds,
            "the load made {} secrets only",
            all.acknowledged
        );
        Ok(())
    });
    played.with_context(|| format!("again with WAXSEAL_SEED={seed}"))
}

/// Kills one cluster after the other.
fn play(scene: &Scene, lane: usize, rounds: usize, random: &mut Random) -> Result<Counts> {
    let options = DaemonOptions {
        quiet: true,
        ..DaemonOptions::default()
    };
    let mut counts = Counts::default();
    let mut left = rounds;
    while left > 0 {
        let now = left.min(ROUNDS_OF_A_CLUSTER);
        left -= now;
        let mut node = Waxseal::start(scene, &format!("node{lane}-{left}"), &options)?;
        node.init(&["--autolock"])?;
        let mut all = Kept::default();
        let key = node.unlock_key()?;
        for round in 0..now {
            one_round(&mut node, &key, round, &mut all, random)
                .with_context(|| format!("round {round} of {}", node.dir().display()))?;
        }
        // Once more, after all of it: what an early round made outlives the later ones.
        contents(&node.engine, &all.named)?;
        read_by_task(&node, all.acknowledged.values().rev().take(SAMPLE))?;
        counts.acknowledged += all.acknowledged.len();
        counts.unanswered += all.named.len() - all.acknowledged.len();
        node.docker.ok(&["swarm", "leave", "--force"])?;
        node.stop()?;
    }
    Ok(counts)
}

/// What a cluster is to hold.
#[derive(Default)]
struct Kept {
    /// By id.
    acknowledged: BTreeMap<String, Acknowledged>,
    /// Ids and names of all that a list has shown.
    named: BTreeMap<String, String>,
}

fn one_round(
    node: &mut Waxseal,
    key: &str,
    round: usize,
    all: &mut Kept,
    random: &mut Random,
) -> Result<()> {
    let load = SecretLoad::start(&node.engine, &format!("r{round}"), CLIENTS);
    sleep(random.up_to(LONGEST_LOAD));
    node.kill()?;
    let acknowledged = load.finish();
    all.acknowledged
        .extend(acknowledged.into_iter().map(|made| (made.id.clone(), made)));
    node.up()?;
    node.reaches("locked")?;
    let body = json!({"UnlockKey": key});
    node.engine
        .call("POST", "/swarm/unlock", Some(&body))?
        .expect(200)?;
    let listed = listed(&node.engine)?;
    for made in all.acknowledged.values() {
        let name = listed.get(&made.id);
        ensure!(
            name == Some(&made.name),
            "{} ({}) was lost: {name:?}",
            made.name,
            made.id
        );
    }
    for (id, name) in &all.named {
        ensure!(
            listed.contains_key(id),
            "{name} ({id}) was there and is lost"
        );
    }
    let mut new = listed.clone();
    new.retain(|id, _| !all.named.contains_key(id));
    contents(&node.engine, &new)?;
    all.named = listed;
    Ok(())
}

/// Names of all secrets by id; each is whole as far as a list tells.
fn listed(engine: &Engine) -> Result<BTreeMap<String, String>> {
    let list = engine.get("/secrets")?;
    let mut found = BTreeMap::new();
    for secret in list.as_array().context("no list")? {
        let (id, name) = (&secret["ID"], &secret["Spec"]["Name"]);
        let (Some(id), Some(name)) = (id.as_str(), name.as_str()) else {
            return Err(anyhow!("half a secret: {secret}"));
        };
        ensure!(
            secret["Spec"]["Labels"]["of"] == name,
            "half a secret: {secret}"
        );
        found.insert(id.to_owned(), name.to_owned());
    }
    Ok(found)
}

/// Every one of them has the content that its name says. No answer tells a content, but an
/// update does compare: one that changes it is refused as such, and one that does not is
/// refused as late, its version being one that no secret ever has.
fn contents(engine: &Engine, secrets: &BTreeMap<String, String>) -> Result<()> {
    let secrets: Vec<_> = secrets.iter().collect();
    let share = secrets.len().div_ceil(CLIENTS).max(1);
    let checked: Vec<Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = secrets
            .chunks(share)
            .map(|share| scope.spawn(move || compare(engine, share)))
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|end| end.unwrap_or_else(|_| Err(anyhow!("a check panicked"))))
            .collect()
    });
    checked.into_iter().collect()
}

fn compare(engine: &Engine, secrets: &[(&String, &String)]) -> Result<()> {
    let mut connection = engine.connect()?;
    let mut said = |id: &str, name: &str, data: &[u8]| {
        let body = json!({"Name": name, "Labels": {"of": name}, "Data": STANDARD.encode(data)});
        let path = format!("/secrets/{id}/update?version=1");
        connection.call("POST", &path, Some(&body))?.message()
    };
    for (id, name) in secrets {
        let said = said(id, name, &SecretLoad::content(name))?;
        ensure!(
            said.ends_with("update out of sequence"),
            "{name} ({id}) is not whole: {said}"
        );
    }
    // The comparison would tell.
    if let Some((id, name)) = secrets.first() {
        let half = &SecretLoad::content(name)[1..];
        let said = said(id, name, half)?;
        ensure!(
            said.ends_with("only updates to Labels are allowed"),
            "{said}"
        );
    }
    Ok(())
}

/// `WAXSEAL_SEED`, or one of its own.
fn seed() -> Result<u64> {
    if let Ok(seed) = env::var("WAXSEAL_SEED") {
        return seed.parse().context("WAXSEAL_SEED is a number");
    }
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("random bytes: {error}"))?;
    Ok(u64::from_le_bytes(bytes))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn new(seed: u64, lane: usize) -> Random {
        Random(seed ^ (lane as u64) << 32)
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let micros = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(mixed % micros)
    }
}

/// A task reads some of them.
fn read_by_task<'a>(node: &Waxseal, sample: impl Iterator<Item = &'a Acknowledged>) -> Result<()> {
    let sample: Vec<&Acknowledged> = sample.collect();
    ensure!(!sample.is_empty(), "nothing was acknowledged");
    let mut words = vec![
        "service",
        "create",
        "-d",
        "--name",
        "read",
        "--network",
        "host",
        "--stop-signal",
        "KILL",
    ];
    for made in &sample {
        words.extend(["--secret", &made.name]);
    }
    let script =
        "for f in /run/secrets/*; do echo \"${f##*/}=$(cat $f)\"; done; echo end; exec sleep 1000";
    words.extend(["host", "sh", "-c", script]);
    node.docker.ok(&words)?;
    let text = eventually("the task has read them", SOON, || {
        let text = node.docker.ok(&["service", "logs", "--raw", "read"])?;
        ensure!(text.ends_with("end"), "{text}");
        Ok(text)
    })?;
    for made in sample {
        let line = format!("{}={}", made.name, String::from_utf8_lossy(&made.data));
        ensure!(text.lines().any(|found| found == line), "no line {line:?}");
    }
    node.docker.ok(&["service", "rm", "read"])?;
    eventually("the task is gone", SOON, || {
        ensure!(
            node.engine
                .get("/tasks")?
                .as_array()
                .is_some_and(Vec::is_empty),
            "tasks"
        );
        Ok(())
    })
}
