//! The first bytes of a connection, read before HTTP/2 is let in.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::writes::passes_writes;

/// RFC 9113 section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose HTTP/2 preface was read and is given out again.
#[derive(Debug)]
pub(super) struct Prefaced<S> {
    stream: S,
    given: usize,
}

impl<S: AsyncRead + Unpin> Prefaced<S> {
    /// Waits for the preface.
    ///
    /// HTTP/2 is spoken whether or not ALPN was: engines offer none after a
    /// reload of their TLS settings.
    ///
    /// # Errors
    /// `InvalidData` if something else came, `UnexpectedEof` if the peer left.
    pub(super) async fn read(mut stream: S) -> io::Result<Prefaced<S>> {
        let mut received = [0; PREFACE.len()];
        stream.read_exact(&mut received).await?;
        if &received != PREFACE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the peer does not speak HTTP/2",
            ));
        }
        Ok(Prefaced { stream, given: 0 })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &PREFACE[self.given..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..length]);
        self.given += length;
        Poll::Ready(Ok(()))
    }
}

passes_writes!(Prefaced.stream);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_protocols_and_short_prefaces_are_refused() {
        let other: &[u8] = b"GET / HTTP/1.1\r\nHost: waxseal\r\n\r\n";
        let error = Prefaced::read(other).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = Prefaced::read(&PREFACE[..23]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn the_preface_is_given_out_again() {
        let sent = [PREFACE.as_slice(), b"rest"].concat();
        let mut stream = Prefaced::read(sent.as_slice()).await.unwrap();
        let mut small = [0; 10];
        stream.read_exact(&mut small).await.unwrap();
        assert_eq!(&small, &PREFACE[..10]);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, sent[10..]);
    }
}
