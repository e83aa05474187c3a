//! A socket under TLS whose reader finds no remains of earlier records.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, ReadBuf};

use crate::writes::passes_writes;

/// Zeroes the free part of the reader's buffer before each read.
///
/// TLS opens records in the buffer that it read them into and uses that again. It
/// asks for the next record as soon as one is used up, so that by then it is gone.
#[derive(Debug)]
pub(crate) struct Scrubbed<S>(pub(crate) S);

impl<S: AsyncRead + Unpin> AsyncRead for Scrubbed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        buffer.initialize_unfilled().fill(0);
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

passes_writes!(Scrubbed.0);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn remains_are_gone_before_a_read() {
        let mut reader = Scrubbed(&b"ab"[..]);
        // As TLS hands it over: known to be initialized, by an earlier record.
        let mut room = [b'S'; 32];
        let mut buffer = ReadBuf::new(&mut room);
        poll_fn(|cx| Pin::new(&mut reader).poll_read(cx, &mut buffer))
            .await
            .unwrap();
        assert_eq!(buffer.filled(), b"ab");
        assert!(room[2..].iter().all(|byte| *byte == 0));
    }
}
