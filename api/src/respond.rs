//! Answers: JSON, empty, streams.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde::{Serialize, Serializer as _};

use crate::{cluster::Cluster, error::ApiError, server::Shared};

/// Exactly this, without a charset: clients compare the whole string.
pub(crate) const APPLICATION_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Holds an object without growing more than once or twice.
const USUAL_BYTES: usize = 512;

/// `value` as JSON with a newline at the end, as the engine writes it.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, ApiError> {
    rendered(status, |serializer| value.serialize(serializer))
}

/// 200 with a list of `values`, each made, written and dropped before the next: what clients see
/// of ten thousand services never stands in memory beside its text.
pub(crate) fn list<T: Serialize>(
    values: impl IntoIterator<Item = T>,
) -> Result<Response, ApiError> {
    rendered(StatusCode::OK, |serializer| serializer.collect_seq(values))
}

fn rendered(
    status: StatusCode,
    write: impl FnOnce(&mut serde_json::Serializer<&mut Vec<u8>>) -> serde_json::Result<()>,
) -> Result<Response, ApiError> {
    let mut body = Vec::with_capacity(USUAL_BYTES);
    write(&mut serde_json::Serializer::new(&mut body))
        .map_err(|error| ApiError::internal(format!("answer cannot be rendered: {error}")))?;
    body.push(b'\n');
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, APPLICATION_JSON);
    Ok(response)
}

/// 200 with `value`.
pub(crate) fn ok<T: Serialize>(value: &T) -> Result<Response, ApiError> {
    json(StatusCode::OK, value)
}

/// `status` with no body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// 200 with a chunked body, each item flushed by itself, that ends when the
/// stream ends or the server stops.
pub(crate) fn stream<C: Cluster>(
    api: &Shared<C>,
    content_type: Option<HeaderValue>,
    chunks: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Response {
    let stopped = api.stopped();
    let mut response = Response::new(Body::from_stream(chunks.take_until(stopped).boxed()));
    if let Some(content_type) = content_type {
        response.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    response
}
