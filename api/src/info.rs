//! `GET /info`: the daemon, and where its node stands in the swarm.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::Serialize;
use serde_json::{Map, Value, json};
use waxseal_cluster::objects;

use crate::{
    cluster::{Cluster, ClusterError, DaemonInfo, LocalNode, LocalState},
    error::{ApiError, LOCKED},
    json::{common::Time, swarm::Swarm},
    respond,
    server::Shared,
    services::generic,
    system::VERSION,
};

/// Whoever may write to the socket may do all of this.
const SOCKET_WARNING: &str = "WARNING: who can write to the API socket is root on this host and can read every secret by running a service; give it to root and people you trust only";
const TWO_MANAGERS: &str = "WARNING: Running Swarm in a two-manager configuration. This configuration provides\n         no fault tolerance, and poses a high risk to lose control over the cluster.\n         Refer to https://docs.docker.com/engine/swarm/admin_guide/ to configure the\n         Swarm for fault-tolerance.";

/// The `Swarm` section.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct SwarmInfo<'a> {
    #[serde(rename = "NodeID")]
    node_id: &'a str,
    node_addr: &'a str,
    local_node_state: &'static str,
    control_available: bool,
    error: &'a str,
    remote_managers: Option<Vec<RemoteManager<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nodes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    managers: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Swarm<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'static str>,
}

#[derive(Serialize)]
struct RemoteManager<'a> {
    #[serde(rename = "NodeID")]
    node_id: &'a str,
    #[serde(rename = "Addr")]
    addr: &'a str,
}

/// What a manager knows beyond its own node.
struct View {
    nodes: usize,
    managers: usize,
    cluster: Option<Arc<objects::Cluster>>,
}

/// `GET /info`; works in every state.
pub(crate) async fn info<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, ApiError> {
    let daemon = api.cluster.daemon();
    let mut local = api.cluster.local();
    let mut view = None;
    if api
        .cluster
        .managers()
        .is_some_and(|group| group.leader.is_none())
    {
        // Reading the state would wait for a leader.
        local.error = ApiError::from(ClusterError::NoLeader).message;
    } else if local.control_available {
        match view_of(&*api.cluster).await {
            Ok(seen) => view = Some(seen),
            // It stopped being a manager meanwhile, or has no leader.
            Err(error) => local.error = ApiError::from(error).message,
        }
    }
    if local.state == LocalState::Locked && local.error.is_empty() {
        LOCKED.clone_into(&mut local.error);
    }
    let now = api.cluster.now();
    let swarm = swarm_info(&local, view.as_ref(), now);
    let mut warnings = vec![SOCKET_WARNING.to_owned()];
    warnings.extend(local.warnings.iter().map(|text| match text.as_str() {
        text if text.starts_with("WARNING: ") => text.to_owned(),
        text => format!("WARNING: {text}"),
    }));
    warnings.extend(swarm.warnings.iter().map(|&text| text.to_owned()));
    warnings.extend(view.as_ref().and_then(signer_warning));
    let mut answer = engine_facts(&daemon, &api.hub, Time::from(now));
    answer.insert("Warnings".to_owned(), json!(warnings));
    let swarm = serde_json::to_value(&swarm)
        .map_err(|error| ApiError::internal(format!("answer cannot be rendered: {error}")))?;
    answer.insert("Swarm".to_owned(), swarm);
    respond::ok(&answer)
}

/// That certificates wait for an external CA.
fn signer_warning(view: &View) -> Option<String> {
    let trouble = view.cluster.as_ref()?.signer_trouble.as_ref()?;
    Some(format!(
        "WARNING: no certificates are signed since {}: {}; nodes go on with what they have, and the \
         external CA is asked again",
        Time::of(trouble.since.as_ref()),
        trouble.error
    ))
}

async fn view_of<C: Cluster>(cluster: &C) -> Result<View, ClusterError> {
    cluster
        .read(|state| View {
            nodes: state.nodes().count(),
            managers: state
                .nodes()
                // As the engine counts: who counts in the Raft group.
                .filter(|node| node.manager_status.is_some())
                .count(),
            cluster: state.cluster().cloned(),
        })
        .await
}

