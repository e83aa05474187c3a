//! Placement constraints: `key==value`, `key!=value`, compared without regard to
//! case; names of labels are not (swarmkit's rules).

use std::net::IpAddr;

use crate::objects::{Node, NodeRole};

const KEY_NODE_LABEL: &str = "node.labels.";
const KEY_ENGINE_LABEL: &str = "engine.labels.";

/// How a constraint compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

/// One parsed constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constraint {
    key: String,
    operator: Operator,
    value: String,
}

/// Why a constraint is not one; the texts are swarmkit's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConstraintError {
    /// Neither `==` nor `!=`.
    #[error("constraint expected one operator from ==, !=")]
    NoOperator,
    /// The part before the operator.
    #[error("key '{key}' is invalid")]
    Key {
        /// As given.
        key: String,
    },
    /// The part after the operator.
    #[error("value '{value}' is invalid")]
    Value {
        /// As given.
        value: String,
    },
}

/// Parses all constraints of a placement. A key that no node has is accepted, as
/// swarmkit does, and matches nothing.
///
/// # Errors
/// [`ConstraintError`] for the first that is not one.
pub fn parse_constraints(constraints: &[String]) -> Result<Vec<Constraint>, ConstraintError> {
    constraints
        .iter()
        .map(|text| Constraint::parse(text))
        .collect()
}

/// Whether a node satisfies all of them; one that cannot be read is satisfied by none.
pub(in crate::plan) fn satisfies_all(constraints: &[String], node: &Node) -> bool {
    constraints
        .iter()
        .all(|text| Constraint::parse(text).is_ok_and(|constraint| constraint.matches(node)))
}

impl Constraint {
    fn parse(text: &str) -> Result<Constraint, ConstraintError> {
        let operators = [("==", Operator::Equal), ("!=", Operator::NotEqual)];
        let split = operators.iter().find_map(|(sign, operator)| {
            let (key, value) = text.split_once(sign)?;
            Some((key.trim(), *operator, value.trim()))
        });
        let (key, operator, value) = split.ok_or(ConstraintError::NoOperator)?;
        if !is_key(key) {
            return Err(ConstraintError::Key {
                key: key.to_owned(),
            });
        }
        if !is_value(value) {
            return Err(ConstraintError::Value {
                value: value.to_owned(),
            });
        }
        Ok(Constraint {
            key: key.to_owned(),
            operator,
            value: value.to_owned(),
        })
    }

    /// Whether the node satisfies it. A label that a node lacks counts as empty.
    pub fn matches(&self, node: &Node) -> bool {
        let description = node.description.as_ref();
        let platform = description.and_then(|description| description.platform.as_ref());
        let lower = self.key.to_ascii_lowercase();
        let actual = match lower.as_str() {
            "node.id" => node.id.as_str(),
            "node.hostname" => description.map_or("", |description| &description.hostname),
            "node.ip" => return self.matches_address(node),
            "node.role" => match node.role() {
                NodeRole::Worker => "worker",
                NodeRole::Manager => "manager",
            },
            "node.platform.os" => platform.map_or("", |platform| &platform.os),
            "node.platform.arch" => platform.map_or("", |platform| &platform.architecture),
            _ => match self.label(node, &lower) {
                Some(value) => value,
                None => return false,
            },
        };
        self.compare(actual.eq_ignore_ascii_case(&self.value))
    }

    /// The value of the label that the key names; `None` if it names none.
    fn label<'n>(&self, node: &'n Node, lower: &str) -> Option<&'n str> {
        label_value(node, &self.key, lower)
    }

    fn compare(&self, equal: bool) -> bool {
        equal == (self.operator == Operator::Equal)
    }

    /// `node.ip` takes an address or a network in CIDR form.
    fn matches_address(&self, node: &Node) -> bool {
        let address = node.status.as_ref().map_or("", |status| &status.addr);
        let address = address.parse::<IpAddr>().ok();
        if let Ok(wanted) = self.value.parse::<IpAddr>() {
            return self.compare(address == Some(wanted));
        }
        let network = self.value.split_once('/').and_then(|(network, length)| {
            Some((network.parse::<IpAddr>().ok()?, length.parse::<u32>().ok()?))
        });
        match network {
            Some((network, length)) if length <= address_bits(network).0 => {
                self.compare(address.is_some_and(|address| lies_in(address, network, length)))
            }
            _ => false,
        }
    }
}

/// The value of the node or engine label that `key` names, empty if the node lacks
/// it; `None` if it names no label. `lower` is the key in lower case.
pub(super) fn label_value<'n>(node: &'n Node, key: &str, lower: &str) -> Option<&'n str> {
    let (labels, prefix) = if lower.starts_with(KEY_NODE_LABEL) {
        let annotations = node
            .spec
            .as_ref()
            .and_then(|spec| spec.annotations.as_ref());
        (annotations.map(|all| &all.labels), KEY_NODE_LABEL)
    } else if lower.starts_with(KEY_ENGINE_LABEL) {
        let description = node.description.as_ref();
        let engine = description.and_then(|description| description.engine.as_ref());
        (engine.map(|engine| &engine.labels), KEY_ENGINE_LABEL)
    } else {
        return None;
    };
    let name = key.get(prefix.len()..)?;
    let value = labels.and_then(|labels| labels.get(name));
    Some(value.map_or("", String::as_str))
}

