//! The CA and NodeCA services.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};
use waxseal_ca::{
    CertificateExpiry, Csr, IssuanceDecision, IssuanceRefusal, IssuanceView, IssuedNode,
    JoinRequest, LiveTls, NodeProfile, NodeRecord, NodeTable, PublicKeyDigest, Role, Serial,
    decide_issuance, rotation,
};
use waxseal_cluster::{
    Refusal, State,
    objects::{
        Annotations, Availability, Certificate, CreateNode, IssuanceState, IssuanceStatus,
        Membership, Node, NodeRole, NodeSpec, NodeState, NodeStatus, RequestCertificate,
        RequestSource, StoreCertificate, command::Op,
    },
    timestamp, version_of,
};
use waxseal_wire::{
    FEATURE_MANAGER, Peer, announced_features, issuance_status, limits,
    swarmkit::{
        GetRootCaCertificateRequest, GetRootCaCertificateResponse, IssueNodeCertificateRequest,
        IssueNodeCertificateResponse, NodeCertificateStatusRequest, NodeCertificateStatusResponse,
        ca_server, node_ca_server,
    },
};

use super::{
    external::{Asked, NotSigned},
    issuer::{IssuedChain, Issuer, IssuerError, Signer},
    refusals::Refusals,
    tokens,
};
use crate::{
    authorize,
    core::{Core, random_id},
    dispatcher::{RATE_LIMIT, note_call},
    error::{ProposeError, propose_status},
};

/// Status calls of callers without a certificate that are held at once: one for each
/// connection that such callers may have, as those of a fleet that joins at once wait for one
/// entry of the log. One more is answered as things stand.
const HELD_CALLS: usize = limits::ANONYMOUS_CONNECTIONS;
/// The same for members, apart from the others: one for each that a rotation of the root
/// asks to renew at once.
const HELD_MEMBER_CALLS: usize = rotation::MOST_AT_ONCE;
/// Requests for a certificate that are under way at once: joins that are in order
/// are bounded in total only (requirements.md, join floods).
const ISSUING: usize = 256;
/// So long one more waits for its turn. Who waits is bounded by the calls of each caller.
const ISSUING_WAIT: Duration = Duration::from_secs(2);
/// For how long after its record was made a node without a session may ask
/// without a certificate.
const ANONYMOUS_STATUS: Duration = Duration::from_secs(10 * 60);
/// A request is signed so often, if the root changes each time before it is on record.
const SIGNINGS: usize = 4;
/// A held status call answers at the latest after this; the caller asks again.
pub(super) const HOLD: Duration = Duration::from_secs(4);

/// Decides, records, signs.
pub(crate) struct Ca {
    pub(super) core: Arc<Core>,
    tls: Arc<LiveTls>,
    issuer: ArcSwap<Issuer>,
    /// In place of the configured expiry; set by the harness only.
    expiry: Option<CertificateExpiry>,
    waiting: Mutex<HashMap<String, Arc<Notify>>>,
    held: Semaphore,
    held_members: Semaphore,
    issuing: Semaphore,
    pub(super) refusals: Refusals,
    /// The external CA, if one signs.
    asked: Asked,
    /// When nodes asked for a new certificate of late.
    renewals: Mutex<HashMap<String, VecDeque<Instant>>>,
    /// The certificates that nodes were made to come with.
    pub(super) moved: Mutex<HashMap<String, Serial>>,
    pub(super) tasks: TaskTracker,
    /// Ends held calls.
    stopped: CancellationToken,
}

impl Ca {
    /// The CA of a cluster whose state has been read.
    ///
    /// # Errors
    /// If the root or the tokens in the state cannot be used.
    pub(crate) fn new(
        core: Arc<Core>,
        tls: Arc<LiveTls>,
        expiry: Option<CertificateExpiry>,
        tasks: TaskTracker,
        stopped: CancellationToken,
    ) -> Result<Ca, IssuerError> {
        let issuer = Ca::read_issuer(&core, &tls, expiry)?;
        Ok(Ca {
            core,
            tls,
            issuer: ArcSwap::from_pointee(issuer),
            expiry,
            waiting: Mutex::default(),
            held: Semaphore::new(HELD_CALLS),
            held_members: Semaphore::new(HELD_MEMBER_CALLS),
            issuing: Semaphore::new(ISSUING),
            refusals: Refusals::default(),
            asked: Asked::default(),
            renewals: Mutex::default(),
            moved: Mutex::default(),
            tasks,
            stopped,
        })
    }

