//! Snapshots: written, read and kept as sealed files.
//!
//! A state machine writes one through a [`SnapshotDraft`] and makes it the newest with
//! [`SnapshotStore::install`]; one that comes from a leader takes the same way. Plaintext exists
//! for one chunk at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use openraft::{RaftTypeConfig, Snapshot, SnapshotMeta};
use prost::Message as _;
use waxseal_autolock::{
    CHUNK_HEADER_LEN, ChunkHeader, ChunkKind, DekId, MAX_CHUNK_BYTES, Owner, SNAPSHOT_HEADER_LEN,
    SnapshotCipher, SnapshotHeader, TAG_LEN, Tag,
};
use zeroize::Zeroizing;

use crate::atomic::TEMPORARY_SUFFIX;
use crate::keys::{Keys, random};
use crate::options::StoreOptions;
use crate::records::{DiskSnapshotMeta, RECORDS_FORMAT};
use crate::{Disk, DiskFile, Member, OpenMode, StoreError};

/// openraft's description of a snapshot, with this store's types.
pub type Meta = SnapshotMeta<u64, Member>;

const PREFIX: &str = "snapshot-";
const SUFFIX: &str = ".snap";

/// The snapshots of one directory. Cheap to clone. All methods block.
#[derive(Debug, Clone)]
pub struct SnapshotStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    owner: Owner,
    keys: Arc<Keys>,
    latest: Mutex<Option<StoredSnapshot>>,
    older: Mutex<Older>,
    /// The number of the next snapshot; a higher one is newer. Locked while one is installed.
    next_number: Mutex<u64>,
    /// Space for the next draft, allocated beforehand.
    reserved: Mutex<Option<Draft>>,
}

/// Those before the newest. Nothing here reads them; they are there for who asked for them.
#[derive(Debug, Default)]
struct Older {
    /// How many stay.
    keep: usize,
    /// The oldest first.
    files: Vec<StoredSnapshot>,
}

/// openraft's `SnapshotData`.
#[derive(Debug, Clone)]
pub enum SnapshotData {
    /// Being written: by the state machine or with chunks from a leader.
    Draft(SnapshotDraft),
    /// Whole, on disk.
    Stored(StoredSnapshot),
}

/// A snapshot that is being written, under a temporary name; dropped unfinished, it is removed.
#[derive(Debug, Clone)]
pub struct SnapshotDraft(Arc<Mutex<Option<Draft>>>);

/// A whole snapshot on disk. Stays readable when a newer one replaces it.
#[derive(Debug, Clone)]
pub struct StoredSnapshot(Arc<Stored>);

#[derive(Debug)]
struct Stored {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    cipher: SnapshotCipher,
    meta: Meta,
    bytes: u64,
}

/// Reads the chunks of a snapshot in order.
#[derive(Debug)]
pub struct SnapshotReader {
    stored: StoredSnapshot,
    offset: u64,
    number: u32,
    done: bool,
}

impl SnapshotStore {
    pub(crate) fn open(
        options: &StoreOptions,
        keys: &Arc<Keys>,
        names: &[String],
    ) -> Result<Self, StoreError> {
        let mut numbered: Vec<_> = names
            .iter()
            .filter_map(|name| Some((parse_name(name)?, name)))
            .collect();
        numbered.sort_unstable();
        let newest = numbered.pop();
        let latest = match newest {
            Some((number, name)) => {
                let path = options.dir.join(name);
                Some(open_stored(
                    &*options.disk,
                    path,
                    number,
                    keys,
                    &options.owner,
                )?)
            }
            None => None,
        };
        // The newest is whole, so nobody needs the older ones: what cannot be read goes.
        let mut older = Older::default();
        for (number, name) in numbered {
            let path = options.dir.join(name);
            match open_stored(&*options.disk, path.clone(), number, keys, &options.owner) {
                Ok(stored) => older.files.push(stored),
                Err(_) => options
                    .disk
                    .remove(&path)
                    .map_err(|err| StoreError::io(&path, "remove", err))?,
            }
        }
        let next_number = newest.map_or(1, |(number, _)| number + 1);
        Ok(Self(Arc::new(Shared {
            disk: options.disk.clone(),
            dir: options.dir.clone(),
            owner: options.owner.clone(),
            keys: keys.clone(),
            latest: Mutex::new(latest),
            older: Mutex::new(older),
            next_number: Mutex::new(next_number),
            reserved: Mutex::default(),
        })))
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Option<StoredSnapshot> {
        lock(&self.0.latest).clone()
    }

    /// Begins a new one, in the space that was reserved if there is any.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn begin(&self) -> Result<SnapshotDraft, StoreError> {
        let reserved = lock(&self.0.reserved).take();
        let draft = match reserved {
            Some(draft) if draft.is_current(&self.0.keys) => draft,
            _ => Draft::create(&self.0, 0)?,
        };
        Ok(SnapshotDraft(Arc::new(Mutex::new(Some(draft)))))
    }