/// Width of the address's family, and its bits.
fn address_bits(address: IpAddr) -> (u32, u128) {
    match address {
        IpAddr::V4(four) => (32, u128::from(four.to_bits())),
        IpAddr::V6(six) => (128, six.to_bits()),
    }
}

fn lies_in(address: IpAddr, network: IpAddr, length: u32) -> bool {
    let (width, address) = address_bits(address);
    let (network_width, network) = address_bits(network);
    let shared = |bits: u128| bits.checked_shr(width - length).unwrap_or(0);
    width == network_width && shared(address) == shared(network)
}

/// A letter or underscore, then at least one more of letters, digits, `_-.`.
fn is_key(key: &str) -> bool {
    let mut bytes = key.bytes();
    let first = bytes.next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && key.len() > 1
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_value(value: &str) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || byte.is_ascii_whitespace()
            || b":-_.*()?+[]\\^$|/".contains(&byte)
    };
    !value.is_empty() && value.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::objects::{
        Annotations, EngineDescription, NodeDescription, NodeSpec, NodeStatus, Platform,
    };

    fn node() -> Node {
        let labels =
            |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Node {
            id: "n1".to_owned(),
            role: NodeRole::Manager as i32,
            spec: Some(NodeSpec {
                annotations: Some(Annotations {
                    labels: labels("Zone", "East"),
                    ..Annotations::default()
                }),
                ..NodeSpec::default()
            }),
            description: Some(NodeDescription {
                hostname: "box".to_owned(),
                platform: Some(Platform {
                    architecture: "x86_64".to_owned(),
                    os: "linux".to_owned(),
                }),
                engine: Some(EngineDescription {
                    labels: labels("disk", "ssd"),
                    ..EngineDescription::default()
                }),
                ..NodeDescription::default()
            }),
            status: Some(NodeStatus {
                addr: "10.1.2.3".to_owned(),
                ..NodeStatus::default()
            }),
            ..Node::default()
        }
    }

    #[test]
    fn what_is_no_constraint_is_refused_in_swarmkits_words() {
        let table = [
            ("node.foo", "constraint expected one operator from ==, !="),
            ("node.id=1", "constraint expected one operator from ==, !="),
            ("", "constraint expected one operator from ==, !="),
            ("==a", "key '' is invalid"),
            ("n==a", "key 'n' is invalid"),
            ("1node==a", "key '1node' is invalid"),
            ("node id==a", "key 'node id' is invalid"),
            ("node.id==", "value '' is invalid"),
            ("node.id!=a;b", "value 'a;b' is invalid"),
        ];
        for (text, message) in table {
            let refused = parse_constraints(&[text.to_owned()]).unwrap_err();
            assert_eq!(refused.to_string(), message, "{text}");
            assert!(!satisfies_all(&[text.to_owned()], &node()), "{text}");
        }
    }

    #[test]
    fn constraints_on_a_node() {
        let table = [
            ("node.id==n1", true),
            ("node.id == N1", true),
            ("NODE.ID==n1", true),
            ("node.id!=n1", false),
            ("node.hostname==BOX", true),
            ("node.hostname!=other", true),
            ("node.role==manager", true),
            ("node.role==worker", false),
            ("node.platform.os==Linux", true),
            ("node.platform.arch==x86_64", true),
            ("node.labels.Zone==east", true),
            ("node.labels.zone==east", false),
            ("node.labels.none!=x", true),
            ("node.labels.none==x", false),
            ("engine.labels.disk==ssd", true),
            ("engine.labels.disk!=ssd", false),
            ("node.foo==1", false),
            ("node.foo!=1", false),
            ("node.ip==10.1.2.3", true),
            ("node.ip==10.1.0.0/16", true),
            ("node.ip==10.2.0.0/16", false),
            ("node.ip!=10.2.0.0/16", true),
            ("node.ip==0.0.0.0/0", true),
            ("node.ip==::/0", false),
            ("node.ip==10.1.0.0/33", false),
            ("node.ip!=nonsense", false),
        ];
        for (text, expected) in table {
            let parsed = parse_constraints(&[text.to_owned()]).unwrap();
            assert_eq!(parsed[0].matches(&node()), expected, "{text}");
        }
    }

    #[test]
    fn a_node_without_description_matches_only_what_excludes() {
        let bare = Node::default();
        assert!(satisfies_all(&["node.hostname!=box".to_owned()], &bare));
        assert!(!satisfies_all(&["node.hostname==box".to_owned()], &bare));
    }
}
