use proptest::prelude::*;

use super::*;

fn owner() -> Owner {
    Owner {
        cluster_id: "cluster".into(),
        node_id: "node".into(),
        raft_id: 7,
    }
}

fn ring(byte: u8) -> DekRing {
    DekRing::new(Dek::from_bytes(&[byte; 32]), [])
}

fn header() -> SnapshotHeader {
    SnapshotHeader {
        dek_id: ring(1).current().id(),
        snapshot_id: [3; 16],
    }
}

fn chunk(kind: ChunkKind, number: u32) -> ChunkHeader {
    ChunkHeader {
        kind,
        number,
        body_len: 5,
    }
}

#[test]
fn refuses_changed_foreign_and_newer_headers() {
    let (mut bytes, _) = header().seal(ring(1).current(), &owner());
    for at in 0..bytes.len() {
        let mut changed = bytes;
        changed[at] ^= 1;
        assert!(
            SnapshotHeader::open(&changed, &ring(1), &owner()).is_err(),
            "{at}"
        );
        assert!(
            SnapshotHeader::open(&bytes[..at], &ring(1), &owner()).is_err(),
            "{at}"
        );
    }
    let err = |bytes: &[u8], ring: &DekRing, owner: &Owner| {
        SnapshotHeader::open(bytes, ring, owner).unwrap_err()
    };
    let dek_id = ring(1).current().id();
    assert_eq!(
        err(&bytes, &ring(2), &owner()),
        FormatError::UnknownKey { what: WHAT, dek_id }
    );
    let foreign = Owner {
        cluster_id: "other".into(),
        ..owner()
    };
    assert_eq!(
        err(&bytes, &ring(1), &foreign),
        FormatError::Foreign { what: WHAT }
    );
    bytes[..16].copy_from_slice(&codec::preamble(MAGIC, 2));
    let too_new = FormatError::TooNew {
        what: WHAT,
        version: 2,
        supported: 1,
    };
    assert_eq!(err(&bytes, &ring(1), &owner()), too_new);
}

#[test]
fn a_chunk_opens_only_in_its_place() {
    let (_, cipher) = header().seal(ring(1).current(), &owner());
    let mut body = *b"hello";
    let tag = cipher.seal(&chunk(ChunkKind::State, 2), &mut body);
    let open = |cipher: &SnapshotCipher, header: ChunkHeader| {
        let mut body = body;
        cipher.open(&header, &mut body, &tag).map(|()| body)
    };
    assert_eq!(
        open(&cipher, chunk(ChunkKind::State, 2)).unwrap(),
        *b"hello"
    );
    assert!(open(&cipher, chunk(ChunkKind::State, 3)).is_err());
    assert!(open(&cipher, chunk(ChunkKind::Description, 2)).is_err());
    let elsewhere = SnapshotHeader {
        snapshot_id: [4; 16],
        ..header()
    };
    let (_, other) = elsewhere.seal(ring(1).current(), &owner());
    assert!(open(&other, chunk(ChunkKind::State, 2)).is_err());
}

#[test]
fn a_chunk_header_bounds_what_is_read() {
    let good = chunk(ChunkKind::State, 2);
    assert_eq!(
        ChunkHeader::decode(&good.encode(&[3; 16]), &[3; 16]),
        Ok(good)
    );
    assert!(ChunkHeader::decode(&good.encode(&[3; 16]), &[4; 16]).is_err());
    let huge = ChunkHeader {
        body_len: MAX_CHUNK_BYTES as u32 + 1,
        ..good
    };
    assert!(ChunkHeader::decode(&huge.encode(&[3; 16]), &[3; 16]).is_err());
}

#[test]
fn reads_the_golden_snapshot() {
    let golden = include_bytes!("../../tests/golden/snapshot-v1.bin");
    let (head, cipher) = header().seal(ring(1).current(), &owner());
    let mut written = head.to_vec();
    for (kind, number) in [(ChunkKind::State, 0), (ChunkKind::Description, 1)] {
        let mut body = *b"hello";
        let tag = cipher.seal(&chunk(kind, number), &mut body);
        written.extend_from_slice(&chunk(kind, number).encode(&[3; 16]));
        written.extend_from_slice(&body);
        written.extend_from_slice(&tag);
    }
    assert_eq!(written, golden);
    assert_eq!(
        SnapshotHeader::open(golden, &ring(1), &owner()).unwrap().0,
        header()
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(SnapshotHeader::open(&bytes, &ring(1), &owner()).is_err());
        prop_assert!(ChunkHeader::decode(&bytes, &[3; 16]).is_err());
    }
}
