//! The stock CLI: autolock, restart, unlock, key rotation.

use std::fs;

use anyhow::{Result, ensure};
use waxseal_tests::{Waxseal, scenario};

use super::texts;

/// A key of the right form that opens nothing.
const STRANGE_KEY: &str = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8";

#[test]
fn a_restarted_manager_stays_locked_until_it_is_unlocked() -> Result<()> {
    scenario("autolock", |scene| {
        let mut node = scene.waxseal("node")?;
        let said = node.init(&["--autolock"])?;
        let key = node.unlock_key()?;
        ensure!(said.contains(&key), "init did not print the key: {said}");
        ensure!(key.starts_with("SWMKEY-1-") && key.len() == 52, "{key}");
        let docker = node.docker.clone();
        docker.ok_with_input(
            &["secret", "create", "--label", "a=b", "keepme", "-"],
            b"content",
        )?;
        docker.ok_with_input(&["config", "create", "settings", "-"], b"content")?;
        docker.ok(&[
            "service",
            "create",
            "-d",
            "--name",
            "none",
            "--replicas",
            "0",
            "host",
            "true",
        ])?;
        let before = everything(&node)?;
        node.restart()?;
        node.reaches("locked")?;
        locked(&node)?;
        wrong_keys(&node)?;
        node.unlock(&key)?;
        ensure!(node.engine.get("/info")?["Swarm"]["LocalNodeState"] == "active");
        ensure!(everything(&node)? == before, "not everything is there");
        let answer = node.engine.send_bytes(
            "POST",
            "/swarm/unlock",
            format!(r#"{{"UnlockKey":"{key}"}}"#).into_bytes(),
        )?;
        ensure!(answer.expect(409)?.message()? == "swarm is not locked");
        // A kill is a restart like any other.
        node.kill()?;
        node.up()?;
        node.reaches("locked")?;
        node.unlock(&key)?;
        ensure!(
            everything(&node)? == before,
            "not everything is there after a kill"
        );
        docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// Names and ids of all that was made, as the CLI lists them.
fn everything(node: &Waxseal) -> Result<Vec<String>> {
    let docker = &node.docker;
    Ok(vec![
        docker.ok(&["secret", "ls", "--format", "{{.ID}} {{.Name}} {{.Labels}}"])?,
        docker.ok(&["config", "ls", "--format", "{{.ID}} {{.Name}}"])?,
        docker.ok(&[
            "service",
            "ls",
            "--format",
            "{{.ID}} {{.Name}} {{.Replicas}}",
        ])?,
        docker.ok(&["node", "ls", "--format", "{{.ID}} {{.ManagerStatus}}"])?,
        docker.ok(&["swarm", "join-token", "-q", "worker"])?,
        docker.ok(&["swarm", "join-token", "-q", "manager"])?,
        docker.ok(&["swarm", "unlock-key", "-q"])?,
        docker.ok(&["swarm", "ca"])?,
    ])
}

/// Every call of a locked manager.
fn locked(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    let info = &node.engine.get("/info")?["Swarm"];
    ensure!(info["LocalNodeState"] == "locked", "{info}");
    ensure!(
        info["NodeID"] == "" && info["ControlAvailable"] == false,
        "{info}"
    );
    ensure!(info["NodeAddr"] == node.address.to_string(), "{info}");
    ensure!(info["Error"] == texts::LOCKED, "{info}");
    ensure!(
        info["RemoteManagers"].is_null() && info["Cluster"].is_null(),
        "{info}"
    );
    ensure!(
        docker
            .ok(&["info"])?
            .lines()
            .any(|line| line.trim() == "Swarm: locked")
    );
    node.engine.call("GET", "/_ping", None)?.expect(200)?;
    docker.ok(&["version"])?;
    for words in [
        &["node", "ls"][..],
        &["node", "inspect", "x"],
        &["node", "update", "--availability", "drain", "x"],
        &["node", "promote", "x"],
        &["node", "rm", "x"],
        &["secret", "ls"],
        &["secret", "inspect", "keepme"],
        &["secret", "rm", "keepme"],
        &["config", "ls"],
        &["config", "inspect", "settings"],
        &["config", "rm", "settings"],
        &["service", "ls"],
        &["service", "ps", "none"],
        &["service", "logs", "none"],
        &["service", "scale", "none=1"],
        &["service", "create", "-d", "host", "true"],
        &["service", "rm", "none"],
        &["stack", "ls"],
        &["swarm", "join-token", "worker"],
        &["swarm", "unlock-key"],
        &["swarm", "unlock-key", "--rotate"],
        &["swarm", "update", "--autolock=false"],
        &["swarm", "ca"],
    ] {
        let said = docker.fails(words)?;
        ensure!(said.contains(texts::LOCKED), "{words:?}: {said}");
    }
    docker.refused_with_input(&["secret", "create", "a", "-"], b"x", texts::LOCKED)?;
    docker.refused_with_input(&["config", "create", "a", "-"], b"x", texts::LOCKED)?;
    docker.refused(
        &["swarm", "init", "--advertise-addr", "127.0.0.1"],
        texts::ALREADY,
    )?;
    docker.fails(&[
        "swarm",
        "init",
        "--force-new-cluster",
        "--advertise-addr",
        "127.0.0.1",
    ])?;
    docker.refused(
        &["swarm", "join", "--token", "x", "127.0.0.1:1"],
        texts::ALREADY,
    )?;
    docker.refused(&["swarm", "leave"], texts::LEAVE_LOCKED)
}

fn wrong_keys(node: &Waxseal) -> Result<()> {
    let docker = &node.docker;
    let unlock = &["swarm", "unlock"][..];
    docker.refused_with_input(
        unlock,
        format!("{STRANGE_KEY}\n").as_bytes(),
        texts::WRONG_KEY,
    )?;
    for malformed in [
        "SWMKEY-2-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8",
        "SWMKEY-1-?",
        "x",
    ] {
        docker.refused_with_input(
            unlock,
            format!("{malformed}\n").as_bytes(),
            texts::MALFORMED_KEY,
        )?;
    }
    for (body, status) in [
        (r#"{"UnlockKey":""}"#.to_owned(), 400),
        (format!(r#"{{"UnlockKey":" {STRANGE_KEY}"}}"#), 400),
        (format!(r#"{{"UnlockKey":"{STRANGE_KEY}"}}"#), 401),
    ] {
        node.engine
            .send_bytes("POST", "/swarm/unlock", body.into_bytes())?
            .expect(status)?;
    }
    node.reaches("locked")
}

#[test]
fn the_unlock_key_rotates_and_autolock_goes_off_and_on() -> Result<()> {
    scenario("rotate", |scene| {
        let mut node = scene.waxseal("node")?;
        node.init(&[])?;
        let docker = node.docker.clone();
        let said = docker.fails(&["swarm", "unlock-key"])?;
        ensure!(said.contains("no unlock key is set"), "{said}");
        let said = docker.fails(&["swarm", "unlock-key", "--rotate"])?;
        ensure!(
            said.contains("cannot rotate because autolock is not turned on"),
            "{said}"
        );
        docker.ok_with_input(&["secret", "create", "keepme", "-"], b"content")?;
        // 1. Off: a restart needs nobody.
        node.restart()?;
        node.reaches("active")?;
        let open = key_file(&node)?;
        ensure!(
            open.contains("BEGIN PRIVATE KEY"),
            "openssl could not read this: {open}"
        );
        // 2. On: the key file is sealed at once and another key is in it.
        let said = docker.ok(&["swarm", "update", "--autolock=true"])?;
        let first = node.unlock_key()?;
        ensure!(said.contains(&first), "{said}");
        sealed_soon(&node)?;
        docker.ok(&["swarm", "update", "--autolock=true"])?;
        ensure!(
            node.unlock_key()? == first,
            "turning it on again changed the key"
        );
        // 3. Rotated: only the new key opens.
        let said = docker.ok(&["swarm", "unlock-key", "--rotate"])?;
        let second = node.unlock_key()?;
        ensure!(
            said.contains("Successfully rotated manager unlock key."),
            "{said}"
        );
        ensure!(said.contains(&second) && first != second, "{said}");
        rotated_soon(&mut node, &first, &second)?;
        ensure!(docker.ok(&["secret", "ls", "--format", "{{.Name}}"])? == "keepme");
        // 4. Off again: no key is needed, none is shown.
        docker.ok(&["swarm", "update", "--autolock=false"])?;
        ensure!(
            docker
                .fails(&["swarm", "unlock-key"])?
                .contains("no unlock key is set")
        );
        node.restart()?;
        node.reaches("active")?;
        ensure!(docker.ok(&["secret", "ls", "--format", "{{.Name}}"])? == "keepme");
        // 5. On once more: a third key, and leaving by force needs none.
        docker.ok(&["swarm", "update", "--autolock=true"])?;
        let third = node.unlock_key()?;
        ensure!(third != first && third != second, "an old key came back");
        node.restart()?;
        node.reaches("locked")?;
        docker.refused(&["swarm", "leave"], texts::LEAVE_LOCKED)?;
        docker.ok(&["swarm", "leave", "--force"])?;
        node.reaches("inactive")?;
        let left = fs::read_dir(node.data_root().join("swarm"))?.count();
        ensure!(left == 0, "{left} entries of the state are left");
        Ok(())
    })
}

fn key_file(node: &Waxseal) -> Result<String> {
    Ok(fs::read_to_string(
        node.data_root().join("swarm/certificates/swarm-node.key"),
    )?)
}

/// The answer came after the file was sealed.
fn sealed_soon(node: &Waxseal) -> Result<()> {
    let text = key_file(node)?;
    ensure!(
        !text.contains("BEGIN PRIVATE KEY"),
        "the key file is open: {text}"
    );
    Ok(())
}

fn rotated_soon(node: &mut Waxseal, old: &str, new: &str) -> Result<()> {
    node.restart()?;
    node.reaches("locked")?;
    node.docker.refused_with_input(
        &["swarm", "unlock"],
        format!("{old}\n").as_bytes(),
        texts::WRONG_KEY,
    )?;
    node.unlock(new)?;
    Ok(())
}
