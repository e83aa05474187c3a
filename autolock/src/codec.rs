//! Reading bytes that may be anything.

/// A sealed thing that cannot be opened, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// The bytes are not what they should be.
    #[error("{what} is damaged")]
    Damaged {
        /// Which part.
        what: &'static str,
    },
    /// A newer program wrote it.
    #[error("{what} has format {version}, this program reads up to {supported}")]
    TooNew {
        /// What was read.
        what: &'static str,
        /// The format that it names.
        version: u16,
        /// The newest format that this program reads.
        supported: u16,
    },
    /// It belongs to another cluster, node or Raft member.
    #[error("{what} was written by another cluster or node")]
    Foreign {
        /// What was read.
        what: &'static str,
    },
    /// It is sealed under a key that is not at hand.
    #[error("{what} is sealed under key {dek_id}, which the key file does not hold")]
    UnknownKey {
        /// What was read.
        what: &'static str,
        /// The id of the missing key.
        dek_id: crate::DekId,
    },
    /// The tag does not fit the bytes, their place and the key.
    #[error("{what} fails its authentication tag")]
    Unauthentic {
        /// Which part.
        what: &'static str,
    },
}

/// Takes fields off the front of a slice; `None` at its end.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A 16-bit length and as many bytes.
    pub(crate) fn short_bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }

    /// A 16-bit length and as many bytes of UTF-8.
    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.short_bytes()?).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Adds a 16-bit length and the bytes.
pub(crate) fn put_short_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u16::try_from(bytes.len()).expect("names and keys are far below 64 KiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The start of every sealed file, which no later format changes:
/// 8 bytes magic, 2 format, 2 zero, 4 CRC-32 of those 12.
pub(crate) const PREAMBLE_LEN: usize = 16;

/// Writes the preamble.
pub(crate) fn preamble(magic: &[u8; 8], version: u16) -> [u8; PREAMBLE_LEN] {
    let mut out = [0; PREAMBLE_LEN];
    out[..8].copy_from_slice(magic);
    out[8..10].copy_from_slice(&version.to_be_bytes());
    let crc = crc32fast::hash(&out[..12]);
    out[12..].copy_from_slice(&crc.to_be_bytes());
    out
}

/// Appends the CRC-32 of `head` behind it: tells damage before keys and owners are looked at.
pub(crate) fn put_crc(head: &mut [u8], at: usize) {
    let crc = crc32fast::hash(&head[..at]);
    head[at..at + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Whether the four bytes at `at` are the CRC-32 of those before.
pub(crate) fn crc_fits(head: &[u8], at: usize) -> bool {
    head.get(at..at + 4)
        .is_some_and(|crc| crc == crc32fast::hash(&head[..at]).to_be_bytes())
}

/// Checks the preamble and that this program reads the format.
pub(crate) fn check_preamble(
    bytes: &[u8],
    magic: &[u8; 8],
    supported: u16,
    what: &'static str,
) -> Result<(), FormatError> {
    let damaged = FormatError::Damaged { what };
    let head: &[u8; PREAMBLE_LEN] = bytes.first_chunk().ok_or(damaged.clone())?;
    let crc = u32::from_be_bytes([head[12], head[13], head[14], head[15]]);
    if head[..8] != magic[..] || crc32fast::hash(&head[..12]) != crc {
        return Err(damaged);
    }
    let version = u16::from_be_bytes([head[8], head[9]]);
    match version {
        0 => Err(damaged),
        v if v > supported => Err(FormatError::TooNew {
            what,
            version,
            supported,
        }),
        _ => Ok(()),
    }
}
