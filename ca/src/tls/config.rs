//! The four configurations.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::live::{ClockTime, LiveResolver, LiveTls};
use super::verify::{ClientVerifier, DangerAcceptAnyServer, ServerVerifier, Trust};
use crate::clock::{Clock, SystemClock};
use crate::root::TrustBundle;

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

static TLS13_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
static TLS12_TOO: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// Whether a server takes callers without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// Asked for, verified if given: the port that joiners call.
    #[default]
    Optional,
    /// No handshake without one.
    Required,
}

/// Choices of a listener or dialler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TlsOptions {
    /// Also speak TLS 1.2, for old engines; to be logged by whoever sets it.
    pub allow_tls12: bool,
    /// Server side only.
    pub client_certificates: ClientCertificates,
}

/// Why a configuration cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The provider does not support the chosen versions.
    #[error("TLS cannot be set up; report this as a fault")]
    Config(#[from] rustls::Error),
}

impl TlsOptions {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        if self.allow_tls12 {
            TLS12_TOO
        } else {
            TLS13_ONLY
        }
    }
}

/// ring, with AES-128 before AES-256: certificates and key exchange are of 128 bits too, and its
/// handshakes hash with SHA-256, which processors have instructions for. What Go does as well.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let is_aes128 =
        |suite: &SupportedCipherSuite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes128(suite));
    Arc::new(provider)
}

/// The configuration of a listener; build it once, use it for every connection.
///
/// A client certificate that is given must verify, whatever the option. The cluster and role in
/// it are the caller's to judge, with [`crate::peer_identity`] and the node table.
///
/// # Errors
/// See [`TlsError`].
pub fn server_tls(live: &Arc<LiveTls>, options: TlsOptions) -> Result<Arc<ServerConfig>, TlsError> {
    let time = Arc::new(ClockTime(Arc::clone(live.clock())));
    let verifier = ClientVerifier::new(Arc::clone(live), options.client_certificates);
    let mut config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(options.versions())?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(LiveResolver(Arc::clone(live))));
    config.alpn_protocols = vec![H2.to_vec(), HTTP_1_1.to_vec()];
    // A resumed session would skip the verifier (spec/dependencies.md §6).
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// The configuration for calling managers, with the live identity if there is one. The server
/// name to verify is the dialler's to give: [`crate::MANAGER_SERVER_NAME`] or
/// [`crate::CA_SERVER_NAME`].
///
/// Once this node has an identity, a manager of another cluster is refused even under the same
/// root.
///
/// # Errors
/// See [`TlsError`].
pub fn client_tls(live: &Arc<LiveTls>, options: TlsOptions) -> Result<Arc<ClientConfig>, TlsError> {
    let time = Arc::new(ClockTime(Arc::clone(live.clock())));
    let verifier = ServerVerifier::new(Trust::Live(Arc::clone(live)));
    let config = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(options.versions())?
        .dangerous() // the verifier is ours: it reads the live trust and checks roots' validity
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(LiveResolver(Arc::clone(live))));
    Ok(finish(config))
}

/// The configuration for calling an external CA over HTTPS, with the live identity: its server
/// must show a certificate for the name in its address by one of `roots`, which need not be the
/// cluster's. TLS 1.2 is accepted, which cfssl's older versions speak at most.
///
/// # Errors
/// See [`TlsError`]; also for roots that are none.
pub fn signer_tls(
    live: &Arc<LiveTls>,
    roots: &[&TrustBundle],
) -> Result<Arc<ClientConfig>, TlsError> {
    let time = Arc::new(ClockTime(Arc::clone(live.clock())));
    let mut pool = RootCertStore::empty();
    for root in roots.iter().flat_map(|bundle| bundle.ders()) {
        pool.add(root.into())?;
    }
    let config = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(TLS12_TOO)?
        .with_root_certificates(pool)
        .with_client_cert_resolver(Arc::new(LiveResolver(Arc::clone(live))));
    let mut config = Arc::unwrap_or_clone(finish(config));
    config.alpn_protocols = vec![HTTP_1_1.to_vec()];
    Ok(Arc::new(config))
}

/// The configuration for asking for a first certificate: the manager is verified, no client
/// certificate is presented. TLS 1.3, which every manager of the last years speaks.
///
/// # Errors
/// See [`TlsError`].
pub fn join_tls(
    trust: Arc<TrustBundle>,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = ServerVerifier::new(Trust::Fixed(trust));
    let config = ClientConfig::builder_with_details(provider(), Arc::new(ClockTime(clock)))
        .with_protocol_versions(TLS13_ONLY)?
        .dangerous() // as in `client_tls`
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(finish(config))
}

/// The configuration for fetching the trust bundle before anything is trusted: the server is
/// **not verified**. What comes over it must be checked with [`crate::JoinToken::check_bundle`],
/// and nothing secret may be sent.
///
/// # Errors
/// See [`TlsError`].
pub fn fetch_root_tls() -> Result<Arc<ClientConfig>, TlsError> {
    let time = Arc::new(ClockTime(Arc::new(SystemClock)));
    let config = ClientConfig::builder_with_details(provider(), time)
        .with_protocol_versions(TLS13_ONLY)?
        .dangerous() // nothing is trusted yet; the digest in the token decides
        .with_custom_certificate_verifier(Arc::new(DangerAcceptAnyServer))
        .with_no_client_auth();
    Ok(finish(config))
}

fn finish(mut config: ClientConfig) -> Arc<ClientConfig> {
    // What is called over these is gRPC.
    config.alpn_protocols = vec![H2.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}
