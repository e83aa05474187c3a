//! The state of the local node as users see it, and what may change it.

use std::fmt;

/// The state of the local node; the Engine API's `LocalNodeState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockState {
    /// Not part of a cluster.
    Inactive,
    /// Starting: part of a cluster, or becoming so, not ready yet.
    Pending,
    /// Ready.
    Active,
    /// The key file is sealed and no usable unlock key was given.
    Locked,
    /// Stopped with another error.
    Error,
}

/// What can happen to the local node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockEvent {
    /// An init, a join, a start of the daemon with cluster state, or another try after an error.
    Begin,
    /// The node is ready.
    Ready,
    /// The key file does not open with the key at hand, or none is at hand.
    KeyNeeded,
    /// Start or operation failed for another reason.
    Fail,
    /// The operator gave a well-formed unlock key; the start is tried with it.
    Unlock,
    /// An init or join was given up before anything was recorded.
    Abort,
    /// The node left the cluster.
    Leave,
}

/// An event that cannot happen in that state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a node in state {state} cannot {event}")]
pub struct ImpossibleEvent {
    /// The state.
    pub state: LockState,
    /// The event.
    pub event: LockEvent,
}

impl LockState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Inactive,
        Self::Pending,
        Self::Active,
        Self::Locked,
        Self::Error,
    ];

    /// The state after an event.
    ///
    /// # Errors
    /// [`ImpossibleEvent`]; the state stays what it was.
    pub fn after(self, event: LockEvent) -> Result<Self, ImpossibleEvent> {
        use LockEvent as E;
        use LockState as S;
        match (self, event) {
            (S::Inactive | S::Error, E::Begin) => Ok(S::Pending),
            (S::Pending, E::Ready) => Ok(S::Active),
            (S::Pending, E::Abort) => Ok(S::Inactive),
            // A running node that dies restarts by itself; with a sealed file it ends locked.
            (S::Pending | S::Active | S::Error, E::KeyNeeded) => Ok(S::Locked),
            (S::Pending | S::Active | S::Locked | S::Error, E::Fail) => Ok(S::Error),
            (S::Locked, E::Unlock) => Ok(S::Pending),
            (S::Pending | S::Active | S::Locked | S::Error, E::Leave) => Ok(S::Inactive),
            _ => Err(ImpossibleEvent { state: self, event }),
        }
    }

    /// The word of the Engine API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Locked => "locked",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for LockState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LockEvent {
    /// Every event.
    pub const ALL: [Self; 7] = [
        Self::Begin,
        Self::Ready,
        Self::KeyNeeded,
        Self::Fail,
        Self::Unlock,
        Self::Abort,
        Self::Leave,
    ];
}

impl fmt::Display for LockEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "begin",
            Self::Ready => "become ready",
            Self::KeyNeeded => "need a key",
            Self::Fail => "fail",
            Self::Unlock => "be unlocked",
            Self::Abort => "be given up",
            Self::Leave => "leave",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for state in LockState::ALL {
            for event in LockEvent::ALL {
                let next = state.after(event).map_or("-", LockState::as_str);
                table.push_str(&format!("{state} | {event} | {next}\n"));
            }
        }
        assert_eq!(
            table,
            "inactive | begin | pending
inactive | become ready | -
inactive | need a key | -
inactive | fail | -
inactive | be unlocked | -
inactive | be given up | -
inactive | leave | -
pending | begin | -
pending | become ready | active
pending | need a key | locked
pending | fail | error
pending | be unlocked | -
pending | be given up | inactive
pending | leave | inactive
active | begin | -
active | become ready | -
active | need a key | locked
active | fail | error
active | be unlocked | -
active | be given up | -
active | leave | inactive
locked | begin | -
locked | become ready | -
locked | need a key | -
locked | fail | error
locked | be unlocked | pending
locked | be given up | -
locked | leave | inactive
error | begin | pending
error | become ready | -
error | need a key | locked
error | fail | error
error | be unlocked | -
error | be given up | -
error | leave | inactive
"
        );
    }

    #[test]
    fn an_impossible_event_says_what_it_was() {
        let err = LockState::Active.after(LockEvent::Unlock).unwrap_err();
        assert_eq!(err.to_string(), "a node in state active cannot be unlocked");
    }
}
