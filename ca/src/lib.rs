//! Identities: root, profiles, issuance decision, join tokens, renewal time, TLS configuration.
//!
//! Everything here is pure: the time is an argument or comes from a [`Clock`] that a shell holds,
//! no disk and no socket is touched. The one exception is key material, which is generated from
//! the operating system's random source, as `ring` accepts no other.
//!
//! | Module | Owns |
//! |---|---|
//! | [`clock`] | wall time, and how far two clocks may disagree |
//! | [`role`], [`identity`] | who a certificate says its holder is |
//! | [`root`] | trust bundles |
//! | [`authority`] | the signing root and the issuing of node certificates |
//! | [`profile`] | what a node certificate must look like |
//! | [`csr`], [`key`] | certificate requests and node keys |
//! | [`cfssl`] | signing by an external CA: messages, and what is taken of its answers |
//! | [`chain`] | verification of a chain outside TLS, a node's credentials |
//! | [`token`], [`limited`] | join tokens, and what is kept of those with limits |
//! | [`issuance`] | who gets a certificate, and as what |
//! | [`renewal`] | when a certificate is renewed |
//! | [`outside`] | what is looked at in certificates of other CAs |
//! | [`root_path`], [`reclaim`] | how a node returns whose certificate counts no more |
//! | [`tls`] | rustls configurations over a live identity and live trust |

pub mod authority;
pub mod cfssl;
pub mod chain;
pub mod clock;
pub mod cross;
pub mod csr;
pub mod digest;
pub mod identity;
pub mod issuance;
pub mod key;
pub mod limited;
pub mod outside;
mod pem;
pub mod profile;
pub mod reclaim;
pub mod renewal;
pub mod role;
pub mod root;
pub mod root_path;
pub mod rotation;
pub mod serial;
pub mod skew;
#[cfg(test)]
mod test_roots;
pub mod test_util;
pub mod tls;
pub mod token;

pub use authority::{IssueError, IssuedCertificate, RootAuthority, RootAuthorityError};
pub use cfssl::{CfsslError, ExternalIssuer, ForeignCertificateError};
pub use chain::{
    ChainError, ChainLimitError, CredentialsError, IssuerInfo, IssuerRules, NodeCredentials,
    Purpose, VerifiedChain, chain_from_pem, chain_to_pem, verify_chain,
};
pub use clock::{Clock, SystemClock};
pub use cross::CrossSignError;
pub use csr::{Csr, CsrError};
pub use digest::{BundleDigest, PublicKeyDigest};
pub use identity::{IdentityError, NodeIdentity, peer_identity};
pub use issuance::{
    IDEMPOTENT_JOIN, IssuanceDecision, IssuanceRefusal, IssuanceView, IssuedNode, JoinRequest,
    NodeRecord, NodeTable, WaitReason, decide_issuance,
};
pub use key::{KeyError, NodeKey};
pub use limited::{SecretDigest, find_limited, generate_limited};
pub use pem::PemError;
pub use profile::{CertificateExpiry, ExpiryError, NodeProfile, ProfileViolation};
pub use renewal::{renewal_backoff, renewal_time};
pub use role::Role;
pub use root::{TrustBundle, TrustError};
pub use serial::{SERIAL_BYTES, Serial, SerialError};
pub use skew::{describe_root_skew, describe_set_back, describe_skew, describe_validity_skew};
pub use tls::{
    ClientCertificates, LiveTls, TlsError, TlsOptions, client_tls, describe_handshake_failure,
    fetch_root_tls, join_tls, server_tls, signer_tls,
};
pub use token::{JoinToken, JoinTokens, TOKEN_SECRET_BYTES, TokenError};

/// How far a leaf's and a root's `not_before` lies behind the time of signing, and so how far the
/// clock of a peer may lag (spec/pki.md §1, `CertBackdate`).
pub const BACKDATE: std::time::Duration = std::time::Duration::from_secs(60 * 60);

/// Server name under which a manager is verified for sessions and renewals.
pub const MANAGER_SERVER_NAME: &str = "swarm-manager";

/// Server name under which a manager is verified when a first certificate is asked for.
pub const CA_SERVER_NAME: &str = "swarm-ca";

/// Common name of a generated root.
pub const ROOT_COMMON_NAME: &str = "swarm-ca";
