//! The manager's seat on this node: vacant on a worker, taken at a promotion, left at a demotion.

use std::{
    sync::{
        Arc, Mutex as StdMutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures::future::BoxFuture;
use tokio::sync::{Mutex, Notify, watch};
use tokio_util::sync::CancellationToken;
use waxseal_agent::{OwnAuthority, OwnChain};
use waxseal_autolock::{Dek, DekRing, Owner};
use waxseal_ca::{LiveTls, Role};
use waxseal_manager::{Leader, Manager, ManagerConfig, Start};

use crate::{
    daemon::Shared,
    enter::{Standing, standing},
    keys::Keys,
    member::{Begin, KeyKeeper, MemberError},
    node_file::NodeFile,
    text::chain_text,
};

/// Pause before a manager that did not start is tried again; doubles with each failure.
const RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How often it is looked whether the manager has a leader; after [`PATIENCE`] looks
/// without one the others are asked what they think of it.
const LOOK: Duration = Duration::from_secs(1);
const PATIENCE: u32 = 3;

/// Where this node's manager runs, while it has one.
pub(crate) struct Seat {
    shared: Arc<Shared>,
    tls: Arc<LiveTls>,
    /// What readers see.
    manager: ArcSwapOption<Manager>,
    /// A manager has started.
    taken: Notify,
    /// Held while a manager starts or stops.
    turn: Mutex<()>,
    /// Why the last start failed.
    trouble: StdMutex<Option<String>>,
    /// The cluster goes on without this manager and does not wait for it.
    left_behind: AtomicBool,
    /// Set once, when a manager ended by itself: the node cannot go on.
    failed: watch::Sender<Option<String>>,
    /// Ends what waits for a manager's failure.
    stopped: CancellationToken,
}

impl Seat {
    /// A vacant seat.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        tls: &Arc<LiveTls>,
        stopped: CancellationToken,
    ) -> Seat {
        Seat {
            shared: Arc::clone(shared),
            tls: Arc::clone(tls),
            manager: ArcSwapOption::empty(),
            taken: Notify::new(),
            turn: Mutex::default(),
            trouble: StdMutex::default(),
            left_behind: AtomicBool::new(false),
            failed: watch::Sender::new(None),
            stopped,
        }
    }

    /// The manager that runs.
    pub(crate) fn manager(&self) -> Option<Arc<Manager>> {
        self.manager.load_full()
    }

    /// Whether the certificate says manager, whether one runs or not.
    pub(crate) fn is_managers(&self) -> bool {
        let identity = self.tls.identity();
        identity.is_some_and(|identity| identity.role == Role::Manager)
    }

    /// Why no manager runs although one should.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.lock_trouble().clone()
    }

    /// Whether the cluster was made anew without this manager.
    pub(crate) fn is_left_behind(&self) -> bool {
        self.left_behind.load(Ordering::Relaxed)
    }

    fn lock_trouble(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a manager, unless one runs.
    ///
    /// # Errors
    /// [`MemberError`]; the seat stays vacant.
    pub(crate) async fn take(&self, keys: &KeyKeeper, begin: Begin) -> Result<(), MemberError> {
        let _turn = self.turn.lock().await;
        if self.manager().is_some() {
            return Ok(());
        }
        let start = match begin {
            Begin::Manager(start) => start,
            // As the files say now: what they said before this turn may be over.
            Begin::Resume => keys.start_of_manager().await?,
        };
        self.fill(keys, start).await
    }

    /// Stops the manager, lets `prepare` change what the next one finds, and starts
    /// that one.
    ///
    /// # Errors
    /// [`MemberError`]; the seat is vacant, and taken again on the log as it is.
    pub(crate) async fn retake(
        &self,
        keys: &KeyKeeper,
        start: Start,
        prepare: impl FnOnce() -> Result<(), MemberError>,
    ) -> Result<(), MemberError> {
        let _turn = self.turn.lock().await;
        self.clear().await;
        prepare()?;
        self.fill(keys, start).await
    }

    async fn fill(&self, keys: &KeyKeeper, start: Start) -> Result<(), MemberError> {
        let started = self.start(keys, start).await;
        *self.lock_trouble() = started.as_ref().err().map(|error| chain_text(error));
        let manager = Arc::new(started?);
        let (failure, failed) = (manager.failure(), self.failed.clone());
        let stopped = self.stopped.clone();
        tokio::spawn(async move {
            let cause = stopped.run_until_cancelled(failure).await.flatten();
            if let Some(cause) = cause {
                failed.send_replace(Some(chain_text(&*cause)));
            }
        });
        self.manager.store(Some(manager));
        self.taken.notify_one();
        Ok(())
    }

    async fn start(&self, keys: &KeyKeeper, start: Start) -> Result<Manager, MemberError> {
        let file = self.shared.node_file()?;
        let config = keys
            .with(|keys| manager_config(&self.shared, keys, &file, &self.tls))
            .await?;
        let disk = Arc::clone(&self.shared.config.disk);
        let manager = Manager::start_on(disk, config, start).await?;
        if let Err(error) = keys.entered(&manager) {
            manager.shutdown(self.shared.config.shutdown_timeout).await;
            return Err(error.into());
        }
        Ok(manager)
    }

    /// Stops the manager, if one runs: nothing reads or writes its log after this.
    pub(crate) async fn vacate(&self) {
        let _turn = self.turn.lock().await;
        self.clear().await;
    }

    async fn clear(&self) {
        // No reader holds it longer than its call.
        let manager = self.manager.swap(None);
        *self.lock_trouble() = None;
        if let Some(manager) = manager {
            manager.shutdown(self.shared.config.shutdown_timeout).await;
        }
    }

    /// Completes when a manager has started since it was last waited for.
    pub(crate) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Completes when a manager ended by itself, with the cause.
    pub(crate) fn failure(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let mut failed = self.failed.subscribe();
        async move {
            let cause = failed.wait_for(Option::is_some).await.ok()?;
            cause.clone()
        }
    }
}

impl OwnAuthority for Seat {
    fn certify<'a>(
        &'a self,
        csr_pem: &'a str,
    ) -> BoxFuture<'a, Option<Result<OwnChain, tonic::Status>>> {
        Box::pin(async move {
            let manager = self.manager()?;
            let certified = manager.certify_self(csr_pem.as_bytes()).await?;
            Some(certified.map(|own| OwnChain {
                chain_pem: own.chain_pem,
                root_pem: own.root_pem,
            }))
        })
    }
}