    fn read_issuer(
        core: &Core,
        tls: &Arc<LiveTls>,
        expiry: Option<CertificateExpiry>,
    ) -> Result<Issuer, IssuerError> {
        let now = core.clock.now();
        core.read(|state| {
            let cluster = state.cluster().ok_or(IssuerError::NoRoot)?;
            Issuer::of(cluster, tls, expiry, now)
        })
    }

    /// Takes over root, tokens and expiry after the cluster object changed.
    pub(crate) fn cluster_changed(&self) {
        match Ca::read_issuer(&self.core, &self.tls, self.expiry) {
            Ok(issuer) => self.issuer.store(Arc::new(issuer)),
            Err(error) => {
                tracing::error!(%error, "the changed cluster object is not used for certificates");
            }
        }
    }

    /// What the state has at this moment: a rotated token acts with the answer to
    /// the rotation, not when the change has gone round.
    fn current_issuer(&self) -> Arc<Issuer> {
        let issuer = self.issuer.load_full();
        let version = self.core.read(|state| {
            let cluster = state.cluster();
            cluster.map(|cluster| version_of(cluster.meta.as_ref()))
        });
        if version.is_none_or(|version| version <= issuer.version) {
            return issuer;
        }
        self.cluster_changed();
        self.issuer.load_full()
    }

    /// Signs what was recorded and not signed, as after a crash between the two.
    pub(crate) async fn sign_pending(&self) {
        let pending: Vec<String> = self.core.read(|state| {
            let is_pending = |node: &&Arc<Node>| {
                matches!(
                    issuance_state(node),
                    IssuanceState::Pending | IssuanceState::Renew
                )
            };
            state
                .nodes()
                .filter(is_pending)
                .map(|node| node.id.clone())
                .collect()
        });
        for node_id in pending {
            self.sign(&node_id, None).await;
        }
    }

    async fn issue(
        self: &Arc<Self>,
        peer: &Peer,
        managers_allowed: bool,
        request: IssueNodeCertificateRequest,
    ) -> Result<IssueNodeCertificateResponse, Status> {
        let _place = self.issuing_place().await?;
        let now = self.core.clock.now();
        let issuer = self.current_issuer();
        // 1. A connection outlives what its certificate was worth at the handshake.
        //    A certificate of a former role is no obstacle: this is how it is replaced.
        if let Some(identity) = &peer.identity {
            let cluster_id = &self.core.cluster_id;
            self.core.read(|state| {
                authorize::check_identity(state, cluster_id, now, identity).map(drop)
            })?;
            self.note_renewal(&identity.node_id)?;
        }
        // 2. Of a time that certificates may bear.
        if let Some(trouble) = self.core.group.time().signs_not() {
            tracing::error!(%trouble, "no certificate is signed");
            return Err(Status::failed_precondition(trouble));
        }
        // 3. What a token with limits admits is looked at only if its secret is known.
        let address = peer.address.ip().to_canonical();
        let limited = match &peer.identity {
            Some(_) => None,
            None => self.limited_token(&request.token, address)?,
        };
        // 4. The decision.
        let decision = self.core.read(|state| {
            let view = IssuanceView {
                cluster_id: &issuer.cluster_id,
                tokens: &issuer.tokens,
                limited_role: limited.as_ref().map(|token| token.role),
                nodes: &Nodes(state),
                managers_allowed,
                caught_up: true,
            };
            // What is no text is no token either.
            let token = std::str::from_utf8(&request.token).unwrap_or_default();
            let request = JoinRequest {
                csr_pem: &request.csr,
                token,
            };
            decide_issuance(&request, peer.identity.as_ref(), &view, now)
        });
        let (node, csr) = match decision {
            IssuanceDecision::Issue { node, csr } => (node, csr),
            IssuanceDecision::Wait(_) => {
                return Err(Status::unavailable(
                    "the manager has not caught up; try again",
                ));
            }
            IssuanceDecision::Refuse(refusal) => return Err(self.refusal(peer, &refusal)),
        };
        // 5. On record, serial included, before anything is signed.
        let availability = request.availability();
        let token = match (&peer.identity, limited) {
            (Some(_), _) => String::new(),
            (None, Some(limited)) => limited.id,
            (None, None) => tokens::classic_name(&node).to_owned(),
        };
        let source = RequestSource {
            address: address.to_string(),
            token,
        };
        let recorded = self.record(node, request.csr, &csr, availability, source);
        let node_id = recorded.await?;
        // 6. Signed and stored behind the caller's back; the status call waits for it.
        let this = Arc::clone(self);
        let signed_id = node_id.clone();
        self.tasks
            .spawn(async move { this.sign(&signed_id, Some(csr)).await });
        Ok(IssueNodeCertificateResponse {
            node_id,
            node_membership: Membership::Accepted.into(),
        })
    }

