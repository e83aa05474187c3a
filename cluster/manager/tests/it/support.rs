//! A manager on a disk in memory, and credentials of nodes.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};
use waxseal_autolock::{Dek, DekRing, Owner};
use waxseal_ca::{
    CertificateExpiry, Csr, JoinTokens, LiveTls, NodeCredentials, NodeKey, NodeProfile, Role,
    RootAuthority, TrustBundle, serial::Serial, test_util::ManualClock,
};
use waxseal_cluster::{
    NewCluster as NewClusterObject, default_cluster_spec, new_cluster,
    objects::{
        Annotations, CreateNode, CreateSecret, JoinTokens as TokenTexts, Membership, Node,
        NodeRole, NodeSpec, RootCa, Secret, SecretSpec, command::Op,
    },
};
use waxseal_manager::{
    Manager, ManagerConfig, NewCluster, ProposeError, Start, StartError, component,
};
use waxseal_raft_store::DangerSimDisk;
use waxseal_wire::{
    Credentials, ManagerChannel,
    swarmkit::{SessionMessage, SessionRequest},
};

pub(crate) const CLUSTER: &str = "clusterclusterclusterclus";
pub(crate) const DEADLINE: Duration = Duration::from_secs(15);
/// Who is no member is cut off everywhere within that time.
pub(crate) const CUT_OFF: Duration = Duration::from_secs(1);

/// Whether a call ended with its connection, not by an answer: one that had not been sent yet is
/// told to be cancelled.
pub(crate) fn is_cut(code: tonic::Code) -> bool {
    use tonic::Code;
    matches!(code, Code::Unknown | Code::Unavailable | Code::Cancelled)
}

/// What outlives a manager: its disk, its root, the time.
pub(crate) struct World {
    pub(crate) disk: Arc<DangerSimDisk>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) root: RootAuthority,
    pub(crate) tokens: JoinTokens,
    /// The manager's feature level, if not this binary's.
    pub(crate) level: Option<u32>,
    deks: DekRing,
}

pub(crate) fn dek(byte: u8) -> Dek {
    let filled = Dek::generate(|bytes| {
        bytes.fill(byte);
        Ok::<_, ()>(())
    });
    filled.unwrap()
}

impl World {
    pub(crate) fn new() -> World {
        World::at(OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap())
    }

    /// A world a minute after `now`.
    pub(crate) fn at(now: OffsetDateTime) -> World {
        let root = RootAuthority::generate(now).unwrap();
        World {
            disk: Arc::new(DangerSimDisk::new(1)),
            clock: Arc::new(ManualClock::at(now + Duration::from_secs(60))),
            tokens: JoinTokens::generate(root.trust().digest(), &[1; 16], &[2; 16]),
            root,
            level: None,
            deks: DekRing::new(dek(1), []),
        }
    }

    pub(crate) fn retire(&mut self, current: Dek, retired: Dek) {
        self.deks = DekRing::new(current, [retired]);
    }

    /// The manager of a new cluster, with the worker `w1` on record.
    pub(crate) async fn found(&self) -> Manager {
        let new = NewCluster {
            cluster: self.cluster(),
            node: node("manager", NodeRole::Manager),
        };
        let manager = self.start(Start::Found(Box::new(new))).await.unwrap();
        add_worker(&manager, "w1").await;
        manager
    }

    pub(crate) async fn start(&self, start: Start) -> Result<Manager, StartError> {
        let config = self.config("manager", 7, 0);
        Manager::start_on(self.disk.clone(), config, start).await
    }

    /// What a manager of this cluster is started with, on a port of this host.
    pub(crate) fn config(&self, node_id: &str, raft_id: u64, port: u16) -> ManagerConfig {
        let credentials = self.credentials(node_id, Role::Manager);
        let advertise_addr = match port {
            0 => "192.0.2.1:2377".to_owned(),
            port => format!("127.0.0.1:{port}"),
        };
        ManagerConfig {
            owner: Owner {
                cluster_id: CLUSTER.into(),
                node_id: node_id.into(),
                raft_id,
            },
            deks: self.deks.clone(),
            dir: PathBuf::from("/sim"),
            listen: (Ipv4Addr::LOCALHOST, port).into(),
            advertise_addr,
            tls: self.live(self.root.trust(), credentials),
            clock: self.clock.clone(),
            changes: broadcast::channel(64).0,
            allow_tls12: false,
            danger_certificate_expiry: None,
            danger_feature_level: self.level,
        }
    }

