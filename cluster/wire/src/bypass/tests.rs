//! Assignments over HTTP/2 with a look at what HTTP/2 itself is given.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client, server};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, async_trait};
use waxseal_cluster::objects::{Secret, SecretSpec};

use super::*;
use crate::swarmkit::{
    Assignment, AssignmentChange, AssignmentsMessage, AssignmentsRequest, HeartbeatRequest,
    HeartbeatResponse, SessionMessage, SessionRequest, UpdateTaskStatusRequest,
    UpdateTaskStatusResponse, assignment::Item, dispatcher_client::DispatcherClient,
    dispatcher_server::Dispatcher,
};

const MARKER: &[u8] = b"correct horse battery staple";
const SOON: Duration = Duration::from_secs(20);

type Messages = Vec<Result<AssignmentsMessage, Status>>;

/// A secret of that many bytes, the marker all over it.
fn message(mark: &str, bytes: usize) -> AssignmentsMessage {
    let data = MARKER.iter().copied().cycle().take(bytes).collect();
    let secret = Secret {
        id: "s1".into(),
        spec: Some(SecretSpec {
            data,
            ..Default::default()
        }),
        ..Default::default()
    };
    let change = AssignmentChange {
        assignment: Some(Assignment {
            item: Some(Item::Secret(secret)),
        }),
        action: 0,
    };
    AssignmentsMessage {
        results_in: mark.into(),
        changes: vec![change],
        ..Default::default()
    }
}

/// Answers each call with its messages; the stream stays open for session `open`.
struct Manager(Messages);

#[async_trait]
impl Dispatcher for Manager {
    type SessionStream = ReceiverStream<Result<SessionMessage, Status>>;
    type AssignmentsStream = ReceiverStream<Result<AssignmentsMessage, Status>>;

    async fn session(
        &self,
        _: tonic::Request<SessionRequest>,
    ) -> Result<tonic::Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn heartbeat(
        &self,
        request: tonic::Request<HeartbeatRequest>,
    ) -> Result<tonic::Response<HeartbeatResponse>, Status> {
        assert_eq!(request.get_ref().session_id, "beat");
        Ok(tonic::Response::new(HeartbeatResponse::default()))
    }

