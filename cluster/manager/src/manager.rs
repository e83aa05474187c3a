//! A manager: starts the engine and the services, stops them.

use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use waxseal_autolock::{Dek, DekRing, Owner, scrub_registers};
use waxseal_ca::{CertificateExpiry, Clock, LiveTls};
use waxseal_cluster::{
    Applied, ChangeRecord, State, Vault,
    objects::{Actor, Bootstrap, Cluster, Node, UpdateCluster, actor, command::Op},
    plan::MemberView,
};
use waxseal_raft_store::{Disk, Member, StoreError, StoreOptions};
use waxseal_wire::{
    Course, FEATURE_LEVEL, Listening, listen,
    swarmkit::{LogSelector, LogSubscriptionOptions},
};

use crate::{
    authorize,
    ca::{ExternalConfigError, ExternalSigner, OwnCertificate},
    control::{Group, Link, LogsError, ReadError, across_leaders},
    core::Core,
    door::{members_connections, open_door},
    engine::{Engine, refused},
    error::{Failure, MembershipError, ProposeError, RotateError, StartError},
    guard::{self, Guard},
    leadership::{CLOCK_OFF, Leader},
    leading::{Lead, Stage},
    log_broker::LogLines,
    monitor::Monitor,
    peers::Peers,
    proposer::Proposer,
    state_machine::StateMachine,
    timekeeping::Timekeeper,
    vault::PageVault,
};

/// A stop waits so long at most for calls under way and for peers to take note;
/// who is cut off tries again, and what was proposed is on record or is not.
const DRAIN: Duration = Duration::from_secs(2);

/// The part of the time for a stop that handing over may take, as one over this.
const HAND_OVER_SHARE: u32 = 3;

/// Whether a new leader is on stage is told by no one; it is there in no time.
const STAGE_LOOK: Duration = Duration::from_millis(1);

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
    /// Feature level in place of this binary's; for the harness only.
    pub danger_feature_level: Option<u32>,
}

impl ManagerConfig {
    /// The newest feature level of the cluster that this manager serves.
    pub(crate) fn feature_level(&self) -> u32 {
        self.danger_feature_level.unwrap_or(FEATURE_LEVEL)
    }
}

/// The first command of a cluster that does not exist yet.
pub struct NewCluster {
    /// The cluster object.
    pub cluster: Cluster,
    /// Its first manager.
    pub node: Node,
}

/// A cluster that a manager becomes a member of.
#[derive(Clone, Debug)]
pub struct JoinCluster {
    /// Where its managers are reached, `host:port`; one that answers is enough.
    pub remotes: Vec<String>,
}

/// How a manager begins.
pub enum Start {
    /// On an empty directory, as the first of a new cluster.
    Found(Box<NewCluster>),
    /// On its log. The only voter returns once it leads; one of several at once.
    Resume,
    /// On an empty directory, under a Raft id that was never used, as one more of a
    /// cluster. Returns once it is a voter and has caught up.
    Join(JoinCluster),
    /// On its log, as the only member from now on; every entry of it is kept. Cut short,
    /// it is to be started so again: [`Start::Resume`] would not part it from the others.
    ForceNew,
}

/// A manager at work. Dropping it stops it at once; see [`Manager::shutdown`].
pub struct Manager {
    core: Arc<Core>,
    engine: Engine,
    tls: Arc<LiveTls>,
    stage: Stage,
    /// Taken by the stop.
    listening: Mutex<Option<Listening>>,
    tasks: TaskTracker,
    /// Ends streams and loops.
    stopped: CancellationToken,
    /// Ends the last of it: commands are taken until calls under way have ended.
    ended: CancellationToken,
    _stop: [DropGuard; 2],
}

