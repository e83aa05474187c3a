//! The daemon's side of a log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{CURRENT, LogOptions, LogRecord, MAGIC, OLDER, check_magic, decode};

/// Records that wait for a slow receiver.
const CHANNEL_RECORDS: usize = 256;

/// Read from disk at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How often a followed log is looked at.
const POLL: Duration = Duration::from_millis(150);

/// Reads the log in `dir` into a channel; when following, until `ended` says that no more comes and
/// everything was read. Must be called in a tokio runtime.
///
/// # Errors
/// `NotFound` when there is no log.
pub(in super::super) fn follow(
    dir: &Path,
    options: LogOptions,
    ended: impl Fn() -> bool + Send + 'static,
) -> io::Result<mpsc::Receiver<LogRecord>> {
    let reader = LogReader::open(dir)?;
    let (sender, receiver) = mpsc::channel(CHANNEL_RECORDS);
    tokio::spawn(async move {
        if let Err(error) = pump(reader, options, ended, &sender).await {
            tracing::warn!(%error, "a task's log could not be read to its end");
        }
    });
    Ok(receiver)
}

async fn pump(
    mut reader: LogReader,
    options: LogOptions,
    ended: impl Fn() -> bool,
    sender: &mpsc::Sender<LogRecord>,
) -> io::Result<()> {
    let mut tail = options.tail.map(|count| (count, VecDeque::new()));
    loop {
        // Asked before reading: what was written before the end is then read in this round.
        let last = !options.follow || ended();
        loop {
            let (back, batch) = blocking(reader, LogReader::batch).await?;
            reader = back;
            let batch = batch?;
            if batch.is_empty() {
                break;
            }
            for record in batch.into_iter().filter(|record| options.wants(record)) {
                match &mut tail {
                    Some((count, kept)) => {
                        kept.push_back(record);
                        if kept.len() > *count {
                            kept.pop_front();
                        }
                    }
                    None if sender.send(record).await.is_err() => return Ok(()),
                    None => {}
                }
            }
        }
        for record in tail.take().into_iter().flat_map(|(_, kept)| kept) {
            if sender.send(record).await.is_err() {
                return Ok(());
            }
        }
        if last {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = sender.closed() => return Ok(()),
        }
    }
}

async fn blocking<T: Send + 'static>(
    mut reader: LogReader,
    work: impl FnOnce(&mut LogReader) -> T + Send + 'static,
) -> io::Result<(LogReader, T)> {
    let task = tokio::task::spawn_blocking(move || {
        let result = work(&mut reader);
        (reader, result)
    });
    task.await.map_err(io::Error::other)
}

/// Reads the files of a log in order and goes along when they are rotated.
#[derive(Debug)]
struct LogReader {
    dir: PathBuf,
    file: Source,
    /// To be read after `file`.
    next: Option<Source>,
}

#[derive(Debug)]
struct Source {
    file: File,
    inode: u64,
    started: bool,
    bytes: Vec<u8>,
}

impl Source {
    fn open(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(file) => {
                let inode = file.metadata()?.ino();
                Ok(Some(Self {
                    file,
                    inode,
                    started: false,
                    bytes: Vec::new(),
                }))
            }
        }
    }

    /// The next records, none at the present end.
    fn batch(&mut self) -> io::Result<Vec<LogRecord>> {
        let mut records = Vec::new();
        while records.is_empty() {
            let mut chunk = vec![0; CHUNK_BYTES];
            let got = self.file.read(&mut chunk)?;
            if got == 0 {
                break;
            }
            self.bytes.extend_from_slice(&chunk[..got]);
            self.parse(&mut records)?;
        }
        Ok(records)
    }

    fn parse(&mut self, records: &mut Vec<LogRecord>) -> io::Result<()> {
        let mut at = 0;
        if !self.started {
            let Some(magic) = self.bytes.first_chunk() else {
                return Ok(());
            };
            check_magic(magic).map_err(|what| invalid(&what))?;
            (self.started, at) = (true, MAGIC.len());
        }
        while let Some((record, length)) =
            decode(&self.bytes[at..]).map_err(|_| invalid("has something that is no record"))?
        {
            records.push(record);
            at += length;
        }
        self.bytes.drain(..at);
        Ok(())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the log {what}"))
}

