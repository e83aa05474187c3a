//! The dispatcher's streams: assignments go past HTTP/2, and no message stays behind in a buffer.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use hyper::body::{Body, Frame};
use tokio_stream::Stream;
use tonic::{
    Status, Streaming,
    codec::{Codec, Decoder},
    codegen::StdError,
    metadata::MetadataMap,
    server::NamedService,
};

use super::{ASSIGNMENTS, Lines, Sender, framed};
use crate::{
    codec::FrugalCodec,
    limits,
    swarmkit::{
        AssignmentsMessage, AssignmentsRequest, SessionMessage, SessionRequest,
        dispatcher_server::{Dispatcher, DispatcherServer},
    },
};

/// Swarmkit's call that a node keeps open as long as it lives.
const SESSION: &str = "/docker.swarmkit.v1.Dispatcher/Session";

/// Serves a [`Dispatcher`] as [`DispatcherServer`] does, and keeps the content of
/// assignments out of the connection's buffers. Messages of sessions are of one piece each that
/// goes with them: a buffer for them would be kept as long as the node is there.
///
/// That needs a connection which an [`Acceptor`](crate::Acceptor) took from a member;
/// on others assignments are sent as anything else.
#[derive(Debug)]
pub struct DispatcherService<D> {
    dispatcher: Arc<D>,
    others: DispatcherServer<D>,
}

impl<D: Dispatcher> DispatcherService<D> {
    /// Serves `dispatcher`, within the bounds of [`limits`].
    pub fn new(dispatcher: D) -> DispatcherService<D> {
        let dispatcher = Arc::new(dispatcher);
        let others = DispatcherServer::from_arc(Arc::clone(&dispatcher))
            .max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
            .max_encoding_message_size(limits::CLIENT_MESSAGE_LIMIT);
        DispatcherService { dispatcher, others }
    }
}

impl<D> Clone for DispatcherService<D> {
    fn clone(&self) -> Self {
        DispatcherService {
            dispatcher: Arc::clone(&self.dispatcher),
            others: self.others.clone(),
        }
    }
}

impl<D> NamedService for DispatcherService<D> {
    const NAME: &'static str = DispatcherServer::<D>::NAME;
}

impl<D, B> tower::Service<Request<B>> for DispatcherService<D>
where
    D: Dispatcher,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let dispatcher = Arc::clone(&self.dispatcher);
        match request.uri().path() {
            ASSIGNMENTS => Box::pin(async move {
                let answer = assignments(&*dispatcher, request).await;
                Ok(answer.unwrap_or_else(Status::into_http))
            }),
            SESSION => Box::pin(async move {
                let answer = session(&*dispatcher, request).await;
                Ok(answer.unwrap_or_else(Status::into_http))
            }),
            _ => self.others.call(request),
        }
    }
}

async fn session<D, B>(
    dispatcher: &D,
    request: Request<B>,
) -> Result<Response<tonic::body::Body>, Status>
where
    D: Dispatcher,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let decoder = FrugalCodec::<SessionMessage, SessionRequest>::default().decoder();
    let request = read(decoder, request).await?;
    let messages = dispatcher.session(request).await?.into_inner();
    Ok(answer(messages, None))
}

async fn assignments<D, B>(
    dispatcher: &D,
    request: Request<B>,
) -> Result<Response<tonic::body::Body>, Status>
where
    D: Dispatcher,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let lines = request.extensions().get::<Arc<Lines>>().map(Arc::clone);
    let decoder = FrugalCodec::<AssignmentsMessage, AssignmentsRequest>::default().decoder();
    let request = read(decoder, request).await?;
    let messages = dispatcher.assignments(request).await?.into_inner();
    let way = match &lines {
        Some(lines) => Some(
            Sender::open(lines).map_err(|_| Status::internal("the system gave no random bytes"))?,
        ),
        None => None,
    };
    Ok(answer(messages, way))
}

/// The one message of a request.
async fn read<C, B>(decoder: C, request: Request<B>) -> Result<tonic::Request<C::Item>, Status>
where
    C: Decoder<Error = Status> + Send + 'static,
    B: Body + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    let (head, body) = request.into_parts();
    let limit = Some(limits::SERVER_MESSAGE_LIMIT);
    let message = Streaming::new_request(decoder, body, None, limit)
        .message()
        .await?
        .ok_or_else(|| Status::internal("the call brought no request"))?;
    let metadata = MetadataMap::from_headers(head.headers);
    Ok(tonic::Request::from_parts(
        metadata,
        head.extensions,
        message,
    ))
}

fn answer<M, T>(messages: M, way: Option<Sender>) -> Response<tonic::body::Body>
where
    M: Stream<Item = Result<T, Status>> + Send + 'static,
    T: prost::Message + 'static,
{
    let body = Answer {
        messages: Box::pin(messages),
        way,
        is_over: false,
    };
    let mut response = Response::new(tonic::body::Body::new(body));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The messages of one call.
struct Answer<M> {
    messages: Pin<Box<M>>,
    way: Option<Sender>,
    is_over: bool,
}

impl<M, T> Body for Answer<M>
where
    M: Stream<Item = Result<T, Status>>,
    T: prost::Message,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        loop {
            if let Some(blank) = self.way.as_mut().and_then(Sender::blank) {
                return Poll::Ready(Some(Ok(Frame::data(blank))));
            }
            let status = match ready!(self.messages.as_mut().poll_next(cx)) {
                Some(Ok(message)) => match framed(&message) {
                    Ok(content) => match &mut self.way {
                        Some(way) => {
                            way.put(content);
                            continue;
                        }
                        None => return Poll::Ready(Some(Ok(Frame::data(content.into())))),
                    },
                    Err(status) => status,
                },
                Some(Err(status)) => status,
                None => Status::ok(""),
            };
            self.is_over = true;
            if let Some(way) = &mut self.way {
                way.complete = true;
            }
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}
