//! The cluster object and the requests about it as JSON.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Deserializer, Serialize, de};
use time::OffsetDateTime;
use waxseal_cluster::{objects, signing_issuer};
use zeroize::Zeroizing;

use super::common::{AsBase64, Driver, Labels, Meta, Time, annotations, duration, nanos};

/// The cluster, with join tokens only where an operator asked for them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Swarm<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(flatten)]
    meta: Meta,
    spec: Spec,
    #[serde(rename = "TLSInfo")]
    tls_info: ClusterTlsInfo<'a>,
    root_rotation_in_progress: bool,
    default_addr_pool: Option<&'a [String]>,
    subnet_size: u32,
    data_path_port: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    join_tokens: Option<JoinTokens<'a>>,
    /// Ours: what keeps the external CA from signing.
    #[serde(skip_serializing_if = "Option::is_none")]
    signer_trouble: Option<SignerTrouble<'a>>,
}

/// Since when the external CA does not sign, and why.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SignerTrouble<'a> {
    since: Time,
    error: &'a str,
}

/// The two tokens.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct JoinTokens<'a> {
    worker: &'a str,
    manager: &'a str,
}

impl<'a> Swarm<'a> {
    /// The cluster as in `GET /info`: without join tokens.
    pub(crate) fn without_tokens(cluster: &'a objects::Cluster, now: OffsetDateTime) -> Swarm<'a> {
        let root_ca = cluster.root_ca.as_ref();
        let pool = &cluster.default_addr_pool;
        Swarm {
            id: &cluster.id,
            meta: Meta::of(cluster.meta.as_ref()),
            spec: cluster.spec.as_ref().map(Spec::from).unwrap_or_default(),
            tls_info: ClusterTlsInfo::of(cluster, now),
            root_rotation_in_progress: root_ca.is_some_and(|root| root.root_rotation.is_some()),
            default_addr_pool: (!pool.is_empty()).then_some(pool),
            subnet_size: cluster.subnet_size,
            data_path_port: cluster.data_path_port,
            join_tokens: None,
            signer_trouble: cluster
                .signer_trouble
                .as_ref()
                .map(|trouble| SignerTrouble {
                    since: Time::of(trouble.since.as_ref()),
                    error: &trouble.error,
                }),
        }
    }

    /// The cluster as in `GET /swarm`.
    pub(crate) fn with_tokens(cluster: &'a objects::Cluster, now: OffsetDateTime) -> Swarm<'a> {
        let tokens = cluster
            .root_ca
            .as_ref()
            .and_then(|root| root.join_tokens.as_ref());
        Swarm {
            join_tokens: Some(JoinTokens {
                worker: tokens.map_or("", |tokens| &tokens.worker),
                manager: tokens.map_or("", |tokens| &tokens.manager),
            }),
            ..Swarm::without_tokens(cluster, now)
        }
    }
}

/// The root that nodes trust and who signs their certificates.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClusterTlsInfo<'a> {
    trust_root: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_issuer_subject: Option<OwnedBase64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_issuer_public_key: Option<OwnedBase64>,
}

struct OwnedBase64(Vec<u8>);

impl Serialize for OwnedBase64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        AsBase64(&self.0).serialize(serializer)
    }
}

impl<'a> ClusterTlsInfo<'a> {
    fn of(cluster: &'a objects::Cluster, now: OffsetDateTime) -> ClusterTlsInfo<'a> {
        let root = cluster.root_ca.as_ref();
        let ca_cert: &[u8] = root.map_or(&[], |root| &root.ca_cert);
        // While the root rotates, the one to be signs and the old one is trusted. A root that has
        // run out still shows its text; the rest stays empty then.
        let issuer = signing_issuer(cluster, now);
        let (subject, key) = match issuer {
            Some(issuer) => (Some(issuer.subject_der), Some(issuer.public_key_der)),
            None => (None, None),
        };
        ClusterTlsInfo {
            trust_root: String::from_utf8_lossy(ca_cert),
            cert_issuer_subject: subject.map(OwnedBase64),
            cert_issuer_public_key: key.map(OwnedBase64),
        }
    }
}

/// The settings of a cluster, read and written by clients as a whole.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Spec {
    /// Always `default`.
    pub(crate) name: String,
    /// Free.
    pub(crate) labels: Labels,
    /// How much of finished tasks is kept.
    pub(crate) orchestration: OrchestrationConfig,
    /// Kept for clients; the log has its own rules.
    pub(crate) raft: RaftConfig,
    /// Heartbeats.
    pub(crate) dispatcher: DispatcherConfig,
    /// Certificates.
    #[serde(rename = "CAConfig")]
    pub(crate) ca_config: CaConfig,
    /// For services that do not say.
    pub(crate) task_defaults: TaskDefaults,
    /// Whether managers lock.
    pub(crate) encryption_config: EncryptionConfig,
}

/// Part of [`Spec`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct OrchestrationConfig {
    /// Finished tasks kept per slot; negative: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task_history_retention_limit: Option<i64>,
}

