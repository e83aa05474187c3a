//! A disk that is full, or fails: writes are refused or end, reads go on.

use std::sync::Arc;

use openraft::Vote;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use waxseal_raft_store::{DangerSimDisk, Fault, LogFull, Meta, Opened, SnapshotData, StoreError};

use crate::support::{append, dek, log_id, open_on, read, run, text};

const SEGMENT: u64 = 16 * 1024;

#[test]
fn a_full_disk_refuses_commands_before_they_are_proposed() {
    let disk = Arc::new(DangerSimDisk::new(1));
    let Opened {
        mut log, snapshots, ..
    } = open_on(&disk, 1, &[]).unwrap();
    run(async {
        // Two segments are there; no third will be.
        disk.set_capacity(Some(disk.used() + SEGMENT / 2));
        let mut last = 0;
        let refused = loop {
            match log.can_accept(500) {
                Ok(()) => last += 1,
                Err(refused) => break refused,
            }
            append(&mut log, [last], 500).await.unwrap();
            assert!(last < 1_000);
        };
        assert_eq!(refused, LogFull::NoSpace);
        assert!(last * 564 > SEGMENT, "both segments are used: {last}");
        // Raft's own records still fit, and the vote takes no space at all.
        for _ in 0..5 {
            last += 1;
            append(&mut log, [last], 0).await.unwrap();
            log.save_vote(&Vote::new(last, 7)).await.unwrap();
        }
        log.truncate(log_id(1, last)).await.unwrap();
        last -= 1;
        // Reads go on.
        assert_eq!(read(&mut log, ..).await.len() as u64, last);
        // A snapshot that would not fit is known before.
        assert!(snapshots.reserve(10 * SEGMENT).unwrap_err().is_full());
        assert!(matches!(log.can_accept(500), Err(LogFull::NoSpace)));
        // Purging gives space back, and then writes go on by themselves.
        snapshots.reserve(100).unwrap_err();
        disk.set_capacity(Some(disk.used() + 300 * 1024));
        snapshots.reserve(100).unwrap();
        let draft = snapshots.begin().unwrap();
        draft.write(b"state").unwrap();
        let meta = Meta {
            last_log_id: Some(log_id(1, last)),
            ..Meta::default()
        };
        snapshots
            .install(&meta, SnapshotData::Draft(draft))
            .unwrap();
        log.purge(log_id(1, last)).await.unwrap();
        disk.set_capacity(None);
        assert!(matches!(
            log.can_accept(500),
            Err(LogFull::NoSpace) | Ok(())
        ));
        log.can_accept(500).unwrap();
        append(&mut log, last + 1..last + 50, 500).await.unwrap();
    });
    drop(log);
    let Opened { recovery, .. } = open_on(&disk, 1, &[]).unwrap();
    assert_eq!(recovery.entries, 49);
}

/// The former key seals on: nothing of the rotation was done, so it can be done later.
#[test]
fn a_key_is_not_rotated_on_a_full_disk() {
    let disk = Arc::new(DangerSimDisk::new(1));
    let Opened {
        mut log, snapshots, ..
    } = open_on(&disk, 1, &[]).unwrap();
    run(async {
        disk.set_capacity(Some(disk.used() + SEGMENT / 2));
        let mut last = 0;
        while log.can_accept(500).is_ok() {
            last += 1;
            append(&mut log, [last], 500).await.unwrap();
        }
        for _ in 0..2 {
            let err = log.rotate_dek(dek(2)).await.unwrap_err();
            assert!(matches!(err, StoreError::NoSpace { .. }), "{err}");
            assert!(err.is_full());
            assert_eq!(log.retired_in_use(), []);
            // The log is well.
            last += 1;
            append(&mut log, [last], 0).await.unwrap();
            log.save_vote(&Vote::new(last, 7)).await.unwrap();
        }
        // Sealing the snapshot anew is refused as well, and changes nothing.
        let draft = snapshots.begin().unwrap();
        draft.write(b"state").unwrap();
        let meta = Meta::default();
        snapshots
            .install(&meta, SnapshotData::Draft(draft))
            .unwrap();
        disk.set_capacity(None);
        log.rotate_dek(dek(2)).await.unwrap();
        assert_eq!(log.retired_in_use(), [dek(1).id()]);
        disk.set_capacity(Some(disk.used()));
        assert!(snapshots.reseal().unwrap_err().is_full());
        assert_eq!(snapshots.latest().unwrap().meta(), &meta);
        disk.set_capacity(None);
        snapshots.reseal().unwrap();
        append(&mut log, [last + 1], 500).await.unwrap();
        assert_eq!(read(&mut log, ..).await.len() as u64, last + 1);
    });
    drop((log, snapshots));
    open_on(&disk, 2, &[1]).unwrap();
}

