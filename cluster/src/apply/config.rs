//! Configs: as secrets, but their data lies open and is shown again.

use std::sync::Arc;

use waxseal_secrets::{Kind, check_labels, check_update};

use super::{Effect, check_version};
use crate::{
    change::Refusal,
    feature::{TEMPLATES_LEVEL, check_feature},
    meta::Stamp,
    naming,
    objects::{Config, CreateConfig, RemoveConfig, UpdateConfigObject},
    state::State,
    templates::is_template,
    validate::{labels_of, validate_config_parts},
};

impl State {
    pub(super) fn create_config(
        &mut self,
        op: CreateConfig,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let mut config = op.config.ok_or(Refusal::missing("config"))?;
        let spec = config
            .spec
            .as_ref()
            .ok_or(Refusal::missing("config spec"))?;
        validate_config_parts(spec)?;
        if is_template(spec.templating.as_ref()) {
            check_feature(self, TEMPLATES_LEVEL, "a config that is a template")?;
        }
        if config.id.is_empty() {
            return Err(Refusal::missing("config id"));
        }
        let name = naming::config_name(&config);
        if self.configs.contains_key(&config.id) || self.config_names.id_of(name).is_some() {
            return Err(Refusal::NameTaken {
                kind: "config",
                name: name.to_owned(),
            });
        }
        config.meta = stamp.created();
        let id = config.id.clone();
        Ok(self.set_config(&id, Some(config)).into())
    }

    pub(super) fn update_config(
        &mut self,
        op: UpdateConfigObject,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let spec = op.spec.ok_or(Refusal::missing("config spec"))?;
        let old = self
            .config(&op.config_id)
            .ok_or_else(|| Refusal::not_found("config", &op.config_id))?;
        let stored: &[u8] = old.spec.as_ref().map_or(&[], |spec| &spec.data);
        check_update(
            naming::config_name(old),
            naming::name_of(spec.annotations.as_ref()),
            &spec.data,
            || stored,
        )?;
        check_labels(labels_of(spec.annotations.as_ref()))?;
        check_version(op.expected_version, old.meta.as_ref())?;
        let mut new = Config::clone(old);
        new.meta = stamp.updated(old.meta.as_ref());
        if let Some(kept) = &mut new.spec {
            kept.annotations = spec.annotations;
        }
        Ok(self.set_config(&op.config_id, Some(new)).into())
    }

    pub(super) fn remove_config(&mut self, op: &RemoveConfig) -> Result<Effect, Refusal> {
        let config = self
            .config(&op.config_id)
            .map(Arc::clone)
            .ok_or_else(|| Refusal::not_found("config", &op.config_id))?;
        let services = self.user_names(&self.config_users, &config.id);
        if !services.is_empty() {
            return Err(Refusal::InUse {
                kind: Kind::Config.as_str(),
                name: naming::config_name(&config).to_owned(),
                services,
            });
        }
        Ok(self.set_config(&config.id, None).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{ConfigSpec, command::Op},
        testing::{annotations, bootstrapped, create_config, run, with_running_service},
    };

    fn update(name: &str, data: &[u8], version: u64) -> Op {
        Op::UpdateConfig(UpdateConfigObject {
            config_id: "c1".into(),
            expected_version: version,
            spec: Some(ConfigSpec {
                annotations: annotations(name),
                data: data.into(),
                ..ConfigSpec::default()
            }),
        })
    }

    #[test]
    fn configs_that_are_not_created() {
        let mut state = bootstrapped();
        run(&mut state, create_config("c1", "App", b"x")).unwrap();
        let cases: [(&str, &str, &[u8], &str); 4] = [
            ("c2", "a.", b"x", "invalid name, only 64"),
            ("c2", "a", b"", "config data must be larger than 0"),
            ("", "a", b"x", "malformed command: config id is missing"),
            ("c2", "aPP", b"x", "config aPP already exists"),
        ];
        for (id, name, data, text) in cases {
            let refusal = run(&mut state, create_config(id, name, data)).unwrap_err();
            assert!(refusal.to_string().starts_with(text), "{refusal}");
        }
        let too_large = vec![0; 1_024_000];
        assert!(run(&mut state, create_config("c2", "a", &too_large)).is_err());
        run(&mut state, create_config("c2", "a", &too_large[1..])).unwrap();
    }

    #[test]
    fn only_labels_change_and_the_data_stays() {
        let mut state = bootstrapped();
        run(&mut state, create_config("c1", "app", b"data")).unwrap();
        for (name, data) in [("App", &b"data"[..]), ("app", b"dat"), ("", b"")] {
            let refusal = run(&mut state, update(name, data, 2)).unwrap_err();
            assert_eq!(refusal, Refusal::OnlyLabels);
        }
        assert_eq!(
            run(&mut state, update("app", b"data", 1)).unwrap_err(),
            Refusal::Stale
        );
        run(&mut state, update("app", b"", 2)).unwrap();
        let kept = state.config("c1").unwrap().spec.as_ref().unwrap();
        assert_eq!(kept.data, b"data");
    }

    #[test]
    fn a_config_in_use_is_kept() {
        let mut state = with_running_service();
        let remove = Op::RemoveConfig(RemoveConfig {
            config_id: "c1".into(),
        });
        assert_eq!(
            run(&mut state, remove).unwrap_err().to_string(),
            "config 'app' is in use by the following service: web"
        );
        run(&mut state, create_config("c2", "free", b"x")).unwrap();
        let remove = Op::RemoveConfig(RemoveConfig {
            config_id: "c2".into(),
        });
        run(&mut state, remove).unwrap();
        assert!(state.config("c2").is_none());
    }
}