    /// Allocates space for the next draft. openraft takes a snapshot that cannot be written as
    /// fatal, so a manager asks this before it triggers one; on a full disk it waits with it.
    ///
    /// # Errors
    /// [`StoreError::Io`], for which [`StoreError::is_full`] tells whether to wait.
    pub fn reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let overhead = SNAPSHOT_HEADER_LEN as u64 + MAX_CHUNK_BYTES as u64 / 4;
        let draft = Draft::create(&self.0, bytes + bytes / 64 + overhead)?;
        *lock(&self.0.reserved) = Some(draft);
        Ok(())
    }

    /// From now on so many snapshots stay beside the newest; none before this is called.
    ///
    /// # Errors
    /// [`StoreError::Io`] if one that is too many cannot be removed.
    pub fn keep_older(&self, keep: usize) -> Result<(), StoreError> {
        let mut older = lock(&self.0.older);
        older.keep = keep;
        self.prune(&mut older)
    }

    /// Makes `data` the newest snapshot: durable when this returns. Of the older ones those
    /// stay that [`Self::keep_older`] says.
    /// A snapshot of another store, or under other words than `meta`, is sealed anew.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Corrupt`] for a damaged source or a finished draft.
    pub fn install(&self, meta: &Meta, data: SnapshotData) -> Result<StoredSnapshot, StoreError> {
        match data {
            SnapshotData::Draft(draft) => {
                let draft = lock(&draft.0)
                    .take()
                    .ok_or_else(|| self.unusable("it is finished"))?;
                if !draft.store.ptr_eq(&Arc::downgrade(&self.0)) {
                    return Err(self.unusable("it was begun in another store"));
                }
                self.finish(meta, draft)
            }
            SnapshotData::Stored(stored) => {
                let same = self
                    .latest()
                    .is_some_and(|latest| Arc::ptr_eq(&latest.0, &stored.0));
                match same && stored.meta() == meta {
                    true => Ok(stored),
                    false => self.copy(meta, &stored),
                }
            }
        }
    }

    /// Seals the newest snapshot anew if it is under a retired key, and removes older ones
    /// that are.
    ///
    /// # Errors
    /// As [`Self::install`].
    pub fn reseal(&self) -> Result<(), StoreError> {
        let current = self.0.keys.ring().current().id();
        if let Some(latest) = self.latest().filter(|latest| latest.dek_id() != current) {
            self.copy(latest.meta(), &latest)?;
        }
        let mut older = lock(&self.0.older);
        let mut retired = older.files.extract_if(.., |one| one.dek_id() != current);
        self.remove(&mut retired)
    }

    /// The keys that snapshots on disk are sealed under.
    pub fn deks_in_use(&self) -> Vec<DekId> {
        let latest = self.latest();
        let older = lock(&self.0.older);
        let all = latest.iter().chain(&older.files);
        all.map(StoredSnapshot::dek_id).collect()
    }

    fn copy(&self, meta: &Meta, source: &StoredSnapshot) -> Result<StoredSnapshot, StoreError> {
        let mut draft = Draft::create(&self.0, 0)?;
        let mut reader = source.reader();
        while let Some(chunk) = reader.next_chunk()? {
            draft.write(&chunk)?;
        }
        self.finish(meta, draft)
    }

    fn finish(&self, meta: &Meta, mut draft: Draft) -> Result<StoredSnapshot, StoreError> {
        let mut next_number = lock(&self.0.next_number);
        let number = *next_number;
        // 1. All of it on disk, under a temporary name.
        draft.describe(meta, number)?;
        // 2. Its name.
        let path = self.0.dir.join(snapshot_name(number));
        let fail = |err| StoreError::io(&path, "rename", err);
        self.0.disk.rename(&draft.path, &path).map_err(fail)?;
        draft.renamed = true;
        self.0.disk.sync_dir(&self.0.dir).map_err(fail)?;
        *next_number += 1;
        let stored = open_stored(&*self.0.disk, path, number, &self.0.keys, &self.0.owner)?;
        // 3. Only now the one before may go.
        let former = lock(&self.0.latest).replace(stored.clone());
        let mut older = lock(&self.0.older);
        older.files.extend(former);
        self.prune(&mut older)?;
        Ok(stored)
    }

    /// Removes the oldest of those that are too many.
    fn prune(&self, older: &mut Older) -> Result<(), StoreError> {
        let surplus = older.files.len().saturating_sub(older.keep);
        self.remove(&mut older.files.drain(..surplus))
    }

    fn remove(&self, gone: &mut dyn Iterator<Item = StoredSnapshot>) -> Result<(), StoreError> {
        for stored in gone {
            let path = &stored.0.path;
            self.0
                .disk
                .remove(path)
                .and_then(|()| self.0.disk.sync_dir(&self.0.dir))
                .map_err(|err| StoreError::io(path, "remove", err))?;
        }
        Ok(())
    }

    fn unusable(&self, what: &str) -> StoreError {
        StoreError::corrupt(
            &self.0.dir,
            0,
            format!("a snapshot draft cannot be used: {what}"),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SnapshotDraft {
    /// Appends plaintext, of any length; sealed in chunks of 1 MiB, and wiped.
    ///
    /// # Errors
    /// [`StoreError::Io`], `StorageFull` above all; [`StoreError::Stopped`] once it is finished.
    pub fn write(&self, bytes: &[u8]) -> Result<(), StoreError> {
        lock(&self.0)
            .as_mut()
            .ok_or(StoreError::Stopped)?
            .write(bytes)
    }
}

/// The file behind a draft.
#[derive(Debug)]
struct Draft {
    /// Where it began, to be told from others.
    store: Weak<Shared>,
    disk: Arc<dyn Disk>,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    cipher: SnapshotCipher,
    offset: u64,
    number: u32,
    /// Room for a chunk's header, then the plaintext of a chunk that is not full yet.
    buffer: Zeroizing<Vec<u8>>,
    renamed: bool,
}

impl Draft {
    fn create(shared: &Arc<Shared>, reserved_bytes: u64) -> Result<Self, StoreError> {
        let snapshot_id: [u8; 16] = random()?;
        let number = u64::from_be_bytes(random()?);
        let mut name = snapshot_name(number);
        name.push_str(TEMPORARY_SUFFIX);
        let path = shared.dir.join(name);
        let fail = |err| StoreError::io(&path, "write", err);
        let file = shared.disk.open(&path, OpenMode::CreateNew).map_err(fail)?;
        let ring = shared.keys.ring();
        let header = SnapshotHeader {
            dek_id: ring.current().id(),
            snapshot_id,
        };
        let (bytes, cipher) = header.seal(ring.current(), &shared.owner);
        let draft = Self {
            store: Arc::downgrade(shared),
            disk: shared.disk.clone(),
            path,
            file,
            cipher,
            offset: bytes.len() as u64,
            number: 0,
            buffer: Zeroizing::new(Vec::new()),
            renamed: false,
        };
        let fail = |err| StoreError::io(&draft.path, "write", err);
        if reserved_bytes > 0 {
            draft.file.allocate(reserved_bytes).map_err(fail)?;
        }
        draft.file.write_all_at(&bytes, 0).map_err(fail)?;
        Ok(draft)
    }

    fn is_current(&self, keys: &Keys) -> bool {
        self.cipher.header().dek_id == keys.ring().current().id()
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        while !bytes.is_empty() {
            if self.buffer.capacity() == 0 {
                let capacity = CHUNK_HEADER_LEN + MAX_CHUNK_BYTES + TAG_LEN;
                self.buffer = Zeroizing::new(Vec::with_capacity(capacity));
            }
            if self.buffer.is_empty() {
                self.buffer.resize(CHUNK_HEADER_LEN, 0);
            }
            let room = CHUNK_HEADER_LEN + MAX_CHUNK_BYTES - self.buffer.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.flush(ChunkKind::State)?;
            }
        }
        Ok(())
    }

    /// Seals and writes what the buffer holds.
    fn flush(&mut self, kind: ChunkKind) -> Result<(), StoreError> {
        if self.buffer.len() <= CHUNK_HEADER_LEN {
            return Ok(());
        }
        let body_len = self.buffer.len() - CHUNK_HEADER_LEN;
        let header = ChunkHeader {
            kind,
            number: self.number,
            body_len: u32::try_from(body_len).unwrap_or(u32::MAX),
        };
        let snapshot_id = &self.cipher.header().snapshot_id;
        let (head, body) = self.buffer.split_at_mut(CHUNK_HEADER_LEN);
        head.copy_from_slice(&header.encode(snapshot_id));
        let tag = self.cipher.seal(&header, body);
        self.buffer.extend_from_slice(&tag);
        self.file
            .write_all_at(&self.buffer, self.offset)
            .map_err(|err| StoreError::io(&self.path, "write", err))?;
        self.offset += self.buffer.len() as u64;
        self.number += 1;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the last chunk and syncs all.
    fn describe(&mut self, meta: &Meta, number: u64) -> Result<(), StoreError> {
        self.flush(ChunkKind::State)?;
        let description = DiskSnapshotMeta {
            number,
            ..meta.into()
        };
        self.buffer.clear();
        self.buffer.resize(CHUNK_HEADER_LEN, 0);
        self.buffer.extend_from_slice(&description.encode_to_vec());
        self.flush(ChunkKind::Description)?;
        self.file
            .set_len(self.offset)
            .and_then(|()| self.file.sync_data())
            .map_err(|err| StoreError::io(&self.path, "write", err))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.renamed {
            // A leftover is removed at the next start.
            let _ = self.disk.remove(&self.path);
        }
    }
}

impl StoredSnapshot {
    /// What it is.
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// Its plaintext, chunk by chunk, from the beginning.
    pub fn reader(&self) -> SnapshotReader {
        let offset = SNAPSHOT_HEADER_LEN as u64;
        SnapshotReader {
            stored: self.clone(),
            offset,
            number: 0,
            done: false,
        }
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        self.0.bytes
    }

    /// As openraft wants it.
    pub fn to_openraft<C>(&self) -> Snapshot<C>
    where
        C: RaftTypeConfig<NodeId = u64, Node = Member, SnapshotData = SnapshotData>,
    {
        let data = SnapshotData::Stored(self.clone());
        Snapshot {
            meta: self.meta().clone(),
            snapshot: Box::new(data),
        }
    }

    fn dek_id(&self) -> DekId {
        self.0.cipher.header().dek_id
    }
}

impl SnapshotReader {
    /// The next chunk of at most 1 MiB; `None` after the last. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Io`].
    pub fn next_chunk(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        if self.done {
            return Ok(None);
        }
        let Stored {
            path, file, cipher, ..
        } = &*self.stored.0;
        let chunk = read_chunk_header(&**file, path, cipher, self.offset, self.number)?;
        if chunk.kind == ChunkKind::Description {
            self.done = true;
            return Ok(None);
        }
        let body = read_chunk(&**file, path, cipher, self.offset, &chunk)?;
        self.offset += chunk_disk_len(&chunk);
        self.number += 1;
        Ok(Some(body))
    }

    /// All chunks in one buffer. Blocks.
    ///
    /// # Errors
    /// As [`Self::next_chunk`].
    pub fn read_to_end(mut self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let capacity = usize::try_from(self.stored.file_bytes()).unwrap_or(0);
        let mut all = Zeroizing::new(Vec::with_capacity(capacity));
        while let Some(chunk) = self.next_chunk()? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

/// Opens a snapshot: checks its header, finds its description through the chunk headers and opens
/// it. The chunks between are checked when they are read.
fn open_stored(
    disk: &dyn Disk,
    path: PathBuf,
    number: u64,
    keys: &Keys,
    owner: &Owner,
) -> Result<StoredSnapshot, StoreError> {
    let io = |err| StoreError::io(&path, "read", err);
    let file = disk.open(&path, OpenMode::Read).map_err(io)?;
    let bytes = file.len().map_err(io)?;
    let mut head = [0; SNAPSHOT_HEADER_LEN];
    let read = file.read_full_at(&mut head, 0).map_err(io)?;
    let (_, cipher) = SnapshotHeader::open(&head[..read], &keys.ring(), owner)
        .map_err(|err| StoreError::format(&path, 0, err))?;
    let mut offset = SNAPSHOT_HEADER_LEN as u64;
    let mut chunk_number = 0;
    let chunk = loop {
        let chunk = read_chunk_header(&*file, &path, &cipher, offset, chunk_number)?;
        if chunk.kind == ChunkKind::Description {
            break chunk;
        }
        offset += chunk_disk_len(&chunk);
        chunk_number += 1;
    };
    let body = read_chunk(&*file, &path, &cipher, offset, &chunk)?;
    let meta = DiskSnapshotMeta::decode(&body[..])
        .map_err(|_| StoreError::corrupt(&path, offset, "its description is malformed"))?;
    if meta.format > RECORDS_FORMAT {
        let (version, supported) = (meta.format, RECORDS_FORMAT);
        return Err(StoreError::TooNew {
            file: path,
            version,
            supported,
        });
    }
    if meta.number != number {
        let what = format!("it is snapshot {} under another name", meta.number);
        return Err(StoreError::corrupt(&path, offset, what));
    }
    let meta = meta.into();
    Ok(StoredSnapshot(Arc::new(Stored {
        path,
        file,
        cipher,
        meta,
        bytes,
    })))
}

fn chunk_disk_len(chunk: &ChunkHeader) -> u64 {
    (CHUNK_HEADER_LEN + chunk.body_len as usize + TAG_LEN) as u64
}

fn read_chunk_header(
    file: &dyn DiskFile,
    path: &Path,
    cipher: &SnapshotCipher,
    offset: u64,
    number: u32,
) -> Result<ChunkHeader, StoreError> {
    let mut bytes = [0; CHUNK_HEADER_LEN];
    let read = file
        .read_full_at(&mut bytes, offset)
        .map_err(|err| StoreError::io(path, "read", err))?;
    let chunk = ChunkHeader::decode(&bytes[..read], &cipher.header().snapshot_id)
        .map_err(|err| StoreError::format(path, offset, err))?;
    match chunk.number == number {
        true => Ok(chunk),
        false => Err(StoreError::corrupt(
            path,
            offset,
            format!("chunk {number} is missing"),
        )),
    }
}

fn read_chunk(
    file: &dyn DiskFile,
    path: &Path,
    cipher: &SnapshotCipher,
    offset: u64,
    chunk: &ChunkHeader,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let body_len = chunk.body_len as usize;
    let mut bytes = Zeroizing::new(vec![0; body_len + TAG_LEN]);
    let read = file
        .read_full_at(&mut bytes, offset + CHUNK_HEADER_LEN as u64)
        .map_err(|err| StoreError::io(path, "read", err))?;
    let cut = || StoreError::corrupt(path, offset, "the file is cut short");
    if read < bytes.len() {
        return Err(cut());
    }
    let (body, tag) = bytes.split_at_mut(body_len);
    let tag: Tag = (&*tag).try_into().map_err(|_| cut())?;
    cipher
        .open(chunk, body, &tag)
        .map_err(|err| StoreError::format(path, offset, err))?;
    bytes.truncate(body_len);
    Ok(bytes)
}

fn snapshot_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{SUFFIX}")
}

fn parse_name(name: &str) -> Option<u64> {
    let hex = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let number = u64::from_str_radix(hex, 16).ok()?;
    (snapshot_name(number) == name).then_some(number)
}

/// Whether a file name is that of a snapshot.
pub(crate) fn is_snapshot_name(name: &str) -> bool {
    parse_name(name).is_some()
}
