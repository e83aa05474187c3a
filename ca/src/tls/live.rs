//! The identity and trust that configurations read at each handshake.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::SignatureScheme;
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;

use crate::chain::{ChainError, IssuerRules, NodeCredentials, VerifiedChain, unix_time};
use crate::clock::Clock;
use crate::identity::NodeIdentity;
use crate::root::TrustBundle;

/// A node's credentials and trust, swapped without touching connections or configurations.
///
/// Every configuration made over it reads both at each handshake.
#[derive(Debug)]
pub struct LiveTls {
    credentials: ArcSwapOption<NodeCredentials>,
    trust: ArcSwap<TrustBundle>,
    issuers: ArcSwap<IssuerRules>,
    clock: Arc<dyn Clock>,
}

impl LiveTls {
    /// Starts from a trust bundle and, once the node has them, its credentials.
    pub fn new(
        trust: Arc<TrustBundle>,
        credentials: Option<Arc<NodeCredentials>>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            credentials: ArcSwapOption::new(credentials),
            trust: ArcSwap::new(trust),
            issuers: ArcSwap::default(),
            clock,
        })
    }

    /// Presents these credentials from the next handshake on.
    pub fn swap_identity(&self, credentials: Arc<NodeCredentials>) {
        self.credentials.store(Some(credentials));
    }

    /// Verifies against this bundle from the next handshake on.
    pub fn swap_trust(&self, trust: Arc<TrustBundle>) {
        self.trust.store(trust);
    }

    /// From the next handshake on a leaf counts only by these rules, whatever CAs the root has
    /// below it.
    pub fn rule_issuers(&self, rules: IssuerRules) {
        self.issuers.store(Arc::new(rules));
    }

    /// By which leaves count now.
    pub fn issuer_rules(&self) -> Arc<IssuerRules> {
        self.issuers.load_full()
    }

    /// Whether the issuer of a verified chain counts.
    ///
    /// # Errors
    /// [`ChainError::ForeignIssuer`].
    pub fn check_issuer(&self, verified: &VerifiedChain) -> Result<(), ChainError> {
        self.issuers.load().check(&verified.issuer)
    }

    /// Who this node is, once it has credentials.
    pub fn identity(&self) -> Option<NodeIdentity> {
        self.credentials
            .load()
            .as_ref()
            .map(|credentials| credentials.identity().clone())
    }

    /// The credentials, once the node has them.
    pub fn credentials(&self) -> Option<Arc<NodeCredentials>> {
        self.credentials.load_full()
    }

    /// The trust bundle.
    pub fn trust(&self) -> Arc<TrustBundle> {
        self.trust.load_full()
    }

    /// The clock that validity is judged by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        self.credentials
            .load()
            .as_ref()
            .map(|credentials| Arc::clone(credentials.certified()))
    }
}

/// Presents the live chain and key, on either side of a connection.
#[derive(Debug)]
pub(super) struct LiveResolver(pub(super) Arc<LiveTls>);

impl ResolvesServerCert for LiveResolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }
}

impl rustls::client::ResolvesClientCert for LiveResolver {
    /// The root hints are not looked at: a node has one chain, and a server that cannot use it
    /// refuses it with a better error than silence gives.
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.credentials.load().is_some()
    }
}

/// rustls' view of a [`Clock`].
#[derive(Debug)]
pub struct ClockTime(pub Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.now()))
    }
}
