//! The `waxseal` command: the daemon, a client of its API, and a demonstration of both.
//!
//! A file per verb. This crate decides nothing: the daemon is `waxseal_daemon`, the process that
//! holds a task is `waxseal_agent::native`, and what a verb asks for is answered by the API.
//!
//! It is a library so that a test can run the very same command on another [`Disk`].

mod args;
mod client;
mod completions;
mod config;
mod daemon;
mod demo;
mod events;
mod failure;
mod info;
mod input;
mod manager;
mod node;
mod output;
mod payload;
mod secret;
mod service;
mod socket;
mod status;
mod swarm;
mod unlock;
mod version;

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use waxseal_daemon::Disk;

use crate::{
    args::{Args, Verb},
    failure::Failure,
};

/// The command as the process's arguments ask for it; a daemon keeps its state on the disk that
/// `disk` makes.
pub fn main_on(disk: fn() -> Arc<dyn Disk>) -> ExitCode {
    // The shim of a task has one thread and nothing open: it is told apart before anything starts.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "shim")
    {
        return waxseal_agent::native::shim_main();
    }
    match run(Args::parse(), disk) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args, disk: fn() -> Arc<dyn Disk>) -> Result<(), Failure> {
    // Clients hold secrets and unlock keys as well; only the daemon insists on all of it.
    let hardened = waxseal_mount::harden::harden_process();
    match args.verb {
        Verb::Daemon(daemon) => daemon::run(daemon, args.hosts, disk(), hardened),
        Verb::Demo(demo) => demo::run(demo, &args.hosts),
        Verb::Completions(shell) => completions::run(&shell),
        verb => client::block_on(verb.run(socket::for_client(args.hosts)?)),
    }
}
