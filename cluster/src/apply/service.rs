//! Services: created, updated, rolled back, removed.

use std::{mem::discriminant, sync::Arc};

use super::{Effect, check_version_if_given};
use crate::{
    change::Refusal,
    feature::{GENERIC_LEVEL, SERVICES_LEVEL, check_feature},
    meta::Stamp,
    naming,
    objects::{
        CreateService, Endpoint, JobStatus, RemoveService, Service, ServiceSpec, Task, TaskState,
        UpdateService, UpdateStatus, Version, service_spec::Mode, update_status,
    },
    state::State,
};

impl State {
    pub(super) fn create_service(
        &mut self,
        op: CreateService,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let service = op.service.ok_or(Refusal::missing("service"))?;
        let spec = service.spec.ok_or(Refusal::missing("service spec"))?;
        if service.id.is_empty() {
            return Err(Refusal::missing("service id"));
        }
        check_whole(&spec)?;
        self.check_level(&spec)?;
        let name = naming::name_of(spec.annotations.as_ref());
        if self.services.contains_key(&service.id) || self.service_names.id_of(name).is_some() {
            return Err(Refusal::NameTaken {
                kind: "service",
                name: name.to_owned(),
            });
        }
        self.check_references(&spec)?;
        let mut spec = spec;
        self.seal_in(spec.task.as_mut(), None);
        let id = service.id;
        let new = Service {
            id: id.clone(),
            meta: stamp.created(),
            endpoint: endpoint_of(&spec),
            spec_version: stamp.as_version(),
            job_status: job_status(&spec, Version { index: 0 }, stamp),
            spec: Some(spec),
            ..Service::default()
        };
        Ok(self.set_service(&id, Some(new)).into())
    }

    /// Replaces the spec, rolls it back, or notes how an update goes.
    ///
    /// A new spec makes the one before the target of a rollback. A rollback
    /// that somebody asked for (no `update_status`) swaps the two; one that the
    /// update loop makes (it sends its status along) keeps no target, so that
    /// nothing rolls back to a spec that failed.
    pub(super) fn update_service(
        &mut self,
        op: UpdateService,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let old = self
            .service(&op.service_id)
            .map(Arc::clone)
            .ok_or_else(|| Refusal::not_found("service", &op.service_id))?;
        let mut new = Service::clone(&old);
        let is_replaced = !op.rollback && op.spec.is_some();
        if op.rollback {
            roll_back(&mut new, op.update_status, stamp)?;
        } else {
            if let Some(spec) = op.spec {
                check_whole(&spec)?;
                check_kept(old.spec.as_ref(), &spec)?;
                self.check_level(&spec)?;
                replace_spec(&mut new, spec, stamp);
            }
            if op.update_status.is_some() {
                new.update_status = op.update_status;
            }
        }
        if let Some(spec) = &new.spec {
            self.check_references(spec)?;
        }
        check_version_if_given(op.expected_version, old.meta.as_ref())?;
        if is_replaced {
            let task = new.spec.as_mut().and_then(|spec| spec.task.as_mut());
            self.seal_in(task, Some(&old));
        }
        new.meta = stamp.updated(old.meta.as_ref());
        Ok(self.set_service(&op.service_id, Some(new)).into())
    }

    /// Removes a service. Its tasks are told to go; the task reaper deletes
    /// them once they have.
    pub(super) fn remove_service(
        &mut self,
        op: &RemoveService,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        if !self.services.contains_key(&op.service_id) {
            return Err(Refusal::not_found("service", &op.service_id));
        }
        let mut changes = vec![self.set_service(&op.service_id, None)];
        let staying: Vec<_> = self
            .tasks_of_service(&op.service_id)
            .filter(|task| task.desired_state() < TaskState::Remove)
            .map(Arc::clone)
            .collect();
        for task in staying {
            let mut new = Task::clone(&task);
            new.set_desired_state(TaskState::Remove);
            new.meta = stamp.updated(task.meta.as_ref());
            changes.push(self.set_task(&task.id, Some(new)));
        }
        Ok(changes.into())
    }

    /// Jobs need managers that all know how to run them, generic resources such that know which
    /// task has which.
    fn check_level(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let resources = spec.task.as_ref().and_then(|task| task.resources.as_ref());
        let reserved = resources.and_then(|resources| resources.reservations.as_ref());
        if reserved.is_some_and(|reserved| !reserved.generic.is_empty()) {
            check_feature(self, GENERIC_LEVEL, "a reservation of generic resources")?;
        }
        match spec.mode {
            Some(Mode::ReplicatedJob(_) | Mode::GlobalJob(_)) => {
                check_feature(self, SERVICES_LEVEL, "a job")
            }
            Some(Mode::Replicated(_) | Mode::Global(_)) | None => Ok(()),
        }
    }