impl Manager {
    /// Starts a manager whose directory is on `disk`. What leads serves once it has applied
    /// everything that was ever acknowledged.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running.
    pub async fn start_on(
        disk: Arc<dyn Disk>,
        config: ManagerConfig,
        start: Start,
    ) -> Result<Manager, StartError> {
        // 1. The port first: without it there is no point in anything else.
        let listener = listen(config.listen).map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })?;
        // 2. The log, the state of the newest snapshot, and the engine on both.
        let forced = matches!(start, Start::ForceNew);
        let (engine, state) = open_engine(disk, &config, forced).await?;
        // 3. What runs on it.
        match Manager::assemble(&config, engine.clone(), state, listener, start).await {
            Ok(manager) => Ok(manager),
            Err(error) => {
                engine.stop().await;
                Err(error)
            }
        }
    }

    async fn assemble(
        config: &ManagerConfig,
        engine: Engine,
        state: Arc<RwLock<State>>,
        listener: TcpListener,
        start: Start,
    ) -> Result<Manager, StartError> {
        let tasks = TaskTracker::new();
        let (stopped, ended) = (CancellationToken::new(), CancellationToken::new());
        let stop = [stopped.clone().drop_guard(), ended.clone().drop_guard()];
        let (proposer, proposing) = Proposer::new(
            engine.raft.clone(),
            engine.log.clone(),
            engine.leader(),
            engine.room.clone(),
            tasks.clone(),
        );
        tasks.spawn(ended.clone().run_until_cancelled_owned(proposing));
        let (course, way) = watch::channel(Course::Nowhere);
        let time = Arc::new(Timekeeper::new(
            Arc::clone(&config.clock),
            engine.pulse.clone(),
            Arc::clone(&state),
        ));
        let group = Group::new(
            proposer,
            Arc::clone(&state),
            engine.leader(),
            way.clone(),
            engine.raft.metrics(),
            engine.lease(),
            Arc::clone(&time),
        );
        let core = Arc::new(Core {
            node_id: config.owner.node_id.clone(),
            cluster_id: config.owner.cluster_id.clone(),
            advertise_addr: config.advertise_addr.clone(),
            feature_level: config.feature_level(),
            state,
            group: Arc::new(group),
            clock: Arc::clone(&config.clock),
        });
        let link = Link {
            core: Arc::clone(&core),
            tls: Arc::clone(&config.tls),
            leader: engine.leader(),
            course,
            stopped: stopped.clone(),
        };
        tasks.spawn(link.follow());
        let lead = Lead {
            core: Arc::clone(&core),
            engine: engine.clone(),
            connections: members_connections(&core),
            changes: config.changes.clone(),
            tls: Arc::clone(&config.tls),
            certificate_expiry: config.danger_certificate_expiry,
            feature_level: config.feature_level(),
            stage: Stage::default(),
            stopped: stopped.clone(),
            trouble: watch::Sender::default(),
        };
        // 1. What every manager does. It follows until it is known to lead.
        keep(config, &lead, time, &tasks, &ended);
        // 2. Alone, before the former others reach what they take for one of them.
        if matches!(start, Start::ForceNew) {
            engine.catch_up().await?;
            engine.monitor.go_live();
            raise_incarnation(&core, &engine).await?;
        }
        // 3. The door: others must reach a manager before it is one of them.
        let listening = open_door(config, &lead, way, &tasks, listener)?;
        let manager = Manager {
            stage: lead.stage.clone(),
            core,
            engine,
            tls: Arc::clone(&config.tls),
            listening: Mutex::new(Some(listening)),
            tasks,
            stopped,
            ended,
            _stop: stop,
        };
        // 4. Its place in the cluster, and what it does while it leads.
        manager.begin(config, start, lead).await?;
        tracing::info!(node = %manager.core.node_id, address = %config.listen, "manager serves");
        Ok(manager)
    }

    /// Takes its place. The only voter serves nothing before everything acknowledged
    /// is applied, and so does whoever leads later: an empty assignment set would
    /// stop every task of every node.
    async fn begin(
        &self,
        config: &ManagerConfig,
        start: Start,
        lead: Lead,
    ) -> Result<(), StartError> {
        let engine = &self.engine;
        let is_found = matches!(start, Start::Found(_));
        if is_found {
            found(engine, config).await?;
        }
        // Also where a former try at joining got as far as to be counted on.
        if !engine.pulse.has_floor() {
            let (asking, addr) = (engine.clone(), config.advertise_addr.clone());
            self.tasks
                .spawn(asking.ask_what_was(addr, self.stopped.clone()));
        }
        if let Start::Join(JoinCluster { remotes }) = &start {
            self.tasks.spawn(lead.run());
            let addr = &config.advertise_addr;
            return engine.join(remotes, addr, config.feature_level()).await;
        }
        if !is_found && !engine.is_alone() {
            self.tasks.spawn(lead.run());
            return Ok(());
        }
        if !matches!(start, Start::ForceNew) {
            engine.catch_up().await?;
            engine.monitor.go_live();
        }
        if let Start::Found(new) = start {
            let NewCluster { cluster, node } = *new;
            let bootstrap = Bootstrap {
                cluster: Some(cluster),
                node: Some(node),
            };
            self.core
                .propose(component("bootstrap"), Op::Bootstrap(bootstrap))
                .await
                .map_err(StartError::Bootstrap)?;
        }
        let mut trouble = lead.trouble.subscribe();
        let mut leader = engine.leader();
        self.tasks.spawn(lead.run());
        // The stage is set before anybody is told of the start.
        while self.stage.leading().is_none() {
            if let Some(error) = trouble.borrow_and_update().clone() {
                return Err(StartError::Issuer(error));
            }
            tokio::select! {
                _ = trouble.changed() => {}
                _ = leader.changed() => {}
                () = tokio::time::sleep(STAGE_LOOK) => {}
            }
        }
        Ok(())
    }

    /// The address it listens on; `None` once it stops.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listening().as_ref().map(Listening::address)
    }

    fn listening(&self) -> MutexGuard<'_, Option<Listening>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a command durable and applies it.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub fn propose(
        &self,
        actor: Actor,
        op: Op,
    ) -> impl Future<Output = Result<Applied, ProposeError>> + Send + use<> {
        self.core.propose(actor, op)
    }

    /// The external CA at these addresses, to ask it with this manager's certificate; its servers
    /// are those that the root (PEM) vouches for that it signs with.
    ///
    /// # Errors
    /// See [`ExternalConfigError`].
    pub fn external_signer(
        &self,
        urls: Vec<String>,
        root: &[u8],
    ) -> Result<ExternalSigner, ExternalConfigError> {
        let now = self.core.clock.now();
        ExternalSigner::new(urls, root, &[root], &self.tls, now)
    }

    /// Reads the state; what this manager acknowledged before the call is in it, and
    /// after [`Manager::linearize`] what any did. Nothing in `read` may wait.
    pub fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.core.read(read)
    }

    /// Certifies a key of this manager's own node; `None` where it does not lead.
    ///
    /// # Errors
    /// As the call that other nodes make.
    pub async fn certify_self(
        &self,
        csr_pem: &[u8],
    ) -> Option<Result<OwnCertificate, tonic::Status>> {
        let leading = self.stage.leading()?;
        Some(leading.ca.certify_self(csr_pem).await)
    }

    /// Returns once [`Manager::read`] shows everything that was acknowledged, by
    /// whichever manager, before the call; at once on the leader.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn linearize(&self) -> Result<(), ReadError> {
        self.core.group.linearize().await
    }

    /// The output of tasks.
    ///
    /// # Errors
    /// [`LogsError`].
    pub async fn logs(
        &self,
        selector: LogSelector,
        options: LogSubscriptionOptions,
    ) -> Result<LogLines, LogsError> {
        let (stage, core, tasks) = (self.stage.clone(), self.core.clone(), self.tasks.clone());
        let subscribe = move |options: LogSubscriptionOptions| {
            let (stage, core, tasks) = (stage.clone(), core.clone(), tasks.clone());
            let selector = selector.clone();
            async move {
                match stage.leading() {
                    Some(leading) => Ok(leading.subscriptions.subscribe(selector, options)?),
                    None => core.group.logs(selector, options, &tasks).await,
                }
            }
        };
        let now = waxseal_cluster::timestamp(self.core.clock.now());
        let lines = subscribe(options.clone()).await?;
        // One manager alone has no other to go on with.
        if !options.follow || self.core.group.managers().len() < 2 {
            return Ok(lines);
        }
        let stopped = self.stopped.clone();
        Ok(across_leaders(
            lines,
            options,
            now,
            subscribe,
            &self.tasks,
            stopped,
        ))
    }

    /// Seals everything from now on under `new`, which the key file must hold
    /// already; returns once no file on disk needs a former key.
    ///
    /// # Errors
    /// If something cannot be written; to be tried again.
    pub async fn rotate_dek(&self, new: Dek) -> Result<(), RotateError> {
        self.engine.rotate_dek(new).await?;
        self.retire_deks().await
    }

    /// Sees to it that no file on disk needs a former key.
    ///
    /// # Errors
    /// As [`Manager::rotate_dek`].
    pub async fn retire_deks(&self) -> Result<(), RotateError> {
        self.engine.retire_deks().await
    }

    /// Who leads, as this manager knows it.
    pub fn leader(&self) -> watch::Receiver<Leader> {
        self.engine.leader()
    }

    /// The members of the Raft group, learners included; whether one is reachable is
    /// known to the leader alone.
    pub fn members(&self) -> Vec<MemberView> {
        self.engine.members()
    }

    /// What is wrong with this manager's clock, as far as it knows.
    pub fn clock_trouble(&self) -> Option<String> {
        match self.engine.has_right_time() {
            Some(false) => Some(CLOCK_OFF.to_owned()),
            _ => self.core.group.time().set_back(),
        }
    }

    /// Entries of the log that are not applied yet.
    pub fn lag(&self) -> u64 {
        self.engine.lag()
    }

    /// Hands the leadership over, to the voter that has most of the log if none is named.
    /// Returns once another leads.
    ///
    /// # Errors
    /// [`MembershipError`]; this manager leads as before, or none does for a moment.
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<(), MembershipError> {
        self.engine.transfer_leadership(to).await
    }

    /// Takes a member out of the Raft group; the leader only others.
    ///
    /// # Errors
    /// [`MembershipError`].
    pub async fn remove_member(&self, raft_id: u64) -> Result<(), MembershipError> {
        self.engine.remove_member(raft_id).await
    }

    /// Looks for another manager at an address that the membership does not know: after
    /// all have moved, one address given to each is enough.
    ///
    /// # Errors
    /// [`MembershipError`]: nobody is there, or no member.
    pub async fn add_peer(&self, addr: &str) -> Result<(), MembershipError> {
        self.engine.add_peer(addr, &self.core.advertise_addr).await
    }

    /// Where others reach it, `host:port`.
    pub fn advertise_addr(&self) -> &str {
        &self.core.advertise_addr
    }

    /// Completes when the manager stops: with the cause if it did so by itself,
    /// as its log cannot be written any more or the engine ended. Does not hold
    /// the manager.
    pub fn failure(&self) -> impl Future<Output = Option<Arc<Failure>>> + Send + use<> {
        let Engine {
            raft, log, monitor, ..
        } = self.engine.clone();
        let metrics = raft.metrics();
        let stopped = self.stopped.clone();
        async move {
            let failure = tokio::select! {
                biased;
                () = stopped.cancelled() => return None,
                // The engine ends of it too, with fewer words.
                cause = log.failed() => Failure::Store(cause),
                failure = monitor.engine_failed(metrics) => failure,
            };
            Some(Arc::new(failure))
        }
    }

    /// Ends sessions, stops the services, lets the log reach the disk: nothing of
    /// it is written to after that. Later than `deadline` only if the disk is. A second
    /// call has nothing to do.
    pub async fn shutdown(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        // 0. Another leads, if there is one: nobody waits for an election then.
        if matches!(&*self.engine.leader.borrow(), Leader::Me { .. }) && !self.engine.is_alone() {
            let transfer = self.engine.transfer_leadership(None);
            match timeout(deadline / HAND_OVER_SHARE, transfer).await {
                Ok(Ok(())) => {}
                other => tracing::debug!(?other, "no other manager took over"),
            }
        }
        // 1. What would not end by itself: sessions, readers of logs, held calls.
        self.stopped.cancel();
        // 2. Calls under way.
        let listening = self.listening().take();
        if let Some(listening) = listening {
            listening.shutdown(deadline.min(DRAIN)).await;
        }
        // 3. The engine and all that is left. What writes to the directory is waited for,
        //    whatever the time: callers replace its keys, or remove it.
        let mut stopping = pin!(self.engine.stop());
        if timeout_at(until, &mut stopping).await.is_err() {
            tracing::warn!("the log is not closed in time; it is waited for");
            stopping.await;
        }
        self.ended.cancel();
        self.tasks.close();
        if timeout_at(until, self.tasks.wait()).await.is_err() {
            tracing::warn!("tasks of the manager did not end in time");
        }
    }
}

