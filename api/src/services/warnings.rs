//! What a client is told of a service that was accepted all the same.

use time::OffsetDateTime;
use waxseal_cluster::{
    State,
    objects::{Service, ServiceSpec},
    plan::{is_host_image, unplaceable},
};

/// Beginnings of constraint keys whose value a node says of itself.
const SELF_ASSERTED: [&str; 3] = ["node.hostname", "node.platform.", "engine.labels."];
/// Beginnings of constraint keys whose value managers hold or see.
const MANAGERS_OWN: [&str; 4] = ["node.id", "node.role", "node.labels.", "node.ip"];

/// All warnings for a service of this spec, as the cluster stands at `now`; `id` is empty if
/// it is yet to be made.
pub(super) fn warnings(
    state: &State,
    id: &str,
    spec: &ServiceSpec,
    now: OffsetDateTime,
) -> Vec<String> {
    let service = Service {
        id: id.to_owned(),
        spec: Some(spec.clone()),
        ..Service::default()
    };
    [self_asserted(spec), no_node(state, &service, now)]
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

/// No node that is there could run a task of it.
fn no_node(state: &State, service: &Service, now: OffsetDateTime) -> Option<String> {
    let why = match unplaceable(state, service, now)? {
        why if why.is_empty() => "there are no nodes".to_owned(),
        why => why,
    };
    let task = service.spec.as_ref()?.task.as_ref()?;
    let image = &task.container.as_ref()?.image;
    let what = if is_host_image(image) {
        "native tasks (image host)".to_owned()
    } else {
        format!("image {}", image.escape_debug())
    };
    Some(format!(
        "no node can run {what} as asked now, so its tasks wait: {why}; see docker node ls for nodes that are ready and active, and what the service asks of its node"
    ))
}
