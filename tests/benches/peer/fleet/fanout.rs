//! A secret on its way to the tasks of a whole fleet.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use waxseal_tests::Scene;

use super::{Host, raise_descriptors};
use crate::{
    report::{self, Pairs},
    server::{Server, Side, order},
};

/// Members, each of which gets one task.
const SIZES: [usize; 2] = [200, 1_000];
/// The least that a stock manager is to take of ours' time.
const TARGET: f64 = 3.0;
/// So many join at once.
const AT_ONCE: usize = 250;
/// Until what the joins brought up has settled.
const SETTLE: Duration = Duration::from_secs(9);
/// Until all have it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of the secret.
const SECRET_BYTES: usize = 1024;

/// From the call that creates a service to the last of its tasks' secrets at its node.
pub(crate) fn fanout(scene: &Scene, rounds: usize) -> Result<()> {
    raise_descriptors(SIZES[1])?;
    for size in SIZES {
        let mut pairs = Pairs::default();
        for round in 0..rounds {
            for side in order(round) {
                let took = deliver(scene, side, size, round)?;
                eprintln!("  {side:?}, {size} tasks: {:.3} s", took.as_secs_f64());
                match side {
                    Side::Ours => pairs.ours.push(took),
                    Side::Stock => pairs.other.push(took),
                }
            }
        }
        let title = format!("a service of {size} tasks, until each has its secret");
        report::figure(&title, "ms", &pairs, None, |took| report::millis(*took));
        let times_as_long = pairs
            .other
            .iter()
            .zip(&pairs.ours)
            .map(|(stock, ours)| stock.as_secs_f64() / ours.as_secs_f64())
            .collect::<Vec<_>>();
        let middle = report::middle(&times_as_long, |ratio| *ratio);
        println!("stock takes {middle:.2}× as long, target ≥ {TARGET}×\n");
    }
    Ok(())
}

fn deliver(scene: &Scene, side: Side, size: usize, round: usize) -> Result<Duration> {
    let server = Server::start(scene, side, &format!("fanout{size}-{round}"), false)?;
    let mut host = Host::gathered(&server, size, AT_ONCE, 1)?;
    drain_manager(&server)?;
    let data = STANDARD.encode([7; SECRET_BYTES]);
    let secret = json!({ "Name": "key", "Data": data });
    let answer = server
        .engine
        .call("POST", "/secrets/create", Some(&secret))?;
    let created = answer.expect(201)?.json()?;
    host.rest(SETTLE);
    let spec = service(&created["ID"], size);
    let engine = server.engine.clone();
    let begin = Instant::now();
    let creating = std::thread::spawn(move || {
        let answer = engine.call("POST", "/services/create", Some(&spec))?;
        answer.expect(201).map(drop)
    });
    host.until("each task has its secret", PATIENCE, |fleet| {
        Ok(fleet.supplied() == size)
    })?;
    creating.join().map_err(|_| anyhow!("it panicked"))??;
    let last = host.fleet.last_supplied.get().context("nobody has it")?;
    Ok(last - begin)
}

fn service(secret_id: &Value, replicas: usize) -> Value {
    let file = json!({ "Name": "key", "UID": "0", "GID": "0", "Mode": 0o444 });
    let secrets = json!([{ "SecretID": secret_id, "SecretName": "key", "File": file }]);
    json!({
        "Name": "web",
        "TaskTemplate": { "ContainerSpec": { "Image": "none:1", "Secrets": secrets } },
        "Mode": { "Replicated": { "Replicas": replicas } },
    })
}

/// Its tasks would not be the fleet's.
fn drain_manager(server: &Server) -> Result<()> {
    let filter = "%7B%22role%22%3A%5B%22manager%22%5D%7D";
    let nodes = server.engine.get(&format!("/nodes?filters={filter}"))?;
    let node = &nodes[0];
    let id = node["ID"].as_str().context("no manager")?;
    let path = format!("/nodes/{id}/update?version={}", node["Version"]["Index"]);
    let spec = json!({ "Role": "manager", "Availability": "drain" });
    let answer = server.engine.call("POST", &path, Some(&spec))?;
    answer.expect(200).map(drop)
}
