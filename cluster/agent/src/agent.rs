//! The agent: its loops, started and stopped together.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::warn;
use waxseal_ca::{Clock, LiveTls};

use crate::{
    describe::HostFacts,
    executor::Executor,
    managers::ManagerAddress,
    renew::renew_for_ever,
    session::hold_sessions,
    shared::Shared,
    status::AgentStatus,
    store::{IdentityStore, OwnAuthority},
    worker::{NotRemoved, Worker},
};

/// What an agent is made of.
pub struct AgentConfig {
    /// Wall time.
    pub clock: Arc<dyn Clock>,
    /// This node's identity, which it must have, and trust; swapped live.
    pub tls: Arc<LiveTls>,
    /// The managers known so far, at least one.
    pub managers: Vec<ManagerAddress>,
    /// Keeps what is to outlive the process.
    pub store: Arc<dyn IdentityStore>,
    /// This node's own CA, if it may lead.
    pub own_authority: Option<Arc<dyn OwnAuthority>>,
    /// Runs the tasks.
    pub executor: Arc<dyn Executor>,
    /// What this node says of itself.
    pub facts: HostFacts,
}

/// An agent cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is no certificate.
    #[error("this node has no certificate; join a cluster first")]
    NoIdentity,
    /// There is nobody to have a session with.
    #[error("no manager is known; leave the cluster and join it again")]
    NoManagers,
}

/// A member's agent at work. Dropping it stops its loops; tasks run on.
pub struct Agent {
    shared: Arc<Shared>,
    leaving: CancellationToken,
    sessions: AbortOnDropHandle<()>,
    renewals: AbortOnDropHandle<()>,
    worker: AbortOnDropHandle<Vec<NotRemoved>>,
}

impl Agent {
    /// Starts session, renewal and worker.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(mut config: AgentConfig) -> Result<Agent, StartError> {
        let identity = config.tls.identity().ok_or(StartError::NoIdentity)?;
        let managers = std::mem::take(&mut config.managers);
        if managers.is_empty() {
            return Err(StartError::NoManagers);
        }
        let shared = Arc::new(Shared::new(config, identity.node_id, managers));
        let (assigned, assignments) = watch::channel(None);
        let leaving = CancellationToken::new();
        let worker = Worker::new(Arc::clone(&shared), assignments, leaving.clone());
        Ok(Agent {
            sessions: owned(tokio::spawn(hold_sessions(Arc::clone(&shared), assigned))),
            renewals: owned(tokio::spawn(renew_for_ever(Arc::clone(&shared)))),
            worker: owned(tokio::spawn(worker.run())),
            leaving,
            shared,
        })
    }

    /// The agent's situation, now and as it changes.
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.shared.status.subscribe()
    }

    /// What asks for a renewal at once.
    pub fn renewals(&self) -> Renewals {
        Renewals(Arc::clone(&self.shared))
    }

    /// Takes other managers in place of those known, as when they are lost for good. The
    /// next session's manager says more.
    pub fn use_managers(&self, managers: Vec<ManagerAddress>) {
        if !managers.is_empty() {
            self.shared
                .status
                .send_modify(|status| status.managers = managers);
        }
    }

    /// Counts renewals of the certificate, each of which may bring another role. It
    /// moves once the new identity is in use.
    pub fn renewed(&self) -> watch::Receiver<u64> {
        self.shared.renewals.subscribe()
    }

    /// Stops the agent. Tasks run on and are adopted at the next start.
    pub async fn shutdown(self) {
        end(self.sessions).await;
        end(self.renewals).await;
        end(self.worker).await;
    }

    /// Stops the agent and its tasks, and deletes what they left. Takes as long as the
    /// longest grace period, and some seconds more for tasks that do not end or of which
    /// something cannot be deleted: those are logged and given back.
    pub async fn leave(self) -> Vec<NotRemoved> {
        self.leaving.cancel();
        let left = match self.worker.await {
            Ok(left) => left,
            Err(error) => vec![NotRemoved {
                task_id: None,
                error: format!("the worker died: {error}"),
            }],
        };
        for task in &left {
            warn!("{task}");
        }
        end(self.sessions).await;
        end(self.renewals).await;
        left
    }
}

async fn end<T>(task: AbortOnDropHandle<T>) {
    task.abort();
    // An aborted task ends with an error that says just that.
    let _ = task.await;
}

/// Asks for renewals of an agent's certificate; outlives borrowing the agent.
#[derive(Clone)]
pub struct Renewals(Arc<Shared>);

impl Renewals {
    /// Renews the certificate now. A renewal under way does not meet the request once
    /// its key is made; another follows it then.
    pub fn request(&self) {
        self.0.renewal_requests.request();
    }
}

fn owned<T>(task: JoinHandle<T>) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(task)
}