    async fn update_task_status(
        &self,
        _: tonic::Request<UpdateTaskStatusRequest>,
    ) -> Result<tonic::Response<UpdateTaskStatusResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn assignments(
        &self,
        request: tonic::Request<AssignmentsRequest>,
    ) -> Result<tonic::Response<Self::AssignmentsStream>, Status> {
        let session = request.into_inner().session_id;
        if session.is_empty() {
            return Err(Status::invalid_argument("session invalid"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let messages = self.0.clone();
        tokio::spawn(async move {
            for message in messages {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            if session == "open" {
                sender.closed().await;
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }
}

/// Keeps all that HTTP/2 reads and writes.
struct Recorded<S> {
    stream: S,
    bytes: Arc<Mutex<Vec<u8>>>,
    vectored: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Recorded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        lock(&self.bytes).extend_from_slice(&buffer.filled()[before..]);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Recorded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        lock(&self.bytes).extend_from_slice(bytes);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        for bytes in buffers {
            lock(&self.bytes).extend_from_slice(bytes);
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The client's end.
#[derive(Clone)]
struct Channel(client::conn::http2::SendRequest<tonic::body::Body>);

impl tower::Service<Request<tonic::body::Body>> for Channel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<tonic::body::Body>) -> Self::Future {
        let path = request.uri().path();
        *request.uri_mut() = format!("https://swarm-manager{path}").parse().unwrap();
        Box::pin(self.0.send_request(request))
    }
}

/// A connection in memory.
struct Wire {
    channel: Channel,
    lines: Arc<Lines>,
    server_lines: Arc<Lines>,
    /// What HTTP/2 saw at both ends.
    seen: Arc<Mutex<Vec<u8>>>,
}

struct Shape {
    pipe: usize,
    window: u32,
    vectored: bool,
    /// Whether the two ends know of lines.
    client: bool,
    server: bool,
}

const SHAPE: Shape = Shape {
    pipe: 64 * 1024,
    window: 1024 * 1024,
    vectored: true,
    client: true,
    server: true,
};

impl Wire {
    async fn new(messages: Messages, shape: Shape) -> Wire {
        let (near, far): (DuplexStream, DuplexStream) = tokio::io::duplex(shape.pipe);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (lines, server_lines) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        let recorded = |stream| {
            TokioIo::new(Recorded {
                stream,
                bytes: Arc::clone(&seen),
                vectored: shape.vectored,
            })
        };
        let known = shape.server.then_some(&server_lines);
        let server = recorded(Bypassed::new(far, Side::Server, known));
        let service = DispatcherService::new(Manager(messages));
        let known = known.cloned();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let mut service = service.clone();
            if let Some(lines) = &known {
                request.extensions_mut().insert(Arc::clone(lines));
            }
            async move { tower::Service::call(&mut service, request).await }
        });
        tokio::spawn(
            server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(server, service),
        );
        let known = shape.client.then_some(&lines);
        let client = recorded(Bypassed::new(near, Side::Client, known));
        let connecting = client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(shape.window)
            .handshake(client);
        let (requests, connection) = timeout(SOON, connecting).await.unwrap().unwrap();
        tokio::spawn(connection);
        Wire {
            channel: Channel(requests),
            lines,
            server_lines,
            seen,
        }
    }

    async fn assignments(&self, session: &str) -> Result<Assignments, Status> {
        let request = AssignmentsRequest {
            session_id: session.into(),
        };
        let call = Assignments::call(self.channel.clone(), &self.lines, request);
        timeout(SOON, call).await.unwrap()
    }

    fn shows_marker(&self) -> bool {
        let seen = lock(&self.seen);
        seen.windows(16).any(|window| window == &MARKER[..16])
    }

    fn is_idle(&self) -> bool {
        lock(&self.lines.waiting).is_empty() && lock(&self.server_lines.waiting).is_empty()
    }
}

async fn next(stream: &mut Assignments) -> Result<Option<AssignmentsMessage>, Status> {
    timeout(SOON, stream.message()).await.unwrap()
}

async fn assert_messages(stream: &mut Assignments, messages: &Messages) {
    for expected in messages {
        match (next(stream).await, expected) {
            (Ok(message), Ok(expected)) => assert_eq!(message.as_ref(), Some(expected)),
            (Err(status), Err(expected)) => {
                assert_eq!(status.code(), expected.code());
                assert_eq!(status.message(), expected.message());
                return;
            }
            (found, expected) => panic!("{found:?} is not {expected:?}"),
        }
    }
    assert_eq!(next(stream).await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_call_says_why_and_leaves_no_line() {
    let wire = Wire::new(vec![], SHAPE).await;
    let status = wire.assignments("").await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "session invalid");
    assert!(wire.is_idle());
}

#[tokio::test]
async fn content_arrives_and_http2_never_sees_it() {
    let ends = [None, Some(Status::aborted("node must disconnect"))];
    for (end, vectored) in ends.into_iter().zip([true, false]) {
        let mut messages: Messages = [1, 0, 200, 300, 16_384 - 60, 700_000, 20]
            .iter()
            .enumerate()
            .map(|(mark, bytes)| Ok(message(&mark.to_string(), *bytes)))
            .collect();
        messages.extend(end.map(Err));
        let wire = Wire::new(messages.clone(), Shape { vectored, ..SHAPE }).await;
        let mut stream = wire.assignments("s").await.unwrap();
        assert_messages(&mut stream, &messages).await;
        assert!(!wire.shows_marker());
        assert!(wire.is_idle());
    }
}

#[tokio::test]
async fn narrow_pipes_and_windows_cut_even_the_mark() {
    let messages: Messages = vec![Ok(message("1", 900)), Ok(message("2", 40))];
    // Both ends' settings have to fit, as each sends its own first.
    for (pipe, window) in [(100, 65_535), (101, 4), (200, 1), (300, 3)] {
        for vectored in [true, false] {
            let shape = Shape {
                pipe,
                window,
                vectored,
                ..SHAPE
            };
            let wire = Wire::new(messages.clone(), shape).await;
            let mut stream = wire.assignments("s").await.unwrap();
            assert_messages(&mut stream, &messages).await;
            assert!(!wire.shows_marker(), "pipe {pipe}, window {window}");
        }
    }
}

#[tokio::test]
async fn an_end_that_knows_no_lines_notices_nothing() {
    let messages: Messages = vec![Ok(message("1", 500)), Ok(message("2", 100_000))];
    // A stock engine: what it receives is plain.
    let shape = Shape {
        client: false,
        ..SHAPE
    };
    let wire = Wire::new(messages.clone(), shape).await;
    let mut client = DispatcherClient::new(wire.channel.clone());
    let request = AssignmentsRequest {
        session_id: "s".into(),
    };
    let mut stream = client.assignments(request).await.unwrap().into_inner();
    for expected in &messages {
        let message = timeout(SOON, stream.message()).await.unwrap().unwrap();
        assert_eq!(message.as_ref(), expected.as_ref().ok());
    }
    assert!(
        wire.shows_marker(),
        "its own HTTP/2 has it, and the look finds it"
    );
    // A stock manager: what it sends is plain.
    let shape = Shape {
        server: false,
        ..SHAPE
    };
    let wire = Wire::new(messages.clone(), shape).await;
    let mut stream = wire.assignments("s").await.unwrap();
    assert_messages(&mut stream, &messages).await;
}

#[tokio::test]
async fn streams_beside_each_other_and_after_a_reset_keep_apart() {
    let messages: Messages = (0..8)
        .map(|mark: u8| Ok(message(&mark.to_string(), 90_000)))
        .collect();
    let wire = Wire::new(messages.clone(), SHAPE).await;
    for _ in 0..4 {
        let mut one = wire.assignments("open").await.unwrap();
        let mut two = wire.assignments("s").await.unwrap();
        assert_eq!(next(&mut one).await.unwrap(), messages[0].clone().ok());
        assert_eq!(next(&mut two).await.unwrap(), messages[0].clone().ok());
        // Broken off with content on its way.
        drop(one);
        let beat = HeartbeatRequest {
            session_id: "beat".into(),
        };
        let mut client = DispatcherClient::new(wire.channel.clone());
        timeout(SOON, client.heartbeat(beat))
            .await
            .unwrap()
            .unwrap();
        assert_messages(&mut two, &messages[1..].to_vec()).await;
    }
    assert!(!wire.shows_marker());
    assert!(wire.is_idle());
}

#[test]
fn what_is_not_sent_is_wiped_with_its_sender() {
    let lines = Arc::<Lines>::default();
    let mut sender = Sender::open(&lines).unwrap();
    sender.put(MARKER.to_vec());
    let line = Arc::clone(&sender.line);
    assert_eq!(lock(&lines.waiting).len(), 1);
    drop(sender);
    assert!(lock(&lines.waiting).is_empty());
    assert!(lock(&line.outgoing).first().is_empty());
}

#[tokio::test]
async fn missing_content_ends_the_connection_and_no_blank_is_sent() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let lines = Arc::<Lines>::default();
    let (mark, _line) = lines.open().unwrap();
    let (near, mut far) = tokio::io::duplex(64);
    let mut stream = Bypassed::new(near, Side::Server, Some(&lines));
    let head = [0, 0, 5, 0, 0, 0, 0, 0, 1];
    stream.write_all(&head).await.unwrap();
    let error = stream.write_all(&mark).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(stream);
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, head);
}

/// An answer may be cut short with a status of its own: what HTTP/2 has blanks for by then
/// still goes out, and blanks would be messages without content.
#[tokio::test]
async fn what_has_its_blanks_goes_out_also_if_the_rest_never_does() {
    let lines = Arc::default();
    let (near, mut far) = tokio::io::duplex(1024);
    let mut stream = Bypassed::new(near, Side::Server, Some(&lines));
    let mut sender = Sender::open(&lines).unwrap();
    sender.put(b"0123456789".to_vec());
    let mut blanks = Vec::new();
    while let Some(blank) = sender.blank() {
        blanks.extend_from_slice(&blank);
    }
    sender.put(b"never".to_vec());
    drop(sender);
    let head = [0, 0, 10, 0, 0, 0, 0, 0, 1];
    stream.write_all(&head).await.unwrap();
    stream.write_all(&blanks).await.unwrap();
    drop(stream);
    let mut sent = Vec::new();
    far.read_to_end(&mut sent).await.unwrap();
    assert_eq!(sent, [&head[..], b"0123456789"].concat());
    // One that was reset before anything of it was sent is forgotten with the next reset.
    let mut sender = Sender::open(&lines).unwrap();
    sender.put(b"0123456789".to_vec());
    assert!(sender.blank().is_some());
    drop(sender);
    assert_eq!(lock(&lines.waiting).len(), 1);
    lines.forget_broken_off();
    assert!(lock(&lines.waiting).is_empty());
}
