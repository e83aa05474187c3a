//! The store's own types for what openraft hands over, so that another version of the engine is
//! no other disk format. Protobuf: fields are added, never renumbered.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

use crate::Member;

/// The format of these messages as a whole; a newer one stops the program.
pub(crate) const RECORDS_FORMAT: u32 = 1;

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct DiskLogId {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) leader: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) index: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct DiskVote {
    #[prost(uint64, tag = "1")]
    pub(crate) term: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) leader: u64,
    #[prost(bool, tag = "3")]
    pub(crate) committed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DiskMembership {
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) configs: Vec<DiskVoters>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) members: Vec<DiskMember>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DiskVoters {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) ids: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DiskMember {
    #[prost(uint64, tag = "1")]
    pub(crate) raft_id: u64,
    #[prost(string, tag = "2")]
    pub(crate) node_id: String,
    #[prost(string, tag = "3")]
    pub(crate) addr: String,
}

/// What the vote file holds.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DiskState {
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    /// Raised by each write: the higher one of two copies is the newer.
    #[prost(uint64, tag = "2")]
    pub(crate) generation: u64,
    #[prost(message, optional, tag = "3")]
    pub(crate) vote: Option<DiskVote>,
    /// The last entry that was purged.
    #[prost(message, optional, tag = "4")]
    pub(crate) purged: Option<DiskLogId>,
    /// The first segment that counts; earlier ones are leftovers.
    #[prost(uint64, tag = "5")]
    pub(crate) first_sequence: u64,
    /// A point that the log has reached.
    #[prost(message, optional, tag = "6")]
    pub(crate) head: Option<DiskHead>,
}

/// The end of the log when the vote file was written.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DiskHead {
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) segment_id: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(crate) records: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) tag: Vec<u8>,
}

/// The last chunk of a snapshot.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DiskSnapshotMeta {
    #[prost(uint32, tag = "1")]
    pub(crate) format: u32,
    #[prost(message, optional, tag = "2")]
    pub(crate) last_log_id: Option<DiskLogId>,
    #[prost(message, optional, tag = "3")]
    pub(crate) membership_log_id: Option<DiskLogId>,
    #[prost(message, optional, tag = "4")]
    pub(crate) membership: Option<DiskMembership>,
    #[prost(string, tag = "5")]
    pub(crate) snapshot_id: String,
    /// The number in the file's name.
    #[prost(uint64, tag = "6")]
    pub(crate) number: u64,
}

