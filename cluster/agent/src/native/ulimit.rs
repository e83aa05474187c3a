//! Resource limits of a task's processes, by the engine's names.

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// One limit: -1 is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ulimit {
    pub(super) name: String,
    pub(super) soft: i64,
    pub(super) hard: i64,
}

impl Ulimit {
    /// Whether the name is one of the engine's. `core` is left out: a core file would hold the
    /// task's secrets.
    pub(super) fn is_known(&self) -> bool {
        resource(&self.name).is_some()
    }

    /// Sets it for this process.
    pub(super) fn apply(&self) -> std::io::Result<()> {
        let resource = resource(&self.name).ok_or(std::io::ErrorKind::InvalidInput)?;
        let bound = |value: i64| u64::try_from(value).ok();
        Ok(setrlimit(
            resource,
            Rlimit {
                current: bound(self.soft),
                maximum: bound(self.hard),
            },
        )?)
    }
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
