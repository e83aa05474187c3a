//! From the JSON of a container spec to the object that the state holds.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use waxseal_cluster::objects::{
    ConfigReference, ContainerSpec, FileTarget, HealthConfig, Mount, Privileges, RuntimeTarget,
    SecretReference, config_reference, container_spec, mount, privileges,
};

use super::{
    container::{
        AppArmorJson, BindOptionsJson, ConfigReferenceJson, ContainerSpecJson, FileTargetJson,
        HealthcheckJson, MountJson, PrivilegesJson, SeccompJson, SecretReferenceJson,
        TmpfsOptionsJson, VolumeOptionsJson,
    },
    into_object::{duration_unless_zero, invalid},
};
use crate::{error::ApiError, json::common::duration};

/// The object that `spec` describes. `pids_limit` and `pull_options` are not
/// in this JSON; the caller fills them.
pub(super) fn container_spec(spec: ContainerSpecJson) -> Result<ContainerSpec, ApiError> {
    Ok(ContainerSpec {
        image: spec.image,
        labels: spec.labels,
        command: spec.command,
        args: spec.args,
        env: spec.env,
        dir: spec.dir,
        user: spec.user,
        mounts: spec
            .mounts
            .into_iter()
            .map(mount)
            .collect::<Result<_, _>>()?,
        stop_grace_period: spec.stop_grace_period.map(duration),
        pull_options: None,
        groups: spec.groups,
        secrets: spec.secrets.into_iter().map(secret_reference).collect(),
        tty: spec.tty,
        hostname: spec.hostname,
        dns_config: spec.dns_config.map(|dns| container_spec::DnsConfig {
            nameservers: dns.nameservers,
            search: dns.search,
            options: dns.options,
        }),
        healthcheck: spec.healthcheck.map(healthcheck),
        hosts: spec.hosts,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        stop_signal: spec.stop_signal,
        configs: spec
            .configs
            .into_iter()
            .map(config_reference)
            .collect::<Result<_, _>>()?,
        privileges: spec.privileges.map(privileges).transpose()?,
        init: spec.init,
        isolation: isolation(&spec.isolation)?.into(),
        pids_limit: 0,
        sysctls: spec.sysctls,
        capability_add: spec.capability_add,
        capability_drop: spec.capability_drop,
        ulimits: spec
            .ulimits
            .into_iter()
            .map(|ulimit| container_spec::Ulimit {
                name: ulimit.name,
                soft: ulimit.soft,
                hard: ulimit.hard,
            })
            .collect(),
        oom_score_adj: spec.oom_score_adj,
    })
}

fn isolation(isolation: &str) -> Result<container_spec::Isolation, ApiError> {
    use container_spec::Isolation;
    match isolation.to_ascii_lowercase().as_str() {
        "" | "default" => Ok(Isolation::Default),
        "process" => Ok(Isolation::Process),
        "hyperv" => Ok(Isolation::Hyperv),
        _ => Err(invalid("Isolation", isolation)),
    }
}

fn healthcheck(health: HealthcheckJson) -> HealthConfig {
    HealthConfig {
        test: health.test,
        interval: duration_unless_zero(health.interval),
        timeout: duration_unless_zero(health.timeout),
        retries: health.retries,
        start_period: duration_unless_zero(health.start_period),
        start_interval: duration_unless_zero(health.start_interval),
    }
}

fn file_target(file: FileTargetJson) -> FileTarget {
    FileTarget {
        name: file.name,
        uid: file.uid,
        gid: file.gid,
        mode: file.mode,
    }
}

fn secret_reference(reference: SecretReferenceJson) -> SecretReference {
    SecretReference {
        secret_id: reference.secret_id,
        secret_name: reference.secret_name,
        file: reference.file.map(file_target),
    }
}

