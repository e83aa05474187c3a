//! A strict reader of PEM blocks (RFC 7468), with bounds, and the matching writer.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Characters of base64 on a line, as Go and OpenSSL write it.
const LINE_CHARS: usize = 64;

/// What stands between the dashes, and what was encoded.
///
/// The contents wipe themselves, as they may be a private key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) label: String,
    pub(crate) der: Zeroizing<Vec<u8>>,
}

/// Whether text outside of blocks, such as `openssl x509 -text` writes, is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outside {
    Refuse,
    Skip,
}

/// How much is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) bytes: usize,
    pub(crate) blocks: usize,
}

/// Why bytes are not the PEM that is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Over the size limit; nothing was read.
    #[error("it has {bytes} bytes, and at most {limit} are accepted")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// More blocks than expected.
    #[error("it has more than {limit} PEM block(s)")]
    TooManyBlocks {
        /// How many are accepted.
        limit: usize,
    },
    /// No block at all.
    #[error("it holds no PEM block")]
    Empty,
    /// Not text.
    #[error("it is not ASCII text")]
    NotText,
    /// Text before, between or after the blocks.
    #[error("there is text outside of its PEM block")]
    Outside,
    /// A block without end, with another end, or a mangled line of dashes.
    #[error("a PEM block has no matching begin and end lines")]
    Boundary,
    /// A header, or what is not base64.
    #[error("a PEM block holds something else than base64")]
    Body,
    /// A block of another kind.
    #[error("it holds a PEM block of another type than expected")]
    Label,
}

/// Reads all blocks.
pub(crate) fn read(pem: &[u8], limits: Limits, outside: Outside) -> Result<Vec<Block>, PemError> {
    if pem.len() > limits.bytes {
        return Err(PemError::TooLarge {
            bytes: pem.len(),
            limit: limits.bytes,
        });
    }
    if !pem.is_ascii() {
        return Err(PemError::NotText);
    }
    let text = std::str::from_utf8(pem).map_err(|_| PemError::NotText)?;
    let mut lines = text.lines();
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        let line = line.trim_end();
        let Some(label) = boundary(line, BEGIN) else {
            let stray = line.starts_with(DASHES) || outside == Outside::Refuse && !line.is_empty();
            if line.starts_with(DASHES) {
                return Err(PemError::Boundary);
            } else if stray {
                return Err(PemError::Outside);
            }
            continue;
        };
        if blocks.len() == limits.blocks {
            return Err(PemError::TooManyBlocks {
                limit: limits.blocks,
            });
        }
        blocks.push(read_body(label, &mut lines, pem.len())?);
    }
    if blocks.is_empty() {
        Err(PemError::Empty)
    } else {
        Ok(blocks)
    }
}

/// Reads exactly one block with one of these labels and nothing else.
pub(crate) fn read_one(pem: &[u8], bytes: usize, labels: &[&str]) -> Result<Block, PemError> {
    let mut blocks = read(pem, Limits { bytes, blocks: 1 }, Outside::Refuse)?;
    match blocks.pop() {
        Some(block) if labels.contains(&block.label.as_str()) => Ok(block),
        Some(_) => Err(PemError::Label),
        None => Err(PemError::Empty),
    }
}

fn boundary<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    line.strip_prefix(kind)?.strip_suffix(DASHES)
}

/// Reads up to the end line of `label`. `capacity` bounds the contents, so nothing regrows.
fn read_body<'a>(
    label: &str,
    lines: &mut impl Iterator<Item = &'a str>,
    capacity: usize,
) -> Result<Block, PemError> {
    let mut base64 = Zeroizing::new(String::with_capacity(capacity));
    for line in lines {
        let line = line.trim();
        if line.starts_with(DASHES) {
            if boundary(line, END) != Some(label) {
                return Err(PemError::Boundary);
            }
            let mut der = Zeroizing::new(Vec::with_capacity(capacity));
            STANDARD
                .decode_vec(base64.as_bytes(), &mut der)
                .map_err(|_| PemError::Body)?;
            return Ok(Block {
                label: label.to_owned(),
                der,
            });
        }
        base64.push_str(line);
    }
    Err(PemError::Boundary)
}

