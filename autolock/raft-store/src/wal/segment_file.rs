//! A segment as a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use waxseal_autolock::{SegmentCipher, SegmentId};

use crate::DiskFile;

const PREFIX: &str = "log-";
const SUFFIX: &str = ".seg";

/// A segment: where it is and how its records open.
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) path: PathBuf,
    pub(crate) cipher: SegmentCipher,
    /// Set once the header is on disk; nothing is read from the file before.
    file: OnceLock<Arc<dyn DiskFile>>,
}

impl Segment {
    /// A segment whose file is still to come.
    pub(crate) fn new(dir: &Path, sequence: u64, cipher: SegmentCipher) -> Self {
        let path = dir.join(segment_name(sequence));
        Self {
            sequence,
            path,
            cipher,
            file: OnceLock::new(),
        }
    }

    pub(crate) fn id(&self) -> &SegmentId {
        self.cipher.segment_id()
    }

    pub(crate) fn file(&self) -> Option<&Arc<dyn DiskFile>> {
        self.file.get()
    }

    /// Attaches the file; once.
    pub(crate) fn attach(&self, file: Arc<dyn DiskFile>) {
        // A second file would be a bug of the one writer; the first stays.
        let _ = self.file.set(file);
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({})", self.sequence)
    }
}

/// The name of a segment's file.
pub(crate) fn segment_name(sequence: u64) -> String {
    format!("{PREFIX}{sequence:016x}{SUFFIX}")
}

/// The sequence number that a file name bears; `None` for other files.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let hex = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let sequence = u64::from_str_radix(hex, 16).ok()?;
    (segment_name(sequence) == name).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(segment_name(0x1f), "log-000000000000001f.seg");
        assert_eq!(parse_segment_name("log-000000000000001f.seg"), Some(0x1f));
        for other in [
            "log-1f.seg",
            "log-000000000000001F.seg",
            "vote",
            "log-+00000000000001f.seg",
        ] {
            assert_eq!(parse_segment_name(other), None, "{other}");
        }
    }
}
