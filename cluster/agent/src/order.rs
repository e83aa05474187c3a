//! From an assigned task to what the executor starts.

use std::sync::Arc;

use waxseal_cluster::objects::{
    ContainerSpec, FileTarget, NetworkAttachment, Task, config_reference,
};
use waxseal_secrets::Kind;

use crate::{
    assignments::{AssignedSet, Payload},
    expand::Expander,
    generic,
    native::{FileKind, Network, TaskFile, TaskLaunch},
};

/// Log drivers that a native task's own log stands in for.
const LOG_DRIVERS: &[&str] = &["", "json-file", "local"];

/// Why a task cannot be started as it was assigned.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderError {
    /// It asks for what this node does not do: REJECTED.
    #[error("{0}")]
    Rejected(String),
    /// What it needs did not come: FAILED.
    #[error("{0}")]
    Failed(String),
}

/// Who runs the task.
pub(crate) struct NodeNames<'a> {
    pub(crate) node_id: &'a str,
    pub(crate) hostname: &'a str,
    /// As the kernel names it.
    pub(crate) architecture: &'a str,
}

/// What the executor needs to start `task`, secrets and configs included.
///
/// # Errors
/// [`OrderError`] with a text for the one who asked for the service.
pub(crate) fn order(
    task: &Task,
    set: &AssignedSet,
    node: &NodeNames<'_>,
    runs_image: impl Fn(&str) -> bool,
) -> Result<TaskLaunch, OrderError> {
    let rejected = |reason: String| Err(OrderError::Rejected(reason));
    let Some(spec) = task.spec.as_ref().and_then(|spec| spec.container.as_ref()) else {
        return rejected(
            "the task has no container part, and nothing else runs here; create the service with \
             an image"
                .to_owned(),
        );
    };
    if !runs_image(&spec.image) {
        return rejected(format!(
            "this node runs only the image `host`, not `{}`; keep the service off it with \
             `--constraint-add node.id!={}`",
            spec.image, node.node_id
        ));
    }
    let driver = task.log_driver.as_ref();
    let log_driver = driver.map_or("", |driver| driver.name.as_str());
    if !LOG_DRIVERS.contains(&log_driver) {
        return rejected(format!(
            "native tasks keep their own logs and know no log driver `{log_driver}`; update the \
             service with `--log-driver json-file`"
        ));
    }
    if driver.is_some_and(|driver| !driver.options.is_empty()) {
        return rejected(
            "native tasks keep their own logs, which have their bounds, and take no `--log-opt`; \
             update the service with `--log-driver json-file` and without it"
                .to_owned(),
        );
    }
    let network = network_of(&task.networks)?;
    let expander = Expander::new(task, set, node);
    let mut spec = expander.container(spec)?;
    let files = files_of(task, &spec, set, &expander)?;
    // After the payloads, whose templates do not reach it: so it is on an engine.
    spec.env.extend(generic::environment(task));
    Ok(TaskLaunch {
        task_id: task.id.clone(),
        service_id: task.service_id.clone(),
        node_id: node.node_id.to_owned(),
        spec,
        resources: task.spec.as_ref().and_then(|spec| spec.resources.clone()),
        files,
        network,
    })
}

/// The one network of the task; a task without one gets the host's.
fn network_of(attachments: &[NetworkAttachment]) -> Result<Network, OrderError> {
    let mut network = None;
    for attachment in attachments {
        let wanted = attachment.network.as_ref();
        let spec = wanted.and_then(|network| network.spec.as_ref());
        let driver = wanted
            .and_then(|network| network.driver_state.as_ref())
            .or_else(|| spec.and_then(|spec| spec.driver_config.as_ref()))
            .map_or("", |driver| driver.name.as_str());
        let name = spec
            .and_then(|spec| spec.annotations.as_ref())
            .map_or("", |annotations| annotations.name.as_str());
        let this = match (driver, name) {
            ("host", _) => Network::Host,
            ("none" | "null", _) => Network::None,
            _ => {
                return Err(OrderError::Rejected(format!(
                    "native tasks use the networks `host` and `none` only, not `{name}`; update \
                     the service with `--network-rm {name} --network-add host`"
                )));
            }
        };
        if network.is_some_and(|other| other != this) {
            return Err(OrderError::Rejected(
                "a task cannot be on the networks `host` and `none` at once; remove one of them"
                    .to_owned(),
            ));
        }
        network = Some(this);
    }
    Ok(network.unwrap_or_default())
}

