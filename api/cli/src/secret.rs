//! `waxseal secret`.

use clap::Subcommand;

use crate::{
    client::Client,
    failure::Failure,
    payload::{self, CreateArgs, InspectArgs, Kind, ListArgs, RemoveArgs},
};

/// Secrets: payloads that only tasks see which refer to them.
pub(crate) const SECRET: Kind = Kind {
    noun: "secret",
    route: "/secrets",
    max_bytes: 511_999,
};

/// Keep secrets and hand them to tasks
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a secret from standard input or a file, never from the command line
    #[command(after_help = "For example: printf %s hunter2 | waxseal secret create db_password -")]
    Create(CreateArgs),
    /// List secrets
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show what is known of secrets; never their data
    Inspect(InspectArgs),
    /// Remove secrets that no service refers to
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

pub(crate) async fn run(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create(args) => payload::create(client, SECRET, args).await,
        Verb::Ls(args) => payload::list(client, SECRET, args).await,
        Verb::Inspect(args) => payload::inspect(client, SECRET, args).await,
        Verb::Rm(args) => payload::remove(client, SECRET, args).await,
    }
}
