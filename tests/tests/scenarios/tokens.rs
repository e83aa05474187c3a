//! Join tokens with limits, used by nodes of ours and by an unmodified Docker Engine.

use std::{thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{Waxseal, eventually, scenario};

const SOON: Duration = Duration::from_secs(30);

/// What `waxseal join-token ls` shows of a token.
fn token(manager: &Waxseal, label: &str) -> Result<Value> {
    let tokens: Value =
        serde_json::from_str(&manager.cli.ok(&["join-token", "ls", "--format", "json"])?)?;
    let tokens = tokens.as_array().context("no list")?;
    let is_it = |token: &&Value| token["labels"]["for"] == label;
    Ok(tokens.iter().find(is_it).context("no such token")?.clone())
}

fn create(manager: &Waxseal, label: &str, words: &[&str]) -> Result<String> {
    let label = format!("for={label}");
    let mut all = vec!["join-token", "create", "-q", "--label", &label];
    all.extend(words);
    manager.cli.ok(&all)
}

#[test]
fn tokens_that_are_not_made() -> Result<()> {
    scenario("no-token", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        for (words, text) in [
            (&["--ttl", "0s"][..], "lives at least a second"),
            (&["--ttl", "400days"], "at most a year"),
            (&["--uses", "0"], "1 to 10000 uses"),
            (&["--cidr", "10.0.0.0/33"], "10.0.0.0/33 is no network"),
        ] {
            let mut all = vec!["join-token", "create"];
            all.extend(words);
            let said = manager.cli.fails(&all)?;
            ensure!(said.contains(text), "{words:?}: {said}");
        }
        let said = manager.cli.fails(&["join-token", "revoke", "none"])?;
        ensure!(said.contains("join token none not found"), "{said}");
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn joins_are_refused_for_what_limits_their_token() -> Result<()> {
    scenario("limits", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let worker = scene.waxseal("worker")?;
        let refused = |token: &str, text: &str| -> Result<()> {
            let remote = manager.remote();
            let said = worker
                .docker
                .fails(&["swarm", "join", "--token", token, &remote])?;
            ensure!(said.contains(text), "{said}");
            worker.reaches("inactive")
        };
        // 1. Its time, its networks, the operator.
        let short = create(&manager, "short", &["--ttl", "1s"])?;
        sleep(Duration::from_secs(2));
        refused(&short, "has expired; make another")?;
        let far = create(&manager, "far", &["--cidr", "192.0.2.0/24"])?;
        refused(&far, "does not admit joins from 127.")?;
        let revoked = create(&manager, "revoked", &[])?;
        let id = token(&manager, "revoked")?["id"].clone();
        let id = id.as_str().context("no id")?;
        manager.cli.ok(&["join-token", "revoke", &id[..12]])?;
        refused(&revoked, "was revoked; make another")?;
        // 2. One use is one node; what is kept of it is not the token.
        let once = create(&manager, "once", &["--cidr", "127.0.0.0/8"])?;
        worker.join(&once, &manager.remote())?;
        ensure!(token(&manager, "once")?["standing"] == "spent");
        let list = manager.cli.ok(&["join-token", "ls", "--format", "json"])?;
        let secret = once.rsplit('-').next().context("no secret")?;
        ensure!(!list.contains(secret), "the list shows a token");
        let table = manager.cli.ok(&["join-token", "ls"])?;
        ensure!(table.contains("spent") && table.contains("1/1"), "{table}");
        worker.docker.ok(&["swarm", "leave"])?;
        refused(&once, "is spent: 1 of 1 nodes joined")?;
        // 3. The cluster's own tokens have no limits.
        worker.join(&manager.worker_token()?, &manager.remote())?;
        worker.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

#[test]
fn a_stock_engine_joins_over_a_limited_token() -> Result<()> {
    scenario("engine-token", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let engine = scene.dockerd("engine")?;
        let far = create(&manager, "far", &["--cidr", "192.0.2.0/24"])?;
        let words = engine.join_words(&far, &manager.remote());
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = engine.docker.fails(&words)?;
        ensure!(said.contains("does not admit joins from 127."), "{said}");
        engine.docker.run(&["swarm", "leave", "--force"])?;
        let once = create(&manager, "once", &[])?;
        engine.join(&once, &manager.remote())?;
        let id = engine.node_id()?;
        eventually("the token is spent", SOON, || {
            let token = token(&manager, "once")?;
            ensure!(token["standing"] == "spent", "{token}");
            Ok(())
        })?;
        let token_id = token(&manager, "once")?["id"].clone();
        let list = manager
            .cli
            .ok(&["cert", "ls", "--node", &id, "--format", "json"])?;
        let list: Value = serde_json::from_str(&list)?;
        let own = &list["certificates"][0];
        ensure!(
            own["token"] == token_id && own["origin"] == "join",
            "{list}"
        );
        engine.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}
