//! What every part of a manager leans on: the state, the way to write, the clock.

use std::sync::{Arc, RwLock};

use waxseal_ca::Clock;
use waxseal_cluster::{
    Applied, CodecError, State, Wiped, encode_command, new_id,
    objects::{Actor, Command, actor, command::Op},
    timestamp,
};

use crate::{control::Group, error::ProposeError, proposer::Rejected};

/// Shared by the manager's services and loops.
pub(crate) struct Core {
    pub(crate) node_id: String,
    pub(crate) cluster_id: String,
    /// Address and port that others reach this manager at.
    pub(crate) advertise_addr: String,
    /// The newest that this manager reads.
    pub(crate) feature_level: u32,
    pub(crate) state: Arc<RwLock<State>>,
    /// Writes, wherever the leader is.
    pub(crate) group: Arc<Group>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Core {
    /// Reads the state. Nothing in `read` may wait.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        let state = self
            .state
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        read(&state)
    }

    /// Makes a command durable and applies it. Encoded before anybody waits: an operation is
    /// large, and a future that held it would be copied with it at each layer above.
    pub(crate) fn propose(
        &self,
        actor: Actor,
        op: Op,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + use<> {
        let encoded = self.encoded(actor, op);
        let group = Arc::clone(&self.group);
        async move { group.propose(encoded?).await }
    }

    fn encoded(&self, actor: Actor, op: Op) -> Result<Wiped, CodecError> {
        encode_command(&Command::new(actor, timestamp(self.group.stamp()), op))
    }

    /// Proposes on behalf of one of the parts that lead. What they found out counts while
    /// this manager leads, and is not carried to the next leader.
    pub(crate) fn propose_as(
        &self,
        component: &'static str,
        op: Op,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + use<> {
        let actor = Actor {
            who: Some(actor::Who::Component(component.to_owned())),
        };
        let encoded = self.encoded(actor, op);
        let group = Arc::clone(&self.group);
        async move {
            let proposed = group.propose_as_leader(encoded?).await;
            proposed.map_err(|rejected| match rejected {
                Rejected::NotProposed(_) => ProposeError::NoLeader,
                Rejected::NoRoom { reason, .. } => ProposeError::NoSpace { reason },
                Rejected::Unknown(_) => ProposeError::Unknown,
                Rejected::Failed(error) => error,
            })
        }
    }
}

/// A new object id.
///
/// # Errors
/// The system gave no random bytes.
pub(crate) fn random_id() -> Result<String, getrandom::Error> {
    let mut random = [0u8; 17];
    getrandom::fill(&mut random)?;
    Ok(new_id(random))
}
