use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use openraft::{CommittedLeaderId, LogId};
use waxseal_autolock::{Dek, DekRing, Owner, RecordKind};

use super::core::{Core, NewRecord};
use super::open::open_core;
use crate::{Disk, DiskFile, LogLimits, OpenMode, OsDisk, StoreOptions};

/// The real disk, with a sync of log segments that takes as long as on a real one, counted.
#[derive(Debug, Default)]
struct SlowDisk {
    syncs: Arc<AtomicU64>,
    /// No sync ends while it is held.
    gate: Arc<Mutex<()>>,
}

#[derive(Debug)]
struct SlowFile(Arc<dyn DiskFile>, Arc<AtomicU64>, Arc<Mutex<()>>);

impl Disk for SlowDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = OsDisk.open(path, mode)?;
        match path.extension().is_some_and(|extension| extension == "seg") {
            true => Ok(Arc::new(SlowFile(
                file,
                self.syncs.clone(),
                self.gate.clone(),
            ))),
            false => Ok(file),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        OsDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        OsDisk.remove(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.create_dir(dir)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        OsDisk.sync_dir(dir)
    }
}

impl DiskFile for SlowFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
        drop(self.2.lock().unwrap());
        self.0.sync_data()
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.0.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
}

/// A record of some bytes; `lies` is what its length is off by.
struct Bytes {
    index: u64,
    bytes: Vec<u8>,
    lies: usize,
}

impl Bytes {
    fn new(index: u64, len: usize) -> Self {
        Self {
            index,
            bytes: vec![index as u8; len],
            lies: 0,
        }
    }
}

impl NewRecord for Bytes {
    fn kind(&self) -> RecordKind {
        RecordKind::Normal
    }

    fn log_id(&self) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(1, 1), self.index)
    }

    fn encoded_len(&self) -> usize {
        self.bytes.len() + self.lies
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes);
    }
}

fn options(dir: &Path) -> StoreOptions {
    let dek = Dek::generate(|bytes| {
        bytes.fill(1);
        Ok::<_, ()>(())
    })
    .unwrap();
    let owner = Owner {
        cluster_id: "c".into(),
        node_id: "n".into(),
        raft_id: 1,
    };
    StoreOptions::new(dir, owner, DekRing::new(dek, []))
}

fn bodies(core: &Core, range: std::ops::Range<u64>, budget: Option<usize>) -> Vec<Vec<u8>> {
    core.find(range, budget)
        .iter()
        .map(|sealed| sealed.open().unwrap().to_vec())
        .collect()
}

#[test]
fn all_that_waits_shares_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(SlowDisk::default());
    let syncs = disk.syncs.clone();
    let core = open_core(StoreOptions {
        disk,
        ..options(dir.path())
    })
    .unwrap();
    let before = syncs.load(Ordering::Relaxed);
    let (told, order) = mpsc::channel();
    for index in 1..=100 {
        let told = told.clone();
        let done = Box::new(move |result: Result<(), _>| {
            result.unwrap();
            told.send(index).unwrap();
        });
        core.append(&[Bytes::new(index, 200)], Some(done)).unwrap();
        // Readable before it is on disk.
        assert_eq!(
            bodies(&core, index..index + 1, None),
            [vec![index as u8; 200]]
        );
    }
    let answers: Vec<_> = (0..100).map(|_| order.recv().unwrap()).collect();
    assert_eq!(answers, (1..=100).collect::<Vec<_>>());
    let syncs = syncs.load(Ordering::Relaxed) - before;
    assert!(syncs < 20, "{syncs} syncs for 100 appends");
    drop(core);
    let core = open_core(options(dir.path())).unwrap();
    assert_eq!(bodies(&core, 0..1_000, None).len(), 100);
}

