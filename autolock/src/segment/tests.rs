use proptest::prelude::*;

use super::*;

fn owner() -> Owner {
    Owner {
        cluster_id: "cluster".into(),
        node_id: "node".into(),
        raft_id: 7,
    }
}

fn dek(byte: u8) -> Dek {
    Dek::from_bytes(&[byte; 32])
}

fn ring(byte: u8) -> DekRing {
    DekRing::new(dek(byte), [])
}

fn header() -> SegmentHeader {
    let link = ChainLink {
        segment_id: [4; 16],
        records: 12,
        tag: [5; TAG_LEN],
    };
    SegmentHeader {
        dek_id: dek(1).id(),
        segment_id: [3; 16],
        sequence: 2,
        first_index: 40,
        previous: Some(link),
    }
}

fn record(number: u64) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Normal,
        body_len: 5,
        number,
        index: 40 + number,
        term: 6,
        leader: 7,
        synced_to: 192,
    }
}

#[test]
fn every_flipped_byte_of_a_header_is_found() {
    let (bytes, _) = header().seal(&dek(1), &owner());
    for at in 0..bytes.len() {
        let mut changed = bytes;
        changed[at] ^= 1;
        assert!(
            SegmentHeader::open(&changed, &ring(1), &owner()).is_err(),
            "{at}"
        );
    }
    for len in 0..bytes.len() {
        let err = SegmentHeader::open(&bytes[..len], &ring(1), &owner()).unwrap_err();
        assert!(matches!(err, FormatError::Damaged { .. }), "{len}");
    }
}

#[test]
fn a_header_names_what_is_missing() {
    let (mut bytes, _) = header().seal(&dek(1), &owner());
    let err = |bytes: &[u8], ring: &DekRing, owner: &Owner| {
        SegmentHeader::open(bytes, ring, owner).unwrap_err()
    };
    let dek_id = dek(1).id();
    assert_eq!(
        err(&bytes, &ring(2), &owner()),
        FormatError::UnknownKey { what: WHAT, dek_id }
    );
    for other in [
        Owner {
            cluster_id: "other".into(),
            ..owner()
        },
        Owner {
            node_id: "other".into(),
            ..owner()
        },
        Owner {
            raft_id: 8,
            ..owner()
        },
    ] {
        assert_eq!(
            err(&bytes, &ring(1), &other),
            FormatError::Foreign { what: WHAT }
        );
    }
    bytes[..16].copy_from_slice(&codec::preamble(MAGIC, 2));
    let too_new = FormatError::TooNew {
        what: WHAT,
        version: 2,
        supported: 1,
    };
    assert_eq!(err(&bytes, &ring(1), &owner()), too_new);
}

#[test]
fn a_record_opens_only_in_its_place() {
    let (_, cipher) = header().seal(&dek(1), &owner());
    let mut body = *b"hello";
    let tag = cipher.seal(&record(3), &[8; 16], &mut body);
    assert_ne!(&body, b"hello");
    let open = |cipher: &SegmentCipher, header: &RecordHeader, previous: &Tag, tag: &Tag| {
        let mut body = body;
        cipher.open(header, previous, &mut body, tag).map(|()| body)
    };
    assert_eq!(
        open(&cipher, &record(3), &[8; 16], &tag).unwrap(),
        *b"hello"
    );
    for moved in [
        record(4),
        RecordHeader {
            kind: RecordKind::Membership,
            ..record(3)
        },
        RecordHeader {
            index: 44,
            ..record(3)
        },
        RecordHeader {
            term: 7,
            ..record(3)
        },
        RecordHeader {
            leader: 8,
            ..record(3)
        },
    ] {
        assert!(open(&cipher, &moved, &[8; 16], &tag).is_err());
    }
    assert!(
        open(&cipher, &record(3), &[9; 16], &tag).is_err(),
        "another record before"
    );
    assert!(
        open(&cipher, &record(3), &[8; 16], &[0; 16]).is_err(),
        "another tag"
    );
    let elsewhere = SegmentHeader {
        segment_id: [9; 16],
        ..header()
    };
    let (_, other) = elsewhere.seal(&dek(1), &owner());
    assert!(
        open(&other, &record(3), &[8; 16], &tag).is_err(),
        "another segment"
    );
    let (_, foreign) = header().seal(
        &dek(1),
        &Owner {
            raft_id: 8,
            ..owner()
        },
    );
    assert!(
        open(&foreign, &record(3), &[8; 16], &tag).is_err(),
        "another member"
    );
}

#[test]
fn the_sync_mark_can_be_set_later() {
    let mut bytes = record(3).encode(&[3; 16]);
    RecordHeader::set_synced_to(&mut bytes, &[3; 16], 4096);
    let expected = RecordHeader {
        synced_to: 4096,
        ..record(3)
    };
    assert_eq!(RecordHeader::decode(&bytes, &[3; 16]), Some(expected));
    assert_eq!(
        RecordHeader::decode(&bytes, &[4; 16]),
        None,
        "of another segment"
    );
}

#[test]
fn lengths_are_aligned() {
    assert_eq!(record_disk_len(0), 64);
    assert_eq!(record_disk_len(1), 72);
    assert_eq!(record_disk_len(8), 72);
}

#[test]
fn reads_the_golden_segment() {
    let golden = include_bytes!("../../tests/golden/segment-v1.bin");
    let mut written = Vec::new();
    let (head, cipher) = header().seal(&dek(1), &owner());
    written.extend_from_slice(&head);
    let mut body = *b"hello";
    let tag = cipher.seal(&record(0), &cipher.header_tag(), &mut body);
    written.extend_from_slice(&record(0).encode(&[3; 16]));
    written.extend_from_slice(&body);
    written.extend_from_slice(&tag);
    assert_eq!(written, golden);
    let (read, cipher) = SegmentHeader::open(golden, &ring(1), &owner()).unwrap();
    assert_eq!(read, header());
    let rest = &golden[SEGMENT_HEADER_LEN..];
    assert_eq!(
        RecordHeader::decode(rest, cipher.segment_id()),
        Some(record(0))
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(SegmentHeader::open(&bytes, &ring(1), &owner()).is_err());
        prop_assert!(RecordHeader::decode(&bytes, &[3; 16]).is_none());
    }
}
