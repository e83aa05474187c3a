//! Feature levels, and what a node says of itself that bears on its role.
//!
//! A cluster's feature level says what its members may put into the state and the
//! log. It rises once all managers can read that, and never falls; a binary below it
//! does not start as a manager.

use std::sync::Arc;

use crate::{
    change::Refusal,
    naming::hostname,
    objects::{Node, NodeRole},
    plan::{PLUGIN_HOST, PLUGIN_TYPE},
    state::State,
};

/// The newest feature level of this binary.
///
/// | level | what it brought |
/// |---|---|
/// | 1 | a cluster with one manager |
/// | 2 | several managers: roles that change, manager statuses that go |
/// | 3 | the life of trust: rotation of the root, records of certificates, limited join tokens |
/// | 4 | services in full: jobs, since when tasks run, templates; another issuer below the same root |
/// | 5 | generic resources: what tasks are given of them |
pub const FEATURE_LEVEL: u32 = 5;

/// The level from which certificates are recorded and join tokens may have limits.
pub const RECORDS_LEVEL: u32 = 3;

/// The level from which roots rotate.
pub const ROTATION_LEVEL: u32 = 3;

/// The level from which services may be jobs, and it is on record since when a task runs.
pub const SERVICES_LEVEL: u32 = 4;

/// The level from which another CA below the trusted root may take over.
pub const ISSUERS_LEVEL: u32 = 4;

/// The level from which secrets and configs may be templates, and from which nodes of ours
/// expand these and all that is offered in fields.
pub const TEMPLATES_LEVEL: u32 = 4;

/// The level from which services reserve generic resources, and tasks have their own on record.
pub const GENERIC_LEVEL: u32 = 5;

/// The level of nodes of ours that do not name one.
const UNNAMED_LEVEL: u32 = 1;
/// Start of the plugin name that tells the feature level of a node.
const LEVEL_PREFIX: &str = "level-";

/// The name of the plugin entry, of type [`PLUGIN_TYPE`], by which a node of ours tells
/// its feature level.
pub fn feature_level_plugin(level: u32) -> String {
    format!("{LEVEL_PREFIX}{level}")
}

/// Whether a node describes itself as one of ours; a stock Docker Engine does not.
///
/// Self-asserted: good for telling what a node can do, not for what it may do.
pub fn is_ours(node: &Node) -> bool {
    own_plugins(node).any(|name| name == PLUGIN_HOST)
}

/// The feature level that a node of ours describes; nothing of a stock engine, and of a
/// node that has not described itself yet.
pub fn described_level(node: &Node) -> Option<u32> {
    let levels = own_plugins(node).filter_map(|name| name.strip_prefix(LEVEL_PREFIX)?.parse().ok());
    is_ours(node).then(|| levels.max().unwrap_or(UNNAMED_LEVEL))
}

/// Whether all managers read what `what` puts into the state.
///
/// # Errors
/// [`Refusal::Precondition`] that names those which do not.
pub(crate) fn check_feature(state: &State, level: u32, what: &str) -> Result<(), Refusal> {
    let reached = state.cluster().map_or(0, |cluster| cluster.feature_level);
    if reached >= level {
        return Ok(());
    }
    let is_behind = |node: &&Arc<Node>| {
        node.role() == NodeRole::Manager && described_level(node).unwrap_or_default() < level
    };
    let behind = state
        .nodes()
        .filter(is_behind)
        .map(|node| node_name_or_id(node));
    let behind: Vec<_> = behind.collect();
    Err(Refusal::precondition(format!(
        "{what} needs feature level {level} and the managers of this cluster have {reached}; update \
         waxseal on {}",
        match behind.is_empty() {
            true => "all managers and wait until they have said so".to_owned(),
            false => behind.join(", "),
        }
    )))
}

fn node_name_or_id(node: &Node) -> &str {
    match hostname(node) {
        "" => &node.id,
        name => name,
    }
}

fn own_plugins(node: &Node) -> impl Iterator<Item = &str> {
    let description = node.description.as_ref();
    let engine = description.and_then(|description| description.engine.as_ref());
    engine
        .into_iter()
        .flat_map(|engine| &engine.plugins)
        .filter(|plugin| plugin.r#type == PLUGIN_TYPE)
        .map(|plugin| plugin.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{describe, node};

    fn level(plugins: &[(&str, &str)]) -> Option<u32> {
        let mut node = node("n1", crate::objects::NodeRole::Worker);
        describe(&mut node, plugins);
        described_level(&node)
    }

    #[test]
    fn engines_and_silent_nodes_have_no_level() {
        let silent = node("n1", crate::objects::NodeRole::Worker);
        assert_eq!(described_level(&silent), None);
        assert_eq!(level(&[("Network", "host"), ("Log", "json-file")]), None);
        // What claims a level and is none of ours.
        assert_eq!(level(&[("Waxseal", "level-9")]), None);
        assert_eq!(level(&[("Network", "level-9"), ("Volume", "host")]), None);
    }

    #[test]
    fn levels_are_read_as_they_are_written() {
        assert_eq!(level(&[("Waxseal", "host")]), Some(1));
        let name = feature_level_plugin(7);
        assert_eq!(level(&[("Waxseal", "host"), ("Waxseal", &name)]), Some(7));
        for bad in ["level-", "level--1", "level-x", "level-99999999999"] {
            assert_eq!(
                level(&[("Waxseal", "host"), ("Waxseal", bad)]),
                Some(1),
                "{bad}"
            );
        }
    }
}
