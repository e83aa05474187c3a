//! Nodes that return: the way to the present root, and a new certificate by proof of possession.
//!
//! The path is served by every manager and needs no trust: it is signatures, which the node
//! checks. The proof is judged by the leader alone. A manager that does not lead relays it and
//! says what its end of the node's connection exports; the leader takes that from managers on
//! record only, who hold the state with the root's key and could sign what they liked. Whoever
//! is none, a removed manager with a certificate that has not ended yet included, can relay a
//! proof but not the connection that it is bound to.

use std::{sync::Arc, time::Instant};

use time::OffsetDateTime;
use tonic::{Code, Request, Response, Status};
use waxseal_ca::{
    Csr, IssuerInfo, PublicKeyDigest, Serial,
    reclaim::{
        FormerReturn, KnownCertificate, KnownIssuer, ReclaimDecision, ReclaimRefusal,
        ReclaimRequest as Asked, ReclaimView, ReturnRecord, ReturnTable, ReturnWait,
        decide_reclaim,
    },
    root_path::{FormerRoot, root_path},
};
use waxseal_cluster::{
    Refusal, State, date_time, leads_on,
    objects::{
        Certificate, Cluster, GrantReturn, IssuanceState, Membership, Node, NoteReturn,
        PendingReturn, PossibleClone, RequestSource, command::Op,
    },
    returns, timestamp,
};
use waxseal_wire::{
    Peer, reclaim_status,
    waxseal::{
        PathRequest, PathResponse, ReclaimRequest, ReclaimResponse, Waiting, reclaim_response,
        reclaim_server, root_path_server,
    },
};

use super::service::{Ca, HOLD, new_serial, role_of, status};
use crate::{
    core::Core,
    error::{ProposeError, propose_status},
};

/// How often a request is judged anew if the record changed in between.
const TRIES: u32 = 3;
/// How often a node that waits is put on record again, with the time it last asked.
const PENDING_REFRESH_SECS: i64 = 60 * 60;
/// How often the same presumed clone is put on record again.
const CLONE_REFRESH_SECS: i64 = 10 * 60;

/// Serves `RootPath`, on every manager.
pub(crate) struct RootPathService(pub(crate) Arc<Core>);

#[tonic::async_trait]
impl root_path_server::RootPath for RootPathService {
    async fn path(&self, request: Request<PathRequest>) -> Result<Response<PathResponse>, Status> {
        let held = request.into_inner().held;
        let now = self.0.clock.now();
        self.0.read(|state| {
            let cluster = state.cluster();
            let root = cluster.and_then(|cluster| cluster.root_ca.as_ref());
            let (Some(cluster), Some(root)) = (cluster, root) else {
                return Err(Status::unavailable(
                    "the manager has not caught up; try again",
                ));
            };
            let former: Vec<_> = cluster
                .past_roots
                .iter()
                .map(|past| FormerRoot {
                    root_pem: &past.ca_cert,
                    next_cross_signed_pem: match leads_on(past, cluster, now) {
                        true => &past.cross_signed,
                        false => &[],
                    },
                })
                .collect();
            let steps = root_path(&held, &former, &root.ca_cert)
                .map_err(|error| Status::failed_precondition(error.to_string()))?;
            Ok(Response::new(PathResponse {
                steps,
                root: root.ca_cert.clone(),
            }))
        })
    }
}

/// Serves `Reclaim`.
pub(crate) struct ReclaimService(pub(crate) Arc<Ca>);

#[tonic::async_trait]
impl reclaim_server::Reclaim for ReclaimService {
    async fn reclaim(
        &self,
        request: Request<ReclaimRequest>,
    ) -> Result<Response<ReclaimResponse>, Status> {
        let peer = Peer::of(&request)?.clone();
        let outcome = self.0.reclaim(&peer, request.into_inner()).await?;
        Ok(Response::new(ReclaimResponse {
            outcome: Some(outcome),
        }))
    }
}