fn files_of(
    task: &Task,
    container: &ContainerSpec,
    set: &AssignedSet,
    expander: &Expander<'_>,
) -> Result<Vec<TaskFile>, OrderError> {
    let secrets = container.secrets.iter().map(|reference| {
        let payload = set.secret(&reference.secret_id, &task.id);
        let (name, target) = (&reference.secret_name, reference.file.as_ref());
        (Kind::Secret, name, target, payload)
    });
    let configs = container.configs.iter().map(|reference| {
        let payload = set.config(&reference.config_id, &task.id);
        let target = match &reference.target {
            Some(config_reference::Target::File(target)) => Some(target),
            Some(config_reference::Target::Runtime(_)) | None => None,
        };
        (Kind::Config, &reference.config_name, target, payload)
    });
    secrets
        .chain(configs)
        .map(|(kind, name, target, payload)| file(kind, name, target, payload, container, expander))
        .collect()
}

fn file(
    kind: Kind,
    name: &str,
    target: Option<&FileTarget>,
    payload: Option<&Arc<Payload>>,
    container: &ContainerSpec,
    expander: &Expander<'_>,
) -> Result<TaskFile, OrderError> {
    let rejected = |reason: String| OrderError::Rejected(format!("{kind} `{name}`: {reason}"));
    let target = target.ok_or_else(|| {
        rejected("it has no file target; give it one with `target=NAME`".to_owned())
    })?;
    let number = |what: &str, text: &str| {
        text.parse::<u32>().map_err(|_| {
            rejected(format!(
                "{what} `{text}` is not a number; give it as a decimal number"
            ))
        })
    };
    // A secret that did not come is the manager's fault, not the service's: the words are
    // those of an engine.
    let payload = payload.ok_or_else(|| {
        OrderError::Failed(format!(
            "unable to get {kind} from {kind} store: {kind} `{name}` did not come with the task; \
             see that it still exists with `docker {kind} ls`"
        ))
    })?;
    let file_kind = match kind {
        Kind::Secret => FileKind::Secret,
        Kind::Config => FileKind::Config,
    };
    Ok(TaskFile {
        kind: file_kind,
        path: file_kind
            .path_of(&target.name)
            .map_err(|error| rejected(error.to_string()))?,
        uid: number("its uid", &target.uid)?,
        gid: number("its gid", &target.gid)?,
        mode: target.mode,
        data: expander.payload(kind, name, payload, container)?,
    })
}

#[cfg(test)]
mod tests {
    use waxseal_cluster::{
        generic::discrete,
        objects::{Driver, Network as WireNetwork, SecretReference, TaskSpec},
    };
    use zeroize::Zeroizing;

    use super::*;

