//! An unmodified Docker Engine as a worker of ours.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use waxseal_tests::{Dockerd, Scene, Waxseal, eventually, holds_for, scenario};

use super::{carried::carried_to_the_container, texts};

/// Until tasks have moved.
const SOON: Duration = Duration::from_secs(40);
/// What the containers do: they end at SIGTERM.
const SHOW: &str =
    "trap 'exit 0' TERM; cat /run/secrets/db_pass; echo complaint >&2; sleep 1000 & wait";
const SECRET: &[u8] = b"s3cret for an engine\n";

/// A manager of ours with an engine that has joined it.
pub(super) struct Pair {
    pub(super) manager: Waxseal,
    pub(super) engine: Dockerd,
    /// The engine's node id.
    pub(super) id: String,
}

impl Pair {
    pub(super) fn new(scene: &Scene, init: &[&str]) -> Result<Pair> {
        Pair::offering(scene, init, &[])
    }

    /// The same with generic resources of the engine.
    fn offering(scene: &Scene, init: &[&str], resources: &[&str]) -> Result<Pair> {
        let manager = scene.waxseal("manager")?;
        manager.init(init)?;
        let engine = Dockerd::start_offering(scene, "engine", resources)?;
        engine.join(&manager.worker_token()?, &manager.remote())?;
        let id = engine.node_id()?;
        let pair = Pair {
            manager,
            engine,
            id,
        };
        pair.node_is("Ready")?;
        Ok(pair)
    }

    /// Waits for the engine's status in `node ls`.
    fn node_is(&self, status: &str) -> Result<()> {
        eventually(format!("the engine is {status}"), SOON, || {
            let rows =
                self.manager
                    .docker
                    .ok(&["node", "ls", "--format", "{{.ID}} {{.Status}}"])?;
            let row = format!("{} {status}", self.id);
            ensure!(rows.lines().any(|found| found == row), "{rows}");
            Ok(())
        })
    }

    /// A service of the imported image that shows a secret.
    fn service(&self, replicas: &str) -> Result<()> {
        self.manager
            .docker
            .ok_with_input(&["secret", "create", "db_pass", "-"], SECRET)?;
        self.manager.docker.ok(&[
            "service",
            "create",
            "--no-resolve-image",
            "--name",
            "web",
            "--network",
            "host",
            "--secret",
            "db_pass",
            "--replicas",
            replicas,
            "--update-monitor",
            "1s",
            "bb:1",
            "sh",
            "-c",
            SHOW,
        ])?;
        Ok(())
    }

    /// Waits for the number of running tasks, as `service ls` has it.
    fn replicas(&self, count: &str) -> Result<()> {
        eventually(format!("web has {count}"), SOON, || {
            let list = [
                "service",
                "ls",
                "--filter",
                "name=web",
                "--format",
                "{{.Replicas}}",
            ];
            let row = self.manager.docker.ok(&list)?;
            ensure!(
                row == count,
                "{row}: {}",
                self.manager
                    .docker
                    .ok(&["service", "ps", "--no-trunc", "web"])?
            );
            Ok(())
        })
    }

    fn containers(&self) -> Result<BTreeSet<String>> {
        Ok(self.engine.containers()?.into_iter().collect())
    }

