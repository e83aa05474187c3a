//! The `waxseal` command: the daemon, a client of its API, and a demonstration of both.
//!
//! A file per verb. This crate decides nothing: the daemon is `waxseal_daemon`, the process that
//! holds a task is `waxseal_agent::native`, and what a verb asks for is answered by the API.
//!
//! It is a library so that a test can run the very same command on another [`Underlay`].

mod args;
mod ca;
mod cert;
mod client;
mod completions;
mod config;
mod daemon;
mod demo;
mod events;
mod failure;
mod info;
mod input;
mod join_token;
mod manager;
mod memory;
mod node;
mod output;
mod payload;
mod registry;
mod secret;
mod service;
mod socket;
mod status;
mod swarm;
mod tls;
mod unlock;
mod version;

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use waxseal_ca::{Clock, SystemClock};
use waxseal_daemon::{Disk, OsDisk};

pub use crate::memory::{MEMORY, Memory, SetAside};
use crate::{
    args::{Args, Verb},
    failure::Failure,
};

/// What a daemon stands on, which no flag changes.
#[derive(Debug)]
pub struct Underlay {
    /// Where it keeps its state.
    pub disk: Arc<dyn Disk>,
    /// Its wall clock.
    pub clock: Arc<dyn Clock>,
    /// Feature level in place of this binary's; for the harness only.
    pub danger_feature_level: Option<u32>,
}

impl Default for Underlay {
    /// The product's: the system's files and clock.
    fn default() -> Underlay {
        Underlay {
            disk: Arc::new(OsDisk),
            clock: Arc::new(SystemClock),
            danger_feature_level: None,
        }
    }
}

/// The command as the process's arguments ask for it; a daemon stands on what `underlay` makes.
pub fn main_on(underlay: fn() -> Underlay) -> ExitCode {
    // The shim of a task has one thread and nothing open: it is told apart before anything starts.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "shim")
    {
        return waxseal_agent::native::shim_main();
    }
    match run(Args::parse(), underlay) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args, underlay: fn() -> Underlay) -> Result<(), Failure> {
    // Clients hold secrets and unlock keys as well; only the daemon insists on all of it.
    let hardened = waxseal_mount::harden::harden_process();
    match args.verb {
        Verb::Daemon(daemon) => daemon::run(daemon, args.hosts, underlay(), hardened),
        Verb::Demo(demo) => demo::run(demo, &args.hosts),
        Verb::Completions(shell) => completions::run(&shell),
        verb => client::block_on(verb.run(socket::for_client(args.hosts)?)),
    }
}
