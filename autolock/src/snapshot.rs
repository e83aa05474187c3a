//! The sealed snapshot: chunks of the state, then one of what the snapshot is.
//!
//! Header, [`SNAPSHOT_HEADER_LEN`] bytes: preamble (magic `WXSSNAPS`), DEK id (8), digest of the
//! owner (32), random snapshot id (16), CRC-32 of all before (4), zero (4), tag over all before (16).
//!
//! Chunk: 16 bytes header, the sealed body, its tag:
//!
//! | offset | length | meaning |
//! |---|---|---|
//! | 0 | 4 | length of the body |
//! | 4 | 1 | 0 state, 1 description; the description is the last chunk |
//! | 5 | 3 | zero |
//! | 8 | 4 | number, from 0: the nonce |
//! | 12 | 4 | CRC-32 of the 12 bytes, seeded with the snapshot id |

use crate::aead::{Aad, HEADER_NONCE, Sealer, TAG_LEN, Tag, counter_nonce};
use crate::codec::{self, FormatError, PREAMBLE_LEN, Reader};
use crate::{Dek, DekId, DekRing, Owner};

/// The format that this program writes.
pub const SNAPSHOT_FORMAT: u16 = 1;

/// Bytes of a snapshot's header.
pub const SNAPSHOT_HEADER_LEN: usize = 96;

/// Bytes of a chunk's header.
pub const CHUNK_HEADER_LEN: usize = 16;

/// No chunk holds more plaintext: what one message between managers takes with room to spare.
pub const MAX_CHUNK_BYTES: usize = 1024 * 1024;

const MAGIC: &[u8; 8] = b"WXSSNAPS";
const PURPOSE: &str = "waxseal snapshot v1";
const WHAT: &str = "the snapshot header";
const SIGNED_LEN: usize = SNAPSHOT_HEADER_LEN - TAG_LEN;
const HEADER_CRC_AT: usize = SIGNED_LEN - 8;

/// The random id of a snapshot.
pub type SnapshotId = [u8; 16];

/// What a snapshot says of itself in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// The key that seals it.
    pub dek_id: DekId,
    /// Its random id.
    pub snapshot_id: SnapshotId,
}

/// What a chunk holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkKind {
    /// A part of the state.
    State,
    /// What the snapshot is; the last chunk, without which it is not whole.
    Description,
}

/// What a chunk says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    /// What it holds.
    pub kind: ChunkKind,
    /// Its number, from 0.
    pub number: u32,
    /// Bytes of the body, without tag.
    pub body_len: u32,
}

impl SnapshotHeader {
    /// The header's bytes and the cipher of its chunks.
    pub fn seal(&self, dek: &Dek, owner: &Owner) -> ([u8; SNAPSHOT_HEADER_LEN], SnapshotCipher) {
        let mut out = [0; SNAPSHOT_HEADER_LEN];
        out[..PREAMBLE_LEN].copy_from_slice(&codec::preamble(MAGIC, SNAPSHOT_FORMAT));
        out[16..24].copy_from_slice(&self.dek_id.0);
        out[24..56].copy_from_slice(&owner.digest());
        out[56..72].copy_from_slice(&self.snapshot_id);
        codec::put_crc(&mut out, HEADER_CRC_AT);
        let sealer = dek.sealer(PURPOSE, owner, &self.snapshot_id);
        let tag = sealer.seal(HEADER_NONCE, &out[..SIGNED_LEN], &mut []);
        out[SIGNED_LEN..].copy_from_slice(&tag);
        (
            out,
            SnapshotCipher {
                sealer,
                header: self.clone(),
            },
        )
    }

