//! The daemon: the local node's state, and what moves it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::{
    sync::{Mutex, broadcast, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use waxseal_agent::{Executor, Found, HostFacts, ManagerAddress};
use waxseal_api::{ClusterError, DaemonInfo};
use waxseal_autolock::{LockEvent, LockState, OpenError, UnlockKey};
use waxseal_ca::{Clock, TrustError};
use waxseal_cluster::ChangeRecord;
use waxseal_manager::Manager;
use zeroize::Zeroizing;

use crate::{
    config::DaemonConfig,
    data_root::{DataRoot, NODE_FILE},
    join::given_up,
    keys::{Keys, KeysError},
    member::{Begin, Member, MemberError},
    node_file::{NodeFile, NodeFileError, Phase},
    seat::Seat,
    text::chain_text,
};

/// Changes that a slow follower may be behind before it is told that it lost some.
const CHANGE_BACKLOG: usize = 4096;
/// How long a caller of join waits; the join itself goes on (spec/engine-api.md §5.2).
const JOIN_WAIT: Duration = Duration::from_secs(20);
/// Pause after a wrong unlock key.
const UNLOCK_PAUSE: Duration = Duration::from_secs(1);

/// What the text of state `locked` says, as clients know it.
pub(crate) const LOCKED_TEXT: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";

/// What the daemon's parts share.
pub(crate) struct Shared {
    pub(crate) config: DaemonConfig,
    pub(crate) root: DataRoot,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) changes: broadcast::Sender<ChangeRecord>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) facts: HostFacts,
    pub(crate) info: DaemonInfo,
    /// Held while `node.pb` is read and replaced: the agent and the transitions
    /// both write it.
    node_file: StdMutex<()>,
}

impl Shared {
    pub(crate) fn node_file_path(&self) -> PathBuf {
        self.root.swarm().join(NODE_FILE)
    }

    /// Replaces `node.pb`.
    pub(crate) fn write_node_file(&self, file: &NodeFile) -> Result<(), NodeFileError> {
        let _held = self
            .node_file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        file.write(&*self.config.disk, &self.node_file_path())
    }

    /// Reads `node.pb` of a member.
    pub(crate) fn node_file(&self) -> Result<NodeFile, NodeFileError> {
        let path = self.node_file_path();
        let gone = |path| NodeFileError::Io {
            path,
            source: std::io::ErrorKind::NotFound.into(),
        };
        NodeFile::read(&path)?.ok_or_else(|| gone(path))
    }

    /// Where a manager's log is.
    pub(crate) fn raft_dir(&self) -> PathBuf {
        self.root.swarm().join("raft")
    }

    /// Removes a manager's log.
    pub(crate) fn clear_raft_dir(&self) -> Result<(), MemberError> {
        let path = self.raft_dir();
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(MemberError::FormerLog { path, source })
            }
            _ => Ok(()),
        }
    }

    /// Changes `node.pb`, if there is one.
    pub(crate) fn change_node_file(
        &self,
        change: impl FnOnce(&mut NodeFile),
    ) -> Result<(), NodeFileError> {
        let _held = self
            .node_file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let path = self.node_file_path();
        let Some(mut file) = NodeFile::read(&path)? else {
            return Ok(());
        };
        change(&mut file);
        file.write(&*self.config.disk, &path)
    }
}

/// A daemon; the API's [`Cluster`](waxseal_api::Cluster).
pub struct Daemon {
    pub(crate) shared: Arc<Shared>,
    /// Held by init, join, leave, unlock: one at a time.
    control: Mutex<Control>,
    /// What readers see; replaced whole at each transition.
    view: ArcSwap<View>,
    unlock_failed: StdMutex<Option<tokio::time::Instant>>,
    pub(crate) stopped: CancellationToken,
}

/// The local node.
enum Control {
    Inactive,
    /// A join under way; ends by itself or when told.
    Joining {
        cancel: CancellationToken,
        task: JoinHandle<()>,
    },
    Member(Box<Member>),
    /// The tasks that run on are held, so that their shims know of a daemon.
    Locked {
        _tasks: Vec<Found>,
    },
    Error,
}

