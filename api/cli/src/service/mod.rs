//! `waxseal service`.

mod change;
mod create;
mod flags;
mod list;
pub(crate) mod logs;
mod progress;
pub(crate) mod reference;
pub(crate) mod tasks;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    client::{Client, segment},
    failure::Failure,
    info::Version,
    payload::remove_each,
};

pub(crate) use create::create;

const ROUTE: &str = "/services";
/// The reserved image of commands that run on the node itself.
pub(crate) const HOST_IMAGE: &str = "host";

/// Run tasks on the cluster and keep them running
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Create(Box<create::Args>),
    Ls(list::Args),
    Ps(list::PsArgs),
    Inspect(list::InspectArgs),
    Logs(logs::Args),
    Update(Box<change::Args>),
    Scale(change::ScaleArgs),
    Rm(RemoveArgs),
}

/// Remove services; their tasks end
#[derive(Debug, clap::Args)]
#[command(visible_alias = "remove")]
struct RemoveArgs {
    /// Names, ids or starts of ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// How a command that changes tasks waits for them.
#[derive(Clone, Debug, clap::Args)]
struct WaitArgs {
    /// Do not wait for the tasks
    #[arg(short, long)]
    detach: bool,
    /// Wait no longer than this
    #[arg(long, value_name = "SPAN", conflicts_with = "detach", value_parser = humantime::parse_duration)]
    timeout: Option<std::time::Duration>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// A service, as far as it is shown. The specification is kept whole: an update sends it back.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Service {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    version: Version,
    created_at: String,
    updated_at: String,
    pub(crate) spec: Value,
    previous_spec: Option<Value>,
    service_status: Option<ServiceStatus>,
    update_status: Option<UpdateStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ServiceStatus {
    running_tasks: u64,
    desired_tasks: u64,
    completed_tasks: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct UpdateStatus {
    state: String,
    message: String,
}

impl Service {
    async fn read(client: &Client, name: &str) -> Result<Service, Failure> {
        client.get(&format!("{ROUTE}/{}", segment(name))).await
    }

    pub(crate) fn name(&self) -> &str {
        self.text("/Name")
    }

    fn image(&self) -> &str {
        self.text("/TaskTemplate/ContainerSpec/Image")
    }

    fn is_global(&self) -> bool {
        self.spec
            .pointer("/Mode/Global")
            .is_some_and(|global| !global.is_null())
    }

    /// Wanted tasks; `None` for one on every node.
    fn replicas(&self) -> Option<u64> {
        self.spec
            .pointer("/Mode/Replicated/Replicas")
            .and_then(Value::as_u64)
    }

    /// Wanted completions of a job; `None` for one on every node. `None` outside if it is no job.
    fn completions(&self) -> Option<Option<u64>> {
        let part = |name: &str| self.spec.pointer(name).filter(|part| !part.is_null());
        match part("/Mode/ReplicatedJob") {
            Some(job) => Some(Some(
                job.pointer("/TotalCompletions")
                    .and_then(Value::as_u64)
                    .unwrap_or(1),
            )),
            None => part("/Mode/GlobalJob").map(|_| None),
        }
    }

    fn mode(&self) -> &'static str {
        match self.completions() {
            Some(Some(_)) => "replicated job",
            Some(None) => "global job",
            None if self.is_global() => "global",
            None => "replicated",
        }
    }

    fn text(&self, pointer: &str) -> &str {
        self.spec
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    match args.verb {
        Verb::Create(args) => create::run(client, *args).await,
        Verb::Ls(args) => list::run(client, args).await,
        Verb::Ps(args) => list::ps(client, args).await,
        Verb::Inspect(args) => list::inspect(client, args).await,
        Verb::Logs(args) => logs::run(client, args).await,
        Verb::Update(args) => change::run(client, *args).await,
        Verb::Scale(args) => change::scale(client, args).await,
        Verb::Rm(args) => remove_each(client, ROUTE, &args.services, "").await,
    }
}