/// Opens the log and starts the engine on it.
async fn open_engine(
    disk: Arc<dyn Disk>,
    config: &ManagerConfig,
    forced: bool,
) -> Result<(Engine, Arc<RwLock<State>>), StartError> {
    let vault: Arc<dyn Vault> = Arc::new(PageVault::new()?);
    let options = StoreOptions {
        disk,
        ..StoreOptions::new(&config.dir, config.owner.clone(), config.deks.clone())
    };
    let monitor = Monitor::default();
    let (changes, watched) = (config.changes.clone(), monitor.clone());
    let level = config.feature_level();
    let opening = move || {
        let opened = waxseal_raft_store::open(options)?;
        let machine = StateMachine::open(opened.snapshots.clone(), vault, changes, watched, level)?;
        Ok::<_, StartError>((opened, machine))
    };
    // The thread waits for other work with what it read last in its registers.
    let opening = move || {
        let opened = opening();
        scrub_registers();
        opened
    };
    let (opened, machine) = tokio::task::spawn_blocking(opening)
        .await
        .map_err(|_| StoreError::Stopped)??;
    let state = machine.state();
    let log = opened.log.clone();
    let alone = forced.then(|| Member {
        node_id: config.owner.node_id.clone(),
        addr: config.advertise_addr.clone(),
    });
    let peers = Peers::new(Arc::clone(&config.tls));
    let (known, clock) = (Arc::clone(&state), Arc::clone(&config.clock));
    peers.call_only(move |manager| {
        let state = known.read().unwrap_or_else(PoisonError::into_inner);
        authorize::check_certificate(&state, clock.now(), manager).is_ok()
    });
    match Engine::start(
        &config.owner,
        alone,
        peers,
        opened.log,
        opened.snapshots,
        machine,
        monitor,
    )
    .await
    {
        Ok(engine) => Ok((engine, state)),
        Err(error) => {
            // The cause is in the error; the directory must be free again.
            let _ = log.close().await;
            Err(error)
        }
    }
}

