//! The log behind openraft's traits: seals what is appended, knows where it is, asks the writer.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use openraft::{LogId, Vote};
use waxseal_autolock::{
    ChainLink, Dek, DekId, Owner, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, RecordKind,
    SEGMENT_HEADER_LEN, SegmentHeader, TAG_LEN, Tag, record_disk_len,
};
use zeroize::Zeroizing;

use super::LogFull;
use super::index::{Cache, Index, Place, Point};
use super::segment_file::{Segment, segment_name};
use super::spare::Spare;
use super::writer::{Done, Op, Progress, Write};
use crate::keys::{Keys, random};
use crate::{LogLimits, LogUsage, SnapshotPolicy, StoreError};

/// A record to be appended.
pub(crate) trait NewRecord {
    /// What it is.
    fn kind(&self) -> RecordKind;
    /// Its place in the Raft log.
    fn log_id(&self) -> LogId<u64>;
    /// Bytes that [`Self::encode`] appends.
    fn encoded_len(&self) -> usize;
    /// Appends the body.
    fn encode(&self, out: &mut Vec<u8>);
}

/// A record that has no body.
struct Mark(RecordKind, LogId<u64>);

impl NewRecord for Mark {
    fn kind(&self) -> RecordKind {
        self.0
    }

    fn log_id(&self) -> LogId<u64> {
        self.1
    }

    fn encoded_len(&self) -> usize {
        0
    }

    fn encode(&self, _out: &mut Vec<u8>) {}
}

/// Where the next record goes.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u32,
    pub(crate) records: u64,
    pub(crate) tag: Tag,
}

impl Tail {
    fn link(&self) -> ChainLink {
        ChainLink {
            segment_id: *self.segment.id(),
            records: self.records,
            tag: self.tag,
        }
    }

    fn point(&self) -> Point {
        Point {
            sequence: self.segment.sequence,
            offset: self.offset,
        }
    }
}

/// What is known of the log.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) index: Index,
    pub(crate) cache: Cache,
    pub(crate) vote: Option<Vote<u64>>,
    pub(crate) committed: Option<LogId<u64>>,
    /// Whether the log on disk does not say so yet.
    pub(crate) committed_unwritten: bool,
    pub(crate) tail: Tail,
    /// All segments, oldest first, the tail's last.
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) closed: bool,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) dir: PathBuf,
    pub(crate) owner: Owner,
    pub(crate) limits: LogLimits,
    pub(crate) keys: Arc<Keys>,
    pub(crate) state: Mutex<State>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) spare: Arc<Spare>,
    /// `None` once the log is dropped. Bounded by openraft, which waits for each flush.
    pub(crate) queue: Option<mpsc::Sender<Op>>,
    pub(crate) writer: Option<JoinHandle<()>>,
}

/// An entry to be read: where it is, and its sealed body if that is in memory.
#[derive(Debug)]
pub(crate) struct Sealed {
    place: Place,
    body: Option<Bytes>,
}

