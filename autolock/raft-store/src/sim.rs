//! A disk in memory that loses its power. For tests only: it keeps nothing.
//!
//! What was not synced is lost or not as a seeded generator decides: each 512-byte sector of a
//! write, each change of a file's length, each name in a directory, for itself and regardless of
//! order. A file that was being written may be torn within a sector.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Disk, DiskFile, OpenMode};

/// What a disk loses as a whole.
const SECTOR: usize = 512;

/// One sector in this many is torn within.
const TORN_ONE_IN: u64 = 16;

/// What goes wrong beside the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Writes fail with `EIO`, having written nothing.
    WriteFails,
    /// Syncs fail with `EIO` and lose what they should have made durable.
    SyncFails,
    /// Writes write half of what they are given.
    ShortWrites,
}

/// A disk that forgets. Cheap to clone, all clones are one disk.
#[derive(Clone)]
pub struct DangerSimDisk(Arc<Mutex<Sim>>);

struct Sim {
    random: u64,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    unsynced_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    /// Raised by each failure: handles from before are dead.
    lives: u64,
    /// Operations that still go through before the power goes.
    cut_after: Option<u64>,
    operations: u64,
    capacity: Option<u64>,
    fault: Option<(Fault, String)>,
}

#[derive(Default)]
struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

enum Change {
    Len(usize),
    Write(usize, Vec<u8>),
}

enum NameChange {
    Add(PathBuf, usize),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl NameChange {
    fn dir(&self) -> Option<&Path> {
        match self {
            Self::Add(path, _) | Self::Remove(path) | Self::Rename(_, path, _) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Self::Add(path, inode) => {
                names.insert(path.clone(), *inode);
            }
            Self::Remove(path) => {
                names.remove(path);
            }
            Self::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

impl DangerSimDisk {
    /// An empty disk; all it does follows from the seed and what it is asked to do.
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Sim {
            // Neighbouring seeds must not begin alike, and zero would stay zero.
            random: (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1,
            inodes: Vec::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            dirs: BTreeSet::new(),
            lives: 0,
            cut_after: None,
            operations: 0,
            capacity: None,
            fault: None,
        })))
    }

    /// Cuts the power after so many more operations: each later one fails.
    pub fn cut_power_after(&self, operations: u64) {
        self.lock().cut_after = Some(operations);
    }

    /// Loses what was not synced, as far as chance will have it, and turns the power on. Files
    /// opened before are dead.
    pub fn power_cycle(&self) {
        self.lock().power_cycle();
    }

    /// Ends the process, not the power: files opened before are dead, what was written is there and
    /// still not synced.
    pub fn kill(&self) {
        let mut sim = self.lock();
        sim.lives += 1;
        sim.cut_after = None;
    }

    /// Fails what is done to files whose name contains `name`, until told otherwise.
    pub fn set_fault(&self, fault: Option<(Fault, &str)>) {
        self.lock().fault = fault.map(|(fault, name)| (fault, name.to_owned()));
    }

    /// The bytes that all files together may have; `None` for no end.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock().capacity = bytes;
    }

    /// Another disk with the same files, as a backup of it.
    pub fn copy(&self) -> Self {
        let copy = Self::new(1);
        {
            let (from, mut to) = (self.lock(), copy.lock());
            for (name, inode) in &from.names {
                let content = from.inodes[*inode].content.clone();
                let number = to.inodes.len();
                to.inodes.push(Inode {
                    durable: content.clone(),
                    content,
                    unsynced: Vec::new(),
                });
                to.names.insert(name.clone(), number);
                to.durable_names.insert(name.clone(), number);
            }
            to.dirs = from.dirs.clone();
        }
        copy
    }

    /// The bytes that all files together have.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// A file's content, as a program would read it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let sim = self.lock();
        sim.names
            .get(path)
            .map(|inode| sim.inodes[*inode].content.clone())
    }

    /// Replaces a file's content durably, as somebody with access to the disk would.
    pub fn tamper(&self, path: &Path, content: Vec<u8>) {
        let mut sim = self.lock();
        let inode = Inode {
            durable: content.clone(),
            content,
            unsynced: Vec::new(),
        };
        sim.inodes.push(inode);
        let number = sim.inodes.len() - 1;
        sim.names.insert(path.to_owned(), number);
        sim.durable_names.insert(path.to_owned(), number);
    }

    fn lock(&self) -> MutexGuard<'_, Sim> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for DangerSimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DangerSimDisk")
    }
}

impl Sim {
    /// xorshift64*: small, seeded, good enough to lose sectors by.
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Counts an operation; fails once the power is gone.
    fn operate(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.cut_after {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        let inodes: BTreeSet<_> = self.names.values().collect();
        inodes
            .into_iter()
            .map(|inode| self.inodes[*inode].content.len() as u64)
            .sum()
    }

    fn check_space(&self, more: usize) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if more > 0 && self.used() + more as u64 > capacity => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }

