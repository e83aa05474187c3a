//! Native tasks: they outlive their daemon, die with their shim, and leave nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use waxseal_tests::{Scene, Waxseal, eventually, holds_for, processes_below, run, scenario};

const SOON: Duration = Duration::from_secs(30);
const SECRET: &[u8] = b"s3cret of a native task\n";
/// Counts in the log, so that a gap shows.
const COUNT: &str =
    "cat /run/secrets/db_pass; n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done";

/// A task as the API shows it.
#[derive(Debug, Clone, PartialEq)]
struct Task {
    id: String,
    state: String,
    pid: u32,
}

fn tasks(node: &Waxseal) -> Result<Vec<Task>> {
    let list = node.engine.get("/tasks")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let task = |object: &Value| Task {
        id: text(&object["ID"]),
        state: text(&object["Status"]["State"]),
        pid: object["Status"]["ContainerStatus"]["PID"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .unwrap_or(0),
    };
    Ok(list
        .as_array()
        .context("no list")?
        .iter()
        .map(task)
        .collect())
}

/// A node with one task that counts.
fn counting(scene: &Scene, init: &[&str], policy: &[&str]) -> Result<(Waxseal, Task)> {
    let node = scene.waxseal("node")?;
    node.init(init)?;
    node.docker
        .ok_with_input(&["secret", "create", "db_pass", "-"], SECRET)?;
    let mut words = vec![
        "service",
        "create",
        "--name",
        "count",
        "--network",
        "host",
        "--secret",
        "db_pass",
        "--update-monitor",
        "1s",
        "--stop-signal",
        "KILL",
    ];
    words.extend(policy);
    words.extend(["host", "sh", "-c", COUNT]);
    node.docker.ok(&words)?;
    let task = tasks(&node)?
        .into_iter()
        .find(|task| task.state == "running")
        .context("no task")?;
    ensure!(
        Path::new(&format!("/proc/{}", task.pid)).exists(),
        "{task:?}"
    );
    Ok((node, task))
}

/// The task's files as the task sees them, read by root.
fn file_of(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root/run/secrets/db_pass"))
}

/// The shim of the only task.
fn shim(node: &Waxseal) -> Result<u32> {
    let tasks = node.exec_root().join("tasks");
    let found = processes_below(&tasks)?;
    let found: Vec<u32> = found
        .into_iter()
        .filter(|(_, words)| words.starts_with("waxseal shim "))
        .map(|(pid, _)| pid)
        .collect();
    ensure!(!found.is_empty(), "no shim");
    // Its child in the task's namespaces has the same words until the program runs.
    Ok(found[0])
}

fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .context("no process")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// What the task has counted, without a gap.
fn counted(node: &Waxseal) -> Result<u64> {
    let text = node.docker.ok(&["service", "logs", "--raw", "count"])?;
    let mut lines = text.lines().filter(|line| line.parse::<u64>().is_ok());
    let mut last = 0;
    for line in lines.by_ref() {
        let number: u64 = line.parse()?;
        ensure!(number == last + 1, "{last} is followed by {number}");
        last = number;
    }
    ensure!(last > 0, "nothing was counted: {text:?}");
    Ok(last)
}

#[test]
fn a_task_outlives_its_daemon() -> Result<()> {
    scenario("adopt", |scene| {
        let (mut node, task) = counting(scene, &["--autolock"], &[])?;
        let key = node.unlock_key()?;
        // 1. Killed and locked: the task runs, with its secret.
        node.kill()?;
        ensure!(is_alive(task.pid) && fs::read(file_of(task.pid))? == SECRET);
        node.up()?;
        node.reaches("locked")?;
        holds_for(
            "the task runs under a locked manager",
            Duration::from_secs(3),
            || {
                ensure!(is_alive(task.pid) && fs::read(file_of(task.pid))? == SECRET);
                Ok(())
            },
        )?;
        // 2. Unlocked: the same task is running, its log has no gap.
        node.unlock(&key)?;
        let same = |node: &Waxseal| {
            let now = tasks(node)?;
            ensure!(now == [task.clone()], "{now:?} is not {task:?}");
            Ok(())
        };
        eventually("the task is as it was", SOON, || same(&node))?;
        let before = eventually("the log is there again", SOON, || counted(&node))?;
        eventually("the log goes on", SOON, || {
            let now = counted(&node)?;
            ensure!(now > before + 5, "{now}");
            Ok(())
        })?;
        holds_for("no other task is made", Duration::from_secs(5), || {
            same(&node)
        })?;
        // 3. A stop in order keeps it as well.
        node.stop()?;
        ensure!(is_alive(task.pid), "a stop of the daemon ended the task");
        node.up()?;
        node.reaches("locked")?;
        node.unlock(&key)?;
        eventually("the task is adopted again", SOON, || same(&node))?;
        // 4. Leaving stops it, and nothing of it stays.
        node.docker.ok(&["swarm", "leave", "--force"])?;
        eventually("the task has ended", SOON, || {
            ensure!(!is_alive(task.pid));
            nothing_left(&node)
        })
    })
}

/// No socket, log, process or mount of a task.
fn nothing_left(node: &Waxseal) -> Result<()> {
    for dir in [node.exec_root(), node.data_root().to_owned()] {
        let dir = dir.join("tasks");
        let left: Vec<_> = fs::read_dir(&dir)?
            .filter_map(Result::ok)
            .map(|e| e.path())
            .collect();
        ensure!(left.is_empty(), "{left:?}");
    }
    let left = processes_below(&node.exec_root().join("tasks"))?;
    ensure!(left.is_empty(), "{left:?}");
    no_mount_anywhere()
}

/// The mount of a task's secrets is in no process's mount table.
fn no_mount_anywhere() -> Result<()> {
    // Other scenarios' tasks have theirs: only those of dead ones count, which nobody has.
    let host = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(
        !host.contains(" /run/secrets "),
        "the host has a mount at /run/secrets: {host}"
    );
    ensure!(
        !Path::new("/run/secrets").exists(),
        "the host has /run/secrets"
    );
    Ok(())
}

#[test]
fn a_task_that_ends_while_the_daemon_is_away_leaves_nothing() -> Result<()> {
    scenario("away", |scene| {
        let none = ["--restart-condition", "none"];
        let (mut node, task) = counting(scene, &[], &none)?;
        let namespace = fs::read_link(format!("/proc/{}/ns/mnt", task.pid))?;
        node.kill()?;
        kill(task.pid)?;
        eventually("the task is gone", SOON, || {
            ensure!(!is_alive(task.pid));
            nobody_in(&namespace)
        })?;
        node.up()?;
        node.reaches("active")?;
        // The end is told, with its code, and then cleared.
        eventually("the task has failed", SOON, || {
            let object = node.engine.get(&format!("/tasks/{}", task.id))?;
            ensure!(
                object["Status"]["State"] == "failed",
                "{}",
                object["Status"]
            );
            ensure!(
                object["Status"]["ContainerStatus"]["ExitCode"] == 137,
                "{}",
                object["Status"]
            );
            Ok(())
        })?;
        node.docker.ok(&["service", "rm", "count"])?;
        eventually("nothing is left", SOON, || nothing_left(&node))?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// No process has this mount namespace, so nobody has the mounts in it.
fn nobody_in(namespace: &Path) -> Result<()> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let inside = fs::read_link(path.join("ns/mnt")).is_ok_and(|link| link == namespace);
        ensure!(!inside, "{} is in the task's namespace", path.display());
    }
    Ok(())
}

#[test]
fn a_killed_shim_takes_its_task_along() -> Result<()> {
    scenario("shim", |scene| {
        let (node, task) = counting(scene, &[], &["--restart-delay", "100ms"])?;
        let namespace = fs::read_link(format!("/proc/{}/ns/mnt", task.pid))?;
        kill(shim(&node)?)?;
        eventually("the task went with its shim", SOON, || {
            ensure!(!is_alive(task.pid), "it runs");
            nobody_in(&namespace)
        })?;
        // The manager learns it and has another one started.
        eventually("another task runs", SOON, || {
            let now = tasks(&node)?;
            let running = now
                .iter()
                .any(|found| found.state == "running" && found.id != task.id);
            let failed = now
                .iter()
                .any(|found| found.state == "failed" && found.id == task.id);
            ensure!(running && failed, "{now:?}");
            Ok(())
        })?;
        node.docker.ok(&["service", "rm", "count"])?;
        eventually("nothing is left", SOON, || nothing_left(&node))?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// User, environment, directory, host name and stop signal are as asked.
#[test]
fn a_task_is_what_was_asked_for() -> Result<()> {
    scenario("asked", |scene| {
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        let docker = &node.docker;
        let script = "id -u; id -g; pwd; echo $LEVEL; hostname; echo pid $$; \
                      grep -c . /proc/self/cgroup >/dev/null; grep NoNewPrivs /proc/self/status; \
                      trap 'echo stopped; exit 0' USR1; while :; do sleep 0.1; done";
        docker.ok(&[
            "service",
            "create",
            "--name",
            "asked",
            "--network",
            "host",
            "--user",
            "65534:65534",
            "--env",
            "LEVEL=7",
            "--workdir",
            "/usr",
            "--hostname",
            "inside",
            "--stop-signal",
            "USR1",
            "--update-monitor",
            "1s",
            "host",
            "sh",
            "-c",
            script,
        ])?;
        let text = eventually("the task has told", SOON, || {
            let text = docker.ok(&["service", "logs", "--raw", "asked"])?;
            ensure!(text.contains("NoNewPrivs"), "{text}");
            Ok(text)
        })?;
        let lines: Vec<&str> = text.lines().collect();
        ensure!(
            lines[..5] == ["65534", "65534", "/usr", "7", "inside"],
            "{text}"
        );
        ensure!(lines[5] == "pid 1" && lines[6].ends_with("\t1"), "{text}");
        // Stopped by the signal it asked for, it ends by itself.
        docker.ok(&["service", "scale", "-d", "asked=0"])?;
        eventually("the task has ended", SOON, || {
            let text = docker.ok(&["service", "ps", "asked", "--format", "{{.CurrentState}}"])?;
            ensure!(text.is_empty() || text.starts_with("Shutdown"), "{text}");
            ensure!(processes_below(&node.exec_root().join("tasks"))?.is_empty());
            Ok(())
        })?;
        docker.ok(&["service", "rm", "asked"])?;
        eventually("nothing is left", SOON, || nothing_left(&node))?;
        docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// The main job on one machine, as root and as nobody.
#[test]
fn the_demo_runs_with_and_without_root() -> Result<()> {
    scenario("demo", |scene| {
        let limit = Duration::from_secs(60);
        let waxseal = &scene.machine().waxseal;
        for wrapper in [
            &[][..],
            &[
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ],
        ] {
            let home = scene.dir().join(format!("demo{}", wrapper.len()));
            fs::create_dir(&home)?;
            std::os::unix::fs::chown(scene.dir(), Some(65534), Some(65534))?;
            std::os::unix::fs::chown(&home, Some(65534), Some(65534))?;
            let mut words: Vec<&str> = wrapper.to_vec();
            let program = waxseal.display().to_string();
            words.extend([program.as_str(), "demo"]);
            let mut command = Command::new(words[0]);
            command
                .args(&words[1..])
                .env("TMPDIR", &home)
                .current_dir(&home);
            let output = run(&mut command, limit)?;
            ensure!(
                output.code == 0,
                "{words:?}: {}\n{}",
                output.out(),
                output.err()
            );
            let left: Vec<_> = fs::read_dir(&home)?.filter_map(Result::ok).collect();
            ensure!(left.is_empty(), "{words:?} left {left:?}");
            for step in ["secret", "lock"] {
                ensure!(
                    output.out().to_lowercase().contains(step),
                    "{}",
                    output.out()
                );
            }
        }
        Ok(())
    })
}