fn config_reference(reference: ConfigReferenceJson) -> Result<ConfigReference, ApiError> {
    use config_reference::Target;
    let target = match (reference.file, reference.runtime) {
        (Some(file), None) => Target::File(file_target(file)),
        (None, Some(_)) => Target::Runtime(RuntimeTarget {}),
        (None, None) => {
            return Err(ApiError::bad_request(
                "invalid Config: either File or Runtime should be set",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::bad_request(
                "invalid Config: cannot specify both File and Runtime",
            ));
        }
    };
    Ok(ConfigReference {
        config_id: reference.config_id,
        config_name: reference.config_name,
        target: Some(target),
    })
}

/// A credential spec was refused before.
fn privileges(privileges: PrivilegesJson) -> Result<Privileges, ApiError> {
    Ok(Privileges {
        credential_spec: None,
        selinux_context: privileges
            .selinux_context
            .map(|context| privileges::SeLinuxContext {
                disable: context.disable,
                user: context.user,
                role: context.role,
                r#type: context.r#type,
                level: context.level,
            }),
        seccomp: privileges.seccomp.map(seccomp).transpose()?,
        apparmor: privileges
            .app_armor
            .map(|opts| app_armor(&opts))
            .transpose()?,
        no_new_privileges: privileges.no_new_privileges,
    })
}

fn seccomp(opts: SeccompJson) -> Result<privileges::SeccompOpts, ApiError> {
    use privileges::seccomp_opts::SeccompMode;
    let mode = match opts.mode.to_ascii_lowercase().as_str() {
        "" | "default" => SeccompMode::Default,
        "unconfined" => SeccompMode::Unconfined,
        "custom" => SeccompMode::Custom,
        _ => return Err(invalid("SeccompMode", &opts.mode)),
    };
    let profile = STANDARD
        .decode(&opts.profile)
        .map_err(|_| ApiError::bad_request("invalid seccomp profile: not standard base64"))?;
    Ok(privileges::SeccompOpts {
        mode: mode.into(),
        profile,
    })
}

fn app_armor(opts: &AppArmorJson) -> Result<privileges::AppArmorOpts, ApiError> {
    use privileges::app_armor_opts::AppArmorMode;
    let mode = match opts.mode.to_ascii_lowercase().as_str() {
        "" | "default" => AppArmorMode::Default,
        "disabled" => AppArmorMode::Disabled,
        _ => return Err(invalid("AppArmorMode", &opts.mode)),
    };
    Ok(privileges::AppArmorOpts { mode: mode.into() })
}

fn mount(mount: MountJson) -> Result<Mount, ApiError> {
    use mount::{Consistency, Type};
    let kind = match mount.r#type.to_ascii_lowercase().as_str() {
        "" | "bind" => Type::Bind,
        "volume" => Type::Volume,
        "tmpfs" => Type::Tmpfs,
        "npipe" => Type::Npipe,
        "cluster" => Type::Cluster,
        _ => return Err(invalid("MountType", &mount.r#type)),
    };
    let consistency = match mount.consistency.to_ascii_lowercase().as_str() {
        "" | "default" => Consistency::Default,
        "consistent" => Consistency::Consistent,
        "cached" => Consistency::Cached,
        "delegated" => Consistency::Delegated,
        _ => return Err(invalid("MountConsistency", &mount.consistency)),
    };
    Ok(Mount {
        r#type: kind.into(),
        source: mount.source,
        target: mount.target,
        readonly: mount.read_only,
        bind_options: mount.bind_options.map(bind_options).transpose()?.flatten(),
        volume_options: mount.volume_options.map(volume_options),
        tmpfs_options: mount.tmpfs_options.map(tmpfs_options),
        consistency: consistency.into(),
    })
}

/// Empty options ask for nothing and are not kept, as in the engine.
fn bind_options(options: BindOptionsJson) -> Result<Option<mount::BindOptions>, ApiError> {
    use mount::bind_options::Propagation;
    if options == BindOptionsJson::default() {
        return Ok(None);
    }
    let propagation = match options.propagation.to_ascii_lowercase().as_str() {
        "" | "rprivate" => Propagation::Rprivate,
        "private" => Propagation::Private,
        "rshared" => Propagation::Rshared,
        "shared" => Propagation::Shared,
        "rslave" => Propagation::Rslave,
        "slave" => Propagation::Slave,
        _ => return Err(invalid("MountPropagation", &options.propagation)),
    };
    Ok(Some(mount::BindOptions {
        propagation: propagation.into(),
        nonrecursive: options.non_recursive,
        createmountpoint: options.create_mountpoint,
        readonlynonrecursive: options.read_only_non_recursive,
        readonlyforcerecursive: options.read_only_force_recursive,
    }))
}

fn volume_options(options: VolumeOptionsJson) -> mount::VolumeOptions {
    mount::VolumeOptions {
        nocopy: options.no_copy,
        labels: options.labels,
        driver_config: options.driver_config.map(Into::into),
        subpath: options.subpath,
    }
}

/// The object has one string for the options; engines read a JSON list there.
fn tmpfs_options(options: TmpfsOptionsJson) -> mount::TmpfsOptions {
    let text = if options.options.is_empty() {
        String::new()
    } else {
        serde_json::Value::from_iter(options.options).to_string()
    };
    mount::TmpfsOptions {
        size_bytes: options.size_bytes,
        mode: options.mode,
        options: text,
    }
}
