//! The files of mutual TLS for the API over TCP.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use waxseal_ca::{Clock, tls::ClockTime};
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
    /// The files do not go together, or nobody could be verified by them.
    #[error("the files of --tlscacert, --tlscert and --tlskey cannot be used together")]
    Config(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TlsFiles {
    /// The server's side of mutual TLS 1.3 and 1.2, without resumption: each connection
    /// is checked anew.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(&self, clock: Arc<dyn Clock>) -> Result<Arc<ServerConfig>, TlsError> {
        let config = |error: Box<dyn std::error::Error + Send + Sync>| TlsError::Config(error);
        let mut roots = RootCertStore::empty();
        for ca in certificates("--tlscacert", &self.ca)? {
            roots.add(ca).map_err(|error| config(error.into()))?;
        }
        let chain = certificates("--tlscert", &self.cert)?;
        let key = private_key("--tlskey", &self.key)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| config(error.into()))?;
        let time = Arc::new(ClockTime(clock));
        let mut server = ServerConfig::builder_with_details(provider, time)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| config(error.into()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| config(error.into()))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Arc::new(server))
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut bytes = Zeroizing::new(Vec::new());
    let file = std::fs::File::open(path);
    let read = file.and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|source| TlsError::Read {
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
    PrivateKeyDer::from_pem_slice(&read)
        .map_err(|_| content(flag, path, "no private key without a passphrase"))
}

#[cfg(test)]
mod tests {
    use waxseal_ca::{NodeKey, RootAuthority, SystemClock};

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
            let loaded = files(dir.path(), ca, cert, key).load(Arc::clone(&clock));
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
        let refused = missing.load(clock).unwrap_err().to_string();
        assert!(refused.contains("nosuch cannot be read"), "{refused}");
    }
}
