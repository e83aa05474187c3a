//! Guard on every task that goes to a node: what it lets through cannot crash an
//! engine or be rejected for its form alone.

use waxseal_secrets::TemplateError;

use crate::{
    objects::{ContainerSpec, FileTarget, NetworkAttachment, Task, config_reference},
    templates::faulty_field,
};

/// Why a task must not be sent to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutgoingFault {
    /// It has no id.
    #[error("the task has no id")]
    NoId,
    /// Neither it nor its service has a name, so no container name can be made.
    #[error("the task has no name and no service name")]
    NoName,
    /// It does not say what to run.
    #[error("the task names no image")]
    NoImage,
    /// A network without the parts that an engine dereferences.
    #[error("network {index} of the task has no {part}")]
    Network {
        /// Its place in the task's list, from 0.
        index: usize,
        /// `network`, `spec` or `driver state`.
        part: &'static str,
    },
    /// A secret or config that the engine cannot place.
    #[error("{kind} '{name}' of the task {fault}")]
    File {
        /// `secret` or `config`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A template that no node expands; it would reject the task for it.
    #[error("{field} of the task is no template that can be expanded: {error}")]
    Template {
        /// An entry of the env by its name, the hostname, a mount.
        field: String,
        /// What is wrong with it.
        error: TemplateError,
    },
}

/// Guard on everything that goes to a node.
///
/// # Errors
/// [`OutgoingFault`], the first found.
pub fn check_outgoing_task(task: &Task) -> Result<(), OutgoingFault> {
    if task.id.is_empty() {
        return Err(OutgoingFault::NoId);
    }
    let names = [&task.annotations, &task.service_annotations];
    if names
        .iter()
        .all(|of| of.as_ref().is_none_or(|of| of.name.is_empty()))
    {
        return Err(OutgoingFault::NoName);
    }
    for (index, attachment) in task.networks.iter().enumerate() {
        check_network(index, attachment)?;
    }
    let spec = task.spec.as_ref();
    let container = spec.and_then(|spec| spec.container.as_ref());
    let container = container.ok_or(OutgoingFault::NoImage)?;
    if container.image.is_empty() {
        return Err(OutgoingFault::NoImage);
    }
    check_files(container)?;
    check_templates(container)
}

fn check_network(index: usize, attachment: &NetworkAttachment) -> Result<(), OutgoingFault> {
    let missing = |part| OutgoingFault::Network { index, part };
    let network = attachment.network.as_ref().ok_or(missing("network"))?;
    let spec = network.spec.as_ref().ok_or(missing("spec"))?;
    let annotations = spec.annotations.as_ref().ok_or(missing("name"))?;
    if annotations.name.is_empty() {
        return Err(missing("name"));
    }
    let state = network
        .driver_state
        .as_ref()
        .ok_or(missing("driver state"))?;
    if state.name.is_empty() {
        return Err(missing("driver state"));
    }
    Ok(())
}

fn check_files(container: &ContainerSpec) -> Result<(), OutgoingFault> {
    for secret in &container.secrets {
        let fault = if secret.secret_id.is_empty() {
            Some("has no id")
        } else {
            secret.file.as_ref().map_or(Some(NO_TARGET), file_fault)
        };
        if let Some(fault) = fault {
            return Err(OutgoingFault::File {
                kind: "secret",
                name: secret.secret_name.clone(),
                fault,
            });
        }
    }
    for config in &container.configs {
        let fault = if config.config_id.is_empty() {
            Some("has no id")
        } else {
            match &config.target {
                None => Some(NO_TARGET),
                Some(config_reference::Target::Runtime(_)) => None,
                Some(config_reference::Target::File(file)) => file_fault(file),
            }
        };
        if let Some(fault) = fault {
            return Err(OutgoingFault::File {
                kind: "config",
                name: config.config_name.clone(),
                fault,
            });
        }
    }
    Ok(())
}

const NO_TARGET: &str = "has no file target";

fn file_fault(file: &FileTarget) -> Option<&'static str> {
    let numeric =
        |id: &str| id.bytes().all(|byte| byte.is_ascii_digit()) && id.parse::<u32>().is_ok();
    if file.name.is_empty() {
        Some("has no file name")
    } else if !numeric(&file.uid) {
        Some("has a uid that is not a number")
    } else if !numeric(&file.gid) {
        Some("has a gid that is not a number")
    } else {
        None
    }
}

