//! Where each entry of the log is, and the sealed bytes of the newest ones.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use openraft::{CommittedLeaderId, LogId};
use waxseal_autolock::{RecordHeader, Tag};

use super::segment_file::Segment;
use crate::LogUsage;

/// Where an entry is and what opens it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) segment: Arc<Segment>,
    /// Where its header begins.
    pub(crate) offset: u32,
    pub(crate) header: RecordHeader,
    /// The tag of the record before.
    pub(crate) previous: Tag,
}

impl Place {
    pub(crate) fn log_id(&self) -> LogId<u64> {
        let leader = CommittedLeaderId::new(self.header.term, self.header.leader);
        LogId::new(leader, self.header.index)
    }
}

/// A place and all that lies before it.
#[derive(Debug)]
struct Indexed {
    place: Place,
    /// Bytes of all entries before, since the log was opened.
    bytes_before: u64,
}

/// The entries that can be read: those behind the purge mark, without a hole.
#[derive(Debug, Default)]
pub(crate) struct Index {
    purged: Option<LogId<u64>>,
    entries: VecDeque<Indexed>,
    /// Bytes of all entries ever pushed and not truncated.
    bytes: u64,
}

impl Index {
    pub(crate) fn new(purged: Option<LogId<u64>>) -> Self {
        Self {
            purged,
            ..Self::default()
        }
    }

    pub(crate) fn purged(&self) -> Option<LogId<u64>> {
        self.purged
    }

    /// The last entry, or the purge mark.
    pub(crate) fn last(&self) -> Option<LogId<u64>> {
        self.entries
            .back()
            .map(|entry| entry.place.log_id())
            .or(self.purged)
    }

    /// The index that the next entry must have; `None` while any will do.
    pub(crate) fn next_index(&self) -> Option<u64> {
        self.last().map(|last| last.index + 1)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first readable index; meaningless without entries.
    fn first_index(&self) -> u64 {
        self.entries
            .front()
            .map_or(0, |entry| entry.place.header.index)
    }

    pub(crate) fn push(&mut self, place: Place) {
        let bytes_before = self.bytes;
        self.bytes += place.header.disk_len();
        self.entries.push_back(Indexed {
            place,
            bytes_before,
        });
    }

    /// Forgets the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        while let Some(last) = self.entries.back() {
            if last.place.header.index < index {
                break;
            }
            self.bytes = last.bytes_before;
            self.entries.pop_back();
        }
    }

    /// Forgets the entries up to `log_id`; the mark never goes back.
    pub(crate) fn purge(&mut self, log_id: LogId<u64>) {
        while self
            .entries
            .front()
            .is_some_and(|first| first.place.header.index <= log_id.index)
        {
            self.entries.pop_front();
        }
        self.purged = self.purged.max(Some(log_id));
    }

    /// The segment of the first readable entry.
    pub(crate) fn first_segment(&self) -> Option<&Arc<Segment>> {
        self.entries.front().map(|entry| &entry.place.segment)
    }

    /// The places of a range of indices, as far as they can be read.
    pub(crate) fn range(&self, range: Range<u64>) -> impl Iterator<Item = &Place> {
        let first = self.first_index();
        let slot = |index: u64| {
            usize::try_from(index.saturating_sub(first))
                .unwrap_or(usize::MAX)
                .min(self.len())
        };
        let (start, end) = (slot(range.start), slot(range.end));
        self.entries
            .range(start..end.max(start))
            .map(|entry| &entry.place)
    }

    /// Entries and bytes behind an index.
    pub(crate) fn usage_since(&self, index: Option<u64>) -> LogUsage {
        let start = index.map_or(0, |index| index.saturating_add(1));
        let skipped = usize::try_from(start.saturating_sub(self.first_index()))
            .unwrap_or(usize::MAX)
            .min(self.len());
        match self.entries.get(skipped) {
            None => LogUsage::default(),
            Some(first) => LogUsage {
                entries: (self.len() - skipped) as u64,
                bytes: self.bytes - first.bytes_before,
                segments: 0,
            },
        }
    }

    /// The last index that can go so that at most `entries` entries and `bytes` bytes up to and
    /// with `upto` stay.
    pub(crate) fn purge_target(&self, upto: u64, entries: u64, bytes: u64) -> Option<u64> {
        let end = self.range(0..upto.saturating_add(1)).count();
        let end_bytes = match self.entries.get(end) {
            Some(next) => next.bytes_before,
            None => self.bytes,
        };
        let by_count = end.saturating_sub(usize::try_from(entries).unwrap_or(usize::MAX));
        // `bytes_before` rises along the log; behind `end` nothing is left to subtract.
        let by_bytes = self
            .entries
            .partition_point(|entry| end_bytes.saturating_sub(entry.bytes_before) > bytes);
        let keep_from = by_count.max(by_bytes).min(end);
        self.entries
            .get(keep_from.checked_sub(1)?)
            .map(|entry| entry.place.header.index)
    }
}

/// A point of the log: a segment's sequence number and an offset in it. Later points are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Point {
    pub(crate) sequence: u64,
    pub(crate) offset: u32,
}

/// The sealed bodies, tag last, of the newest entries.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Of consecutive entries.
    bodies: VecDeque<Cached>,
    bytes: usize,
}

#[derive(Debug)]
struct Cached {
    index: u64,
    at: Point,
    body: Bytes,
}

impl Cache {
    pub(crate) fn push(&mut self, index: u64, at: Point, body: Bytes) {
        if self
            .bodies
            .back()
            .is_some_and(|last| last.index + 1 != index)
        {
            // Only behind a purge that went past the end, so nothing here is waiting to be synced.
            *self = Self::default();
        }
        self.bytes += body.len();
        self.bodies.push_back(Cached { index, at, body });
    }

