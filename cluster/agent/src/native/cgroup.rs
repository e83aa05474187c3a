//! A delegated part of the cgroup v2 hierarchy, in which each task gets a cgroup with its limits.
//!
//! Without one there are no limits here and a launch that asks for some is refused.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The controllers that limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The period of `cpu.max`, in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;

/// The least quota the kernel takes, in microseconds.
const CPU_QUOTA_MIN_US: u64 = 1_000;

/// Where systemd notes that it gave a cgroup away (systemd's delegation document).
const DELEGATE_ATTRIBUTES: [&str; 2] = ["trusted.delegate", "user.delegate"];

/// Limits of one task; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// Billionths of a CPU.
    pub(super) nano_cpus: Option<u64>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) pids: Option<u64>,
}

impl Limits {
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// A cgroup this process may make children in, with the controllers handed on to them.
#[derive(Debug, Clone)]
pub(super) struct Delegation {
    root: PathBuf,
}

impl Delegation {
    /// Takes the configured cgroup, or looks for one that was delegated to this process.
    ///
    /// # Errors
    /// Why there are no limits here, as a sentence.
    pub(super) fn find(configured: Option<&Path>) -> Result<Self, String> {
        let root = match configured {
            Some(root) => root.to_owned(),
            None => own_cgroup()?,
        };
        Self::take(&root, configured.is_none())
    }

    fn take(root: &Path, own: bool) -> Result<Self, String> {
        let shown = root.display();
        let read = |name: &str| fs::read_to_string(root.join(name));
        let offered = read("cgroup.controllers")
            .map_err(|error| format!("{shown} is not a cgroup v2 directory: {error}"))?;
        let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|found| found == name);
        let missing: Vec<_> = CONTROLLERS
            .into_iter()
            .filter(|name| !has(&offered, name))
            .collect();
        if !missing.is_empty() {
            return Err(format!(
                "the cgroup {shown} lacks the controllers {}",
                missing.join(", ")
            ));
        }
        let on = read("cgroup.subtree_control").unwrap_or_default();
        if !CONTROLLERS.into_iter().all(|name| has(&on, name)) {
            if own {
                leave_to_leaf(root).map_err(|error| {
                    format!("the daemon could not move to a leaf of the cgroup {shown}: {error}")
                })?;
            }
            let all = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
            fs::write(root.join("cgroup.subtree_control"), all)
                .map_err(|error| format!("the cgroup {shown} does not hand on limits: {error}"))?;
        }
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Makes the cgroup of a task with its limits.
    pub(super) fn create(&self, task_id: &str, limits: &Limits) -> io::Result<PathBuf> {
        let path = self.path(task_id);
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let set = |name: &str, value: String| fs::write(path.join(name), value);
        if let Some(nano_cpus) = limits.nano_cpus {
            let quota = nano_cpus.saturating_mul(CPU_PERIOD_US) / 1_000_000_000;
            set(
                "cpu.max",
                format!("{} {CPU_PERIOD_US}", quota.max(CPU_QUOTA_MIN_US)),
            )?;
        }
        if let Some(bytes) = limits.memory_bytes {
            set("memory.max", bytes.to_string())?;
            // As in the engine, where the limit of memory and swap together is twice the memory's.
            // A host without swap accounting has no such file.
            let _ = set("memory.swap.max", bytes.to_string());
        }
        if let Some(pids) = limits.pids {
            set("pids.max", pids.to_string())?;
        }
        Ok(path)
    }

    /// Where the shims are, outside of their tasks' limits.
    pub(super) fn shims(&self) -> io::Result<PathBuf> {
        let path = self.root.join("shims");
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(path),
        }
    }

    pub(super) fn path(&self, task_id: &str) -> PathBuf {
        self.root.join(format!("task-{task_id}"))
    }
}

/// Moves a process into a cgroup.
pub(super) fn enter(cgroup: &Path, pid: u32) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())
}

/// Kills everything in a cgroup (5.14 and newer).
pub(super) fn kill(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.kill"), "1")
}

/// Whether the kernel killed something in a cgroup for want of memory.
pub(super) fn out_of_memory(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("memory.events")).unwrap_or_default();
    events.lines().any(|line| {
        line.strip_prefix("oom_kill ")
            .is_some_and(|count| count.trim() != "0")
    })
}

