//! rustls configurations over a live identity and live trust.
//!
//! A configuration is built once and used for every connection: its resolvers and verifiers read
//! the [`LiveTls`] at each handshake, so a renewal or a new root acts on the next handshake and
//! leaves open connections alone. Whoever must be cut off at once is cut off by whoever holds the
//! connections; a handshake decides only once.
//!
//! - Provider: ring, passed explicitly; no process-wide default is asked for.
//! - TLS 1.3; 1.2 by option.
//! - No resumption on either side: a resumed session skips the certificate check.
//! - Validity is judged by the [`crate::Clock`], of roots too.
//! - ALPN is offered and never required: engines drop it after their first renewal
//!   (spec/dockerd-worker.md §3).

mod config;
mod live;
mod verify;

pub use config::{
    ClientCertificates, TlsError, TlsOptions, client_tls, fetch_root_tls, join_tls, server_tls,
    signer_tls,
};
pub use live::{ClockTime, LiveTls};
pub use verify::describe_handshake_failure;

#[cfg(test)]
mod tests;