/// Makes this manager the only member of a new log.
async fn found(engine: &Engine, config: &ManagerConfig) -> Result<(), StartError> {
    let member = Member {
        node_id: config.owner.node_id.clone(),
        addr: config.advertise_addr.clone(),
    };
    let members = std::collections::BTreeMap::from([(config.owner.raft_id, member)]);
    engine.raft.initialize(members).await.map_err(refused)
}

/// Parts this cluster from the one that its other managers may go on with.
async fn raise_incarnation(core: &Core, engine: &Engine) -> Result<(), StartError> {
    let cluster = core.read(|state| state.cluster().cloned());
    let Some(cluster) = cluster else {
        return Err(refused("there is no cluster in the log of this manager"));
    };
    let incarnation = cluster.incarnation + 1;
    let update = UpdateCluster {
        cluster: Some(Cluster {
            incarnation,
            ..(*cluster).clone()
        }),
        expected_version: 0,
    };
    core.propose(component("force-new-cluster"), Op::UpdateCluster(update))
        .await
        .map_err(StartError::Bootstrap)?;
    engine.me.learn_incarnation(incarnation);
    tracing::warn!(incarnation, "this manager is the only one of its swarm now");
    Ok(())
}

/// Starts what runs on every manager.
fn keep(
    config: &ManagerConfig,
    lead: &Lead,
    time: Arc<Timekeeper>,
    tasks: &TaskTracker,
    ended: &CancellationToken,
) {
    let Lead {
        core,
        engine,
        connections,
        changes,
        stopped,
        ..
    } = lead;
    let guard = Guard {
        core: Arc::clone(core),
        tls: Arc::clone(&config.tls),
        engine: engine.clone(),
        connections: connections.clone(),
        stopped: stopped.clone(),
    };
    guard.learn();
    tasks.spawn(guard.clone().follow(changes.subscribe()));
    tasks.spawn(guard::announce(guard, changes.clone()));
    let keeping = engine
        .clone()
        .keep_snapshots(Arc::clone(core), stopped.clone());
    tasks.spawn(keeping);
    // A leader stays one until calls under way have ended.
    tasks.spawn(engine.clone().keep_leadership(time, ended.clone()));
    let clock = Arc::clone(&config.clock);
    tasks.spawn(engine.clone().keep_beating(clock, ended.clone()));
    tasks.spawn(engine.clone().keep_electing(stopped.clone()));
    tasks.spawn(engine.clone().keep_pace(stopped.clone()));
    let addr = config.advertise_addr.clone();
    tasks.spawn(engine.clone().keep_address(addr, stopped.clone()));
}

/// The actor for commands of one of the daemon's own parts.
pub fn component(name: &str) -> Actor {
    Actor {
        who: Some(actor::Who::Component(name.to_owned())),
    }
}
