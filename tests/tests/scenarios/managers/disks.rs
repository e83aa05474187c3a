//! Disks of managers that are copied, set back, or left by a manager that is none any more.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use waxseal_tests::{
    DaemonOptions, Managers, Markers, Waxseal, eventually,
    fault::{Fault, Op},
    find, holds_for, next_write, node_id, run, scenario, standings,
};

use super::{
    FAILOVER, SOON,
    locked::{clean, files, fill, key_file, sealed},
};
use crate::texts;

/// For so long it is watched that nobody leads.
const WATCH: Duration = Duration::from_secs(4);
/// What a restored disk lacks: so much that its manager, on a slow disk, does not get it in no time.
const LARGE: usize = 20;
const LARGE_BYTES: usize = 480 * 1024;
const SLOW: Duration = Duration::from_millis(500);
/// By then it has asked the leader what it had.
const ASKED: Duration = Duration::from_secs(1);
/// An answer that says that there is a leader comes at once.
const AT_ONCE: Duration = Duration::from_millis(700);
/// Longer than the ids that a key file and other files both hold, shorter than a key.
const WINDOW_BYTES: usize = 30;
/// A part of an id that nothing else holds.
const ID_PIECE_BYTES: usize = 6;

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = run(Command::new("cp").arg("-a").arg(from).arg(to), SOON)?;
    ensure!(done.code == 0, "{}", done.err());
    Ok(())
}

/// Whoever has the disk and not the key learns nothing of it, and controls nothing.
fn gives_nothing(node: &Waxseal, markers: &Markers, key: &str) -> Result<()> {
    node.reaches("locked")?;
    for words in [
        &["node", "ls"][..],
        &["secret", "ls"],
        &["swarm", "join-token", "-q", "manager"],
        &["swarm", "unlock-key", "-q"],
        &["swarm", "init", "--force-new-cluster"],
        &["swarm", "leave"],
    ] {
        let said = node.docker.fails(words)?;
        ensure!(
            said.contains(texts::LOCKED.trim()) || said.contains("locked"),
            "{words:?}: {said}"
        );
    }
    let other = format!(
        "SWMKEY-1-{}\n",
        STANDARD.encode([7; 32]).trim_end_matches('=')
    );
    node.docker
        .refused_with_input(&["swarm", "unlock"], other.as_bytes(), texts::WRONG_KEY)?;
    let words = [&b"PRIVATE KEY"[..], key.as_bytes(), b"SWMTKN"];
    for file in files(node.data_root().to_owned())? {
        ensure!(markers.in_file(&file)?.is_empty(), "{}", file.display());
        let bytes = fs::read(&file)?;
        for word in words {
            // Sealed ones are named so.
            let open = text_without_sealed(&bytes);
            ensure!(
                find(&open, word).is_none(),
                "{} in {}",
                String::from_utf8_lossy(word),
                file.display()
            );
        }
    }
    Ok(())
}

fn text_without_sealed(bytes: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            let lines = text.lines().filter(|line| !line.contains("SEALED"));
            lines.collect::<Vec<_>>().join("\n").into_bytes()
        }
        Err(_) => bytes.to_vec(),
    }
}