impl Core {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, op: Op) -> Result<(), StoreError> {
        let queue = self.queue.as_ref().ok_or(StoreError::Stopped)?;
        queue.send(op).map_err(|_| StoreError::Stopped)
    }

    fn check_writable(&self, state: &State) -> Result<(), StoreError> {
        match state.closed || self.progress.failure.get().is_some() {
            true => Err(StoreError::Stopped),
            false => Ok(()),
        }
    }

    /// The longest body that a record may have.
    fn max_body(&self) -> usize {
        let fits = self.limits.segment_bytes as usize - SEGMENT_HEADER_LEN - record_disk_len(0);
        fits.min(self.limits.max_entry_bytes as usize)
    }

    /// Appends entries: readable when this returns, durable when `done` is told.
    pub(crate) fn append(
        &self,
        entries: &[impl NewRecord],
        done: Option<Done>,
    ) -> Result<(), StoreError> {
        let mut state = self.lock();
        self.check_writable(&state)?;
        // What a snapshot covers already is not kept.
        let purged = state.index.purged().map(|purged| purged.index);
        let covered = entries.partition_point(|entry| Some(entry.log_id().index) <= purged);
        let entries = &entries[covered..];
        let mut next = state.index.next_index();
        for entry in entries {
            let (index, len) = (entry.log_id().index, entry.encoded_len());
            if next.is_some_and(|next| next != index) {
                let what = format!("an entry with index {index} would leave a hole");
                return Err(StoreError::corrupt(&self.dir, 0, what));
            }
            if len > self.max_body() {
                return Err(StoreError::TooLarge {
                    bytes: len,
                    limit: self.max_body(),
                });
            }
            next = Some(index + 1);
        }
        self.write_committed(&mut state)?;
        self.append_records(&mut state, entries, done)?;
        state
            .cache
            .shrink(self.limits.cache_bytes, self.progress.synced());
        Ok(())
    }

    /// Voids the entries from `log_id` on.
    pub(crate) fn truncate(&self, log_id: LogId<u64>, done: Done) -> Result<(), StoreError> {
        let mut state = self.lock();
        self.check_writable(&state)?;
        state.index.truncate(log_id.index);
        state.cache.truncate(log_id.index);
        self.append_records(
            &mut state,
            &[Mark(RecordKind::Truncate, log_id)],
            Some(done),
        )
    }

    /// Forgets the entries up to `log_id` and removes the segments that held nothing else.
    pub(crate) fn purge(&self, log_id: LogId<u64>, done: Done) -> Result<(), StoreError> {
        let mut state = self.lock();
        self.check_writable(&state)?;
        state.index.purge(log_id);
        let first = state
            .index
            .first_segment()
            .unwrap_or(&state.tail.segment)
            .sequence;
        let cut = state
            .segments
            .partition_point(|segment| segment.sequence < first);
        let remove = state
            .segments
            .drain(..cut)
            .map(|segment| segment.path.clone())
            .collect();
        let purged = state.index.purged().unwrap_or(log_id).into();
        self.send(Op::Purge {
            purged,
            first_sequence: first,
            remove,
            done,
        })
    }

    pub(crate) fn save_vote(&self, vote: Vote<u64>, done: Done) -> Result<(), StoreError> {
        let mut state = self.lock();
        self.check_writable(&state)?;
        state.vote = Some(vote);
        self.send(Op::Vote {
            vote: vote.into(),
            done,
        })
    }

    pub(crate) fn save_committed(&self, committed: Option<LogId<u64>>) {
        let mut state = self.lock();
        state.committed_unwritten |= committed.is_some() && state.committed != committed;
        state.committed = committed;
    }

    /// Seals from now on under `new`: what is queued before still goes to the former segment.
    pub(crate) fn rotate_dek(&self, new: Dek, done: Done) -> Result<(), StoreError> {
        let mut state = self.lock();
        self.check_writable(&state)?;
        // A segment that was begun and got no file would end the log.
        let next = state.tail.segment.sequence + 1;
        if state.tail.segment.cipher.dek_id() != new.id() && !self.spare.is_ready_for(next) {
            let file = self.dir.join(segment_name(next));
            return Err(StoreError::NoSpace { file });
        }
        self.keys.rotate(new);
        if state.tail.segment.cipher.dek_id() != self.keys.ring().current().id() {
            self.roll(&mut state)?;
        }
        self.send(Op::Flush { note: true, done })
    }

    /// Has `done` told when all that is queued is written.
    pub(crate) fn flush(&self, done: Done) -> Result<(), StoreError> {
        self.send(Op::Flush { note: false, done })
    }

    /// Refuses all later writes and notes the log's end.
    pub(crate) fn close(&self, done: Done) -> Result<(), StoreError> {
        let mut state = self.lock();
        if !state.closed {
            self.check_writable(&state)?;
        }
        self.write_committed(&mut state)?;
        state.closed = true;
        self.send(Op::Flush { note: true, done })
    }

    /// The keys that segments are sealed under.
    pub(crate) fn deks_in_use(&self) -> Vec<DekId> {
        let state = self.lock();
        state
            .segments
            .iter()
            .map(|segment| segment.cipher.dek_id())
            .collect()
    }

    pub(crate) fn can_accept(&self, bytes: usize) -> Result<(), LogFull> {
        if bytes > self.max_body() {
            return Err(LogFull::TooLarge {
                bytes,
                limit: self.max_body(),
            });
        }
        let room = {
            let state = self.lock();
            if state.closed || self.progress.failure.get().is_some() {
                return Err(LogFull::Stopped);
            }
            self.limits.segment_bytes.saturating_sub(state.tail.offset) as usize
        };
        if self.spare.is_ready()
            || room >= record_disk_len(bytes) + self.limits.reserve_bytes as usize
        {
            return Ok(());
        }
        self.spare.retry();
        Err(LogFull::NoSpace)
    }

    pub(crate) fn usage_since(&self, index: Option<u64>) -> LogUsage {
        let state = self.lock();
        LogUsage {
            segments: state.segments.len(),
            ..state.index.usage_since(index)
        }
    }

    pub(crate) fn purge_target(&self, snapshot_index: u64, policy: &SnapshotPolicy) -> Option<u64> {
        let state = self.lock();
        // Old segments go as a whole, or their number would not fall.
        let (entries, bytes) = match state.segments.len() >= policy.max_segments {
            true => (0, 0),
            false => (policy.keep_entries, policy.keep_bytes),
        };
        state.index.purge_target(snapshot_index, entries, bytes)
    }

    /// Which entries of a range to read: all, or up to `budget` bytes but always one.
    pub(crate) fn find(&self, range: Range<u64>, budget: Option<usize>) -> Vec<Sealed> {
        let state = self.lock();
        let mut bytes = 0;
        state
            .index
            .range(range)
            .take_while(|place| {
                let first = bytes == 0;
                bytes += place.header.body_len as usize + TAG_LEN;
                first || budget.is_none_or(|budget| bytes <= budget)
            })
            .map(|place| {
                let body = state.cache.find(place.header.index).cloned();
                Sealed {
                    place: place.clone(),
                    body,
                }
            })
            .collect()
    }

    /// Writes what is known to be committed. Lost, the leader finds it out anew; so it waits for
    /// company.
    fn write_committed(&self, state: &mut State) -> Result<(), StoreError> {
        let Some(committed) = state.committed.filter(|_| state.committed_unwritten) else {
            return Ok(());
        };
        state.committed_unwritten = false;
        self.append_records(state, &[Mark(RecordKind::Committed, committed)], None)
    }

    /// Seals records and queues them, in as many segments as it takes.
    fn append_records(
        &self,
        state: &mut State,
        records: &[impl NewRecord],
        done: Option<Done>,
    ) -> Result<(), StoreError> {
        self.seal_and_queue(state, records, done).inspect_err(|_| {
            // Records were numbered that will never be written.
            state.closed = true;
        })
    }

    fn seal_and_queue(
        &self,
        state: &mut State,
        records: &[impl NewRecord],
        mut done: Option<Done>,
    ) -> Result<(), StoreError> {
        let mut rest = records;
        loop {
            let room = (self.limits.segment_bytes - state.tail.offset) as usize;
            let (count, bytes) = how_many_fit(rest, room);
            let (fitting, later) = rest.split_at(count);
            rest = later;
            if !fitting.is_empty() || rest.is_empty() {
                let last = rest.is_empty().then(|| done.take()).flatten();
                self.write(state, fitting, bytes, last)?;
            }
            if rest.is_empty() {
                return Ok(());
            }
            self.roll(state)?;
        }
    }

    /// Seals records that fit into the tail's segment and queues them as one write.
    fn write(
        &self,
        state: &mut State,
        records: &[impl NewRecord],
        len: usize,
        done: Option<Done>,
    ) -> Result<(), StoreError> {
        let segment = state.tail.segment.clone();
        let offset = state.tail.offset;
        let mut bytes = Vec::with_capacity(len);
        let mut starts = Vec::with_capacity(records.len());
        for record in records {
            starts.push(bytes.len() as u32);
            let place = seal_record(&mut state.tail, record, &mut bytes)?;
            if place.header.kind.is_entry() {
                state.index.push(place);
            }
        }
        let shared = Bytes::copy_from_slice(&bytes);
        for (record, start) in records.iter().zip(&starts) {
            if record.kind().is_entry() {
                let body = *start as usize + RECORD_HEADER_LEN;
                let body = shared.slice(body..body + record.encoded_len() + TAG_LEN);
                let at = Point {
                    sequence: segment.sequence,
                    offset: offset + start,
                };
                state.cache.push(record.log_id().index, at, body);
            }
        }
        let end = state.tail.link();
        self.send(Op::Write(Write {
            segment,
            offset,
            bytes,
            records: starts,
            end,
            done,
        }))
    }

    /// Goes on in a new segment under the current key.
    fn roll(&self, state: &mut State) -> Result<(), StoreError> {
        let first_index = state.index.next_index().unwrap_or(0);
        let previous = Some(state.tail.link());
        let sequence = state.tail.point().sequence + 1;
        let (tail, header) = new_segment(
            &self.dir,
            &self.owner,
            &self.keys,
            sequence,
            first_index,
            previous,
        )?;
        let segment = tail.segment.clone();
        state.segments.push(segment.clone());
        state.tail = tail;
        self.send(Op::Begin { segment, header })
    }
}

