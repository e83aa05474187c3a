//! Files that somebody or something changed: found, named, and never half used.

use std::collections::BTreeMap;
use std::path::Path;

use openraft::Vote;
use openraft::storage::RaftLogStorage;
use tempfile::TempDir;
use waxseal_autolock::{
    DekRing, Owner, RECORD_HEADER_LEN, RecordHeader, SEGMENT_HEADER_LEN, SegmentHeader,
};
use waxseal_raft_store::{Meta, Opened, SnapshotData, StoreError, StoreOptions, open};

use crate::support::{TypeConfig, append, dek, files, log_id, open_in, options, owner, read, run};

const MARKER: &[u8] = b"marker of a secret that nobody may find";

/// A closed store of some segments: the vote file has seen all of it.
fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), &owner(), true);
    dir
}

fn fill(dir: &Path, owner: &Owner, close: bool) {
    run(async {
        let options = StoreOptions {
            owner: owner.clone(),
            ..options(dir, 1, &[])
        };
        let Opened {
            mut log, snapshots, ..
        } = open::<TypeConfig>(options).unwrap();
        log.save_vote(&Vote::new_committed(3, 7)).await.unwrap();
        for index in 1..=40 {
            append(&mut log, [index], 1_000).await.unwrap();
        }
        let draft = snapshots.begin().unwrap();
        draft.write(MARKER).unwrap();
        draft.write(&vec![1; 2_500_000]).unwrap();
        let meta = Meta {
            last_log_id: Some(log_id(1, 4)),
            ..Meta::default()
        };
        snapshots
            .install(&meta, SnapshotData::Draft(draft))
            .unwrap();
        log.purge(log_id(1, 4)).await.unwrap();
        if close {
            log.close().await.unwrap();
        }
    });
}

fn fails(dir: &Path) -> StoreError {
    open_in(dir).map(|_| ()).unwrap_err()
}

/// The file and offset of a corruption.
#[track_caller]
fn corrupt_at(err: StoreError) -> (String, u64) {
    assert!(
        err.to_string().contains("leave the cluster"),
        "says what to do"
    );
    match err {
        StoreError::Corrupt { file, offset, .. } => (
            file.file_name().unwrap().to_str().unwrap().to_owned(),
            offset,
        ),
        other => panic!("{other}"),
    }
}

fn segments(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = files(dir).unwrap();
    // Without the one that was allocated for later.
    files.retain(|name, bytes| name.starts_with("log-") && bytes.iter().any(|byte| *byte != 0));
    files
}

