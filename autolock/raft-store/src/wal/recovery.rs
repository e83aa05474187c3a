//! What is on disk at start: read, checked, and told apart into log, torn tail and corruption.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use openraft::{CommittedLeaderId, LogId};
use waxseal_autolock::{
    ChainLink, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, RecordKind, SEGMENT_HEADER_LEN,
    SegmentCipher, SegmentHeader, TAG_LEN, Tag,
};
use zeroize::Zeroizing;

use super::index::{Index, Place};
use super::segment_file::{Segment, parse_segment_name, segment_name};
use super::{Recovery, TornTail};
use crate::keys::Keys;
use crate::options::StoreOptions;
use crate::records::{DiskHead, DiskState};
use crate::{DiskFile, OpenMode, StoreError};

/// The log as it was found.
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) committed: Option<LogId<u64>>,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The end of the last segment, and how many bytes of it count.
    pub(crate) end: Option<(ChainLink, u64)>,
    /// An allocated file without content that the next segment can have.
    pub(crate) spare: Option<Blank>,
    pub(crate) recovery: Recovery,
}

/// An allocated file without content, and the number in its name.
pub(crate) type Blank = (u64, Arc<dyn DiskFile>);

/// A segment whose header has been checked.
struct Opened {
    header: SegmentHeader,
    segment: Arc<Segment>,
}

/// Reads the segments that `state` says there are.
pub(crate) fn read_log(
    options: &StoreOptions,
    keys: &Keys,
    names: &[String],
    state: &DiskState,
) -> Result<Found, StoreError> {
    let head = state.head.as_ref();
    let head_sequence = head.map_or(0, |head| head.sequence);
    let mut present: BTreeMap<u64, &String> = names
        .iter()
        .filter_map(|name| Some((parse_segment_name(name)?, name)))
        .collect();
    // 1. Leftovers of a purge.
    let kept = present.split_off(&state.first_sequence.max(1));
    for name in present.values() {
        remove(options, name)?;
    }
    // 2. Headers. Behind the head there may be one segment that was being begun.
    let mut spare = None;
    let mut opened: Vec<Opened> = Vec::new();
    for (expected, (sequence, name)) in (state.first_sequence.max(1)..).zip(kept) {
        if sequence != expected {
            return Err(missing(&options.dir, expected));
        }
        match open_segment(options, keys, sequence, name) {
            Ok(segment) => opened.push(segment),
            Err(err @ (StoreError::Io { .. } | StoreError::TooNew { .. })) => return Err(err),
            Err(_) if sequence > head_sequence => spare = begun(options, sequence, name)?,
            Err(err) => return Err(err),
        }
    }
    if let Some(head) = head.filter(|head| !opened.iter().any(|o| is_head(o, head))) {
        return Err(missing(&options.dir, head.sequence));
    }
    // 3. Records.
    let mut replay = Replay::default();
    let last = opened.len().saturating_sub(1);
    let mut end = None;
    for number in 0..opened.len() {
        let next = opened.get(number + 1);
        let segment = &opened[number];
        let stop = match next {
            Some(next) => Stop::After(link_to(segment, next)?),
            None => Stop::Torn(head.filter(|head| is_head(segment, head))),
        };
        let reached = replay.segment(segment, stop)?;
        if number == last {
            end = Some(reached);
        }
    }
    if let Some(segment) = opened.last() {
        // A killed process leaves bytes that no sync has seen; from here on they count.
        let file = segment.segment.file().ok_or(StoreError::Stopped)?;
        file.sync_data()
            .map_err(|err| StoreError::io(&segment.segment.path, "sync", err))?;
    }
    let index = replay.index(state.purged.map(Into::into))?;
    let mut recovery = replay.recovery;
    recovery.segments = opened.len();
    recovery.entries = index.len() as u64;
    let committed = replay.committed.min(index.last());
    let segments = opened.into_iter().map(|opened| opened.segment).collect();
    Ok(Found {
        index,
        committed,
        segments,
        end,
        spare,
        recovery,
    })
}

