//! Several managers.

mod clocks;
mod disks;
mod faults;
mod group;
mod levels;
mod locked;
mod moves;
mod partitions;
mod recovery;
mod removal;
mod roles;
mod tasks;

use std::time::Duration;

use anyhow::Result;
use waxseal_tests::{DaemonOptions, Managers, Scene, Switch};

/// What happens by itself has happened by then, on a busy machine too.
const SOON: Duration = Duration::from_secs(30);
/// From the death of the leader to the next acknowledged write, on a machine that does many other
/// things; the bench has the real figure.
const FAILOVER: Duration = Duration::from_secs(15);

/// Managers on hosts of their own.
fn on_switch(scene: &Scene, count: u8) -> Result<(Switch, Managers)> {
    let switch = Switch::new(scene, count)?;
    let options = (0..count)
        .map(|host| DaemonOptions {
            quiet: true,
            ..switch.options(host)
        })
        .collect();
    let group = Managers::with(scene, options, &[])?;
    Ok((switch, group))
}

fn host(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX)
}
