//! Mutual TLS to a daemon, with the files and variables of Docker's client.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use zeroize::Zeroizing;

use crate::{
    failure::{Exit, Failure, chain},
    socket::TcpAddress,
};

/// Where the files are if `DOCKER_CERT_PATH` names no directory, below the home directory.
const CERT_DIR: &str = ".docker";
/// Largest file with a key; one of RSA with 16384 bits has 13 KiB.
const MAX_KEY_BYTES: usize = 64 << 10;

/// Connects to a daemon and checks it; it checks us.
pub(crate) async fn connect(address: &TcpAddress) -> Result<TlsStream<TcpStream>, Failure> {
    let config = config()?;
    let unreachable = |error: &std::io::Error| {
        Failure::new(
            Exit::Unreachable,
            format!("the daemon on tcp://{address} cannot be reached: {}", chain(error)),
        )
        .hint("look at the address, and at the daemon's log there: it says why it refuses a certificate")
    };
    let name = ServerName::try_from(address.host.clone())
        .map_err(|error| Failure::usage(format!("{}: {error}", address.host)))?;
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|error| unreachable(&error))?;
    TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| unreachable(&error))
}

/// What `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH` say.
fn config() -> Result<Arc<ClientConfig>, Failure> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if variable("DOCKER_TLS_VERIFY").is_none() {
        return Err(
            Failure::usage("the API over TCP needs mutual TLS, and DOCKER_TLS_VERIFY is not set")
                .hint("set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory with ca.pem, cert.pem and key.pem"),
        );
    }
    let dir = match variable("DOCKER_CERT_PATH") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(variable("HOME").unwrap_or_default()).join(CERT_DIR),
    };
    from_dir(&dir).map_err(|why| {
        Failure::usage(why)
            .hint("DOCKER_CERT_PATH names the directory with ca.pem, cert.pem and key.pem")
    })
}

fn from_dir(dir: &Path) -> Result<Arc<ClientConfig>, String> {
    let in_file = |name: &str, error: &dyn std::fmt::Display| {
        format!("{} cannot be used: {error}", dir.join(name).display())
    };
    let mut roots = RootCertStore::empty();
    for ca in certificates(dir, "ca.pem")? {
        roots.add(ca).map_err(|error| in_file("ca.pem", &error))?;
    }
    let chain = certificates(dir, "cert.pem")?;
    let key = key_pem(&dir.join("key.pem")).map_err(|error| in_file("key.pem", &error))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| in_file("key.pem", &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| in_file("cert.pem", &error))?;
    Ok(Arc::new(config))
}

/// Read at once, so that no copy is left in a buffer that had to grow.
fn key_pem(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_KEY_BYTES + 1));
    let most = MAX_KEY_BYTES as u64 + 1;
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    match bytes.len() > MAX_KEY_BYTES {
        true => Err(io::Error::other("it has more than 64 KiB")),
        false => Ok(bytes),
    }
}

fn certificates(dir: &Path, name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let path = dir.join(name);
    let read =
        CertificateDer::pem_file_iter(&path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err(format!("{} holds no certificate", path.display())),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{} cannot be read: {error}", path.display())),
    }
}
