//! What one node was sent on one Assignments stream, and what it lacks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message;
use waxseal_cluster::{
    State, config_ids, is_final,
    objects::{Config, Secret, Task, TaskState},
    observed_state, plan, secret_ids,
};
use waxseal_secrets::{AssignmentDiff, AssignmentSet};
use waxseal_wire::swarmkit::{
    Assignment, AssignmentChange, AssignmentsMessage, assignment, assignment_change,
    assignments_message,
};

/// Engines up to 19.03 refuse messages over 4 MiB.
const MESSAGE_BYTES: usize = 3 * 1024 * 1024;

/// The state of one stream: what was sent and under which mark.
///
/// The chain of marks never breaks: a worker that sees `applies_to` differ from
/// its last `results_in` reopens the stream for ever (spec/dockerd-worker.md §8).
/// So a lost message ends the stream, and the next one begins anew.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    tasks: BTreeMap<String, TaskState>,
    payloads: AssignmentSet,
    mark: u64,
}

/// What a task needs before it can start, in the order it must be sent.
struct Group {
    changes: Vec<AssignmentChange>,
    /// The worker knows the task already: leaving it out would stop it.
    known: bool,
    running: bool,
}

impl Sent {
    /// The first messages of a stream: COMPLETE, then what did not fit.
    ///
    /// COMPLETE names every task that the node may already know, and the payloads
    /// of those that are on their way to running. Payloads of running tasks and
    /// tasks that are new to the node may follow in INCREMENTAL messages.
    pub(crate) fn first(state: &State, node_id: &str) -> (Sent, Vec<AssignmentsMessage>) {
        let mut sent = Sent::default();
        let groups = sent.missing(state, node_id);
        sent.payloads = state.assignment_set(node_id);
        let mut must = Vec::new();
        let mut may = Vec::new();
        for group in groups {
            if !group.known {
                may.extend(group.changes);
            } else if group.running {
                let (tasks, payloads): (Vec<_>, Vec<_>) =
                    group.changes.into_iter().partition(is_task);
                must.extend(tasks);
                may.extend(payloads);
            } else {
                must.extend(group.changes);
            }
        }
        let mut room = MESSAGE_BYTES.saturating_sub(encoded_len(&must));
        let fitting = may
            .iter()
            .take_while(|change| {
                let len = change.encoded_len();
                let fits = len <= room;
                room = room.saturating_sub(len);
                fits
            })
            .count();
        let rest = may.split_off(fitting);
        must.extend(may);
        let mut messages = vec![sent.message(assignments_message::Type::Complete, must)];
        messages.extend(sent.incremental(rest));
        (sent, messages)
    }

    /// What changed for the node since the last message; empty if nothing did.
    pub(crate) fn next(&mut self, state: &State, node_id: &str) -> Vec<AssignmentsMessage> {
        let mut changes: Vec<_> = self
            .missing(state, node_id)
            .into_iter()
            .flat_map(|group| group.changes)
            .collect();
        changes.extend(self.surplus(state, node_id));
        self.incremental(changes)
    }

    /// Tasks and payloads that the node was not sent; takes them as sent.
    fn missing(&mut self, state: &State, node_id: &str) -> Vec<Group> {
        let AssignmentDiff {
            secrets_added,
            configs_added,
            ..
        } = self.payloads.diff(&state.assignment_set(node_id));
        let mut secrets: BTreeSet<_> = secrets_added.into_iter().collect();
        let mut configs: BTreeSet<_> = configs_added.into_iter().collect();
        let mut groups = Vec::new();
        for task in assigned(state, node_id) {
            let mut group = Group {
                changes: Vec::new(),
                known: observed_state(task) > TaskState::Assigned,
                running: observed_state(task) == TaskState::Running,
            };
            if let Some(spec) = task.spec.as_ref().filter(|_| !is_final(task)) {
                let due = secret_ids(spec).filter(|id| secrets.remove(*id));
                group
                    .changes
                    .extend(due.filter_map(|id| with_payload(state, id)));
                let due = config_ids(spec).filter(|id| configs.remove(*id));
                let found = due.filter_map(|id| state.config(id));
                group.changes.extend(
                    found.map(|config| update(assignment::Item::Config(Config::clone(config)))),
                );
            }
            let desired = task.desired_state();
            if self.tasks.get(&task.id) != Some(&desired) {
                if let Err(fault) = plan::check_outgoing_task(task) {
                    tracing::error!(task = %task.id, %fault, "task not sent: a node would fail on it");
                    continue;
                }
                self.tasks.insert(task.id.clone(), desired);
                group
                    .changes
                    .push(update(assignment::Item::Task(Task::clone(task))));
            }
            if !group.changes.is_empty() {
                groups.push(group);
            }
        }
        groups
    }

