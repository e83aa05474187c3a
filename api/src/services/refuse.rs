//! What a service may ask of an engine and this release does not offer.
//!
//! Such a part is refused by its names in the API and, if it has one, on the command line, with
//! what to do instead; it is never dropped in silence. What an engine that runs the task honours by
//! itself is not looked at here; ports in ingress mode and templates that no node
//! expands are refused by `waxseal_cluster::validate_service_spec`.

use waxseal_cluster::plan::is_host_image;

use super::{
    container::ContainerSpecJson,
    native,
    spec::{NetworkAttachmentConfigJson, ServiceSpecJson, TaskSpecJson},
};
use crate::error::ApiError;

/// Refuses what this release does not offer, all of it in one answer.
///
/// # Errors
/// 501 naming each part and what to use instead.
pub(super) fn refuse_unsupported(spec: &ServiceSpecJson) -> Result<(), ApiError> {
    let mut faults = Vec::new();
    task(&spec.task_template, &mut faults);
    networks(&spec.task_template.networks, &mut faults);
    networks(&spec.networks, &mut faults);
    if let Some(container) = &spec.task_template.container_spec {
        container_parts(container, &mut faults);
        if is_host_image(&container.image) {
            native::unsupported(container, spec, &mut faults);
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(ApiError::not_implemented(faults.join("; ")))
}

fn task(task: &TaskSpecJson, faults: &mut Vec<String>) {
    for (set, field) in [
        (task.plugin_spec.is_some(), "PluginSpec"),
        (
            task.network_attachment_spec.is_some(),
            "NetworkAttachmentSpec",
        ),
    ] {
        if set {
            faults.push(format!(
                "only container services are offered (TaskTemplate.{field}): describe the service by TaskTemplate.ContainerSpec alone"
            ));
        }
    }
}

fn networks(networks: &[NetworkAttachmentConfigJson], faults: &mut Vec<String>) {
    for network in networks {
        if !network.aliases.is_empty() {
            faults.push(format!(
                "network aliases are not offered (--network name={0},alias=..., Networks[{0:?}].Aliases): tasks on host, none and bridge have no names on the network",
                network.target
            ));
        }
        if !network.driver_opts.is_empty() {
            faults.push(format!(
                "network driver options are not offered (--network name={0},driver-opt=..., Networks[{0:?}].DriverOpts): attach the service to host, none or bridge without options",
                network.target
            ));
        }
    }
}

fn container_parts(container: &ContainerSpecJson, faults: &mut Vec<String>) {
    let privileges = container.privileges.as_ref();
    if privileges.is_some_and(|privileges| privileges.credential_spec.is_some()) {
        faults.push(
            "credential specs are not offered (ContainerSpec.Privileges.CredentialSpec): leave --credential-spec out".to_owned(),
        );
    }
    for config in &container.configs {
        if config.runtime.is_some() && config.file.is_none() {
            faults.push(format!(
                "configs for the runtime are not offered (ContainerSpec.Configs, config {:?}): give the config a file target",
                config.config_name
            ));
        }
    }
    for mount in &container.mounts {
        if mount.r#type.eq_ignore_ascii_case("cluster") {
            faults.push(format!(
                "cluster volumes are not offered (--mount type=cluster, ContainerSpec.Mounts, target {:?}): use a mount of type bind, volume or tmpfs",
                mount.target
            ));
        }
    }
}
