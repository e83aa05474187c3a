//! The key file of a node: its TLS key and, on a manager, the DEKs of its log.
//!
//! One PEM text, so that one rename replaces all keys at once. Open, it is a `PRIVATE KEY` block
//! that openssl reads and a `WAXSEAL KEY CHAIN` block; sealed, one `WAXSEAL SEALED KEY CHAIN`
//! block holds both. Ours are:
//!
//! | offset | length | meaning |
//! |---|---|---|
//! | 0 | 16 | preamble: magic `WXSKEYCH`, format, CRC-32 |
//! | 16 | 1 | 0 open, 1 sealed |
//! | 17 | 8 | epoch of the unlock key |
//! | 25 | 2 + n | cluster id, empty before the node has one |
//! | | 2 + n | node id, likewise |
//! | | 32 | sealed: salt; open: SHA-256 over all of the block but this field, and the PKCS#8 DER |
//! | | 16 | sealed: key-check value |
//! | | rest | the keys; sealed: AES-256-GCM under the KEK, then its tag, all of the above in the AAD |
//! | | 4 | sealed: CRC-32 over all before, which tells damage from a wrong key |

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::aead::{HEADER_NONCE, TAG_LEN};
use crate::codec::{self, FormatError, PREAMBLE_LEN, Reader};
use crate::keys::{Dek, Kek, KeyCheck, SALT_LEN};
use crate::{UnlockKey, pem};

/// The format that this program writes.
pub const KEY_FILE_FORMAT: u16 = 1;

/// No key file is longer: a PKCS#8 key, 17 DEKs and two ids need about 2 KiB.
pub const MAX_KEY_FILE_BYTES: usize = 64 * 1024;

/// DEKs of rotations that have not finished; more come only from a log that never gets a snapshot.
pub const MAX_RETIRED_DEKS: usize = 16;

const MAGIC: &[u8; 8] = b"WXSKEYCH";
const LABEL_PKCS8: &str = "PRIVATE KEY";
const LABEL_OPEN: &str = "WAXSEAL KEY CHAIN";
const LABEL_SEALED: &str = "WAXSEAL SEALED KEY CHAIN";
const WHAT: &str = "the key file";

/// A node's keys, opened.
pub struct KeyFile {
    /// What the file says in the clear.
    pub header: KeyFileHeader,
    /// The TLS key, PKCS#8 DER.
    node_key: Zeroizing<Vec<u8>>,
    /// The keys of the Raft log; `None` on a worker.
    pub raft: Option<RaftKeys>,
}

/// What a key file says in the clear, authenticated when it is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFileHeader {
    /// The cluster; empty before the node has been accepted.
    pub cluster_id: String,
    /// The node; empty before the node has been accepted.
    pub node_id: String,
    /// The epoch of the unlock key (or of its absence), see [`crate::ClusterKey`].
    pub kek_epoch: u64,
}

/// The keys of a manager's Raft log.
#[derive(Debug)]
pub struct RaftKeys {
    /// The random Raft id of this membership.
    pub raft_id: u64,
    /// The key that seals.
    pub current: Dek,
    /// Keys of rotations that have not finished, newest first: files on disk may still need them.
    pub retired: Vec<Dek>,
}

/// A key file that does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is sealed and no key was given.
    #[error("the key file is locked; unlock it with `docker swarm unlock`")]
    Locked(KeyFileHeader),
    /// The key given is not the one that sealed it.
    #[error(
        "the key file does not open with this unlock key; give the key of epoch {}, which this \
         node saw last",
        .0.kek_epoch
    )]
    WrongKey(KeyFileHeader),
    /// A key was given, the file is open: somebody may have put it there, so it is not taken.
    #[error(
        "an unlock key was given but the key file is not sealed; start without a key if autolock \
         was turned off"
    )]
    NotSealed(KeyFileHeader),
    /// It is damaged.
    #[error(
        "the key file is damaged ({what}); leave the cluster with `docker swarm leave --force` and join again"
    )]
    Damaged {
        /// Which part.
        what: &'static str,
    },
    /// A newer program wrote it.
    #[error(
        "the key file has format {version}, this program reads up to {supported}; start the newer program"
    )]
    TooNew {
        /// The format that it names.
        version: u16,
        /// The newest format that this program reads.
        supported: u16,
    },
}

