//! What every manager does about changes, whoever leads: who was removed or has another
//! role is cut off, and what the cluster object says of this manager is taken note of.

use std::{sync::Arc, time::Duration};

use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;
use waxseal_ca::{LiveTls, Serial};
use waxseal_cluster::{
    Change, ChangeRecord, SUPERSEDED_GRACE_SECS, issuer_rules, objects::Cluster,
};
use waxseal_wire::Connections;

use crate::{authorize, core::Core, engine::Engine, leadership::Leader};

/// How often it is looked whether a manager has caught up that has just begun.
const LOOK: Duration = Duration::from_millis(20);

/// Superseded certificates are cut off so long after the first of them was superseded, many
/// at once: their grace, and a little for clocks of managers that differ.
const SUPERSEDED_LOOK: Duration = Duration::from_secs(SUPERSEDED_GRACE_SECS.unsigned_abs() + 2);

/// Follows the changes.
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) core: Arc<Core>,
    pub(crate) engine: Engine,
    pub(crate) tls: Arc<LiveTls>,
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
        let rules = self
            .core
            .read(|state| state.cluster().map(|cluster| issuer_rules(cluster)));
        self.tls.rule_issuers(rules.unwrap_or_default());
    }

    /// Runs until the manager stops.
    pub(crate) async fn follow(self, mut changes: broadcast::Receiver<ChangeRecord>) {
        // What was superseded before this manager began, too.
        let mut look_at = Some(Instant::now() + SUPERSEDED_LOOK);
        loop {
            let record = tokio::select! {
                record = changes.recv() => record,
                () = sleep_until(look_at) => {
                    look_at = None;
                    self.look_again();
                    continue;
                }
                () = self.stopped.cancelled() => return,
            };
            match record {
                Ok(record) => {
                    for change in &record.changes {
                        self.changed(change);
                        if is_superseded(change) {
                            look_at.get_or_insert_with(|| Instant::now() + SUPERSEDED_LOOK);
                        }
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.look_again();
                    look_at.get_or_insert_with(|| Instant::now() + SUPERSEDED_LOOK);
                }
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
            Change::Certificate {
                new: Some(record), ..
            } if record.revoked.is_some() => {
                if let Ok(serial) = Serial::from_bytes(&record.serial) {
                    self.connections.close_certificate(&record.node_id, &serial);
                }
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

fn is_superseded(change: &Change) -> bool {
    let Change::Certificate { new: Some(new), .. } = change else {
        return false;
    };
    new.superseded_at != 0 && new.revoked.is_none()
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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
