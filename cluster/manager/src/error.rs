//! Why a manager did not do what was asked.

use openraft::error::{ClientWriteError, RaftError};
use waxseal_cluster::Refusal;
use waxseal_raft_store::Member;

use crate::raft::RaftId;

/// Why a command did not take effect.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// The state refused it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It cannot be written as a command, being too large.
    #[error(transparent)]
    Malformed(#[from] waxseal_cluster::CodecError),
    /// This manager does not lead, or no manager does.
    #[error("the swarm does not have a leader")]
    NoLeader,
    /// The disk has no room; nothing was written and reads go on.
    #[error("{reason}")]
    NoSpace {
        /// What is full and what to do.
        reason: String,
    },
    /// The manager is stopping or its log failed.
    #[error("the manager has stopped")]
    Stopped,
}

impl ProposeError {
    pub(crate) fn from_raft(
        error: &RaftError<RaftId, ClientWriteError<RaftId, Member>>,
    ) -> ProposeError {
        match error {
            RaftError::APIError(
                ClientWriteError::ForwardToLeader(_) | ClientWriteError::ChangeMembershipError(_),
            ) => ProposeError::NoLeader,
            RaftError::Fatal(_) => ProposeError::Stopped,
        }
    }
}

/// The status that tells a member why its call had no effect.
pub(crate) fn propose_status(error: &ProposeError) -> tonic::Status {
    match error {
        ProposeError::Refused(refusal) => waxseal_wire::refusal_status(refusal),
        ProposeError::Malformed(error) => tonic::Status::invalid_argument(error.to_string()),
        ProposeError::NoLeader | ProposeError::Stopped => {
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
    Store(#[from] waxseal_raft_store::StoreError),
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
    /// The consensus engine stopped.
    #[error("the Raft engine stopped: {reason}")]
    Raft {
        /// Its words.
        reason: String,
    },
    /// The first command was refused.
    #[error("the cluster could not be created")]
    Bootstrap(#[source] ProposeError),
    /// The root CA in the state cannot be used.
    #[error("the root CA in the cluster's state cannot be used")]
    Issuer(#[from] crate::ca::IssuerError),
}
