//! Whether a task can run here, and its specification in the shim's terms.
//!
//! Every field of the specification is either carried out or refused by name; the few that mean
//! nothing to a plain process (labels, pull options, a mount's consistency) are listed where they
//! are passed over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use waxseal_cluster::objects::{self, ContainerSpec, mount};
use waxseal_mount::CapSet;

use super::cgroup::Limits;
use super::error::LaunchError;
use super::frame::{Bind, FileHeader, Launch, Tmpfs};
use super::image::is_native_image;
use super::signal;
use super::types::{Network, TaskLaunch, UserPolicy};
use super::ulimit::Ulimit;
use super::users::{Database, Identity};

/// The engine's grace period where none is given.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// What the engine searches where no PATH is given.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The kernel's bound (`__NEW_UTS_LEN`).
const MAX_HOSTNAME_BYTES: usize = 64;

/// Signals that end or stop pid 1's init rather than the task, or that the init itself lives by.
const NO_STOP_SIGNALS: [i32; 2] = [libc::SIGSTOP, libc::SIGCHLD];

/// What this node is, as far as a task's specification depends on it.
pub(super) struct Host<'a> {
    /// The daemon is root; else tasks run in a user namespace with one uid.
    pub(super) root: bool,
    pub(super) users: UserPolicy,
    /// Why there are no limits here.
    pub(super) limits: Result<(), &'a str>,
    pub(super) database: &'a Database,
    pub(super) hostname: &'a str,
}

/// The task in the shim's terms, without what only the executor knows (directories, cgroups).
///
/// # Errors
/// `Rejected`, naming what is not possible here.
pub(super) fn plan(task: &TaskLaunch, host: &Host<'_>) -> Result<(Launch, Limits), LaunchError> {
    let spec = &task.spec;
    check_policy(spec, host)?;
    check_unsupported(spec, task.resources.as_ref())?;
    let limits = limits(task, host)?;
    let identity = identity(spec, host)?;
    check_files(task, host)?;
    let hostname = hostname(task)?;
    let (binds, tmpfs) = mounts(task)?;
    let shown_name = hostname.as_deref().unwrap_or(host.hostname);
    let launch = Launch {
        task_id: task.task_id.clone(),
        argv: argv(spec)?,
        env: environment(task, shown_name, &identity.home)?,
        dir: directory(spec)?,
        capabilities: capabilities(spec, &identity, host)?,
        identity,
        hostname,
        stop_signal: stop_signal(spec)?,
        grace_ms: millis(grace(spec)?),
        read_only: spec.read_only,
        init: spec.init != Some(false),
        own_network: task.network == Network::None,
        binds,
        tmpfs,
        covered: Vec::new(),
        files: task.files.iter().map(FileHeader::from).collect(),
        ulimits: ulimits(spec)?,
        oom_score_adj: spec.oom_score_adj,
        cgroup: None,
        shim_cgroup: None,
        log_dir: PathBuf::new(),
        orphan_stop_ms: None,
    };
    Ok((launch, limits))
}

