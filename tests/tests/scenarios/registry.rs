//! Images behind a password: what `--with-registry-auth` brings to an engine.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxseal_tests::{Dockerd, Registry, Waxseal, eventually, scenario};

/// Until tasks have moved.
const SOON: Duration = Duration::from_secs(40);

#[test]
fn an_engine_pulls_with_the_credentials_of_the_service() -> Result<()> {
    scenario("registry", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&["--availability", "drain"])?;
        let engine = Dockerd::start_pulling(scene, "engine")?;
        engine.join(&manager.worker_token()?, &manager.remote())?;
        let registry = Registry::start(scene.address(), scene.dir())?;
        registry.set_password("first");
        let image = |tag: &str| format!("{}/private/bb:{tag}", registry.host);
        let first = registry.client_config(&scene.dir().join("first"), "first")?;
        let second = registry.client_config(&scene.dir().join("second"), "second")?;
        let docker = |words: &[&str]| manager.docker.ok(words);
        // 1. Without credentials nothing is pulled.
        let create = ["service", "create", "-d", "--restart-condition", "none"];
        let plain = image("plain");
        docker(&[&create[..], &["--name", "plain", &plain]].concat())?;
        task_says(&manager, "plain", "Rejected")?;
        ensure!(registry.refused() > 0 && registry.granted("plain") == 0);
        docker(&["service", "rm", "plain"])?;
        // 2. With them it is. The CLI looks the image up first, and is told that nobody did.
        let one = image("one");
        let update_policy = ["--stop-grace-period", "1s", "--update-monitor", "1s"];
        let words = [
            &[
                "--config", &first, "service", "create", "-d", "--name", "web",
            ][..],
            &update_policy,
            &["--with-registry-auth", &one],
        ]
        .concat();
        let said = manager.docker.run(&words)?;
        ensure!(said.code == 0, "{}", said.err());
        ensure!(
            said.err().contains("could not be accessed on a registry"),
            "{}",
            said.err()
        );
        runs(&manager, &one)?;
        ensure!(
            registry.granted("one") == 1,
            "pulled {}",
            registry.granted("one")
        );
        // So it is for a task that is to end.
        let job = image("job");
        let words = [
            &["--config", &first, "service", "create", "-d"][..],
            &["--mode", "replicated-job", "--with-registry-auth", &job],
            &["sh", "-c", "exit 0"],
        ]
        .concat();
        docker(&words)?;
        eventually("the job has an image to run", SOON, || {
            ensure!(registry.granted("job") == 1);
            Ok(())
        })?;
        // 3. An update without the flag goes on with those of the service.
        let two = image("two");
        docker(&["service", "update", "-d", "--image", &two, "web"])?;
        runs(&manager, &two)?;
        // 4. The password changes, and with it what the service holds.
        registry.set_password("second");
        let three = image("three");
        let update = ["service", "update", "-d", "--with-registry-auth", "--image"];
        let update = [&update[..], &[&three, "web"]].concat();
        let said = manager.cli.run(&update)?;
        let none = format!("there are no credentials for {} in", registry.host);
        ensure!(said.code == 2 && said.err().contains(&none), "{said:?}");
        manager.cli.with_config(second.as_ref()).ok(&update)?;
        runs(&manager, &three)?;
        // 5. What rolls back has those of the version before, which nobody grants any more.
        let refused = registry.refused();
        engine.docker.ok(&["image", "rm", "-f", &two])?;
        docker(&["service", "rollback", "-d", "web"])?;
        eventually("the rollback pulls with the old password", SOON, || {
            ensure!(registry.refused() > refused);
            Ok(())
        })?;
        let shown = docker(&["service", "inspect", "web"])?;
        ensure!(!shown.contains("PullOptions"), "{shown}");
        Ok(())
    })
}

/// Waits until the newest task has this state.
fn task_says(manager: &Waxseal, service: &str, state: &str) -> Result<()> {
    eventually(format!("{service} is {state}"), SOON, || {
        let format = "{{.CurrentState}}|{{.Error}}|{{.Image}}";
        let words = ["service", "ps", "--no-trunc", "--format", format, service];
        let tasks = manager.docker.ok(&words)?;
        let newest = tasks.lines().next().unwrap_or_default();
        ensure!(newest.starts_with(state), "{tasks}");
        Ok(())
    })
}

/// Waits until a task of this image runs.
fn runs(manager: &Waxseal, image: &str) -> Result<()> {
    eventually(format!("{image} runs"), SOON, || {
        let format = "{{.Image}} {{.CurrentState}} {{.Error}}";
        let words = ["service", "ps", "--no-trunc", "--format", format, "web"];
        let tasks = manager.docker.ok(&words)?;
        let running = format!("{image} Running");
        ensure!(
            tasks.lines().any(|task| task.starts_with(&running)),
            "{tasks}"
        );
        Ok(())
    })
}
