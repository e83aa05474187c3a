//! `waxseal node`.

mod renew;
mod returns;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::{Client, filters, segment},
    failure::Failure,
    info::{Labels, SwarmInfo, Version},
    output::{self, Format, ListFormat, Pairs, Table, shown},
    payload::{filter_query, pairs, remove_each, typed},
    service::tasks,
};

const ROUTE: &str = "/nodes";
/// A clock that is off by less is shown as right: an engine's is known no better.
const CLOCK_OK_SECONDS: u64 = 10;
/// What was on a manager's disk or in its memory may be elsewhere by now.
const FORMER_MANAGER: &str = "
a former manager has seen the cluster's state: root key, unlock key, join tokens, secrets. If you do
not trust it any more, rotate them:

    waxseal swarm join-token --rotate manager
    waxseal swarm join-token --rotate worker
    waxseal swarm unlock-key --rotate";

/// See and change the nodes of the cluster
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show nodes whole; `self` is this one
    Inspect(InspectArgs),
    /// Change a node's availability, role or labels
    #[command(arg_required_else_help = true)]
    Update(UpdateArgs),
    /// Make workers managers
    Promote(RoleArgs),
    /// Make managers workers: their copy of the cluster's state is deleted
    Demote(RoleArgs),
    /// Remove nodes; what they hold of the cluster counts no more
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// List the tasks on nodes
    Ps(PsArgs),
    /// Have nodes renew their certificates now, and wait until they have
    #[command(arg_required_else_help = true)]
    Renew(renew::Args),
    /// List nodes that ask to be let back in, or that may have been copied
    Returns(returns::ListArgs),
    /// Let a node back in whose certificate counts no more and that `node returns` shows
    Approve(returns::ApproveArgs),
    /// Show or set for how long after its certificate stopped counting a node returns by itself
    ReturnWindow(returns::WindowArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    shown: ListFormat,
    /// Only those that match: id, name, role, membership, node.label, label
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Names, ids, starts of ids, or self
    #[arg(default_value = "self", value_name = "NODE")]
    nodes: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct UpdateArgs {
    /// Whether it takes tasks: active, none new (pause), none at all (drain)
    #[arg(long, value_parser = ["active", "pause", "drain"])]
    availability: Option<String>,
    #[arg(long, value_parser = ["worker", "manager"])]
    role: Option<String>,
    /// Set a label
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// Name, id, start of an id, or self
    #[arg(value_name = "NODE")]
    node: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RoleArgs {
    /// Names, ids, starts of ids, or self
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Also if the node is up
    #[arg(short, long)]
    force: bool,
    /// Names, ids, starts of ids, or self
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Names, ids, starts of ids, or self
    #[arg(default_value = "self", value_name = "NODE")]
    nodes: Vec<String>,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A node, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Node {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    version: Version,
    created_at: String,
    spec: Spec,
    pub(crate) description: Description,
    pub(crate) status: Status,
    manager_status: Option<ManagerStatus>,
    clock: Option<Clock>,
}

/// Its clock beside its manager's.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Clock {
    ahead_millis: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Spec {
    labels: Labels,
    role: String,
    availability: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Description {
    pub(crate) hostname: String,
    platform: Platform,
    engine: Engine,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Platform {
    #[serde(rename = "Architecture")]
    architecture: String,
    #[serde(rename = "OS")]
    os: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Engine {
    engine_version: String,
    labels: Labels,
    plugins: Option<Vec<Plugin>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Plugin {
    r#type: String,
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Status {
    pub(crate) state: String,
    message: String,
    addr: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ManagerStatus {
    leader: bool,
    reachability: String,
    addr: String,
}

impl Node {
    /// What it is among managers; empty for a worker.
    fn manager(&self) -> &str {
        match &self.manager_status {
            None => "",
            Some(status) if status.leader => "leader",
            Some(status) => &status.reachability,
        }
    }

    /// By how much its clock is off, `+` for ahead; `ok` below what anybody would notice.
    fn clock(&self) -> String {
        let Some(clock) = &self.clock else {
            return "unknown".to_owned();
        };
        let seconds = clock.ahead_millis.unsigned_abs() / 1000;
        if seconds < CLOCK_OK_SECONDS {
            return "ok".to_owned();
        }
        let sign = if clock.ahead_millis < 0 { '-' } else { '+' };
        match seconds {
            0..120 => format!("{sign}{seconds} s"),
            120..7_200 => format!("{sign}{} min", seconds / 60),
            7_200..172_800 => format!("{sign}{} h", seconds / 3_600),
            _ => format!("{sign}{} d", seconds / 86_400),
        }
    }
}

pub(crate) async fn run(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls(args) => list(client, args).await,
        Verb::Inspect(args) => inspect(client, args).await,
        Verb::Update(args) => update(client, args).await,
        Verb::Promote(args) => change_roles(client, &args.nodes, "manager").await,
        Verb::Demote(args) => change_roles(client, &args.nodes, "worker").await,
        Verb::Rm(args) => {
            let query = if args.force { "?force=1" } else { "" };
            remove_each(client, ROUTE, &args.nodes, query).await
        }
        Verb::Ps(args) => ps(client, args).await,
        Verb::Renew(args) => renew::run(client, args).await,
        Verb::Returns(args) => returns::list(client, args).await,
        Verb::Approve(args) => returns::approve(client, args).await,
        Verb::ReturnWindow(args) => returns::window(client, args).await,
    }
}

async fn list(client: &Client, args: ListArgs) -> Result<(), Failure> {
    let raw: Value = client
        .get(&format!("{ROUTE}?{}", filter_query(&args.filters)?))
        .await?;
    let nodes = args.shown.for_table(raw, |nodes: &Vec<Node>| {
        nodes.iter().map(|node| node.id.as_str()).collect()
    });
    let Some(nodes) = nodes? else {
        return Ok(());
    };
    let own_id = SwarmInfo::read(client).await?.node_id;
    let headings = [
        "ID",
        "",
        "HOSTNAME",
        "STATUS",
        "AVAILABILITY",
        "MANAGER",
        "CLOCK",
        "VERSION",
    ];
    let mut table = Table::new(&headings);
    let messages: Vec<_> = nodes
        .iter()
        .filter(|node| !node.status.message.is_empty())
        .map(|node| format!("{}: {}", shown(&node.id), shown(&node.status.message)))
        .collect();
    for node in nodes {
        let own = if node.id == own_id { "*" } else { "" };
        let manager = node.manager().to_owned();
        let clock = node.clock();
        table.row([
            node.id,
            own.to_owned(),
            node.description.hostname,
            node.status.state,
            node.spec.availability,
            manager,
            clock,
            node.description.engine.engine_version,
        ]);
    }
    table.print()?;
    messages.iter().try_for_each(output::line)
}

/// `self` as this node's id.
async fn resolved(client: &Client, node: &str) -> Result<String, Failure> {
    if node != "self" {
        return Ok(node.to_owned());
    }
    let local = SwarmInfo::read(client).await?;
    if local.node_id.is_empty() {
        // The daemon knows best why there is no id.
        client.get::<Value>(ROUTE).await?;
        return Err(Failure::refused("this node has no id yet").hint("look with `waxseal status`"));
    }
    Ok(local.node_id)
}

async fn read<T: serde::de::DeserializeOwned>(client: &Client, node: &str) -> Result<T, Failure> {
    let id = resolved(client, node).await?;
    client.get(&format!("{ROUTE}/{}", segment(&id))).await
}

async fn inspect(client: &Client, args: InspectArgs) -> Result<(), Failure> {
    let mut found: Vec<Value> = Vec::with_capacity(args.nodes.len());
    let mut fault: Option<Failure> = None;
    for node in &args.nodes {
        match read(client, node).await {
            Ok(node) => found.push(node),
            Err(failure) => {
                if let Some(earlier) = fault.replace(failure) {
                    earlier.report();
                }
            }
        }
    }
    match args.format {
        Format::Json => output::json(&found)?,
        Format::Table => {
            for node in found {
                print(&typed::<Node>(node)?)?;
            }
        }
    }
    fault.map_or(Ok(()), Err)
}

fn print(node: &Node) -> Result<(), Failure> {
    let engine = &node.description.engine;
    let platform = &node.description.platform;
    let plugins = engine.plugins.iter().flatten();
    let manager = node.manager_status.as_ref();
    let mut pairs = Pairs::default();
    pairs
        .add("ID", &node.id)
        .add("Hostname", &node.description.hostname)
        .add("Joined", &node.created_at)
        .add("State", &node.status.state)
        .add("Message", &node.status.message)
        .add("Availability", &node.spec.availability)
        .add("Role", &node.spec.role)
        .add("Manager", node.manager())
        .add(
            "Manager address",
            manager
                .map(|status| status.addr.clone())
                .unwrap_or_default(),
        )
        .add("Address", &node.status.addr)
        .add("Clock", node.clock())
        .add("Labels", output::labels(&node.spec.labels.0))
        .add("Engine", &engine.engine_version)
        .add("Engine labels", output::labels(&engine.labels.0))
        .add(
            "Platform",
            format!("{}/{}", platform.os, platform.architecture),
        )
        .add_all(
            "Plugins",
            plugins.map(|plugin| format!("{}/{}", plugin.r#type, plugin.name)),
        );
    pairs.print()
}

async fn update(client: &Client, args: UpdateArgs) -> Result<(), Failure> {
    let raw: Value = read(client, &args.node).await?;
    let mut spec = raw.get("Spec").cloned().unwrap_or_else(|| json!({}));
    let node: Node = typed(raw)?;
    if let Some(availability) = args.availability {
        spec["Availability"] = availability.into();
    }
    if let Some(role) = args.role {
        spec["Role"] = role.into();
    }
    let mut labels = spec["Labels"].as_object().cloned().unwrap_or_default();
    labels.extend(pairs(&args.label_add, "--label-add")?);
    for key in &args.label_rm {
        if labels.remove(key).is_none() {
            return Err(
                Failure::usage(format!("the node has no label {key}")).hint(format!(
                    "`waxseal node inspect {}` shows those it has",
                    args.node
                )),
            );
        }
    }
    spec["Labels"] = labels.into();
    let path = format!(
        "{ROUTE}/{}/update?version={}",
        segment(&node.id),
        node.version.index
    );
    client.post_quietly(&path, &spec).await?;
    output::line(shown(&node.id))
}

/// Asks for another role; the node takes it on a moment later.
async fn change_roles(client: &Client, nodes: &[String], role: &str) -> Result<(), Failure> {
    let mut demoted = false;
    for wanted in nodes {
        let raw: Value = read(client, wanted).await?;
        let mut spec = raw.get("Spec").cloned().unwrap_or_else(|| json!({}));
        let node: Node = typed(raw)?;
        if node.spec.role == role {
            output::line(format!("{} is a {role} already", shown(wanted)))?;
            continue;
        }
        spec["Role"] = role.into();
        let path = format!(
            "{ROUTE}/{}/update?version={}",
            segment(&node.id),
            node.version.index
        );
        client.post_quietly(&path, &spec).await?;
        output::line(format!("{} becomes a {role}", shown(wanted)))?;
        demoted |= role == "worker";
    }
    match demoted {
        true => output::line(FORMER_MANAGER),
        false => Ok(()),
    }
}

async fn ps(client: &Client, args: PsArgs) -> Result<(), Failure> {
    let mut ids = Vec::with_capacity(args.nodes.len());
    for node in &args.nodes {
        ids.push(read::<Node>(client, node).await?.id);
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let path = format!("/tasks?{}", filters(&[("node", &ids)]));
    tasks::show(client, &path, args.quiet, args.format).await
}
