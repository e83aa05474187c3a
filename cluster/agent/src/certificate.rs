//! Asking a manager for a certificate, at the join and at each renewal.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time as timer;
use tonic::{Code, Request, Status};
use tracing::debug;
use waxseal_ca::{
    CredentialsError, KeyError, NodeCredentials, NodeKey, Purpose, TrustBundle, chain_from_pem,
    verify_chain,
};
use waxseal_cluster::objects::{Availability, IssuanceState};
use waxseal_wire::{
    ManagerChannel, announce_features, engine_text, peer_text,
    swarmkit::{IssueNodeCertificateRequest, NodeCertificateStatusRequest},
};

use crate::{backoff::poll_wait, random::spread};

/// Time for one call to the certificate authority.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// What our managers say to a node whose record bears another role than its certificate.
const ROLE_CHANGED: &str = "renew the certificate";

/// Whether a call is refused as the caller's certificate names a former role.
pub(crate) fn is_role_change(status: &Status) -> bool {
    status.code() == Code::PermissionDenied && status.message().contains(ROLE_CHANGED)
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The manager refused; asking again with the same words is in vain.
    #[error("{}", engine_text(.0))]
    Refused(Status),
    /// The manager could not answer now.
    #[error("{}", engine_text(.0))]
    Unavailable(Status),
    /// The manager could not sign.
    #[error("the manager could not sign the certificate: {reason}; see the manager's log")]
    NotSigned {
        /// What the manager says.
        reason: String,
    },
    /// Another request of this node came in between; the answer is for that one.
    #[error("the manager answered another certificate request of this node; try again")]
    Superseded,
    /// The manager's answer is not what the protocol promises.
    #[error("the manager's answer has no {missing}; update the manager")]
    Incomplete {
        /// The part that is not there.
        missing: &'static str,
    },
    /// No key could be made.
    #[error("cannot make a key: {0}")]
    Key(#[from] KeyError),
    /// What came is not a certificate that this node can use.
    #[error("the certificate that the manager issued cannot be used: {0}")]
    Unusable(#[from] CredentialsError),
}

impl CertificateError {
    /// Whether the same request may succeed later, or with another manager.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            CertificateError::Unavailable(_) | CertificateError::Superseded => true,
            // A renewal is taken in whatever role: who was refused is the manager that relayed
            // it, as one that was just demoted and asked itself.
            CertificateError::Refused(status) => is_role_change(status),
            _ => false,
        }
    }

    fn from_status(status: Status) -> CertificateError {
        match status.code() {
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::AlreadyExists
            | Code::OutOfRange
            | Code::NotFound => CertificateError::Refused(status),
            _ => CertificateError::Unavailable(status),
        }
    }
}

/// A key and the request made for it.
pub(crate) struct PreparedRequest {
    key: NodeKey,
    csr_pem: String,
}

impl PreparedRequest {
    /// A fresh key: each certificate has its own.
    pub(crate) fn new() -> Result<PreparedRequest, CertificateError> {
        let key = NodeKey::generate()?;
        let csr_pem = key.csr_pem()?;
        Ok(PreparedRequest { key, csr_pem })
    }

    pub(crate) fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// Asks for the certificate and waits until it is there. Asked once more with the
    /// same words, a manager of ours gives the same node id and certificate.
    ///
    /// # Errors
    /// See [`CertificateError`]; the chain itself is checked by [`IssuedChain::check`].
    pub(crate) async fn issue(
        &self,
        channel: &ManagerChannel,
        token: &str,
        availability: Availability,
    ) -> Result<IssuedChain, CertificateError> {
        let request = IssueNodeCertificateRequest {
            csr: self.csr_pem.clone().into_bytes(),
            token: token.as_bytes().to_vec(),
            availability: availability.into(),
            ..Default::default()
        };
        let mut node_ca = channel.node_ca();
        let answer = bounded(request, |mut request| {
            announce_features(&mut request);
            node_ca.issue_node_certificate(request)
        });
        let node_id = answer.await.map_err(CertificateError::from_status)?.node_id;
        let chain_pem = self.wait(channel, &node_id).await?;
        Ok(IssuedChain { chain_pem })
    }

