//! What every manager does about changes, whoever leads: who was removed or has another
//! role is cut off, and what the cluster object says of this manager is taken note of.

use std::{sync::Arc, time::Duration};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use waxseal_cluster::{Change, ChangeRecord, objects::Cluster};
use waxseal_wire::Connections;

use crate::{authorize, core::Core, engine::Engine, leadership::Leader};

/// How often it is looked whether a manager has caught up that has just begun.
const LOOK: Duration = Duration::from_millis(20);

/// Follows the changes.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) core: Arc<Core>,
    pub(crate) engine: Engine,
    pub(crate) connections: Connections,
    pub(crate) stopped: CancellationToken,
}

impl Guard {
    /// Takes note of what the state says now.
    pub(crate) fn learn(&self) {
        let incarnation = self
            .core
            .read(|state| state.cluster().map(|cluster| cluster.incarnation));
        self.engine.me.learn_incarnation(incarnation.unwrap_or(0));
    }

    /// Runs until the manager stops.
    pub(crate) async fn follow(self, mut changes: broadcast::Receiver<ChangeRecord>) {
        loop {
            let record = tokio::select! {
                record = changes.recv() => record,
                () = self.stopped.cancelled() => return,
            };
            match record {
                Ok(record) => record
                    .changes
                    .iter()
                    .for_each(|change| self.changed(change)),
                Err(broadcast::error::RecvError::Lagged(_)) => self.look_again(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn changed(&self, change: &Change) {
        match change {
            // A snapshot is told of so, too, and whom it leaves out is cut off.
            Change::Cluster { .. } => self.look_again(),
            Change::Node {
                old: Some(old),
                new,
            } if new.as_ref().is_none_or(|new| new.role != old.role) => {
                self.connections.close_node(&old.id);
            }
            _ => {}
        }
    }

    /// Changes were lost, or came as a whole.
    fn look_again(&self) {
        self.learn();
        let now = self.core.clock.now();
        let cluster_id = &self.core.cluster_id;
        self.connections.retain(|identity| {
            let is_member = |state: &_| authorize::check_member(state, cluster_id, now, identity);
            self.core.read(|state| is_member(state).is_ok())
        });
    }
}

/// Makes changes news once this manager has caught up: what its log brings before was
/// announced by others. Only that the cluster object changed meanwhile is told, and whom
/// the log removed meanwhile is cut off.
pub(crate) async fn announce(guard: Guard, changes: broadcast::Sender<ChangeRecord>) {
    let Guard {
        core,
        engine,
        stopped,
        ..
    } = &guard;
    let cluster = || -> Option<Arc<Cluster>> { core.read(|state| state.cluster().cloned()) };
    let before = cluster();
    loop {
        let leads = matches!(&*engine.leader.borrow(), Leader::Me { .. });
        if engine.monitor.is_live() || leads || engine.has_caught_up() {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stopped.cancelled() => return,
        }
    }
    engine.monitor.go_live();
    guard.look_again();
    let after = cluster();
    if before != after {
        // Nobody may be listening.
        let _ = changes.send(ChangeRecord {
            time: core.clock.now(),
            changes: vec![Change::Cluster {
                old: before,
                new: after,
            }],
        });
    }
}