    /// A place among the requests that are under way, in turn.
    pub(super) async fn issuing_place(&self) -> Result<SemaphorePermit<'_>, Status> {
        match tokio::time::timeout(ISSUING_WAIT, self.issuing.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(Status::resource_exhausted(
                "too many certificate requests at once; try again in 1 s",
            )),
        }
    }

    /// Each renewal is two entries of the log and a signature.
    fn note_renewal(&self, node_id: &str) -> Result<(), Status> {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        if !note_call(
            renewals.entry(node_id.to_owned()).or_default(),
            Instant::now(),
            RATE_LIMIT,
        ) {
            return Err(Status::resource_exhausted(
                "this node asks too often for a new certificate; try again in 8 s",
            ));
        }
        Ok(())
    }

    /// A node was removed.
    pub(crate) fn forget(&self, node_id: &str) {
        let mut renewals = self.renewals.lock().unwrap_or_else(PoisonError::into_inner);
        renewals.remove(node_id);
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        moved.remove(node_id);
    }

    /// What a refused caller is told. Who has been refused too often is told only
    /// to wait; who comes in order, from the same address too, never is.
    fn refusal(&self, peer: &Peer, refusal: &IssuanceRefusal) -> Status {
        let address = peer.address.ip();
        let now = Instant::now();
        if peer.identity.is_none() {
            if let Some(wait) = self.refusals.wait(address, now) {
                let millis = wait.as_millis();
                return Status::resource_exhausted(format!(
                    "too many refused joins from {address}; try again in {millis} ms"
                ));
            }
            self.refusals.note(address, now);
        }
        tracing::info!(%address, %refusal, "certificate refused");
        issuance_status(refusal)
    }

    /// Records a node, or a known node's new request; answers its id.
    async fn record(
        &self,
        node: IssuedNode,
        csr_pem: Vec<u8>,
        csr: &Csr,
        availability: Availability,
        source: RequestSource,
    ) -> Result<String, Status> {
        let mut certificate = Certificate {
            csr: csr_pem,
            serial: new_serial()?.as_bytes().to_vec(),
            public_key_digest: csr.public_key_digest().as_bytes().to_vec(),
            source: Some(source),
            ..Certificate::default()
        };
        let (node_id, op) = match node {
            IssuedNode::New { role } => {
                let node_id =
                    random_id().map_err(|_| Status::internal("the system gave no random bytes"))?;
                certificate.role = node_role(role).into();
                certificate.cn.clone_from(&node_id);
                certificate.status = status(IssuanceState::Pending);
                let node = Node {
                    id: node_id.clone(),
                    spec: Some(NodeSpec {
                        annotations: Some(Annotations::default()),
                        desired_role: node_role(role).into(),
                        membership: Membership::Accepted.into(),
                        availability: availability.into(),
                    }),
                    status: Some(NodeStatus {
                        state: NodeState::Unknown.into(),
                        ..NodeStatus::default()
                    }),
                    certificate: Some(certificate),
                    role: node_role(role).into(),
                    ..Node::default()
                };
                (node_id, Op::CreateNode(CreateNode { node: Some(node) }))
            }
            IssuedNode::Existing { node_id, role } => {
                certificate.role = node_role(role).into();
                certificate.cn.clone_from(&node_id);
                certificate.status = status(IssuanceState::Renew);
                let request = RequestCertificate {
                    node_id: node_id.clone(),
                    certificate: Some(certificate),
                };
                (node_id, Op::RequestCertificate(request))
            }
        };
        self.core
            .propose_as("ca", op)
            .await
            .map_err(|error| propose_status(&error))?;
        Ok(node_id)
    }

    /// Signs a node's recorded request and stores the certificate. `checked` is the request if
    /// it was read just now; another one on record is read anew.
    pub(super) async fn sign(&self, node_id: &str, checked: Option<Csr>) {
        // It stays on record until the clock is set.
        if self.core.group.time().signs_not().is_some() {
            return;
        }
        for _ in 0..SIGNINGS {
            let issuer = self.current_issuer();
            let request = self.core.read(|state| {
                let node = state.node(node_id)?;
                Some((role_of(node.role()), node.certificate.clone()?))
            });
            let Some((role, request)) = request else {
                return;
            };
            let stored = self
                .sign_once(&issuer, node_id, role, request, checked.as_ref())
                .await;
            // The root changed between the two: what the former one signed is thrown away.
            let overtaken = matches!(stored, Err(ProposeError::Refused(Refusal::Stale)))
                && self.current_issuer().key != issuer.key;
            if let Err(error) = stored {
                // Refused if the node was removed or asked anew meanwhile; else the loop
                // that looks for unsigned requests tries again.
                tracing::debug!(node = %node_id, %error, "certificate not stored");
            }
            if !overtaken {
                break;
            }
        }
        self.wake(node_id);
    }

    async fn sign_once(
        &self,
        issuer: &Issuer,
        node_id: &str,
        role: Role,
        request: Certificate,
        checked: Option<&Csr>,
    ) -> Result<(), ProposeError> {
        let digest = request.public_key_digest.as_slice();
        let checked = checked.filter(|csr| csr.public_key_digest().as_bytes() == digest);
        let signed = self.signed(issuer, node_id, role, &request, checked).await;
        let certificate = match signed {
            Ok(issued) => Certificate {
                issuer: issuer.on_record(),
                not_before: Some(timestamp(issued.identity.not_before)),
                not_after: Some(timestamp(issued.identity.not_after)),
                certificate: issued.pem.into_bytes(),
                status: status(IssuanceState::Issued),
                foreign_serial: issued.foreign_serial,
                ..request
            },
            Err(NotSigned::Later) => return Ok(()),
            Err(NotSigned::Failed(reason)) => {
                tracing::error!(node = %node_id, %reason, "certificate not signed");
                let err = reason;
                let failed = IssuanceStatus {
                    state: IssuanceState::Failed.into(),
                    err,
                };
                Certificate {
                    status: Some(failed),
                    ..request
                }
            }
        };
        let store = StoreCertificate {
            node_id: node_id.to_owned(),
            certificate: Some(certificate),
        };
        let stored = self
            .core
            .propose_as("ca", Op::StoreCertificate(store))
            .await;
        stored.map(drop)
    }

    async fn signed(
        &self,
        issuer: &Issuer,
        node_id: &str,
        role: Role,
        request: &Certificate,
        checked: Option<&Csr>,
    ) -> Result<IssuedChain, NotSigned> {
        let failed = |error: &dyn std::error::Error| NotSigned::Failed(error.to_string());
        let parsed;
        let csr = match checked {
            Some(csr) => csr,
            None => {
                parsed = Csr::parse(&request.csr).map_err(|error| failed(&error))?;
                &parsed
            }
        };
        let serial = Serial::from_bytes(&request.serial).map_err(|error| failed(&error))?;
        let profile = NodeProfile {
            cluster_id: issuer.cluster_id.clone(),
            node_id: node_id.to_owned(),
            role,
            expiry: issuer.expiry,
        };
        let now = self.core.clock.now();
        let issued = match &issuer.signer {
            Signer::Local(authority) => {
                let issued = authority.issue(&profile, csr, serial, now);
                (issued.map_err(|error| failed(&error))?, Vec::new())
            }
            Signer::External(signer) => {
                let issued = self
                    .asked
                    .sign(&self.core, signer, &profile, &request.csr, csr)
                    .await?;
                let serial = issued.identity.serial.as_bytes().to_vec();
                (issued, serial)
            }
        };
        Ok(issuer.chain(issued.0, issued.1, now))
    }

    /// Asks the external CA again for what it has not signed, once its pause is over.
    pub(crate) async fn keep_asking(&self) {
        let asking = async {
            loop {
                self.asked.due().await;
                self.sign_pending().await;
            }
        };
        self.stopped.run_until_cancelled(asking).await;
    }

    /// The certificate's status once it is final, or as it is after so long.
    pub(super) async fn wait_final(
        &self,
        node_id: &str,
        hold: Duration,
    ) -> Result<NodeCertificateStatusResponse, Status> {
        let deadline = tokio::time::Instant::now() + hold;
        loop {
            let waiting = self.wait_for(node_id);
            let woken = waiting.signal.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            let Some(node) = self.core.read(|state| state.node(node_id).cloned()) else {
                return Err(Status::not_found("NotFound"));
            };
            let is_final = matches!(
                issuance_state(&node),
                IssuanceState::Issued | IssuanceState::Failed | IssuanceState::Rotate
            );
            if is_final || tokio::time::Instant::now() >= deadline {
                let certificate = node.certificate.clone().unwrap_or_default();
                return Ok(NodeCertificateStatusResponse {
                    status: Some(certificate.status.clone().unwrap_or_default()),
                    certificate: Some(certificate),
                });
            }
            tokio::select! {
                () = woken => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.stopped.cancelled() => {
                    return Err(Status::unavailable("the manager stops; ask again"));
                }
            }
        }
    }

    fn wait_for(&self, node_id: &str) -> Waiting<'_> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let signal = Arc::clone(waiting.entry(node_id.to_owned()).or_default());
        Waiting {
            ca: self,
            node_id: node_id.to_owned(),
            signal,
        }
    }

    fn wake(&self, node_id: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signal) = waiting.remove(node_id) {
            signal.notify_waiters();
        }
    }
}

