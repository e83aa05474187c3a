//! What the agent knows of its own situation, for `docker info` and `waxseal status`.

use std::sync::Arc;

use time::OffsetDateTime;
use waxseal_cluster::objects::Node;

use crate::managers::ManagerAddress;

/// The agent's situation.
#[derive(Clone, Debug, Default)]
pub struct AgentStatus {
    /// How this node stands with the managers.
    pub session: SessionStatus,
    /// The managers it knows.
    pub managers: Vec<ManagerAddress>,
    /// This node as a manager last showed it, for availability and desired role.
    pub node: Option<Arc<Node>>,
    /// When the certificate is renewed next, and why it was not.
    pub renewal: RenewalStatus,
    /// What a manager asked for and this node does not do, one sentence each.
    pub ignored: Vec<&'static str>,
    /// Tasks that run here.
    pub running_tasks: usize,
}

/// How a node stands with its managers.
#[derive(Clone, Debug, Default)]
pub enum SessionStatus {
    /// No session yet, or the last one ended; it is tried again.
    #[default]
    Connecting,
    /// A manager could not be reached or gave an error; it is tried again.
    Failing {
        /// Failures in a row.
        failures: u32,
        /// The last one.
        error: String,
    },
    /// A manager has registered this node.
    Registered {
        /// The manager's address.
        manager: String,
        /// Since when.
        since: OffsetDateTime,
    },
    /// Managers refuse this node: it was removed or its certificate does not count.
    /// It is tried again. Tasks are kept, unless the node was removed and its executor
    /// stops what nobody wants.
    Refused {
        /// What happened, and what helps.
        error: String,
    },
}

impl SessionStatus {
    /// Whether a manager knows this node now.
    pub fn is_registered(&self) -> bool {
        matches!(self, SessionStatus::Registered { .. })
    }

    /// The error of the last try, if there is one.
    pub fn error(&self) -> Option<&str> {
        match self {
            SessionStatus::Failing { error, .. } | SessionStatus::Refused { error } => Some(error),
            SessionStatus::Connecting | SessionStatus::Registered { .. } => None,
        }
    }
}

/// How renewal stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RenewalStatus {
    /// When the next one is due.
    pub due: Option<OffsetDateTime>,
    /// Why the last one failed; `None` after a success.
    pub error: Option<String>,
    /// Why this node has to prove itself with its former key to get one.
    pub away: Option<&'static str>,
}
