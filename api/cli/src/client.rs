//! A small client of the Engine API: one connection per request.

use std::{future::Future, io, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time::timeout,
};

use crate::{
    failure::{Exit, Failure, chain, from_answer},
    registry::Credentials,
    socket::Socket,
    tls,
};

/// A socket answers a connect at once, or its daemon hangs.
const CONNECT: Duration = Duration::from_secs(5);
/// A join takes up to 20 s, an unlock or a stop of tasks may take longer.
const ANSWER: Duration = Duration::from_secs(90);
/// Largest answer that is read: some ten thousand services.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Header of a registry's credentials.
const REGISTRY_AUTH: &str = "x-registry-auth";

/// Runs a client's work on one thread.
pub(crate) fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.map_err(|error| no_runtime(&error))?.block_on(work)
}

/// The system gave us no event loop.
pub(crate) fn no_runtime(error: &io::Error) -> Failure {
    Failure::refused(format!("the event loop could not be started: {error}"))
        .hint("look at the limits of open files and processes (ulimit -a)")
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A client of the daemon behind one socket.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: Socket,
}

/// `{"message": …}` of the Engine API, or a problem document of `/waxseal/v1`.
#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: String,
}

impl Client {
    pub(crate) fn new(socket: Socket) -> Client {
        Client { socket }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = self.call(Method::GET, path, None, None).await?;
        parse(path, &answer)
    }

    pub(crate) async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, Failure> {
        self.post_with(path, body, None).await
    }

    /// Posts with credentials of a registry.
    pub(crate) async fn post_with<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        credentials: Option<&Credentials>,
    ) -> Result<T, Failure> {
        let credentials = credentials.map(Credentials::header).transpose()?;
        let body = Some(json(body)?);
        let answer = self.call(Method::POST, path, body, credentials).await?;
        parse(path, &answer)
    }

    /// Posts where the answer says no more than that it was done.
    pub(crate) async fn post_quietly<B: Serialize + ?Sized>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<(), Failure> {
        self.call(Method::POST, path, Some(json(body)?), None)
            .await
            .map(drop)
    }

    /// Posts nothing.
    pub(crate) async fn post_empty(&self, path: &str) -> Result<(), Failure> {
        self.call(Method::POST, path, None, None).await.map(drop)
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call(Method::DELETE, path, None, None).await.map(drop)
    }

    /// The body of an answer as it comes.
    pub(crate) async fn stream(&self, path: &str) -> Result<Incoming, Failure> {
        let response = self.send(Method::GET, path, None, None).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let status = response.status();
        Err(refusal(status, &self.whole(response.into_body()).await?))
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        credentials: Option<HeaderValue>,
    ) -> Result<Bytes, Failure> {
        let answered = timeout(ANSWER, async {
            let response = self.send(method, path, body, credentials).await?;
            let status = response.status();
            Ok((status, self.whole(response.into_body()).await?))
        });
        let (status, answer) = match answered.await {
            Ok(answered) => answered?,
            Err(_) => return Err(self.silent(ANSWER)),
        };
        if status.is_success() {
            return Ok(answer);
        }
        Err(refusal(status, &answer))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        credentials: Option<HeaderValue>,
    ) -> Result<http::Response<Incoming>, Failure> {
        let stream = match timeout(CONNECT, self.connect()).await {
            Ok(stream) => stream?,
            Err(_) => return Err(self.silent(CONNECT)),
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(&error))?;
        // It ends with the answer; what goes wrong in it shows there.
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "waxseal");
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(credentials) = credentials {
            request = request.header(REGISTRY_AUTH, credentials);
        }
        let request = request
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| {
                Failure::usage(format!("the request for {path} cannot be written: {error}"))
            })?;
        sender
            .send_request(request)
            .await
            .map_err(|error| self.broken(&error))
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        match &self.socket {
            Socket::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(self.unreachable(&error)),
            },
            Socket::Tcp(address) => Ok(Box::new(tls::connect(address).await?)),
        }
    }

    async fn whole(&self, body: Incoming) -> Result<Bytes, Failure> {
        match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) => Err(self.broken(&*error)),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let start = match self.socket.is_default() {
            true => "waxseal daemon".to_owned(),
            false => format!("waxseal daemon -H {}", self.socket),
        };
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::new(
                Exit::Unreachable,
                format!("no daemon is running on {}", self.socket),
            )
            .hint(format!("start one as root with `{start}`, or name the socket of another with -H")),
            io::ErrorKind::PermissionDenied => Failure::new(
                Exit::Unreachable,
                format!("{} may not be opened by this user", self.socket),
            )
            .hint("run as root, or as a member of the group that the daemon was given with --group; who may open it is root on the cluster"),
            _ => Failure::new(
                Exit::Unreachable,
                format!("{} cannot be opened: {error}", self.socket),
            )
            .hint(format!("`{start}` starts a daemon; -H names another socket")),
        }
    }

    fn silent(&self, after: Duration) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!(
                "the daemon on {} did not answer within {} s",
                self.socket,
                after.as_secs()
            ),
        )
        .hint("look at its log; restart it if it hangs: tasks go on meanwhile")
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Failure {
        Failure::new(
            Exit::Unreachable,
            format!("the daemon on {} broke off: {}", self.socket, chain(error)),
        )
        .hint("look at its log, and at whether it still runs with `waxseal status`")
    }
}

fn json<B: Serialize + ?Sized>(body: &B) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(body)
        .map_err(|error| Failure::usage(format!("the request cannot be written: {error}")))?;
    Ok(body.into())
}

fn parse<T: DeserializeOwned>(path: &str, answer: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(answer).map_err(|error| {
        let path = path.split('?').next().unwrap_or(path);
        Failure::refused(format!("the answer to {path} is not understood: {error}"))
            .hint("is this the socket of a waxseal daemon or a Docker Engine? `waxseal version` shows both versions")
    })
}

fn refusal(status: StatusCode, answer: &[u8]) -> Failure {
    let body: ErrorBody = serde_json::from_slice(answer).unwrap_or_default();
    let text = if body.message.is_empty() {
        body.detail
    } else {
        body.message
    };
    from_answer(status, &text)
}

/// A name or id as one segment of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut path = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                path.push(char::from(byte));
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

/// The `filters` parameter: values of one key are alternatives.
pub(crate) fn filters(filters: &[(&str, &[&str])]) -> String {
    let map: serde_json::Map<_, _> = filters
        .iter()
        .map(|(key, values)| ((*key).to_owned(), (*values).into()))
        .collect();
    format!(
        "filters={}",
        segment(&serde_json::Value::Object(map).to_string())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(segment("a-b_c.d"), "a-b_c.d");
        assert_eq!(segment("../nodes?x=1 ü"), "..%2Fnodes%3Fx%3D1%20%C3%BC");
    }

    #[test]
    fn filters_are_one_parameter() {
        assert_eq!(
            filters(&[("name", &["a", "b"])]),
            "filters=%7B%22name%22%3A%5B%22a%22%2C%22b%22%5D%7D"
        );
    }

    #[test]
    fn a_problem_document_and_an_engine_error_are_told_alike() {
        let engine = refusal(StatusCode::NOT_FOUND, br#"{"message":"node x not found"}"#);
        let problem = refusal(
            StatusCode::NOT_FOUND,
            br#"{"title":"t","detail":"node x not found"}"#,
        );
        assert_eq!(engine.message, problem.message);
        assert!(
            refusal(StatusCode::NOT_FOUND, b"<html>")
                .message
                .contains("404")
        );
    }
}
