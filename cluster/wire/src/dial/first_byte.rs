//! Notices the first bytes that a manager sends, or why none came.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::oneshot,
};

use crate::writes::passes_writes;

/// A stream that reports the outcome of its first read.
#[derive(Debug)]
pub(super) struct FirstByte<S> {
    stream: S,
    report: Option<oneshot::Sender<io::Result<()>>>,
}

impl<S> FirstByte<S> {
    pub(super) fn watch(stream: S) -> (FirstByte<S>, oneshot::Receiver<io::Result<()>>) {
        let (report, outcome) = oneshot::channel();
        (
            FirstByte {
                stream,
                report: Some(report),
            },
            outcome,
        )
    }

    fn report(&mut self, outcome: io::Result<()>) {
        if let Some(report) = self.report.take() {
            // Nobody waits any more: the dialler gave up.
            let _ = report.send(outcome);
        }
    }
}

/// An error with the same kind and cause text; `io::Error` cannot be cloned.
fn likeness(error: &io::Error) -> io::Error {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(inner) => io::Error::new(error.kind(), inner.clone()),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstByte<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match &outcome {
            Poll::Pending => {}
            Poll::Ready(Err(error)) => {
                let error = likeness(error);
                self.report(Err(error));
            }
            Poll::Ready(Ok(())) if buffer.filled().len() == before => {
                self.report(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            Poll::Ready(Ok(())) => self.report(Ok(())),
        }
        outcome
    }
}

passes_writes!(FirstByte.stream);