/// Whether some node could run a task of this specification, as far as that depends neither on the
/// node nor on what templates become there. What this refuses, every node rejects.
///
/// # Errors
/// `Rejected`, naming what is not possible.
pub fn check_spec(spec: &ContainerSpec) -> Result<(), LaunchError> {
    let is_template = |text: &String| text.contains("{{");
    let mut fixed = spec.clone();
    fixed.env.retain(|entry| !is_template(entry));
    fixed
        .mounts
        .retain(|mount| !is_template(&mount.source) && !is_template(&mount.target));
    if is_template(&fixed.hostname) {
        fixed.hostname.clear();
    }
    argv(&fixed)?;
    directory(&fixed)?;
    stop_signal(&fixed)?;
    named_capabilities(&fixed)?;
    let user = fixed.user.split(':').next().unwrap_or_default();
    if user.parse().is_ok_and(|uid: u32| uid != 0) {
        check_added_capabilities(&fixed)?;
    }
    ulimits(&fixed)?;
    grace(&fixed)?;
    let task = TaskLaunch {
        spec: fixed,
        ..TaskLaunch::default()
    };
    hostname(&task)?;
    environment(&task, "", "")?;
    mounts(&task)?;
    Ok(())
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn check_policy(spec: &ContainerSpec, host: &Host<'_>) -> Result<(), LaunchError> {
    if host.users == UserPolicy::Off {
        return Err(LaunchError::rejected(
            "native tasks are turned off on this node; start its daemon with --native-tasks any, \
             or constrain the service to other nodes",
        ));
    }
    if !is_native_image(&spec.image) {
        return Err(LaunchError::rejected(
            "this node runs the image `host` only, as plain processes; other images need a Docker \
             Engine worker",
        ));
    }
    Ok(())
}

/// Everything that native tasks do not have, named together.
fn check_unsupported(
    spec: &ContainerSpec,
    resources: Option<&objects::ResourceRequirements>,
) -> Result<(), LaunchError> {
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let healthcheck = spec.healthcheck.as_ref().is_some_and(|check| {
        !check.test.is_empty() && check.test.first().is_none_or(|word| word != "NONE")
    });
    let dns = spec.dns_config.as_ref().is_some_and(|dns| {
        !(dns.nameservers.is_empty() && dns.search.is_empty() && dns.options.is_empty())
    });
    let isolation = objects::container_spec::Isolation::Default as i32;
    let mut asked = vec![
        ("a tty", spec.tty),
        ("an open standard input", spec.open_stdin),
        ("health checks", healthcheck),
        ("DNS settings", dns),
        ("extra hosts", !spec.hosts.is_empty()),
        ("sysctls", !spec.sysctls.is_empty()),
        ("isolation modes", spec.isolation != isolation),
        (
            "generic resource limits",
            limits.is_some_and(|limits| !limits.generic.is_empty()),
        ),
        (
            "swap limits",
            resources.is_some_and(|resources| resources.swap_bytes.is_some()),
        ),
        (
            "swappiness",
            resources.is_some_and(|resources| resources.memory_swappiness.is_some()),
        ),
    ];
    if let Some(privileges) = &spec.privileges {
        asked.extend(unsupported_privileges(privileges));
    }
    let names: Vec<_> = asked
        .iter()
        .filter(|(_, asked)| *asked)
        .map(|(name, _)| *name)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(LaunchError::rejected(format!(
        "native tasks do not have {}; remove this from the service, or run an image on a Docker \
         Engine worker",
        names.join(", ")
    )))
}

/// No profile is applied to native tasks, so asking for none is carried out and asking for one is
/// not. `no_new_privileges` always holds.
fn unsupported_privileges(privileges: &objects::Privileges) -> [(&'static str, bool); 4] {
    use objects::privileges::app_armor_opts::AppArmorMode;
    use objects::privileges::seccomp_opts::SeccompMode;
    let selinux = privileges.selinux_context.as_ref().is_some_and(|context| {
        let texts = [
            &context.user,
            &context.role,
            &context.r#type,
            &context.level,
        ];
        !context.disable || texts.iter().any(|text| !text.is_empty())
    });
    let seccomp = privileges.seccomp.as_ref();
    let apparmor = privileges.apparmor.as_ref();
    [
        ("credential specs", privileges.credential_spec.is_some()),
        ("SELinux contexts", selinux),
        (
            "seccomp profiles",
            seccomp.is_some_and(|opts| opts.mode != SeccompMode::Unconfined as i32),
        ),
        (
            "AppArmor profiles",
            apparmor.is_some_and(|opts| opts.mode != AppArmorMode::Disabled as i32),
        ),
    ]
}

fn limits(task: &TaskLaunch, host: &Host<'_>) -> Result<Limits, LaunchError> {
    let asked = task
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref());
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let limits = Limits {
        nano_cpus: asked.and_then(|limits| positive(limits.nano_cpus)),
        memory_bytes: asked.and_then(|limits| positive(limits.memory_bytes)),
        pids: positive(task.spec.pids_limit),
    };
    match host.limits {
        Err(reason) if !limits.is_none() => Err(LaunchError::rejected(format!(
            "limits of CPU, memory or pids cannot be enforced on this node: {reason}; remove the \
             limits, or constrain the service to other nodes"
        ))),
        _ => Ok(limits),
    }
}

fn identity(spec: &ContainerSpec, host: &Host<'_>) -> Result<Identity, LaunchError> {
    let mut identity = host
        .database
        .identity(&spec.user, &spec.groups)
        .map_err(|unknown| {
            LaunchError::rejected(format!(
                "{unknown} is not known on this node; create it there, or give a number"
            ))
        })?;
    if host.root {
        if host.users == UserPolicy::NonRoot {
            check_not_root(&spec.user, &identity, host.database)?;
        }
        return Ok(identity);
    }
    // Root's own groups in /etc/group do not exist in a namespace with one uid and gid.
    if spec.groups.is_empty() && identity.uid == 0 {
        identity.groups.clear();
    }
    if identity.uid != 0 || identity.gid != 0 || !identity.groups.is_empty() {
        return Err(LaunchError::rejected(
            "this node's daemon is not root, so its tasks have one user and group, which they see \
             as 0; leave out --user and --group, or run the daemon as root",
        ));
    }
    if spec.oom_score_adj != 0 {
        return Err(LaunchError::rejected(
            "this node's daemon is not root and cannot set oom_score_adj; remove it from the \
             service, or run the daemon as root",
        ));
    }
    Ok(identity)
}

/// What root's user or group owns is the host: its disks, and the daemon's socket.
fn check_not_root(user: &str, identity: &Identity, database: &Database) -> Result<(), LaunchError> {
    if identity.uid == 0 {
        return Err(LaunchError::rejected(
            "this node runs native tasks as other users than root only (--native-tasks nonroot); \
             give the service a --user",
        ));
    }
    if !database.has_known_group(user) {
        let uid = identity.uid;
        return Err(LaunchError::rejected(format!(
            "user {uid} is not listed on this node, so it has no group, and this node runs native \
             tasks with groups other than root's only (--native-tasks nonroot); give both as \
             --user {uid}:GROUP, or create the user there"
        )));
    }
    if identity.gid == 0 || identity.groups.contains(&0) {
        return Err(LaunchError::rejected(
            "this node runs native tasks without the group 0, root's (--native-tasks nonroot); \
             give the service another group with --user USER:GROUP, and no --group 0",
        ));
    }
    Ok(())
}

fn check_files(task: &TaskLaunch, host: &Host<'_>) -> Result<(), LaunchError> {
    for file in &task.files {
        if !file.path.is_absolute() {
            let path = file.path.display();
            return Err(LaunchError::rejected(format!(
                "the file target `{path}` is not absolute"
            )));
        }
        if !host.root && (file.uid != 0 || file.gid != 0) {
            return Err(LaunchError::rejected(format!(
                "`{}` cannot belong to {}:{}: this node's daemon is not root, so its tasks have \
                 one user and group, which they see as 0; give the file uid 0 and gid 0, or run \
                 the daemon as root",
                file.path.display(),
                file.uid,
                file.gid
            )));
        }
    }
    Ok(())
}

fn argv(spec: &ContainerSpec) -> Result<Vec<String>, LaunchError> {
    let argv: Vec<_> = spec.command.iter().chain(&spec.args).cloned().collect();
    if argv.first().is_none_or(String::is_empty) {
        return Err(LaunchError::rejected(
            "the image `host` has no command of its own; give the service one",
        ));
    }
    if argv.iter().any(|word| word.contains('\0')) {
        return Err(LaunchError::rejected("the command has a NUL byte in it"));
    }
    Ok(argv)
}

/// The engine's: PATH, HOSTNAME and HOME unless given; an entry without `=` takes one away.
fn environment(
    task: &TaskLaunch,
    hostname: &str,
    home: &str,
) -> Result<Vec<(String, String)>, LaunchError> {
    let mut env = vec![
        ("PATH".to_owned(), DEFAULT_PATH.to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
        ("HOME".to_owned(), home.to_owned()),
    ];
    for entry in &task.spec.env {
        let (name, value) = match entry.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (entry.as_str(), None),
        };
        if name.is_empty() || entry.contains('\0') {
            return Err(LaunchError::rejected(
                "env has an entry without a name or with a NUL byte",
            ));
        }
        env.retain(|(known, _)| known != name);
        env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }
    Ok(env)
}

fn directory(spec: &ContainerSpec) -> Result<PathBuf, LaunchError> {
    let dir = if spec.dir.is_empty() { "/" } else { &spec.dir };
    absolute(dir, "the working directory (--workdir)")
}

fn absolute(path: &str, field: &str) -> Result<PathBuf, LaunchError> {
    if path.starts_with('/') && !path.contains('\0') {
        return Ok(PathBuf::from(path));
    }
    Err(LaunchError::rejected(format!(
        "{field} must be an absolute path"
    )))
}

fn hostname(task: &TaskLaunch) -> Result<Option<String>, LaunchError> {
    let name = task.spec.hostname.clone();
    if name.len() > MAX_HOSTNAME_BYTES || name.contains('\0') {
        return Err(LaunchError::rejected(format!(
            "the hostname is longer than {MAX_HOSTNAME_BYTES} bytes or has a NUL byte in it"
        )));
    }
    Ok(Some(name).filter(|name| !name.is_empty()))
}

/// Capabilities that a user namespace gives over its own mounts and processes: with them a task
/// takes off what covers the daemon's files, which are its own user's.
const UNCOVERING: [&str; 2] = ["SYS_ADMIN", "SYS_PTRACE"];

fn capabilities(
    spec: &ContainerSpec,
    identity: &Identity,
    host: &Host<'_>,
) -> Result<u64, LaunchError> {
    if identity.uid != 0 {
        check_added_capabilities(spec)?;
    }
    let set = named_capabilities(spec)?;
    match UNCOVERING.iter().find(|name| set.has(name)) {
        Some(name) if !host.root => Err(LaunchError::rejected(format!(
            "this node's daemon is not root and shares its user with its tasks, so they cannot \
             have the capability {name}; leave it out (--cap-drop {name} beside --cap-add ALL), \
             or run the daemon as root"
        ))),
        _ => Ok(set.bits()),
    }
}

/// Of a task that is not root's.
fn check_added_capabilities(spec: &ContainerSpec) -> Result<(), LaunchError> {
    if spec.capability_add.is_empty() {
        return Ok(());
    }
    Err(LaunchError::rejected(
        "capabilities can be added for root only; leave out --user or --cap-add",
    ))
}

fn named_capabilities(spec: &ContainerSpec) -> Result<CapSet, LaunchError> {
    CapSet::native_default()
        .adjusted(&spec.capability_add, &spec.capability_drop)
        .map_err(|error| LaunchError::rejected(format!("{error} (--cap-add, --cap-drop)")))
}

fn stop_signal(spec: &ContainerSpec) -> Result<i32, LaunchError> {
    if spec.stop_signal.is_empty() {
        return Ok(libc::SIGTERM);
    }
    parse_stop_signal(&spec.stop_signal).map_err(LaunchError::rejected)
}

/// A signal that can stop a task.
pub(super) fn parse_stop_signal(text: &str) -> Result<i32, String> {
    match signal::parse(text) {
        Some(number) if !NO_STOP_SIGNALS.contains(&number) => Ok(number),
        _ => Err("the stop signal (--stop-signal) is not a signal that can stop a task".to_owned()),
    }
}

fn grace(spec: &ContainerSpec) -> Result<Duration, LaunchError> {
    let Some(grace) = spec.stop_grace_period else {
        return Ok(DEFAULT_GRACE);
    };
    Duration::try_from(grace)
        .map_err(|_| LaunchError::rejected("the stop grace period is negative or out of range"))
}

fn ulimits(spec: &ContainerSpec) -> Result<Vec<Ulimit>, LaunchError> {
    let asked = spec.ulimits.iter().map(|limit| {
        let limit = Ulimit {
            name: limit.name.clone(),
            soft: limit.soft,
            hard: limit.hard,
        };
        if limit.is_known() {
            return Ok(limit);
        }
        Err(LaunchError::rejected(format!(
            "native tasks do not have the ulimit `{}` (--ulimit)",
            limit.name.escape_debug()
        )))
    });
    let asked: Vec<Ulimit> = asked.collect::<Result<_, _>>()?;
    let own = asked.iter().any(|limit| limit.name == "nofile");
    let inherited = Ulimit::open_files_before().filter(|_| !own);
    Ok(asked.into_iter().chain(inherited).collect())
}

fn mounts(task: &TaskLaunch) -> Result<(Vec<Bind>, Vec<Tmpfs>), LaunchError> {
    let (mut binds, mut tmpfs) = (Vec::new(), Vec::new());
    for mount in &task.spec.mounts {
        let target = absolute(&mount.target, "a mount's target")?;
        if target == Path::new("/") {
            return Err(LaunchError::rejected("nothing can be mounted over `/`"));
        }
        match mount.r#type() {
            mount::Type::Bind => binds.push(bind(mount, target)?),
            mount::Type::Tmpfs => tmpfs.push(scratch(mount, target)?),
            mount::Type::Volume | mount::Type::Npipe | mount::Type::Cluster => {
                return Err(LaunchError::rejected(
                    "native tasks have bind and tmpfs mounts only, no volumes; bind a directory of \
                     the node, or run an image on a Docker Engine worker",
                ));
            }
        }
    }
    Ok((binds, tmpfs))
}