    /// Every secret and config must exist under the id *and* the name given.
    fn check_references(&self, spec: &ServiceSpec) -> Result<(), Refusal> {
        let Some(container) = spec.task.as_ref().and_then(|task| task.container.as_ref()) else {
            return Ok(());
        };
        let secrets = container.secrets.iter().filter(|reference| {
            self.secret(&reference.secret_id)
                .is_none_or(|secret| naming::secret_name(secret) != reference.secret_name)
        });
        check_none_missing("secret", secrets.map(|reference| &reference.secret_name))?;
        let configs = container.configs.iter().filter(|reference| {
            self.config(&reference.config_id)
                .is_none_or(|config| naming::config_name(config) != reference.config_name)
        });
        check_none_missing("config", configs.map(|reference| &reference.config_name))
    }
}

fn check_none_missing<'a>(
    kind: &'static str,
    missing: impl Iterator<Item = &'a String>,
) -> Result<(), Refusal> {
    let names: Vec<&str> = missing.map(String::as_str).collect();
    match names.len() {
        0 => Ok(()),
        1 => Err(Refusal::invalid(format!("{kind} not found: {}", names[0]))),
        _ => Err(Refusal::invalid(format!(
            "{kind}s not found: {}",
            names.join(", ")
        ))),
    }
}

/// The parts that the plans rely on; the API checks specs in full.
fn check_whole(spec: &ServiceSpec) -> Result<(), Refusal> {
    if naming::name_of(spec.annotations.as_ref()).is_empty() {
        return Err(Refusal::missing("service name"));
    }
    let container = spec.task.as_ref().and_then(|task| task.container.as_ref());
    if container.is_none() {
        return Err(Refusal::missing("container spec"));
    }
    if spec.mode.is_none() {
        return Err(Refusal::missing("service mode"));
    }
    Ok(())
}

/// Name and mode stay for the life of a service.
fn check_kept(old: Option<&ServiceSpec>, new: &ServiceSpec) -> Result<(), Refusal> {
    let Some(old) = old else { return Ok(()) };
    let mode = |spec: &ServiceSpec| spec.mode.as_ref().map(discriminant::<Mode>);
    if mode(old) != mode(new) {
        return Err(Refusal::Unimplemented {
            reason: "service mode change is not allowed".into(),
        });
    }
    if naming::name_of(old.annotations.as_ref()) != naming::name_of(new.annotations.as_ref()) {
        return Err(Refusal::Unimplemented {
            reason: "renaming services is not supported".into(),
        });
    }
    Ok(())
}

fn replace_spec(service: &mut Service, spec: ServiceSpec, stamp: &Stamp) {
    service.job_status = job_status(&spec, next_iteration(service), stamp);
    service.endpoint = endpoint_of(&spec);
    service.previous_spec = service.spec.replace(spec);
    service.previous_spec_version = service.spec_version.take();
    service.spec_version = stamp.as_version();
    service.update_status = None;
}

fn roll_back(
    service: &mut Service,
    status: Option<UpdateStatus>,
    stamp: &Stamp,
) -> Result<(), Refusal> {
    let Some(target) = service.previous_spec.take() else {
        return Err(Refusal::precondition(format!(
            "service {} does not have a previous spec",
            service.id
        )));
    };
    service.job_status = job_status(&target, next_iteration(service), stamp);
    service.endpoint = endpoint_of(&target);
    let left = service.spec.replace(target);
    let left_version = service.spec_version.take();
    service.spec_version = service.previous_spec_version.take();
    if status.is_none() {
        service.previous_spec = left;
        service.previous_spec_version = left_version;
    }
    // A job is not rolled: its next iteration begins at once.
    service.update_status = service.job_status.is_none().then(|| {
        status.unwrap_or(UpdateStatus {
            state: update_status::State::RollbackStarted.into(),
            started_at: Some(stamp.time),
            completed_at: None,
            message: "manually requested rollback".into(),
        })
    });
    Ok(())
}

/// Ports are published as asked: there is no allocation while only host ports exist.
fn endpoint_of(spec: &ServiceSpec) -> Option<Endpoint> {
    spec.endpoint.as_ref().map(|endpoint| Endpoint {
        spec: Some(endpoint.clone()),
        ports: endpoint.ports.clone(),
        virtual_ips: Vec::new(),
    })
}

/// Each change of a job is run anew (swarmkit's rule), whatever it changes.
fn next_iteration(service: &Service) -> Version {
    let status = service.job_status.as_ref();
    let iteration = status.and_then(|status| status.job_iteration);
    Version {
        index: iteration.map_or(0, |version| version.index.saturating_add(1)),
    }
}

