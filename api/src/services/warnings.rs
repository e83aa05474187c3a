//! What a client is told of a service that was accepted all the same.

use waxseal_cluster::{
    State,
    objects::{Availability, Node, NodeState, ServiceSpec},
    plan::{
        LABEL_NATIVE_TASKS, PLUGIN_ENGINE, PLUGIN_HOST, PLUGIN_TYPE, is_host_image,
        parse_constraints,
    },
};

/// Beginnings of constraint keys whose value a node says of itself.
const SELF_ASSERTED: [&str; 3] = ["node.hostname", "node.platform.", "engine.labels."];
/// Beginnings of constraint keys whose value managers hold or see.
const MANAGERS_OWN: [&str; 4] = ["node.id", "node.role", "node.labels.", "node.ip"];

/// All warnings for a service of this spec, as the cluster stands now.
pub(super) fn warnings(state: &State, spec: &ServiceSpec) -> Vec<String> {
    [self_asserted(spec), no_node(state, spec)]
        .into_iter()
        .flatten()
        .collect()
}

/// A service with secrets that only facts steer which nodes say of themselves.
fn self_asserted(spec: &ServiceSpec) -> Option<String> {
    let task = spec.task.as_ref()?;
    if task.container.as_ref()?.secrets.is_empty() {
        return None;
    }
    let constraints = &task.placement.as_ref()?.constraints;
    let key = |constraint: &str| {
        let end = constraint.find(['=', '!']).unwrap_or(constraint.len());
        constraint[..end].trim().to_ascii_lowercase()
    };
    let any_of = |beginnings: &[&str]| {
        constraints
            .iter()
            .map(|constraint| key(constraint))
            .any(|key| beginnings.iter().any(|start| key.starts_with(start)))
    };
    (any_of(&SELF_ASSERTED) && !any_of(&MANAGERS_OWN)).then(|| {
        "this service has secrets and is steered only by what nodes say of themselves (hostname, platform, engine labels): any node can claim them and be given the secrets; add --constraint node.labels.KEY==VALUE, node.role or node.id, which managers hold".to_owned()
    })
}

/// No node that is there could run the image.
fn no_node(state: &State, spec: &ServiceSpec) -> Option<String> {
    let task = spec.task.as_ref()?;
    let image = &task.container.as_ref()?.image;
    let is_host = is_host_image(image);
    // What cannot be parsed is refused elsewhere.
    let constraints = match &task.placement {
        Some(placement) => parse_constraints(&placement.constraints).ok()?,
        None => Vec::new(),
    };
    let could = |node: &Node| {
        is_available(node)
            && runs(node, is_host)
            && constraints
                .iter()
                .all(|constraint| constraint.matches(node))
    };
    if state.nodes().any(|node| could(node)) {
        return None;
    }
    let what = if is_host {
        "native tasks (image host)".to_owned()
    } else {
        format!("image {}", image.escape_debug())
    };
    Some(format!(
        "no node can run {what} as asked now, so its tasks wait: see docker node ls for nodes that are ready and active, and the service's constraints"
    ))
}

fn is_available(node: &Node) -> bool {
    let ready = node
        .status
        .as_ref()
        .is_some_and(|status| status.state() == NodeState::Ready);
    let active = node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.availability() == Availability::Active);
    ready && active
}

/// Whether a node runs native tasks, or images, as the scheduler sees it. Nodes
/// that do not say that they run native tasks are Docker Engines.
fn runs(node: &Node, is_host: bool) -> bool {
    let engine = node
        .description
        .as_ref()
        .and_then(|description| description.engine.as_ref());
    let Some(engine) = engine else {
        return !is_host;
    };
    let has = |name: &str| {
        engine
            .plugins
            .iter()
            .any(|plugin| plugin.r#type == PLUGIN_TYPE && plugin.name == name)
    };
    let is_native = has(PLUGIN_HOST);
    if is_host {
        let policy = engine.labels.get(LABEL_NATIVE_TASKS).map(String::as_str);
        is_native && policy != Some("off")
    } else {
        !is_native || has(PLUGIN_ENGINE)
    }
}
