//! The node's keys and certificate: in memory, and under `swarm/certificates`.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use time::OffsetDateTime;
use waxseal_autolock::{
    ClusterKey, Dek, DekId, HeldKey, KeyChange, KeyConflict, KeyFile, OpenError, RaftKeys,
    TooManyRetiredDeks, UnlockKey, plan_key_change,
};
use waxseal_ca::{CredentialsError, IssuerRules, NodeCredentials, NodeKey, TrustBundle};
use waxseal_raft_store::{Disk, write_atomically};
use zeroize::Zeroizing;

use crate::issuer_file;

/// Names of spec/pki.md §3.3, so that `openssl` and scripts find them.
const KEY: &str = "swarm-node.key";
const CERTIFICATE: &str = "swarm-node.crt";
const NEXT_CERTIFICATE: &str = ".swarm-node.crt";
const ROOT: &str = "swarm-root-ca.crt";
const ISSUERS: &str = "swarm-issuers";

/// No certificate file is larger: four certificates and a bundle of roots.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// The keys of this node, and the files that hold them.
///
/// Every change of a key is one atomic replacement of the key file. Certificate
/// and key are replaced in two phases (the certificate under another name, the
/// key, the rename), and whoever reads takes the certificate that fits the key.
pub(crate) struct Keys {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    file: KeyFile,
    unlock_key: Option<UnlockKey>,
}

/// What [`Keys::replace_chain`] took out: keys of the log, unlock key, its epoch.
struct FormerChain(Option<RaftKeys>, Option<UnlockKey>, u64);

