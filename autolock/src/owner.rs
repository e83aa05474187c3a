//! Who a sealed thing belongs to.

use sha2::{Digest, Sha256};

/// The manager that a log, vote or snapshot belongs to. It is part of every key and every tag, so
/// that nothing can be moved between managers or clusters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The cluster's id.
    pub cluster_id: String,
    /// The node's id.
    pub node_id: String,
    /// The random Raft id of this membership.
    pub raft_id: u64,
}

impl Owner {
    /// SHA-256 over the length-prefixed ids: tells a foreign file from a damaged one.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"waxseal owner v1");
        for part in self.parts() {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(self.raft_id.to_be_bytes());
        hash.finalize().into()
    }

    fn parts(&self) -> [&[u8]; 2] {
        [self.cluster_id.as_bytes(), self.node_id.as_bytes()]
    }
}
