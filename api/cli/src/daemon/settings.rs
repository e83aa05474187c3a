//! A daemon's settings: from flags and file, each thing said in one of them only.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Deserialize;
use waxseal_agent::{
    native::{OrphanPolicy, UserPolicy},
    parse_generic_resources,
};
use waxseal_daemon::{DaemonConfig, TlsFiles};

use super::{
    file::{self, ConfigFile},
    log::{Level, Log, LogFormat},
};
use crate::{
    Underlay,
    failure::Failure,
    socket::{self, Socket},
};

const DATA_ROOT: &str = "/var/lib/waxseal";
const EXEC_ROOT: &str = "/run/waxseal/exec";
/// As dockerd's, in seconds.
const SHUTDOWN_TIMEOUT_SECS: u64 = 15;

const ABOUT: &str = "\
Run the daemon: the local node, and the manager if this host is one.

Who may open its socket is root on the cluster: it can run a service as root on any node, and a
service can read any secret. The socket has mode 0660 and is the group docker's, as dockerd's,
where there is one; --group names another. SIGTERM and SIGINT stop the daemon; native tasks go on
and are found again at the next start.

With autolock off, a copy of the data root holds every key of a manager.";

/// Run the daemon: the local node, and the manager if this host is one
#[derive(Debug, Default, clap::Args)]
#[command(long_about = ABOUT)]
pub(crate) struct Args {
    /// Where the node's state and its tasks' logs are kept [default: /var/lib/waxseal]
    #[arg(long, value_name = "DIR")]
    data_root: Option<String>,
    /// Where running tasks have their sockets; must be gone after a reboot
    /// [default: /run/waxseal/exec]
    #[arg(long, value_name = "DIR")]
    exec_root: Option<String>,
    /// File that the process id is written to
    #[arg(short, long, value_name = "FILE")]
    pidfile: Option<String>,
    /// Group of the sockets, by name or number; its members are root on the cluster
    /// [default: docker, if there is one]
    #[arg(short = 'G', long, value_name = "GROUP")]
    group: Option<String>,
    /// An engine label: what this node says of itself (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Offer so many of a kind, or one that has a name, to services that reserve them with
    /// --generic-resource (repeatable)
    #[arg(long = "node-generic-resource", value_name = "KIND=NUMBER|KIND=NAME")]
    generic_resources: Vec<String>,
    /// Log more; the same as -l debug
    #[arg(short = 'D', long)]
    debug: bool,
    /// How much is logged [default: info]
    #[arg(short, long, value_enum, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// In which form [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Address or interface that `swarm init` and `swarm join` advertise if they name none
    #[arg(long, value_name = "ADDRESS")]
    swarm_default_advertise_addr: Option<String>,
    /// Settings as JSON, with the names of these flags as keys (hosts, labels and
    /// node-generic-resources are lists); no setting may stand in both
    /// [default: /etc/waxseal/daemon.json, if it is there]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Seconds that a stop may take [default: 15]
    #[arg(long, value_name = "SECONDS")]
    shutdown_timeout: Option<u64>,
    /// As whom tasks of image host may run on this node [default: any]
    #[arg(long, value_enum, value_name = "WHO")]
    native_tasks: Option<NativeTasks>,
    /// What becomes of tasks without a daemon for 24 hours, or whose node was removed
    /// [default: keep]
    #[arg(long, value_enum, value_name = "WHAT")]
    orphan_tasks: Option<OrphanTasks>,
    /// Accept TLS 1.2, of old Docker Engines and of old clients over TCP; `docker info` warns
    /// of it
    #[arg(long)]
    tls12: bool,
    /// Serve tcp:// addresses: to clients whose certificate a CA of --tlscacert signed
    #[arg(long)]
    tlsverify: bool,
    /// CAs of the clients; whoever has a certificate of theirs is root on the cluster
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<String>,
    /// The daemon's certificate for tcp:// addresses
    #[arg(long, value_name = "FILE")]
    tlscert: Option<String>,
    /// Its key
    #[arg(long, value_name = "FILE")]
    tlskey: Option<String>,
    /// Check the configuration and end
    #[arg(long)]
    validate: bool,
}