    /// Removes services and waits until the engine has no container.
    pub(super) fn clear(&self, services: &[&str]) -> Result<()> {
        let words = [&["service", "rm"], services].concat();
        self.manager.docker.ok(&words)?;
        eventually("no container is left", SOON, || {
            let left = self.engine.docker.ok(&["ps", "-aq"])?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
    }

    /// The serial number of the engine's certificate, as openssl reads it.
    fn serial(&self) -> Result<String> {
        let path = self
            .engine
            .dir()
            .join("data/swarm/certificates/swarm-node.crt");
        let output = waxseal_tests::run(
            std::process::Command::new("openssl")
                .args(["x509", "-noout", "-serial", "-in"])
                .arg(path),
            SOON,
        )?;
        ensure!(output.code == 0, "{}", output.err());
        Ok(output.out())
    }
}

#[test]
fn a_wrong_token_is_refused_with_its_reason() -> Result<()> {
    scenario("tokens", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let engine = scene.dockerd("engine")?;
        let token = manager.worker_token()?;
        let parts: Vec<&str> = token.split('-').collect();
        let (digest, secret) = (parts[2], parts[3]);
        let refused = |token: &str| {
            let words = engine.join_words(token, &manager.remote());
            engine
                .docker
                .fails(&words.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let said = refused(&format!("SWMTKN-1-{digest}-{}", other(secret)))?;
        ensure!(said.contains(texts::WRONG_TOKEN), "{said}");
        let said = refused(&format!("SWMTKN-1-{}-{secret}", other(digest)))?;
        ensure!(said.contains(texts::WRONG_DIGEST), "{said}");
        let said = refused("SWMTKN-1-short-short")?;
        ensure!(said.contains("invalid join token"), "{said}");
        // One manager, and never a stock engine: said before anything is recorded.
        let said = refused(
            &manager
                .docker
                .ok(&["swarm", "join-token", "-q", "manager"])?,
        )?;
        ensure!(said.contains("manager"), "{said}");
        ensure!(
            !said.contains("Timeout was reached"),
            "the refusal came too late: {said}"
        );
        let state = engine
            .docker
            .ok(&["info", "--format", "{{.Swarm.LocalNodeState}}"])?;
        ensure!(state == "inactive", "{state}");
        ensure!(
            manager.docker.ok(&["node", "ls", "-q"])?.lines().count() == 1,
            "a record was made"
        );
        // A token that was rotated away is as good as a wrong one; the new one joins.
        manager
            .docker
            .ok(&["swarm", "join-token", "--rotate", "worker"])?;
        let said = refused(&token)?;
        ensure!(said.contains(texts::WRONG_TOKEN), "{said}");
        engine.join(&manager.worker_token()?, &manager.remote())?;
        ensure!(manager.docker.ok(&["node", "ls", "-q"])?.lines().count() == 2);
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// The same text with its last letter changed.
fn other(text: &str) -> String {
    let (head, last) = text.split_at(text.len() - 1);
    format!("{head}{}", if last == "0" { "1" } else { "0" })
}

#[test]
fn an_engine_runs_services_with_secrets() -> Result<()> {
    scenario("worker", |scene| {
        let pair = Pair::offering(scene, &[], &["gpu=g1", "gpu=g2", "gpu=g3", "fpga=2"])?;
        joined(&pair)?;
        generic_resources(&pair)?;
        carried_to_the_container(&pair)?;
        pair.service("2")?;
        pair.replicas("2/2")?;
        for container in pair.containers()? {
            secret_in(&pair.engine, &container)?;
        }
        let containers = pair.containers()?;
        ensure!(containers.len() == 2, "{containers:?}");
        service_logs(&pair)?;
        exit_code(&pair)?;
        drain(&pair)?;
        renewal(&pair)?;
        pair.clear(&["web"])?;
        leaves(&pair)?;
        pair.manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn joined(pair: &Pair) -> Result<()> {
    let info = pair.engine.docker.ok(&["info"])?;
    for line in ["Swarm: active", "Is Manager: false"] {
        ensure!(
            info.lines().any(|found| found.trim() == line),
            "no {line:?} in {info}"
        );
    }
    ensure!(info.contains(&pair.manager.remote()), "{info}");
    pair.engine.docker.refused(&["node", "ls"], texts::WORKER)?;
    let node = pair.manager.docker.ok(&[
        "node",
        "inspect",
        &pair.id,
        "--format",
        "{{.Spec.Role}} {{.Description.Engine.EngineVersion}} {{.ManagerStatus}}",
    ])?;
    ensure!(
        node.starts_with("worker 20.10.") && node.ends_with(" <nil>"),
        "{node}"
    );
    let tls = pair
        .manager
        .docker
        .ok(&["node", "ls", "--format", "{{.ID}} {{.TLSStatus}}"])?;
    ensure!(tls.contains(&format!("{} Ready", pair.id)), "{tls}");
    // Promotion of a stock engine is refused before anything is recorded.
    let said = pair.manager.docker.fails(&["node", "promote", &pair.id])?;
    ensure!(said.starts_with("Error response from daemon: "), "{said}");
    let role =
        pair.manager
            .docker
            .ok(&["node", "inspect", &pair.id, "--format", "{{.Spec.Role}}"])?;
    ensure!(role == "worker", "{role}");
    Ok(())
}

/// What tasks of a service reserve is counted, given to them by name, and known to the container.
fn generic_resources(pair: &Pair) -> Result<()> {
    let docker = &pair.manager.docker;
    let offered = [
        "node",
        "inspect",
        &pair.id,
        "--format",
        "{{json .Description.Resources.GenericResources}}",
    ];
    let offered = docker.ok(&offered)?;
    let names = ["g1", "g2", "g3"]
        .map(|name| format!(r#"{{"NamedResourceSpec":{{"Kind":"gpu","Value":"{name}"}}}}"#));
    ensure!(offered.contains(&names.join(",")), "{offered}");
    let number = r#"{"DiscreteResourceSpec":{"Kind":"fpga","Value":2}}"#;
    ensure!(offered.contains(number), "{offered}");
    let create = |name: &str, resources: &[&str]| -> Result<String> {
        let begin = "service create -d --no-resolve-image --network host --name";
        let mut words: Vec<&str> = begin.split(' ').chain([name]).collect();
        for one in resources {
            words.extend(["--generic-resource", one]);
        }
        words.extend(["bb:1", "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"]);
        docker.ok(&words)
    };
    create("one", &["gpu=2", "fpga=1"])?;
    given(
        pair,
        "one",
        &["DOCKER_RESOURCE_FPGA=1", "DOCKER_RESOURCE_GPU=g1,g2"],
    )?;
    create("two", &["gpu=2"])?;
    eventually("two waits", SOON, || {
        let row = docker.ok(&[
            "service",
            "ps",
            "two",
            "--no-trunc",
            "--format",
            "{{.Error}}",
        ])?;
        ensure!(row.contains("insufficient resources on 1 node"), "{row}");
        Ok(())
    })?;
    let change = "service update -d --generic-resource-rm gpu --generic-resource-add fpga=1 two";
    docker.ok(&change.split(' ').collect::<Vec<_>>())?;
    given(pair, "two", &["DOCKER_RESOURCE_FPGA=1"])?;
    pair.clear(&["one", "two"])
}

/// Waits for the container of a service, which must have these variables and no other of the kind.
fn given(pair: &Pair, service: &str, expected: &[&str]) -> Result<()> {
    let label = format!("label=com.docker.swarm.service.name={service}");
    let container = eventually(format!("{service} runs"), SOON, || {
        let id = pair.engine.docker.ok(&["ps", "-q", "--filter", &label])?;
        ensure!(!id.is_empty(), "no container");
        Ok(id)
    })?;
    let env = "{{range .Config.Env}}{{println .}}{{end}}";
    let env = pair
        .engine
        .docker
        .ok(&["inspect", "--format", env, &container])?;
    let found = env
        .lines()
        .filter(|line| line.starts_with("DOCKER_RESOURCE_"));
    let found: BTreeSet<&str> = found.collect();
    ensure!(found == expected.iter().copied().collect(), "{env}");
    Ok(())
}

fn secret_in(engine: &Dockerd, container: &str) -> Result<()> {
    let file = "/run/secrets/db_pass";
    let bytes = engine.docker.run(&["exec", container, "cat", file])?;
    ensure!(bytes.stdout == SECRET, "{}{}", bytes.out(), bytes.err());
    let stat = engine
        .docker
        .ok(&["exec", container, "stat", "-c", "%a %u %g", file])?;
    ensure!(stat == "444 0 0", "{stat}");
    let mounts = engine
        .docker
        .ok(&["exec", container, "cat", "/proc/self/mounts"])?;
    let mount = mounts
        .lines()
        .find(|line| line.contains(file))
        .context("the secret is no mount")?;
    ensure!(mount.contains(" tmpfs ro,"), "{mount}");
    Ok(())
}

fn service_logs(pair: &Pair) -> Result<()> {
    eventually("both streams of both tasks are there", SOON, || {
        let output = pair.manager.docker.run(&["service", "logs", "web"])?;
        ensure!(output.code == 0, "{}", output.err());
        let count = |text: &str, end: &str| text.lines().filter(|line| line.ends_with(end)).count();
        ensure!(
            count(&output.out(), "| s3cret for an engine") == 2,
            "{}",
            output.out()
        );
        ensure!(count(&output.err(), "| complaint") == 2, "{}", output.err());
        Ok(())
    })
}

fn exit_code(pair: &Pair) -> Result<()> {
    let docker = &pair.manager.docker;
    docker.ok(&[
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--name",
        "fails",
        "--network",
        "host",
        "--restart-condition",
        "none",
        "bb:1",
        "sh",
        "-c",
        "exit 7",
    ])?;
    eventually("the task failed", SOON, || {
        let format = "{{.CurrentState}}|{{.Error}}";
        let row = docker.ok(&["service", "ps", "fails", "--no-trunc", "--format", format])?;
        ensure!(
            row.starts_with("Failed ") && row.contains("non-zero exit (7)"),
            "{row}"
        );
        Ok(())
    })?;
    let task = docker.ok(&["service", "ps", "fails", "-q", "--no-trunc"])?;
    let status = &pair.manager.engine.get(&format!("/tasks/{task}"))?["Status"];
    ensure!(status["ContainerStatus"]["ExitCode"] == 7, "{status}");
    docker.ok(&["service", "rm", "fails"])?;
    Ok(())
}

fn drain(pair: &Pair) -> Result<()> {
    let docker = &pair.manager.docker;
    docker.ok(&["node", "update", "--availability", "drain", &pair.id])?;
    pair.replicas("0/2")?;
    eventually("the containers are gone", SOON, || {
        let left = pair.engine.containers()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    // No other node can run the image: the reason is told.
    eventually("the reason is told", SOON, || {
        let rows = docker.ok(&[
            "service",
            "ps",
            "web",
            "--no-trunc",
            "--filter",
            "desired-state=running",
            "--format",
            "{{.CurrentState}}|{{.Error}}",
        ])?;
        ensure!(
            rows.lines()
                .all(|row| row.starts_with("Pending ") && !row.ends_with('|')),
            "{rows}"
        );
        Ok(())
    })?;
    docker.ok(&["node", "update", "--availability", "active", &pair.id])?;
    pair.replicas("2/2")
}

/// A new certificate on demand, no container lost, and the session comes back.
fn renewal(pair: &Pair) -> Result<()> {
    let (before, containers) = (pair.serial()?, pair.containers()?);
    pair.manager.cli.ok(&["node", "renew", &pair.id])?;
    eventually("the engine has another certificate", SOON, || {
        let now = pair.serial()?;
        ensure!(now != before, "{now}");
        Ok(())
    })?;
    pair.node_is("Ready")?;
    holds_for("the containers stay", Duration::from_secs(3), || {
        ensure!(pair.containers()? == containers);
        Ok(())
    })?;
    pair.manager.docker.ok(&["service", "scale", "web=3"])?;
    pair.replicas("3/3")
}

fn leaves(pair: &Pair) -> Result<()> {
    let docker = &pair.manager.docker;
    docker.refused(
        &["node", "rm", &pair.id],
        &format!(
            "rpc error: code = FailedPrecondition desc = node {} is not down and can't be removed",
            pair.id
        ),
    )?;
    pair.engine.docker.ok(&["swarm", "leave"])?;
    pair.node_is("Down")?;
    docker.ok(&["node", "rm", &pair.id])?;
    ensure!(!docker.ok(&["node", "ls", "-q"])?.contains(&pair.id));
    // It may come again, as another node.
    pair.engine
        .join(&pair.manager.worker_token()?, &pair.manager.remote())?;
    let again = pair.engine.node_id()?;
    ensure!(again != pair.id, "a removed node came back as itself");
    docker.ok(&["node", "rm", "--force", &again])?;
    ensure!(!docker.ok(&["node", "ls", "-q"])?.contains(&again));
    holds_for(
        "the removed node stays away",
        Duration::from_secs(5),
        || {
            ensure!(!docker.ok(&["node", "ls", "-q"])?.contains(&again));
            Ok(())
        },
    )?;
    pair.engine.docker.ok(&["swarm", "leave", "--force"])?;
    Ok(())
}

#[test]
fn containers_outlive_restarts_of_the_manager() -> Result<()> {
    scenario("survive", |scene| {
        let mut pair = Pair::new(scene, &["--autolock"])?;
        pair.service("2")?;
        pair.replicas("2/2")?;
        let key = pair.manager.unlock_key()?;
        let containers = pair.containers()?;
        // 1. Killed, and locked for longer than a heartbeat's expiry.
        pair.manager.kill()?;
        pair.manager.up()?;
        pair.manager.reaches("locked")?;
        holds_for(
            "the containers run without manager",
            Duration::from_secs(17),
            || {
                ensure!(pair.containers()? == containers, "{:?}", pair.containers()?);
                Ok(())
            },
        )?;
        // 2. Unlocked: the same containers, seen again.
        pair.manager.unlock(&key)?;
        pair.node_is("Ready")?;
        pair.replicas("2/2")?;
        holds_for("the containers stay", Duration::from_secs(8), || {
            ensure!(pair.containers()? == containers, "{:?}", pair.containers()?);
            Ok(())
        })?;
        // 3. The engine's own restart loses them; new ones come, with the secret.
        pair.engine.stop()?;
        pair.engine.up()?;
        pair.node_is("Ready")?;
        eventually("two new containers run", SOON, || {
            let now = pair.containers()?;
            ensure!(now.len() == 2 && now.is_disjoint(&containers), "{now:?}");
            Ok(())
        })?;
        pair.replicas("2/2")?;
        for container in pair.containers()? {
            secret_in(&pair.engine, &container)?;
        }
        secret_on_no_disk(&pair)?;
        pair.clear(&["web"])?;
        pair.engine.docker.ok(&["swarm", "leave"])?;
        pair.manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// Neither side has the secret in a file of its swarm state.
fn secret_on_no_disk(pair: &Pair) -> Result<()> {
    for dir in [
        pair.manager.data_root().to_owned(),
        pair.engine.dir().join("data/swarm"),
    ] {
        for file in files_below(&dir)? {
            let bytes = fs::read(&file)?;
            let found = bytes.windows(SECRET.len()).any(|window| window == SECRET);
            ensure!(!found, "the secret is in {}", file.display());
        }
    }
    Ok(())
}

fn files_below(dir: &std::path::Path) -> Result<Vec<std::path::PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}