fn swarm_info<'a>(
    local: &'a LocalNode,
    view: Option<&'a View>,
    now: time::OffsetDateTime,
) -> SwarmInfo<'a> {
    let out = !matches!(local.state, LocalState::Active | LocalState::Pending);
    let managers = &local.remote_managers;
    SwarmInfo {
        node_id: if out { "" } else { &local.node_id },
        node_addr: &local.node_addr,
        local_node_state: state_word(local.state),
        control_available: local.control_available,
        error: &local.error,
        remote_managers: (!out && !managers.is_empty()).then(|| {
            managers
                .iter()
                .map(|(node_id, addr)| RemoteManager { node_id, addr })
                .collect()
        }),
        nodes: view.map(|view| view.nodes),
        managers: view.map(|view| view.managers),
        cluster: view
            .and_then(|view| view.cluster.as_deref())
            .map(|cluster| Swarm::without_tokens(cluster, now)),
        warnings: match view {
            Some(View { managers: 2, .. }) => vec![TWO_MANAGERS],
            _ => Vec::new(),
        },
    }
}

/// The word that clients know a state by.
pub(crate) fn state_word(state: LocalState) -> &'static str {
    match state {
        LocalState::Inactive => "inactive",
        LocalState::Pending => "pending",
        LocalState::Active => "active",
        LocalState::Locked => "locked",
        LocalState::Error => "error",
    }
}

/// What is not about the swarm. All that an engine answers is there, since
/// clients print what they find; what only an engine has is empty.
fn engine_facts(daemon: &DaemonInfo, hub: &crate::events::Hub, now: Time) -> Map<String, Value> {
    let offers: Vec<_> = daemon.generic_resources.iter().map(generic).collect();
    // An engine without any says so.
    let offers = (!offers.is_empty()).then_some(offers);
    let own = json!({
        "ID": daemon.id,
        "Name": daemon.name,
        "Labels": daemon.labels,
        "ServerVersion": VERSION,
        "SystemTime": now,
        "KernelVersion": daemon.kernel_version,
        "OperatingSystem": daemon.operating_system,
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": daemon.architecture,
        "NCPU": daemon.cpus,
        "MemTotal": daemon.memory_bytes,
        "DockerRootDir": daemon.data_root,
        "Debug": daemon.debug,
        "NEventsListener": hub.listeners(),
        "NFd": -1,
        "NGoroutines": -1,
        "ExperimentalBuild": false,
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "Runtimes": {"waxseal": {"path": "waxseal"}},
        "DefaultRuntime": "waxseal",
        "Plugins": {
            "Volume": [],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": ["json-file", "local"],
        },
        "LoggingDriver": "json-file",
        "GenericResources": offers,
    });
    let mut facts = Map::new();
    for part in [own, of_containers(), of_registries(), of_kernel(daemon)] {
        if let Value::Object(part) = part {
            facts.extend(part);
        }
    }
    facts
}

/// There are no containers here.
fn of_containers() -> Value {
    let commit = json!({"ID": "", "Expected": ""});
    json!({
        "Containers": 0,
        "ContainersRunning": 0,
        "ContainersPaused": 0,
        "ContainersStopped": 0,
        "Images": 0,
        "Driver": "none",
        "DriverStatus": [],
        "InitBinary": "",
        "ContainerdCommit": commit,
        "RuncCommit": commit,
        "InitCommit": commit,
        "SecurityOptions": [],
    })
}

/// Nor are there images.
fn of_registries() -> Value {
    json!({
        "IndexServerAddress": "",
        "RegistryConfig": null,
        "HttpProxy": "",
        "HttpsProxy": "",
        "NoProxy": "",
    })
}

/// Clients warn where one of these is false, of things that matter to
/// containers only.
fn of_kernel(daemon: &DaemonInfo) -> Value {
    json!({
        "CgroupDriver": "none",
        "CgroupVersion": daemon.cgroup_version.to_string(),
        "MemoryLimit": true,
        "SwapLimit": true,
        "KernelMemory": true,
        "KernelMemoryTCP": true,
        "CpuCfsPeriod": true,
        "CpuCfsQuota": true,
        "CPUShares": true,
        "CPUSet": true,
        "PidsLimit": true,
        "OomKillDisable": true,
        "IPv4Forwarding": true,
        "BridgeNfIptables": true,
        "BridgeNfIp6tables": true,
    })
}
