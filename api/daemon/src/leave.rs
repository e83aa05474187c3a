//! Leaving as a manager: what is said without force, what is done with it.

use std::time::Duration;

use waxseal_api::ClusterError;
use waxseal_cluster::{
    State,
    objects::{Actor, NodeRole, Reachability, UpdateNode, actor::Who, command::Op},
};
use waxseal_manager::{Leader, Manager};

/// How long a manager that leaves waits for the others to let it go: with a leader it
/// takes two entries of the log, and a change of leader if it is the leader itself.
const FAREWELL: Duration = Duration::from_secs(5);
const FAREWELL_LOOK: Duration = Duration::from_millis(50);

/// Text A of spec/engine-api.md §5.2.
const LAST_MANAGER: &str = "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ";
/// What text B and C begin with.
const MANAGER: &str =
    "You are attempting to leave the swarm on a node that is participating as a manager. ";
/// What text B and C end with.
const RESTORE: &str = "The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";
/// What text D has in between.
const LOSE_CONSENSUS: &str = "Doing so may lose the consensus of your cluster. ";

/// Managers by what the leader wrote of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    reachable: usize,
    unreachable: usize,
}

/// Why a manager does not leave without force, in the words of spec/engine-api.md §5.2.
pub(crate) fn refusal(manager: Option<&Manager>) -> ClusterError {
    let text = match manager {
        None => format!("{MANAGER}{LOSE_CONSENSUS}{RESTORE}"),
        Some(manager) => {
            let counts = match *manager.leader().borrow() {
                Leader::None => None,
                Leader::Me { .. } | Leader::Other { .. } => Some(manager.read(counts)),
            };
            refusal_text(counts)
        }
    };
    ClusterError::LeaveRefused(text)
}

fn counts(state: &State) -> Counts {
    let mut counts = Counts::default();
    for status in state
        .nodes()
        .filter_map(|node| node.manager_status.as_ref())
    {
        if status.leader || status.reachability() == Reachability::Reachable {
            counts.reachable += 1;
        } else {
            counts.unreachable += 1;
        }
    }
    counts
}

fn refusal_text(counts: Option<Counts>) -> String {
    let Some(Counts {
        reachable,
        unreachable,
    }) = counts
    else {
        return format!("{MANAGER}{RESTORE}");
    };
    let managers = reachable + unreachable;
    if reachable <= 1 && unreachable == 0 {
        return LAST_MANAGER.to_owned();
    }
    // As the engine reckons: two fewer than reachable, as one more may fail.
    if reachable.saturating_sub(1) <= managers / 2 {
        let left = reachable.saturating_sub(1);
        return format!(
            "{MANAGER}Removing this node leaves {left} managers out of {managers}. Without a Raft \
             quorum your swarm will be inaccessible. {RESTORE}"
        );
    }
    format!("{MANAGER}{RESTORE}")
}

/// Has the others let this manager go, as far as they can: it is demoted first, so that
/// they do not count on it. Without a leader, or if they would lose their quorum, it goes
/// all the same; then it stays in their table until it is demoted and removed there.
pub(crate) async fn farewell(manager: &Manager, node_id: &str) {
    let is_member = || {
        let members = manager.members();
        members.len() > 1 && members.iter().any(|member| member.node_id == node_id)
    };
    let goes = async {
        let spec = manager.read(|state| {
            let node = state.node(node_id)?;
            Some((
                waxseal_cluster::version_of(node.meta.as_ref()),
                node.spec.clone()?,
            ))
        });
        let Some((expected_version, mut spec)) = spec else {
            return;
        };
        spec.set_desired_role(NodeRole::Worker);
        let op = Op::UpdateNode(UpdateNode {
            node_id: node_id.to_owned(),
            expected_version,
            spec: Some(spec),
            ..UpdateNode::default()
        });
        let actor = Actor {
            who: Some(Who::Component("leave".to_owned())),
        };
        if let Err(error) = manager.propose(actor, op).await {
            return tracing::warn!(%error, "the other managers do not let this one go");
        }
        while is_member() {
            tokio::time::sleep(FAREWELL_LOOK).await;
        }
    };
    if !is_member() || *manager.leader().borrow() == Leader::None {
        return;
    }
    if tokio::time::timeout(FAREWELL, goes).await.is_err() {
        tracing::warn!("the other managers have not let this one go in time; it leaves");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reachable: usize, unreachable: usize) -> String {
        refusal_text(Some(Counts {
            reachable,
            unreachable,
        }))
    }

    #[test]
    fn the_texts_are_the_engines() {
        assert_eq!(text(1, 0), LAST_MANAGER);
        let lost = "You are attempting to leave the swarm on a node that is participating as a manager. Removing this node leaves 1 managers out of 2. Without a Raft quorum your swarm will be inaccessible. The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";
        assert_eq!(text(2, 0), lost);
        let other = "You are attempting to leave the swarm on a node that is participating as a manager. The only way to restore a swarm that has lost consensus is to reinitialize it with `--force-new-cluster`. Use `--force` to suppress this message.";
        assert_eq!(refusal_text(None), other);
        assert_eq!(text(3, 0), other);
        assert_eq!(text(5, 0), other);
        assert_eq!(text(4, 1), other);
        assert!(text(2, 1).contains("leaves 1 managers out of 3"));
        assert!(text(3, 2).contains("leaves 2 managers out of 5"));
        let ClusterError::LeaveRefused(starting) = refusal(None) else {
            panic!("another refusal");
        };
        assert!(starting.contains("Doing so may lose the consensus"));
    }
}
