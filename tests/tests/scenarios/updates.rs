//! Rolling updates: secrets are rotated by them, and they outlive what happens to nodes.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{Dockerd, Scene, Waxseal, eventually, scenario};

use super::engine_worker::Pair;

/// Until a service has converged, on a busy machine.
const CONVERGE: Duration = Duration::from_secs(90);
/// Ends at once when stopped, fails at once if its secret says so.
const READ: &str = "cat /run/secrets/key; grep -q bad /run/secrets/key && exit 3; \
                    trap 'exit 0' TERM; sleep 1000 & wait";
/// Replicas of the services here.
const REPLICAS: usize = 3;

#[test]
fn secrets_are_rotated_task_by_task_and_back() -> Result<()> {
    scenario("rotate", |scene| {
        let pair = Pair::new(scene, &[])?;
        let docker = &pair.manager.docker;
        for (name, content) in [("v1", "one\n"), ("v2", "two\n"), ("v3", "bad\n")] {
            docker.ok_with_input(&["secret", "create", name, "-"], content.as_bytes())?;
        }
        for (name, image) in [("onengine", "bb:1"), ("native", "host")] {
            create(&pair.manager, name, image, "rollback")?;
            all_run(&pair.manager, name, "v1")?;
        }
        for name in ["onengine", "native"] {
            rotates(&pair.manager, name)?;
        }
        // The refusal names all that would be left without it.
        docker.refused(
            &["secret", "rm", "v2"],
            "rpc error: code = InvalidArgument desc = secret 'v2' is in use by the following \
             services: native, onengine",
        )?;
        for name in ["onengine", "native"] {
            docker.ok(&["service", "rm", name])?;
        }
        docker.ok(&["secret", "rm", "v1", "v2", "v3"])?;
        // Tasks outlive a daemon that is stopped; leaving ends them.
        docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// From v1 to v2; to v3, which no task lives with, and back.
fn rotates(manager: &Waxseal, name: &str) -> Result<()> {
    let docker = &manager.docker;
    let replace = |old: &str, new: &str| {
        let add = format!("source={new},target=key");
        let words = ["service", "update", "-d", "--secret-rm", old];
        docker.ok(&[&words[..], &["--secret-add", &add, name]].concat())
    };
    replace("v1", "v2")?;
    let (mut both, mut fewest) = (false, REPLICAS);
    eventually(format!("{name} has v2"), CONVERGE, || {
        let tasks = running(manager, name)?;
        both |= secrets(&tasks) == BTreeSet::from(["v1", "v2"]);
        fewest = fewest.min(tasks.len());
        ensure!(secrets(&tasks) == BTreeSet::from(["v2"]), "not yet");
        updated(manager, name, "completed")
    })?;
    ensure!(
        both && fewest + 1 >= REPLICAS,
        "{fewest} ran, not one by one"
    );
    all_run(manager, name, "v2")?;
    eventually("the new content is read", CONVERGE, || {
        let text = docker.ok(&["service", "logs", "--raw", name])?;
        let new = text.lines().filter(|line| *line == "two").count();
        ensure!(new == REPLICAS, "{text}");
        Ok(())
    })?;
    // What a rollback would bring back is in use.
    let said = docker.fails(&["secret", "rm", "v1"])?;
    ensure!(
        said.contains("is in use by the following service"),
        "{said}"
    );
    replace("v2", "v3")?;
    eventually(format!("{name} is back"), CONVERGE, || {
        fewest = fewest.min(running(manager, name)?.len());
        updated(manager, name, "rollback_completed")
    })?;
    ensure!(fewest + 1 >= REPLICAS, "{fewest} ran, not one by one");
    all_run(manager, name, "v2")
}

#[test]
fn an_update_outlives_a_drain_and_a_kill_of_engines() -> Result<()> {
    scenario("fleet", |scene| {
        let mut fleet = Fleet::of_engines(scene)?;
        fleet.survives_a_drain_and_a_kill()?;
        fleet.removed()
    })
}

#[test]
fn an_update_outlives_restarts_of_engine_and_manager() -> Result<()> {
    scenario("restarts", |scene| {
        let mut fleet = Fleet::of_engines(scene)?;
        fleet.during_an_update("engine", |fleet| {
            fleet.workers[0].stop()?;
            fleet.workers[0].up()
        })?;
        fleet.settled("engine", &[0, 1])?;
        fleet.during_an_update("manager", |fleet| fleet.manager.restart())?;
        fleet.settled("manager", &[0, 1])?;
        fleet.removed()
    })
}

#[test]
fn an_update_of_native_tasks_outlives_what_happens_to_nodes() -> Result<()> {
    scenario("natives", |scene| {
        let mut fleet = Fleet::of_natives(scene)?;
        fleet.survives_a_drain_and_a_kill()?;
        fleet.during_an_update("worker", |fleet| {
            fleet.workers[0].stop()?;
            fleet.workers[0].up()
        })?;
        fleet.settled("worker", &[0, 1])?;
        fleet.during_an_update("manager", |fleet| fleet.manager.restart())?;
        fleet.settled("manager", &[0, 1])?;
        fleet.removed()
    })
}

/// A worker of either kind, and its node id.
enum Worker {
    Engine(Dockerd, String),
    Native(Waxseal, String),
}

impl Worker {
    fn id(&self) -> &str {
        match self {
            Worker::Engine(_, id) | Worker::Native(_, id) => id,
        }
    }

    fn kill(&mut self) -> Result<()> {
        match self {
            Worker::Engine(engine, _) => engine.kill(),
            Worker::Native(node, _) => node.kill(),
        }
    }

    fn stop(&mut self) -> Result<()> {
        match self {
            Worker::Engine(engine, _) => engine.stop(),
            Worker::Native(node, _) => node.stop(),
        }
    }

    fn up(&mut self) -> Result<()> {
        match self {
            Worker::Engine(engine, _) => engine.up(),
            Worker::Native(node, _) => node.up(),
        }
    }

    /// What runs there, as tasks' statuses name it.
    fn running(&self) -> Result<BTreeSet<String>> {
        let node = match self {
            Worker::Engine(engine, _) => return Ok(engine.containers()?.into_iter().collect()),
            Worker::Native(node, _) => node,
        };
        let mut running = BTreeSet::new();
        for entry in fs::read_dir(node.exec_root().join("tasks"))? {
            let entry = entry?;
            if !entry.path().join("exit.json").exists() {
                running.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(running)
    }
}

/// A drained manager, two workers, and a service on them that is updated slowly.
struct Fleet {
    manager: Waxseal,
    workers: Vec<Worker>,
}

impl Fleet {
    fn manager(scene: &Scene) -> Result<Waxseal> {
        let manager = scene.waxseal("manager")?;
        manager.init(&["--availability", "drain", "--dispatcher-heartbeat", "1s"])?;
        manager
            .docker
            .ok_with_input(&["secret", "create", "v1", "-"], b"one\n")?;
        Ok(manager)
    }

    fn of_engines(scene: &Scene) -> Result<Fleet> {
        let manager = Fleet::manager(scene)?;
        let mut workers = Vec::new();
        for name in ["a", "b"] {
            let engine = scene.dockerd(name)?;
            engine.join(&manager.worker_token()?, &manager.remote())?;
            let id = engine.node_id()?;
            workers.push(Worker::Engine(engine, id));
        }
        Fleet::with(manager, workers, "bb:1")
    }

    fn of_natives(scene: &Scene) -> Result<Fleet> {
        let manager = Fleet::manager(scene)?;
        let mut workers = Vec::new();
        for name in ["a", "b"] {
            let node = scene.waxseal(name)?;
            node.join(&manager.worker_token()?, &manager.remote())?;
            let info = node.engine.get("/info")?;
            let id = info["Swarm"]["NodeID"].as_str().context("no node id")?;
            let id = id.to_owned();
            workers.push(Worker::Native(node, id));
        }
        Fleet::with(manager, workers, "host")
    }

    fn with(manager: Waxseal, workers: Vec<Worker>, image: &str) -> Result<Fleet> {
        create(&manager, "web", image, "continue")?;
        all_run(&manager, "web", "v1")?;
        Ok(Fleet { manager, workers })
    }

    fn available(&self, worker: usize, availability: &str) -> Result<()> {
        let id = self.workers[worker].id();
        let words = ["node", "update", "--availability", availability, id];
        self.manager.docker.ok(&words)?;
        Ok(())
    }

    /// Starts an update and lets `trouble` come when it is halfway.
    fn during_an_update(
        &mut self,
        mark: &str,
        trouble: impl FnOnce(&mut Fleet) -> Result<()>,
    ) -> Result<()> {
        let env = format!("MARK={mark}");
        self.manager
            .docker
            .ok(&["service", "update", "-d", "--env-add", &env, "web"])?;
        eventually("the update is halfway", CONVERGE, || {
            let tasks = running(&self.manager, "web")?;
            ensure!(tasks.iter().any(|task| has_env(task, &env)), "not yet");
            Ok(())
        })?;
        updated(&self.manager, "web", "updating")?;
        trouble(self)
    }

    /// One worker is drained during an update, the other one killed during the next.
    fn survives_a_drain_and_a_kill(&mut self) -> Result<()> {
        self.during_an_update("drained", |fleet| fleet.available(0, "drain"))?;
        self.settled("drained", &[1])?;
        self.available(0, "active")?;
        self.during_an_update("killed", |fleet| fleet.workers[1].kill())?;
        self.settled("killed", &[0])?;
        self.workers[1].up()?;
        self.settled("killed", &[0, 1])
    }

    /// Waits until the update has completed on the workers that are left, and nothing
    /// else runs there.
    fn settled(&self, mark: &str, left: &[usize]) -> Result<()> {
        let env = format!("MARK={mark}");
        let ids: BTreeSet<&str> = left.iter().map(|index| self.workers[*index].id()).collect();
        eventually(format!("web has settled: {mark}"), CONVERGE, || {
            updated(&self.manager, "web", "completed")?;
            let tasks = running(&self.manager, "web")?;
            let is_right = |task: &Value| {
                has_env(task, &env) && task["NodeID"].as_str().is_some_and(|id| ids.contains(id))
            };
            ensure!(
                tasks.len() == REPLICAS && tasks.iter().all(is_right),
                "{}",
                self.manager.docker.ok(&["service", "ps", "web"])?
            );
            for index in left {
                let worker = &self.workers[*index];
                let told: BTreeSet<String> = tasks
                    .iter()
                    .filter(|task| task["NodeID"] == worker.id())
                    .filter_map(|task| task["Status"]["ContainerStatus"]["ContainerID"].as_str())
                    .map(str::to_owned)
                    .collect();
                let there = worker.running()?;
                ensure!(there == told, "worker {index} runs {there:?}, not {told:?}");
            }
            Ok(())
        })
    }

    fn removed(&self) -> Result<()> {
        self.manager.docker.ok(&["service", "rm", "web"])?;
        eventually("nothing is left", CONVERGE, || {
            for worker in &self.workers {
                let left = worker.running()?;
                ensure!(left.is_empty(), "{left:?}");
                if let Worker::Engine(engine, _) = worker {
                    let left = engine.docker.ok(&["ps", "-aq"])?;
                    ensure!(left.is_empty(), "{left}");
                }
            }
            let tasks = self.manager.engine.get("/tasks")?;
            ensure!(tasks.as_array().is_some_and(Vec::is_empty), "{tasks}");
            Ok(())
        })?;
        self.manager.docker.ok(&["secret", "rm", "v1"])?;
        Ok(())
    }
}

fn create(manager: &Waxseal, name: &str, image: &str, on_failure: &str) -> Result<()> {
    let replicas = REPLICAS.to_string();
    manager.docker.ok(&[
        "service",
        "create",
        "-d",
        "--no-resolve-image",
        "--name",
        name,
        "--network",
        "host",
        "--replicas",
        &replicas,
        "--secret",
        "source=v1,target=key",
        "--update-delay",
        "300ms",
        "--update-monitor",
        "500ms",
        "--update-failure-action",
        on_failure,
        "--rollback-monitor",
        "300ms",
        "--restart-delay",
        "200ms",
        image,
        "sh",
        "-c",
        READ,
    ])?;
    Ok(())
}

/// The tasks of a service that run and are to.
fn running(manager: &Waxseal, name: &str) -> Result<Vec<Value>> {
    let path = format!("/tasks?filters=%7B%22service%22%3A%5B%22{name}%22%5D%7D");
    let tasks = manager.engine.get(&path)?;
    let runs =
        |task: &&Value| task["DesiredState"] == "running" && task["Status"]["State"] == "running";
    let tasks = tasks.as_array().context("no list")?;
    Ok(tasks.iter().filter(runs).cloned().collect())
}

fn has_env(task: &Value, wanted: &str) -> bool {
    let env = task["Spec"]["ContainerSpec"]["Env"].as_array();
    env.is_some_and(|env| env.iter().any(|entry| entry == wanted))
}

/// The names of the secrets that tasks have.
fn secrets(tasks: &[Value]) -> BTreeSet<&str> {
    let secrets = tasks
        .iter()
        .map(|task| &task["Spec"]["ContainerSpec"]["Secrets"][0]["SecretName"]);
    secrets.filter_map(Value::as_str).collect()
}

fn all_run(manager: &Waxseal, name: &str, secret: &str) -> Result<()> {
    eventually(format!("{name} runs with {secret}"), CONVERGE, || {
        let tasks = running(manager, name)?;
        ensure!(
            tasks.len() == REPLICAS && secrets(&tasks) == BTreeSet::from([secret]),
            "{}",
            manager.docker.ok(&["service", "ps", "--no-trunc", name])?
        );
        Ok(())
    })
}

fn updated(manager: &Waxseal, name: &str, state: &str) -> Result<()> {
    let status = &manager.engine.get(&format!("/services/{name}"))?["UpdateStatus"];
    ensure!(status["State"] == state, "{status}");
    Ok(())
}