/// Where the records of a segment begin.
fn records(bytes: &[u8]) -> Vec<usize> {
    let ring = DekRing::new(dek(1), []);
    let (header, _) = SegmentHeader::open(bytes, &ring, &owner()).unwrap();
    let mut offsets = Vec::new();
    let mut offset = SEGMENT_HEADER_LEN;
    while let Some(record) = RecordHeader::decode(&bytes[offset..], &header.segment_id) {
        offsets.push(offset);
        offset += record.disk_len() as usize;
        if offset >= bytes.len() {
            break;
        }
    }
    offsets.push(offset);
    offsets
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let dir = store();
    let segments = segments(dir.path());
    assert!(segments.len() >= 3, "{}", segments.len());
    for (name, bytes) in &segments {
        let records = records(bytes);
        let end = *records.last().unwrap();
        // Every byte of the header and of the first record's, then one in 97.
        let dense = SEGMENT_HEADER_LEN + RECORD_HEADER_LEN;
        for at in (0..dense)
            .chain((dense..end).step_by(97))
            .chain(end - 24..end)
        {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            std::fs::write(dir.path().join(name), &changed).unwrap();
            let (file, offset) = corrupt_at(fails(dir.path()));
            assert_eq!(&file, name, "byte {at}");
            let start = records
                .iter()
                .rev()
                .find(|start| **start <= at)
                .copied()
                .unwrap_or(0);
            assert_eq!(offset, start as u64, "byte {at} of {name}");
        }
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    open_in(dir.path()).unwrap();
}

#[test]
fn a_cut_or_missing_segment_is_found() {
    let dir = store();
    let segments = segments(dir.path());
    for (name, bytes) in &segments {
        let path = dir.path().join(name);
        let end = *records(bytes).last().unwrap();
        for len in [
            0,
            100,
            SEGMENT_HEADER_LEN,
            SEGMENT_HEADER_LEN + 30,
            end / 2,
            end - 1,
        ] {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(&corrupt_at(fails(dir.path())).0, name, "cut at {len}");
        }
        // Zeros where records were, as a lost write leaves them.
        let mut blank = bytes.clone();
        blank[end - 1_000..].fill(0);
        std::fs::write(&path, &blank).unwrap();
        assert_eq!(&corrupt_at(fails(dir.path())).0, name, "blank");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(corrupt_at(fails(dir.path())), (name.clone(), 0), "missing");
        std::fs::write(&path, bytes).unwrap();
    }
    open_in(dir.path()).unwrap();
}

#[test]
fn moved_segments_are_found() {
    let dir = store();
    let segments: Vec<_> = segments(dir.path()).into_iter().collect();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    let [(first, a), (second, b), ..] = &segments[..] else {
        panic!("two segments at least")
    };
    write(first, b);
    write(second, a);
    assert_eq!(corrupt_at(fails(dir.path())), (first.clone(), 0), "swapped");
    write(first, a);
    write(second, a);
    assert_eq!(
        corrupt_at(fails(dir.path())),
        (second.clone(), 0),
        "twice the first"
    );
    write(second, b);
    open_in(dir.path()).unwrap();
}

#[test]
fn moved_records_are_found() {
    let dir = store();
    let (name, bytes) = segments(dir.path()).pop_first().unwrap();
    let starts = records(&bytes);
    let record = |number: usize| bytes[starts[number]..starts[number + 1]].to_vec();
    // Number 0 is smaller than the others, whose length is one.
    let lengths: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let same: Vec<_> = (0..lengths.len()).filter(|n| lengths[*n] > 1_000).collect();
    let (x, y) = (same[1], same[2]);
    let put = |changes: &[(usize, Vec<u8>)]| {
        let mut changed = bytes.clone();
        for (at, record) in changes {
            changed[starts[*at]..starts[*at] + record.len()].copy_from_slice(record);
        }
        std::fs::write(dir.path().join(&name), changed).unwrap();
        corrupt_at(fails(dir.path()))
    };
    let expected = |number: usize| (name.clone(), starts[number] as u64);
    assert_eq!(
        put(&[(x, record(y)), (y, record(x))]),
        expected(x),
        "swapped"
    );
    assert_eq!(put(&[(y, record(x))]), expected(y), "repeated");
    let without: Vec<u8> = bytes[starts[y]..]
        .iter()
        .copied()
        .chain(vec![0; starts[y] - starts[x]])
        .collect();
    assert_eq!(put(&[(x, without)]), expected(x), "removed");
}

#[test]
fn what_another_manager_wrote_is_foreign() {
    let dir = store();
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
        let theirs = tempfile::tempdir().unwrap();
        fill(theirs.path(), &other, true);
        for (name, bytes) in files(theirs.path()).unwrap() {
            if bytes.iter().all(|byte| *byte == 0) {
                continue;
            }
            let path = dir.path().join(&name);
            let ours = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes).unwrap();
            let err = fails(dir.path());
            assert!(
                matches!(&err, StoreError::Foreign { file } if *file == path),
                "{err}"
            );
            std::fs::write(&path, ours).unwrap();
        }
    }
    open_in(dir.path()).unwrap();
}

