//! Errors as the Engine API tells them: a status and `{"message": …}`.
//!
//! The only place where a [`ClusterError`] or a [`Refusal`] becomes a status
//! code and the text a client sees (spec/engine-api.md §3 and §4.2). Under
//! `/waxseal/v1/` the same error is a problem document (RFC 9457).

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde::Serialize;
use waxseal_cluster::{Lookup, Refusal};

use crate::{cluster::ClusterError, respond::APPLICATION_JSON};

/// A manager-only call on a node that is in no swarm (or in state error).
pub(crate) const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
/// A manager-only call on a worker.
const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";
/// A manager-only call on a manager that is starting.
const PREPARING: &str = "This node is not a swarm manager. Manager is being prepared or has trouble connecting to the cluster.";
/// Any call while locked.
pub(crate) const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
/// Certificates ran out while the node was away.
const EXPIRED: &str =
    "Swarm certificates have expired. To replace them, leave the swarm and join again.";
/// Init or join of a member.
const ALREADY_PART: &str = "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one.";
/// Leave of a node that is in no swarm.
pub(crate) const NOT_PART: &str = "This node is not part of a swarm";
/// Join went past its time and goes on.
const JOIN_TIMEOUT: &str = "Timeout was reached before node joined. The attempt to join the swarm will continue in the background. Use the \"docker info\" command to see the current swarm status of your node.";
/// No quorum.
const NO_LEADER: &str = "The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.";

/// The gRPC codes whose names are part of the Engine's texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// 400.
    InvalidArgument,
    /// 409.
    AlreadyExists,
    /// 400.
    FailedPrecondition,
    /// 501.
    Unimplemented,
    /// 500.
    DeadlineExceeded,
    /// 500.
    Unknown,
    /// 500.
    Internal,
}

impl Code {
    fn status(self) -> StatusCode {
        match self {
            Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
            Code::AlreadyExists => StatusCode::CONFLICT,
            Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Code::DeadlineExceeded | Code::Unknown | Code::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Code::InvalidArgument => "InvalidArgument",
            Code::AlreadyExists => "AlreadyExists",
            Code::FailedPrecondition => "FailedPrecondition",
            Code::Unimplemented => "Unimplemented",
            Code::DeadlineExceeded => "DeadlineExceeded",
            Code::Unknown => "Unknown",
            Code::Internal => "Internal",
        }
    }
}

/// Marks an answer that belongs to no route and so bears no API headers.
#[derive(Clone, Copy)]
pub(crate) struct PageNotFound;

const PAGE_NOT_FOUND: &str = "page not found";

/// What a client is told: a status code and a text without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// The status code.
    pub(crate) status: StatusCode,
    /// The text.
    pub(crate) message: String,
}

impl ApiError {
    /// A status and a text.
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> ApiError {
        ApiError {
            status,
            message: message.into(),
        }
    }
    /// 400 without the RPC wrapper: found in the HTTP layer.
    pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, message)
    }
    /// 500 without the RPC wrapper.
    pub(crate) fn internal(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }
    /// 501 without the RPC wrapper.
    pub(crate) fn not_implemented(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_IMPLEMENTED, message)
    }
    /// 503 without the RPC wrapper.
    pub(crate) fn unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
    /// `rpc error: code = <code> desc = <text>` with the code's status.
    pub(crate) fn rpc(code: Code, text: impl std::fmt::Display) -> ApiError {
        ApiError::new(
            code.status(),
            format!("rpc error: code = {} desc = {text}", code.name()),
        )
    }
    /// 400 `rpc error: code = InvalidArgument desc = …`.
    pub(crate) fn invalid_argument(text: impl std::fmt::Display) -> ApiError {
        ApiError::rpc(Code::InvalidArgument, text)
    }
    /// 404 `<kind> <input> not found`.
    pub(crate) fn not_found(kind: &str, input: &str) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, format!("{kind} {input} not found"))
    }
    /// 404 `page not found`, which bears no API headers.
    pub(crate) fn page_not_found() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, PAGE_NOT_FOUND)
    }
    /// This error as a problem document (RFC 9457), for `/waxseal/v1/`.
    pub(crate) fn into_problem(self) -> Response {
        #[derive(Serialize)]
        struct Problem<'a> {
            r#type: &'a str,
            title: &'a str,
            status: u16,
            detail: &'a str,
        }
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("error"),
            status: self.status.as_u16(),
            detail: &self.message,
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        response
    }
}

