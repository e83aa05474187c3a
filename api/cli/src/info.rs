//! What several verbs read of `GET /info` and of objects.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{client::Client, failure::Failure};

/// `GET /info`, as far as it matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Info {
    pub(crate) swarm: SwarmInfo,
}

/// The local node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SwarmInfo {
    #[serde(rename = "NodeID")]
    pub(crate) node_id: String,
    #[serde(rename = "LocalNodeState")]
    pub(crate) state: String,
    #[serde(rename = "ControlAvailable")]
    pub(crate) control_available: bool,
}

impl SwarmInfo {
    pub(crate) async fn read(client: &Client) -> Result<SwarmInfo, Failure> {
        client.get::<Info>("/info").await.map(|info| info.swarm)
    }
}

/// The version of an object, which an update names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Version {
    pub(crate) index: u64,
}

/// What secrets and configs are, as lists show them.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Named {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    pub(crate) created_at: String,
    pub(crate) updated_at: String,
    pub(crate) spec: NamedSpec,
}

/// Name and labels; the data of a secret is in no answer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NamedSpec {
    pub(crate) name: String,
    pub(crate) labels: Labels,
}

/// Labels; engines say `null` for none at times.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "Option<BTreeMap<String, String>>")]
pub(crate) struct Labels(pub(crate) BTreeMap<String, String>);

impl From<Option<BTreeMap<String, String>>> for Labels {
    fn from(labels: Option<BTreeMap<String, String>>) -> Labels {
        Labels(labels.unwrap_or_default())
    }
}

/// Answer to a creation.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Created {
    #[serde(rename = "ID", default)]
    pub(crate) id: String,
    #[serde(rename = "Warnings", default)]
    pub(crate) warnings: Option<Vec<String>>,
}
