//! The changes of tasks that a plan collects.

use std::collections::BTreeMap;

use prost::Message;

use super::{MAX_CHANGES, MAX_TASK_BYTES};
use crate::{
    MAX_COMMAND_BYTES,
    objects::{GenericResource, Task, TaskChange, TaskState, TaskStatus, TaskUpdate, task_change},
    version_of,
};

/// Nothing is added to a plan whose new tasks, and what others are given of generic
/// resources, have so many bytes: with the largest task on top it still fits into one
/// command, and what a node offers is no larger than that.
const MAX_BYTES: usize = 256 * 1024;
const _: () = assert!(MAX_BYTES + MAX_TASK_BYTES + 200 * MAX_CHANGES < MAX_COMMAND_BYTES);

/// Changes of tasks, at most one for each task that exists.
#[derive(Debug, Default)]
pub(super) struct Changes {
    existing: BTreeMap<String, task_change::Change>,
    created: Vec<Task>,
    bytes: usize,
}

impl Changes {
    /// Whether the plan may grow. What belongs together may still be added whole.
    pub(super) fn has_room(&self) -> bool {
        self.existing.len() + self.created.len() < MAX_CHANGES && self.bytes < MAX_BYTES
    }

    /// Raises what is desired of a task; it never sinks.
    pub(super) fn want(&mut self, task: &Task, desired: TaskState) {
        if task.desired_state < desired as i32
            && let Some(update) = self.update(task)
        {
            let most = update.desired_state.unwrap_or(0).max(desired as i32);
            update.desired_state = Some(most);
        }
    }

    /// Writes a task's status.
    pub(super) fn set_status(&mut self, task: &Task, status: TaskStatus) {
        if let Some(update) = self.update(task) {
            update.status = Some(status);
        }
    }

    /// Hands a task to a node, with what it is given of the node's generic resources.
    pub(super) fn assign(
        &mut self,
        task: &Task,
        node_id: &str,
        given: Vec<GenericResource>,
        status: TaskStatus,
    ) {
        let bytes: usize = given.iter().map(Message::encoded_len).sum();
        if let Some(update) = self.update(task) {
            update.node_id = Some(node_id.to_owned());
            update.status = Some(status);
            update.assigned_generic_resources = given;
            self.bytes += bytes;
        }
    }

    /// Deletes a task's record, whatever else was to happen to it.
    pub(super) fn remove(&mut self, task: &Task) {
        let removal = task_change::Change::Remove(task.id.clone());
        self.existing.insert(task.id.clone(), removal);
    }

    /// Adds a new task; one of more than [`MAX_TASK_BYTES`] is left out, as no command
    /// could carry it.
    pub(super) fn create(&mut self, task: Task) {
        let bytes = task.encoded_len();
        if bytes <= MAX_TASK_BYTES {
            self.bytes += bytes;
            self.created.push(task);
        }
    }

    /// All of them: first what happens to tasks that exist, then the new ones.
    pub(super) fn into_list(self) -> Vec<TaskChange> {
        let created = self.created.into_iter().map(task_change::Change::Create);
        self.existing
            .into_values()
            .chain(created)
            .map(|change| TaskChange {
                change: Some(change),
            })
            .collect()
    }

    /// The update of a task, begun if there is none; `None` if it is removed.
    fn update(&mut self, task: &Task) -> Option<&mut TaskUpdate> {
        let change = self.existing.entry(task.id.clone()).or_insert_with(|| {
            task_change::Change::Update(TaskUpdate {
                task_id: task.id.clone(),
                expected_version: version_of(task.meta.as_ref()),
                ..TaskUpdate::default()
            })
        });
        match change {
            task_change::Change::Update(update) => Some(update),
            task_change::Change::Create(_) | task_change::Change::Remove(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        Task {
            id: "t".to_owned(),
            desired_state: TaskState::Running as i32,
            ..Task::default()
        }
    }

    #[test]
    fn a_desired_state_never_sinks_and_changes_merge() {
        let mut changes = Changes::default();
        changes.want(&task(), TaskState::Ready);
        changes.want(&task(), TaskState::Running);
        assert!(changes.existing.is_empty());
        changes.want(&task(), TaskState::Remove);
        changes.want(&task(), TaskState::Shutdown);
        changes.set_status(&task(), TaskStatus::default());
        let list = changes.into_list();
        let [change] = list.as_slice() else {
            panic!("{list:?}");
        };
        let Some(task_change::Change::Update(update)) = &change.change else {
            panic!("{change:?}");
        };
        assert_eq!(update.desired_state, Some(TaskState::Remove as i32));
        assert!(update.status.is_some());
    }

    #[test]
    fn a_plan_fits_into_a_command() {
        let mut changes = Changes::default();
        let with_env = |bytes| {
            let mut task = task();
            let spec = task.spec.get_or_insert_default();
            spec.container.get_or_insert_default().env = vec!["x".repeat(bytes)];
            task
        };
        changes.create(with_env(MAX_TASK_BYTES));
        assert!(changes.created.is_empty(), "no command could carry it");
        while changes.has_room() {
            changes.create(with_env(100_000));
        }
        changes.create(with_env(MAX_TASK_BYTES - 100));
        let changes = changes.into_list();
        assert_eq!(changes.len(), 4);
        let bytes = crate::objects::ChangeTasks { changes }.encoded_len();
        assert!(bytes < MAX_COMMAND_BYTES, "{bytes}");
    }

    #[test]
    fn a_removal_wins() {
        let mut changes = Changes::default();
        changes.want(&task(), TaskState::Remove);
        changes.remove(&task());
        changes.set_status(&task(), TaskStatus::default());
        let removal = task_change::Change::Remove("t".to_owned());
        assert_eq!(changes.into_list()[0].change, Some(removal));
    }
}
