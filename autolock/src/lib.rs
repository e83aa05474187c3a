//! Unlock key, key chain, key file, sealed record and snapshot format, lock states.
//!
//! What is here decides and encodes; it reads no file, no clock and no random source. Salts and
//! ids come in as arguments, bytes go out. Files, threads and openraft are `waxseal-raft-store`.
//!
//! The chain of keys: the operator's [`UnlockKey`] gives, with the salt of one key file, a
//! [`Kek`]; it wraps the node's TLS key and the manager's [`Dek`]; the DEK gives one key for each
//! segment, snapshot and vote.

mod aead;
mod codec;
mod key_change;
mod key_file;
mod keys;
mod lock_state;
mod owner;
mod pem;
mod registers;
mod segment;
mod slot;
mod snapshot;
mod unlock_key;

pub use aead::{TAG_LEN, Tag};
pub use codec::FormatError;
pub use key_change::{ClusterKey, HeldKey, KeyChange, KeyConflict, plan_key_change};
pub use key_file::{
    KEY_FILE_FORMAT, KeyFile, KeyFileHeader, MAX_KEY_FILE_BYTES, MAX_RETIRED_DEKS, OpenError,
    RaftKeys, Sealing, TooManyRetiredDeks,
};
pub use keys::{Dek, DekId, DekRing, Kek, KeyCheck, SALT_LEN};
pub use lock_state::{ImpossibleEvent, LockEvent, LockState};
pub use owner::Owner;
pub use registers::{scrub_registers, scrub_stack};
pub use segment::{
    ChainLink, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, RecordKind, SEGMENT_FORMAT,
    SEGMENT_HEADER_LEN, SegmentCipher, SegmentHeader, SegmentId, record_disk_len,
};
pub use slot::{SLOT_FORMAT, SLOT_OVERHEAD, open_slot, seal_slot, slot_dek_id};
pub use snapshot::{
    CHUNK_HEADER_LEN, ChunkHeader, ChunkKind, MAX_CHUNK_BYTES, SNAPSHOT_FORMAT,
    SNAPSHOT_HEADER_LEN, SnapshotCipher, SnapshotHeader, SnapshotId,
};
pub use unlock_key::{ParseUnlockKeyError, UNLOCK_KEY_LEN, UNLOCK_KEY_PREFIX, UnlockKey};
