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
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt;
use waxseal_ca::Clock;

use super::{
    body::{Bound, Bounded, Budget, Held},
    crowd::{Call, Place},
};
use crate::{
    limits::{RESET_WINDOW, RESETS_PER_WINDOW},
    peer::Peer,
};

/// The services that a caller without a certificate reaches.
const ANONYMOUS_SERVICES: [&str; 3] = ["docker.swarmkit.v1.CA", "docker.swarmkit.v1.NodeCA", HELLO];
/// Ours, also called before joining.
const HELLO: &str = "waxseal.v1.Hello";
/// The calls in which a member sends a stream.
const CLIENT_STREAMS: [&str; 1] = ["/docker.swarmkit.v1.LogBroker/PublishLogs"];

/// Serves the requests of one connection.
#[derive(Clone)]
pub(super) struct ConnectionService {
    pub(super) router: axum::Router,
    pub(super) peer: Peer,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) resets: Arc<Resets>,
    pub(super) standing: Standing,
}

/// What the calls of a connection are counted against.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// What the node may use, over all its connections.
    Member(Arc<Budget>),
    /// The place of one that is no member, with or without a certificate.
    Stranger(Arc<Place>),
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
    /// Among the streams of the node.
    Node(OwnedSemaphorePermit),
    /// At its connection.
    Stranger(Call),
}

impl ConnectionService {
    /// Answers a request, with the peer in its extensions.
    pub(super) async fn answer(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Watched>, std::convert::Infallible> {
        let mut watch = self.resets.watch();
        // Refused before a byte of the body is taken.
        let admission = match self.admit(request.uri().path()) {
            Ok(admission) => admission,
            Err(status) => return Ok(watch.wrap(status.into_http::<axum::body::Body>())),
        };
        let Admission { bound, held, place } = admission;
        watch.place = Some(place);
        request.extensions_mut().insert(self.peer);
        let request = request.map(|body| axum::body::Body::new(Bounded { body, bound }));
        let response = match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        drop(held);
        Ok(watch.wrap(response))
    }

    /// Decides what is known before the call's content is: whether the caller may
    /// reach the service at all, and how much it may send.
    fn admit(&self, path: &str) -> Result<Admission, Status> {
        if self.is_expired() {
            return Err(Status::unauthenticated(
                "the certificate of this connection has expired; connect with the renewed one",
            ));
        }
        let budget = match &self.standing {
            Standing::Member(budget) => budget,
            Standing::Stranger(place) => {
                let service = path
                    .strip_prefix('/')
                    .and_then(|path| path.split('/').next());
                let is_open = service.is_some_and(|name| ANONYMOUS_SERVICES.contains(&name));
                // Who has a certificate is told by the services what is wrong with it.
                if !is_open && self.peer.identity.is_none() {
                    return Err(Status::unauthenticated(
                        "this call needs a node certificate; join the cluster first",
                    ));
                }
                return Ok(Admission {
                    bound: Bound::anonymous(),
                    held: None,
                    place: CallPlace::Stranger(place.call()),
                });
            }
        };
        let place = CallPlace::Node(budget.stream()?);
        if CLIENT_STREAMS.contains(&path) {
            return Ok(Admission {
                bound: Bound::stream(),
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

    /// A connection can outlive the certificate it was made with.
    fn is_expired(&self) -> bool {
        let now = self.clock.now();
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
