//! The loops that run the plans and tell the services what changed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use waxseal_cluster::{
    Change, ChangeRecord,
    objects::{
        ChangeTasks, NodeObservation, NodeState, ObserveNodes, ReturnReservations, TaskChange,
        command::Op,
    },
    plan::{self, Heartbeat},
};
use waxseal_wire::Connections;

use crate::{
    authorize,
    ca::Ca,
    core::{Core, random_id},
    dispatcher::{self, Sessions},
    error::ProposeError,
    log_broker::Subscriptions,
};

/// Plans run at the latest this long after the last time, whatever happened.
const TICK: Duration = Duration::from_secs(10);
/// Rounds of planning without a pause; the rest waits for the next wake-up, so
/// that a plan which never settles cannot take the manager with it.
const MAX_ROUNDS: usize = 32;
/// A plan looks at every node and task. After a look that found nothing to do, the next one
/// waits this many times as long as it took, so that a flood of changes (joins, reports)
/// leaves processor and state to others.
const REST: u32 = 32;
/// At most, so that a look which was held up holds nobody up.
const LONGEST_REST: Duration = Duration::from_millis(200);
/// Pause after planning stopped at [`MAX_ROUNDS`] or a write failed.
const PAUSE: Duration = Duration::from_millis(500);

/// What the loops work on.
pub(crate) struct Loops {
    pub(crate) core: Arc<Core>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) connections: Connections,
    pub(crate) plan_due: Notify,
    pub(crate) roles_due: Arc<Notify>,
    pub(crate) rotation_due: Arc<Notify>,
    pub(crate) stopped: CancellationToken,
}

/// When to plan again.
struct Settled {
    /// At the latest.
    wake: Duration,
    /// Not before.
    rest: Duration,
}

impl Loops {
    /// Hands each change to the parts that it concerns.
    pub(crate) async fn follow_changes(
        self: Arc<Self>,
        mut changes: broadcast::Receiver<ChangeRecord>,
    ) {
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
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    tracing::debug!(lost, "changes were lost; everything is looked at anew");
                    self.look_again();
                }
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Tells the nodes when there are other managers than before.
    pub(crate) async fn follow_managers(self: Arc<Self>) {
        let stopped = self.stopped.clone();
        let following = async {
            let mut known = self.core.group.managers();
            loop {
                self.core.group.managers_changed(&known).await;
                known = self.core.group.managers();
                for session in self.sessions.all() {
                    session.node_changed.notify_one();
                }
            }
        };
        stopped.run_until_cancelled(following).await;
    }

    /// Changes were lost: anything may have changed.
    fn look_again(&self) {
        self.ca.cluster_changed();
        let now = self.core.clock.now();
        let gone = self.connections.retain(|identity| {
            let cluster_id = &self.core.cluster_id;
            self.core
                .read(|state| authorize::check_member(state, cluster_id, now, identity))
                .is_ok()
        });
        for node_id in gone {
            self.sessions.close(&node_id);
        }
        dispatcher::notify_all(&self.sessions);
        self.subscriptions.look_again();
        self.plan_due.notify_one();
        self.roles_due.notify_one();
        self.rotation_due.notify_one();
    }

    fn changed(&self, change: &Change) {
        dispatcher::notify(&self.sessions, change);
        if matches!(change, Change::Cluster { .. } | Change::Node { .. }) {
            self.rotation_due.notify_one();
        }
        match change {
            Change::Cluster { .. } => {
                self.ca.cluster_changed();
                self.plan_due.notify_one();
            }
            Change::Node {
                old: Some(old),
                new,
            } => {
                let role_changed = new.as_ref().is_some_and(|new| new.role != old.role);
                if new.is_none() {
                    self.ca.forget(&old.id);
                }
                if new.is_none() || role_changed {
                    self.connections.close_node(&old.id);
                }
                self.plan_due.notify_one();
                self.roles_due.notify_one();
            }
            Change::Task { .. } => {
                self.subscriptions.task_changed(change);
                self.plan_due.notify_one();
            }
            Change::Node { .. } | Change::Service { .. } => self.plan_due.notify_one(),
            Change::Secret { .. } | Change::Config { .. } | Change::Certificate { .. } => {}
        }
    }

