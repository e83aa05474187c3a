//! What lies on a manager's disk, and the key that opens it.
//!
//! Whatever is done to sealed bytes, they open as what was sealed or not at all.

use std::{convert::Infallible, sync::LazyLock};

use waxseal_autolock::{
    CHUNK_HEADER_LEN, ChunkHeader, ChunkKind, Dek, DekRing, KeyFile, KeyFileHeader,
    MAX_CHUNK_BYTES, Owner, RECORD_HEADER_LEN, RaftKeys, RecordHeader, RecordKind,
    SEGMENT_HEADER_LEN, SNAPSHOT_HEADER_LEN, SegmentHeader, SegmentId, SnapshotHeader, TAG_LEN,
    UNLOCK_KEY_LEN, UnlockKey, open_slot, record_disk_len, seal_slot,
};
use waxseal_ca::NodeKey;

use crate::{Target, no_seeds};

const BODIES: [&[u8]; 4] = [b"", b"first command", &[0x5a; 900], b"last"];
const ID: SegmentId = [0x1d; 16];

pub(crate) fn targets() -> Vec<Target> {
    let target = |name, seeds, check| Target {
        name,
        words: &["WXSSEGMT", "WXSVOTES", "WXSSNAPS"],
        room: (16 << 10, 4),
        seeds,
        check,
    };
    vec![
        Target {
            words: &["SWMKEY-1-", "SWMKEY-", "A", "/", "+", "="],
            ..target("unlock-key", no_seeds, unlock_key)
        },
        Target {
            words: &["WAXSEAL KEY CHAIN", "WAXSEAL SEALED KEY CHAIN", "-----"],
            // Keys are kept in their own pages of the heap, and PEM is read as a whole.
            room: (128 << 10, 16),
            ..target("key-file", key_files, key_file)
        },
        target("record", segments, segment),
        target("vote", slots, slot),
        target("sealed-snapshot", snapshots, snapshot),
    ]
}

fn dek(fill: u8) -> Dek {
    let Ok(dek) = Dek::generate(|key| {
        key.fill(fill);
        Ok::<_, Infallible>(())
    });
    dek
}

fn owner() -> Owner {
    Owner {
        cluster_id: "cluster".to_owned(),
        node_id: "node".to_owned(),
        raft_id: 7,
    }
}

static RING: LazyLock<DekRing> = LazyLock::new(|| DekRing::new(dek(1), [dek(2)]));

