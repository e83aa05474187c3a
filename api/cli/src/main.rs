//! The `waxseal` command: the daemon, a client of its API, and a demonstration of both.
//!
//! A file per verb. This crate decides nothing: the daemon is `waxseal_daemon`, the process that
//! holds a task is `waxseal_agent::native`, and what a verb asks for is answered by the API.

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

use std::{alloc::System, process::ExitCode};

use clap::Parser;
use zeroizing_alloc::ZeroAlloc;

use crate::{
    args::{Args, Verb},
    failure::Failure,
};

/// Wipes what is freed: secrets pass through buffers of libraries that do not wipe theirs.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    // The shim of a task has one thread and nothing open: it is told apart before anything starts.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "shim")
    {
        return waxseal_agent::native::shim_main();
    }
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(args: Args) -> Result<(), Failure> {
    // Clients hold secrets and unlock keys as well; only the daemon insists on all of it.
    let hardened = waxseal_mount::harden::harden_process();
    match args.verb {
        Verb::Daemon(daemon) => daemon::run(daemon, args.hosts, hardened),
        Verb::Demo(demo) => demo::run(demo, &args.hosts),
        Verb::Completions(shell) => completions::run(&shell),
        verb => client::block_on(verb.run(socket::for_client(args.hosts)?)),
    }
}
