//! Looking for plaintext where none may be.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow};
use base64::{Engine as _, engine::general_purpose};

/// Read at once.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes that all secrets of a run share.
const MARK_BYTES: usize = 24;

/// Secrets that can be told from anything else, and the forms in which they could leak.
#[derive(Debug)]
pub struct Markers {
    mark: [u8; MARK_BYTES],
    needles: Vec<(&'static str, Vec<u8>)>,
}

/// A place where a marker was found.
#[derive(Debug, Clone)]
pub struct Finding {
    /// Which form: raw, hex, base64.
    pub form: &'static str,
    /// The file.
    pub path: PathBuf,
    /// Where in the file.
    pub offset: u64,
}

impl Markers {
    /// A new mark.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> Result<Markers> {
        let mut mark = [0; MARK_BYTES];
        getrandom::fill(&mut mark).map_err(|error| anyhow!("random bytes: {error}"))?;
        Ok(Markers::from_mark(mark))
    }

    fn from_mark(mark: [u8; MARK_BYTES]) -> Markers {
        let hex: String = mark.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut needles = vec![
            ("raw", mark.to_vec()),
            ("hex", hex.to_ascii_uppercase().into_bytes()),
            ("hex", hex.into_bytes()),
        ];
        // Base64 depends on where the mark stands modulo three.
        for skipped in 0..3 {
            let whole = &mark[skipped..skipped + 21];
            needles.push((
                "base64",
                general_purpose::STANDARD_NO_PAD.encode(whole).into_bytes(),
            ));
            needles.push((
                "base64url",
                general_purpose::URL_SAFE_NO_PAD.encode(whole).into_bytes(),
            ));
        }
        Markers { mark, needles }
    }

    /// The content of one secret: the mark and the number, again and again, so that a
    /// fragment shows too.
    #[must_use]
    pub fn secret(&self, number: u64) -> Vec<u8> {
        let mut data = Vec::new();
        for _ in 0..8 {
            data.extend_from_slice(&self.mark);
            data.extend_from_slice(&number.to_be_bytes());
        }
        data
    }

    /// Where the mark stands in a file's bytes, in any form: the first place of each.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn in_file(&self, path: &Path) -> Result<Vec<Finding>> {
        let mut file = File::open(path).with_context(|| path.display().to_string())?;
        let longest = self
            .needles
            .iter()
            .map(|(_, needle)| needle.len())
            .max()
            .unwrap_or(0);
        let mut found: Vec<Finding> = Vec::new();
        let mut window = Vec::with_capacity(CHUNK_BYTES + longest);
        let mut begin = 0_u64;
        loop {
            let read = file
                .by_ref()
                .take(CHUNK_BYTES as u64)
                .read_to_end(&mut window)?;
            if read == 0 {
                return Ok(found);
            }
            for (form, needle) in &self.needles {
                if found.iter().any(|finding| finding.form == *form) {
                    continue;
                }
                if let Some(offset) = find(&window, needle) {
                    let offset = begin + offset as u64;
                    found.push(Finding {
                        form,
                        path: path.to_owned(),
                        offset,
                    });
                }
            }
            // What a needle could have begun in stays.
            let kept = window.len().saturating_sub(longest);
            begin += kept as u64;
            window.drain(..kept);
        }
    }

    /// The same for every regular file below a directory.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn below(&self, dir: &Path) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                found.extend(self.below(&entry.path())?);
            } else if kind.is_file() {
                found.extend(self.in_file(&entry.path())?);
            }
        }
        Ok(found)
    }

    /// Whether the mark stands in these bytes.
    #[must_use]
    pub fn in_bytes(&self, bytes: &[u8]) -> Option<&'static str> {
        let hit = self
            .needles
            .iter()
            .find(|(_, needle)| find(bytes, needle).is_some());
        hit.map(|(form, _)| *form)
    }
}

/// The first place of `needle`, by Horspool's search.
#[must_use]
pub fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let last = needle.len().checked_sub(1)?;
    let mut skip = [needle.len(); 256];
    for (place, byte) in needle[..last].iter().enumerate() {
        skip[usize::from(*byte)] = last - place;
    }
    let mut end = last;
    while let Some(byte) = bytes.get(end) {
        if *byte == needle[last] && bytes[end - last..=end] == *needle {
            return Some(end - last);
        }
        end += skip[usize::from(*byte)];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_find_must_find() {
        assert_eq!(find(b"abcabd", b"abd"), Some(3));
        assert_eq!(find(b"abcabd", b"abx"), None);
        assert_eq!(find(b"ab", b"abx"), None);
    }

    #[test]
    fn every_form_is_found_at_every_place() {
        let markers = Markers::from_mark(*b"a mark of 24 bytes, all ");
        let secret = markers.secret(7);
        for pad in 0..3 {
            let mut bytes = vec![b'x'; pad];
            bytes.extend_from_slice(&secret);
            assert_eq!(markers.in_bytes(&bytes), Some("raw"));
            let text = general_purpose::STANDARD.encode(&bytes);
            assert!(
                markers
                    .in_bytes(text.as_bytes())
                    .is_some_and(|form| form.starts_with("base64"))
            );
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(markers.in_bytes(hex.as_bytes()), Some("hex"));
        }
        assert_eq!(markers.in_bytes(b"nothing of the kind"), None);
    }

    #[test]
    fn a_mark_across_two_chunks_is_found() {
        let markers = Markers::from_mark(*b"a mark of 24 bytes, all ");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut bytes = vec![0; CHUNK_BYTES - 10];
        bytes.extend_from_slice(b"a mark of 24 bytes, all ");
        fs::write(&path, bytes).unwrap();
        let found = markers.below(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].offset, CHUNK_BYTES as u64 - 10);
    }
}
