//! Return of this node when its certificate counts no more, or its trust is of yesterday.
//!
//! 1. Trust: if the managers' certificates do not lead to the root that is held, any of them is
//!    asked for the way from it to the present one, over a connection that proves nothing. Only
//!    signatures lead from one root to the next ([`follow_root_path`]).
//! 2. If the certificate at hand counts under that root, that was all.
//! 3. Else the old key proves itself to a manager that was verified by that trust
//!    ([`waxseal_ca::reclaim`]), for a new key.
//!
//! The same request is sent until it is answered: the manager knows it again.

use std::sync::Arc;

use tracing::{debug, info};
use waxseal_ca::{
    IssuerRules, KeyError, LiveTls, NodeCredentials, TrustBundle,
    reclaim::ReclaimStatement,
    root_path::{RootPathError, follow_root_path},
};
use waxseal_wire::{
    Credentials, DialError, ManagerChannel, Unreachable, engine_text, peer_text,
    waxseal::{PathRequest, ReclaimRequest, reclaim_response::Outcome},
};

use crate::{
    certificate::{CertificateError, IssuedChain, PreparedRequest, bounded},
    managers::ManagerAddress,
    renew::counts_under,
    shared::Shared,
};

/// Why this node has not returned.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReturnError {
    #[error("no manager is known; leave the cluster and join it again")]
    NoManager,
    #[error(transparent)]
    Unreachable(#[from] DialError),
    #[error(
        "the managers cannot take back a node whose certificate counts no more, as Docker Engines \
         cannot; run `docker swarm leave --force` here, then join again with a token"
    )]
    NotOurs,
    #[error(
        "the manager is of another cluster, {found}; check that the managers' addresses are right"
    )]
    OtherCluster { found: String },
    #[error(
        "the manager shows a root that nothing leads to from the one that is trusted here: {0}; \
         check that it is this cluster's, or run `docker swarm leave --force` here and join again"
    )]
    Path(#[from] RootPathError),
    /// An operator decides.
    #[error("{0}")]
    Waiting(String),
    #[error("{}", engine_text(.0))]
    Call(tonic::Status),
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the connection gives nothing to bind the proof to; update the manager")]
    Unbound,
}

impl ReturnError {
    /// Whether an operator has been asked.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self, ReturnError::Waiting(_))
    }

    /// Whether another manager would say the same.
    fn is_final(&self) -> bool {
        match self {
            ReturnError::Waiting(_) | ReturnError::Certificate(_) | ReturnError::Key(_) => true,
            ReturnError::Call(status) => !matches!(
                status.code(),
                tonic::Code::Unavailable
                    | tonic::Code::DeadlineExceeded
                    | tonic::Code::Unknown
                    | tonic::Code::Cancelled
            ),
            _ => false,
        }
    }
}

/// What a return brought.
pub(crate) enum Returned {
    /// The certificate at hand counts under the present root.
    Trust(Arc<TrustBundle>),
    /// A new certificate.
    Identity {
        credentials: Arc<NodeCredentials>,
        trust: Arc<TrustBundle>,
    },
}

/// Asks the managers in turn, each once. `prepared` is taken once it is answered.
pub(crate) async fn return_by_any(
    shared: &Shared,
    prepared: &mut Option<PreparedRequest>,
) -> Result<Returned, ReturnError> {
    let mut tried = Vec::new();
    let mut worst = None;
    loop {
        let chosen = shared.choose_manager(&tried);
        let (manager, is_another) = chosen.ok_or(ReturnError::NoManager)?;
        tried.push(manager.address.clone());
        let error = match return_by(shared, &manager, prepared).await {
            Ok(returned) => return Ok(returned),
            Err(error) => error,
        };
        debug!(%error, manager = %manager.address, "not taken back by this manager");
        if error.is_final() {
            return Err(error);
        }
        // What a manager says tells more than that another one is not there.
        let tells_more = |known: &ReturnError| matches!(known, ReturnError::Unreachable(_));
        if worst.as_ref().is_none_or(tells_more) {
            worst = Some(error);
        }
        if !is_another {
            return Err(worst.unwrap_or(ReturnError::NoManager));
        }
    }
}

