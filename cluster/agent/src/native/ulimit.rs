//! Resource limits of a task's processes, by the engine's names.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// The limit of open files that this process had before it was raised.
static OPEN_FILES_BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Lets this process open as many files as it may have: a manager has one for each node. Tasks
/// keep the limit that was there before. Answers the limit; none is no limit.
pub fn raise_open_files() -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        maximum: before.maximum,
    };
    if before.current != before.maximum && setrlimit(Resource::Nofile, raised).is_ok() {
        let _ = OPEN_FILES_BEFORE.set(before);
    }
    getrlimit(Resource::Nofile).current
}

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

    /// The limit of open files for a task that asks for none, if this process has another.
    pub(super) fn open_files_before() -> Option<Ulimit> {
        let bound =
            |value: Option<u64>| value.map_or(-1, |value| i64::try_from(value).unwrap_or(-1));
        OPEN_FILES_BEFORE.get().map(|before| Ulimit {
            name: "nofile".to_owned(),
            soft: bound(before.current),
            hard: bound(before.maximum),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_keep_the_limit_that_was_there_before() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit {
            current: Some(256),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(raise_open_files(), hard);
        let before = Ulimit::open_files_before().unwrap();
        assert_eq!((before.name.as_str(), before.soft), ("nofile", 256));
        assert_eq!(u64::try_from(before.hard).ok(), hard);
    }
}
