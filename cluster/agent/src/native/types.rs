//! What the agent gives to the executor and gets back.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waxseal_cluster::objects;
use waxseal_mount::TaskFile;

use super::running::RunningTask;

/// Where the executor keeps its records and what this node allows.
#[derive(Debug, Clone)]
pub struct NativeConfig {
    /// `--exec-root`: control sockets and exit records are kept under `tasks/ID` in it.
    pub exec_root: PathBuf,
    /// `--data-root`: logs are kept under `tasks/ID` in it.
    pub data_root: PathBuf,
    /// The program to start as the shim, with the first argument `shim`: `/proc/self/exe`.
    pub shim_exe: PathBuf,
    /// `--native-tasks`: as whom tasks may run here.
    pub users: UserPolicy,
    /// `--orphan-tasks`: what a shim does when no daemon has spoken to it for 24 hours.
    pub orphans: OrphanPolicy,
    /// How long a shim waits for a daemon before it follows `orphans`.
    pub orphan_after: Duration,
    /// A cgroup v2 directory this process may make children in, with the `cpu`, `memory` and
    /// `pids` controllers. `None` looks for one at the process's own place in the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// What no task sees: the daemon's own directories and sockets. A task's view has empty,
    /// read-only mounts in their places, and mounts of them are refused.
    pub covered: Vec<PathBuf>,
}

impl NativeConfig {
    /// How long a shim waits for a daemon before it follows the orphan policy: 24 hours, after
    /// which the cluster takes a silent node's tasks for lost.
    pub const ORPHAN_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

    /// The defaults over these directories: this program as the shim, any user, orphans kept, the
    /// cgroup looked for, both directories covered.
    pub fn new(exec_root: impl Into<PathBuf>, data_root: impl Into<PathBuf>) -> Self {
        let (exec_root, data_root) = (exec_root.into(), data_root.into());
        Self {
            covered: vec![exec_root.clone(), data_root.clone()],
            exec_root,
            data_root,
            shim_exe: PathBuf::from("/proc/self/exe"),
            users: UserPolicy::default(),
            orphans: OrphanPolicy::default(),
            orphan_after: Self::ORPHAN_AFTER,
            cgroup: None,
        }
    }
}

/// As whom native tasks may run on this node (`--native-tasks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserPolicy {
    /// No native tasks at all.
    Off,
    /// Any user but root, and no group of root's: what belongs to them is the host's own. A daemon
    /// that is not root itself gives tasks its own identity, so `root` inside such a task's user
    /// namespace is allowed.
    NonRoot,
    /// Any user, root by default as in a container.
    #[default]
    Any,
}

/// What a shim does when no daemon has spoken to it for 24 hours (`--orphan-tasks`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OrphanPolicy {
    /// The task runs on, as on a Docker Engine.
    #[default]
    Keep,
    /// The task is stopped with its own stop signal and grace period.
    Stop,
}

/// A word that is not one of an option's values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not one of {expected}")]
pub struct UnknownPolicy {
    /// What was given.
    pub given: String,
    /// The words that are understood.
    pub expected: &'static str,
}

impl FromStr for UserPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "off" => Ok(Self::Off),
            "nonroot" => Ok(Self::NonRoot),
            "any" => Ok(Self::Any),
            _ => Err(UnknownPolicy {
                given: text.to_owned(),
                expected: "off, nonroot, any",
            }),
        }
    }
}

impl fmt::Display for UserPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::NonRoot => "nonroot",
            Self::Any => "any",
        })
    }
}

impl FromStr for OrphanPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "keep" => Ok(Self::Keep),
            "stop" => Ok(Self::Stop),
            _ => Err(UnknownPolicy {
                given: text.to_owned(),
                expected: "stop, keep",
            }),
        }
    }
}

impl fmt::Display for OrphanPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Stop => "stop",
        })
    }
}

/// The network a native task sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// A network namespace of its own with loopback only.
    None,
}

/// One task, with everything it needs to run.
#[derive(Default)]
pub struct TaskLaunch {
    /// The task's id: names its records, so letters and digits only.
    pub task_id: String,
    /// The service it belongs to.
    pub service_id: String,
    /// The node it runs on, this one.
    pub node_id: String,
    /// What to run, without templates. References to secrets and configs in it are ignored in
    /// favour of `files`.
    pub spec: objects::ContainerSpec,
    /// Limits; reservations have done their work in the scheduler.
    pub resources: Option<objects::ResourceRequirements>,
    /// The resolved secrets and configs, one per reference.
    pub files: Vec<TaskFile>,
    /// The network the task sees.
    pub network: Network,
}

impl fmt::Debug for TaskLaunch {
    /// Without the specification: its env may hold anything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskLaunch")
            .field("task_id", &self.task_id)
            .field("service_id", &self.service_id)
            .field("files", &self.files)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code; 128 + signal for a task that a signal ended.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel ended it for want of memory. Known only where a cgroup v2 holds the task.
    pub oom: bool,
    /// What else there is to say, for example that its shim was killed.
    pub message: Option<String>,
}

/// A task of an earlier run of the daemon.
#[derive(Debug)]
pub enum Adopted {
    /// It still runs.
    Running(RunningTask),
    /// It ended while no daemon was there, or an earlier daemon did not call `remove`.
    Ended {
        /// The task's id.
        task_id: String,
        /// How it ended: the same answer at each adoption, until `remove`.
        exit: Exit,
    },
}

/// What this host offers to native tasks, for `waxseal node inspect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostReport {
    /// Tasks get a pid namespace with a `/proc` of its own.
    pub pid_namespace: bool,
    /// Tasks run in a user namespace with one uid, since the daemon is not root.
    pub user_namespace: bool,
    /// The tmpfs of a task's files is never written to swap by the kernel's own promise.
    pub noswap: bool,
    /// Limits of CPU, memory and pids are enforced.
    pub limits: bool,
    /// Why something above is missing, one sentence each.
    pub notes: Vec<String>,
}
