//! 2,000 power failures. What was acknowledged is there, nothing is half there, and what was not
//! acknowledged is what somebody asked for or is not there.

use std::collections::BTreeMap;
use std::path::Path;

use openraft::Vote;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use std::sync::Arc;
use waxseal_raft_store::{DangerSimDisk, Meta, Opened, SnapshotData, SnapshotStore, StoreError};

use crate::support::{Log, append, dek, log_id, note, open_on, read, run};

const FAILURES: u64 = 2_000;

/// Failures that one disk goes through before the next begins with an empty one.
const FAILURES_OF_A_DISK: u64 = 25;

/// A small generator, so that the test and the disk do not share one.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// What the test knows of one log.
#[derive(Default, Clone)]
struct Model {
    /// What is acknowledged.
    entries: BTreeMap<u64, Vec<u8>>,
    purged: u64,
    vote: Option<(u64, bool)>,
    snapshot: Option<(u64, Vec<u8>)>,
    /// The operation that the power failed in.
    pending: Option<Operation>,
    term: u64,
}

#[derive(Debug, Clone)]
enum Operation {
    Append(Vec<(u64, Vec<u8>)>),
    Truncate(u64),
    Purge(u64),
    Vote(u64, bool),
    Snapshot(u64, Vec<u8>),
    Rotate(u8),
}

impl Model {
    fn next_index(&self) -> u64 {
        self.entries
            .keys()
            .next_back()
            .copied()
            .max(Some(self.purged))
            .unwrap_or(0)
            + 1
    }

    fn choose(&mut self, random: &mut Random, dek: u8) -> Operation {
        match random.below(20) {
            0..12 => {
                let first = self.next_index();
                let count = 1 + random.below(4);
                let entry = |index| {
                    let len = match random.below(8) {
                        0 => 2_000 + random.below(3_000),
                        _ => random.below(300),
                    };
                    (index, vec![random.below(251) as u8; len as usize])
                };
                Operation::Append((first..first + count).map(entry).collect())
            }
            12 | 13 if !self.entries.is_empty() => {
                let behind_snapshot = self.snapshot.as_ref().map_or(0, |(index, _)| *index) + 1;
                let first = behind_snapshot.max(self.next_index().saturating_sub(random.below(6)));
                Operation::Truncate(first)
            }
            14 | 15 => {
                self.term += 1;
                Operation::Vote(self.term, random.below(2) == 0)
            }
            16 | 17 if !self.entries.is_empty() => {
                let state = vec![random.below(251) as u8; random.below(5_000) as usize];
                Operation::Snapshot(self.next_index() - 1, state)
            }
            18 if self.snapshot.is_some() => {
                Operation::Purge(self.snapshot.as_ref().map_or(0, |(index, _)| *index))
            }
            19 => Operation::Rotate(dek + 1),
            _ => Operation::Append(vec![(self.next_index(), vec![1])]),
        }
    }

    fn acknowledge(&mut self, operation: Operation) {
        match operation {
            Operation::Append(entries) => self.entries.extend(entries),
            Operation::Truncate(index) => {
                self.entries.split_off(&index);
            }
            Operation::Purge(index) => {
                self.entries = self.entries.split_off(&(index + 1));
                self.purged = self.purged.max(index);
            }
            Operation::Vote(term, committed) => self.vote = Some((term, committed)),
            Operation::Snapshot(index, state) => self.snapshot = Some((index, state)),
            Operation::Rotate(_) => {}
        }
    }
}

/// What a reopened store holds.
#[derive(Debug, PartialEq)]
struct Seen {
    entries: BTreeMap<u64, Vec<u8>>,
    purged: u64,
    vote: Option<(u64, bool)>,
    snapshot: Option<(u64, Vec<u8>)>,
}

impl From<&Model> for Seen {
    fn from(model: &Model) -> Self {
        let Model {
            entries,
            purged,
            vote,
            snapshot,
            ..
        } = model.clone();
        Self {
            entries,
            purged,
            vote,
            snapshot,
        }
    }
}

