//! What can be said on the command line.

use clap::{Parser, Subcommand};

use crate::{
    ca, cert, client::Client, completions, config, daemon, demo, events, failure::Failure,
    join_token, manager, node, secret, service, socket::Socket, status, swarm, unlock, version,
};

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 refused by the daemon, 2 wrong usage, 3 no daemon could be reached,
4 this manager is locked. Errors go to standard error: what happened, then a hint.

Who may open the daemon's socket is root on the cluster.";

/// An identity for every node of a Docker Swarm cluster, managers sealed at rest, secrets for tasks.
#[derive(Debug, Parser)]
#[command(name = "waxseal", version, max_term_width = 100, after_help = AFTER_HELP)]
pub(crate) struct Args {
    /// Socket of the Engine API: the daemon serves it (repeatable), the other verbs speak to it;
    /// tcp://HOST:PORT is with mutual TLS, by DOCKER_TLS_VERIFY and DOCKER_CERT_PATH
    /// [env: WAXSEAL_HOST, then DOCKER_HOST] [default: unix:///run/waxseal/waxseal.sock]
    #[arg(short = 'H', long = "host", global = true, value_name = "unix:///PATH")]
    pub(crate) hosts: Vec<String>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Daemon(daemon::Args),
    Demo(demo::Args),
    Status(status::Args),
    Swarm(swarm::Args),
    Unlock(unlock::Args),
    #[command(subcommand)]
    Node(node::Verb),
    #[command(subcommand)]
    Ca(ca::Verb),
    #[command(subcommand)]
    Manager(manager::Verb),
    #[command(subcommand)]
    Cert(cert::Verb),
    #[command(subcommand)]
    JoinToken(Box<join_token::Verb>),
    #[command(subcommand)]
    Secret(secret::Verb),
    #[command(subcommand)]
    Config(config::Verb),
    Service(Box<service::Args>),
    Events(events::Args),
    Version(version::Args),
    Completions(completions::Args),
}

impl Verb {
    /// Runs a verb that speaks to a daemon.
    pub(crate) async fn run(self, socket: Socket) -> Result<(), Failure> {
        let client = Client::new(socket);
        match self {
            Verb::Status(args) => status::run(&client, args).await,
            Verb::Swarm(args) => swarm::run(&client, args).await,
            Verb::Unlock(args) => unlock::run(&client, args).await,
            Verb::Node(verb) => node::run(&client, verb).await,
            Verb::Ca(verb) => ca::run(&client, verb).await,
            Verb::Manager(verb) => manager::run(&client, verb).await,
            Verb::Cert(verb) => cert::run(&client, verb).await,
            Verb::JoinToken(verb) => join_token::run(&client, *verb).await,
            Verb::Secret(verb) => secret::run(&client, verb).await,
            Verb::Config(verb) => config::run(&client, verb).await,
            Verb::Service(args) => service::run(&client, *args).await,
            Verb::Events(args) => events::run(&client, args).await,
            Verb::Version(args) => version::run(&client, args).await,
            Verb::Daemon(_) | Verb::Demo(_) | Verb::Completions(_) => {
                Err(Failure::usage("this verb speaks to no daemon"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_without_contradictions() {
        super::Args::command().debug_assert();
    }
}
