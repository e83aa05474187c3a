//! What a refusal looks like on the wire: the one place that gives gRPC codes.

use tonic::{Code, Status};
use waxseal_ca::IssuanceRefusal;
use waxseal_cluster::Refusal;

/// The status that tells a member why its command was refused.
pub fn refusal_status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NotFound { .. } => Code::NotFound,
        Refusal::NameTaken { .. } => Code::AlreadyExists,
        Refusal::Stale => Code::Aborted,
        Refusal::InUse { .. } | Refusal::Precondition { .. } => Code::FailedPrecondition,
        Refusal::OnlyLabels | Refusal::Invalid { .. } => Code::InvalidArgument,
        Refusal::TooNew { .. } => Code::Unimplemented,
        _ => Code::Unknown,
    };
    Status::new(code, refusal.to_string())
}

/// The status that tells a joiner or a node why it gets no certificate.
pub fn issuance_status(refusal: &IssuanceRefusal) -> Status {
    Status::new(Code::InvalidArgument, refusal.to_string())
}
