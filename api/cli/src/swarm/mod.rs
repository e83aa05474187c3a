//! `waxseal swarm`: the cluster itself.

mod init;
mod inspect;
mod join;
pub(crate) mod keys;
mod update;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    client::Client,
    failure::Failure,
    info::{SwarmInfo, Version},
    output,
};

pub(crate) use init::{Init, create, manager_address};
pub(crate) use join::{Join, enter};
pub(crate) use keys::{join_commands, own_join_command};

/// Create a cluster, join or leave one, change it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Init(init::Args),
    Join(join::Args),
    JoinToken(keys::JoinTokenArgs),
    Update(update::Args),
    UnlockKey(keys::UnlockKeyArgs),
    Leave(LeaveArgs),
    Inspect(inspect::Args),
}

/// Take this node out of its cluster; its tasks end
#[derive(Debug, clap::Args)]
struct LeaveArgs {
    /// Also if this is a manager, and what only it holds is lost
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    match args.verb {
        Verb::Init(args) => init::run(client, args).await,
        Verb::Join(args) => join::run(client, args).await,
        Verb::JoinToken(args) => keys::join_token(client, args).await,
        Verb::Update(args) => update::run(client, args).await,
        Verb::UnlockKey(args) => keys::unlock_key(client, args).await,
        Verb::Leave(args) => {
            refuse_to_lose(client, args.force).await?;
            leave(client, args.force).await?;
            output::line("this node has left the cluster")
        }
        Verb::Inspect(args) => inspect::run(client, args).await,
    }
}

/// A node that failed to start may hold all there is of its cluster; the API takes it out
/// without force, as engines do.
async fn refuse_to_lose(client: &Client, force: bool) -> Result<(), Failure> {
    if force || SwarmInfo::read(client).await?.state != "error" {
        return Ok(());
    }
    Err(Failure::refused("this node failed to start, and what it holds of its cluster would be removed")
        .hint("`waxseal status` says why it failed; leave all the same with `waxseal swarm leave --force`"))
}

pub(crate) async fn leave(client: &Client, force: bool) -> Result<(), Failure> {
    client
        .post_empty(if force {
            "/swarm/leave?force=1"
        } else {
            "/swarm/leave"
        })
        .await
}

/// `GET /swarm`. The settings are kept as they came: an update sends them back whole.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Swarm {
    #[serde(rename = "ID", default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) version: Version,
    #[serde(default)]
    pub(crate) created_at: String,
    #[serde(default)]
    pub(crate) spec: Value,
    #[serde(default)]
    pub(crate) join_tokens: JoinTokens,
    #[serde(default)]
    pub(crate) root_rotation_in_progress: bool,
}

/// Part of [`Swarm`].
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct JoinTokens {
    pub(crate) worker: String,
    pub(crate) manager: String,
}

impl std::fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinTokens(..)")
    }
}

impl Swarm {
    pub(crate) async fn read(client: &Client) -> Result<Swarm, Failure> {
        client.get("/swarm").await
    }

    pub(crate) fn is_auto_locked(&self) -> bool {
        self.spec.pointer("/EncryptionConfig/AutoLockManagers") == Some(&Value::Bool(true))
    }
}

/// What an update of the cluster replaces besides its settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rotate {
    Nothing,
    WorkerToken,
    ManagerToken,
    UnlockKey,
}

/// Replaces the settings, as read from `swarm` and changed.
async fn replace(client: &Client, swarm: &Swarm, rotate: Rotate) -> Result<(), Failure> {
    let path = format!(
        "/swarm/update?version={}&rotateWorkerToken={}&rotateManagerToken={}&rotateManagerUnlockKey={}",
        swarm.version.index,
        rotate == Rotate::WorkerToken,
        rotate == Rotate::ManagerToken,
        rotate == Rotate::UnlockKey,
    );
    client.post_quietly(&path, &swarm.spec).await
}

/// A span as the API takes it: nanoseconds.
fn nanoseconds(flag: &str, text: &str) -> Result<i64, Failure> {
    let span = humantime::parse_duration(text).map_err(|error| {
        Failure::usage(format!("{flag} {text}: {error}")).hint("write a span such as 90d or 12h")
    })?;
    i64::try_from(span.as_nanos()).map_err(|_| {
        Failure::usage(format!("{flag} {text}: this is too long")).hint("at most 290y")
    })
}