#[test]
fn a_restored_disk_does_not_vote_before_it_has_caught_up() -> Result<()> {
    scenario("restored", |scene| {
        let options = DaemonOptions {
            quiet: true,
            faults: true,
            ..DaemonOptions::default()
        };
        let mut group = Managers::with(scene, vec![options; 3], &["--autolock"])?;
        let markers = Markers::new()?;
        let key = group.nodes[0].unlock_key()?;
        fill(&group.nodes[0], &markers)?;
        let leader = group.leader(0)?;
        let (restored, stale) = ((leader + 1) % 3, (leader + 2) % 3);
        // 1. A copy of a manager's disk. Started elsewhere, it is locked.
        group.nodes[restored].kill()?;
        let copied = scene.dir().join("copied");
        let data_root = group.nodes[restored].data_root().to_owned();
        copy(&data_root, &copied)?;
        let elsewhere = scene.dir().join("elsewhere");
        copy(&copied, &elsewhere)?;
        let options = DaemonOptions {
            quiet: true,
            data_root: Some(elsewhere),
            ..DaemonOptions::default()
        };
        gives_nothing(&Waxseal::start(scene, "thief", &options)?, &markers, &key)?;
        group.nodes[restored].up()?;
        group.nodes[restored].unlock(&key)?;
        group.settled()?;
        // 2. What is acknowledged now is on two disks, one of which is set back then.
        group.nodes[stale].kill()?;
        next_write(&group.nodes[leader].engine, "kept", FAILOVER)?;
        let mut connection = group.nodes[leader].engine.connect()?;
        for number in 0..LARGE {
            let data = STANDARD.encode(vec![b'x'; LARGE_BYTES]);
            let body = json!({"Name": format!("large-{number}"), "Data": data});
            let answer = connection.call("POST", "/secrets/create", Some(&body))?;
            answer.expect(201)?;
        }
        group.nodes[restored].kill()?;
        fs::remove_dir_all(&data_root)?;
        copy(&copied, &data_root)?;
        group.nodes[restored].up()?;
        gives_nothing(&group.nodes[restored], &markers, &key)?;
        // 3. It learns what it had, and takes long to get it again.
        let fault = Fault::on(&group.nodes[restored]);
        fault.delay("raft/log-", Op::Write, SLOW)?;
        group.nodes[restored].unlock(&key)?;
        sleep(ASKED);
        // 4. It and the one that never had it are two of three, and elect nobody.
        group.nodes[leader].kill()?;
        group.nodes[stale].up()?;
        group.nodes[stale].unlock(&key)?;
        let none_leads = || {
            for index in [restored, stale] {
                let hasty = group.nodes[index].engine.clone().with_limit(AT_ONCE);
                ensure!(hasty.get("/secrets").is_err(), "{index} has a leader");
            }
            Ok(())
        };
        holds_for("nobody is elected", WATCH, none_leads)?;
        fault.clear()?;
        holds_for("nobody is elected", WATCH / 2, none_leads)?;
        // 5. Who has all leads.
        group.nodes[leader].up()?;
        group.nodes[leader].unlock(&key)?;
        next_write(&group.nodes[leader].engine, "after", SOON)?;
        group.settled()?;
        for node in &group.nodes {
            let names = node.docker.ok(&["secret", "ls", "--format", "{{.Name}}"])?;
            ensure!(names.lines().any(|name| name == "kept-1"), "{names}");
        }
        // 6. Then the restored one is as good as the others.
        group.nodes[leader].kill()?;
        next_write(&group.nodes[restored].engine, "without", FAILOVER)?;
        clean(&group, &markers, "after all")
    })
}

/// What a manager's key file holds, to be looked for on its disk when it is a worker.
struct KeyMaterial {
    needles: Vec<Vec<u8>>,
}

impl KeyMaterial {
    fn of(node: &Waxseal, unlock_key: Option<&str>) -> Result<KeyMaterial> {
        let text = key_file(node)?;
        // Other files name them as well.
        let swarm = node.engine.get("/info")?["Swarm"].clone();
        let ids = [&swarm["NodeID"], &swarm["Cluster"]["ID"]];
        let ids = ids.map(|id| id.as_str().unwrap_or_default().as_bytes().to_vec());
        let names_one = |bytes: &[u8]| {
            let mut pieces = ids.iter().flat_map(|id| id.windows(ID_PIECE_BYTES));
            pieces.any(|piece| find(bytes, piece).is_some())
        };
        let mut needles = Vec::new();
        let mut block = String::new();
        let mut is_tls_key = false;
        for line in text.lines() {
            if line.starts_with("-----BEGIN") {
                block.clear();
                is_tls_key = line.contains("BEGIN PRIVATE KEY");
            } else if line.starts_with("-----END") {
                let bytes = STANDARD.decode(&block).context("no base64")?;
                // The standard header of a key is in each key file.
                if !is_tls_key {
                    let windows = bytes.windows(WINDOW_BYTES);
                    needles.extend(windows.filter(|part| !names_one(part)).map(<[u8]>::to_vec));
                }
            } else {
                block.push_str(line);
                if !STANDARD.decode(line).is_ok_and(|bytes| names_one(&bytes)) {
                    needles.push(line.as_bytes().to_vec());
                }
            }
        }
        if let Some(key) = unlock_key {
            let body = key.strip_prefix("SWMKEY-1-").context("no unlock key")?;
            needles.push(body.as_bytes().to_vec());
            let padded = format!("{body}{}", "=".repeat((4 - body.len() % 4) % 4));
            needles.push(STANDARD.decode(padded)?);
        }
        needles.retain(|needle| needle.len() >= WINDOW_BYTES);
        ensure!(needles.len() > 10, "{} needles", needles.len());
        Ok(KeyMaterial { needles })
    }

