//! Who gets a certificate, and as what: one pure decision.
//!
//! The order matters and is that of the numbered steps in [`decide_issuance`]: a stranger's bytes
//! are parsed only after its token was found good. The role always comes from the token or from
//! the node's record, never from a request or an old certificate.

use std::time::Duration;

use time::OffsetDateTime;

use crate::csr::{Csr, CsrError};
use crate::digest::PublicKeyDigest;
use crate::identity::NodeIdentity;
use crate::role::Role;
use crate::token::{JoinTokens, TokenError};

/// How long the same key and token give the same node id, so that a joiner whose answer was lost
/// can ask again.
pub const IDEMPOTENT_JOIN: Duration = Duration::from_secs(10 * 60);

/// A request for a certificate, as it came.
#[derive(Clone, Copy)]
pub struct JoinRequest<'a> {
    /// The certificate request, PEM.
    pub csr_pem: &'a [u8],
    /// The join token; empty on renewal.
    pub token: &'a str,
}

/// What the node table knows of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its id.
    pub node_id: String,
    /// The role that its next certificate gets (swarmkit's `Node.Role`).
    pub role: Role,
    /// Whether it is admitted (swarmkit's membership `ACCEPTED`).
    pub accepted: bool,
    /// Whether the record shows that it has, or once had, a certificate as manager.
    pub was_manager: bool,
    /// The key of its newest request.
    pub public_key: Option<PublicKeyDigest>,
    /// When its record was made.
    pub created_at: OffsetDateTime,
    /// Whether it ever held a session.
    pub had_session: bool,
}

/// The node table, as far as this decision asks.
pub trait NodeTable {
    /// The node with this id, unless it was removed.
    fn node(&self, node_id: &str) -> Option<NodeRecord>;
    /// The node whose newest request bore this key.
    fn node_by_public_key(&self, key: &PublicKeyDigest) -> Option<NodeRecord>;
    /// Whether a node with this id was removed from the cluster.
    fn is_removed(&self, node_id: &str) -> bool;
}

/// What the decision looks at.
#[derive(Clone, Copy)]
pub struct IssuanceView<'a> {
    /// Id of this cluster.
    pub cluster_id: &'a str,
    /// Its join tokens.
    pub tokens: &'a JoinTokens,
    /// The role of the token with limits whose secret the request shows, if it shows one.
    pub limited_role: Option<Role>,
    /// Its nodes.
    pub nodes: &'a dyn NodeTable,
    /// Whether the caller can be a manager: it announced so, which a Docker Engine does not.
    pub managers_allowed: bool,
    /// Whether this manager has applied everything that was committed before it began to lead.
    pub caught_up: bool,
}

/// For whom a certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuedNode {
    /// A node that is not in the table; the caller gives it an id.
    New {
        /// The role of its token.
        role: Role,
    },
    /// A node of the table.
    Existing {
        /// Its id.
        node_id: String,
        /// The role of its record.
        role: Role,
    },
}

/// Why there is no answer yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// This manager has not caught up; it answers again in a moment.
    NotCaughtUp,
    /// The node is not admitted yet.
    MembershipPending,
}

/// What to do with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuanceDecision {
    /// Record, then sign.
    Issue {
        /// For whom.
        node: IssuedNode,
        /// The verified request.
        csr: Csr,
    },
    /// Hold the call or let the node ask again.
    Wait(WaitReason),
    /// Refuse.
    Refuse(IssuanceRefusal),
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IssuanceRefusal {
    /// No certificate and no good token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The request itself.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The caller's certificate is of another cluster.
    #[error(
        "the caller's certificate is of another cluster; run `docker swarm leave` on that node, \
         then join with a token of this cluster"
    )]
    OtherCluster,
    /// The caller's certificate is out of its validity.
    #[error(
        "the caller's certificate is not valid at this time; compare the clocks of the hosts, or \
         run `docker swarm leave` on that node and join again"
    )]
    CertificateNotValid,
    /// The node was removed.
    #[error(
        "node {node_id} was removed from swarm; run `docker swarm leave` on that node, then join \
         with a token to come back as a new node"
    )]
    NodeRemoved {
        /// Which.
        node_id: String,
    },
    /// The node is not in the table.
    #[error(
        "node {node_id} not found when attempting to renew certificate; run `docker swarm leave` \
         on that node, then join again"
    )]
    UnknownNode {
        /// Which.
        node_id: String,
    },
    /// A manager's certificate of a node that never was one.
    #[error(
        "the certificate of node {node_id} says manager, but the cluster never made it one; \
         remove the node with `docker node rm --force {node_id}` and look into where its \
         certificate came from"
    )]
    ForgedRole {
        /// Which.
        node_id: String,
    },
    /// A token with the key of a node that is in the cluster already.
    #[error(
        "the key of this request is that of a node that is in the cluster already, and a token \
         does not stand in for its certificate; run `docker swarm leave` on that node, then join \
         with a new key"
    )]
    KeyInUse,
    /// A good manager token of a caller that cannot be a manager here.
    #[error(
        "managers of this cluster run waxseal, and this node did not say that it can be one; join \
         as worker with the token that `docker swarm join-token worker` prints"
    )]
    ManagersNotAllowed,
}

