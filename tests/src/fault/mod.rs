//! Faults of a daemon's disk: slow, failing, full, cut in the middle of a write; and of its clock.
//!
//! The program `waxseal-fault` is the `waxseal` command on a [`FaultyDisk`], which passes
//! everything on but for what [`Rule`]s say. They are set while it runs, over a unix socket, by a
//! [`Fault`]. The product itself holds none of this: it does not depend on this crate.

mod client;
mod clock;
mod control;
mod disk;
mod rule;

pub use client::Fault;
pub use clock::MovedClock;
pub use control::serve;
pub use disk::FaultyDisk;
pub use rule::{Effect, Op, Rule, RuleError};

/// Environment variable of `waxseal-fault`: the socket where rules are set. Without it there are
/// none.
pub const SOCKET_VARIABLE: &str = "WAXSEAL_FAULT_SOCKET";

/// Environment variable of `waxseal-fault`: the file that says by how many seconds its wall clock
/// is off.
pub const CLOCK_VARIABLE: &str = "WAXSEAL_FAULT_CLOCK";

/// Environment variable of `waxseal-fault`: the feature level that it has in place of the product's.
pub const LEVEL_VARIABLE: &str = "WAXSEAL_FAULT_LEVEL";