/// Part of [`Spec`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct RaftConfig {
    #[serde(skip_serializing_if = "is_zero")]
    snapshot_interval: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_old_snapshots: Option<u64>,
    #[serde(skip_serializing_if = "is_zero")]
    log_entries_for_slow_followers: u64,
    election_tick: u32,
    heartbeat_tick: u32,
}

/// Part of [`Spec`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct DispatcherConfig {
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_zero_i64")]
    pub(crate) heartbeat_period: i64,
}

/// Part of [`Spec`]. Signing certificate and key are never shown.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default, rename = "CAConfig", rename_all = "PascalCase")]
pub(crate) struct CaConfig {
    /// Nanoseconds.
    #[serde(skip_serializing_if = "is_zero_i64")]
    pub(crate) node_cert_expiry: i64,
    /// External signers.
    #[serde(rename = "ExternalCAs", skip_serializing_if = "Vec::is_empty")]
    pub(crate) external_cas: Vec<ExternalCa>,
    /// PEM.
    #[serde(rename = "SigningCACert", skip_serializing)]
    pub(crate) signing_ca_cert: String,
    /// PEM.
    #[serde(rename = "SigningCAKey", skip_serializing)]
    pub(crate) signing_ca_key: Concealed,
    /// Raised to ask for a new root.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) force_rotate: u64,
}

impl fmt::Debug for CaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CaConfig { .. }")
    }
}

/// Part of [`CaConfig`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename = "ExternalCA", rename_all = "PascalCase")]
pub(crate) struct ExternalCa {
    /// `cfssl`.
    pub(crate) protocol: String,
    /// Where it is.
    #[serde(rename = "URL")]
    pub(crate) url: String,
    /// For the protocol.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) options: BTreeMap<String, String>,
    /// PEM.
    #[serde(rename = "CACert")]
    pub(crate) ca_cert: String,
}

/// Part of [`Spec`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct TaskDefaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    log_driver: Option<Driver>,
}

/// Part of [`Spec`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct EncryptionConfig {
    /// Whether managers lock at restart.
    pub(crate) auto_lock_managers: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero_i64(number: &i64) -> bool {
    *number == 0
}

impl From<&objects::ClusterSpec> for Spec {
    fn from(spec: &objects::ClusterSpec) -> Spec {
        let annotations = spec.annotations.clone().unwrap_or_default();
        let raft = spec.raft.unwrap_or_default();
        let ca = spec.ca_config.as_ref();
        Spec {
            name: annotations.name,
            labels: annotations.labels,
            orchestration: OrchestrationConfig {
                task_history_retention_limit: Some(
                    spec.orchestration
                        .as_ref()
                        .map_or(0, |o| o.task_history_retention_limit),
                ),
            },
            raft: RaftConfig {
                snapshot_interval: raft.snapshot_interval,
                keep_old_snapshots: Some(raft.keep_old_snapshots),
                log_entries_for_slow_followers: raft.log_entries_for_slow_followers,
                election_tick: raft.election_tick,
                heartbeat_tick: raft.heartbeat_tick,
            },
            dispatcher: DispatcherConfig {
                heartbeat_period: nanos(
                    spec.dispatcher
                        .as_ref()
                        .and_then(|dispatcher| dispatcher.heartbeat_period.as_ref()),
                ),
            },
            ca_config: CaConfig {
                node_cert_expiry: nanos(ca.and_then(|ca| ca.node_cert_expiry.as_ref())),
                external_cas: ca.map_or_else(Vec::new, |ca| {
                    ca.external_cas.iter().map(ExternalCa::from).collect()
                }),
                force_rotate: ca.map_or(0, |ca| ca.force_rotate),
                ..CaConfig::default()
            },
            task_defaults: TaskDefaults {
                log_driver: spec
                    .task_defaults
                    .as_ref()
                    .and_then(|defaults| defaults.log_driver.as_ref())
                    .map(Driver::from),
            },
            encryption_config: EncryptionConfig {
                auto_lock_managers: spec
                    .encryption_config
                    .as_ref()
                    .is_some_and(|encryption| encryption.auto_lock_managers),
            },
        }
    }
}

impl From<&objects::ExternalCa> for ExternalCa {
    fn from(ca: &objects::ExternalCa) -> ExternalCa {
        ExternalCa {
            protocol: "cfssl".to_owned(),
            url: ca.url.clone(),
            options: ca.options.clone(),
            ca_cert: String::from_utf8_lossy(&ca.ca_cert).into_owned(),
        }
    }
}

