//! Who leads.

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

/// A member of the Raft group as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberView {
    /// Its Raft id, used once.
    pub raft_id: RaftId,
    /// The node that it is.
    pub node_id: String,
    /// Where it is reached, `host:port`.
    pub addr: String,
    /// Whether it counts; a learner does not.
    pub voter: bool,
    /// Whether it leads.
    pub leader: bool,
    /// Whether the leader has heard of it of late; always of the leader itself.
    pub reachable: bool,
}
