//! Credentials of registries.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use serde_json::{Value, json};
use waxseal_tests::{Markers, eventually, scenario};

use super::{LIMIT, SOON, answers, clean, disk, memory};

/// While services hold them, and after an engine was given them.
#[test]
fn credentials_of_registries_are_in_no_answer_memory_or_file() -> Result<()> {
    scenario("marker-registry", |scene| {
        let markers = Markers::new()?;
        let mut manager = scene.waxseal("node")?;
        manager.init(&["--autolock", "--availability", "drain"])?;
        let key = manager.unlock_key()?;
        let socket = manager.engine.socket().to_owned();
        for (name, number) in [("m0", 0), ("m2", 2)] {
            let words = ["secret", "create", name, "-"];
            let docker = &manager.docker;
            docker.ok_with_input(&words, &markers.secret(number))?;
        }
        let engine = scene.dockerd("engine")?;
        engine.join(&manager.worker_token()?, &manager.remote())?;
        let call = |call: &str, number: u64, spec: &Value| {
            // No user and password inside: nobody looks at that but the engine.
            let auth = URL_SAFE.encode(markers.secret(number));
            let body = spec.to_string();
            let request = format!(
                "{call} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
                 X-Registry-Auth: {auth}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut stream = UnixStream::connect(&socket)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            // Managers ask no registry for images.
            let is_expected = match call.starts_with("GET /distribution/") {
                true => answer.starts_with("HTTP/1.1 404"),
                false => answer.starts_with("HTTP/1.1 20"),
            };
            ensure!(is_expected, "{answer}");
            clean(call, answer.as_bytes(), &markers)
        };
        // Nobody answers there.
        let spec = |name: &str, image: &str| {
            json!({"Name": name, "Mode": {"Replicated": {"Replicas": 2}}, "TaskTemplate": {
                "ContainerSpec": {"Image": format!("127.0.0.1:9/{image}")},
                "RestartPolicy": {"Condition": "none"}}})
        };
        for number in 0..20 {
            let name = format!("s{number}");
            call("GET /distribution/127.0.0.1:9/a/json", number, &json!({}))?;
            call("POST /services/create", number, &spec(&name, "a"))?;
        }
        let version = |name: &str| -> Result<u64> {
            let service = manager.engine.get(&format!("/services/{name}"))?;
            service["Version"]["Index"].as_u64().context("no version")
        };
        let path = format!("POST /services/s0/update?version={}", version("s0")?);
        call(&path, 100, &spec("s0", "b"))?;
        eventually("the engine tried to pull", SOON, || {
            let tasks = manager.engine.get("/tasks")?.to_string();
            ensure!(tasks.matches("No such image").count() >= 20, "{tasks}");
            Ok(())
        })?;
        // The engine was given them: it keeps the specs of its tasks in a file.
        let given = markers.below(&engine.dir().join("data/swarm/worker"))?;
        ensure!(!given.is_empty(), "the engine got no credentials");
        answers(&manager, &markers)?;
        memory(scene, &manager, &markers, "while services hold credentials")?;
        disk(&manager, &markers)?;
        manager.restart()?;
        manager.reaches("locked")?;
        manager.unlock(&key)?;
        manager.reaches("active")?;
        eventually("the state is there", SOON, || {
            answers(&manager, &markers)?;
            manager.engine.get("/services/s19").map(drop)
        })?;
        memory(scene, &manager, &markers, "after a restart")?;
        disk(&manager, &markers)
    })
}
