//! The loop that rotates the root, while this manager leads. What is due is planned elsewhere
//! ([`rotation`]); here it is carried out. Every action stands for itself, so a leader that ends
//! between two leaves the rest to the next one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use waxseal_ca::{
    IssuerInfo, TOKEN_SECRET_BYTES,
    rotation::{self, Action, Pace, Plan, Progress},
};
use waxseal_cluster::{
    ROTATION_LEVEL, Renewed, TokenSecrets, close_issuers, finish_rotation, forget_ways,
    objects::{
        Cluster, MarkForRenewal, Node, NodeState, NodeStatus, QuarantineNodes, RemoveNode,
        UpdateCluster, command::Op,
    },
    plan::rotation_view,
    signing_issuer, timestamp, version_of,
};

use crate::{core::Core, error::ProposeError};

/// Why nodes are asked, as their records say.
const REASON: &str = "root rotation";
/// Nodes in one command.
const MARKS: usize = 1024;
/// A look at all nodes is followed by a rest this many times as long, so that renewals that
/// complete one by one do not make one look each …
const REST: u32 = 16;
/// … of at least this …
const SHORTEST_REST: Duration = Duration::from_millis(20);
/// … and at most this.
const LONGEST_REST: Duration = Duration::from_millis(200);
/// It is looked at the latest after so long: time alone makes nodes late.
const TICK: Duration = Duration::from_secs(10);
/// Pause after a write failed.
const PAUSE: Duration = Duration::from_millis(500);

/// What the loop works on.
pub(crate) struct Rotation {
    pub(crate) core: Arc<Core>,
    /// A node changed, or the cluster.
    pub(crate) due: Arc<Notify>,
    /// The leadership has ended.
    pub(crate) stopped: CancellationToken,
}

/// What was planned, and on what.
struct Look {
    plan: Plan,
    cluster: Arc<Cluster>,
}

impl Rotation {
    /// Runs until the leadership ends.
    pub(crate) async fn run(self) {
        let stopped = self.stopped.clone();
        let keep = async {
            let mut pace = Pace::default();
            let mut known = None;
            loop {
                let begin = Instant::now();
                let wake = match self.step(&mut pace, &mut known).await {
                    Ok(wake) => wake,
                    Err(error) => {
                        tracing::debug!(%error, "the rotation of the root waits; it is tried again");
                        PAUSE
                    }
                };
                let rest = begin.elapsed().saturating_mul(REST);
                tokio::time::sleep(rest.clamp(SHORTEST_REST, LONGEST_REST)).await;
                tokio::select! {
                    () = self.due.notified() => {}
                    () = tokio::time::sleep(wake) => {}
                }
            }
        };
        // What is broken off is on record or is not; either is gone on from.
        stopped.run_until_cancelled(keep).await;
    }

    /// Does what is due now; answers when to look again if nothing changes until then.
    async fn step(
        &self,
        pace: &mut Pace,
        known: &mut Option<(u64, IssuerInfo)>,
    ) -> Result<Duration, ProposeError> {
        let now = self.core.clock.now();
        let Some(Look { plan, cluster }) = self.look(pace, known, now) else {
            return Ok(TICK);
        };
        let count = |wanted: &[Progress]| {
            let among = plan.progress.iter().filter(|is| wanted.contains(is));
            among.count()
        };
        let busy = count(&[Progress::Asked, Progress::Renewing]);
        pace.note(busy, count(&[Progress::Done]), Instant::now());
        for action in plan.actions {
            self.carry_out(action, &cluster, now).await?;
        }
        // The end of an issuer in foreign hands is not that of the cluster: without a majority of
        // managers that hold something else it goes on.
        let end = plan.has_quorum.then_some(now);
        if let Some(new) = forget_ways(&cluster, now) {
            self.update(&cluster, new).await?;
            tracing::info!("nothing leads on from former roots whose return window is over");
        } else if let Some(new) = close_issuers(&cluster, self.renewed(&plan.progress), end) {
            self.update(&cluster, new).await?;
            tracing::info!("certificates of former issuers below the root count no more");
        }
        let wake = plan
            .wake_at
            .and_then(|at| Duration::try_from(at - now).ok());
        Ok(wake.unwrap_or(TICK).min(TICK))
    }

