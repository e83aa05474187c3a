//! Templates of a task, expanded where it runs.
//!
//! Fields first, then payloads, which see the environment as it was expanded: so do
//! engines. They give payloads no more of the node than its id, and so do we: a task is
//! the same wherever it runs.

use std::collections::BTreeMap;

use waxseal_cluster::objects::{Annotations, ContainerSpec, Task, config_reference};
use waxseal_secrets::{
    Kind, MAX_FIELD_BYTES, NoFiles, Place, TEMPLATE_DRIVER, TaskFiles, TaskNames, Template,
    TemplateError, has_actions,
};
use zeroize::Zeroizing;

use crate::{
    assignments::{AssignedSet, Payload},
    order::{NodeNames, OrderError},
};

/// Expands what belongs to one task.
pub(crate) struct Expander<'a> {
    task: &'a Task,
    set: &'a AssignedSet,
    node: &'a NodeNames<'a>,
    task_name: String,
    slot: String,
    no_labels: BTreeMap<String, String>,
}

impl<'a> Expander<'a> {
    pub(crate) fn new(
        task: &'a Task,
        set: &'a AssignedSet,
        node: &'a NodeNames<'a>,
    ) -> Expander<'a> {
        Expander {
            task,
            set,
            node,
            task_name: waxseal_cluster::task_name(task),
            slot: match task.slot {
                0 => node.node_id.to_owned(),
                slot => slot.to_string(),
            },
            no_labels: BTreeMap::new(),
        }
    }

    /// The container with its env, hostname and mounts expanded.
    ///
    /// # Errors
    /// [`OrderError::Rejected`], as engines do, with the name of the field.
    pub(crate) fn container(&self, spec: &ContainerSpec) -> Result<ContainerSpec, OrderError> {
        let mut expanded = spec.clone();
        for entry in &mut expanded.env {
            let name = entry.split('=').next().unwrap_or_default().escape_debug();
            let what = format!("env failed: {name}");
            self.field(entry, &what)?;
        }
        for mount in &mut expanded.mounts {
            let what = format!("mounts failed: {}", mount.target.escape_debug());
            self.field(&mut mount.source, &what)?;
            self.field(&mut mount.target, &what)?;
        }
        self.field(&mut expanded.hostname, "hostname failed")?;
        Ok(expanded)
    }

    fn field(&self, text: &mut String, what: &str) -> Result<(), OrderError> {
        if !has_actions(text.as_bytes()) {
            return Ok(());
        }
        let names = TaskNames {
            node_hostname: self.node.hostname,
            node_architecture: self.node.architecture,
            node_os: "linux",
            ..self.names()
        };
        let rejected = |error: &dyn std::fmt::Display| {
            OrderError::Rejected(format!("expanding {what}: {error}"))
        };
        let expanded = Template::parse(text.as_bytes(), Place::Field)
            .and_then(|template| template.expand(&names, &NoFiles, MAX_FIELD_BYTES))
            .map_err(|error| rejected(&error))?;
        *text = str::from_utf8(&expanded)
            .map_err(|_| rejected(&"the result is not UTF-8 text"))?
            .to_owned();
        Ok(())
    }

    /// A payload as the task is to see it. `container` is the expanded one.
    ///
    /// # Errors
    /// [`OrderError::Failed`], as engines do, with the object's name and without its content.
    pub(crate) fn payload(
        &self,
        kind: Kind,
        name: &str,
        payload: &Payload,
        container: &ContainerSpec,
    ) -> Result<Zeroizing<Vec<u8>>, OrderError> {
        let failed = |error: &dyn std::fmt::Display| {
            OrderError::Failed(format!("failed to expand templated {kind} {name}: {error}"))
        };
        match payload.template_driver.as_deref() {
            None => return Ok(payload.data.clone()),
            Some(TEMPLATE_DRIVER) => {}
            Some(other) => {
                return Err(failed(&format!(
                    "unrecognized template type {}; use {TEMPLATE_DRIVER}",
                    other.escape_debug()
                )));
            }
        }
        let files = Files {
            task_id: &self.task.id,
            container,
            set: self.set,
        };
        self.expanded_payload(&payload.data, &files, kind.max_bytes())
            .map_err(|error| failed(&error))
    }

    fn expanded_payload(
        &self,
        data: &[u8],
        files: &Files<'_>,
        limit: usize,
    ) -> Result<Zeroizing<Vec<u8>>, TemplateError> {
        let template = Template::parse(data, Place::Payload)?;
        template.expand(&self.names(), files, limit)
    }

    /// As payloads see them.
    fn names(&self) -> TaskNames<'_> {
        let service = self.task.service_annotations.as_ref();
        TaskNames {
            service_id: &self.task.service_id,
            service_name: service.map_or("", |service: &Annotations| service.name.as_str()),
            service_labels: service.map_or(&self.no_labels, |service| &service.labels),
            node_id: self.node.node_id,
            node_hostname: "",
            node_architecture: "",
            node_os: "",
            task_id: &self.task.id,
            task_name: &self.task_name,
            task_slot: &self.slot,
        }
    }
}

