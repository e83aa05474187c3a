//! `waxseal join-token`: tokens with limits.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::Client,
    failure::Failure,
    info::SwarmInfo,
    output::{self, Format, ListFormat, Table, ago, shown, until},
    payload::{pairs, remove_each, typed},
    swarm::{join_commands, manager_address, own_join_command},
};

const ROUTE: &str = "/waxseal/v1/join-tokens";

/// Make join tokens that expire, admit so many nodes, or only some networks
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a token and print the command that joins with it; it is shown this once
    Create(CreateArgs),
    /// List tokens with limits
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Refuse tokens from now on; joins over them that are not finished are undone
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A use is reserved while a node joins and spent by its first session; one that never comes gives it \
back after 10 minutes. The token names the root certificate of today: after `docker swarm ca \
--rotate` make another. The cluster's own tokens, without limits: `waxseal swarm join-token`.")]
pub(crate) struct CreateArgs {
    /// As what nodes join; Docker Engines are workers only
    #[arg(long, default_value = "worker", value_parser = ["worker", "manager"])]
    role: String,
    /// For how long it admits: 30m, 1h, 7days; a year at most
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: std::time::Duration,
    /// How many nodes may join with it
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    uses: u32,
    /// Only joins from this network (repeatable), as the managers see the address
    #[arg(long = "cidr", value_name = "NETWORK")]
    cidrs: Vec<String>,
    /// A label, for the list (repeatable)
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The token only
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    shown: ListFormat,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RevokeArgs {
    /// Ids, or starts of them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

#[derive(Deserialize)]
struct Created {
    id: String,
    token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Token {
    id: String,
    role: String,
    standing: String,
    created_at: String,
    expires_at: String,
    uses: u32,
    spent: u32,
    reserved: Vec<Value>,
    cidrs: Vec<String>,
    labels: BTreeMap<String, String>,
}

pub(crate) async fn run(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create(args) => create(client, args).await,
        Verb::Ls(args) => list(client, args).await,
        Verb::Revoke(args) => remove_each(client, ROUTE, &args.ids, "").await,
    }
}

async fn create(client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let body = json!({
        "role": args.role,
        "ttl_secs": args.ttl.as_secs(),
        "uses": args.uses,
        "cidrs": args.cidrs,
        "labels": pairs(&args.labels, "--label")?,
    });
    let raw: Value = client.post(ROUTE, &body).await?;
    if args.format == Format::Json && !args.quiet {
        return output::json(&raw);
    }
    let Created { id, token } = typed(raw)?;
    if args.quiet {
        return output::line(token);
    }
    let local = SwarmInfo::read(client).await?;
    let address = manager_address(client, &local.node_id).await?;
    output::line(format!(
        "token {}, shown this once; join with it by running on the node:\n",
        shown(&id)
    ))?;
    output::line(match args.role.as_str() {
        "worker" => join_commands(&token, &address),
        // A Docker Engine is a worker for good.
        _ => own_join_command(&token, &address),
    })
}

async fn list(client: &Client, args: ListArgs) -> Result<(), Failure> {
    let raw: Value = client.get(ROUTE).await?;
    let tokens = args.shown.for_table(raw, |tokens: &Vec<Token>| {
        tokens.iter().map(|token| token.id.as_str()).collect()
    });
    let Some(tokens) = tokens? else {
        return Ok(());
    };
    let mut table = Table::new(&[
        "ID", "ROLE", "STANDING", "USED", "CREATED", "EXPIRES", "NETWORKS", "LABELS",
    ]);
    for token in tokens {
        let joining = match token.reserved.len() {
            0 => String::new(),
            count => format!(" (+{count} joining)"),
        };
        table.row([
            token.id,
            token.role,
            token.standing,
            format!("{}/{}{joining}", token.spent, token.uses),
            ago(&token.created_at),
            until(&token.expires_at),
            token.cidrs.join(", "),
            output::labels(&token.labels),
        ]);
    }
    table.print()
}
