//! The way to the leader: known, connected, and ended with it.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use waxseal_ca::{LiveTls, Role};
use waxseal_wire::{Course, Credentials, ManagerChannel, ToLeader, waxseal::ReadIndexRequest};

use crate::{core::Core, leadership::Leader};

/// The first pause after the leader could not be reached; it doubles.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Time for a dial: a lost first packet is sent again after a second, so a dial that
/// takes longer is best begun anew.
const DIAL: Duration = Duration::from_millis(900);
/// How often the connection is tried out, and how long the answer may take: the network
/// may have forgotten it without a word, and nodes wait for 5 s.
const PROBE: Duration = Duration::from_secs(2);

/// Keeps one connection to whoever leads, apart from that of the log: what nodes do not
/// read must not hold up consensus.
pub(crate) struct Link {
    pub(crate) core: Arc<Core>,
    pub(crate) tls: Arc<LiveTls>,
    pub(crate) leader: watch::Receiver<Leader>,
    pub(crate) course: watch::Sender<Course>,
    pub(crate) stopped: CancellationToken,
}

impl Link {
    /// Follows the leadership until the manager stops.
    pub(crate) async fn follow(mut self) {
        let stopped = self.stopped.clone();
        stopped.run_until_cancelled(self.keep()).await;
        // What leads goes on until it has ended; what relays ends.
        self.course.send_if_modified(|course| match course {
            Course::Here => false,
            course => {
                *course = Course::Nowhere;
                true
            }
        });
    }

    async fn keep(&mut self) {
        let mut pause = PAUSE;
        loop {
            let leader = self.leader.borrow_and_update().clone();
            match leader {
                Leader::Me { .. } => {
                    self.course.send_replace(Course::Here);
                }
                Leader::None => {
                    self.course.send_replace(Course::Nowhere);
                }
                Leader::Other { node_id, addr, .. } => {
                    let began = time::Instant::now();
                    if self.lead_to(&node_id, &addr).await {
                        pause = PAUSE;
                        continue;
                    }
                    // The connection ended, or there was none; the leader is the same.
                    pause = match began.elapsed() > LONGEST_PAUSE {
                        true => PAUSE,
                        false => (pause * 2).min(LONGEST_PAUSE),
                    };
                    if let Ok(Err(_)) = time::timeout(pause, self.leader.changed()).await {
                        return std::future::pending().await;
                    }
                    continue;
                }
            }
            if self.leader.changed().await.is_err() {
                // The engine has gone; so does this manager.
                return std::future::pending().await;
            }
        }
    }

    /// Connects to the leader and keeps to it; true once it may be another.
    async fn lead_to(&mut self, node_id: &str, addr: &str) -> bool {
        self.course.send_replace(Course::Nowhere);
        let dialling = ManagerChannel::dial(addr, Credentials::Member(&self.tls));
        let dialled = tokio::select! {
            dialled = time::timeout(DIAL, dialling) => dialled,
            changed = self.leader.changed() => return changed.is_ok(),
        };
        let channel = match dialled {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the leader is not reached");
                return false;
            }
            Err(_) => {
                tracing::debug!(%addr, "the leader does not answer");
                return false;
            }
        };
        let is_leader = channel.server().is_some_and(|server| {
            server.node_id == node_id
                && server.role == Role::Manager
                && server.cluster_id == self.core.cluster_id
        });
        if !is_leader {
            tracing::warn!(%addr, "another node answers where the leader should be");
            return false;
        }
        let incarnation = self
            .core
            .read(|state| state.cluster().map_or(0, |cluster| cluster.incarnation));
        let over = CancellationToken::new();
        // Whatever ends this ends the calls that go this way.
        let _over = over.clone().drop_guard();
        let to_leader = ToLeader {
            channel: channel.clone(),
            incarnation,
            over,
        };
        self.course
            .send_replace(Course::Leader(Arc::new(to_leader)));
        let changed = tokio::select! {
            changed = self.leader.changed() => changed.is_ok(),
            () = channel.closed() => false,
            () = useless(&channel, incarnation) => {
                tracing::debug!(%addr, "no use of the leader; connecting anew");
                false
            }
        };
        self.course.send_replace(Course::Nowhere);
        changed
    }
}

/// Completes when the manager at the other end does not answer, or refuses the
/// incarnation: one that has just joined may have read its log up to a former one only.
async fn useless(channel: &ManagerChannel, incarnation: u64) {
    loop {
        let mut control = channel.control();
        let probe = control.read_index(ReadIndexRequest { incarnation });
        match time::timeout(PROBE, probe).await {
            Err(_) => return,
            Ok(Err(status)) if status.code() == Code::FailedPrecondition => return,
            // Any other answer is one.
            Ok(_) => time::sleep(PROBE).await,
        }
    }
}
