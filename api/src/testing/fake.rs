//! A [`Cluster`] of one state behind a mutex; commands apply at once.

use std::sync::{Arc, Mutex, MutexGuard};

use futures::stream::{self, BoxStream, StreamExt};
use time::OffsetDateTime;
use tokio::sync::broadcast;
use waxseal_autolock::UnlockKey;
use waxseal_ca::{JoinToken, RootAuthority, rotation::UnsignedRoot};
use waxseal_cluster::{
    Applied, COMMAND_FORMAT, ChangeRecord, FEATURE_LEVEL, NewCluster, PlainVault, State,
    feature_level_plugin, new_cluster, new_id,
    objects::{
        self, Actor, Bootstrap, Command, CreateNode, UpdateCluster, actor::Who, command::Op,
    },
    timestamp,
};
use zeroize::Zeroizing;

use crate::cluster::{
    Cluster, ClusterError, DaemonInfo, InitRequest, JoinRequest, LocalNode, LocalState, LogLine,
    LogRequest, ManagerGroup,
};

/// When tests begin: 2026-11-20T04:35:41Z.
const START: i64 = 1_795_149_341;
/// The last manager's refusal to leave, as the daemon words it.
const LAST_MANAGER: &str = "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message. ";

/// A locked node's refusal to leave, as the daemon words it.
const LOCKED: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";

/// See the module.
pub(crate) struct FakeCluster {
    inner: Mutex<Inner>,
    changes: broadcast::Sender<ChangeRecord>,
}

struct Inner {
    local: LocalNode,
    state: State,
    ticks: i64,
    ids: u8,
    actors: Vec<Actor>,
    refuse: Option<fn() -> ClusterError>,
    group: Option<ManagerGroup>,
    contacts: Vec<String>,
    /// Whether an external CA answers, and if so whether it signs.
    signer: Option<bool>,
    /// Of the cluster that is to be made.
    level: u32,
    log: Vec<LogLine>,
    /// Why no node can run native tasks.
    native_fault: Option<&'static str>,
}

impl FakeCluster {
    /// A node in no swarm.
    pub(crate) fn inactive() -> Arc<FakeCluster> {
        Arc::new(FakeCluster {
            inner: Mutex::new(Inner {
                local: LocalNode {
                    state: LocalState::Inactive,
                    node_id: String::new(),
                    node_addr: String::new(),
                    control_available: false,
                    entering: false,
                    error: String::new(),
                    remote_managers: Vec::new(),
                    warnings: Vec::new(),
                },
                state: State::new(Arc::new(PlainVault)),
                ticks: 0,
                ids: 0,
                actors: Vec::new(),
                refuse: None,
                group: None,
                contacts: Vec::new(),
                signer: None,
                level: FEATURE_LEVEL,
                log: Vec::new(),
                native_fault: None,
            }),
            changes: broadcast::Sender::new(1024),
        })
    }

    /// A manager of a cluster of one.
    pub(crate) async fn manager() -> Arc<FakeCluster> {
        let cluster = FakeCluster::inactive();
        cluster.init(plain_init()).await.unwrap();
        cluster
    }

    /// The same, whose managers know no more than this feature level brought.
    pub(crate) async fn manager_of_level(level: u32) -> Arc<FakeCluster> {
        let cluster = FakeCluster::inactive();
        cluster.lock().level = level;
        cluster.init(plain_init()).await.unwrap();
        cluster
    }

    /// From now on an external CA answers, and signs or does not.
    pub(crate) fn set_signer(&self, signs: bool) {
        self.lock().signer = Some(signs);
    }

    /// Changes what the node says of itself.
    pub(crate) fn set_local(&self, change: impl FnOnce(&mut LocalNode)) {
        change(&mut self.lock().local);
    }

    /// From now on all reads and writes fail.
    pub(crate) fn refuse(&self, why: fn() -> ClusterError) {
        self.lock().refuse = Some(why);
    }

    /// They succeed again.
    pub(crate) fn accept(&self) {
        self.lock().refuse = None;
    }

    /// Lets time go on, a second for each tick.
    pub(crate) fn advance(&self, ticks: i64) {
        self.lock().ticks += ticks;
    }

    /// Tells of changes that others made.
    pub(crate) fn announce(&self, record: ChangeRecord) {
        // Nobody listening is fine.
        let _ = self.changes.send(record);
    }

