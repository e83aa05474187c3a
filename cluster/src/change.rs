//! What applying a command did, or why it was refused.

use std::sync::Arc;

use crate::objects::{Cluster, Config, Node, Secret, Service, Task};

/// An object as it was before and is after a command; a missing side means it
/// was created or removed. Secrets come without their payload.
#[derive(Clone, Debug)]
pub enum Change {
    /// The cluster object.
    Cluster {
        old: Option<Arc<Cluster>>,
        new: Option<Arc<Cluster>>,
    },
    /// A node.
    Node {
        old: Option<Arc<Node>>,
        new: Option<Arc<Node>>,
    },
    /// A secret, without its payload.
    Secret {
        old: Option<Arc<Secret>>,
        new: Option<Arc<Secret>>,
    },
    /// A config.
    Config {
        old: Option<Arc<Config>>,
        new: Option<Arc<Config>>,
    },
    /// A service.
    Service {
        old: Option<Arc<Service>>,
        new: Option<Arc<Service>>,
    },
    /// A task.
    Task {
        old: Option<Arc<Task>>,
        new: Option<Arc<Task>>,
    },
}

/// A command took effect.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The state's version after it.
    pub version: u64,
    /// What changed, in order.
    pub changes: Vec<Change>,
}

/// The changes of one applied command, at the time it bears.
#[derive(Clone, Debug)]
pub struct ChangeRecord {
    /// The leader's time in the command.
    pub time: time::OffsetDateTime,
    /// What changed, in order.
    pub changes: Vec<Change>,
}

/// Why a command was refused; the state is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No object of that kind has this id.
    #[error("{kind} {id} not found")]
    NotFound {
        /// `node`, `secret`, …
        kind: &'static str,
        /// What was looked for.
        id: String,
    },
    /// The name is taken (names are compared without regard to case).
    #[error("{kind} {name} already exists")]
    NameTaken {
        /// `secret`, `config`, `service`.
        kind: &'static str,
        /// The name asked for.
        name: String,
    },
    /// The object changed since it was read.
    #[error("update out of sequence")]
    Stale,
    /// A secret or config that services use.
    #[error("{kind} '{name}' is in use by the following {}: {}", if services.len() == 1 { "service" } else { "services" }, services.join(", "))]
    InUse {
        /// `secret`, `config`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Names of the services, sorted.
        services: Vec<String>,
    },
    /// Only labels of a secret or config may change.
    #[error("only updates to Labels are allowed")]
    OnlyLabels,
    /// The object breaks a rule of its kind.
    #[error("{reason}")]
    Invalid {
        /// The rule, in the words a client sees.
        reason: String,
    },
    /// The state does not allow it now.
    #[error("{reason}")]
    Precondition {
        /// What stands in the way, in the words a client sees.
        reason: String,
    },
    /// The command's format is newer than this binary.
    #[error("command format {found} is newer than this binary, which reads up to {supported}")]
    TooNew {
        /// The format found.
        found: u32,
        /// The newest format that is read here.
        supported: u32,
    },
}
