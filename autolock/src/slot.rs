//! A small sealed value that is overwritten in place: the vote.
//!
//! | offset | length | meaning |
//! |---|---|---|
//! | 0 | 16 | preamble: magic `WXSVOTES`, format, CRC-32 |
//! | 16 | 8 | id of the DEK |
//! | 24 | 32 | digest of the owner |
//! | 56 | 32 | random salt, new for each write: it gives the key |
//! | 88 | 4 | length of the value |
//! | 92 | 4 | CRC-32 of all before |
//! | 96 | n | the value, sealed; all of the above is in the AAD |
//! | | 16 | tag |

use zeroize::Zeroizing;

use crate::aead::{HEADER_NONCE, TAG_LEN};
use crate::codec::{self, FormatError, PREAMBLE_LEN, Reader};
use crate::keys::SALT_LEN;
use crate::{Dek, DekId, DekRing, Owner};

/// The format that this program writes.
pub const SLOT_FORMAT: u16 = 1;

/// Bytes that a slot takes beside its value.
pub const SLOT_OVERHEAD: usize = HEAD_LEN + TAG_LEN;

const HEAD_LEN: usize = CRC_AT + 4;
const CRC_AT: usize = 92;
const MAGIC: &[u8; 8] = b"WXSVOTES";
const PURPOSE: &str = "waxseal vote v1";
const WHAT: &str = "the vote";

/// Seals a value. `salt` is random and serves once.
pub fn seal_slot(dek: &Dek, owner: &Owner, salt: &[u8; SALT_LEN], value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT_OVERHEAD + value.len());
    out.extend_from_slice(&codec::preamble(MAGIC, SLOT_FORMAT));
    out.extend_from_slice(&dek.id().0);
    out.extend_from_slice(&owner.digest());
    out.extend_from_slice(salt);
    let len = u32::try_from(value.len()).expect("a vote is far below 4 GiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.resize(HEAD_LEN, 0);
    codec::put_crc(&mut out, CRC_AT);
    out.extend_from_slice(value);
    let (head, body) = out.split_at_mut(HEAD_LEN);
    let tag = dek
        .sealer(PURPOSE, owner, salt)
        .seal(HEADER_NONCE, head, body);
    out.extend_from_slice(&tag);
    out
}

/// Opens a slot; bytes behind it are ignored.
///
/// # Errors
/// Every [`FormatError`].
pub fn open_slot(
    bytes: &[u8],
    deks: &DekRing,
    owner: &Owner,
) -> Result<Zeroizing<Vec<u8>>, FormatError> {
    codec::check_preamble(bytes, MAGIC, SLOT_FORMAT, WHAT)?;
    let damaged = FormatError::Damaged { what: WHAT };
    let head: &[u8; HEAD_LEN] = bytes
        .first_chunk()
        .filter(|head| codec::crc_fits(&head[..], CRC_AT))
        .ok_or(damaged.clone())?;
    let (dek_id, owner_digest, salt, len) = decode_head(head).ok_or(damaged.clone())?;
    let mut rest = Reader(&bytes[HEAD_LEN..]);
    let body = rest.take(len).ok_or(damaged.clone())?;
    let tag = rest.array().ok_or(damaged)?;
    if owner_digest != owner.digest() {
        return Err(FormatError::Foreign { what: WHAT });
    }
    let dek = deks
        .find(dek_id)
        .ok_or(FormatError::UnknownKey { what: WHAT, dek_id })?;
    let mut value = Zeroizing::new(body.to_vec());
    dek.sealer(PURPOSE, owner, &salt)
        .open(HEADER_NONCE, head, &mut value, &tag)
        .map_err(|_| FormatError::Unauthentic { what: WHAT })?;
    Ok(value)
}

/// Which DEK a slot names, unchecked.
pub fn slot_dek_id(bytes: &[u8]) -> Option<DekId> {
    decode_head(bytes.first_chunk()?).map(|(dek_id, ..)| dek_id)
}

fn decode_head(head: &[u8; HEAD_LEN]) -> Option<(DekId, [u8; 32], [u8; SALT_LEN], usize)> {
    let mut reader = Reader(&head[PREAMBLE_LEN..]);
    let dek_id = DekId(reader.array()?);
    Some((
        dek_id,
        reader.array()?,
        reader.array()?,
        reader.u32()? as usize,
    ))
}

#[cfg(test)]
mod tests;