impl Spec {
    /// This, taken as the whole of the settings: what is left out is zero.
    pub(crate) fn replacing(self) -> objects::ClusterSpec {
        objects::ClusterSpec {
            annotations: Some(annotations(self.name, self.labels)),
            orchestration: Some(objects::OrchestrationConfig {
                task_history_retention_limit: self
                    .orchestration
                    .task_history_retention_limit
                    .unwrap_or(0),
            }),
            raft: Some(objects::RaftConfig {
                snapshot_interval: self.raft.snapshot_interval,
                keep_old_snapshots: self.raft.keep_old_snapshots.unwrap_or(0),
                log_entries_for_slow_followers: self.raft.log_entries_for_slow_followers,
                heartbeat_tick: self.raft.heartbeat_tick,
                election_tick: self.raft.election_tick,
            }),
            dispatcher: Some(objects::DispatcherConfig {
                heartbeat_period: some_duration(self.dispatcher.heartbeat_period),
            }),
            ca_config: Some(objects::CaConfig {
                node_cert_expiry: some_duration(self.ca_config.node_cert_expiry),
                force_rotate: self.ca_config.force_rotate,
                ..objects::CaConfig::default()
            }),
            task_defaults: Some(objects::TaskDefaults {
                log_driver: self.task_defaults.log_driver.map(Into::into),
            }),
            encryption_config: Some(objects::EncryptionConfig {
                auto_lock_managers: self.encryption_config.auto_lock_managers,
            }),
        }
    }

    /// This, laid over the settings of a new cluster: what is left out or zero
    /// stays as it is there.
    pub(crate) fn merged_into(self, mut spec: objects::ClusterSpec) -> objects::ClusterSpec {
        let given = self.replacing();
        let name = spec.annotations.take().unwrap_or_default().name;
        spec.annotations = given.annotations.map(|mut annotations| {
            annotations.name = name;
            annotations
        });
        if let (Some(over), Some(under)) = (given.orchestration, &mut spec.orchestration) {
            merge(
                &mut under.task_history_retention_limit,
                over.task_history_retention_limit,
            );
        }
        if let (Some(over), Some(under)) = (given.raft, &mut spec.raft) {
            merge(&mut under.snapshot_interval, over.snapshot_interval);
            merge(&mut under.keep_old_snapshots, over.keep_old_snapshots);
            merge(
                &mut under.log_entries_for_slow_followers,
                over.log_entries_for_slow_followers,
            );
            merge(&mut under.heartbeat_tick, over.heartbeat_tick);
            merge(&mut under.election_tick, over.election_tick);
        }
        if let (Some(over), Some(under)) = (given.dispatcher, &mut spec.dispatcher) {
            merge(&mut under.heartbeat_period, over.heartbeat_period);
        }
        if let (Some(over), Some(under)) = (given.ca_config, &mut spec.ca_config) {
            merge(&mut under.node_cert_expiry, over.node_cert_expiry);
            merge(&mut under.force_rotate, over.force_rotate);
            merge(&mut under.external_cas, over.external_cas);
        }
        if let (Some(over), Some(under)) = (given.task_defaults, &mut spec.task_defaults) {
            merge(&mut under.log_driver, over.log_driver);
        }
        if let (Some(over), Some(under)) = (given.encryption_config, &mut spec.encryption_config) {
            merge(&mut under.auto_lock_managers, over.auto_lock_managers);
        }
        spec
    }
}

/// Takes `given` unless it is the zero value.
fn merge<T: Default + PartialEq>(kept: &mut T, given: T) {
    if given != T::default() {
        *kept = given;
    }
}

fn some_duration(nanos: i64) -> Option<prost_types::Duration> {
    (nanos != 0).then(|| duration(nanos))
}

/// A text that is wiped on drop and shown nowhere: a key or a token.
#[derive(Clone, Default)]
pub(crate) struct Concealed(pub(crate) Zeroizing<String>);

impl fmt::Debug for Concealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Concealed")
    }
}

impl<'de> Deserialize<'de> for Concealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Concealed, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Concealed;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Concealed, E> {
                Ok(Concealed(Zeroizing::new(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// `POST /swarm/init`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "InitRequest", rename_all = "PascalCase")]
pub(crate) struct InitBody {
    /// Address or interface, with optional port.
    pub(crate) listen_addr: String,
    /// Empty: choose.
    pub(crate) advertise_addr: String,
    /// Of overlay networks; address or interface.
    pub(crate) data_path_addr: String,
    /// Of overlay networks; 0: the default.
    pub(crate) data_path_port: u32,
    /// Of overlay networks: CIDRs.
    pub(crate) default_addr_pool: Option<Vec<String>>,
    /// A cluster of one from this node's data.
    pub(crate) force_new_cluster: bool,
    /// Settings; zero means default.
    pub(crate) spec: Spec,
    /// Whether managers lock.
    pub(crate) auto_lock_managers: bool,
    /// Of the first node.
    pub(crate) availability: String,
    /// Of the networks from the pool.
    pub(crate) subnet_size: u32,
}

/// `POST /swarm/join`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "JoinRequest", rename_all = "PascalCase")]
pub(crate) struct JoinBody {
    /// Address or interface, with optional port.
    pub(crate) listen_addr: String,
    /// Empty: choose.
    pub(crate) advertise_addr: String,
    /// Of overlay networks; address or interface.
    pub(crate) data_path_addr: String,
    /// Managers.
    pub(crate) remote_addrs: Vec<String>,
    /// The token.
    pub(crate) join_token: Concealed,
    /// Of the node.
    pub(crate) availability: String,
}

/// `POST /swarm/unlock`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename = "UnlockRequest", rename_all = "PascalCase")]
pub(crate) struct UnlockBody {
    /// `SWMKEY-1-…`.
    pub(crate) unlock_key: Concealed,
}
