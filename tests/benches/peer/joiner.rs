//! The cheapest joiner that there is: it shares the processors with the server.
//!
//! A TLS handshake and two gRPC calls on each connection, written by hand: frames of HTTP/2 with
//! constant headers, of the answers the messages alone. The server's work is the whole job.

use std::{
    io::{Read, Write},
    sync::{Arc, OnceLock},
};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use rustls::{
    CipherSuite, ClientConfig, ClientConnection, DigitallySignedStruct, NamedGroup,
    SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use waxseal_ca::{CA_SERVER_NAME, Clock, Purpose, Role, SystemClock, TrustBundle, verify_chain};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9113 section 6.
mod frame {
    pub(super) const HEAD_BYTES: usize = 9;
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
}
/// Before each message: one byte of flags, four of length.
const MESSAGE_HEAD_BYTES: usize = 5;
/// What is read at once.
const READ_BYTES: usize = 16 << 10;

/// What all joiners of a cluster share.
pub(crate) struct Dialler {
    address: String,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
}

impl Dialler {
    /// For the manager at `address`, which is verified at the first connection.
    pub(crate) fn new(address: String, trust: Arc<TrustBundle>) -> Result<Dialler> {
        let mut provider = ring::default_provider();
        // What Go negotiates with either server.
        provider
            .cipher_suites
            .retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
        provider
            .kx_groups
            .retain(|group| group.name() == NamedGroup::X25519);
        let provider = Arc::new(provider);
        let verifier = FirstTime {
            trust,
            provider: Arc::clone(&provider),
            certificate: OnceLock::new(),
            signature: OnceLock::new(),
        };
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Dialler {
            address,
            name: ServerName::try_from(CA_SERVER_NAME)?,
            config: Arc::new(config),
        })
    }

    /// A connection, whose handshake goes out with the first call.
    pub(crate) async fn dial(&self) -> Result<Connection> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            stream,
            tls: ClientConnection::new(Arc::clone(&self.config), self.name.clone())?,
            wire: Vec::with_capacity(READ_BYTES),
            received: Vec::with_capacity(READ_BYTES),
            waiting: Vec::with_capacity(1024),
            stream_id: 0,
        };
        connection.waiting.extend_from_slice(PREFACE);
        push_frame(&mut connection.waiting, frame::SETTINGS, 0, 0, &[]);
        Ok(connection)
    }
}

/// Verifies a manager as a joiner does, once: certificate, name, role, signature.
#[derive(Debug)]
struct FirstTime {
    trust: Arc<TrustBundle>,
    provider: Arc<CryptoProvider>,
    certificate: OnceLock<CertificateDer<'static>>,
    signature: OnceLock<()>,
}

impl ServerCertVerifier for FirstTime {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refused = |reason: String| rustls::Error::General(reason);
        match self.certificate.get() {
            Some(known) if known == end_entity => {}
            Some(_) => return Err(refused("the manager's certificate changed".to_owned())),
            None => {
                let chain: Vec<_> = std::iter::once(end_entity)
                    .chain(intermediates)
                    .map(|certificate| certificate.clone().into_owned())
                    .collect();
                let now = SystemClock.now();
                let verified = verify_chain(&chain, &self.trust, now, Purpose::Server)
                    .map_err(|error| refused(error.to_string()))?;
                if verified.identity.role != Role::Manager {
                    return Err(refused("the server is no manager".to_owned()));
                }
                let _ = self.certificate.set(end_entity.clone().into_owned());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 was asked for".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.signature.get().is_none() {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, cert, dss, algorithms)?;
            let _ = self.signature.set(());
        }
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// A connection with one call at a time.
pub(crate) struct Connection {
    stream: TcpStream,
    tls: ClientConnection,
    /// Records, in either direction.
    wire: Vec<u8>,
    /// Frames that came and were not looked at yet.
    received: Vec<u8>,
    /// Frames that go out with the next call.
    waiting: Vec<u8>,
    /// Of the last call.
    stream_id: u32,
}

impl Connection {
    /// Calls a method, `/SERVICE/METHOD`, and takes the message of its answer. What follows the
    /// message is not waited for.
    pub(crate) async fn call<A: Message + Default>(
        &mut self,
        path: &str,
        request: &impl Message,
    ) -> Result<A> {
        self.stream_id = if self.stream_id == 0 {
            1
        } else {
            self.stream_id + 2
        };
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(request.encoded_len())?.to_be_bytes());
        request.encode(&mut message)?;
        let (id, out) = (self.stream_id, &mut self.waiting);
        push_frame(out, frame::HEADERS, frame::END_HEADERS, id, &headers(path)?);
        push_frame(out, frame::DATA, frame::END_STREAM, id, &message);
        self.tls.writer().write_all(&self.waiting)?;
        self.waiting.clear();
        let mut answer = Vec::new();
        loop {
            self.send().await?;
            self.receive().await?;
            self.take_frames(&mut answer)?;
            if let Some((head, rest)) = answer.split_at_checked(MESSAGE_HEAD_BYTES) {
                let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                if rest.len() == length as usize {
                    return Ok(A::decode(rest)?);
                }
            }
        }
    }

    /// Says good-bye.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.tls.send_close_notify();
        self.send().await
    }

