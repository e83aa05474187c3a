//! The files of mutual TLS for the API over TCP.

use std::{
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject},
    },
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use time::OffsetDateTime;
use waxseal_ca::{Clock, outside::OutsideCertificate, tls::ClockTime};
use zeroize::Zeroizing;

/// Largest file that is read; a bundle of all public CAs is a quarter of it.
const MAX_BYTES: u64 = 1 << 20;

/// Who may call over TCP, and what the daemon proves itself with. All are PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// CAs whose client certificates are accepted. The cluster's root is none of them
    /// unless it stands here: whoever has a certificate below one of them may do
    /// everything, and nodes are not to.
    pub ca: PathBuf,
    /// The daemon's certificate, then those between it and its CA.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Why the API cannot be served over TCP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file.
    #[error("{flag} {} cannot be read", path.display())]
    Read {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file's content.
    #[error("{flag} {} holds {what}; give a PEM file", path.display())]
    Content {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A certificate among those of `--tlscacert` that may sign no others: who has its key would
    /// be taken for a CA.
    #[error(
        "--tlscacert {}: certificate {position} is not a CA's; give those of the CAs that sign \
         clients' certificates",
        path.display()
    )]
    NotACa {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        position: usize,
    },
    /// No CA by which anybody could be verified.
    #[error(
        "--tlscacert {} holds no CA certificate that is valid now, {now}; compare the host's \
         clock, or give one that is",
        path.display()
    )]
    NoneValid {
        /// The file.
        path: PathBuf,
        /// The time that it was judged at.
        now: OffsetDateTime,
    },
    /// The files do not go together, or nobody could be verified by them.
    #[error("the files of --tlscacert, --tlscert and --tlskey cannot be used together")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TlsFiles {
    /// The server's side of mutual TLS 1.3, and of 1.2 if that is allowed, without resumption:
    /// each connection is checked anew.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(
        &self,
        clock: Arc<dyn Clock>,
        allow_tls12: bool,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let config = |error: Box<dyn std::error::Error + Send + Sync>| TlsError::Config(error);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let anchors = self.anchors(clock.now(), &provider)?;
        let chain = certificates("--tlscert", &self.cert)?;
        let key = private_key("--tlskey", &self.key)?;
        let versions = match allow_tls12 {
            true => &[&rustls::version::TLS13, &rustls::version::TLS12][..],
            false => &[&rustls::version::TLS13][..],
        };
        let time = Arc::new(ClockTime(clock));
        let mut server = ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(versions)
            .map_err(|error| config(error.into()))?
            .with_client_cert_verifier(Arc::new(anchors))
            .with_single_cert(chain, key)
            .map_err(|error| config(error.into()))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Arc::new(server))
    }

    fn anchors(
        &self,
        now: OffsetDateTime,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Anchors, TlsError> {
        let config = |error: Box<dyn std::error::Error + Send + Sync>| TlsError::Config(error);
        let mut anchors = Vec::new();
        for (position, ca) in (1..).zip(certificates("--tlscacert", &self.ca)?) {
            let read = OutsideCertificate::read(&ca);
            let Some(certificate) = read.filter(|read| read.is_ca) else {
                let path = self.ca.clone();
                return Err(TlsError::NotACa { path, position });
            };
            if !certificate.is_valid_at(now) {
                let path = self.ca.display();
                tracing::warn!(%path, position, "a CA of --tlscacert is not valid now");
            }
            let mut root = RootCertStore::empty();
            root.add(ca).map_err(|error| config(error.into()))?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(root), Arc::clone(provider));
            let verifier = verifier.build().map_err(|error| config(error.into()))?;
            anchors.push(Anchor {
                certificate,
                verifier,
            });
        }
        if !anchors
            .iter()
            .any(|anchor| anchor.certificate.is_valid_at(now))
        {
            let path = self.ca.clone();
            return Err(TlsError::NoneValid { path, now });
        }
        Ok(Anchors::new(anchors, provider))
    }
}

/// A CA of `--tlscacert`.
#[derive(Debug)]
struct Anchor {
    certificate: OutsideCertificate,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// Verifies clients by those CAs that are valid at that time, which webpki does not look at.
#[derive(Debug)]
struct Anchors {
    anchors: Vec<Anchor>,
    names: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
}

impl Anchors {
    fn new(anchors: Vec<Anchor>, provider: &Arc<CryptoProvider>) -> Anchors {
        let names = anchors
            .iter()
            .flat_map(|anchor| anchor.verifier.root_hint_subjects());
        Anchors {
            names: names.cloned().collect(),
            anchors,
            provider: Arc::clone(provider),
        }
    }
}

impl ClientCertVerifier for Anchors {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let seconds = i64::try_from(now.as_secs()).map_err(|_| unknown())?;
        let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| unknown())?;
        let mut refusal = unknown();
        for anchor in &self.anchors {
            if !anchor.certificate.is_valid_at(time) {
                continue;
            }
            let verify = &anchor.verifier;
            match verify.verify_client_cert(end_entity, intermediates, now) {
                Ok(verified) => return Ok(verified),
                // What the CA that signed it says tells more than that another did not.
                Err(error) if error != unknown() => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let known = &self.provider.signature_verification_algorithms;
        known.supported_schemes()
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let read = || {
        let file = std::fs::File::open(path)?;
        // At its size at once: a buffer that has to grow leaves copies of a key.
        let size = file.metadata()?.len().min(MAX_BYTES);
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size + 1).unwrap_or(0)));
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|source| TlsError::Read {
        flag,
        path: path.to_owned(),
        source,
    })?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(content(flag, path, "more than 1 MiB")),
        false => Ok(bytes),
    }
}

