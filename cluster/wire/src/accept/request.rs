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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::ServiceExt;
use waxseal_ca::Clock;

use crate::{
    limits::{RESET_WINDOW, RESETS_PER_WINDOW},
    peer::Peer,
};

/// Serves the requests of one connection.
#[derive(Clone)]
pub(super) struct ConnectionService {
    pub(super) router: axum::Router,
    pub(super) peer: Peer,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) resets: Arc<Resets>,
}

impl ConnectionService {
    /// Answers a request, with the peer in its extensions.
    pub(super) async fn answer(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Watched>, std::convert::Infallible> {
        let watch = self.resets.watch();
        if self.is_expired() {
            let status = Status::unauthenticated(
                "the certificate of this connection has expired; connect with the renewed one",
            );
            return Ok(watch.wrap(status.into_http::<axum::body::Body>()));
        }
        request.extensions_mut().insert(self.peer);
        let request = request.map(axum::body::Body::new);
        let response = match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        Ok(watch.wrap(response))
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
}

impl StreamWatch {
    fn wrap(self, response: Response<axum::body::Body>) -> Response<Watched> {
        response.map(|body| Watched { body, watch: self })
    }

    fn ended(&mut self) {
        self.resets = None;
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
