//! A socket whose reader finds no remains of earlier requests.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

/// Zeroes the free part of the reader's buffer before each read.
///
/// The transport keeps one read buffer per connection and reuses it. What a
/// request with a secret left there would stay as long as an idle client
/// keeps the connection open; the transport asks for the next request at once
/// after each answer, so here it is gone by then.
pub(crate) struct Wiping(pub(crate) UnixStream);

impl AsyncRead for Wiping {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buf.initialize_unfilled();
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wiping {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, mem::MaybeUninit};

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn remains_are_gone_before_a_read() {
        let (one, mut other) = UnixStream::pair().unwrap();
        let mut reader = Wiping(one);
        other.write_all(b"ab").await.unwrap();
        // As the transport hands it over: room whose content nobody vouches for.
        let mut room = [MaybeUninit::new(b'S'); 32];
        let mut buffer = ReadBuf::uninit(&mut room);
        poll_fn(|cx| Pin::new(&mut reader).poll_read(cx, &mut buffer))
            .await
            .unwrap();
        assert_eq!(buffer.filled(), b"ab");
        assert_eq!(buffer.initialized().len(), 32);
        assert!(buffer.initialized()[2..].iter().all(|byte| *byte == 0));
    }
}
