//! The one thread that writes: it drains its queue, does one write and one sync for all records
//! that wait, and answers them.
//!
//! What must be durable before what:
//! 1. all records of a segment before the header of the next;
//! 2. that header before the vote file names it as the log's head;
//! 3. the vote file before the first record of the segment is acknowledged;
//! 4. the purge mark in the vote file before a segment is removed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Instant;

use waxseal_autolock::{ChainLink, RECORD_HEADER_LEN, RecordHeader, SEGMENT_HEADER_LEN};

use super::index::Point;
use super::pace::Pace;
use super::segment_file::Segment;
use super::spare::Spare;
use super::vote_file::VoteFile;
use crate::records::{DiskHead, DiskLogId, DiskState, DiskVote};
use crate::{Disk, StoreError};

/// Told once an operation is durable, or why it is not.
pub(crate) type Done = Box<dyn FnOnce(Result<(), Arc<StoreError>>) + Send>;

/// No more bytes than these are gathered for one write.
const MAX_WRITE_BYTES: usize = 8 << 20;

/// What the writer is asked to do, in the order asked.
pub(crate) enum Op {
    /// Sealed records that follow each other in one segment.
    Write(Write),
    /// A new segment, which all following writes go to.
    Begin {
        segment: Arc<Segment>,
        header: Box<[u8; SEGMENT_HEADER_LEN]>,
    },
    /// A vote.
    Vote { vote: DiskVote, done: Done },
    /// A purge mark; segments before `first_sequence` go.
    Purge {
        purged: DiskLogId,
        first_sequence: u64,
        remove: Vec<PathBuf>,
        done: Done,
    },
    /// Nothing but to wait for all before, and with `note` to write the head to the vote file.
    Flush { note: bool, done: Done },
}

/// Sealed records that follow each other in one segment.
pub(crate) struct Write {
    pub(crate) segment: Arc<Segment>,
    pub(crate) offset: u32,
    pub(crate) bytes: Vec<u8>,
    /// Where in `bytes` the records begin.
    pub(crate) records: Vec<u32>,
    /// Where the chain stands after them.
    pub(crate) end: ChainLink,
    pub(crate) done: Option<Done>,
}

/// What the writer shows to others.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last point that is synced: sequence in the upper, offset in the lower half.
    synced: AtomicU64,
    /// Why nothing is written any more.
    pub(crate) failure: OnceLock<Arc<StoreError>>,
    /// Told of the failure.
    pub(crate) failed: tokio::sync::Notify,
    pub(crate) pace: Pace,
}

impl Progress {
    pub(crate) fn synced(&self) -> Point {
        let packed = self.synced.load(Ordering::Acquire);
        Point {
            sequence: packed >> 32,
            offset: (packed & u64::from(u32::MAX)) as u32,
        }
    }

    fn set_synced(&self, point: Point) {
        self.synced.store(
            point.sequence << 32 | u64::from(point.offset),
            Ordering::Release,
        );
    }
}

/// The writer's state, owned by its thread.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) vote_file: VoteFile,
    pub(crate) state: DiskState,
    pub(crate) spare: Arc<Spare>,
    pub(crate) progress: Arc<Progress>,
}

impl Writer {
    /// Works until the queue is closed.
    pub(crate) fn run(mut self, queue: &mpsc::Receiver<Op>) {
        let mut carried = None;
        while let Some(op) = carried.take().or_else(|| queue.recv().ok()) {
            match op {
                Op::Write(first) => carried = self.write_with_all_waiting(first, queue),
                other => self.perform(other),
            }
        }
        self.spare.stop();
    }

