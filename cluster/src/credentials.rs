//! Credentials for registries, which lie sealed in the memory of a manager.
//!
//! In the log, in snapshots and between managers they are part of the specs of services
//! and tasks. In the state they are taken out of these: in their place stands a handle of
//! this process, equal for equal credentials of a service, so that specs compare as they
//! did. They go with the last service version or task that holds them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    feature::is_ours,
    index::{User, Users},
    needs::{is_final, observed_state},
    objects::{
        ContainerSpec, Service, ServiceSpec, Task, TaskSpec, TaskState, container_spec::PullOptions,
    },
    plan::{is_host_image, is_wanted},
    state::State,
    vault::Vault,
};

/// Longest credentials, in bytes, as they come in `X-Registry-Auth`: tokens of cloud
/// registries have 2 to 4 KiB.
pub const MAX_REGISTRY_AUTH_BYTES: usize = 16 * 1024;

/// What is held and who holds it.
#[derive(Clone, Default)]
pub(crate) struct Credentials {
    pub(crate) sealed: SealedCredentials,
    users: Users,
    /// How many handles were given away.
    count: u64,
}

/// Credentials as the vault sealed them, by their handles.
#[derive(Clone, Default)]
pub(crate) struct SealedCredentials(BTreeMap<String, Arc<[u8]>>);

impl SealedCredentials {
    fn opened(&self, vault: &dyn Vault, handle: &str) -> Option<Zeroizing<String>> {
        let mut bytes = vault.open(self.0.get(handle)?);
        let text = String::from_utf8(std::mem::take(&mut *bytes)).ok()?;
        Some(Zeroizing::new(text))
    }

    /// Opens the credentials of a spec in its place; without a handle that is known it
    /// has none.
    pub(crate) fn open_in(&self, vault: &dyn Vault, spec: Option<&mut TaskSpec>) {
        let Some(container) = container_of(spec) else {
            return;
        };
        let Some(options) = &mut container.pull_options else {
            return;
        };
        match self.opened(vault, &options.registry_auth) {
            Some(mut auth) => options.registry_auth = std::mem::take(&mut *auth),
            None => container.pull_options = None,
        }
    }
}

impl Credentials {
    /// Replaces what a service or task holds; what nobody holds any more goes.
    pub(crate) fn shift(&mut self, user: &User, from: &BTreeSet<&str>, to: &BTreeSet<&str>) {
        self.users.shift(user, from, to);
        for handle in from.union(to) {
            self.drop_unheld(handle);
        }
    }

    pub(crate) fn drop_unheld(&mut self, handle: &str) {
        if self.users.of(handle).next().is_none() {
            self.sealed.0.remove(handle);
        }
    }
}

impl State {
    /// The credentials that the tasks of a spec pull their image with, opened for the way to
    /// a node or into a command.
    pub fn registry_auth(&self, spec: &TaskSpec) -> Option<Zeroizing<String>> {
        self.opened(handle_of(Some(spec))?)
    }

    /// How many credentials are held.
    pub fn registry_auth_count(&self) -> usize {
        self.credentials.sealed.0.len()
    }

    /// A task as its node is to have it: with credentials if it is an engine that has yet to
    /// pull the image, else without.
    pub fn task_for_node(&self, task: &Task) -> Task {
        let mut task = task.clone();
        if needs_registry_auth(self, &task) {
            self.open_in(task.spec.as_mut());
        } else if let Some(container) = container_of(task.spec.as_mut()) {
            container.pull_options = None;
        }
        task
    }

    /// Opens the credentials of a spec in its place, for what leaves the state.
    pub(crate) fn open_in(&self, spec: Option<&mut TaskSpec>) {
        self.credentials.sealed.open_in(&*self.vault, spec);
    }

    /// As [`State::seal_in`], for both specs of a service as a snapshot has it.
    pub(crate) fn seal_in_service(&mut self, service: &mut Service) {
        let task = |spec: &mut Option<ServiceSpec>| spec.as_mut()?.task.take();
        let mut current = task(&mut service.spec);
        self.seal_in(current.as_mut(), None);
        if let Some(spec) = &mut service.spec {
            spec.task = current;
        }
        let mut previous = task(&mut service.previous_spec);
        self.seal_in(previous.as_mut(), Some(service));
        if let Some(spec) = &mut service.previous_spec {
            spec.task = previous;
        }
    }

    /// Takes the credentials out of a spec that comes with them. Equal ones of the service
    /// keep their handle.
    pub(crate) fn seal_in(&mut self, spec: Option<&mut TaskSpec>, service: Option<&Service>) {
        let Some(container) = container_of(spec) else {
            return;
        };
        let Some(options) = &mut container.pull_options else {
            return;
        };
        let plain = Zeroizing::new(std::mem::take(&mut options.registry_auth));
        if plain.is_empty() {
            container.pull_options = None;
            return;
        }
        let known = service.into_iter().flat_map(handles_of_service);
        let known = known.into_iter().find(|handle| {
            self.opened(handle)
                .is_some_and(|auth| bool::from(auth.as_bytes().ct_eq(plain.as_bytes())))
        });
        options.registry_auth = match known {
            Some(handle) => handle.to_owned(),
            None => self.sealed(&plain),
        };
    }