/// Writes one block, 64 characters a line, as Go's encoder does.
pub(crate) fn write(label: &str, der: &[u8]) -> Zeroizing<String> {
    // Sized once, so that no copy of a key is left behind by growing.
    let base64_chars = der.len().div_ceil(3) * 4;
    let mut base64 = Zeroizing::new(vec![0; base64_chars]);
    let written = STANDARD.encode_slice(der, &mut base64).unwrap_or(0);
    let lines = base64_chars.div_ceil(LINE_CHARS);
    let frame = 2 * (label.len() + END.len() + BEGIN.len() + DASHES.len());
    let mut pem = Zeroizing::new(String::with_capacity(base64_chars + lines + frame));
    // Writing to a string does not fail.
    let _ = writeln!(pem, "{BEGIN}{label}{DASHES}");
    for line in base64[..written].chunks(LINE_CHARS) {
        for character in line {
            pem.push(char::from(*character));
        }
        pem.push('\n');
    }
    let _ = writeln!(pem, "{END}{label}{DASHES}");
    pem
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        bytes: 4096,
        blocks: 2,
    };

    fn refused(pem: &str) -> PemError {
        read(pem.as_bytes(), LIMITS, Outside::Refuse).unwrap_err()
    }

    #[test]
    fn refuses_what_is_not_clean_pem() {
        let block = write("X", b"abc");
        assert_eq!(refused(""), PemError::Empty);
        assert_eq!(refused("\n \n"), PemError::Empty);
        assert_eq!(refused("hello"), PemError::Outside);
        assert_eq!(refused(&format!("{}x", block.as_str())), PemError::Outside);
        assert_eq!(refused("-----BEGIN X-----\nYWJj\n"), PemError::Boundary);
        assert_eq!(
            refused("-----BEGIN X-----\nYWJj\n-----END Y-----\n"),
            PemError::Boundary
        );
        assert_eq!(
            refused("-----BEGIN X----\nYWJj\n-----END X-----\n"),
            PemError::Boundary
        );
        assert_eq!(
            refused("-----BEGIN X-----\nA: b\n\nYWJj\n-----END X-----"),
            PemError::Body
        );
        assert_eq!(
            refused("-----BEGIN X-----\nYWJ\n-----END X-----"),
            PemError::Body
        );
        assert_eq!(
            refused(&block.repeat(3)),
            PemError::TooManyBlocks { limit: 2 }
        );
        assert_eq!(
            refused(&"x".repeat(4097)),
            PemError::TooLarge {
                bytes: 4097,
                limit: 4096
            }
        );
        assert_eq!(
            read(b"\xff", LIMITS, Outside::Refuse).unwrap_err(),
            PemError::NotText
        );
    }

    #[test]
    fn one_block_means_one_of_the_right_kind() {
        let block = write("X", b"abc");
        assert_eq!(
            read_one(block.as_bytes(), 4096, &["Y"]).unwrap_err(),
            PemError::Label
        );
        let twice = block.repeat(2);
        let error = read_one(twice.as_bytes(), 4096, &["X"]).unwrap_err();
        assert_eq!(error, PemError::TooManyBlocks { limit: 1 });
        assert_eq!(
            *read_one(block.as_bytes(), 4096, &["X"]).unwrap().der,
            b"abc"
        );
    }

    #[test]
    fn skips_outside_text_where_asked() {
        let pem = format!(
            "Certificate:\n  Data\n{}\ntail",
            write("X", b"abc").as_str()
        );
        let blocks = read(pem.as_bytes(), LIMITS, Outside::Skip).unwrap();
        assert_eq!(*blocks[0].der, b"abc");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(der in prop::collection::vec(any::<u8>(), 0..500)) {
            let pem = write("PRIVATE KEY", &der);
            prop_assert!(pem.lines().all(|line| line.len() <= LINE_CHARS));
            let block = read_one(pem.as_bytes(), 4096, &["PRIVATE KEY"]).unwrap();
            prop_assert_eq!(&*block.der, &der);
            let crlf = pem.replace('\n', "\r\n");
            prop_assert_eq!(read_one(crlf.as_bytes(), 4096, &["PRIVATE KEY"]).unwrap(), block);
        }

        #[test]
        fn random_text_does_not_panic(
            text in "(-----BEGIN X-----|-----END X-----|\n|[A-Za-z=: -]){0,30}",
        ) {
            let _ = read(text.as_bytes(), LIMITS, Outside::Skip);
        }
    }
}