impl From<LogId<u64>> for DiskLogId {
    fn from(id: LogId<u64>) -> Self {
        Self {
            term: id.leader_id.term,
            leader: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<DiskLogId> for LogId<u64> {
    fn from(id: DiskLogId) -> Self {
        Self::new(CommittedLeaderId::new(id.term, id.leader), id.index)
    }
}

impl From<Vote<u64>> for DiskVote {
    fn from(vote: Vote<u64>) -> Self {
        let leader = vote.leader_id;
        Self {
            term: leader.term,
            leader: leader.node_id,
            committed: vote.committed,
        }
    }
}

impl From<DiskVote> for Vote<u64> {
    fn from(vote: DiskVote) -> Self {
        match vote.committed {
            true => Self::new_committed(vote.term, vote.leader),
            false => Self::new(vote.term, vote.leader),
        }
    }
}

impl From<&Membership<u64, Member>> for DiskMembership {
    fn from(membership: &Membership<u64, Member>) -> Self {
        let voters = |ids: &BTreeSet<u64>| DiskVoters {
            ids: ids.iter().copied().collect(),
        };
        let member = |(raft_id, member): (&u64, &Member)| DiskMember {
            raft_id: *raft_id,
            node_id: member.node_id.clone(),
            addr: member.addr.clone(),
        };
        Self {
            format: RECORDS_FORMAT,
            configs: membership.get_joint_config().iter().map(voters).collect(),
            members: membership.nodes().map(member).collect(),
        }
    }
}

impl From<DiskMembership> for Membership<u64, Member> {
    fn from(membership: DiskMembership) -> Self {
        let configs = membership
            .configs
            .into_iter()
            .map(|voters| voters.ids.into_iter().collect());
        let members: BTreeMap<_, _> = membership
            .members
            .into_iter()
            .map(
                |DiskMember {
                     raft_id,
                     node_id,
                     addr,
                 }| (raft_id, Member { node_id, addr }),
            )
            .collect();
        Self::new(configs.collect(), members)
    }
}

impl From<&SnapshotMeta<u64, Member>> for DiskSnapshotMeta {
    fn from(meta: &SnapshotMeta<u64, Member>) -> Self {
        Self {
            format: RECORDS_FORMAT,
            last_log_id: meta.last_log_id.map(Into::into),
            membership_log_id: (*meta.last_membership.log_id()).map(Into::into),
            membership: Some(meta.last_membership.membership().into()),
            snapshot_id: meta.snapshot_id.clone(),
            number: 0,
        }
    }
}

impl From<DiskSnapshotMeta> for SnapshotMeta<u64, Member> {
    fn from(meta: DiskSnapshotMeta) -> Self {
        let membership = meta.membership.unwrap_or_default().into();
        let log_id = meta.membership_log_id.map(Into::into);
        Self {
            last_log_id: meta.last_log_id.map(Into::into),
            last_membership: StoredMembership::new(log_id, membership),
            snapshot_id: meta.snapshot_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn membership() -> Membership<u64, Member> {
        let member = |n: u64| Member {
            node_id: format!("node{n}"),
            addr: format!("10.0.0.{n}:2377"),
        };
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        Membership::new(
            configs,
            BTreeMap::from([1, 2, 3, 4].map(|n| (n, member(n)))),
        )
    }

    fn log_id(term: u64, index: u64) -> LogId<u64> {
        LogId::new(CommittedLeaderId::new(term, u64::MAX), index)
    }

    #[test]
    fn round_trips() {
        assert_eq!(LogId::from(DiskLogId::from(log_id(3, 9))), log_id(3, 9));
        for vote in [Vote::new(3, 7), Vote::new_committed(4, 8)] {
            assert_eq!(Vote::from(DiskVote::from(vote)), vote);
        }
        assert_eq!(
            Membership::from(DiskMembership::from(&membership())),
            membership()
        );
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(3, 9)),
            last_membership: StoredMembership::new(Some(log_id(2, 8)), membership()),
            snapshot_id: "id".into(),
        };
        assert_eq!(SnapshotMeta::from(DiskSnapshotMeta::from(&meta)), meta);
        let empty = SnapshotMeta::default();
        assert_eq!(SnapshotMeta::from(DiskSnapshotMeta::from(&empty)), empty);
    }

    /// Messages as first written; this program must read them for good.
    #[test]
    fn reads_the_golden_messages() {
        let state = DiskState {
            format: 1,
            generation: 5,
            vote: Some(DiskVote {
                term: 3,
                leader: 7,
                committed: true,
            }),
            purged: Some(log_id(2, 40).into()),
            first_sequence: 6,
            head: Some(DiskHead {
                sequence: 8,
                segment_id: vec![1; 16],
                records: 12,
                tag: vec![2; 16],
            }),
        };
        let golden = include_bytes!("../tests/golden/vote-state-v1.bin");
        assert_eq!(state.encode_to_vec(), golden);
        assert_eq!(DiskState::decode(&golden[..]).unwrap(), state);
        let description = DiskSnapshotMeta {
            format: 1,
            last_log_id: Some(log_id(3, 41).into()),
            membership_log_id: Some(log_id(2, 8).into()),
            membership: Some((&membership()).into()),
            snapshot_id: "3-41".into(),
            number: 2,
        };
        let golden = include_bytes!("../tests/golden/snapshot-description-v1.bin");
        assert_eq!(description.encode_to_vec(), golden);
        assert_eq!(DiskSnapshotMeta::decode(&golden[..]).unwrap(), description);
        let membership = DiskMembership::from(&membership());
        let golden = include_bytes!("../tests/golden/membership-v1.bin");
        assert_eq!(membership.encode_to_vec(), golden);
        assert_eq!(DiskMembership::decode(&golden[..]).unwrap(), membership);
    }
}