/// Why keys or certificates could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeysError {
    /// The key file does not open.
    #[error("{}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why, and what helps.
        source: OpenError,
    },
    /// A file cannot be read or written.
    #[error("{} cannot be accessed", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The certificate does not fit.
    #[error(
        "{} cannot be used; leave with `docker swarm leave --force` and join again",
        path.display()
    )]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CredentialsError,
    },
    /// The root certificate cannot be used.
    #[error("{} cannot be used", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        source: waxseal_ca::TrustError,
    },
    /// The rules of issuers are damaged, or of a newer binary.
    #[error(
        "{} cannot be read, and without it certificates could count that are to count no more; \
         restore it, or leave with `docker swarm leave --force` and join again",
        path.display()
    )]
    Issuers {
        /// The file.
        path: PathBuf,
    },
    /// The key in the key file is none.
    #[error("the key in the key file cannot be used")]
    Key(#[from] waxseal_ca::KeyError),
    /// The cluster's unlock key and ours disagree.
    #[error(transparent)]
    Conflict(#[from] KeyConflict),
    /// Too many rotations under way.
    #[error(transparent)]
    Rotations(#[from] TooManyRetiredDeks),
    /// No random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

impl Keys {
    /// Writes the first key file of a node.
    pub(crate) fn create(
        disk: &Arc<dyn Disk>,
        swarm: &Path,
        file: KeyFile,
        unlock_key: Option<UnlockKey>,
    ) -> Result<Keys, KeysError> {
        let dir = swarm.join("certificates");
        crate::data_root::make_dir(&dir).map_err(io_error(&dir))?;
        let keys = Keys {
            disk: Arc::clone(disk),
            dir,
            file,
            unlock_key,
        };
        keys.write()?;
        Ok(keys)
    }

    /// Opens the key file.
    ///
    /// # Errors
    /// [`OpenError::Locked`] and [`OpenError::WrongKey`] mean that the node is locked.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        swarm: &Path,
        unlock_key: Option<UnlockKey>,
    ) -> Result<Keys, KeysError> {
        let dir = swarm.join("certificates");
        let path = dir.join(KEY);
        let text = Zeroizing::new(read_bounded(&path)?);
        let file = KeyFile::open(&text, unlock_key.as_ref())
            .map_err(|source| KeysError::Open { path, source })?;
        Ok(Keys {
            disk: Arc::clone(disk),
            dir,
            file,
            unlock_key,
        })
    }

    /// The keys themselves.
    pub(crate) fn file(&self) -> &KeyFile {
        &self.file
    }

    /// The trust bundle on disk.
    pub(crate) fn trust(&self, now: OffsetDateTime) -> Result<TrustBundle, KeysError> {
        let path = self.dir.join(ROOT);
        let pem = read_bounded(&path)?;
        TrustBundle::from_pem(pem.as_bytes(), now)
            .map_err(|source| KeysError::Root { path, source })
    }

    /// Whose leaves count below this trust, as managers last said; of whatever leads to it if they
    /// never said anything.
    pub(crate) fn issuers(&self, trust: &TrustBundle) -> Result<IssuerRules, KeysError> {
        let path = self.dir.join(ISSUERS);
        match read_bounded(&path) {
            Ok(text) => {
                issuer_file::decode(&text, &trust.digest()).ok_or(KeysError::Issuers { path })
            }
            Err(KeysError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(IssuerRules::default())
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the rules of issuers below this trust.
    pub(crate) fn save_issuers(
        &self,
        rules: &IssuerRules,
        trust: &TrustBundle,
    ) -> Result<(), KeysError> {
        let path = self.dir.join(ISSUERS);
        let text = issuer_file::encode(&trust.digest(), rules);
        let is_known = match read_bounded(&path) {
            Ok(known) => known == text,
            // Where nobody is pinned, and never was, there is no file.
            Err(KeysError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                *rules == IssuerRules::default()
            }
            Err(_) => false,
        };
        if is_known {
            return Ok(());
        }
        self.write_public(&path, text.as_bytes())
    }

    /// The certificate that fits the key, expired or not; a replacement that was cut short is
    /// completed.
    pub(crate) fn credentials(
        &self,
        trust: &TrustBundle,
        now: OffsetDateTime,
    ) -> Result<Arc<NodeCredentials>, KeysError> {
        let load = |name: &str| {
            let path = self.dir.join(name);
            let pem = read_bounded(&path)?;
            let key = NodeKey::from_pkcs8_pem(self.file.node_key_pkcs8_pem().as_bytes())?;
            NodeCredentials::lapsed(pem.as_bytes(), key, trust, now)
                .map_err(|source| KeysError::Certificate { path, source })
        };
        let present = load(CERTIFICATE);
        if present.is_ok() {
            return present;
        }
        match load(NEXT_CERTIFICATE) {
            Ok(credentials) => {
                self.rename_next()?;
                Ok(credentials)
            }
            Err(_) => present,
        }
    }

    /// Takes a renewed key and certificate for the role that the node has.
    pub(crate) fn save_identity(
        &mut self,
        chain_pem: &str,
        key: &NodeKey,
    ) -> Result<(), KeysError> {
        self.replace_identity(chain_pem, key, |_| None)
    }

    /// Takes a manager's key and certificate and the keys of its log, sealed from the
    /// first write if there is an unlock key.
    pub(crate) fn become_manager(
        &mut self,
        chain_pem: &str,
        key: &NodeKey,
        raft: RaftKeys,
        unlock_key: Option<UnlockKey>,
        epoch: u64,
    ) -> Result<(), KeysError> {
        self.replace_identity(chain_pem, key, |keys| {
            Some(keys.replace_chain(Some(raft), unlock_key, epoch))
        })
    }

    /// Takes a worker's key and certificate: the keys of the log are gone with it, and
    /// the file is never sealed.
    pub(crate) fn become_worker(
        &mut self,
        chain_pem: &str,
        key: &NodeKey,
    ) -> Result<(), KeysError> {
        self.replace_identity(chain_pem, key, |keys| {
            Some(keys.replace_chain(None, None, 0))
        })
    }

    /// Replaces key and certificate, and whatever `change` does, whose answer undoes it.
    fn replace_identity(
        &mut self,
        chain_pem: &str,
        key: &NodeKey,
        change: impl FnOnce(&mut Keys) -> Option<FormerChain>,
    ) -> Result<(), KeysError> {
        // 1. The certificate beside the old one.
        let next = self.dir.join(NEXT_CERTIFICATE);
        self.write_public(&next, chain_pem.as_bytes())?;
        // 2. The key: from here on the new pair counts.
        let former = self.file.node_key_pkcs8_pem();
        self.replace_node_key(&key.pkcs8_pem())?;
        let former_chain = change(self);
        if let Err(error) = self.write() {
            self.replace_node_key(&former)?;
            if let Some(FormerChain(raft, unlock_key, epoch)) = former_chain {
                self.replace_chain(raft, unlock_key, epoch);
            }
            return Err(error);
        }
        // 3. The certificate's own name.
        self.rename_next()
    }

    /// Takes new keys of a log in place of those of a membership that is over.
    pub(crate) fn renew_raft_keys(&mut self, raft: RaftKeys) -> Result<(), KeysError> {
        let former = self.file.raft.replace(raft);
        self.write().inspect_err(|_| self.file.raft = former)
    }

    fn replace_chain(
        &mut self,
        raft: Option<RaftKeys>,
        unlock_key: Option<UnlockKey>,
        epoch: u64,
    ) -> FormerChain {
        FormerChain(
            std::mem::replace(&mut self.file.raft, raft),
            std::mem::replace(&mut self.unlock_key, unlock_key),
            std::mem::replace(&mut self.file.header.kek_epoch, epoch),
        )
    }

    fn replace_node_key(&mut self, pkcs8_pem: &str) -> Result<(), KeysError> {
        let path = self.dir.join(KEY);
        self.file
            .replace_node_key(pkcs8_pem)
            .map_err(|source| KeysError::Open { path, source })
    }

    /// Writes the first certificate of a node, whose key is on disk already.
    pub(crate) fn save_certificate(&self, chain_pem: &str) -> Result<(), KeysError> {
        self.write_public(&self.dir.join(CERTIFICATE), chain_pem.as_bytes())
    }

    fn rename_next(&self) -> Result<(), KeysError> {
        let next = self.dir.join(NEXT_CERTIFICATE);
        let renamed = self
            .disk
            .rename(&next, &self.dir.join(CERTIFICATE))
            .and_then(|()| self.disk.sync_dir(&self.dir));
        renamed.map_err(io_error(&next))
    }

    /// Takes another trust bundle.
    pub(crate) fn save_trust(&self, pem: &[u8]) -> Result<(), KeysError> {
        self.write_public(&self.dir.join(ROOT), pem)
    }

    /// Follows the cluster's unlock key: rewrites the key file in one step, with
    /// a new DEK where the change asks for one. Answers what was done.
    pub(crate) fn follow(
        &mut self,
        key: Option<UnlockKey>,
        epoch: u64,
    ) -> Result<KeyChange, KeysError> {
        let held = HeldKey {
            key: self.unlock_key.as_ref(),
            epoch: self.file.header.kek_epoch,
        };
        let change = plan_key_change(
            held,
            ClusterKey {
                key: key.as_ref(),
                epoch,
            },
        )?;
        if !change.rewrites_file() {
            return Ok(change);
        }
        if change.rotates_dek() {
            let dek =
                Dek::generate(|bytes| getrandom::fill(bytes)).map_err(|_| KeysError::Random)?;
            self.file.rotate_dek(dek)?;
        }
        let former = std::mem::replace(&mut self.unlock_key, key);
        let former_epoch = std::mem::replace(&mut self.file.header.kek_epoch, epoch);
        if let Err(error) = self.write() {
            // The disk still has the former file: a DEK that is on no disk must seal nothing.
            self.unlock_key = former;
            self.file.header.kek_epoch = former_epoch;
            if let Some(raft) = self.file.raft.as_mut().filter(|_| change.rotates_dek()) {
                raft.current = raft.retired.remove(0);
            }
            return Err(error);
        }
        Ok(change)
    }

    /// What the cluster's unlock key asks of the key file now.
    pub(crate) fn due(&self, key: Option<&UnlockKey>, epoch: u64) -> Result<KeyChange, KeysError> {
        let held = HeldKey {
            key: self.unlock_key.as_ref(),
            epoch: self.file.header.kek_epoch,
        };
        Ok(plan_key_change(held, ClusterKey { key, epoch })?)
    }

    /// The DEK that the log is to be sealed under, if files under a former one may be left.
    pub(crate) fn unfinished_rotation(&self) -> Option<Dek> {
        let raft = self.file.raft.as_ref()?;
        (!raft.retired.is_empty()).then(|| raft.current.duplicate())
    }

    /// Forgets the DEKs before `sealing`, under which alone all files are sealed now. Nothing
    /// if it has been replaced meanwhile: the log is still under it then, and the rotation that
    /// replaced it forgets them all.
    pub(crate) fn forget_retired_deks(&mut self, sealing: DekId) -> Result<(), KeysError> {
        if let Some(raft) = &mut self.file.raft
            && raft.current.id() == sealing
            && !raft.retired.is_empty()
        {
            let retired = std::mem::take(&mut raft.retired);
            if let Err(error) = self.write() {
                if let Some(raft) = &mut self.file.raft {
                    raft.retired = retired;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn write(&self) -> Result<(), KeysError> {
        let text = match &self.unlock_key {
            None => self.file.encode_open(),
            Some(key) => {
                let mut salt = [0u8; waxseal_autolock::SALT_LEN];
                getrandom::fill(&mut salt).map_err(|_| KeysError::Random)?;
                self.file.encode_sealed(key, &salt)
            }
        };
        let path = self.dir.join(KEY);
        write_atomically(&*self.disk, &path, text.as_bytes()).map_err(io_error(&path))
    }

    /// Writes a file that anybody may read.
    fn write_public(&self, path: &Path, bytes: &[u8]) -> Result<(), KeysError> {
        write_atomically(&*self.disk, path, bytes)
            .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o644)))
            .map_err(io_error(path))
    }
}

fn read_bounded(path: &Path) -> Result<String, KeysError> {
    let metadata = std::fs::metadata(path).map_err(io_error(path))?;
    if metadata.len() > MAX_PEM_BYTES {
        return Err(io_error(path)(io::ErrorKind::FileTooLarge.into()));
    }
    std::fs::read_to_string(path).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KeysError + use<> {
    let path = path.to_owned();
    move |source| KeysError::Io { path, source }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