    fn sealed(&mut self, plain: &str) -> String {
        let sealed = Arc::from(self.vault.seal(plain.as_bytes()));
        let credentials = &mut self.credentials;
        credentials.count += 1;
        let handle = format!("credentials {}", credentials.count);
        credentials.sealed.0.insert(handle.clone(), sealed);
        handle
    }

    fn opened(&self, handle: &str) -> Option<Zeroizing<String>> {
        self.credentials.sealed.opened(&*self.vault, handle)
    }
}

/// Whether the node that a task is on will pull its image.
fn needs_registry_auth(state: &State, task: &Task) -> bool {
    let container = task.spec.as_ref().and_then(|spec| spec.container.as_ref());
    let is_pulled = container.is_some_and(|container| !is_host_image(&container.image));
    let node = state.node(&task.node_id);
    let is_engine = node.is_some_and(|node| node.description.is_some() && !is_ours(node));
    let has_yet_to_pull =
        !is_final(task) && observed_state(task) < TaskState::Ready && is_wanted(task);
    is_pulled && is_engine && has_yet_to_pull
}

pub(crate) fn handle_of(spec: Option<&TaskSpec>) -> Option<&str> {
    let options = spec?.container.as_ref()?.pull_options.as_ref()?;
    Some(options.registry_auth.as_str())
}

/// Of its spec and of the one that a rollback would bring back.
pub(crate) fn handles_of_service(service: &Service) -> BTreeSet<&str> {
    let specs: [Option<&ServiceSpec>; 2] = [service.spec.as_ref(), service.previous_spec.as_ref()];
    let tasks = specs.into_iter().flatten().map(|spec| spec.task.as_ref());
    tasks.filter_map(handle_of).collect()
}

fn container_of(spec: Option<&mut TaskSpec>) -> Option<&mut ContainerSpec> {
    spec?.container.as_mut()
}

impl Drop for PullOptions {
    fn drop(&mut self) {
        self.registry_auth.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{
            RemoveService, UpdateService, UpdateStatus, command::Op, task_change::Change as Wanted,
        },
        testing::{
            bootstrapped, change_tasks, create_service, create_worker, describe, report, run,
            service_spec, task_of,
        },
    };

    fn spec(auth: &str) -> ServiceSpec {
        let mut spec = service_spec("web", &[], &[]);
        let container = spec.task.as_mut().unwrap().container.as_mut().unwrap();
        container.image = "private/image".into();
        if !auth.is_empty() {
            container.pull_options = Some(PullOptions {
                registry_auth: auth.into(),
            });
        }
        spec
    }

    fn with_service(auth: &str) -> State {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        let mut node = state.node("w1").unwrap().as_ref().clone();
        describe(&mut node, &[("Network", "host")]);
        state.set_node("w1", Some(node));
        run(&mut state, create_service("svc1", spec(auth))).unwrap();
        state
    }

    fn change(state: &mut State, auth: &str) {
        let op = UpdateService {
            service_id: "svc1".into(),
            spec: Some(spec(auth)),
            ..UpdateService::default()
        };
        run(state, Op::UpdateService(op)).unwrap();
    }

    /// A task as the plans make it, and as it is proposed.
    fn create_task(state: &mut State, id: &str) {
        let mut task = task_of(state, "svc1", id, "w1");
        state.open_in(task.spec.as_mut());
        run(state, change_tasks([Wanted::Create(task)])).unwrap();
    }

    fn sent(state: &State, id: &str) -> Option<String> {
        let task = state.task_for_node(state.task(id).unwrap());
        handle_of(task.spec.as_ref()).map(str::to_owned)
    }

    fn auth(state: &State) -> Option<String> {
        let service = state.service("svc1").unwrap();
        let task = service.spec.as_ref().unwrap().task.as_ref().unwrap();
        state.registry_auth(task).map(|auth| auth.to_string())
    }

    #[test]
    fn objects_hold_no_credentials() {
        let mut state = with_service("marker1");
        create_task(&mut state, "t1");
        let service = state.service("svc1").unwrap();
        let task = state.task("t1").unwrap();
        for spec in [
            service.spec.as_ref().unwrap().task.as_ref(),
            task.spec.as_ref(),
        ] {
            let handle = handle_of(spec).unwrap();
            assert!(!handle.contains("marker"));
        }
        assert_eq!(auth(&state).as_deref(), Some("marker1"));
        for sealed in state.credentials.sealed.0.values() {
            assert!(!sealed.windows(6).any(|part| part == b"marker"));
        }
        assert_eq!(
            state.registry_auth_count(),
            1,
            "those of the task are the service's"
        );
    }

