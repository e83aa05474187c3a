//! Our own command line, every verb against daemons: what it prints, how it ends.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use waxseal_tests::{Scene, Waxseal, eventually, node_id, scenario};

const SOON: Duration = Duration::from_secs(30);
/// Exit code of every verb that a locked manager cannot serve.
const LOCKED: i32 = 4;

#[test]
fn every_verb_does_what_its_help_says() -> Result<()> {
    scenario("own-cli", |scene| {
        let mut manager = scene.waxseal("manager")?;
        let worker = scene.waxseal("worker")?;
        before_a_cluster(&manager)?;
        found(&manager)?;
        join(&manager, &worker)?;
        nodes(&manager)?;
        managers(&manager, &worker)?;
        certificates(&manager)?;
        join_tokens(scene, &manager)?;
        roots(&manager)?;
        secrets_and_configs(scene, &manager)?;
        services(&manager)?;
        keys(&mut manager)?;
        the_end(&manager, &worker)
    })
}

/// Standard error of a command that must fail with 1: what happened, and a hint.
fn refused(node: &Waxseal, words: &[&str], what: &str) -> Result<()> {
    let said = node.cli.fails(words)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(
        lines[0].starts_with("error: ") && lines[0].contains(what),
        "{words:?}: {said}"
    );
    ensure!(
        lines.get(1).is_some_and(|line| line.starts_with("hint: ")),
        "{words:?} without a hint: {said}"
    );
    Ok(())
}

fn json(node: &Waxseal, words: &[&str]) -> Result<Value> {
    let words = [words, &["--format", "json"]].concat();
    let text = node.cli.ok(&words)?;
    serde_json::from_str(&text).with_context(|| format!("{words:?} is no JSON: {text}"))
}

fn before_a_cluster(node: &Waxseal) -> Result<()> {
    ensure!(json(node, &["status"])?["state"] == "inactive");
    ensure!(node.cli.ok(&["status"])?.contains("waxseal swarm init"));
    let version = json(node, &["version"])?;
    ensure!(version["Server"]["ApiVersion"] == "1.44", "{version}");
    refused(node, &["node", "ls"], "this node is in no cluster")?;
    refused(node, &["swarm", "leave"], "this node is in no cluster")?;
    let said = node.cli.fails_with_input(&["unlock"], b"SWMKEY-1-x\n")?;
    ensure!(said.contains("hint: "), "{said}");
    Ok(())
}

fn found(manager: &Waxseal) -> Result<()> {
    let remote = manager.remote();
    let init = [
        "swarm",
        "init",
        "--listen-addr",
        &remote,
        "--advertise-addr",
        &remote,
        "--autolock",
    ];
    let said = manager.cli.ok(&init)?;
    for text in [
        "first manager",
        "SWMTKN-1-",
        "docker swarm join",
        "SWMKEY-1-",
        "drain",
    ] {
        ensure!(said.contains(text), "no {text:?} in {said}");
    }
    refused(manager, &init, "this node is in a cluster already")?;
    let table = manager.cli.ok(&["swarm", "inspect"])?;
    ensure!(table.contains("Certificates live:   90days"), "{table}");
    ensure!(table.contains("BEGIN CERTIFICATE"), "{table}");
    let cluster = json(manager, &["swarm", "inspect"])?;
    let id = cluster["ID"].as_str().unwrap_or_default();
    ensure!(!id.is_empty() && table.contains(id), "{table}");
    let status = manager.cli.ok(&["status"])?;
    ensure!(
        status.contains("manager") && status.contains(" days"),
        "{status}"
    );
    // A Docker Engine can be no manager.
    let said = manager.cli.ok(&["swarm", "join-token", "manager"])?;
    ensure!(
        said.contains("waxseal swarm join") && !said.contains("docker swarm join"),
        "{said}"
    );
    Ok(())
}

fn join(manager: &Waxseal, worker: &Waxseal) -> Result<()> {
    let old = manager.cli.ok(&["swarm", "join-token", "-q", "worker"])?;
    manager
        .cli
        .ok(&["swarm", "join-token", "--rotate", "worker"])?;
    let token = manager.cli.ok(&["swarm", "join-token", "-q", "worker"])?;
    ensure!(token.starts_with("SWMTKN-1-") && token != old, "{token}");
    let (own, remote) = (worker.remote(), manager.remote());
    let words = [
        "swarm",
        "join",
        "--token-file",
        "-",
        "--listen-addr",
        &own,
        "--advertise-addr",
        &own,
        &remote,
    ];
    let said = worker.cli.fails_with_input(&words, old.as_bytes())?;
    ensure!(
        said.contains("join token") && said.contains("hint: "),
        "{said}"
    );
    let said = worker.cli.ok_with_input(&words, token.as_bytes())?;
    ensure!(said.contains("has joined as a worker"), "{said}");
    refused(worker, &["node", "ls"], "this node is a worker")?;
    refused(worker, &["swarm", "init"], "in a cluster already")?;
    ensure!(json(worker, &["status"])?["role"] == "worker");
    Ok(())
}

