//! `waxseal swarm inspect`.

use serde_json::Value;

use super::Swarm;
use crate::{
    client::Client,
    failure::Failure,
    output::{self, Format, Pairs, exact_span},
    payload::typed,
};

/// Show the cluster; as JSON with its join tokens
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let raw: Value = client.get("/swarm").await?;
    if args.format == Format::Json {
        return output::json(&raw);
    }
    let root = raw
        .pointer("/TLSInfo/TrustRoot")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let swarm: Swarm = typed(raw)?;
    let span = |pointer: &str| {
        let nanoseconds = swarm.spec.pointer(pointer).and_then(Value::as_u64);
        nanoseconds.map_or(String::new(), |nanoseconds| {
            exact_span(std::time::Duration::from_nanos(nanoseconds))
        })
    };
    let history = swarm
        .spec
        .pointer("/Orchestration/TaskHistoryRetentionLimit")
        .and_then(Value::as_i64);
    let rotation = if swarm.root_rotation_in_progress {
        "in progress"
    } else {
        ""
    };
    let mut pairs = Pairs::default();
    pairs
        .add("ID", &swarm.id)
        .add("Created", &swarm.created_at)
        .add(
            "Autolock",
            if swarm.is_auto_locked() {
                "on"
            } else {
                "off: managers' disks hold every key"
            },
        )
        .add("Certificates live", span("/CAConfig/NodeCertExpiry"))
        .add("Heartbeat", span("/Dispatcher/HeartbeatPeriod"))
        .add(
            "Finished tasks kept",
            history.map(|limit| limit.to_string()).unwrap_or_default(),
        )
        .add("Root rotation", rotation);
    pairs.print()?;
    output::line(format!("Root certificate:\n{}", root.trim_end()))
}