async fn look(log: &mut Log, snapshots: &SnapshotStore) -> Seen {
    let state = log.get_log_state().await.unwrap();
    let entries: BTreeMap<_, _> = read(log, ..).await.into_iter().collect();
    if let Some(last) = entries.keys().next_back() {
        assert_eq!(state.last_log_id.map(|id| id.index), Some(*last));
    }
    let vote = log.read_vote().await.unwrap();
    let snapshot = snapshots.latest().map(|latest| {
        let index = latest.meta().last_log_id.map_or(0, |id| id.index);
        (index, latest.reader().read_to_end().unwrap().to_vec())
    });
    Seen {
        entries,
        purged: state.last_purged_log_id.map_or(0, |id| id.index),
        vote: vote.map(|vote| (vote.leader_id.term, vote.committed)),
        snapshot,
    }
}

async fn perform(
    log: &mut Log,
    snapshots: &SnapshotStore,
    operation: &Operation,
) -> Result<(), String> {
    match operation {
        Operation::Append(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(index, bytes)| note(1, *index, bytes.clone()))
                .collect();
            let last = entries.last().map(|entry| entry.log_id);
            log.blocking_append(entries)
                .await
                .map_err(|err| err.to_string())?;
            log.save_committed(last)
                .await
                .map_err(|err| err.to_string())
        }
        Operation::Truncate(index) => log
            .truncate(log_id(1, *index))
            .await
            .map_err(|err| err.to_string()),
        Operation::Purge(index) => log
            .purge(log_id(1, *index))
            .await
            .map_err(|err| err.to_string()),
        Operation::Vote(term, committed) => {
            let vote = match committed {
                true => Vote::new_committed(*term, 7),
                false => Vote::new(*term, 7),
            };
            log.save_vote(&vote).await.map_err(|err| err.to_string())
        }
        Operation::Snapshot(index, state) => {
            snapshot(snapshots, *index, state).map_err(|err: StoreError| err.to_string())
        }
        Operation::Rotate(byte) => log
            .rotate_dek(dek(*byte))
            .await
            .map_err(|err| err.to_string()),
    }
}

fn snapshot(snapshots: &SnapshotStore, index: u64, state: &[u8]) -> Result<(), StoreError> {
    let draft = snapshots.begin()?;
    draft.write(state)?;
    let meta = Meta {
        last_log_id: Some(log_id(1, index)),
        ..Meta::default()
    };
    snapshots
        .install(&meta, SnapshotData::Draft(draft))
        .map(|_| ())
}

/// Checks what a reopened store holds against what was acknowledged; what the power failed in may
/// have happened or not, and an append up to any entry.
fn check(model: &mut Model, seen: Seen) {
    let mut allowed = vec![model.clone()];
    match model.pending.take() {
        Some(Operation::Append(entries)) => {
            for count in 1..=entries.len() {
                let mut with = model.clone();
                with.acknowledge(Operation::Append(entries[..count].to_vec()));
                allowed.push(with);
            }
        }
        Some(operation) => {
            let mut with = model.clone();
            with.acknowledge(operation);
            allowed.push(with);
        }
        None => {}
    }
    let found = allowed.into_iter().find(|with| Seen::from(with) == seen);
    let Some(found) = found else {
        let short = |seen: Seen| {
            let entries: Vec<_> = seen.entries.iter().map(|(i, b)| (*i, b.len())).collect();
            (
                entries,
                seen.purged,
                seen.vote,
                seen.snapshot.map(|(i, b)| (i, b.len())),
            )
        };
        panic!(
            "expected {:?}\nfound {:?}",
            short(Seen::from(&*model)),
            short(seen)
        );
    };
    *model = Model {
        pending: None,
        ..found
    };
}

/// Mostly the power fails; sometimes it is only the process that ends, and the next one must not
/// build on what the power may still take.
fn fail(disk: &DangerSimDisk, random: &mut Random) {
    match random.below(4) {
        0 => disk.kill(),
        _ => disk.power_cycle(),
    }
}