/// Too many DEK rotations are unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_RETIRED_DEKS} rotations of the log's key are unfinished; wait for a snapshot")]
pub struct TooManyRetiredDeks;

impl KeyFile {
    /// A key file for a node's TLS key, given as PKCS#8 PEM.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if `pkcs8_pem` is not one `PRIVATE KEY` block.
    pub fn new(
        header: KeyFileHeader,
        pkcs8_pem: &str,
        raft: Option<RaftKeys>,
    ) -> Result<Self, OpenError> {
        let mut file = Self {
            header,
            node_key: Zeroizing::default(),
            raft,
        };
        file.replace_node_key(pkcs8_pem)?;
        Ok(file)
    }

    /// The TLS key as PKCS#8 PEM.
    pub fn node_key_pkcs8_pem(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::default();
        pem::encode(&mut text, LABEL_PKCS8, &self.node_key);
        text
    }

    /// Takes another TLS key.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if `pkcs8_pem` is not one `PRIVATE KEY` block; nothing changes.
    pub fn replace_node_key(&mut self, pkcs8_pem: &str) -> Result<(), OpenError> {
        let what = "not one PKCS#8 private key";
        let blocks = parse_bounded(pkcs8_pem)?;
        match <[pem::Block; 1]>::try_from(blocks) {
            Ok([block]) if block.label == LABEL_PKCS8 && !block.bytes.is_empty() => {
                self.node_key = block.bytes;
                Ok(())
            }
            _ => Err(OpenError::Damaged { what }),
        }
    }

    /// Makes `new` the key that seals and keeps the former one for the files it sealed. Write the
    /// file, then give the key to the store. Nothing on a worker or if `new` is current already.
    ///
    /// # Errors
    /// [`TooManyRetiredDeks`]; nothing changes.
    pub fn rotate_dek(&mut self, new: Dek) -> Result<(), TooManyRetiredDeks> {
        let Some(raft) = &mut self.raft else {
            return Ok(());
        };
        if raft.current.id() == new.id() {
            return Ok(());
        }
        if raft.retired.len() >= MAX_RETIRED_DEKS {
            return Err(TooManyRetiredDeks);
        }
        let former = std::mem::replace(&mut raft.current, new);
        raft.retired.insert(0, former);
        Ok(())
    }

    /// The file as an open PEM text.
    pub fn encode_open(&self) -> Zeroizing<String> {
        let mut head = self.encode_header(false);
        let keys = self.encode_raft_keys();
        head.extend_from_slice(&self.digest_open(&head, &keys));
        let mut block = Zeroizing::new(Vec::with_capacity(head.len() + keys.len()));
        block.extend_from_slice(&head);
        block.extend_from_slice(&keys);
        let mut text = self.node_key_pkcs8_pem();
        pem::encode(&mut text, LABEL_OPEN, &block);
        text
    }

    /// The file as a PEM text sealed under the unlock key. `salt` is random and serves once.
    pub fn encode_sealed(
        &self,
        unlock_key: &UnlockKey,
        salt: &[u8; SALT_LEN],
    ) -> Zeroizing<String> {
        let mut block = self.encode_header(true);
        let kek = Kek::derive(unlock_key, salt, &[&block]);
        block.extend_from_slice(salt);
        block.extend_from_slice(&kek.check().0);
        let raft = self.encode_raft_keys();
        let mut body = Zeroizing::new(Vec::with_capacity(2 + self.node_key.len() + raft.len()));
        codec::put_short_bytes(&mut body, &self.node_key);
        body.extend_from_slice(&raft);
        let tag = kek.sealer().seal(HEADER_NONCE, &block, &mut body);
        block.extend_from_slice(&body);
        block.extend_from_slice(&tag);
        let crc = crc32fast::hash(&block);
        block.extend_from_slice(&crc.to_be_bytes());
        let mut text = Zeroizing::default();
        pem::encode(&mut text, LABEL_SEALED, &block);
        text
    }

    /// What a file says in the clear, without a key and unchecked. For `status` and messages.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] or [`OpenError::TooNew`].
    pub fn peek(text: &str) -> Result<(KeyFileHeader, Sealing), OpenError> {
        let parts = Parts::split(text)?;
        let mut reader = Reader(&parts.block);
        let (header, sealed) = read_header(&mut reader)?;
        Ok((
            header,
            if sealed {
                Sealing::Sealed
            } else {
                Sealing::Open
            },
        ))
    }