/// What templates in payloads reach: the task's own references, by target, and its env.
struct Files<'a> {
    task_id: &'a str,
    container: &'a ContainerSpec,
    set: &'a AssignedSet,
}

impl TaskFiles for Files<'_> {
    fn secret(&self, target: &[u8]) -> Option<&[u8]> {
        let reference = self.container.secrets.iter().find(|reference| {
            let file = reference.file.as_ref();
            file.is_some_and(|file| file.name.as_bytes() == target)
        })?;
        let payload = self.set.secret(&reference.secret_id, self.task_id)?;
        Some(&payload.data)
    }

    fn config(&self, target: &[u8]) -> Option<&[u8]> {
        let reference = self.container.configs.iter().find(|reference| {
            matches!(
                &reference.target,
                Some(config_reference::Target::File(file)) if file.name.as_bytes() == target
            )
        })?;
        let payload = self.set.config(&reference.config_id, self.task_id)?;
        Some(&payload.data)
    }

    fn env(&self, name: &[u8]) -> Option<&[u8]> {
        let entries = self.container.env.iter();
        let mut pairs = entries.filter_map(|entry| entry.split_once('='));
        let (_, value) = pairs.find(|(known, _)| known.as_bytes() == name)?;
        Some(value.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waxseal_cluster::objects::{FileTarget, Mount, SecretReference};

    use super::*;

    const NODE: NodeNames<'_> = NodeNames {
        node_id: "node1",
        hostname: "here",
        architecture: "x86_64",
    };

    fn task(slot: u64) -> Task {
        Task {
            id: "task1".to_owned(),
            service_id: "service1".to_owned(),
            slot,
            node_id: "node1".to_owned(),
            service_annotations: Some(Annotations {
                name: "web".to_owned(),
                labels: [("tier".to_owned(), "front".to_owned())].into(),
            }),
            ..Task::default()
        }
    }

    fn container() -> ContainerSpec {
        ContainerSpec {
            env: vec![
                "A={{.Node.Hostname}}".to_owned(),
                "NO_VALUE".to_owned(),
                "B=c=d".to_owned(),
                "B=second".to_owned(),
            ],
            secrets: vec![SecretReference {
                secret_id: "s1".to_owned(),
                secret_name: "pw".to_owned(),
                file: Some(FileTarget {
                    name: "password".to_owned(),
                    ..FileTarget::default()
                }),
            }],
            ..ContainerSpec::default()
        }
    }

    fn template(data: &[u8], driver: &str) -> Arc<Payload> {
        Arc::new(Payload {
            data: Zeroizing::new(data.to_vec()),
            template_driver: Some(driver.to_owned()),
        })
    }

    fn set() -> AssignedSet {
        let mut set = AssignedSet::default();
        let secret = template(b"hunter2{{.Task.ID}}", "golang");
        set.secrets.insert("s1".to_owned(), secret);
        set
    }

    fn expand(data: &[u8], driver: &str) -> Result<String, OrderError> {
        let (task, set) = (task(1), set());
        let expander = Expander::new(&task, &set, &NODE);
        let container = expander.container(&container())?;
        let payload = template(data, driver);
        let expanded = expander.payload(Kind::Config, "app", &payload, &container)?;
        Ok(String::from_utf8(expanded.to_vec()).unwrap())
    }

    #[test]
    fn payloads_that_cannot_be_expanded_fail_without_their_content() {
        for (data, driver, text) in [
            ("hunter3", "jinja", "unrecognized template type jinja"),
            ("hunter3\n{{", "golang", "line 2: malformed template"),
            (
                "{{secret \"pw\"}}",
                "golang",
                "line 1: secret target `pw` not found",
            ),
            (
                "{{secret (secret \"password\")}}",
                "golang",
                "target not found",
            ),
        ] {
            let error = expand(data.as_bytes(), driver).unwrap_err();
            assert!(matches!(error, OrderError::Failed(_)));
            let error = error.to_string();
            assert!(
                error.starts_with("failed to expand templated config app: "),
                "{error}"
            );
            assert!(error.contains(text) && !error.contains("hunter"), "{error}");
        }
    }

    #[test]
    fn what_expands_too_large_fails() {
        let large = vec![b'x'; Kind::Config.max_bytes()];
        let error = expand(&[large.as_slice(), b"{{.Task.ID}}"].concat(), "golang").unwrap_err();
        assert!(error.to_string().contains("too many bytes"), "{error}");
    }

    #[test]
    fn fields_that_cannot_be_expanded_reject_the_task() {
        let (task, set) = (task(1), set());
        let expander = Expander::new(&task, &set, &NODE);
        let rejected = |change: &dyn Fn(&mut ContainerSpec)| {
            let mut spec = container();
            change(&mut spec);
            match expander.container(&spec) {
                Err(OrderError::Rejected(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        let env = rejected(&|spec| spec.env.push("PW=hunter2{{.Service.Labels.a}}".to_owned()));
        assert!(
            env.starts_with("expanding env failed: PW: line 1: "),
            "{env}"
        );
        assert!(env.contains("no label `a`") && !env.contains("hunter2"));
        let hostname = rejected(&|spec| spec.hostname = "{{secret \"pw\"}}".to_owned());
        assert!(hostname.starts_with("expanding hostname failed: "));
        let bytes = rejected(&|spec| spec.hostname = "{{\"\\xff\"}}".to_owned());
        assert!(bytes.contains("not UTF-8"), "{bytes}");
        let mount = rejected(&|spec| {
            spec.mounts.push(Mount {
                source: "{{".to_owned(),
                target: "/t".to_owned(),
                ..Mount::default()
            });
        });
        assert!(
            mount.starts_with("expanding mounts failed: /t: "),
            "{mount}"
        );
    }

    #[test]
    fn payloads_see_the_files_and_the_expanded_env_of_the_task() {
        let expanded = |text: &str| expand(text.as_bytes(), "golang").unwrap();
        assert_eq!(
            expanded("{{secret \"password\"}}"),
            "hunter2{{.Task.ID}}",
            "expanded twice"
        );
        assert_eq!(
            expanded("{{env \"A\"}}|{{env \"B\"}}|{{env \"NO_VALUE\"}}"),
            "here|c=d|"
        );
        assert_eq!(expanded("{{.Node.ID}}|{{.Node.Hostname}}"), "node1|");
        assert_eq!(
            expanded("{{.Task.Name}} {{.Service.Labels.tier}}"),
            "web.1.task1 front"
        );
    }

    #[test]
    fn a_task_without_slot_has_the_nodes_id() {
        let (task, set) = (task(0), set());
        let expander = Expander::new(&task, &set, &NODE);
        let mut spec = container();
        spec.hostname = "{{.Task.Slot}}-{{.Task.Name}}".to_owned();
        let expanded = expander.container(&spec).unwrap();
        assert_eq!(expanded.hostname, "node1-web.node1.task1");
    }
}