/// Takes an empty cgroup away.
pub(super) fn remove(cgroup: &Path) -> io::Result<()> {
    match fs::remove_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The cgroup v2 directory of this process, if it was given to it.
fn own_cgroup() -> Result<PathBuf, String> {
    let none = || "no cgroup v2 hierarchy is mounted here".to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| none())?;
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(|_| none())?;
    let (mount_root, mount) = mounts.lines().find_map(cgroup2_mount).ok_or_else(none)?;
    let group = groups
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or_else(none)?;
    let below = Path::new(group)
        .strip_prefix(&mount_root)
        .map_err(|_| none())?;
    let path = mount.join(below);
    // A daemon that was restarted is in the leaf that an earlier one made.
    let path = match path.file_name() {
        Some(name) if name == LEAF => path.parent().unwrap_or(&path).to_owned(),
        _ => path,
    };
    if is_delegated(&path) {
        return Ok(path);
    }
    Err(format!(
        "the cgroup {} was not delegated to the daemon; run it by systemd with Delegate=yes, or \
         name a cgroup",
        path.display()
    ))
}

/// Root and mount point of a line of mountinfo that is a cgroup v2 hierarchy's.
fn cgroup2_mount(line: &str) -> Option<(PathBuf, PathBuf)> {
    let (own, file_system) = line.split_once(" - ")?;
    if !file_system.starts_with("cgroup2 ") {
        return None;
    }
    let mut fields = own.split(' ').skip(3);
    Some((fields.next()?.into(), fields.next()?.into()))
}

fn is_delegated(path: &Path) -> bool {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return fs::metadata(path).is_ok_and(|meta| meta.uid() == uid.as_raw());
    }
    DELEGATE_ATTRIBUTES.iter().any(|name| {
        let mut value = [0; 8];
        rustix::fs::getxattr(path, *name, &mut value).is_ok_and(|_| value[0] == b'1')
    })
}

/// The cgroup that the daemon itself goes to: one with processes cannot hand on controllers.
const LEAF: &str = "daemon";

fn leave_to_leaf(root: &Path) -> io::Result<()> {
    let leaf = root.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    enter(&leaf, std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a cgroup.
    fn hierarchy(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        dir
    }

    #[test]
    fn what_is_no_cgroup_or_lacks_controllers_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let refused = Delegation::find(Some(dir.path())).unwrap_err();
        assert!(
            refused.contains("is not a cgroup v2 directory"),
            "{refused}"
        );
        let dir = hierarchy("cpuset cpu hugetlb\n");
        let refused = Delegation::find(Some(dir.path())).unwrap_err();
        assert!(
            refused.ends_with("lacks the controllers memory, pids"),
            "{refused}"
        );
    }

    #[test]
    fn limits_are_written_in_the_kernels_units() {
        let dir = hierarchy("cpuset cpu memory pids\n");
        let delegation = Delegation::find(Some(dir.path())).unwrap();
        let read = |path: &Path, name: &str| fs::read_to_string(path.join(name)).ok();
        let on = read(dir.path(), "cgroup.subtree_control");
        assert_eq!(on.as_deref(), Some("+cpu +memory +pids"));
        let limits = Limits {
            nano_cpus: Some(1_500_000_000),
            memory_bytes: Some(64 << 20),
            pids: Some(10),
        };
        let path = delegation.create("t1", &limits).unwrap();
        assert_eq!(read(&path, "cpu.max").as_deref(), Some("150000 100000"));
        assert_eq!(read(&path, "memory.max").as_deref(), Some("67108864"));
        assert_eq!(read(&path, "pids.max").as_deref(), Some("10"));
        let path = delegation.create(
            "t2",
            &Limits {
                nano_cpus: Some(1),
                ..Limits::default()
            },
        );
        assert_eq!(
            read(&path.unwrap(), "cpu.max").as_deref(),
            Some("1000 100000")
        );
        assert!(!dir.path().join("task-t2/memory.max").exists());
    }

    #[test]
    fn kills_for_memory_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!out_of_memory(dir.path()));
        let events = dir.path().join("memory.events");
        fs::write(&events, "low 0\noom 1\noom_kill 0\n").unwrap();
        assert!(!out_of_memory(dir.path()));
        fs::write(&events, "low 0\noom 1\noom_kill 2\n").unwrap();
        assert!(out_of_memory(dir.path()));
    }

    #[test]
    fn the_hierarchy_is_found_in_mountinfo() {
        let hybrid = "38 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(
            cgroup2_mount(hybrid),
            Some(("/".into(), "/sys/fs/cgroup/unified".into()))
        );
        assert_eq!(
            cgroup2_mount("32 31 0:25 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"),
            None
        );
        assert_eq!(cgroup2_mount("x"), None);
    }
}
