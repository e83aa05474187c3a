//! Tasks in a table: `service ps` and `node ps`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::Service;
use crate::{
    client::Client,
    failure::Failure,
    node::Node,
    output::{self, Format, Table, ago},
    payload::typed,
};

/// A task, as far as it is shown.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Task {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    created_at: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    pub(crate) slot: u64,
    #[serde(rename = "NodeID")]
    pub(crate) node_id: String,
    pub(crate) status: TaskStatus,
    pub(crate) desired_state: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct TaskStatus {
    timestamp: String,
    pub(crate) state: String,
    pub(crate) message: String,
    pub(crate) err: String,
    pub(crate) container_status: Option<ContainerStatus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ContainerStatus {
    #[serde(rename = "PID")]
    pub(crate) pid: i64,
}

/// Names of services and nodes by id, to name tasks.
#[derive(Debug, Default)]
pub(super) struct Names {
    services: HashMap<String, String>,
    nodes: HashMap<String, String>,
}

impl Names {
    pub(super) async fn read(client: &Client) -> Result<Names, Failure> {
        let services: Vec<Service> = client.get("/services").await?;
        let nodes: Vec<Node> = client.get("/nodes").await?;
        Ok(Names {
            services: services
                .into_iter()
                .map(|service| (service.id.clone(), service.name().to_owned()))
                .collect(),
            nodes: nodes
                .into_iter()
                .map(|node| (node.id, node.description.hostname))
                .collect(),
        })
    }

    /// The host name of a node, or its id.
    pub(super) fn node<'a>(&'a self, id: &'a str) -> &'a str {
        self.nodes
            .get(id)
            .filter(|name| !name.is_empty())
            .map_or(id, String::as_str)
    }

    pub(super) fn service<'a>(&'a self, id: &'a str) -> &'a str {
        self.services.get(id).map_or(id, String::as_str)
    }

    /// `web.2`, or `web.<node>` of a global service.
    pub(super) fn task(&self, task: &Task) -> String {
        let service = self.service(&task.service_id);
        match task.slot {
            0 => format!("{service}.{}", task.node_id),
            slot => format!("{service}.{slot}"),
        }
    }
}

/// Shows the tasks that a path answers.
pub(crate) async fn show(
    client: &Client,
    path: &str,
    quiet: bool,
    format: Format,
) -> Result<(), Failure> {
    let raw: Value = client.get(path).await?;
    if format == Format::Json && !quiet {
        return output::json(&raw);
    }
    let mut tasks: Vec<Task> = typed(raw)?;
    tasks.sort_by(|a, b| {
        (&a.service_id, a.slot)
            .cmp(&(&b.service_id, b.slot))
            .then(b.created_at.cmp(&a.created_at))
    });
    if quiet {
        return tasks
            .iter()
            .try_for_each(|task| output::line(output::shown(&task.id)));
    }
    let names = Names::read(client).await?;
    let mut table = Table::new(&["ID", "NAME", "NODE", "DESIRED", "CURRENT", "ERROR"]);
    for task in tasks {
        let current = format!("{} {}", task.status.state, ago(&task.status.timestamp));
        table.row([
            task.id.clone(),
            names.task(&task),
            names.node(&task.node_id).to_owned(),
            task.desired_state.clone(),
            current,
            task.status.err.clone(),
        ]);
    }
    table.print()
}