/// As whom native tasks may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum NativeTasks {
    /// None run here
    Off,
    /// Anybody but root
    Nonroot,
    /// Anybody; root unless the service says otherwise, as in a container
    Any,
}

/// What becomes of tasks whose daemon stays away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OrphanTasks {
    /// They run on, as on a Docker Engine
    Keep,
    /// They are stopped
    Stop,
}

impl From<NativeTasks> for UserPolicy {
    fn from(policy: NativeTasks) -> UserPolicy {
        match policy {
            NativeTasks::Off => UserPolicy::Off,
            NativeTasks::Nonroot => UserPolicy::NonRoot,
            NativeTasks::Any => UserPolicy::Any,
        }
    }
}

impl From<OrphanTasks> for OrphanPolicy {
    fn from(policy: OrphanTasks) -> OrphanPolicy {
        match policy {
            OrphanTasks::Keep => OrphanPolicy::Keep,
            OrphanTasks::Stop => OrphanPolicy::Stop,
        }
    }
}

/// What a daemon is run with.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) daemon: DaemonConfig,
    pub(super) log: Log,
    /// `--validate`.
    pub(super) is_only_checked: bool,
}

impl Settings {
    pub(super) fn from_flags(
        args: Args,
        hosts: Vec<String>,
        underlay: Underlay,
    ) -> Result<Settings, Failure> {
        let file = file::read(args.config_file.as_deref())?;
        refuse_both(&args, &hosts, &file)?;
        let from_file = file.settings;
        let hosts = match hosts.is_empty() {
            true => from_file.hosts.unwrap_or_default(),
            false => hosts,
        };
        let debug = args.debug || from_file.debug.unwrap_or(false);
        let level = args.log_level.or(from_file.log_level);
        let labels = match args.labels.is_empty() {
            true => from_file.labels.unwrap_or_default(),
            false => args.labels,
        };
        check_labels(&labels)?;
        let generic = match args.generic_resources.is_empty() {
            true => from_file.node_generic_resources.unwrap_or_default(),
            false => args.generic_resources,
        };
        let generic_resources = parse_generic_resources(&generic).map_err(|error| {
            Failure::usage(error.to_string())
                .hint("write KIND=NUMBER once, or KIND=NAME for each name")
        })?;
        let path = |flag: Option<String>, file: Option<String>, default: &str| {
            absolute(PathBuf::from(
                flag.or(file).unwrap_or_else(|| default.to_owned()),
            ))
        };
        let timeout = args.shutdown_timeout.or(from_file.shutdown_timeout);
        let native = args.native_tasks.or(from_file.native_tasks);
        let orphans = args.orphan_tasks.or(from_file.orphan_tasks);
        let level = match (debug, level) {
            (_, Some(level)) => level,
            (true, None) => Level::Debug,
            (false, None) => Level::Info,
        };
        let (hosts, tcp) = sockets(&hosts)?;
        let tls = Tls {
            verify: args.tlsverify || from_file.tlsverify.unwrap_or(false),
            ca: args.tlscacert.or(from_file.tlscacert),
            cert: args.tlscert.or(from_file.tlscert),
            key: args.tlskey.or(from_file.tlskey),
        };
        let daemon = DaemonConfig {
            hosts,
            tcp: tls.for_addresses(tcp)?,
            data_root: path(args.data_root, from_file.data_root, DATA_ROOT)?,
            disk: underlay.disk,
            exec_root: path(args.exec_root, from_file.exec_root, EXEC_ROOT)?,
            pidfile: args
                .pidfile
                .or(from_file.pidfile)
                .map(PathBuf::from)
                .map(absolute)
                .transpose()?,
            group: args.group.or(from_file.group),
            labels,
            generic_resources,
            debug: matches!(level, Level::Debug | Level::Trace),
            default_advertise_addr: args
                .swarm_default_advertise_addr
                .or(from_file.swarm_default_advertise_addr),
            shutdown_timeout: Duration::from_secs(timeout.unwrap_or(SHUTDOWN_TIMEOUT_SECS)),
            native_tasks: native.unwrap_or(NativeTasks::Any).into(),
            orphan_tasks: orphans.unwrap_or(OrphanTasks::Keep).into(),
            allow_tls12: args.tls12 || from_file.tls12.unwrap_or(false),
            danger_certificate_expiry: None,
            danger_feature_level: underlay.danger_feature_level,
        };
        let format = args.log_format.or(from_file.log_format).unwrap_or_default();
        Ok(Settings {
            daemon,
            log: Log { level, format },
            is_only_checked: args.validate,
        })
    }
}