impl Ca {
    async fn reclaim(
        self: &Arc<Self>,
        peer: &Peer,
        request: ReclaimRequest,
    ) -> Result<reclaim_response::Outcome, Status> {
        // 1. The bounds of callers without a certificate.
        let address = peer.address.ip();
        if let Some(wait) = self.refusals.wait(address, Instant::now()) {
            let millis = wait.as_millis();
            return Err(Status::resource_exhausted(format!(
                "too many refused returns from {address}; try again in {millis} ms"
            )));
        }
        let _place = self.issuing_place().await?;
        if !self.core.read(returns::are_on_record) {
            return Err(Status::failed_precondition(
                "not all managers of this cluster can take nodes back; update waxseal on all of \
                 them",
            ));
        }
        // 2. Judged and put on record, anew if the record changed between the two.
        let addr = address.to_canonical().to_string();
        for _ in 0..TRIES {
            let decided = self.decide(peer, &request, &addr);
            match self.carry_out(decided, &request, &addr).await {
                Err(Halt::Changed) => {}
                Err(Halt::Status(status)) => {
                    if !matches!(status.code(), Code::Unavailable | Code::Aborted) {
                        self.refusals.note(address, Instant::now());
                    }
                    return Err(status);
                }
                Ok(outcome) => return Ok(outcome),
            }
        }
        Err(Status::aborted(
            "the node's record changes all the time; try again",
        ))
    }

    fn decide(&self, peer: &Peer, request: &ReclaimRequest, addr: &str) -> ReclaimDecision {
        let now = self.core.clock.now();
        self.core.read(|state| {
            let Some(cluster) = state.cluster() else {
                return ReclaimDecision::Refuse(ReclaimRefusal::UnknownIssuer);
            };
            let view = ReclaimView {
                cluster_id: &self.core.cluster_id,
                issuers: &known_issuers(cluster),
                nodes: &Returning { state, now },
                window: returns::return_window(cluster),
                binding: peer.binding.as_ref(),
            };
            let asked = Asked {
                certificate: &request.certificate,
                csr_pem: &request.csr,
                unix_seconds: request.unix_seconds,
                signature: &request.signature,
                addr,
            };
            decide_reclaim(&asked, &view, now)
        })
    }

    async fn carry_out(
        self: &Arc<Self>,
        decided: ReclaimDecision,
        request: &ReclaimRequest,
        addr: &str,
    ) -> Result<reclaim_response::Outcome, Halt> {
        match decided {
            ReclaimDecision::Grant {
                node_id,
                presented,
                expected,
                csr,
            } => {
                let granted = Granted {
                    node_id: node_id.clone(),
                    presented,
                    expected,
                    csr_pem: request.csr.clone(),
                    addr: addr.to_owned(),
                };
                let key = csr.public_key_digest();
                self.grant(granted, &csr).await?;
                tracing::info!(node = %node_id, %addr, "a node returns by proof of possession");
                let this = Arc::clone(self);
                let signed_id = node_id.clone();
                self.tasks
                    .spawn(async move { this.sign(&signed_id, Some(csr)).await });
                let chain = self.issued_chain(&node_id, key).await?;
                Ok(reclaim_response::Outcome::Chain(chain))
            }
            ReclaimDecision::Again { node_id, key } => {
                let chain = self.issued_chain(&node_id, key).await?;
                Ok(reclaim_response::Outcome::Chain(chain))
            }
            ReclaimDecision::Wait {
                node_id,
                presented,
                reason,
            } => self.wait(&node_id, presented, &reason, addr).await,
            ReclaimDecision::Refuse(refusal) => {
                tracing::info!(%addr, %refusal, "return refused");
                if let ReclaimRefusal::PossibleClone { node_id, serial } = &refusal {
                    self.note_clone(node_id, *serial, addr).await;
                }
                Err(Halt::Status(reclaim_status(&refusal)))
            }
        }
    }

