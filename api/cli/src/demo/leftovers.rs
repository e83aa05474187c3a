//! What the demonstration must not leave behind: processes, mounts, files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;

/// A killed process is gone within milliseconds; its task with it.
const GONE: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What tells ours from all else on the machine: our directory, and ids of our tasks.
pub(super) struct Leftovers {
    dir: PathBuf,
    tasks: BTreeSet<String>,
}

impl Leftovers {
    pub(super) fn of(dir: &Path) -> Leftovers {
        Leftovers {
            dir: dir.to_owned(),
            tasks: BTreeSet::new(),
        }
    }

    /// Notes the tasks that members have records of.
    pub(super) fn look_for_tasks(&mut self) {
        for member in ["manager", "worker"] {
            let records = fs::read_dir(self.dir.join(member).join("exec/tasks"));
            let names = records.into_iter().flatten().flatten();
            self.tasks
                .extend(names.filter_map(|entry| entry.file_name().into_string().ok()));
        }
    }

    /// Ends shims whose daemon did not; the kernel ends their tasks with them.
    pub(super) async fn end_shims(&self) {
        let deadline = Instant::now() + GONE;
        loop {
            let shims = self.shims();
            if shims.is_empty() || Instant::now() > deadline {
                return;
            }
            for pid in shims {
                let _ = kill_process(pid, Signal::KILL);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn shims(&self) -> Vec<Pid> {
        let is_shim = |words: &[String]| {
            words.get(1).is_some_and(|word| word == "shim")
                && words.iter().any(|word| self.tasks.contains(word))
        };
        processes()
            .into_iter()
            .filter(|(_, words)| is_shim(words))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// # Errors
    /// Names what is left.
    pub(super) fn none(&self) -> Result<(), Failure> {
        let dir = self.dir.to_string_lossy();
        let ours = |words: &[String]| {
            words
                .iter()
                .any(|word| word.contains(&*dir) || self.tasks.contains(word))
        };
        let own = rustix::process::getpid();
        let left = processes()
            .into_iter()
            .find(|(pid, words)| *pid != own && ours(words));
        if let Some((pid, words)) = left {
            return Err(
                Failure::refused(format!("process {pid} is left: {}", words.join(" ")))
                    .hint(format!("end it with `kill {pid}`")),
            );
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        match mounts.lines().find(|mount| mount.contains(&*dir)) {
            Some(mount) => Err(Failure::refused(format!("a mount is left: {mount}"))
                .hint("unmount it with umount")),
            None => Ok(()),
        }
    }
}

/// Whether a process of that id is there.
pub(super) fn is_alive(pid: i64) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Every process with its command line. What ends meanwhile is left out.
fn processes() -> Vec<(Pid, Vec<String>)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let process = |entry: fs::DirEntry| {
        let pid = entry
            .file_name()
            .to_str()?
            .parse()
            .ok()
            .and_then(Pid::from_raw)?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words = line.split(|&byte| byte == 0);
        Some((
            pid,
            words
                .map(|word| String::from_utf8_lossy(word).into_owned())
                .collect(),
        ))
    };
    entries.filter_map(process).collect()
}
