//! The consensus engine's types, bound to our log, our commands and our state; how
//! managers carry its messages.

pub(crate) mod codec;
pub(crate) mod commits;
pub(crate) mod network;
pub(crate) mod service;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use waxseal_cluster::{Applied, Refusal, Wiped};
use waxseal_raft_store::{Member, PayloadError, SnapshotData};
use waxseal_wire::waxseal::RaftHeader;

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

/// Who this manager is to the others, as each call says it.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    pub(crate) node_id: String,
    pub(crate) raft_id: RaftId,
    /// 0 until the state is there.
    incarnation: AtomicU64,
}

impl Identity {
    pub(crate) fn new(cluster_id: &str, node_id: &str, raft_id: RaftId) -> Identity {
        Identity {
            cluster_id: cluster_id.to_owned(),
            node_id: node_id.to_owned(),
            raft_id,
            incarnation: AtomicU64::new(0),
        }
    }

    /// Of the cluster, as far as it is known.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation.load(Ordering::Relaxed)
    }

    /// Takes note of an incarnation; it only rises.
    pub(crate) fn learn_incarnation(&self, incarnation: u64) {
        self.incarnation.fetch_max(incarnation, Ordering::Relaxed);
    }

    /// The header of a call to a member.
    pub(crate) fn header(&self, to: RaftId) -> RaftHeader {
        RaftHeader {
            cluster_id: self.cluster_id.clone(),
            incarnation: self.incarnation(),
            from: self.raft_id,
            to,
        }
    }
}
