//! Assignments on their way from the leader through a manager that relays them: off the
//! line of one connection and onto that of the other.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tonic::Status;

use super::{Line, Lines, Sender, lock};

/// The one message of a request, whose stream is on a line from then on.
pub(crate) struct Question(Sender);

impl Question {
    /// Sends a message with its prefix, and the line where the answer comes in.
    ///
    /// # Errors
    /// `Internal` when the system gives no random bytes.
    pub(super) fn new(
        lines: &Arc<Lines>,
        message: Vec<u8>,
    ) -> Result<(Question, Arc<Line>), Status> {
        let mut sender = open(lines)?;
        sender.put(message);
        let line = Arc::clone(&sender.line);
        Ok((Question(sender), line))
    }
}

fn open(lines: &Arc<Lines>) -> Result<Sender, Status> {
    Sender::open(lines).map_err(|_| Status::internal("the system gave no random bytes"))
}

impl Body for Question {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let blank = self.0.blank();
        self.0.complete = blank.is_none();
        Poll::Ready(blank.map(|blank| Ok(Frame::data(blank))))
    }
}

/// How the answer to a relayed call is passed on.
pub(crate) struct Passing {
    from: Arc<Line>,
    to: Option<Sender>,
}

impl Passing {
    /// The request to the leader, and what passes its answer on to a caller whose
    /// connection has these lines. One that has none gets it as anything else.
    ///
    /// # Errors
    /// `Internal` when the system gives no random bytes.
    pub(crate) fn new(
        leader: &Arc<Lines>,
        caller: Option<&Arc<Lines>>,
        request: Vec<u8>,
    ) -> Result<(Question, Passing), Status> {
        let (question, from) = Question::new(leader, request)?;
        let to = caller.map(open).transpose()?;
        Ok((question, Passing { from, to }))
    }

    /// Passes on what `body` has the blanks of.
    pub(crate) fn pass(self, body: Incoming) -> Passed {
        let Passing { from, to } = self;
        Passed { body, from, to }
    }
}

/// The answer to a relayed call.
pub(crate) struct Passed {
    body: Incoming,
    from: Arc<Line>,
    to: Option<Sender>,
}

impl fmt::Debug for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passed { .. }")
    }
}

impl Body for Passed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Passed { body, from, to } = self.get_mut();
        loop {
            if let Some(blank) = to.as_mut().and_then(Sender::blank) {
                return Poll::Ready(Some(Ok(Frame::data(blank))));
            }
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose()?;
            match frame {
                // A blank: the content came to the line, and what came after it, too.
                Some(frame) if frame.is_data() => {
                    let content = std::mem::take(&mut *lock(&from.incoming).take_all());
                    match to {
                        _ if content.is_empty() => {}
                        Some(to) => to.put(content),
                        None => return Poll::Ready(Some(Ok(Frame::data(content.into())))),
                    }
                }
                end => {
                    if let Some(to) = to {
                        to.complete = true;
                    }
                    return Poll::Ready(end.map(Ok));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let has_more = self.to.as_ref().is_some_and(|to| to.blanks > 0);
        self.body.is_end_stream() && !has_more
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
