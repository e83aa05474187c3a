//! `waxseal status`.

use serde::Deserialize;

use crate::{
    client::Client,
    failure::Failure,
    manager::Group,
    output::{self, Format, Pairs, shown, until},
    payload::typed,
};

/// Show where the local node stands and what to do next
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `GET /waxseal/v1/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    version: String,
    state: String,
    error: String,
    node_id: Option<String>,
    node_addr: Option<String>,
    role: Option<String>,
    certificate_expires_at: Option<String>,
    certificate_renews_at: Option<String>,
    managers: Vec<Manager>,
    group: Option<Group>,
    warnings: Vec<String>,
    next: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Manager {
    node_id: String,
    addr: String,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let raw: serde_json::Value = client.get("/waxseal/v1/status").await?;
    match args.format {
        Format::Json => output::json(&raw),
        Format::Table => print(&typed(raw)?),
    }
}

/// The state of the local node, by itself.
pub(crate) async fn state(client: &Client) -> Result<String, Failure> {
    client
        .get::<Status>("/waxseal/v1/status")
        .await
        .map(|status| status.state)
}

fn print(status: &Status) -> Result<(), Failure> {
    let mut pairs = Pairs::default();
    let managers = status
        .managers
        .iter()
        .map(|manager| match manager.node_id.as_str() {
            "" => manager.addr.clone(),
            id => format!("{} ({id})", manager.addr),
        });
    let group = status.group.as_ref();
    let behind = group.and_then(|group| group.lag).filter(|lag| *lag > 0);
    pairs
        .add("State", &status.state)
        .add("Cause", &status.error)
        .add("Role", status.role.clone().unwrap_or_default())
        .add("Node ID", status.node_id.clone().unwrap_or_default())
        .add("Address", status.node_addr.clone().unwrap_or_default())
        .add(
            "Certificate",
            status
                .certificate_expires_at
                .as_deref()
                .map(until)
                .unwrap_or_default(),
        )
        .add(
            "Renewal",
            status
                .certificate_renews_at
                .as_deref()
                .map(until)
                .unwrap_or_default(),
        )
        .add_all("Managers", managers)
        .add("Leader", group.map(Group::leader_text).unwrap_or_default())
        .add(
            "Quorum",
            group.map(|group| group.quorum.text()).unwrap_or_default(),
        )
        .add(
            "Behind",
            behind
                .map(|lag| format!("{lag} entries"))
                .unwrap_or_default(),
        )
        .add("Version", &status.version);
    pairs.print()?;
    for warning in &status.warnings {
        let text = warning.strip_prefix("WARNING: ").unwrap_or(warning);
        output::line(format!("Warning: {}", shown(text)))?;
    }
    output::line("What to do next:")?;
    next(status)
        .iter()
        .try_for_each(|step| output::line(format!("  {}", shown(step))))
}

/// The daemon's own hints; a member that is well needs none, so it gets what is usual.
fn next(status: &Status) -> Vec<String> {
    if !status.next.is_empty() {
        return status.next.clone();
    }
    let is_cut_off = |warning: &String| warning.contains("no session with a manager");
    if status.warnings.iter().any(is_cut_off) {
        return vec!["see to the warning above; managers tell with waxseal node ls whether they know this node".to_owned()];
    }
    let usual: &[&str] = match status.role.as_deref() {
        Some("manager") => &[
            "waxseal swarm join-token worker, to add a node",
            "waxseal secret create NAME -, then waxseal service create --secret NAME -- COMMAND",
        ],
        _ => &["nothing; the cluster is changed on its managers"],
    };
    usual.iter().map(|&step| step.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_is_cut_off_is_not_told_that_all_is_well() {
        let mut status = Status {
            role: Some("worker".to_owned()),
            ..Status::default()
        };
        assert!(next(&status)[0].starts_with("nothing"));
        let warning = "no session with a manager: the managers refuse this node";
        status.warnings = vec![warning.to_owned()];
        assert!(next(&status)[0].contains("warning above"));
        status.next = vec!["waxseal unlock".to_owned()];
        assert_eq!(next(&status), ["waxseal unlock"]);
    }
}