    async fn grant(&self, granted: Granted, csr: &Csr) -> Result<(), Halt> {
        let certificate = Certificate {
            csr: granted.csr_pem,
            serial: new_serial()?.as_bytes().to_vec(),
            public_key_digest: csr.public_key_digest().as_bytes().to_vec(),
            status: status(IssuanceState::Renew),
            source: Some(RequestSource {
                address: granted.addr.clone(),
                token: String::new(),
            }),
            ..Certificate::default()
        };
        let op = Op::GrantReturn(GrantReturn {
            node_id: granted.node_id,
            presented_serial: granted.presented.as_bytes().to_vec(),
            certificate: Some(certificate),
            addr: granted.addr,
            expected_serial: granted.expected.as_bytes().to_vec(),
        });
        match self.core.propose_as("reclaim", op).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(Refusal::Stale)) => Err(Halt::Changed),
            Err(error) => Err(Halt::Status(propose_status(&error))),
        }
    }

    /// The certificate for this key, once it is signed.
    pub(super) async fn issued_chain(
        &self,
        node_id: &str,
        key: PublicKeyDigest,
    ) -> Result<Vec<u8>, Status> {
        let certificate = self.wait_final(node_id, HOLD).await?.certificate;
        let certificate = certificate.unwrap_or_default();
        let state = certificate.status.as_ref().map(|status| status.state());
        match state {
            _ if certificate.public_key_digest != key.as_bytes() => Err(Status::aborted(
                "another request of this node came in between; try again",
            )),
            Some(IssuanceState::Issued | IssuanceState::Rotate) => Ok(certificate.certificate),
            Some(IssuanceState::Failed) => {
                let reason = certificate.status.unwrap_or_default().err;
                Err(Status::unavailable(format!(
                    "the certificate could not be signed: {reason}"
                )))
            }
            _ => Err(Status::unavailable(
                "the certificate is not signed yet; ask again",
            )),
        }
    }

    /// Puts a node on record that waits for an operator.
    async fn wait(
        &self,
        node_id: &str,
        presented: KnownCertificate,
        reason: &ReturnWait,
        addr: &str,
    ) -> Result<reclaim_response::Outcome, Halt> {
        let now = timestamp(self.core.clock.now());
        let key = presented.public_key.as_bytes().to_vec();
        let reason = reason.to_string();
        let is_known = self.core.read(|state| {
            let pending = state
                .node(node_id)
                .and_then(|node| returns::pending_return(node, &now));
            pending.is_some_and(|known| {
                let asked = known.asked_at.map_or(0, |asked| asked.seconds);
                known.public_key_digest == key
                    && known.addr == addr
                    && known.reason == reason
                    && now.seconds - asked < PENDING_REFRESH_SECS
            })
        });
        if !is_known {
            let pending = PendingReturn {
                public_key_digest: key,
                serial: presented.serial.as_bytes().to_vec(),
                addr: addr.to_owned(),
                reason: reason.clone(),
                ..PendingReturn::default()
            };
            let op = Op::NoteReturn(NoteReturn {
                node_id: node_id.to_owned(),
                pending: Some(pending),
                clone: None,
            });
            let noted = self.core.propose_as("reclaim", op).await;
            noted.map_err(|error| propose_status(&error))?;
            tracing::warn!(node = %node_id, %addr, %reason, "a node waits for approval to return");
        }
        Ok(reclaim_response::Outcome::Waiting(Waiting {
            text: format!(
                "this node waits to be let back in: {reason}; run `waxseal node approve \
                 {node_id}` on a manager, which shows the key sha256:{}",
                presented.public_key
            ),
        }))
    }

    /// Puts on record that somebody holds the key of a certificate that was replaced.
    async fn note_clone(&self, node_id: &str, serial: Serial, addr: &str) {
        let now = self.core.clock.now().unix_timestamp();
        let is_known = self.core.read(|state| {
            let clone = state
                .node(node_id)
                .and_then(|node| node.possible_clone.as_ref());
            clone.is_some_and(|known| {
                let at = known.at.map_or(0, |at| at.seconds);
                known.serial == serial.as_bytes()
                    && known.addr == addr
                    && now - at < CLONE_REFRESH_SECS
            })
        });
        if is_known {
            return;
        }
        tracing::warn!(
            node = %node_id, %addr, %serial,
            "a certificate that was replaced is presented: the node may have been copied"
        );
        let clone = PossibleClone {
            serial: serial.as_bytes().to_vec(),
            addr: addr.to_owned(),
            at: None,
            count: 1,
        };
        let op = Op::NoteReturn(NoteReturn {
            node_id: node_id.to_owned(),
            pending: None,
            clone: Some(clone),
        });
        if let Err(error) = self.core.propose_as("reclaim", op).await {
            tracing::debug!(node = %node_id, %error, "a possible clone is not on record");
        }
    }
}

/// Why there is no outcome.
enum Halt {
    /// The record is not what was judged by.
    Changed,
    /// The answer.
    Status(Status),
}

impl From<Status> for Halt {
    fn from(status: Status) -> Halt {
        Halt::Status(status)
    }
}

/// What a grant puts on record.
struct Granted {
    node_id: String,
    presented: Serial,
    expected: Serial,
    csr_pem: Vec<u8>,
    addr: String,
}

