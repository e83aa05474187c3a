//! The vote file: vote, purge mark and the log's head, sealed, in two copies.
//!
//! Two slots of [`SLOT_BYTES`] are overwritten one after the other, each synced before the next.
//! So one is always whole, a full disk cannot refuse a vote, and no rename is waited for. Of two
//! readable copies the one with the higher generation counts; a copy that does not open was being
//! written, or is damaged, and in both cases the other one holds all that was acknowledged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message as _;
use waxseal_autolock::{DekRing, FormatError, Owner, open_slot, seal_slot};
use zeroize::Zeroizing;

use crate::keys::{Keys, random};
use crate::records::{DiskState, RECORDS_FORMAT};
use crate::{Disk, DiskFile, OpenMode, StoreError, write_atomically};

/// The file's name.
pub(crate) const VOTE_FILE: &str = "vote";

/// Bytes of a slot: a page, so that no page holds two slots. A value takes about 200.
const SLOT_BYTES: usize = 4096;

const SLOTS: usize = 2;

/// The open vote file.
#[derive(Debug)]
pub(crate) struct VoteFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    owner: Owner,
    keys: Arc<Keys>,
    generation: u64,
    /// The slot whose content is older or unreadable: overwritten first.
    stale_slot: usize,
}

impl VoteFile {
    /// Makes the file.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        owner: &Owner,
        keys: &Arc<Keys>,
        state: &DiskState,
    ) -> Result<Self, StoreError> {
        let path = dir.join(VOTE_FILE);
        let slot = seal(state, &path, &keys.ring(), owner)?;
        write_atomically(disk, &path, &slot.repeat(SLOTS))
            .map_err(|err| StoreError::io(&path, "create", err))?;
        let file = disk
            .open(&path, OpenMode::ReadWrite)
            .map_err(|err| StoreError::io(&path, "open", err))?;
        Ok(Self {
            path,
            file,
            owner: owner.clone(),
            keys: keys.clone(),
            generation: state.generation,
            stale_slot: 0,
        })
    }

    /// Opens the file; `None` if there is none.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        owner: &Owner,
        keys: &Arc<Keys>,
    ) -> Result<Option<(Self, DiskState)>, StoreError> {
        let path = dir.join(VOTE_FILE);
        let file = match disk.open(&path, OpenMode::ReadWrite) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(StoreError::io(&path, "open", err)),
        };
        let mut bytes = Zeroizing::new(vec![0; SLOT_BYTES * SLOTS]);
        let len = file
            .read_full_at(&mut bytes, 0)
            .map_err(|err| StoreError::io(&path, "read", err))?;
        let ring = keys.ring();
        let mut slots = bytes[..len]
            .chunks(SLOT_BYTES)
            .map(|slot| open_state(slot, &ring, owner));
        let mut next = || {
            slots
                .next()
                .unwrap_or(Err(FormatError::Damaged { what: "the vote" }))
        };
        let (stale_slot, state) = newer(next(), next())
            .map_err(|(slot, err)| StoreError::format(&path, (slot * SLOT_BYTES) as u64, err))?;
        if state.format > RECORDS_FORMAT {
            let (version, supported) = (state.format, RECORDS_FORMAT);
            return Err(StoreError::TooNew {
                file: path,
                version,
                supported,
            });
        }
        let generation = state.generation;
        let (owner, keys) = (owner.clone(), keys.clone());
        Ok(Some((
            Self {
                path,
                file,
                owner,
                keys,
                generation,
                stale_slot,
            },
            state,
        )))
    }

    /// Writes both copies; durable when this returns.
    pub(crate) fn save(&mut self, state: &mut DiskState) -> Result<(), StoreError> {
        self.generation += 1;
        state.format = RECORDS_FORMAT;
        state.generation = self.generation;
        for turn in 0..SLOTS {
            let slot = (self.stale_slot + turn) % SLOTS;
            let bytes = seal(state, &self.path, &self.keys.ring(), &self.owner)?;
            self.file
                .write_all_at(&bytes, (slot * SLOT_BYTES) as u64)
                .and_then(|()| self.file.sync_data())
                .map_err(|err| StoreError::io(&self.path, "write", err))?;
        }
        Ok(())
    }
}

fn seal(
    state: &DiskState,
    path: &Path,
    ring: &DekRing,
    owner: &Owner,
) -> Result<Vec<u8>, StoreError> {
    let mut bytes = seal_slot(ring.current(), owner, &random()?, &state.encode_to_vec());
    if bytes.len() > SLOT_BYTES {
        return Err(StoreError::corrupt(path, 0, "its value outgrew the slot"));
    }
    bytes.resize(SLOT_BYTES, 0);
    Ok(bytes)
}

