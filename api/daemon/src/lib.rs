//! Local node state and data directory; starts and stops agent and manager.
//!
//! A [`Daemon`] is what the process on every host holds: where the local node
//! stands (inactive, pending, active, locked, error), the files of its
//! membership, and while it is a member the agent and perhaps the manager. It
//! is the [`Cluster`](waxseal_api::Cluster) behind the Engine API.

mod address;
mod clock_set;
mod cluster;
mod config;
mod daemon;
mod data_root;
mod enter;
mod facts;
mod found;
mod issuer_file;
mod join;
mod keys;
mod leave;
mod local;
mod member;
mod node_file;
mod run;
mod seat;
mod sockets;
mod text;
mod tls;

pub use cluster::DaemonCluster;
pub use config::DaemonConfig;
pub use daemon::Daemon;
pub use data_root::{DataRoot, DataRootError};
pub use keys::KeysError;
pub use run::{RunError, run};
pub use sockets::SocketError;
pub use tls::{TlsError, TlsFiles};
/// What a daemon's files are written through, and the one that is the system's.
pub use waxseal_raft_store::{Disk, OsDisk};