/// A setting in both places is refused, as dockerd does: nobody knows which was meant.
fn refuse_both(args: &Args, hosts: &[String], file: &ConfigFile) -> Result<(), Failure> {
    let flags: [(&str, Option<String>); 19] = [
        ("hosts", (!hosts.is_empty()).then(|| hosts.join(" "))),
        ("data-root", args.data_root.clone()),
        ("exec-root", args.exec_root.clone()),
        ("pidfile", args.pidfile.clone()),
        ("group", args.group.clone()),
        (
            "labels",
            (!args.labels.is_empty()).then(|| args.labels.join(" ")),
        ),
        (
            "node-generic-resources",
            (!args.generic_resources.is_empty()).then(|| args.generic_resources.join(" ")),
        ),
        ("debug", args.debug.then(|| "true".to_owned())),
        (
            "log-level",
            args.log_level
                .map(|level| format!("{level:?}").to_lowercase()),
        ),
        (
            "log-format",
            args.log_format
                .map(|format| format!("{format:?}").to_lowercase()),
        ),
        (
            "swarm-default-advertise-addr",
            args.swarm_default_advertise_addr.clone(),
        ),
        (
            "shutdown-timeout",
            args.shutdown_timeout.map(|seconds| seconds.to_string()),
        ),
        (
            "native-tasks",
            args.native_tasks
                .map(|who| format!("{who:?}").to_lowercase()),
        ),
        (
            "orphan-tasks",
            args.orphan_tasks
                .map(|what| format!("{what:?}").to_lowercase()),
        ),
        ("tls12", args.tls12.then(|| "true".to_owned())),
        ("tlsverify", args.tlsverify.then(|| "true".to_owned())),
        ("tlscacert", args.tlscacert.clone()),
        ("tlscert", args.tlscert.clone()),
        ("tlskey", args.tlskey.clone()),
    ];
    let both: Vec<String> = flags
        .into_iter()
        .filter_map(|(key, flag)| {
            let (flag, value) = (flag?, file.keys.get(key)?);
            Some(format!("{key}: (from flag: {flag}, from file: {value})"))
        })
        .collect();
    if both.is_empty() {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "the following directives are specified both as a flag and in the configuration file: {}",
        both.join(", ")
    ))
    .hint("leave each out in one of the two places"))
}

/// The sockets to serve, each once: paths, and TCP addresses.
fn sockets(hosts: &[String]) -> Result<(Vec<PathBuf>, Vec<String>), Failure> {
    if hosts.is_empty() {
        return Ok((vec![PathBuf::from(socket::DEFAULT)], Vec::new()));
    }
    let (mut paths, mut addresses) = (Vec::new(), Vec::new());
    for host in hosts {
        match Socket::parse(host, "-H")? {
            Socket::Unix(path) if !paths.contains(&path) => paths.push(path),
            Socket::Tcp(address) if !addresses.contains(&address.to_string()) => {
                addresses.push(address.to_string());
            }
            _ => {}
        }
    }
    Ok((paths, addresses))
}

