//! The stock CLI: services of native tasks, from create to rm.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use waxseal_tests::{Waxseal, eventually, mounts_below, scenario};

/// What tasks print and then wait for; they are killed at once when stopped.
const SHOW: &str = "cat /run/secrets/db_pass; exec sleep 1000";
/// Until tasks have moved.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn services_from_create_to_rm() -> Result<()> {
    scenario("service", |scene| {
        let mut node = scene.waxseal("node")?;
        // Most scenarios use the first CLI on the PATH, this one the distribution's.
        node.docker = node.docker.by(&scene.machine().last_docker);
        node.init(&[])?;
        let docker = &node.docker;
        docker.ok_with_input(&["secret", "create", "db_pass", "-"], b"s3cret\n")?;
        docker.ok_with_input(&["config", "create", "settings", "-"], b"level=3\n")?;
        refusals(&node)?;
        // Not detached: the CLI ends when all replicas run.
        let said = docker.ok(&[
            "service",
            "create",
            "--name",
            "web",
            "--network",
            "host",
            "--secret",
            "db_pass",
            "--replicas",
            "3",
            "--update-monitor",
            "1s",
            "--stop-signal",
            "KILL",
            "--label",
            "tier=front",
            "host",
            "sh",
            "-c",
            SHOW,
        ])?;
        ensure!(
            said.contains("verify: Service ") && said.contains("converged"),
            "{said}"
        );
        let row = docker.ok(&[
            "service",
            "ls",
            "--format",
            "{{.Name}} {{.Mode}} {{.Replicas}} {{.Image}}",
        ])?;
        ensure!(row == "web replicated 3/3 host:latest", "{row}");
        shown(&node)?;
        logs(&node)?;
        updated(&node)?;
        exits(&node)?;
        files(&node)?;
        global(&node)?;
        ensure!(docker.ok(&["service", "rm", "web"])? == "web");
        let said = docker.fails(&["service", "inspect", "web"])?;
        ensure!(said.contains("no such service: web"), "{said}");
        let said = docker.fails(&["service", "rm", "web"])?;
        // The daemon's words, and those that the CLI of 20.10 has for them.
        let words = ["service web not found", "No such service: web"];
        ensure!(words.iter().any(|words| said.contains(words)), "{said}");
        nothing_runs(&node)?;
        docker.ok(&["secret", "rm", "db_pass"])?;
        docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn refusals(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    let create = |words: &[&str]| {
        let mut all = vec!["service", "create", "-d", "--network", "host"];
        all.extend(words);
        docker.fails(&all)
    };
    let said = create(&["--secret", "nothing", "host", "true"])?;
    ensure!(said.contains("secret not found: nothing"), "{said}");
    let said = create(&["--name", "a.b", "host", "true"])?;
    ensure!(
        said.contains("name must be valid as a DNS name component"),
        "{said}"
    );
    let said = create(&["--constraint", "node.role", "host", "true"])?;
    ensure!(
        said.contains("constraint expected one operator from ==, !="),
        "{said}"
    );
    // No node could run these.
    for (flag, value) in [
        ("--workdir", "relative"),
        ("--stop-signal", "SIGFOO"),
        ("--cap-add", "FLY"),
    ] {
        let said = create(&[flag, value, "host", "true"])?;
        ensure!(
            said.contains("InvalidArgument desc = ContainerSpec: ") && said.contains(flag),
            "{said}"
        );
    }
    let options = ["--log-driver", "json-file", "--log-opt", "max-size=1m"];
    let said = create(&[&options[..], &["host", "true"]].concat())?;
    ensure!(said.contains("LogDriver.Options (--log-opt)"), "{said}");
    references(node)?;
    // What is not built is refused, not ignored.
    let said = docker.fails(&[
        "service",
        "create",
        "-d",
        "--publish",
        "8080:80",
        "host",
        "true",
    ])?;
    ensure!(said.starts_with("Error response from daemon: "), "{said}");
    let said = docker.fails(&[
        "service",
        "create",
        "-d",
        "--network",
        "overlay1",
        "host",
        "true",
    ])?;
    ensure!(said.contains("overlay1"), "{said}");
    ensure!(
        docker.ok(&["service", "ls", "-q"])?.is_empty(),
        "a refused service was made"
    );
    Ok(())
}

/// References that the CLI would not send.
fn references(node: &Waxseal) -> Result<()> {
    let other = node
        .docker
        .ok_with_input(&["secret", "create", "other", "-"], b"x")?;
    let id = node
        .docker
        .ok(&["secret", "inspect", "db_pass", "--format", "{{.ID}}"])?;
    let file = |name: &str| json!({"Name": name, "UID": "0", "GID": "0", "Mode": 0o444});
    let one = json!({"SecretID": id, "SecretName": "db_pass", "File": file("x")});
    let same = json!({"SecretID": other, "SecretName": "other", "File": file("x")});
    let misnamed = json!({"SecretID": other, "SecretName": "db_pass", "File": file("y")});
    let unknown = json!({"SecretID": "none", "SecretName": "none", "File": file("y")});
    let nowhere = json!({"SecretID": id, "SecretName": "db_pass"});
    for (secrets, text) in [
        (json!([one, same]), "have a conflicting target: 'x'"),
        (json!([misnamed]), "secret not found: db_pass"),
        (json!([unknown]), "secret not found: none"),
        (
            json!([nowhere]),
            "malformed secret reference, no target provided",
        ),
        (json!([{}]), "malformed secret reference"),
    ] {
        let container = json!({"Image": "host", "Command": ["true"], "Secrets": secrets});
        let networks = json!([{"Target": "host"}]);
        let template = json!({"ContainerSpec": container, "Networks": networks});
        let spec = json!({"Name": "refused", "TaskTemplate": template});
        let answer = node
            .engine
            .call("POST", "/services/create", Some(&spec))?
            .expect(400)?;
        let message = answer.message()?;
        ensure!(
            message.starts_with("rpc error: code = InvalidArgument desc = "),
            "{message}"
        );
        ensure!(message.contains(text), "{message}");
    }
    node.docker.ok(&["secret", "rm", "other"])?;
    Ok(())
}

fn shown(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    let rows = docker.ok(&[
        "service",
        "ps",
        "web",
        "--format",
        "{{.Name}} {{.Image}} {{.DesiredState}} {{.CurrentState}}",
    ])?;
    let mut rows: Vec<_> = rows.lines().collect();
    rows.sort_unstable();
    ensure!(rows.len() == 3, "{rows:?}");
    for (slot, row) in (1..).zip(rows) {
        ensure!(
            row.starts_with(&format!("web.{slot} host:latest Running Running ")),
            "{row}"
        );
    }
    let format = "{{.Spec.Labels.tier}} {{.Spec.Mode.Replicated.Replicas}} \
                  {{(index .Spec.TaskTemplate.ContainerSpec.Secrets 0).SecretName}} \
                  {{(index .Spec.TaskTemplate.ContainerSpec.Secrets 0).File.Mode}}";
    let fields = docker.ok(&["service", "inspect", "web", "--format", format])?;
    ensure!(fields == "front 3 db_pass -r--r--r--", "{fields}");
    docker.ok(&["service", "inspect", "--pretty", "web"])?;
    let rows = docker.ok(&["node", "ps", "self", "--format", "{{.Name}}"])?;
    ensure!(rows.lines().count() == 3, "{rows}");
    docker.refused(
        &["service", "create", "-d", "--name", "web", "host", "true"],
        "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service web already exists",
    )
}

fn logs(node: &Waxseal) -> Result<()> {
    eventually("the logs are there", SOON, || {
        let text = node.docker.ok(&["service", "logs", "web"])?;
        let lines: Vec<_> = text.lines().collect();
        ensure!(lines.len() == 3, "{lines:?}");
        for line in lines {
            ensure!(
                line.starts_with("web.") && line.ends_with("| s3cret"),
                "{line}"
            );
        }
        Ok(())
    })?;
    let raw = node
        .docker
        .ok(&["service", "logs", "--raw", "--tail", "1", "web"])?;
    ensure!(raw.lines().all(|line| line == "s3cret"), "{raw}");
    let said = node.docker.fails(&["service", "logs", "nothing"])?;
    ensure!(said.contains("nothing"), "{said}");
    Ok(())
}

fn updated(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    docker.ok(&["service", "scale", "web=2"])?;
    replicas(node, "web", "2/2")?;
    docker.ok(&[
        "service",
        "update",
        "--env-add",
        "LEVEL=7",
        "--update-parallelism",
        "0",
        "web",
    ])?;
    replicas(node, "web", "2/2")?;
    let env = "{{json .Spec.TaskTemplate.ContainerSpec.Env}}";
    ensure!(docker.ok(&["service", "inspect", "web", "--format", env])? == r#"["LEVEL=7"]"#);
    docker.ok(&["service", "rollback", "web"])?;
    ensure!(docker.ok(&["service", "inspect", "web", "--format", env])? == "null");
    docker.ok(&["service", "update", "-d", "--force", "web"])?;
    let said = docker.fails(&["service", "scale", "nothing=2"])?;
    ensure!(said.contains("nothing"), "{said}");
    docker.ok(&[
        "service",
        "update",
        "--secret-rm",
        "db_pass",
        "--args",
        "sleep 1000",
        "web",
    ])?;
    docker.ok(&["secret", "inspect", "db_pass"])?;
    docker.ok(&["service", "update", "--secret-add", "db_pass", "web"])?;
    replicas(node, "web", "2/2")
}

fn replicas(node: &Waxseal, service: &str, count: &str) -> Result<()> {
    eventually(format!("{service} has {count}"), SOON, || {
        let name = format!("name={service}");
        let row = node.docker.ok(&[
            "service",
            "ls",
            "--filter",
            &name,
            "--format",
            "{{.Replicas}}",
        ])?;
        ensure!(row == count, "{row}");
        Ok(())
    })
}

/// A task that fails says with which code, and is tried again as its policy says.
fn exits(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    docker.ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "fails",
        "--network",
        "host",
        "--restart-max-attempts",
        "1",
        "--restart-delay",
        "100ms",
        "host",
        "sh",
        "-c",
        "echo gone >&2; exit 7",
    ])?;
    eventually("two tasks failed", SOON, || {
        let rows = docker.ok(&[
            "service",
            "ps",
            "fails",
            "--no-trunc",
            "--format",
            "{{.CurrentState}}|{{.Error}}",
        ])?;
        let failed = rows
            .lines()
            .filter(|row| row.starts_with("Failed "))
            .count();
        ensure!(failed == 2, "{rows}");
        ensure!(rows.contains("non-zero exit (7)"), "{rows}");
        Ok(())
    })?;
    let task = docker.ok(&["service", "ps", "fails", "-q", "--no-trunc"])?;
    let task = task.lines().next().unwrap_or_default();
    let object = node.engine.get(&format!("/tasks/{task}"))?;
    ensure!(
        object["Status"]["ContainerStatus"]["ExitCode"] == 7,
        "{}",
        object["Status"]
    );
    ensure!(docker.ok(&["service", "logs", "--raw", "fails"]).is_ok());
    docker.ok(&["service", "rm", "fails"])?;
    // A program that is not there is no reason for anything to hang.
    docker.ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "absent",
        "--network",
        "host",
        "--restart-condition",
        "none",
        "host",
        "/no/such/program",
    ])?;
    eventually("the task is refused", SOON, || {
        let rows = docker.ok(&[
            "service",
            "ps",
            "absent",
            "--no-trunc",
            "--format",
            "{{.CurrentState}}|{{.Error}}",
        ])?;
        ensure!(rows.contains("/no/such/program"), "{rows}");
        Ok(())
    })?;
    docker.ok(&["service", "rm", "absent"])?;
    Ok(())
}