/// One held status call; the last one of a node takes the entry with it.
struct Waiting<'a> {
    ca: &'a Ca,
    node_id: String,
    signal: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self
            .ca
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Given back under the lock, so that of several calls one is the last.
        drop(std::mem::take(&mut self.signal));
        let unused = |signal: &Arc<Notify>| Arc::strong_count(signal) == 1;
        if waiting.get(&self.node_id).is_some_and(unused) {
            waiting.remove(&self.node_id);
        }
    }
}

/// Who may ask for the status of a node's certificate.
fn check_status_caller(
    state: &State,
    peer: &Peer,
    cluster_id: &str,
    node_id: &str,
    now: OffsetDateTime,
) -> Result<(), Status> {
    match &peer.identity {
        Some(identity) => {
            // As in a renewal, the certificate may be of a former role.
            authorize::check_identity(state, cluster_id, now, identity)?;
            if identity.node_id != node_id && identity.role != Role::Manager {
                return Err(Status::permission_denied(
                    "Permission denied: another node's certificate",
                ));
            }
        }
        None => {
            let node = state
                .node(node_id)
                .ok_or_else(|| Status::not_found("NotFound"))?;
            let made = node.meta.as_ref().and_then(|meta| meta.created_at);
            let age = made.map_or(i64::MAX, |made| now.unix_timestamp() - made.seconds);
            // One from the future is not young either: the clock went back.
            let young = u64::try_from(age).is_ok_and(|age| age <= ANONYMOUS_STATUS.as_secs());
            if node.first_session_at.is_some() || !young {
                return Err(Status::permission_denied(
                    "Permission denied: this node has a certificate; ask with it",
                ));
            }
        }
    }
    Ok(())
}

