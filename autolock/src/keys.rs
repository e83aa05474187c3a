//! The keys below the unlock key, and how each is derived.

use std::fmt;
use std::sync::Arc;

use hkdf::Hkdf;
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::aead::Sealer;
use crate::{Owner, UnlockKey};

/// Bytes of the salt that a key file or vote slot brings.
pub const SALT_LEN: usize = 32;

/// A public value that only the right unlock key gives; tells a wrong key from a damaged file.
#[derive(Debug, Clone, Copy)]
pub struct KeyCheck(pub [u8; 16]);

impl PartialEq for KeyCheck {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyCheck {}

/// The key that wraps a key file's content: derived from the unlock key for one write of one
/// file, so its nonce never repeats.
pub struct Kek {
    key: SecretBox<[u8; 32]>,
    check: KeyCheck,
}

impl Kek {
    /// Derives the key for a salt and the file's owner.
    pub fn derive(unlock_key: &UnlockKey, salt: &[u8; SALT_LEN], context: &[&[u8]]) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(salt), unlock_key.expose_bytes());
        let mut check = KeyCheck([0; 16]);
        expand(&hkdf, "waxseal key check v1", context, &mut check.0);
        let key = SecretBox::init_with_mut(|key: &mut [u8; 32]| {
            expand(&hkdf, "waxseal kek v1", context, key);
        });
        Self { key, check }
    }

    /// The value that a file shows to have the right key recognised.
    pub fn check(&self) -> KeyCheck {
        self.check
    }

    pub(crate) fn sealer(&self) -> Sealer {
        Sealer::new(self.key.expose_secret())
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kek([REDACTED])")
    }
}

/// The public name of a DEK: says which key opens a file, nothing about the key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DekId(pub [u8; 8]);

impl fmt::Display for DekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DekId({self})")
    }
}

/// The key of one manager's log, vote and snapshots. No `Clone`; `Debug` shows its id only.
pub struct Dek {
    key: SecretBox<[u8; 32]>,
    id: DekId,
}

impl Dek {
    /// A new key, filled in place by the caller's random source.
    ///
    /// # Errors
    /// What `fill` returns; no key exists then.
    pub fn generate<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut filled = Ok(());
        let key = SecretBox::init_with_mut(|bytes: &mut [u8; 32]| filled = fill(bytes));
        filled.map(|()| Self::with_id(key))
    }

    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self::with_id(SecretBox::init_with_mut(|key: &mut [u8; 32]| {
            key.copy_from_slice(bytes)
        }))
    }

    fn with_id(key: SecretBox<[u8; 32]>) -> Self {
        let mut id = DekId([0; 8]);
        let hkdf = Hkdf::<Sha256>::new(None, key.expose_secret());
        expand(&hkdf, "waxseal dek id v1", &[], &mut id.0);
        Self { key, id }
    }

    /// Its public name.
    pub fn id(&self) -> DekId {
        self.id
    }

    /// A second holder of the same key: the key file and the store each want one. Not `Clone`,
    /// so that every copy is seen in review.
    pub fn duplicate(&self) -> Self {
        Self::from_bytes(self.key.expose_secret())
    }

    pub(crate) fn expose_bytes(&self) -> &[u8; 32] {
        self.key.expose_secret()
    }

    /// The key of one segment, snapshot or slot: HKDF over purpose, owner and a unique id.
    pub(crate) fn sealer(&self, purpose: &str, owner: &Owner, id: &[u8]) -> Sealer {
        let hkdf = Hkdf::<Sha256>::new(None, self.key.expose_secret());
        let raft_id = owner.raft_id.to_be_bytes();
        let context = [
            owner.cluster_id.as_bytes(),
            owner.node_id.as_bytes(),
            &raft_id,
            id,
        ];
        let key = SecretBox::init_with_mut(|key: &mut [u8; 32]| {
            expand(&hkdf, purpose, &context, key);
        });
        Sealer::new(key.expose_secret())
    }
}

impl fmt::Debug for Dek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dek({})", self.id)
    }
}

/// The DEKs that a store holds: one seals, all open, so a rotation needs no stop.
#[derive(Debug, Clone)]
pub struct DekRing {
    current: Arc<Dek>,
    retired: Vec<Arc<Dek>>,
}

impl DekRing {
    /// A ring that seals under `current` and opens what `retired` keys sealed, too.
    pub fn new(current: Dek, retired: impl IntoIterator<Item = Dek>) -> Self {
        Self {
            current: Arc::new(current),
            retired: retired.into_iter().map(Arc::new).collect(),
        }
    }

    /// The key that seals.
    pub fn current(&self) -> &Arc<Dek> {
        &self.current
    }

    /// The key with this id, if it is held.
    pub fn find(&self, id: DekId) -> Option<&Arc<Dek>> {
        std::iter::once(&self.current)
            .chain(&self.retired)
            .find(|dek| dek.id() == id)
    }

    /// Ids of the keys that only open.
    pub fn retired(&self) -> impl Iterator<Item = DekId> + '_ {
        self.retired.iter().map(|dek| dek.id())
    }

    /// Seals under `new` from now on; the former key only opens. Nothing if it is the current one.
    pub fn rotate(&mut self, new: Dek) {
        if new.id() != self.current.id() {
            let former = std::mem::replace(&mut self.current, Arc::new(new));
            self.retired.insert(0, former);
        }
    }

    /// Forgets the retired keys that `in_use` does not name.
    pub fn forget_retired_except(&mut self, in_use: &[DekId]) {
        self.retired.retain(|dek| in_use.contains(&dek.id()));
    }
}

/// HKDF-Expand with a purpose and length-prefixed context.
fn expand(hkdf: &Hkdf<Sha256>, purpose: &str, context: &[&[u8]], out: &mut [u8]) {
    let mut info = Vec::with_capacity(160);
    for part in std::iter::once(purpose.as_bytes()).chain(context.iter().copied()) {
        info.extend_from_slice(&(part.len() as u64).to_be_bytes());
        info.extend_from_slice(part);
    }
    hkdf.expand(&info, out)
        .expect("no output here is longer than 255 hashes");
}

#[cfg(test)]
mod tests;
