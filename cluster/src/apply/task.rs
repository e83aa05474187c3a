//! Tasks: what the plans decide about them and what their nodes report.

use std::sync::Arc;

use super::Effect;
use crate::{
    change::Change,
    feature::SERVICES_LEVEL,
    generic::GenericStock,
    meta::{Stamp, version_of},
    needs,
    objects::{
        ChangeTasks, GenericResource, ReportTasks, Task, TaskChange, TaskReport, TaskState,
        TaskStatus, TaskUpdate, task_change,
    },
    port_status::MAX_STATUS_PORTS,
    state::State,
};

/// Longest text of a status that is kept, in bytes: what a node says of a task is
/// shown in one line of a table, not archived.
const MAX_STATUS_TEXT_BYTES: usize = 1024;
/// Longest container id that is kept, in bytes (the Docker Engine's have 64).
const MAX_CONTAINER_ID_BYTES: usize = 128;

impl State {
    /// Each change stands for itself: one that was overtaken by another command
    /// since it was planned is skipped, the others take effect. The plan runs
    /// again after every change and sees what is left to do.
    pub(super) fn change_tasks(&mut self, op: ChangeTasks, stamp: &Stamp) -> Effect {
        let mut effect = Effect::default();
        for TaskChange { change } in op.changes {
            let done = match change {
                Some(task_change::Change::Create(task)) => self.create_task(task, stamp),
                Some(task_change::Change::Update(update)) => self.update_task(update, stamp),
                Some(task_change::Change::Remove(id)) => self.remove_task(&id),
                None => None,
            };
            effect.note(done);
        }
        effect
    }

    /// A node speaks only of tasks that are assigned to it, and only of what
    /// comes after the state that is known.
    pub(super) fn report_tasks(&mut self, op: ReportTasks, stamp: &Stamp) -> Effect {
        let mut effect = Effect::default();
        for report in op.reports {
            let done = self.report_task(&op.node_id, report, stamp);
            effect.note(done);
        }
        effect
    }

    /// Skipped if the task exists, or what it needs does not: its service, its
    /// node, the secrets and configs of its spec.
    fn create_task(&mut self, mut task: Task, stamp: &Stamp) -> Option<Change> {
        let spec = task.spec.as_ref()?;
        let state = task.status.as_ref().map_or(0, |status| status.state);
        TaskState::try_from(state).ok()?;
        TaskState::try_from(task.desired_state).ok()?;
        let needs_exist = self.services.contains_key(&task.service_id)
            && (task.node_id.is_empty() || self.nodes.contains_key(&task.node_id))
            && needs::secret_ids(spec).all(|id| self.secrets.contains_key(id))
            && needs::config_ids(spec).all(|id| self.configs.contains_key(id));
        if task.id.is_empty() || self.tasks.contains_key(&task.id) || !needs_exist {
            return None;
        }
        task.status.get_or_insert_default();
        task.meta = stamp.created();
        let service = self.service(&task.service_id).cloned();
        self.seal_in(task.spec.as_mut(), service.as_deref());
        let id = task.id.clone();
        Some(self.set_task(&id, Some(task)))
    }

    fn update_task(&mut self, update: TaskUpdate, stamp: &Stamp) -> Option<Change> {
        let old = self.task(&update.task_id).map(Arc::clone)?;
        if update.expected_version != version_of(old.meta.as_ref()) {
            return None;
        }
        let mut new = Task::clone(&old);
        if let Some(desired) = update.desired_state {
            let desired = TaskState::try_from(desired).ok()?;
            new.set_desired_state(desired.max(old.desired_state()));
        }
        if let Some(node_id) = update.node_id {
            // A task is assigned once; another place is another task's.
            let free = old.node_id.is_empty() || old.node_id == node_id;
            let given = update.assigned_generic_resources;
            if !free || !self.nodes.contains_key(&node_id) || !self.may_give(&old, &node_id, &given)
            {
                return None;
            }
            new.node_id = node_id;
            new.assigned_generic_resources = given;
        }
        if let Some(status) = update.status {
            let state = TaskState::try_from(status.state).ok()?;
            if needs::is_final(&old) || state < needs::observed_state(&old) {
                return None;
            }
            new.status = Some(status);
        }
        if new == *old {
            return None;
        }
        new.meta = stamp.updated(old.meta.as_ref());
        Some(self.set_task(&update.task_id, Some(new)))
    }