/// What a lookup by id, name or prefix found, or 404 / 400 ambiguous.
pub(crate) fn found<T>(
    lookup: Lookup<T>,
    kind: &str,
    input: &str,
) -> Result<std::sync::Arc<T>, ApiError> {
    match lookup {
        Lookup::Found(object) => Ok(object),
        Lookup::NotFound => Err(ApiError::not_found(kind, input)),
        Lookup::Ambiguous(matches) => Err(ApiError::bad_request(format!(
            "{kind} {input} is ambiguous ({matches} matches found)"
        ))),
    }
}

impl From<ClusterError> for ApiError {
    fn from(error: ClusterError) -> ApiError {
        match error {
            ClusterError::NotInSwarm => ApiError::unavailable(NOT_A_MANAGER),
            ClusterError::NotManager => ApiError::unavailable(WORKER),
            ClusterError::Preparing => ApiError::unavailable(PREPARING),
            ClusterError::Locked => ApiError::unavailable(LOCKED),
            ClusterError::CertificatesExpired => ApiError::unavailable(EXPIRED),
            ClusterError::AlreadyInSwarm => ApiError::unavailable(ALREADY_PART),
            ClusterError::NotLocked => ApiError::new(StatusCode::CONFLICT, "swarm is not locked"),
            ClusterError::WrongUnlockKey => ApiError::new(
                StatusCode::UNAUTHORIZED,
                "swarm could not be unlocked: invalid key provided",
            ),
            ClusterError::MalformedUnlockKey => ApiError::bad_request("invalid key string"),
            ClusterError::LeaveRefused(text) => ApiError::unavailable(text),
            ClusterError::JoinTimeout => ApiError::unavailable(JOIN_TIMEOUT),
            ClusterError::NoLeader => ApiError::rpc(Code::Unknown, NO_LEADER),
            ClusterError::Storage(text) => ApiError::internal(text),
            ClusterError::Refused(refusal) => refusal.into(),
            ClusterError::InvalidArgument(text) => ApiError::bad_request(text),
            ClusterError::NotImplemented(text) => ApiError::not_implemented(text),
            ClusterError::Unavailable(text) => ApiError::unavailable(text),
            ClusterError::Internal(text) => ApiError::internal(text),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let code = match &refusal {
            Refusal::NotFound { .. } => {
                return ApiError::new(StatusCode::NOT_FOUND, refusal.to_string());
            }
            Refusal::NameTaken { .. } => Code::AlreadyExists,
            Refusal::Stale => Code::Unknown,
            Refusal::InUse { .. } | Refusal::OnlyLabels | Refusal::Invalid { .. } => {
                Code::InvalidArgument
            }
            Refusal::Precondition { .. } => Code::FailedPrecondition,
            Refusal::Exhausted { .. } => {
                return ApiError::new(StatusCode::TOO_MANY_REQUESTS, refusal.to_string());
            }
            Refusal::Unimplemented { .. } => Code::Unimplemented,
            Refusal::TooNew { .. } => return ApiError::internal(refusal.to_string()),
            // The enum may grow in its crate; what is not known here is nobody's fault but ours.
            _ => Code::Unknown,
        };
        ApiError::rpc(code, refusal)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Message<'a> {
            message: &'a str,
        }
        let mut body = serde_json::to_vec(&Message {
            message: &self.message,
        })
        .unwrap_or_default();
        body.push(b'\n');
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response
            .headers_mut()
            .insert(CONTENT_TYPE, APPLICATION_JSON);
        if self.message == PAGE_NOT_FOUND {
            response.extensions_mut().insert(PageNotFound);
        }
        response
    }
}