fn check_templates(container: &ContainerSpec) -> Result<(), OutgoingFault> {
    match faulty_field(container) {
        None => Ok(()),
        Some((field, error)) => Err(OutgoingFault::Template { field, error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{
        Annotations, ConfigReference, Driver, Mount, Network, NetworkSpec, RuntimeTarget,
        SecretReference, TaskSpec,
    };

    fn file(name: &str, uid: &str, gid: &str) -> FileTarget {
        FileTarget {
            name: name.to_owned(),
            uid: uid.to_owned(),
            gid: gid.to_owned(),
            mode: 0o444,
        }
    }

    fn good() -> Task {
        let container = ContainerSpec {
            image: "host".to_owned(),
            env: vec!["NODE={{.Node.Hostname}}/{{ .Task.Slot }}".to_owned()],
            hostname: "h-{{.Task.Slot}}".to_owned(),
            secrets: vec![SecretReference {
                secret_id: "s".to_owned(),
                secret_name: "pw".to_owned(),
                file: Some(file("pw", "0", "1000")),
            }],
            configs: vec![ConfigReference {
                config_id: "c".to_owned(),
                config_name: "cfg".to_owned(),
                target: Some(config_reference::Target::Runtime(RuntimeTarget {})),
            }],
            mounts: vec![Mount::default()],
            ..ContainerSpec::default()
        };
        Task {
            id: "t".to_owned(),
            service_annotations: Some(Annotations {
                name: "web".to_owned(),
                ..Annotations::default()
            }),
            spec: Some(TaskSpec {
                container: Some(container),
                ..TaskSpec::default()
            }),
            networks: vec![NetworkAttachment {
                network: Some(Network {
                    spec: Some(NetworkSpec {
                        annotations: Some(Annotations {
                            name: "host".to_owned(),
                            ..Annotations::default()
                        }),
                        ..NetworkSpec::default()
                    }),
                    driver_state: Some(Driver {
                        name: "host".to_owned(),
                        ..Driver::default()
                    }),
                    ..Network::default()
                }),
                ..NetworkAttachment::default()
            }],
            ..Task::default()
        }
    }

    fn container(task: &mut Task) -> &mut ContainerSpec {
        task.spec.as_mut().unwrap().container.as_mut().unwrap()
    }

    fn network(task: &mut Task) -> &mut Network {
        task.networks[0].network.as_mut().unwrap()
    }

    #[test]
    fn what_harms_an_engine_does_not_go_out() {
        type Spoil = fn(&mut Task);
        let spoilers: [(&str, Spoil); 19] = [
            ("no id", |t| t.id.clear()),
            ("no name", |t| t.service_annotations = None),
            ("empty name", |t| {
                t.service_annotations = Some(Annotations::default());
            }),
            ("no spec", |t| t.spec = None),
            ("no image", |t| container(t).image.clear()),
            ("no network", |t| t.networks[0].network = None),
            ("no network spec", |t| network(t).spec = None),
            ("no driver state", |t| network(t).driver_state = None),
            ("empty driver state", |t| {
                network(t).driver_state = Some(Driver::default());
            }),
            ("secret without id", |t| {
                container(t).secrets[0].secret_id.clear()
            }),
            ("secret without target", |t| {
                container(t).secrets[0].file = None
            }),
            ("empty uid", |t| {
                container(t).secrets[0].file = Some(file("a", "", "0"));
            }),
            ("signed gid", |t| {
                container(t).secrets[0].file = Some(file("a", "0", "+1"));
            }),
            ("uid by name", |t| {
                container(t).secrets[0].file = Some(file("a", "root", "0"));
            }),
            ("config without target", |t| {
                container(t).configs[0].target = None
            }),
            ("config without file name", |t| {
                let unnamed = config_reference::Target::File(file("", "0", "0"));
                container(t).configs[0].target = Some(unnamed);
            }),
            ("stray braces in env", |t| {
                container(t).env.push("A={{".to_owned())
            }),
            ("empty braces in the hostname", |t| {
                container(t).hostname = "{{ }}".to_owned();
            }),
            ("nested braces in a mount", |t| {
                container(t).mounts[0].source = "{{ {{.X}} }}".to_owned();
            }),
        ];
        for (what, spoil) in spoilers {
            let mut task = good();
            spoil(&mut task);
            assert!(check_outgoing_task(&task).is_err(), "{what}");
        }
    }

    #[test]
    fn a_whole_task_goes_out() {
        assert_eq!(check_outgoing_task(&good()), Ok(()));
        let mut task = good();
        container(&mut task)
            .env
            .push("JSON={\"a\":{\"b\":1}}".to_owned());
        assert_eq!(check_outgoing_task(&task), Ok(()));
    }
}
