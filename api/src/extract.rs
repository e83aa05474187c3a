//! What handlers take from a request: id, query, caller, version, body.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path},
};
use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Request, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request::Parts,
};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use waxseal_cluster::objects::{Actor, actor::Who};
use zeroize::Zeroize;

use crate::{
    cluster::Cluster,
    error::ApiError,
    filters::Filters,
    json::decode::{DecodeError, Rest, decode},
    server::Api,
    version::ApiVersion,
};

/// Largest request body. The CLI sends up to twice the size limit of a config
/// in base64 (2.7 MB) and leaves the refusal to the daemon.
pub(crate) const MAX_BODY_BYTES: usize = 4 << 20;

/// Time for a whole body: what holds room that others wait for has to go on.
const BODY_TIME: Duration = Duration::from_secs(60);
/// Time for each part of a body.
const BODY_PAUSE: Duration = Duration::from_secs(10);
const BODY_TOO_LATE: &str = "the request body did not come in time; send it without pauses";

/// What the transport knows of a request; put into its extensions by the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestInfo {
    /// Version asked for by the path prefix, the newest without one.
    pub(crate) version: ApiVersion,
    /// Who is at the other end; nobody in process.
    pub(crate) peer: Option<Peer>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The user of a process on this host.
    Uid(u32),
    /// The holder of a client certificate: the first bytes of its SHA-256.
    Certificate([u8; 8]),
}

impl RequestInfo {
    fn of(parts: &Parts) -> RequestInfo {
        parts
            .extensions
            .get::<RequestInfo>()
            .copied()
            .unwrap_or(RequestInfo {
                version: ApiVersion::MAX,
                peer: None,
            })
    }
}

/// The one path parameter `{id}`, decoded.
pub(crate) struct Id(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Id, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Id(id)),
            Err(_) => Err(ApiError::page_not_found()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ApiVersion {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<ApiVersion, Self::Rejection> {
        Ok(RequestInfo::of(parts).version)
    }
}

/// Who asks: the peer of the API socket.
pub(crate) struct Caller(pub(crate) Actor);

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Self::Rejection> {
        let who = match RequestInfo::of(parts).peer {
            Some(Peer::Uid(uid)) => Who::SocketUid(uid),
            Some(Peer::Certificate(digest)) => {
                let digest = u64::from_be_bytes(digest);
                Who::Component(format!("client certificate sha256:{digest:016x}"))
            }
            None => Who::Component("api".to_owned()),
        };
        Ok(Caller(Actor { who: Some(who) }))
    }
}

/// The query, decoded; the first value of a key counts.
#[derive(Debug, Default)]
pub(crate) struct Params {
    pairs: Vec<(String, String)>,
    version: Option<ApiVersion>,
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Params, ApiError> {
        let mut params = Params::parse(parts.uri.query().unwrap_or(""))?;
        params.version = Some(RequestInfo::of(parts).version);
        Ok(params)
    }
}

impl Params {
    /// Reads `a=1&b=2`.
    ///
    /// # Errors
    /// 400 for an escape that is none.
    pub(crate) fn parse(query: &str) -> Result<Params, ApiError> {
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((unescape(key)?, unescape(value)?));
        }
        Ok(Params {
            pairs,
            version: None,
        })
    }

    /// The value of `key`, if it is there.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.pairs
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// The value of `key`, empty if it is not there.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }

    /// A loose boolean (`force`, `stdout`, `follow`, …): false when empty, `0`,
    /// `no`, `false`, `none` in any case, true for anything else.
    pub(crate) fn loose(&self, key: &str) -> bool {
        let value = self.text(key).trim();
        !["", "0", "no", "false", "none"]
            .iter()
            .any(|no| value.eq_ignore_ascii_case(no))
    }

    /// A strict boolean (`rotateWorkerToken`, `insertDefaults`, `status`): only
    /// the spellings that Go's parser takes; false when empty or absent.
    ///
    /// # Errors
    /// The value, if it is none of them, for the caller's own text.
    pub(crate) fn strict(&self, key: &str) -> Result<bool, &str> {
        match self.text(key) {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
            other => Err(other),
        }
    }

    /// A strict boolean of the query.
    ///
    /// # Errors
    /// 400 in the engine's words.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, ApiError> {
        self.strict(key).map_err(|value| {
            ApiError::bad_request(format!(
                "invalid value for {key}: {value}: strconv.ParseBool: parsing \"{value}\": invalid syntax"
            ))
        })
    }

    /// The object version `?version=`, required.
    ///
    /// # Errors
    /// 400 `invalid <noun> version '<raw>': strconv.ParseUint: …`.
    pub(crate) fn version(&self, noun: &str) -> Result<u64, ApiError> {
        let raw = self.text("version");
        if !raw.is_empty() && raw.bytes().all(|byte| byte.is_ascii_digit()) {
            raw.parse().map_err(|_| "value out of range")
        } else {
            Err("invalid syntax")
        }
        .map_err(|why| {
            ApiError::bad_request(format!(
                "invalid {noun} version '{raw}': strconv.ParseUint: parsing \"{raw}\": {why}"
            ))
        })
    }

    /// The object version `?version=`, required, with the short error.
    ///
    /// # Errors
    /// 400 `invalid <noun> version`.
    pub(crate) fn version_plain(&self, noun: &str) -> Result<u64, ApiError> {
        self.version(noun)
            .map_err(|_| ApiError::bad_request(format!("invalid {noun} version")))
    }

    /// The filters `?filters=`, of which only `accepted` keys are allowed.
    ///
    /// # Errors
    /// In the manner of the asked version: not readable, unknown key.
    pub(crate) fn filters(&self, accepted: &[&str]) -> Result<Filters, ApiError> {
        Filters::parse(
            self.text("filters"),
            accepted,
            self.version.unwrap_or(ApiVersion::MAX),
        )
    }
}