/// The worker's id.
fn worker_id(manager: &Waxseal) -> Result<String> {
    manager
        .cli
        .ok(&["node", "ls", "-q", "--filter", "role=worker"])
}

fn nodes(manager: &Waxseal) -> Result<()> {
    let id = worker_id(manager)?;
    eventually("both nodes are ready", SOON, || {
        let table = manager.cli.ok(&["node", "ls"])?;
        ensure!(table.matches(" ready ").count() == 2, "{table}");
        Ok(())
    })?;
    ensure!(json(manager, &["node", "ls"])?.as_array().map(Vec::len) == Some(2));
    manager
        .cli
        .ok(&["node", "update", &id[..10], "--label-add", "zone=north"])?;
    let node = json(manager, &["node", "inspect", &id])?;
    ensure!(node[0]["Spec"]["Labels"]["zone"] == "north", "{node}");
    let own = manager.cli.ok(&["node", "inspect"])?;
    ensure!(own.contains(&manager.address.to_string()), "{own}");
    let said = manager.cli.run(&["node", "inspect", "nobody", "self"])?;
    ensure!(
        said.code == 1 && said.out().contains("leader") && said.err().contains("nobody not found"),
        "{}\n{}",
        said.out(),
        said.err()
    );
    let before = node[0]["Version"]["Index"].clone();
    manager.cli.ok(&["node", "renew", &id])?;
    eventually("its certificate is renewed", SOON, || {
        let node = json(manager, &["node", "inspect", &id])?;
        ensure!(node[0]["Version"]["Index"] != before, "{node}");
        Ok(())
    })?;
    refused(manager, &["node", "rm", &id], "is not down")?;
    refused(
        manager,
        &["node", "update", "self", "--role", "worker"],
        "last manager",
    )
}

fn managers(manager: &Waxseal, worker: &Waxseal) -> Result<()> {
    let table = manager.cli.ok(&["manager", "ls"])?;
    for text in ["leader", "1 of 1 managers", &manager.remote()] {
        ensure!(table.contains(text), "no {text:?} in {table}");
    }
    let group = json(manager, &["manager", "ls"])?;
    ensure!(
        group["quorum"]["voters"] == 1 && group["managers"][0]["self"] == true,
        "{group}"
    );
    let status = manager.cli.ok(&["status"])?;
    ensure!(
        status.contains("Leader:") && status.contains("Quorum:"),
        "{status}"
    );
    refused(worker, &["manager", "ls"], "this node is a worker")?;
    refused(
        worker,
        &["manager", "peer", "10.0.0.1"],
        "this node is a worker",
    )?;
    refused(manager, &["node", "demote", "self"], "last manager")?;
    let said = manager.cli.ok(&["node", "promote", "self"])?;
    ensure!(said.contains("is a manager already"), "{said}");
    let said = manager.cli.ok(&["node", "demote", &worker_id(manager)?])?;
    ensure!(
        said.contains("is a worker already") && !said.contains("rotate"),
        "{said}"
    );
    Ok(())
}

fn certificates(manager: &Waxseal) -> Result<()> {
    let table = manager.cli.ok(&["cert", "ls"])?;
    ensure!(table.starts_with("SERIAL "), "{table}");
    let all = json(manager, &["cert", "ls"])?;
    let all = all["certificates"].as_array().context("certificates")?;
    let serials = manager.cli.ok(&["cert", "ls", "-q"])?;
    ensure!(serials.lines().count() == all.len(), "{serials}");
    let newest = serials.lines().next().context("a certificate")?;
    let shown = manager.cli.ok(&["cert", "inspect", &newest[..16]])?;
    for part in [newest, "Standing", "Asked by", "Expires"] {
        ensure!(shown.contains(part), "no {part}: {shown}");
    }
    ensure!(json(manager, &["cert", "inspect", newest])?[0]["serial"] == newest);
    let revoked = ["cert", "ls", "--filter", "standing=revoked", "-q"];
    ensure!(manager.cli.ok(&revoked)?.is_empty());
    refused(manager, &["cert", "inspect", "00ff00ff"], "not found")?;
    refused(manager, &["cert", "revoke", "00ff00ff"], "not found")
}