#[test]
fn what_is_too_large_is_refused() {
    let disk = Arc::new(DangerSimDisk::new(1));
    let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
    let too_large = LogFull::TooLarge {
        bytes: 8_193,
        limit: 8_192,
    };
    assert_eq!(log.can_accept(8_193), Err(too_large));
    log.can_accept(8_192).unwrap();
    run(append(&mut log, [1], 8_192)).unwrap();
    let err = run(append(&mut log, [2], 8_193)).unwrap_err();
    assert!(
        text(&err).contains("8193 bytes is larger than the 8192"),
        "{}",
        text(&err)
    );
    // Nothing was written, so nothing has stopped.
    run(append(&mut log, [2], 10)).unwrap();
}

#[test]
fn a_hole_in_the_log_is_refused() {
    let disk = Arc::new(DangerSimDisk::new(1));
    let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
    run(append(&mut log, [1, 2], 10)).unwrap();
    for index in [1, 2, 4] {
        let err = run(append(&mut log, [index], 10)).unwrap_err();
        assert!(text(&err).contains("hole"));
    }
    run(append(&mut log, [3], 10)).unwrap();
}

#[test]
fn after_a_failed_write_nothing_is_written_and_all_can_be_read() {
    for fault in [Fault::WriteFails, Fault::SyncFails] {
        let disk = Arc::new(DangerSimDisk::new(1));
        let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
        run(async {
            append(&mut log, 1..5, 100).await.unwrap();
            disk.set_fault(Some((fault, "log-")));
            let err = append(&mut log, [5], 100).await.unwrap_err();
            assert!(text(&err).contains("check the disk"), "{}", text(&err));
            disk.set_fault(None);
            // The disk is well again, but what it holds is unknown.
            append(&mut log, [6], 100).await.unwrap_err();
            log.save_vote(&Vote::new(9, 7)).await.unwrap_err();
            log.truncate(log_id(1, 3)).await.unwrap_err();
            assert_eq!(log.can_accept(1), Err(LogFull::Stopped));
            let cause = log.failed().await;
            assert!(matches!(&*cause, StoreError::Io { file, .. } if file.starts_with("/sim")));
            assert_eq!(read(&mut log, 1..5).await.len(), 4);
        });
        drop(log);
        let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
        let entries = run(read(&mut log, 1..5));
        assert_eq!(entries.len(), 4, "what was acknowledged is there");
        assert_eq!(run(log.read_vote()).unwrap(), None);
    }
}

#[test]
fn short_writes_are_finished() {
    let disk = Arc::new(DangerSimDisk::new(1));
    disk.set_fault(Some((Fault::ShortWrites, "")));
    let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
    run(append(&mut log, 1..60, 700)).unwrap();
    run(log.save_vote(&Vote::new(2, 7))).unwrap();
    drop(log);
    let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
    assert_eq!(run(read(&mut log, ..)).len(), 59);
    assert_eq!(run(log.read_vote()).unwrap(), Some(Vote::new(2, 7)));
}

#[test]
fn a_closed_log_takes_nothing() {
    let disk = Arc::new(DangerSimDisk::new(1));
    let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
    run(async {
        append(&mut log, [1, 2], 100).await.unwrap();
        log.save_committed(Some(log_id(1, 2))).await.unwrap();
        log.close().await.unwrap();
        append(&mut log, [3], 100).await.unwrap_err();
        assert_eq!(log.can_accept(1), Err(LogFull::Stopped));
        log.close().await.unwrap();
    });
    drop(log);
    let Opened { mut log, .. } = open_on(&disk, 1, &[]).unwrap();
    assert_eq!(run(log.read_committed()).unwrap(), Some(log_id(1, 2)));
    let empty: [openraft::Entry<_>; 0] = [];
    run(log.blocking_append(empty)).unwrap();
}

#[test]
fn opening_on_a_full_disk_says_so() {
    let disk = Arc::new(DangerSimDisk::new(1));
    disk.set_capacity(Some(9_000));
    let err = open_on(&disk, 1, &[]).map(|_| ()).unwrap_err();
    assert!(err.is_full(), "{err}");
    assert!(
        err.to_string().contains("log-0000000000000001.seg"),
        "{err}"
    );
    // What the attempt began is no obstacle.
    disk.set_capacity(None);
    open_on(&disk, 1, &[]).unwrap();
}
