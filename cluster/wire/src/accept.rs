//! The listener that all members and joiners reach: TLS, HTTP/2, who is calling.
//!
//! Owns the connections from accept to close and their bounds. Which caller may
//! do what is decided by the services, from the [`Peer`] in each request.

mod body;
mod crowd;
mod familiar;
mod handshakes;
mod preface;
mod registry;
mod relay;
#[cfg(test)]
mod relay_tests;
mod request;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tracing::{debug, warn};
use waxseal_ca::{Clock, Role};

use self::{
    crowd::{Bounds, Crowd, Place},
    handshakes::Handshakes,
    preface::Prefaced,
    registry::Registration,
    request::{ConnectionService, Door, Resets, Standing},
};
pub use self::{
    registry::{Admit, Connections},
    relay::{Course, Relay, RelayClaim, ToLeader, Vouch},
};
use crate::{
    bypass::{Bypassed, Lines, Side},
    limits,
    peer::Peer,
    reclaim::reclaim_binding,
    sealing::Sealing,
};

/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const STRANGERS: Bounds = Bounds {
    what: "connections without a certificate",
    total: limits::ANONYMOUS_CONNECTIONS,
    idle_per_group: limits::ANONYMOUS_IDLE_PER_ADDRESS,
    undisturbed: limits::ANONYMOUS_PROMPT,
};

/// What a listener serves and with what.
#[derive(Clone)]
pub struct Acceptor {
    /// The services.
    pub routes: Routes,
    /// TLS of new connections. Identity and trust in it are swapped live, so that it
    /// is asked for once.
    pub tls: Arc<ServerConfig>,
    /// Tells when the certificate of an open connection has expired.
    pub clock: Arc<dyn Clock>,
    /// Where the connections of members are noted.
    pub connections: Connections,
    /// How calls get to the leader.
    pub relay: Relay,
}

/// A listener at work. Dropping it closes its connections at once.
#[derive(Debug)]
pub struct Listening {
    address: SocketAddr,
    draining: CancellationToken,
    ended: CancellationToken,
    accepting: JoinHandle<()>,
    connections: TaskTracker,
}

impl Listening {
    /// The address that is listened on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets calls under way end until `deadline` and
    /// closes what is left. Streams of sessions do not end by themselves; their
    /// service should end them first.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.draining.cancel();
        // Aborted only by `drop`.
        let _ = (&mut self.accepting).await;
        self.connections.close();
        if time::timeout(deadline, self.connections.wait())
            .await
            .is_err()
        {
            self.ended.cancel();
            self.connections.wait().await;
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.ended.cancel();
        self.accepting.abort();
    }
}

/// Listens where members and joiners call, with room for many that do so at once.
///
/// # Errors
/// What the system says, of an address that is taken for instance.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // A manager that starts again finds connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::LISTEN_BACKLOG)
}

impl Acceptor {
    /// Serves what connects to `listener`.
    ///
    /// # Errors
    /// If the listener does not know its own address.
    pub fn serve(self, listener: TcpListener) -> io::Result<Listening> {
        let address = listener.local_addr()?;
        let draining = CancellationToken::new();
        let ended = CancellationToken::new();
        let connections = TaskTracker::new();
        let door = Door {
            router: self.routes.prepare().into_axum_router(),
            clock: self.clock,
            connections: self.connections.clone(),
            relay: self.relay,
            relayed_strangers: Arc::new(Semaphore::new(limits::RELAYED_ANONYMOUS_CALLS)),
        };
        let server = Arc::new(Server {
            door: Arc::new(door),
            tls: TlsAcceptor::from(self.tls),
            handshakes: Handshakes::new(self.connections),
            strangers: Crowd::new(STRANGERS),
            draining: draining.clone(),
            ended: ended.clone(),
            tasks: connections.clone(),
        });
        let accepting = tokio::spawn(server.accept(listener));
        Ok(Listening {
            address,
            draining,
            ended,
            accepting,
            connections,
        })
    }
}

struct Server {
    door: Arc<Door>,
    tls: TlsAcceptor,
    /// Connections that did not yet say who they are.
    handshakes: Handshakes,
    /// Connections of callers that are no members.
    strangers: Arc<Crowd>,
    draining: CancellationToken,
    ended: CancellationToken,
    tasks: TaskTracker,
}

/// The bytes of HTTP/2. In a box, as it is handed from one future to the next.
type Stream = Box<Prefaced<TlsStream<TcpStream>>>;

/// What a finished handshake gives.
struct Greeted {
    stream: Stream,
    peer: Arc<Peer>,
}

