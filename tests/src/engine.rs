//! A plain client of the Engine API, for what the CLI does not send.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, runtime::Runtime, time::timeout};

/// How long one call may take; some wait for a node to start.
const LIMIT: Duration = Duration::from_secs(30);

/// A socket of the Engine API.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: PathBuf,
    limit: Duration,
}

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The text of an error's `message`.
    ///
    /// # Errors
    /// When the body has none.
    pub fn message(&self) -> Result<String> {
        let body = self.json()?;
        let message = body["message"].as_str().context("no message")?;
        Ok(message.to_owned())
    }

    /// Itself, if the status is the expected one.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect(self, status: u16) -> Result<Answer> {
        if self.status.as_u16() != status {
            bail!(
                "answered {}, not {status}: {}",
                self.status,
                String::from_utf8_lossy(&self.body)
            );
        }
        Ok(self)
    }
}

impl Engine {
    /// A client of a socket.
    #[must_use]
    pub fn new(socket: &Path) -> Engine {
        Engine {
            socket: socket.to_owned(),
            limit: LIMIT,
        }
    }

    /// The same with another limit to how long one call may take.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Engine {
        Engine { limit, ..self }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A connection that many calls can use one after the other.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn connect(&self) -> Result<Connection> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            anyhow::Ok(sender)
        });
        let sender = sender.with_context(|| format!("connect to {}", self.socket.display()))?;
        Ok(Connection {
            runtime,
            sender,
            limit: self.limit,
        })
    }

    /// A POST whose caller hangs up half a second after it was sent.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn leave_early(&self, path: &str, body: &Value) -> Result<()> {
        let body = body.to_string();
        let mut stream = StdUnixStream::connect(&self.socket)?;
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// One call with a JSON body or none.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.connect()?.call(method, path, body)
    }

    /// GET that must succeed, as JSON.
    ///
    /// # Errors
    /// When it does not.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None)?.expect(200)?.json()
    }

    /// Sends bytes as they are, as one request's body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send_bytes(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Answer> {
        self.connect()?.send(method, path, "application/json", body)
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    runtime: Runtime,
    sender: http1::SendRequest<Full<Bytes>>,
    limit: Duration,
}

impl Connection {
    /// One call with a JSON body or none.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        self.send(method, path, "application/json", bytes)
    }

    /// One call with any body.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Answer> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("Host", "docker");
        if !body.is_empty() {
            request = request.header("Content-Type", content_type);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        let (sender, limit) = (&mut self.sender, self.limit);
        self.runtime.block_on(async {
            let exchange = async {
                sender.ready().await?;
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok(Answer {
                    status: head.status,
                    headers: head.headers,
                    body,
                })
            };
            timeout(limit, exchange)
                .await
                .context("no answer in time")?
        })
    }
}

/// Sends raw bytes to a socket and reads what comes back until the end or `limit`.
///
/// # Errors
/// When nobody listens.
pub fn raw_exchange(socket: &Path, bytes: &[u8], limit: Duration) -> Result<Vec<u8>> {
    let mut stream = StdUnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    // A server may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    Ok(answer)
}