    /// Opens a file: with a key only a sealed one, without a key only an open one.
    ///
    /// # Errors
    /// See [`OpenError`]; only [`OpenError::Locked`] and [`OpenError::WrongKey`] mean "locked".
    pub fn open(text: &str, unlock_key: Option<&UnlockKey>) -> Result<Self, OpenError> {
        let parts = Parts::split(text)?;
        let mut reader = Reader(&parts.block);
        let (header, sealed) = read_header(&mut reader)?;
        let head_len = parts.block.len() - reader.0.len();
        match (sealed, parts.node_key, unlock_key) {
            (true, None, Some(key)) => Self::open_sealed(header, &parts.block, head_len, key),
            (true, None, None) => Err(OpenError::Locked(header)),
            (false, Some(_), Some(_)) => Err(OpenError::NotSealed(header)),
            (false, Some(node_key), None) => {
                Self::open_plain(header, &parts.block, head_len, node_key)
            }
            _ => Err(OpenError::Damaged {
                what: "its label and its content disagree",
            }),
        }
    }

    fn open_sealed(
        header: KeyFileHeader,
        block: &[u8],
        head_len: usize,
        unlock_key: &UnlockKey,
    ) -> Result<Self, OpenError> {
        let short = OpenError::Damaged {
            what: "it is cut short",
        };
        // 1. The checksum tells damage.
        let (block, crc) = block.split_last_chunk::<4>().ok_or(short.clone())?;
        if crc32fast::hash(block) != u32::from_be_bytes(*crc) {
            return Err(OpenError::Damaged {
                what: "its checksum does not fit",
            });
        }
        let (head, rest) = block.split_at_checked(head_len).ok_or(short.clone())?;
        let mut reader = Reader(rest);
        let salt: [u8; SALT_LEN] = reader.array().ok_or(short.clone())?;
        let check = KeyCheck(reader.array().ok_or(short.clone())?);
        let (body, tag) = reader.0.split_last_chunk::<TAG_LEN>().ok_or(short)?;
        // 2. The key-check value tells a wrong key; 3. the tag tells what somebody changed.
        let kek = Kek::derive(unlock_key, &salt, &[head]);
        if kek.check() != check {
            return Err(OpenError::WrongKey(header));
        }
        let aad = &block[..head_len + SALT_LEN + check.0.len()];
        let mut keys = Zeroizing::new(body.to_vec());
        kek.sealer()
            .open(HEADER_NONCE, aad, &mut keys, tag)
            .map_err(|_| OpenError::Damaged {
                what: "its authentication tag does not fit",
            })?;
        let mut reader = Reader(&keys);
        let what = "its sealed keys";
        let node_key = reader.short_bytes().ok_or(OpenError::Damaged { what })?;
        let node_key = Zeroizing::new(node_key.to_vec());
        let raft = read_raft_keys(&mut reader).ok_or(OpenError::Damaged { what })?;
        Ok(Self {
            header,
            node_key,
            raft,
        })
    }

    fn open_plain(
        header: KeyFileHeader,
        block: &[u8],
        head_len: usize,
        node_key: Zeroizing<Vec<u8>>,
    ) -> Result<Self, OpenError> {
        let (head, rest) = block.split_at(head_len);
        let mut reader = Reader(rest);
        let digest: [u8; 32] = reader.array().ok_or(OpenError::Damaged {
            what: "it is cut short",
        })?;
        let keys = reader.0;
        let raft = read_raft_keys(&mut reader);
        let file = Self {
            header,
            node_key,
            raft: None,
        };
        if !bool::from(file.digest_open(head, keys).ct_eq(&digest)) {
            return Err(OpenError::Damaged {
                what: "its digest does not fit",
            });
        }
        let raft = raft.ok_or(OpenError::Damaged {
            what: "its raft keys",
        })?;
        Ok(Self { raft, ..file })
    }

    fn encode_header(&self, sealed: bool) -> Vec<u8> {
        let KeyFileHeader {
            cluster_id,
            node_id,
            kek_epoch,
        } = &self.header;
        let mut out = codec::preamble(MAGIC, KEY_FILE_FORMAT).to_vec();
        out.push(sealed.into());
        out.extend_from_slice(&kek_epoch.to_be_bytes());
        codec::put_short_bytes(&mut out, cluster_id.as_bytes());
        codec::put_short_bytes(&mut out, node_id.as_bytes());
        out
    }