fn job_status(spec: &ServiceSpec, iteration: Version, stamp: &Stamp) -> Option<JobStatus> {
    match spec.mode {
        Some(Mode::ReplicatedJob(_) | Mode::GlobalJob(_)) => Some(JobStatus {
            job_iteration: Some(iteration),
            last_execution: Some(stamp.time),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        generic::discrete,
        meta::version_of,
        objects::{GlobalService, command::Op},
        testing::{
            bootstrapped, create_secret, create_service, run, service_spec, with_running_service,
        },
    };

    fn update(spec: Option<ServiceSpec>, version: u64) -> UpdateService {
        UpdateService {
            service_id: "svc1".into(),
            expected_version: version,
            spec,
            ..UpdateService::default()
        }
    }

    fn refused(state: &mut State, op: UpdateService) -> Refusal {
        run(state, Op::UpdateService(op)).unwrap_err()
    }

    fn image_of(spec: Option<&ServiceSpec>) -> &str {
        let container = spec.unwrap().task.as_ref().unwrap().container.as_ref();
        &container.unwrap().image
    }

    fn with_image(image: &str) -> ServiceSpec {
        let mut spec = service_spec("web", &[], &[]);
        let container = spec.task.as_mut().unwrap().container.as_mut().unwrap();
        container.image = image.into();
        spec
    }

    #[test]
    fn services_that_are_not_created() {
        let mut state = with_running_service();
        let spec = service_spec("Web", &[], &[]);
        let taken = run(&mut state, create_service("svc2", spec)).unwrap_err();
        assert_eq!(
            taken.to_string(),
            "name conflicts with an existing object: service Web already exists"
        );
        let mut hollow = service_spec("a", &[], &[]);
        hollow.mode = None;
        assert!(run(&mut state, create_service("svc2", hollow)).is_err());
        let mut hollow = service_spec("a", &[], &[]);
        hollow.task.as_mut().unwrap().container = None;
        assert!(run(&mut state, create_service("svc2", hollow)).is_err());
    }

    #[test]
    fn resources_are_reserved_once_all_managers_count_them() {
        let mut state = with_running_service();
        let mut cluster = crate::objects::Cluster::clone(state.cluster().unwrap());
        cluster.feature_level = GENERIC_LEVEL - 1;
        state.set_cluster(cluster.clone());
        let reserving = |name: &str| {
            let mut spec = service_spec(name, &[], &[]);
            let resources = spec
                .task
                .as_mut()
                .unwrap()
                .resources
                .get_or_insert_default();
            let reserved = resources.reservations.get_or_insert_default();
            reserved.generic = vec![discrete("gpu", 1)];
            spec
        };
        let behind = "a reservation of generic resources needs feature level 5";
        let created = run(&mut state, create_service("svc2", reserving("gpus"))).unwrap_err();
        assert!(created.to_string().contains(behind), "{created}");
        let updated = refused(&mut state, update(Some(reserving("web")), 0));
        assert!(updated.to_string().contains(behind), "{updated}");
        cluster.feature_level = GENERIC_LEVEL;
        state.set_cluster(cluster);
        run(&mut state, create_service("svc2", reserving("gpus"))).unwrap();
        let op = update(Some(reserving("web")), 0);
        run(&mut state, Op::UpdateService(op)).unwrap();
    }

    #[test]
    fn references_must_exist_under_id_and_name() {
        let mut state = with_running_service();
        let cases: [(&[(&str, &str)], &str); 4] = [
            (&[("none", "db")], "secret not found: db"),
            (&[("s1", "DB")], "secret not found: DB"),
            (&[("s1", "other")], "secret not found: other"),
            (
                &[("x", "b"), ("s1", "db"), ("y", "a")],
                "secrets not found: b, a",
            ),
        ];
        for (secrets, text) in cases {
            let spec = service_spec("a", secrets, &[]);
            let refusal = run(&mut state, create_service("svc2", spec)).unwrap_err();
            assert_eq!(refusal, Refusal::invalid(text));
            let spec = service_spec("web", secrets, &[]);
            assert_eq!(
                refused(&mut state, update(Some(spec), 0)),
                Refusal::invalid(text)
            );
        }
        let spec = service_spec("a", &[], &[("c1", "App")]);
        let refusal = run(&mut state, create_service("svc2", spec)).unwrap_err();
        assert_eq!(refusal.to_string(), "config not found: App");
    }

    #[test]
    fn name_and_mode_stay() {
        let mut state = with_running_service();
        let renamed = service_spec("web2", &[], &[]);
        assert_eq!(
            refused(&mut state, update(Some(renamed), 0)),
            Refusal::Unimplemented {
                reason: "renaming services is not supported".into()
            }
        );
        let mut global = service_spec("web", &[], &[]);
        global.mode = Some(Mode::Global(GlobalService {}));
        assert_eq!(
            refused(&mut state, update(Some(global), 0)),
            Refusal::Unimplemented {
                reason: "service mode change is not allowed".into()
            }
        );
    }

    #[test]
    fn stale_and_unknown_updates() {
        let mut state = with_running_service();
        let version = version_of(state.service("svc1").unwrap().meta.as_ref());
        for stale in [version - 1, version + 1] {
            let op = update(Some(with_image("b")), stale);
            assert_eq!(refused(&mut state, op), Refusal::Stale);
        }
        let mut unknown = update(None, 0);
        unknown.service_id = "none".into();
        assert_eq!(
            refused(&mut state, unknown).to_string(),
            "service none not found"
        );
    }

    #[test]
    fn a_rollback_somebody_asked_for_swaps_the_specs() {
        let mut state = bootstrapped();
        run(&mut state, create_service("svc1", with_image("a"))).unwrap();
        let rollback = || UpdateService {
            rollback: true,
            ..update(None, 0)
        };
        assert_eq!(
            refused(&mut state, rollback()).to_string(),
            "service svc1 does not have a previous spec"
        );
        run(
            &mut state,
            Op::UpdateService(update(Some(with_image("b")), 2)),
        )
        .unwrap();
        let updated = Arc::clone(state.service("svc1").unwrap());
        assert_eq!(image_of(updated.spec.as_ref()), "b");
        assert_eq!(image_of(updated.previous_spec.as_ref()), "a");
        assert_eq!(updated.spec_version, Some(Version { index: 3 }));
        assert_eq!(updated.previous_spec_version, Some(Version { index: 2 }));
        run(&mut state, Op::UpdateService(rollback())).unwrap();
        let back = state.service("svc1").unwrap();
        assert_eq!(image_of(back.spec.as_ref()), "a");
        assert_eq!(image_of(back.previous_spec.as_ref()), "b");
        assert_eq!(back.spec_version, Some(Version { index: 2 }));
        let status = back.update_status.as_ref().unwrap();
        assert_eq!(status.state(), update_status::State::RollbackStarted);
        assert_eq!(status.message, "manually requested rollback");
    }

    #[test]
    fn a_rollback_of_the_update_loop_leaves_no_target() {
        let mut state = bootstrapped();
        run(&mut state, create_service("svc1", with_image("a"))).unwrap();
        run(
            &mut state,
            Op::UpdateService(update(Some(with_image("b")), 0)),
        )
        .unwrap();
        let op = UpdateService {
            rollback: true,
            update_status: Some(UpdateStatus {
                message: "why".into(),
                ..UpdateStatus::default()
            }),
            ..update(None, 0)
        };
        run(&mut state, Op::UpdateService(op)).unwrap();
        let back = state.service("svc1").unwrap();
        assert_eq!(image_of(back.spec.as_ref()), "a");
        assert!(back.previous_spec.is_none());
        assert_eq!(back.update_status.as_ref().unwrap().message, "why");
    }

    #[test]
    fn progress_alone_keeps_the_spec() {
        let mut state = with_running_service();
        let before = Arc::clone(state.service("svc1").unwrap());
        let op = UpdateService {
            update_status: Some(UpdateStatus::default()),
            ..update(None, 0)
        };
        run(&mut state, Op::UpdateService(op)).unwrap();
        let after = state.service("svc1").unwrap();
        assert_eq!(after.spec, before.spec);
        assert_eq!(after.spec_version, before.spec_version);
        assert!(after.previous_spec.is_none() && after.update_status.is_some());
        // A new spec starts without progress.
        run(
            &mut state,
            Op::UpdateService(update(Some(with_image("b")), 0)),
        )
        .unwrap();
        assert!(state.service("svc1").unwrap().update_status.is_none());
    }

    #[test]
    fn tasks_of_a_removed_service_are_to_go() {
        let mut state = with_running_service();
        let op = RemoveService {
            service_id: "svc1".into(),
        };
        let applied = run(&mut state, Op::RemoveService(op.clone())).unwrap();
        assert_eq!(applied.changes.len(), 2);
        let task = state.task("t1").unwrap();
        assert_eq!(task.desired_state(), TaskState::Remove);
        assert_eq!(state.tasks_of_service("svc1").count(), 1);
        let again = run(&mut state, Op::RemoveService(op)).unwrap_err();
        assert_eq!(again.to_string(), "service svc1 not found");
        run(&mut state, create_secret("s2", "other", b"x")).unwrap();
        run(
            &mut state,
            create_service("svc2", service_spec("web", &[], &[])),
        )
        .unwrap();
    }
}