/// Another log of the same manager under the same key: an old backup, for instance.
#[test]
fn parts_of_another_time_are_found() {
    let (dir, other) = (store(), store());
    for (name, bytes) in segments(other.path()) {
        let path = dir.path().join(&name);
        let ours = std::fs::read(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        corrupt_at(fails(dir.path()));
        std::fs::write(&path, ours).unwrap();
    }
    std::fs::copy(other.path().join("vote"), dir.path().join("vote")).unwrap();
    corrupt_at(fails(dir.path()));
}

#[test]
fn an_older_log_under_the_newer_vote_is_found() {
    let dir = store();
    let before = segments(dir.path());
    run(async {
        let Opened { mut log, .. } = open_in(dir.path()).unwrap();
        append(&mut log, 41..45, 100).await.unwrap();
        log.close().await.unwrap();
    });
    let after = segments(dir.path());
    let (newest, _) = after.last_key_value().unwrap();
    assert!(!before.contains_key(newest));
    std::fs::remove_file(dir.path().join(newest)).unwrap();
    assert_eq!(corrupt_at(fails(dir.path())).0, *newest);
}

#[test]
fn one_damaged_vote_is_repaired_two_are_not() {
    let dir = store();
    let path = dir.path().join("vote");
    let good = std::fs::read(&path).unwrap();
    assert_eq!(good.len(), 8192);
    for slot in [0, 1] {
        let mut bad = good.clone();
        bad[slot * 4096 + 100] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let Opened { mut log, .. } = open_in(dir.path()).unwrap();
        assert_eq!(
            run(log.read_vote()).unwrap(),
            Some(Vote::new_committed(3, 7))
        );
        drop(log);
        assert_ne!(
            std::fs::read(&path).unwrap()[slot * 4096..][..200],
            bad[slot * 4096..][..200]
        );
    }
    let repaired = std::fs::read(&path).unwrap();
    let mut bad = repaired.clone();
    bad[100] ^= 1;
    bad[4096 + 100] ^= 1;
    std::fs::write(&path, &bad).unwrap();
    assert_eq!(corrupt_at(fails(dir.path())).0, "vote");
    std::fs::write(&path, &repaired[..50]).unwrap();
    assert_eq!(corrupt_at(fails(dir.path())), ("vote".into(), 4096));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(corrupt_at(fails(dir.path())), ("vote".into(), 0));
    std::fs::write(&path, &repaired).unwrap();
    open_in(dir.path()).unwrap();
}

#[test]
fn a_damaged_snapshot_is_found() {
    let dir = store();
    let (name, bytes) = files(dir.path())
        .unwrap()
        .into_iter()
        .find(|(name, _)| name.ends_with(".snap"))
        .unwrap();
    let path = dir.path().join(&name);
    // Header, chunk headers and description when it is opened.
    for at in [
        0,
        9,
        20,
        30,
        60,
        80,
        88,
        95,
        100,
        bytes.len() - 1,
        bytes.len() - 20,
    ] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        assert_eq!(corrupt_at(fails(dir.path())).0, name, "byte {at}");
    }
    for len in [0, 50, 96, 200, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        assert_eq!(corrupt_at(fails(dir.path())).0, name, "cut at {len}");
    }
    // The state when it is read.
    for at in [112, 1_000_000, 1_048_720, 2_000_000] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let latest = open_in(dir.path()).unwrap().snapshots.latest().unwrap();
        let (file, offset) = corrupt_at(latest.reader().read_to_end().unwrap_err());
        assert_eq!(
            (&file, offset),
            (&name, if at < 1_048_704 { 96 } else { 1_048_704 })
        );
    }
    std::fs::remove_file(&path).unwrap();
    let err = fails(dir.path());
    assert!(
        err.to_string().contains("no snapshot covers entry 4"),
        "{err}"
    );
    std::fs::write(dir.path().join("snapshot-0000000000000009.snap"), &bytes).unwrap();
    assert_eq!(
        corrupt_at(fails(dir.path())).0,
        "snapshot-0000000000000009.snap",
        "renamed"
    );
    std::fs::remove_file(dir.path().join("snapshot-0000000000000009.snap")).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    open_in(dir.path()).unwrap();
}

#[test]
fn another_key_opens_nothing() {
    let dir = store();
    let err = open::<TypeConfig>(options(dir.path(), 2, &[]))
        .map(|_| ())
        .unwrap_err();
    let StoreError::UnknownKey { file, dek_id } = &err else {
        panic!("{err}")
    };
    assert!(file.ends_with("vote"));
    assert_eq!(*dek_id, dek(1).id().to_string());
}

#[test]
fn a_newer_format_is_named() {
    let dir = store();
    for (name, bytes) in files(dir.path()).unwrap() {
        if bytes.iter().all(|byte| *byte == 0) {
            continue;
        }
        let path = dir.path().join(&name);
        let mut newer = bytes.clone();
        for start in if name == "vote" {
            vec![0, 4096]
        } else {
            vec![0]
        } {
            newer[start + 8..start + 10].copy_from_slice(&9_u16.to_be_bytes());
            let crc = crc32(&newer[start..start + 12]);
            newer[start + 12..start + 16].copy_from_slice(&crc.to_be_bytes());
        }
        std::fs::write(&path, newer).unwrap();
        let err = fails(dir.path());
        let StoreError::TooNew {
            version: 9,
            supported: 1,
            ..
        } = &err
        else {
            panic!("{err}")
        };
        assert!(err.to_string().contains(&name), "{err}");
        std::fs::write(&path, bytes).unwrap();
    }
}

