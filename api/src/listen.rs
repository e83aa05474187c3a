//! Where the API is served: unix sockets, and TCP with mutual TLS.

use std::{io, sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tracing::debug;

use crate::extract::Peer;

/// Handshakes at once on one address. Callers without a certificate have these places
/// alone; the connections of those with one are counted apart.
const MAX_HANDSHAKES: usize = 64;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Where the API is served.
pub enum Listener {
    /// Who may open the socket may call.
    Unix(UnixListener),
    /// Who has a certificate that the configuration accepts may call.
    Tls(TlsListener),
}

/// A TCP address with mutual TLS.
pub struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: Arc<Semaphore>,
}

/// A connection, with its place.
pub(crate) enum Accepted {
    /// Ready to be served.
    Unix(UnixStream, OwnedSemaphorePermit),
    /// Who calls is not known yet.
    Tls(Handshake),
}

/// A handshake under way.
pub(crate) struct Handshake {
    stream: TcpStream,
    acceptor: TlsAcceptor,
    place: OwnedSemaphorePermit,
}

impl Listener {
    /// Serves a TCP address. `config` must ask clients for certificates: whoever passes
    /// it may do everything.
    pub fn tls(listener: TcpListener, config: Arc<ServerConfig>) -> Listener {
        Listener::Tls(TlsListener {
            listener,
            acceptor: TlsAcceptor::from(config),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
        })
    }

    /// The next connection, once there is a place for it.
    pub(crate) async fn accept(&self, slots: &Arc<Semaphore>) -> io::Result<Accepted> {
        let place = async |places: &Arc<Semaphore>| {
            let place = Arc::clone(places).acquire_owned().await;
            place.map_err(io::Error::other)
        };
        match self {
            Listener::Unix(listener) => {
                let slot = place(slots).await?;
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::Unix(stream, slot))
            }
            Listener::Tls(tls) => {
                let place = place(&tls.handshakes).await?;
                let (stream, _) = tls.listener.accept().await?;
                Ok(Accepted::Tls(Handshake {
                    stream,
                    acceptor: tls.acceptor.clone(),
                    place,
                }))
            }
        }
    }
}

impl Handshake {
    /// The connection with who calls and a place of `slots`, unless the caller is refused
    /// or too slow.
    pub(crate) async fn finish(
        self,
        slots: Arc<Semaphore>,
    ) -> Option<(TlsStream<TcpStream>, Option<Peer>, OwnedSemaphorePermit)> {
        let address = self.stream.peer_addr().ok();
        if let Err(error) = self.stream.set_nodelay(true) {
            debug!(%error, "an api connection sends late");
        }
        let shaken = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(self.stream)).await;
        drop(self.place);
        let stream = match shaken {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                debug!(?address, %error, "an api caller was refused");
                return None;
            }
            Err(_) => {
                debug!(
                    ?address,
                    "an api caller did not finish its handshake in time"
                );
                return None;
            }
        };
        let certificates = stream.get_ref().1.peer_certificates();
        // The configuration asks for one; without it nobody is served.
        let certificate = certificates.and_then(|chain| chain.first())?;
        let digest = Sha256::digest(certificate);
        let digest = digest.first_chunk().map(|first| Peer::Certificate(*first));
        let slot = slots.acquire_owned().await.ok()?;
        Some((stream, digest, slot))
    }
}
