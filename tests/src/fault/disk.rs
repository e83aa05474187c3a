//! The disk that does what rules say, and all else as it should.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use waxseal_raft_store::{Disk, DiskFile, OpenMode, OsDisk};

use super::{Effect, Op, Rule};

/// The system's files, with faults.
#[derive(Debug, Default, Clone)]
pub struct FaultyDisk {
    rules: Arc<Rules>,
}

impl FaultyDisk {
    /// Adds a rule.
    pub fn add(&self, rule: Rule) {
        self.rules.lock().active.push(rule);
    }

    /// Forgets all rules; what a delay holds goes on.
    pub fn clear(&self) {
        let mut state = self.rules.lock();
        state.active.clear();
        state.hits = 0;
        state.generation += 1;
        self.rules.cleared.notify_all();
    }

    /// How often a rule took effect since the rules were cleared; a delay that goes on is one.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.rules.lock().hits
    }
}

#[derive(Debug, Default)]
struct Rules {
    state: Mutex<State>,
    cleared: Condvar,
}

#[derive(Debug, Default)]
struct State {
    active: Vec<Rule>,
    hits: u64,
    generation: u64,
}

impl Rules {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as the rules say; how the operation goes wrong then, if it does.
    fn meet(&self, op: Op, path: &Path) -> Option<Effect> {
        let mut state = self.lock();
        let mut delay = Duration::ZERO;
        let mut effect = None;
        let mut hits = 0;
        for rule in &mut state.active {
            if rule.op != op || rule.times == Some(0) || !last_two(path).contains(&rule.part) {
                continue;
            }
            if let Some(times) = &mut rule.times {
                *times -= 1;
            }
            hits += 1;
            match rule.effect {
                Effect::Delay(time) => delay += time,
                other => effect = effect.or(Some(other)),
            }
        }
        state.hits += hits;
        self.wait(state, delay);
        effect
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, delay: Duration) {
        let (begin, generation) = (Instant::now(), state.generation);
        while state.generation == generation {
            let Some(left) = delay.checked_sub(begin.elapsed()).filter(|d| !d.is_zero()) else {
                return;
            };
            let waited = self.cleared.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// [`Self::meet`] for what is done whole or not at all.
    fn pass(&self, op: Op, path: &Path) -> io::Result<()> {
        match self.meet(op, path).and_then(Effect::error) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// Directory and name.
fn last_two(path: &Path) -> String {
    let name = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    match path.parent() {
        Some(parent) => format!("{}/{}", name(parent), name(path)),
        None => name(path),
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.rules.pass(Op::Open, path)?;
        Ok(Arc::new(FaultyFile {
            below: OsDisk.open(path, mode)?,
            path: path.to_owned(),
            rules: Arc::clone(&self.rules),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rules.pass(Op::Rename, to)?;
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.rules.pass(Op::Remove, path)?;
        OsDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.rules.pass(Op::SyncDir, dir)?;
        OsDisk.sync_dir(dir)
    }
}

#[derive(Debug)]
struct FaultyFile {
    below: Arc<dyn DiskFile>,
    path: PathBuf,
    rules: Arc<Rules>,
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.rules.pass(Op::Read, &self.path)?;
        self.below.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let effect = self.rules.meet(Op::Write, &self.path);
        match effect {
            Some(Effect::Short(limit)) => self
                .below
                .write_at(&bytes[..limit.min(bytes.len())], offset),
            Some(Effect::Cut(limit)) => {
                self.below
                    .write_all_at(&bytes[..limit.min(bytes.len())], offset)?;
                Err(rustix::io::Errno::IO.into())
            }
            other => match other.and_then(Effect::error) {
                Some(error) => Err(error),
                None => self.below.write_at(bytes, offset),
            },
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.rules.pass(Op::Sync, &self.path)?;
        self.below.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.rules.pass(Op::Allocate, &self.path)?;
        self.below.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.rules.pass(Op::Allocate, &self.path)?;
        self.below.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &FaultyDisk, path: &Path) -> (io::Result<()>, Vec<u8>) {
        let _ = std::fs::remove_file(path);
        let result = disk
            .open(path, OpenMode::CreateNew)
            .and_then(|file| file.write_all_at(b"0123456789", 0).and(file.sync_data()));
        (result, std::fs::read(path).unwrap_or_default())
    }

    #[test]
    fn each_effect_is_what_it_says_and_only_where_it_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("log-1"), dir.path().join("vote"));
        let disk = FaultyDisk::default();
        for (rule, kind, content) in [
            ("broken sync log", io::ErrorKind::Other, &b"0123456789"[..]),
            ("full write log", io::ErrorKind::StorageFull, b""),
            ("cut=4 write log", io::ErrorKind::Other, b"0123"),
            ("broken open log", io::ErrorKind::Other, b""),
        ] {
            disk.add(rule.parse().unwrap());
            let (result, bytes) = written(&disk, &path);
            let error = result.unwrap_err();
            assert!(
                error.kind() == kind || error.raw_os_error() == Some(5),
                "{rule}: {error:?}"
            );
            assert_eq!(bytes, content, "{rule}");
            assert_eq!(disk.hits(), 1, "{rule}");
            let (result, bytes) = written(&disk, &other);
            assert!(result.is_ok() && bytes == b"0123456789", "{rule}");
            disk.clear();
            assert!(written(&disk, &path).0.is_ok(), "{rule}");
        }
        disk.add("short=3 write log".parse().unwrap());
        let (result, bytes) = written(&disk, &path);
        assert!(result.is_ok() && bytes == b"0123456789");
        assert_eq!(disk.hits(), 4);
    }

    #[test]
    fn a_rule_ends_after_its_times_and_a_delay_when_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log-1");
        let disk = FaultyDisk::default();
        disk.add("broken sync log 1".parse().unwrap());
        assert!(written(&disk, &path).0.is_err());
        assert!(written(&disk, &path).0.is_ok());
        disk.clear();
        disk.add("delay=600000 sync log".parse().unwrap());
        let held = std::thread::spawn({
            let disk = disk.clone();
            move || written(&disk, &path).0
        });
        while disk.hits() == 0 {
            std::thread::yield_now();
        }
        assert!(!held.is_finished());
        disk.clear();
        assert!(held.join().unwrap().is_ok());
    }
}