    /// Whether the node has all of it, and no other task there that has not ended.
    fn may_give(&self, task: &Task, node_id: &str, given: &[GenericResource]) -> bool {
        if given.is_empty() {
            return true;
        }
        let Some(node) = self.node(node_id) else {
            return false;
        };
        let mut stock = GenericStock::of(node);
        let others = self.tasks_of_node(node_id);
        for other in others.filter(|other| other.id != task.id && !needs::is_final(other)) {
            stock.take(&other.assigned_generic_resources);
        }
        stock.take(given)
    }

    /// A task that may still run on a node stays until it is final.
    fn remove_task(&mut self, id: &str) -> Option<Change> {
        let task = self.task(id)?;
        let on_a_node = (TaskState::Assigned..=TaskState::Running)
            .contains(&needs::observed_state(task))
            && !task.node_id.is_empty();
        if on_a_node {
            return None;
        }
        Some(self.set_task(id, None))
    }

    fn report_task(&mut self, node_id: &str, report: TaskReport, stamp: &Stamp) -> Option<Change> {
        let old = self.task(&report.task_id).map(Arc::clone)?;
        let mut status = report.status?;
        let state = TaskState::try_from(status.state).ok()?;
        let backwards = state < needs::observed_state(&old);
        if old.node_id != node_id || node_id.is_empty() || needs::is_final(&old) || backwards {
            return None;
        }
        bound_task_status(&mut status);
        // Not the node's to say.
        status.applied_at = Some(stamp.time);
        status.applied_by = old
            .status
            .as_ref()
            .map_or(String::new(), |known| known.applied_by.clone());
        let mut known = old.status.clone().unwrap_or_default();
        known.applied_at = status.applied_at;
        if known == status {
            return None;
        }
        let mut new = Task::clone(&old);
        let level = self.cluster().map_or(0, |cluster| cluster.feature_level);
        if state == TaskState::Running && old.running_since.is_none() && level >= SERVICES_LEVEL {
            new.running_since = Some(stamp.time);
        }
        new.status = Some(status);
        new.meta = stamp.updated(old.meta.as_ref());
        Some(self.set_task(&report.task_id, Some(new)))
    }
}

/// Cuts what a node could make arbitrarily long: it would be kept on every manager.
/// Applying a report does it; who queues reports does it before.
pub fn bound_task_status(status: &mut TaskStatus) {
    cut(&mut status.message, MAX_STATUS_TEXT_BYTES);
    cut(&mut status.err, MAX_STATUS_TEXT_BYTES);
    if let Some(container) = &mut status.container {
        cut(&mut container.container_id, MAX_CONTAINER_ID_BYTES);
    }
    if let Some(ports) = &mut status.port_status {
        ports.ports.truncate(MAX_STATUS_PORTS);
        for port in &mut ports.ports {
            cut(&mut port.name, MAX_CONTAINER_ID_BYTES);
        }
    }
}

fn cut(text: &mut String, max_bytes: usize) {
    if text.len() > max_bytes {
        text.truncate(text.floor_char_boundary(max_bytes));
        text.shrink_to_fit();
    }
}