fn missing(dir: &Path, sequence: u64) -> StoreError {
    StoreError::corrupt(
        &dir.join(segment_name(sequence)),
        0,
        "the segment is missing",
    )
}

fn is_head(opened: &Opened, head: &DiskHead) -> bool {
    opened.header.sequence == head.sequence && opened.header.segment_id[..] == head.segment_id
}

fn remove(options: &StoreOptions, name: &str) -> Result<(), StoreError> {
    let path = options.dir.join(name);
    options
        .disk
        .remove(&path)
        .map_err(|err| StoreError::io(&path, "remove", err))
}

fn open_segment(
    options: &StoreOptions,
    keys: &Keys,
    sequence: u64,
    name: &str,
) -> Result<Opened, StoreError> {
    let path = options.dir.join(name);
    let io = |err| StoreError::io(&path, "read", err);
    let file = options.disk.open(&path, OpenMode::ReadWrite).map_err(io)?;
    let mut head = [0; SEGMENT_HEADER_LEN];
    let read = file.read_full_at(&mut head, 0).map_err(io)?;
    let (header, cipher) = SegmentHeader::open(&head[..read], &keys.ring(), &options.owner)
        .map_err(|err| StoreError::format(&path, 0, err))?;
    if header.sequence != sequence {
        let what = format!("it is segment {} under another name", header.sequence);
        return Err(StoreError::corrupt(&path, 0, what));
    }
    let segment = Segment::new(&options.dir, sequence, cipher);
    segment.attach(file);
    Ok(Opened {
        header,
        segment: Arc::new(segment),
    })
}

/// A file behind the head whose header is not whole: nothing in it was acknowledged. Blank and of
/// full length it can serve as the next segment, else it goes.
fn begun(options: &StoreOptions, sequence: u64, name: &str) -> Result<Option<Blank>, StoreError> {
    let path = options.dir.join(name);
    let io = |err| StoreError::io(&path, "read", err);
    let file = options.disk.open(&path, OpenMode::ReadWrite).map_err(io)?;
    let mut head = [0; SEGMENT_HEADER_LEN];
    let read = file.read_full_at(&mut head, 0).map_err(io)?;
    let whole = file.len().map_err(io)? == u64::from(options.limits.segment_bytes);
    if whole && read == head.len() && head.iter().all(|byte| *byte == 0) {
        file.sync_data().map_err(io)?;
        return Ok(Some((sequence, file)));
    }
    remove(options, name)?;
    Ok(None)
}

/// A segment's bytes without the zeros at its end: what was allocated need not be held in memory.
fn read_used(segment: &Segment) -> Result<Vec<u8>, StoreError> {
    /// Read at once.
    const PIECE: usize = 1 << 20;
    let io = |err| StoreError::io(&segment.path, "read", err);
    let file = segment.file().ok_or(StoreError::Stopped)?;
    // Not more than the file has, whatever a header may say; offsets have 32 bits.
    let len = file.len().map_err(io)?.min(u64::from(u32::MAX));
    let mut used = Vec::new();
    let mut piece = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
    let mut offset = 0;
    while offset < len {
        let read = file.read_full_at(&mut piece, offset).map_err(io)?;
        let kept = without_zero_blocks(&piece[..read]);
        if !kept.is_empty() {
            used.resize(usize::try_from(offset).unwrap_or(usize::MAX), 0);
            used.extend_from_slice(kept);
        }
        if read < piece.len() {
            break;
        }
        offset += read as u64;
    }
    // The last tag and what aligns it may themselves end in zeros.
    let whole = used.len() + TAG_LEN + RECORD_ALIGN;
    used.resize(whole.min(usize::try_from(len).unwrap_or(whole)), 0);
    Ok(used)
}

