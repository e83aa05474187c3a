//! Why a manager did not do what was asked.

use std::sync::Arc;

use waxseal_cluster::{CodecError, Refusal};
use waxseal_raft_store::StoreError;

use crate::{raft::RaftId, state_machine::TooOld};

/// Why a command did not take effect.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The state refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be written as a command, being too large.
    #[error(transparent)]
    Malformed(#[from] CodecError),
    /// This manager does not lead, or no manager does.
    #[error("the swarm does not have a leader")]
    NoLeader,
    /// The disk has no room; nothing was written and reads go on.
    #[error("{reason}")]
    NoSpace {
        /// What is full and what to do.
        reason: String,
    },
    /// The leader changed, or was lost, before it answered.
    #[error(
        "the swarm's leader changed before it answered, so that this may or may not have taken \
         effect; look whether it did, then try again"
    )]
    Unknown,
    /// The manager is stopping or its log failed.
    #[error("the manager has stopped")]
    Stopped,
}

/// The status that tells a member why its call had no effect.
pub(crate) fn propose_status(error: &ProposeError) -> tonic::Status {
    match error {
        ProposeError::Refused(refusal) => waxseal_wire::refusal_status(refusal),
        ProposeError::Malformed(error) => tonic::Status::invalid_argument(error.to_string()),
        ProposeError::NoLeader | ProposeError::Unknown | ProposeError::Stopped => {
            tonic::Status::unavailable(error.to_string())
        }
        ProposeError::NoSpace { reason } => tonic::Status::resource_exhausted(reason.clone()),
    }
}

/// Why a manager could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// No page for the key of payloads in memory.
    #[error(transparent)]
    Vault(#[from] crate::vault::VaultError),
    /// The log or a snapshot could not be read or written.
    #[error("the Raft log could not be opened")]
    Store(#[from] StoreError),
    /// The newest snapshot could not be read.
    #[error(transparent)]
    Restore(#[from] crate::state_machine::RestoreError),
    /// The port cannot be listened on.
    #[error("failed to listen on remote API address: listen tcp {address}: bind: {source}")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The engine stopped by itself while the log was read or applied.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The engine refused its configuration or a request.
    #[error("the Raft engine cannot start: {reason}")]
    Raft {
        /// Its words.
        reason: String,
    },
    /// The swarm did not take it in.
    #[error("this manager could not join the swarm: {reason}")]
    Join {
        /// The words of the manager that refused, or why none was reached.
        reason: String,
        /// Whether the swarm may count on its log all the same, as an answer is missing:
        /// nothing may be removed then, and it has to ask on.
        may_count: bool,
    },
    /// There is nothing to go on with alone: it never got anything from the others.
    #[error(
        "this manager holds nothing of the swarm yet; run `docker swarm init --force-new-cluster` \
         on one that was a member, or `docker swarm leave --force` here"
    )]
    NothingToForce,
    /// The log was not applied in time.
    #[error(
        "the manager did not catch up with its log within {} s; check the disk, then start again",
        within.as_secs()
    )]
    NotCaughtUp {
        /// How long it had.
        within: std::time::Duration,
    },
    /// No TLS configuration for the port.
    #[error("the port cannot be served with TLS")]
    Tls(#[from] waxseal_ca::TlsError),
    /// The first command was refused.
    #[error("the cluster could not be created")]
    Bootstrap(#[source] ProposeError),
    /// The root CA in the state cannot be used.
    #[error("the root CA in the cluster's state cannot be used")]
    Issuer(#[source] Arc<crate::ca::IssuerError>),
}

/// Why a manager stopped by itself. Nothing is written any more; the daemon
/// stops it and shows the cause.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Its log or a snapshot could not be read or written.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// An entry of the log does not become part of the state.
    #[error(
        "entry {index} of the Raft log cannot be applied; start the version that wrote it, or \
         restore the directory from a backup"
    )]
    Entry {
        /// Its place in the log.
        index: u64,
        /// What is wrong with it.
        #[source]
        source: ApplyError,
    },
    /// The engine ended for a reason that only it knows.
    #[error("the Raft engine stopped ({reason}); restart the daemon")]
    Engine {
        /// Its words.
        reason: String,
    },
}

/// Why an entry cannot be applied. Skipping it would part this replica from others.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// Its bytes are no batch of commands that this binary reads.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A command that this binary does not know.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The cluster's feature level is above this binary's.
    #[error(transparent)]
    Level(#[from] TooOld),
    /// A fault of ours.
    #[error("a command made the state machine panic")]
    Panicked,
}

/// Why the membership of the Raft group, or its leader, stayed as it was.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MembershipError {
    /// Another manager leads, or none.
    #[error("this manager does not lead the swarm; ask the one that does")]
    NotLeader,
    /// No such member.
    #[error("no member of the Raft group has the id {raft_id:x}")]
    Unknown {
        /// Which was asked for.
        raft_id: RaftId,
    },
    /// There is none to hand over to, or the member did not take over in time.
    #[error("no other manager could take over within {} s; check that the others are reachable", within.as_secs())]
    NotTaken {
        /// How long it was tried.
        within: std::time::Duration,
    },
    /// A manager that is to join is out of reach.
    #[error(
        "the manager at {addr} could not be reached from {from}: {reason}; pass --advertise-addr \
         with an address the other managers reach"
    )]
    Unreachable {
        /// What it advertises.
        addr: String,
        /// Who tried.
        from: String,
        /// What stood in the way.
        reason: String,
    },
    /// A manager that is to join, or the leader, would harm the group.
    #[error("{reason}")]
    Refused {
        /// Why and what helps.
        reason: String,
    },
    /// The group did not agree in time; whether it does later is not known.
    #[error("the managers did not agree in time ({reason}); try again")]
    NotCommitted {
        /// The engine's words.
        reason: String,
    },
    /// The manager is stopping.
    #[error("the manager has stopped")]
    Stopped,
}

/// A change of the log's key that is not finished.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotateError {
    /// Log or snapshot; [`StoreError::is_full`] tells a full disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine stopped meanwhile.
    #[error("the Raft engine stopped: {reason}")]
    Engine {
        /// Its words.
        reason: String,
    },
    /// Files under former keys are still there; to be tried again.
    #[error("former keys of the log are still in use; it is tried again")]
    InUse,
}