impl Server {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Some(accepted) = self.draining.run_until_cancelled(listener.accept()).await else {
                return;
            };
            match accepted {
                Ok((stream, address)) => {
                    let Some(place) = self.handshakes.enter(address.ip(), Instant::now()) else {
                        continue;
                    };
                    // In boxes, here and below: what drives a future that it was given holds it
                    // twice, and a task stays as large as the largest that it ever held.
                    let connection = Box::pin(Arc::clone(&self).connection(stream, address, place));
                    let ended = self.ended.clone();
                    self.tasks.spawn(async move {
                        ended.run_until_cancelled(connection).await;
                    });
                }
                Err(error) => {
                    // Most errors are of the one connection; the pause is for the others.
                    warn!(%error, "cannot take a connection");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A connection from its first byte to its end.
    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        place: Arc<Place>,
    ) {
        let greeting = Box::pin(self.greet(stream, address));
        let greeting = time::timeout(limits::HANDSHAKE_DEADLINE, greeting);
        let greeted = place.closed.run_until_cancelled(greeting).await;
        let Greeted { stream, peer } = match greeted {
            Some(Ok(Ok(greeted))) => greeted,
            Some(Ok(Err(error))) => {
                debug!(%address, %error, "handshake failed");
                return;
            }
            Some(Err(_)) => {
                debug!(%address, "handshake took too long");
                return;
            }
            None => {
                debug!(%address, "handshake gave way to newer ones");
                return;
            }
        };
        let registration = peer
            .identity
            .as_ref()
            .and_then(|identity| self.door.connections.register(identity, address));
        match registration {
            Some(registration) => {
                drop(place);
                Box::pin(self.serve_member(stream, peer, registration)).await;
            }
            None => Box::pin(self.serve_stranger(stream, peer, place)).await,
        }
    }

    async fn greet(&self, stream: TcpStream, address: SocketAddr) -> io::Result<Greeted> {
        // Small calls would wait for delayed acknowledgements otherwise.
        stream.set_nodelay(true)?;
        // Until it says something, a caller costs no more than its descriptor.
        time::timeout(limits::FIRST_BYTE_DEADLINE, stream.peek(&mut [0])).await??;
        let stream = self.tls.accept(stream).await?;
        let chain: Arc<[CertificateDer<'static>]> = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let binding = match chain.is_empty() {
            true => reclaim_binding(stream.get_ref().1),
            false => None,
        };
        let identity = if chain.is_empty() {
            None
        } else {
            let identity = waxseal_ca::peer_identity(&chain)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            Some(identity)
        };
        let is_manager = identity
            .as_ref()
            .is_some_and(|identity| identity.role == Role::Manager);
        let sealing = match is_manager {
            true => {
                let sealing = Sealing::of(stream.get_ref().1, Side::Server);
                Some(Arc::new(sealing.map_err(io::Error::other)?))
            }
            false => None,
        };
        let stream = Box::new(Prefaced::read(stream).await?);
        Ok(Greeted {
            stream,
            peer: Arc::new(Peer {
                address,
                identity,
                chain,
                relayed_by: None,
                binding,
                sealing,
            }),
        })
    }

    async fn serve_member(&self, stream: Stream, peer: Arc<Peer>, registration: Registration) {
        let closed = registration.closed.clone();
        let standing = Standing::Member(Arc::clone(&registration.budget));
        self.serve(stream, peer, standing, &closed).await;
        drop(registration);
    }

    /// Serves who has no certificate, or one that is not admitted any more: the
    /// services tell the latter why. It waits its turn where it shook hands.
    async fn serve_stranger(&self, stream: Stream, peer: Arc<Peer>, waiting: Arc<Place>) {
        let address = peer.address;
        let turn = self.strangers.enter_in_turn(address.ip());
        let turn = time::timeout(limits::HANDSHAKE_DEADLINE, turn);
        let Some(Ok(place)) = waiting.closed.run_until_cancelled(turn).await else {
            debug!(%address, "too many connections without a certificate");
            return;
        };
        drop(waiting);
        let standing = Standing::Stranger(Arc::clone(&place));
        tokio::select! {
            () = self.serve(stream, peer, standing, &place.closed) => {}
            () = place.outstayed() => debug!(%address, "connection without a call; closing it"),
            () = time::sleep(limits::ANONYMOUS_CONNECTION_LIFE) => {}
        }
    }

    /// HTTP/2 until the peer leaves, `closed` is cancelled or the listener ends.
    async fn serve(
        &self,
        stream: Stream,
        peer: Arc<Peer>,
        standing: Standing,
        closed: &CancellationToken,
    ) {
        let address = peer.address;
        let caller = Caller::of(&peer, &standing);
        let resets = Resets::new();
        // Others are sent no secrets.
        let is_member = matches!(standing, Standing::Member(_));
        let lines: Option<Arc<Lines>> = is_member.then(Arc::default);
        let stream = Bypassed::new(stream, Side::Server, lines.as_ref());
        let service = ConnectionService {
            door: Arc::clone(&self.door),
            peer,
            resets: Arc::clone(&resets),
            standing,
            lines,
        };
        let service = hyper::service::service_fn(move |request| {
            // Its box goes when the answer begins.
            Box::pin(service.clone().answer(request))
        });
        // Streams run in tasks of their own; they end with the connection.
        let streams = StreamTasks {
            ended: CancellationToken::new(),
            tasks: self.tasks.clone(),
        };
        let _end_streams = streams.ended.clone().drop_guard();
        let connection =
            http2_builder(streams.clone(), caller).serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut draining = false;
        let outcome = loop {
            tokio::select! {
                outcome = connection.as_mut() => break outcome,
                () = closed.cancelled() => break Ok(()),
                () = resets.exceeded.cancelled(), if !draining => {
                    warn!(%address, "connection resets too many streams; closing it");
                    draining = true;
                    begin_drain(connection.as_mut());
                }
                () = self.draining.cancelled(), if !draining => {
                    draining = true;
                    begin_drain(connection.as_mut());
                }
            }
        };
        resets.stop();
        if let Err(error) = outcome {
            debug!(%address, %error, "connection ended");
        }
    }
}

/// Asks the peer to open no further streams; those open go on.
fn begin_drain<S>(connection: Pin<&mut http2::Connection<Io, S, StreamTasks>>)
where
    S: hyper::service::HttpService<hyper::body::Incoming>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::ResBody: 'static,
    <S::ResBody as hyper::body::Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    StreamTasks: hyper::rt::bounds::Http2ServerConnExec<S::Future, S::ResBody>,
{
    connection.graceful_shutdown();
}

type Io = TokioIo<Bypassed<Stream>>;

/// What a connection is good for, as far as HTTP/2 is to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Stranger,
    Node,
    /// Speaks for the clients of its API and for the nodes that it relays.
    Manager,
}

