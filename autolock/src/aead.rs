//! AES-256-GCM in place, with a key schedule that wipes itself.

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};

use crate::scrub_stack;

/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;

/// The tag of a sealed thing; the next thing in its chain binds it.
pub type Tag = [u8; TAG_LEN];

/// Bytes of a nonce.
pub(crate) const NONCE_LEN: usize = 12;

/// One AES-256-GCM key, expanded.
pub(crate) struct Sealer(Aes256Gcm);

/// The tag did not fit: other key, other place or changed bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unauthentic;

impl Sealer {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self(Aes256Gcm::new(key.into()))
    }

    /// Encrypts `buffer` in place. A nonce serves once for a key.
    pub(crate) fn seal(&self, nonce: [u8; NONCE_LEN], aad: &[u8], buffer: &mut [u8]) -> Tag {
        let tag = self
            .0
            .encrypt_inout_detached(&nonce.into(), aad, buffer.into())
            .expect("buffers are bounded far below the 64 GiB that one nonce may seal")
            .into();
        scrub_stack();
        tag
    }

    /// Decrypts `buffer` in place; it is unchanged or garbage after a failure.
    pub(crate) fn open(
        &self,
        nonce: [u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
        tag: &Tag,
    ) -> Result<(), Unauthentic> {
        let opened = self
            .0
            .decrypt_inout_detached(&nonce.into(), aad, buffer.into(), tag.into())
            .map_err(|_| Unauthentic);
        scrub_stack();
        opened
    }
}

/// The nonce that is a counter: 4 zero bytes, 8 bytes big-endian.
pub(crate) fn counter_nonce(counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// The nonce of a header, which no counter reaches.
pub(crate) const HEADER_NONCE: [u8; NONCE_LEN] = [0xff; NONCE_LEN];

/// Additional data of length-prefixed parts, so that no two lists of parts give the same bytes.
pub(crate) struct Aad {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl Aad {
    const CAPACITY: usize = 192;

    pub(crate) fn new(purpose: &str) -> Self {
        let aad = Self {
            bytes: [0; Self::CAPACITY],
            len: 0,
        };
        aad.part(purpose.as_bytes())
    }

    /// Adds a part of at most 255 bytes.
    pub(crate) fn part(mut self, part: &[u8]) -> Self {
        let len = u8::try_from(part.len()).expect("parts of a record's place are short");
        self.bytes[self.len] = len;
        self.bytes[self.len + 1..self.len + 1 + part.len()].copy_from_slice(part);
        self.len += 1 + part.len();
        self
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