/// Bytes up to the last block that is not zero, compared a block at a time.
fn without_zero_blocks(bytes: &[u8]) -> &[u8] {
    const BLOCK: usize = 4096;
    let blocks = bytes
        .chunks(BLOCK)
        .rposition(|block| block != &[0; BLOCK][..block.len()])
        .map_or(0, |last| last + 1);
    &bytes[..bytes.len().min(blocks * BLOCK)]
}

/// What the next segment says of this one.
fn link_to(this: &Opened, next: &Opened) -> Result<ChainLink, StoreError> {
    next.header
        .previous
        .filter(|link| link.segment_id == *this.segment.id())
        .ok_or_else(|| {
            let what = format!("it does not follow segment {}", this.header.sequence);
            StoreError::corrupt(&next.segment.path, 0, what)
        })
}

/// Where the reading of a segment ends.
enum Stop<'a> {
    /// With this link: the next segment vouches for it.
    After(ChainLink),
    /// Where records end, which is not before the head.
    Torn(Option<&'a DiskHead>),
}

/// Gathers what it reads.
#[derive(Default)]
struct Replay {
    /// All entries, also those that a later record voids.
    entries: Vec<Place>,
    /// How many entries there were before a truncation, and from which index on it voids them.
    truncations: Vec<(usize, u64)>,
    committed: Option<LogId<u64>>,
    recovery: Recovery,
    scratch: Zeroizing<Vec<u8>>,
}

impl Replay {
    fn segment(&mut self, opened: &Opened, stop: Stop<'_>) -> Result<(ChainLink, u64), StoreError> {
        let cipher = &opened.segment.cipher;
        let bytes = read_used(&opened.segment)?;
        let mut reader = Records {
            bytes: &bytes,
            cipher,
            offset: SEGMENT_HEADER_LEN,
            number: 0,
            tag: cipher.header_tag(),
        };
        let path = &opened.segment.path;
        loop {
            let stopped = match &stop {
                Stop::After(link) => reader.number >= link.records,
                Stop::Torn(_) => false,
            };
            if stopped {
                break;
            }
            let (offset, previous) = (reader.offset, reader.tag);
            match reader.next(&mut self.scratch) {
                Some(header) => self.record(opened, offset as u32, header, previous),
                None => match &stop {
                    Stop::After(_) => {
                        let what = format!("record {} does not open", reader.number);
                        return Err(StoreError::corrupt(path, offset as u64, what));
                    }
                    Stop::Torn(_) => break,
                },
            }
            if let Stop::Torn(Some(head)) = &stop
                && reader.number == head.records
                && reader.tag[..] != head.tag
            {
                let what = "the log is not the one that the vote file saw";
                return Err(StoreError::corrupt(path, offset as u64, what));
            }
        }
        match &stop {
            Stop::After(link) if link.tag != reader.tag => {
                let what = "its end is not the one that the next segment saw";
                return Err(StoreError::corrupt(path, reader.offset as u64, what));
            }
            Stop::After(_) => {}
            Stop::Torn(head) => self.check_tail(&reader, path, *head)?,
        }
        self.recovery.bytes += reader.offset as u64;
        let segment_id = *opened.segment.id();
        let link = ChainLink {
            segment_id,
            records: reader.number,
            tag: reader.tag,
        };
        Ok((link, reader.offset as u64))
    }

    /// What lies behind the last record that opens: nothing, a torn tail, or proof of damage.
    fn check_tail(
        &mut self,
        reader: &Records<'_>,
        path: &Path,
        head: Option<&DiskHead>,
    ) -> Result<(), StoreError> {
        let at = reader.offset as u64;
        if head.is_some_and(|head| reader.number < head.records) {
            let what = format!(
                "record {} does not open, and the vote file saw it",
                reader.number
            );
            return Err(StoreError::corrupt(path, at, what));
        }
        if let Some(later) = reader.written_after_sync() {
            let what = format!(
                "record {} does not open, and the one at offset {later} was written after it",
                reader.number
            );
            return Err(StoreError::corrupt(path, at, what));
        }
        let rest = reader.bytes.get(reader.offset..).unwrap_or_default();
        if rest.iter().any(|byte| *byte != 0) {
            self.recovery.torn_tail = Some(TornTail {
                file: path.to_owned(),
                offset: at,
            });
        }
        Ok(())
    }