    fn faulty(&self, path: &Path, fault: Fault) -> bool {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy())
            .unwrap_or_default();
        self.fault
            .as_ref()
            .is_some_and(|(set, part)| *set == fault && name.contains(part))
    }

    fn power_cycle(&mut self) {
        // Some failures lose nearly all, some nearly nothing.
        let keep_of_8 = self.random() % 9;
        for change in std::mem::take(&mut self.unsynced_names) {
            if self.random() % 8 < keep_of_8 {
                change.apply(&mut self.durable_names);
            }
        }
        for number in 0..self.inodes.len() {
            let mut inode = std::mem::take(&mut self.inodes[number]);
            for change in std::mem::take(&mut inode.unsynced) {
                self.survive(change, &mut inode.durable, keep_of_8);
            }
            inode.content.clone_from(&inode.durable);
            self.inodes[number] = inode;
        }
        self.names = self.durable_names.clone();
        self.forget_nameless();
        self.lives += 1;
        self.cut_after = None;
    }

    /// Gives back the memory of files that have no name and, their handles being dead, no reader.
    fn forget_nameless(&mut self) {
        let named: BTreeSet<_> = self.names.values().copied().collect();
        for (number, inode) in self.inodes.iter_mut().enumerate() {
            if !named.contains(&number) {
                *inode = Inode::default();
            }
        }
    }

    fn survive(&mut self, change: Change, durable: &mut Vec<u8>, keep_of_8: u64) {
        let (offset, bytes) = match change {
            Change::Len(len) => {
                if self.random() % 8 < keep_of_8 {
                    durable.resize(len, 0);
                }
                return;
            }
            Change::Write(offset, bytes) => (offset, bytes),
        };
        let mut at = offset;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let in_sector = (SECTOR - at % SECTOR).min(rest.len());
            let (mut sector, later) = rest.split_at(in_sector);
            if self.random() % 8 < keep_of_8 {
                if self.random().is_multiple_of(TORN_ONE_IN) {
                    sector = &sector[..(self.random() as usize) % in_sector];
                }
                put(durable, at, sector);
            }
            at += in_sector;
            rest = later;
        }
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl Disk for DangerSimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut sim = self.lock();
        sim.operate()?;
        let inode = match (sim.names.get(path).copied(), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::CreateNew) => {
                sim.inodes.push(Inode::default());
                let inode = sim.inodes.len() - 1;
                sim.names.insert(path.to_owned(), inode);
                sim.unsynced_names
                    .push(NameChange::Add(path.to_owned(), inode));
                inode
            }
            (Some(inode), OpenMode::Read | OpenMode::ReadWrite) => inode,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
        };
        let life = sim.lives;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            path: path.to_owned(),
            inode,
            life,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        sim.operate()?;
        let inode = sim.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        sim.names.insert(to.to_owned(), inode);
        let change = NameChange::Rename(from.to_owned(), to.to_owned(), inode);
        sim.unsynced_names.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        sim.operate()?;
        sim.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        sim.unsynced_names.push(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut sim = self.lock();
        sim.operate()?;
        let in_dir = sim.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(in_dir
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        sim.operate()?;
        sim.dirs.insert(dir.to_owned());
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut sim = self.lock();
        sim.operate()?;
        let (now, later) = std::mem::take(&mut sim.unsynced_names)
            .into_iter()
            .partition::<Vec<_>, _>(|change| change.dir() == Some(dir));
        for change in now {
            change.apply(&mut sim.durable_names);
        }
        sim.unsynced_names = later;
        Ok(())
    }
}

/// An open file of a [`DangerSimDisk`].
#[derive(Debug)]
struct SimFile {
    disk: DangerSimDisk,
    path: PathBuf,
    inode: usize,
    life: u64,
}