fn join_tokens(scene: &Scene, manager: &Waxseal) -> Result<()> {
    let limits = ["--ttl", "10m", "--label", "for=rack"];
    let said = manager
        .cli
        .ok(&[&["join-token", "create"][..], &limits].concat())?;
    ensure!(
        said.contains("SWMTKN-1-") && said.contains("docker swarm join"),
        "{said}"
    );
    let token = manager.cli.ok(&["join-token", "create", "-q"])?;
    let late = scene.waxseal("limited")?;
    late.join(token.trim(), &manager.remote())?;
    let rows = manager.cli.ok(&["join-token", "ls"])?;
    ensure!(
        rows.contains("spent") && rows.contains("for=rack"),
        "{rows}"
    );
    let late_id = node_id(&late.engine)?;
    late.docker.ok(&["swarm", "leave"])?;
    manager.cli.ok(&["node", "rm", "--force", &late_id])?;
    let all = json(manager, &["join-token", "ls"])?;
    let open = all.as_array().context("tokens")?.iter();
    let mut open = open.filter(|token| token["standing"] == "open");
    let id = open.next().context("an open one")?["id"].clone();
    let id = id.as_str().context("an id")?;
    manager.cli.ok(&["join-token", "revoke", id])?;
    ensure!(
        json(manager, &["join-token", "ls"])?
            .to_string()
            .contains("revoked")
    );
    refused(manager, &["join-token", "revoke", "zzz"], "not found")
}

fn roots(manager: &Waxseal) -> Result<()> {
    let said = manager.cli.ok(&["ca", "status"])?;
    for part in ["Root: sha256:", "Signer: root", "No rotation runs"] {
        ensure!(said.contains(part), "no {part}: {said}");
    }
    ensure!(json(manager, &["ca", "status"])?["rotating"] == false);
    let plan = manager.cli.ok(&["ca", "rotate", "--plan"])?;
    ensure!(plan.contains("would renew"), "{plan}");
    let none = ["ca", "rotate", "--running", "--deadline", "1m"];
    refused(manager, &none, "no rotation of the root runs")?;
    refused(
        manager,
        &["ca", "rotate", "--abort"],
        "no rotation of the root runs",
    )?;
    manager.cli.ok(&["node", "return-window", "7d"])?;
    manager.cli.ok(&["node", "returns"])?;
    refused(manager, &["node", "approve", "self"], "")
}

fn secrets_and_configs(scene: &Scene, manager: &Waxseal) -> Result<()> {
    let create = ["secret", "create", "db", "-", "--label", "kind=test"];
    manager.cli.ok_with_input(&create, b"hunter2")?;
    let said = manager.cli.fails_with_input(&create, b"hunter2")?;
    ensure!(said.contains("already exists\nhint: "), "{said}");
    let template = ["secret", "create", "greeting", "--template-driver"];
    let text = b"{{ .Service.Name }}";
    let none = [&template[..], &["nosuch"]].concat();
    let said = manager.cli.fails_with_input(&none, text)?;
    ensure!(said.contains("nosuch") && said.contains("golang"), "{said}");
    let golang = [&template[..], &["golang"]].concat();
    manager.cli.ok_with_input(&golang, text)?;
    let shown = json(manager, &["secret", "inspect", "greeting"])?;
    ensure!(
        shown[0]["Spec"]["Templating"]["Name"] == "golang",
        "{shown}"
    );
    manager.cli.ok(&["secret", "rm", "greeting"])?;
    let file = scene.dir().join("app.conf");
    std::fs::write(&file, "colour = green")?;
    manager
        .cli
        .ok(&["config", "create", "app", &file.display().to_string()])?;
    ensure!(manager.cli.ok(&["secret", "ls"])?.contains("db"));
    ensure!(
        !manager
            .cli
            .ok(&["secret", "ls", "-q", "--filter", "name=d"])?
            .is_empty()
    );
    ensure!(
        manager
            .cli
            .ok(&["secret", "ls", "-q", "--filter", "name=x"])?
            .is_empty()
    );
    // Names that are not there do not keep the others from being shown; data is never.
    let said = manager
        .cli
        .run(&["secret", "inspect", "none", "db", "neither"])?;
    ensure!(
        said.code == 1 && said.out().contains("db"),
        "{}",
        said.out()
    );
    ensure!(
        said.err().contains("none not found") && said.err().contains("neither not found"),
        "{}",
        said.err()
    );
    let whole = json(manager, &["secret", "inspect", "db"])?.to_string();
    ensure!(
        !whole.contains("Data") && !whole.contains("aHVudGVyMg"),
        "{whole}"
    );
    let config = manager.cli.ok(&["config", "inspect", "app"])?;
    ensure!(config.contains("colour = green"), "{config}");
    ensure!(manager.cli.ok(&["config", "ls"])?.contains("app"));
    let past = [
        "events",
        "--since",
        "10m",
        "--until",
        "0s",
        "--filter",
        "type=secret",
    ];
    let events = manager.cli.ok(&past)?;
    ensure!(
        events.contains("secret create") && events.contains("db"),
        "{events}"
    );
    Ok(())
}