    /// Reads and checks a header with the key that it names.
    ///
    /// # Errors
    /// Every [`FormatError`].
    pub fn open(
        bytes: &[u8],
        deks: &DekRing,
        owner: &Owner,
    ) -> Result<(Self, SnapshotCipher), FormatError> {
        codec::check_preamble(bytes, MAGIC, SNAPSHOT_FORMAT, WHAT)?;
        let damaged = FormatError::Damaged { what: WHAT };
        let (signed, tag) = bytes
            .first_chunk::<SNAPSHOT_HEADER_LEN>()
            .and_then(|header| header.split_last_chunk::<TAG_LEN>())
            .filter(|(signed, _)| codec::crc_fits(signed, HEADER_CRC_AT))
            .ok_or(damaged.clone())?;
        let mut reader = Reader(&signed[PREAMBLE_LEN..]);
        let dek_id = DekId(reader.array().ok_or(damaged.clone())?);
        let owner_digest: [u8; 32] = reader.array().ok_or(damaged.clone())?;
        let snapshot_id = reader.array().ok_or(damaged)?;
        if owner_digest != owner.digest() {
            return Err(FormatError::Foreign { what: WHAT });
        }
        let dek = deks
            .find(dek_id)
            .ok_or(FormatError::UnknownKey { what: WHAT, dek_id })?;
        let sealer = dek.sealer(PURPOSE, owner, &snapshot_id);
        sealer
            .open(HEADER_NONCE, signed, &mut [], tag)
            .map_err(|_| FormatError::Unauthentic { what: WHAT })?;
        let header = Self {
            dek_id,
            snapshot_id,
        };
        Ok((header.clone(), SnapshotCipher { sealer, header }))
    }
}

impl ChunkHeader {
    /// The header's bytes.
    pub fn encode(&self, snapshot_id: &SnapshotId) -> [u8; CHUNK_HEADER_LEN] {
        let mut out = [0; CHUNK_HEADER_LEN];
        out[..4].copy_from_slice(&self.body_len.to_be_bytes());
        out[4] = matches!(self.kind, ChunkKind::Description).into();
        out[8..12].copy_from_slice(&self.number.to_be_bytes());
        let crc = chunk_crc(&out, snapshot_id);
        out[12..].copy_from_slice(&crc.to_be_bytes());
        out
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FormatError::Damaged`], also for a body longer than [`MAX_CHUNK_BYTES`].
    pub fn decode(bytes: &[u8], snapshot_id: &SnapshotId) -> Result<Self, FormatError> {
        Self::read(bytes, snapshot_id)
            .filter(|header| header.body_len as usize <= MAX_CHUNK_BYTES)
            .ok_or(FormatError::Damaged {
                what: "the chunk header",
            })
    }

    fn read(bytes: &[u8], snapshot_id: &SnapshotId) -> Option<Self> {
        let bytes: &[u8; CHUNK_HEADER_LEN] = bytes.first_chunk()?;
        let mut reader = Reader(bytes);
        let body_len = reader.u32()?;
        let kind = match reader.array()? {
            [0, 0, 0, 0] => ChunkKind::State,
            [1, 0, 0, 0] => ChunkKind::Description,
            _ => return None,
        };
        let number = reader.u32()?;
        (reader.u32()? == chunk_crc(bytes, snapshot_id)).then_some(Self {
            kind,
            number,
            body_len,
        })
    }
}

fn chunk_crc(header: &[u8; CHUNK_HEADER_LEN], snapshot_id: &SnapshotId) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(snapshot_id);
    crc.update(&header[..12]);
    crc.finalize()
}

/// Seals and opens the chunks of one snapshot.
pub struct SnapshotCipher {
    sealer: Sealer,
    header: SnapshotHeader,
}

impl SnapshotCipher {
    /// The header that it came from.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Seals a chunk in place. Each number serves once for a snapshot.
    pub fn seal(&self, header: &ChunkHeader, body: &mut [u8]) -> Tag {
        let aad = self.place(header);
        self.sealer
            .seal(counter_nonce(header.number.into()), aad.as_slice(), body)
    }

    /// Opens a chunk in place.
    ///
    /// # Errors
    /// [`FormatError::Unauthentic`].
    pub fn open(
        &self,
        header: &ChunkHeader,
        body: &mut [u8],
        tag: &Tag,
    ) -> Result<(), FormatError> {
        let aad = self.place(header);
        self.sealer
            .open(
                counter_nonce(header.number.into()),
                aad.as_slice(),
                body,
                tag,
            )
            .map_err(|_| FormatError::Unauthentic { what: "the chunk" })
    }

    fn place(&self, header: &ChunkHeader) -> Aad {
        Aad::new("waxseal chunk")
            .part(&SNAPSHOT_FORMAT.to_be_bytes())
            .part(&self.header.dek_id.0)
            .part(&self.header.snapshot_id)
            .part(&header.number.to_be_bytes())
            .part(&[matches!(header.kind, ChunkKind::Description).into()])
    }
}

impl std::fmt::Debug for SnapshotCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotCipher({})", self.header.dek_id)
    }
}

#[cfg(test)]
mod tests;