fn bind(mount: &objects::Mount, target: PathBuf) -> Result<Bind, LaunchError> {
    use mount::bind_options::Propagation;
    let options = mount.bind_options.unwrap_or_default();
    if !matches!(
        options.propagation(),
        Propagation::Rprivate | Propagation::Private
    ) {
        return Err(LaunchError::rejected(
            "mounts of native tasks propagate nothing; leave out bind-propagation",
        ));
    }
    if options.createmountpoint {
        return Err(LaunchError::rejected(
            "a bind source is not created on the node; create it there and leave out \
             bind-create-src",
        ));
    }
    Ok(Bind {
        source: absolute(&mount.source, "a bind mount's source")?,
        target,
        read_only: mount.readonly,
        read_only_below: !options.readonlynonrecursive,
        recursive: !options.nonrecursive,
    })
}

fn scratch(mount: &objects::Mount, target: PathBuf) -> Result<Tmpfs, LaunchError> {
    let options = mount.tmpfs_options.clone().unwrap_or_default();
    if !mount.source.is_empty() || mount.readonly || !options.options.is_empty() {
        return Err(LaunchError::rejected(
            "a tmpfs mount has a size and a mode only: no source, not read-only, no other options",
        ));
    }
    Ok(Tmpfs {
        target,
        bytes: u64::try_from(options.size_bytes).unwrap_or_default(),
        mode: options.mode,
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
