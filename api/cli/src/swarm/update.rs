//! `waxseal swarm update`.

use serde_json::{Value, json};

use super::{Rotate, Swarm, keys, nanoseconds, replace};
use crate::{client::Client, failure::Failure, output};

/// Change the cluster's settings
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    /// Whether managers are sealed with an unlock key
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = false, default_missing_value = "true")]
    autolock: Option<bool>,
    /// Life of node certificates
    #[arg(long, value_name = "SPAN")]
    cert_expiry: Option<String>,
    /// Time between heartbeats of nodes
    #[arg(long, value_name = "SPAN")]
    dispatcher_heartbeat: Option<String>,
    /// Finished tasks kept for each slot
    #[arg(long, value_name = "COUNT")]
    task_history_limit: Option<i64>,
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let mut swarm = Swarm::read(client).await?;
    let was_locked = swarm.is_auto_locked();
    if let Some(autolock) = args.autolock {
        set(
            &mut swarm.spec,
            "EncryptionConfig",
            "AutoLockManagers",
            json!(autolock),
        );
    }
    if let Some(text) = &args.cert_expiry {
        let span = nanoseconds("--cert-expiry", text)?;
        set(&mut swarm.spec, "CAConfig", "NodeCertExpiry", json!(span));
    }
    if let Some(text) = &args.dispatcher_heartbeat {
        let span = nanoseconds("--dispatcher-heartbeat", text)?;
        set(
            &mut swarm.spec,
            "Dispatcher",
            "HeartbeatPeriod",
            json!(span),
        );
    }
    if let Some(limit) = args.task_history_limit {
        set(
            &mut swarm.spec,
            "Orchestration",
            "TaskHistoryRetentionLimit",
            json!(limit),
        );
    }
    replace(client, &swarm, Rotate::Nothing).await?;
    output::line("the cluster was updated")?;
    if swarm.is_auto_locked() && !was_locked {
        output::line(
            "\nmanagers are sealed from now on; keep this unlock key apart from their disks:\n",
        )?;
        output::line(format!("    {}", &*keys::read_unlock_key(client).await?))?;
    }
    Ok(())
}

/// Sets one setting and leaves its neighbours.
fn set(spec: &mut Value, part: &str, key: &str, value: Value) {
    if !spec.is_object() {
        *spec = json!({});
    }
    if !spec[part].is_object() {
        spec[part] = json!({});
    }
    spec[part][key] = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_a_setting_stay() {
        let mut spec =
            json!({"CAConfig": {"NodeCertExpiry": 1, "ForceRotate": 2}, "Name": "default"});
        set(&mut spec, "CAConfig", "NodeCertExpiry", json!(7));
        set(
            &mut spec,
            "EncryptionConfig",
            "AutoLockManagers",
            json!(true),
        );
        assert_eq!(
            spec,
            json!({
                "CAConfig": {"NodeCertExpiry": 7, "ForceRotate": 2},
                "EncryptionConfig": {"AutoLockManagers": true},
                "Name": "default",
            })
        );
    }
}
