//! Renewal of this node's certificate.

use std::{future::pending, io, sync::Arc, time::Duration};

use futures::FutureExt;
use time::OffsetDateTime;
use tokio::time as timer;
use tracing::{debug, info, warn};
use waxseal_ca::{
    ChainError, NodeCredentials, Purpose, Role, TrustBundle, TrustError, chain_from_pem,
    renewal_backoff, renewal_time, verify_chain,
};
use waxseal_cluster::objects::{Availability, IssuanceState, Node, NodeRole};
use waxseal_wire::{DialError, ManagerChannel, peer_text, swarmkit::GetRootCaCertificateRequest};

use crate::{
    certificate::{CertificateError, IssuedChain, PreparedRequest, bounded},
    random::spread,
    returning::{ReturnError, Returned, return_by_any, rules_under},
    shared::Shared,
    status::AgentStatus,
    store::OwnChain,
};

/// The wait before a renewal on demand, so that a manager's other changes come along.
const DEMAND_DELAY: Duration = Duration::from_millis(500);
/// The longest sleep before the wall clock is looked at again: it may jump.
const CLOCK_CHECK: Duration = Duration::from_secs(60);
/// The least wait after a failure, whatever managers say meanwhile.
const LEAST_PAUSE: Duration = Duration::from_secs(5);
/// The longest wait before a node tries again to come back: whoever restores its way should
/// not have to wait for it.
const RETURN_BACKOFF: Duration = Duration::from_secs(60);
/// How often a node that waits for an operator asks.
const APPROVAL_CHECK: Duration = Duration::from_secs(10);
/// A certificate this old may be renewed again by its date, if half of what it had left is not
/// over sooner.
const LEAST_AGE: time::Duration = time::Duration::minutes(10);
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
    #[error(transparent)]
    Return(#[from] ReturnError),
}

impl RenewError {
    /// Whether certificates stood in the way, so that renewing over them is in vain.
    fn is_certificate_failure(&self) -> bool {
        matches!(self, RenewError::Unreachable(error) if error.is_certificate_failure())
    }
}

/// Renews at a random time in 50–80 % of each certificate's life, or when it is wanted; gets
/// the identity back when it was lost. Never ends by itself.
pub(crate) async fn renew_for_ever(shared: Arc<Shared>) {
    let mut renewed_at = None;
    loop {
        let mut wanted = wait_until_due(&shared, renewed_at).await;
        let mut failures = 0u32;
        // The same request until it is answered: a lost answer costs nothing.
        let mut prepared = None;
        let outcome = loop {
            let error = match renew_in_time(&shared, wanted, &mut prepared).await {
                Ok(outcome) => break outcome,
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            warn!(%error, failures, "renewing the certificate failed");
            shared
                .status
                .send_modify(|status| status.renewal.error = Some(error.to_string()));
            if pause(&shared, &error, failures).await {
                wanted = Wanted::Return;
            }
        };
        shared.status.send_modify(|status| {
            status.renewal.error = None;
            status.renewal.away = None;
        });
        // What is known by now is no news.
        let _ = shared.absent.notified().now_or_never();
        if outcome == Outcome::Changed {
            renewed_at = Some(shared.now());
            // A manager's wish that came meanwhile is repeated in the new session if it still
            // holds. Requests of this node's own parts are counted apart and not forgotten.
            let _ = shared.renew.notified().now_or_never();
        }
    }
}

/// What is to be done for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Renew with the present one.
    Renewal,
    /// No manager takes the present one, or none is verified by the trust at hand.
    Return,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// This node has another certificate, or trusts another root: its session is made anew.
    Changed,
    /// The managers take the certificate at hand again; the session that shows it goes on.
    TakenAsItIs,
}

/// The wait after a failure, over when a manager takes this node again; answers whether managers
/// took note of certificates meanwhile.
async fn pause(shared: &Shared, error: &RenewError, failures: u32) -> bool {
    let wait = match error {
        RenewError::Return(error) if error.is_waiting() => {
            APPROVAL_CHECK + Duration::from_millis(spread() % 1_000)
        }
        RenewError::Return(_) => renewal_backoff(failures, spread()).min(RETURN_BACKOFF),
        _ => renewal_backoff(failures, spread()),
    };
    let sooner = async {
        timer::sleep(wait.min(LEAST_PAUSE)).await;
        shared.absent.notified().await;
    };
    let taken_again = async {
        match shared.has_session() {
            true => pending().await,
            false => session(shared).await,
        }
    };
    tokio::select! {
        () = timer::sleep(wait) => false,
        () = sooner => true,
        () = taken_again => false,
    }
}

