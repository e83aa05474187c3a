//! `waxseal swarm join`.

use std::path::PathBuf;

use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    client::Client,
    failure::Failure,
    info::SwarmInfo,
    input,
    output::{self, shown},
};

/// Join a cluster with a token
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A manager prints the whole command with `waxseal swarm join-token worker`."
)]
pub(super) struct Args {
    /// Join token, which says as what; other users of this host can see it while this runs
    #[arg(long, value_name = "TOKEN", required_unless_present = "token_file")]
    token: Option<String>,
    /// File with the join token; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// Address or interface that other nodes reach this one at
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    advertise_addr: String,
    /// Address or interface to listen on, if this becomes a manager
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Whether this node takes tasks
    #[arg(long, value_parser = ["active", "pause", "drain"], default_value = "active")]
    availability: String,
    /// A manager, with optional port
    #[arg(value_name = "HOST:PORT", required = true)]
    managers: Vec<String>,
}

/// `POST /swarm/join`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Join<'a> {
    pub(crate) listen_addr: &'a str,
    pub(crate) advertise_addr: &'a str,
    pub(crate) remote_addrs: &'a [String],
    pub(crate) join_token: &'a str,
    pub(crate) availability: &'a str,
}

/// Joins; returns when the node has its certificate.
pub(crate) async fn enter(client: &Client, join: &Join<'_>) -> Result<(), Failure> {
    client.post_quietly("/swarm/join", join).await
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let token = match (args.token, args.token_file) {
        (Some(token), _) => Zeroizing::new(token),
        (None, Some(file)) => input::line_of_file(&file)?,
        (None, None) => Zeroizing::default(),
    };
    let join = Join {
        listen_addr: &args.listen_addr,
        advertise_addr: &args.advertise_addr,
        remote_addrs: &args.managers,
        join_token: &token,
        availability: &args.availability,
    };
    enter(client, &join).await.map_err(explained)?;
    let local = SwarmInfo::read(client).await?;
    let role = if local.control_available {
        "manager"
    } else {
        "worker"
    };
    output::line(format!(
        "this node ({}) has joined as a {role}",
        shown(&local.node_id)
    ))
}

/// What helps when a join fails, by the engine's texts (spec/engine-api.md §5.2).
fn explained(failure: Failure) -> Failure {
    if failure.hint.is_some() {
        return failure;
    }
    let message = failure.message.as_str();
    let hint = if message.contains("join token") {
        "print the right one with `waxseal swarm join-token worker` on a manager"
    } else if message.contains("does not match fingerprint") {
        "the token is of another cluster, or somebody stands between: print it anew on a manager of the one you mean"
    } else if message.contains("connection refused") || message.contains("onnection error") {
        "check the address, and that the manager is up and its port (2377) is open"
    } else {
        return failure;
    };
    failure.hint(hint)
}
