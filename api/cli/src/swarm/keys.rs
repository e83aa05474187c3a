//! `waxseal swarm join-token` and `unlock-key`: what opens the cluster, shown and replaced.

use clap::ValueEnum;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Rotate, Swarm, init::manager_address, replace};
use crate::{
    client::Client,
    failure::Failure,
    info::SwarmInfo,
    output::{self, shown},
};

/// Print the command with which others join, or replace its token
#[derive(Debug, clap::Args)]
pub(super) struct JoinTokenArgs {
    /// As what others join
    #[arg(value_enum)]
    role: Role,
    /// Replace the token; the old one is refused from then on
    #[arg(long)]
    rotate: bool,
    /// The token only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    Worker,
    Manager,
}

/// Print the unlock key, or replace it
#[derive(Debug, clap::Args)]
pub(super) struct UnlockKeyArgs {
    /// Replace the key; managers need the new one from their next restart on
    #[arg(long)]
    rotate: bool,
    /// The key only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    unlock_key: String,
}

pub(super) async fn join_token(client: &Client, args: JoinTokenArgs) -> Result<(), Failure> {
    if args.rotate {
        let rotate = match args.role {
            Role::Worker => Rotate::WorkerToken,
            Role::Manager => Rotate::ManagerToken,
        };
        replace(client, &Swarm::read(client).await?, rotate).await?;
    }
    let tokens = Swarm::read(client).await?.join_tokens;
    let (role, token) = match args.role {
        Role::Worker => ("worker", tokens.worker),
        Role::Manager => ("manager", tokens.manager),
    };
    if args.quiet {
        return output::line(token);
    }
    if args.rotate {
        output::line(format!("the old {role} token is refused from now on"))?;
    }
    let local = SwarmInfo::read(client).await?;
    let address = manager_address(client, &local.node_id).await?;
    output::line(format!("add a {role} by running this on it:\n"))?;
    let command = match args.role {
        Role::Worker => join_commands(&token, &address),
        // A Docker Engine is a worker for good.
        Role::Manager => own_join_command(&token, &address),
    };
    output::line(command)
}

/// The commands for a worker: for a node of ours, and for a Docker Engine.
pub(crate) fn join_commands(token: &str, address: &str) -> String {
    format!(
        "{}\n\nor, on a Docker Engine:\n\n    docker swarm join --token {} {}",
        own_join_command(token, address),
        shown(token),
        shown(address)
    )
}

pub(crate) fn own_join_command(token: &str, address: &str) -> String {
    let (token, address) = (shown(token), shown(address));
    format!("    waxseal swarm join --token {token} {address}")
}

pub(super) async fn unlock_key(client: &Client, args: UnlockKeyArgs) -> Result<(), Failure> {
    if args.rotate {
        let swarm = Swarm::read(client).await?;
        if !swarm.is_auto_locked() {
            return Err(
                Failure::refused("autolock is off, so there is no unlock key to replace")
                    .hint("turn it on with `waxseal swarm update --autolock true`"),
            );
        }
        replace(client, &swarm, Rotate::UnlockKey).await?;
    }
    let key = read_unlock_key(client).await?;
    if key.is_empty() {
        return Err(
            Failure::refused("autolock is off, so there is no unlock key")
                .hint("turn it on with `waxseal swarm update --autolock true`"),
        );
    }
    if args.quiet {
        return output::line(&*key);
    }
    if args.rotate {
        output::line(
            "the unlock key was replaced; the old one opens nothing from the next start on\n",
        )?;
    }
    output::line(
        "`waxseal unlock` asks for this key after a manager was restarted; keep it apart from their disks:\n",
    )?;
    output::line(format!("    {}", &*key))
}

/// The cluster's unlock key; empty while autolock is off.
pub(crate) async fn read_unlock_key(client: &Client) -> Result<Zeroizing<String>, Failure> {
    client
        .get::<Shown>("/swarm/unlockkey")
        .await
        .map(|shown| Zeroizing::new(shown.unlock_key))
}