/// A record that was synced in company is not proof against the one before it.
#[test]
fn records_of_one_write_carry_the_mark_of_their_first() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(SlowDisk::default());
    let (syncs, gate) = (disk.syncs.clone(), disk.gate.clone());
    // A segment that is made beforehand is synced, too.
    let limits = LogLimits {
        prepare_in_background: false,
        ..LogLimits::default()
    };
    let core = open_core(StoreOptions {
        disk,
        limits,
        ..options(dir.path())
    })
    .unwrap();
    let (told, order) = mpsc::channel();
    let held = gate.lock().unwrap();
    let before = syncs.load(Ordering::Relaxed);
    for index in 1..=10 {
        let told = told.clone();
        let done = Box::new(move |_| told.send(index).unwrap());
        core.append(&[Bytes::new(index, 8)], Some(done)).unwrap();
        // The first is written alone, the others wait for it.
        while syncs.load(Ordering::Relaxed) == before {
            std::thread::yield_now();
        }
    }
    drop(held);
    (0..10).for_each(|_| assert!(order.recv().is_ok()));
    drop(core);
    let path = dir.path().join("log-0000000000000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    // The second of those that waited for the first.
    let second = 192 + 2 * 72;
    bytes[second + 50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let core = open_core(options(dir.path())).unwrap();
    let left = bodies(&core, 0..100, None).len();
    assert_eq!(left, 2, "torn, not corrupt: no later write vouches for it");
}

#[test]
fn a_budget_bounds_reads_but_not_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let core = open_core(options(dir.path())).unwrap();
    let entries: Vec<_> = (1..=10).map(|index| Bytes::new(index, 1_000)).collect();
    core.append(&entries, None).unwrap();
    assert_eq!(bodies(&core, 3..9, Some(2_100)).len(), 2);
    assert_eq!(bodies(&core, 3..9, Some(1)).len(), 1);
    assert_eq!(bodies(&core, 3..9, None).len(), 6);
    assert_eq!(bodies(&core, 11..20, Some(1)).len(), 0);
}

#[test]
fn the_cache_is_bounded_and_what_left_it_is_read_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        cache_bytes: 10_000,
        ..LogLimits::default()
    };
    let core = open_core(StoreOptions {
        limits,
        ..options(dir.path())
    })
    .unwrap();
    let (told, order) = mpsc::channel();
    for index in 1..=50 {
        let told = told.clone();
        let done = Box::new(move |_| told.send(()).unwrap());
        core.append(&[Bytes::new(index, 1_000)], Some(done))
            .unwrap();
        order.recv().unwrap();
    }
    assert!(core.lock().cache.bytes() <= 12_000);
    let sealed = core.find(1..51, None);
    assert!(sealed[0].is_on_disk() && !sealed[49].is_on_disk());
    for (index, sealed) in (1_u8..).zip(&sealed) {
        assert_eq!(*sealed.open().unwrap(), vec![index; 1_000]);
    }
}

/// Of what is kept in memory nothing is plaintext.
#[test]
fn the_cache_holds_sealed_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let core = open_core(options(dir.path())).unwrap();
    core.append(&[Bytes::new(0x41, 64)], None).unwrap();
    let state = core.lock();
    let body = state.cache.find(0x41).unwrap();
    assert!(!body.windows(4).any(|window| window == [0x41; 4]));
}

#[test]
fn a_command_that_lies_about_its_length_stops_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let core = open_core(options(dir.path())).unwrap();
    core.append(&[Bytes::new(1, 10)], None).unwrap();
    let lying = Bytes {
        lies: 1,
        ..Bytes::new(2, 10)
    };
    core.append(&[lying], None).unwrap_err();
    core.append(&[Bytes::new(2, 10)], None).unwrap_err();
    drop(core);
    let core = open_core(options(dir.path())).unwrap();
    assert_eq!(bodies(&core, 0..10, None).len(), 1);
}

#[test]
fn an_append_larger_than_a_segment_takes_several() {
    let dir = tempfile::tempdir().unwrap();
    let limits = LogLimits {
        segment_bytes: 16 * 1024,
        ..LogLimits::default()
    };
    let core = open_core(StoreOptions {
        limits,
        ..options(dir.path())
    })
    .unwrap();
    let entries: Vec<_> = (1..=30).map(|index| Bytes::new(index, 3_000)).collect();
    let result = Arc::new(Mutex::new(None));
    let (told, order) = mpsc::channel();
    let kept = result.clone();
    let done = Box::new(move |answer: Result<(), _>| {
        *kept.lock().unwrap() = Some(answer.is_ok());
        told.send(()).unwrap();
    });
    core.append(&entries, Some(done)).unwrap();
    order.recv().unwrap();
    assert_eq!(*result.lock().unwrap(), Some(true));
    assert!(core.lock().segments.len() > 5);
    drop(core);
    let core = open_core(options(dir.path())).unwrap();
    assert_eq!(bodies(&core, 0..100, None).len(), 30);
}