/// Decodes `%41` and `+` in a query.
fn unescape(text: &str) -> Result<String, ApiError> {
    if !text.contains(['%', '+']) {
        return Ok(text.to_owned());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => {
                        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
                    }
                    _ => {
                        return Err(ApiError::bad_request(format!(
                            "invalid URL escape \"{text}\""
                        )));
                    }
                }
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_err(|_| ApiError::bad_request("query is not UTF-8"))
}

/// A JSON body, read whole, decoded and then wiped: any of them may hold a
/// secret, a token or a key.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned + Default, C: Cluster> FromRequest<Arc<Api<C>>> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, api: &Arc<Api<C>>) -> Result<Json<T>, ApiError> {
        let (parts, body) = request.into_parts();
        let modern = RequestInfo::of(&parts).version.is_modern();
        let length = content_length(&parts.headers);
        if modern {
            check_content_type(&parts.headers, !body.is_end_stream())?;
        }
        let _room = api.room_for_body(length).await;
        let bytes = read_body(body, length).await?;
        let rest = if modern { Rest::Refused } else { Rest::Ignored };
        let decoded = decode::<T>(&bytes, rest);
        wipe(bytes);
        match decoded {
            Ok(value) => Ok(Json(value)),
            Err(DecodeError::Empty) if modern => Ok(Json(T::default())),
            Err(DecodeError::Empty) => {
                Err(ApiError::bad_request("got EOF while reading request body"))
            }
            Err(DecodeError::Trailing) => {
                Err(ApiError::bad_request(DecodeError::Trailing.to_string()))
            }
            Err(error) if modern => Err(ApiError::bad_request(format!("invalid JSON: {error}"))),
            Err(error) => Err(ApiError::bad_request(error.to_string())),
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// 28.x: a body must say that it is JSON.
fn check_content_type(headers: &HeaderMap, has_body: bool) -> Result<(), ApiError> {
    let value = headers.get(CONTENT_TYPE).map_or(&[][..], |v| v.as_bytes());
    if value == b"application/json" || (value.is_empty() && !has_body) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(value);
    let media_type = text.split(';').next().unwrap_or("").trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    if media_type.is_empty() {
        return Err(ApiError::bad_request(format!(
            "malformed Content-Type header ({text}): mime: no media type"
        )));
    }
    Err(ApiError::bad_request(format!(
        "unsupported Content-Type header ({text}): must be 'application/json'"
    )))
}

/// The whole body, without a copy if it came in one piece.
async fn read_body(mut body: Body, length: Option<usize>) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body is larger than {MAX_BODY_BYTES} bytes"),
        )
    };
    if length.is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let too_late = || ApiError::new(StatusCode::REQUEST_TIMEOUT, BODY_TOO_LATE);
    let end = Instant::now() + BODY_TIME;
    let mut gathered: Option<BytesMut> = None;
    loop {
        let until = end.min(Instant::now() + BODY_PAUSE);
        let frame = match timeout_at(until, body.frame()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) => {
                gathered.unwrap_or_default().zeroize();
                return Err(too_late());
            }
        };
        let frame =
            frame.map_err(|_| ApiError::bad_request("request body ended before its length"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if gathered.is_none() && Some(data.len()) == length {
            return Ok(data);
        }
        let whole =
            gathered.get_or_insert_with(|| BytesMut::with_capacity(length.unwrap_or(data.len())));
        if whole.len() + data.len() > MAX_BODY_BYTES {
            whole.zeroize();
            return Err(too_large());
        }
        whole.extend_from_slice(&data);
        wipe(data);
    }
    Ok(gathered.unwrap_or_default().freeze())
}

/// Wipes a buffer if nobody else holds it. The transport's own read buffer never
/// had it, and freed memory is wiped by the process's allocator.
fn wipe(bytes: Bytes) {
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.zeroize();
    }
}
