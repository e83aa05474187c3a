//! gRPC messages: every one that a manager or a node is sent.

use std::sync::LazyLock;

use prost::Message;
use prost_types::Timestamp;
use waxseal_cluster::objects::{
    EngineDescription, NodeDescription, Platform, PluginDescription, TaskStatus,
};
use waxseal_wire::{PEER_TEXT_LIMIT, clean_name, clean_text, peer_text, swarmkit, waxseal};

use crate::Target;

pub(crate) fn targets() -> Vec<Target> {
    vec![
        Target {
            name: "grpc",
            words: &["\n\0", "\x12\0", "\x1a\x02\n\0", "Waxseal", "host"],
            // Decoded messages are several times their encoding: two bytes can be an empty task.
            room: (64 << 10, 1024),
            seeds: messages,
            check: message,
        },
        Target {
            name: "peer-text",
            words: &["\u{1b}[31m", "\u{202e}", "\r\n", "\0", "\u{ff}", "%"],
            // An escape takes ten bytes, and texts are copied while they are cleaned.
            room: (8 << 10, 64),
            seeds: texts,
            check: text,
        },
    ]
}

/// Reads bytes as one kind of message.
struct Kind {
    name: &'static str,
    read: fn(&[u8]) -> Option<usize>,
}

/// Reads, writes and reads again; the size of what was written.
fn read<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<usize> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), message.encoded_len());
    let again = M::decode(encoded.as_slice()).expect("our own encoding");
    assert!(message == again, "a message is not read as it was written");
    Some(encoded.len())
}

macro_rules! kinds {
    ($($package:ident: $($message:ident)+;)+) => {
        [$($(Kind {
            name: stringify!($message),
            read: read::<$package::$message>,
        },)+)+]
    };
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    kinds! {
        swarmkit:
            GetRootCaCertificateResponse IssueNodeCertificateRequest IssueNodeCertificateResponse
            NodeCertificateStatusRequest NodeCertificateStatusResponse SessionRequest
            SessionMessage HeartbeatRequest HeartbeatResponse UpdateTaskStatusRequest
            AssignmentsRequest AssignmentsMessage SubscriptionMessage PublishLogsMessage;
        waxseal:
            ProposeRequest ProposeResponse ReadIndexRequest ReadIndexResponse LogsRequest
            LogsResponse UnlockKeyResponse MembersResponse AppendRequest AppendResponse
            VoteRequest VoteResponse BeatRequest BeatResponse SnapshotRequest CampaignRequest
            ProbeRequest ProbeResponse JoinRequest JoinResponse MoveRequest Envelope HelloRequest
            HelloResponse;
    }
    .into()
});

/// The kind's number, then the message.
fn messages() -> Vec<Vec<u8>> {
    let seed = |name: &str, message: &[u8]| {
        let number = KINDS.iter().position(|kind| kind.name == name);
        let number = number.expect("a kind of this name");
        let mut seed = vec![u8::try_from(number).expect("few kinds")];
        seed.extend_from_slice(message);
        seed
    };
    let description = NodeDescription {
        hostname: "worker".to_owned(),
        platform: Some(Platform {
            architecture: "x86_64".to_owned(),
            os: "linux".to_owned(),
        }),
        engine: Some(EngineDescription {
            engine_version: "20.10.24".to_owned(),
            plugins: vec![PluginDescription {
                r#type: "Waxseal".to_owned(),
                name: "host".to_owned(),
            }],
            ..EngineDescription::default()
        }),
        ..NodeDescription::default()
    };
    let session = swarmkit::SessionRequest {
        description: Some(description),
        session_id: "session".to_owned(),
    };
    let issue = swarmkit::IssueNodeCertificateRequest {
        csr: b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(),
        token: b"SWMTKN-1-".to_vec(),
        ..Default::default()
    };
    let update = swarmkit::TaskStatusUpdate {
        task_id: "task".to_owned(),
        status: Some(TaskStatus {
            timestamp: Some(Timestamp {
                seconds: 1_800_000_000,
                nanos: 1,
            }),
            message: "started".to_owned(),
            ..TaskStatus::default()
        }),
    };
    let updates = swarmkit::UpdateTaskStatusRequest::new("session", vec![update]);
    let mut seeds = vec![
        seed("SessionRequest", &session.encode_to_vec()),
        seed("IssueNodeCertificateRequest", &issue.encode_to_vec()),
        seed("UpdateTaskStatusRequest", &updates.encode_to_vec()),
    ];
    // Fields of all wire types under the first numbers suit some field of every message.
    let fields = [
        [0x08, 0x01].as_slice(),
        &[0x0a, 0x03, b'a', b'b', b'c'],
        &[0x12, 0x02, 0x08, 0x01],
        &[0x1a, 0x00, 0x1a, 0x00],
        &[0x21, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0x2d, 1, 2, 3, 4],
    ];
    for kind in KINDS.iter() {
        for field in fields {
            seeds.push(seed(kind.name, field));
        }
        seeds.push(seed(kind.name, &fields.concat()));
    }
    seeds
}

fn message(input: &[u8]) -> String {
    let Some((number, bytes)) = input.split_first() else {
        return "empty".to_owned();
    };
    let kind = &KINDS[usize::from(*number) % KINDS.len()];
    match (kind.read)(bytes) {
        Some(written) => {
            // Unknown fields are dropped, default values not written.
            assert!(written <= 2 * bytes.len() + 64, "{} grew", kind.name);
            format!("{} read", kind.name)
        }
        None => format!("{} refused", kind.name),
    }
}

fn texts() -> Vec<Vec<u8>> {
    ["a plain text", "a\nb\u{1b}[0m", "\u{202e}olleh"]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

/// What a peer says of itself breaks no line of a log and no table.
fn text(input: &[u8]) -> String {
    let plain = String::from_utf8_lossy(input);
    let shown = peer_text(&plain);
    assert!(!shown.contains(char::is_control), "{shown:?}");
    assert!(shown.len() <= 2 * PEER_TEXT_LIMIT, "{} bytes", shown.len());
    let (mut name, mut free) = (plain.clone().into_owned(), plain.into_owned());
    clean_name(&mut name);
    clean_text(&mut free);
    assert!(!name.contains(char::is_control), "{name:?}");
    let (mut again, mut free_again) = (name.clone(), free.clone());
    clean_name(&mut again);
    clean_text(&mut free_again);
    assert_eq!((again, free_again), (name, free), "cleaning twice differs");
    "shown".to_owned()
}