    async fn send(&mut self) -> Result<()> {
        self.wire.clear();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.wire)?;
        }
        if !self.wire.is_empty() {
            self.stream.write_all(&self.wire).await?;
        }
        Ok(())
    }

    /// Takes in what comes next, of the handshake or of the calls.
    async fn receive(&mut self) -> Result<()> {
        self.wire.clear();
        let read = self.stream.read_buf(&mut self.wire).await?;
        ensure!(read > 0, "the server closed the connection");
        let mut left = &self.wire[..];
        while !left.is_empty() {
            self.tls.read_tls(&mut left)?;
            let bytes = self.tls.process_new_packets()?.plaintext_bytes_to_read();
            let start = self.received.len();
            self.received.resize(start + bytes, 0);
            self.tls.reader().read_exact(&mut self.received[start..])?;
        }
        Ok(())
    }

    /// Looks at all whole frames; data of the present call goes to `answer`.
    fn take_frames(&mut self, answer: &mut Vec<u8>) -> Result<()> {
        let mut left = &self.received[..];
        while let Some((head, rest)) = left.split_at_checked(frame::HEAD_BYTES) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let Some((payload, rest)) = rest.split_at_checked(length) else {
                break;
            };
            left = rest;
            let is_present = id == self.stream_id;
            match kind {
                frame::SETTINGS if flags & frame::ACK == 0 => {
                    push_frame(&mut self.waiting, frame::SETTINGS, frame::ACK, 0, &[]);
                }
                frame::PING if flags & frame::ACK == 0 => {
                    push_frame(&mut self.waiting, frame::PING, frame::ACK, 0, payload);
                }
                frame::GOAWAY | frame::RST_STREAM => bail!("the server ended the call"),
                frame::DATA if is_present => {
                    ensure!(flags & frame::PADDED == 0, "the server pads its answers");
                    answer.extend_from_slice(payload);
                }
                // Trailers without a message.
                frame::HEADERS if is_present && flags & frame::END_STREAM != 0 => {
                    let is_whole = answer.len() > MESSAGE_HEAD_BYTES;
                    ensure!(is_whole, "refused: {}", String::from_utf8_lossy(payload));
                }
                _ => {}
            }
        }
        let taken = self.received.len() - left.len();
        self.received.drain(..taken);
        Ok(())
    }
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream_id: u32, payload: &[u8]) {
    // Far below 2^24.
    let [_, length @ ..] = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream_id.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The headers of a call, none of them compressed beyond the static table (RFC 7541 appendix A).
fn headers(path: &str) -> Result<Vec<u8>> {
    // ":method: POST", ":scheme: https".
    let mut block = vec![0x83, 0x87];
    let mut literal = |name: &[u8], value: &str| -> Result<()> {
        block.extend_from_slice(name);
        // A length in one byte of which seven bits count.
        let length = u8::try_from(value.len()).ok().filter(|bytes| *bytes < 127);
        block.push(length.context("a header is too long")?);
        block.extend_from_slice(value.as_bytes());
        Ok(())
    };
    // Names by their places in the table: ":authority", ":path", "content-type".
    literal(&[0x01], CA_SERVER_NAME)?;
    literal(&[0x04], path)?;
    literal(&[0x0f, 0x10], "application/grpc")?;
    literal(b"\x00\x02te", "trailers")?;
    Ok(block)
}
