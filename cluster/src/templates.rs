//! Where templates stand in a service, secret or config.

use std::fmt;

use waxseal_secrets::{Kind, Place, TEMPLATE_DRIVER, Template, TemplateError, has_actions};

use crate::{
    change::Refusal,
    objects::{ContainerSpec, Driver, Mount, Task, mount},
    state::State,
};

/// A field that nodes expand, by the name that its user knows; its text may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TemplatedField<'a> {
    /// An entry of the environment.
    Env(&'a str),
    /// The hostname.
    Hostname,
    /// A part of the mount with this target.
    Mount(&'a str),
}

impl fmt::Display for TemplatedField<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplatedField::Env(entry) => {
                let name = entry.split('=').next().unwrap_or_default();
                write!(f, "environment variable {}", name.escape_debug())
            }
            TemplatedField::Hostname => f.write_str("hostname"),
            TemplatedField::Mount(target) => write!(f, "mount {}", target.escape_debug()),
        }
    }
}

/// The first field of a container that is a template which cannot be expanded.
pub(crate) fn faulty_field(container: &ContainerSpec) -> Option<(String, TemplateError)> {
    fields(container).find_map(|(field, text)| {
        let error = Template::parse(text.as_bytes(), Place::Field).err()?;
        Some((field.to_string(), error))
    })
}

/// The fields that have something to expand.
fn fields(container: &ContainerSpec) -> impl Iterator<Item = (TemplatedField<'_>, &str)> {
    let env = container
        .env
        .iter()
        .map(|entry| (TemplatedField::Env(entry), entry.as_str()));
    let hostname = (TemplatedField::Hostname, container.hostname.as_str());
    let mounts = container.mounts.iter().flat_map(|mount| {
        templated_parts(mount).map(|part| (TemplatedField::Mount(&mount.target), part))
    });
    env.chain([hostname])
        .chain(mounts)
        .filter(|(_, text)| has_actions(text.as_bytes()))
}

/// The parts of a mount that swarmkit expands.
fn templated_parts(mount: &Mount) -> impl Iterator<Item = &str> {
    let volume: Option<&mount::VolumeOptions> = mount.volume_options.as_ref();
    let labels = volume.into_iter().flat_map(|volume| volume.labels.values());
    let options = volume
        .and_then(|volume| volume.driver_config.as_ref())
        .into_iter()
        .flat_map(|driver| driver.options.values());
    [&mount.source, &mount.target]
        .into_iter()
        .chain(labels)
        .chain(options)
        .map(String::as_str)
}

/// Whether a payload is to be expanded.
pub(crate) fn is_template(driver: Option<&Driver>) -> bool {
    driver.is_some_and(|driver| driver.name == TEMPLATE_DRIVER)
}

/// That a payload, if it is a template, is one that nodes can expand.
///
/// # Errors
/// [`Refusal::Invalid`] with line and construct, without the text.
pub(crate) fn check_payload_template(
    kind: Kind,
    driver: Option<&Driver>,
    data: &[u8],
) -> Result<(), Refusal> {
    if !is_template(driver) {
        return Ok(());
    }
    match Template::parse(data, Place::Payload) {
        Ok(_) => Ok(()),
        Err(error) => Err(Refusal::invalid(format!(
            "the {kind} is no template that can be expanded: {error}"
        ))),
    }
}

/// Whether a node has something to expand before it can run the task.
pub(crate) fn needs_expansion(state: &State, task: &Task) -> bool {
    let Some(container) = task.spec.as_ref().and_then(|spec| spec.container.as_ref()) else {
        return false;
    };
    let secrets = container.secrets.iter().any(|reference| {
        let secret = state.secret(&reference.secret_id);
        let spec = secret.and_then(|secret| secret.spec.as_ref());
        is_template(spec.and_then(|spec| spec.templating.as_ref()))
    });
    let configs = || {
        container.configs.iter().any(|reference| {
            let config = state.config(&reference.config_id);
            let spec = config.and_then(|config| config.spec.as_ref());
            is_template(spec.and_then(|spec| spec.templating.as_ref()))
        })
    };
    secrets || configs() || fields(container).next().is_some()
}
