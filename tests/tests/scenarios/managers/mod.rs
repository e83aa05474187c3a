//! Several managers.

mod faults;
mod group;
mod locked;
mod partitions;
mod roles;
mod tasks;

use std::time::Duration;

/// What happens by itself has happened by then, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);
/// From the death of the leader to the next acknowledged write, on a machine that does many other
/// things; the bench has the real figure.
const FAILOVER: Duration = Duration::from_secs(15);