/// One disk through its failures. Returns how many of them lost something that was pending.
fn live(seed: u64) -> u64 {
    let disk = Arc::new(DangerSimDisk::new(seed));
    let mut random = Random(seed);
    let mut model = Model::default();
    let mut lost = 0;
    // Key 0 is current first; those before stay at hand, as the key file keeps them.
    let mut dek = 0;
    for _ in 0..FAILURES_OF_A_DISK {
        disk.cut_power_after(random.below(100));
        run(async {
            let retired: Vec<u8> = (0..dek).collect();
            if let Ok(Opened {
                mut log, snapshots, ..
            }) = open_on(&disk, dek, &retired)
            {
                loop {
                    let operation = model.choose(&mut random, dek);
                    if let Operation::Rotate(byte) = &operation {
                        // The key file comes first.
                        dek = *byte;
                    }
                    match perform(&mut log, &snapshots, &operation).await {
                        Ok(()) => model.acknowledge(operation),
                        Err(_) => {
                            model.pending = Some(operation);
                            break;
                        }
                    }
                }
            }
        });
        // All of the store is gone here: its threads, too.
        fail(&disk, &mut random);
        let had_pending = model.pending.is_some();
        let before = Seen::from(&model);
        let retired: Vec<u8> = (0..dek).collect();
        // Some starts do not get far.
        while random.below(3) == 0 {
            disk.cut_power_after(random.below(50));
            let _ = open_on(&disk, dek, &retired);
            fail(&disk, &mut random);
        }
        let Opened {
            mut log,
            snapshots,
            recovery,
        } = open_on(&disk, dek, &retired).unwrap_or_else(|err| panic!("{err}"));
        assert!(recovery.segments < 100);
        let seen = run(look(&mut log, &snapshots));
        lost += u64::from(had_pending && seen == before);
        check(&mut model, seen);
        if random.below(4) == 0 {
            run(log.close()).unwrap();
        }
    }
    lost
}

#[test]
fn two_thousand_power_failures() {
    const THREADS: u64 = 2;
    let disks = FAILURES / FAILURES_OF_A_DISK;
    let lost: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    (thread..disks)
                        .step_by(THREADS as usize)
                        .map(|disk| {
                            let seed = TellSeed(0x5ea1 + disk);
                            live(seed.0)
                        })
                        .sum::<u64>()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    // The disk is no kind one: many an operation that was under way is gone.
    assert!(
        lost > FAILURES / 20,
        "only {lost} of {FAILURES} failures lost anything"
    );
}

/// Says which seed it was if the test fails.
struct TellSeed(u64);

impl Drop for TellSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {:#x}", self.0);
        }
    }
}

/// A process that is killed in its first start, and a power failure in the next: at each pair of
/// moments.
#[test]
fn two_failures_in_a_row_at_any_moment() {
    for killed_after in 0..45 {
        for cut_after in (0..60).step_by(3) {
            let disk = Arc::new(DangerSimDisk::new(killed_after * 100 + cut_after));
            let mut acknowledged = 0;
            for (number, operations) in (0..).zip([killed_after, cut_after]) {
                disk.cut_power_after(operations);
                if let Ok(Opened { mut log, .. }) = open_on(&disk, 0, &[]) {
                    let present = log.usage_since(None).entries;
                    assert!(present >= acknowledged, "{killed_after} {cut_after}");
                    acknowledged = present;
                    for index in present + 1..present + 4 {
                        if run(append(&mut log, [index], 200)).is_err() {
                            break;
                        }
                        acknowledged = index;
                    }
                }
                match number {
                    0 => disk.kill(),
                    _ => disk.power_cycle(),
                }
            }
            let Opened { mut log, .. } = open_on(&disk, 0, &[]).unwrap();
            let present = run(read(&mut log, ..)).len() as u64;
            assert!(present >= acknowledged, "{killed_after} {cut_after}");
        }
    }
}

/// The other way round: a killed process loses nothing that it had written.
#[test]
fn a_killed_process_loses_nothing_acknowledged() {
    for seed in 0..40 {
        let disk = Arc::new(DangerSimDisk::new(seed));
        let mut random = Random(seed);
        let mut model = Model::default();
        for _ in 0..5 {
            let Opened {
                mut log, snapshots, ..
            } = open_on(&disk, 0, &[]).unwrap();
            run(async {
                for _ in 0..random.below(20) {
                    let operation = match model.choose(&mut random, 0) {
                        Operation::Rotate(_) => continue,
                        operation => operation,
                    };
                    perform(&mut log, &snapshots, &operation).await.unwrap();
                    model.acknowledge(operation);
                }
            });
        }
        let Opened {
            mut log, snapshots, ..
        } = open_on(&disk, 0, &[]).unwrap();
        check(&mut model, run(look(&mut log, &snapshots)));
        assert!(disk.content(Path::new("/sim/vote")).is_some());
    }
}
