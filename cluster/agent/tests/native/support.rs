//! What the cases share.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use waxseal_agent::native::{
    Exit, FileKind, LogOptions, LogStream, NativeConfig, NativeExecutor, RunningTask, TaskFile,
    TaskLaunch,
};
use waxseal_cluster::objects::ContainerSpec;
use zeroize::Zeroizing;

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Where the cases run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) root: bool,
    /// The kernel refuses a fresh `/proc`.
    pub(crate) covered: bool,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.root, self.covered) {
            (true, _) => "root",
            (false, false) => "user",
            (false, true) => "covered",
        })
    }
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) run: fn(Setting) -> Running,
    pub(crate) needs_root: bool,
    pub(crate) needs_pid_namespace: bool,
}

impl Case {
    pub(crate) fn fits(&self, setting: Setting) -> bool {
        (setting.root || !self.needs_root) && !(setting.covered && self.needs_pid_namespace)
    }
}

/// A case for the list: `case!(function)`, with `root` or `pid_namespace` if it needs that.
macro_rules! case {
    ($name:ident) => {
        case!($name, false, false)
    };
    ($name:ident, root) => {
        case!($name, true, true)
    };
    ($name:ident, pid_namespace) => {
        case!($name, false, true)
    };
    ($name:ident, $root:expr, $namespace:expr) => {
        (
            stringify!($name),
            $crate::support::Case {
                run: |setting| Box::pin($name(setting)),
                needs_root: $root,
                needs_pid_namespace: $namespace,
            },
        )
    };
}
pub(crate) use case;

/// An executor with directories of its own.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) executor: NativeExecutor,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut NativeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        change(&mut config);
        Self {
            dir,
            executor: NativeExecutor::new(config).unwrap(),
        }
    }

    pub(crate) async fn launch(&self, task: TaskLaunch) -> RunningTask {
        self.executor
            .launch(task)
            .await
            .unwrap_or_else(|error| panic!("{error:?}"))
    }

    /// Runs a script to its end and gives what it wrote.
    pub(crate) async fn output(&self, task: TaskLaunch) -> (Exit, String) {
        let id = task.task_id.clone();
        let running = self.launch(task).await;
        let exit = end_of(&running).await;
        let text = self.log(&id).await;
        self.executor.remove(&id).await.unwrap();
        (exit, text)
    }

    pub(crate) async fn log(&self, id: &str) -> String {
        let mut records = self.executor.logs(id, LogOptions::default()).unwrap();
        let mut bytes = Vec::new();
        while let Some(record) = records.recv().await {
            if record.stream == LogStream::Stderr {
                bytes.extend_from_slice(b"E:");
            }
            bytes.extend(record.data);
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Waits until the task has written `word`.
    pub(crate) async fn log_has(&self, id: &str, word: &str) {
        within(async {
            while !self.log(id).await.contains(word) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

impl Drop for Host {
    /// A case that failed leaves no task behind.
    fn drop(&mut self) {
        let tasks = std::fs::read_dir(self.dir.path().join("exec/tasks"));
        for entry in tasks.into_iter().flatten().flatten() {
            if entry.path().join("exit.json").exists() {
                continue;
            }
            let meta = std::fs::read(entry.path().join("meta.json")).unwrap_or_default();
            let meta: serde_json::Value = serde_json::from_slice(&meta).unwrap_or_default();
            let number = |name: &str| meta[name].as_u64();
            let pid = number("shim_pid").and_then(|pid| i32::try_from(pid).ok());
            let (Some(pid), Some(started)) = (pid, number("shim_start")) else {
                continue;
            };
            if waxseal_mount::is_alive(pid.cast_unsigned(), started) {
                let _ = waxseal_mount::signals::send(pid, libc::SIGKILL);
            }
        }
    }
}

/// Directories as a host has them; the test binary is the shim.
pub(crate) fn config(dir: &Path) -> NativeConfig {
    NativeConfig::new(dir.join("exec"), dir.join("data"))
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("took too long")
}

pub(crate) async fn end_of(task: &RunningTask) -> Exit {
    within(task.wait()).await
}

/// A task that runs a shell script.
pub(crate) fn script(id: &str, text: &str) -> TaskLaunch {
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    TaskLaunch {
        task_id: id.to_owned(),
        service_id: "service1".to_owned(),
        node_id: "node1".to_owned(),
        spec: ContainerSpec {
            image: "docker.io/library/host:latest".to_owned(),
            command: words(&["/bin/sh"]),
            args: words(&["-c", text]),
            ..ContainerSpec::default()
        },
        ..TaskLaunch::default()
    }
}

/// A script with a changed specification.
pub(crate) fn changed(id: &str, text: &str, change: impl FnOnce(&mut ContainerSpec)) -> TaskLaunch {
    let mut task = script(id, text);
    change(&mut task.spec);
    task
}

pub(crate) fn secret(name: &str, mode: u32, data: &str) -> TaskFile {
    let kind = FileKind::Secret;
    let path = kind.path_of(name).unwrap();
    TaskFile {
        kind,
        path,
        uid: 0,
        gid: 0,
        mode,
        data: Zeroizing::new(data.as_bytes().to_vec()),
    }
}

/// Pids of all processes whose command line has `word` in it.
pub(crate) fn pids_with(word: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(word.len()).any(|part| part == word.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// The shim's pid, from the task's record.
pub(crate) fn shim_of(dir: &Path, id: &str) -> u32 {
    let path = dir.join("exec/tasks").join(id).join("meta.json");
    let meta: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    u32::try_from(meta["shim_pid"].as_u64().unwrap()).unwrap()
}
