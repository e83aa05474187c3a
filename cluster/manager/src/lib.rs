//! The manager: Raft node, CA and Dispatcher services, control loops.
//!
//! Decisions are made elsewhere (`waxseal-ca`, `waxseal-cluster`); here they meet
//! the log, the clock and the network. One door: everything between hosts comes
//! in through one TLS port, and every write goes through one proposer.

mod authorize;
mod ca;
mod control;
mod core;
mod dispatcher;
mod door;
mod elections;
mod engine;
mod error;
mod guard;
mod handover;
mod hello;
mod joining;
mod leadership;
mod leading;
mod log_broker;
mod loops;
mod manager;
mod membership;
mod monitor;
mod peers;
mod proposer;
mod pulse;
mod raft;
mod roles;
mod room;
mod state_machine;
#[cfg(test)]
mod testing;
mod timekeeping;
mod vault;

pub use ca::{ExternalConfigError, ExternalError, ExternalSigner, IssuerError, OwnCertificate};
pub use control::{LogsError, ReadError};
pub use error::{ApplyError, Failure, MembershipError, ProposeError, RotateError, StartError};
pub use leadership::Leader;
pub use log_broker::{IncompleteLogs, LogLines, TooManyReaders};
pub use manager::{JoinCluster, Manager, ManagerConfig, NewCluster, Start, component};
pub use state_machine::{RestoreError, TooOld};
pub use vault::{PageVault, VaultError};
pub use waxseal_cluster::plan::MemberView;
pub use waxseal_wire::FEATURE_LEVEL;
