//! A manager: starts the engine and the services, stops them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{Notify, broadcast},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use waxseal_autolock::{Dek, DekRing, Owner};
use waxseal_ca::{CertificateExpiry, ClientCertificates, Clock, LiveTls, TlsOptions, server_tls};
use waxseal_cluster::{
    Applied, ChangeRecord, State, Vault,
    objects::{Actor, Bootstrap, Cluster, Node, actor, command::Op},
};
use waxseal_raft_store::{
    LogStore, Member, SnapshotPolicy, SnapshotStore, StoreError, StoreOptions,
};
use waxseal_wire::{
    Acceptor, Connections, Listening, limits,
    swarmkit::{
        LogSelector, LogSubscriptionOptions, ca_server::CaServer,
        dispatcher_server::DispatcherServer, log_broker_server::LogBrokerServer,
        node_ca_server::NodeCaServer,
    },
    waxseal::hello_server::HelloServer,
};

use crate::{
    ca::{Ca, CaService, NodeCaService},
    core::Core,
    dispatcher::{Dispatcher, Sessions},
    error::{ProposeError, StartError},
    hello::HelloService,
    log_broker::{LogBroker, LogLines, Subscriptions, TooManyReaders},
    loops::Loops,
    proposer::Proposer,
    raft::{NoPeers, Raft, TypeConfig},
    state_machine::StateMachine,
    vault::PageVault,
};

/// Heartbeats of a leader (requirements.md, Elections).
const HEARTBEAT: Duration = Duration::from_millis(175);
/// A follower stands for election after a time between these without a heartbeat.
const ELECTION: std::ops::Range<u64> = 600..1_200;
/// A manager that has not caught up with its own log by then does not start.
const CATCH_UP: Duration = Duration::from_secs(60);
/// How often it is checked whether a snapshot is due.
const SNAPSHOT_CHECK: Duration = Duration::from_secs(1);

/// What a manager is started with.
pub struct ManagerConfig {
    /// Who and whose it is.
    pub owner: Owner,
    /// The keys of its log.
    pub deks: DekRing,
    /// Directory of log, vote and snapshots.
    pub dir: PathBuf,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where others reach it, `host:port`.
    pub advertise_addr: String,
    /// Its identity and the roots it trusts.
    pub tls: Arc<LiveTls>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where changes are published.
    pub changes: broadcast::Sender<ChangeRecord>,
    /// Whether TLS 1.2 is accepted.
    pub allow_tls12: bool,
    /// Life of certificates in place of the cluster's; for the harness only.
    pub danger_certificate_expiry: Option<CertificateExpiry>,
}

/// The first command of a cluster that does not exist yet.
pub struct NewCluster {
    /// The cluster object.
    pub cluster: Cluster,
    /// Its first manager.
    pub node: Node,
}

/// A manager at work. Dropping it stops it at once; see [`Manager::shutdown`].
pub struct Manager {
    core: Arc<Core>,
    raft: Raft,
    log: LogStore<TypeConfig>,
    snapshots: SnapshotStore,
    sessions: Arc<Sessions>,
    subscriptions: Arc<Subscriptions>,
    listening: Option<Listening>,
    tasks: TaskTracker,
    stopped: CancellationToken,
}

