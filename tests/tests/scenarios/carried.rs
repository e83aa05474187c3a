//! What a service asks of its containers, and what an engine was told of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use waxseal_tests::eventually;

use super::engine_worker::Pair;

/// Until the engine has made the container.
const SOON: Duration = Duration::from_secs(40);

/// The flags of `docker service create` that are about the container, and limits if the
/// engine knows how to enforce them.
const FLAGS: &str = "--network=none --cap-add=NET_ADMIN --cap-drop=CHOWN --container-label=cl=1 \
    --dns=9.9.9.9 --dns-option=ndots:3 --dns-search=ex.org --env=E1=v1 --env=SLOT={{.Task.Slot}} \
    --group=5 --health-cmd=true --health-interval=2s --health-retries=4 \
    --health-start-period=3s --health-timeout=1500ms --host=h1:1.2.3.4 \
    --hostname=h-{{.Task.Slot}} --init --log-driver=json-file --log-opt=max-size=1m \
    --mount=type=tmpfs,target=/t1,tmpfs-size=1048576,tmpfs-mode=1770 \
    --mount=type=volume,source=vol-{{.Task.Slot}},target=/v1,volume-label=vl=1,volume-nocopy \
    --mount=type=bind,source=/etc,target=/hostetc,readonly,bind-propagation=private \
    --read-only --restart-condition=none --stop-grace-period=1s --stop-signal=SIGINT \
    --sysctl=fs.mqueue.msg_max=20 --tty --ulimit=nofile=100:200 --user=1000:1000 --workdir=/tmp";

/// All of it stands in the container as a Docker Engine's own swarm makes it of the same flags.
pub(super) fn carried_to_the_container(pair: &Pair) -> Result<()> {
    let docker = &pair.manager.docker;
    let info = pair.engine.engine.get("/info")?;
    let mut limits = Vec::new();
    for (known, flag, field, value) in [
        ("MemoryLimit", "--limit-memory=64M", "Memory", 64 << 20),
        ("CpuCfsQuota", "--limit-cpu=0.5", "NanoCpus", 500_000_000),
        ("PidsLimit", "--limit-pids=50", "PidsLimit", 50),
    ] {
        if info[known] == true {
            limits.push((flag, field, value));
        }
    }
    let mut words = vec!["service", "create", "-d", "--no-resolve-image"];
    words.extend(["--name", "carried", "--entrypoint", "busybox sh -c"]);
    words.extend(FLAGS.split_whitespace());
    words.extend(limits.iter().map(|(flag, ..)| *flag));
    words.extend(["bb:1", "sleep 1000"]);
    docker.ok(&words)?;
    let container = eventually("the container is made", SOON, || {
        let filter = "label=com.docker.swarm.service.name=carried";
        let ids = pair.engine.docker.ok(&["ps", "-aq", "--filter", filter])?;
        let id = ids.lines().next().with_context(|| {
            let tasks = docker.ok(&["service", "ps", "--no-trunc", "carried"]);
            format!("{tasks:?}")
        })?;
        pair.engine.engine.get(&format!("/containers/{id}/json"))
    })?;
    let (config, mut host) = expected();
    for (_, field, value) in limits {
        host[field] = json!(value);
    }
    contains(&container["Config"], &config, "Config")?;
    contains(&container["HostConfig"], &host, "HostConfig")?;
    pair.clear(&["carried"])
}

fn expected() -> (Value, Value) {
    let config = json!({
        "Hostname": "h-1", "User": "1000:1000", "Tty": true, "Env": ["E1=v1", "SLOT=1"],
        "Entrypoint": ["busybox", "sh", "-c"], "Cmd": ["sleep 1000"], "WorkingDir": "/tmp",
        "StopSignal": "SIGINT", "Labels": {"cl": "1", "com.docker.swarm.service.name": "carried"},
        "Healthcheck": {
            "Test": ["CMD-SHELL", "true"], "Interval": 2_000_000_000u64,
            "Timeout": 1_500_000_000u64, "StartPeriod": 3_000_000_000u64, "Retries": 4,
        },
    });
    let host = json!({
        "NetworkMode": "none", "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["CAP_CHOWN"],
        "Dns": ["9.9.9.9"], "DnsOptions": ["ndots:3"], "DnsSearch": ["ex.org"],
        "ExtraHosts": ["h1:1.2.3.4"], "GroupAdd": ["5"], "Init": true, "ReadonlyRootfs": true,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
        "Sysctls": {"fs.mqueue.msg_max": "20"},
        "Ulimits": [{"Name": "nofile", "Hard": 200, "Soft": 100}],
        "Mounts": [
            {
                "Type": "tmpfs", "Target": "/t1",
                "TmpfsOptions": {"SizeBytes": 1 << 20, "Mode": 0o1770},
            },
            {
                "Type": "volume", "Source": "vol-1", "Target": "/v1",
                "VolumeOptions": {"NoCopy": true, "Labels": {"vl": "1"}},
            },
            {
                "Type": "bind", "Source": "/etc", "Target": "/hostetc", "ReadOnly": true,
                "BindOptions": {"Propagation": "private"},
            },
        ],
    });
    (config, host)
}

/// Whether all that is expected is there; objects may have more, lists may not.
fn contains(actual: &Value, expected: &Value, at: &str) -> Result<()> {
    match (actual, expected) {
        (Value::Object(actual), Value::Object(expected)) => {
            for (key, expected) in expected {
                let actual = actual.get(key).unwrap_or(&Value::Null);
                contains(actual, expected, &format!("{at}.{key}"))?;
            }
        }
        (Value::Array(actual), Value::Array(expected)) if actual.len() == expected.len() => {
            for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                contains(actual, expected, &format!("{at}[{index}]"))?;
            }
        }
        (actual, expected) => ensure!(actual == expected, "{at}: {actual}, not {expected}"),
    }
    Ok(())
}
