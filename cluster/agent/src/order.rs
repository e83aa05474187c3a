//! From an assigned task to what the executor starts.

use waxseal_cluster::objects::{
    ConfigReference, FileTarget, NetworkAttachment, SecretReference, Task, config_reference,
};
use zeroize::Zeroizing;

use crate::{
    assignments::{AssignedSet, Payload},
    native::{FileKind, Network, TaskFile, TaskLaunch, TaskNames},
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
    let log_driver = task
        .log_driver
        .as_ref()
        .map_or("", |driver| driver.name.as_str());
    if !LOG_DRIVERS.contains(&log_driver) {
        return rejected(format!(
            "native tasks keep their own logs and know no log driver `{log_driver}`; update the \
             service with `--log-driver json-file`"
        ));
    }
    let network = network_of(&task.networks)?;
    let files = files_of(task, &spec.secrets, &spec.configs, set)?;
    let name_of = |annotations: &Option<waxseal_cluster::objects::Annotations>| {
        annotations
            .as_ref()
            .map(|annotations| annotations.name.clone())
            .unwrap_or_default()
    };
    Ok(TaskLaunch {
        task_id: task.id.clone(),
        service_id: task.service_id.clone(),
        node_id: node.node_id.to_owned(),
        names: TaskNames {
            service: name_of(&task.service_annotations),
            task: name_of(&task.annotations),
            slot: task.slot,
            node_hostname: node.hostname.to_owned(),
        },
        spec: spec.clone(),
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
    secrets: &[SecretReference],
    configs: &[ConfigReference],
    set: &AssignedSet,
) -> Result<Vec<TaskFile>, OrderError> {
    let secrets = secrets.iter().map(|reference| {
        let payload = set.secret(&reference.secret_id, &task.id);
        let (name, target) = (&reference.secret_name, reference.file.as_ref());
        file("secret", FileKind::Secret, name, target, payload)
    });
    let configs = configs.iter().map(|reference| {
        let payload = set.config(&reference.config_id, &task.id);
        let target = match &reference.target {
            Some(config_reference::Target::File(target)) => Some(target),
            Some(config_reference::Target::Runtime(_)) | None => None,
        };
        file(
            "config",
            FileKind::Config,
            &reference.config_name,
            target,
            payload,
        )
    });
    secrets.chain(configs).collect()
}

fn file(
    kind: &'static str,
    file_kind: FileKind,
    name: &str,
    target: Option<&FileTarget>,
    payload: Option<&Payload>,
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
    Ok(TaskFile {
        kind: file_kind,
        path: file_kind
            .path_of(&target.name)
            .map_err(|error| rejected(error.to_string()))?,
        uid: number("its uid", &target.uid)?,
        gid: number("its gid", &target.gid)?,
        mode: target.mode,
        data: Zeroizing::new(payload.as_slice().to_vec()),
    })
}
