//! What followers of the state are told.

use crate::Change;

/// The changes of one applied command, at the time it bears.
#[derive(Clone, Debug)]
pub struct ChangeRecord {
    /// The leader's time in the command.
    pub time: time::OffsetDateTime,
    /// What changed, in order.
    pub changes: Vec<Change>,
}