    /// Plans on the state as it is.
    fn look(
        &self,
        pace: &Pace,
        known: &mut Option<(u64, IssuerInfo)>,
        now: OffsetDateTime,
    ) -> Option<Look> {
        self.core.read(|state| {
            let cluster = state.cluster()?;
            if cluster.feature_level < ROTATION_LEVEL {
                return None;
            }
            // Read once per version of the cluster object.
            let version = version_of(cluster.meta.as_ref());
            if known.as_ref().is_none_or(|(at, _)| *at != version) {
                *known = Some((version, signing_issuer(cluster, now)?));
            }
            let (_, target) = known.as_ref()?;
            let view = rotation_view(state, cluster, target, pace.window(), now);
            Some(Look {
                plan: rotation::plan(&view),
                cluster: Arc::clone(cluster),
            })
        })
    }

    async fn carry_out(
        &self,
        action: Action,
        cluster: &Cluster,
        now: OffsetDateTime,
    ) -> Result<(), ProposeError> {
        match action {
            Action::Mark(ids) => {
                for node_ids in ids.chunks(MARKS) {
                    let mark = MarkForRenewal {
                        node_ids: node_ids.to_vec(),
                        reason: REASON.to_owned(),
                    };
                    self.propose(Op::MarkForRenewal(mark)).await?;
                }
                Ok(())
            }
            Action::Quarantine(node_ids) => {
                tracing::warn!(nodes = ?node_ids, "the rotation of the root ends without these nodes");
                self.propose(Op::QuarantineNodes(QuarantineNodes { node_ids }))
                    .await
            }
            Action::Evict(node_ids) => {
                tracing::warn!(nodes = ?node_ids, "nodes that did not follow the rotation of the root are removed");
                for node_id in node_ids {
                    self.propose(Op::RemoveNode(self.removal(node_id, now)))
                        .await?;
                }
                Ok(())
            }
            Action::Finish => self.finish(cluster, now).await,
        }
    }

    fn removal(&self, node_id: String, now: OffsetDateTime) -> RemoveNode {
        let until = self
            .core
            .read(|state| state.node(&node_id)?.certified_until);
        RemoveNode {
            ban_expires_at: Some(until.unwrap_or_else(|| timestamp(now))),
            node_id,
            force: true,
        }
    }

    /// Trust and tokens switch, in one command that is refused if the cluster object is not the
    /// one that was planned on.
    async fn finish(&self, cluster: &Cluster, now: OffsetDateTime) -> Result<(), ProposeError> {
        let mut secrets: TokenSecrets = [[0; TOKEN_SECRET_BYTES]; 2];
        if secrets
            .iter_mut()
            .any(|secret| getrandom::fill(secret).is_err())
        {
            tracing::error!("the system gave no random bytes for join tokens; it is tried again");
            return Ok(());
        }
        let Some(new) = finish_rotation(cluster, &secrets, timestamp(now)) else {
            return Ok(());
        };
        self.update(cluster, new).await?;
        tracing::info!("the root is rotated: trust and join tokens are those of the new one");
        Ok(())
    }

    /// How many have renewed. Nodes that a new leader has not heard of yet are no absent ones.
    fn renewed(&self, progress: &[Progress]) -> Renewed {
        let is_unknown = |node: &Arc<Node>| {
            let status = node.status.as_ref();
            status.map(NodeStatus::state) == Some(NodeState::Unknown)
        };
        match renewed(progress) {
            Renewed::Present if self.core.read(|state| state.nodes().any(is_unknown)) => {
                Renewed::Some
            }
            renewed => renewed,
        }
    }

    /// Replaces the cluster object if it still is the `old` one.
    async fn update(&self, old: &Cluster, new: Cluster) -> Result<(), ProposeError> {
        let update = UpdateCluster {
            expected_version: version_of(old.meta.as_ref()),
            cluster: Some(new),
        };
        self.propose(Op::UpdateCluster(update)).await
    }

    async fn propose(&self, op: Op) -> Result<(), ProposeError> {
        match self.core.propose_as("rotation", op).await {
            Ok(_) => Ok(()),
            // Planned on an older state; the change that came between makes another plan.
            Err(ProposeError::Refused(refusal)) => {
                tracing::debug!(%refusal, "a step of the rotation was refused");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

fn renewed(progress: &[Progress]) -> Renewed {
    let is_there = |is: &&Progress| {
        !matches!(
            is,
            Progress::Away | Progress::NeverSeen | Progress::Quarantined
        )
    };
    let is_done = |is: &Progress| *is == Progress::Done;
    match progress.iter().all(is_done) {
        true => Renewed::All,
        false if progress.iter().filter(is_there).all(is_done) => Renewed::Present,
        false => Renewed::Some,
    }
}