    fn encode_raft_keys(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(16 + 32 * (MAX_RETIRED_DEKS + 1)));
        let Some(raft) = &self.raft else {
            out.push(0);
            return out;
        };
        out.push(1);
        out.extend_from_slice(&raft.raft_id.to_be_bytes());
        out.extend_from_slice(raft.current.expose_bytes());
        out.push(u8::try_from(raft.retired.len()).unwrap_or(u8::MAX));
        for dek in &raft.retired {
            out.extend_from_slice(dek.expose_bytes());
        }
        out
    }

    fn digest_open(&self, head: &[u8], keys: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [head, keys, &self.node_key[..]] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

impl fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            header,
            node_key: _,
            raft,
        } = self;
        f.debug_struct("KeyFile")
            .field("header", header)
            .field("raft", raft)
            .finish_non_exhaustive()
    }
}

/// Whether a key file is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealing {
    /// Readable without a key.
    Open,
    /// Needs the unlock key.
    Sealed,
}

/// The blocks of a key file.
struct Parts {
    block: Zeroizing<Vec<u8>>,
    node_key: Option<Zeroizing<Vec<u8>>>,
}

impl Parts {
    fn split(text: &str) -> Result<Self, OpenError> {
        let (mut ours, mut node_key) = (None, None);
        for block in parse_bounded(text)? {
            let place = match block.label.as_str() {
                LABEL_OPEN | LABEL_SEALED => &mut ours,
                LABEL_PKCS8 => &mut node_key,
                _ => {
                    return Err(OpenError::Damaged {
                        what: "a block of an unknown kind",
                    });
                }
            };
            if place.replace(block.bytes).is_some() {
                return Err(OpenError::Damaged {
                    what: "two blocks of one kind",
                });
            }
        }
        let block = ours.ok_or(OpenError::Damaged {
            what: "no block of ours",
        })?;
        Ok(Self { block, node_key })
    }
}

fn parse_bounded(text: &str) -> Result<Vec<pem::Block>, OpenError> {
    if text.len() > MAX_KEY_FILE_BYTES {
        return Err(OpenError::Damaged {
            what: "longer than any key file",
        });
    }
    pem::parse(text).ok_or(OpenError::Damaged { what: "not PEM" })
}

fn read_header(reader: &mut Reader<'_>) -> Result<(KeyFileHeader, bool), OpenError> {
    let what = "its header";
    codec::check_preamble(reader.0, MAGIC, KEY_FILE_FORMAT, WHAT).map_err(|err| match err {
        FormatError::TooNew {
            version, supported, ..
        } => OpenError::TooNew { version, supported },
        _ => OpenError::Damaged { what },
    })?;
    let mut read = || {
        reader.take(PREAMBLE_LEN)?;
        let sealed = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let kek_epoch = reader.u64()?;
        let cluster_id = reader.text()?.to_owned();
        let node_id = reader.text()?.to_owned();
        Some((
            KeyFileHeader {
                cluster_id,
                node_id,
                kek_epoch,
            },
            sealed,
        ))
    };
    read().ok_or(OpenError::Damaged { what })
}

/// Reads what [`KeyFile::encode_raft_keys`] wrote; `None` if anything is wrong.
fn read_raft_keys(reader: &mut Reader<'_>) -> Option<Option<RaftKeys>> {
    fn dek(reader: &mut Reader<'_>) -> Option<Dek> {
        Some(Dek::from_bytes(reader.take(32)?.try_into().ok()?))
    }
    let raft = match reader.u8()? {
        0 => None,
        1 => {
            let raft_id = reader.u64()?;
            let current = dek(reader)?;
            let count = usize::from(reader.u8()?);
            if count > MAX_RETIRED_DEKS {
                return None;
            }
            let retired = (0..count).map(|_| dek(reader)).collect::<Option<_>>()?;
            Some(RaftKeys {
                raft_id,
                current,
                retired,
            })
        }
        _ => return None,
    };
    reader.is_empty().then_some(raft)
}

#[cfg(test)]
mod tests;