/// Makes the seat follow the certificate: what a renewal brought decides.
pub(crate) struct RoleFollower {
    pub(crate) seat: Arc<Seat>,
    pub(crate) keys: Arc<KeyKeeper>,
    /// The agent's count of renewals.
    pub(crate) renewed: watch::Receiver<u64>,
    pub(crate) stopped: CancellationToken,
}

impl RoleFollower {
    pub(crate) async fn run(mut self) {
        let mut pause = RETRY;
        let mut leaderless = 0;
        loop {
            self.renewed.mark_unchanged();
            let failed = match self.step(&mut leaderless).await {
                Ok(()) => false,
                Err(error) => {
                    let error = chain_text(&error);
                    tracing::warn!(%error, "this node's manager does not run; it is tried again");
                    true
                }
            };
            let retry = async move {
                match failed {
                    true => tokio::time::sleep(pause).await,
                    false => tokio::time::sleep(LOOK).await,
                }
            };
            tokio::select! {
                changed = self.renewed.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pause = RETRY;
                }
                () = retry => pause = match failed {
                    true => (pause * 2).min(LONGEST_RETRY),
                    false => RETRY,
                },
                () = self.stopped.cancelled() => return,
            }
        }
    }

    async fn step(&self, leaderless: &mut u32) -> Result<(), MemberError> {
        match (self.seat.is_managers(), self.seat.manager()) {
            (true, None) => {
                self.seat.take(&self.keys, Begin::Resume).await?;
            }
            // The certificate was replaced by a worker's with the manager stopped first.
            (false, Some(_)) => self.seat.vacate().await,
            (true, Some(manager)) => {
                if *manager.leader().borrow() == Leader::None {
                    *leaderless = leaderless.saturating_add(1);
                } else {
                    *leaderless = 0;
                    self.seat.left_behind.store(false, Ordering::Relaxed);
                }
                if *leaderless >= PATIENCE {
                    *leaderless = 0;
                    self.ask_the_others(&manager).await?;
                }
            }
            (false, None) => {}
        }
        Ok(())
    }

    /// A manager without a leader may be one that the others took out of the group, as
    /// when it was demoted and promoted again before it took note.
    async fn ask_the_others(&self, manager: &Manager) -> Result<(), MemberError> {
        let own = self.keys.identity_among(manager).await?;
        let Some((raft_id, incarnation, others)) = own else {
            return Ok(());
        };
        let standing = standing(&others, &self.seat.tls, raft_id, incarnation).await;
        let left_behind = &self.seat.left_behind;
        match standing {
            Standing::Unknown => {}
            Standing::Member => left_behind.store(false, Ordering::Relaxed),
            Standing::LeftBehind => {
                if !left_behind.swap(true, Ordering::Relaxed) {
                    tracing::warn!(
                        "the swarm was made anew without this manager; run `docker swarm leave \
                         --force` on it and join it again"
                    );
                }
            }
            Standing::Removed => {
                tracing::info!("this manager was taken out of the group and becomes a new member");
                self.keys.void_membership().await?;
                return Box::pin(self.step(&mut 0)).await;
            }
        }
        Ok(())
    }
}

/// What a manager is started with.
fn manager_config(
    shared: &Arc<Shared>,
    keys: &Keys,
    node_file: &NodeFile,
    tls: &Arc<LiveTls>,
) -> Result<ManagerConfig, MemberError> {
    let raft = keys.file().raft.as_ref().ok_or(MemberError::NoRaftKeys)?;
    let listen = node_file
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
        dir: shared.raft_dir(),
        listen,
        advertise_addr: node_file.advertise_addr.clone(),
        tls: Arc::clone(tls),
        clock: Arc::clone(&shared.clock),
        changes: shared.changes.clone(),
        allow_tls12: shared.config.allow_tls12,
        danger_certificate_expiry: shared.config.danger_certificate_expiry,
        danger_feature_level: shared.config.danger_feature_level,
    })
}
