//! Jobs, by the stock CLI: on a Docker Engine and natively.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use waxseal_tests::{Waxseal, eventually, holds_for, scenario};

use super::engine_worker::Pair;

/// Until tasks have moved.
const SOON: Duration = Duration::from_secs(40);

#[test]
fn jobs_complete_and_run_anew() -> Result<()> {
    scenario("jobs", |scene| {
        let pair = Pair::new(scene, &[])?;
        let manager = &pair.manager;
        let docker = &manager.docker;
        docker.ok_with_input(&["secret", "create", "key", "-"], b"s3cret\n")?;
        refusals(manager)?;
        for (name, image) in [("onengine", "bb:1"), ("native", "host")] {
            replicated(manager, name, image)?;
        }
        global(&pair)?;
        gives_up(manager)?;
        for name in ["onengine", "native", "everywhere", "fails"] {
            docker.ok(&["service", "rm", name])?;
        }
        eventually("no container is left", SOON, || {
            let left = pair.engine.docker.ok(&["ps", "-aq"])?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        docker.ok(&["secret", "rm", "key"])?;
        Ok(())
    })
}

/// The CLI refuses the flags by itself, so clients that do not are refused here.
fn refusals(manager: &Waxseal) -> Result<()> {
    for (field, what) in [
        ("UpdateConfig", "an update"),
        ("RollbackConfig", "a rollback"),
    ] {
        let container = json!({"Image": "host", "Command": ["true"]});
        let mut spec = json!({
            "Name": "refused", "Mode": {"GlobalJob": {}},
            "TaskTemplate": {"ContainerSpec": container},
        });
        spec[field] = json!({"Parallelism": 2});
        let answer = manager
            .engine
            .call("POST", "/services/create", Some(&spec))?
            .expect(400)?;
        let message =
            format!("rpc error: code = InvalidArgument desc = Jobs may not have {what} config");
        ensure!(answer.message()? == message, "{}", answer.message()?);
    }
    Ok(())
}

/// Three completions, two at a time; not detached, the CLI waits for them.
fn replicated(manager: &Waxseal, name: &str, image: &str) -> Result<()> {
    let docker = &manager.docker;
    let said = docker.ok(&[
        "service",
        "create",
        "--no-resolve-image",
        "--name",
        name,
        "--mode",
        "replicated-job",
        "--replicas",
        "3",
        "--max-concurrent",
        "2",
        "--network",
        "host",
        "--secret",
        "key",
        image,
        "sh",
        "-c",
        "cat /run/secrets/key",
    ])?;
    ensure!(said.ends_with("job complete"), "{said}");
    listed(manager, name, "replicated job 0/2 (3/3 completed)")?;
    let rows = docker.ok(&[
        "service",
        "ps",
        name,
        "--format",
        "{{.DesiredState}} {{.CurrentState}}",
    ])?;
    ensure!(rows.lines().count() == 3, "{rows}");
    ensure!(
        rows.lines()
            .all(|row| row.starts_with("Complete Complete ")),
        "{rows}"
    );
    eventually("the logs are there", SOON, || {
        let text = docker.ok(&["service", "logs", "--raw", name])?;
        ensure!(text.lines().eq(["s3cret"; 3]), "{text}");
        Ok(())
    })?;
    // As stock has it: the first iteration is no number, slots are counted from 0.
    let object = service(manager, name)?;
    ensure!(
        object["JobStatus"]["JobIteration"] == Value::Object(serde_json::Map::new()),
        "{object}"
    );
    ensure!(
        object["JobStatus"]["LastExecution"].is_string() && object["UpdateStatus"].is_null(),
        "{object}"
    );
    let said = docker.ok(&["service", "scale", &format!("{name}=2")])?;
    ensure!(said.ends_with("job complete"), "{said}");
    listed(manager, name, "replicated job 0/2 (2/2 completed)")?;
    let said = docker.ok(&["service", "update", "--force", name])?;
    ensure!(said.ends_with("job complete"), "{said}");
    let object = service(manager, name)?;
    ensure!(
        object["JobStatus"]["JobIteration"]["Index"] == 2,
        "{object}"
    );
    Ok(())
}

fn global(pair: &Pair) -> Result<()> {
    let said = pair.manager.docker.ok(&[
        "service",
        "create",
        "--no-resolve-image",
        "--name",
        "everywhere",
        "--mode",
        "global-job",
        "--network",
        "host",
        "bb:1",
        "true",
    ])?;
    ensure!(said.ends_with("job complete"), "{said}");
    listed(
        &pair.manager,
        "everywhere",
        "global job 0/0 (1/1 completed)",
    )
}

/// What fails as often as it may is not tried again.
fn gives_up(manager: &Waxseal) -> Result<()> {
    let docker = &manager.docker;
    docker.ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "fails",
        "--mode",
        "replicated-job",
        "--network",
        "host",
        "--restart-max-attempts",
        "1",
        "--restart-delay",
        "100ms",
        "host",
        "sh",
        "-c",
        "exit 3",
    ])?;
    let failed = || -> Result<()> {
        let format = "{{.DesiredState}} {{.CurrentState}}";
        let rows = docker.ok(&["service", "ps", "fails", "--format", format])?;
        let failed = rows
            .lines()
            .filter(|row| row.starts_with("Shutdown Failed "));
        ensure!(failed.count() == 2 && rows.lines().count() == 2, "{rows}");
        Ok(())
    };
    eventually("it failed twice", SOON, failed)?;
    holds_for("it is left alone", Duration::from_secs(1), failed)?;
    listed(manager, "fails", "replicated job 0/1 (0/1 completed)")
}

fn service(manager: &Waxseal, name: &str) -> Result<Value> {
    manager.engine.get(&format!("/services/{name}"))
}

fn listed(manager: &Waxseal, name: &str, expected: &str) -> Result<()> {
    let row = manager.docker.ok(&[
        "service",
        "ls",
        "--filter",
        &format!("name={name}"),
        "--format",
        "{{.Mode}} {{.Replicas}}",
    ])?;
    ensure!(row == expected, "{row}");
    Ok(())
}
