//! `waxseal node returns`, `approve` and `return-window`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, segment},
    failure::Failure,
    output::{self, Format, Table, shown},
    payload::typed,
};

const ROUTE: &str = "/waxseal/v1/returns";

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ApproveArgs {
    /// Only if it proved to hold this key, or one that starts so
    #[arg(long, value_name = "SHA256")]
    key: Option<String>,
    /// Name, id or start of an id
    #[arg(value_name = "NODE")]
    node: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WindowArgs {
    /// Such as 30d or 12h; 0s: each return waits for `waxseal node approve`
    #[arg(value_name = "SPAN", value_parser = humantime::parse_duration)]
    span: Option<Duration>,
}

/// `GET /waxseal/v1/returns`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Returns {
    window_secs: u64,
    nodes: Vec<Returning>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Returning {
    node_id: String,
    hostname: String,
    waiting: Option<Waiting>,
    possible_clone: Option<PossibleClone>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Waiting {
    key: String,
    addr: String,
    asked_at: String,
    reason: String,
    approved: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PossibleClone {
    serial: String,
    addr: String,
    at: String,
    count: u32,
}

/// `POST /waxseal/v1/nodes/{id}/approve`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Approved {
    node_id: String,
    key: String,
    addr: String,
}

impl Waiting {
    fn text(&self) -> String {
        let approved = match self.approved {
            true => "approved, ",
            false => "",
        };
        format!("{approved}key sha256:{}: {}", self.key, self.reason)
    }
}

impl PossibleClone {
    fn text(&self) -> String {
        let Self { serial, count, .. } = self;
        format!(
            "may have been copied: a certificate that was replaced (serial {serial}) was presented \
             {count} times"
        )
    }
}

pub(super) async fn list(client: &Client, args: ListArgs) -> Result<(), Failure> {
    let raw: Value = client.get(ROUTE).await?;
    if args.format == Format::Json {
        return output::json(&raw);
    }
    let returns: Returns = typed(raw)?;
    let mut table = Table::new(&["ID", "HOSTNAME", "FROM", "LAST ASKED", "WHAT"]);
    for node in &returns.nodes {
        if let Some(waiting) = &node.waiting {
            table.row([
                node.node_id.clone(),
                node.hostname.clone(),
                waiting.addr.clone(),
                waiting.asked_at.clone(),
                waiting.text(),
            ]);
        }
        if let Some(clone) = &node.possible_clone {
            table.row([
                node.node_id.clone(),
                node.hostname.clone(),
                clone.addr.clone(),
                clone.at.clone(),
                clone.text(),
            ]);
        }
    }
    table.print()?;
    output::line(window_text(returns.window_secs))
}

fn window_text(secs: u64) -> String {
    match secs {
        0 => "Window: none, each return waits for `waxseal node approve`".to_owned(),
        secs => format!(
            "Window: {}",
            humantime::format_duration(Duration::from_secs(secs))
        ),
    }
}

pub(super) async fn approve(client: &Client, args: ApproveArgs) -> Result<(), Failure> {
    let body = json!({ "key": args.key.unwrap_or_default() });
    let path = format!("/waxseal/v1/nodes/{}/approve", segment(&args.node));
    let Approved { node_id, key, addr } = client.post(&path, &body).await?;
    output::line(format!(
        "{} may return with key sha256:{} within a day; it last asked from {}",
        shown(&node_id),
        shown(&key),
        shown(&addr)
    ))
}

pub(super) async fn window(client: &Client, args: WindowArgs) -> Result<(), Failure> {
    if let Some(span) = args.span {
        let body = json!({ "secs": span.as_secs() });
        client
            .post_quietly(&format!("{ROUTE}/window"), &body)
            .await?;
    }
    let returns: Returns = client.get(ROUTE).await?;
    output::line(window_text(returns.window_secs))
}