/// Place, owner and mode of files, and of the mount they are on.
fn files(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    let script = "stat -c '%n %a %u %g' /run/secrets/named /etc/wx-here/conf /settings; \
                  cat /run/secrets/named /etc/wx-here/conf /settings; \
                  grep ' /run/secrets ' /proc/self/mounts; \
                  touch /run/secrets/new || echo read-only; \
                  exec sleep 1000";
    docker.ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "files",
        "--network",
        "host",
        "--stop-signal",
        "KILL",
        "--secret",
        "source=db_pass,target=named,uid=65534,gid=65534,mode=0400",
        "--secret",
        "source=db_pass,target=/etc/wx-here/conf,mode=0440",
        "--config",
        "settings",
        "host",
        "sh",
        "-c",
        script,
    ])?;
    let text = eventually("the task has looked", SOON, || {
        let text = docker.ok(&["service", "logs", "--raw", "files"])?;
        ensure!(text.contains("read-only"), "{text}");
        Ok(text)
    })?;
    for line in [
        "/run/secrets/named 400 65534 65534",
        "/etc/wx-here/conf 440 0 0",
        "/settings 444 0 0",
        "s3cret",
        "level=3",
    ] {
        ensure!(
            text.lines().any(|found| found == line),
            "no line {line:?} in {text}"
        );
    }
    let mount = text
        .lines()
        .find(|line| line.contains(" /run/secrets tmpfs "))
        .unwrap_or_default();
    let options = mount.split(' ').nth(3).unwrap_or_default();
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        ensure!(
            options.split(',').any(|found| found == option),
            "no {option} in {text}"
        );
    }
    ensure!(
        !std::path::Path::new("/etc/wx-here").exists(),
        "the host's /etc was changed"
    );
    docker.ok(&["service", "rm", "files"])?;
    Ok(())
}

