//! `waxseal config`.

use clap::Subcommand;

use crate::{
    client::Client,
    failure::Failure,
    payload::{self, CreateArgs, InspectArgs, Kind, ListArgs, RemoveArgs},
};

/// Configs: payloads that may be read back.
pub(crate) const CONFIG: Kind = Kind {
    noun: "config",
    route: "/configs",
    max_bytes: 1_023_999,
};

/// Keep configuration files and hand them to tasks
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a config from standard input or a file
    Create(CreateArgs),
    /// List configs
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show configs with their data
    Inspect(InspectArgs),
    /// Remove configs that no service refers to
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
}

pub(crate) async fn run(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create(args) => payload::create(client, CONFIG, args).await,
        Verb::Ls(args) => payload::list(client, CONFIG, args).await,
        Verb::Inspect(args) => payload::inspect(client, CONFIG, args).await,
        Verb::Rm(args) => payload::remove(client, CONFIG, args).await,
    }
}
