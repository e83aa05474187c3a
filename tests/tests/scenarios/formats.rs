//! Formats of earlier versions are read, those of later ones are refused by name.
//!
//! Golden files of what is sealed lie beside the crates that seal it; here are those of the
//! cluster's commands and state, and a whole state directory. None of them ever changes; a new
//! version adds its own.

use std::{
    collections::BTreeMap, fs, path::Path, process::Command as Process, sync::Arc, time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message;
use prost_types::Timestamp;
use serde_json::json;
use waxseal_cluster::{
    PlainVault, State, decode_batch, decode_command, encode_batch,
    objects::{
        self, Actor, Annotations, Bootstrap, Cluster, ClusterSpec, Command, Config, ConfigSpec,
        CreateConfig, CreateSecret, JoinTokens, Node, NodeRole, NodeSpec, RootCa, Secret,
        SecretSpec, StateSnapshot, actor::Who, command::Op,
    },
};
use waxseal_tests::{
    DaemonOptions, NetworkNamespace, Scene, Waxseal, golden, golden_with_version, run, scenario,
};

use super::texts;

const LIMIT: Duration = Duration::from_secs(20);
const TIME: Timestamp = Timestamp {
    seconds: 1_800_000_000,
    nanos: 5,
};

fn annotations(name: &str) -> Annotations {
    Annotations {
        name: name.to_owned(),
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
    }
}

fn by(who: Who, op: Op) -> Command {
    Command::new(Actor { who: Some(who) }, TIME, op)
}

fn create_secret() -> Command {
    let secret = Secret {
        id: "secret0000000000000000001".to_owned(),
        spec: Some(SecretSpec {
            annotations: Some(annotations("db_pass")),
            data: b"content".to_vec(),
            ..SecretSpec::default()
        }),
        ..Secret::default()
    };
    by(
        Who::SocketUid(0),
        Op::CreateSecret(CreateSecret {
            secret: Some(secret),
        }),
    )
}

fn create_config() -> Command {
    let config = Config {
        id: "config0000000000000000001".to_owned(),
        spec: Some(ConfigSpec {
            annotations: Some(annotations("settings")),
            data: b"level=3".to_vec(),
            ..ConfigSpec::default()
        }),
        ..Config::default()
    };
    let node = "node00000000000000000000a".to_owned();
    by(
        Who::NodeId(node),
        Op::CreateConfig(CreateConfig {
            config: Some(config),
        }),
    )
}

fn bootstrap() -> Command {
    let cluster = Cluster {
        id: "cluster000000000000000001".to_owned(),
        spec: Some(ClusterSpec {
            annotations: Some(annotations("default")),
            ..ClusterSpec::default()
        }),
        root_ca: Some(RootCa {
            join_tokens: Some(JoinTokens::default()),
            ..RootCa::default()
        }),
        ..Cluster::default()
    };
    let node = Node {
        id: "node00000000000000000000a".to_owned(),
        role: NodeRole::Manager.into(),
        spec: Some(NodeSpec {
            desired_role: NodeRole::Manager.into(),
            annotations: Some(Annotations::default()),
            ..NodeSpec::default()
        }),
        ..Node::default()
    };
    let op = Bootstrap {
        cluster: Some(cluster),
        node: Some(node),
    };
    by(Who::Component("golden".to_owned()), Op::Bootstrap(op))
}

/// The state after all three commands.
fn state() -> Result<State> {
    let mut state = State::new(Arc::new(PlainVault));
    for command in [bootstrap(), create_secret(), create_config()] {
        state.apply(command)?;
    }
    Ok(state)
}

#[test]
fn commands_of_version_1_are_read() -> Result<()> {
    let command = create_secret();
    let bytes = golden("command-v1.bin", || command.encode_to_vec())?;
    ensure!(decode_command(&bytes)? == command);
    // Field 1, a varint: the format.
    let newer = golden_with_version(&bytes, 1, 1)?;
    let error = decode_command(&newer)
        .err()
        .context("a newer command was read")?
        .to_string();
    ensure!(
        error.contains("format 2") && error.contains("up to 1"),
        "{error}"
    );
    Ok(())
}

#[test]
fn batches_of_version_1_are_read() -> Result<()> {
    let commands = [create_secret(), create_config()];
    let encoded = commands.each_ref().map(Message::encode_to_vec);
    let bytes = golden("batch-v1.bin", || {
        encode_batch(&encoded)
            .map(|b| b.to_vec())
            .unwrap_or_default()
    })?;
    let read = decode_batch(&bytes)?.collect::<Result<Vec<_>, _>>()?;
    ensure!(read == commands);
    let newer = golden_with_version(&bytes, 0, 1)?;
    let error = decode_batch(&newer)
        .err()
        .context("a newer batch was read")?
        .to_string();
    ensure!(
        error.contains("format 2") && error.contains("up to 1"),
        "{error}"
    );
    Ok(())
}

#[test]
fn snapshots_of_version_1_are_read() -> Result<()> {
    let made = state()?.snapshot().encode_to_vec();
    ensure!(
        made == state()?.snapshot().encode_to_vec(),
        "equal states, other bytes"
    );
    let bytes = golden("snapshot-v1.bin", || made)?;
    let restored = State::restore(
        StateSnapshot::decode(bytes.as_slice())?,
        Arc::new(PlainVault),
    )?;
    ensure!(restored.secrets().count() == 1 && restored.configs().count() == 1);
    // Nothing is lost on the way, and nothing added.
    ensure!(
        restored.snapshot().encode_to_vec() == bytes,
        "read and written it is another"
    );
    let name = restored
        .secrets()
        .next()
        .and_then(|secret| objects::Secret::clone(secret).spec);
    ensure!(name.and_then(|spec| spec.annotations) == Some(annotations("db_pass")));
    let newer = golden_with_version(&bytes, 1, 1)?;
    let newer = StateSnapshot::decode(newer.as_slice())?;
    let error = State::restore(newer, Arc::new(PlainVault))
        .err()
        .context("read")?
        .to_string();
    ensure!(
        error.contains("format 2") && error.contains("up to 1"),
        "{error}"
    );
    Ok(())
}

/// Address of the golden state directories.
const GOLDEN_ADDRESS: &str = "127.77.77.77:2377";

/// The state directory of an autolocked manager, as a tar file.
fn make_state(scene: &Scene) -> Result<(Vec<u8>, String)> {
    let mut node = scene.waxseal("maker")?;
    // The certificate must outlive every binary that reads the file: 17 years.
    node.docker.ok(&[
        "swarm",
        "init",
        "--autolock",
        "--cert-expiry",
        "150000h",
        "--listen-addr",
        GOLDEN_ADDRESS,
        "--advertise-addr",
        GOLDEN_ADDRESS,
    ])?;
    node.docker.ok_with_input(
        &["secret", "create", "--label", "app=web", "db_pass", "-"],
        b"golden\n",
    )?;
    node.docker
        .ok_with_input(&["config", "create", "settings", "-"], b"level=3\n")?;
    node.docker.ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        "0",
        "--network",
        "host",
        "--secret",
        "db_pass",
        "--config",
        "settings",
        "--stop-signal",
        "KILL",
        "host",
        "sh",
        "-c",
        "cat /run/secrets/db_pass /settings; exec sleep 1000",
    ])?;
    let key = node.unlock_key()?;
    node.stop()?;
    let tar = run(
        Process::new("tar")
            .arg("-C")
            .arg(node.data_root())
            .args(["-cz", "swarm"]),
        LIMIT,
    )?;
    ensure!(tar.code == 0, "{}", tar.err());
    Ok((tar.stdout, key))
}

