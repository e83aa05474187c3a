//! The sealed log: segments of records, each record bound to its place and to the one before.
//!
//! Header, [`SEGMENT_HEADER_LEN`] bytes:
//!
//! | offset | length | meaning |
//! |---|---|---|
//! | 0 | 16 | preamble: magic `WXSLOGSG`, format, CRC-32 |
//! | 16 | 8 | id of the DEK |
//! | 24 | 32 | digest of the owner |
//! | 56 | 16 | random segment id |
//! | 72 | 8 | sequence number of the segment |
//! | 80 | 8 | index of the first entry that it may hold |
//! | 88 | 1 | 1 if there is a segment before |
//! | 89 | 7 | zero |
//! | 96 | 16 | id of the segment before |
//! | 112 | 8 | records in it |
//! | 120 | 16 | its last tag |
//! | 136 | 36 | zero |
//! | 172 | 4 | CRC-32 of all before, which tells damage from another key or owner |
//! | 176 | 16 | tag over all before, under the segment's key |
//!
//! Record: [`RECORD_HEADER_LEN`] bytes header, the sealed body, its tag, zeros up to 8 bytes:
//!
//! | offset | length | meaning |
//! |---|---|---|
//! | 0 | 2 | `WX` |
//! | 2 | 1 | kind |
//! | 3 | 1 | zero |
//! | 4 | 4 | length of the body |
//! | 8 | 8 | number in the segment, from 0: the nonce |
//! | 16 | 8 | index |
//! | 24 | 8 | term |
//! | 32 | 8 | Raft id of the term's leader |
//! | 40 | 4 | offset up to which the segment was synced before this was written |
//! | 44 | 4 | CRC-32 of the 44 bytes, seeded with the segment id |
//!
//! All numbers are big-endian.

use crate::aead::{Aad, HEADER_NONCE, Sealer, TAG_LEN, Tag, counter_nonce};
use crate::codec::{self, FormatError, PREAMBLE_LEN, Reader};
use crate::{Dek, DekId, DekRing, Owner};

/// The format that this program writes.
pub const SEGMENT_FORMAT: u16 = 1;

/// Bytes of a segment's header.
pub const SEGMENT_HEADER_LEN: usize = 192;

/// Bytes of a record's header.
pub const RECORD_HEADER_LEN: usize = 48;

/// Records start at multiples of this, so that a search for the next one is short.
pub const RECORD_ALIGN: usize = 8;

const MAGIC: &[u8; 8] = b"WXSLOGSG";
const RECORD_MAGIC: [u8; 2] = *b"WX";
const WHAT: &str = "the segment header";
const SIGNED_LEN: usize = SEGMENT_HEADER_LEN - TAG_LEN;
const HEADER_CRC_AT: usize = SIGNED_LEN - 4;
const CRC_AT: usize = RECORD_HEADER_LEN - 4;

/// The random id of a segment.
pub type SegmentId = [u8; 16];

/// Where the segment before ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLink {
    /// Its id.
    pub segment_id: SegmentId,
    /// How many records of it count; what lies behind them is a torn tail.
    pub records: u64,
    /// The tag of the last of them, or of the header if there is none.
    pub tag: Tag,
}

/// What a segment says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The key that seals it.
    pub dek_id: DekId,
    /// Its random id.
    pub segment_id: SegmentId,
    /// Its place in the order of segments, from 1.
    pub sequence: u64,
    /// The index of the first entry that it may hold.
    pub first_index: u64,
    /// The segment before; `None` for the first of a log.
    pub previous: Option<ChainLink>,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// An entry without content, a leader's first.
    Blank,
    /// An entry with a command.
    Normal,
    /// An entry with a membership.
    Membership,
    /// All entries from this index on are void.
    Truncate,
    /// Entries up to this one are known to be committed.
    Committed,
}

impl RecordKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Blank,
            2 => Self::Normal,
            3 => Self::Membership,
            4 => Self::Truncate,
            5 => Self::Committed,
            _ => return None,
        })
    }

    fn byte(self) -> u8 {
        match self {
            Self::Blank => 1,
            Self::Normal => 2,
            Self::Membership => 3,
            Self::Truncate => 4,
            Self::Committed => 5,
        }
    }

    /// Whether it is an entry of the Raft log.
    pub fn is_entry(self) -> bool {
        matches!(self, Self::Blank | Self::Normal | Self::Membership)
    }
}