    /// Brings the cluster closer to what was asked, whenever something changed.
    pub(crate) async fn run_plans(self: Arc<Self>) {
        let serving_since = Instant::now();
        self.ca.sign_pending().await;
        let mut last_signing = Instant::now();
        loop {
            let Settled { wake, rest } = match self.plan_until_settled(serving_since).await {
                Ok(settled) => settled,
                Err(ProposeError::Stopped) => return,
                Err(error) => {
                    tracing::warn!(%error, "a plan could not be carried out; it is tried again");
                    Settled {
                        wake: PAUSE,
                        rest: Duration::ZERO,
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = self.stopped.cancelled() => return,
            }
            tokio::select! {
                () = self.plan_due.notified() => {}
                () = tokio::time::sleep(wake.min(TICK)) => {}
                () = self.stopped.cancelled() => return,
            }
            if last_signing.elapsed() >= TICK {
                self.ca.sign_pending().await;
                self.ca.move_to_new_certificates(&self.connections);
                last_signing = Instant::now();
            }
        }
    }

    /// Runs the plans until none asks for anything; answers when to run again.
    async fn plan_until_settled(&self, serving_since: Instant) -> Result<Settled, ProposeError> {
        let mut wake = TICK;
        for _ in 0..MAX_ROUNDS {
            let begin = Instant::now();
            let (asked, node_wake) = self.plan_nodes(serving_since).await?;
            let (changed, service_wake) = self.plan_services().await?;
            let scheduled = self.plan_placement().await?;
            wake = node_wake.min(service_wake);
            if !asked && !changed && !scheduled {
                let rest = begin.elapsed().saturating_mul(REST).min(LONGEST_REST);
                return Ok(Settled { wake, rest });
            }
            if self.stopped.is_cancelled() {
                return Err(ProposeError::Stopped);
            }
        }
        Ok(Settled {
            wake: wake.min(PAUSE),
            rest: Duration::ZERO,
        })
    }

    async fn plan_nodes(&self, serving_since: Instant) -> Result<(bool, Duration), ProposeError> {
        let heartbeat = |node_id: &str| {
            let session = self.sessions.of_node(node_id)?;
            let (age, period) = session.silence();
            Some(Heartbeat {
                age: signed(age),
                period: signed(period),
            })
        };
        let plan = self.core.read(|state| {
            let serving_for = signed(serving_since.elapsed());
            plan::check_nodes(state, &heartbeat, serving_for, self.core.clock.now())
        });
        let wake = plan
            .wake_after
            .and_then(|after| Duration::try_from(after).ok())
            .unwrap_or(TICK);
        let mut asked = false;
        if !plan.observations.is_empty() {
            asked = true;
            let down = plan.observations.iter().filter(|node| is_down(node));
            let down: Vec<_> = down.map(|node| node.node_id.clone()).collect();
            let nodes = ObserveNodes {
                nodes: plan.observations,
            };
            self.propose(Op::ObserveNodes(nodes)).await?;
            for node_id in down {
                self.sessions.end_silent(&node_id);
            }
        }
        for demotion in plan.demotions {
            asked = true;
            tracing::warn!(
                node = %demotion.node_id,
                "a manager's join came to nothing; its record is removed"
            );
            self.propose(Op::UpdateNode(demotion)).await?;
        }
        for removal in plan.removals {
            asked = true;
            self.propose(Op::RemoveNode(removal)).await?;
        }
        asked |= self.change_tasks(plan.task_changes).await?;
        let now = self.core.clock.now().unix_timestamp();
        if self.core.read(|state| state.has_overdue_join_tokens(now)) {
            let op = Op::ReturnReservations(ReturnReservations {});
            self.propose(op).await?;
        }
        Ok((asked, wake))
    }

    async fn plan_services(&self) -> Result<(bool, Duration), ProposeError> {
        let now = self.core.clock.now();
        let mut random_failed = false;
        let plan = self.core.read(|state| {
            plan::orchestrate(state, now, &mut || {
                random_id().unwrap_or_else(|_| {
                    random_failed = true;
                    String::new()
                })
            })
        });
        if random_failed {
            tracing::error!("the system gave no random bytes for ids of tasks; planning waits");
            return Ok((false, PAUSE));
        }
        let wake = plan
            .wake_at
            .map(|at| Duration::try_from(at - now).unwrap_or(Duration::ZERO))
            .unwrap_or(TICK);
        let mut asked = self.change_tasks(plan.changes).await?;
        for update in plan.service_updates {
            asked = true;
            self.propose(update).await?;
        }
        Ok((asked, wake))
    }

    async fn plan_placement(&self) -> Result<bool, ProposeError> {
        let now = self.core.clock.now();
        let changes = self.core.read(|state| plan::schedule(state, now));
        self.change_tasks(changes).await
    }

    async fn change_tasks(&self, changes: Vec<TaskChange>) -> Result<bool, ProposeError> {
        if changes.is_empty() {
            return Ok(false);
        }
        self.propose(Op::ChangeTasks(ChangeTasks { changes }))
            .await?;
        Ok(true)
    }

    /// Proposes; what the state refuses was planned on an older view and is planned anew.
    async fn propose(&self, op: Op) -> Result<(), ProposeError> {
        match self.core.propose_as("plan", op).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(refusal)) => {
                tracing::debug!(%refusal, "a planned change was refused");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn is_down(observed: &NodeObservation) -> bool {
    let status = observed.status.as_ref();
    status.is_some_and(|status| status.state() == NodeState::Down)
}

fn signed(duration: Duration) -> time::Duration {
    time::Duration::try_from(duration).unwrap_or(time::Duration::MAX)
}
