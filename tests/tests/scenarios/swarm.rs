//! The stock CLI: init, join tokens, nodes, settings, leave, and what `docker info` says.

use anyhow::{Context, Result, ensure};
use waxseal_tests::{Waxseal, eventually, scenario};

use super::texts;

/// One line of `docker info`'s text, without its indent.
fn info_lines(daemon: &Waxseal) -> Result<Vec<String>> {
    let text = daemon.docker.ok(&["info"])?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

fn says(lines: &[String], line: &str) -> Result<()> {
    ensure!(
        lines.iter().any(|found| found == line),
        "no line {line:?} in {lines:#?}"
    );
    Ok(())
}

#[test]
fn a_node_without_swarm_says_so() -> Result<()> {
    scenario("inactive", |scene| {
        let node = scene.waxseal("node")?;
        let docker = &node.docker;
        says(&info_lines(&node)?, "Swarm: inactive")?;
        for words in [
            &["node", "ls"][..],
            &["node", "inspect", "self"],
            &["node", "update", "--availability", "drain", "x"],
            &["node", "rm", "x"],
            &["secret", "ls"],
            &["config", "ls"],
            &["service", "ls"],
            &["service", "create", "-d", "host", "true"],
            &["swarm", "join-token", "worker"],
            &["swarm", "unlock-key"],
            &["swarm", "update", "--autolock"],
            &["swarm", "ca"],
            &["stack", "ls"],
        ] {
            let said = docker.fails(words)?;
            ensure!(said.contains(texts::NO_SWARM), "{words:?}: {said}");
        }
        docker.refused_with_input(&["secret", "create", "a", "-"], b"x", texts::NO_SWARM)?;
        docker.refused(&["swarm", "leave"], texts::NOT_PART)?;
        docker.refused(&["swarm", "leave", "--force"], texts::NOT_PART)?;
        let said = docker.fails(&["swarm", "unlock"])?;
        ensure!(said.contains("This node is not part of a swarm"), "{said}");
        node_stops(node)
    })
}

/// Stopped in order, nothing of the daemon's directory is in use any more.
fn node_stops(mut node: Waxseal) -> Result<()> {
    node.stop()?;
    ensure!(!node.engine.socket().exists(), "the socket was left behind");
    ensure!(
        !node.dir().join("pid").exists(),
        "the pid file was left behind"
    );
    Ok(())
}

#[test]
fn init_nodes_and_leave() -> Result<()> {
    scenario("swarm", |scene| {
        let node = scene.waxseal("node")?;
        let docker = &node.docker;
        init_is_checked(&node)?;
        let said = node.init(&[])?;
        let token = node.worker_token()?;
        ensure!(said.contains("Swarm initialized: current node ("), "{said}");
        ensure!(
            said.contains(&format!(
                "docker swarm join --token {token} {}",
                node.remote()
            )),
            "{said}"
        );
        docker.refused(
            &["swarm", "init", "--advertise-addr", "127.0.0.1"],
            texts::ALREADY,
        )?;
        docker.refused(
            &["swarm", "join", "--token", &token, "127.0.0.1:1"],
            texts::ALREADY,
        )?;
        let lines = info_lines(&node)?;
        for line in [
            "Swarm: active",
            "Is Manager: true",
            "Managers: 1",
            "Nodes: 1",
        ] {
            says(&lines, line)?;
        }
        says(&lines, &format!("Node Address: {}", node.address))?;
        says(&lines, "Expiry Duration: 3 months")?;
        says(&lines, "Autolock Managers: false")?;
        tokens(&node, &token)?;
        nodes(&node)?;
        settings(&node)?;
        docker.refused(&["swarm", "leave"], texts::LEAVE_LAST)?;
        ensure!(docker.ok(&["swarm", "leave", "--force"])? == "Node left the swarm.");
        says(&info_lines(&node)?, "Swarm: inactive")?;
        docker.refused(&["node", "ls"], texts::NO_SWARM)?;
        // What was left can be founded anew, with another root.
        node.init(&[])?;
        ensure!(
            node.worker_token()? != token,
            "the new cluster has the old one's token"
        );
        docker.ok(&["swarm", "leave", "--force"])?;
        node_stops(node)
    })
}

fn init_is_checked(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    docker.refused(
        &["swarm", "init", "--advertise-addr", "0.0.0.0"],
        "advertise address must be a non-zero IP address or network interface (with optional port number)",
    )?;
    docker.refused(
        &[
            "swarm",
            "init",
            "--advertise-addr",
            "127.0.0.1",
            "--listen-addr",
            "nonsense",
        ],
        "listen address must be an IP address or network interface (with optional port number)",
    )?;
    let said = docker.fails(&[
        "swarm",
        "init",
        "--advertise-addr",
        &node.remote(),
        "--listen-addr",
        &node.remote(),
        "--cert-expiry",
        "59m",
    ])?;
    ensure!(
        said.contains("minimum certificate expiry time is: 1h0m0s"),
        "{said}"
    );
    says(&info_lines(node)?, "Swarm: inactive")
}

fn tokens(node: &Waxseal, worker: &str) -> Result<()> {
    let docker = &node.docker;
    let manager = docker.ok(&["swarm", "join-token", "-q", "manager"])?;
    let parts = |token: &str| token.split('-').map(str::to_owned).collect::<Vec<_>>();
    let (worker_parts, manager_parts) = (parts(worker), parts(&manager));
    ensure!(worker_parts[..2] == ["SWMTKN", "1"], "{worker}");
    ensure!(
        worker_parts[2].len() == 50 && worker_parts[3].len() == 25,
        "{worker}"
    );
    ensure!(worker_parts[2] == manager_parts[2] && worker_parts[3] != manager_parts[3]);
    let said = docker.ok(&["swarm", "join-token", "worker"])?;
    ensure!(said.contains(&format!(
        "docker swarm join --token {worker} {}",
        node.remote()
    )));
    let said = docker.ok(&["swarm", "join-token", "--rotate", "worker"])?;
    ensure!(
        said.contains("Successfully rotated worker join token."),
        "{said}"
    );
    let rotated = parts(&node.worker_token()?);
    ensure!(rotated[2] == worker_parts[2] && rotated[3] != worker_parts[3]);
    ensure!(docker.ok(&["swarm", "join-token", "-q", "manager"])? == manager);
    Ok(())
}

fn nodes(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    let id = docker.ok(&["node", "ls", "-q"])?;
    ensure!(id.len() == 25, "{id}");
    let columns =
        "{{.ID}} {{.Status}} {{.Availability}} {{.ManagerStatus}} {{.TLSStatus}} {{.Self}}";
    eventually(
        "the node is ready",
        std::time::Duration::from_secs(10),
        || {
            let row = docker.ok(&["node", "ls", "--format", columns])?;
            ensure!(
                row == format!("{id} Ready Active Leader Ready true"),
                "{row}"
            );
            Ok(())
        },
    )?;
    let format = |format: &str| docker.ok(&["node", "inspect", "self", "--format", format]);
    ensure!(
        format("{{.ID}} {{.Spec.Role}} {{.Spec.Availability}}")? == format!("{id} manager active")
    );
    ensure!(
        format("{{.ManagerStatus.Leader}} {{.ManagerStatus.Addr}}")?
            == format!("true {}", node.remote())
    );
    // Where others reach it, though it calls itself at home.
    ensure!(format("{{.Status.Addr}}")? == node.address.to_string());
    let pretty = docker.ok(&["node", "inspect", "--pretty", "self"])?;
    ensure!(pretty.contains("Raft Status:\t\tReachable"), "{pretty}");
    // An id is found by its beginning, a node by its host name.
    let hostname = format("{{.Description.Hostname}}")?;
    for name in [&id[..8], hostname.as_str()] {
        let found = docker.ok(&["node", "inspect", name, "--format", "{{.ID}}"])?;
        ensure!(found == id, "{name} is {found}");
    }
    let said = docker.fails(&["node", "inspect", "nobody"])?;
    ensure!(
        said.contains("node nobody not found") || said.contains("No such node: nobody"),
        "{said}"
    );
    docker.refused(
        &["node", "update", "--availability", "drain", "nobody"],
        "node nobody not found",
    )?;
    docker.ok(&[
        "node",
        "update",
        "--availability",
        "drain",
        "--label-add",
        "disk=ssd",
        &id,
    ])?;
    ensure!(format("{{.Spec.Availability}} {{.Spec.Labels.disk}}")? == "drain ssd");
    ensure!(docker.ok(&["node", "ls", "-q", "--filter", "node.label=disk=ssd"])? == id);
    ensure!(
        docker
            .ok(&["node", "ls", "-q", "--filter", "role=worker"])?
            .is_empty()
    );
    docker.ok(&[
        "node",
        "update",
        "--availability",
        "active",
        "--label-rm",
        "disk",
        &id,
    ])?;
    ensure!(format("{{.Spec.Availability}} {{len .Spec.Labels}}")? == "active 0");
    docker.refused(
        &["node", "demote", &id],
        "rpc error: code = FailedPrecondition desc = attempting to demote the last manager of the swarm",
    )?;
    docker.refused(
        &["node", "rm", &id],
        &format!("rpc error: code = FailedPrecondition desc = node {id} is a cluster manager and is a member of the raft cluster. It must be demoted to worker before removal"),
    )?;
    stale_version(node, &id)
}

/// An update with a version that is not the current one is refused.
fn stale_version(node: &Waxseal, id: &str) -> Result<()> {
    let object = node.engine.get(&format!("/nodes/{id}"))?;
    let index = object["Version"]["Index"].as_u64().context("no version")?;
    for (query, status, text) in [
        (
            format!("version={}", index - 1),
            500,
            "rpc error: code = Unknown desc = update out of sequence",
        ),
        (
            "version=x".to_owned(),
            400,
            "invalid node version 'x': strconv.ParseUint: parsing \"x\": invalid syntax",
        ),
    ] {
        let path = format!("/nodes/{id}/update?{query}");
        let answer = node
            .engine
            .call("POST", &path, Some(&object["Spec"]))?
            .expect(status)?;
        ensure!(answer.message()? == text, "{}", answer.message()?);
    }
    Ok(())
}

fn settings(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    ensure!(docker.ok(&["swarm", "update", "--task-history-limit", "3"])? == "Swarm updated.");
    docker.ok(&["swarm", "update", "--cert-expiry", "48h"])?;
    let lines = info_lines(node)?;
    says(&lines, "Task History Retention Limit: 3")?;
    says(&lines, "Expiry Duration: 2 days")?;
    docker.refused(
        &["swarm", "update", "--cert-expiry", "59m"],
        "rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s",
    )?;
    let root = docker.ok(&["swarm", "ca"])?;
    let file = std::fs::read_to_string(
        node.data_root()
            .join("swarm/certificates/swarm-root-ca.crt"),
    )?;
    ensure!(root.trim() == file.trim(), "`swarm ca` and the file differ");
    Ok(())
}