impl Drop for Core {
    /// Waits until what is queued is written: whoever opens the directory next must not meet the
    /// thread of this log.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has answered nobody; there is nothing to add here.
            let _ = writer.join();
        }
    }
}

/// A new segment: where its first record goes, and its header.
pub(crate) fn new_segment(
    dir: &std::path::Path,
    owner: &Owner,
    keys: &Keys,
    sequence: u64,
    first_index: u64,
    previous: Option<ChainLink>,
) -> Result<(Tail, Box<[u8; SEGMENT_HEADER_LEN]>), StoreError> {
    let ring = keys.ring();
    let dek = ring.current();
    let segment_id = random()?;
    let header = SegmentHeader {
        dek_id: dek.id(),
        segment_id,
        sequence,
        first_index,
        previous,
    };
    let (bytes, cipher) = header.seal(dek, owner);
    let tag = cipher.header_tag();
    let segment = Arc::new(Segment::new(dir, sequence, cipher));
    let offset = SEGMENT_HEADER_LEN as u32;
    Ok((
        Tail {
            segment,
            offset,
            records: 0,
            tag,
        },
        Box::new(bytes),
    ))
}

/// How many of `records`, from the first, fit into `room` bytes, and how many they take.
fn how_many_fit(records: &[impl NewRecord], room: usize) -> (usize, usize) {
    let mut taken = 0;
    for (count, record) in records.iter().enumerate() {
        let with_this = taken + record_disk_len(record.encoded_len());
        if with_this > room {
            return (count, taken);
        }
        taken = with_this;
    }
    (records.len(), taken)
}