impl Manager {
    /// Starts a manager on its log, or, with `new`, on an empty directory as
    /// the first of a new cluster. Returns once it serves: it leads and has
    /// applied everything that was ever acknowledged.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start(
        config: ManagerConfig,
        new: Option<NewCluster>,
    ) -> Result<Manager, StartError> {
        // 1. The port first: without it there is no point in anything else.
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    address: config.listen,
                    source,
                })?;
        // 2. The log and the state of the newest snapshot.
        let vault: Arc<dyn Vault> = Arc::new(PageVault::new()?);
        let options = StoreOptions::new(&config.dir, config.owner.clone(), config.deks.clone());
        let opened = tokio::task::spawn_blocking(move || waxseal_raft_store::open(options))
            .await
            .map_err(|_| StoreError::Stopped)??;
        let machine = StateMachine::open(opened.snapshots.clone(), vault, config.changes.clone())?;
        let state = machine.state();
        // 3. The engine.
        let raft = start_raft(&config.owner, opened.log.clone(), machine).await?;
        if new.is_some() {
            let member = Member {
                node_id: config.owner.node_id.clone(),
                addr: config.advertise_addr.clone(),
            };
            raft.initialize(
                [(config.owner.raft_id, member)]
                    .into_iter()
                    .collect::<std::collections::BTreeMap<_, _>>(),
            )
            .await
            .map_err(raft_error)?;
        }
        let manager = Manager::assemble(
            &config,
            raft,
            opened.log,
            opened.snapshots,
            state,
            listener,
            new,
        );
        manager.await
    }

    async fn assemble(
        config: &ManagerConfig,
        raft: Raft,
        log: LogStore<TypeConfig>,
        snapshots: SnapshotStore,
        state: Arc<RwLock<State>>,
        listener: TcpListener,
        new: Option<NewCluster>,
    ) -> Result<Manager, StartError> {
        let tasks = TaskTracker::new();
        let stopped = CancellationToken::new();
        let guard = stopped.clone().drop_guard();
        let (proposer, proposing) = Proposer::new(raft.clone(), log.clone());
        tasks.spawn(proposing);
        let core = Arc::new(Core {
            node_id: config.owner.node_id.clone(),
            cluster_id: config.owner.cluster_id.clone(),
            advertise_addr: config.advertise_addr.clone(),
            state,
            proposer,
            clock: Arc::clone(&config.clock),
        });
        // 4. Serve nothing before everything acknowledged is applied: an empty
        //    assignment set would stop every task of every node.
        wait_until_caught_up(&raft).await?;
        if let Some(NewCluster { cluster, node }) = new {
            let bootstrap = Bootstrap {
                cluster: Some(cluster),
                node: Some(node),
            };
            core.propose_as("bootstrap", Op::Bootstrap(bootstrap))
                .await
                .map_err(StartError::Bootstrap)?;
        }
        // 5. Services and loops.
        let ca = Ca::new(
            Arc::clone(&core),
            config.danger_certificate_expiry,
            tasks.clone(),
        )?;
        let loops = Arc::new(Loops {
            core: Arc::clone(&core),
            sessions: Arc::default(),
            subscriptions: Subscriptions::new(Arc::clone(&core), tasks.clone()),
            ca: Arc::new(ca),
            connections: Connections::new(),
            plan_due: Notify::new(),
            stopped: stopped.clone(),
        });
        tasks.spawn(Arc::clone(&loops).follow_changes(config.changes.subscribe()));
        tasks.spawn(Arc::clone(&loops).run_plans());
        tasks.spawn(take_snapshots(raft.clone(), log.clone(), stopped.clone()));
        // 6. The door.
        let listening = open_door(config, &loops, &tasks, listener)?;
        guard.disarm();
        tracing::info!(node = %core.node_id, address = %config.listen, "manager serves");
        Ok(Manager {
            sessions: Arc::clone(&loops.sessions),
            subscriptions: Arc::clone(&loops.subscriptions),
            core,
            raft,
            log,
            snapshots,
            listening: Some(listening),
            tasks,
            stopped,
        })
    }

    /// The address it listens on.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listening.as_ref().map(Listening::address)
    }

    /// Makes a command durable and applies it.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub async fn propose(&self, actor: Actor, op: Op) -> Result<Applied, ProposeError> {
        self.core.propose(actor, op).await
    }

    /// Reads the state; what was acknowledged before the call is in it, since a
    /// command is acknowledged once it is applied here. Nothing in `read` may wait.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.core.read(read)
    }

    /// The output of tasks.
    ///
    /// # Errors
    /// [`TooManyReaders`].
    pub fn logs(
        &self,
        selector: LogSelector,
        options: LogSubscriptionOptions,
    ) -> Result<LogLines, TooManyReaders> {
        self.subscriptions.subscribe(selector, options)
    }

    /// Seals everything from now on under `new`, which the key file must hold
    /// already; returns once no file on disk needs a former key.
    ///
    /// # Errors
    /// If something cannot be written; to be tried again.
    pub async fn rotate_dek(&self, new: Dek) -> Result<(), StartError> {
        self.log.rotate_dek(new).await?;
        self.retire_deks().await
    }

    /// Sees to it that no file on disk needs a former key.
    ///
    /// # Errors
    /// As [`Manager::rotate_dek`].
    pub async fn retire_deks(&self) -> Result<(), StartError> {
        for _ in 0..RETIRE_TRIES {
            if self.log.retired_in_use().is_empty() {
                self.log.forget_retired();
                return Ok(());
            }
            let applied = self.raft.metrics().borrow().last_applied;
            self.raft.trigger().snapshot().await.map_err(raft_error)?;
            self.raft
                .wait(Some(CATCH_UP))
                .metrics(
                    |metrics| metrics.snapshot >= applied,
                    "a snapshot under the new key",
                )
                .await
                .map_err(raft_error)?;
            let snapshots = self.snapshots.clone();
            tokio::task::spawn_blocking(move || snapshots.reseal())
                .await
                .map_err(|_| StoreError::Stopped)??;
            if let Some(index) = applied.map(|id| id.index) {
                self.raft
                    .trigger()
                    .purge_log(index)
                    .await
                    .map_err(raft_error)?;
            }
            tokio::time::sleep(RETIRE_PAUSE).await;
        }
        Err(StartError::Raft {
            reason: "former keys of the log are still in use".to_owned(),
        })
    }

    /// Where others reach it, `host:port`.
    pub fn advertise_addr(&self) -> &str {
        &self.core.advertise_addr
    }

    /// Completes when the manager stops: with the cause if its log cannot be
    /// written any more. Does not hold the manager.
    pub fn failure(&self) -> impl Future<Output = Option<Arc<StoreError>>> + Send + use<> {
        let (log, stopped) = (self.log.clone(), self.stopped.clone());
        async move {
            tokio::select! {
                cause = log.failed() => Some(cause),
                () = stopped.cancelled() => None,
            }
        }
    }

    /// Ends sessions, stops the services, lets the log reach the disk.
    pub async fn shutdown(mut self, deadline: Duration) {
        self.stopped.cancel();
        // Their streams do not end by themselves, and the door waits for them.
        for session in self.sessions.all() {
            session.ended.cancel();
        }
        if let Some(listening) = self.listening.take() {
            listening.shutdown(deadline).await;
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "the Raft engine did not stop cleanly");
        }
        if let Err(error) = self.log.close().await {
            tracing::warn!(%error, "the log was not closed cleanly; the next start reads its tail");
        }
        self.tasks.close();
    }
}

