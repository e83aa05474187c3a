//! This node as a member: what runs while it is one.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use waxseal_agent::{Agent, AgentConfig, AgentStatus, IdentityStore, ManagerAddress, Renewals};
use waxseal_autolock::{Dek, DekRing, Owner, UnlockKey};
use waxseal_ca::{LiveTls, NodeCredentials, Role, TrustBundle};
use waxseal_cluster::{ChangeRecord, State};
use waxseal_manager::{Manager, ManagerConfig, NewCluster};

use crate::{
    daemon::Shared,
    keys::{Keys, KeysError},
    node_file::{NodeFile, NodeFileError},
    text::chain_text,
};

/// How often a key change that failed is tried again.
const KEY_RETRY: Duration = Duration::from_secs(5);

/// A member at work.
pub(crate) struct Member {
    pub(crate) node_file: NodeFile,
    pub(crate) tls: Arc<LiveTls>,
    pub(crate) agent: Agent,
    pub(crate) manager: Option<Arc<Manager>>,
    pub(crate) keys: Arc<KeyKeeper>,
    tasks: TaskTracker,
    stopped: CancellationToken,
}

/// Why a member could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MemberError {
    /// Keys or certificates.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The manager.
    #[error(transparent)]
    Manager(#[from] waxseal_manager::StartError),
    /// `node.pb`.
    #[error(transparent)]
    NodeFile(#[from] NodeFileError),
    /// An address in `node.pb` is none.
    #[error(
        "{text} in node.pb is no address; leave with `docker swarm leave --force` and join again"
    )]
    Address {
        /// What stands there.
        text: String,
    },
    /// The agent.
    #[error("the agent could not start")]
    Agent(#[source] waxseal_agent::StartError),
    /// A manager's key file without keys for its log.
    #[error("the key file holds no keys for the Raft log of this manager")]
    NoRaftKeys,
}

impl Member {
    /// Starts what the node's certificate says it is.
    pub(crate) async fn start(
        shared: &Arc<Shared>,
        keys: Keys,
        node_file: NodeFile,
        trust: TrustBundle,
        credentials: Arc<NodeCredentials>,
        new: Option<NewCluster>,
    ) -> Result<Member, MemberError> {
        let role = credentials.identity().role;
        let tls = LiveTls::new(
            Arc::new(trust),
            Some(credentials),
            Arc::clone(&shared.clock),
        );
        let config = match role {
            Role::Manager => Some(manager_config(shared, &keys, &node_file, &tls)?),
            Role::Worker => None,
        };
        let keys = Arc::new(KeyKeeper {
            shared: Arc::clone(shared),
            keys: Mutex::new(keys),
        });
        let manager = match config {
            Some(config) => Some(Arc::new(Manager::start(config, new).await?)),
            None => None,
        };
        let agent = start_agent(shared, &node_file, &tls, &keys, manager.as_deref())?;
        let tasks = TaskTracker::new();
        let stopped = CancellationToken::new();
        if let Some(manager) = &manager {
            let follower = KeyFollower {
                keys: Arc::clone(&keys),
                manager: Arc::clone(manager),
                renewals: agent.renewals(),
                stopped: stopped.clone(),
            };
            tasks.spawn(follower.run(shared.changes.subscribe()));
        }
        Ok(Member {
            node_file,
            tls,
            agent,
            manager,
            keys,
            tasks,
            stopped,
        })
    }

    /// How the agent stands.
    pub(crate) fn status(&self) -> watch::Receiver<AgentStatus> {
        self.agent.status()
    }

    /// Stops; tasks go on under their shims, or end with `leave`.
    pub(crate) async fn stop(self, leave: bool, deadline: Duration) {
        self.stopped.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if leave {
            // Tasks end within their own grace periods.
            for left in self.agent.leave().await {
                tracing::warn!("{left}");
            }
        } else {
            self.agent.shutdown().await;
        }
        // Readers of the API may hold it for a moment; it is stopped all the same.
        if let Some(manager) = self.manager {
            manager.shutdown(deadline).await;
        }
    }
}

fn manager_config(
    shared: &Arc<Shared>,
    keys: &Keys,
    node_file: &NodeFile,
    tls: &Arc<LiveTls>,
) -> Result<ManagerConfig, MemberError> {
    let raft = keys.file().raft.as_ref().ok_or(MemberError::NoRaftKeys)?;
    let listen: SocketAddr = node_file
        .listen_addr
        .parse()
        .map_err(|_| MemberError::Address {
            text: node_file.listen_addr.clone(),
        })?;
    Ok(ManagerConfig {
        owner: Owner {
            cluster_id: node_file.cluster_id.clone(),
            node_id: node_file.node_id.clone(),
            raft_id: raft.raft_id,
        },
        deks: DekRing::new(
            raft.current.duplicate(),
            raft.retired.iter().map(Dek::duplicate),
        ),
        dir: shared.root.swarm().join("raft"),
        listen,
        advertise_addr: node_file.advertise_addr.clone(),
        tls: Arc::clone(tls),
        clock: Arc::clone(&shared.clock),
        changes: shared.changes.clone(),
        allow_tls12: shared.config.allow_tls12,
        danger_certificate_expiry: shared.config.danger_certificate_expiry,
    })
}

