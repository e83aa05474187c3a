//! Autolock across managers.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use waxseal_tests::{Managers, Markers, Waxseal, eventually, next_write, scenario};

use super::{FAILOVER, SOON};

const SECRETS: u64 = 50;

/// No secret stands on the disk of any of them.
pub(super) fn clean(group: &Managers, markers: &Markers, when: &str) -> Result<()> {
    for node in &group.nodes {
        // What is renamed while it is looked for is looked for again.
        let found = eventually("every file is read", SOON, || {
            let mut found = Vec::new();
            for file in files(node.data_root().to_owned())? {
                found.extend(markers.in_file(&file)?);
            }
            Ok(found)
        })?;
        ensure!(found.is_empty(), "{when}: {found:?}");
    }
    Ok(())
}

pub(super) fn files(dir: PathBuf) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    Ok(found)
}

pub(super) fn key_file(node: &Waxseal) -> Result<String> {
    let path = node.data_root().join("swarm/certificates/swarm-node.key");
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Whether the private key is sealed in each one's key file.
pub(super) fn sealed(group: &Managers, sealed: bool) -> Result<()> {
    for node in &group.nodes {
        eventually(format!("sealed: {sealed}"), SOON, || {
            let open = key_file(node)?.contains("BEGIN PRIVATE KEY");
            ensure!(open != sealed, "{}: open {open}", node.dir().display());
            Ok(())
        })?;
    }
    Ok(())
}

pub(super) fn fill(node: &Waxseal, markers: &Markers) -> Result<()> {
    let mut connection = node.engine.connect()?;
    for number in 0..SECRETS {
        let data = STANDARD.encode(markers.secret(number));
        let body = json!({"Name": format!("m{number}"), "Data": data});
        connection
            .call("POST", "/secrets/create", Some(&body))?
            .expect(201)?;
    }
    Ok(())
}

#[test]
fn all_lock_and_are_unlocked_one_by_one() -> Result<()> {
    scenario("all-lock", |scene| {
        let mut group = Managers::start(scene, 3, &["--autolock"])?;
        let markers = Markers::new()?;
        let key = group.nodes[0].unlock_key()?;
        for node in &group.nodes {
            ensure!(node.unlock_key()? == key, "another key");
        }
        sealed(&group, true)?;
        fill(&group.nodes[1], &markers)?;
        clean(&group, &markers, "autolock on")?;
        for node in &mut group.nodes {
            node.kill()?;
        }
        for node in &mut group.nodes {
            node.up()?;
            node.reaches("locked")?;
        }
        // The first answers without a quorum, the second brings it.
        group.nodes[2].unlock(&key)?;
        group.nodes[2].reaches("active")?;
        group.nodes[0].unlock(&key)?;
        next_write(&group.nodes[0].engine, "two", SOON)?;
        group.nodes[1].unlock(&key)?;
        group.settled()?;
        for node in &group.nodes {
            let list = node.docker.ok(&["secret", "ls", "-q"])?;
            ensure!(list.lines().count() as u64 >= SECRETS, "{list}");
        }
        clean(&group, &markers, "after the unlock")
    })
}

#[test]
fn autolock_goes_on_rotates_and_goes_off_on_all() -> Result<()> {
    scenario("lock-rotate", |scene| {
        let mut group = Managers::start(scene, 3, &[])?;
        let markers = Markers::new()?;
        fill(&group.nodes[0], &markers)?;
        clean(&group, &markers, "autolock off")?;
        sealed(&group, false)?;
        // 1. On, asked of a follower.
        let follower = group.followers()?[0];
        group.nodes[follower]
            .docker
            .ok(&["swarm", "update", "--autolock=true"])?;
        let first = group.nodes[0].unlock_key()?;
        sealed(&group, true)?;
        clean(&group, &markers, "autolock turned on")?;
        // 2. Rotated while one is down: it needs the old key, then catches up.
        let down = group.followers()?[0];
        let up = (down + 1) % 3;
        group.nodes[down].kill()?;
        group.nodes[up]
            .docker
            .ok(&["swarm", "unlock-key", "--rotate"])?;
        let second = group.nodes[up].unlock_key()?;
        ensure!(first != second, "the key did not change");
        group.nodes[down].up()?;
        group.nodes[down].reaches("locked")?;
        let unlock = &["swarm", "unlock"][..];
        group.nodes[down]
            .docker
            .fails_with_input(unlock, format!("{second}\n").as_bytes())?;
        group.nodes[down].unlock(&first)?;
        group.settled()?;
        // It has taken the new key over soon, and the old one opens nothing any more.
        let node = &mut group.nodes[down];
        eventually("the new key opens it", SOON, || {
            node.restart()?;
            node.reaches("locked")?;
            let opened = node.unlock(&second);
            if opened.is_err() {
                node.unlock(&first)?;
                node.reaches("active")?;
            }
            opened
        })?;
        node.restart()?;
        node.reaches("locked")?;
        node.docker
            .fails_with_input(unlock, format!("{first}\n").as_bytes())?;
        node.unlock(&second)?;
        group.settled()?;
        clean(&group, &markers, "rotated")?;
        // 3. Off: a restart needs nobody.
        group.nodes[down]
            .docker
            .ok(&["swarm", "update", "--autolock=false"])?;
        sealed(&group, false)?;
        group.nodes[up].restart()?;
        group.nodes[up].reaches("active")?;
        group.settled()?;
        next_write(&group.nodes[up].engine, "open", FAILOVER)?;
        clean(&group, &markers, "autolock turned off")
    })
}