/// The node table as the decision reads it.
struct Nodes<'a>(&'a State);

impl NodeTable for Nodes<'_> {
    fn node(&self, node_id: &str) -> Option<NodeRecord> {
        self.0.node(node_id).map(|node| record_of(node))
    }

    fn node_by_public_key(&self, key: &PublicKeyDigest) -> Option<NodeRecord> {
        self.0
            .node_by_public_key(key.as_bytes())
            .map(|node| record_of(node))
    }

    fn is_removed(&self, node_id: &str) -> bool {
        self.0.is_banned(node_id)
    }
}

fn record_of(node: &Node) -> NodeRecord {
    let created = node.meta.as_ref().and_then(|meta| meta.created_at);
    NodeRecord {
        node_id: node.id.clone(),
        role: role_of(node.role()),
        accepted: node
            .spec
            .as_ref()
            .is_some_and(|spec| spec.membership() == Membership::Accepted),
        was_manager: node.ever_manager || node.role() == NodeRole::Manager,
        public_key: node
            .certificate
            .as_ref()
            .and_then(|certificate| certificate.public_key_digest.as_slice().try_into().ok())
            .map(PublicKeyDigest::from_bytes),
        created_at: created
            .and_then(|at| OffsetDateTime::from_unix_timestamp(at.seconds).ok())
            .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        had_session: node.first_session_at.is_some(),
    }
}

