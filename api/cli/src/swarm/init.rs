//! `waxseal swarm init`.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Swarm, nanoseconds};
use crate::{
    client::{Client, segment},
    failure::Failure,
    input::pem_file,
    output::{self, shown},
    swarm::keys,
};

/// Create a cluster; this node is its first manager
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address or interface that other nodes reach this one at, with optional port
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "",
        hide_default_value = true
    )]
    advertise_addr: String,
    /// Address or interface to listen on, with optional port
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:2377")]
    listen_addr: String,
    /// Seal managers with an unlock key: restarted, they stay locked until somebody brings it
    #[arg(long)]
    autolock: bool,
    /// Whether this node takes tasks; root tasks beside a manager can read what it holds
    #[arg(long, value_parser = ["active", "pause", "drain"], default_value = "active")]
    availability: String,
    /// Life of node certificates
    #[arg(long, value_name = "SPAN")]
    cert_expiry: Option<String>,
    /// Time between heartbeats of nodes
    #[arg(long, value_name = "SPAN")]
    dispatcher_heartbeat: Option<String>,
    /// Finished tasks kept for each slot
    #[arg(long, value_name = "COUNT")]
    task_history_limit: Option<i64>,
    /// Sign with this certificate instead of a root made now: a root, or an intermediate, then
    /// any more, then the root, whose key stays with you
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    ca_cert: Option<PathBuf>,
    /// Private key of the first certificate in --ca-cert, in PKCS#8
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    ca_key: Option<PathBuf>,
    /// Go on as the only manager with what this one holds, when the others are lost for good
    #[arg(long)]
    force_new_cluster: bool,
}

/// `POST /swarm/init`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Init {
    pub(crate) listen_addr: String,
    pub(crate) advertise_addr: String,
    pub(crate) force_new_cluster: bool,
    pub(crate) spec: Value,
    pub(crate) auto_lock_managers: bool,
    pub(crate) availability: String,
}

/// Creates a cluster; answers this node's id.
pub(crate) async fn create(client: &Client, init: &Init) -> Result<String, Failure> {
    client.post("/swarm/init", init).await
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let mut spec = json!({});
    if let Some(text) = &args.cert_expiry {
        spec["CAConfig"] = json!({ "NodeCertExpiry": nanoseconds("--cert-expiry", text)? });
    }
    if let (Some(cert), Some(key)) = (&args.ca_cert, &args.ca_key) {
        spec["CAConfig"]["SigningCACert"] = pem_file("--ca-cert", cert)?.as_str().into();
        spec["CAConfig"]["SigningCAKey"] = pem_file("--ca-key", key)?.as_str().into();
    }
    if let Some(text) = &args.dispatcher_heartbeat {
        let period = nanoseconds("--dispatcher-heartbeat", text)?;
        spec["Dispatcher"] = json!({ "HeartbeatPeriod": period });
    }
    if let Some(limit) = args.task_history_limit {
        spec["Orchestration"] = json!({ "TaskHistoryRetentionLimit": limit });
    }
    let is_drained = args.availability == "drain";
    let init = Init {
        listen_addr: args.listen_addr,
        advertise_addr: args.advertise_addr,
        force_new_cluster: args.force_new_cluster,
        spec,
        auto_lock_managers: args.autolock,
        availability: args.availability,
    };
    let node_id = create(client, &init).await.map_err(|failure| {
        let several = failure
            .message
            .starts_with("could not choose an IP address")
            || failure
                .message
                .starts_with("could not find the system's IP address");
        match several {
            true => failure.hint("name one with --advertise-addr"),
            false => failure,
        }
    })?;
    let what = match init.force_new_cluster {
        true => "only manager of its cluster now; the others must leave and join again",
        false => "first manager of a new cluster",
    };
    output::line(format!("this node ({}) is the {what}", shown(&node_id)))?;
    let swarm = Swarm::read(client).await?;
    let address = manager_address(client, &node_id).await?;
    output::line("\nadd a worker by running this on it:\n")?;
    output::line(keys::join_commands(&swarm.join_tokens.worker, &address))?;
    if args.autolock {
        output::line(
            "\nkeep this unlock key where this host's disk is not; `waxseal unlock` asks for it after each restart:\n",
        )?;
        output::line(format!("    {}", &*keys::read_unlock_key(client).await?))?;
    }
    if !is_drained {
        output::line(
            "\ntasks of root beside a manager can reach what it holds; keep them away with:\n",
        )?;
        output::line("    waxseal node update --availability drain self")?;
    }
    Ok(())
}

/// Where other nodes reach a manager.
pub(crate) async fn manager_address(client: &Client, node_id: &str) -> Result<String, Failure> {
    let node: Value = client.get(&format!("/nodes/{}", segment(node_id))).await?;
    let address = node.pointer("/ManagerStatus/Addr").and_then(Value::as_str);
    Ok(address.unwrap_or("MANAGER:2377").to_owned())
}
