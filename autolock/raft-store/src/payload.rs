//! What the store asks of the types that openraft is configured with.

use std::fmt;

use openraft::{AppData, RaftTypeConfig};

/// A command as the log keeps it: opaque bytes.
///
/// Its `Debug` must not show content: the engine logs proposals.
pub trait Payload: AppData + Sized {
    /// Exactly how many bytes [`Self::encode`] appends. The store reserves them, as a buffer that
    /// regrows would leave copies of the plaintext behind.
    fn encoded_len(&self) -> usize;

    /// Appends the encoding to `out`, which is sealed in place at once.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads an encoding; the store wipes `bytes` afterwards.
    ///
    /// # Errors
    /// [`PayloadError`], which stops the manager: what it cannot read it must not skip.
    fn decode(bytes: &[u8]) -> Result<Self, PayloadError>;
}

/// A command in the log that this program cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// A newer program wrote it.
    #[error("a command in the log has format {version}, this program reads up to {supported}")]
    TooNew {
        /// The format that it names.
        version: u32,
        /// The newest format that this program reads.
        supported: u32,
    },
    /// It is no command.
    #[error("a command in the log is malformed")]
    Malformed,
}

/// A manager as the membership names it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Member {
    /// The node's id in the cluster.
    pub node_id: String,
    /// Host and port that other managers reach it at.
    pub addr: String,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node_id, self.addr)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The openraft configuration that the store works with:
///
/// ```text
/// openraft::declare_raft_types!(
///     pub TypeConfig:
///         D = LoggedCommand,          // impl Payload
///         R = Applied,
///         NodeId = u64,
///         Node = waxseal_raft_store::Member,
///         Entry = openraft::Entry<TypeConfig>,
///         SnapshotData = waxseal_raft_store::SnapshotData,
///         AsyncRuntime = openraft::TokioRuntime,
/// );
/// ```
pub trait StoreConfig:
    RaftTypeConfig<D: Payload, NodeId = u64, Node = Member, Entry = openraft::Entry<Self>>
{
}

impl<C> StoreConfig for C
where
    C: RaftTypeConfig<NodeId = u64, Node = Member, Entry = openraft::Entry<C>>,
    C::D: Payload,
{
}
