//! Running a daemon from start to stop.

use std::{collections::BTreeMap, future::Future, io, path::PathBuf, sync::Arc};

use tokio_util::sync::CancellationToken;
use waxseal_agent::{
    Executor, HostFacts,
    native::{NativeConfig, NativeExecutor},
};
use waxseal_api::{Listener, Server};
use waxseal_ca::Clock;

use crate::{
    cluster::DaemonCluster,
    config::DaemonConfig,
    daemon::Daemon,
    data_root::{DataRoot, DataRootError},
    facts::daemon_info,
    found::random_id,
    sockets::{self, SocketError},
    tls::TlsError,
};

/// Why a daemon does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The data root.
    #[error(transparent)]
    DataRoot(#[from] DataRootError),
    /// A socket of the API.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Mutual TLS of the API.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file or directory of the daemon.
    #[error("{} cannot be written", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No random bytes.
    #[error("the system gave no random bytes")]
    Random,
    /// Native tasks cannot be run.
    #[error("the directories of native tasks cannot be used")]
    Native(#[source] io::Error),
}

/// Runs a daemon until `shutdown` ends. `ready` is called once the API is served.
///
/// # Errors
/// [`RunError`]. A node that is locked or in error is no reason to stop: the
/// API says what to do.
pub async fn run(
    config: DaemonConfig,
    clock: Arc<dyn Clock>,
    ready: impl FnOnce(),
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    // 1. What belongs to this process alone.
    let root = DataRoot::open(&config.data_root)?;
    let io = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| RunError::Io { path, source }
    };
    crate::data_root::make_dir(&config.exec_root).map_err(io(&config.exec_root))?;
    let new_id = random_id().map_err(|_| RunError::Random)?;
    let id = root.daemon_id(|| new_id).map_err(io(root.path()))?;
    let _pidfile = config.pidfile.clone().map(Pidfile::write).transpose()?;
    // 2. The executor of native tasks, which knows what an earlier daemon left running.
    let native = NativeExecutor::new(NativeConfig {
        exec_root: config.exec_root.clone(),
        data_root: config.data_root.clone(),
        shim_exe: PathBuf::from("/proc/self/exe"),
        users: config.native_tasks,
        orphans: config.orphan_tasks,
        orphan_after: NativeConfig::ORPHAN_AFTER,
        cgroup: None,
        covered: [config.data_root.clone(), config.exec_root.clone()]
            .into_iter()
            .chain(config.hosts.iter().cloned())
            .collect(),
    })
    .map_err(RunError::Native)?;
    let mut facts = HostFacts::read(
        env!("CARGO_PKG_VERSION"),
        labels(&config.labels),
        config.native_tasks,
        native.limits_enforceable(),
    );
    facts
        .generic_resources
        .clone_from(&config.generic_resources);
    if let Some(level) = config.danger_feature_level {
        facts.feature_level = level;
    }
    let memory = u64::try_from(facts.memory_bytes).unwrap_or(0);
    let info = daemon_info(&config, id, memory, &*clock);
    // 3. The sockets, before the node: `locked` and `error` are told through them.
    let mut listeners = Vec::with_capacity(config.hosts.len());
    for path in &config.hosts {
        let listener = sockets::listen(path, config.group.as_deref()).await?;
        listeners.push(Listener::Unix(listener));
    }
    if let Some((addresses, files)) = &config.tcp {
        let tls = files.load(Arc::clone(&clock), config.allow_tls12)?;
        for address in addresses {
            let listener = sockets::listen_tcp(address).await?;
            listeners.push(Listener::tls(listener, Arc::clone(&tls)));
        }
    }
    let hosts = config.hosts.clone();
    let tcp = config
        .tcp
        .iter()
        .flat_map(|(addresses, _)| addresses.clone());
    let tcp: Vec<_> = tcp.collect();
    let stopped = CancellationToken::new();
    let executor: Arc<dyn Executor> = Arc::new(native);
    let shared = Daemon::shared_parts(config, root, clock, executor, facts, info);
    let daemon = Daemon::new(shared, stopped.clone());
    let server = Server::new(Arc::new(DaemonCluster(Arc::clone(&daemon))));
    // 4. The node comes up while the API answers already.
    let resuming = tokio::spawn({
        let daemon = Arc::clone(&daemon);
        async move { daemon.resume().await }
    });
    ready();
    tracing::info!("who may open the API socket is root on this cluster: keep its group small");
    for address in tcp {
        tracing::info!(
            %address,
            "who has a client certificate of --tlscacert is root on this cluster"
        );
    }
    server.serve(listeners, shutdown).await;
    // 5. Down: the API is closed, then the node; tasks stay under their shims.
    stopped.cancel();
    if let Err(error) = resuming.await {
        tracing::warn!(%error, "the start of the node was cut off");
    }
    daemon.stop().await;
    for path in hosts {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// `key=value` labels; one without `=` has an empty value.
fn labels(labels: &[String]) -> BTreeMap<String, String> {
    let pair = |label: &String| {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        (key.to_owned(), value.to_owned())
    };
    labels.iter().map(pair).collect()
}

/// The file with our process id, while we run.
struct Pidfile(PathBuf);

impl Pidfile {
    fn write(path: PathBuf) -> Result<Pidfile, RunError> {
        let io = |source| RunError::Io {
            path: path.clone(),
            source,
        };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io)?;
        }
        std::fs::write(&path, std::process::id().to_string()).map_err(|source| RunError::Io {
            path: path.clone(),
            source,
        })?;
        Ok(Pidfile(path))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
