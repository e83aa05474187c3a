//! This node as a member: what runs while it is one.

use std::{io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::sync::{Mutex, broadcast, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use waxseal_agent::{
    Agent, AgentConfig, AgentStatus, IdentityStore, ManagerAddress, OwnAuthority, Renewals,
};
use waxseal_api::{ClusterError, InitRequest};
use waxseal_autolock::{Dek, DekId, UnlockKey};
use waxseal_ca::{IssuerRules, LiveTls, NodeCredentials, Role, TrustBundle};
use waxseal_cluster::{ChangeRecord, State};
use waxseal_manager::{JoinCluster, Manager, Start, StartError};

use crate::{
    address::{AddressError, local_addresses, resolve_advertise, resolve_listen},
    daemon::Shared,
    enter::{EnterError, fetch_unlock_key, is_local, manager_addresses, new_raft_keys},
    keys::{Keys, KeysError},
    node_file::{NodeFile, NodeFileError, Phase},
    seat::{RoleFollower, Seat},
    text::chain_text,
};

/// How often a key change that failed is tried again.
const KEY_RETRY: Duration = Duration::from_secs(5);
/// How often it is looked anyway: a state that came as a snapshot tells no changes.
const KEY_CHECK: Duration = Duration::from_secs(10);

/// Where `docker swarm init` says to listen if nobody told it.
const DEFAULT_LISTEN: &str = "0.0.0.0:2377";

/// A member at work.
pub(crate) struct Member {
    pub(crate) node_file: NodeFile,
    pub(crate) tls: Arc<LiveTls>,
    pub(crate) agent: Agent,
    pub(crate) seat: Arc<Seat>,
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
    /// What a manager needs first.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The log of a former membership cannot be removed.
    #[error("{} cannot be removed", path.display())]
    FormerLog {
        /// Its directory.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
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

impl MemberError {
    /// Whether the swarm may count on the log of a manager that asked to be taken in:
    /// nothing of it may be removed.
    fn may_count(&self) -> bool {
        match self {
            MemberError::Manager(StartError::Join { may_count, .. }) => *may_count,
            MemberError::Manager(StartError::NotCaughtUp { .. }) => true,
            // It was taken in, and that could not be put on record.
            MemberError::NodeFile(_) => true,
            _ => false,
        }
    }
}

/// How a member begins.
pub(crate) enum Begin {
    /// As its files say.
    Resume,
    /// With a manager that is started so, without which there is no member.
    Manager(Start),
}

impl Member {
    /// Starts what the node's certificate says it is.
    pub(crate) async fn start(
        shared: &Arc<Shared>,
        keys: Keys,
        node_file: NodeFile,
        trust: TrustBundle,
        credentials: Arc<NodeCredentials>,
        begin: Begin,
    ) -> Result<Member, MemberError> {
        let role = credentials.identity().role;
        let issuers = keys.issuers(&trust)?;
        let tls = LiveTls::new(
            Arc::new(trust),
            Some(credentials),
            Arc::clone(&shared.clock),
        );
        // A manager that has a state goes by that as soon as it is read.
        tls.rule_issuers(issuers);
        let stopped = CancellationToken::new();
        let seat = Arc::new(Seat::new(shared, &tls, stopped.clone()));
        let keys = Arc::new(KeyKeeper {
            shared: Arc::clone(shared),
            seat: Arc::clone(&seat),
            keys: Mutex::new(keys),
        });
        match (role, begin) {
            (Role::Manager, begin @ Begin::Manager(_)) => match seat.take(&keys, begin).await {
                Err(error) if node_file.phase() == Phase::Entering && error.may_count() => {
                    let error = chain_text(&error);
                    tracing::warn!(%error, "not known to have joined yet; it is asked on");
                }
                taken => taken?,
            },
            (Role::Manager, Begin::Resume) if node_file.phase() != Phase::Entering => {
                seat.take(&keys, Begin::Resume).await?;
            }
            // It has not been taken into the group yet: asked for behind the caller's back.
            (Role::Manager, Begin::Resume) => {}
            (Role::Worker, _) => keys.clear_former_log().await?,
        }
        // What the manager's start wrote, if it did.
        let node_file = shared.node_file()?;
        let agent = start_agent(shared, &node_file, &tls, &keys, seat.manager().as_deref())?;
        let tasks = TaskTracker::new();
        let follower = KeyFollower {
            keys: Arc::clone(&keys),
            seat: Arc::clone(&seat),
            renewals: agent.renewals(),
            stopped: stopped.clone(),
        };
        tasks.spawn(follower.run(shared.changes.subscribe()));
        let follower = RoleFollower {
            seat: Arc::clone(&seat),
            keys: Arc::clone(&keys),
            renewed: agent.renewed(),
            stopped: stopped.clone(),
        };
        tasks.spawn(follower.run());
        Ok(Member {
            node_file,
            tls,
            agent,
            seat,
            keys,
            tasks,
            stopped,
        })
    }

    /// How the agent stands.
    pub(crate) fn status(&self) -> watch::Receiver<AgentStatus> {
        self.agent.status()
    }

    /// Goes on as the only manager, with all that its log holds; agent and tasks stay.
    ///
    /// What is cut short leaves the log either way whole: with the members it had, or
    /// with this one alone. The next start goes on with it.
    pub(crate) async fn force_new_cluster(
        &mut self,
        shared: &Arc<Shared>,
        request: &InitRequest,
    ) -> Result<String, ClusterError> {
        let internal = |error: &(dyn std::error::Error + 'static)| {
            ClusterError::Internal(format!(
                "swarm component could not be started: {}",
                chain_text(error)
            ))
        };
        let mut file = shared.node_file().map_err(|error| internal(&error))?;
        take_addresses(shared, &mut file, request)?;
        let phase = std::mem::replace(&mut file.phase, Phase::Forcing.into());
        let prepare = || Ok(shared.write_node_file(&file)?);
        let taken = self.seat.retake(&self.keys, Start::ForceNew, prepare).await;
        if let Err(error) = taken {
            if matches!(error, MemberError::Manager(StartError::NothingToForce)) {
                // It goes on to ask to be taken in.
                let restored = shared.change_node_file(|file| file.phase = phase);
                restored.map_err(|error| internal(&error))?;
            }
            return Err(internal(&error));
        }
        if let Some(manager) = self.seat.manager() {
            let own = own_address(&manager);
            self.agent.use_managers(own.into_iter().collect());
        }
        self.node_file = shared.node_file().map_err(|error| internal(&error))?;
        Ok(self.node_file.node_id.clone())
    }

    /// Stops; tasks go on under their shims, or end with `leave`.
    pub(crate) async fn stop(self, leave: bool) {
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
        self.seat.vacate().await;
    }
}

fn start_agent(
    shared: &Arc<Shared>,
    node_file: &NodeFile,
    tls: &Arc<LiveTls>,
    keys: &Arc<KeyKeeper>,
    manager: Option<&Manager>,
) -> Result<Agent, MemberError> {
    // A manager's own agent reaches it on the spot, whatever address others use; the
    // others help while it has no leader, or is none any more.
    let mut managers: Vec<ManagerAddress> = node_file.managers.iter().map(Into::into).collect();
    if let Some(own) = manager.and_then(own_address) {
        managers.retain(|manager| manager.node_id != node_file.node_id);
        managers.insert(0, own);
    }
    let config = AgentConfig {
        clock: Arc::clone(&shared.clock),
        tls: Arc::clone(tls),
        managers,
        store: Arc::clone(keys) as Arc<dyn IdentityStore>,
        own_authority: Some(Arc::clone(&keys.seat) as Arc<dyn OwnAuthority>),
        executor: Arc::clone(&shared.executor),
        facts: shared.facts.clone(),
    };
    Agent::start(config).map_err(MemberError::Agent)
}

/// The addresses that were asked for anew; what was not said stays as it is.
fn take_addresses(
    shared: &Shared,
    file: &mut NodeFile,
    request: &InitRequest,
) -> Result<(), ClusterError> {
    let invalid = |error: AddressError| ClusterError::InvalidArgument(error.to_string());
    let local = local_addresses()
        .map_err(|error| ClusterError::Internal(format!("cannot list local addresses: {error}")))?;
    if request.listen_addr != DEFAULT_LISTEN {
        let listen = resolve_listen(&request.listen_addr, &local).map_err(invalid)?;
        file.listen_addr = listen.to_string();
        file.listen_asked.clone_from(&request.listen_addr);
    }
    if !request.advertise_addr.is_empty() {
        let listen = resolve_listen(&file.listen_addr, &local).map_err(invalid)?;
        let default = shared.config.default_advertise_addr.as_deref();
        let advertise = resolve_advertise(&request.advertise_addr, default, listen, &local);
        let advertise = advertise.map_err(invalid)?;
        file.advertise_addr = advertise.to_string();
        file.advertise_local = is_local(&advertise);
        file.advertise_asked.clone_from(&request.advertise_addr);
    }
    Ok(())
}

/// Where this host reaches its own manager.
fn own_address(manager: &Manager) -> Option<ManagerAddress> {
    let mut own = manager.address()?;
    if own.ip().is_unspecified() {
        own.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Some(ManagerAddress::from_address(own.to_string()))
}

/// The one place where the node's keys change: by renewal, by another role, by the
/// unlock key.
pub(crate) struct KeyKeeper {
    shared: Arc<Shared>,
    seat: Arc<Seat>,
    keys: Mutex<Keys>,
}

impl KeyKeeper {
    /// Looks at the keys.
    pub(crate) async fn with<R>(&self, look: impl FnOnce(&Keys) -> R) -> R {
        look(&*self.keys.lock().await)
    }

    /// Makes the key file follow the cluster's unlock key, as the state has it.
    /// What that entails behind the key file is [`KeyFollower`]'s.
    pub(crate) async fn follow(&self, manager: &Manager) -> Result<(), MemberError> {
        let mut keys = self.keys.lock().await;
        // A worker's file is never sealed, and this manager may have just been demoted.
        if keys.file().raft.is_none() {
            return Ok(());
        }
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

    /// How this node's manager is started: on its log, or asking to be taken in.
    pub(crate) async fn start_of_manager(&self) -> Result<Start, MemberError> {
        let file = self.shared.node_file()?;
        if file.log_void {
            // Keys first: under the former ones nothing may be written any more.
            let raft = new_raft_keys()?;
            self.keys.lock().await.renew_raft_keys(raft)?;
            self.shared.clear_raft_dir()?;
            self.shared.change_node_file(|file| file.log_void = false)?;
        }
        Ok(start_of(&file))
    }

    /// The Raft group has this manager's membership no more, and it is to come back: as
    /// a new member, with nothing of the former one.
    pub(crate) async fn void_membership(&self) -> Result<(), MemberError> {
        self.seat.vacate().await;
        self.shared.change_node_file(|file| {
            file.phase = Phase::Entering.into();
            file.log_void = true;
        })?;
        Ok(())
    }

    /// Raft id and incarnation of this manager, and where the others are.
    pub(crate) async fn identity_among(
        &self,
        manager: &Manager,
    ) -> Result<Option<(u64, u64, Vec<String>)>, MemberError> {
        let file = self.shared.node_file()?;
        let others = file.managers.into_iter();
        let others = others.filter(|other| other.node_id != file.node_id);
        let incarnation = manager.read(|state| state.cluster().map(|c| c.incarnation));
        let raft_id = self.with(|keys| keys.file().raft.as_ref().map(|raft| raft.raft_id));
        Ok(raft_id
            .await
            .zip(incarnation)
            .map(|(raft_id, incarnation)| {
                (
                    raft_id,
                    incarnation,
                    others.map(|other| other.addr).collect(),
                )
            }))
    }

    /// The manager has its place in the Raft group: taken in, or the only one.
    pub(crate) fn entered(&self, manager: &Manager) -> Result<(), NodeFileError> {
        let incarnation = manager.read(|state| state.cluster().map(|c| c.incarnation));
        match self.shared.node_file()?.phase() {
            // Who founds is a member once its certificate is shown.
            Phase::Joining | Phase::Member => Ok(()),
            Phase::Entering | Phase::Forcing => self
                .shared
                .change_node_file(|file| file.enter(incarnation.unwrap_or_default())),
        }
    }

    /// Removes the log of a membership that is over, which nothing opens any more.
    async fn clear_former_log(&self) -> Result<(), MemberError> {
        if self.keys.lock().await.file().raft.is_some() {
            return Ok(());
        }
        self.shared.clear_raft_dir()
    }

    /// A worker has a manager's certificate: all that a manager has on disk is written
    /// sealed from the start, if autolock is on.
    async fn become_manager(
        &self,
        credentials: &Arc<NodeCredentials>,
        trust: &Arc<TrustBundle>,
    ) -> Result<(), MemberError> {
        let file = self.shared.node_file()?;
        let remotes: Vec<String> = file.managers.iter().map(|m| m.addr.clone()).collect();
        // 1. What could fail, before anything is written.
        let listen_asked = match file.listen_asked.as_str() {
            "" => &file.listen_addr,
            asked => asked,
        };
        let addresses =
            manager_addresses(&self.shared, listen_asked, &file.advertise_asked, &remotes)?;
        let key = fetch_unlock_key(&remotes, trust, credentials, &self.shared.clock).await?;
        let raft = new_raft_keys()?;
        // 2. Nothing of a former membership stays.
        self.shared.clear_raft_dir()?;
        // 3. Where it listens, and that it asks to be taken in. Until the key file has
        //    keys for a log, this is a worker's still.
        self.shared.change_node_file(|file| {
            file.phase = Phase::Entering.into();
            file.manager = true;
            file.listen_addr = addresses.listen.to_string();
            file.advertise_addr = addresses.advertise.to_string();
            file.advertise_local = is_local(&addresses.advertise);
            file.renewal_due = false;
        })?;
        // 4. The keys, at once.
        let mut keys = self.keys.lock().await;
        keys.save_trust(trust.pem())?;
        let (chain, tls_key) = (credentials.chain_pem(), credentials.key());
        keys.become_manager(chain, tls_key, raft, key.key, key.epoch)?;
        Ok(())
    }

    /// A manager has a worker's certificate: it serves no more, then its key file loses
    /// the keys of the log, then the log goes, which nothing could open any more.
    async fn become_worker(
        &self,
        credentials: &NodeCredentials,
        trust: &TrustBundle,
    ) -> Result<(), MemberError> {
        // 1. Nothing is read or written through the log's keys from here on.
        self.seat.vacate().await;
        {
            // 2. The key file.
            let mut keys = self.keys.lock().await;
            keys.save_trust(trust.pem())?;
            keys.become_worker(credentials.chain_pem(), credentials.key())?;
        }
        // 3. The log. What is cut short here is completed at the next start.
        if let Err(error) = self.shared.clear_raft_dir() {
            let error = chain_text(&error);
            tracing::warn!(%error, "the log of a former manager stays until the next start");
        }
        self.shared.change_node_file(|file| {
            file.phase = Phase::Member.into();
            file.manager = false;
            file.renewal_due = false;
        })?;
        Ok(())
    }

    async fn save_renewed(
        &self,
        credentials: &NodeCredentials,
        trust: &TrustBundle,
    ) -> Result<(), MemberError> {
        let mut keys = self.keys.lock().await;
        keys.save_trust(trust.pem())?;
        keys.save_identity(credentials.chain_pem(), credentials.key())?;
        self.shared
            .change_node_file(|file| file.renewal_due = false)?;
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

    async fn forget_retired_deks(&self, sealing: DekId) -> Result<(), KeysError> {
        self.keys.lock().await.forget_retired_deks(sealing)
    }
}

/// How the manager of this file is started.
fn start_of(file: &NodeFile) -> Start {
    match file.phase() {
        Phase::Entering => Start::Join(JoinCluster {
            remotes: file.managers.iter().map(|m| m.addr.clone()).collect(),
        }),
        Phase::Forcing => Start::ForceNew,
        Phase::Joining | Phase::Member => Start::Resume,
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
        credentials: &'a Arc<NodeCredentials>,
        trust: &'a Arc<TrustBundle>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let has_log_keys = self.with(|keys| keys.file().raft.is_some()).await;
            let saved = match (credentials.identity().role, has_log_keys) {
                (Role::Manager, false) => self.become_manager(credentials, trust).await,
                (Role::Worker, true) => self.become_worker(credentials, trust).await,
                (Role::Manager, true) | (Role::Worker, false) => {
                    self.save_renewed(credentials, trust).await
                }
            };
            saved.map_err(|error| io::Error::other(chain_text(&error)))
        })
    }

    fn save_trust<'a>(&'a self, trust: &'a TrustBundle) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let keys = self.keys.lock().await;
            keys.save_trust(trust.pem()).map_err(io::Error::other)
        })
    }

    fn save_issuers<'a>(
        &'a self,
        rules: &'a IssuerRules,
        trust: &'a TrustBundle,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let keys = self.keys.lock().await;
            keys.save_issuers(rules, trust).map_err(io::Error::other)
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
    seat: Arc<Seat>,
    renewals: Renewals,
    stopped: CancellationToken,
}

impl KeyFollower {
    async fn run(self, mut changes: broadcast::Receiver<ChangeRecord>) {
        loop {
            let pause = match self.step().await {
                Ok(()) => KEY_CHECK,
                Err(error) => {
                    let error = chain_text(&*error);
                    tracing::error!(%error, "the key change is not finished; it is tried again");
                    KEY_RETRY
                }
            };
            tokio::select! {
                () = cluster_changed(&mut changes) => {}
                () = self.seat.taken() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.stopped.cancelled() => return,
            }
        }
    }

    async fn step(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Some(manager) = self.seat.manager() else {
            return Ok(());
        };
        self.keys.follow(&manager).await?;
        if self.keys.renewal_due()? {
            self.renewals.request();
        }
        if let Some(dek) = self.keys.unfinished_rotation().await {
            let sealing = dek.id();
            manager.rotate_dek(dek).await?;
            self.keys.forget_retired_deks(sealing).await?;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn file(phase: Phase) -> NodeFile {
        NodeFile {
            phase: phase.into(),
            managers: vec![crate::node_file::ManagerAddress {
                addr: "m1:2377".into(),
                ..Default::default()
            }],
            incarnation: 1,
            ..NodeFile::joining("c", "n")
        }
    }

    #[test]
    fn a_forced_new_cluster_is_forced_until_it_is_on_record() {
        let mut forcing = file(Phase::Forcing);
        assert!(matches!(start_of(&forcing), Start::ForceNew));
        forcing.enter(2);
        assert!(matches!(start_of(&forcing), Start::Resume));
        assert_eq!((forcing.incarnation, forcing.managers.len()), (2, 0));
        // Who is taken in keeps the others.
        let mut entering = file(Phase::Entering);
        assert!(matches!(start_of(&entering), Start::Join(_)));
        entering.enter(2);
        assert!(matches!(start_of(&entering), Start::Resume));
        assert_eq!(entering.managers.len(), 1);
    }

    #[test]
    fn a_join_that_may_count_is_not_undone() {
        let join = |may_count| {
            let reason = String::new();
            MemberError::Manager(StartError::Join { reason, may_count })
        };
        assert!(!join(false).may_count());
        assert!(join(true).may_count());
        let within = Duration::from_secs(60);
        let voter = MemberError::Manager(StartError::NotCaughtUp { within });
        assert!(voter.may_count());
        assert!(!MemberError::NoRaftKeys.may_count());
    }
}
