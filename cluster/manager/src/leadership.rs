//! Who leads.

pub use waxseal_cluster::plan::MemberView;

use crate::raft::RaftId;

/// Who leads, as a manager knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Leader {
    /// This manager: it has applied all that was acknowledged, and a quorum has heard
    /// it of late.
    Me {
        /// Its term.
        term: u64,
    },
    /// Another, which was heard of late.
    Other {
        /// Its Raft id.
        raft_id: RaftId,
        /// Its node's id.
        node_id: String,
        /// Where it is reached, `host:port`.
        addr: String,
    },
    /// None that this manager knows of.
    #[default]
    None,
}
