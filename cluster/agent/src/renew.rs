//! Renewal of this node's certificate.

use std::{io, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time;
use tracing::{debug, info, warn};
use waxseal_ca::{
    ChainError, NodeCredentials, Purpose, TrustBundle, TrustError, chain_from_pem, renewal_backoff,
    renewal_time, verify_chain,
};
use waxseal_cluster::objects::{Availability, IssuanceState, Node};
use waxseal_wire::{DialError, ManagerChannel, peer_text, swarmkit::GetRootCaCertificateRequest};

use crate::{
    certificate::{CertificateError, IssuedChain, PreparedRequest, bounded},
    random::spread,
    shared::Shared,
};

/// The wait before a renewal on demand, so that a manager's other changes come along.
const DEMAND_DELAY: Duration = Duration::from_millis(500);
/// The longest sleep before the wall clock is looked at again: it may jump.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// Time for one renewal, polling included.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(120);

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("no manager is known; leave the cluster and join it again")]
    NoManager,
    #[error(transparent)]
    Unreachable(#[from] DialError),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("no certificate came within 2 min; see the manager's log")]
    Timeout,
    #[error(
        "the manager issued a certificate for node {node_id} of cluster {cluster_id}, which this \
         node is not; see that the manager's address is right"
    )]
    OtherNode { node_id: String, cluster_id: String },
    #[error("cannot keep the new certificate: {0}; make room or repair the disk")]
    Store(#[source] io::Error),
    #[error("the manager's roots do not vouch for this node's present certificate: {0}")]
    Trust(#[from] ChainError),
    #[error("the manager's roots cannot be used: {0}")]
    Root(#[from] TrustError),
    #[error("{}", waxseal_wire::engine_text(.0))]
    Call(tonic::Status),
}

/// Renews at a random time in 50–80 % of each certificate's life, or when it is wanted.
/// Never ends by itself.
pub(crate) async fn renew_for_ever(shared: Arc<Shared>) {
    loop {
        wait_until_due(&shared).await;
        let mut failures = 0u32;
        while let Err(error) = renew_in_time(&shared).await {
            failures = failures.saturating_add(1);
            warn!(%error, failures, "renewing the certificate failed");
            shared
                .status
                .send_modify(|status| status.renewal.error = Some(error.to_string()));
            time::sleep(renewal_backoff(failures, spread())).await;
        }
        shared
            .status
            .send_modify(|status| status.renewal.error = None);
        // A manager's wish that came meanwhile is repeated in the new session if it still
        // holds. Requests of this node's own parts are counted apart and not forgotten.
        let _ = shared.renew.notified().now_or_never();
    }
}

async fn wait_until_due(shared: &Shared) {
    let Some(identity) = shared.tls.identity() else {
        // Nothing to renew; the agent starts only with an identity.
        return std::future::pending().await;
    };
    let due = renewal_time(identity.not_before, identity.not_after, spread());
    shared
        .status
        .send_modify(|status| status.renewal.due = Some(due));
    loop {
        let left = Duration::try_from(due - shared.now()).unwrap_or(Duration::ZERO);
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = time::sleep(left.min(CLOCK_CHECK)) => {}
            () = shared.renew.notified() => break,
            () = shared.renewal_requests.wait() => break,
        }
    }
    time::sleep(DEMAND_DELAY).await;
}

async fn renew_in_time(shared: &Shared) -> Result<(), RenewError> {
    match time::timeout(ATTEMPT_DEADLINE, renew(shared)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(RenewError::Timeout),
    }
}

async fn renew(shared: &Shared) -> Result<(), RenewError> {
    // 1. A new key, certified under the old identity. What asked for one until now gets it.
    shared.renewal_requests.meet();
    let prepared = PreparedRequest::new()?;
    shared.note_csr(prepared.csr_pem());
    let (channel, chain) = issue_by_any(shared, &prepared).await?;
    // 2. It has to be for this node and to be trusted; roots may have changed meanwhile.
    let (credentials, trust) = check(shared, &channel, chain, prepared).await?;
    let (new, old) = (credentials.identity(), shared.tls.identity());
    if old.is_some_and(|old| old.node_id != new.node_id || old.cluster_id != new.cluster_id) {
        return Err(RenewError::OtherNode {
            node_id: peer_text(&new.node_id),
            cluster_id: peer_text(&new.cluster_id),
        });
    }
    // 3. Kept before it is used.
    shared
        .store
        .save_identity(&credentials, &trust)
        .await
        .map_err(RenewError::Store)?;
    info!(serial = %new.serial, not_after = %new.not_after, "certificate renewed");
    shared.tls.swap_trust(trust);
    shared.tls.swap_identity(credentials);
    shared.renewals.send_modify(|count| *count += 1);
    Ok(())
}

/// Asks the managers in turn, each once, until one has the certificate issued. It is the
/// same request to each, so that a lost answer costs nothing.
async fn issue_by_any(
    shared: &Shared,
    prepared: &PreparedRequest,
) -> Result<(ManagerChannel, IssuedChain), RenewError> {
    let mut tried = Vec::new();
    loop {
        let (manager, is_another) = shared.choose_manager(&tried).ok_or(RenewError::NoManager)?;
        tried.push(manager.address.clone());
        let error = match shared.dial(&manager, is_another).await {
            Ok(channel) => match prepared.issue(&channel, "", Availability::Active).await {
                Ok(chain) => return Ok((channel, chain)),
                Err(error) if !error.is_passing() => return Err(error.into()),
                Err(error) => {
                    shared.observed().failed(&manager.address);
                    RenewError::from(error)
                }
            },
            Err(error) => error.into(),
        };
        if !is_another {
            return Err(error);
        }
        debug!(%error, manager = %manager.address, "renewing by another manager");
    }
}

/// Checks a chain against the present trust, and if it does not lead there against the
/// roots that the manager has now. Those count only if they vouch for this node's present
/// certificate too: what the manager says came over a connection verified with it.
async fn check(
    shared: &Shared,
    channel: &ManagerChannel,
    chain: IssuedChain,
    prepared: PreparedRequest,
) -> Result<(Arc<NodeCredentials>, Arc<TrustBundle>), RenewError> {
    let now = shared.now();
    let trust = shared.tls.trust();
    if chain.leads_to(&trust, now) {
        return Ok((chain.check(prepared, &trust, now)?, trust));
    }
    let mut ca = channel.ca();
    let request = GetRootCaCertificateRequest {};
    let answer = bounded(request, |request| ca.get_root_ca_certificate(request));
    let pem = answer.await.map_err(RenewError::Call)?.certificate;
    let newer = Arc::new(TrustBundle::from_pem(&pem, now)?);
    vouches_for_us(shared, &newer)?;
    Ok((chain.check(prepared, &newer, now)?, newer))
}

/// Whether these roots cover the certificate that this node holds.
pub(crate) fn vouches_for_us(shared: &Shared, trust: &TrustBundle) -> Result<(), ChainError> {
    let Some(credentials) = shared.tls.credentials() else {
        return Ok(());
    };
    let chain = chain_from_pem(credentials.chain_pem().as_bytes())?;
    verify_chain(&chain, trust, shared.now(), Purpose::Client)?;
    Ok(())
}

/// Whether the node object, as a manager shows it, asks this node to renew.
///
/// A record in state RENEW is that of a request under way. It is this node's own unless the
/// request is not known here, as after a crash in between; then it is made anew.
pub(crate) fn wants_renewal(node: &Node, newest_csr: Option<&str>) -> bool {
    let Some(certificate) = &node.certificate else {
        return false;
    };
    match certificate.status.as_ref().map(|status| status.state()) {
        Some(IssuanceState::Rotate) => true,
        Some(IssuanceState::Renew) => {
            newest_csr.is_none_or(|csr| csr.as_bytes() != certificate.csr)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use waxseal_cluster::objects::{Certificate, IssuanceStatus};

    use super::*;

    fn node(state: IssuanceState, csr: &str) -> Node {
        let certificate = Certificate {
            csr: csr.as_bytes().to_vec(),
            status: Some(IssuanceStatus {
                state: state.into(),
                err: String::new(),
            }),
            ..Default::default()
        };
        Node {
            certificate: Some(certificate),
            ..Default::default()
        }
    }

    #[test]
    fn final_and_absent_states_ask_for_nothing() {
        assert!(!wants_renewal(&Node::default(), None));
        for state in [
            IssuanceState::Unknown,
            IssuanceState::Issued,
            IssuanceState::Failed,
        ] {
            assert!(!wants_renewal(&node(state, "a"), None));
        }
    }

    #[test]
    fn rotate_always_asks_and_renew_only_for_a_request_of_others() {
        assert!(wants_renewal(&node(IssuanceState::Rotate, "a"), Some("a")));
        assert!(!wants_renewal(&node(IssuanceState::Renew, "a"), Some("a")));
        assert!(wants_renewal(&node(IssuanceState::Renew, "a"), Some("b")));
        assert!(wants_renewal(&node(IssuanceState::Renew, "a"), None));
    }
}