    /// Joins the writes that wait for the same segment; returns the operation that ended the row.
    fn write_with_all_waiting(&mut self, first: Write, queue: &mpsc::Receiver<Op>) -> Option<Op> {
        let mut bytes = first.bytes.len();
        let mut batch = vec![first];
        let mut next = None;
        while bytes < MAX_WRITE_BYTES {
            match queue.try_recv() {
                Ok(Op::Write(write)) if write.segment.sequence == batch[0].segment.sequence => {
                    bytes += write.bytes.len();
                    batch.push(write);
                }
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let result = self.guarded(|writer| writer.write(&mut batch));
        for done in batch.into_iter().filter_map(|write| write.done) {
            done(result.clone());
        }
        next
    }

    fn perform(&mut self, op: Op) {
        match op {
            // Taken by the caller.
            Op::Write(write) => {
                self.write_with_all_waiting(write, &mpsc::channel().1);
            }
            Op::Begin { segment, header } => {
                // Whoever writes to the segment is told.
                let _ = self.guarded(|writer| writer.begin(&segment, &header));
            }
            Op::Vote { vote, done } => done(self.guarded(|writer| {
                writer.state.vote = Some(vote);
                writer.vote_file.save(&mut writer.state)
            })),
            Op::Purge {
                purged,
                first_sequence,
                remove,
                done,
            } => {
                done(self.guarded(|writer| writer.purge(purged, first_sequence, &remove)));
            }
            Op::Flush { note, done } => done(self.guarded(|writer| match note {
                true => writer.vote_file.save(&mut writer.state),
                false => Ok(()),
            })),
        }
    }

    /// Does nothing after a failure: what a failed sync left on disk is unknown.
    fn guarded(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), StoreError>,
    ) -> Result<(), Arc<StoreError>> {
        if let Some(failure) = self.progress.failure.get() {
            return Err(failure.clone());
        }
        work(self).map_err(|err| {
            tracing::error!(
                error = &err as &dyn std::error::Error,
                "the raft log stopped"
            );
            let failure = self.progress.failure.get_or_init(|| Arc::new(err)).clone();
            self.progress.failed.notify_waiters();
            failure
        })
    }

    fn write(&mut self, batch: &mut [Write]) -> Result<(), StoreError> {
        let Some(segment) = batch.first().map(|write| write.segment.clone()) else {
            return Ok(());
        };
        let offset = batch[0].offset;
        for write in batch.iter_mut() {
            mark_synced_to(write, offset);
        }
        let joined;
        let bytes = match &*batch {
            [one] => &one.bytes,
            many => {
                joined = many
                    .iter()
                    .map(|write| &write.bytes[..])
                    .collect::<Vec<_>>()
                    .concat();
                &joined
            }
        };
        let file = segment.file().ok_or(StoreError::Stopped)?;
        let begun = Instant::now();
        let written = file
            .write_all_at(bytes, offset.into())
            .and_then(|()| file.sync_data());
        self.progress.pace.note(begun.elapsed());
        written.map_err(|err| StoreError::io(&segment.path, "write", err))?;
        if let Some(last) = batch.last() {
            self.state.head = Some(head(segment.sequence, &last.end));
        }
        let end = offset.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.progress.set_synced(Point {
            sequence: segment.sequence,
            offset: end,
        });
        Ok(())
    }

    /// Puts a segment's header into its file. All records before are synced: see [`Self::write`].
    pub(crate) fn begin(
        &mut self,
        segment: &Arc<Segment>,
        header: &[u8; SEGMENT_HEADER_LEN],
    ) -> Result<(), StoreError> {
        let file = self.spare.take(segment.sequence)?;
        file.write_all_at(header, 0)
            .and_then(|()| file.sync_data())
            .map_err(|err| StoreError::io(&segment.path, "write", err))?;
        let start = ChainLink {
            segment_id: *segment.id(),
            records: 0,
            tag: segment.cipher.header_tag(),
        };
        self.state.head = Some(head(segment.sequence, &start));
        if self.state.first_sequence == 0 {
            self.state.first_sequence = segment.sequence;
        }
        self.vote_file.save(&mut self.state)?;
        segment.attach(file);
        let offset = SEGMENT_HEADER_LEN as u32;
        self.progress.set_synced(Point {
            sequence: segment.sequence,
            offset,
        });
        self.spare.request(segment.sequence + 1);
        Ok(())
    }

    fn purge(
        &mut self,
        purged: DiskLogId,
        first_sequence: u64,
        remove: &[PathBuf],
    ) -> Result<(), StoreError> {
        self.state.purged = Some(purged);
        self.state.first_sequence = first_sequence;
        self.vote_file.save(&mut self.state)?;
        for path in remove {
            self.disk
                .remove(path)
                .map_err(|err| StoreError::io(path, "remove", err))?;
        }
        if remove.is_empty() {
            return Ok(());
        }
        self.disk
            .sync_dir(&self.dir)
            .map_err(|err| StoreError::io(&self.dir, "sync", err))
    }
}

/// Notes in each record that the segment is synced up to `offset`.
fn mark_synced_to(write: &mut Write, offset: u32) {
    for start in &write.records {
        let header = write
            .bytes
            .get_mut(*start as usize..)
            .and_then(|rest| rest.first_chunk_mut::<RECORD_HEADER_LEN>());
        if let Some(header) = header {
            RecordHeader::set_synced_to(header, write.segment.id(), offset);
        }
    }
}

fn head(sequence: u64, end: &ChainLink) -> DiskHead {
    DiskHead {
        sequence,
        segment_id: end.segment_id.to_vec(),
        records: end.records,
        tag: end.tag.to_vec(),
    }
}
