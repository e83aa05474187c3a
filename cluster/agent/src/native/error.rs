//! Why a task did not start.

use std::io;

/// Why a task did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The specification asks for what this node does not do; nothing was started. The task is
    /// REJECTED.
    #[error("{reason}")]
    Rejected {
        /// What is not possible, and what helps.
        reason: String,
    },
    /// A record of a task with this id is there already.
    #[error("task {task_id} was started here before")]
    Exists {
        /// The task's id.
        task_id: String,
    },
    /// The task could not be started, for example because its command is not there. The task is
    /// FAILED.
    #[error("{what}")]
    Failed {
        /// What went wrong, as the shim tells it.
        what: String,
    },
    /// The records or the shim's process could not be made. The task is FAILED.
    #[error("could not {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl LaunchError {
    /// Whether the task must be reported REJECTED rather than FAILED.
    pub fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected { .. })
    }

    pub(super) fn rejected(reason: impl Into<String>) -> Self {
        Self::Rejected {
            reason: reason.into(),
        }
    }

    pub(super) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source,
        }
    }
}
