//! What the agent asks its host to keep on disk.

use std::{io, sync::Arc};

use futures::future::BoxFuture;
use waxseal_ca::{IssuerRules, NodeCredentials, TrustBundle};

use crate::managers::ManagerAddress;

/// The CA of this very node, while it leads its cluster.
pub trait OwnAuthority: Send + Sync {
    /// Certifies a key of this node; `None` where it does not lead.
    ///
    /// # Errors
    /// As other managers answer.
    fn certify<'a>(
        &'a self,
        csr_pem: &'a str,
    ) -> BoxFuture<'a, Option<Result<OwnChain, tonic::Status>>>;
}

/// What a node certified for itself.
pub struct OwnChain {
    /// The certificate and its intermediates, in PEM.
    pub chain_pem: Vec<u8>,
    /// The root that its own state has, in PEM.
    pub root_pem: Vec<u8>,
}

/// Keeps a node's identity and the managers it knows.
///
/// The agent uses a new identity or trust bundle only after it is kept, so that a
/// restart never finds less than what managers have seen.
pub trait IdentityStore: Send + Sync {
    /// Keeps certificate chain, key and trust bundle, all or nothing. Called for each
    /// certificate once, newer ones later; its role is the node's from then on.
    fn save_identity<'a>(
        &'a self,
        credentials: &'a Arc<NodeCredentials>,
        trust: &'a Arc<TrustBundle>,
    ) -> BoxFuture<'a, io::Result<()>>;

    /// Keeps the trust bundle alone.
    fn save_trust<'a>(&'a self, trust: &'a TrustBundle) -> BoxFuture<'a, io::Result<()>>;

    /// Keeps whose leaves count below this trust bundle; what is kept already is not written
    /// again.
    fn save_issuers<'a>(
        &'a self,
        rules: &'a IssuerRules,
        trust: &'a TrustBundle,
    ) -> BoxFuture<'a, io::Result<()>>;

    /// Keeps the list of managers.
    fn save_managers<'a>(&'a self, managers: &'a [ManagerAddress])
    -> BoxFuture<'a, io::Result<()>>;
}
