//! Secrets: sealed when they are created, immutable but for their labels,
//! removed when nothing uses them.

use std::sync::Arc;

use waxseal_secrets::{Kind, check_labels, check_update};

use super::{Effect, check_version};
use crate::{
    Wiped,
    change::Refusal,
    feature::{TEMPLATES_LEVEL, check_feature},
    index::{User, Users},
    meta::Stamp,
    naming,
    objects::{CreateSecret, RemoveSecret, Secret, UpdateSecret},
    state::State,
    templates::is_template,
    validate::{labels_of, validate_secret_parts},
};

impl State {
    pub(super) fn create_secret(
        &mut self,
        op: CreateSecret,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let mut secret = op.secret.ok_or(Refusal::missing("secret"))?;
        let spec = secret
            .spec
            .as_mut()
            .ok_or(Refusal::missing("secret spec"))?;
        // Wiped when this function ends, refused or not.
        let payload = Wiped::new(std::mem::take(&mut spec.data));
        validate_secret_parts(spec, payload.len())?;
        if is_template(spec.templating.as_ref()) {
            check_feature(self, TEMPLATES_LEVEL, "a secret that is a template")?;
        }
        if secret.id.is_empty() {
            return Err(Refusal::missing("secret id"));
        }
        let name = naming::secret_name(&secret);
        if self.secrets.contains_key(&secret.id) || self.secret_names.id_of(name).is_some() {
            return Err(Refusal::NameTaken {
                kind: "secret",
                name: name.to_owned(),
            });
        }
        secret.meta = stamp.created();
        Ok(self.set_secret(secret, Some(&payload)).into())
    }

    pub(super) fn update_secret(
        &mut self,
        op: UpdateSecret,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let mut spec = op.spec.ok_or(Refusal::missing("secret spec"))?;
        let data = Wiped::new(std::mem::take(&mut spec.data));
        let old = self
            .secret(&op.secret_id)
            .ok_or_else(|| Refusal::not_found("secret", &op.secret_id))?;
        check_update(
            naming::secret_name(old),
            naming::name_of(spec.annotations.as_ref()),
            &data,
            || self.secret_payload(&op.secret_id).unwrap_or_default(),
        )?;
        check_labels(labels_of(spec.annotations.as_ref()))?;
        check_version(op.expected_version, old.meta.as_ref())?;
        let mut new = Secret::clone(old);
        new.meta = stamp.updated(old.meta.as_ref());
        // Driver and templating of the request are ignored, as swarmkit does.
        if let Some(kept) = &mut new.spec {
            kept.annotations = spec.annotations;
        }
        Ok(self.set_secret(new, None).into())
    }

    pub(super) fn remove_secret(&mut self, op: &RemoveSecret) -> Result<Effect, Refusal> {
        let secret = self
            .secret(&op.secret_id)
            .map(Arc::clone)
            .ok_or_else(|| Refusal::not_found("secret", &op.secret_id))?;
        let services = self.user_names(&self.secret_users, &secret.id);
        if !services.is_empty() {
            return Err(Refusal::InUse {
                kind: Kind::Secret.as_str(),
                name: naming::secret_name(&secret).to_owned(),
                services,
            });
        }
        Ok(self.remove_secret_object(&secret.id).into())
    }

    /// Names of the services that use a secret or config, sorted: by their spec,
    /// the spec before it, or a task of theirs that has not ended.
    pub(super) fn user_names(&self, users: &Users, object_id: &str) -> Vec<String> {
        let name_of_user = |user: &User| match user {
            User::Service(id) => self.service_label(id, ""),
            User::Task(id) => match self.task(id) {
                Some(task) => self.service_label(
                    &task.service_id,
                    naming::name_of(task.service_annotations.as_ref()),
                ),
                None => id.clone(),
            },
        };
        let mut names: Vec<_> = users.of(object_id).map(name_of_user).collect();
        names.sort();
        names.dedup();
        names
    }

