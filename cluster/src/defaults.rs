//! The cluster object that a new cluster starts with.

use prost_types::Duration;

use crate::{
    feature::FEATURE_LEVEL,
    objects::{
        Annotations, CaConfig, Cluster, ClusterSpec, DispatcherConfig, EncryptionConfig,
        OrchestrationConfig, RaftConfig, RootCa, TaskDefaults, UnlockKeyRecord,
    },
};

/// Certificates of nodes are valid for 90 days (swarmkit's default).
const NODE_CERT_EXPIRY_SECS: i64 = 90 * 24 * 60 * 60;
/// Nodes report every 5 s (swarmkit's default).
const HEARTBEAT_SECS: i64 = 5;
/// Address pool of overlay networks (the Docker Engine's default); shown only.
const DEFAULT_ADDRESS_POOL: &str = "10.0.0.0/8";
/// Bits of the network part of a subnet from the pool (the Docker Engine's default).
const DEFAULT_SUBNET_SIZE: u32 = 24;
/// VXLAN port (the Docker Engine's default); shown only.
const DEFAULT_DATA_PATH_PORT: u32 = 4789;

/// What a new cluster object is made of.
#[derive(Debug)]
pub struct NewCluster {
    /// The cluster's id, which its certificates name as organisation.
    pub id: String,
    /// The root certificate, its key and the join tokens.
    pub root_ca: RootCa,
    /// What the user asked for; [`default_cluster_spec`] if nothing.
    pub spec: ClusterSpec,
    /// The operator's unlock key; with it the managers lock at restart.
    pub unlock_key: Option<Vec<u8>>,
}

/// The cluster object of a new cluster, for its first command.
pub fn new_cluster(new: NewCluster) -> Cluster {
    let mut spec = new.spec;
    spec.encryption_config = Some(EncryptionConfig {
        auto_lock_managers: new.unlock_key.is_some(),
    });
    Cluster {
        id: new.id,
        meta: None,
        spec: Some(spec),
        root_ca: Some(new.root_ca),
        default_addr_pool: vec![DEFAULT_ADDRESS_POOL.into()],
        subnet_size: DEFAULT_SUBNET_SIZE,
        data_path_port: DEFAULT_DATA_PATH_PORT,
        unlock_key: new.unlock_key.map(|key| UnlockKeyRecord { key, epoch: 1 }),
        feature_level: FEATURE_LEVEL,
        incarnation: 1,
        past_roots: Vec::new(),
        root_since: None,
        signer_trouble: None,
        signing_way: Vec::new(),
        past_issuers: Vec::new(),
        return_window: None,
    }
}

/// The settings of a cluster whose user gave none (the Docker Engine's defaults).
pub fn default_cluster_spec() -> ClusterSpec {
    ClusterSpec {
        annotations: Some(Annotations {
            name: "default".into(),
            ..Annotations::default()
        }),
        orchestration: Some(OrchestrationConfig {
            task_history_retention_limit: 5,
        }),
        raft: Some(RaftConfig {
            snapshot_interval: 10_000,
            keep_old_snapshots: 0,
            log_entries_for_slow_followers: 500,
            heartbeat_tick: 1,
            election_tick: 10,
        }),
        dispatcher: Some(DispatcherConfig {
            heartbeat_period: Some(Duration {
                seconds: HEARTBEAT_SECS,
                nanos: 0,
            }),
        }),
        ca_config: Some(CaConfig {
            node_cert_expiry: Some(Duration {
                seconds: NODE_CERT_EXPIRY_SECS,
                nanos: 0,
            }),
            ..CaConfig::default()
        }),
        task_defaults: Some(TaskDefaults::default()),
        encryption_config: Some(EncryptionConfig::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::validate_cluster_spec;

    #[test]
    fn the_default_settings_pass_their_own_rules() {
        assert_eq!(validate_cluster_spec(&default_cluster_spec()), Ok(()));
    }

    #[test]
    fn the_unlock_key_decides_about_autolock() {
        let cluster = |unlock_key: Option<Vec<u8>>| {
            new_cluster(NewCluster {
                id: "c".into(),
                root_ca: RootCa::default(),
                spec: ClusterSpec {
                    encryption_config: Some(EncryptionConfig {
                        auto_lock_managers: unlock_key.is_none(),
                    }),
                    ..default_cluster_spec()
                },
                unlock_key,
            })
        };
        let autolock = |cluster: &Cluster| {
            let spec = cluster.spec.as_ref().unwrap();
            spec.encryption_config.unwrap().auto_lock_managers
        };
        let open = cluster(None);
        assert!(!autolock(&open) && open.unlock_key.is_none());
        let locked = cluster(Some(vec![1; 32]));
        assert!(autolock(&locked));
        assert_eq!(locked.unlock_key.unwrap().epoch, 1);
    }
}
