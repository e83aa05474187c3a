//! The stock CLI's stacks, as far as they need no overlay network.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{Dockerd, Switch, Waxseal, eventually, require, run, scenario};

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

/// On the engines' own bridges, with ports of the hosts.
fn compose(version: &str, extra: &str) -> String {
    format!(
        r#"
services:
  web:
    image: bb:1
    command: ["busybox", "httpd", "-f", "-p", "80", "-h", "/"]
    networks: [bridged]
    ports: [{{target: 80, published: 8080, protocol: tcp, mode: host}}]
    secrets: [{{source: motd, target: motd, mode: 0444}}]
    configs: [{{source: page, target: /page}}, {{source: given, target: /given}}]
    stop_signal: KILL
    deploy:
      mode: global
      placement: {{constraints: [node.role == worker]}}
      update_config: {{parallelism: 1, monitor: 1s, failure_action: rollback}}
{extra}
networks:
  bridged: {{external: true, name: bridge}}
secrets:
  motd: {{file: ./motd, name: motd-{version}}}
configs:
  page: {{file: ./page}}
  given: {{external: true, name: given}}
"#
    )
}

const EXTRA: &str = r#"
  extra:
    image: bb:1
    command: ["busybox", "sleep", "1000"]
    networks: [bridged]
    stop_signal: KILL
    deploy: {placement: {constraints: [node.role == worker]}}
"#;

#[test]
fn a_stack_on_two_engines_is_reached_rotated_rolled_back_and_removed() -> Result<()> {
    scenario("compose", |scene| {
        let switch = Switch::new(scene, 3)?;
        let node = Waxseal::start(scene, "manager", &switch.options(0))?;
        node.init(&[])?;
        let docker = &node.docker;
        let token = docker.ok(&["swarm", "join-token", "-q", "worker"])?;
        let engines =
            [1, 2].map(|host| Dockerd::on_switch(scene, &format!("e{host}"), &switch, host));
        let mut engines = engines.into_iter().collect::<Result<Vec<_>>>()?;
        for engine in &engines {
            engine.join(&token, &node.remote())?;
        }
        let file = scene.dir().join("app.yml");
        let write = |name: &str, text: &str| fs::write(scene.dir().join(name), text);
        let deploy = || {
            let file = file.display().to_string();
            docker.ok(&[
                "stack",
                "deploy",
                "--prune",
                "--resolve-image",
                "never",
                "-c",
                &file,
                "app",
            ])
        };
        // What the host-mode port of each engine serves, seen from the manager's host.
        let served = |path: &str, expected: &str| {
            eventually(
                format!("{path} is {expected}"),
                Duration::from_secs(60),
                || {
                    for host in [1, 2] {
                        let mut words = switch.space(0).enter();
                        words.push(require("curl", "curl")?.display().to_string());
                        let url = format!("http://{}:8080{path}", switch.address(host));
                        words.extend(["-s", "-m", "2", &url].map(str::to_owned));
                        let output = run(
                            Command::new(&words[0]).args(&words[1..]),
                            Duration::from_secs(5),
                        )?;
                        ensure!(
                            output.out() == expected,
                            "{}: {} {}",
                            host,
                            output.out(),
                            output.err()
                        );
                    }
                    Ok(())
                },
            )
        };
        // 1. Deployed with what the file names, and what it does not.
        docker.ok_with_input(&["config", "create", "given", "-"], b"from outside")?;
        write("motd", "first")?;
        write("page", "a page")?;
        fs::write(&file, compose("1", EXTRA))?;
        docker.ok(&["stack", "config", "-c", &file.display().to_string()])?;
        deploy()?;
        served("/run/secrets/motd", "first")?;
        served("/page", "a page")?;
        served("/given", "from outside")?;
        let services = [
            "stack",
            "services",
            "app",
            "--format",
            "{{.Name}} {{.Replicas}}",
        ];
        eventually("all tasks run", Duration::from_secs(30), || {
            let shown = docker.ok(&services)?;
            ensure!(
                shown.contains("app_extra 1/1") && shown.contains("app_web 2/2"),
                "{shown}"
            );
            Ok(())
        })?;
        // 2. Another secret, and a service less.
        write("motd", "second")?;
        fs::write(&file, compose("2", ""))?;
        deploy()?;
        served("/run/secrets/motd", "second")?;
        ensure!(docker.ok(&["service", "ls", "--format", "{{.Name}}"])? == "app_web");
        let used = docker.fails(&["secret", "rm", "app_motd-2", "motd-2"])?;
        ensure!(
            used.contains("is in use by the following service: app_web"),
            "{used}"
        );
        // 3. Back to the first one.
        docker.ok(&["service", "rollback", "--detach", "app_web"])?;
        served("/run/secrets/motd", "first")?;
        // 4. Gone, but for what is not the stack's.
        docker.ok(&["stack", "rm", "app"])?;
        eventually("nothing of it is left", Duration::from_secs(60), || {
            ensure!(docker.ok(&["secret", "ls", "-q"])?.is_empty());
            ensure!(docker.ok(&["config", "ls", "--format", "{{.Name}}"])? == "given");
            ensure!(
                node.engine
                    .get("/tasks")?
                    .as_array()
                    .is_some_and(Vec::is_empty)
            );
            for engine in &engines {
                let left = engine.containers()?;
                ensure!(left.is_empty(), "{left:?}");
            }
            Ok(())
        })?;
        for engine in &mut engines {
            engine.stop()?;
        }
        Ok(())
    })
}