async fn return_by(
    shared: &Shared,
    manager: &ManagerAddress,
    prepared: &mut Option<PreparedRequest>,
) -> Result<Returned, ReturnError> {
    let held = shared.tls.trust();
    // 1. A manager that the trust at hand verifies, or the way to the root that does.
    let (channel, trust) = match dial(shared, manager, &held).await {
        Ok(channel) => (channel, held),
        Err(error) if matches!(error.cause, Unreachable::UnknownIssuer) => {
            let trust = fetch_trust(shared, manager).await?;
            (dial(shared, manager, &trust).await?, trust)
        }
        Err(error) => return Err(error.into()),
    };
    // 2. Perhaps trust was all that was missing.
    let is_newer = trust.digest() != shared.tls.trust().digest();
    if is_newer && counts_under(shared, &trust) {
        return Ok(Returned::Trust(trust));
    }
    // 3. The proof.
    let request = match prepared {
        Some(request) => request,
        None => prepared.insert(PreparedRequest::new()?),
    };
    let chain = prove(shared, &channel, request).await?;
    // 4. A manager's certificate may still lead to the root before the one that signs now.
    let now = shared.now();
    let trust = match chain.leads_to(&trust, now) {
        true => trust,
        false => walk(shared, &channel).await?,
    };
    let request = prepared.take().ok_or(ReturnError::Unbound)?;
    let credentials = chain.check(request, &trust, now)?;
    Ok(Returned::Identity { credentials, trust })
}

/// Verifies the manager as members do, by the rules of issuers too, and presents nothing.
async fn dial(
    shared: &Shared,
    manager: &ManagerAddress,
    trust: &Arc<TrustBundle>,
) -> Result<ManagerChannel, DialError> {
    let nobody = LiveTls::new(Arc::clone(trust), None, Arc::clone(&shared.clock));
    nobody.rule_issuers(rules_under(shared, trust));
    ManagerChannel::dial(&manager.address, Credentials::Member(&nobody)).await
}

/// The rules of issuers below a root: what was said of those below another pins nobody.
pub(crate) fn rules_under(shared: &Shared, trust: &TrustBundle) -> IssuerRules {
    let rules = shared.tls.issuer_rules();
    let is_held = trust.digest() == shared.tls.trust().digest();
    IssuerRules {
        only: rules.only.clone().filter(|_| is_held),
        refused: rules.refused.clone(),
    }
}

/// The present root, by the way that leads to it from the one that is held.
async fn fetch_trust(
    shared: &Shared,
    manager: &ManagerAddress,
) -> Result<Arc<TrustBundle>, ReturnError> {
    let channel = ManagerChannel::dial(&manager.address, Credentials::FetchRoot).await?;
    let trust = walk(shared, &channel).await?;
    info!(digest = %trust.digest(), "the cluster has another root, to which the way was found");
    Ok(trust)
}

/// Asks for the way to the present root and walks it; who answers need not be trusted.
async fn walk(shared: &Shared, channel: &ManagerChannel) -> Result<Arc<TrustBundle>, ReturnError> {
    let held = shared.tls.trust();
    let request = PathRequest {
        held: held.digest().as_bytes().to_vec(),
    };
    let mut root_path = channel.root_path();
    let answer = bounded(request, |request| root_path.path(request)).await;
    let answer = answer.map_err(from_status)?;
    let rules = shared.tls.issuer_rules();
    let trust = follow_root_path(&held, &answer.steps, &answer.root, &rules, shared.now())?;
    Ok(Arc::new(trust))
}

/// Proves to hold the key of the certificate at hand, over this connection.
async fn prove(
    shared: &Shared,
    channel: &ManagerChannel,
    prepared: &PreparedRequest,
) -> Result<IssuedChain, ReturnError> {
    let own = shared.tls.credentials().ok_or(ReturnError::NoManager)?;
    let identity = own.identity();
    if let Some(server) = channel.server()
        && server.cluster_id != identity.cluster_id
    {
        let found = peer_text(&server.cluster_id);
        return Err(ReturnError::OtherCluster { found });
    }
    let unix_seconds = shared.now().unix_timestamp();
    let statement = ReclaimStatement {
        binding: channel.binding().ok_or(ReturnError::Unbound)?,
        csr_pem: prepared.csr_pem().as_bytes(),
        cluster_id: &identity.cluster_id,
        node_id: &identity.node_id,
        unix_seconds,
    };
    let signature = statement.sign(own.key())?;
    let leaf = own.chain().first().map(|leaf| leaf.to_vec());
    let request = ReclaimRequest {
        certificate: leaf.unwrap_or_default(),
        csr: prepared.csr_pem().as_bytes().to_vec(),
        unix_seconds,
        signature,
    };
    let mut reclaim = channel.reclaim();
    let answer = bounded(request, |request| reclaim.reclaim(request)).await;
    match answer.map_err(from_status)?.outcome {
        Some(Outcome::Chain(chain_pem)) => Ok(IssuedChain::new(chain_pem)),
        Some(Outcome::Waiting(waiting)) => Err(ReturnError::Waiting(peer_text(&waiting.text))),
        None => Err(CertificateError::Incomplete {
            missing: "certificate",
        }
        .into()),
    }
}

fn from_status(status: tonic::Status) -> ReturnError {
    match status.code() {
        tonic::Code::Unimplemented => ReturnError::NotOurs,
        // How our own managers of before answer callers without a certificate.
        tonic::Code::Unauthenticated if status.message().contains("needs a node certificate") => {
            ReturnError::NotOurs
        }
        _ => ReturnError::Call(status),
    }
}