impl SimFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, Sim>> {
        let mut sim = self.disk.lock();
        sim.operate()?;
        match sim.lives == self.life {
            true => Ok(sim),
            false => Err(io::Error::other("opened by a process that has ended")),
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let sim = self.lock()?;
        let content = &sim.inodes[self.inode].content;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let mut sim = self.disk.lock();
        if sim.cut_after == Some(0) && sim.lives == self.life {
            // The write that the power fails in may have come through in part.
            sim.inodes[self.inode]
                .unsynced
                .push(Change::Write(offset as usize, bytes.to_vec()));
        }
        drop(sim);
        let mut sim = self.lock()?;
        if sim.faulty(&self.path, Fault::WriteFails) {
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::IO.raw_os_error(),
            ));
        }
        let written = match sim.faulty(&self.path, Fault::ShortWrites) {
            true => bytes.len().div_ceil(2),
            false => bytes.len(),
        };
        let (offset, bytes) = (offset as usize, &bytes[..written]);
        let len = sim.inodes[self.inode].content.len();
        sim.check_space((offset + written).saturating_sub(len))?;
        let inode = &mut sim.inodes[self.inode];
        put(&mut inode.content, offset, bytes);
        inode.unsynced.push(Change::Write(offset, bytes.to_vec()));
        Ok(written)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut sim = self.lock()?;
        let fails = sim.faulty(&self.path, Fault::SyncFails);
        let inode = &mut sim.inodes[self.inode];
        inode.unsynced.clear();
        if fails {
            return Err(io::Error::from_raw_os_error(
                rustix::io::Errno::IO.raw_os_error(),
            ));
        }
        inode.durable.clone_from(&inode.content);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut sim = self.lock()?;
        let len = len as usize;
        let has = sim.inodes[self.inode].content.len();
        sim.check_space(len.saturating_sub(has))?;
        if has < len {
            let inode = &mut sim.inodes[self.inode];
            inode.content.resize(len, 0);
            inode.unsynced.push(Change::Len(len));
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut sim = self.lock()?;
        let inode = &mut sim.inodes[self.inode];
        inode.content.resize(len as usize, 0);
        inode.unsynced.push(Change::Len(len as usize));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock()?.inodes[self.inode].content.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(disk: &DangerSimDisk, name: &str) -> Arc<dyn DiskFile> {
        disk.open(Path::new(name), OpenMode::CreateNew).unwrap()
    }

    #[test]
    fn what_is_synced_stays() {
        for seed in 0..200 {
            let disk = DangerSimDisk::new(seed);
            let file = create(&disk, "/d/a");
            file.write_all_at(&[7; 2000], 100).unwrap();
            file.sync_data().unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            file.write_all_at(&[8; 10], 0).unwrap();
            disk.power_cycle();
            let content = disk.content(Path::new("/d/a")).unwrap();
            assert_eq!(content.len(), 2100);
            assert_eq!(content[100..], [7; 2000]);
            assert!(file.read_at(&mut [0], 0).is_err(), "opened before");
        }
    }

    #[test]
    fn what_is_not_synced_is_lost_kept_and_torn() {
        let (mut lost, mut kept, mut torn, mut nameless) = (0, 0, 0, 0);
        for seed in 0..400 {
            let disk = DangerSimDisk::new(seed);
            let file = create(&disk, "/d/a");
            file.allocate(4096).unwrap();
            file.sync_data().unwrap();
            file.write_all_at(&[7; 4096], 0).unwrap();
            if seed % 2 == 0 {
                disk.sync_dir(Path::new("/d")).unwrap();
            }
            disk.power_cycle();
            match disk.content(Path::new("/d/a")) {
                None => nameless += 1,
                Some(content) if content == [7; 4096] => kept += 1,
                Some(content) if content == [0; 4096] => lost += 1,
                Some(_) => torn += 1,
            }
        }
        assert!([lost, kept, torn, nameless].iter().all(|count| *count > 5));
    }

    #[test]
    fn the_same_seed_loses_the_same() {
        let contents = |seed| {
            let disk = DangerSimDisk::new(seed);
            let file = create(&disk, "/d/a");
            file.write_all_at(&[7; 8000], 0).unwrap();
            disk.sync_dir(Path::new("/d")).unwrap();
            disk.power_cycle();
            disk.content(Path::new("/d/a"))
        };
        assert!((0..50).all(|seed| contents(seed) == contents(seed)));
        assert!((0..50).any(|seed| contents(seed) != contents(99)));
    }

    #[test]
    fn capacity_and_faults() {
        let disk = DangerSimDisk::new(1);
        let file = create(&disk, "/d/log");
        disk.set_capacity(Some(1000));
        file.allocate(1000).unwrap();
        assert_eq!(
            file.allocate(1001).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert_eq!(
            file.write_at(&[1], 1000).unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        file.write_all_at(&[1; 1000], 0).unwrap();
        disk.set_fault(Some((Fault::ShortWrites, "log")));
        assert_eq!(file.write_at(&[2; 10], 0).unwrap(), 5);
        file.write_all_at(&[2; 10], 0).unwrap();
        disk.set_fault(Some((Fault::WriteFails, "log")));
        assert!(file.write_at(&[2], 0).is_err());
        disk.set_fault(Some((Fault::SyncFails, "other")));
        file.sync_data().unwrap();
        disk.set_fault(None);
        disk.cut_power_after(1);
        file.sync_data().unwrap();
        assert!(file.sync_data().is_err() && file.len().is_err());
    }
}
