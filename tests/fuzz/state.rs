//! The cluster's commands and state, as managers send and store them.

use std::sync::{Arc, LazyLock};

use prost::Message;
use prost_types::Timestamp;
use waxseal_cluster::{
    NewCluster, PlainVault, Restorer, State, decode_batch, decode_command, default_cluster_spec,
    encode_batch, encode_command, new_cluster,
    objects::{
        Actor, Annotations, Bootstrap, Command, CreateNode, CreateSecret, JoinTokens, Node,
        NodeRole, NodeSpec, RootCa, Secret, SecretSpec, UpdateCluster, actor::Who, command::Op,
    },
};

use crate::Target;

/// Decoded messages are many times their encoding: two bytes can be an empty object of 1.5 KiB,
/// in a list that doubles as it grows. Only managers send these.
const ROOM: (usize, usize) = (512 << 10, 4096);

pub(crate) fn targets() -> Vec<Target> {
    let target = |name, seeds, check| Target {
        name,
        words: &[
            "default",
            "cluster000000000000000001",
            "node00000000000000000000a",
        ],
        room: ROOM,
        seeds,
        check,
    };
    vec![
        target("command", commands, command),
        target("snapshot", snapshots, snapshot),
    ]
}

fn by(op: Op) -> Command {
    let actor = Actor {
        who: Some(Who::SocketUid(0)),
    };
    let time = Timestamp {
        seconds: 1_800_000_000,
        nanos: 5,
    };
    Command::new(actor, time, op)
}

fn node(id: &str, role: NodeRole) -> Node {
    Node {
        id: id.to_owned(),
        role: role.into(),
        spec: Some(NodeSpec {
            desired_role: role.into(),
            annotations: Some(Annotations::default()),
            ..NodeSpec::default()
        }),
        ..Node::default()
    }
}

fn script() -> Vec<Command> {
    let cluster = new_cluster(NewCluster {
        id: "cluster000000000000000001".to_owned(),
        root_ca: RootCa {
            join_tokens: Some(JoinTokens::default()),
            ..RootCa::default()
        },
        spec: default_cluster_spec(),
        unlock_key: None,
    });
    let secret = Secret {
        id: "secret0000000000000000001".to_owned(),
        spec: Some(SecretSpec {
            annotations: Some(Annotations {
                name: "db_pass".to_owned(),
                ..Annotations::default()
            }),
            data: b"content".to_vec(),
            ..SecretSpec::default()
        }),
        ..Secret::default()
    };
    vec![
        by(Op::Bootstrap(Bootstrap {
            cluster: Some(cluster.clone()),
            node: Some(node("node00000000000000000000a", NodeRole::Manager)),
        })),
        by(Op::CreateNode(CreateNode {
            node: Some(node("node00000000000000000000b", NodeRole::Worker)),
        })),
        by(Op::CreateSecret(CreateSecret {
            secret: Some(secret),
        })),
        by(Op::UpdateCluster(UpdateCluster {
            cluster: Some(cluster),
            expected_version: 0,
        })),
    ]
}

static STATE: LazyLock<State> = LazyLock::new(|| {
    let mut state = State::new(Arc::new(PlainVault));
    for command in script().into_iter().take(3) {
        state.apply(command).expect("the script");
    }
    state
});

fn commands() -> Vec<Vec<u8>> {
    let encoded: Vec<_> = script()
        .iter()
        .map(|command| encode_command(command).expect("a small command"))
        .collect();
    let mut seeds = vec![include_bytes!("../golden/batch-v1.bin").to_vec()];
    seeds.push(encode_batch(&encoded).expect("a batch").to_vec());
    for command in &encoded {
        seeds.push(encode_batch(&[command]).expect("a batch").to_vec());
    }
    seeds
}

/// What is read is applied the same way twice, and leaves a state that can be stored.
fn command(input: &[u8]) -> String {
    let commands = match decode_batch(input) {
        Ok(commands) => commands,
        Err(error) => return error.to_string(),
    };
    let mut outcome = String::new();
    let (mut one, mut other) = (STATE.clone(), STATE.clone());
    for command in commands {
        let command = match command {
            Ok(command) => command,
            Err(error) => return format!("{outcome}{error}"),
        };
        let encoded = encode_command(&command).expect("no larger than it was");
        assert!(
            decode_command(&encoded) == Ok(command.clone()),
            "it changed"
        );
        let applied = one.apply(command.clone());
        match (&applied, other.apply(command)) {
            (Ok(one), Ok(other)) => {
                assert_eq!(one.version, other.version);
                outcome += "applied ";
            }
            (Err(one), Err(other)) => {
                assert_eq!(*one, other);
                outcome += &one.to_string();
            }
            _ => panic!("two states differ about a command"),
        }
    }
    assert!(one.snapshot() == other.snapshot(), "two states differ");
    stores(&one);
    outcome
}

fn stores(state: &State) {
    let mut restorer = Restorer::new(Arc::new(PlainVault));
    for piece in state.freeze().pieces() {
        restorer.add(&piece).expect("its own pieces");
    }
    let again = restorer.finish().expect("a whole state");
    assert!(
        again.snapshot() == state.snapshot(),
        "a state is not restored as it was"
    );
}

fn snapshots() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../golden/snapshot-v1.bin").to_vec(),
        STATE.snapshot().encode_to_vec(),
    ]
}

fn snapshot(input: &[u8]) -> String {
    let mut restorer = Restorer::new(Arc::new(PlainVault));
    if let Err(refusal) = restorer.add(input) {
        return refusal.to_string();
    }
    match restorer.finish() {
        Ok(state) => {
            stores(&state);
            "restored".to_owned()
        }
        Err(refusal) => refusal.to_string(),
    }
}