    /// A service's name; of one that is gone the name its task bears, else its id.
    fn service_label(&self, service_id: &str, gone: &str) -> String {
        let name = self
            .service(service_id)
            .map_or(gone, |service| naming::service_name(service));
        match name {
            "" => service_id.to_owned(),
            name => name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        change::{Applied, Change},
        objects::{RemoveService, SecretSpec, TaskState, UpdateService, command::Op},
        testing::{
            annotations, at, bootstrapped, command, create_config, create_secret, create_service,
            report, run, service_spec, with_running_service,
        },
    };

    fn update(
        state: &mut State,
        name: &str,
        data: &[u8],
        labels: &[(&str, &str)],
        version: u64,
    ) -> Result<Applied, Refusal> {
        let mut annotations = annotations(name);
        annotations.as_mut().unwrap().labels = labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect();
        let op = Op::UpdateSecret(UpdateSecret {
            secret_id: "s1".into(),
            expected_version: version,
            spec: Some(SecretSpec {
                annotations,
                data: data.into(),
                ..SecretSpec::default()
            }),
        });
        state.apply(command(2000, op))
    }

    fn remove(state: &mut State, id: &str) -> Result<Applied, Refusal> {
        let op = Op::RemoveSecret(RemoveSecret {
            secret_id: id.into(),
        });
        run(state, op)
    }

    #[test]
    fn secrets_that_are_not_created() {
        let mut state = bootstrapped();
        run(&mut state, create_secret("s1", "DB", b"x")).unwrap();
        let cases: [(&str, &str, &[u8], &str); 6] = [
            ("s2", "", b"x", "name must be provided"),
            ("s2", "-", b"x", "invalid name, only 64"),
            ("s2", "a", b"", "secret data must be larger than 0"),
            ("", "a", b"x", "malformed command: secret id is missing"),
            ("s2", "db", b"x", "secret db already exists"),
            ("s1", "a", b"x", "secret a already exists"),
        ];
        for (id, name, data, text) in cases {
            let refusal = run(&mut state, create_secret(id, name, data)).unwrap_err();
            assert!(refusal.to_string().starts_with(text), "{refusal}");
        }
        let too_large = vec![0; 512_000];
        assert!(run(&mut state, create_secret("s2", "a", &too_large)).is_err());
        run(&mut state, create_secret("s2", "a", &too_large[1..])).unwrap();
        assert_eq!(state.secret_payload_bytes("s2"), Some(511_999));
    }

    #[test]
    fn templates_wait_until_all_managers_accept_them() {
        let mut state = bootstrapped();
        let template = |mut op: Op| {
            let driver = Some(crate::objects::Driver {
                name: "golang".into(),
                ..Default::default()
            });
            match &mut op {
                Op::CreateSecret(op) => {
                    let spec = op.secret.as_mut().unwrap().spec.as_mut();
                    spec.unwrap().templating = driver;
                }
                Op::CreateConfig(op) => {
                    let spec = op.config.as_mut().unwrap().spec.as_mut();
                    spec.unwrap().templating = driver;
                }
                _ => panic!("neither"),
            }
            op
        };
        // As a later binary may accept it: the text is not judged here.
        let secret = || template(create_secret("s1", "db", b"{{ range .Later }}"));
        let config = || template(create_config("c1", "app", b"{{ range .Later }}"));
        let mut cluster = state.cluster().unwrap().as_ref().clone();
        cluster.feature_level = TEMPLATES_LEVEL - 1;
        let mut old = state.clone();
        old.set_cluster(cluster);
        for op in [secret(), config()] {
            let refusal = run(&mut old, op).unwrap_err().to_string();
            assert!(refusal.contains("needs feature level 4"), "{refusal}");
        }
        for op in [secret(), config()] {
            run(&mut state, op).unwrap();
        }
    }

    #[test]
    fn the_stored_object_has_no_payload() {
        let mut state = bootstrapped();
        let applied = run(&mut state, create_secret("s1", "db", b"payload")).unwrap();
        let Change::Secret {
            old: None,
            new: Some(new),
        } = &applied.changes[0]
        else {
            panic!("not a new secret");
        };
        assert!(new.spec.as_ref().unwrap().data.is_empty());
        assert!(
            state
                .secret("s1")
                .unwrap()
                .spec
                .as_ref()
                .unwrap()
                .data
                .is_empty()
        );
        assert_eq!(state.secret_payload("s1").unwrap().as_slice(), b"payload");
        assert!(state.secret_payload("none").is_none());
    }

    #[test]
    fn only_labels_change_and_the_payload_stays() {
        let mut state = bootstrapped();
        run(&mut state, create_secret("s1", "db", b"payload")).unwrap();
        for (name, data) in [
            ("DB", &b""[..]),
            ("other", b""),
            ("db", b"other"),
            ("", b""),
        ] {
            let refusal = update(&mut state, name, data, &[], 2).unwrap_err();
            assert_eq!(refusal, Refusal::OnlyLabels);
        }
        // The labels rule comes before the sequence.
        let refusal = update(&mut state, "x", b"", &[], 9).unwrap_err();
        assert_eq!(refusal, Refusal::OnlyLabels);
        for version in [0, 1, 3] {
            let refusal = update(&mut state, "db", b"payload", &[], version).unwrap_err();
            assert_eq!(refusal, Refusal::Stale);
        }
        update(&mut state, "db", b"payload", &[("k", "v")], 2).unwrap();
        let secret = state.secret("s1").unwrap();
        let labels = &secret
            .spec
            .as_ref()
            .unwrap()
            .annotations
            .as_ref()
            .unwrap()
            .labels;
        assert_eq!(labels["k"], "v");
        let meta = secret.meta.unwrap();
        assert_eq!(
            (meta.created_at, meta.updated_at),
            (Some(at(1000)), Some(at(2000)))
        );
        assert_eq!(state.secret_payload("s1").unwrap().as_slice(), b"payload");
        assert!(matches!(
            run(&mut state, create_secret("s9", "Db", b"x")),
            Err(Refusal::NameTaken { .. })
        ));
    }

    #[test]
    fn a_secret_in_use_is_kept_and_the_users_are_named() {
        let mut state = with_running_service();
        let spec = service_spec("api", &[("s1", "db")], &[]);
        run(&mut state, create_service("svc0", spec)).unwrap();
        assert_eq!(
            remove(&mut state, "s1").unwrap_err().to_string(),
            "secret 'db' is in use by the following services: api, web"
        );
        assert_eq!(
            remove(&mut state, "none").unwrap_err().to_string(),
            "secret none not found"
        );
    }

    #[test]
    fn in_use_by_spec_then_rollback_target_then_task() {
        let mut state = with_running_service();
        let in_use = "secret 'db' is in use by the following service: web";
        let without = || {
            Op::UpdateService(UpdateService {
                service_id: "svc1".into(),
                spec: Some(service_spec("web", &[], &[])),
                ..UpdateService::default()
            })
        };
        run(&mut state, without()).unwrap();
        // The task is final, the rollback target still names it.
        run(&mut state, report("w1", "t1", TaskState::Failed)).unwrap();
        assert_eq!(remove(&mut state, "s1").unwrap_err().to_string(), in_use);
        run(&mut state, without()).unwrap();
        remove(&mut state, "s1").unwrap();
        assert!(state.secret("s1").is_none() && state.secret_payload("s1").is_none());
        run(&mut state, create_secret("s2", "db", b"new")).unwrap();
    }

    #[test]
    fn a_task_uses_it_until_it_ends_or_its_service_is_removed() {
        let mut state = with_running_service();
        let mut ended = state.clone();
        run(&mut ended, report("w1", "t1", TaskState::Shutdown)).unwrap();
        assert!(ended.secret_users != state.secret_users);
        let gone = Op::RemoveService(RemoveService {
            service_id: "svc1".into(),
        });
        assert_eq!(
            remove(&mut state, "s1").unwrap_err().to_string(),
            "secret 'db' is in use by the following service: web"
        );
        run(&mut state, gone).unwrap();
        remove(&mut state, "s1").unwrap();
    }
}