impl LogReader {
    fn open(dir: &Path) -> io::Result<Self> {
        // The newer one first: rotated in between, it is found again as the older one.
        let current = Source::open(&dir.join(CURRENT))?;
        let older = Source::open(&dir.join(OLDER))?;
        let (file, next) = match (older, current) {
            (Some(older), Some(current)) if older.inode == current.inode => (older, None),
            (Some(older), current) => (older, current),
            (None, Some(current)) => (current, None),
            (None, None) => return Err(ErrorKind::NotFound.into()),
        };
        Ok(Self {
            dir: dir.to_owned(),
            file,
            next,
        })
    }

    /// The next records; none when all that is there was read.
    fn batch(&mut self) -> io::Result<Vec<LogRecord>> {
        loop {
            let following = match self.next.take() {
                Some(next) => Some(next),
                None => self.rotated()?,
            };
            // Looked for the following file first: this one is complete if there is one.
            let records = self.file.batch()?;
            if !records.is_empty() {
                self.next = following;
                return Ok(records);
            }
            match following {
                Some(following) => self.file = following,
                None => return Ok(records),
            }
        }
    }

    /// The file after the present one, if that was rotated away.
    fn rotated(&self) -> io::Result<Option<Source>> {
        let inode = |name| {
            std::fs::metadata(self.dir.join(name))
                .map(|meta| meta.ino())
                .ok()
        };
        let current = inode(CURRENT);
        if current.is_none() || current == Some(self.file.inode) {
            return Ok(None);
        }
        let older = inode(OLDER);
        let missed = older.is_some() && older != Some(self.file.inode);
        Source::open(&self.dir.join(if missed { OLDER } else { CURRENT }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LogStream, LogWriter, MAX_FILE_BYTES, MAX_LINE_BYTES};
    use super::*;
    use time::OffsetDateTime;

    fn at(seconds: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap()
    }

    fn drain(reader: &mut LogReader) -> Vec<LogRecord> {
        let mut records = Vec::new();
        loop {
            let batch = reader.batch().unwrap();
            if batch.is_empty() {
                return records;
            }
            records.extend(batch);
        }
    }

    #[test]
    fn no_log_and_another_file_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            LogReader::open(dir.path()).unwrap_err().kind(),
            ErrorKind::NotFound
        );
        std::fs::write(dir.path().join(CURRENT), "something else").unwrap();
        let refused = LogReader::open(dir.path()).unwrap().batch().unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn records_are_read_as_they_come_and_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::create(dir.path()).unwrap();
        let mut reader = LogReader::open(dir.path()).unwrap();
        assert!(drain(&mut reader).is_empty());
        let line = vec![b'x'; MAX_LINE_BYTES];
        let full = MAX_FILE_BYTES / MAX_LINE_BYTES as u64;
        let mut read = 0;
        for second in 0..(full * 3) as i64 {
            writer.add(LogStream::Stdout, at(second), &line);
            writer.flush();
            if second % 50 == 0 {
                for record in drain(&mut reader) {
                    assert_eq!(record.time, at(read));
                    read += 1;
                }
                assert_eq!(read, second + 1);
            }
        }
        for name in [CURRENT, OLDER] {
            let size = std::fs::metadata(dir.path().join(name)).unwrap().len();
            assert!(size <= MAX_FILE_BYTES, "{size}");
        }
    }

    #[tokio::test]
    async fn tail_since_and_streams_choose() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::create(dir.path()).unwrap();
        for second in 0..10 {
            let stream = if second % 2 == 0 {
                LogStream::Stdout
            } else {
                LogStream::Stderr
            };
            writer.add(stream, at(second), format!("{second}\n").as_bytes());
        }
        writer.flush();
        let read = async |options| {
            let mut receiver = follow(dir.path(), options, || true).unwrap();
            let mut seconds = Vec::new();
            while let Some(record) = receiver.recv().await {
                seconds.push(record.time.unix_timestamp());
            }
            seconds
        };
        let streams = super::super::Streams {
            stdout: true,
            stderr: false,
        };
        assert_eq!(
            read(LogOptions::default()).await,
            (0..10).collect::<Vec<_>>()
        );
        let tail = LogOptions {
            tail: Some(2),
            follow: true,
            ..Default::default()
        };
        assert_eq!(read(tail).await, [8, 9]);
        let since = LogOptions {
            since: Some(at(5)),
            streams,
            ..Default::default()
        };
        assert_eq!(read(since).await, [6, 8]);
        let none = LogOptions {
            tail: Some(0),
            ..Default::default()
        };
        assert_eq!(read(none).await, [0; 0]);
    }
}