/// What readers see of [`Control`].
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) state: LockState,
    pub(crate) error: String,
    pub(crate) expired: bool,
    pub(crate) node_id: String,
    pub(crate) node_addr: String,
    pub(crate) seat: Option<Arc<Seat>>,
    pub(crate) agent: Option<tokio::sync::watch::Receiver<waxseal_agent::AgentStatus>>,
    pub(crate) tls: Option<Arc<waxseal_ca::LiveTls>>,
    pub(crate) remotes: Vec<(String, String)>,
}

impl View {
    /// The manager that runs.
    pub(crate) fn manager(&self) -> Option<Arc<Manager>> {
        self.seat.as_ref()?.manager()
    }

    /// Whether this node is a manager, whether one runs or not.
    pub(crate) fn is_managers(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.is_managers())
    }

    fn bare(state: LockState) -> View {
        View {
            state,
            error: String::new(),
            expired: false,
            node_id: String::new(),
            node_addr: String::new(),
            seat: None,
            agent: None,
            tls: None,
            remotes: Vec::new(),
        }
    }
}

/// Why a node that is part of a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BeginError {
    #[error(transparent)]
    NodeFile(#[from] NodeFileError),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Member(#[from] MemberError),
}

impl BeginError {
    /// Whether the unlock key helps.
    fn needs_key(&self) -> bool {
        matches!(
            self,
            BeginError::Keys(KeysError::Open {
                source: OpenError::Locked(_) | OpenError::WrongKey(_),
                ..
            })
        )
    }

    fn is_expired(&self) -> bool {
        matches!(
            self,
            BeginError::Keys(KeysError::Root {
                source: TrustError::Expired { .. },
                ..
            })
        )
    }
}

impl Daemon {
    /// A daemon whose node has not been looked at; see [`Daemon::resume`].
    pub(crate) fn new(shared: Arc<Shared>, stopped: CancellationToken) -> Arc<Daemon> {
        Arc::new(Daemon {
            shared,
            control: Mutex::new(Control::Inactive),
            view: ArcSwap::from_pointee(View::bare(LockState::Inactive)),
            unlock_failed: StdMutex::default(),
            stopped,
        })
    }

    pub(crate) fn shared_parts(
        config: DaemonConfig,
        root: DataRoot,
        clock: Arc<dyn Clock>,
        executor: Arc<dyn Executor>,
        facts: HostFacts,
        info: DaemonInfo,
    ) -> Arc<Shared> {
        let (changes, _) = broadcast::channel(CHANGE_BACKLOG);
        Arc::new(Shared {
            config,
            root,
            clock,
            changes,
            executor,
            facts,
            info,
            node_file: StdMutex::default(),
        })
    }

    /// Takes up what the data root holds.
    pub(crate) async fn resume(self: &Arc<Daemon>) {
        let mut control = self.control.lock().await;
        // The API answers already: an init or join may have come first.
        if !matches!(*control, Control::Inactive) {
            return;
        }
        self.take_up(&mut control).await;
    }

    /// Once more, if nobody did anything about it meanwhile.
    pub(crate) async fn resume_failed(self: &Arc<Daemon>) {
        let mut control = self.control.lock().await;
        if matches!(*control, Control::Error) {
            self.take_up(&mut control).await;
        }
    }

    async fn take_up(self: &Arc<Daemon>, control: &mut Control) {
        let path = self.shared.node_file_path();
        let file = match NodeFile::read(&path) {
            Ok(None) => return self.check_empty(control),
            Ok(Some(file)) if file.phase() == Phase::Joining => {
                // An init or join that did not end: nobody was told that it did.
                tracing::info!("an interrupted init or join is undone");
                if let Err(error) = self.shared.root.clear_swarm() {
                    tracing::error!(%error, "its files could not be removed");
                }
                return;
            }
            Ok(Some(file)) => file,
            Err(error) => return self.failed(control, &error.into(), ""),
        };
        self.moved(LockEvent::Begin);
        self.begin(control, file, None).await;
    }

    /// Without `node.pb` there must be nothing: what is there is not ours to remove.
    fn check_empty(&self, control: &mut Control) {
        let swarm = self.shared.root.swarm();
        let cause = match self.shared.root.has_swarm() {
            Ok(false) => return,
            Ok(true) => format!(
                "{} holds cluster state but no {NODE_FILE}; restore it from a backup, or remove \
                 the state with `docker swarm leave --force`",
                swarm.display()
            ),
            Err(error) => format!("{} cannot be read: {error}", swarm.display()),
        };
        self.failed_with(control, cause, false, "");
    }