    fn record(&mut self, opened: &Opened, offset: u32, header: RecordHeader, previous: Tag) {
        match header.kind {
            RecordKind::Committed => {
                let leader = CommittedLeaderId::new(header.term, header.leader);
                self.committed = self.committed.max(Some(LogId::new(leader, header.index)));
            }
            RecordKind::Truncate => self.truncations.push((self.entries.len(), header.index)),
            RecordKind::Blank | RecordKind::Normal | RecordKind::Membership => {
                let segment = opened.segment.clone();
                self.entries.push(Place {
                    segment,
                    offset,
                    header,
                    previous,
                });
            }
        }
    }

    /// The entries that count: not voided by a later truncation, not purged, without a hole.
    ///
    /// Voided ones are dropped before holes are looked for, as what led up to them may have been
    /// purged with its segment.
    fn index(&mut self, purged: Option<LogId<u64>>) -> Result<Index, StoreError> {
        let mut void_from = u64::MAX;
        let mut live = Vec::with_capacity(self.entries.len());
        for (number, place) in self.entries.drain(..).enumerate().rev() {
            while let Some((_, index)) = self.truncations.pop_if(|(before, _)| *before > number) {
                void_from = void_from.min(index);
            }
            if place.header.index < void_from {
                live.push(place);
            }
        }
        let mut index = Index::new(purged);
        for place in live.into_iter().rev() {
            let found = place.header.index;
            if purged.is_some_and(|purged| found <= purged.index) {
                continue;
            }
            if index.next_index().is_some_and(|next| next != found) {
                let what = format!("entry {found} leaves a hole");
                let (path, offset) = (&place.segment.path, place.offset.into());
                return Err(StoreError::corrupt(path, offset, what));
            }
            index.push(place);
        }
        Ok(index)
    }
}

/// Reads the records of a segment one after the other.
struct Records<'a> {
    bytes: &'a [u8],
    cipher: &'a SegmentCipher,
    offset: usize,
    number: u64,
    tag: Tag,
}

impl Records<'_> {
    /// The next record if it is whole, in its place and authentic.
    fn next(&mut self, scratch: &mut Zeroizing<Vec<u8>>) -> Option<RecordHeader> {
        let rest = self.bytes.get(self.offset..)?;
        let header = RecordHeader::decode(rest, self.cipher.segment_id())?;
        if header.number != self.number {
            return None;
        }
        let body_len = header.body_len as usize;
        let sealed = rest
            .get(RECORD_HEADER_LEN..)?
            .get(..body_len.checked_add(TAG_LEN)?)?;
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
        let disk_len = usize::try_from(header.disk_len()).ok()?;
        let padding = rest.get(RECORD_HEADER_LEN + sealed.len()..disk_len)?;
        if padding.iter().any(|byte| *byte != 0) {
            return None;
        }
        if scratch.capacity() < body_len {
            // By hand: the buffer left behind wipes itself.
            *scratch = Zeroizing::new(Vec::with_capacity(body_len.next_power_of_two()));
        }
        scratch.clear();
        scratch.extend_from_slice(body);
        self.cipher.open(&header, &self.tag, scratch, tag).ok()?;
        self.offset += disk_len;
        self.number += 1;
        self.tag = *tag;
        Some(header)
    }

    /// The offset of a record behind this point that was written when this point had been synced:
    /// then what is here was whole once.
    fn written_after_sync(&self) -> Option<usize> {
        let mut at = self.offset;
        while at + RECORD_HEADER_LEN <= self.bytes.len() {
            let header = RecordHeader::decode(&self.bytes[at..], self.cipher.segment_id());
            if header.is_some_and(|header| header.synced_to as usize > self.offset) {
                return Some(at);
            }
            at += RECORD_ALIGN;
        }
        None
    }
}
