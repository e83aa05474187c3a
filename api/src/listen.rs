//! Where the API is served: unix sockets, and TCP with mutual TLS.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tracing::debug;
use waxseal_ca::outside::OutsideCertificate;

use crate::extract::Peer;

/// Handshakes at once on one address. Callers without a certificate have these places
/// alone; the connections of those with one are counted apart.
const MAX_HANDSHAKES: usize = 64;
/// The same from one source, so that none of them holds all.
const MAX_HANDSHAKES_OF_SOURCE: usize = 16;
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
    sources: Arc<Sources>,
}

/// Handshakes under way by where they come from: an IPv4 address, or the /64 that an IPv6 host
/// commonly has to itself.
#[derive(Debug, Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// One of them.
#[derive(Debug)]
struct SourcePlace {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    /// A place for one more from there; none if it has as many as it may.
    fn enter(self: &Arc<Self>, address: IpAddr) -> Option<SourcePlace> {
        let source = match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            address @ IpAddr::V4(_) => address,
        };
        let mut counts = self.lock();
        let count = counts.entry(source).or_default();
        if *count >= MAX_HANDSHAKES_OF_SOURCE {
            return None;
        }
        *count += 1;
        Some(SourcePlace {
            sources: Arc::clone(self),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // No code that holds the lock leaves the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SourcePlace {
    fn drop(&mut self) {
        let mut counts = self.sources.lock();
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
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
    place: (OwnedSemaphorePermit, SourcePlace),
}

/// A caller over TCP.
pub(crate) struct Greeted {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) peer: Option<Peer>,
    /// When its certificate ends, and with it the connection.
    pub(crate) not_after: OffsetDateTime,
    pub(crate) slot: OwnedSemaphorePermit,
}

impl Listener {
    /// Serves a TCP address. `config` must ask clients for certificates: whoever passes
    /// it may do everything.
    pub fn tls(listener: TcpListener, config: Arc<ServerConfig>) -> Listener {
        Listener::Tls(TlsListener {
            listener,
            acceptor: TlsAcceptor::from(config),
            handshakes: Arc::new(Semaphore::new(MAX_HANDSHAKES)),
            sources: Arc::default(),
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
                let (stream, source) = loop {
                    let (stream, address) = tls.listener.accept().await?;
                    // Who has too many already is closed.
                    if let Some(source) = tls.sources.enter(address.ip()) {
                        break (stream, source);
                    }
                };
                Ok(Accepted::Tls(Handshake {
                    stream,
                    acceptor: tls.acceptor.clone(),
                    place: (place, source),
                }))
            }
        }
    }
}

impl Handshake {
    /// The connection with who calls and a place of `slots`, unless the caller is refused
    /// or too slow.
    pub(crate) async fn finish(self, slots: Arc<Semaphore>) -> Option<Greeted> {
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
        let not_after = OutsideCertificate::read(certificate)?.not_after;
        let slot = slots.acquire_owned().await.ok()?;
        Some(Greeted {
            stream,
            peer: digest,
            not_after,
            slot,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_does_not_hold_all_handshakes() {
        let sources = Arc::new(Sources::default());
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        let mut places: Vec<_> = (0..MAX_HANDSHAKES_OF_SOURCE)
            .map(|_| sources.enter(one).unwrap())
            .collect();
        assert!(sources.enter(one).is_none());
        // The same host, written as IPv6.
        assert!(sources.enter("::ffff:192.0.2.1".parse().unwrap()).is_none());
        let other = sources.enter("192.0.2.2".parse().unwrap());
        assert!(other.is_some());
        places.pop();
        assert!(sources.enter(one).is_some());
        drop((places, other));
        assert!(sources.lock().is_empty());
    }

    #[test]
    fn a_network_of_one_host_is_one_source() {
        let sources = Arc::new(Sources::default());
        let places: Vec<_> = (0..=MAX_HANDSHAKES_OF_SOURCE)
            .map(|last| sources.enter(format!("2001:db8::{last:x}").parse().unwrap()))
            .collect();
        assert_eq!(places.iter().flatten().count(), MAX_HANDSHAKES_OF_SOURCE);
        assert!(sources.enter("2001:db8:0:1::1".parse().unwrap()).is_some());
    }
}
