//! What a refusal looks like on the wire: the one place that gives gRPC codes.

use tonic::{Code, Status};
use waxseal_ca::{IssuanceRefusal, reclaim::ReclaimRefusal};
use waxseal_cluster::Refusal;

use crate::text::peer_text;

/// The status that tells a member why its command was refused.
pub fn refusal_status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NotFound { .. } => Code::NotFound,
        Refusal::NameTaken { .. } => Code::AlreadyExists,
        Refusal::Stale => Code::Aborted,
        Refusal::InUse { .. } | Refusal::Precondition { .. } => Code::FailedPrecondition,
        Refusal::Exhausted { .. } => Code::ResourceExhausted,
        Refusal::OnlyLabels | Refusal::Invalid { .. } => Code::InvalidArgument,
        Refusal::Unimplemented { .. } | Refusal::TooNew { .. } => Code::Unimplemented,
        _ => Code::Unknown,
    };
    Status::new(code, refusal.to_string())
}

/// The status that tells a joiner or a node why it gets no certificate.
///
/// A bad token is answered in swarmkit's words, which clients know.
pub fn issuance_status(refusal: &IssuanceRefusal) -> Status {
    let code = match refusal {
        IssuanceRefusal::Token(_) => {
            return Status::invalid_argument(
                "A valid join token is necessary to join this cluster",
            );
        }
        IssuanceRefusal::Csr(_) => Code::InvalidArgument,
        IssuanceRefusal::OtherCluster
        | IssuanceRefusal::NodeRemoved { .. }
        | IssuanceRefusal::ForgedRole { .. } => Code::PermissionDenied,
        IssuanceRefusal::CertificateNotValid => Code::Unauthenticated,
        IssuanceRefusal::UnknownNode { .. } => Code::NotFound,
        IssuanceRefusal::KeyInUse => Code::AlreadyExists,
        IssuanceRefusal::ManagersNotAllowed => Code::FailedPrecondition,
        _ => Code::Unknown,
    };
    Status::new(code, refusal.to_string())
}

/// The status that tells a node why it does not return.
pub fn reclaim_status(refusal: &ReclaimRefusal) -> Status {
    let code = match refusal {
        ReclaimRefusal::NoBinding | ReclaimRefusal::Skew { .. } => Code::FailedPrecondition,
        ReclaimRefusal::Certificate(_) | ReclaimRefusal::Csr(_) => Code::InvalidArgument,
        ReclaimRefusal::BadProof => Code::Unauthenticated,
        ReclaimRefusal::KeyInUse => Code::AlreadyExists,
        _ => Code::PermissionDenied,
    };
    Status::new(code, refusal.to_string())
}

/// A status in the words that Docker's programs show: `rpc error: code = … desc = …`.
///
/// What the peer sent is escaped and cut.
pub fn engine_text(status: &Status) -> String {
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        peer_text(status.message())
    )
}

#[cfg(test)]
mod tests {
    use waxseal_ca::TokenError;

    use super::*;

    #[test]
    fn a_bad_token_is_told_in_swarmkits_words() {
        let status = issuance_status(&IssuanceRefusal::Token(TokenError::WrongSecret));
        assert_eq!(
            engine_text(&status),
            "rpc error: code = InvalidArgument desc = A valid join token is necessary to join \
             this cluster"
        );
    }

    #[test]
    fn text_from_a_peer_is_escaped() {
        let status = Status::new(Code::Internal, "a\nb");
        assert_eq!(
            engine_text(&status),
            "rpc error: code = Internal desc = a\\nb"
        );
    }
}