fn services(manager: &Waxseal) -> Result<()> {
    manager.cli.ok(&[
        "service",
        "create",
        "--name",
        "reader",
        "--secret",
        "db",
        "--config",
        "source=app,target=/etc/app.conf",
        "--replicas",
        "2",
        "--stop-signal",
        "KILL",
        "-q",
        "--",
        "sh",
        "-c",
        "cat /run/secrets/db /etc/app.conf; echo; exec sleep 1000",
    ])?;
    let table = manager.cli.ok(&["service", "ls"])?;
    ensure!(
        table.contains("2/2") && !table.contains("sha256"),
        "{table}"
    );
    let tasks = manager.cli.ok(&["service", "ps", "reader"])?;
    ensure!(
        tasks.contains("reader.1") && tasks.contains("reader.2"),
        "{tasks}"
    );
    let shown = manager.cli.ok(&["service", "inspect", "reader"])?;
    ensure!(
        shown.contains("db as db") && shown.contains("app as /etc/app.conf"),
        "{shown}"
    );
    eventually("all logs are there", SOON, || {
        let text = manager.cli.ok(&["service", "logs", "--raw", "reader"])?;
        ensure!(text == ["hunter2colour = green"; 2].join("\n"), "{text}");
        Ok(())
    })?;
    let last = manager
        .cli
        .ok(&["service", "logs", "-n", "1", "-t", "reader"])?;
    ensure!(
        last.contains("reader.1@") && last.contains(" | hunter2"),
        "{last}"
    );
    refused(
        manager,
        &["secret", "rm", "db"],
        "is in use by the following service: reader",
    )?;
    manager.cli.ok(&["service", "scale", "reader=1"])?;
    manager
        .cli
        .ok(&["service", "update", "reader", "-q", "--env-add", "A=b"])?;
    ensure!(
        manager
            .cli
            .ok(&["service", "inspect", "reader"])?
            .contains("A=b")
    );
    manager
        .cli
        .ok(&["service", "update", "reader", "-q", "--rollback"])?;
    ensure!(
        !manager
            .cli
            .ok(&["service", "inspect", "reader"])?
            .contains("A=b")
    );
    ensure!(manager.cli.ok(&["service", "ls"])?.contains("1/1"));
    refused(manager, &["service", "ps", "nothing"], "nothing not found")
}

fn keys(manager: &mut Waxseal) -> Result<()> {
    let key = |manager: &Waxseal| manager.cli.ok(&["swarm", "unlock-key", "-q"]);
    let first = key(manager)?;
    manager.cli.ok(&["swarm", "unlock-key", "--rotate"])?;
    manager
        .cli
        .ok(&["swarm", "update", "--autolock", "false"])?;
    refused(manager, &["swarm", "unlock-key"], "autolock is off")?;
    let said = manager.cli.ok(&["swarm", "update", "--autolock", "true"])?;
    let last = key(manager)?;
    ensure!(said.contains(&last) && last != first, "{said}");
    manager.restart()?;
    ensure!(manager.cli.ok(&["status"])?.contains("locked"));
    for words in [
        &["node", "ls"][..],
        &["secret", "ls"],
        &["service", "logs", "reader"],
        &["swarm", "inspect"],
        &["swarm", "unlock-key"],
        &["swarm", "leave"],
    ] {
        let said = manager.cli.run(words)?;
        ensure!(
            said.code == LOCKED && said.err().contains("hint: "),
            "{words:?}: {} {}",
            said.code,
            said.err()
        );
    }
    for wrong in [first.as_str(), "SWMKEY-1-short"] {
        let said = manager
            .cli
            .fails_with_input(&["unlock"], wrong.as_bytes())?;
        ensure!(said.contains("hint: ") && !said.contains(wrong), "{said}");
    }
    manager.cli.ok_with_input(&["unlock"], last.as_bytes())?;
    ensure!(manager.cli.ok(&["secret", "ls"])?.contains("db"));
    Ok(())
}

fn the_end(manager: &Waxseal, worker: &Waxseal) -> Result<()> {
    let gone = worker_id(manager)?;
    worker.cli.ok(&["swarm", "leave"])?;
    ensure!(json(worker, &["status"])?["state"] == "inactive");
    manager.cli.ok(&["node", "rm", "--force", &gone])?;
    ensure!(json(manager, &["node", "ls"])?.as_array().map(Vec::len) == Some(1));
    manager.cli.ok(&["service", "rm", "reader"])?;
    manager.cli.ok(&["config", "rm", "app"])?;
    manager.cli.ok(&["secret", "rm", "db"])?;
    refused(manager, &["swarm", "leave"], "the last manager")?;
    manager.cli.ok(&["swarm", "leave", "--force"])?;
    ensure!(json(manager, &["status"])?["state"] == "inactive");
    Ok(())
}