/// Encodes a record into `out`, seals it there, and moves the tail on.
fn seal_record(
    tail: &mut Tail,
    record: &impl NewRecord,
    out: &mut Vec<u8>,
) -> Result<Place, StoreError> {
    let segment = tail.segment.clone();
    let len = record.encoded_len();
    let log_id = record.log_id();
    let header = RecordHeader {
        kind: record.kind(),
        body_len: u32::try_from(len).unwrap_or(u32::MAX),
        number: tail.records,
        index: log_id.index,
        term: log_id.leader_id.term,
        leader: log_id.leader_id.node_id,
        synced_to: 0,
    };
    let start = out.len();
    out.extend_from_slice(&header.encode(segment.id()));
    record.encode(out);
    let body = start + RECORD_HEADER_LEN;
    if out.len() != body + len {
        // Nothing unsealed may stay behind.
        out[body..].fill(0);
        let what = "a command's encoding has not the length it said";
        return Err(StoreError::corrupt(&segment.path, tail.offset.into(), what));
    }
    let tag = segment.cipher.seal(&header, &tail.tag, &mut out[body..]);
    out.extend_from_slice(&tag);
    out.resize(out.len().next_multiple_of(RECORD_ALIGN), 0);
    let place = Place {
        segment,
        offset: tail.offset,
        header,
        previous: tail.tag,
    };
    tail.offset += (out.len() - start) as u32;
    tail.records += 1;
    tail.tag = tag;
    Ok(place)
}

impl Sealed {
    /// Whether it must be read from disk.
    pub(crate) fn is_on_disk(&self) -> bool {
        self.body.is_none()
    }

    pub(crate) fn log_id(&self) -> LogId<u64> {
        self.place.log_id()
    }

    pub(crate) fn kind(&self) -> RecordKind {
        self.place.header.kind
    }

    /// The plaintext. Blocks if the entry is on disk.
    pub(crate) fn open(&self) -> Result<Zeroizing<Vec<u8>>, StoreError> {
        let Place {
            segment,
            offset,
            header,
            previous,
        } = &self.place;
        let fail = |what: &str| StoreError::corrupt(&segment.path, (*offset).into(), what);
        let mut bytes = match &self.body {
            Some(body) => Zeroizing::new(body.to_vec()),
            None => {
                let mut bytes = Zeroizing::new(vec![0; header.body_len as usize + TAG_LEN]);
                let file = segment.file().ok_or_else(|| fail("it was never written"))?;
                let read = file
                    .read_full_at(&mut bytes, u64::from(*offset) + RECORD_HEADER_LEN as u64)
                    .map_err(|err| StoreError::io(&segment.path, "read", err))?;
                if read < bytes.len() {
                    return Err(fail("the file is cut short"));
                }
                bytes
            }
        };
        let body_len = header.body_len as usize;
        let (body, tag) = bytes.split_at_mut(body_len);
        let tag: Tag = (&*tag)
            .try_into()
            .map_err(|_| fail("the record is cut short"))?;
        segment
            .cipher
            .open(header, previous, body, &tag)
            .map_err(|err| StoreError::format(&segment.path, (*offset).into(), err))?;
        bytes.truncate(body_len);
        Ok(bytes)
    }
}
