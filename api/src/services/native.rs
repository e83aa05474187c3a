//! What a service of image `host` cannot ask for.
//!
//! Its tasks are plain processes of a node, which have no container around
//! them. A node would reject each task for the same parts; refusing the
//! service tells it at once. What depends on the node (users, limits) is not
//! looked at here.

use waxseal_cluster::plan::is_host_image;

use super::{
    container::{ContainerSpecJson, MountJson, PrivilegesJson},
    spec::{ServiceSpecJson, TaskSpecJson},
};
use crate::error::ApiError;

/// Log drivers that name what native tasks do anyway.
const LOG_DRIVERS: [&str; 3] = ["", "json-file", "local"];
/// The network that only a container has.
const ENGINE_NETWORK: &str = "bridge";

/// The image has no command of its own.
///
/// # Errors
/// 400 for a service of image `host` without command and arguments.
pub(super) fn check_command(task: &TaskSpecJson) -> Result<(), ApiError> {
    let lacks_command = task.container_spec.as_ref().is_some_and(|container| {
        is_host_image(&container.image) && container.command.is_empty() && container.args.is_empty()
    });
    if lacks_command {
        return Err(ApiError::invalid_argument(
            "ContainerSpec: image host has no command of its own; give the service one, as in docker service create host COMMAND",
        ));
    }
    Ok(())
}

/// Adds one fault that names all parts which native tasks do not have.
pub(super) fn unsupported(
    container: &ContainerSpecJson,
    spec: &ServiceSpecJson,
    faults: &mut Vec<String>,
) {
    let task = &spec.task_template;
    let fields = container_parts(container)
        .into_iter()
        .chain(privileges(container.privileges.as_ref()))
        .chain(template_parts(task))
        .chain(endpoint_parts(spec))
        .filter(|(is_set, _)| *is_set)
        .map(|(_, field)| field)
        .collect::<Vec<_>>();
    if !fields.is_empty() {
        faults.push(format!(
            "tasks of image host are processes of the node itself and do not take {}: leave this out, or run another image on Docker Engine workers",
            fields.join(", ")
        ));
    }
}

fn container_parts(container: &ContainerSpecJson) -> [(bool, &'static str); 8] {
    let has_check = container
        .healthcheck
        .as_ref()
        .is_some_and(|check| check.test.first().is_some_and(|word| word != "NONE"));
    let has_dns = container.dns_config.as_ref().is_some_and(|dns| {
        !(dns.nameservers.is_empty() && dns.search.is_empty() && dns.options.is_empty())
    });
    let is_volume = |mount: &MountJson| {
        !["", "bind", "tmpfs"]
            .iter()
            .any(|kind| mount.r#type.eq_ignore_ascii_case(kind))
    };
    let isolation = container.isolation.to_ascii_lowercase();
    [
        (container.tty, "ContainerSpec.TTY (--tty)"),
        (
            container.open_stdin,
            "ContainerSpec.OpenStdin (stdin_open in a stack file)",
        ),
        (has_check, "ContainerSpec.Healthcheck (--health-cmd)"),
        (
            has_dns,
            "ContainerSpec.DNSConfig (--dns, --dns-option, --dns-search)",
        ),
        (!container.hosts.is_empty(), "ContainerSpec.Hosts (--host)"),
        (
            !container.sysctls.is_empty(),
            "ContainerSpec.Sysctls (--sysctl)",
        ),
        (
            !["", "default"].contains(&isolation.as_str()),
            "ContainerSpec.Isolation (--isolation)",
        ),
        (
            container.mounts.iter().any(is_volume),
            "ContainerSpec.Mounts (--mount) of other types than bind and tmpfs",
        ),
    ]
}

/// No profile is applied to native tasks: asking for none is carried out.
fn privileges(privileges: Option<&PrivilegesJson>) -> [(bool, &'static str); 3] {
    let selinux = privileges.and_then(|privileges| privileges.selinux_context.as_ref());
    let seccomp = privileges.and_then(|privileges| privileges.seccomp.as_ref());
    let app_armor = privileges.and_then(|privileges| privileges.app_armor.as_ref());
    [
        (
            selinux.is_some_and(|context| {
                let texts = [
                    &context.user,
                    &context.role,
                    &context.r#type,
                    &context.level,
                ];
                !context.disable || texts.iter().any(|text| !text.is_empty())
            }),
            "ContainerSpec.Privileges.SELinuxContext",
        ),
        (
            seccomp.is_some_and(|opts| !opts.mode.eq_ignore_ascii_case("unconfined")),
            "ContainerSpec.Privileges.Seccomp",
        ),
        (
            app_armor.is_some_and(|opts| !opts.mode.eq_ignore_ascii_case("disabled")),
            "ContainerSpec.Privileges.AppArmor",
        ),
    ]
}

fn template_parts(task: &TaskSpecJson) -> [(bool, &'static str); 5] {
    let resources = task.resources.as_ref();
    let driver = task.log_driver.as_ref();
    [
        (
            resources.is_some_and(|resources| resources.swap_bytes.is_some()),
            "Resources.SwapBytes (--memory-swap)",
        ),
        (
            resources.is_some_and(|resources| resources.memory_swappiness.is_some()),
            "Resources.MemorySwappiness (--memory-swappiness)",
        ),
        (
            driver.is_some_and(|driver| !LOG_DRIVERS.contains(&driver.name.as_str())),
            "LogDriver (--log-driver) other than json-file and local",
        ),
        (
            driver.is_some_and(|driver| !driver.options.is_empty()),
            "LogDriver.Options (--log-opt)",
        ),
        (
            task.networks
                .iter()
                .any(|network| network.target == ENGINE_NETWORK),
            "Networks (--network) with target bridge",
        ),
    ]
}

/// A process listens where it likes; nothing stands between it and the network, and no name
/// stands for it there.
fn endpoint_parts(spec: &ServiceSpecJson) -> [(bool, &'static str); 2] {
    let endpoint = spec.endpoint_spec.as_ref();
    [
        (
            endpoint.is_some_and(|endpoint| endpoint.mode.eq_ignore_ascii_case("dnsrr")),
            "EndpointSpec.Mode (--endpoint-mode) dnsrr",
        ),
        (
            endpoint.is_some_and(|endpoint| {
                let mut ports = endpoint.ports.iter();
                ports.any(|port| port.published_port != port.target_port)
            }),
            "EndpointSpec.Ports (--publish) that map a port to another",
        ),
    ]
}
