//! Content between managers that lies in no buffer of their connection as it is.
//!
//! gRPC, HTTP/2 and TLS keep buffers for as long as a connection lives, which between
//! managers is days. What holds secrets is therefore sealed once more under keys that
//! both ends have of the handshake (RFC 8446 section 7.5), and opened into memory that is
//! wiped. On the way it is TLS that protects it; this is for what is left of it after.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionCommon;
use tonic::Status;
use waxseal_cluster::Wiped;
use zeroize::Zeroizing;

use crate::bypass::Side;

/// Names the keys; IANA knows none of ours.
const LABEL: &[u8] = b"EXPORTER-waxseal-sealed-1";
const KEY_BYTES: usize = 32;
/// Bytes of the counter in front of what is sealed.
const COUNT_BYTES: usize = 8;
const TAG_BYTES: usize = 16;

/// Seals and opens content of one connection.
///
/// Sealed content is `count (8) ‖ ciphertext ‖ tag (16)`, AES-256-GCM with the count as
/// nonce. Each direction has its key, which lives as long as the connection: no count
/// comes twice. What is replayed or swapped is TLS's to find.
pub struct Sealing {
    ours: LessSafeKey,
    theirs: LessSafeKey,
    sealed: AtomicU64,
}

impl fmt::Debug for Sealing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealing { .. }")
    }
}

impl Sealing {
    /// Of a connection whose handshake is over.
    pub(crate) fn of<D>(
        connection: &ConnectionCommon<D>,
        side: Side,
    ) -> Result<Sealing, rustls::Error> {
        let keys = Zeroizing::new([0; 2 * KEY_BYTES]);
        let keys = connection.export_keying_material(keys, LABEL, None)?;
        Ok(Sealing::with_keys(&keys, side))
    }

    /// Both ends, client first, under keys that everybody knows; for tests.
    pub fn danger_pair() -> (Sealing, Sealing) {
        let mut keys = [1; 2 * KEY_BYTES];
        keys[KEY_BYTES..].fill(2);
        (
            Sealing::with_keys(&keys, Side::Client),
            Sealing::with_keys(&keys, Side::Server),
        )
    }

    fn with_keys(keys: &[u8; 2 * KEY_BYTES], side: Side) -> Sealing {
        let key = |bytes: &[u8]| {
            let key = UnboundKey::new(&AES_256_GCM, bytes).expect("it is as long as the cipher's");
            LessSafeKey::new(key)
        };
        let (client, server) = keys.split_at(KEY_BYTES);
        let (ours, theirs) = match side {
            Side::Client => (client, server),
            Side::Server => (server, client),
        };
        Sealing {
            ours: key(ours),
            theirs: key(theirs),
            sealed: AtomicU64::new(0),
        }
    }

    /// Seals content for the other end.
    pub fn seal(&self, content: &[u8]) -> Vec<u8> {
        let count = self.sealed.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut sealed = Vec::with_capacity(COUNT_BYTES + content.len() + TAG_BYTES);
        sealed.extend_from_slice(&count);
        sealed.extend_from_slice(content);
        let tag = self
            .ours
            .seal_in_place_separate_tag(nonce(count), Aad::empty(), &mut sealed[COUNT_BYTES..])
            .expect("no message comes near the cipher's limit of 64 GiB");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what the other end sealed, in its place.
    ///
    /// # Errors
    /// `InvalidArgument` for what it did not seal for this connection.
    pub fn open(&self, sealed: Vec<u8>) -> Result<Wiped, Status> {
        let mut content = Wiped::new(sealed);
        let length = content
            .first_chunk()
            .copied()
            .and_then(|count| {
                let within = COUNT_BYTES..;
                let opening =
                    self.theirs
                        .open_within(nonce(count), Aad::empty(), &mut content, within);
                opening.ok().map(|opened| opened.len())
            })
            .ok_or_else(|| Status::invalid_argument("content that is not of this connection"))?;
        content.truncate(length);
        Ok(content)
    }
}

fn nonce(count: [u8; COUNT_BYTES]) -> Nonce {
    let [a, b, c, d, e, f, g, h] = count;
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn what_was_changed_cut_or_sent_back_is_not_opened() {
        let (client, server) = Sealing::danger_pair();
        let refused = |sealed: Vec<u8>| server.open(sealed).unwrap_err().code();
        for short in [0, 1, COUNT_BYTES, COUNT_BYTES + TAG_BYTES - 1] {
            assert_eq!(refused(vec![0; short]), Code::InvalidArgument);
        }
        let sealed = client.seal(b"content");
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(refused(changed), Code::InvalidArgument, "{place}");
        }
        assert_eq!(refused(server.seal(b"content")), Code::InvalidArgument);
        assert_eq!(server.open(sealed).unwrap().as_slice(), b"content");
    }

    #[test]
    fn both_directions_and_any_length_open() {
        let (client, server) = Sealing::danger_pair();
        for length in [0, 1, 15, 16, 17, 4096] {
            let content = vec![7; length];
            for (from, to) in [(&client, &server), (&server, &client)] {
                let sealed = from.seal(&content);
                assert_eq!(sealed.len(), length + COUNT_BYTES + TAG_BYTES);
                assert_eq!(to.open(sealed).unwrap().as_slice(), content);
            }
        }
        assert_ne!(client.seal(b"x"), client.seal(b"x"));
    }
}