fn unlock_key(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else {
        return "no text".to_owned();
    };
    match UnlockKey::parse(text) {
        Ok(key) => {
            // One key has one text.
            assert_eq!(key.to_text().as_str(), text);
            assert_eq!(key.expose_bytes().len(), UNLOCK_KEY_LEN);
            "accepted".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

struct Files {
    node_key: String,
    unlock_key: UnlockKey,
    sealed: String,
    open: String,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let key = NodeKey::generate().expect("a key");
    let header = KeyFileHeader {
        cluster_id: "cluster".to_owned(),
        node_id: "node".to_owned(),
        kek_epoch: 3,
    };
    let raft = RaftKeys {
        raft_id: 7,
        current: dek(1),
        retired: vec![dek(2)],
    };
    let file = KeyFile::new(header, &key.pkcs8_pem(), Some(raft)).expect("a key file");
    let unlock_key = UnlockKey::from_slice(&[6; UNLOCK_KEY_LEN]).expect("a key");
    Files {
        node_key: file.node_key_pkcs8_pem().to_string(),
        sealed: file.encode_sealed(&unlock_key, &[8; 32]).to_string(),
        open: file.encode_open().to_string(),
        unlock_key,
    }
});

fn key_files() -> Vec<Vec<u8>> {
    [&FILES.sealed, &FILES.open]
        .map(|text| text.clone().into_bytes())
        .into()
}

fn key_file(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else {
        return "no text".to_owned();
    };
    let peeked = KeyFile::peek(text);
    // With the key a file opens as it was sealed, and never one that is not sealed.
    let outcome = match KeyFile::open(text, Some(&FILES.unlock_key)) {
        Ok(file) => {
            assert_eq!(file.node_key_pkcs8_pem().as_str(), FILES.node_key);
            assert_eq!(file.header.kek_epoch, 3);
            "sealed".to_owned()
        }
        Err(error) => error.to_string(),
    };
    match KeyFile::open(text, None) {
        Ok(file) => {
            // Damage is told by a digest: nothing but white space can differ.
            assert_eq!(file.encode_open().as_str(), FILES.open);
            assert_eq!(peeked.expect("what opens shows its header").0, file.header);
            "open".to_owned()
        }
        Err(error) => format!("{outcome}, {error}"),
    }
}

/// A segment with a record for each of [`BODIES`], as the log writes it.
fn segments() -> Vec<Vec<u8>> {
    let header = SegmentHeader {
        dek_id: dek(1).id(),
        segment_id: ID,
        sequence: 1,
        first_index: 1,
        previous: None,
    };
    let (head, cipher) = header.seal(&dek(1), &owner());
    let mut segment = head.to_vec();
    let mut previous = cipher.header_tag();
    for (number, plain) in (0..).zip(BODIES) {
        let record = RecordHeader {
            kind: RecordKind::Normal,
            body_len: u32::try_from(plain.len()).expect("a short body"),
            number,
            index: number + 1,
            term: 1,
            leader: 7,
            synced_to: 0,
        };
        let mut body = plain.to_vec();
        let tag = cipher.seal(&record, &previous, &mut body);
        let end = segment.len() + record_disk_len(plain.len());
        segment.extend_from_slice(&record.encode(&ID));
        segment.extend_from_slice(&body);
        segment.extend_from_slice(&tag);
        segment.resize(end, 0);
        previous = tag;
    }
    vec![segment]
}

fn segment(input: &[u8]) -> String {
    // Any header that is read is written back as it was.
    if let Some(header) = RecordHeader::decode(input, &ID) {
        assert_eq!(header.encode(&ID), input[..RECORD_HEADER_LEN]);
    }
    let cipher = match SegmentHeader::open(input, &RING, &owner()) {
        Ok((_, cipher)) => cipher,
        Err(error) => return error.to_string(),
    };
    let mut previous = cipher.header_tag();
    let mut at = SEGMENT_HEADER_LEN;
    let mut outcome = "opened".to_owned();
    for plain in BODIES {
        let rest = input.get(at..).unwrap_or_default();
        let Some(header) = RecordHeader::decode(rest, cipher.segment_id()) else {
            return outcome + ", then no record";
        };
        let end = RECORD_HEADER_LEN + header.body_len as usize;
        let Some((body, tag)) = rest.get(RECORD_HEADER_LEN..end).zip(
            rest.get(end..)
                .and_then(|rest| rest.first_chunk::<TAG_LEN>()),
        ) else {
            return outcome + ", then a torn one";
        };
        let mut body = body.to_vec();
        if let Err(error) = cipher.open(&header, &previous, &mut body, tag) {
            return format!("{outcome}, then {error}");
        }
        assert_eq!(body, plain, "a record opened as something else");
        previous = *tag;
        outcome += " record";
        at += record_disk_len(body.len());
    }
    outcome
}

fn slots() -> Vec<Vec<u8>> {
    vec![
        seal_slot(&dek(1), &owner(), &[3; 32], b"a vote"),
        seal_slot(&dek(2), &owner(), &[4; 32], b"a vote"),
    ]
}

fn slot(input: &[u8]) -> String {
    match open_slot(input, &RING, &owner()) {
        Ok(value) => {
            assert_eq!(value.as_slice(), b"a vote");
            "opened".to_owned()
        }
        Err(error) => error.to_string(),
    }
}

fn snapshots() -> Vec<Vec<u8>> {
    let header = SnapshotHeader {
        dek_id: dek(1).id(),
        snapshot_id: ID,
    };
    let (head, cipher) = header.seal(&dek(1), &owner());
    let mut snapshot = head.to_vec();
    for (number, plain) in (0..).zip(BODIES) {
        let chunk = ChunkHeader {
            kind: if number == 3 {
                ChunkKind::Description
            } else {
                ChunkKind::State
            },
            number,
            body_len: u32::try_from(plain.len()).expect("a short body"),
        };
        let mut body = plain.to_vec();
        let tag = cipher.seal(&chunk, &mut body);
        snapshot.extend_from_slice(&chunk.encode(&ID));
        snapshot.extend_from_slice(&body);
        snapshot.extend_from_slice(&tag);
    }
    vec![snapshot]
}

fn snapshot(input: &[u8]) -> String {
    if let Ok(header) = ChunkHeader::decode(input, &ID) {
        assert!(
            header.body_len as usize <= MAX_CHUNK_BYTES,
            "a chunk over the limit"
        );
        assert_eq!(header.encode(&ID), input[..CHUNK_HEADER_LEN]);
    }
    let cipher = match SnapshotHeader::open(input, &RING, &owner()) {
        Ok((_, cipher)) => cipher,
        Err(error) => return error.to_string(),
    };
    let mut rest = &input[SNAPSHOT_HEADER_LEN..];
    let mut outcome = "opened".to_owned();
    for (number, plain) in (0..).zip(BODIES) {
        let header = match ChunkHeader::decode(rest, &ID) {
            Ok(header) => header,
            Err(error) => return format!("{outcome}, then {error}"),
        };
        // The reader of snapshots takes chunks in their order alone.
        if header.number != number {
            return outcome + ", then another chunk";
        }
        rest = &rest[CHUNK_HEADER_LEN..];
        let Some((body, tag)) = rest
            .split_at_checked(header.body_len as usize)
            .and_then(|(body, rest)| Some((body, rest.first_chunk::<TAG_LEN>()?)))
        else {
            return outcome + ", then a torn one";
        };
        let mut opened = body.to_vec();
        if let Err(error) = cipher.open(&header, &mut opened, tag) {
            return format!("{outcome}, then {error}");
        }
        assert_eq!(opened, plain, "a chunk opened as something else");
        outcome += " chunk";
        rest = &rest[body.len() + TAG_LEN..];
    }
    outcome
}
