//! The caller's end of an assignments stream.

use std::{fmt, future::poll_fn, pin::Pin, sync::Arc};

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, TE},
};
use hyper::body::{Body, Incoming};
use prost::Message;
use tonic::{Code, Status};
use tower::Service;

use super::{ASSIGNMENTS, Line, Lines, PREFIX_BYTES, Question, framed, lock};
use crate::{
    limits::CLIENT_MESSAGE_LIMIT,
    swarmkit::{AssignmentsMessage, AssignmentsRequest},
};

/// Carries details for programs; not looked at.
const STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// What a manager assigns to this node, message by message.
///
/// The content goes past the connection's buffers, and is wiped as messages are taken.
pub struct Assignments {
    body: Incoming,
    line: Arc<Line>,
    /// Of the message whose prefix was read.
    length: Option<usize>,
    /// The connection ends when all that use it are gone.
    _channel: Box<dyn Send + Sync>,
}

impl fmt::Debug for Assignments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Assignments { .. }")
    }
}

impl Assignments {
    /// Calls the manager at the other end.
    ///
    /// # Errors
    /// The manager's refusal, or what happened to the connection.
    pub(crate) async fn call<C>(
        mut channel: C,
        lines: &Arc<Lines>,
        request: AssignmentsRequest,
    ) -> Result<Assignments, Status>
    where
        C: Service<Request<tonic::body::Body>, Response = Response<Incoming>, Error = hyper::Error>
            + Send
            + Sync
            + 'static,
    {
        let (question, line) = Question::new(lines, framed(&request)?)?;
        let mut request = Request::new(tonic::body::Body::new(question));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(ASSIGNMENTS);
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        poll_fn(|cx| channel.poll_ready(cx))
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        let response = channel
            .call(request)
            .await
            .map_err(|error| Status::from_error(error.into()))?;
        let (head, body) = response.into_parts();
        if let Some(status) = status_in(head.headers).filter(|status| status.code() != Code::Ok) {
            return Err(status);
        }
        if head.status != StatusCode::OK {
            let text = format!("the manager answered HTTP status {}", head.status.as_u16());
            return Err(Status::unknown(text));
        }
        Ok(Assignments {
            body,
            line,
            length: None,
            _channel: Box::new(channel),
        })
    }

    /// The next message; `None` when the manager has ended the stream in good order.
    ///
    /// Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The manager's status, or what is wrong with what it sent.
    pub async fn message(&mut self) -> Result<Option<AssignmentsMessage>, Status> {
        loop {
            if let Some(message) = self.received()? {
                return Ok(Some(message));
            }
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            let trailers = match frame {
                // Blanks: the content came to the line.
                Some(Ok(frame)) => match frame.into_trailers() {
                    Ok(trailers) => trailers,
                    Err(_) => continue,
                },
                Some(Err(error)) => return Err(Status::from_error(error.into())),
                None => HeaderMap::new(),
            };
            return match status_in(trailers) {
                Some(status) if status.code() == Code::Ok => Ok(None),
                Some(status) => Err(status),
                None => Err(Status::unknown(
                    "the manager ended the call without a status",
                )),
            };
        }
    }

    /// A message that is there in full.
    fn received(&mut self) -> Result<Option<AssignmentsMessage>, Status> {
        let mut incoming = lock(&self.line.incoming);
        let length = match self.length {
            Some(length) => length,
            None => {
                let Some(prefix) = incoming.take(PREFIX_BYTES) else {
                    return Ok(None);
                };
                let length = length_in(&prefix)?;
                *self.length.insert(length)
            }
        };
        let Some(message) = incoming.take(length) else {
            return Ok(None);
        };
        self.length = None;
        let decoded = AssignmentsMessage::decode(message.as_slice());
        decoded.map(Some).map_err(|error| {
            Status::internal(format!("the manager's assignments cannot be read: {error}"))
        })
    }
}

/// The length of the message behind a prefix.
fn length_in(prefix: &[u8]) -> Result<usize, Status> {
    let [0, length @ ..] = prefix else {
        return Err(Status::unimplemented(
            "the manager sent a compressed message",
        ));
    };
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    if length > CLIENT_MESSAGE_LIMIT {
        return Err(Status::out_of_range(format!(
            "the manager sent a message of {length} bytes, more than {CLIENT_MESSAGE_LIMIT}"
        )));
    }
    Ok(length)
}

fn status_in(mut headers: HeaderMap) -> Option<Status> {
    headers.remove(STATUS_DETAILS);
    Status::from_header_map(&headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_and_oversize_messages_are_refused_by_their_prefix() {
        let code = |prefix: &[u8]| length_in(prefix).map_err(|status| status.code());
        assert_eq!(code(&[1, 0, 0, 0, 1]), Err(Code::Unimplemented));
        assert_eq!(code(&[0x80, 0, 0, 0, 1]), Err(Code::Unimplemented));
        assert_eq!(code(&[0, 4, 0, 0, 1]), Err(Code::OutOfRange));
        assert_eq!(code(&[0, 4, 0, 0, 0]), Ok(CLIENT_MESSAGE_LIMIT));
    }

    #[test]
    fn details_that_are_no_base64_do_no_harm() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static("7"));
        headers.insert(STATUS_DETAILS, HeaderValue::from_static("%"));
        assert_eq!(status_in(headers).unwrap().code(), Code::PermissionDenied);
    }
}