    /// Starts the member that the files describe; the state says how it went.
    async fn begin(
        self: &Arc<Daemon>,
        control: &mut Control,
        file: NodeFile,
        unlock_key: Option<UnlockKey>,
    ) {
        let addr = host_of(&file.advertise_addr);
        match self.member_from_files(file, unlock_key).await {
            Ok(member) => self.became_member(control, member),
            Err(error) if error.needs_key() => {
                *control = Control::Locked {
                    _tasks: self.adopt_tasks().await,
                };
                self.set_view(View {
                    error: LOCKED_TEXT.to_owned(),
                    node_addr: addr,
                    ..View::bare(self.after(LockEvent::KeyNeeded))
                });
                tracing::warn!(
                    "this manager is locked; run `docker swarm unlock` or `waxseal unlock`"
                );
            }
            Err(error) => self.failed(control, &error, &addr),
        }
    }

    async fn member_from_files(
        self: &Arc<Daemon>,
        mut file: NodeFile,
        unlock_key: Option<UnlockKey>,
    ) -> Result<Member, BeginError> {
        let now = self.shared.clock.now();
        let disk = &self.shared.config.disk;
        let keys = Keys::open(disk, &self.shared.root.swarm(), unlock_key)?;
        let trust = keys.trust(now)?;
        let credentials = keys.credentials(&trust, now)?;
        if let Some(addresses) = crate::enter::addresses_now(&self.shared, &file) {
            let (listen, advertise) = (addresses.listen, addresses.advertise);
            tracing::info!(%advertise, former = %file.advertise_addr, "this host has another address");
            file.listen_addr = listen.to_string();
            file.advertise_addr = advertise.to_string();
            self.shared.write_node_file(&file)?;
        }
        Ok(Member::start(&self.shared, keys, file, trust, credentials, Begin::Resume).await?)
    }

    fn became_member(self: &Arc<Daemon>, control: &mut Control, member: Member) {
        let view = View {
            node_id: member.node_file.node_id.clone(),
            node_addr: host_of(&member.node_file.advertise_addr),
            seat: Some(Arc::clone(&member.seat)),
            agent: Some(member.status()),
            tls: Some(Arc::clone(&member.tls)),
            ..View::bare(self.after(LockEvent::Ready))
        };
        self.watch_seat(&member.seat);
        self.set_view(view);
        *control = Control::Member(Box::new(member));
    }

    /// A manager whose log fails stops the node with the cause.
    fn watch_seat(self: &Arc<Daemon>, seat: &Arc<Seat>) {
        let daemon = Arc::downgrade(self);
        let failed = seat.failure();
        let seat = Arc::downgrade(seat);
        tokio::spawn(async move {
            let Some(cause) = failed.await else { return };
            let Some(daemon) = daemon.upgrade() else {
                return;
            };
            let mut control = daemon.control.lock().await;
            // Left, or left and joined anew, meanwhile: not this member's business.
            let is_same = matches!(
                &*control,
                Control::Member(member) if seat.as_ptr() == Arc::as_ptr(&member.seat)
            );
            if !is_same {
                return;
            }
            let addr = daemon.view().node_addr.clone();
            let failed = std::mem::replace(&mut *control, Control::Error);
            daemon.failed_with(&mut control, cause, false, &addr);
            if let Control::Member(member) = failed {
                member.stop(false).await;
            }
        });
    }

    fn failed(self: &Arc<Daemon>, control: &mut Control, error: &BeginError, addr: &str) {
        let expired = error.is_expired();
        self.failed_with(control, chain_text(error), expired, addr);
        self.resume_when_clock_is_set();
    }

    fn failed_with(&self, control: &mut Control, cause: String, expired: bool, addr: &str) {
        tracing::error!(error = %cause, "the node does not run");
        *control = Control::Error;
        // From inactive, a node file that cannot be read leads straight to error.
        let state = self
            .view()
            .state
            .after(LockEvent::Fail)
            .unwrap_or(LockState::Error);
        self.set_view(View {
            error: cause,
            expired,
            node_addr: addr.to_owned(),
            ..View::bare(state)
        });
    }

