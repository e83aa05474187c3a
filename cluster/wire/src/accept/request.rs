//! What happens around each request of a connection.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt;
use waxseal_ca::{Clock, NodeIdentity, Role};

use super::{
    body::{Bound, Bounded, Budget, Held},
    crowd::{Call, Place},
    registry::{Connections, Registration},
    relay::{self, Course, RELAY_PREFIX, Relay, Relayed, Until},
};
use crate::{
    bypass::Lines,
    envelope,
    limits::{MANAGER_STREAM_MESSAGE_LIMIT, RESET_WINDOW, RESETS_PER_WINDOW, STREAM_MESSAGE_LIMIT},
    peer::Peer,
};

/// The services that a caller without a certificate reaches.
const ANONYMOUS_SERVICES: [&str; 5] = [
    "docker.swarmkit.v1.CA",
    "docker.swarmkit.v1.NodeCA",
    "waxseal.v1.Hello",
    "waxseal.v1.RootPath",
    "waxseal.v1.Reclaim",
];
/// The services that managers alone reach.
const MANAGER_SERVICES: [&str; 3] = ["waxseal.v1.Relay", "waxseal.v1.Raft", "waxseal.v1.Control"];
/// The calls in which a member sends a stream, and the largest message in it.
const CLIENT_STREAMS: [(&str, usize); 2] = [
    (
        "/docker.swarmkit.v1.LogBroker/PublishLogs",
        STREAM_MESSAGE_LIMIT,
    ),
    ("/waxseal.v1.Raft/Snapshot", MANAGER_STREAM_MESSAGE_LIMIT),
];

const EXPIRED: &str =
    "the certificate of this connection has expired; connect with the renewed one";
const CUT_OFF: &str = "the node was removed, or its role or certificate changed; connect again";

/// The service of a call's path.
pub(super) fn service_of(path: &str) -> Option<&str> {
    path.strip_prefix('/')?.split('/').next()
}

/// What all connections of a listener have in common.
pub(super) struct Door {
    pub(super) router: axum::Router,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) connections: Connections,
    pub(super) relay: Relay,
    /// Relayed calls of callers that are no members.
    pub(super) relayed_strangers: Arc<Semaphore>,
}

/// Serves the requests of one connection.
#[derive(Clone)]
pub(super) struct ConnectionService {
    pub(super) door: Arc<Door>,
    pub(super) peer: Arc<Peer>,
    pub(super) resets: Arc<Resets>,
    pub(super) standing: Standing,
    /// Past HTTP/2, for who is sent secrets.
    pub(super) lines: Option<Arc<Lines>>,
}

/// What the calls of a connection are counted against.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// What the node may use, over all its connections.
    Member(Arc<Budget>),
    /// The place of one that is no member, with or without a certificate.
    Stranger(Arc<Place>),
    /// The places of all such whose calls other managers relay.
    RelayedStranger(Arc<Semaphore>),
}

/// What a call was admitted with.
struct Admission {
    bound: Bound,
    /// Kept until the call is answered.
    held: Option<Arc<Held>>,
    /// Kept until the answer is sent.
    place: CallPlace,
}

/// Where a call is counted while it is under way.
#[derive(Debug)]
#[expect(dead_code, reason = "kept for what their drop does")]
enum CallPlace {
    /// Among the streams of the node, or of relayed callers that are none.
    Counted(OwnedSemaphorePermit),
    /// At its connection.
    Stranger(Call),
}