fn content(flag: &'static str, path: &Path, what: &'static str) -> TlsError {
    TlsError::Content {
        flag,
        path: path.to_owned(),
        what,
    }
}

fn certificates(flag: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = read(flag, path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&read).collect();
    match found {
        Ok(found) if found.is_empty() => Err(content(flag, path, "no certificate")),
        Ok(found) => Ok(found),
        Err(_) => Err(content(flag, path, "a certificate that cannot be read")),
    }
}

fn private_key(flag: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let read = read(flag, path)?;
    if is_open(path) {
        // As a Docker Engine, it is taken all the same.
        let path = path.display();
        tracing::warn!(%path, "{flag} may be read by others than its owner; run `chmod 600` on it");
    }
    PrivateKeyDer::from_pem_slice(&read)
        .map_err(|_| content(flag, path, "no private key without a passphrase"))
}

/// Whether others than the owner may read or change a file.
fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use waxseal_ca::{
        CertificateExpiry, Csr, NodeKey, NodeProfile, Role, RootAuthority, Serial, SystemClock,
    };

    use super::*;

    fn files(dir: &Path, ca: &str, cert: &str, key: &str) -> TlsFiles {
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            ca: write("ca.pem", ca),
            cert: write("cert.pem", cert),
            key: write("key.pem", key),
        }
    }

    /// A root, and a client's certificate of it with its key, in PEM.
    fn authority(now: OffsetDateTime) -> (RootAuthority, String) {
        let root = RootAuthority::generate(now).unwrap();
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap();
        let profile = NodeProfile {
            cluster_id: "c".to_owned(),
            node_id: "n".to_owned(),
            role: Role::Worker,
            expiry: CertificateExpiry::DEFAULT,
        };
        let serial = Serial::from_random([7; 20]).unwrap();
        let issued = root.issue(&profile, &csr, serial, now).unwrap();
        let pem = issued.pem.to_string();
        (root, pem)
    }

    fn anchors(dir: &Path, pem: &str, now: OffsetDateTime) -> Result<Anchors, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        files(dir, pem, "", "").anchors(now, &provider)
    }

    #[test]
    fn what_is_no_ca_or_not_valid_verifies_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemClock.now();
        let (root, client) = authority(now);
        let refused = |pem: &str, now| anchors(dir.path(), pem, now).unwrap_err().to_string();
        let both = format!("{}{client}", root.cert_pem());
        for (pem, position) in [(client.as_str(), 1), (both.as_str(), 2)] {
            let refused = refused(pem, now);
            let said = format!("certificate {position} is not a CA's");
            assert!(refused.contains(&said), "{refused}");
        }
        for at in [-2, 30 * 365] {
            let refused = refused(root.cert_pem(), now + time::Duration::days(at));
            assert!(
                refused.contains("no CA certificate that is valid"),
                "{refused}"
            );
        }
        // One of several that has ended is no reason not to start.
        let later = now + time::Duration::days(30 * 365);
        let (young, _) = authority(later);
        let both = format!("{}{}", root.cert_pem(), young.cert_pem());
        assert!(anchors(dir.path(), &both, later).is_ok());
    }

    #[test]
    fn a_ca_that_ends_later_verifies_nobody_from_then_on() {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemClock.now();
        let (root, client) = authority(now);
        let (other, _) = authority(now);
        let both = format!("{}{}", other.cert_pem(), root.cert_pem());
        let anchors = anchors(dir.path(), &both, now).unwrap();
        assert_eq!(anchors.root_hint_subjects().len(), 2);
        let client = CertificateDer::from_pem_slice(client.as_bytes()).unwrap();
        let verify = |at: OffsetDateTime| {
            let seconds = u64::try_from(at.unix_timestamp()).unwrap();
            let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
            anchors.verify_client_cert(&client, &[], at).map(drop)
        };
        assert_eq!(verify(now), Ok(()));
        let unknown = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        assert_eq!(verify(now + time::Duration::days(30 * 365)), Err(unknown));
        let ended = verify(now + time::Duration::days(300));
        assert!(ended.is_err_and(|error| format!("{error:?}").contains("Expired")));
    }

    #[test]
    fn a_key_that_others_may_read_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, "").unwrap();
        for (mode, open) in [(0o600, false), (0o400, false), (0o640, true), (0o604, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open(&path), open, "{mode:o}");
        }
    }

    #[test]
    fn files_that_are_missing_or_something_else_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let root = RootAuthority::generate(clock.now()).unwrap();
        let root_key = root.key_pem();
        let (cert, key) = (
            root.cert_pem(),
            std::str::from_utf8(root_key.as_bytes()).unwrap(),
        );
        let other = NodeKey::generate().unwrap();
        let other = other.pkcs8_pem();
        let other = std::str::from_utf8(other.as_bytes()).unwrap();
        let load = |ca: &str, cert: &str, key: &str| {
            let loaded = files(dir.path(), ca, cert, key).load(Arc::clone(&clock), false);
            loaded.map(drop).map_err(|error| error.to_string())
        };
        assert_eq!(load(cert, cert, key), Ok(()));
        for (ca, chain, key, flag) in [
            ("", cert, key, "--tlscacert"),
            (key, cert, key, "--tlscacert"),
            (cert, "x", key, "--tlscert"),
            (cert, cert, cert, "--tlskey"),
            (cert, cert, other, "together"),
        ] {
            let refused = load(ca, chain, key).unwrap_err();
            assert!(refused.contains(flag), "{refused}");
        }
        let missing = TlsFiles {
            ca: dir.path().join("nosuch"),
            ..files(dir.path(), cert, cert, key)
        };
        let refused = missing.load(clock, false).unwrap_err().to_string();
        assert!(refused.contains("nosuch cannot be read"), "{refused}");
    }
}
