//! SIGKILL at random moments while secrets are created.

use std::{collections::BTreeMap, thread::sleep, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use waxseal_tests::{Acknowledged, SecretLoad, Waxseal, eventually, long_run, scenario};

/// Clients at once.
const CLIENTS: usize = 4;
/// Rounds, and rounds of a long run.
const ROUNDS: u32 = 20;
const LONG_ROUNDS: u32 = 200;
/// Secrets whose content a task reads at the end.
const SAMPLE: usize = 40;
const SOON: Duration = Duration::from_secs(30);

#[test]
fn every_acknowledged_secret_outlives_a_kill() -> Result<()> {
    scenario("kill", |scene| {
        let mut node = scene.waxseal("node")?;
        node.init(&["--autolock"])?;
        let key = node.unlock_key()?;
        let mut all = BTreeMap::new();
        let mut lost_answers = 0;
        let rounds = if long_run() { LONG_ROUNDS } else { ROUNDS };
        for round in 0..rounds {
            let load = SecretLoad::start(&node.engine, &format!("r{round}"), CLIENTS);
            eventually("the load runs", SOON, || {
                ensure!(load.count() > 0, "nothing is created");
                Ok(())
            })?;
            sleep(random_pause()?);
            node.kill()?;
            let acknowledged = load.finish();
            all.extend(acknowledged.into_iter().map(|made| (made.id.clone(), made)));
            node.up()?;
            node.reaches("locked")?;
            node.unlock(&key)?;
            lost_answers += check(&node, &all).with_context(|| format!("round {round}"))?;
            // What was checked goes, so that the next rounds are as quick.
            if round % 5 == 4 && round + 1 < rounds {
                clear(&node, &mut all)?;
            }
        }
        println!("{rounds} kills, {lost_answers} secrets were there whose answer was cut off");
        contents(&node, all.values().rev().take(SAMPLE))?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// Between 1 and 256 ms.
fn random_pause() -> Result<Duration> {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_err(|error| anyhow!("random bytes: {error}"))?;
    Ok(Duration::from_millis(u64::from(byte[0]) + 1))
}

/// All that was acknowledged is listed, and all that is listed is whole. How many were
/// made without an answer.
fn check(node: &Waxseal, all: &BTreeMap<String, Acknowledged>) -> Result<usize> {
    let list = node.engine.get("/secrets")?;
    let list = list.as_array().context("no list")?;
    let mut found = BTreeMap::new();
    for secret in list {
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
    for made in all.values() {
        let name = found.get(&made.id);
        ensure!(
            name == Some(&made.name),
            "{} ({}) was lost: {name:?}",
            made.name,
            made.id
        );
    }
    Ok(found.len() - all.len())
}

fn clear(node: &Waxseal, all: &mut BTreeMap<String, Acknowledged>) -> Result<()> {
    let mut connection = node.engine.connect()?;
    let list = node.engine.get("/secrets")?;
    for secret in list.as_array().context("no list")? {
        let id = secret["ID"].as_str().context("no id")?;
        connection
            .call("DELETE", &format!("/secrets/{id}"), None)?
            .expect(204)?;
    }
    all.clear();
    Ok(())
}

/// A task reads some of them.
fn contents<'a>(node: &Waxseal, sample: impl Iterator<Item = &'a Acknowledged>) -> Result<()> {
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