pub(super) fn role_of(role: NodeRole) -> Role {
    match role {
        NodeRole::Worker => Role::Worker,
        NodeRole::Manager => Role::Manager,
    }
}

fn node_role(role: Role) -> NodeRole {
    match role {
        Role::Worker => NodeRole::Worker,
        Role::Manager => NodeRole::Manager,
    }
}

fn issuance_state(node: &Node) -> IssuanceState {
    node.certificate
        .as_ref()
        .and_then(|certificate| certificate.status.as_ref())
        .map_or(IssuanceState::Unknown, IssuanceStatus::state)
}

pub(super) fn status(state: IssuanceState) -> Option<IssuanceStatus> {
    Some(IssuanceStatus {
        state: state.into(),
        err: String::new(),
    })
}

pub(super) fn new_serial() -> Result<Serial, Status> {
    let mut random = [0u8; 20];
    getrandom::fill(&mut random)
        .ok()
        .and_then(|()| Serial::from_random(random).ok())
        .ok_or_else(|| Status::internal("the system gave no random bytes"))
}

/// Serves `CA`, on a manager that does not lead too.
pub(crate) struct CaService(pub(crate) Arc<Core>);

#[tonic::async_trait]
impl ca_server::Ca for CaService {
    async fn get_root_ca_certificate(
        &self,
        _request: Request<GetRootCaCertificateRequest>,
    ) -> Result<Response<GetRootCaCertificateResponse>, Status> {
        let certificate = self.0.read(|state| {
            let root = state.cluster()?.root_ca.as_ref()?;
            Some(root.ca_cert.clone())
        });
        let certificate = certificate
            .ok_or_else(|| Status::unavailable("the manager has not caught up; try again"))?;
        Ok(Response::new(GetRootCaCertificateResponse { certificate }))
    }
}

/// Serves `NodeCA`.
pub(crate) struct NodeCaService(pub(crate) Arc<Ca>);

#[tonic::async_trait]
impl node_ca_server::NodeCa for NodeCaService {
    async fn issue_node_certificate(
        &self,
        request: Request<IssueNodeCertificateRequest>,
    ) -> Result<Response<IssueNodeCertificateResponse>, Status> {
        let peer = Peer::of(&request)?.clone();
        if request.get_ref().csr.is_empty() {
            return Err(Status::invalid_argument("InvalidArgument"));
        }
        let features = announced_features(&request)?.unwrap_or_default();
        let can_manage = features.iter().any(|feature| feature == FEATURE_MANAGER);
        self.0
            .issue(&peer, can_manage, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn node_certificate_status(
        &self,
        request: Request<NodeCertificateStatusRequest>,
    ) -> Result<Response<NodeCertificateStatusResponse>, Status> {
        let peer = Peer::of(&request)?.clone();
        let node_id = request.into_inner().node_id;
        if node_id.is_empty() {
            return Err(Status::invalid_argument("InvalidArgument"));
        }
        let Ca {
            core,
            held,
            held_members,
            ..
        } = &*self.0;
        let now = core.clock.now();
        core.read(|state| check_status_caller(state, &peer, &core.cluster_id, &node_id, now))?;
        let places = match peer.identity {
            Some(_) => held_members,
            None => held,
        };
        // A refusal would end the join of an engine: one for whom there is no place asks again.
        let place = places.try_acquire();
        let hold = place.as_ref().map_or(Duration::ZERO, |_| HOLD);
        self.0.wait_final(&node_id, hold).await.map(Response::new)
    }
}
