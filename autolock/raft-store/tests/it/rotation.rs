//! Another DEK: what is written goes under it, what is there stays readable until it is gone.

use openraft::storage::RaftLogStorage;
use waxseal_raft_store::{Meta, Opened, OsDisk, SnapshotData, StoreError, open, remove_all};

use crate::support::{TypeConfig, append, dek, files, log_id, options, read, run};

fn snapshot(opened: &Opened<TypeConfig>, index: u64) {
    let draft = opened.snapshots.begin().unwrap();
    draft.write(b"state").unwrap();
    let meta = Meta {
        last_log_id: Some(log_id(1, index)),
        ..Meta::default()
    };
    opened
        .snapshots
        .install(&meta, SnapshotData::Draft(draft))
        .unwrap();
}

#[test]
fn a_rotation_ends_with_no_file_under_the_old_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open::<TypeConfig>(options(dir.path(), 1, &[])).unwrap();
    run(async {
        append(&mut opened.log, 1..30, 1_000).await.unwrap();
        snapshot(&opened, 10);
        opened.log.rotate_dek(dek(2)).await.unwrap();
        append(&mut opened.log, 30..40, 1_000).await.unwrap();
        assert_eq!(read(&mut opened.log, ..).await.len(), 39, "under both keys");
        assert_eq!(opened.log.retired_in_use(), [dek(1).id()]);
        opened.log.forget_retired();
        assert_eq!(read(&mut opened.log, 1..5).await.len(), 4);
        // A snapshot and a purge to its end.
        snapshot(&opened, 35);
        assert_eq!(
            opened.log.retired_in_use(),
            [dek(1).id()],
            "the log still has old segments"
        );
        opened.log.purge(log_id(1, 35)).await.unwrap();
        assert_eq!(opened.log.retired_in_use(), []);
        opened.log.forget_retired();
        opened.log.close().await.unwrap();
    });
    drop(opened);
    let old_id = dek(1).id().0;
    for (name, bytes) in files(dir.path()).unwrap() {
        assert!(!bytes.windows(8).any(|window| window == old_id), "{name}");
    }
    let mut opened = open::<TypeConfig>(options(dir.path(), 2, &[])).unwrap();
    assert_eq!(run(read(&mut opened.log, ..)).len(), 4);
}

/// With the same key: the manager may ask again after a restart.
#[test]
fn a_rotation_can_be_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open::<TypeConfig>(options(dir.path(), 1, &[])).unwrap();
    run(async {
        append(&mut opened.log, 1..5, 100).await.unwrap();
        opened.log.rotate_dek(dek(2)).await.unwrap();
        let segments = opened.log.usage_since(None).segments;
        opened.log.rotate_dek(dek(2)).await.unwrap();
        assert_eq!(opened.log.usage_since(None).segments, segments);
        assert_eq!(opened.log.retired_in_use(), [dek(1).id()]);
    });
    drop(opened);
    // Restarted in between, with both keys from the key file.
    let opened = open::<TypeConfig>(options(dir.path(), 2, &[1])).unwrap();
    assert_eq!(opened.log.retired_in_use(), [dek(1).id()]);
    drop(opened);
    // A key file that lost the old key.
    let err = open::<TypeConfig>(options(dir.path(), 2, &[]))
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(err, StoreError::UnknownKey { .. }), "{err}");
}

/// No entry came since the last snapshot, so openraft will not take another one.
#[test]
fn a_snapshot_can_be_sealed_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open::<TypeConfig>(options(dir.path(), 1, &[])).unwrap();
    run(append(&mut opened.log, 1..5, 100)).unwrap();
    snapshot(&opened, 4);
    let before = opened.snapshots.latest().unwrap();
    run(opened.log.rotate_dek(dek(2))).unwrap();
    opened.snapshots.reseal().unwrap();
    let after = opened.snapshots.latest().unwrap();
    assert_eq!(after.meta(), before.meta());
    assert_eq!(
        after.reader().read_to_end().unwrap(),
        before.reader().read_to_end().unwrap()
    );
    run(opened.log.purge(log_id(1, 4))).unwrap();
    assert_eq!(opened.log.retired_in_use(), []);
    opened.snapshots.reseal().unwrap();
    assert_eq!(
        opened.snapshots.latest().unwrap().file_bytes(),
        after.file_bytes()
    );
}

