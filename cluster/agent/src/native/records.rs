//! A task's records on disk: where they are, and writing them so that they hold.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{Exit, NativeConfig};

/// Version of `meta.json` and `exit.json`.
pub(super) const RECORD_FORMAT: u32 = 1;

/// The largest record that is read.
const MAX_RECORD_BYTES: u64 = 256 << 10;

/// The longest task id; the cluster's have 25 characters.
const MAX_ID_BYTES: usize = 64;

const META: &str = "meta.json";
const EXIT: &str = "exit.json";

/// Who a running task is, written before its launch is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) format: u32,
    pub(super) task_id: String,
    pub(super) shim_pid: u32,
    /// Clock ticks since boot; with the pid it names the process.
    pub(super) shim_start: u64,
    /// The main process.
    pub(super) pid: u32,
    pub(super) pid_start: u64,
    /// Pids and ticks mean something within one boot only.
    pub(super) boot_id: String,
    pub(super) notes: Vec<String>,
}

/// How a task ended, written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExitRecord {
    pub(super) format: u32,
    pub(super) code: i32,
    pub(super) signal: Option<i32>,
    #[serde(default)]
    pub(super) oom: bool,
    #[serde(default)]
    pub(super) message: Option<String>,
}

impl ExitRecord {
    /// For a task whose shim is gone without having written one.
    pub(super) fn lost(message: &str) -> Self {
        let message = Some(message.to_owned());
        Self {
            format: RECORD_FORMAT,
            code: 128 + 9,
            signal: Some(9),
            oom: false,
            message,
        }
    }
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Self {
        let ExitRecord {
            code,
            signal,
            oom,
            message,
            ..
        } = record;
        Self {
            code,
            signal,
            oom,
            message,
        }
    }
}

/// Whether an id can name a directory: letters and digits only.
pub(super) fn is_task_id(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_BYTES
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// The directories of one task.
#[derive(Debug, Clone)]
pub(super) struct TaskDirs {
    /// Socket, meta, exit record.
    pub(super) state: PathBuf,
    /// Logs.
    pub(super) logs: PathBuf,
}

impl TaskDirs {
    pub(super) fn new(config: &NativeConfig, task_id: &str) -> Self {
        Self {
            state: state_root(config).join(task_id),
            logs: log_root(config).join(task_id),
        }
    }

    /// Makes both; the state directory must be new.
    pub(super) fn create(&self) -> io::Result<()> {
        private().create(&self.state)?;
        match private().create(&self.logs) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                let _ = fs::remove_dir(&self.state);
                Err(error)
            }
            _ => Ok(()),
        }
    }

    /// Deletes both with all in them; the state last, so that a cut removal is taken up again.
    pub(super) fn delete(&self) -> io::Result<()> {
        for dir in [&self.logs, &self.state] {
            match fs::remove_dir_all(dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn meta(&self) -> io::Result<Option<Meta>> {
        read_record(&self.state.join(META))
    }

    pub(super) fn exit(&self) -> io::Result<Option<ExitRecord>> {
        read_record(&self.state.join(EXIT))
    }
}

pub(super) fn state_root(config: &NativeConfig) -> PathBuf {
    config.exec_root.join("tasks")
}

pub(super) fn log_root(config: &NativeConfig) -> PathBuf {
    config.data_root.join("tasks")
}

/// Makes a directory that only this user may enter, and what is missing above it.
pub(super) fn create_private(dir: &Path) -> io::Result<()> {
    private().recursive(true).create(dir)
}

fn private() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}

/// Writes `meta.json` into a state directory.
pub(super) fn write_meta(dir: &Path, meta: &Meta) -> io::Result<()> {
    write_once(dir, META, &serde_json::to_vec(meta)?)
}

/// Writes `exit.json` into a state directory; on disk when this returns. One that is there already
/// stays.
pub(super) fn write_exit(dir: &Path, exit: &ExitRecord) -> io::Result<()> {
    write_once(dir, EXIT, &serde_json::to_vec(exit)?)
}

fn write_once(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    // Shim and executor may both write: the shim's end is found out while it still writes.
    let temporary = dir.join(format!("{name}.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let target = dir.join(name);
    match renameat_with(CWD, &temporary, CWD, &target, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => fs::remove_file(&temporary)?,
        // Not every file system knows the flag.
        Err(rustix::io::Errno::INVAL) if target.exists() => fs::remove_file(&temporary)?,
        Err(rustix::io::Errno::INVAL) => fs::rename(&temporary, &target)?,
        Err(error) => return Err(error.into()),
    }
    File::open(dir)?.sync_all()
}

/// A record, `None` if it is not there. Its format is checked first.
fn read_record<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?.take(MAX_RECORD_BYTES).read_to_end(&mut bytes)?,
    };
    let Format { format } = serde_json::from_slice(&bytes)?;
    if format != RECORD_FORMAT {
        let text = format!(
            "{} has format {format}, this program reads {RECORD_FORMAT}; start the program that \
             wrote it",
            path.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// The id of this boot.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(code: i32) -> ExitRecord {
        ExitRecord {
            format: RECORD_FORMAT,
            code,
            signal: None,
            oom: false,
            message: None,
        }
    }

    #[test]
    fn ids_that_could_leave_the_directory_are_refused() {
        for id in ["", "..", "a/b", "a.b", "é", &"x".repeat(MAX_ID_BYTES + 1)] {
            assert!(!is_task_id(id), "{id}");
        }
        assert!(is_task_id("0abcdefghijklmnopqrstuvwx"));
    }

    #[test]
    fn a_newer_format_and_garbage_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(EXIT);
        for text in ["{\"format\":2,\"code\":0}", "", "{", "\0"] {
            fs::write(&path, text).unwrap();
            assert!(read_record::<ExitRecord>(&path).is_err(), "{text}");
        }
        fs::write(&path, "{\"format\":2}").unwrap();
        for said in [
            read_record::<ExitRecord>(&path).unwrap_err().to_string(),
            read_record::<Meta>(&path).unwrap_err().to_string(),
        ] {
            assert!(said.contains("format 2, this program reads 1"), "{said}");
        }
    }

    #[test]
    fn golden_records_are_read_and_written() {
        let golden = include_str!("../../tests/golden/task-exit-v1.json").trim_end();
        let exit = ExitRecord {
            signal: Some(9),
            oom: true,
            message: Some("why".to_owned()),
            ..record(137)
        };
        assert_eq!(serde_json::to_string(&exit).unwrap(), golden);
        assert_eq!(serde_json::from_str::<ExitRecord>(golden).unwrap(), exit);
        let golden = include_str!("../../tests/golden/task-meta-v1.json").trim_end();
        let meta = Meta {
            format: 1,
            task_id: "0abcdefghijklmnopqrstuvwx".to_owned(),
            shim_pid: 100,
            shim_start: 5_000_000_000,
            pid: 101,
            pid_start: 5_000_000_001,
            boot_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            notes: vec!["a note".to_owned()],
        };
        assert_eq!(serde_json::to_string(&meta).unwrap(), golden);
        assert_eq!(serde_json::from_str::<Meta>(golden).unwrap(), meta);
    }

    #[test]
    fn the_first_exit_record_stays() {
        let dir = tempfile::tempdir().unwrap();
        write_exit(dir.path(), &record(3)).unwrap();
        write_exit(dir.path(), &record(4)).unwrap();
        let read = read_record(&dir.path().join(EXIT)).unwrap();
        assert_eq!(read, Some(record(3)));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
