//! A disk that takes its time.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use waxseal_raft_store::{Disk, DiskFile, OpenMode};

/// How long each sync takes, and how many are under way; clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slowness {
    millis: Arc<AtomicU64>,
    syncing: Arc<AtomicU64>,
}

impl Slowness {
    pub(crate) fn set(&self, delay: Duration) {
        self.millis
            .store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    pub(crate) fn is_syncing(&self) -> bool {
        self.syncing.load(Ordering::SeqCst) > 0
    }

    fn sync(&self, file: &dyn DiskFile) -> io::Result<()> {
        self.syncing.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(self.millis.load(Ordering::Relaxed)));
        let synced = file.sync_data();
        self.syncing.fetch_sub(1, Ordering::SeqCst);
        synced
    }
}

/// Another disk, slower.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) slow: Slowness,
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn DiskFile>,
    slow: Slowness,
}

impl Disk for SlowDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(path, mode)?;
        let slow = self.slow.clone();
        Ok(Arc::new(SlowFile { file, slow }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

impl DiskFile for SlowFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.slow.sync(&*self.file)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
