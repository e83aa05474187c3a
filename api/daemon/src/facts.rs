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
        debug: config.debug,
        kernel_version: system.release().to_string_lossy().into_owned(),
        operating_system: operating_system(Path::new("/etc/os-release")),
        architecture: system.machine().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes,
        started_at: clock.now(),
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
