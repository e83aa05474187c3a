//! The next segment's file, allocated before it is needed.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use super::segment_file::segment_name;
use crate::{Disk, DiskFile, OpenMode, StoreError};

/// Where the next segment's file stands.
#[derive(Debug)]
enum Slot {
    /// Nobody asked for one.
    Empty,
    /// It is being made.
    Preparing,
    /// It is there, allocated, its name durable.
    Ready(u64, Arc<dyn DiskFile>),
    /// It could not be made.
    Failed(u64, StoreError),
}

/// Makes files for segments.
#[derive(Debug)]
pub(crate) struct Spare {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u32,
    slot: Mutex<Slot>,
    changed: Condvar,
    /// `None` where the caller's thread does the work.
    requests: Mutex<Option<mpsc::Sender<u64>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Spare {
    pub(crate) fn start(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        segment_bytes: u32,
        background: bool,
    ) -> Result<Arc<Self>, StoreError> {
        let (requests, receiver) = mpsc::channel();
        let spare = Arc::new(Self {
            disk,
            dir,
            segment_bytes,
            slot: Mutex::new(Slot::Empty),
            changed: Condvar::new(),
            requests: Mutex::new(background.then_some(requests)),
            worker: Mutex::new(None),
        });
        if background {
            // Weak: the worker must not keep its own channel open.
            let weak = Arc::downgrade(&spare);
            let worker = std::thread::Builder::new()
                .name("raft-segments".into())
                .spawn(move || {
                    while let Ok(sequence) = receiver.recv() {
                        let Some(spare) = weak.upgrade() else { break };
                        spare.fill(sequence);
                    }
                })
                .map_err(|err| StoreError::io(&spare.dir, "start a thread for", err))?;
            *lock(&spare.worker) = Some(worker);
        }
        Ok(spare)
    }

    /// Has the file of segment `sequence` made, unless it is there or under way.
    pub(crate) fn request(&self, sequence: u64) {
        let mut slot = lock(&self.slot);
        match &*slot {
            Slot::Preparing => return,
            Slot::Ready(ready, _) if *ready == sequence => return,
            _ => *slot = Slot::Preparing,
        }
        drop(slot);
        let sent = match &*lock(&self.requests) {
            Some(requests) => requests.send(sequence).is_ok(),
            None => false,
        };
        if !sent {
            self.fill(sequence);
        }
    }

    /// Asks again for a file that could not be made.
    pub(crate) fn retry(&self) {
        let failed = match &*lock(&self.slot) {
            Slot::Failed(sequence, _) => *sequence,
            _ => return,
        };
        self.request(failed);
    }

    /// Whether a file is there.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(&*lock(&self.slot), Slot::Ready(..))
    }

    /// Whether the file of segment `sequence` is there.
    pub(crate) fn is_ready_for(&self, sequence: u64) -> bool {
        matches!(&*lock(&self.slot), Slot::Ready(ready, _) if *ready == sequence)
    }

    /// Whether a file is being made.
    pub(crate) fn is_preparing(&self) -> bool {
        matches!(&*lock(&self.slot), Slot::Preparing)
    }

    /// Puts in a file that was allocated before.
    pub(crate) fn offer(&self, sequence: u64, file: Arc<dyn DiskFile>) {
        *lock(&self.slot) = Slot::Ready(sequence, file);
    }

    /// The file of segment `sequence`; waits while it is being made. Blocks.
    pub(crate) fn take(&self, sequence: u64) -> Result<Arc<dyn DiskFile>, StoreError> {
        self.request(sequence);
        let mut slot = lock(&self.slot);
        loop {
            match std::mem::replace(&mut *slot, Slot::Empty) {
                Slot::Preparing => {
                    *slot = Slot::Preparing;
                    slot = self
                        .changed
                        .wait(slot)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                Slot::Ready(ready, file) if ready == sequence => return Ok(file),
                Slot::Failed(failed, err) if failed == sequence => return Err(err),
                _ => {
                    drop(slot);
                    self.request(sequence);
                    slot = lock(&self.slot);
                }
            }
        }
    }

    /// Stops the thread; later requests are served by whoever makes them.
    pub(crate) fn stop(&self) {
        *lock(&self.requests) = None;
        if let Some(worker) = lock(&self.worker).take() {
            // A worker that panicked has left its slot unfilled; there is nobody to tell.
            let _ = worker.join();
        }
    }

    fn fill(&self, sequence: u64) {
        let filled = match self.allocate(sequence) {
            Ok(file) => Slot::Ready(sequence, file),
            Err(err) => Slot::Failed(sequence, err),
        };
        *lock(&self.slot) = filled;
        self.changed.notify_all();
    }

    fn allocate(&self, sequence: u64) -> Result<Arc<dyn DiskFile>, StoreError> {
        let path = self.dir.join(segment_name(sequence));
        let fail = |err| StoreError::io(&path, "allocate", err);
        // What an attempt before left behind; numbers are never used again for a live segment.
        let _ = self.disk.remove(&path);
        let file = self.disk.open(&path, OpenMode::CreateNew).map_err(fail)?;
        file.allocate(self.segment_bytes.into())
            .and_then(|()| file.sync_data())
            .and_then(|()| self.disk.sync_dir(&self.dir))
            .map_err(|err| {
                // Gives back what was allocated; a leftover has no header and is found at start.
                let _ = self.disk.remove(&path);
                fail(err)
            })?;
        Ok(file)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