fn open_state(slot: &[u8], ring: &DekRing, owner: &Owner) -> Result<DiskState, FormatError> {
    let bytes = open_slot(slot, ring, owner)?;
    DiskState::decode(&bytes[..]).map_err(|_| FormatError::Damaged { what: "the vote" })
}

/// The state that counts, and which slot does not hold it.
fn newer(
    first: Result<DiskState, FormatError>,
    second: Result<DiskState, FormatError>,
) -> Result<(usize, DiskState), (usize, FormatError)> {
    match (first, second) {
        // A newer program or another node wrote here: nothing to choose from.
        (Err(err @ (FormatError::TooNew { .. } | FormatError::Foreign { .. })), _) => Err((0, err)),
        (_, Err(err @ (FormatError::TooNew { .. } | FormatError::Foreign { .. }))) => Err((1, err)),
        (Ok(first), Ok(second)) if first.generation >= second.generation => Ok((1, first)),
        (_, Ok(second)) => Ok((0, second)),
        (Ok(first), Err(_)) => Ok((1, first)),
        (Err(err @ FormatError::UnknownKey { .. }), Err(_)) => Err((0, err)),
        (Err(_), Err(err)) => Err((1, err)),
    }
}

#[cfg(test)]
mod tests {
    use waxseal_autolock::Dek;

    use super::*;
    use crate::DangerSimDisk;
    use crate::records::DiskVote;

    fn keys() -> Arc<Keys> {
        let dek = Dek::generate(|bytes| {
            bytes.fill(1);
            Ok::<_, ()>(())
        });
        Arc::new(Keys::new(DekRing::new(dek.unwrap(), [])))
    }

    fn owner() -> Owner {
        Owner {
            cluster_id: "c".into(),
            node_id: "n".into(),
            raft_id: 1,
        }
    }

    fn state(term: u64) -> DiskState {
        let vote = DiskVote {
            term,
            leader: 1,
            committed: false,
        };
        DiskState {
            vote: Some(vote),
            ..DiskState::default()
        }
    }

    fn open(disk: &DangerSimDisk) -> (VoteFile, DiskState) {
        VoteFile::open(disk, Path::new("/d"), &owner(), &keys())
            .unwrap()
            .unwrap()
    }

    /// A damaged copy is written first: the power may fail while it is.
    #[test]
    fn the_whole_copy_is_not_touched_before_the_other_is_whole() {
        let path = Path::new("/d").join(VOTE_FILE);
        for seed in 0..3_000 {
            let disk = DangerSimDisk::new(seed);
            VoteFile::create(&disk, Path::new("/d"), &owner(), &keys(), &state(1)).unwrap();
            let damaged = seed as usize % SLOTS;
            let mut bytes = disk.content(&path).unwrap();
            bytes[damaged * SLOT_BYTES + 20] ^= 1;
            disk.tamper(&path, bytes);
            let (mut file, found) = open(&disk);
            assert_eq!(found.vote, state(1).vote);
            disk.cut_power_after(seed / 2 % 5);
            let saved = file.save(&mut state(2)).is_ok();
            disk.power_cycle();
            let (_, found) = open(&disk);
            assert!(found.vote == state(2).vote || !saved && found.vote == state(1).vote);
        }
    }

    #[test]
    fn the_newer_copy_counts_and_strangers_stop_it() {
        let old = || {
            Ok(DiskState {
                generation: 1,
                ..state(1)
            })
        };
        let new = || {
            Ok(DiskState {
                generation: 2,
                ..state(2)
            })
        };
        let damaged = || Err(FormatError::Damaged { what: "the vote" });
        let foreign = || Err(FormatError::Foreign { what: "the vote" });
        assert_eq!(newer(old(), new()).unwrap().1.generation, 2);
        assert_eq!(newer(new(), old()).unwrap().1.generation, 2);
        assert_eq!(
            newer(damaged(), old()).unwrap().0,
            0,
            "the slot to write first"
        );
        assert_eq!(newer(old(), damaged()).unwrap().0, 1);
        assert_eq!(newer(damaged(), damaged()).unwrap_err().0, 1);
        assert_eq!(newer(old(), foreign()).unwrap_err().0, 1);
        assert_eq!(newer(foreign(), old()).unwrap_err().0, 0);
    }
}
