//! How much a caller may send before a service has looked at it.
//!
//! A unary call is read whole before the service sees it, so its bytes are counted
//! here: against a small limit for callers without a certificate, against a budget
//! of the node for members. Streams of a member are bounded by message.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tonic::Status;

use crate::limits::{
    ANONYMOUS_BODY_DEADLINE, JOIN_MESSAGE_LIMIT, REQUEST_BYTES_PER_MANAGER, REQUEST_BYTES_PER_NODE,
    SERVER_MESSAGE_LIMIT, STREAMS_PER_MANAGER, STREAMS_PER_NODE,
};

/// Bytes before each message of a gRPC body: one of flags, four of length.
const MESSAGE_HEADER: usize = 5;

/// What the calls of one node may use at once.
#[derive(Debug)]
pub(super) struct Budget {
    streams: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl Budget {
    /// A worker's.
    pub(super) fn of_node() -> Budget {
        Budget::new(STREAMS_PER_NODE, REQUEST_BYTES_PER_NODE)
    }

    /// A manager's, which speaks for the clients of its API.
    pub(super) fn of_manager() -> Budget {
        Budget::new(STREAMS_PER_MANAGER, REQUEST_BYTES_PER_MANAGER)
    }

    fn new(streams: u32, bytes: usize) -> Budget {
        Budget {
            streams: Arc::new(Semaphore::new(streams as usize)),
            bytes: Arc::new(Semaphore::new(bytes)),
        }
    }

    /// A place among the node's calls, for as long as the call lasts.
    ///
    /// # Errors
    /// `ResourceExhausted` if the node has too many calls open.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Status> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(
                "this node has too many calls open; wait until one has ended",
            )
        })
    }
}

/// The bytes of a call that was not answered yet, given back on drop.
#[derive(Debug)]
pub(super) struct Held {
    pool: Arc<Semaphore>,
    bytes: AtomicUsize,
}

impl Held {
    pub(super) fn of(budget: &Budget) -> Arc<Held> {
        Arc::new(Held {
            pool: Arc::clone(&budget.bytes),
            bytes: AtomicUsize::new(0),
        })
    }

    fn take(&self, bytes: usize) -> Result<(), Status> {
        let exhausted = || {
            Status::resource_exhausted(
                "calls of this node hold too many bytes; wait until they are answered",
            )
        };
        let count = u32::try_from(bytes).map_err(|_| exhausted())?;
        let permits = self.pool.try_acquire_many(count).map_err(|_| exhausted())?;
        permits.forget();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.add_permits(*self.bytes.get_mut());
    }
}

/// What bounds a body.
#[derive(Debug)]
pub(super) enum Bound {
    /// A caller without a certificate: this many bytes are left.
    Anonymous(usize),
    /// A unary call of a member: this many bytes are left, and come out of a budget.
    Unary(usize, Arc<Held>),
    /// A stream of a member: each message.
    Stream(Messages),
}

impl Bound {
    pub(super) fn anonymous() -> Bound {
        Bound::Anonymous(MESSAGE_HEADER + JOIN_MESSAGE_LIMIT)
    }

    pub(super) fn unary(held: Arc<Held>) -> Bound {
        Bound::Unary(MESSAGE_HEADER + SERVER_MESSAGE_LIMIT, held)
    }

    /// Of messages of at most so many bytes.
    pub(super) fn stream(message_limit: usize) -> Bound {
        Bound::Stream(Messages::of(message_limit))
    }

    fn admit(&mut self, data: &[u8]) -> Result<(), Status> {
        match self {
            Bound::Anonymous(left) => shrink(left, data.len()),
            Bound::Unary(left, held) => {
                shrink(left, data.len())?;
                held.take(data.len())
            }
            Bound::Stream(messages) => messages.follow(data),
        }
    }
}

fn shrink(left: &mut usize, bytes: usize) -> Result<(), Status> {
    *left = left
        .checked_sub(bytes)
        .ok_or_else(|| Status::resource_exhausted("the request is larger than this call may be"))?;
    Ok(())
}

/// Where in its messages a streamed body is.
#[derive(Debug)]
pub(super) struct Messages {
    limit: usize,
    header: [u8; MESSAGE_HEADER],
    header_read: usize,
    message_left: usize,
}

impl Messages {
    fn of(limit: usize) -> Messages {
        Messages {
            limit,
            header: [0; MESSAGE_HEADER],
            header_read: 0,
            message_left: 0,
        }
    }

    /// # Errors
    /// `ResourceExhausted` as soon as a header announces too large a message.
    fn follow(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.message_left > 0 {
                let skipped = self.message_left.min(data.len());
                self.message_left -= skipped;
                data.advance(skipped);
                continue;
            }
            self.header[self.header_read] = data.get_u8();
            self.header_read += 1;
            if self.header_read == MESSAGE_HEADER {
                self.header_read = 0;
                let [_, a, b, c, d] = self.header;
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                let limit = self.limit;
                if length > limit {
                    return Err(Status::resource_exhausted(format!(
                        "a message of {length} bytes in a stream that may have {limit} bytes in \
                         each"
                    )));
                }
                self.message_left = length;
            }
        }
        Ok(())
    }
}

