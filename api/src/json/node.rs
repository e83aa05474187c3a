//! Nodes as JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use waxseal_cluster::objects::{self, Availability, NodeRole, NodeState, Reachability};

use super::{
    common::{AsBase64, Labels, Meta, Time, annotations, no_labels},
    node_text::{node_labels, node_name, node_text},
};
use crate::{
    error::ApiError,
    services::{GenericResourceJson, generic},
};

/// A node.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Node<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(flatten)]
    meta: Meta,
    spec: ShownSpec<'a>,
    description: Description<'a>,
    status: Status<'a>,
    /// Present means "is a manager" to clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    manager_status: Option<ManagerStatus<'a>>,
    /// Ours: no engine shows it. Absent while it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<Clock>,
}

/// A node's clock beside its manager's.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Clock {
    /// Negative: behind.
    ahead_millis: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured_at: Option<Time>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownSpec<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    labels: &'a Labels,
    role: &'static str,
    availability: &'static str,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Description<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    hostname: Cow<'a, str>,
    platform: Platform<'a>,
    resources: Resources,
    engine: Engine<'a>,
    #[serde(rename = "TLSInfo")]
    tls_info: TlsInfo<'a>,
}

#[derive(Default, Serialize)]
struct Platform<'a> {
    #[serde(rename = "Architecture", skip_serializing_if = "str::is_empty")]
    architecture: Cow<'a, str>,
    #[serde(rename = "OS", skip_serializing_if = "str::is_empty")]
    os: Cow<'a, str>,
}

