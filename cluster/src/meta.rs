//! Versions and times of objects.

use prost_types::Timestamp;

use crate::objects::{Meta, Version};

/// What a command stamps on every object that it changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// The state's version after the command.
    pub(crate) version: u64,
    /// The leader's clock when it proposed the command.
    pub(crate) time: Timestamp,
}

impl Stamp {
    /// For an object that is new.
    pub(crate) fn created(&self) -> Option<Meta> {
        Some(Meta {
            version: self.as_version(),
            created_at: Some(self.time),
            updated_at: Some(self.time),
        })
    }

    /// For an object that was there.
    pub(crate) fn updated(&self, old: Option<&Meta>) -> Option<Meta> {
        Some(Meta {
            version: self.as_version(),
            created_at: old.and_then(|meta| meta.created_at),
            updated_at: Some(self.time),
        })
    }

    /// The version alone, for specs.
    pub(crate) fn as_version(&self) -> Option<Version> {
        Some(Version {
            index: self.version,
        })
    }
}

/// An object's version; 0 if it has none.
pub fn version_of(meta: Option<&Meta>) -> u64 {
    meta.and_then(|meta| meta.version.as_ref())
        .map_or(0, |version| version.index)
}
