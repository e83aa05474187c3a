//! From the object that the state holds to the JSON of a container spec.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use waxseal_cluster::objects::{
    ConfigReference, ContainerSpec, FileTarget, HealthConfig, Mount, Privileges, SecretReference,
    config_reference, container_spec, mount, privileges,
};

use super::container::{
    AppArmorJson, BindOptionsJson, ConfigReferenceJson, ContainerSpecJson, CredentialSpecJson,
    DnsConfigJson, FileTargetJson, HealthcheckJson, MountJson, PrivilegesJson, RuntimeTargetJson,
    SeLinuxContextJson, SeccompJson, SecretReferenceJson, TmpfsOptionsJson, UlimitJson,
    VolumeOptionsJson,
};
use crate::json::common::nanos;

/// What a client reads of a container spec: all but the pull options (they hold
/// credentials) and the limit of processes (shown among the resources).
pub(super) fn container_spec(spec: &ContainerSpec) -> ContainerSpecJson {
    use container_spec::Isolation;
    let isolation = match spec.isolation() {
        Isolation::Default => "default",
        Isolation::Process => "process",
        Isolation::Hyperv => "hyperv",
    };
    ContainerSpecJson {
        image: spec.image.clone(),
        labels: spec.labels.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        hostname: spec.hostname.clone(),
        env: spec.env.clone(),
        dir: spec.dir.clone(),
        user: spec.user.clone(),
        groups: spec.groups.clone(),
        privileges: spec.privileges.as_ref().map(privileges),
        init: spec.init,
        stop_signal: spec.stop_signal.clone(),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        mounts: spec.mounts.iter().map(mount).collect(),
        stop_grace_period: spec
            .stop_grace_period
            .as_ref()
            .map(|length| nanos(Some(length))),
        healthcheck: spec.healthcheck.as_ref().map(healthcheck),
        hosts: spec.hosts.clone(),
        dns_config: spec.dns_config.as_ref().map(|dns| DnsConfigJson {
            nameservers: dns.nameservers.clone(),
            search: dns.search.clone(),
            options: dns.options.clone(),
        }),
        secrets: spec.secrets.iter().map(secret_reference).collect(),
        configs: spec.configs.iter().map(config_reference).collect(),
        isolation: isolation.to_owned(),
        sysctls: spec.sysctls.clone(),
        capability_add: spec.capability_add.clone(),
        capability_drop: spec.capability_drop.clone(),
        ulimits: spec
            .ulimits
            .iter()
            .map(|ulimit| UlimitJson {
                name: ulimit.name.clone(),
                hard: ulimit.hard,
                soft: ulimit.soft,
            })
            .collect(),
        oom_score_adj: spec.oom_score_adj,
    }
}

fn healthcheck(health: &HealthConfig) -> HealthcheckJson {
    HealthcheckJson {
        interval: nanos(health.interval.as_ref()),
        timeout: nanos(health.timeout.as_ref()),
        start_period: nanos(health.start_period.as_ref()),
        start_interval: nanos(health.start_interval.as_ref()),
        retries: health.retries,
        test: health.test.clone(),
    }
}

fn file_target(file: &FileTarget) -> FileTargetJson {
    FileTargetJson {
        name: file.name.clone(),
        uid: file.uid.clone(),
        gid: file.gid.clone(),
        mode: file.mode,
    }
}

fn secret_reference(reference: &SecretReference) -> SecretReferenceJson {
    SecretReferenceJson {
        file: reference.file.as_ref().map(file_target),
        secret_id: reference.secret_id.clone(),
        secret_name: reference.secret_name.clone(),
    }
}

fn config_reference(reference: &ConfigReference) -> ConfigReferenceJson {
    use config_reference::Target;
    let (file, runtime) = match &reference.target {
        Some(Target::File(file)) => (Some(file_target(file)), None),
        Some(Target::Runtime(_)) => (None, Some(RuntimeTargetJson {})),
        None => (None, None),
    };
    ConfigReferenceJson {
        file,
        runtime,
        config_id: reference.config_id.clone(),
        config_name: reference.config_name.clone(),
    }
}

