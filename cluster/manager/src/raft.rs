//! The consensus engine's types, bound to our log, our commands and our state.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use openraft::{
    Snapshot, Vote,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use waxseal_cluster::{Applied, Refusal, Wiped};
use waxseal_raft_store::{Member, PayloadError, SnapshotData};

/// The random id of a manager's membership.
pub(crate) type RaftId = u64;

/// What became of each command of an entry, in order.
pub(crate) type Outcomes = Vec<Result<Applied, Refusal>>;

openraft::declare_raft_types!(
    /// The engine's configuration.
    pub(crate) TypeConfig:
        D = Payload,
        R = Outcomes,
        NodeId = RaftId,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotData,
        AsyncRuntime = openraft::TokioRuntime,
);

/// The engine.
pub(crate) type Raft = openraft::Raft<TypeConfig>;

/// A batch of encoded commands, wiped when the last holder drops it.
#[derive(Clone)]
pub(crate) struct Payload(Arc<Batch>);

struct Batch {
    bytes: Wiped,
    written: AtomicBool,
}

impl Payload {
    /// The encoded batch.
    pub(crate) fn batch(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Whether the log was given it. The engine's words for "not proposed" and for "cut
    /// off again" are the same, and only the former is the end of it.
    pub(crate) fn is_written(&self) -> bool {
        self.0.written.load(Ordering::Acquire)
    }
}

impl From<Wiped> for Payload {
    fn from(bytes: Wiped) -> Payload {
        Payload(Arc::new(Batch {
            bytes,
            written: AtomicBool::new(false),
        }))
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.batch().len())
    }
}

impl waxseal_raft_store::Payload for Payload {
    fn encoded_len(&self) -> usize {
        self.batch().len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.0.written.store(true, Ordering::Release);
        out.extend_from_slice(self.batch());
    }

    fn decode(bytes: &[u8]) -> Result<Payload, PayloadError> {
        // Its commands are decoded, and their formats checked, when they are applied.
        Ok(Payload::from(Wiped::new(bytes.to_vec())))
    }
}

/// Connections to other managers. A cluster has one manager for now: a member
/// that is not this one is out of reach.
pub(crate) struct NoPeers;

impl RaftNetworkFactory<TypeConfig> for NoPeers {
    type Network = NoPeer;

    async fn new_client(&mut self, _target: RaftId, node: &Member) -> NoPeer {
        NoPeer {
            addr: node.addr.clone(),
        }
    }
}

/// A manager that is not reached.
pub(crate) struct NoPeer {
    addr: String,
}

impl NoPeer {
    fn unreachable(&self) -> Unreachable {
        Unreachable::new(&std::io::Error::new(
            std::io::ErrorKind::NotConnected,
            format!("no connection to the manager at {}", self.addr),
        ))
    }
}

impl RaftNetwork<TypeConfig> for NoPeer {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, RPCError<RaftId, Member, RaftError<RaftId>>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<RaftId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, RPCError<RaftId, Member, RaftError<RaftId>>> {
        Err(RPCError::Unreachable(self.unreachable()))
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<RaftId>,
        _snapshot: Snapshot<TypeConfig>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftId>, StreamingError<TypeConfig, Fatal<RaftId>>> {
        Err(StreamingError::Unreachable(self.unreachable()))
    }
}
