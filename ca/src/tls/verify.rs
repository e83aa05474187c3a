//! Verifiers over live trust, and words for their refusals.

use std::sync::{Arc, LazyLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::EndEntityCert;

use super::config::ClientCertificates;
use super::live::LiveTls;
use crate::chain::{ChainError, Purpose, VerifiedChain, unix_time, verify_chain, wall_time};
use crate::identity::IdentityError;
use crate::role::Role;
use crate::root::TrustBundle;
use crate::skew::describe_validity_skew;

/// Handshake signatures: what ring can verify.
static HANDSHAKE: LazyLock<WebPkiSupportedAlgorithms> =
    LazyLock::new(|| rustls::crypto::ring::default_provider().signature_verification_algorithms);

/// What all verifiers say of signatures in the handshake: that of a certificate's own key counts.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &HANDSHAKE)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &HANDSHAKE)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            HANDSHAKE.supported_schemes()
        }
    };
}

/// Verifies a caller's chain against the live trust.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    live: Arc<LiveTls>,
    certificates: ClientCertificates,
}

impl ClientVerifier {
    pub(super) fn new(live: Arc<LiveTls>, certificates: ClientCertificates) -> Self {
        Self { live, certificates }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.certificates == ClientCertificates::Required
    }

    /// Empty: engines send a certificate only if a hint matches its issuer byte for byte, or if
    /// there is none (spec/dockerd-worker.md §3); and trust may be swapped.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = self.live.trust();
        let verified = verify(end_entity, intermediates, &trust, now, Purpose::Client)?;
        self.live.check_issuer(&verified).map_err(to_rustls)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Where a client's trust comes from.
#[derive(Debug)]
pub(super) enum Trust {
    Live(Arc<LiveTls>),
    Fixed(Arc<TrustBundle>),
}

/// Verifies a manager: chain, server name among its DNS names, role, and cluster once known.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    trust: Trust,
}

impl ServerVerifier {
    pub(super) fn new(trust: Trust) -> Self {
        Self { trust }
    }

    fn bundle(&self) -> Arc<TrustBundle> {
        match &self.trust {
            Trust::Live(live) => live.trust(),
            Trust::Fixed(trust) => Arc::clone(trust),
        }
    }

    /// Beyond what TLS asks: whoever serves under a manager's name must be a manager, and of
    /// this node's cluster.
    fn check_identity(&self, verified: &VerifiedChain) -> Result<(), ChainError> {
        if verified.identity.role != Role::Manager {
            return Err(ChainError::NotAManager(verified.identity.role));
        }
        let own = match &self.trust {
            Trust::Live(live) => {
                live.check_issuer(verified)?;
                live.credentials()
            }
            Trust::Fixed(_) => None,
        };
        match own {
            Some(own) if own.identity().cluster_id != verified.identity.cluster_id => {
                Err(ChainError::OtherCluster {
                    found: verified.identity.cluster_id.clone(),
                })
            }
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = verify(
            end_entity,
            intermediates,
            &self.bundle(),
            now,
            Purpose::Server,
        )?;
        EndEntityCert::try_from(end_entity)
            .and_then(|leaf| leaf.verify_is_valid_for_subject_name(server_name))
            .map_err(|_| CertificateError::NotValidForName)?;
        self.check_identity(&verified).map_err(to_rustls)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Takes any server. Only for fetching the trust bundle, whose digest is then compared with that
/// in the join token.
#[derive(Debug)]
pub(super) struct DangerAcceptAnyServer;

impl ServerCertVerifier for DangerAcceptAnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

fn verify(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    trust: &TrustBundle,
    now: UnixTime,
    purpose: Purpose,
) -> Result<VerifiedChain, Error> {
    let chain: Vec<_> = std::iter::once(end_entity)
        .chain(intermediates)
        .map(|der| CertificateDer::from(der.as_ref()))
        .collect();
    verify_chain(&chain, trust, wall_time(now), purpose).map_err(to_rustls)
}

/// The refusal as rustls knows it, so that the peer gets the fitting alert.
fn to_rustls(error: ChainError) -> Error {
    let refusal = match error {
        ChainError::Expired { not_after, now } => CertificateError::ExpiredContext {
            time: unix_time(now),
            not_after: unix_time(not_after),
        },
        ChainError::NotValidYet { not_before, now } => CertificateError::NotValidYetContext {
            time: unix_time(now),
            not_before: unix_time(not_before),
        },
        ChainError::UnknownIssuer => CertificateError::UnknownIssuer,
        ChainError::BadSignature => CertificateError::BadSignature,
        ChainError::WrongPurpose => CertificateError::InvalidPurpose,
        ChainError::Identity(IdentityError::Malformed) => CertificateError::BadEncoding,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    };
    Error::InvalidCertificate(refusal)
}

/// What to tell the operator about a failed handshake, when rustls' own words would not do:
/// clocks that disagree, another cluster, an expired certificate of this node.
pub fn describe_handshake_failure(error: &Error) -> Option<String> {
    use rustls::AlertDescription as Alert;
    let refusal = match error {
        Error::InvalidCertificate(refusal) => refusal,
        Error::AlertReceived(Alert::CertificateExpired) => {
            return Some(
                "the manager says that this node's certificate is not valid at this time; compare \
                 the clocks of the hosts, or run `docker swarm leave` here and join again"
                    .to_owned(),
            );
        }
        Error::AlertReceived(Alert::UnknownCA | Alert::DecryptError) => {
            return Some(
                "the manager says that this node's certificate is not of its cluster; run \
                 `docker swarm leave` here and join again"
                    .to_owned(),
            );
        }
        _ => return None,
    };
    match refusal {
        CertificateError::NotValidYetContext { time, not_before } => {
            let not_before = wall_time(*not_before);
            describe_validity_skew(wall_time(*time), not_before, not_before)
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let not_after = wall_time(*not_after);
            describe_validity_skew(wall_time(*time), not_after, not_after)
        }
        CertificateError::UnknownIssuer => Some(ChainError::UnknownIssuer.to_string()),
        CertificateError::BadSignature => Some(ChainError::BadSignature.to_string()),
        CertificateError::Other(other) => Some(other.0.to_string()),
        _ => None,
    }
}
