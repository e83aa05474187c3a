//! What the daemon says of its own node, without asking anybody.

use std::sync::Arc;

use waxseal_api::{LocalNode, LocalState, ManagerGroup};
use waxseal_autolock::LockState;
use waxseal_manager::Leader;

use crate::{daemon::Daemon, seat::Seat};

/// What a manager is told whose cluster goes on without it.
const LEFT_BEHIND: &str = "the swarm goes on without this manager, as after `docker swarm init --force-new-cluster`: run `docker swarm leave --force` here, then join it again";

impl Daemon {
    /// The Raft group as this node's manager knows it.
    pub(crate) fn manager_group(&self) -> Option<ManagerGroup> {
        let view = self.view();
        let manager = view.manager()?;
        let leader = match &*manager.leader().borrow() {
            Leader::Me { .. } => Some(view.node_id.clone()),
            Leader::Other { node_id, .. } => Some(node_id.clone()),
            Leader::None => None,
        };
        Some(ManagerGroup {
            members: manager.members(),
            leader,
            lag: Some(manager.lag()),
        })
    }

    /// The local node as `/info` shows it.
    pub(crate) fn local_node(&self) -> LocalNode {
        let view = self.view();
        let agent = view.agent.as_ref().map(|agent| agent.borrow().clone());
        let manager = view.manager();
        let remote_managers = match (&manager, &agent) {
            (Some(manager), _) => {
                let members = manager.members().into_iter();
                members
                    .map(|member| (member.node_id, member.addr))
                    .collect()
            }
            (None, Some(agent)) => agent
                .managers
                .iter()
                .map(|manager| (manager.node_id.clone(), manager.address.clone()))
                .collect(),
            (None, None) => view.remotes.clone(),
        };
        let mut warnings = Vec::new();
        if self.shared.config.allow_tls12 {
            warnings.push("TLS 1.2 is accepted (--tls12)".to_owned());
        }
        if let Some(trouble) = view.seat.as_ref().and_then(|seat| seat.trouble()) {
            warnings.push(format!("this node's manager does not run: {trouble}"));
        }
        let is_left_behind = |seat: &Arc<Seat>| manager.is_some() && seat.is_left_behind();
        if view.seat.as_ref().is_some_and(is_left_behind) {
            warnings.push(LEFT_BEHIND.to_owned());
        }
        warnings.extend(manager.as_ref().and_then(|manager| manager.clock_trouble()));
        if let Some(agent) = &agent {
            let session = agent.session.error();
            warnings.extend(session.map(|error| format!("no session with a manager: {error}")));
            let renewal = agent.renewal.error.as_ref();
            let failed = |error| match agent.renewal.away {
                None => format!("the certificate could not be renewed: {error}"),
                Some(away) => format!(
                    "this node is away from its cluster ({away}) and proves itself with its \
                     former key: {error}"
                ),
            };
            warnings.extend(renewal.map(failed));
            warnings.extend(agent.ignored.iter().map(|text| (*text).to_owned()));
        }
        LocalNode {
            state: match view.state {
                LockState::Inactive => LocalState::Inactive,
                LockState::Pending => LocalState::Pending,
                LockState::Active => LocalState::Active,
                LockState::Locked => LocalState::Locked,
                LockState::Error => LocalState::Error,
            },
            node_id: view.node_id.clone(),
            node_addr: view.node_addr.clone(),
            control_available: manager.is_some(),
            entering: manager.is_none() && view.is_managers(),
            error: view.error.clone(),
            remote_managers,
            warnings,
        }
    }
}
