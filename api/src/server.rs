//! Transport: accept loop, version prefix, headers, limits.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    response::{IntoResponse, Response},
};
use futures::future::{Either, ready};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, uri::PathAndQuery};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixListener,
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch},
    task::JoinSet,
};
use tower::Service;
use tracing::{debug, warn};
use waxseal_cluster::{
    Applied, State,
    objects::{Actor, command::Op},
};

use crate::{
    bypass::{Bypassed, Restored},
    ca, certificates,
    cluster::{Cluster, ClusterError},
    configs, distribution, elsewhere,
    error::{ApiError, Code, PageNotFound},
    events,
    extract::{MAX_BODY_BYTES, Peer, RequestInfo},
    join_tokens,
    listen::{Accepted, Greeted, Listener},
    logs, managers, networks, nodes, openapi, renew, respond, returns, secrets, services, status,
    swarm, system,
    table::Routes,
    tasks,
    version::{ApiVersion, Prefix, prefix},
};

/// Connections served at once; more wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 2048;
/// Request head, and what the transport reads ahead.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Time for a request's head on a connection that has no other under way, as a Docker
/// Engine allows: silent ones must not hold all places.
const HEAD_DEADLINE: Duration = Duration::from_secs(5 * 60);
/// Bodies up to this size need no room of the budget.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Room for larger bodies of all requests together, in KiB.
const BODY_BUDGET_KIB: usize = 64 << 10;
/// How long requests may go on after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Clients that read events or logs at once.
const MAX_READERS: usize = 256;
/// How often it is looked whether the certificate of a connection has ended, if the clock is set …
const CLOCK_LOOK: Duration = Duration::from_secs(60);
/// … and shortly before its end.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);
/// Pause after an accept that failed (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What handlers share.
pub(crate) type Shared<C> = Arc<Api<C>>;

/// What handlers share, by itself.
pub(crate) struct Api<C> {
    /// The cluster behind the API.
    pub(crate) cluster: Arc<C>,
    /// The events of late and who listens to new ones.
    pub(crate) hub: events::Hub,
    /// What is served.
    pub(crate) openapi: bytes::Bytes,
    bodies: Semaphore,
    readers: Arc<Semaphore>,
    stop: watch::Sender<bool>,
}

impl<C: Cluster> Api<C> {
    /// Waits until a body of that length (unknown: the largest) has room.
    pub(crate) async fn room_for_body(&self, length: Option<usize>) -> Option<SemaphorePermit<'_>> {
        let bytes = length.unwrap_or(MAX_BODY_BYTES).min(MAX_BODY_BYTES);
        if bytes <= SMALL_BODY_BYTES {
            return None;
        }
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        self.bodies.acquire_many(kib).await.ok()
    }

    /// A place for a client that reads events or logs, for as long as it does.
    ///
    /// # Errors
    /// 503 if there is none.
    pub(crate) fn place_for_reader(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.readers).try_acquire_owned();
        place.map_err(|_| {
            ApiError::unavailable(format!(
                "{MAX_READERS} clients read events or logs already; end one of them and try again"
            ))
        })
    }

    /// Reads the state, within the time that a control call may take.
    pub(crate) async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R, ApiError> {
        in_time(self.cluster.deadline(), self.cluster.read(read)).await
    }

    /// Makes a command durable, within the time that a control call may take.
    pub(crate) fn propose(
        &self,
        actor: Actor,
        op: Op,
    ) -> impl Future<Output = Result<Applied, ApiError>> + Send {
        in_time(self.cluster.deadline(), self.cluster.propose(actor, op))
    }

    /// Ends when the server is told to stop; for answers that have no end.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + use<C> {
        let mut stop = self.stop.subscribe();
        async move {
            // An error means that the server is gone, which is a stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }
}

/// Bounds a call; one that goes past its time may still take effect.
async fn in_time<R>(
    deadline: Duration,
    call: impl Future<Output = Result<R, ClusterError>>,
) -> Result<R, ApiError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(outcome) => outcome.map_err(ApiError::from),
        Err(_) => Err(ApiError::rpc(
            Code::DeadlineExceeded,
            "context deadline exceeded",
        )),
    }
}

/// The Engine API over a [`Cluster`].
pub struct Server<C> {
    api: Shared<C>,
    router: Router,
}

