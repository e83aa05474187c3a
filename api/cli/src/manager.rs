//! `waxseal manager`.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::Client,
    failure::Failure,
    output::{self, Format, Table, shown},
    payload::typed,
};

const ROUTE: &str = "/waxseal/v1/managers";

/// See the managers as this one does, and bring them together again
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List managers, who leads and how many it takes; works without a leader
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Tell this manager where another one is, when all of them have other addresses
    Peer(PeerArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PeerArgs {
    /// Another manager, with optional port; one that lives is enough
    #[arg(value_name = "HOST:PORT")]
    addr: String,
}

/// `GET /waxseal/v1/managers`, also part of the status.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Group {
    pub(crate) leader: Option<String>,
    pub(crate) quorum: Quorum,
    pub(crate) lag: Option<u64>,
    managers: Vec<Manager>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Quorum {
    voters: usize,
    needed: usize,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manager {
    node_id: String,
    hostname: String,
    addr: String,
    voter: bool,
    leader: bool,
    reachability: String,
    #[serde(rename = "self")]
    is_self: bool,
}

impl Group {
    /// Who leads, or that nobody does.
    pub(crate) fn leader_text(&self) -> String {
        match &self.leader {
            Some(node_id) => shown(node_id),
            None => "none: nothing can be changed".to_owned(),
        }
    }
}

impl Quorum {
    /// How many it takes.
    pub(crate) fn text(self) -> String {
        format!("{} of {} managers", self.needed, self.voters)
    }
}

impl Manager {
    fn standing(&self) -> &str {
        match (self.leader, self.voter) {
            (true, _) => "leader",
            (false, false) => "learner",
            (false, true) => &self.reachability,
        }
    }
}

pub(crate) async fn run(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Ls(args) => list(client, args).await,
        Verb::Peer(args) => peer(client, args).await,
    }
}

async fn list(client: &Client, args: ListArgs) -> Result<(), Failure> {
    let raw: Value = client.get(ROUTE).await?;
    if args.format == Format::Json {
        return output::json(&raw);
    }
    let group: Group = typed(raw)?;
    let mut table = Table::new(&["ID", "", "HOSTNAME", "ADDRESS", "MANAGER"]);
    for manager in &group.managers {
        table.row([
            manager.node_id.clone(),
            if manager.is_self { "*" } else { "" }.to_owned(),
            manager.hostname.clone(),
            manager.addr.clone(),
            manager.standing().to_owned(),
        ]);
    }
    table.print()?;
    output::line(format!("Leader: {}", group.leader_text()))?;
    output::line(format!("Quorum: {}", group.quorum.text()))
}

async fn peer(client: &Client, args: PeerArgs) -> Result<(), Failure> {
    let body = json!({ "addr": args.addr });
    client.post_quietly(&format!("{ROUTE}/peer"), &body).await?;
    output::line(format!(
        "this manager dials {} now; `waxseal manager ls` shows whether the others are there",
        shown(&args.addr)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_count_or_leads_is_told_first() {
        let manager = |leader, voter| Manager {
            leader,
            voter,
            reachability: "unreachable".to_owned(),
            ..Manager::default()
        };
        assert_eq!(manager(true, true).standing(), "leader");
        assert_eq!(manager(false, false).standing(), "learner");
        assert_eq!(manager(false, true).standing(), "unreachable");
    }

    #[test]
    fn a_group_without_leader_says_what_that_means() {
        let group: Group = serde_json::from_value(json!({
            "leader": null, "quorum": {"voters": 3, "needed": 2}, "lag": null, "managers": []
        }))
        .unwrap();
        assert_eq!(group.leader_text(), "none: nothing can be changed");
        assert_eq!(group.quorum.text(), "2 of 3 managers");
    }
}
