//! What `docker events` shows of a change.
//!
//! Events follow the replicated state, so every manager emits the same ones,
//! with the time of the command that made the change.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use crate::{
    change::Change,
    naming,
    objects::{
        Availability, Node, NodeRole, NodeState, Reachability, Service, service_spec::Mode,
        update_status,
    },
    record::ChangeRecord,
};

/// One event of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `secret`, `config`, `service` or `node`.
    pub kind: &'static str,
    /// What happened.
    pub action: Action,
    /// The object's id.
    pub id: String,
    /// The name, and for updates what changed: `replicas.old`, `replicas.new`, …
    pub attributes: BTreeMap<String, String>,
    /// The time of the command.
    pub time: OffsetDateTime,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Create,
    /// It is another than before.
    Update,
    /// It is gone.
    Remove,
}

impl Action {
    /// The word in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Create => "create",
            Action::Update => "update",
            Action::Remove => "remove",
        }
    }
}

impl Event {
    /// The events of all changes of one command, in order.
    pub fn of_record(record: &ChangeRecord) -> impl Iterator<Item = Event> {
        record
            .changes
            .iter()
            .filter_map(|change| Event::of_change(change, record.time))
    }

    /// The event for a change that a command of this time made. There are none
    /// for tasks and for the cluster object, as with the Docker Engine.
    pub fn of_change(change: &Change, time: OffsetDateTime) -> Option<Event> {
        let (old_version, new_version) = change.versions();
        let action = match (old_version, new_version) {
            (None, Some(_)) => Action::Create,
            (Some(_), Some(_)) => Action::Update,
            (Some(_), None) => Action::Remove,
            (None, None) => return None,
        };
        let mut attributes = BTreeMap::new();
        let name = match change {
            Change::Cluster { .. } | Change::Task { .. } | Change::Certificate { .. } => {
                return None;
            }
            Change::Secret { old, new } => naming::secret_name(new.as_ref().or(old.as_ref())?),
            Change::Config { old, new } => naming::config_name(new.as_ref().or(old.as_ref())?),
            Change::Service { old, new } => {
                if let (Some(old), Some(new)) = (old, new) {
                    compare_services(&mut attributes, old, new);
                }
                naming::service_name(new.as_ref().or(old.as_ref())?)
            }
            Change::Node { old, new } => {
                if let (Some(old), Some(new)) = (old, new) {
                    compare_nodes(&mut attributes, old, new);
                }
                naming::node_name(new.as_ref().or(old.as_ref())?)
            }
        };
        attributes.insert("name".into(), name.to_owned());
        Some(Event {
            kind: change.kind(),
            action,
            id: change.id().to_owned(),
            attributes,
            time,
        })
    }
}

fn compare_services(attributes: &mut BTreeMap<String, String>, old: &Service, new: &Service) {
    if let (Some(before), Some(after)) = (replicas(old), replicas(new)) {
        note(
            attributes,
            "replicas",
            &before.to_string(),
            &after.to_string(),
        );
    }
    note(attributes, "image", image(old), image(new));
    let (before, after) = (update_state(old), update_state(new));
    if before != after {
        let ends = [("updatestate.old", before), ("updatestate.new", after)];
        for (key, state) in ends {
            if let Some(state) = state {
                attributes.insert(key.into(), state.into());
            }
        }
    }
}

fn compare_nodes(attributes: &mut BTreeMap<String, String>, old: &Node, new: &Node) {
    note(
        attributes,
        "availability",
        availability(old),
        availability(new),
    );
    note(attributes, "role", role(old), role(new));
    note(attributes, "state", state(old), state(new));
    let before = old.manager_status.as_ref();
    let after = new.manager_status.as_ref();
    if let (Some(before), Some(after)) = (before, after) {
        let word = |leader: bool| if leader { "true" } else { "false" };
        note(
            attributes,
            "leader",
            word(before.leader),
            word(after.leader),
        );
        note(
            attributes,
            "reachability",
            reachability(before.reachability()),
            reachability(after.reachability()),
        );
    }
}

