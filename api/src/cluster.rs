//! What the API needs of the cluster behind it.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use futures::stream::BoxStream;
use time::OffsetDateTime;
use tokio::sync::broadcast;
use waxseal_ca::rotation::UnsignedRoot;
use waxseal_cluster::{
    Applied, ChangeRecord, Refusal, State,
    objects::{
        Actor, Cluster as ClusterObject, ClusterSpec, ContainerSpec, GenericResource, command::Op,
    },
    plan::MemberView,
};
use zeroize::Zeroizing;

/// Where the local node stands (`LocalNodeState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalState {
    /// In no cluster.
    Inactive,
    /// Joining, or starting and not connected yet.
    Pending,
    /// A member.
    Active,
    /// A manager whose key file needs the unlock key.
    Locked,
    /// Failed; see [`LocalNode::error`].
    Error,
}

/// What the local node knows of itself.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// The state.
    pub state: LocalState,
    /// Empty while unknown.
    pub node_id: String,
    /// Advertised address without port; kept while locked.
    pub node_addr: String,
    /// Whether this node runs a manager that serves.
    pub control_available: bool,
    /// Whether it is a manager by its certificate, whose manager has not begun to serve.
    pub entering: bool,
    /// Cause, in state error (and the locked text while locked).
    pub error: String,
    /// Known managers (node id, address), itself included.
    pub remote_managers: Vec<(String, String)>,
    /// Operator-facing warnings (TLS 1.2 enabled, no swap exclusion, …).
    pub warnings: Vec<String>,
}

/// The daemon's own facts for `/info` and `/version`.
#[derive(Clone, Debug)]
pub struct DaemonInfo {
    /// Stable id of this daemon.
    pub id: String,
    /// Host name.
    pub name: String,
    /// Data root path.
    pub data_root: String,
    /// Engine labels (`--label`), `key=value`.
    pub labels: Vec<String>,
    /// Generic resources (`--node-generic-resource`).
    pub generic_resources: Vec<GenericResource>,
    /// Whether debug logging is on.
    pub debug: bool,
    /// `uname -r`.
    pub kernel_version: String,
    /// From os-release.
    pub operating_system: String,
    /// `x86_64`, …
    pub architecture: String,
    /// Processors.
    pub cpus: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Which cgroup hierarchy the host has: 1 or 2.
    pub cgroup_version: u8,
    /// When the daemon started.
    pub started_at: OffsetDateTime,
}

/// `POST /swarm/init`, parsed.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// As sent: address or interface, with optional port.
    pub listen_addr: String,
    /// As sent; empty: choose.
    pub advertise_addr: String,
    /// Restart as a cluster of one from this node's data.
    pub force_new_cluster: bool,
    /// Checked, defaults merged in.
    pub spec: ClusterSpec,
    /// Whether managers lock.
    pub auto_lock_managers: bool,
    /// Availability of the first node.
    pub availability: waxseal_cluster::objects::Availability,
    /// To be shown: the default's, or none as the CLI sends it.
    pub default_addr_pool: Vec<String>,
}

/// `POST /swarm/join`, parsed.
pub struct JoinRequest {
    /// As sent.
    pub listen_addr: String,
    /// As sent; empty: choose.
    pub advertise_addr: String,
    /// At least one, port filled in.
    pub remote_addrs: Vec<String>,
    /// The token text.
    pub join_token: Zeroizing<String>,
    /// Availability asked for.
    pub availability: waxseal_cluster::objects::Availability,
}

/// Which log lines are wanted.
#[derive(Clone, Debug)]
pub struct LogRequest {
    /// Services (ids).
    pub service_ids: Vec<String>,
    /// Tasks (ids).
    pub task_ids: Vec<String>,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on with new lines.
    pub follow: bool,
    /// The last so many lines of each task; `None`: all.
    pub tail: Option<u64>,
    /// Not before.
    pub since: Option<OffsetDateTime>,
}

/// One line of a task's output.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// Where it came from.
    pub node_id: String,
    /// Its service.
    pub service_id: String,
    /// Its task.
    pub task_id: String,
    /// When it was written.
    pub time: OffsetDateTime,
    /// Standard error rather than standard output.
    pub stderr: bool,
    /// The line with its newline.
    pub data: Bytes,
}

/// The Raft group as a manager sees it.
#[derive(Clone, Debug, Default)]
pub struct ManagerGroup {
    /// As the log says, learners included. Who is reachable the leader alone knows.
    pub members: Vec<MemberView>,
    /// Node id of who leads, as far as this manager knows.
    pub leader: Option<String>,
    /// Entries of the log that its state does not have yet, if that is known.
    pub lag: Option<u64>,
}