    const NODE: NodeNames<'_> = NodeNames {
        node_id: "node",
        hostname: "here",
        architecture: "x86_64",
    };

    fn task(change: impl FnOnce(&mut ContainerSpec)) -> Task {
        let mut container = ContainerSpec {
            image: "host".to_owned(),
            ..Default::default()
        };
        change(&mut container);
        let spec = TaskSpec {
            container: Some(container),
            ..Default::default()
        };
        Task {
            id: "task".to_owned(),
            spec: Some(spec),
            ..Default::default()
        }
    }

    fn secret(file: Option<FileTarget>) -> SecretReference {
        SecretReference {
            secret_id: "s".to_owned(),
            secret_name: "pw".to_owned(),
            file,
        }
    }

    fn target(name: &str, uid: &str) -> Option<FileTarget> {
        Some(FileTarget {
            name: name.to_owned(),
            uid: uid.to_owned(),
            gid: "0".to_owned(),
            mode: 0,
        })
    }

    fn set() -> AssignedSet {
        let mut set = AssignedSet::default();
        let payload = Payload {
            data: Zeroizing::new(b"hunter2".to_vec()),
            template_driver: None,
        };
        set.secrets.insert("s".to_owned(), Arc::new(payload));
        set
    }

    fn refusal(task: &Task) -> OrderError {
        order(task, &set(), &NODE, |image| image == "host").unwrap_err()
    }

    fn rejected(task: &Task) -> String {
        match refusal(task) {
            OrderError::Rejected(text) => text,
            OrderError::Failed(text) => panic!("failed instead: {text}"),
        }
    }

    fn attachment(name: &str) -> NetworkAttachment {
        let driver_state = Some(Driver {
            name: name.to_owned(),
            ..Default::default()
        });
        let network = WireNetwork {
            driver_state,
            ..Default::default()
        };
        NetworkAttachment {
            network: Some(network),
            ..Default::default()
        }
    }

    #[test]
    fn what_no_native_task_can_have_is_rejected_with_what_helps() {
        assert!(rejected(&Task::default()).contains("no container part"));
        let other = rejected(&task(|container| container.image = "nginx".to_owned()));
        assert!(other.contains("--constraint-add node.id!=node"), "{other}");
        let mut logged = task(|_| {});
        logged.log_driver = Some(Driver {
            name: "syslog".to_owned(),
            ..Default::default()
        });
        assert!(rejected(&logged).contains("--log-driver json-file"));
        logged.log_driver = Some(Driver {
            name: "json-file".to_owned(),
            options: [("max-size".to_owned(), "1m".to_owned())].into(),
        });
        assert!(rejected(&logged).contains("take no `--log-opt`"));
        let mut overlay = task(|_| {});
        overlay.networks = vec![attachment("overlay")];
        assert!(rejected(&overlay).contains("--network-add host"));
        let mut both = task(|_| {});
        both.networks = vec![attachment("host"), attachment("none")];
        assert!(rejected(&both).contains("at once"));
    }

    #[test]
    fn a_reference_that_cannot_become_a_file_is_rejected() {
        for file in [
            None,
            target("pw", ""),
            target("pw", "-1"),
            target("", "0"),
            target("../x", "0"),
        ] {
            let text = rejected(&task(|container| container.secrets = vec![secret(file)]));
            assert!(text.starts_with("secret `pw`: "), "{text}");
        }
    }

    #[test]
    fn a_secret_that_did_not_come_fails_the_task_in_the_engines_words() {
        let task = task(|container| container.secrets = vec![secret(target("pw", "0"))]);
        let error = order(&task, &AssignedSet::default(), &NODE, |_| true).unwrap_err();
        let OrderError::Failed(text) = error else {
            panic!("{error}")
        };
        assert!(
            text.starts_with("unable to get secret from secret store"),
            "{text}"
        );
    }

    #[test]
    fn networks_and_files_come_as_asked() {
        let mut task = task(|container| container.secrets = vec![secret(target("pw", "7"))]);
        let launch = order(&task, &set(), &NODE, |_| true).unwrap();
        assert_eq!(launch.network, Network::Host);
        let file = &launch.files[0];
        assert_eq!(
            (file.path.to_str().unwrap(), file.uid),
            ("/run/secrets/pw", 7)
        );
        assert_eq!(file.data.as_slice(), b"hunter2");
        task.networks = vec![attachment("null")];
        assert_eq!(
            order(&task, &set(), &NODE, |_| true).unwrap().network,
            Network::None
        );
    }

    #[test]
    fn what_the_task_was_given_is_the_last_in_its_environment() {
        let mut task = task(|container| container.env = vec!["A=b".to_owned()]);
        task.assigned_generic_resources = vec![discrete("gpu", 2)];
        let launch = order(&task, &set(), &NODE, |_| true).unwrap();
        assert_eq!(launch.spec.env, ["A=b", "DOCKER_RESOURCE_GPU=2"]);
    }

    #[test]
    fn an_order_shows_no_payload() {
        let task = task(|container| container.secrets = vec![secret(target("pw", "7"))]);
        let launch = order(&task, &set(), &NODE, |_| true).unwrap();
        assert!(!format!("{launch:?}").contains("hunter2"));
        let bytes = format!("{:?}", b"hunter2".to_vec());
        assert!(!format!("{launch:?}").contains(&bytes));
    }
}