    /// What tasks have written.
    pub(crate) fn set_log(&self, lines: Vec<LogLine>) {
        self.lock().log = lines;
    }

    /// From now on no node can run a native task, for this reason.
    pub(crate) fn refuse_native(&self, why: &'static str) {
        self.lock().native_fault = Some(why);
    }

    /// Changes the state behind the API's back.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut objects::StateSnapshot)) {
        let mut inner = self.lock();
        let mut snapshot = inner.state.snapshot();
        edit(&mut snapshot);
        inner.state = State::restore(snapshot, Arc::new(PlainVault)).unwrap();
    }

    /// What the node says of the Raft group.
    pub(crate) fn set_group(&self, group: ManagerGroup) {
        self.lock().group = Some(group);
    }

    /// The addresses that it was given.
    pub(crate) fn contacts(&self) -> Vec<String> {
        self.lock().contacts.clone()
    }

    /// Adds a worker that has reported; answers its id.
    pub(crate) fn add_worker(&self, hostname: &str, is_ours: bool) -> String {
        let id = self.next_id();
        let mut node = node(&id, hostname, objects::NodeRole::Worker);
        if is_ours && let Some(description) = &mut node.description {
            let engine = description.engine.get_or_insert_default();
            engine.plugins.extend(own_plugins());
        }
        self.apply(component(), Op::CreateNode(CreateNode { node: Some(node) }))
            .unwrap();
        id
    }

    /// Who asked for the commands so far.
    pub(crate) fn actors(&self) -> Vec<Actor> {
        self.lock().actors.clone()
    }

    /// A look into the state.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.lock().state)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    fn next_id(&self) -> String {
        let mut inner = self.lock();
        inner.ids += 1;
        let mut random = [inner.ids; 17];
        random[0] = inner.ids.wrapping_mul(37);
        new_id(random)
    }

    fn apply(&self, actor: Actor, op: Op) -> Result<Applied, ClusterError> {
        let mut inner = self.lock();
        inner.ticks += 1;
        let time = inner.time();
        inner.actors.push(actor.clone());
        let applied = inner.state.apply(Command {
            format: COMMAND_FORMAT,
            actor: Some(actor),
            time: Some(timestamp(time)),
            op: Some(op),
        })?;
        // Nobody listening is fine.
        let _ = self.changes.send(ChangeRecord {
            time,
            changes: applied.changes.clone(),
        });
        Ok(applied)
    }

    fn check_manager(&self) -> Result<(), ClusterError> {
        let inner = self.lock();
        if let Some(why) = inner.refuse {
            return Err(why());
        }
        match inner.local.state {
            LocalState::Inactive | LocalState::Error => Err(ClusterError::NotInSwarm),
            LocalState::Pending => Err(ClusterError::NotManager),
            LocalState::Locked => Err(ClusterError::Locked),
            LocalState::Active if inner.local.control_available => Ok(()),
            LocalState::Active => Err(ClusterError::NotManager),
        }
    }
}

impl Inner {
    /// Moves with each command.
    fn time(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(START + self.ticks).unwrap()
            + time::Duration::nanoseconds(143_203_612)
    }
}

/// Whether it is the key that managers are locked with.
fn is_unlock_key(state: &State, key: &str) -> bool {
    let record = state
        .cluster()
        .and_then(|cluster| cluster.unlock_key.as_ref());
    record
        .and_then(|record| UnlockKey::from_slice(&record.key).ok())
        .is_some_and(|of_the_cluster| *of_the_cluster.to_text() == *key)
}

fn component() -> Actor {
    Actor {
        who: Some(Who::Component("test".to_owned())),
    }
}

/// What the CLI sends for `swarm init`.
pub(crate) fn plain_init() -> InitRequest {
    InitRequest {
        listen_addr: "0.0.0.0:2377".to_owned(),
        advertise_addr: "10.77.0.1".to_owned(),
        force_new_cluster: false,
        spec: waxseal_cluster::default_cluster_spec(),
        auto_lock_managers: false,
        availability: objects::Availability::Active,
        default_addr_pool: Vec::new(),
    }
}