async fn wait_until_due(shared: &Shared, renewed_at: Option<OffsetDateTime>) -> Wanted {
    let Some(identity) = shared.tls.identity() else {
        // Nothing to renew; the agent starts only with an identity.
        return pending().await;
    };
    let mut due = renewal_time(identity.not_before, identity.not_after, spread());
    // A life of minutes is over by half before it begins, as it is backdated: what was renewed
    // just now is not renewed again at once.
    if let Some(renewed_at) = renewed_at {
        let left: time::Duration = identity.not_after - renewed_at;
        let rest: time::Duration = left / 2;
        due = due.max(renewed_at + rest.clamp(time::Duration::ZERO, LEAST_AGE));
    }
    shared
        .status
        .send_modify(|status| status.renewal.due = Some(due));
    loop {
        let left = Duration::try_from(due - shared.now()).unwrap_or(Duration::ZERO);
        if left.is_zero() {
            return Wanted::Renewal;
        }
        tokio::select! {
            () = timer::sleep(left.min(CLOCK_CHECK)) => {}
            () = shared.renew.notified() => {
                timer::sleep(DEMAND_DELAY).await;
                if is_wanted(shared) {
                    return Wanted::Renewal;
                }
                debug!("a manager wanted a renewal that the others know nothing of");
            }
            () = shared.absent.notified() => return Wanted::Return,
            () = shared.renewal_requests.wait() => {
                timer::sleep(DEMAND_DELAY).await;
                return Wanted::Renewal;
            }
        }
    }
}

/// Whether managers want a renewal, by the session that there is.
fn is_wanted(shared: &Shared) -> bool {
    let Some(identity) = shared.tls.identity() else {
        return true;
    };
    let newest_csr = shared.newest_csr();
    is_shown(
        &shared.status.borrow(),
        identity.role,
        newest_csr.as_deref(),
    )
}

/// Whether a wish is what the session shows; any counts without one. A manager that relays calls
/// and has become a worker tells its callers what is meant for itself.
fn is_shown(status: &AgentStatus, role: Role, newest_csr: Option<&str>) -> bool {
    match &status.node {
        Some(node) if status.session.is_registered() => {
            role_of(node) != role || wants_renewal(node, newest_csr)
        }
        _ => true,
    }
}

/// The role on a node's record.
pub(crate) fn role_of(node: &Node) -> Role {
    match node.role() {
        NodeRole::Worker => Role::Worker,
        NodeRole::Manager => Role::Manager,
    }
}

async fn renew_in_time(
    shared: &Shared,
    wanted: Wanted,
    prepared: &mut Option<PreparedRequest>,
) -> Result<Outcome, RenewError> {
    let renewing = async {
        // What asked for a certificate until now gets this one.
        shared.renewal_requests.meet();
        // 1. A manager that leads needs nobody else, nor a certificate that counts. One that
        //    counts is left alone as managers that change refuse callers for a moment.
        let may_pass = wanted == Wanted::Return && !shared.has_expired();
        if may_pass && shared.own_authority.is_some() && session_comes(shared).await {
            return Ok(Outcome::TakenAsItIs);
        }
        if renew_here(shared).await? {
            return Ok(Outcome::Changed);
        }
        // 2. With the certificate at hand, as long as it counts.
        if !shared.has_expired() && wanted == Wanted::Renewal {
            match renew(shared).await {
                Ok(()) => return Ok(Outcome::Changed),
                // Its session shows that a manager takes the certificate: another one does not.
                Err(error) if error.is_certificate_failure() && !shared.has_session() => {}
                Err(error) => return Err(error),
            }
        }
        // 3. With its key alone.
        come_back(shared, prepared).await
    };
    match timer::timeout(ATTEMPT_DEADLINE, renewing).await {
        Ok(outcome) => outcome,
        Err(_) => Err(RenewError::Timeout),
    }
}

/// Whether there is a session again before long.
async fn session_comes(shared: &Shared) -> bool {
    timer::timeout(LEAST_PAUSE, session(shared)).await.is_ok()
}

/// Completes while there is a session.
async fn session(shared: &Shared) {
    let mut status = shared.status.subscribe();
    let registered = status.wait_for(|status| status.session.is_registered());
    // The sender lives in `shared`.
    let _ = registered.await;
}