#[derive(Default, Serialize)]
struct Resources {
    #[serde(rename = "NanoCPUs", skip_serializing_if = "is_zero")]
    nano_cpus: i64,
    #[serde(rename = "MemoryBytes", skip_serializing_if = "is_zero")]
    memory_bytes: i64,
    #[serde(rename = "GenericResources", skip_serializing_if = "Vec::is_empty")]
    generic: Vec<GenericResourceJson>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Engine<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    engine_version: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Cow<'a, Labels>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plugins: Vec<Plugin<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Plugin<'a> {
    r#type: Cow<'a, str>,
    name: Cow<'a, str>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct TlsInfo<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    trust_root: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_issuer_subject: Option<AsBase64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert_issuer_public_key: Option<AsBase64<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Status<'a> {
    state: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    message: Cow<'a, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    addr: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ManagerStatus<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leader: bool,
    reachability: &'static str,
    addr: &'a str,
}

impl<'a> From<&'a objects::Node> for Node<'a> {
    fn from(node: &'a objects::Node) -> Node<'a> {
        let manager = node.manager_status.as_ref();
        Node {
            id: &node.id,
            meta: Meta::of(node.meta.as_ref()),
            spec: ShownSpec::from(node.spec.as_ref()),
            description: node
                .description
                .as_ref()
                .map(Description::from)
                .unwrap_or_default(),
            status: Status::from(node.status.as_ref()),
            manager_status: manager.map(|status| ManagerStatus {
                leader: status.leader,
                reachability: match status.reachability() {
                    Reachability::Unknown => "unknown",
                    Reachability::Unreachable => "unreachable",
                    Reachability::Reachable => "reachable",
                },
                addr: &status.addr,
            }),
            clock: node.clock.as_ref().map(|clock| Clock {
                ahead_millis: clock.ahead_millis,
                measured_at: clock.measured_at.as_ref().map(|at| Time::of(Some(at))),
            }),
        }
    }
}

impl<'a> From<Option<&'a objects::NodeSpec>> for ShownSpec<'a> {
    fn from(spec: Option<&'a objects::NodeSpec>) -> ShownSpec<'a> {
        let annotations = spec.and_then(|spec| spec.annotations.as_ref());
        ShownSpec {
            name: annotations.map_or("", |annotations| &annotations.name),
            labels: annotations.map_or_else(no_labels, |annotations| &annotations.labels),
            role: match spec.map(objects::NodeSpec::desired_role) {
                Some(NodeRole::Manager) => "manager",
                Some(NodeRole::Worker) | None => "worker",
            },
            availability: match spec.map(objects::NodeSpec::availability) {
                Some(Availability::Pause) => "pause",
                Some(Availability::Drain) => "drain",
                Some(Availability::Active) | None => "active",
            },
        }
    }
}

impl<'a> From<&'a objects::NodeDescription> for Description<'a> {
    fn from(description: &'a objects::NodeDescription) -> Description<'a> {
        let platform = description.platform.as_ref();
        let resources = description.resources.as_ref();
        let engine = description.engine.as_ref();
        let tls = description.tls_info.as_ref();
        let bytes = |bytes: &'a [u8]| (!bytes.is_empty()).then_some(AsBase64(bytes));
        Description {
            hostname: node_name(&description.hostname),
            platform: Platform {
                architecture: node_text(platform.map_or("", |platform| &platform.architecture)),
                os: node_text(platform.map_or("", |platform| &platform.os)),
            },
            resources: Resources {
                nano_cpus: resources.map_or(0, |resources| resources.nano_cpus),
                memory_bytes: resources.map_or(0, |resources| resources.memory_bytes),
                generic: resources.map_or_else(Vec::new, |resources| {
                    resources.generic.iter().map(node_generic).collect()
                }),
            },
            engine: Engine {
                engine_version: node_text(engine.map_or("", |engine| &engine.engine_version)),
                labels: engine
                    .map(|engine| &engine.labels)
                    .filter(|labels| !labels.is_empty())
                    .map(node_labels),
                plugins: engine.map_or_else(Vec::new, |engine| {
                    let plugins = engine.plugins.iter();
                    plugins
                        .map(|plugin| Plugin {
                            r#type: node_text(&plugin.r#type),
                            name: node_text(&plugin.name),
                        })
                        .collect()
                }),
            },
            tls_info: TlsInfo {
                trust_root: tls.map_or("".into(), |tls| String::from_utf8_lossy(&tls.trust_root)),
                cert_issuer_subject: tls.and_then(|tls| bytes(&tls.cert_issuer_subject)),
                cert_issuer_public_key: tls.and_then(|tls| bytes(&tls.cert_issuer_public_key)),
            },
        }
    }
}

/// A generic resource that a node names, in a task too.
pub(crate) fn node_generic(resource: &objects::GenericResource) -> GenericResourceJson {
    let mut shown = generic(resource);
    if let Some(named) = &mut shown.named_resource_spec {
        named.kind = node_text(&named.kind).into_owned();
        named.value = node_text(&named.value).into_owned();
    }
    if let Some(discrete) = &mut shown.discrete_resource_spec {
        discrete.kind = node_text(&discrete.kind).into_owned();
    }
    shown
}

impl<'a> Node<'a> {
    /// With what an operator should know beside what its manager observed.
    pub(crate) fn with_message(mut self, message: Option<&'a str>) -> Node<'a> {
        if let Some(message) = message {
            self.status.message = message.into();
        }
        self
    }
}

impl<'a> From<Option<&'a objects::NodeStatus>> for Status<'a> {
    fn from(status: Option<&'a objects::NodeStatus>) -> Status<'a> {
        Status {
            state: match status.map(objects::NodeStatus::state) {
                Some(NodeState::Down) => "down",
                Some(NodeState::Ready) => "ready",
                Some(NodeState::Disconnected) => "disconnected",
                Some(NodeState::Unknown) | None => "unknown",
            },
            message: node_text(status.map_or("", |status| &status.message)),
            addr: status.map_or("", |status| &status.addr),
        }
    }
}

/// A node's spec as a client sends it: the whole of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct NodeSpec {
    /// Shown, not used for lookups.
    pub(crate) name: String,
    /// The manager's labels.
    pub(crate) labels: Labels,
    /// `worker` or `manager`, required.
    pub(crate) role: String,
    /// `active`, `pause` or `drain`, required.
    pub(crate) availability: String,
}

impl NodeSpec {
    /// The object, but for the membership, which clients do not set.
    ///
    /// # Errors
    /// 400 for a role or availability that is none.
    pub(crate) fn into_object(self) -> Result<objects::NodeSpec, ApiError> {
        let role = match self.role.as_str() {
            "worker" => NodeRole::Worker,
            "manager" => NodeRole::Manager,
            other => return Err(ApiError::bad_request(format!("invalid Role: \"{other}\""))),
        };
        let availability = match self.availability.as_str() {
            "active" => Availability::Active,
            "pause" => Availability::Pause,
            "drain" => Availability::Drain,
            other => {
                return Err(ApiError::bad_request(format!(
                    "invalid Availability: \"{other}\""
                )));
            }
        };
        let mut spec = objects::NodeSpec {
            annotations: Some(annotations(self.name, self.labels)),
            ..objects::NodeSpec::default()
        };
        spec.set_desired_role(role);
        spec.set_availability(availability);
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use waxseal_cluster::generic::{discrete, named};

    use super::*;

    const EVIL: &str = "h\x1b]0;owned\x07\u{202e}";
    const SHOWN: &str = r"h\u{1b}]0;owned\u{7}\u{202e}";

    fn evil() -> objects::Node {
        let evil = || EVIL.to_owned();
        objects::Node {
            description: Some(objects::NodeDescription {
                hostname: evil().repeat(1_000),
                platform: Some(objects::Platform {
                    architecture: evil(),
                    os: evil(),
                }),
                resources: Some(objects::Resources {
                    generic: vec![named(EVIL, EVIL), discrete(EVIL, 4)],
                    ..objects::Resources::default()
                }),
                engine: Some(objects::EngineDescription {
                    engine_version: evil(),
                    labels: Labels::from([(evil(), evil())]),
                    plugins: vec![objects::PluginDescription {
                        r#type: evil(),
                        name: evil(),
                    }],
                }),
                ..objects::NodeDescription::default()
            }),
            status: Some(objects::NodeStatus {
                message: evil(),
                ..objects::NodeStatus::default()
            }),
            ..objects::Node::default()
        }
    }

    #[test]
    fn what_a_node_says_of_itself_moves_no_terminal() {
        let node = evil();
        let shown = serde_json::to_value(Node::from(&node)).unwrap();
        let description = &shown["Description"];
        let hostname = description["Hostname"].as_str().unwrap();
        assert!(hostname.starts_with(SHOWN), "{hostname}");
        assert!(hostname.len() < 1_000, "{} bytes", hostname.len());
        for (text, what) in [
            (&shown["Status"]["Message"], "message"),
            (&description["Platform"]["Architecture"], "architecture"),
            (&description["Platform"]["OS"], "system"),
            (
                &description["Resources"]["GenericResources"][0]["NamedResourceSpec"]["Kind"],
                "kind",
            ),
            (
                &description["Resources"]["GenericResources"][0]["NamedResourceSpec"]["Value"],
                "value",
            ),
            (
                &description["Resources"]["GenericResources"][1]["DiscreteResourceSpec"]["Kind"],
                "kind",
            ),
            (&description["Engine"]["EngineVersion"], "version"),
            (&description["Engine"]["Labels"][SHOWN], "label"),
            (&description["Engine"]["Plugins"][0]["Type"], "type"),
            (&description["Engine"]["Plugins"][0]["Name"], "plugin"),
        ] {
            assert_eq!(text, SHOWN, "{what}");
        }
    }
}