/// What a node of ours says of itself.
pub(super) fn own_plugins() -> Vec<objects::PluginDescription> {
    let level = feature_level_plugin(FEATURE_LEVEL);
    let plugins = ["host", &level].map(|name| objects::PluginDescription {
        r#type: "Waxseal".to_owned(),
        name: name.to_owned(),
    });
    plugins.to_vec()
}

pub(super) fn node(id: &str, hostname: &str, role: objects::NodeRole) -> objects::Node {
    let mut spec = objects::NodeSpec {
        annotations: Some(objects::Annotations::default()),
        ..objects::NodeSpec::default()
    };
    spec.set_desired_role(role);
    spec.set_membership(objects::Membership::Accepted);
    let mut status = objects::NodeStatus {
        addr: "10.77.0.1".to_owned(),
        ..objects::NodeStatus::default()
    };
    status.set_state(objects::NodeState::Ready);
    let mut node = objects::Node {
        id: id.to_owned(),
        spec: Some(spec),
        status: Some(status),
        description: Some(objects::NodeDescription {
            hostname: hostname.to_owned(),
            platform: Some(objects::Platform {
                architecture: "x86_64".to_owned(),
                os: "linux".to_owned(),
            }),
            resources: Some(objects::Resources {
                nano_cpus: 2_000_000_000,
                memory_bytes: 25_276_510_208,
                ..objects::Resources::default()
            }),
            engine: Some(objects::EngineDescription {
                engine_version: "20.10.24".to_owned(),
                ..objects::EngineDescription::default()
            }),
            tls_info: Some(objects::NodeTlsInfo {
                trust_root: b"PEM".to_vec(),
                cert_issuer_subject: vec![1],
                cert_issuer_public_key: vec![2],
            }),
            ..objects::NodeDescription::default()
        }),
        ..objects::Node::default()
    };
    node.set_role(role);
    node
}

impl Cluster for FakeCluster {
    fn daemon(&self) -> DaemonInfo {
        DaemonInfo {
            id: "OADW:RTU4".to_owned(),
            name: "vm".to_owned(),
            data_root: "/var/lib/waxseal".to_owned(),
            labels: Vec::new(),
            generic_resources: Vec::new(),
            debug: false,
            kernel_version: "6.1.0".to_owned(),
            operating_system: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            architecture: "x86_64".to_owned(),
            cpus: 2,
            memory_bytes: 25_276_510_208,
            cgroup_version: 1,
            started_at: self.now(),
        }
    }

    fn local(&self) -> LocalNode {
        self.lock().local.clone()
    }

    fn now(&self) -> OffsetDateTime {
        self.lock().time()
    }

    fn managers(&self) -> Option<ManagerGroup> {
        let inner = self.lock();
        let group = inner.group.clone();
        group.filter(|_| inner.local.control_available)
    }

    async fn reaches_signer(&self, _: Vec<String>, _: Vec<u8>) -> Result<bool, ClusterError> {
        Ok(self.lock().signer.is_some())
    }

    async fn cross_sign(
        &self,
        _: Vec<String>,
        _: Vec<u8>,
        new: &UnsignedRoot,
    ) -> Result<String, ClusterError> {
        match self.lock().signer {
            Some(true) => Ok(format!("cross-signed: {} bytes", new.request.len())),
            _ => Err(ClusterError::Internal("the CA is on strike".to_owned())),
        }
    }

    fn check_native(&self, _: &objects::ContainerSpec) -> Result<(), String> {
        match self.lock().native_fault {
            Some(why) => Err(why.to_owned()),
            None => Ok(()),
        }
    }

    async fn contact_manager(&self, addr: String) -> Result<(), ClusterError> {
        self.check_manager()?;
        self.lock().contacts.push(addr);
        Ok(())
    }