/// A daemon with the golden state, not started. The address is the same each time, so it has a
/// network of its own.
fn unpacked(scene: &Scene, network: &NetworkNamespace, bytes: &[u8]) -> Result<Waxseal> {
    let options = DaemonOptions {
        wrapper: network.enter(),
        ..DaemonOptions::default()
    };
    let node = Waxseal::prepare(scene, "node", &options)?;
    unpack(bytes, node.data_root())?;
    Ok(node)
}

fn unpack(bytes: &[u8], into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    let mut tar = Process::new("tar");
    tar.arg("-C").arg(into).args(["-xz", "--no-same-owner"]);
    let output = waxseal_tests::run_with_input(&mut tar, bytes, LIMIT)?;
    ensure!(output.code == 0, "{}", output.err());
    Ok(())
}

#[test]
fn a_state_directory_of_version_1_is_opened() -> Result<()> {
    is_opened("state-v1")
}

/// `node.pb` is at format 2 there.
#[test]
fn a_state_directory_of_version_2_is_opened() -> Result<()> {
    is_opened("state-v2")
}

fn is_opened(name: &str) -> Result<()> {
    scenario("golden", |scene| {
        let mut made = None;
        let bytes = golden(&format!("{name}.tar.gz"), || {
            let (bytes, key) = make_state(scene).expect("the state directory was made");
            made = Some(key);
            bytes
        })?;
        let key = golden(&format!("{name}.key"), || {
            made.unwrap_or_default().into_bytes()
        })?;
        let key = String::from_utf8(key)?;
        let network = NetworkNamespace::new(scene)?;
        let mut node = unpacked(scene, &network, &bytes)?;
        node.up()?;
        node.reaches("locked")?;
        node.docker.refused(&["secret", "ls"], texts::LOCKED)?;
        node.unlock(&key)?;
        let labels = [
            "secret",
            "inspect",
            "db_pass",
            "--format",
            "{{.Spec.Labels.app}}",
        ];
        ensure!(node.docker.ok(&labels)? == "web");
        node.docker
            .ok(&["service", "update", "-d", "--replicas", "1", "web"])?;
        waxseal_tests::eventually("a task reads secret and config", LIMIT, || {
            let text = node.docker.ok(&["service", "logs", "--raw", "web"])?;
            ensure!(text == "golden\nlevel=3", "{text:?}");
            Ok(())
        })?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// A version that no format of these will soon have.
const MUCH_NEWER: u8 = 99;

/// Raises the version in the preamble of a sealed thing: magic (8), version (2), zero (2),
/// CRC-32 of these.
fn raise(preamble: &mut [u8]) -> Result<()> {
    let version = preamble.get_mut(9).context("no preamble")?;
    ensure!(*version == 1, "version {version}");
    *version = MUCH_NEWER;
    let sum = crc32fast::hash(&preamble[..12]).to_be_bytes();
    preamble[12..16].copy_from_slice(&sum);
    Ok(())
}

/// The only block of a PEM file, raised.
fn raise_pem(bytes: &[u8]) -> Result<Vec<u8>> {
    let text = str::from_utf8(bytes)?;
    let mut lines: Vec<&str> = text.lines().collect();
    let (first, last) = (lines.remove(0), lines.pop().context("no end")?);
    let mut block = STANDARD.decode(lines.concat())?;
    raise(&mut block)?;
    let encoded = STANDARD.encode(block);
    let encoded: Vec<&str> = encoded
        .as_bytes()
        .chunks(64)
        .map(str::from_utf8)
        .collect::<Result<_, _>>()?;
    Ok(format!("{first}\n{}\n{last}\n", encoded.join("\n")).into_bytes())
}

/// A file of the state directory as a newer version would have it.
fn newer_file(name: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut newer = bytes.to_vec();
    match name {
        // Field 1, a varint.
        "node.pb" => {
            golden_with_version(bytes, 1, 1)?;
            newer[1] = MUCH_NEWER;
        }
        "certificates/swarm-node.key" => newer = raise_pem(bytes)?,
        "raft/vote" => {
            raise(&mut newer)?;
            raise(newer.get_mut(4096..).context("no second slot")?)?;
        }
        _ => raise(&mut newer)?,
    }
    Ok(newer)
}

#[test]
fn a_state_directory_of_a_newer_version_is_refused_and_kept() -> Result<()> {
    scenario("newer", |scene| {
        let bytes = golden("state-v1.tar.gz", Vec::new)?;
        let key = String::from_utf8(golden("state-v1.key", Vec::new)?)?;
        let network = NetworkNamespace::new(scene)?;
        let mut node = unpacked(scene, &network, &bytes)?;
        for (name, is_seen_at_start) in [
            ("node.pb", true),
            ("certificates/swarm-node.key", true),
            ("raft/vote", false),
            ("raft/log-0000000000000001.seg", false),
        ] {
            let path = node.data_root().join("swarm").join(name);
            let good = fs::read(&path)?;
            let newer = newer_file(name, &good).context(name)?;
            fs::write(&path, &newer)?;
            node.up()?;
            let said = if is_seen_at_start {
                node.reaches("error")?;
                node.engine.get("/info")?["Swarm"]["Error"].to_string()
            } else {
                node.reaches("locked")?;
                let body = json!({"UnlockKey": key});
                let answer = node.engine.call("POST", "/swarm/unlock", Some(&body))?;
                answer.expect(500)?.message()?
            };
            for part in [name, "format 99", "start the newer"] {
                ensure!(said.contains(part), "no {part:?} in {said}");
            }
            node.stop()?;
            ensure!(fs::read(&path)? == newer, "{name} was changed");
            fs::write(&path, &good)?;
        }
        // Nothing else was touched either.
        node.up()?;
        node.reaches("locked")?;
        node.unlock(&key)?;
        ensure!(node.docker.ok(&["secret", "ls", "--format", "{{.Name}}"])? == "db_pass");
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}