    fn is_gone(&self, files: &[PathBuf]) -> Result<()> {
        for file in files {
            let bytes = fs::read(file)?;
            let found = self
                .needles
                .iter()
                .position(|needle| find(&bytes, needle).is_some());
            ensure!(found.is_none(), "key material in {}", file.display());
        }
        Ok(())
    }
}

/// A role that the cluster shows, and the node's own word for it.
fn becomes(asked: &Waxseal, node: &Waxseal, manager: bool) -> Result<()> {
    let id = node_id(&node.engine)?;
    eventually(format!("{id} is a manager: {manager}"), SOON, || {
        let all = standings(&asked.engine)?;
        let own = all.iter().find(|one| one.id == id).context("unknown")?;
        ensure!(own.reachability.is_empty() != manager, "{own:?}");
        let info = node.engine.get("/info")?;
        ensure!(
            info["Swarm"]["ControlAvailable"] == manager,
            "{}",
            info["Swarm"]
        );
        Ok(())
    })
}

#[test]
fn a_demoted_managers_disk_holds_nothing_of_the_cluster() -> Result<()> {
    scenario("demoted-disk", |scene| {
        let group = Managers::start(scene, 3, &[])?;
        let markers = Markers::new()?;
        fill(&group.nodes[0], &markers)?;
        let [one, _, node] = &group.nodes[..] else {
            anyhow::bail!("not three");
        };
        let id = node_id(&node.engine)?;
        for locked in [false, true] {
            let mut key = None;
            if locked {
                one.docker.ok(&["swarm", "update", "--autolock=true"])?;
                sealed(&group, true)?;
                key = Some(one.unlock_key()?);
            }
            let key_file = [node.data_root().join("swarm/certificates/swarm-node.key")];
            // The file is written anew with each certificate, which a promotion brings.
            let material = eventually("there is something to look for", SOON, || {
                let material = KeyMaterial::of(node, key.as_deref())?;
                ensure!(material.is_gone(&key_file).is_err(), "nothing");
                Ok(material)
            })?;
            eventually("it is demoted", SOON, || {
                one.docker.ok(&["node", "demote", &id]).map(drop)
            })?;
            becomes(one, node, false)?;
            let raft = node.data_root().join("swarm/raft");
            eventually("its log is gone", SOON, || {
                ensure!(!raft.exists(), "{} is there", raft.display());
                Ok(())
            })?;
            let left = files(node.data_root().to_owned())?;
            material.is_gone(&left)?;
            for file in &left {
                ensure!(markers.in_file(file)?.is_empty(), "{}", file.display());
                let text = String::from_utf8_lossy(&fs::read(file)?).into_owned();
                let keys = text.matches("PRIVATE KEY-----").count() / 2;
                let own = usize::from(file.ends_with("swarm-node.key"));
                ensure!(keys == own, "{keys} keys in {}", file.display());
                ensure!(!text.contains("SWMTKN"), "a token in {}", file.display());
            }
            eventually("it is promoted", SOON, || {
                one.docker.ok(&["node", "promote", &id]).map(drop)
            })?;
            becomes(one, node, true)?;
            group.settled()?;
        }
        sealed(&group, true)?;
        clean(&group, &markers, "promoted again")
    })
}