/// A request body within its bound.
#[derive(Debug)]
pub(super) struct Bounded<B> {
    body: B,
    bound: Bound,
    /// When a caller without a certificate is to have sent all of it, or its place is kept for
    /// nothing. Members' bytes and calls are counted per node.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<B> Bounded<B> {
    /// Of a request whose headers have just come.
    pub(super) fn new(body: B, bound: Bound) -> Bounded<B> {
        let deadline = match bound {
            Bound::Anonymous(_) => Some(Box::pin(sleep(ANONYMOUS_BODY_DEADLINE))),
            Bound::Unary(..) | Bound::Stream(_) => None,
        };
        Bounded {
            body,
            bound,
            deadline,
        }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(deadline) = &mut self.deadline else {
            return Poll::Pending;
        };
        deadline.as_mut().poll(cx).map(|()| {
            Status::deadline_exceeded("the request did not come whole within 5 s; send it again")
        })
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                let late = self.poll_late(cx);
                return late.map(|status| Some(Err(status.into())));
            }
        };
        let admitted = frame
            .data_ref()
            .map_or(Ok(()), |data| self.bound.admit(data));
        Poll::Ready(Some(match admitted {
            Ok(()) => Ok(frame),
            Err(status) => Err(status.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio_stream::StreamExt;
    use tonic::Code;

    use super::*;
    use crate::limits::STREAM_MESSAGE_LIMIT;

    fn code(result: Result<(), Status>) -> Option<Code> {
        result.err().map(|status| status.code())
    }

    #[test]
    fn anonymous_bodies_end_at_their_limit() {
        let mut bound = Bound::anonymous();
        bound
            .admit(&[0; MESSAGE_HEADER + JOIN_MESSAGE_LIMIT])
            .unwrap();
        assert_eq!(code(bound.admit(&[0])), Some(Code::ResourceExhausted));
    }

    #[tokio::test(start_paused = true)]
    async fn an_anonymous_body_comes_whole_within_its_time() {
        let slow = |pauses: usize| {
            let pieces = tokio_stream::iter(0..=pauses).then(|nth| async move {
                if nth > 0 {
                    sleep(ANONYMOUS_BODY_DEADLINE / 4).await;
                }
                Ok::<_, Status>(Bytes::from_static(b"x"))
            });
            axum::body::Body::from_stream(pieces)
        };
        let read = async |bound, pauses| {
            let mut body = Bounded::new(slow(pauses), bound);
            let mut frames = 0;
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                frame.map_err(|error| error.downcast::<Status>().unwrap().code())?;
                frames += 1;
            }
            Ok(frames)
        };
        // Each piece in time is not the whole in time.
        let late = read(Bound::anonymous(), 5).await;
        assert_eq!(late, Err(Code::DeadlineExceeded));
        assert_eq!(read(Bound::anonymous(), 3).await, Ok(4));
        let member = Bound::unary(Held::of(&Budget::of_node()));
        assert_eq!(read(member, 40).await, Ok(41));
    }

    #[test]
    fn unary_calls_of_a_node_share_its_bytes() {
        let budget = Budget::of_node();
        let message = vec![0; SERVER_MESSAGE_LIMIT];
        let mut calls: Vec<_> = (0..4).map(|_| Bound::unary(Held::of(&budget))).collect();
        for call in &mut calls {
            call.admit(&message).unwrap();
        }
        let mut late = Bound::unary(Held::of(&budget));
        assert_eq!(code(late.admit(&[0])), Some(Code::ResourceExhausted));
        // An answered call gives its bytes back.
        calls.pop();
        late.admit(&message).unwrap();
        assert_eq!(code(late.admit(&[0; 6])), Some(Code::ResourceExhausted));
    }

    #[test]
    fn streams_of_a_node_are_counted() {
        let budget = Budget::of_node();
        let open: Vec<_> = (0..STREAMS_PER_NODE)
            .map(|_| budget.stream().unwrap())
            .collect();
        assert_eq!(budget.stream().unwrap_err().code(), Code::ResourceExhausted);
        drop(open);
        assert!(budget.stream().is_ok());
    }

    #[test]
    fn a_stream_is_bounded_by_message_however_it_is_cut() {
        let good = [
            &[0, 0, 0, 0, 3][..],
            b"abc",
            &[0, 0, 0, 0, 0],
            &[0, 0, 4, 0, 0],
        ]
        .concat();
        let bad = [&[0, 0, 0, 0, 3][..], b"abc", &[0, 0, 4, 0, 1]].concat();
        for step in 1..=bad.len() {
            let mut messages = Messages::of(STREAM_MESSAGE_LIMIT);
            assert!(good.chunks(step).all(|part| messages.follow(part).is_ok()));
            let mut messages = Messages::of(STREAM_MESSAGE_LIMIT);
            let refused = bad
                .chunks(step)
                .filter_map(|part| messages.follow(part).err());
            assert_eq!(refused.count(), 1, "in steps of {step}");
        }
    }
}
