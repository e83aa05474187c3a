//! What the daemon says of its host.

use std::path::Path;

use waxseal_api::DaemonInfo;
use waxseal_ca::Clock;

use crate::config::DaemonConfig;

/// The facts for `/info` and `/version`.
pub(crate) fn daemon_info(
    config: &DaemonConfig,
    id: String,
    memory_bytes: u64,
    clock: &dyn Clock,
) -> DaemonInfo {
    let system = rustix::system::uname();
    DaemonInfo {
        id,
        name: system.nodename().to_string_lossy().into_owned(),
        data_root: config.data_root.display().to_string(),
        labels: config.labels.clone(),
        generic_resources: config.generic_resources.clone(),
        debug: config.debug,
        kernel_version: system.release().to_string_lossy().into_owned(),
        operating_system: operating_system(Path::new("/etc/os-release")),
        architecture: system.machine().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes,
        cgroup_version: cgroup_version(Path::new("/sys/fs/cgroup")),
        started_at: clock.now(),
    }
}

/// 2 where the unified hierarchy alone is mounted: only its root has this file.
fn cgroup_version(mount: &Path) -> u8 {
    match mount.join("cgroup.controllers").exists() {
        true => 2,
        false => 1,
    }
}

/// `PRETTY_NAME` of os-release.
fn operating_system(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}