/// What a record says of itself, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it is.
    pub kind: RecordKind,
    /// Bytes of the body, without tag.
    pub body_len: u32,
    /// Its number in the segment, from 0.
    pub number: u64,
    /// The Raft index.
    pub index: u64,
    /// The Raft term.
    pub term: u64,
    /// The Raft id of the term's leader.
    pub leader: u64,
    /// The offset up to which the segment was synced before this record was written. Not
    /// authenticated: it only tells a torn tail from damage.
    pub synced_to: u32,
}

/// Bytes that a record with a body of this length takes in the segment.
pub fn record_disk_len(body_len: usize) -> usize {
    (RECORD_HEADER_LEN + body_len + TAG_LEN).next_multiple_of(RECORD_ALIGN)
}

impl RecordHeader {
    /// The header's bytes.
    pub fn encode(&self, segment_id: &SegmentId) -> [u8; RECORD_HEADER_LEN] {
        let mut out = [0; RECORD_HEADER_LEN];
        out[..2].copy_from_slice(&RECORD_MAGIC);
        out[2] = self.kind.byte();
        out[4..8].copy_from_slice(&self.body_len.to_be_bytes());
        out[8..16].copy_from_slice(&self.number.to_be_bytes());
        out[16..24].copy_from_slice(&self.index.to_be_bytes());
        out[24..32].copy_from_slice(&self.term.to_be_bytes());
        out[32..40].copy_from_slice(&self.leader.to_be_bytes());
        Self::set_synced_to(&mut out, segment_id, self.synced_to);
        out
    }

    /// Notes in an encoded header up to where the segment is synced; whoever writes the batch
    /// knows it only then.
    pub fn set_synced_to(
        header: &mut [u8; RECORD_HEADER_LEN],
        segment_id: &SegmentId,
        synced_to: u32,
    ) {
        header[40..CRC_AT].copy_from_slice(&synced_to.to_be_bytes());
        let crc = record_crc(header, segment_id);
        header[CRC_AT..].copy_from_slice(&crc.to_be_bytes());
    }

    /// Reads a header; `None` if these bytes are none of this segment.
    pub fn decode(bytes: &[u8], segment_id: &SegmentId) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER_LEN] = bytes.first_chunk()?;
        let mut reader = Reader(bytes);
        if reader.array()? != RECORD_MAGIC {
            return None;
        }
        let kind = RecordKind::from_byte(reader.u8()?)?;
        if reader.u8()? != 0 {
            return None;
        }
        let header = Self {
            kind,
            body_len: reader.u32()?,
            number: reader.u64()?,
            index: reader.u64()?,
            term: reader.u64()?,
            leader: reader.u64()?,
            synced_to: reader.u32()?,
        };
        (reader.u32()? == record_crc(bytes, segment_id)).then_some(header)
    }

    /// Bytes that the record takes in the segment.
    pub fn disk_len(&self) -> u64 {
        record_disk_len(self.body_len as usize) as u64
    }
}

fn record_crc(header: &[u8; RECORD_HEADER_LEN], segment_id: &SegmentId) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(segment_id);
    crc.update(&header[..CRC_AT]);
    crc.finalize()
}

impl SegmentHeader {
    /// The header's bytes and the cipher of its records.
    pub fn seal(&self, dek: &Dek, owner: &Owner) -> ([u8; SEGMENT_HEADER_LEN], SegmentCipher) {
        let mut out = [0; SEGMENT_HEADER_LEN];
        out[..PREAMBLE_LEN].copy_from_slice(&codec::preamble(MAGIC, SEGMENT_FORMAT));
        out[16..24].copy_from_slice(&self.dek_id.0);
        out[24..56].copy_from_slice(&owner.digest());
        out[56..72].copy_from_slice(&self.segment_id);
        out[72..80].copy_from_slice(&self.sequence.to_be_bytes());
        out[80..88].copy_from_slice(&self.first_index.to_be_bytes());
        if let Some(previous) = &self.previous {
            out[88] = 1;
            out[96..112].copy_from_slice(&previous.segment_id);
            out[112..120].copy_from_slice(&previous.records.to_be_bytes());
            out[120..136].copy_from_slice(&previous.tag);
        }
        codec::put_crc(&mut out, HEADER_CRC_AT);
        let sealer = dek.sealer("waxseal segment v1", owner, &self.segment_id);
        let tag = sealer.seal(HEADER_NONCE, &out[..SIGNED_LEN], &mut []);
        out[SIGNED_LEN..].copy_from_slice(&tag);
        (out, SegmentCipher::new(sealer, self, tag))
    }

