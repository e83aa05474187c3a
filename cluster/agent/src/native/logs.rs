//! A task's log on disk: two files of at most 8 MiB, the older one replaced when the newer is full.
//!
//! | Offset | Bytes | Meaning |
//! |---|---|---|
//! | 0 | 8 | `WXLOG`, 0, 0, format 1 |
//! | then, per record: 0 | 4 | length of the data, little endian, at most 16 KiB |
//! | 4 | 8 | nanoseconds since 1970, signed, little endian |
//! | 12 | 1 | 1 standard output, 2 standard error |
//! | 13 | 3 | 0 |
//! | 16 | 4 | records lost just before this one, little endian |
//! | 20 | … | the data |
//!
//! The shim writes, the daemon reads, at the same time. A record cut off by a crash is the last.

mod read;
mod write;

pub(super) use read::follow;
pub(super) use write::{LineBuffer, LogWriter};

use time::OffsetDateTime;

/// The longest piece of a line in one record.
pub(super) const MAX_LINE_BYTES: usize = 16 << 10;

/// The size at which a file is full.
pub(super) const MAX_FILE_BYTES: u64 = 8 << 20;

pub(super) const CURRENT: &str = "log";
pub(super) const OLDER: &str = "log.1";

const MAGIC: [u8; 8] = *b"WXLOG\0\0\x01";

/// What the first bytes of a log say of it.
///
/// # Errors
/// A text, for what is no log or has another format.
fn check_magic(magic: &[u8; 8]) -> Result<(), String> {
    let ([name @ .., found], [known @ .., supported]) = (magic, &MAGIC);
    match (name == known, found) {
        (true, found) if found == supported => Ok(()),
        (true, found) => Err(format!(
            "has format {found}, this program reads {supported}; start the program that wrote it"
        )),
        (false, _) => Err("does not begin as a log".to_owned()),
    }
}

const HEADER_BYTES: usize = 20;

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which streams to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            stdout: true,
            stderr: true,
        }
    }
}

/// One line, or a piece of a line longer than 16 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// When the shim read it.
    pub time: OffsetDateTime,
    /// Where it was written to.
    pub stream: LogStream,
    /// The bytes, with the line's end if it had one.
    pub data: Vec<u8>,
    /// Records lost just before this one, because the disk refused them.
    pub lost: u32,
}

/// Which records to read.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Only records at or after this time.
    pub since: Option<OffsetDateTime>,
    /// Only the last so many of those that are there; all if `None`.
    pub tail: Option<usize>,
    /// Go on with what comes, until the task ends.
    pub follow: bool,
    /// Which streams.
    pub streams: Streams,
}

impl LogOptions {
    fn wants(&self, record: &LogRecord) -> bool {
        let stream = match record.stream {
            LogStream::Stdout => self.streams.stdout,
            LogStream::Stderr => self.streams.stderr,
        };
        stream && self.since.is_none_or(|since| record.time >= since)
    }
}

fn encode(record: &LogRecord, to: &mut Vec<u8>) {
    let nanos = record.time.unix_timestamp_nanos();
    let nanos = i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX });
    let stream = match record.stream {
        LogStream::Stdout => 1,
        LogStream::Stderr => 2,
    };
    // Pieces are cut at MAX_LINE_BYTES, which fits.
    let length = u32::try_from(record.data.len()).unwrap_or(u32::MAX);
    to.extend_from_slice(&length.to_le_bytes());
    to.extend_from_slice(&nanos.to_le_bytes());
    to.extend_from_slice(&[stream, 0, 0, 0]);
    to.extend_from_slice(&record.lost.to_le_bytes());
    to.extend_from_slice(&record.data);
}

/// The first record of `bytes` and its length there; `Ok(None)` if it is not all there yet, `Err`
/// if it is no record.
fn decode(bytes: &[u8]) -> Result<Option<(LogRecord, usize)>, NotARecord> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [
        l0,
        l1,
        l2,
        l3,
        t0,
        t1,
        t2,
        t3,
        t4,
        t5,
        t6,
        t7,
        stream,
        0,
        0,
        0,
        d0,
        d1,
        d2,
        d3,
    ] = *header
    else {
        return Err(NotARecord);
    };
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let stream = match stream {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        _ => return Err(NotARecord),
    };
    if length > MAX_LINE_BYTES {
        return Err(NotARecord);
    }
    let end = HEADER_BYTES + length;
    let Some(data) = bytes.get(HEADER_BYTES..end) else {
        return Ok(None);
    };
    let nanos = i64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]);
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos.into()).map_err(|_| NotARecord)?;
    let lost = u32::from_le_bytes([d0, d1, d2, d3]);
    Ok(Some((
        LogRecord {
            time,
            stream,
            data: data.to_vec(),
            lost,
        },
        end,
    )))
}

/// What was read is no log record.
#[derive(Debug, PartialEq, Eq)]
struct NotARecord;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(data: &[u8]) -> LogRecord {
        LogRecord {
            time: OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(1_234_567_890_123),
            stream: LogStream::Stderr,
            data: data.to_vec(),
            lost: 7,
        }
    }

    #[test]
    fn a_newer_log_is_refused_by_name() {
        let error = check_magic(b"WXLOG\0\0\x02").unwrap_err();
        assert!(error.contains("format 2, this program reads 1"), "{error}");
        assert!(check_magic(b"WXLOGS\0\x01").is_err());
    }

    #[test]
    fn the_golden_log_is_read_and_written() {
        let golden = include_bytes!("../../tests/golden/task-log-v1.bin");
        let (magic, mut rest) = golden.split_first_chunk().unwrap();
        check_magic(magic).unwrap();
        let records = [record(b"out\n"), record(b""), record(b"no end")];
        let mut written = magic.to_vec();
        for expected in records {
            let (read, length) = decode(rest).unwrap().unwrap();
            assert_eq!(read, expected);
            rest = &rest[length..];
            encode(&expected, &mut written);
        }
        assert_eq!(written, golden);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        let mut bytes = Vec::new();
        encode(&record(b"abc"), &mut bytes);
        let changed = |at: usize, to: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = to;
            decode(&bytes)
        };
        assert_eq!(changed(12, 3), Err(NotARecord));
        assert_eq!(changed(13, 1), Err(NotARecord));
        assert_eq!(changed(2, 1), Err(NotARecord));
    }

    #[test]
    fn a_record_cut_anywhere_is_waited_for() {
        let mut bytes = Vec::new();
        encode(&record(b"abc"), &mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Ok(None));
        }
        assert_eq!(decode(&bytes), Ok(Some((record(b"abc"), bytes.len()))));
    }
}
