//! The keys that log, vote and snapshots of one directory share.

use std::sync::{PoisonError, RwLock};

use waxseal_autolock::{Dek, DekId, DekRing};

/// The ring behind a lock: a rotation reaches log and snapshots at once.
#[derive(Debug)]
pub(crate) struct Keys(RwLock<DekRing>);

impl Keys {
    pub(crate) fn new(ring: DekRing) -> Self {
        Self(RwLock::new(ring))
    }

    /// The ring as it is now. A ring holds references to keys, so this copies none.
    pub(crate) fn ring(&self) -> DekRing {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn rotate(&self, new: Dek) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .rotate(new);
    }

    pub(crate) fn forget_retired_except(&self, in_use: &[DekId]) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .forget_retired_except(in_use);
    }
}

/// Fresh random bytes for a salt or an id.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], crate::StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| crate::StoreError::Random)?;
    Ok(bytes)
}