impl<C: Cluster> Server<C> {
    /// Builds the routes; nothing runs yet.
    pub fn new(cluster: Arc<C>) -> Server<C> {
        let (router, operations) = routes::<C>().into_parts();
        let api = Arc::new(Api {
            cluster,
            openapi: openapi::render(&operations),
            hub: events::Hub::default(),
            bodies: Semaphore::new(BODY_BUDGET_KIB),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            stop: watch::Sender::new(false),
        });
        let router = router
            .fallback(elsewhere::fallback)
            .method_not_allowed_fallback(elsewhere::fallback)
            .with_state(Arc::clone(&api));
        Server { api, router }
    }

    /// The whole API as a service, for calls in process. `uid` is who calls.
    pub fn service(&self, uid: Option<u32>) -> EngineService {
        EngineService {
            router: self.router.clone(),
            peer: uid.map(Peer::Uid),
        }
    }

    /// Turns the cluster's changes into events. Runs until the server stops;
    /// [`Server::serve`] runs it by itself.
    pub async fn follow_changes(&self) {
        let stopped = pin!(self.api.stopped());
        let follow = pin!(self.api.hub.follow(&*self.api.cluster));
        futures::future::select(stopped, follow).await;
    }

    /// Serves on all `listeners` until `shutdown` ends, then lets running
    /// requests finish for 5 s.
    pub async fn serve(&self, listeners: Vec<Listener>, shutdown: impl Future<Output = ()>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let accept = futures::future::join_all(
            listeners
                .into_iter()
                .map(|listener| self.accept(listener, Arc::clone(&slots))),
        );
        let drained = async {
            shutdown.await;
            self.api.stop.send_replace(true);
        };
        let ((), connections, ()) = tokio::join!(drained, accept, self.follow_changes());
        let drain = futures::future::join_all(
            connections
                .into_iter()
                .map(async |mut set| while set.join_next().await.is_some() {}),
        );
        if tokio::time::timeout(DRAIN, drain).await.is_err() {
            debug!("api connections cut after {DRAIN:?}");
        }
    }

    /// Accepts until the server stops; answers the connections still open.
    async fn accept(&self, listener: Listener, slots: Arc<Semaphore>) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        let mut stopped = pin!(self.api.stopped());
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                biased;
                () = &mut stopped => return connections,
                accepted = listener.accept(&slots) => accepted,
            };
            match accepted {
                Ok(Accepted::Unix(stream, slot)) => {
                    let peer = stream.peer_cred().ok().map(|peer| Peer::Uid(peer.uid()));
                    let (reader, writer) = stream.into_split();
                    let serve = self.connections();
                    connections.spawn(async move {
                        serve.connection(reader, writer, peer).await;
                        drop(slot);
                    });
                }
                Ok(Accepted::Tls(handshake)) => {
                    let serve = self.connections();
                    let slots = Arc::clone(&slots);
                    connections.spawn(async move {
                        if let Some(greeted) = handshake.finish(slots).await {
                            serve.certified(greeted).await;
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept an api connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn connections(&self) -> Connections<C> {
        Connections {
            api: Arc::clone(&self.api),
            router: self.router.clone(),
        }
    }
}

/// What a connection is served with.
struct Connections<C> {
    api: Shared<C>,
    router: Router,
}

impl<C: Cluster> Connections<C> {
    /// Serves who came with a certificate, for as long as that is valid.
    async fn certified(self, greeted: Greeted) {
        let cluster = Arc::clone(&self.api.cluster);
        let Greeted {
            stream,
            peer,
            not_after,
            slot,
        } = greeted;
        let (reader, writer) = tokio::io::split(stream);
        tokio::select! {
            () = self.connection(reader, writer, peer) => {}
            () = ended(&*cluster, not_after) => {
                debug!("the certificate of an api caller has ended; its connection is closed");
            }
        }
        drop(slot);
    }

    /// Serves one connection to its end.
    async fn connection<R, W>(self, reader: R, writer: W, peer: Option<Peer>)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let service = EngineService {
            router: self.router,
            peer,
        };
        let stopped = self.api.stopped();
        let (stream, contents) = Bypassed::new(reader, writer);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request: Request<Incoming>| {
                    let content = contents.next();
                    let request = request.map(|body| Restored::new(body, content));
                    let answer = service.answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                }),
            );
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopped => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "api connection ended early");
        }
    }
}

/// Completes once that time has passed by the cluster's clock, which may be set meanwhile.
async fn ended<C: Cluster>(cluster: &C, not_after: time::OffsetDateTime) {
    loop {
        let left = not_after - cluster.now();
        if left.is_negative() {
            return;
        }
        let left = Duration::try_from(left).unwrap_or(CLOCK_LOOK);
        tokio::time::sleep(left.clamp(SHORTEST_LOOK, CLOCK_LOOK)).await;
    }
}