    /// Polls until the certificate is issued. A manager may hold each call open.
    async fn wait(
        &self,
        channel: &ManagerChannel,
        node_id: &str,
    ) -> Result<Vec<u8>, CertificateError> {
        for polls in 0u32.. {
            timer::sleep(poll_wait(polls, spread())).await;
            let request = NodeCertificateStatusRequest {
                node_id: node_id.to_owned(),
            };
            let mut node_ca = channel.node_ca();
            let answer = bounded(request, |request| node_ca.node_certificate_status(request));
            let answer = match answer.await {
                Ok(answer) => answer,
                // The manager held the call for as long as it was given, or holds as many as it may.
                Err(status) if is_held_back(&status) => continue,
                Err(status) => return Err(CertificateError::from_status(status)),
            };
            let missing = |missing| CertificateError::Incomplete { missing };
            let status = answer.status.ok_or_else(|| missing("status"))?;
            match status.state() {
                IssuanceState::Issued | IssuanceState::Rotate => {
                    let certificate = answer.certificate.ok_or_else(|| missing("certificate"))?;
                    if certificate.csr != self.csr_pem.as_bytes() {
                        return Err(CertificateError::Superseded);
                    }
                    return Ok(certificate.certificate);
                }
                IssuanceState::Failed => {
                    return Err(CertificateError::NotSigned {
                        reason: peer_text(&status.err),
                    });
                }
                state => debug!(?state, "the certificate is not issued yet"),
            }
        }
        Err(CertificateError::Superseded)
    }
}

/// Whether the certificate may well be on its way, and the same call is to be made again.
fn is_held_back(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::DeadlineExceeded | Code::ResourceExhausted
    )
}

/// What a manager issued, unchecked.
pub(crate) struct IssuedChain {
    chain_pem: Vec<u8>,
}

impl IssuedChain {
    /// A chain in PEM, as it came.
    pub(crate) fn new(chain_pem: Vec<u8>) -> IssuedChain {
        IssuedChain { chain_pem }
    }

    /// Whether the chain leads to these roots.
    pub(crate) fn leads_to(&self, trust: &TrustBundle, now: OffsetDateTime) -> bool {
        chain_from_pem(&self.chain_pem)
            .is_ok_and(|chain| verify_chain(&chain, trust, now, Purpose::Client).is_ok())
    }

    /// Checks the chain against trust and the key that it was asked for with.
    ///
    /// # Errors
    /// `Unusable` says which rule it breaks.
    pub(crate) fn check(
        self,
        request: PreparedRequest,
        trust: &TrustBundle,
        now: OffsetDateTime,
    ) -> Result<Arc<NodeCredentials>, CertificateError> {
        let PreparedRequest { key, .. } = request;
        Ok(NodeCredentials::new(&self.chain_pem, key, trust, now)?)
    }
}

/// A call that gives up after [`CALL_DEADLINE`]; the manager is told so.
pub(crate) async fn bounded<M, T, F>(
    message: M,
    send: impl FnOnce(Request<M>) -> F,
) -> Result<T, Status>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(CALL_DEADLINE);
    match timer::timeout(CALL_DEADLINE, send(request)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("no answer within 5 s")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_relayed_refusal_for_the_role_is_tried_elsewhere() {
        let denied = |text| CertificateError::from_status(Status::permission_denied(text));
        assert!(!denied("node n was removed from swarm").is_passing());
        let role = "the certificate says swarm-manager, the node's record says swarm-worker; \
                    renew the certificate";
        assert!(denied(role).is_passing());
        let unauthenticated = CertificateError::from_status(Status::unauthenticated(role));
        assert!(!unauthenticated.is_passing());
        assert!(CertificateError::from_status(Status::unavailable("no leader")).is_passing());
    }
}
