//! Calls of nodes that reach a manager which does not lead, on their way to the leader.
//!
//! A call goes on as it came, as the same HTTP/2 request with its messages untouched,
//! in both directions and as fast as the slower end takes them. The caller's
//! certificates go with it, and the leader believes nothing else of it.

use std::{
    fmt,
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, Request, Response, header};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;
use tower::Service;
use waxseal_ca::{NodeIdentity, reclaim::ChannelBinding};

use super::body::Bounded;
use crate::{
    bypass::{ASSIGNMENTS, Lines, PREFIX_BYTES, Passing},
    dial::ManagerChannel,
    envelope,
    peer::Peer,
};

/// What relayed calls are made under, before their own path.
pub(super) const RELAY_PREFIX: &str = "/waxseal.v1.Relay/";
/// The services that only the leader serves.
const LEADER_SERVICES: [&str; 4] = [
    "waxseal.v1.Reclaim",
    "docker.swarmkit.v1.NodeCA",
    "docker.swarmkit.v1.Dispatcher",
    "docker.swarmkit.v1.LogBroker",
];
/// The headers that a service may look at; the rest stays here.
const HEADERS: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::TE,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("waxseal-features"),
];

const NO_LEADER: &str = "the swarm does not have a leader; try again";
const LEADER_GONE: &str = "the leader of the swarm changed; try again";

/// Whether a call of this path is for the leader alone.
pub(super) fn is_for_leader(path: &str) -> bool {
    super::request::service_of(path).is_some_and(|name| LEADER_SERVICES.contains(&name))
}

/// Where the calls of nodes are served.
#[derive(Clone)]
pub enum Course {
    /// By this manager, which leads.
    Here,
    /// By another, to which they are relayed.
    Leader(Arc<ToLeader>),
    /// By none that is known.
    Nowhere,
}

/// The way to the leader, for as long as it leads.
pub struct ToLeader {
    /// The connection to it.
    pub channel: ManagerChannel,
    /// Of the cluster, for the envelopes.
    pub incarnation: u64,
    /// Ends the calls that are relayed: the leader or the connection has changed.
    pub over: CancellationToken,
}

impl fmt::Debug for Course {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Course::Here => "Here",
            Course::Leader(_) => "Leader",
            Course::Nowhere => "Nowhere",
        })
    }
}

/// What a relaying manager says of a caller; its certificates are not verified.
pub struct RelayClaim<'a> {
    /// The caller's certificates, leaf first; empty if it presented none.
    pub chain: &'a [CertificateDer<'static>],
    /// Of the cluster, as the relaying manager knows it.
    pub incarnation: u64,
}

/// Says whether a relayed call counts.
pub trait Vouch: Send + Sync + 'static {
    /// Verifies that `relayer`, whose certificate is a manager's, is a manager now, and
    /// the caller's certificates as a handshake would; answers who the caller is, or
    /// `None` if it presented none.
    ///
    /// # Errors
    /// The status that the call is answered with.
    fn vouch(
        &self,
        relayer: &NodeIdentity,
        claim: &RelayClaim<'_>,
    ) -> Result<Option<NodeIdentity>, Status>;
}

/// How a door gets calls to the leader, and takes those that others relay.
#[derive(Clone)]
pub struct Relay {
    /// Where calls are served now.
    pub course: watch::Receiver<Course>,
    /// Verifies relayed calls.
    pub vouch: Arc<dyn Vouch>,
}

impl Relay {
    /// Serves everything here and takes nothing from others.
    pub fn none() -> Relay {
        Relay {
            // Without its sender it keeps its value.
            course: watch::channel(Course::Here).1,
            vouch: Arc::new(NoRelay),
        }
    }

    /// Waits until it is known where calls are served, but not for long.
    ///
    /// # Errors
    /// `Unavailable` if it is not known, or not `Here` for a call that was relayed once.
    pub(super) async fn course(&self, was_relayed: bool) -> Result<Course, Status> {
        let is_known = |course: &Course| match course {
            Course::Here => true,
            Course::Leader(_) => !was_relayed,
            Course::Nowhere => false,
        };
        {
            let course = self.course.borrow();
            if is_known(&course) {
                return Ok(course.clone());
            }
        }
        let mut course = self.course.clone();
        let waiting = course.wait_for(is_known);
        match tokio::time::timeout(crate::limits::LEADER_WAIT, waiting).await {
            Ok(Ok(course)) => Ok(course.clone()),
            _ => Err(Status::unavailable(NO_LEADER)),
        }
    }
}

struct NoRelay;

impl Vouch for NoRelay {
    fn vouch(
        &self,
        _relayer: &NodeIdentity,
        _claim: &RelayClaim<'_>,
    ) -> Result<Option<NodeIdentity>, Status> {
        Err(Status::permission_denied("no calls are relayed to here"))
    }
}

/// A relayed call as its envelope has it.
pub(super) struct Relayed {
    /// Path of the call itself.
    pub(super) path: String,
    pub(super) address: SocketAddr,
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// As verified anew.
    pub(super) identity: Option<NodeIdentity>,
    /// As the relaying manager says.
    pub(super) binding: Option<ChannelBinding>,
}