fn global(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    docker.ok(&[
        "service",
        "create",
        "--name",
        "everywhere",
        "--mode",
        "global",
        "--network",
        "host",
        "--update-monitor",
        "1s",
        "--stop-signal",
        "KILL",
        "host",
        "sleep",
        "1000",
    ])?;
    replicas(node, "everywhere", "1/1")?;
    docker
        .ok(&["node", "update", "--availability", "drain", "self"])
        .err();
    let id = docker.ok(&["node", "ls", "-q"])?;
    docker.ok(&["node", "update", "--availability", "drain", &id])?;
    replicas(node, "web", "0/2")?;
    docker.ok(&["node", "update", "--availability", "active", &id])?;
    replicas(node, "web", "2/2")?;
    replicas(node, "everywhere", "1/1")?;
    docker.ok(&["service", "rm", "everywhere"])?;
    Ok(())
}

/// No task, no socket of a shim, no mount.
fn nothing_runs(node: &Waxseal) -> Result<()> {
    eventually("all tasks are gone", SOON, || {
        let tasks = node.engine.get("/tasks")?;
        ensure!(tasks.as_array().is_some_and(Vec::is_empty), "{tasks}");
        let root = node.exec_root().join("tasks");
        let left: Vec<_> = std::fs::read_dir(&root)?
            .filter_map(Result::ok)
            .map(|e| e.path())
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        ensure!(mounts_below(node.dir())?.is_empty());
        Ok(())
    })
}
