//! Client connections to a manager.
//!
//! A connection is made once and does not come back by itself: who holds it
//! learns of its end and decides when and to whom to dial again.

mod error;
mod first_byte;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{
    Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Status, body::Body};
use waxseal_ca::{Clock, LiveTls, NodeIdentity, TlsOptions, TrustBundle, reclaim::ChannelBinding};

pub use self::error::{DialError, Unreachable, tls_cause};
use self::first_byte::FirstByte;
use crate::{
    bypass::{Assignments, Bypassed, Lines, Scrubbed, Side},
    limits,
    reclaim::reclaim_binding,
    sealing::Sealing,
    swarmkit::{
        AssignmentsRequest, ca_client::CaClient, dispatcher_client::DispatcherClient,
        log_broker_client::LogBrokerClient, node_ca_client::NodeCaClient,
    },
    waxseal::{
        control_client::ControlClient, hello_client::HelloClient, raft_client::RaftClient,
        reclaim_client::ReclaimClient, root_path_client::RootPathClient,
    },
};

/// What a connection is for, which decides how the manager is verified.
pub enum Credentials<'a> {
    /// Take the root as it comes; only the digest in the token says whether it is right.
    FetchRoot,
    /// Ask for a first certificate: verify the manager, present none.
    Join {
        /// The fetched and checked roots.
        trust: &'a Arc<TrustBundle>,
        /// Judges the validity of the manager's certificate.
        clock: &'a Arc<dyn Clock>,
    },
    /// Act as a node: verify the manager, present the node's present certificate.
    Member(&'a Arc<LiveTls>),
}

/// A connection to one manager; clones share it.
#[derive(Clone)]
pub struct ManagerChannel {
    requests: http2::SendRequest<Body>,
    authority: Authority,
    server: Option<Arc<NodeIdentity>>,
    binding: Option<ChannelBinding>,
    closed: CancellationToken,
    lines: Arc<Lines>,
    sealing: Arc<Sealing>,
    _driver: Arc<AbortOnDropHandle<()>>,
}

impl ManagerChannel {
    /// Connects to the manager at `address` (`host:port`).
    ///
    /// Returns once the manager has taken the handshake, the client certificate
    /// included, and answered in HTTP/2.
    ///
    /// # Errors
    /// [`DialError`] says what stood in the way, after at most 5 s.
    pub async fn dial(
        address: &str,
        credentials: Credentials<'_>,
    ) -> Result<ManagerChannel, DialError> {
        let (config, name) = match credentials {
            Credentials::FetchRoot => (waxseal_ca::fetch_root_tls(), None),
            Credentials::Join { trust, clock } => (
                waxseal_ca::join_tls(Arc::clone(trust), Arc::clone(clock)),
                Some(waxseal_ca::CA_SERVER_NAME),
            ),
            Credentials::Member(live) => (
                waxseal_ca::client_tls(live, TlsOptions::default()),
                Some(waxseal_ca::MANAGER_SERVER_NAME),
            ),
        };
        let config = config.map_err(|error| DialError::new(address, Unreachable::Setup(error)))?;
        let connecting = connect(address, config, name);
        match time::timeout(limits::CONNECT_DEADLINE, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(DialError::new(address, Unreachable::Timeout)),
        }
    }

    /// Completes when the connection has ended.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled() || self.requests.is_closed()
    }

    /// Who the manager is by its certificate; `None` where it was not verified.
    pub fn server(&self) -> Option<&NodeIdentity> {
        self.server.as_deref()
    }

    /// What the connection exports for the proof of a node that returns: of one that was made
    /// without a client certificate, in TLS 1.3.
    pub fn binding(&self) -> Option<&ChannelBinding> {
        self.binding.as_ref()
    }

    /// The way from a root to the present one.
    pub fn root_path(&self) -> RootPathClient<ManagerChannel> {
        RootPathClient::new(self.clone()).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
    }

    /// The return of a node by proof of possession.
    pub fn reclaim(&self) -> ReclaimClient<ManagerChannel> {
        ReclaimClient::new(self.clone()).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
    }

    /// What seals content for the manager at the other end.
    pub fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    pub(crate) fn lines(&self) -> &Arc<Lines> {
        &self.lines
    }

    /// swarmkit's `CA`.
    pub fn ca(&self) -> CaClient<ManagerChannel> {
        CaClient::new(self.clone()).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
    }

    /// swarmkit's `NodeCA`.
    pub fn node_ca(&self) -> NodeCaClient<ManagerChannel> {
        NodeCaClient::new(self.clone()).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
    }

    /// swarmkit's `Dispatcher`.
    pub fn dispatcher(&self) -> DispatcherClient<ManagerChannel> {
        DispatcherClient::new(self.clone()).max_decoding_message_size(limits::CLIENT_MESSAGE_LIMIT)
    }

    /// swarmkit's `Dispatcher.Assignments`, as [`ManagerChannel::dispatcher`] has it too,
    /// without remains of the content in the connection's buffers.
    ///
    /// # Errors
    /// The manager's refusal, or what happened to the connection.
    pub async fn assignments(&self, request: AssignmentsRequest) -> Result<Assignments, Status> {
        Assignments::call(self.clone(), &self.lines, request).await
    }

    /// swarmkit's `LogBroker`.
    pub fn log_broker(&self) -> LogBrokerClient<ManagerChannel> {
        LogBrokerClient::new(self.clone()).max_decoding_message_size(limits::CLIENT_MESSAGE_LIMIT)
    }

    /// What managers keep their log by.
    pub fn raft(&self) -> RaftClient<ManagerChannel> {
        RaftClient::new(self.clone()).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
    }

    /// What managers ask of each other.
    pub fn control(&self) -> ControlClient<ManagerChannel> {
        ControlClient::new(self.clone()).max_decoding_message_size(limits::CLIENT_MESSAGE_LIMIT)
    }

    /// Our own greeting.
    pub fn hello(&self) -> HelloClient<ManagerChannel> {
        HelloClient::new(self.clone()).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
    }
}