fn start_agent(
    shared: &Arc<Shared>,
    node_file: &NodeFile,
    tls: &Arc<LiveTls>,
    keys: &Arc<KeyKeeper>,
    manager: Option<&Manager>,
) -> Result<Agent, MemberError> {
    // A manager's own agent reaches it on the spot, whatever address others use.
    let managers = match manager.and_then(Manager::address) {
        Some(mut own) => {
            if own.ip().is_unspecified() {
                own.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            vec![ManagerAddress::from_address(own.to_string())]
        }
        None => node_file.managers.iter().map(Into::into).collect(),
    };
    let config = AgentConfig {
        clock: Arc::clone(&shared.clock),
        tls: Arc::clone(tls),
        managers,
        store: Arc::clone(keys) as Arc<dyn IdentityStore>,
        executor: Arc::clone(&shared.executor),
        facts: shared.facts.clone(),
    };
    Agent::start(config).map_err(MemberError::Agent)
}

/// The one place where the node's keys change: by renewal, by the unlock key.
pub(crate) struct KeyKeeper {
    shared: Arc<Shared>,
    keys: Mutex<Keys>,
}

impl KeyKeeper {
    /// Makes the key file follow the cluster's unlock key, as the state has it.
    /// What that entails behind the key file is [`KeyFollower`]'s.
    pub(crate) async fn follow(&self, manager: &Manager) -> Result<(), MemberError> {
        let mut keys = self.keys.lock().await;
        let Some((key, epoch)) = manager.read(cluster_key) else {
            return Ok(());
        };
        if keys.due(key.as_ref(), epoch)?.renews_tls_key() {
            // On record before the key file shows the new epoch: a crash between the
            // two renews once too often, never once too few.
            self.shared
                .change_node_file(|file| file.renewal_due = true)?;
        }
        keys.follow(key, epoch)?;
        Ok(())
    }

    /// Shows the first certificate on disk.
    pub(crate) async fn show_certificate(&self, chain_pem: &str) -> Result<(), KeysError> {
        self.keys.lock().await.save_certificate(chain_pem)
    }

    /// Whether the TLS key is to be replaced since it was readable on the medium.
    fn renewal_due(&self) -> Result<bool, NodeFileError> {
        let file = NodeFile::read(&self.shared.node_file_path())?;
        Ok(file.is_some_and(|file| file.renewal_due))
    }

    async fn unfinished_rotation(&self) -> Option<Dek> {
        self.keys.lock().await.unfinished_rotation()
    }

    async fn forget_retired_deks(&self) -> Result<(), KeysError> {
        self.keys.lock().await.forget_retired_deks()
    }
}

/// The cluster's unlock key, `None` while autolock is off, and its epoch; `None`
/// before there is a cluster or if its key is none: then nothing is rewritten.
fn cluster_key(state: &State) -> Option<(Option<UnlockKey>, u64)> {
    let Some(record) = state.cluster()?.unlock_key.as_ref() else {
        return Some((None, 0));
    };
    let key = match record.key.as_slice() {
        [] => None,
        bytes => Some(UnlockKey::from_slice(bytes).ok()?),
    };
    Some((key, record.epoch))
}

impl IdentityStore for KeyKeeper {
    fn save_identity<'a>(
        &'a self,
        credentials: &'a NodeCredentials,
        trust: &'a TrustBundle,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let mut keys = self.keys.lock().await;
            keys.save_trust(trust.pem()).map_err(io::Error::other)?;
            keys.save_identity(credentials.chain_pem(), credentials.key())
                .map_err(io::Error::other)?;
            self.shared
                .change_node_file(|file| file.renewal_due = false)
                .map_err(io::Error::other)
        })
    }

    fn save_managers<'a>(
        &'a self,
        managers: &'a [ManagerAddress],
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let managers = managers.iter().map(Into::into).collect();
            self.shared
                .change_node_file(|file| file.managers = managers)
                .map_err(io::Error::other)
        })
    }
}

/// Carries out what a change of the unlock key entails behind the key file:
/// the log under a new DEK, a new TLS key.
struct KeyFollower {
    keys: Arc<KeyKeeper>,
    manager: Arc<Manager>,
    renewals: Renewals,
    stopped: CancellationToken,
}

impl KeyFollower {
    async fn run(self, mut changes: broadcast::Receiver<ChangeRecord>) {
        loop {
            let pause = match self.step().await {
                Ok(()) => None,
                Err(error) => {
                    let error = chain_text(&*error);
                    tracing::error!(%error, "the key change is not finished; it is tried again");
                    Some(KEY_RETRY)
                }
            };
            let retry = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = cluster_changed(&mut changes) => {}
                () = retry => {}
                () = self.stopped.cancelled() => return,
            }
        }
    }

    async fn step(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.keys.follow(&self.manager).await?;
        if self.keys.renewal_due()? {
            self.renewals.request();
        }
        if let Some(dek) = self.keys.unfinished_rotation().await {
            self.manager.rotate_dek(dek).await?;
            self.keys.forget_retired_deks().await?;
        }
        Ok(())
    }
}

/// Ends when the cluster object may have changed.
async fn cluster_changed(changes: &mut broadcast::Receiver<ChangeRecord>) {
    loop {
        match changes.recv().await {
            Ok(record) if !concerns_cluster(&record) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
        }
    }
}

fn concerns_cluster(record: &ChangeRecord) -> bool {
    record
        .changes
        .iter()
        .any(|change| matches!(change, waxseal_cluster::Change::Cluster { .. }))
}