/// Those that sign for the cluster or did: its root, the one that it changes to, those before.
fn known_issuers(cluster: &Cluster) -> Vec<KnownIssuer> {
    let root = cluster.root_ca.as_ref();
    let rotation = root.and_then(|root| root.root_rotation.as_ref());
    let present = |issuer| KnownIssuer {
        issuer,
        retired_at: None,
        compromised: false,
    };
    // Below an operator's root only the intermediate that signs here makes members.
    let now = match (&cluster.signing_way, root) {
        (way, _) if !way.is_empty() => known(way, present).into_iter().take(1).collect(),
        (_, Some(root)) => known(&root.ca_cert, present),
        (_, None) => Vec::new(),
    };
    let next = rotation.map_or_else(Vec::new, |rotation| known(&rotation.ca_cert, present));
    let past = cluster.past_roots.iter().flat_map(|past| {
        let retired_at = past.retired_at.as_ref().and_then(date_time);
        known(&past.ca_cert, move |issuer| KnownIssuer {
            issuer,
            retired_at,
            compromised: past.compromised,
        })
    });
    let below = cluster.past_issuers.iter().flat_map(|past| {
        let retired_at = past.retired_at.as_ref().and_then(date_time);
        let issuers = known(&past.cert, move |issuer| KnownIssuer {
            issuer,
            retired_at,
            compromised: past.compromised,
        });
        issuers.into_iter().take(1)
    });
    let all = now.into_iter().chain(next).chain(below).chain(past);
    all.collect()
}

/// One for each certificate; none for what cannot be read, which then signs for nobody.
fn known(pem: &[u8], as_known: impl Fn(IssuerInfo) -> KnownIssuer) -> Vec<KnownIssuer> {
    let issuers = IssuerInfo::all_from_pem(pem).unwrap_or_default();
    issuers.into_iter().map(as_known).collect()
}

/// The node table as the decision reads it.
struct Returning<'a> {
    state: &'a State,
    now: OffsetDateTime,
}

impl ReturnTable for Returning<'_> {
    fn node(&self, node_id: &str) -> Option<ReturnRecord> {
        self.state
            .node(node_id)
            .map(|node| record_of(node, self.now))
    }

    fn is_removed(&self, node_id: &str) -> bool {
        self.state.is_banned(node_id)
    }

    fn node_of_key(&self, key: &PublicKeyDigest) -> Option<String> {
        let node = self.state.node_by_public_key(key.as_bytes());
        node.map(|node| node.id.clone())
    }

    fn is_revoked(&self, serial: &Serial) -> bool {
        let record = self.state.certificate(serial.as_bytes());
        record.is_some_and(|record| record.revoked.is_some())
    }
}

fn record_of(node: &Node, now: OffsetDateTime) -> ReturnRecord {
    let newest = node.certificate.as_ref();
    let newest = newest.and_then(|newest| known_by(&newest.serial, &newest.public_key_digest));
    let in_use = node.in_use.as_ref();
    let in_use = in_use.and_then(|in_use| known_by(&in_use.serial, &in_use.public_key_digest));
    let approval = node.return_approval.as_ref().filter(|approval| {
        let now = timestamp(now);
        returns::is_approved(node, &approval.public_key_digest, &now)
    });
    ReturnRecord {
        role: role_of(node.role()),
        accepted: node
            .spec
            .as_ref()
            .is_some_and(|spec| spec.membership() == Membership::Accepted),
        newest,
        in_use,
        last_return: node.last_return.as_ref().and_then(|last| {
            Some(FormerReturn {
                presented: Serial::from_bytes(&last.presented_serial).ok()?,
                granted: Serial::from_bytes(&last.granted_serial).ok()?,
                addr: last.addr.clone(),
                at: date_time(last.at.as_ref()?)?,
            })
        }),
        approved: approval.and_then(|approval| digest(&approval.public_key_digest)),
    }
}

fn known_by(serial: &[u8], public_key_digest: &[u8]) -> Option<KnownCertificate> {
    Some(KnownCertificate {
        serial: Serial::from_bytes(serial).ok()?,
        public_key: digest(public_key_digest)?,
    })
}

fn digest(bytes: &[u8]) -> Option<PublicKeyDigest> {
    bytes.try_into().ok().map(PublicKeyDigest::from_bytes)
}