/// Why the cluster did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// In no swarm.
    #[error("this node is not a swarm manager")]
    NotInSwarm,
    /// A worker.
    #[error("this node is a worker")]
    NotManager,
    /// A manager that is starting.
    #[error("manager is being prepared")]
    Preparing,
    /// Needs the unlock key.
    #[error("swarm is locked")]
    Locked,
    /// Certificates have expired.
    #[error("swarm certificates have expired")]
    CertificatesExpired,
    /// Init or join of a member.
    #[error("this node is already part of a swarm")]
    AlreadyInSwarm,
    /// Unlock of a manager that is not locked.
    #[error("swarm is not locked")]
    NotLocked,
    /// Wrong unlock key.
    #[error("swarm could not be unlocked: invalid key provided")]
    WrongUnlockKey,
    /// Not an unlock key at all.
    #[error("invalid key string")]
    MalformedUnlockKey,
    /// Leave of a manager, or of a locked node, without force: the whole text.
    #[error("{0}")]
    LeaveRefused(String),
    /// Join did not end within 20 s and goes on in the background.
    #[error("timeout was reached before node joined")]
    JoinTimeout,
    /// No leader.
    #[error("the swarm does not have a leader")]
    NoLeader,
    /// No space left on the manager's disk, or the log cannot be written.
    #[error("{0}")]
    Storage(String),
    /// The state refused the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Bad argument: 400 with this text.
    #[error("{0}")]
    InvalidArgument(String),
    /// Not offered: 501 with this text.
    #[error("{0}")]
    NotImplemented(String),
    /// Remote refused or could not be reached: 503 with this text.
    #[error("{0}")]
    Unavailable(String),
    /// Anything else: 500 with this text.
    #[error("{0}")]
    Internal(String),
}

/// The cluster as the API sees it: the daemon implements it.
pub trait Cluster: Send + Sync + 'static {
    /// The daemon's own facts.
    fn daemon(&self) -> DaemonInfo;
    /// Where the local node stands. Takes no locks that are held for long.
    fn local(&self) -> LocalNode;
    /// The wall clock.
    fn now(&self) -> OffsetDateTime;
    /// When the node's certificate ends; nothing without one or while it is not known.
    fn certificate_expiry(&self) -> Option<OffsetDateTime> {
        None
    }
    /// When the node renews its certificate next; nothing while that is not planned.
    fn certificate_renewal(&self) -> Option<OffsetDateTime> {
        None
    }
    /// The Raft group, if this node runs a manager. Asks nobody and waits for nothing.
    fn managers(&self) -> Option<ManagerGroup> {
        None
    }
    /// Gives this manager the address (`host:port`) of another one to dial.
    fn contact_manager(
        &self,
        _addr: String,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send {
        async { Err(ClusterError::NotManager) }
    }
    /// Whether an external CA answers at one of these addresses whose server this root (PEM)
    /// vouches for.
    fn reaches_signer(
        &self,
        _urls: Vec<String>,
        _root: Vec<u8>,
    ) -> impl Future<Output = Result<bool, ClusterError>> + Send {
        async { Err(ClusterError::NotManager) }
    }
    /// Has the external CA at these addresses sign a root to be with the key of `root` (PEM); the
    /// certificate in PEM, checked. What it did wrong is [`ClusterError::Internal`].
    fn cross_sign(
        &self,
        _urls: Vec<String>,
        _root: Vec<u8>,
        _new: &UnsignedRoot,
    ) -> impl Future<Output = Result<String, ClusterError>> + Send {
        async { Err(ClusterError::NotManager) }
    }
    /// Whether some node of ours could run a native task of this spec, as far as that does not
    /// depend on the node.
    ///
    /// # Errors
    /// What stands against it, for the one who asks.
    fn check_native(&self, _spec: &ContainerSpec) -> Result<(), String> {
        Ok(())
    }
    /// Creates a cluster; answers the node id.
    fn init(
        &self,
        request: InitRequest,
    ) -> impl Future<Output = Result<String, ClusterError>> + Send;
    /// Joins one.
    fn join(&self, request: JoinRequest) -> impl Future<Output = Result<(), ClusterError>> + Send;
    /// Leaves it.
    fn leave(&self, force: bool) -> impl Future<Output = Result<(), ClusterError>> + Send;
    /// Opens a locked manager with the text of the unlock key.
    fn unlock(
        &self,
        key: Zeroizing<String>,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;
    /// Reads the state; what was acknowledged before the call is in it.
    fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> impl Future<Output = Result<R, ClusterError>> + Send;
    /// Makes a command durable on a quorum and applies it.
    fn propose(
        &self,
        actor: Actor,
        op: Op,
    ) -> impl Future<Output = Result<Applied, ClusterError>> + Send;
    /// Replaces the cluster object and, if the unlock key changed, returns only
    /// when this manager's own files are rewritten.
    fn update_cluster(
        &self,
        actor: Actor,
        cluster: ClusterObject,
        expected_version: u64,
    ) -> impl Future<Output = Result<(), ClusterError>> + Send;
    /// Changes from now on; a receiver that falls behind is told so.
    fn changes(&self) -> broadcast::Receiver<ChangeRecord>;
    /// Log lines; the stream ends when all tasks have answered, or never with `follow`.
    fn logs(
        &self,
        request: LogRequest,
    ) -> impl Future<
        Output = Result<BoxStream<'static, Result<LogLine, ClusterError>>, ClusterError>,
    > + Send;
    /// How long a control call may take.
    fn deadline(&self) -> Duration {
        Duration::from_secs(20)
    }
}
