//! `waxseal cert`.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::Client,
    failure::Failure,
    output::{self, Format, ListFormat, Pairs, Table, ago, shown, until},
    payload::{each, filter_query, typed},
};

const ROUTE: &str = "/waxseal/v1/certificates";
/// Digits of a serial in the table: enough for `inspect` and `revoke`.
const SHORT: usize = 16;

/// See the certificates of the cluster's nodes, and revoke them
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List certificates, the newest first
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show certificates whole: who asked, from where, over which token, what became of them
    Inspect(InspectArgs),
    /// Refuse certificates from now on, on every manager, and close their connections
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Of this node only: name, id or start of an id
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Only those that match: node, role, standing (valid, revoked, superseded, expired,
    /// requested), origin (join, renewal, operator, rotation, return, founding), token, serial
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    /// At most so many
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    limit: u32,
    #[command(flatten)]
    shown: ListFormat,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Serials in hexadecimal, or starts of them
    #[arg(required = true, value_name = "SERIAL")]
    serials: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A node whose newest certificate is revoked is cut off: it cannot renew. To bring it back run \
`docker swarm leave --force` on it, join it with a token, and remove its old record with `docker \
node rm --force NODE`. If only the key leaked and the node is yours: `waxseal node renew NODE` \
first, then revoke the former certificate.

Managers refuse it. Nodes do not ask anybody about a manager's certificate: if the key of one \
leaked, rotate the root as well.")]
pub(crate) struct RevokeArgs {
    /// Serials in hexadecimal, or starts of them
    #[arg(
        required_unless_present = "node",
        conflicts_with = "node",
        value_name = "SERIAL"
    )]
    serials: Vec<String>,
    /// All certificates of this node that count: name, id or start of an id
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Why, for the record
    #[arg(long, default_value = "")]
    reason: String,
    /// Also the newest of a manager, which is cut off from the others then
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct List {
    certificates: Vec<Certificate>,
    total: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Certificate {
    serial: String,
    node_id: String,
    hostname: String,
    role: String,
    standing: String,
    origin: String,
    address: Option<String>,
    token: Option<String>,
    issuer: Option<String>,
    public_key: String,
    requested_at: Option<String>,
    not_before: Option<String>,
    not_after: Option<String>,
    used_at: Option<String>,
    superseded_at: Option<String>,
    revoked: Option<Revoked>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Revoked {
    at: Option<String>,
    by: String,
    reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Revocation {
    revoked: Vec<String>,
    cut_off: Vec<String>,
}

pub(crate) async fn run(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls(args) => list(client, args).await,
        Verb::Inspect(args) => inspect(client, args).await,
        Verb::Revoke(args) => revoke(client, args).await,
    }
}

async fn list(client: &Client, args: ListArgs) -> Result<(), Failure> {
    let mut filters = args.filters;
    filters.extend(args.node.map(|node| format!("node={node}")));
    let query = filter_query(&filters)?;
    let raw: Value = client
        .get(&format!("{ROUTE}?limit={}&{query}", args.limit))
        .await?;
    let list = args.shown.for_table(raw, |list: &List| {
        let certificates = list.certificates.iter();
        certificates.map(|one| one.serial.as_str()).collect()
    });
    let Some(list) = list? else {
        return Ok(());
    };
    let mut table = Table::new(&[
        "SERIAL", "NODE", "ROLE", "STANDING", "ASKED", "ISSUED", "EXPIRES",
    ]);
    let (count, total) = (list.certificates.len(), list.total);
    for one in list.certificates {
        table.row([
            one.serial.chars().take(SHORT).collect(),
            match one.hostname.is_empty() {
                true => one.node_id,
                false => one.hostname,
            },
            one.role,
            one.standing,
            one.origin,
            one.requested_at.as_deref().map_or(String::new(), ago),
            one.not_after.as_deref().map_or(String::new(), until),
        ]);
    }
    table.print()?;
    match count < total {
        true => output::line(format!(
            "the newest {count} of {total}; narrow it with --filter, or raise --limit"
        )),
        false => Ok(()),
    }
}

async fn inspect(client: &Client, args: InspectArgs) -> Result<(), Failure> {
    let (found, fault) = each(client, ROUTE, &args.serials).await;
    match args.format {
        Format::Json => output::json(&found)?,
        Format::Table => {
            for raw in found {
                typed::<Certificate>(raw)?.pairs().print()?;
            }
        }
    }
    fault.map_or(Ok(()), Err)
}

impl Certificate {
    fn pairs(self) -> Pairs {
        let text = Option::<String>::unwrap_or_default;
        let mut pairs = Pairs::default();
        pairs
            .add("Serial", self.serial)
            .add("Node", self.node_id)
            .add("Hostname", self.hostname)
            .add("Role", self.role)
            .add("Standing", self.standing)
            .add("Asked by", self.origin)
            .add("Address", text(self.address))
            .add("Token", text(self.token))
            .add("Issuer's key", text(self.issuer))
            .add("Public key", self.public_key)
            .add("Requested", text(self.requested_at))
            .add("Valid from", text(self.not_before))
            .add(
                "Expires",
                self.not_after.as_deref().map_or(String::new(), until),
            )
            .add("First session", text(self.used_at))
            .add("Superseded", text(self.superseded_at));
        if let Some(revoked) = self.revoked {
            pairs
                .add("Revoked", text(revoked.at))
                .add("Revoked by", revoked.by)
                .add("Reason", revoked.reason);
        }
        pairs
    }
}

async fn revoke(client: &Client, args: RevokeArgs) -> Result<(), Failure> {
    let body = json!({
        "serials": args.serials,
        "node": args.node.unwrap_or_default(),
        "reason": args.reason,
        "force": args.force,
    });
    let done: Revocation = client.post(&format!("{ROUTE}/revoke"), &body).await?;
    for serial in &done.revoked {
        output::line(shown(serial))?;
    }
    for node in &done.cut_off {
        let node = shown(node);
        output::line(format!(
            "node {node} is cut off. To bring it back: `docker swarm leave --force` on it, join it \
             with a token, and here `docker node rm --force {node}`"
        ))?;
    }
    Ok(())
}