/// CRC-32 as in zip, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[test]
fn no_file_shows_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let Opened {
            mut log, snapshots, ..
        } = open_in(dir.path()).unwrap();
        use openraft::storage::RaftLogStorageExt;
        let marked = crate::support::note(1, 1, MARKER.repeat(20));
        log.blocking_append([marked]).await.unwrap();
        let draft = snapshots.begin().unwrap();
        draft.write(&MARKER.repeat(50)).unwrap();
        snapshots
            .install(&Meta::default(), SnapshotData::Draft(draft))
            .unwrap();
        assert_eq!(read(&mut log, ..).await[0].1, MARKER.repeat(20));
    });
    for (name, bytes) in files(dir.path()).unwrap() {
        let found = bytes.windows(MARKER.len()).any(|window| window == MARKER);
        assert!(!found, "{name}");
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(dir.path().join(&name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// A process that is killed leaves a torn record: dropped, reported, and the log goes on.
#[test]
fn a_torn_tail_is_dropped_and_said() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), &owner(), false);
    let (name, bytes) = segments(dir.path()).pop_last().unwrap();
    let path = dir.path().join(&name);
    let starts = records(&bytes);
    let last = starts[starts.len() - 2];
    for torn in [last, last + 20, last + 60, last + 900] {
        let copy = tempfile::tempdir().unwrap();
        for (name, bytes) in files(dir.path()).unwrap() {
            std::fs::write(copy.path().join(name), bytes).unwrap();
        }
        let mut cut = bytes.clone();
        cut[torn..].fill(0);
        std::fs::write(copy.path().join(&name), cut).unwrap();
        // The vote file was written after the record: this is no torn write.
        let Err(err) = open_in(copy.path()) else {
            panic!("the vote file saw the record")
        };
        assert_eq!(corrupt_at(err), (name.clone(), last as u64));
    }
    // Garbage behind the last record is what a torn write leaves.
    let mut garbage = bytes.clone();
    let end = *starts.last().unwrap();
    garbage[end..end + 300].fill(0xa5);
    std::fs::write(&path, garbage).unwrap();
    let Opened {
        mut log, recovery, ..
    } = open_in(dir.path()).unwrap();
    let torn = recovery.torn_tail.unwrap();
    assert_eq!((&torn.file, torn.offset), (&path, end as u64));
    let len = std::fs::metadata(&path).unwrap().len();
    assert_eq!(len, end as u64, "what a former run allocated is given back");
    assert_eq!(recovery.entries, 36);
    assert_eq!(run(read(&mut log, ..)).len(), 36);
    run(append(&mut log, [41], 10)).unwrap();
    drop(log);
    let Opened { recovery, .. } = open_in(dir.path()).unwrap();
    assert_eq!((recovery.torn_tail, recovery.entries), (None, 37));
}

/// The newest record damaged looks like a torn write; the one before it does not.
#[test]
fn damage_before_a_later_write_is_no_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    run(async {
        let Opened { mut log, .. } = open_in(dir.path()).unwrap();
        for index in 1..=5 {
            append(&mut log, [index], 500).await.unwrap();
        }
    });
    let (name, bytes) = segments(dir.path()).pop_last().unwrap();
    let starts = records(&bytes);
    let damage = |number: usize| {
        let mut bad = bytes.clone();
        bad[starts[number] + 100] ^= 1;
        std::fs::write(dir.path().join(&name), bad).unwrap();
    };
    for (number, start) in starts.iter().enumerate().take(4) {
        damage(number);
        let expected = (name.clone(), *start as u64);
        assert_eq!(corrupt_at(fails(dir.path())), expected);
    }
    damage(4);
    let Opened { recovery, .. } = open_in(dir.path()).unwrap();
    assert_eq!(
        (recovery.entries, recovery.torn_tail.unwrap().offset),
        (4, starts[4] as u64)
    );
}
