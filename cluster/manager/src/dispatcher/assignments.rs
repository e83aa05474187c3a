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
    /// Tasks with the desired state that they were sent with.
    tasks: BTreeMap<String, TaskState>,
    /// Ids of secrets.
    secrets: BTreeSet<String>,
    /// Ids of configs.
    configs: BTreeSet<String>,
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

    /// Tasks and payloads that the node was not sent; takes them as sent. Each
    /// payload goes with the first task that needs it, and tasks on their way to
    /// running come first: they need it at once.
    fn missing(&mut self, state: &State, node_id: &str) -> Vec<Group> {
        let needed = state.assignment_set(node_id);
        let mut tasks: Vec<_> = assigned(state, node_id).collect();
        tasks.sort_by_key(|task| !is_starting(task));
        let mut groups = Vec::new();
        for task in tasks {
            let desired = task.desired_state();
            let is_new = self.tasks.get(&task.id) != Some(&desired);
            // Before its payloads, which others may need too.
            if is_new && let Err(fault) = plan::check_outgoing_task(task) {
                tracing::error!(task = %task.id, %fault, "task not sent: a node would fail on it");
                continue;
            }
            let mut group = Group {
                changes: Vec::new(),
                known: observed_state(task) > TaskState::Assigned,
                running: observed_state(task) == TaskState::Running,
            };
            if let Some(spec) = task.spec.as_ref().filter(|_| !is_final(task)) {
                for id in secret_ids(spec).filter(|id| needed.needs_secret(id)) {
                    if !self.secrets.contains(id)
                        && let Some(secret) = with_payload(state, id)
                    {
                        self.secrets.insert(id.to_owned());
                        group.changes.push(secret);
                    }
                }
                for id in config_ids(spec).filter(|id| needed.needs_config(id)) {
                    if !self.configs.contains(id)
                        && let Some(config) = state.config(id)
                    {
                        self.configs.insert(id.to_owned());
                        let config = assignment::Item::Config(Config::clone(config));
                        group.changes.push(update(config));
                    }
                }
            }
            if is_new {
                self.tasks.insert(task.id.clone(), desired);
                group
                    .changes
                    .push(update(assignment::Item::Task(state.task_for_node(task))));
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
        for id in self.secrets.extract_if(.., |id| !needed.needs_secret(id)) {
            changes.push(remove(assignment::Item::Secret(Secret {
                id,
                ..Secret::default()
            })));
        }
        for id in self.configs.extract_if(.., |id| !needed.needs_config(id)) {
            changes.push(remove(assignment::Item::Config(Config {
                id,
                ..Config::default()
            })));
        }
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

/// Whether the node knows the task and it does not run yet: a worker fails it if
/// COMPLETE names it without what it needs.
fn is_starting(task: &Task) -> bool {
    let observed = observed_state(task);
    observed > TaskState::Assigned && observed < TaskState::Running
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

#[cfg(test)]
mod tests {
    use waxseal_cluster::objects::{TaskUpdate, task_change};

    use super::*;
    use crate::testing::World;

    /// What each message brings: `+t1` for an update of task t1, `-s1` for a removal.
    fn shown(messages: &[AssignmentsMessage]) -> Vec<Vec<String>> {
        let show = |change: &AssignmentChange| {
            let id = match change.assignment.as_ref().unwrap().item.as_ref().unwrap() {
                assignment::Item::Task(task) => &task.id,
                assignment::Item::Secret(secret) => &secret.id,
                assignment::Item::Config(config) => &config.id,
            };
            let sign = match change.action() {
                assignment_change::Action::Update => '+',
                assignment_change::Action::Remove => '-',
            };
            format!("{sign}{id}")
        };
        let messages = messages.iter();
        messages
            .map(|message| message.changes.iter().map(show).collect())
            .collect()
    }

    fn assert_chain(messages: &[AssignmentsMessage]) {
        for pair in messages.windows(2) {
            assert_eq!(pair[1].applies_to, pair[0].results_in);
        }
    }

    /// So large that nothing else fits in COMPLETE beside it.
    fn large() -> Vec<u8> {
        vec![7; 400_000]
    }

    #[test]
    fn a_starting_task_has_its_secret_in_complete_whatever_runs_beside_it() {
        for (running, starting) in [("t1", "t2"), ("t2", "t1")] {
            let mut world = World::with_secret(&large());
            world.create_task("svc1", running, "w1", TaskState::Running);
            world.create_task("svc1", starting, "w1", TaskState::Preparing);
            // Fills what is left of COMPLETE, were it tried.
            for n in 0..8 {
                let (secret, service) = (format!("a{n}"), format!("b{n}"));
                world.create_secret(&secret, &large());
                world.create_service(&service, &[&secret]);
                world.create_task(&service, &format!("a-{n}"), "w1", TaskState::Assigned);
            }
            let (_, messages) = Sent::first(&world.state, "w1");
            let complete = &shown(&messages)[0];
            let place = |what: &str| complete.iter().position(|shown| shown == what);
            let (secret, task) = (place("+s1"), place(&format!("+{starting}")));
            assert!(secret.is_some() && secret < task, "{complete:?}");
            assert!(place(&format!("+{running}")).is_some());
            assert_chain(&messages);
            assert!(messages.len() > 1);
            let len = |message: &AssignmentsMessage| message.encoded_len();
            assert!(messages.iter().all(|m| len(m) < MESSAGE_BYTES + 1_000));
        }
    }

    #[test]
    fn payloads_of_running_tasks_follow_complete_when_there_is_no_room() {
        let mut world = World::with_secret(&large());
        for n in 0..8 {
            let (secret, service) = (format!("s-{n}"), format!("svc-{n}"));
            world.create_secret(&secret, &large());
            world.create_service(&service, &[&secret]);
            world.create_task(&service, &format!("t-{n}"), "w1", TaskState::Running);
        }
        let (_, messages) = Sent::first(&world.state, "w1");
        let shown = shown(&messages);
        let tasks = shown[0].iter().filter(|what| what.starts_with("+t-"));
        assert_eq!(
            tasks.count(),
            8,
            "a task that COMPLETE leaves out is stopped"
        );
        let secrets = shown
            .iter()
            .flatten()
            .filter(|what| what.starts_with("+s-"));
        assert_eq!(secrets.count(), 8);
        assert!(shown.len() > 1);
        assert_chain(&messages);
    }

    #[test]
    fn a_task_that_cannot_be_sent_takes_no_payload_from_others() {
        let mut world = World::new();
        let mut broken = world.task("svc1", "t0", "w1", TaskState::Assigned);
        let container = broken.spec.as_mut().unwrap().container.as_mut().unwrap();
        container.image.clear();
        world.change_task(task_change::Change::Create(broken));
        let (mut sent, first) = Sent::first(&world.state, "w1");
        assert_eq!(shown(&first), [Vec::<String>::new()]);
        world.create_task("svc1", "t1", "w1", TaskState::Assigned);
        let next = sent.next(&world.state, "w1");
        assert_eq!(shown(&next), [["+s1", "+t1"]]);
        assert_eq!(next[0].applies_to, first[0].results_in);
        assert!(sent.next(&world.state, "w1").is_empty());
    }

    #[test]
    fn a_payload_goes_once() {
        let mut world = World::new();
        world.create_task("svc1", "t1", "w1", TaskState::Assigned);
        let (mut sent, first) = Sent::first(&world.state, "w1");
        assert_eq!(shown(&first), [["+s1", "+t1"]]);
        world.create_task("svc1", "t2", "w1", TaskState::Assigned);
        let next = sent.next(&world.state, "w1");
        assert_eq!(shown(&next), [["+t2"]], "the payload is there already");
        assert_eq!(next[0].applies_to, first[0].results_in);
        assert!(sent.next(&world.state, "w1").is_empty());
    }

    #[test]
    fn what_no_task_needs_any_more_is_taken_back_after_the_task() {
        let mut world = World::new();
        world.create_task("svc1", "t1", "w1", TaskState::Assigned);
        let (mut sent, _) = Sent::first(&world.state, "w1");
        let version = world.state.task("t1").unwrap().meta.as_ref().unwrap();
        let version = version.version.as_ref().unwrap().index;
        world.change_task(task_change::Change::Update(TaskUpdate {
            task_id: "t1".into(),
            expected_version: version,
            desired_state: Some(TaskState::Shutdown.into()),
            ..TaskUpdate::default()
        }));
        let next = sent.next(&world.state, "w1");
        assert_eq!(shown(&next), [["+t1"]], "still running: keeps its secret");
        let (_, other) = Sent::first(&world.state, "w2");
        assert_eq!(shown(&other), [Vec::<String>::new()]);
    }
}
