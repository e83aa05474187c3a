//! A way past the transport for what clients send.
//!
//! The transport keeps one read buffer per connection and uses it again, so that
//! the content of a request, which may be a secret, a token or a key, would stay in
//! it as long as an idle client stays connected. [`Bypassed`] takes the content out
//! before the transport sees it and leaves blanks in its place; [`Restored`] gives
//! it to the handler, in buffers that nobody keeps.

mod requests;

use std::{
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, ready},
};

use axum::Error;
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use zeroize::Zeroizing;

use self::requests::Requests;

/// The contents of one connection's requests.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Of the requests whose head was read and which were not taken up yet. A few:
    /// the transport reads ahead no more than a buffer.
    waiting: Mutex<VecDeque<Arc<Content>>>,
}

impl Contents {
    /// The content of the next request, in the order in which they were sent.
    pub(crate) fn next(&self) -> Option<Arc<Content>> {
        lock(&self.waiting).pop_front()
    }
}

/// The content of one request, as far as it was received and not yet read.
#[derive(Default)]
pub(crate) struct Content(Mutex<VecDeque<Zeroizing<Vec<u8>>>>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Content { .. }")
    }
}

impl Content {
    fn push(&self, part: &[u8]) {
        lock(&self.0).push_back(Zeroizing::new(part.to_vec()));
    }

    /// Takes `count` bytes; `None` if there are fewer.
    fn take(&self, count: usize) -> Option<Zeroizing<Vec<u8>>> {
        let mut parts = lock(&self.0);
        if parts.front()?.len() == count {
            return parts.pop_front();
        }
        let mut taken = Zeroizing::new(Vec::with_capacity(count));
        while taken.len() < count {
            let mut part = parts.pop_front()?;
            let missing = count - taken.len();
            if part.len() > missing {
                parts.push_front(Zeroizing::new(part[missing..].to_vec()));
                part.truncate(missing);
            }
            taken.extend_from_slice(&part);
        }
        Some(taken)
    }
}

/// What a client sends, with blanks for content.
#[derive(Debug)]
pub(crate) struct Bypassed<R> {
    stream: R,
    contents: Arc<Contents>,
    requests: Requests,
    /// Of the request that comes in; gone if nobody wants it.
    content: Weak<Content>,
}

impl<R: AsyncRead + Unpin> Bypassed<R> {
    /// The connection for the transport, and what goes past it.
    pub(crate) fn new<W: AsyncWrite>(
        stream: R,
        writer: W,
    ) -> (Join<Bypassed<R>, W>, Arc<Contents>) {
        let contents = Arc::<Contents>::default();
        let bypassed = Bypassed {
            stream,
            contents: Arc::clone(&contents),
            requests: Requests::new(),
            content: Weak::new(),
        };
        (join(bypassed, writer), contents)
    }

    /// Takes content out of received bytes.
    fn received(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let step = self.requests.step(bytes);
            let (part, rest) = bytes.split_at_mut(step.length);
            if step.ends_head {
                let content = Arc::<Content>::default();
                self.content = Arc::downgrade(&content);
                lock(&self.contents.waiting).push_back(content);
            }
            if step.is_content {
                if let Some(content) = self.content.upgrade() {
                    content.push(part);
                }
                part.fill(0);
            }
            bytes = rest;
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Bypassed<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.received(&mut buffer.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

/// A request's body with its content in the place of the blanks.
#[derive(Debug)]
pub(crate) struct Restored {
    body: Incoming,
    content: Option<Arc<Content>>,
}

impl Restored {
    pub(crate) fn new(body: Incoming, content: Option<Arc<Content>>) -> Restored {
        Restored { body, content }
    }

    fn restore(&self, blanks: usize) -> Result<Bytes, Error> {
        let content = self.content.as_ref();
        let mut bytes = content
            .and_then(|content| content.take(blanks))
            .ok_or_else(|| Error::new("the content of a request is missing"))?;
        Ok(std::mem::take(&mut *bytes).into())
    }
}

impl Body for Restored {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Error::new(error)))),
            None => return Poll::Ready(None),
        };
        let restored = match frame.into_data() {
            Ok(blanks) => self.restore(blanks.len()).map(Frame::data),
            Err(trailers) => Ok(trailers),
        };
        Poll::Ready(Some(restored))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{UnixStream, unix},
    };

    use super::*;

    type Near = (
        Join<Bypassed<unix::OwnedReadHalf>, unix::OwnedWriteHalf>,
        Arc<Contents>,
    );

    fn pair() -> (Near, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let (reader, writer) = near.into_split();
        (Bypassed::new(reader, writer), far)
    }

    #[test]
    fn content_that_is_not_there_is_not_made_up() {
        let content = Content::default();
        assert!(content.take(1).is_none());
        content.push(b"ab");
        content.push(b"cd");
        assert_eq!(content.take(3).unwrap().as_slice(), b"abc");
        assert!(content.take(2).is_none());
    }

    #[tokio::test]
    async fn the_reader_gets_heads_and_blanks_and_each_request_its_content() {
        let ((mut reader, contents), mut far) = pair();
        let head = "POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n";
        let sent = format!("{head}SECRETGET / HTTP/1.1\r\n\r\n{head}SEC");
        far.write_all(sent.as_bytes()).await.unwrap();
        let mut seen = vec![0; sent.len()];
        reader.read_exact(&mut seen).await.unwrap();
        assert_eq!(
            seen,
            sent.replace("SECRET", "\0\0\0\0\0\0")
                .replace("SEC", "\0\0\0")
                .as_bytes()
        );
        let (first, second, third) = (contents.next(), contents.next(), contents.next());
        assert_eq!(first.unwrap().take(6).unwrap().as_slice(), b"SECRET");
        assert!(second.unwrap().take(1).is_none());
        let third = third.unwrap();
        far.write_all(b"RET").await.unwrap();
        reader.read_exact(&mut seen[..3]).await.unwrap();
        assert_eq!(&seen[..3], b"\0\0\0");
        assert_eq!(third.take(6).unwrap().as_slice(), b"SECRET");
        assert!(contents.next().is_none());
    }

    #[tokio::test]
    async fn content_that_nobody_wants_is_blanked_all_the_same() {
        let ((mut reader, contents), mut far) = pair();
        let head = "POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n";
        far.write_all(head.as_bytes()).await.unwrap();
        reader.read_exact(&mut vec![0; head.len()]).await.unwrap();
        drop(contents.next());
        far.write_all(b"SECRET").await.unwrap();
        let mut seen = [b'S'; 6];
        reader.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, [0; 6]);
    }
}
