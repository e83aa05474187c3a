//! The stock CLI follows what happens.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{Waxseal, eventually, scenario};

#[test]
fn events_tell_what_happened_in_order() -> Result<()> {
    scenario("events", |scene| {
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        let docker = &node.docker;
        let begin = now(&node)?;
        let secret =
            docker.ok_with_input(&["secret", "create", "db_pass", "-"], b"marker content")?;
        docker.ok_with_input(&["config", "create", "settings", "-"], b"x")?;
        docker.ok(&[
            "service",
            "create",
            "-d",
            "--name",
            "web",
            "--replicas",
            "0",
            "host",
            "true",
        ])?;
        docker.ok(&["service", "scale", "-d", "web=0"])?;
        docker.ok(&[
            "node",
            "update",
            "--availability",
            "pause",
            &docker.ok(&["node", "ls", "-q"])?,
        ])?;
        docker.ok(&["service", "rm", "web"])?;
        docker.ok(&["secret", "rm", "db_pass"])?;
        docker.ok(&["config", "rm", "settings"])?;
        let events = eventually("the last event is there", Duration::from_secs(10), || {
            let events = replay(&node, &begin, &[])?;
            ensure!(
                events.iter().any(|event| is(event, "config", "remove")),
                "{events:?}"
            );
            Ok(events)
        })?;
        for (kind, action, name) in [
            ("secret", "create", "db_pass"),
            ("config", "create", "settings"),
            ("service", "create", "web"),
            ("service", "remove", "web"),
            ("secret", "remove", "db_pass"),
            ("config", "remove", "settings"),
        ] {
            let found = events.iter().find(|event| is(event, kind, action));
            let found = found.with_context(|| format!("no {kind} {action} in {events:?}"))?;
            ensure!(
                found["Actor"]["Attributes"]["name"] == name && found["scope"] == "swarm",
                "{found}"
            );
        }
        ensure!(
            events.iter().any(|event| {
                let attributes = &event["Actor"]["Attributes"];
                attributes["availability.old"] == "active"
                    && attributes["availability.new"] == "pause"
            }),
            "{events:?}"
        );
        let times: Vec<_> = events
            .iter()
            .map(|event| event["timeNano"].as_i64())
            .collect();
        ensure!(
            times.is_sorted() && times.iter().all(Option::is_some),
            "{times:?}"
        );
        ensure!(!format!("{events:?}").contains("marker content"));
        // Filters: by kind and by object.
        let filter = format!("secret={secret}");
        let filtered = replay(&node, &begin, &["--filter", &filter])?;
        let actions: Vec<_> = filtered
            .iter()
            .filter_map(|event| event["Action"].as_str())
            .collect();
        ensure!(actions == ["create", "remove"], "{filtered:?}");
        docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn now(node: &Waxseal) -> Result<String> {
    let info = node.engine.get("/info")?;
    Ok(info["SystemTime"].as_str().context("no time")?.to_owned())
}

fn is(event: &Value, kind: &str, action: &str) -> bool {
    event["Type"] == kind && event["Action"] == action
}

/// The events from `begin` until now.
fn replay(node: &Waxseal, begin: &str, more: &[&str]) -> Result<Vec<Value>> {
    let end = now(node)?;
    let mut words = vec![
        "events",
        "--since",
        begin,
        "--until",
        &end,
        "--format",
        "{{json .}}",
    ];
    words.extend(more);
    let text = node.docker.ok(&words)?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}