async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
    name: Option<&'static str>,
) -> Result<ManagerChannel, DialError> {
    let failed = |cause| DialError::new(address, cause);
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|error| failed(Unreachable::tcp(error)))?;
    tcp.set_nodelay(true)
        .map_err(|error| failed(Unreachable::tcp(error)))?;
    let is_verified = name.is_some();
    let (name, authority) = match name {
        Some(name) => (server_name(name)?, Authority::from_static(name)),
        // An address as server name sends no SNI, as the engine does here.
        None => {
            let peer = tcp
                .peer_addr()
                .map_err(|error| failed(Unreachable::tcp(error)))?;
            (
                ServerName::IpAddress(peer.ip().into()),
                Authority::from_static("swarm"),
            )
        }
    };
    let tls = TlsConnector::from(config)
        .connect(name, Scrubbed(tcp))
        .await
        .map_err(|error| failed(Unreachable::tls(error)))?;
    let server = match tls.get_ref().1.peer_certificates() {
        Some(chain) if is_verified => waxseal_ca::peer_identity(chain).ok().map(Arc::new),
        _ => None,
    };
    let binding = match is_verified {
        true => reclaim_binding(tls.get_ref().1),
        false => None,
    };
    let sealing = Sealing::of(tls.get_ref().1, Side::Client)
        .map_err(|error| failed(Unreachable::tls(io::Error::other(error))))?;
    let (stream, first_byte) = FirstByte::watch(tls);
    let lines = Arc::default();
    let stream = Bypassed::new(stream, Side::Client, Some(&lines));
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(limits::HEADER_LIST_LIMIT)
        .keep_alive_interval(Some(limits::KEEP_ALIVE_INTERVAL))
        .keep_alive_timeout(limits::KEEP_ALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(Unreachable::Protocol(Box::new(error))))?;
    let closed = CancellationToken::new();
    let ended = closed.clone().drop_guard();
    let driver = tokio::spawn(async move {
        let _ended = ended;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a manager ended");
        }
    });
    let driver = Arc::new(AbortOnDropHandle::new(driver));
    // With TLS 1.3 a refused client certificate shows only now.
    match first_byte.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(failed(Unreachable::tls(error))),
        Err(_) => {
            return Err(failed(Unreachable::tls(
                io::ErrorKind::UnexpectedEof.into(),
            )));
        }
    }
    Ok(ManagerChannel {
        requests,
        authority,
        server,
        binding,
        closed,
        lines,
        sealing: Arc::new(sealing),
        _driver: driver,
    })
}

/// Lets a large assignment set flow without waiting for window updates.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// Many times that: of calls that a manager relays, one that its node does not read
/// must leave room for the others.
const CONNECTION_WINDOW: u32 = limits::MANAGER_WINDOW;

fn server_name(name: &'static str) -> Result<ServerName<'static>, DialError> {
    ServerName::try_from(name).map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidInput, error);
        DialError::new(name, Unreachable::tls(error))
    })
}

impl tower::Service<Request<Body>> for ManagerChannel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        parts
            .path_and_query
            .get_or_insert_with(|| PathAndQuery::from_static("/"));
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
        let response = self.requests.send_request(request);
        // The connection lives as long as a call on it does.
        let driver = Arc::clone(&self._driver);
        Box::pin(async move {
            let response = response.await;
            drop(driver);
            response
        })
    }
}