/// Serves the API of `cluster` on one socket until `shutdown` ends.
pub async fn serve<C: Cluster>(
    listener: UnixListener,
    cluster: Arc<C>,
    shutdown: impl Future<Output = ()>,
) {
    let listeners = vec![Listener::Unix(listener)];
    Server::new(cluster).serve(listeners, shutdown).await;
}

/// All routes. Each module of this crate registers its own.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .merge(system::routes())
        .merge(events::routes())
        .merge(swarm::routes())
        .merge(nodes::routes())
        .merge(secrets::routes())
        .merge(configs::routes())
        .merge(services::routes())
        .merge(tasks::routes())
        .merge(logs::routes())
        .merge(networks::routes())
        .merge(distribution::routes())
        .merge(status::routes())
        .merge(ca::routes())
        .merge(renew::routes())
        .merge(returns::routes())
        .merge(managers::routes())
        .merge(certificates::routes())
        .merge(join_tokens::routes())
        .merge(openapi::routes())
}

/// The API as a tower service; cheap to clone.
#[derive(Clone)]
pub struct EngineService {
    router: Router,
    peer: Option<Peer>,
}

impl EngineService {
    /// Answers one request.
    pub fn answer<B>(&self, request: Request<B>) -> impl Future<Output = Response> + Send + use<B>
    where
        B: hyper::body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = request.map(Body::new);
        let routed = match read_prefix(&mut request, self.peer) {
            None => Either::Left(self.router.clone().call(request)),
            Some(answer) => Either::Right(ready(Ok::<_, Infallible>(answer))),
        };
        async move {
            let mut response = match routed.await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            if response.extensions().get::<PageNotFound>().is_none() {
                describe(response.headers_mut());
            }
            response
        }
    }
}

/// Takes the version prefix off the path and notes it and the caller in the
/// request, or answers what is not for any route.
fn read_prefix(request: &mut Request<Body>, peer: Option<Peer>) -> Option<Response> {
    if request.method() == Method::OPTIONS {
        return Some(respond::empty(StatusCode::OK));
    }
    let path = request.uri().path();
    let (version, rest) = match prefix(path) {
        Prefix::None => (ApiVersion::MAX, None),
        Prefix::Served(version, rest) => (version, Some(rest)),
        Prefix::TooNew(text) => return Some(too_new(text)),
        Prefix::TooOld(text) => return Some(too_old(text)),
    };
    // HEAD exists for _ping alone; the router would derive it from any GET.
    let is_headless = request.method() == Method::HEAD && rest.unwrap_or(path) != "/_ping";
    if is_headless || has_encoded_slash(path) {
        return Some(ApiError::page_not_found().into_response());
    }
    if let Some(rest) = rest {
        match without_prefix(request.uri(), rest) {
            Some(uri) => *request.uri_mut() = uri,
            None => return Some(ApiError::page_not_found().into_response()),
        }
    }
    request
        .extensions_mut()
        .insert(RequestInfo { version, peer });
    None
}

impl Service<Request<Body>> for EngineService {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = self.answer(request);
        Box::pin(async move { Ok(answer.await) })
    }
}

fn has_encoded_slash(path: &str) -> bool {
    path.as_bytes()
        .windows(3)
        .any(|escape| escape.eq_ignore_ascii_case(b"%2f"))
}

/// `uri` with `rest` as its path.
fn without_prefix(uri: &Uri, rest: &str) -> Option<Uri> {
    let whole = uri.path_and_query()?.as_str();
    let start = uri.path().len() - rest.len();
    let rest = PathAndQuery::try_from(whole.get(start..)?).ok()?;
    Some(Uri::from(rest))
}

fn too_new(text: &str) -> Response {
    ApiError::bad_request(format!(
        "client version {text} is too new. Maximum supported API version is {}",
        ApiVersion::MAX
    ))
    .into_response()
}

/// Clients older than 1.24 read errors as plain text.
fn too_old(text: &str) -> Response {
    let text = format!(
        "client version {text} is too old. Minimum supported API version is {}, please upgrade your client to a newer version\n",
        ApiVersion::MIN
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

/// The headers that clients negotiate by.
fn describe(headers: &mut HeaderMap) {
    const API_VERSION: HeaderValue = HeaderValue::from_static("1.44");
    const SERVER: HeaderValue =
        HeaderValue::from_static(concat!("Waxseal/", env!("CARGO_PKG_VERSION"), " (linux)"));
    headers.insert("api-version", API_VERSION);
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert(header::SERVER, SERVER);
}