impl Relayed {
    /// Opens the envelope of a call under [`RELAY_PREFIX`].
    ///
    /// # Errors
    /// `PermissionDenied` and the like: the call is refused.
    pub(super) fn open(
        relay: &Relay,
        relayer: &NodeIdentity,
        path: &str,
        sealed: Option<&http::HeaderValue>,
    ) -> Result<Relayed, Status> {
        // 1. Nothing else is relayed, relaying itself least of all.
        let path = path.strip_prefix(RELAY_PREFIX).unwrap_or_default();
        let path = format!("/{path}");
        if !is_for_leader(&path) {
            return Err(Status::permission_denied(
                "calls of this service are not relayed",
            ));
        }
        // 2. Who calls, by its own certificates.
        let opened = sealed.ok_or(envelope::EnvelopeError::Malformed)?;
        let opened = envelope::open(opened)?;
        let claim = RelayClaim {
            chain: &opened.chain,
            incarnation: opened.incarnation,
        };
        let identity = relay.vouch.vouch(relayer, &claim)?;
        Ok(Relayed {
            path,
            address: opened.address,
            chain: opened.chain.into(),
            identity,
            binding: opened.binding,
        })
    }
}

/// Relays a call; what the leader does not answer, this answers with `Unavailable`.
pub(super) async fn forward(
    leader: &ToLeader,
    peer: &Peer,
    lines: Option<&Arc<Lines>>,
    request: Request<Bounded<Incoming>>,
) -> Response<AxumBody> {
    let refused = Arc::new(OnceLock::new());
    let brings_secrets = request.uri().path() == ASSIGNMENTS;
    let readdressed = readdressed(leader, peer, request, Arc::clone(&refused));
    let readdressed = match readdressed {
        Ok(request) if brings_secrets => past_buffers(leader, lines, request).await,
        Ok(request) => Ok((request.map(tonic::body::Body::new), None)),
        Err(status) => Err(status),
    };
    let (request, passing) = match readdressed {
        Ok(readdressed) => readdressed,
        Err(status) => return refused.get().cloned().unwrap_or(status).into_http(),
    };
    let mut channel = leader.channel.clone();
    let answer = leader.over.run_until_cancelled(channel.call(request)).await;
    let gone = match answer {
        Some(Ok(response)) => {
            let over = leader.over.clone();
            return response.map(|body| match passing {
                Some(passing) => AxumBody::new(relayed(passing.pass(body), over, channel)),
                None => AxumBody::new(relayed(body, over, channel)),
            });
        }
        Some(Err(error)) => {
            tracing::debug!(%error, "a relayed call failed");
            Status::unavailable("the connection to the leader of the swarm ended; try again")
        }
        None => Status::unavailable(LEADER_GONE),
    };
    refused.get().cloned().unwrap_or(gone).into_http()
}

/// An answer on its way from the leader.
fn relayed<B>(body: B, over: CancellationToken, channel: ManagerChannel) -> Until<B> {
    Until {
        _channel: Some(channel),
        ..Until::new(body, over, LEADER_GONE)
    }
}

/// A call whose answer brings secrets, which lie in no buffer of either connection. It has
/// one short message, which is taken in whole.
async fn past_buffers(
    leader: &ToLeader,
    lines: Option<&Arc<Lines>>,
    request: Request<Noting>,
) -> Result<(Request<tonic::body::Body>, Option<Passing>), Status> {
    let (parts, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(Status::from_error)?;
        if let Ok(data) = frame.into_data() {
            message.extend_from_slice(&data);
        }
    }
    if message.len() < PREFIX_BYTES {
        return Err(Status::invalid_argument("the call brought no request"));
    }
    let (question, passing) = Passing::new(leader.channel.lines(), lines, message)?;
    let body = tonic::body::Body::new(question);
    Ok((Request::from_parts(parts, body), Some(passing)))
}

/// The call as the leader is to get it.
fn readdressed(
    leader: &ToLeader,
    peer: &Peer,
    request: Request<Bounded<Incoming>>,
    refused: Arc<OnceLock<Status>>,
) -> Result<Request<Noting>, Status> {
    let (parts, body) = request.into_parts();
    let mut headers = HeaderMap::with_capacity(HEADERS.len() + 1);
    for name in HEADERS {
        if let Some(value) = parts.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    envelope::enclose(&mut headers, peer, leader.incarnation)?;
    let path = parts.uri.path().trim_start_matches('/');
    let mut request = Request::new(Noting { body, refused });
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("{RELAY_PREFIX}{path}")
        .parse()
        .map_err(|_| Status::invalid_argument("the call's path is not one"))?;
    *request.headers_mut() = headers;
    Ok(request)
}

/// A body that keeps why it was refused: the stream to the leader only breaks off.
struct Noting {
    body: Bounded<Incoming>,
    refused: Arc<OnceLock<Status>>,
}

impl Body for Noting {
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &frame
            && let Some(status) = error.downcast_ref::<Status>()
        {
            // The first is the cause.
            let _ = self.refused.set(status.clone());
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

/// A response body that ends with `Unavailable` when it has to, or when it breaks off.
pub(super) struct Until<B> {
    body: B,
    over: Pin<Box<WaitForCancellationFutureOwned>>,
    reason: &'static str,
    ended: bool,
    /// A connection lives as long as a call on it does.
    _channel: Option<ManagerChannel>,
}

impl<B> Until<B> {
    pub(super) fn new(body: B, over: CancellationToken, reason: &'static str) -> Until<B> {
        Until {
            body,
            over: Box::pin(over.cancelled_owned()),
            reason,
            ended: false,
            _channel: None,
        }
    }
}

impl<B> Body for Until<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let reason = match self.over.as_mut().poll(cx) {
            Poll::Ready(()) => self.reason,
            Poll::Pending => match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => return Poll::Ready(Some(Ok(frame))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "a relayed call broke off");
                    LEADER_GONE
                }
            },
        };
        self.ended = true;
        let mut trailers = HeaderMap::new();
        match Status::unavailable(reason).add_header(&mut trailers) {
            Ok(()) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Err(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
