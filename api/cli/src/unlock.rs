//! `waxseal unlock`.

use std::ffi::OsString;

use serde::Serialize;

use crate::{client::Client, failure::Failure, info::SwarmInfo, input, output};

/// Open a locked manager with the cluster's unlock key
///
/// The key is asked for on the terminal, or read from standard input; never from the command
/// line, which every user of the host can see.
#[derive(Debug, clap::Args)]
#[command(after_help = "For example: waxseal unlock </root/unlock-key")]
pub(crate) struct Args {
    #[arg(hide = true)]
    key_on_the_command_line: Vec<OsString>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Body<'a> {
    unlock_key: &'a str,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    if !args.key_on_the_command_line.is_empty() {
        return Err(Failure::usage("the unlock key is not taken from the command line, which every user can see")
            .hint("type it when asked, or send it on standard input; rotate it with `waxseal swarm unlock-key --rotate` if others could see it"));
    }
    // Nobody is asked for a key that is not needed.
    match SwarmInfo::read(client).await?.state.as_str() {
        "locked" => {}
        "inactive" => {
            return Err(Failure::refused(
                "this node is in no cluster, so there is nothing to unlock",
            )
            .hint("`waxseal status` says what can be done"));
        }
        _ => {
            return Err(Failure::refused("this node is not locked")
                .hint("`waxseal status` says where it stands"));
        }
    }
    let key = input::hidden_line("unlock key (not shown): ")?;
    with_key(client, &key).await?;
    output::line("unlocked")
}

/// Sends a key.
pub(crate) async fn with_key(client: &Client, key: &str) -> Result<(), Failure> {
    client
        .post_quietly("/swarm/unlock", &Body { unlock_key: key })
        .await
}