#[test]
fn drafts_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open::<TypeConfig>(options(dir.path(), 1, &[])).unwrap();
    let count = || {
        files(dir.path())
            .unwrap()
            .keys()
            .filter(|name| name.contains("snapshot"))
            .count()
    };
    let draft = opened.snapshots.begin().unwrap();
    draft.write(&[1; 3_000_000]).unwrap();
    assert_eq!(count(), 1);
    drop(draft);
    assert_eq!(count(), 0);
    snapshot(&opened, 3);
    snapshot(&opened, 4);
    assert_eq!(count(), 1, "the one before is gone");
    // A second use of a finished draft, and one of another store.
    let draft = opened.snapshots.begin().unwrap();
    let meta = Meta::default();
    opened
        .snapshots
        .install(&meta, SnapshotData::Draft(draft.clone()))
        .unwrap();
    opened
        .snapshots
        .install(&meta, SnapshotData::Draft(draft.clone()))
        .unwrap_err();
    draft.write(b"more").unwrap_err();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = open::<TypeConfig>(options(elsewhere.path(), 1, &[])).unwrap();
    let foreign = other.snapshots.begin().unwrap();
    opened
        .snapshots
        .install(&meta, SnapshotData::Draft(foreign))
        .unwrap_err();
    // A process that died left one.
    std::fs::write(
        dir.path().join("snapshot-00000000000000ff.snap.tmp"),
        b"half",
    )
    .unwrap();
    drop((opened, draft));
    let opened = open::<TypeConfig>(options(dir.path(), 1, &[])).unwrap();
    assert_eq!(count(), 1);
    drop(opened);
    std::fs::write(dir.path().join("notes.txt"), b"not ours").unwrap();
    remove_all(&OsDisk, dir.path()).unwrap();
    assert_eq!(
        files(dir.path()).unwrap().into_keys().collect::<Vec<_>>(),
        ["notes.txt"]
    );
    remove_all(&OsDisk, &dir.path().join("nowhere")).unwrap();
}

#[test]
fn as_many_older_snapshots_stay_as_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let names = || {
        let names = files(dir.path()).unwrap().into_keys();
        let names = names.filter(|name| name.contains("snapshot"));
        names.collect::<Vec<_>>()
    };
    let name = |number: u64| format!("snapshot-{number:016x}.snap");
    let opened = open::<TypeConfig>(options(dir.path(), 1, &[])).unwrap();
    opened.snapshots.keep_older(2).unwrap();
    for index in 1..=5 {
        snapshot(&opened, index);
    }
    assert_eq!(names(), [3, 4, 5].map(name));
    opened.snapshots.keep_older(1).unwrap();
    assert_eq!(names(), [4, 5].map(name));
    // A start does not know yet how many; what cannot be read is of no use.
    drop(opened);
    std::fs::write(dir.path().join(name(2)), b"damaged").unwrap();
    let opened = open::<TypeConfig>(options(dir.path(), 1, &[])).unwrap();
    assert_eq!(names(), [4, 5].map(name));
    opened.snapshots.keep_older(1).unwrap();
    snapshot(&opened, 6);
    assert_eq!(names(), [5, 6].map(name));
    // They do not outlive their key.
    run(opened.log.rotate_dek(dek(2))).unwrap();
    snapshot(&opened, 7);
    assert_eq!(names(), [6, 7].map(name));
    assert!(opened.snapshots.deks_in_use().contains(&dek(1).id()));
    opened.snapshots.reseal().unwrap();
    assert_eq!(names(), [name(7)]);
    assert_eq!(opened.snapshots.deks_in_use(), [dek(2).id()]);
}
