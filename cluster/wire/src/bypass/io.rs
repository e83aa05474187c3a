//! The stream below HTTP/2, where content and blanks change places.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Line, Lines,
    frames::{Data, End, Frames, Step},
    lock,
};

/// Bytes of the client's connection preface (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A stream that carries HTTP/2 with lines past it.
#[derive(Debug)]
pub(crate) struct Bypassed<S> {
    stream: S,
    switch: Option<Switch>,
}

/// Knows which streams are on a line.
#[derive(Debug)]
struct Switch {
    side: Side,
    lines: Arc<Lines>,
    sent: Frames,
    received: Frames,
    /// By stream; few, as each is a call of ours under way.
    on_line: HashMap<u32, Arc<Line>>,
}

impl<S> Bypassed<S> {
    /// The stream of a whole connection. Without `lines` nothing goes past HTTP/2.
    pub(crate) fn new(stream: S, side: Side, lines: Option<&Arc<Lines>>) -> Bypassed<S> {
        let (sent, received) = match side {
            Side::Client => (PREFACE_BYTES, 0),
            Side::Server => (0, PREFACE_BYTES),
        };
        let switch = lines.map(|lines| Switch {
            side,
            lines: Arc::clone(lines),
            sent: Frames::after(sent),
            received: Frames::after(received),
            on_line: HashMap::new(),
        });
        Bypassed { stream, switch }
    }
}

impl Switch {
    /// How many of the first of these bytes go out as they are.
    fn plain<'a>(&self, buffers: impl Iterator<Item = &'a [u8]>) -> usize {
        let mut ahead = self.sent;
        let mut plain = 0;
        for mut bytes in buffers {
            while !bytes.is_empty() {
                let step = ahead.step(bytes);
                if self.line_of(step, bytes).is_some() {
                    return plain;
                }
                plain += step.length;
                bytes = &bytes[step.length..];
            }
        }
        plain
    }

    /// The line in whose place these bytes stand.
    fn line_of(&self, step: Step, bytes: &[u8]) -> Option<Arc<Line>> {
        let Data { stream, begins } = step.data?;
        match self.on_line.get(&stream) {
            Some(line) => Some(Arc::clone(line)),
            None if begins => self.lines.claimed_by(&bytes[..step.length]),
            None => None,
        }
    }

    /// Notes that bytes went out.
    fn sent<'a>(&mut self, buffers: impl Iterator<Item = &'a [u8]>, mut count: usize) {
        for bytes in buffers {
            let mut bytes = &bytes[..bytes.len().min(count)];
            count -= bytes.len();
            while !bytes.is_empty() {
                let step = self.sent.step(bytes);
                bytes = &bytes[step.length..];
                match step.end {
                    Some(End::Reset(stream)) => self.reset(stream),
                    Some(End::Ended(stream)) if self.side == Side::Server => self.hang_up(stream),
                    // A client waits for the answer.
                    Some(End::Ended(_)) | None => {}
                }
            }
        }
    }

    /// Takes content out of bytes that came in, and leaves blanks.
    fn received(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let step = self.received.step(bytes);
            let (part, rest) = bytes.split_at_mut(step.length);
            if self.side == Side::Client
                && let Some(line) = step.data.and_then(|data| self.on_line.get(&data.stream))
            {
                lock(&line.incoming).push(part.to_vec());
                part.fill(0);
            }
            match step.end {
                Some(End::Reset(stream)) => self.reset(stream),
                Some(End::Ended(stream)) if self.side == Side::Client => self.hang_up(stream),
                // A server has yet to answer.
                Some(End::Ended(_)) | None => {}
            }
            bytes = rest;
        }
    }

    fn hang_up(&mut self, stream: u32) {
        self.on_line.remove(&stream);
    }

    fn reset(&mut self, stream: u32) {
        if self.on_line.remove(&stream).is_none() {
            self.lines.forget_broken_off();
        }
    }

    /// Sends content in the place of `bytes`, which stand for it. `None` if there is none.
    fn send_content(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Option<Poll<io::Result<usize>>> {
        let mut ahead = self.sent;
        let step = ahead.step(bytes);
        let line = self.line_of(step, bytes)?;
        if let Some(Data { stream, .. }) = step.data
            && !self.on_line.contains_key(&stream)
        {
            self.lines.forget(&line);
            self.on_line.insert(stream, Arc::clone(&line));
        }
        let mut content = lock(&line.outgoing);
        let first = content.first();
        if first.is_empty() {
            if line.broken_off.load(Ordering::Relaxed) {
                return None;
            }
            let missing = io::Error::new(
                io::ErrorKind::InvalidData,
                "no content for a message; a fault of this program",
            );
            return Some(Poll::Ready(Err(missing)));
        }
        let written = stream.poll_write(cx, &first[..first.len().min(step.length)]);
        if let Poll::Ready(Ok(count)) = written {
            content.consume(count);
            drop(content);
            self.sent([bytes].into_iter(), count);
        }
        Some(written)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bypassed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Some(switch) = &mut self.switch {
            switch.received(&mut buffer.filled_mut()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bypassed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Bypassed { stream, switch } = self.get_mut();
        let mut stream = Pin::new(stream);
        let Some(switch) = switch else {
            return stream.poll_write(cx, bytes);
        };
        let mut plain = switch.plain([bytes].into_iter());
        if plain == 0 && !bytes.is_empty() {
            if let Some(written) = switch.send_content(stream.as_mut(), cx, bytes) {
                return written;
            }
            // Of a stream that was broken off: blanks up to the end of the frame.
            plain = Frames::clone(&switch.sent).step(bytes).length;
        }
        let count = ready!(stream.poll_write(cx, &bytes[..plain]))?;
        switch.sent([bytes].into_iter(), count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let slices = || buffers.iter().map(|buffer| &**buffer);
        let Some(switch) = &mut this.switch else {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, buffers);
        };
        if switch.plain(slices()) < slices().map(<[u8]>::len).sum() {
            let first = slices().find(|bytes| !bytes.is_empty());
            return Pin::new(this).poll_write(cx, first.unwrap_or_default());
        }
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, buffers))?;
        switch.sent(slices(), count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
