//! What a node remembers of its membership: `<data-root>/swarm/node.pb`.

use std::path::{Path, PathBuf};

use prost::Message;
use waxseal_agent::ManagerAddress as KnownManager;
use waxseal_raft_store::{Disk, write_atomically};

/// The format that this binary writes; it reads all up to it. 2 brought
/// [`Phase::Entering`] and the addresses as asked.
pub(crate) const NODE_FILE_FORMAT: u32 = 2;
/// Bytes of the checksum's encoding: tag and four bytes.
const CHECKSUM_FIELD_BYTES: usize = 5;
/// No such file is larger: some ids and a list of managers.
const MAX_BYTES: usize = 1 << 20;

/// The content of `node.pb`.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct NodeFile {
    /// [`NODE_FILE_FORMAT`].
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    /// How far the node got.
    #[prost(enumeration = "Phase", tag = "2")]
    pub(crate) phase: i32,
    /// The cluster, once known.
    #[prost(string, tag = "3")]
    pub(crate) cluster_id: String,
    /// The node, once known.
    #[prost(string, tag = "4")]
    pub(crate) node_id: String,
    /// Whether it was made as a manager. The certificate says what it is now.
    #[prost(bool, tag = "5")]
    pub(crate) manager: bool,
    /// Where a manager listens.
    #[prost(string, tag = "6")]
    pub(crate) listen_addr: String,
    /// Where others reach it.
    #[prost(string, tag = "7")]
    pub(crate) advertise_addr: String,
    /// Managers as last told.
    #[prost(message, repeated, tag = "8")]
    pub(crate) managers: Vec<ManagerAddress>,
    /// Incarnation of the cluster, raised by a forced new one.
    #[prost(uint64, tag = "9")]
    pub(crate) incarnation: u64,
    /// The TLS key was readable on the medium and is to be replaced.
    #[prost(bool, tag = "10")]
    pub(crate) renewal_due: bool,
    /// Where to listen, as the operator put it; empty in files of format 1.
    #[prost(string, tag = "11")]
    pub(crate) listen_asked: String,
    /// Where to be reached, likewise; empty also if nothing was said.
    #[prost(string, tag = "12")]
    pub(crate) advertise_asked: String,
    /// The log is that of a membership that is over, and goes before a manager starts.
    #[prost(bool, tag = "13")]
    pub(crate) log_void: bool,
    /// Whether the address advertised was one of this host's, so that one that is gone
    /// gives way to another.
    #[prost(bool, tag = "14")]
    pub(crate) advertise_local: bool,
    /// CRC-32 of the encoding without this field. The file decides whether the
    /// rest of the directory is kept.
    #[prost(fixed32, tag = "15")]
    pub(crate) checksum: u32,
}

/// A manager and where it is reached.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ManagerAddress {
    /// Its node id.
    #[prost(string, tag = "1")]
    pub(crate) node_id: String,
    /// `host:port`.
    #[prost(string, tag = "2")]
    pub(crate) addr: String,
    /// Weight in the choice among managers.
    #[prost(int64, tag = "3")]
    pub(crate) weight: i64,
}

/// CRC-32, never zero: a zero field is not written.
fn checksum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes).max(1)
}

impl From<&KnownManager> for ManagerAddress {
    fn from(manager: &KnownManager) -> ManagerAddress {
        ManagerAddress {
            node_id: manager.node_id.clone(),
            addr: manager.address.clone(),
            weight: manager.weight,
        }
    }
}

impl From<&ManagerAddress> for KnownManager {
    fn from(manager: &ManagerAddress) -> KnownManager {
        KnownManager {
            node_id: manager.node_id.clone(),
            address: manager.addr.clone(),
            weight: manager.weight,
        }
    }
}

/// How far a node got in becoming a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(crate) enum Phase {
    /// An init or join is under way: what it wrote is removed if it does not end.
    Joining = 1,
    /// A member: nothing is removed but by leaving.
    Member = 2,
    /// A member whose manager asks to be taken into the Raft group, and may be in it:
    /// what its log holds counts there, so it asks on and nothing is removed.
    Entering = 3,
    /// A manager on its way to be the only one of a new cluster: it starts as such, and
    /// as nothing else, until the others are of another incarnation.
    Forcing = 4,
}