fn privileges(privileges: &Privileges) -> PrivilegesJson {
    PrivilegesJson {
        credential_spec: privileges.credential_spec.as_ref().map(credential_spec),
        selinux_context: privileges
            .selinux_context
            .as_ref()
            .map(|context| SeLinuxContextJson {
                disable: context.disable,
                user: context.user.clone(),
                role: context.role.clone(),
                r#type: context.r#type.clone(),
                level: context.level.clone(),
            }),
        seccomp: privileges.seccomp.as_ref().map(seccomp),
        app_armor: privileges.apparmor.as_ref().map(app_armor),
        no_new_privileges: privileges.no_new_privileges,
    }
}

fn credential_spec(spec: &privileges::CredentialSpec) -> CredentialSpecJson {
    use privileges::credential_spec::Source;
    let mut json = CredentialSpecJson::default();
    match &spec.source {
        Some(Source::File(file)) => json.file.clone_from(file),
        Some(Source::Registry(registry)) => json.registry.clone_from(registry),
        Some(Source::Config(config)) => json.config.clone_from(config),
        None => {}
    }
    json
}

fn seccomp(opts: &privileges::SeccompOpts) -> SeccompJson {
    use privileges::seccomp_opts::SeccompMode;
    let mode = match opts.mode() {
        SeccompMode::Default => "default",
        SeccompMode::Unconfined => "unconfined",
        SeccompMode::Custom => "custom",
    };
    SeccompJson {
        mode: mode.to_owned(),
        profile: STANDARD.encode(&opts.profile),
    }
}

fn app_armor(opts: &privileges::AppArmorOpts) -> AppArmorJson {
    use privileges::app_armor_opts::AppArmorMode;
    let mode = match opts.mode() {
        AppArmorMode::Default => "default",
        AppArmorMode::Disabled => "disabled",
    };
    AppArmorJson {
        mode: mode.to_owned(),
    }
}

fn mount(mount: &Mount) -> MountJson {
    use mount::{Consistency, Type};
    let kind = match mount.r#type() {
        Type::Bind => "bind",
        Type::Volume => "volume",
        Type::Tmpfs => "tmpfs",
        Type::Npipe => "npipe",
        Type::Cluster => "cluster",
    };
    let consistency = match mount.consistency() {
        Consistency::Default => "",
        Consistency::Consistent => "consistent",
        Consistency::Cached => "cached",
        Consistency::Delegated => "delegated",
    };
    MountJson {
        r#type: kind.to_owned(),
        source: mount.source.clone(),
        target: mount.target.clone(),
        read_only: mount.readonly,
        consistency: consistency.to_owned(),
        bind_options: mount.bind_options.as_ref().map(bind_options),
        volume_options: mount
            .volume_options
            .as_ref()
            .map(|options| VolumeOptionsJson {
                no_copy: options.nocopy,
                labels: options.labels.clone(),
                subpath: options.subpath.clone(),
                driver_config: options.driver_config.as_ref().map(Into::into),
            }),
        tmpfs_options: mount.tmpfs_options.as_ref().map(tmpfs_options),
    }
}

fn bind_options(options: &mount::BindOptions) -> BindOptionsJson {
    use mount::bind_options::Propagation;
    let propagation = match options.propagation() {
        Propagation::Rprivate => "rprivate",
        Propagation::Private => "private",
        Propagation::Rshared => "rshared",
        Propagation::Shared => "shared",
        Propagation::Rslave => "rslave",
        Propagation::Slave => "slave",
    };
    BindOptionsJson {
        propagation: propagation.to_owned(),
        non_recursive: options.nonrecursive,
        create_mountpoint: options.createmountpoint,
        read_only_non_recursive: options.readonlynonrecursive,
        read_only_force_recursive: options.readonlyforcerecursive,
    }
}

/// Options that are not the JSON list of a client's request show as none.
fn tmpfs_options(options: &mount::TmpfsOptions) -> TmpfsOptionsJson {
    TmpfsOptionsJson {
        size_bytes: options.size_bytes,
        mode: options.mode,
        options: serde_json::from_str(&options.options).unwrap_or_default(),
    }
}