impl ConnectionService {
    /// Answers a request, with the peer in its extensions.
    pub(super) async fn answer(
        mut self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Watched>, std::convert::Infallible> {
        let mut watch = self.resets.watch();
        // 1. Who calls: by its own certificate, or by what a manager relays.
        let envelope = envelope::take_claims(request.headers_mut());
        let registration = match self.open_envelope(&mut request, envelope.as_ref()) {
            Ok(registration) => registration,
            Err(status) => return Ok(watch.wrap(status.into_http())),
        };
        if self.peer.relayed_by.is_some() || self.manager().is_ok() {
            // Those are of many nodes or API clients, which come and go.
            watch.resets = None;
        }
        // 2. Refused before a byte of the body is taken.
        let path = request.uri().path();
        let admission = match self.admit(path) {
            Ok(admission) => admission,
            Err(status) => return Ok(watch.wrap(status.into_http())),
        };
        let Admission { bound, held, place } = admission;
        watch.place = Some(place);
        let is_for_leader = relay::is_for_leader(path);
        let request = request.map(|body| Bounded::new(body, bound));
        // 3. Served, here or by the leader, until the caller is cut off.
        let response = match registration {
            None => self.serve(request, is_for_leader).await,
            Some(registration) => {
                let closed = registration.closed.clone();
                watch.registration = Some(registration);
                let serving = self.serve(request, is_for_leader);
                match closed.run_until_cancelled(serving).await {
                    Some(response) => response
                        .map(|body| axum::body::Body::new(Until::new(body, closed, CUT_OFF))),
                    None => Status::unavailable(CUT_OFF).into_http(),
                }
            }
        };
        drop(held);
        Ok(watch.wrap(response))
    }

    async fn serve(
        self,
        mut request: Request<Bounded<Incoming>>,
        is_for_leader: bool,
    ) -> Response<axum::body::Body> {
        if is_for_leader {
            match self.door.relay.course(self.peer.relayed_by.is_some()).await {
                Ok(Course::Leader(leader)) => {
                    let lines = self.lines.as_ref();
                    return relay::forward(&leader, &self.peer, lines, request).await;
                }
                Ok(Course::Here | Course::Nowhere) => {}
                Err(status) => return status.into_http(),
            }
        }
        request.extensions_mut().insert(self.peer);
        if let Some(lines) = self.lines {
            request.extensions_mut().insert(lines);
        }
        let request = request.map(axum::body::Body::new);
        match self.door.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Takes on the caller of a relayed call, once it is verified.
    fn open_envelope(
        &mut self,
        request: &mut Request<Incoming>,
        envelope: Option<&HeaderValue>,
    ) -> Result<Option<Registration>, Status> {
        let path = request.uri().path();
        if !path.starts_with(RELAY_PREFIX) {
            return Ok(None);
        }
        let door = &self.door;
        let relayer = self.manager()?;
        let relayed = Relayed::open(&door.relay, relayer, path, envelope)?;
        let relayed_by = Some(relayer.node_id.clone());
        *request.uri_mut() = relayed
            .path
            .parse::<Uri>()
            .map_err(|_| Status::invalid_argument("the relayed call's path is not one"))?;
        // From here on the call is the caller's own, with its own bounds.
        let registration = relayed
            .identity
            .as_ref()
            .and_then(|identity| door.connections.register_relayed(identity, relayed.address));
        self.standing = match &registration {
            Some(registration) => Standing::Member(Arc::clone(&registration.budget)),
            None => Standing::RelayedStranger(Arc::clone(&door.relayed_strangers)),
        };
        self.peer = Arc::new(Peer {
            address: relayed.address,
            identity: relayed.identity,
            chain: relayed.chain,
            relayed_by,
            binding: relayed.binding,
            sealing: None,
        });
        Ok(registration)
    }

    /// The caller, if its certificate is a manager's and the node was not removed.
    fn manager(&self) -> Result<&NodeIdentity, Status> {
        match (&self.standing, &self.peer.identity) {
            _ if self.is_expired() => Err(Status::unauthenticated(EXPIRED)),
            (Standing::Member(_), Some(identity)) if identity.role == Role::Manager => Ok(identity),
            _ => Err(Status::permission_denied(
                "Permission denied: this call is for managers of the cluster",
            )),
        }
    }

    /// Decides what is known before the call's content is: whether the caller may
    /// reach the service at all, and how much it may send.
    fn admit(&self, path: &str) -> Result<Admission, Status> {
        if self.is_expired() {
            return Err(Status::unauthenticated(EXPIRED));
        }
        let service = service_of(path);
        if service.is_some_and(|name| MANAGER_SERVICES.contains(&name)) {
            self.manager()?;
        }
        let Standing::Member(budget) = &self.standing else {
            return self.admit_stranger(service);
        };
        let place = CallPlace::Counted(budget.stream()?);
        if let Some((_, limit)) = CLIENT_STREAMS.iter().find(|(stream, _)| *stream == path) {
            return Ok(Admission {
                bound: Bound::stream(*limit),
                held: None,
                place,
            });
        }
        let held = Held::of(budget);
        Ok(Admission {
            bound: Bound::unary(Arc::clone(&held)),
            held: Some(held),
            place,
        })
    }

    fn admit_stranger(&self, service: Option<&str>) -> Result<Admission, Status> {
        let is_open = service.is_some_and(|name| ANONYMOUS_SERVICES.contains(&name));
        // Who has a certificate is told by the services what is wrong with it.
        if !is_open && self.peer.identity.is_none() {
            return Err(Status::unauthenticated(
                "this call needs a node certificate; join the cluster first",
            ));
        }
        let place = match &self.standing {
            Standing::Stranger(place) => CallPlace::Stranger(place.call()),
            Standing::RelayedStranger(places) => {
                let place = Arc::clone(places).try_acquire_owned();
                CallPlace::Counted(place.map_err(|_| {
                    Status::resource_exhausted("too many calls are relayed; try again in 1 s")
                })?)
            }
            Standing::Member(budget) => CallPlace::Counted(budget.stream()?),
        };
        Ok(Admission {
            bound: Bound::anonymous(),
            held: None,
            place,
        })
    }

    /// A connection can outlive the certificate it was made with.
    fn is_expired(&self) -> bool {
        let now = self.door.clock.now();
        self.peer
            .identity
            .as_ref()
            .is_some_and(|identity| identity.not_after < now)
    }
}

/// Counts the streams that a peer resets before they end.
#[derive(Debug)]
pub(super) struct Resets {
    window: Mutex<(Instant, u32)>,
    /// Cancelled when there were too many.
    pub(super) exceeded: CancellationToken,
    /// Set when the connection itself is ending, so that streams cut by it are not counted.
    ending: AtomicBool,
}

impl Resets {
    pub(super) fn new() -> Arc<Resets> {
        Arc::new(Resets {
            window: Mutex::new((Instant::now(), 0)),
            exceeded: CancellationToken::new(),
            ending: AtomicBool::new(false),
        })
    }

    pub(super) fn stop(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    fn watch(self: &Arc<Self>) -> StreamWatch {
        StreamWatch {
            resets: Some(Arc::clone(self)),
            place: None,
            registration: None,
        }
    }

    fn count(&self) {
        if self.ending.load(Ordering::Relaxed) {
            return;
        }
        let now = Instant::now();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if now.duration_since(window.0) > RESET_WINDOW {
            *window = (now, 0);
        }
        window.1 += 1;
        if window.1 > RESETS_PER_WINDOW {
            self.exceeded.cancel();
        }
    }
}

/// Counts a reset when it is dropped before its stream ended.
#[derive(Debug)]
struct StreamWatch {
    resets: Option<Arc<Resets>>,
    place: Option<CallPlace>,
    /// Of a relayed call.
    registration: Option<Registration>,
}

impl StreamWatch {
    fn wrap(mut self, response: Response<axum::body::Body>) -> Response<Watched> {
        // A refusal is headers alone; nobody asks its body for more.
        if response.body().is_end_stream() {
            self.ended();
        }
        response.map(|body| Watched { body, watch: self })
    }

    fn ended(&mut self) {
        self.resets = None;
        self.place = None;
        self.registration = None;
    }
}

impl Drop for StreamWatch {
    fn drop(&mut self) {
        if let Some(resets) = self.resets.take() {
            resets.count();
        }
    }
}

/// A response body that knows whether it was sent to its end.
#[derive(Debug)]
pub(super) struct Watched {
    body: axum::body::Body,
    watch: StreamWatch,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        let ended = match &frame {
            Poll::Ready(None | Some(Err(_))) => true,
            // A gRPC response ends with its trailers; the server asks no further.
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Pending => false,
        };
        if ended {
            self.watch.ended();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