impl Caller {
    fn of(peer: &Peer, standing: &Standing) -> Caller {
        let role = peer.identity.as_ref().map(|identity| identity.role);
        match (standing, role) {
            (Standing::Member(_), Some(Role::Manager)) => Caller::Manager,
            (Standing::Member(_), _) => Caller::Node,
            _ => Caller::Stranger,
        }
    }
}

fn http2_builder(streams: StreamTasks, caller: Caller) -> http2::Builder<StreamTasks> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        // The table of headers would come to hold a date for each second that a node was answered
        // in, and gRPC has no use for them.
        .auto_date_header(false)
        .max_header_list_size(limits::HEADER_LIST_LIMIT)
        .max_concurrent_streams(limits::STREAMS_PER_NODE)
        .max_pending_accept_reset_streams(limits::RESETS_PER_WINDOW as usize)
        .max_local_error_reset_streams(limits::RESETS_PER_WINDOW as usize)
        .keep_alive_interval(limits::KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT);
    match caller {
        Caller::Node => {}
        Caller::Stranger => {
            builder
                .max_concurrent_streams(limits::ANONYMOUS_STREAMS)
                .initial_connection_window_size(limits::ANONYMOUS_WINDOW)
                .initial_stream_window_size(limits::ANONYMOUS_WINDOW);
        }
        Caller::Manager => {
            builder
                .max_header_list_size(limits::MANAGER_HEADER_LIST_LIMIT)
                .max_concurrent_streams(limits::RELAYED_STREAMS)
                .max_pending_accept_reset_streams(limits::RELAYED_STREAMS as usize)
                .max_local_error_reset_streams(limits::RELAYED_STREAMS as usize)
                .initial_connection_window_size(limits::MANAGER_WINDOW)
                .initial_stream_window_size(limits::MANAGER_STREAM_WINDOW);
        }
    }
    builder
}

/// Runs the streams of one connection and ends them with it.
#[derive(Clone)]
struct StreamTasks {
    ended: CancellationToken,
    tasks: TaskTracker,
}

impl<F> hyper::rt::Executor<F> for StreamTasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        let ended = self.ended.clone();
        let stream = Box::pin(stream);
        self.tasks.spawn(async move {
            ended.run_until_cancelled(stream).await;
        });
    }
}