    #[test]
    fn only_an_engine_that_has_yet_to_pull_gets_them() {
        let mut state = with_service("marker1");
        create_task(&mut state, "t1");
        run(&mut state, report("w1", "t1", TaskState::Preparing)).unwrap();
        assert_eq!(sent(&state, "t1").as_deref(), Some("marker1"));
        let mut pulled = state.clone();
        run(&mut pulled, report("w1", "t1", TaskState::Ready)).unwrap();
        assert_eq!(sent(&pulled, "t1"), None);
        // A node of ours pulls nothing; of one that is silent it is not known.
        for plugins in [Some([("Waxseal", "host")]), None] {
            let mut other = state.clone();
            let mut node = other.node("w1").unwrap().as_ref().clone();
            node.description = None;
            if let Some(plugins) = plugins {
                describe(&mut node, &plugins);
            }
            other.set_node("w1", Some(node));
            assert_eq!(sent(&other, "t1"), None);
        }
        let mut native = state.clone();
        let mut task = native.task("t1").unwrap().as_ref().clone();
        container_of(task.spec.as_mut()).unwrap().image = "host".into();
        native.set_task("t1", Some(task));
        assert_eq!(sent(&native, "t1"), None);
        let gone = Op::RemoveService(RemoveService {
            service_id: "svc1".into(),
        });
        run(&mut state, gone).unwrap();
        assert_eq!(sent(&state, "t1"), None);
    }

    #[test]
    fn an_engine_gets_them_for_a_job_too() {
        let mut state = with_service("marker1");
        let mut task = task_of(&state, "svc1", "t1", "w1");
        task.set_desired_state(TaskState::Complete);
        state.open_in(task.spec.as_mut());
        run(&mut state, change_tasks([Wanted::Create(task)])).unwrap();
        assert_eq!(sent(&state, "t1").as_deref(), Some("marker1"));
    }

    #[test]
    fn they_go_with_the_last_version_and_task() {
        let mut state = with_service("marker1");
        create_task(&mut state, "t1");
        change(&mut state, "marker2");
        change(&mut state, "marker3");
        assert_eq!(state.registry_auth_count(), 3, "two specs and a task");
        run(&mut state, report("w1", "t1", TaskState::Failed)).unwrap();
        assert_eq!(state.registry_auth_count(), 2);
        change(&mut state, "");
        change(&mut state, "");
        assert_eq!(state.registry_auth_count(), 0);
        change(&mut state, "marker4");
        create_task(&mut state, "t2");
        let gone = Op::RemoveService(RemoveService {
            service_id: "svc1".into(),
        });
        run(&mut state, gone).unwrap();
        assert_eq!(state.registry_auth_count(), 0);
    }

    #[test]
    fn equal_ones_stay_the_same_and_others_are_a_change() {
        let mut state = with_service("marker1");
        create_task(&mut state, "t1");
        let is_current = |state: &State| {
            let task = state.task("t1").unwrap();
            crate::plan::is_current(state.service("svc1").unwrap(), task, None)
        };
        change(&mut state, "marker1");
        assert!(is_current(&state));
        assert_eq!(state.registry_auth_count(), 1);
        change(&mut state, "marker2");
        assert!(!is_current(&state));
        let back = UpdateService {
            service_id: "svc1".into(),
            rollback: true,
            update_status: Some(UpdateStatus::default()),
            ..UpdateService::default()
        };
        run(&mut state, Op::UpdateService(back)).unwrap();
        assert!(is_current(&state));
        assert_eq!(auth(&state).as_deref(), Some("marker1"));
        assert_eq!(state.registry_auth_count(), 1);
    }

    #[test]
    fn a_refused_command_leaves_none() {
        let mut state = with_service("marker1");
        let before = state.snapshot();
        assert!(run(&mut state, create_service("svc2", spec("marker2"))).is_err());
        let stale = UpdateService {
            service_id: "svc1".into(),
            expected_version: 1,
            spec: Some(spec("marker2")),
            ..UpdateService::default()
        };
        assert!(run(&mut state, Op::UpdateService(stale)).is_err());
        assert_eq!(state.registry_auth_count(), 1);
        assert_eq!(state.snapshot(), before);
    }

    #[test]
    fn snapshots_bring_them_back() {
        let mut state = with_service("marker1");
        create_task(&mut state, "t1");
        change(&mut state, "marker2");
        create_task(&mut state, "t2");
        run(&mut state, report("w1", "t2", TaskState::Failed)).unwrap();
        let snapshot = state.snapshot();
        let restored = State::restore(snapshot.clone(), Arc::clone(&state.vault)).unwrap();
        assert_eq!(restored.snapshot(), snapshot);
        assert_eq!(restored.registry_auth_count(), 2);
        assert_eq!(auth(&restored).as_deref(), Some("marker2"));
        assert_eq!(sent(&restored, "t1").as_deref(), Some("marker1"));
        let service = restored.service("svc1").unwrap();
        let current = |id| crate::plan::is_current(service, restored.task(id).unwrap(), None);
        assert_eq!((current("t1"), current("t2")), (false, true));
    }
}