    /// Creates a cluster with this node as its first manager.
    pub(crate) async fn create(
        self: &Arc<Daemon>,
        request: waxseal_api::InitRequest,
    ) -> Result<String, ClusterError> {
        let mut control = self.control.lock().await;
        match *control {
            Control::Inactive => {}
            Control::Member(ref mut member)
                if request.force_new_cluster && member.seat.is_managers() =>
            {
                let node_id = member.force_new_cluster(&self.shared, &request).await?;
                self.set_view(View {
                    node_addr: host_of(&member.node_file.advertise_addr),
                    ..self.view().as_ref().clone()
                });
                return Ok(node_id);
            }
            Control::Locked { .. } if request.force_new_cluster => {
                return Err(ClusterError::Locked);
            }
            _ if request.force_new_cluster => return Err(ClusterError::NotManager),
            _ => return Err(ClusterError::AlreadyInSwarm),
        }
        let plan = crate::found::plan(&self.shared, request)?;
        self.moved(LockEvent::Begin);
        let started = crate::found::found(&self.shared, plan).await;
        match started {
            Ok(member) => {
                let node_id = member.node_file.node_id.clone();
                self.became_member(&mut control, member);
                Ok(node_id)
            }
            Err(error) => {
                self.undo();
                Err(error)
            }
        }
    }

    /// Joins a cluster; goes on behind the caller's back after [`JOIN_WAIT`].
    pub(crate) async fn join_cluster(
        self: &Arc<Daemon>,
        request: waxseal_api::JoinRequest,
    ) -> Result<(), ClusterError> {
        let cancel = self.stopped.child_token();
        let mut control = self.control.lock().await;
        if !matches!(*control, Control::Inactive) {
            return Err(ClusterError::AlreadyInSwarm);
        }
        let remotes = request
            .remote_addrs
            .iter()
            .map(|addr| (String::new(), addr.clone()));
        let view = View {
            remotes: remotes.collect(),
            node_addr: crate::join::local_address(&request.remote_addrs),
            ..View::bare(self.after(LockEvent::Begin))
        };
        self.set_view(view);
        let (done, outcome) = oneshot::channel();
        let (daemon, told) = (Arc::clone(self), cancel.clone());
        let task = tokio::spawn(async move {
            let joined = crate::join::join(&daemon.shared, request, &told).await;
            let ended = daemon.join_ended(&told, joined, &done).await;
            // Whoever asked may have stopped waiting.
            let _ = done.send(ended);
        });
        *control = Control::Joining { cancel, task };
        drop(control);
        match tokio::time::timeout(JOIN_WAIT, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(given_up()),
            Err(_) => Err(ClusterError::JoinTimeout),
        }
    }

    /// Takes over what a join gave. Whoever told it to end holds the control lock
    /// and waits for this, so the lock is not waited for then.
    async fn join_ended(
        self: &Arc<Daemon>,
        told: &CancellationToken,
        joined: Result<Member, ClusterError>,
        asked: &oneshot::Sender<Result<(), ClusterError>>,
    ) -> Result<(), ClusterError> {
        let control = tokio::select! {
            biased;
            () = told.cancelled() => None,
            control = self.control.lock() => Some(control),
        };
        match (control, joined) {
            (Some(mut control), Ok(member)) => {
                // A manager that asks on to be taken in is told of like one that is slow.
                let goes_on = member.seat.is_managers() && member.seat.manager().is_none();
                self.became_member(&mut control, member);
                match goes_on {
                    true => Err(ClusterError::JoinTimeout),
                    false => Ok(()),
                }
            }
            (Some(mut control), Err(error)) if asked.is_closed() => {
                // Whoever asked was told to look at the node's status for the outcome.
                let addr = self.view().node_addr.clone();
                self.clear_files();
                self.failed_with(&mut control, chain_text(&error), false, &addr);
                Err(error)
            }
            (Some(mut control), Err(error)) => {
                *control = Control::Inactive;
                self.undo();
                Err(error)
            }
            (None, Ok(member)) => {
                member.stop(false).await;
                Err(given_up())
            }
            (None, Err(_)) => Err(given_up()),
        }
    }

