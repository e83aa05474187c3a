//! The shim's side of a log: lines from pipes to records on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::{
    CURRENT, HEADER_BYTES, LogRecord, LogStream, MAGIC, MAX_FILE_BYTES, MAX_LINE_BYTES, OLDER,
    encode,
};

/// What is kept in memory before it goes to disk.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes a task's log. A full disk loses records, counts them and never stops the task.
#[derive(Debug)]
pub(in super::super) struct LogWriter {
    dir: PathBuf,
    file: Option<File>,
    written: u64,
    pending: Vec<u8>,
    pending_records: u32,
    lost: u32,
}

impl LogWriter {
    /// Begins a log in this directory.
    pub(in super::super) fn create(dir: &Path) -> io::Result<Self> {
        let mut writer = Self {
            dir: dir.to_owned(),
            file: None,
            written: 0,
            pending: Vec::new(),
            pending_records: 0,
            lost: 0,
        };
        writer.open()?;
        Ok(writer)
    }

    /// Adds a record; on disk after the next [`flush`](Self::flush).
    pub(in super::super) fn add(&mut self, stream: LogStream, time: OffsetDateTime, data: &[u8]) {
        for data in data.chunks(MAX_LINE_BYTES) {
            if self.pending.len() + HEADER_BYTES + data.len() > BUFFER_BYTES {
                self.flush();
            }
            let lost = std::mem::take(&mut self.lost);
            encode(
                &LogRecord {
                    time,
                    stream,
                    data: data.to_vec(),
                    lost,
                },
                &mut self.pending,
            );
            self.pending_records += 1;
        }
    }

    /// Writes what was added. What the disk refuses is lost and counted.
    pub(in super::super) fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let size = self.pending.len() as u64;
        if self.written + size > MAX_FILE_BYTES && self.rotate().is_err() {
            // Without a new file the old one must not grow further.
            self.file = None;
        }
        if self.file.is_none() {
            let _ = self.open();
        }
        let result = match &mut self.file {
            Some(file) => write_whole(file, self.written, &self.pending),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        match result {
            Ok(()) => self.written += size,
            Err(_) => self.lost = self.lost.saturating_add(self.pending_records),
        }
        self.pending.clear();
        self.pending_records = 0;
    }

    fn rotate(&mut self) -> io::Result<()> {
        fs::rename(self.dir.join(CURRENT), self.dir.join(OLDER))?;
        self.file = None;
        self.open()
    }

    fn open(&mut self) -> io::Result<()> {
        let path = self.dir.join(CURRENT);
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        let mut written = file.metadata()?.len();
        if written == 0 {
            file.write_all(&MAGIC)?;
            written = MAGIC.len() as u64;
        }
        (self.file, self.written) = (Some(file), written);
        Ok(())
    }
}

/// Writes all of it or, cutting back what was written, nothing.
fn write_whole(file: &mut File, before: u64, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes).inspect_err(|_| {
        let _ = file.set_len(before);
    })
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub(in super::super) struct LineBuffer {
    partial: Vec<u8>,
}

impl LineBuffer {
    /// Takes bytes and gives each line, with its end, that they complete; a line longer than 16 KiB
    /// in pieces.
    pub(in super::super) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = MAX_LINE_BYTES - self.partial.len();
            let end = bytes
                .iter()
                .take(room)
                .position(|byte| *byte == b'\n')
                .map(|at| at + 1);
            let complete = end.is_some() || bytes.len() >= room;
            let (piece, rest) = bytes.split_at(end.unwrap_or(room.min(bytes.len())));
            bytes = rest;
            if complete && self.partial.is_empty() {
                line(piece);
                continue;
            }
            self.partial.extend_from_slice(piece);
            if complete {
                line(&self.partial);
                self.partial.clear();
            }
        }
    }

    /// Gives what is left at the end of the stream.
    pub(in super::super) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        let mut buffer = LineBuffer::default();
        for piece in pieces {
            buffer.push(piece, |line| lines.push(line.to_vec()));
        }
        buffer.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_put_together() {
        assert_eq!(
            lines(&[b"a\nb", b"c\n\nd"]),
            [&b"a\n"[..], b"bc\n", b"\n", b"d"]
        );
        assert_eq!(lines(&[b"", b"\n"]), [b"\n"]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn long_lines_are_cut() {
        let long = vec![b'x'; MAX_LINE_BYTES * 2 + 5];
        for step in [1000, MAX_LINE_BYTES, long.len()] {
            let pieces: Vec<_> = long.chunks(step).collect();
            let sizes: Vec<_> = lines(&pieces).iter().map(Vec::len).collect();
            assert_eq!(sizes, [MAX_LINE_BYTES, MAX_LINE_BYTES, 5]);
        }
    }
}