    async fn init(&self, request: InitRequest) -> Result<String, ClusterError> {
        if request.force_new_cluster && self.look(|state| state.cluster().is_some()) {
            return Ok(self.local().node_id);
        }
        let root = RootAuthority::generate(self.now())
            .map_err(|error| ClusterError::Internal(error.to_string()))?;
        let digest = root.trust().digest();
        let token = |fill: u8| {
            JoinToken::generate(digest, &[fill; 16])
                .expose_text()
                .to_owned()
        };
        let unlock_key = request.auto_lock_managers.then(|| vec![7; 32]);
        let mut cluster = new_cluster(NewCluster {
            id: self.next_id(),
            root_ca: objects::RootCa {
                ca_key: root.key_pem().as_bytes().to_vec(),
                ca_cert: root.cert_pem().as_bytes().to_vec(),
                ca_cert_hash: String::new(),
                join_tokens: Some(objects::JoinTokens {
                    worker: token(1),
                    manager: token(2),
                }),
                ..objects::RootCa::default()
            },
            spec: request.spec,
            unlock_key,
        });
        cluster.feature_level = self.lock().level;
        cluster.default_addr_pool = request.default_addr_pool;
        let node_id = self.next_id();
        let mut first = node(&node_id, "vm", objects::NodeRole::Manager);
        let mut manager = objects::ManagerStatus {
            raft_id: 1,
            addr: "10.77.0.1:2377".to_owned(),
            leader: true,
            ..objects::ManagerStatus::default()
        };
        manager.set_reachability(objects::Reachability::Reachable);
        first.manager_status = Some(manager);
        if let Some(spec) = &mut first.spec {
            spec.set_availability(request.availability);
        }
        self.apply(
            component(),
            Op::Bootstrap(Bootstrap {
                cluster: Some(cluster),
                node: Some(first),
            }),
        )?;
        self.set_local(|local| {
            local.state = LocalState::Active;
            local.control_available = true;
            local.node_id.clone_from(&node_id);
            local.node_addr = "10.77.0.1".to_owned();
            local.remote_managers = vec![(node_id.clone(), "10.77.0.1:2377".to_owned())];
        });
        Ok(node_id)
    }

    async fn join(&self, request: JoinRequest) -> Result<(), ClusterError> {
        Err(ClusterError::Unavailable(format!(
            "{} cannot be reached",
            request.remote_addrs.join(" ")
        )))
    }

    async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        let local = self.local();
        match local.state {
            LocalState::Inactive => Err(ClusterError::NotInSwarm),
            LocalState::Locked if !force => Err(ClusterError::LeaveRefused(LOCKED.to_owned())),
            _ if !force && local.control_available => {
                Err(ClusterError::LeaveRefused(LAST_MANAGER.to_owned()))
            }
            _ => {
                if local.control_available || local.state == LocalState::Locked {
                    self.lock().state = State::new(Arc::new(PlainVault));
                }
                self.set_local(|local| {
                    local.state = LocalState::Inactive;
                    local.control_available = false;
                    local.node_addr.clear();
                });
                Ok(())
            }
        }
    }

    async fn unlock(&self, key: Zeroizing<String>) -> Result<(), ClusterError> {
        let local = self.local();
        match local.state {
            LocalState::Inactive | LocalState::Error => Err(ClusterError::NotInSwarm),
            LocalState::Pending => Err(ClusterError::NotManager),
            LocalState::Active if !local.control_available => Err(ClusterError::NotManager),
            LocalState::Active => Err(ClusterError::NotLocked),
            LocalState::Locked if self.look(|state| is_unlock_key(state, &key)) => {
                self.set_local(|local| {
                    local.state = LocalState::Active;
                    local.control_available = true;
                    local.error.clear();
                });
                Ok(())
            }
            LocalState::Locked if key.starts_with("SWMKEY-1-") => Err(ClusterError::WrongUnlockKey),
            LocalState::Locked => Err(ClusterError::MalformedUnlockKey),
        }
    }

    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R, ClusterError> {
        self.check_manager()?;
        Ok(self.look(read))
    }

    async fn propose(&self, actor: Actor, op: Op) -> Result<Applied, ClusterError> {
        self.check_manager()?;
        self.apply(actor, op)
    }

    async fn update_cluster(
        &self,
        actor: Actor,
        cluster: objects::Cluster,
        expected_version: u64,
    ) -> Result<(), ClusterError> {
        self.check_manager()?;
        let op = Op::UpdateCluster(UpdateCluster {
            cluster: Some(cluster),
            expected_version,
        });
        self.apply(actor, op).map(|_| ())
    }

    fn changes(&self) -> broadcast::Receiver<ChangeRecord> {
        self.changes.subscribe()
    }

    async fn logs(
        &self,
        _request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, ClusterError>>, ClusterError> {
        let lines = self.lock().log.clone();
        Ok(stream::iter(lines.into_iter().map(Ok)).boxed())
    }
}