/// What is said of mutual TLS.
struct Tls {
    verify: bool,
    ca: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

impl Tls {
    /// TCP is served with all of it or not at all; without TCP none of it means anything.
    fn for_addresses(
        self,
        addresses: Vec<String>,
    ) -> Result<Option<(Vec<String>, TlsFiles)>, Failure> {
        let flags = [
            ("--tlsverify", self.verify),
            ("--tlscacert", self.ca.is_some()),
            ("--tlscert", self.cert.is_some()),
            ("--tlskey", self.key.is_some()),
        ];
        let named = |wanted: bool| {
            let named = flags.into_iter().filter(|(_, given)| *given == wanted);
            named.map(|(flag, _)| flag).collect::<Vec<_>>().join(", ")
        };
        if addresses.is_empty() {
            return match named(true) {
                given if given.is_empty() => Ok(None),
                given => Err(Failure::usage(format!(
                    "{given} is for the API over TCP, and no address with tcp:// is given"
                ))
                .hint("add -H tcp://HOST:2376, or leave it out; nodes need no files of yours")),
            };
        }
        match (self.verify, self.ca, self.cert, self.key) {
            (true, Some(ca), Some(cert), Some(key)) => {
                let files = TlsFiles {
                    ca: absolute(PathBuf::from(ca))?,
                    cert: absolute(PathBuf::from(cert))?,
                    key: absolute(PathBuf::from(key))?,
                };
                Ok(Some((addresses, files)))
            }
            _ => Err(Failure::usage(format!(
                "the API over TCP needs mutual TLS: {} is missing",
                named(false)
            ))
            .hint("give --tlsverify with --tlscacert, --tlscert and --tlskey, or use a unix socket and reach it from elsewhere with `ssh -L LOCAL.sock:/run/waxseal/waxseal.sock HOST`")),
        }
    }
}

fn check_labels(labels: &[String]) -> Result<(), Failure> {
    match labels
        .iter()
        .find(|label| label.split_once('=').is_none_or(|(key, _)| key.is_empty()))
    {
        None => Ok(()),
        Some(label) => Err(Failure::usage(format!("bad attribute format: {label}"))
            .hint("write a label as KEY=VALUE")),
    }
}

/// A path that stays the same whatever the working directory becomes.
fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path)
        .map_err(|error| Failure::usage(format!("{} is no path: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_flags(args: Args, hosts: Vec<String>) -> Result<Settings, Failure> {
        Settings::from_flags(args, hosts, Underlay::default())
    }

    fn file(text: &str) -> (tempfile::TempDir, Option<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        std::fs::write(&path, text).unwrap();
        (dir, Some(path))
    }

    #[test]
    fn a_setting_in_both_places_is_refused_and_all_of_them_are_named() {
        let (_dir, config_file) = file(r#"{"group": "a", "hosts": ["unix:///x"], "debug": false}"#);
        let args = Args {
            config_file,
            group: Some("b".into()),
            ..Args::default()
        };
        let failure = from_flags(args, vec!["unix:///y".into()]).unwrap_err();
        assert!(
            failure
                .message
                .contains("group: (from flag: b, from file: \"a\")"),
            "{}",
            failure.message
        );
        assert!(failure.message.contains("hosts: "), "{}", failure.message);
        assert!(!failure.message.contains("debug"), "{}", failure.message);
    }

    #[test]
    fn a_tcp_socket_without_tls_is_refused_from_the_file_too() {
        let (_dir, config_file) = file(r#"{"hosts": ["tcp://0.0.0.0:2375"]}"#);
        let args = Args {
            config_file,
            ..Args::default()
        };
        let failure = from_flags(args, Vec::new()).unwrap_err();
        assert!(
            failure.message.contains("mutual TLS"),
            "{}",
            failure.message
        );
    }

    #[test]
    fn the_file_fills_in_what_flags_leave_open() {
        let (_dir, config_file) = file(
            r#"{"native-tasks": "nonroot", "shutdown-timeout": 3, "labels": ["a=b"], "debug": true}"#,
        );
        let args = Args {
            config_file,
            data_root: Some("/d".into()),
            ..Args::default()
        };
        let settings = from_flags(args, vec!["unix:///a".into(), "unix:///a".into()]).unwrap();
        assert_eq!(settings.daemon.native_tasks, UserPolicy::NonRoot);
        assert_eq!(settings.daemon.shutdown_timeout, Duration::from_secs(3));
        assert_eq!(settings.daemon.hosts, [PathBuf::from("/a")]);
        assert_eq!(settings.daemon.labels, ["a=b"]);
        assert_eq!(settings.log.level, Level::Debug);
        assert!(settings.daemon.debug);
    }

    #[test]
    fn a_label_without_a_key_is_refused() {
        assert!(check_labels(&["x".into()]).is_err());
        assert!(check_labels(&["=b".into()]).is_err());
        assert!(check_labels(&["a=".into()]).is_ok());
    }
}