    /// Reads and checks a header with the key that it names.
    ///
    /// # Errors
    /// Every [`FormatError`].
    pub fn open(
        bytes: &[u8],
        deks: &DekRing,
        owner: &Owner,
    ) -> Result<(Self, SegmentCipher), FormatError> {
        codec::check_preamble(bytes, MAGIC, SEGMENT_FORMAT, WHAT)?;
        let damaged = FormatError::Damaged { what: WHAT };
        let (signed, tag) = bytes
            .first_chunk::<SEGMENT_HEADER_LEN>()
            .and_then(|header| header.split_last_chunk::<TAG_LEN>())
            .filter(|(signed, _)| codec::crc_fits(signed, HEADER_CRC_AT))
            .ok_or(damaged.clone())?;
        let (header, owner_digest) = Self::decode(signed).ok_or(damaged)?;
        if owner_digest != owner.digest() {
            return Err(FormatError::Foreign { what: WHAT });
        }
        let dek = deks.find(header.dek_id).ok_or(FormatError::UnknownKey {
            what: WHAT,
            dek_id: header.dek_id,
        })?;
        let sealer = dek.sealer("waxseal segment v1", owner, &header.segment_id);
        sealer
            .open(HEADER_NONCE, signed, &mut [], tag)
            .map_err(|_| FormatError::Unauthentic { what: WHAT })?;
        let cipher = SegmentCipher::new(sealer, &header, *tag);
        Ok((header, cipher))
    }

    fn decode(signed: &[u8]) -> Option<(Self, [u8; 32])> {
        let mut reader = Reader(signed.get(PREAMBLE_LEN..)?);
        let dek_id = DekId(reader.array()?);
        let owner = reader.array()?;
        let segment_id = reader.array()?;
        let sequence = reader.u64()?;
        let first_index = reader.u64()?;
        let linked = reader.u8()?;
        reader.take(7)?;
        let link = ChainLink {
            segment_id: reader.array()?,
            records: reader.u64()?,
            tag: reader.array()?,
        };
        let previous = match linked {
            0 => None,
            1 => Some(link),
            _ => return None,
        };
        Some((
            Self {
                dek_id,
                segment_id,
                sequence,
                first_index,
                previous,
            },
            owner,
        ))
    }
}

/// Seals and opens the records of one segment.
pub struct SegmentCipher {
    sealer: Sealer,
    dek_id: DekId,
    segment_id: SegmentId,
    header_tag: Tag,
}

impl SegmentCipher {
    fn new(sealer: Sealer, header: &SegmentHeader, header_tag: Tag) -> Self {
        Self {
            sealer,
            dek_id: header.dek_id,
            segment_id: header.segment_id,
            header_tag,
        }
    }

    /// The segment's id.
    pub fn segment_id(&self) -> &SegmentId {
        &self.segment_id
    }

    /// The key that the segment is sealed under.
    pub fn dek_id(&self) -> DekId {
        self.dek_id
    }

    /// What the first record is chained to.
    pub fn header_tag(&self) -> Tag {
        self.header_tag
    }

    /// Seals the body in place. Each number serves once for a segment.
    pub fn seal(&self, header: &RecordHeader, previous: &Tag, body: &mut [u8]) -> Tag {
        let aad = self.place(header, previous);
        self.sealer
            .seal(counter_nonce(header.number), aad.as_slice(), body)
    }

    /// Opens the body in place.
    ///
    /// # Errors
    /// [`FormatError::Unauthentic`].
    pub fn open(
        &self,
        header: &RecordHeader,
        previous: &Tag,
        body: &mut [u8],
        tag: &Tag,
    ) -> Result<(), FormatError> {
        let aad = self.place(header, previous);
        self.sealer
            .open(counter_nonce(header.number), aad.as_slice(), body, tag)
            .map_err(|_| FormatError::Unauthentic { what: "the record" })
    }

    /// Format and key, then where the record sits.
    fn place(&self, header: &RecordHeader, previous: &Tag) -> Aad {
        Aad::new("waxseal record")
            .part(&SEGMENT_FORMAT.to_be_bytes())
            .part(&self.dek_id.0)
            .part(&self.segment_id)
            .part(&header.number.to_be_bytes())
            .part(&[header.kind.byte()])
            .part(&header.index.to_be_bytes())
            .part(&header.term.to_be_bytes())
            .part(&header.leader.to_be_bytes())
            .part(previous)
    }
}

impl std::fmt::Debug for SegmentCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SegmentCipher({})", self.dek_id)
    }
}

#[cfg(test)]
mod tests;