    /// Leaves the cluster: nothing of it stays.
    pub(crate) async fn leave_cluster(&self, force: bool) -> Result<(), ClusterError> {
        let mut control = self.control.lock().await;
        match &*control {
            Control::Inactive => return Err(ClusterError::NotInSwarm),
            Control::Locked { .. } if !force => {
                return Err(ClusterError::LeaveRefused(LEAVE_LOCKED.to_owned()));
            }
            Control::Member(member) if member.seat.is_managers() && !force => {
                return Err(crate::leave::refusal(member.seat.manager().as_deref()));
            }
            Control::Member(member) => {
                if let Some(manager) = member.seat.manager() {
                    crate::leave::farewell(&manager, &member.node_file.node_id).await;
                }
            }
            _ => {}
        }
        // What is interrupted from here on is undone at the next start.
        let undone = self
            .shared
            .change_node_file(|file| file.phase = Phase::Joining.into());
        if let Err(error) = undone {
            tracing::warn!(%error, "node.pb cannot be read; its directory is removed all the same");
        }
        let left = std::mem::replace(&mut *control, Control::Inactive);
        // No reader holds the manager longer than its call.
        self.set_view(View::bare(self.after(LockEvent::Leave)));
        match left {
            Control::Joining { cancel, task } => {
                give_up(cancel, task).await;
                self.remove_tasks().await;
            }
            Control::Member(member) => {
                member.stop(true).await;
            }
            Control::Inactive | Control::Locked { .. } | Control::Error => {
                self.remove_tasks().await;
            }
        }
        self.shared.root.clear_swarm().map_err(|error| {
            ClusterError::Internal(format!("the cluster's files could not be removed: {error}"))
        })
    }

