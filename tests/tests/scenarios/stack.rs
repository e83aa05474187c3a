//! The stock CLI's stacks, as far as they need no overlay network.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{eventually, scenario};

const STACK: &str = r#"
services:
  web:
    image: host
    command: ["sh", "-c", "cat /run/secrets/db_pass; exec sleep 1000"]
    networks: [hostnet]
    secrets: [db_pass]
    stop_signal: KILL
    deploy: {replicas: 2}
networks:
  hostnet: {external: true, name: host}
secrets:
  db_pass: {file: ./db_pass}
"#;

#[test]
fn a_stack_is_deployed_again_and_removed() -> Result<()> {
    scenario("stack", |scene| {
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        let docker = &node.docker;
        let file = scene.dir().join("stack.yml");
        fs::write(&file, STACK)?;
        fs::write(scene.dir().join("db_pass"), b"of a stack\n")?;
        let file = file.display().to_string();
        let deploy = [
            "stack",
            "deploy",
            "--resolve-image",
            "never",
            "-c",
            &file,
            "app",
        ];
        docker.ok(&deploy)?;
        eventually(
            "both tasks have read the secret",
            Duration::from_secs(20),
            || {
                let text = docker.ok(&["service", "logs", "--raw", "app_web"])?;
                ensure!(text == "of a stack\nof a stack", "{text:?}");
                Ok(())
            },
        )?;
        // The same again changes nothing: the secret's content is sent again and taken.
        let before = docker.ok(&["service", "ps", "app_web", "-q"])?;
        docker.ok(&deploy)?;
        ensure!(
            docker.ok(&["service", "ps", "app_web", "-q"])? == before,
            "tasks were replaced"
        );
        ensure!(docker.ok(&["stack", "ls", "--format", "{{.Name}} {{.Services}}"])? == "app 1");
        ensure!(docker.ok(&["stack", "ps", "app", "-q"])?.lines().count() == 2);
        // What a task prints can be there before it is known to run.
        eventually("both tasks run", Duration::from_secs(20), || {
            let replicas = ["stack", "services", "app", "--format", "{{.Replicas}}"];
            ensure!(docker.ok(&replicas)? == "2/2");
            Ok(())
        })?;
        docker.ok(&["stack", "rm", "app"])?;
        eventually("nothing is left", Duration::from_secs(20), || {
            let left =
                docker.ok(&["secret", "ls", "-q"])? + &docker.ok(&["service", "ls", "-q"])?;
            let tasks = node.engine.get("/tasks")?;
            ensure!(
                left.is_empty() && tasks.as_array().is_some_and(Vec::is_empty),
                "{left}{tasks}"
            );
            let shims = waxseal_tests::processes_below(&node.exec_root().join("tasks"))?;
            ensure!(shims.is_empty(), "{shims:?}");
            Ok(())
        })?;
        docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}
