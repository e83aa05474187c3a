//! The directory that a daemon keeps its state in.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

/// A data root, locked for this process.
#[derive(Debug)]
pub struct DataRoot {
    path: PathBuf,
    /// Holds the lock.
    _lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataRootError {
    /// A stock dockerd's.
    #[error(
        "{} holds the state of a Docker Engine, which is left untouched; choose another directory with --data-root",
        path.display()
    )]
    DockerEngine {
        /// The directory.
        path: PathBuf,
    },
    /// Another daemon runs on it.
    #[error(
        "{} is in use by another waxseal daemon; stop it, or choose another directory with --data-root",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It cannot be made or written.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The file that says whether this node is a member.
pub(crate) const NODE_FILE: &str = "node.pb";

/// Names that a stock engine's data root has and ours never.
const ENGINE_MARKS: [&str; 5] = [
    "engine-id",
    "image",
    "containers",
    "swarm/docker-state.json",
    "network/files",
];

impl DataRoot {
    /// Makes the directory if need be and locks it.
    ///
    /// # Errors
    /// [`DataRootError`]; a directory of a stock engine is not touched.
    pub fn open(path: &Path) -> Result<DataRoot, DataRootError> {
        if ENGINE_MARKS.iter().any(|mark| path.join(mark).exists()) {
            return Err(DataRootError::DockerEngine {
                path: path.to_owned(),
            });
        }
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DataRootError::Io { path, source }
        };
        make_dir(path).map_err(io(path))?;
        let lock_path = path.join("waxseal.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io(&lock_path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(DataRootError::InUse {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(io(&lock_path)(error.into())),
        }
        let root = DataRoot {
            path: path.to_owned(),
            _lock: lock,
        };
        make_dir(&root.swarm()).map_err(io(&root.swarm()))?;
        Ok(root)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Cluster state.
    pub fn swarm(&self) -> PathBuf {
        self.path.join("swarm")
    }

    /// Whether there is cluster state.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub(crate) fn has_swarm(&self) -> io::Result<bool> {
        Ok(std::fs::read_dir(self.swarm())?.next().is_some())
    }

    /// Removes all cluster state: keys first, `node.pb`, which says what the rest
    /// is worth, last.
    ///
    /// # Errors
    /// If something could not be removed.
    pub fn clear_swarm(&self) -> io::Result<()> {
        let swarm = self.swarm();
        let certificates = swarm.join("certificates");
        for name in ["swarm-node.key", "swarm-node.crt", ".swarm-node.crt"] {
            remove_if_there(&certificates.join(name))?;
        }
        for entry in std::fs::read_dir(&swarm)? {
            let path = entry?.path();
            if path.symlink_metadata()?.is_dir() {
                std::fs::remove_dir_all(&path)?;
            } else if !path.ends_with(NODE_FILE) {
                remove_if_there(&path)?;
            }
        }
        File::open(&swarm)?.sync_all()?;
        remove_if_there(&swarm.join(NODE_FILE))?;
        File::open(&swarm)?.sync_all()
    }

    /// The id of this daemon, made at its first start: `/info` shows it.
    ///
    /// # Errors
    /// If it can be neither read nor written.
    pub fn daemon_id(&self, new: impl FnOnce() -> String) -> io::Result<String> {
        let path = self.path.join("daemon-id");
        if let Ok(id) = std::fs::read_to_string(&path)
            && !id.trim().is_empty()
        {
            return Ok(id.trim().to_owned());
        }
        let id = new();
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        writeln!(file, "{id}")?;
        Ok(id)
    }
}

/// Makes a directory that only the owner enters; its parents as usual, as others
/// may have things there (the API's socket beside the exec root).
pub(crate) fn make_dir(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_directory_is_refused_and_left_alone() {
        for mark in ENGINE_MARKS {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir_all(dir.path().join(mark)).unwrap();
            let refused = DataRoot::open(dir.path());
            assert!(
                matches!(refused, Err(DataRootError::DockerEngine { .. })),
                "{mark}"
            );
            assert!(!dir.path().join("waxseal.lock").exists());
        }
    }

    #[test]
    fn a_second_daemon_is_refused_until_the_first_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataRoot::open(dir.path()).unwrap();
        assert!(matches!(
            DataRoot::open(dir.path()),
            Err(DataRootError::InUse { .. })
        ));
        drop(first);
        DataRoot::open(dir.path()).unwrap();
    }

    #[test]
    fn clearing_leaves_the_directory_and_the_id() {
        let dir = tempfile::tempdir().unwrap();
        let root = DataRoot::open(dir.path()).unwrap();
        let id = root.daemon_id(|| "abc".into()).unwrap();
        std::fs::create_dir_all(root.swarm().join("certificates")).unwrap();
        std::fs::write(root.swarm().join("certificates/swarm-node.key"), "x").unwrap();
        std::fs::write(root.swarm().join("node.pb"), "x").unwrap();
        root.clear_swarm().unwrap();
        assert_eq!(std::fs::read_dir(root.swarm()).unwrap().count(), 0);
        assert_eq!(root.daemon_id(|| "other".into()).unwrap(), id);
    }
}
