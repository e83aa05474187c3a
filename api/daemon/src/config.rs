//! How a daemon is set up.

use std::{path::PathBuf, sync::Arc, time::Duration};

use waxseal_cluster::objects::GenericResource;
use waxseal_raft_store::Disk;

/// A daemon's configuration, checked. The flags are in `waxseal daemon --help`.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Sockets of the Engine API.
    pub hosts: Vec<PathBuf>,
    /// TCP addresses of the Engine API, `host:port`, and what proves callers there.
    pub tcp: Option<(Vec<String>, crate::TlsFiles)>,
    /// Where state is kept.
    pub data_root: PathBuf,
    /// What keys, log and `node.pb` are written through: the system's files, but where a
    /// test puts another disk below.
    pub disk: Arc<dyn Disk>,
    /// Where running tasks have their sockets.
    pub exec_root: PathBuf,
    /// Where the process id is written.
    pub pidfile: Option<PathBuf>,
    /// Group of the sockets; if absent `docker`, or the daemon's own where there is none.
    pub group: Option<String>,
    /// Engine labels, `key=value`.
    pub labels: Vec<String>,
    /// Generic resources that this node offers.
    pub generic_resources: Vec<GenericResource>,
    /// Whether debug logging is on.
    pub debug: bool,
    /// Address or interface to advertise if `swarm init` names none.
    pub default_advertise_addr: Option<String>,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
    /// Which native tasks this node runs.
    pub native_tasks: waxseal_agent::native::UserPolicy,
    /// What happens to tasks whose daemon stays away or whose node is removed.
    pub orphan_tasks: waxseal_agent::native::OrphanPolicy,
    /// Whether TLS 1.2 is accepted from old engines, and from old clients of the API over TCP.
    pub allow_tls12: bool,
    /// Life of certificates in place of the cluster's; for the harness only, no
    /// flag of the product leads here.
    pub danger_certificate_expiry: Option<waxseal_ca::CertificateExpiry>,
    /// Feature level in place of this binary's; for the harness only.
    pub danger_feature_level: Option<u32>,
}
