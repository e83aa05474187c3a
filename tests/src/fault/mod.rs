//! Faults of a daemon's disk: slow, failing, full, cut in the middle of a write.
//!
//! The program `waxseal-fault` is the `waxseal` command on a [`FaultyDisk`], which passes
//! everything on but for what [`Rule`]s say. They are set while it runs, over a unix socket, by a
//! [`Fault`]. The product itself holds none of this: it does not depend on this crate.

mod client;
mod control;
mod disk;
mod rule;

pub use client::Fault;
pub use control::serve;
pub use disk::FaultyDisk;
pub use rule::{Effect, Op, Rule, RuleError};

/// Environment variable of `waxseal-fault`: the socket where rules are set. Without it there are
/// none.
pub const SOCKET_VARIABLE: &str = "WAXSEAL_FAULT_SOCKET";
