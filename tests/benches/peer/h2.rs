//! Calls over TLS with as little work as will do: frames of HTTP/2 with constant headers, of the
//! answers the messages alone. It shares the processors with the server.

use std::{
    io::{self, ErrorKind, Read, Write},
    mem::take,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use rustls::{ClientConfig, ClientConnection, pki_types::ServerName};
use tokio::net::{TcpSocket, TcpStream};
use waxseal_ca::CA_SERVER_NAME;

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
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
}
/// SETTINGS_INITIAL_WINDOW_SIZE, RFC 9113 section 6.5.2.
const STREAM_WINDOW_SETTING: u16 = 4;
/// More than a connection here ever takes, so that no window is ever updated.
const WINDOW: u32 = 1 << 30;
/// Before each message: one byte of flags, four of length.
const MESSAGE_HEAD_BYTES: usize = 5;

/// One connection; any number of calls.
pub(crate) struct Connection {
    stream: TcpStream,
    tls: ClientConnection,
    /// Frames that came and were not looked at yet.
    received: Vec<u8>,
    /// Frames that go out next.
    waiting: Vec<u8>,
    /// Of the last call.
    last: u32,
    /// Calls whose message has come in part.
    partial: Vec<(u32, Vec<u8>)>,
    events: std::collections::VecDeque<Event>,
    is_heard: bool,
}

/// What came on a call.
pub(crate) enum Event {
    /// A message.
    Message(u32, Vec<u8>),
    /// The end.
    End(u32),
}

impl Connection {
    /// Connects, from an address if one is given. The handshake goes out with the first call.
    pub(crate) async fn dial(
        address: SocketAddr,
        source: Option<Ipv4Addr>,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind(SocketAddr::from((source, 0)))?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        let mut waiting = PREFACE.to_vec();
        let mut setting = STREAM_WINDOW_SETTING.to_be_bytes().to_vec();
        setting.extend_from_slice(&WINDOW.to_be_bytes());
        push_frame(&mut waiting, frame::SETTINGS, 0, 0, &setting);
        push_frame(
            &mut waiting,
            frame::WINDOW_UPDATE,
            0,
            0,
            &WINDOW.to_be_bytes(),
        );
        Ok(Connection {
            stream,
            tls: ClientConnection::new(config, name)?,
            received: Vec::new(),
            waiting,
            last: 0,
            partial: Vec::new(),
            events: std::collections::VecDeque::new(),
            is_heard: false,
        })
    }

    /// Whether the handshake is over and the server has answered in HTTP/2.
    pub(crate) fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// Begins to call a method, `/SERVICE/METHOD`; what comes of it bears the number.
    pub(crate) fn open(&mut self, path: &str, request: &impl Message) -> Result<u32> {
        // Odd numbers are the client's.
        self.last = if self.last == 0 { 1 } else { self.last + 2 };
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(request.encoded_len())?.to_be_bytes());
        request.encode(&mut message)?;
        let (id, out) = (self.last, &mut self.waiting);
        push_frame(out, frame::HEADERS, frame::END_HEADERS, id, &headers(path)?);
        push_frame(out, frame::DATA, frame::END_STREAM, id, &message);
        Ok(id)
    }

    /// Calls a method and takes the message of its answer. What follows the message is not waited
    /// for.
    pub(crate) async fn call<A: Message + Default>(
        &mut self,
        path: &str,
        request: &impl Message,
    ) -> Result<A> {
        let id = self.open(path, request)?;
        loop {
            match self.next().await? {
                Event::Message(of, message) if of == id => return Ok(A::decode(&message[..])?),
                Event::End(of) if of == id => bail!("the server refused {path}"),
                _ => {}
            }
        }
    }

    /// What comes next, on any call. Nothing is lost if this is broken off.
    pub(crate) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.flush().await?;
            self.receive().await?;
            self.take_frames()?;
        }
    }

    /// Says good-bye.
    pub(crate) async fn close(mut self) -> Result<()> {
        self.tls.send_close_notify();
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        self.tls.writer().write_all(&take(&mut self.waiting))?;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Raw(&self.stream)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.stream.writable().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes in what comes next, of the handshake or of the calls.
    async fn receive(&mut self) -> Result<()> {
        loop {
            match self.tls.read_tls(&mut Raw(&self.stream)) {
                Ok(0) => bail!("the server closed the connection"),
                Ok(_) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.stream.readable().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let bytes = self.tls.process_new_packets()?.plaintext_bytes_to_read();
        let start = self.received.len();
        self.received.resize(start + bytes, 0);
        self.tls.reader().read_exact(&mut self.received[start..])?;
        Ok(())
    }

    /// Looks at all whole frames.
    fn take_frames(&mut self) -> Result<()> {
        let received = take(&mut self.received);
        let mut left = &received[..];
        while let Some((head, rest)) = left.split_at_checked(frame::HEAD_BYTES) {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let Some((payload, rest)) = rest.split_at_checked(length) else {
                break;
            };
            left = rest;
            self.is_heard = true;
            match kind {
                frame::SETTINGS if flags & frame::ACK == 0 => {
                    push_frame(&mut self.waiting, frame::SETTINGS, frame::ACK, 0, &[]);
                }
                frame::PING if flags & frame::ACK == 0 => {
                    push_frame(&mut self.waiting, frame::PING, frame::ACK, 0, payload);
                }
                frame::GOAWAY => bail!("the server ends the connection"),
                frame::RST_STREAM => self.events.push_back(Event::End(id)),
                frame::DATA => {
                    ensure!(flags & frame::PADDED == 0, "a padded frame");
                    self.take_data(id, payload);
                }
                _ => {}
            }
            if matches!(kind, frame::DATA | frame::HEADERS) && flags & frame::END_STREAM != 0 {
                self.partial.retain(|(of, _)| *of != id);
                self.events.push_back(Event::End(id));
            }
        }
        self.received = left.to_vec();
        Ok(())
    }

    fn take_data(&mut self, id: u32, data: &[u8]) {
        let known = self.partial.iter().position(|(of, _)| *of == id);
        let mut bytes = known.map_or_else(Vec::new, |at| self.partial.swap_remove(at).1);
        bytes.extend_from_slice(data);
        let mut left = &bytes[..];
        while let Some((head, rest)) = left.split_at_checked(MESSAGE_HEAD_BYTES) {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let Some((message, rest)) = rest.split_at_checked(length as usize) else {
                break;
            };
            self.events.push_back(Event::Message(id, message.to_vec()));
            left = rest;
        }
        if !left.is_empty() {
            self.partial.push((id, left.to_vec()));
        }
    }
}

/// The socket as it is, for what buffers by itself.
struct Raw<'a>(&'a TcpStream);

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Raw<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
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
