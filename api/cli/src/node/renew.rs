//! `waxseal node renew`: each node is asked, and answers by itself.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::read;
use crate::{
    client::{Client, segment},
    failure::Failure,
    output::{self, Format, shown},
};

/// Nodes that renew at the same time: far below what a manager signs in a second.
const AT_ONCE: usize = 64;
/// How often it is looked how far they are.
const LOOK: Duration = Duration::from_millis(500);

/// Nodes to renew, and how long it is waited.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// All nodes of the cluster, some at a time
    #[arg(long, conflicts_with = "nodes")]
    all: bool,
    /// Return once they have been asked
    #[arg(short, long)]
    detach: bool,
    /// How long it is waited for each
    #[arg(long, value_name = "SPAN", default_value = "1m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Names, ids, starts of ids, or self
    #[arg(required_unless_present = "all", value_name = "NODE")]
    nodes: Vec<String>,
}

/// `GET /waxseal/v1/nodes/certificates`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Newest {
    node_id: String,
    hostname: String,
    ready: bool,
    state: String,
    serial: String,
    not_after: String,
    error: String,
    standing: Option<String>,
}

/// What became of a node.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Outcome {
    node_id: String,
    hostname: String,
    renewed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Outcome {
    fn renewed(node: &Newest) -> Outcome {
        Outcome {
            not_after: Some(node.not_after.clone()),
            ..Outcome::not(node, None)
        }
    }

    fn not(node: &Newest, reason: Option<String>) -> Outcome {
        Outcome {
            node_id: node.node_id.clone(),
            hostname: node.hostname.clone(),
            renewed: reason.is_none(),
            not_after: None,
            reason,
        }
    }

    fn line(&self) -> String {
        let name = match self.hostname.as_str() {
            "" => shown(&self.node_id),
            hostname => format!("{} ({})", shown(&self.node_id), shown(hostname)),
        };
        match (&self.reason, &self.not_after) {
            (Some(reason), _) => format!("{name}: not renewed: {}", shown(reason)),
            (None, Some(until)) => format!("{name}: renewed, until {}", shown(until)),
            (None, None) => format!("{name}: asked to renew"),
        }
    }
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let known = certificates(client).await?;
    let wanted: Vec<Newest> = match args.all {
        true => known.into_values().collect(),
        false => {
            let mut wanted = Vec::with_capacity(args.nodes.len());
            for node in &args.nodes {
                let id = read::<super::Node>(client, node).await?.id;
                wanted.extend(known.get(&id).cloned());
            }
            wanted
        }
    };
    let shows = args.format == Format::Table;
    let mut outcomes = Vec::with_capacity(wanted.len());
    let mut told = |outcome: Outcome| {
        if shows {
            output::line(outcome.line())?;
        }
        outcomes.push(outcome);
        Ok::<_, Failure>(())
    };
    let mut waiting = wanted.into_iter();
    let mut under_way: BTreeMap<String, (Newest, Instant)> = BTreeMap::new();
    loop {
        // 1. As many as may renew at the same time.
        while under_way.len() < AT_ONCE
            && let Some(node) = waiting.next()
        {
            match ask(client, &node).await {
                Err(failure) => told(Outcome::not(&node, Some(failure.message)))?,
                Ok(()) if args.detach => told(Outcome::not(&node, None))?,
                Ok(()) => {
                    let until = Instant::now() + args.timeout;
                    under_way.insert(node.node_id.clone(), (node, until));
                }
            }
        }
        if under_way.is_empty() {
            break;
        }
        sleep(LOOK).await;
        // 2. Those that have, or that will not for now.
        let now = certificates(client).await?;
        let mut left = BTreeMap::new();
        for (id, (before, until)) in under_way {
            match judged(&before, now.get(&id), Instant::now() >= until) {
                Some(outcome) => told(outcome)?,
                None => drop(left.insert(id, (before, until))),
            }
        }
        under_way = left;
    }
    summary(&outcomes, args.format)
}

async fn certificates(client: &Client) -> Result<BTreeMap<String, Newest>, Failure> {
    let listed: Vec<Newest> = client.get("/waxseal/v1/nodes/certificates").await?;
    let by_id = listed.into_iter().map(|node| (node.node_id.clone(), node));
    Ok(by_id.collect())
}

async fn ask(client: &Client, node: &Newest) -> Result<(), Failure> {
    let path = format!("/waxseal/v1/nodes/{}/renew", segment(&node.node_id));
    client.post_empty(&path).await
}

/// What became of a node that was asked; nothing while that is open.
fn judged(before: &Newest, now: Option<&Newest>, is_over: bool) -> Option<Outcome> {
    let Some(now) = now else {
        let reason = "it was removed from the cluster".to_owned();
        return Some(Outcome::not(before, Some(reason)));
    };
    match now.state.as_str() {
        "issued" if now.serial != before.serial => return Some(Outcome::renewed(now)),
        "failed" if now.serial != before.serial => {
            return Some(Outcome::not(now, Some(now.error.clone())));
        }
        _ => {}
    }
    let reason = match (&now.standing, now.ready) {
        (Some(standing), false) => standing.clone(),
        (None, false) => "it is not there; it renews when it is back".to_owned(),
        (_, true) if is_over => "it has not answered yet; it goes on".to_owned(),
        (_, true) => return None,
    };
    Some(Outcome::not(now, Some(reason)))
}

fn summary(outcomes: &[Outcome], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        output::json(outcomes)?;
    }
    let missing = outcomes.iter().filter(|outcome| !outcome.renewed).count();
    match missing {
        0 => Ok(()),
        missing => Err(Failure::refused(format!(
            "{missing} of {} nodes did not renew their certificates",
            outcomes.len()
        ))
        .hint("see the reasons above; `waxseal node ls` shows which nodes are there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: &str, serial: &str, ready: bool) -> Newest {
        Newest {
            node_id: "n1".to_owned(),
            hostname: "host".to_owned(),
            state: state.to_owned(),
            serial: serial.to_owned(),
            not_after: "2027-02-18T07:00:00Z".to_owned(),
            error: "no signer".to_owned(),
            ready,
            standing: None,
        }
    }

    #[test]
    fn a_node_that_was_asked_is_not_done() {
        let before = node("issued", "01", true);
        for state in ["marked", "requested", "issued"] {
            let now = node(state, "01", true);
            assert_eq!(judged(&before, Some(&now), false), None, "{state}");
            let over = judged(&before, Some(&now), true).unwrap();
            assert!(over.reason.unwrap().contains("not answered"));
        }
    }

    #[test]
    fn who_is_away_gone_or_not_signed_for_is_told_with_the_reason() {
        let before = node("issued", "01", true);
        let reason = |now: Option<&Newest>| judged(&before, now, false).unwrap().line();
        assert!(reason(None).contains("removed"));
        assert!(reason(Some(&node("marked", "01", false))).contains("when it is back"));
        assert!(reason(Some(&node("failed", "02", true))).contains("no signer"));
        let mut expired = node("marked", "01", false);
        expired.standing = Some("its certificate expired".to_owned());
        assert!(reason(Some(&expired)).contains("its certificate expired"));
    }

    #[test]
    fn another_certificate_is_the_end() {
        let (before, now) = (node("issued", "01", true), node("issued", "02", false));
        let outcome = judged(&before, Some(&now), false).unwrap();
        assert_eq!(
            outcome.line(),
            "n1 (host): renewed, until 2027-02-18T07:00:00Z"
        );
    }
}