impl Effect {
    fn note(&mut self, change: Option<Change>) {
        match change {
            Some(change) => self.changes.push(change),
            None => self.skipped += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::Applied,
        generic::{discrete, named},
        objects::{Cluster, Node, UpdateService, command::Op, task_change::Change as Wanted},
        testing::{
            change_tasks, create_secret, create_service, create_worker, report, run, service_spec,
            status, task_of, with_running_service,
        },
    };

    fn version(state: &State) -> u64 {
        version_of(state.task("t1").unwrap().meta.as_ref())
    }

    fn update(state: &mut State, change: TaskUpdate) -> Applied {
        let update = TaskUpdate {
            task_id: "t1".into(),
            expected_version: version(state),
            ..change
        };
        run(state, change_tasks([Wanted::Update(update)])).unwrap()
    }

    fn assert_skipped(applied: &Applied) {
        assert_eq!((applied.changes.len(), applied.skipped), (0, 1));
    }

    #[test]
    fn tasks_that_are_not_created() {
        let mut state = with_running_service();
        let task = |state: &State| task_of(state, "svc1", "t2", "w1");
        let bad = [
            Task {
                id: String::new(),
                ..task(&state)
            },
            Task {
                id: "t1".into(),
                ..task(&state)
            },
            Task {
                service_id: "none".into(),
                ..task(&state)
            },
            Task {
                node_id: "none".into(),
                ..task(&state)
            },
            Task {
                spec: service_spec("a", &[("gone", "x")], &[]).task,
                ..task(&state)
            },
            Task {
                spec: service_spec("a", &[], &[("gone", "x")]).task,
                ..task(&state)
            },
            Task {
                spec: None,
                ..task(&state)
            },
            Task {
                desired_state: 7,
                ..task(&state)
            },
        ];
        for (index, task) in bad.into_iter().enumerate() {
            let applied = run(&mut state, change_tasks([Wanted::Create(task)])).unwrap();
            assert_eq!(
                (applied.changes.len(), applied.skipped),
                (0, 1),
                "case {index}"
            );
        }
    }

    #[test]
    fn an_overtaken_change_is_skipped_and_the_others_applied() {
        let mut state = with_running_service();
        let second = task_of(&state, "svc1", "t2", "");
        let stale = TaskUpdate {
            task_id: "t1".into(),
            expected_version: version(&state) - 1,
            desired_state: Some(TaskState::Shutdown.into()),
            ..TaskUpdate::default()
        };
        let changes = [Wanted::Update(stale), Wanted::Create(second)];
        let applied = run(&mut state, change_tasks(changes)).unwrap();
        assert_eq!((applied.changes.len(), applied.skipped), (1, 1));
        assert_eq!(
            state.task("t1").unwrap().desired_state(),
            TaskState::Running
        );
        assert!(state.task("t2").is_some());
    }

    #[test]
    fn a_desired_state_only_grows() {
        let mut state = with_running_service();
        let desire = |desired: TaskState| TaskUpdate {
            desired_state: Some(desired.into()),
            ..TaskUpdate::default()
        };
        update(&mut state, desire(TaskState::Shutdown));
        assert_skipped(&update(&mut state, desire(TaskState::Running)));
        assert_eq!(
            state.task("t1").unwrap().desired_state(),
            TaskState::Shutdown
        );
        update(&mut state, desire(TaskState::Remove));
        assert_eq!(state.task("t1").unwrap().desired_state(), TaskState::Remove);
    }

    #[test]
    fn a_task_is_assigned_once() {
        let mut state = with_running_service();
        run(&mut state, create_worker("w2")).unwrap();
        let assign = |node: &str| TaskUpdate {
            node_id: Some(node.into()),
            ..TaskUpdate::default()
        };
        assert_skipped(&update(&mut state, assign("w2")));
        assert_skipped(&update(&mut state, assign("")));
        let mut pending = task_of(&state, "svc1", "t2", "");
        pending.status = Some(status(TaskState::Pending));
        run(&mut state, change_tasks([Wanted::Create(pending)])).unwrap();
        let place = TaskUpdate {
            task_id: "t2".into(),
            expected_version: state.version(),
            node_id: Some("w2".into()),
            status: Some(status(TaskState::Assigned)),
            ..TaskUpdate::default()
        };
        run(&mut state, change_tasks([Wanted::Update(place)])).unwrap();
        let on_w2: Vec<_> = state
            .tasks_of_node("w2")
            .map(|task| task.id.as_str())
            .collect();
        assert_eq!(on_w2, ["t2"]);
        assert!(state.assignment_set("w2").needs_secret("s1"));
    }

    /// `t1` runs on `w1`, which offers two names and a number; so many more wait.
    fn with_resources(waiting: usize) -> State {
        let mut state = with_running_service();
        let mut node = Node::clone(state.node("w1").unwrap());
        let description = node.description.get_or_insert_default();
        description.resources.get_or_insert_default().generic =
            vec![named("gpu", "a"), named("gpu", "b"), discrete("fpga", 3)];
        state.set_node("w1", Some(node));
        for index in 0..waiting {
            let mut task = task_of(&state, "svc1", &format!("p{index}"), "");
            task.status = Some(status(TaskState::Pending));
            run(&mut state, change_tasks([Wanted::Create(task)])).unwrap();
        }
        state
    }

    fn give(state: &mut State, index: usize, given: Vec<GenericResource>) -> Applied {
        let id = format!("p{index}");
        let place = TaskUpdate {
            expected_version: version_of(state.task(&id).unwrap().meta.as_ref()),
            task_id: id,
            node_id: Some("w1".into()),
            status: Some(status(TaskState::Assigned)),
            assigned_generic_resources: given,
            ..TaskUpdate::default()
        };
        run(state, change_tasks([Wanted::Update(place)])).unwrap()
    }

    #[test]
    fn what_one_task_has_no_other_gets() {
        let mut state = with_resources(4);
        give(&mut state, 0, vec![named("gpu", "a"), discrete("fpga", 2)]);
        let first = vec![named("gpu", "a"), discrete("fpga", 2)];
        assert_eq!(
            state.task("p0").unwrap().assigned_generic_resources,
            first,
            "on record, for whoever leads next"
        );
        for bad in [
            vec![named("gpu", "a")],
            vec![named("gpu", "b"), named("gpu", "b")],
            vec![named("gpu", "c")],
            vec![named("fpga", "b")],
            vec![discrete("gpu", 1)],
            vec![discrete("fpga", 2)],
            vec![discrete("fpga", 1), discrete("fpga", 1)],
            vec![discrete("tpu", 1)],
        ] {
            assert_skipped(&give(&mut state, 1, bad));
        }
        give(&mut state, 1, vec![named("gpu", "b"), discrete("fpga", 1)]);
        assert_eq!(state.tasks_of_node("w1").count(), 3);
        // What is told to stop has it until it has stopped.
        let stop = TaskUpdate {
            task_id: "p0".into(),
            expected_version: version_of(state.task("p0").unwrap().meta.as_ref()),
            desired_state: Some(TaskState::Shutdown.into()),
            ..TaskUpdate::default()
        };
        run(&mut state, change_tasks([Wanted::Update(stop)])).unwrap();
        assert_skipped(&give(&mut state, 2, first.clone()));
        run(&mut state, report("w1", "p0", TaskState::Shutdown)).unwrap();
        give(&mut state, 2, first.clone());
        assert_eq!(state.task("p2").unwrap().assigned_generic_resources, first);
    }

    #[test]
    fn a_task_with_a_node_stays_until_it_is_final() {
        let mut state = with_running_service();
        let remove = || change_tasks([Wanted::Remove("t1".into())]);
        assert_skipped(&run(&mut state, remove()).unwrap());
        run(&mut state, report("w1", "t1", TaskState::Complete)).unwrap();
        run(&mut state, remove()).unwrap();
        assert!(state.task("t1").is_none());
        assert_eq!(state.tasks_of_node("w1").count(), 0);
        assert_eq!(state.tasks_of_service("svc1").count(), 0);
        assert_skipped(&run(&mut state, remove()).unwrap());
    }

    #[test]
    fn reports_of_others_and_of_unknown_tasks_are_ignored() {
        let mut state = with_running_service();
        run(&mut state, create_worker("w2")).unwrap();
        for (node, task) in [("w2", "t1"), ("", "t1"), ("w1", "none"), ("none", "t1")] {
            let applied = run(&mut state, report(node, task, TaskState::Running)).unwrap();
            assert_skipped(&applied);
        }
        let mut unassigned = task_of(&state, "svc1", "t2", "");
        unassigned.status = Some(status(TaskState::Pending));
        run(&mut state, change_tasks([Wanted::Create(unassigned)])).unwrap();
        assert_skipped(&run(&mut state, report("", "t2", TaskState::Running)).unwrap());
    }

    #[test]
    fn a_state_never_goes_back_and_a_final_one_stays() {
        let mut state = with_running_service();
        let observed = |state: &State| needs::observed_state(state.task("t1").unwrap());
        run(&mut state, report("w1", "t1", TaskState::Running)).unwrap();
        assert_skipped(&run(&mut state, report("w1", "t1", TaskState::Ready)).unwrap());
        assert_eq!(observed(&state), TaskState::Running);
        // The same again says nothing new.
        assert_skipped(&run(&mut state, report("w1", "t1", TaskState::Running)).unwrap());
        run(&mut state, report("w1", "t1", TaskState::Complete)).unwrap();
        assert!(state.assignment_set("w1").is_empty());
        assert_skipped(&run(&mut state, report("w1", "t1", TaskState::Failed)).unwrap());
        assert_eq!(observed(&state), TaskState::Complete);
        let revive = TaskUpdate {
            status: Some(status(TaskState::Orphaned)),
            ..TaskUpdate::default()
        };
        assert_skipped(&update(&mut state, revive));
    }

    #[test]
    fn since_when_a_task_runs_stays_on_record() {
        let mut state = with_running_service();
        let since = |state: &State| state.task("t1").unwrap().running_since;
        let mut before = state.clone();
        let mut cluster = Cluster::clone(state.cluster().unwrap());
        cluster.feature_level = SERVICES_LEVEL - 1;
        before.set_cluster(cluster.clone());
        cluster.feature_level = SERVICES_LEVEL;
        state.set_cluster(cluster);
        run(&mut before, report("w1", "t1", TaskState::Running)).unwrap();
        assert_eq!(since(&before), None, "managers of before do not write it");
        run(&mut state, report("w1", "t1", TaskState::Ready)).unwrap();
        assert_eq!(since(&state), None);
        run(&mut state, report("w1", "t1", TaskState::Running)).unwrap();
        let began = since(&state);
        assert!(began.is_some());
        run(&mut state, report("w1", "t1", TaskState::Failed)).unwrap();
        assert_eq!(since(&state), began);
    }

    #[test]
    fn what_a_node_says_at_length_is_cut() {
        let mut state = with_running_service();
        let mut op = report("w1", "t1", TaskState::Failed);
        if let Op::ReportTasks(reports) = &mut op {
            let status = reports.reports[0].status.as_mut().unwrap();
            status.err = "ä".repeat(1_000_000) + "x";
            status.message = format!("a{}", "ä".repeat(1_000_000));
            status.port_status.get_or_insert_default().ports = vec![Default::default(); 10_000];
        }
        run(&mut state, op).unwrap();
        let status = state.task("t1").unwrap().status.clone().unwrap();
        assert_eq!((status.err.len(), status.message.len()), (1024, 1023));
        assert_eq!(status.port_status.unwrap().ports.len(), MAX_STATUS_PORTS);
    }

    #[test]
    fn an_unknown_state_is_ignored() {
        let mut state = with_running_service();
        let mut op = report("w1", "t1", TaskState::Running);
        if let Op::ReportTasks(reports) = &mut op {
            reports.reports[0].status.as_mut().unwrap().state = 513;
        }
        assert_skipped(&run(&mut state, op).unwrap());
    }

    #[test]
    fn a_task_keeps_the_spec_it_was_made_with() {
        let mut state = with_running_service();
        run(&mut state, create_secret("s2", "db2", b"x")).unwrap();
        let op = Op::UpdateService(UpdateService {
            service_id: "svc1".into(),
            spec: Some(service_spec("web", &[("s2", "db2")], &[])),
            ..UpdateService::default()
        });
        run(&mut state, op).unwrap();
        let set = state.assignment_set("w1");
        assert_eq!(set.secrets().collect::<Vec<_>>(), ["s1"]);
        let other = service_spec("other", &[("s2", "db2")], &[]);
        run(&mut state, create_service("svc2", other)).unwrap();
        assert!(!state.assignment_set("w1").needs_secret("s2"));
    }
}