fn note(attributes: &mut BTreeMap<String, String>, what: &str, old: &str, new: &str) {
    if old != new {
        attributes.insert(format!("{what}.old"), old.into());
        attributes.insert(format!("{what}.new"), new.into());
    }
}

fn replicas(service: &Service) -> Option<u64> {
    match service.spec.as_ref()?.mode.as_ref()? {
        Mode::Replicated(replicated) => Some(replicated.replicas),
        _ => None,
    }
}

fn image(service: &Service) -> &str {
    service
        .spec
        .as_ref()
        .and_then(|spec| spec.task.as_ref()?.container.as_ref())
        .map_or("", |container| container.image.as_str())
}

fn update_state(service: &Service) -> Option<&'static str> {
    use update_status::State;
    match service.update_status.as_ref()?.state() {
        State::Unknown => None,
        State::Updating => Some("updating"),
        State::Paused => Some("paused"),
        State::Completed => Some("completed"),
        State::RollbackStarted => Some("rollback_started"),
        State::RollbackPaused => Some("rollback_paused"),
        State::RollbackCompleted => Some("rollback_completed"),
    }
}

fn availability(node: &Node) -> &'static str {
    match node.spec.as_ref().map(|spec| spec.availability()) {
        Some(Availability::Pause) => "pause",
        Some(Availability::Drain) => "drain",
        Some(Availability::Active) | None => "active",
    }
}

/// The role that the node's certificate names, not the one it is to have.
fn role(node: &Node) -> &'static str {
    match node.role() {
        NodeRole::Manager => "manager",
        NodeRole::Worker => "worker",
    }
}

fn state(node: &Node) -> &'static str {
    match node.status.as_ref().map(|status| status.state()) {
        Some(NodeState::Down) => "down",
        Some(NodeState::Ready) => "ready",
        Some(NodeState::Disconnected) => "disconnected",
        Some(NodeState::Unknown) | None => "unknown",
    }
}