/// Has the certificate renewed by this node's own CA; nothing if it does not lead.
async fn renew_here(shared: &Shared) -> Result<bool, RenewError> {
    let Some(authority) = &shared.own_authority else {
        return Ok(false);
    };
    let prepared = PreparedRequest::new()?;
    let Some(certified) = authority.certify(prepared.csr_pem()).await else {
        return Ok(false);
    };
    shared.note_csr(prepared.csr_pem());
    let OwnChain {
        chain_pem,
        root_pem,
    } = certified.map_err(RenewError::Call)?;
    let chain = IssuedChain::new(chain_pem);
    let now = shared.now();
    let mut trust = shared.tls.trust();
    if !chain.leads_to(&trust, now) {
        // By its own log, which no other node wrote.
        trust = Arc::new(TrustBundle::from_pem(&root_pem, now)?);
    }
    let credentials = chain.check(prepared, &trust, now)?;
    take_identity(shared, credentials, trust).await?;
    Ok(true)
}

/// Gets back what no manager takes any more.
async fn come_back(
    shared: &Shared,
    prepared: &mut Option<PreparedRequest>,
) -> Result<Outcome, RenewError> {
    let away = match shared.has_expired() {
        true => "its certificate has expired",
        // What stood in the way is over.
        false if shared.has_session() => return Ok(Outcome::TakenAsItIs),
        false => "the managers do not take its certificate, or it does not trust theirs",
    };
    shared
        .status
        .send_modify(|status| status.renewal.away = Some(away));
    let returned = return_by_any(shared, prepared).await?;
    let (Returned::Trust(trust) | Returned::Identity { trust, .. }) = &returned;
    let rules = rules_under(shared, trust);
    match returned {
        Returned::Identity { credentials, trust } => {
            info!(reason = away, "taken back by the managers");
            take_identity(shared, credentials, trust).await?;
        }
        Returned::Trust(trust) => {
            let saved = shared.store.save_trust(&trust).await;
            saved.map_err(RenewError::Store)?;
            info!(digest = %trust.digest(), "the cluster's root certificate changed");
            shared.tls.swap_trust(trust);
            shared.renewals.send_modify(|count| *count += 1);
        }
    }
    shared.tls.rule_issuers(rules);
    Ok(Outcome::Changed)
}

async fn renew(shared: &Shared) -> Result<(), RenewError> {
    // 1. A new key, certified under the old identity.
    let prepared = PreparedRequest::new()?;
    shared.note_csr(prepared.csr_pem());
    let (channel, chain) = issue_by_any(shared, &prepared).await?;
    // 2. It has to be trusted; roots may have changed meanwhile.
    let (credentials, trust) = check(shared, &channel, chain, prepared).await?;
    take_identity(shared, credentials, trust).await
}

/// Puts a new identity into use, which has to be this node's.
async fn take_identity(
    shared: &Shared,
    credentials: Arc<NodeCredentials>,
    trust: Arc<TrustBundle>,
) -> Result<(), RenewError> {
    let (new, old) = (credentials.identity(), shared.tls.identity());
    if old.is_some_and(|old| old.node_id != new.node_id || old.cluster_id != new.cluster_id) {
        return Err(RenewError::OtherNode {
            node_id: peer_text(&new.node_id),
            cluster_id: peer_text(&new.cluster_id),
        });
    }
    // Kept before it is used.
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

/// Whether the certificate that this node holds counts now, under these roots.
pub(crate) fn counts_under(shared: &Shared, trust: &TrustBundle) -> bool {
    !shared.has_expired() && vouches_for_us(shared, trust).is_ok()
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
    use crate::status::SessionStatus;

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
    fn a_wish_counts_unless_the_session_shows_another() {
        let shows = |node: Option<Node>, is_registered: bool| {
            let session = match is_registered {
                true => SessionStatus::Registered {
                    manager: "127.0.0.1:2377".to_owned(),
                    since: OffsetDateTime::UNIX_EPOCH,
                },
                false => SessionStatus::default(),
            };
            let status = AgentStatus {
                session,
                node: node.map(Arc::new),
                ..AgentStatus::default()
            };
            is_shown(&status, Role::Worker, Some("a"))
        };
        assert!(!shows(Some(node(IssuanceState::Issued, "a")), true));
        assert!(shows(Some(node(IssuanceState::Rotate, "a")), true));
        let promoted = Node {
            role: NodeRole::Manager.into(),
            ..node(IssuanceState::Issued, "a")
        };
        assert!(shows(Some(promoted), true));
        // What was shown before says nothing of now.
        assert!(shows(Some(node(IssuanceState::Issued, "a")), false));
        assert!(shows(None, true));
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