/// Decides on a request from its caller's verified identity, if there is one, else its token.
///
/// `caller` is the identity in a chain that was verified against this cluster's trust. A caller
/// with a certificate never becomes a new node: its token is not looked at.
pub fn decide_issuance(
    request: &JoinRequest<'_>,
    caller: Option<&NodeIdentity>,
    view: &IssuanceView<'_>,
    now: OffsetDateTime,
) -> IssuanceDecision {
    // 1. Tokens and table of a manager that has not caught up may be those of yesterday.
    if !view.caught_up {
        return IssuanceDecision::Wait(WaitReason::NotCaughtUp);
    }
    let decided = match caller {
        Some(caller) => decide_renewal(request, caller, view, now),
        None => decide_join(request, view, now),
    };
    decided.unwrap_or_else(IssuanceDecision::Refuse)
}

fn decide_renewal(
    request: &JoinRequest<'_>,
    caller: &NodeIdentity,
    view: &IssuanceView<'_>,
    now: OffsetDateTime,
) -> Result<IssuanceDecision, IssuanceRefusal> {
    let node_id = || caller.node_id.clone();
    // 2. The certificate: of this cluster and valid now, which a connection opened long ago does
    //    not prove.
    if caller.cluster_id != view.cluster_id {
        return Err(IssuanceRefusal::OtherCluster);
    }
    if now < caller.not_before || now > caller.not_after {
        return Err(IssuanceRefusal::CertificateNotValid);
    }
    // 3. The node table at this moment.
    if view.nodes.is_removed(&caller.node_id) {
        return Err(IssuanceRefusal::NodeRemoved { node_id: node_id() });
    }
    let Some(record) = view.nodes.node(&caller.node_id) else {
        return Err(IssuanceRefusal::UnknownNode { node_id: node_id() });
    };
    // 4. The record's role wins over the certificate's, both ways: that is how promotion and
    //    demotion reach a node. Only a manager's certificate without any history is refused.
    let ever_manager = record.role == Role::Manager || record.was_manager;
    if caller.role == Role::Manager && !ever_manager {
        return Err(IssuanceRefusal::ForgedRole { node_id: node_id() });
    }
    if !record.accepted {
        return Ok(IssuanceDecision::Wait(WaitReason::MembershipPending));
    }
    // 5. The request.
    let csr = Csr::parse(request.csr_pem)?;
    let holder = view.nodes.node_by_public_key(&csr.public_key_digest());
    if holder.is_some_and(|holder| holder.node_id != record.node_id) {
        return Err(IssuanceRefusal::KeyInUse);
    }
    let node = IssuedNode::Existing {
        node_id: record.node_id,
        role: record.role,
    };
    Ok(IssuanceDecision::Issue { node, csr })
}

fn decide_join(
    request: &JoinRequest<'_>,
    view: &IssuanceView<'_>,
    now: OffsetDateTime,
) -> Result<IssuanceDecision, IssuanceRefusal> {
    // 2. The token, before anything of the request is parsed.
    let role = match view.limited_role {
        Some(role) => role,
        None => view.tokens.role_of(request.token)?,
    };
    if role == Role::Manager && !view.managers_allowed {
        return Err(IssuanceRefusal::ManagersNotAllowed);
    }
    // 3. The request.
    let csr = Csr::parse(request.csr_pem)?;
    // 4. A key that is known: the same join again, or a token in place of a certificate.
    let Some(record) = view.nodes.node_by_public_key(&csr.public_key_digest()) else {
        return Ok(IssuanceDecision::Issue {
            node: IssuedNode::New { role },
            csr,
        });
    };
    if view.nodes.is_removed(&record.node_id) {
        return Err(IssuanceRefusal::NodeRemoved {
            node_id: record.node_id,
        });
    }
    let age = now - record.created_at;
    let same_join = !record.had_session && record.role == role && age <= IDEMPOTENT_JOIN;
    if !same_join {
        return Err(IssuanceRefusal::KeyInUse);
    }
    if !record.accepted {
        return Ok(IssuanceDecision::Wait(WaitReason::MembershipPending));
    }
    let node = IssuedNode::Existing {
        node_id: record.node_id,
        role,
    };
    Ok(IssuanceDecision::Issue { node, csr })
}

#[cfg(test)]
#[path = "issuance_tests.rs"]
mod tests;
