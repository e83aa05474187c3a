//! Names that are shown for objects.

use crate::objects::{Annotations, Config, Node, Secret, Service, Task};

/// A service's name; empty if it has none.
pub fn service_name(service: &Service) -> &str {
    name_of(
        service
            .spec
            .as_ref()
            .and_then(|spec| spec.annotations.as_ref()),
    )
}

/// A secret's name; empty if it has none.
pub fn secret_name(secret: &Secret) -> &str {
    name_of(
        secret
            .spec
            .as_ref()
            .and_then(|spec| spec.annotations.as_ref()),
    )
}

/// A config's name; empty if it has none.
pub fn config_name(config: &Config) -> &str {
    name_of(
        config
            .spec
            .as_ref()
            .and_then(|spec| spec.annotations.as_ref()),
    )
}

/// The hostname that a node reported; empty while it has not.
pub fn hostname(node: &Node) -> &str {
    node.description
        .as_ref()
        .map_or("", |description| description.hostname.as_str())
}

/// A node's name in events: that of its spec, else its hostname.
pub fn node_name(node: &Node) -> &str {
    match name_of(
        node.spec
            .as_ref()
            .and_then(|spec| spec.annotations.as_ref()),
    ) {
        "" => hostname(node),
        name => name,
    }
}

/// A task's name: its own, else `<service>.<slot>.<task id>`, with the node's id
/// in place of the slot for tasks of global services.
pub fn task_name(task: &Task) -> String {
    match name_of(task.annotations.as_ref()) {
        "" => {}
        name => return name.to_owned(),
    }
    let service = name_of(task.service_annotations.as_ref());
    match task.slot {
        0 => format!("{service}.{}.{}", task.node_id, task.id),
        slot => format!("{service}.{slot}.{}", task.id),
    }
}

pub(crate) fn name_of(annotations: Option<&Annotations>) -> &str {
    annotations.map_or("", |annotations| annotations.name.as_str())
}

/// A digest as the index of nodes by key has it: hexadecimal, empty for none.
pub(crate) fn key_name(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
