//! What waits for a client that reads events or logs.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::{Semaphore, TryAcquireError, mpsc};

/// Bytes that may wait for one reader.
pub(crate) const READER_BYTES: usize = 1 << 20;

/// A queue that holds [`READER_BYTES`].
pub(crate) fn queue() -> (Inlet, Waiting) {
    let (sender, chunks) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(READER_BYTES));
    let inlet = Inlet {
        chunks: sender,
        room: Arc::clone(&room),
    };
    (inlet, Waiting { chunks, room })
}

/// Where chunks are put for a reader.
pub(crate) struct Inlet {
    chunks: mpsc::UnboundedSender<Bytes>,
    /// A permit for each byte that may be added.
    room: Arc<Semaphore>,
}

/// Why a chunk was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// As much waits as may.
    Full,
    /// The reader has gone.
    Gone,
}

impl Inlet {
    /// Puts a chunk, if there is room.
    pub(crate) fn try_put(&self, chunk: Bytes) -> Result<(), NotTaken> {
        let permit = self.room.try_acquire_many(cost(&chunk));
        permit
            .map_err(|error| match error {
                TryAcquireError::NoPermits => NotTaken::Full,
                TryAcquireError::Closed => NotTaken::Gone,
            })?
            .forget();
        self.chunks.send(chunk).map_err(|_| NotTaken::Gone)
    }

    /// Puts a chunk once there is room; `false` if the reader has gone.
    pub(crate) async fn put(&self, chunk: Bytes) -> bool {
        match self.room.acquire_many(cost(&chunk)).await {
            Ok(permit) => {
                permit.forget();
                self.chunks.send(chunk).is_ok()
            }
            Err(_) => false,
        }
    }

    /// Puts the last chunk, room or not.
    pub(crate) fn put_last(&self, chunk: Bytes) {
        // Gone already is fine.
        let _ = self.chunks.send(chunk);
    }

    /// Whether the reader has gone.
    pub(crate) fn is_closed(&self) -> bool {
        self.chunks.is_closed()
    }
}

/// What waits for a reader; it ends with its [`Inlet`].
pub(crate) struct Waiting {
    chunks: mpsc::UnboundedReceiver<Bytes>,
    room: Arc<Semaphore>,
}

impl Stream for Waiting {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let chunk = self.chunks.poll_recv(cx);
        if let Poll::Ready(Some(chunk)) = &chunk {
            self.room.add_permits(chunk.len().min(READER_BYTES));
        }
        chunk
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.room.close();
    }
}

/// One that is larger than all room waits for all of it.
fn cost(chunk: &Bytes) -> u32 {
    u32::try_from(chunk.len().min(READER_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    const QUARTER: Bytes = Bytes::from_static(&[b'x'; READER_BYTES / 4]);

    #[tokio::test]
    async fn what_is_over_the_bound_waits_or_is_not_taken() {
        let (inlet, mut waiting) = queue();
        for _ in 0..4 {
            assert_eq!(inlet.try_put(QUARTER), Ok(()));
        }
        assert_eq!(inlet.try_put(Bytes::from_static(b"x")), Err(NotTaken::Full));
        assert!(inlet.put(QUARTER).now_or_never().is_none());
        assert_eq!(waiting.next().await, Some(QUARTER));
        assert!(inlet.put(QUARTER).await);
        inlet.put_last(Bytes::from_static(b"end"));
        drop(inlet);
        let sizes: Vec<usize> = waiting.map(|chunk| chunk.len()).collect().await;
        assert_eq!(
            sizes,
            [
                QUARTER.len(),
                QUARTER.len(),
                QUARTER.len(),
                QUARTER.len(),
                3
            ]
        );
    }

    #[tokio::test]
    async fn one_chunk_larger_than_all_goes_alone() {
        let large = Bytes::from(vec![0; READER_BYTES + 1]);
        let (inlet, mut waiting) = queue();
        for _ in 0..2 {
            assert_eq!(inlet.try_put(large.clone()), Ok(()));
            assert_eq!(inlet.try_put(QUARTER), Err(NotTaken::Full));
            assert_eq!(waiting.next().await.unwrap().len(), large.len());
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_reader_that_has_gone() {
        let (inlet, waiting) = queue();
        for _ in 0..4 {
            assert!(inlet.put(QUARTER).await);
        }
        let putting = inlet.put(QUARTER);
        drop(waiting);
        assert!(!putting.await);
        assert_eq!(inlet.try_put(QUARTER), Err(NotTaken::Gone));
        assert!(inlet.is_closed());
    }
}
