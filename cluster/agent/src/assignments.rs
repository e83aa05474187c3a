//! What a manager assigned to this node, kept in memory only.

use std::{collections::BTreeMap, sync::Arc};

use waxseal_cluster::objects::{Config, Driver, Secret, Task};
use waxseal_wire::swarmkit::{
    AssignmentsMessage, assignment::Item, assignment_change::Action, assignments_message::Type,
};
use zeroize::Zeroizing;

/// A secret's or config's bytes; wiped when nobody needs them.
pub(crate) struct Payload {
    pub(crate) data: Zeroizing<Vec<u8>>,
    /// What expands it for each task; `None` if it is used as it is.
    pub(crate) template_driver: Option<String>,
}

impl Payload {
    fn of(data: Vec<u8>, templating: Option<Driver>) -> Arc<Payload> {
        Arc::new(Payload {
            data: Zeroizing::new(data),
            // An empty driver is none: clients send one.
            template_driver: templating
                .map(|driver| driver.name)
                .filter(|name| !name.is_empty()),
        })
    }
}

/// The tasks of this node and what they need; a snapshot, cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct AssignedSet {
    pub(crate) tasks: BTreeMap<String, Arc<Task>>,
    pub(crate) secrets: BTreeMap<String, Arc<Payload>>,
    pub(crate) configs: BTreeMap<String, Arc<Payload>>,
}

impl AssignedSet {
    /// A secret for a task: its own variant, if the manager made one, else the shared one.
    pub(crate) fn secret(&self, secret_id: &str, task_id: &str) -> Option<&Arc<Payload>> {
        self.secrets
            .get(&format!("{secret_id}.{task_id}"))
            .or_else(|| self.secrets.get(secret_id))
    }

    /// A config for a task, likewise.
    pub(crate) fn config(&self, config_id: &str, task_id: &str) -> Option<&Arc<Payload>> {
        self.configs
            .get(&format!("{config_id}.{task_id}"))
            .or_else(|| self.configs.get(config_id))
    }
}

/// A message of an assignment stream does not follow the one before it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChainBreak {
    #[error("the first assignments are not complete")]
    NotComplete,
    #[error("assignments are missing between two messages")]
    Gap,
}

/// One stream of assignments, from its first message on.
///
/// swarmkit's engines apply what follows a gap and then ask for the stream again without
/// end; here a gap ends the session, and the next one begins with a complete set.
#[derive(Default)]
pub(crate) struct AssignmentStream {
    set: AssignedSet,
    mark: Option<String>,
}

impl AssignmentStream {
    /// Applies a message and gives the set after it.
    ///
    /// # Errors
    /// If the chain is broken; the message is not applied.
    pub(crate) fn apply(
        &mut self,
        message: AssignmentsMessage,
    ) -> Result<&AssignedSet, ChainBreak> {
        match (message.r#type(), &self.mark) {
            (Type::Complete, _) => self.set = AssignedSet::default(),
            (Type::Incremental, None) => return Err(ChainBreak::NotComplete),
            (Type::Incremental, Some(mark)) if *mark != message.applies_to => {
                return Err(ChainBreak::Gap);
            }
            (Type::Incremental, Some(_)) => {}
        }
        self.mark = Some(message.results_in);
        for change in message.changes {
            let action = change.action();
            let Some(item) = change.assignment.and_then(|assignment| assignment.item) else {
                continue;
            };
            self.set.change(action, item);
        }
        Ok(&self.set)
    }
}

impl AssignedSet {
    fn change(&mut self, action: Action, item: Item) {
        match (action, item) {
            (Action::Update, Item::Task(task)) => {
                self.tasks.insert(task.id.clone(), Arc::new(task));
            }
            (Action::Remove, Item::Task(task)) => {
                self.tasks.remove(&task.id);
            }
            (Action::Update, Item::Secret(Secret { id, spec, .. })) => {
                let spec = spec.unwrap_or_default();
                self.secrets
                    .insert(id, Payload::of(spec.data, spec.templating));
            }
            (Action::Remove, Item::Secret(secret)) => {
                self.secrets.remove(&secret.id);
            }
            (Action::Update, Item::Config(Config { id, spec, .. })) => {
                let spec = spec.unwrap_or_default();
                self.configs
                    .insert(id, Payload::of(spec.data, spec.templating));
            }
            (Action::Remove, Item::Config(config)) => {
                self.configs.remove(&config.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use waxseal_cluster::objects::SecretSpec;
    use waxseal_wire::swarmkit::{Assignment, AssignmentChange};

    use super::*;

    fn task(id: &str) -> Item {
        Item::Task(Task {
            id: id.to_owned(),
            ..Default::default()
        })
    }

    fn secret(id: &str, data: &[u8]) -> Item {
        let spec = SecretSpec {
            data: data.to_vec(),
            ..Default::default()
        };
        Item::Secret(Secret {
            id: id.to_owned(),
            spec: Some(spec),
            ..Default::default()
        })
    }

    fn message(
        r#type: Type,
        applies_to: &str,
        results_in: &str,
        changes: Vec<(Action, Item)>,
    ) -> AssignmentsMessage {
        AssignmentsMessage {
            r#type: r#type.into(),
            applies_to: applies_to.to_owned(),
            results_in: results_in.to_owned(),
            changes: changes
                .into_iter()
                .map(|(action, item)| AssignmentChange {
                    assignment: Some(Assignment { item: Some(item) }),
                    action: action.into(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_stream_that_begins_with_a_change_is_refused() {
        let mut stream = AssignmentStream::default();
        let first = message(
            Type::Incremental,
            "",
            "1",
            vec![(Action::Update, task("a"))],
        );
        assert_eq!(stream.apply(first).err(), Some(ChainBreak::NotComplete));
    }

    #[test]
    fn what_follows_a_gap_is_not_applied() {
        let mut stream = AssignmentStream::default();
        stream
            .apply(message(
                Type::Complete,
                "",
                "1",
                vec![(Action::Update, task("a"))],
            ))
            .unwrap();
        let after_gap = message(
            Type::Incremental,
            "2",
            "3",
            vec![(Action::Remove, task("a"))],
        );
        assert_eq!(stream.apply(after_gap).err(), Some(ChainBreak::Gap));
        assert!(stream.set.tasks.contains_key("a"));
    }

    #[test]
    fn a_complete_set_replaces_and_changes_add_and_remove() {
        let mut stream = AssignmentStream::default();
        let changes = vec![
            (Action::Update, task("a")),
            (Action::Update, secret("s", b"one")),
            (Action::Update, secret("s.a", b"for a")),
        ];
        let set = stream
            .apply(message(Type::Complete, "", "1", changes))
            .unwrap();
        assert_eq!(set.secret("s", "a").unwrap().data.as_slice(), b"for a");
        assert_eq!(set.secret("s", "b").unwrap().data.as_slice(), b"one");
        let changes = vec![
            (Action::Remove, secret("s", b"")),
            (Action::Update, task("b")),
        ];
        let set = stream
            .apply(message(Type::Incremental, "1", "2", changes))
            .unwrap();
        assert_eq!(set.tasks.len(), 2);
        assert!(set.secret("s", "b").is_none());
        let set = stream
            .apply(message(Type::Complete, "", "9", vec![]))
            .unwrap();
        assert!(set.tasks.is_empty() && set.secrets.is_empty());
    }

    #[test]
    fn an_empty_change_is_passed_over() {
        let mut stream = AssignmentStream::default();
        let mut first = message(Type::Complete, "", "1", vec![]);
        first.changes.push(AssignmentChange::default());
        assert!(stream.apply(first).unwrap().tasks.is_empty());
    }
}