/// Tries at finishing a rotation; each ends with everything written so far behind a snapshot.
const RETIRE_TRIES: usize = 20;
const RETIRE_PAUSE: Duration = Duration::from_millis(50);

impl Drop for Manager {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

async fn start_raft(
    owner: &Owner,
    log: LogStore<TypeConfig>,
    machine: StateMachine,
) -> Result<Raft, StartError> {
    let config = openraft::Config {
        cluster_name: owner.cluster_id.clone(),
        heartbeat_interval: u64::try_from(HEARTBEAT.as_millis()).unwrap_or(u64::MAX),
        election_timeout_min: ELECTION.start,
        election_timeout_max: ELECTION.end,
        // The log is purged by bytes, not by entries alone; see `take_snapshots`.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        replication_lag_threshold: 50,
        ..openraft::Config::default()
    };
    let config = Arc::new(config.validate().map_err(raft_error)?);
    Raft::new(owner.raft_id, config, NoPeers, log, machine)
        .await
        .map_err(raft_error)
}

async fn wait_until_caught_up(raft: &Raft) -> Result<(), StartError> {
    let caught_up = async {
        // The only voter need not wait for a silence of others.
        if !raft.is_initialized().await.map_err(raft_error)? {
            return Err(StartError::Raft {
                reason: "the log has no membership".to_owned(),
            });
        }
        raft.trigger().elect().await.map_err(raft_error)?;
        while raft.ensure_linearizable().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    };
    match tokio::time::timeout(CATCH_UP, caught_up).await {
        Ok(result) => result,
        Err(_) => Err(StartError::Raft {
            reason: format!("not caught up with the log within {} s", CATCH_UP.as_secs()),
        }),
    }
}

/// Takes snapshots and purges the log behind them, by bytes and by entries.
async fn take_snapshots(raft: Raft, log: LogStore<TypeConfig>, stopped: CancellationToken) {
    let policy = SnapshotPolicy::default();
    let mut tick = tokio::time::interval(SNAPSHOT_CHECK);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stopped.cancelled() => return,
        }
        let taken = raft.metrics().borrow().snapshot.map(|id| id.index);
        if policy.is_due(log.usage_since(taken)) && raft.trigger().snapshot().await.is_err() {
            return;
        }
        let purged = raft.metrics().borrow().purged.map(|id| id.index);
        let target = taken.and_then(|taken| log.purge_target(taken, &policy));
        if let Some(target) = target.filter(|target| purged.is_none_or(|purged| *target > purged))
            && raft.trigger().purge_log(target).await.is_err()
        {
            return;
        }
    }
}

fn open_door(
    config: &ManagerConfig,
    loops: &Arc<Loops>,
    tasks: &TaskTracker,
    listener: TcpListener,
) -> Result<Listening, StartError> {
    let Loops {
        core,
        sessions,
        subscriptions,
        ca,
        connections,
        ..
    } = &**loops;
    let dispatcher = Dispatcher::new(Arc::clone(core), Arc::clone(sessions), tasks.clone());
    let log_broker = LogBroker::new(Arc::clone(core), Arc::clone(subscriptions));
    let routes = Routes::new(CaServer::new(CaService(Arc::clone(ca))))
        .add_service(
            NodeCaServer::new(NodeCaService(Arc::clone(ca)))
                .max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT),
        )
        .add_service(
            DispatcherServer::new(dispatcher)
                .max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT)
                .max_encoding_message_size(limits::CLIENT_MESSAGE_LIMIT),
        )
        .add_service(
            LogBrokerServer::new(log_broker)
                .max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT),
        )
        .add_service(HelloServer::new(HelloService(Arc::clone(core))));
    let options = TlsOptions {
        allow_tls12: config.allow_tls12,
        client_certificates: ClientCertificates::Optional,
    };
    let tls = server_tls(&config.tls, options).map_err(|error| StartError::Raft {
        reason: error.to_string(),
    })?;
    let acceptor = Acceptor {
        routes,
        tls,
        clock: Arc::clone(&config.clock),
        connections: connections.clone(),
    };
    acceptor
        .serve(listener)
        .map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })
}

fn raft_error(error: impl std::fmt::Display) -> StartError {
    StartError::Raft {
        reason: error.to_string(),
    }
}

/// The actor for commands of one of the daemon's own parts.
pub fn component(name: &str) -> Actor {
    Actor {
        who: Some(actor::Who::Component(name.to_owned())),
    }
}
