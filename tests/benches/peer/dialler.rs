//! How joiners and members find a manager: whom they trust, as whom they come.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, NamedGroup, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use waxseal_ca::{
    CA_SERVER_NAME, Clock, MANAGER_SERVER_NAME, NodeKey, Purpose, Role, SystemClock, TrustBundle,
    verify_chain,
};

use crate::h2::Connection;

/// What all joiners of a cluster share, and all members that trust the same root.
pub(crate) struct Dialler {
    address: SocketAddr,
    trust: Arc<TrustBundle>,
    provider: Arc<CryptoProvider>,
    verifier: Arc<FirstTime>,
    joining: Arc<ClientConfig>,
}

impl Dialler {
    /// For the manager at `address`, each of whose certificates is verified at the first
    /// connection.
    pub(crate) fn new(address: SocketAddr, trust: Arc<TrustBundle>) -> Result<Dialler> {
        let mut provider = ring::default_provider();
        // What Go negotiates with either server.
        provider
            .cipher_suites
            .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        provider
            .kx_groups
            .retain(|group| group.name() == NamedGroup::X25519);
        let provider = Arc::new(provider);
        let verifier = Arc::new(FirstTime {
            trust: Arc::clone(&trust),
            provider: Arc::clone(&provider),
            known: Mutex::default(),
        });
        let joining = builder(&provider, &verifier)?.with_no_client_auth();
        Ok(Dialler {
            address,
            trust,
            provider,
            verifier,
            joining: Arc::new(finished(joining)),
        })
    }

    /// The same with another root.
    pub(crate) fn trusting(&self, trust: Arc<TrustBundle>) -> Result<Dialler> {
        Dialler::new(self.address, trust)
    }

    /// Whom they trust.
    pub(crate) fn trust(&self) -> &Arc<TrustBundle> {
        &self.trust
    }

    /// A connection of one that has no certificate yet.
    pub(crate) async fn join(&self, source: Option<Ipv4Addr>) -> Result<Connection> {
        let name = ServerName::try_from(CA_SERVER_NAME)?;
        Connection::dial(self.address, source, Arc::clone(&self.joining), name).await
    }

    /// What a member comes with.
    pub(crate) fn certified(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: &NodeKey,
    ) -> Result<Arc<ClientConfig>> {
        let key = PrivateKeyDer::from_pem_slice(key.pkcs8_pem().as_bytes())?;
        let config = builder(&self.provider, &self.verifier)?.with_client_auth_cert(chain, key)?;
        Ok(Arc::new(finished(config)))
    }

    /// A connection of a member.
    pub(crate) async fn dial(
        &self,
        source: Ipv4Addr,
        certified: &Arc<ClientConfig>,
    ) -> Result<Connection> {
        let name = ServerName::try_from(MANAGER_SERVER_NAME)?;
        Connection::dial(self.address, Some(source), Arc::clone(certified), name).await
    }
}

fn builder(
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<FirstTime>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as Arc<dyn ServerCertVerifier>);
    Ok(builder)
}

fn finished(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    config
}

/// Verifies a manager as a joiner does, each of its certificates once: certificate, name, role,
/// signature.
#[derive(Debug)]
struct FirstTime {
    trust: Arc<TrustBundle>,
    provider: Arc<CryptoProvider>,
    known: Mutex<Vec<Known>>,
}

/// A certificate that was verified.
#[derive(Debug)]
struct Known {
    certificate: CertificateDer<'static>,
    /// So was a signature that was made with it.
    has_signed: bool,
}

impl ServerCertVerifier for FirstTime {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |reason: String| rustls::Error::General(reason);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.iter().any(|known| known.certificate == *end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let now = SystemClock.now();
        let verified = verify_chain(&chain, &self.trust, now, Purpose::Server)
            .map_err(|error| refused(error.to_string()))?;
        if verified.identity.role != Role::Manager {
            return Err(refused("the server is no manager".to_owned()));
        }
        known.push(Known {
            certificate: end_entity.clone().into_owned(),
            has_signed: false,
        });
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 was asked for".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.iter_mut().find(|known| known.certificate == *cert);
        if known.as_ref().is_none_or(|known| !known.has_signed) {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, cert, dss, algorithms)?;
            if let Some(known) = known {
                known.has_signed = true;
            }
        }
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