/// Why the file cannot be used; the node starts in state error and touches nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum NodeFileError {
    /// It cannot be read or written.
    #[error("{} cannot be accessed", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is damaged.
    #[error(
        "{} is damaged; restore it from a backup, or leave with `docker swarm leave --force` and join again",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A newer binary wrote it.
    #[error("{} has format {format}, newer than the {NODE_FILE_FORMAT} this binary reads; start the newer binary", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
    },
}

impl NodeFile {
    /// A new node's file: what it wrote is removed if the init or join does not end.
    pub(crate) fn joining(cluster_id: &str, node_id: &str) -> NodeFile {
        NodeFile {
            format: NODE_FILE_FORMAT,
            phase: Phase::Joining.into(),
            cluster_id: cluster_id.to_owned(),
            node_id: node_id.to_owned(),
            ..NodeFile::default()
        }
    }

    /// Makes it the file of a member whose cluster has this incarnation.
    pub(crate) fn enter(&mut self, incarnation: u64) {
        if self.phase() == Phase::Forcing {
            // The others are of another cluster from now on.
            self.incarnation = incarnation;
            self.managers.clear();
        }
        self.phase = Phase::Member.into();
    }

    /// Reads the file; `None` if there is none.
    ///
    /// # Errors
    /// [`NodeFileError`].
    pub(crate) fn read(path: &Path) -> Result<Option<NodeFile>, NodeFileError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(NodeFileError::Io {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let damaged = || NodeFileError::Damaged {
            path: path.to_owned(),
        };
        if bytes.is_empty() || bytes.len() > MAX_BYTES {
            return Err(damaged());
        }
        let file = NodeFile::decode(bytes.as_slice()).map_err(|_| damaged())?;
        match file.format {
            1..=NODE_FILE_FORMAT if file.is_sound(&bytes) => Ok(Some(file)),
            0..=NODE_FILE_FORMAT => Err(damaged()),
            format => Err(NodeFileError::TooNew {
                path: path.to_owned(),
                format,
            }),
        }
    }

    /// Whether the file is what was written: the checksum is its last field, and
    /// is over the bytes themselves, as many encodings decode alike.
    fn is_sound(&self, bytes: &[u8]) -> bool {
        let phase = Phase::try_from(self.phase);
        let known = !self.cluster_id.is_empty() && !self.node_id.is_empty();
        let summed = bytes
            .split_last_chunk::<CHECKSUM_FIELD_BYTES>()
            .map(|(summed, _)| summed);
        summed.is_some_and(|summed| checksum(summed) == self.checksum) && phase.is_ok() && known
    }

    fn sum(&self) -> u32 {
        let unsummed = NodeFile {
            checksum: 0,
            ..self.clone()
        };
        checksum(&unsummed.encode_to_vec())
    }

    /// Replaces the file atomically.
    ///
    /// # Errors
    /// [`NodeFileError::Io`]; the file is as it was.
    pub(crate) fn write(&self, disk: &dyn Disk, path: &Path) -> Result<(), NodeFileError> {
        let mut file = NodeFile {
            format: NODE_FILE_FORMAT,
            ..self.clone()
        };
        file.checksum = file.sum();
        write_atomically(disk, path, &file.encode_to_vec()).map_err(|source| NodeFileError::Io {
            path: path.to_owned(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use waxseal_raft_store::OsDisk;

    use super::*;

    #[test]
    fn damaged_and_newer_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pb");
        assert_eq!(NodeFile::read(&path).unwrap(), None);
        for bytes in [&b""[..], b"\xff\xff\xff", b"\x10\x01"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(
                matches!(NodeFile::read(&path), Err(NodeFileError::Damaged { .. })),
                "{bytes:?}"
            );
        }
        let newer = NodeFile {
            format: NODE_FILE_FORMAT + 1,
            ..NodeFile::default()
        };
        std::fs::write(&path, newer.encode_to_vec()).unwrap();
        assert!(matches!(
            NodeFile::read(&path),
            Err(NodeFileError::TooNew { format: 3, .. })
        ));
    }

    fn member() -> NodeFile {
        NodeFile {
            format: NODE_FILE_FORMAT,
            phase: Phase::Member.into(),
            cluster_id: "c".into(),
            node_id: "n".into(),
            manager: true,
            listen_addr: "127.0.0.1:1".into(),
            advertise_addr: "127.0.0.1:1".into(),
            managers: vec![ManagerAddress {
                node_id: "n".into(),
                addr: "a:1".into(),
                weight: 10,
            }],
            incarnation: 1,
            renewal_due: false,
            listen_asked: "lo:1".into(),
            advertise_asked: String::new(),
            log_void: false,
            advertise_local: false,
            checksum: 0,
        }
    }

    /// As each format was written; none of these ever changes.
    const GOLDEN_V1: &str = "080110021a016322016e2801320b3132372e302e302e313a313a0b3132372e302e302e313a31420a\
         0a016e1203613a31180a48017d4b52f4a5";
    const GOLDEN_V2: &str = "080210031a016322016e2801320b3132372e302e302e313a313a0b3132372e302e302e313a31420a\
         0a016e1203613a31180a48015a046c6f3a317dd48b5c55";

    const GOLDEN_V2_FORCING: &str = "080210041a016322016e2801320b3132372e302e302e313a313a0b3132372e302e302e313a31420a\
         0a016e1203613a31180a48015a046c6f3a317da49256bb";

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    #[test]
    fn files_of_all_formats_are_read_and_the_newest_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pb");
        std::fs::write(&path, bytes(GOLDEN_V1)).unwrap();
        let old = NodeFile::read(&path).unwrap().unwrap();
        assert_eq!(
            (old.phase(), old.listen_asked.as_str()),
            (Phase::Member, "")
        );
        std::fs::write(&path, bytes(GOLDEN_V2)).unwrap();
        let new = NodeFile::read(&path).unwrap().unwrap();
        assert_eq!(
            (new.phase(), new.listen_asked.as_str()),
            (Phase::Entering, "lo:1")
        );
        new.write(&OsDisk, &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes(GOLDEN_V2));
        std::fs::write(&path, bytes(GOLDEN_V2_FORCING)).unwrap();
        let forcing = NodeFile::read(&path).unwrap().unwrap();
        assert_eq!(forcing.phase(), Phase::Forcing);
        forcing.write(&OsDisk, &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes(GOLDEN_V2_FORCING));
    }

    #[test]
    fn a_file_of_the_format_before_is_read_and_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pb");
        let mut old = NodeFile {
            format: 1,
            listen_asked: String::new(),
            ..member()
        };
        old.checksum = old.sum();
        std::fs::write(&path, old.encode_to_vec()).unwrap();
        let read = NodeFile::read(&path).unwrap().unwrap();
        assert_eq!(read, old);
        read.write(&OsDisk, &path).unwrap();
        let read = NodeFile::read(&path).unwrap().unwrap();
        assert_eq!((read.format, read.phase()), (2, Phase::Member));
    }

    #[test]
    fn no_cut_and_no_flipped_bit_makes_a_member_anything_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pb");
        member().write(&OsDisk, &path).unwrap();
        let good = std::fs::read(&path).unwrap();
        let cuts = (0..good.len()).map(|end| good[..end].to_vec());
        let flips = (0..good.len() * 8).map(|bit| {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        for bytes in cuts.chain(flips) {
            std::fs::write(&path, &bytes).unwrap();
            assert!(NodeFile::read(&path).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.pb");
        member().write(&OsDisk, &path).unwrap();
        let read = NodeFile::read(&path).unwrap().unwrap();
        assert_eq!(
            NodeFile {
                checksum: 0,
                ..read
            },
            member()
        );
    }
}