    /// Opens a locked manager.
    pub(crate) async fn unlock_with(
        self: &Arc<Daemon>,
        key: Zeroizing<String>,
    ) -> Result<(), ClusterError> {
        let mut control = self.control.lock().await;
        match &*control {
            Control::Locked { .. } => {}
            Control::Inactive => return Err(ClusterError::NotInSwarm),
            Control::Member(member) if member.seat.is_managers() => {
                return Err(ClusterError::NotLocked);
            }
            _ => return Err(ClusterError::NotManager),
        }
        let key = UnlockKey::parse(&key).map_err(|_| ClusterError::MalformedUnlockKey)?;
        // One try at a time (the lock), and none within a second of a failed one.
        let failed = *self
            .unlock_failed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = failed {
            tokio::time::sleep_until(failed + UNLOCK_PAUSE).await;
        }
        let file = NodeFile::read(&self.shared.node_file_path())
            .map_err(|error| ClusterError::Internal(chain_text(&error)))?
            .ok_or_else(|| ClusterError::Internal("node.pb is gone".to_owned()))?;
        let locked = self.view();
        self.moved(LockEvent::Unlock);
        match self.member_from_files(file, Some(key)).await {
            Ok(member) => {
                self.became_member(&mut control, member);
                Ok(())
            }
            Err(error) => {
                // Stays locked: another key, or another try, may do.
                self.view.store(locked);
                if error.needs_key() {
                    let now = tokio::time::Instant::now();
                    *self
                        .unlock_failed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner) = Some(now);
                    return Err(ClusterError::WrongUnlockKey);
                }
                let cause = chain_text(&error);
                Err(ClusterError::Internal(format!(
                    "swarm component could not be started: {cause}"
                )))
            }
        }
    }

    /// Has this node's agent know one more address of a manager, also after a restart.
    pub(crate) async fn know_manager(&self, addr: String) -> Result<(), ClusterError> {
        let control = self.control.lock().await;
        let Control::Member(member) = &*control else {
            return Ok(());
        };
        let mut managers = member.status().borrow().managers.clone();
        if managers.iter().all(|known| known.address != addr) {
            managers.push(ManagerAddress::from_address(addr));
            let kept = managers.iter().map(Into::into).collect();
            self.shared
                .change_node_file(|file| file.managers = kept)
                .map_err(|error| ClusterError::Internal(chain_text(&error)))?;
            member.agent.use_managers(managers);
        }
        Ok(())
    }

    /// Makes the key file follow the cluster object, now.
    pub(crate) async fn follow_key(&self) -> Result<(), ClusterError> {
        let (keys, manager) = {
            let control = self.control.lock().await;
            let Control::Member(member) = &*control else {
                return Ok(());
            };
            let Some(manager) = member.seat.manager() else {
                return Ok(());
            };
            (Arc::clone(&member.keys), manager)
        };
        keys.follow(&manager).await.map_err(|error| {
            ClusterError::Storage(format!(
                "the unlock key changed, but this manager's key file could not be rewritten: {}; \
                 it is tried again",
                chain_text(&error)
            ))
        })
    }

    /// The tasks that an earlier daemon left running.
    async fn adopt_tasks(&self) -> Vec<Found> {
        match self.shared.executor.adopt().await {
            Ok(tasks) => tasks.into_iter().map(|(_, task)| task).collect(),
            Err(error) => {
                tracing::warn!(%error, "tasks of an earlier daemon were not found");
                Vec::new()
            }
        }
    }

    /// Ends tasks of a node that does not run.
    async fn remove_tasks(&self) {
        let executor = &self.shared.executor;
        let tasks = match executor.adopt().await {
            Ok(tasks) => tasks,
            Err(error) => return tracing::warn!(%error, "tasks of the cluster were not looked for"),
        };
        for (id, found) in tasks {
            drop(found);
            if let Err(error) = executor.remove(&id).await {
                tracing::warn!(task = %id, %error, "a task of the cluster could not be removed");
            }
        }
    }

    /// Stops the member; its tasks go on under their shims.
    pub async fn stop(&self) {
        let mut control = self.control.lock().await;
        let left = std::mem::replace(&mut *control, Control::Inactive);
        self.set_view(View::bare(LockState::Inactive));
        match left {
            Control::Member(member) => {
                member.stop(false).await;
            }
            Control::Joining { cancel, task } => give_up(cancel, task).await,
            Control::Inactive | Control::Locked { .. } | Control::Error => {}
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The manager, or why there is none to ask.
    pub(crate) fn manager(&self) -> Result<Arc<Manager>, ClusterError> {
        let view = self.view.load();
        match (view.manager(), view.state) {
            (Some(manager), LockState::Active) => Ok(manager),
            (None, LockState::Active) if view.is_managers() => Err(ClusterError::Preparing),
            (_, LockState::Locked) => Err(ClusterError::Locked),
            (_, LockState::Inactive) => Err(ClusterError::NotInSwarm),
            (_, LockState::Error) if view.expired => Err(ClusterError::CertificatesExpired),
            (_, LockState::Error) => Err(ClusterError::NotInSwarm),
            (_, LockState::Active | LockState::Pending) => Err(ClusterError::NotManager),
        }
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        self.shared.clock.now()
    }

    fn undo(&self) {
        self.clear_files();
        self.set_view(View::bare(LockState::Inactive));
    }

    fn clear_files(&self) {
        if let Err(error) = self.shared.root.clear_swarm() {
            tracing::error!(%error, "files of a failed init or join could not be removed");
        }
    }

    fn set_view(&self, view: View) {
        self.view.store(Arc::new(view));
    }

    /// Moves the state shown to readers.
    fn moved(&self, event: LockEvent) {
        let view = self.view();
        self.set_view(View {
            node_addr: view.node_addr.clone(),
            ..View::bare(self.after(event))
        });
    }

    /// The state after an event. Which events can come is upheld by [`Control`].
    fn after(&self, event: LockEvent) -> LockState {
        let state = self.view().state;
        state.after(event).unwrap_or_else(|error| {
            tracing::error!(%error, "the local node's state is out of step");
            state
        })
    }
}

/// Ends a join and waits until it has.
async fn give_up(cancel: CancellationToken, task: JoinHandle<()>) {
    cancel.cancel();
    if let Err(error) = task.await {
        tracing::warn!(%error, "the join did not end cleanly");
    }
}

/// Text E of spec/engine-api.md §5.2.
const LEAVE_LOCKED: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";
/// The host of `host:port`; an address without port is one.
fn host_of(address: &str) -> String {
    match address.parse::<std::net::SocketAddr>() {
        Ok(address) => address.ip().to_string(),
        Err(_) => address.to_owned(),
    }
}