    pub(crate) fn cluster(&self) -> waxseal_cluster::objects::Cluster {
        let text = |role| self.tokens.token(role).expose_text().to_owned();
        new_cluster(NewClusterObject {
            id: CLUSTER.into(),
            root_ca: RootCa {
                ca_key: self.root.key_pem().as_bytes().to_vec(),
                ca_cert: self.root.cert_pem().into(),
                join_tokens: Some(TokenTexts {
                    worker: text(Role::Worker),
                    manager: text(Role::Manager),
                }),
                ..RootCa::default()
            },
            spec: default_cluster_spec(),
            unlock_key: None,
        })
    }

    pub(crate) fn credentials(&self, node_id: &str, role: Role) -> Arc<NodeCredentials> {
        self.issue(CLUSTER, node_id, role, CertificateExpiry::DEFAULT)
    }

    pub(crate) fn issue(
        &self,
        cluster_id: &str,
        node_id: &str,
        role: Role,
        expiry: CertificateExpiry,
    ) -> Arc<NodeCredentials> {
        use waxseal_ca::Clock;
        let now = self.clock.now();
        let key = NodeKey::generate().unwrap();
        let csr = Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap();
        let profile = NodeProfile {
            cluster_id: cluster_id.into(),
            node_id: node_id.into(),
            role,
            expiry,
        };
        let serial = Serial::from_random([7; 20]).unwrap();
        let issued = self.root.issue(&profile, &csr, serial, now).unwrap();
        NodeCredentials::new(issued.pem.as_bytes(), key, self.root.trust(), now).unwrap()
    }

    pub(crate) fn live(
        &self,
        trust: &TrustBundle,
        credentials: Arc<NodeCredentials>,
    ) -> Arc<LiveTls> {
        LiveTls::new(
            Arc::new(trust.clone()),
            Some(credentials),
            self.clock.clone(),
        )
    }

    pub(crate) async fn dial(
        &self,
        manager: &Manager,
        credentials: Arc<NodeCredentials>,
    ) -> ManagerChannel {
        let address = manager.address().unwrap().to_string();
        let live = self.live(self.root.trust(), credentials);
        ManagerChannel::dial(&address, Credentials::Member(&live))
            .await
            .unwrap()
    }

    pub(crate) async fn worker(&self, manager: &Manager, node_id: &str) -> ManagerChannel {
        let credentials = self.credentials(node_id, Role::Worker);
        self.dial(manager, credentials).await
    }

    pub(crate) async fn joiner(&self, manager: &Manager) -> ManagerChannel {
        let address = manager.address().unwrap().to_string();
        let trust = Arc::new(self.root.trust().clone());
        let clock: Arc<dyn waxseal_ca::Clock> = self.clock.clone();
        let credentials = Credentials::Join {
            trust: &trust,
            clock: &clock,
        };
        ManagerChannel::dial(&address, credentials).await.unwrap()
    }
}

pub(crate) fn node(id: &str, role: NodeRole) -> Node {
    Node {
        id: id.into(),
        role: role.into(),
        spec: Some(NodeSpec {
            annotations: Some(Annotations::default()),
            desired_role: role.into(),
            membership: Membership::Accepted.into(),
            ..NodeSpec::default()
        }),
        ..Node::default()
    }
}

pub(crate) async fn add_worker(manager: &Manager, id: &str) {
    add_node(manager, id, NodeRole::Worker).await;
}

pub(crate) async fn add_node(manager: &Manager, id: &str, role: NodeRole) {
    let node = Some(node(id, role));
    let created = manager.propose(component("test"), Op::CreateNode(CreateNode { node }));
    created.await.unwrap();
}

pub(crate) async fn create_secret(
    manager: &Manager,
    id: &str,
    bytes: usize,
) -> Result<(), ProposeError> {
    let spec = SecretSpec {
        annotations: Some(Annotations {
            name: id.into(),
            ..Annotations::default()
        }),
        data: vec![7; bytes],
        ..SecretSpec::default()
    };
    let secret = Some(Secret {
        id: id.into(),
        spec: Some(spec),
        ..Secret::default()
    });
    let op = Op::CreateSecret(CreateSecret { secret });
    manager.propose(component("test"), op).await.map(drop)
}

/// A session's stream and its first message.
pub(crate) async fn open_session(
    channel: &ManagerChannel,
) -> Result<(Streaming<SessionMessage>, SessionMessage), Status> {
    let mut dispatcher = channel.dispatcher();
    let answer = dispatcher.session(SessionRequest::default()).await?;
    let mut messages = answer.into_inner();
    let first = messages.next().await.unwrap()?;
    Ok((messages, first))
}