    pub(crate) fn find(&self, index: u64) -> Option<&Bytes> {
        let first = self.bodies.front()?.index;
        let slot = usize::try_from(index.checked_sub(first)?).ok()?;
        self.bodies.get(slot).map(|cached| &cached.body)
    }

    pub(crate) fn truncate(&mut self, index: u64) {
        while let Some(last) = self.bodies.pop_back_if(|last| last.index >= index) {
            self.bytes -= last.body.len();
        }
    }

    /// Drops the oldest bodies until `limit` bytes are left, but none that is not synced yet.
    pub(crate) fn shrink(&mut self, limit: usize, synced: Point) {
        while self.bytes > limit {
            let Some(first) = self.bodies.pop_front_if(|first| first.at < synced) else {
                break;
            };
            self.bytes -= first.body.len();
        }
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use waxseal_autolock::{Dek, Owner, RecordKind, SegmentHeader};

    use super::*;

    fn segment() -> Arc<Segment> {
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
        let header = SegmentHeader {
            dek_id: dek.id(),
            segment_id: [0; 16],
            sequence: 1,
            first_index: 0,
            previous: None,
        };
        let (_, cipher) = header.seal(&dek, &owner);
        Arc::new(Segment::new(std::path::Path::new("/"), 1, cipher))
    }

    fn index_of(range: Range<u64>, purged: Option<u64>) -> Index {
        let log_id = |index| LogId::new(CommittedLeaderId::new(1, 1), index);
        let mut index = Index::new(purged.map(log_id));
        let segment = segment();
        for number in range {
            let header = RecordHeader {
                kind: RecordKind::Blank,
                body_len: 0,
                number,
                index: number,
                term: 1,
                leader: 1,
                synced_to: 0,
            };
            let (segment, previous) = (segment.clone(), [0; 16]);
            index.push(Place {
                segment,
                offset: 0,
                header,
                previous,
            });
        }
        index
    }

    #[test]
    fn ranges_stop_at_both_ends() {
        let index = index_of(5..10, Some(4));
        let indices = |range| {
            index
                .range(range)
                .map(|p| p.header.index)
                .collect::<Vec<_>>()
        };
        assert_eq!(indices(0..u64::MAX), [5, 6, 7, 8, 9]);
        assert_eq!(indices(6..8), [6, 7]);
        let (end, start) = (7, 8);
        assert_eq!(indices(start..end), [] as [u64; 0]);
        assert_eq!(indices(10..20), [] as [u64; 0]);
        assert_eq!(indices(0..5), [] as [u64; 0]);
        assert_eq!(index.next_index(), Some(10));
        assert_eq!(index_of(0..0, None).next_index(), None);
        assert_eq!(index_of(0..0, Some(7)).next_index(), Some(8));
        assert_eq!(index_of(0..0, Some(7)).range(0..9).count(), 0);
    }

    #[test]
    fn usage_counts_what_lies_behind() {
        let index = index_of(5..10, Some(4));
        let usage = |since| {
            (
                index.usage_since(since).entries,
                index.usage_since(since).bytes,
            )
        };
        assert_eq!(usage(None), (5, 5 * 64));
        assert_eq!(usage(Some(4)), (5, 5 * 64));
        assert_eq!(usage(Some(7)), (2, 2 * 64));
        assert_eq!(usage(Some(9)), (0, 0));
        assert_eq!(usage(Some(99)), (0, 0));
    }

    #[test]
    fn purge_targets_keep_what_they_may() {
        let index = index_of(5..10, Some(4));
        assert_eq!(index.purge_target(8, 0, 0), Some(8));
        assert_eq!(index.purge_target(8, 2, u64::MAX), Some(6));
        assert_eq!(index.purge_target(8, 100, 3 * 64), Some(5));
        assert_eq!(index.purge_target(8, 100, 3 * 64 - 1), Some(6));
        assert_eq!(index.purge_target(8, 4, u64::MAX), None, "all may stay");
        assert_eq!(index.purge_target(4, 0, 0), None, "purged before");
        assert_eq!(index.purge_target(99, 0, 0), Some(9));
        assert_eq!(index_of(0..0, Some(4)).purge_target(9, 0, 0), None);
    }

    #[test]
    fn truncate_and_purge_leave_no_hole() {
        let mut index = index_of(5..10, Some(4));
        index.truncate(8);
        assert_eq!(index.next_index(), Some(8));
        assert_eq!(index.usage_since(None).bytes, 3 * 64);
        index.purge(LogId::new(CommittedLeaderId::new(1, 1), 20));
        assert_eq!((index.len(), index.next_index()), (0, Some(21)));
        index.purge(LogId::new(CommittedLeaderId::new(1, 1), 3));
        assert_eq!(index.next_index(), Some(21), "the mark never goes back");
    }

    #[test]
    fn the_cache_keeps_what_is_not_synced() {
        let mut cache = Cache::default();
        let at = |offset| Point {
            sequence: 1,
            offset,
        };
        for index in 0..4 {
            cache.push(index, at(index as u32 * 10), Bytes::from_static(&[0; 10]));
        }
        cache.shrink(15, at(20));
        assert_eq!(cache.bytes(), 20);
        assert!(cache.find(1).is_none() && cache.find(2).is_some() && cache.find(3).is_some());
        assert!(cache.find(4).is_none());
        cache.truncate(3);
        assert!(cache.find(3).is_none() && cache.find(2).is_some());
        cache.push(9, at(50), Bytes::from_static(&[0; 10]));
        assert!(cache.find(2).is_none() && cache.find(9).is_some());
        assert_eq!(cache.bytes(), 10);
    }
}
