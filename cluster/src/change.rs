//! What applying a command did, or why it was refused.

use std::{fmt, sync::Arc};

use crate::{
    certificates::Record,
    join_tokens::TokenRefusal,
    objects::{Cluster, Config, Node, Secret, Service, Task},
};

/// An object as it was before and is after a command; a missing side means it
/// was created or removed. Secrets come without their payload.
///
/// `Debug` shows kind, id and versions only.
#[derive(Clone)]
#[expect(missing_docs, reason = "`old` and `new` are said above")]
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
    /// A certificate's record. It has no version.
    Certificate {
        old: Option<Arc<Record>>,
        new: Option<Arc<Record>>,
    },
}

impl Change {
    /// The kind of object: `cluster`, `node`, `secret`, `config`, `service`, `task`,
    /// `certificate`.
    pub fn kind(&self) -> &'static str {
        match self {
            Change::Cluster { .. } => "cluster",
            Change::Node { .. } => "node",
            Change::Secret { .. } => "secret",
            Change::Config { .. } => "config",
            Change::Service { .. } => "service",
            Change::Task { .. } => "task",
            Change::Certificate { .. } => "certificate",
        }
    }

    /// The object's id; of a certificate, its node's.
    pub fn id(&self) -> &str {
        macro_rules! id_of {
            ($old:expr, $new:expr) => {
                $new.as_ref()
                    .or($old.as_ref())
                    .map_or("", |object| object.id.as_str())
            };
        }
        match self {
            Change::Cluster { old, new } => id_of!(old, new),
            Change::Node { old, new } => id_of!(old, new),
            Change::Secret { old, new } => id_of!(old, new),
            Change::Config { old, new } => id_of!(old, new),
            Change::Service { old, new } => id_of!(old, new),
            Change::Task { old, new } => id_of!(old, new),
            Change::Certificate { old, new } => new
                .as_ref()
                .or(old.as_ref())
                .map_or("", |record| &record.node_id),
        }
    }

    /// Versions before and after; absent where the object was not there.
    pub fn versions(&self) -> (Option<u64>, Option<u64>) {
        macro_rules! version_of {
            ($object:expr) => {
                $object
                    .as_ref()
                    .map(|object| crate::meta::version_of(object.meta.as_ref()))
            };
        }
        match self {
            Change::Cluster { old, new } => (version_of!(old), version_of!(new)),
            Change::Node { old, new } => (version_of!(old), version_of!(new)),
            Change::Secret { old, new } => (version_of!(old), version_of!(new)),
            Change::Config { old, new } => (version_of!(old), version_of!(new)),
            Change::Service { old, new } => (version_of!(old), version_of!(new)),
            Change::Task { old, new } => (version_of!(old), version_of!(new)),
            Change::Certificate { .. } => (None, None),
        }
    }
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = self.versions();
        f.debug_struct("Change")
            .field("kind", &self.kind())
            .field("id", &self.id())
            .field("old", &old)
            .field("new", &new)
            .finish()
    }
}

/// A command took effect.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The state's version after it.
    pub version: u64,
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// How many parts of a command that has many (task changes, task reports,
    /// node observations) had no effect: overtaken, backwards, or of an object
    /// that is gone.
    pub skipped: usize,
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
    #[error("{}{kind} {name} already exists", name_taken_prefix(kind))]
    NameTaken {
        /// `secret`, `config`, `service`; also `node` and `task` for an id that is taken.
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
    /// Too much of it; later it may be granted.
    #[error("{reason}")]
    Exhausted {
        /// What there is too much of and how long to wait, in the words a client sees.
        reason: String,
    },
    /// What was asked for is not offered, by the Docker Engine either.
    #[error("{reason}")]
    Unimplemented {
        /// What is not offered, in the words a client sees.
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

impl Refusal {
    /// An object breaks a rule of its kind.
    pub fn invalid(reason: impl Into<String>) -> Refusal {
        Refusal::Invalid {
            reason: reason.into(),
        }
    }

    /// The state does not allow it now.
    pub fn precondition(reason: impl Into<String>) -> Refusal {
        Refusal::Precondition {
            reason: reason.into(),
        }
    }

    pub(crate) fn not_found(kind: &'static str, id: &str) -> Refusal {
        Refusal::NotFound {
            kind,
            id: id.to_owned(),
        }
    }

    /// A command without a part that its kind must have.
    pub(crate) fn missing(part: &'static str) -> Refusal {
        Refusal::Invalid {
            reason: format!("malformed command: {part} is missing"),
        }
    }
}

/// The Docker Engine words this one differently for services.
fn name_taken_prefix(kind: &str) -> &'static str {
    match kind {
        "service" => "name conflicts with an existing object: ",
        _ => "",
    }
}

impl From<TokenRefusal> for Refusal {
    fn from(refusal: TokenRefusal) -> Refusal {
        let reason = refusal.to_string();
        match refusal {
            TokenRefusal::Reserved { .. } => Refusal::Exhausted { reason },
            _ => Refusal::Precondition { reason },
        }
    }
}

impl From<waxseal_secrets::ObjectError> for Refusal {
    fn from(error: waxseal_secrets::ObjectError) -> Refusal {
        match error {
            waxseal_secrets::ObjectError::OnlyLabels => Refusal::OnlyLabels,
            other => Refusal::invalid(other.to_string()),
        }
    }
}

impl From<waxseal_secrets::ReferenceError> for Refusal {
    fn from(error: waxseal_secrets::ReferenceError) -> Refusal {
        Refusal::invalid(error.to_string())
    }
}
