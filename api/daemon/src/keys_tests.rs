//! Each change of the keys, cut short at each operation of the disk.

use std::{
    fmt::Debug,
    sync::atomic::{AtomicUsize, Ordering},
};

use time::Duration;
use waxseal_autolock::{KeyFileHeader, RaftKeys};
use waxseal_ca::{
    CertificateExpiry, Clock, Csr, NodeProfile, PublicKeyDigest, Role, RootAuthority, Serial,
    SystemClock,
};
use waxseal_raft_store::{DiskFile, OpenMode, OsDisk};

use super::*;

/// The system's disk, until the power goes after so many operations.
#[derive(Debug)]
struct PowerCut {
    left: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct PowerCutFile {
    left: Arc<AtomicUsize>,
    file: Arc<dyn DiskFile>,
}

fn spend(left: &AtomicUsize) -> io::Result<()> {
    let spent = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    spent
        .map(drop)
        .map_err(|_| io::Error::other("the power is gone"))
}

impl Disk for PowerCut {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        spend(&self.left)?;
        Ok(Arc::new(PowerCutFile {
            left: Arc::clone(&self.left),
            file: OsDisk.open(path, mode)?,
        }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        spend(&self.left)?;
        OsDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        spend(&self.left)?;
        OsDisk.remove(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        OsDisk.list(dir)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        spend(&self.left)?;
        OsDisk.create_dir(dir)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        spend(&self.left)?;
        OsDisk.sync_dir(dir)
    }
}

impl DiskFile for PowerCutFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        spend(&self.left)?;
        // Half of it is there when the power goes with the next.
        let half = bytes.len().div_ceil(2);
        self.file.write_at(&bytes[..half], offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        spend(&self.left)?;
        self.file.sync_data()
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        spend(&self.left)?;
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

struct Issued {
    chain_pem: String,
    key: NodeKey,
}

/// A root, and certificates of one node in either role.
struct World {
    authority: RootAuthority,
    now: OffsetDateTime,
}

impl World {
    fn new() -> World {
        let now = SystemClock.now();
        World {
            authority: RootAuthority::generate(now).unwrap(),
            now,
        }
    }

    fn trust(&self) -> TrustBundle {
        TrustBundle::from_pem(self.authority.cert_pem().as_bytes(), self.now).unwrap()
    }

    fn issue(&self, role: Role, serial: u8) -> Issued {
        let key = NodeKey::generate().unwrap();
        let csr = key.csr_pem().unwrap();
        let csr = Csr::parse(csr.as_bytes()).unwrap();
        let profile = NodeProfile {
            cluster_id: "c".to_owned(),
            node_id: "n".to_owned(),
            role,
            expiry: CertificateExpiry::DEFAULT,
        };
        let serial = Serial::from_random([serial; 20]).unwrap();
        let issued = self
            .authority
            .issue(&profile, &csr, serial, self.now + Duration::SECOND)
            .unwrap();
        Issued {
            chain_pem: issued.pem,
            key,
        }
    }

    /// A node's files, written without trouble.
    fn files(&self, swarm: &Path, role: Role, unlock_key: Option<UnlockKey>, epoch: u64) -> Keys {
        let issued = self.issue(role, 1);
        let header = KeyFileHeader {
            cluster_id: "c".to_owned(),
            node_id: "n".to_owned(),
            kek_epoch: epoch,
        };
        let raft = (role == Role::Manager).then(|| raft_keys(7));
        let file = KeyFile::new(header, &issued.key.pkcs8_pem(), raft).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let keys = Keys::create(&disk, swarm, file, unlock_key).unwrap();
        keys.save_trust(self.trust().pem()).unwrap();
        keys.save_certificate(&issued.chain_pem).unwrap();
        keys
    }

    /// The node as the next start finds it: its role by the certificate that fits its
    /// key, whether it has keys of a log, and whether the file opens with this key.
    fn found(
        &self,
        swarm: &Path,
        unlock_key: Option<UnlockKey>,
    ) -> Result<(Role, Keys), KeysError> {
        let disk: Arc<dyn Disk> = Arc::new(OsDisk);
        let keys = Keys::open(&disk, swarm, unlock_key)?;
        let credentials = keys.credentials(&self.trust(), self.now + Duration::MINUTE)?;
        let role = credentials.identity().role;
        assert_eq!(
            keys.file().raft.is_some(),
            role == Role::Manager,
            "certificate and key file are of one role"
        );
        Ok((role, keys))
    }
}

fn raft_keys(raft_id: u64) -> RaftKeys {
    RaftKeys {
        raft_id,
        current: Dek::generate(|bytes| getrandom::fill(bytes)).unwrap(),
        retired: Vec::new(),
    }
}

fn unlock_key(byte: u8) -> UnlockKey {
    UnlockKey::from_slice(&[byte; 32]).unwrap()
}

/// Runs `change` with the power going after 0, 1, 2 … operations, until it is done before;
/// `look` sees the files after each, and whether the change was done.
fn at_every_step(
    begin: impl Fn(&Path) -> Keys,
    change: impl Fn(&mut Keys) -> Result<(), KeysError>,
    mut look: impl FnMut(&Path, bool),
) {
    for steps in 0..1000 {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = begin(dir.path());
        keys.disk = Arc::new(PowerCut {
            left: Arc::new(AtomicUsize::new(steps)),
        });
        let done = change(&mut keys).is_ok();
        drop(keys);
        look(dir.path(), done);
        if done {
            assert!(steps > 5, "nothing was cut short");
            return;
        }
    }
    panic!("it is never done");
}

/// Everything that lies in the directory.
fn bytes_on_disk(swarm: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(swarm.join("certificates")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        all.push_str(&String::from_utf8_lossy(&bytes));
    }
    all
}

#[test]
fn rules_of_issuers_outlive_a_start_and_damage_is_not_their_absence() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new();
    let keys = world.files(dir.path(), Role::Worker, None, 0);
    assert_eq!(
        keys.issuers(&world.trust()).unwrap(),
        IssuerRules::default()
    );
    let path = dir.path().join("certificates/swarm-issuers");
    let nothing = IssuerRules::default();
    keys.save_issuers(&nothing, &world.trust()).unwrap();
    assert!(!path.exists(), "nobody is pinned");
    let rules = IssuerRules {
        only: Some(vec![PublicKeyDigest::from_bytes([1; 32])]),
        refused: vec![PublicKeyDigest::from_bytes([2; 32])],
    };
    keys.save_issuers(&rules, &world.trust()).unwrap();
    drop(keys);
    let (_, keys) = world.found(dir.path(), None).unwrap();
    assert_eq!(keys.issuers(&world.trust()).unwrap(), rules);
    // Nothing is what a manager says in words, not what is left of a file.
    for text in ["", "format 2\nend\n", "format 1\nonly"] {
        std::fs::write(&path, text).unwrap();
        let refused = keys.issuers(&world.trust()).unwrap_err().to_string();
        assert!(
            refused.contains("swarm-issuers cannot be read"),
            "{refused}"
        );
    }
    keys.save_issuers(&IssuerRules::default(), &world.trust())
        .unwrap();
    assert_eq!(
        keys.issuers(&world.trust()).unwrap(),
        IssuerRules::default()
    );
}

#[test]
fn a_promotion_is_whole_or_has_not_been_and_sealed_from_the_first_byte() {
    let world = World::new();
    let manager = world.issue(Role::Manager, 2);
    let (mut as_worker, mut as_manager) = (0, 0);
    at_every_step(
        |swarm| world.files(swarm, Role::Worker, None, 0),
        |keys| {
            let key = Some(unlock_key(3));
            keys.become_manager(&manager.chain_pem, &manager.key, raft_keys(9), key, 4)
        },
        |swarm, done| {
            let private = manager.key.pkcs8_pem();
            let line = private.lines().nth(1).unwrap();
            assert!(!bytes_on_disk(swarm).contains(line), "the key in the clear");
            match world.found(swarm, Some(unlock_key(3))) {
                Ok((role, keys)) => {
                    assert_eq!((role, keys.file().header.kek_epoch), (Role::Manager, 4));
                    assert_eq!(keys.file().raft.as_ref().unwrap().raft_id, 9);
                    as_manager += 1;
                }
                Err(_) => {
                    assert!(!done);
                    let (role, _) = world.found(swarm, None).unwrap();
                    assert_eq!(role, Role::Worker);
                    as_worker += 1;
                }
            }
        },
    );
    assert!(as_worker > 0 && as_manager > 1, "{as_worker} {as_manager}");
}

#[test]
fn a_demotion_leaves_no_key_of_the_log_once_the_node_is_a_worker() {
    let world = World::new();
    let worker = world.issue(Role::Worker, 2);
    let (mut as_worker, mut as_manager) = (0, 0);
    at_every_step(
        |swarm| world.files(swarm, Role::Manager, Some(unlock_key(3)), 4),
        |keys| keys.become_worker(&worker.chain_pem, &worker.key),
        |swarm, done| match world.found(swarm, None) {
            Ok((role, keys)) => {
                assert_eq!((role, keys.file().header.kek_epoch), (Role::Worker, 0));
                as_worker += 1;
            }
            Err(KeysError::Open {
                source: OpenError::Locked(_),
                ..
            }) => {
                assert!(!done);
                let (role, _) = world.found(swarm, Some(unlock_key(3))).unwrap();
                assert_eq!(role, Role::Manager);
                as_manager += 1;
            }
            Err(error) => panic!("{error}"),
        },
    );
    assert!(as_worker > 1 && as_manager > 0, "{as_worker} {as_manager}");
}

/// spec/autolock.md §9.1: before and after step 0's rename.
#[test]
fn a_key_rotation_opens_with_the_old_or_the_new_key_and_keeps_every_dek() {
    let world = World::new();
    let (mut old, mut new) = (0, 0);
    at_every_step(
        |swarm| world.files(swarm, Role::Manager, Some(unlock_key(1)), 1),
        |keys| keys.follow(Some(unlock_key(2)), 2).map(drop),
        |swarm, done| match world.found(swarm, Some(unlock_key(2))) {
            Ok((_, keys)) => {
                let raft = keys.file().raft.as_ref().unwrap();
                assert_eq!((keys.file().header.kek_epoch, raft.retired.len()), (2, 1));
                assert!(
                    keys.unfinished_rotation().is_some(),
                    "the log goes on to follow"
                );
                new += 1;
            }
            Err(_) => {
                assert!(!done);
                let (_, mut keys) = world.found(swarm, Some(unlock_key(1))).unwrap();
                assert!(keys.file().raft.as_ref().unwrap().retired.is_empty());
                // It catches up: the state says the new key again.
                keys.follow(Some(unlock_key(2)), 2).unwrap();
                world.found(swarm, Some(unlock_key(2))).unwrap();
                old += 1;
            }
        },
    );
    assert!(old > 0 && new > 1, "{old} {new}");
}

#[test]
fn turning_autolock_on_and_off_is_whole_or_has_not_been() {
    let world = World::new();
    for (held, becomes) in [(None, Some(5)), (Some(5), None)] {
        at_every_step(
            |swarm| world.files(swarm, Role::Manager, held.map(unlock_key), 1),
            |keys| keys.follow(becomes.map(unlock_key), 2).map(drop),
            |swarm, done| match world.found(swarm, becomes.map(unlock_key)) {
                Ok((_, keys)) => assert_eq!(keys.file().header.kek_epoch, 2),
                Err(_) => {
                    assert!(!done);
                    let (_, keys) = world.found(swarm, held.map(unlock_key)).unwrap();
                    assert_eq!(keys.file().header.kek_epoch, 1);
                }
            },
        );
    }
}

/// spec/autolock.md §9.1: after the snapshot under the new key, before the old one is
/// forgotten, and after.
#[test]
fn a_finished_rotation_is_forgotten_or_finished_again() {
    let world = World::new();
    at_every_step(
        |swarm| {
            let mut keys = world.files(swarm, Role::Manager, Some(unlock_key(1)), 1);
            keys.follow(Some(unlock_key(2)), 2).unwrap();
            keys
        },
        |keys| {
            let sealing = keys.unfinished_rotation().unwrap().id();
            keys.forget_retired_deks(sealing)
        },
        |swarm, done| {
            let (_, keys) = world.found(swarm, Some(unlock_key(2))).unwrap();
            assert!(!done || keys.unfinished_rotation().is_none());
        },
    );
}

/// A rotation that ends after the next one began must not take the key that the log is still
/// sealed under.
#[test]
fn a_rotation_overtaken_by_the_next_forgets_nothing() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let mut keys = world.files(dir.path(), Role::Manager, Some(unlock_key(1)), 1);
    keys.follow(Some(unlock_key(2)), 2).unwrap();
    let first = keys.unfinished_rotation().unwrap().id();
    keys.follow(Some(unlock_key(3)), 3).unwrap();
    keys.forget_retired_deks(first).unwrap();
    let (_, mut keys) = world.found(dir.path(), Some(unlock_key(3))).unwrap();
    let retired = &keys.file().raft.as_ref().unwrap().retired;
    assert!(retired.iter().any(|dek| dek.id() == first));
    let second = keys.unfinished_rotation().unwrap().id();
    assert_ne!(first, second);
    keys.forget_retired_deks(second).unwrap();
    assert!(keys.unfinished_rotation().is_none());
}

/// A manager that was away while autolock went off and on again: its data key is
/// replaced, too (spec/autolock.md §10 names where the stock one is not).
#[test]
fn who_was_away_over_several_changes_takes_the_last_and_rotates() {
    let world = World::new();
    let dir = tempfile::tempdir().unwrap();
    let mut keys = world.files(dir.path(), Role::Manager, Some(unlock_key(1)), 1);
    let change = keys.follow(Some(unlock_key(9)), 3).unwrap();
    assert!(change.rotates_dek());
    drop(keys);
    assert!(world.found(dir.path(), Some(unlock_key(1))).is_err());
    let (_, mut keys) = world.found(dir.path(), Some(unlock_key(9))).unwrap();
    // What is older than the file changes nothing; the same epoch with another key is told.
    assert_eq!(keys.follow(None, 2).unwrap(), KeyChange::Nothing);
    assert!(matches!(
        keys.follow(Some(unlock_key(1)), 3),
        Err(KeysError::Conflict(_))
    ));
}