fn reachability(reachability: Reachability) -> &'static str {
    match reachability {
        Reachability::Unknown => "unknown",
        Reachability::Unreachable => "unreachable",
        Reachability::Reachable => "reachable",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        objects::{
            NodeDescription, NodeObservation, NodeSpec, NodeStatus, ObserveNodes, RemoveSecret,
            ServiceSpec, UpdateNode, UpdateService, UpdateStatus, command::Op,
            container_spec::PullOptions,
        },
        state::State,
        testing::{
            bootstrapped, create_secret, create_service, create_worker, describe, report, run,
            service_spec, with_running_service,
        },
    };

    const TIME: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn events(state: &mut State, op: Op) -> Vec<Event> {
        let record = ChangeRecord {
            time: TIME,
            changes: run(state, op).unwrap().changes,
        };
        Event::of_record(&record).collect()
    }

    fn attributes(state: &mut State, op: Op) -> Vec<(String, String)> {
        let mut events = events(state, op);
        assert_eq!(events.len(), 1);
        events.remove(0).attributes.into_iter().collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        expected.iter().map(owned).collect()
    }

    #[test]
    fn no_events_for_tasks_and_the_cluster() {
        let mut state = with_running_service();
        let running = report("w1", "t1", crate::objects::TaskState::Running);
        assert!(events(&mut state, running).is_empty());
        let cluster = Arc::clone(state.cluster().unwrap());
        let change = Change::Cluster {
            old: None,
            new: Some(cluster),
        };
        assert_eq!(Event::of_change(&change, TIME), None);
    }

    #[test]
    fn secrets_have_a_name_and_nothing_else() {
        let mut state = bootstrapped();
        let created = events(&mut state, create_secret("s1", "db", b"payload"));
        let expected = Event {
            kind: "secret",
            action: Action::Create,
            id: "s1".into(),
            attributes: [("name".to_owned(), "db".to_owned())].into(),
            time: TIME,
        };
        assert_eq!(created, [expected]);
        let removed = Op::RemoveSecret(RemoveSecret {
            secret_id: "s1".into(),
        });
        assert_eq!(events(&mut state, removed)[0].action.as_str(), "remove");
    }

    #[test]
    fn services_tell_replicas_image_and_progress() {
        let mut state = bootstrapped();
        run(
            &mut state,
            create_service("s1", service_spec("web", &[], &[])),
        )
        .unwrap();
        let update = |change: &dyn Fn(&mut ServiceSpec)| {
            let mut spec = service_spec("web", &[], &[]);
            change(&mut spec);
            Op::UpdateService(UpdateService {
                service_id: "s1".into(),
                spec: Some(spec),
                ..UpdateService::default()
            })
        };
        let scaled = update(&|spec| {
            let replicas = crate::objects::ReplicatedService { replicas: 3 };
            spec.mode = Some(Mode::Replicated(replicas));
        });
        assert_eq!(
            attributes(&mut state, scaled.clone()),
            pairs(&[
                ("name", "web"),
                ("replicas.new", "3"),
                ("replicas.old", "1")
            ])
        );
        assert_eq!(attributes(&mut state, scaled), pairs(&[("name", "web")]));
        let progress = |state_now: update_status::State| {
            Op::UpdateService(UpdateService {
                service_id: "s1".into(),
                update_status: Some(UpdateStatus {
                    state: state_now.into(),
                    ..UpdateStatus::default()
                }),
                ..UpdateService::default()
            })
        };
        assert_eq!(
            attributes(&mut state, progress(update_status::State::Updating)),
            pairs(&[("name", "web"), ("updatestate.new", "updating")])
        );
        assert_eq!(
            attributes(&mut state, progress(update_status::State::Completed)),
            pairs(&[
                ("name", "web"),
                ("updatestate.new", "completed"),
                ("updatestate.old", "updating")
            ])
        );
        let other_image = update(&|spec| {
            let container = spec.task.as_mut().unwrap().container.as_mut().unwrap();
            container.image = "bb:2".into();
            container.pull_options = Some(PullOptions {
                registry_auth: "credentials".into(),
            });
        });
        let seen = attributes(&mut state, other_image);
        assert!(
            seen.contains(&("image.new".into(), "bb:2".into())),
            "{seen:?}"
        );
        assert!(!format!("{seen:?}").contains("credentials"));
    }

    #[test]
    fn nodes_tell_availability_role_and_state() {
        let mut state = bootstrapped();
        let created = events(&mut state, create_worker("w1"));
        assert_eq!(created[0].attributes["name"], "");
        let ready = Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: "w1".into(),
                description: {
                    let mut node = Node::default();
                    describe(&mut node, &[("Waxseal", "host"), ("Waxseal", "level-9")]);
                    let description = node.description.unwrap();
                    Some(NodeDescription {
                        hostname: "vm".into(),
                        ..description
                    })
                },
                status: Some(NodeStatus {
                    state: NodeState::Ready.into(),
                    ..NodeStatus::default()
                }),
                ..NodeObservation::default()
            }],
        });
        assert_eq!(
            attributes(&mut state, ready),
            pairs(&[
                ("name", "vm"),
                ("state.new", "ready"),
                ("state.old", "unknown")
            ])
        );
        let promoted = Op::UpdateNode(UpdateNode {
            node_id: "w1".into(),
            spec: Some(NodeSpec {
                availability: Availability::Drain.into(),
                desired_role: NodeRole::Manager.into(),
                ..NodeSpec::default()
            }),
            role: Some(NodeRole::Manager.into()),
            ..UpdateNode::default()
        });
        assert_eq!(
            attributes(&mut state, promoted),
            pairs(&[
                ("availability.new", "drain"),
                ("availability.old", "active"),
                ("name", "vm"),
                ("role.new", "manager"),
                ("role.old", "worker")
            ])
        );
    }
}