    /// Tasks that are gone, then payloads that no task here needs any more.
    fn surplus(&mut self, state: &State, node_id: &str) -> Vec<AssignmentChange> {
        let present: BTreeSet<&str> = assigned(state, node_id)
            .map(|task| task.id.as_str())
            .collect();
        let gone: Vec<String> = self
            .tasks
            .keys()
            .filter(|id| !present.contains(id.as_str()))
            .cloned()
            .collect();
        let mut changes = Vec::new();
        for id in gone {
            self.tasks.remove(&id);
            changes.push(remove(assignment::Item::Task(Task {
                id,
                ..Task::default()
            })));
        }
        let needed = state.assignment_set(node_id);
        let AssignmentDiff {
            secrets_removed,
            configs_removed,
            ..
        } = self.payloads.diff(&needed);
        for id in secrets_removed {
            changes.push(remove(assignment::Item::Secret(Secret {
                id,
                ..Secret::default()
            })));
        }
        for id in configs_removed {
            changes.push(remove(assignment::Item::Config(Config {
                id,
                ..Config::default()
            })));
        }
        self.payloads = needed;
        changes
    }

    fn incremental(&mut self, changes: Vec<AssignmentChange>) -> Vec<AssignmentsMessage> {
        let mut messages = Vec::new();
        let mut part = Vec::new();
        let mut bytes = 0;
        for change in changes {
            let len = change.encoded_len();
            if !part.is_empty() && bytes + len > MESSAGE_BYTES {
                let full = std::mem::take(&mut part);
                messages.push(self.message(assignments_message::Type::Incremental, full));
                bytes = 0;
            }
            bytes += len;
            part.push(change);
        }
        if !part.is_empty() {
            messages.push(self.message(assignments_message::Type::Incremental, part));
        }
        messages
    }

    fn message(
        &mut self,
        r#type: assignments_message::Type,
        changes: Vec<AssignmentChange>,
    ) -> AssignmentsMessage {
        let applies_to = match r#type {
            assignments_message::Type::Complete => String::new(),
            assignments_message::Type::Incremental => self.mark.to_string(),
        };
        self.mark += 1;
        AssignmentsMessage {
            r#type: r#type.into(),
            applies_to,
            results_in: self.mark.to_string(),
            changes,
        }
    }
}

/// The tasks a node is to know: those the scheduler has given it.
fn assigned<'a>(state: &'a State, node_id: &str) -> impl Iterator<Item = &'a Arc<Task>> {
    state
        .tasks_of_node(node_id)
        .filter(|task| observed_state(task) >= TaskState::Assigned)
}

/// A secret with its payload opened; `None` if it is gone.
fn with_payload(state: &State, id: &str) -> Option<AssignmentChange> {
    let mut secret = Secret::clone(state.secret(id)?);
    let mut payload = state.secret_payload(id)?;
    secret.spec.as_mut()?.data = std::mem::take(&mut *payload);
    Some(update(assignment::Item::Secret(secret)))
}

fn is_task(change: &AssignmentChange) -> bool {
    matches!(
        change
            .assignment
            .as_ref()
            .and_then(|assignment| assignment.item.as_ref()),
        Some(assignment::Item::Task(_))
    )
}

fn encoded_len(changes: &[AssignmentChange]) -> usize {
    changes.iter().map(Message::encoded_len).sum()
}

fn update(item: assignment::Item) -> AssignmentChange {
    change(item, assignment_change::Action::Update)
}

fn remove(item: assignment::Item) -> AssignmentChange {
    change(item, assignment_change::Action::Remove)
}

fn change(item: assignment::Item, action: assignment_change::Action) -> AssignmentChange {
    AssignmentChange {
        assignment: Some(Assignment { item: Some(item) }),
        action: action.into(),
    }
}
