//! Harness of the scenarios: real daemons, real Docker Engines, the stock `docker` CLI.
//!
//! A scenario runs in a [`Scene`]: a scratch directory, a loopback address of its own and the
//! processes that it started. When it passes, nothing is left; when it fails, the directory with all
//! state and logs stays and its path is printed. What a scenario needs and the machine does not have
//! is a failure that says what is missing, never a skip. Nothing leaves 127.0.0.0/8 and unix sockets.

mod cli;
mod clock;
mod dockerd;
mod engine;
pub mod fault;
mod golden;
pub mod history;
mod leftovers;
mod load;
mod machine;
mod managers;
mod namespace;
mod process;
mod registry;
mod scene;
mod search;
mod switch;
mod wait;
mod waxseal;
mod workload;

pub use cli::{Cli, Output};
pub use clock::{DaemonClock, clock_environment};
pub use dockerd::Dockerd;
pub use engine::{Answer, Connection, Engine, raw_exchange};
pub use golden::{golden, golden_with_version};
pub use leftovers::{clear, mounts_below, processes_below};
pub use load::{Acknowledged, SecretLoad};
pub use machine::{Machine, long_run, require};
pub use managers::{
    Managers, Standing, leader, manager_token, next_write, node_id, settled, standings,
};
pub use namespace::NetworkNamespace;
pub use process::{Running, run, run_with_input};
pub use registry::Registry;
pub use scene::{Scene, scenario};
pub use search::{Finding, Markers, find};
pub use switch::Switch;
pub use wait::{eventually, holds_for};
pub use waxseal::{DaemonOptions, Waxseal};
pub use workload::Workload;
