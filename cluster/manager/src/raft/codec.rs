//! The engine's types to our messages and back. Ours are fixed; the engine's may change.

use std::collections::BTreeMap;

use openraft::{
    CommittedLeaderId, EntryPayload, LogId, Membership, SnapshotMeta, StoredMembership, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse},
};
use tonic::Status;
use waxseal_raft_store::Member;
use waxseal_wire::{
    Sealing,
    waxseal::{
        AppendRequest, AppendResponse, RaftEntry, RaftHeader, RaftLogId, RaftMember,
        RaftMembership, RaftVote, RaftVoters, SnapshotBegin, append_response::Outcome, raft_entry,
    },
};

use super::{Payload, RaftId, TypeConfig};

/// Members that a membership may name: 7 voters are the most that make sense, twice
/// that while it changes, and learners.
const MAX_MEMBERS: usize = 64;

pub(crate) fn vote_out(vote: &Vote<RaftId>) -> RaftVote {
    RaftVote {
        term: vote.leader_id.term,
        leader: vote.leader_id.node_id,
        committed: vote.committed,
    }
}

pub(crate) fn vote_in(vote: Option<RaftVote>) -> Result<Vote<RaftId>, Status> {
    let vote = vote.ok_or_else(|| missing("vote"))?;
    Ok(match vote.committed {
        true => Vote::new_committed(vote.term, vote.leader),
        false => Vote::new(vote.term, vote.leader),
    })
}

pub(crate) fn log_id_out(id: LogId<RaftId>) -> RaftLogId {
    RaftLogId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id,
        index: id.index,
    }
}

pub(crate) fn log_id_in(id: RaftLogId) -> LogId<RaftId> {
    LogId::new(CommittedLeaderId::new(id.term, id.leader), id.index)
}

pub(crate) fn member_out(raft_id: RaftId, member: &Member) -> RaftMember {
    RaftMember {
        raft_id,
        node_id: member.node_id.clone(),
        addr: member.addr.clone(),
    }
}

fn membership_out(membership: &Membership<RaftId, Member>) -> RaftMembership {
    let voters = membership.get_joint_config().iter().map(|ids| RaftVoters {
        ids: ids.iter().copied().collect(),
    });
    let members = membership
        .nodes()
        .map(|(raft_id, member)| member_out(*raft_id, member));
    RaftMembership {
        configs: voters.collect(),
        members: members.collect(),
    }
}

fn membership_in(membership: RaftMembership) -> Result<Membership<RaftId, Member>, Status> {
    if membership.members.len() > MAX_MEMBERS || membership.configs.len() > 2 {
        return Err(Status::invalid_argument(
            "a membership of too many managers",
        ));
    }
    let members: BTreeMap<_, _> = membership
        .members
        .into_iter()
        .map(
            |RaftMember {
                 raft_id,
                 node_id,
                 addr,
             }| (raft_id, Member { node_id, addr }),
        )
        .collect();
    let configs: Vec<std::collections::BTreeSet<_>> = membership
        .configs
        .into_iter()
        .map(|voters| voters.ids.into_iter().collect())
        .collect();
    // The engine relies on both.
    let is_named = configs.iter().flatten().all(|id| members.contains_key(id));
    if !is_named || configs.iter().any(|voters| voters.is_empty()) {
        return Err(Status::invalid_argument(
            "a membership whose voters it does not name",
        ));
    }
    Ok(Membership::new(configs, members))
}

fn entry_out(entry: openraft::Entry<TypeConfig>, sealing: &Sealing) -> RaftEntry {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(payload) => {
            Some(raft_entry::Payload::Batch(sealing.seal(payload.batch())))
        }
        EntryPayload::Membership(membership) => {
            Some(raft_entry::Payload::Membership(membership_out(&membership)))
        }
    };
    RaftEntry {
        id: Some(log_id_out(entry.log_id)),
        payload,
    }
}

fn entry_in(entry: RaftEntry, sealing: &Sealing) -> Result<openraft::Entry<TypeConfig>, Status> {
    let log_id = log_id_in(entry.id.ok_or_else(|| missing("id of an entry"))?);
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(raft_entry::Payload::Batch(batch)) => {
            EntryPayload::Normal(Payload::from(sealing.open(batch)?))
        }
        Some(raft_entry::Payload::Membership(membership)) => {
            EntryPayload::Membership(membership_in(membership)?)
        }
    };
    Ok(openraft::Entry { log_id, payload })
}

pub(crate) fn append_out(
    header: RaftHeader,
    rpc: AppendEntriesRequest<TypeConfig>,
    sealing: &Sealing,
) -> AppendRequest {
    let entries = rpc.entries.into_iter();
    let entries = entries.map(|entry| entry_out(entry, sealing));
    AppendRequest {
        header: Some(header),
        vote: Some(vote_out(&rpc.vote)),
        prev: rpc.prev_log_id.map(log_id_out),
        entries: entries.collect(),
        committed: rpc.leader_commit.map(log_id_out),
    }
}

pub(crate) fn append_in(
    request: AppendRequest,
    sealing: &Sealing,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    let vote = vote_in(request.vote)?;
    let prev_log_id = request.prev.map(log_id_in);
    let entries = request
        .entries
        .into_iter()
        .map(|entry| entry_in(entry, sealing))
        .collect::<Result<Vec<_>, _>>()?;
    // The engine takes these for granted.
    let mut next = prev_log_id.map_or(0, |id| id.index.saturating_add(1));
    let mut before = prev_log_id;
    for entry in &entries {
        if entry.log_id.index != next || Some(entry.log_id) <= before {
            return Err(Status::invalid_argument("entries that do not follow on"));
        }
        next = next.saturating_add(1);
        before = Some(entry.log_id);
    }
    if !vote.committed {
        return Err(Status::invalid_argument(
            "entries of a manager that does not lead",
        ));
    }
    Ok(AppendEntriesRequest {
        vote,
        prev_log_id,
        entries,
        leader_commit: request.committed.map(log_id_in),
    })
}

pub(crate) fn appended_out(answer: AppendEntriesResponse<RaftId>) -> AppendResponse {
    let (outcome, matched, vote) = match answer {
        AppendEntriesResponse::Success => (Outcome::Success, None, None),
        AppendEntriesResponse::PartialSuccess(matched) => (Outcome::Partial, matched, None),
        AppendEntriesResponse::Conflict => (Outcome::Conflict, None, None),
        AppendEntriesResponse::HigherVote(vote) => (Outcome::HigherVote, None, Some(vote)),
    };
    AppendResponse {
        outcome: outcome.into(),
        matched: matched.map(log_id_out),
        vote: vote.as_ref().map(vote_out),
    }
}

/// `sent` is what the request held: a follower that claims otherwise would break the
/// engine's bookkeeping.
pub(crate) fn appended_in(
    answer: AppendResponse,
    sent: &Sent,
) -> Result<AppendEntriesResponse<RaftId>, Status> {
    let wrong = || Status::internal("an answer that does not fit the request");
    match answer.outcome() {
        Outcome::Success => Ok(AppendEntriesResponse::Success),
        Outcome::Partial => {
            let matched = answer.matched.map(log_id_in);
            if matched < sent.prev || matched > sent.last {
                return Err(wrong());
            }
            Ok(AppendEntriesResponse::PartialSuccess(matched))
        }
        Outcome::Conflict if sent.prev.is_some() => Ok(AppendEntriesResponse::Conflict),
        Outcome::Conflict => Err(wrong()),
        Outcome::HigherVote => {
            let vote = vote_in(answer.vote)?;
            if vote <= sent.vote {
                return Err(wrong());
            }
            Ok(AppendEntriesResponse::HigherVote(vote))
        }
    }
}

/// What a request to append held.
pub(crate) struct Sent {
    pub(crate) vote: Vote<RaftId>,
    pub(crate) prev: Option<LogId<RaftId>>,
    pub(crate) last: Option<LogId<RaftId>>,
}

impl Sent {
    pub(crate) fn of(rpc: &AppendEntriesRequest<TypeConfig>) -> Sent {
        Sent {
            vote: rpc.vote,
            prev: rpc.prev_log_id,
            last: rpc
                .entries
                .last()
                .map(|entry| entry.log_id)
                .or(rpc.prev_log_id),
        }
    }
}

type Meta = SnapshotMeta<RaftId, Member>;

pub(crate) fn begin_out(header: RaftHeader, vote: &Vote<RaftId>, meta: &Meta) -> SnapshotBegin {
    SnapshotBegin {
        header: Some(header),
        vote: Some(vote_out(vote)),
        last: meta.last_log_id.map(log_id_out),
        membership_id: (*meta.last_membership.log_id()).map(log_id_out),
        membership: Some(membership_out(meta.last_membership.membership())),
        snapshot_id: meta.snapshot_id.clone(),
    }
}

pub(crate) fn begin_in(begin: SnapshotBegin) -> Result<(Vote<RaftId>, Meta), Status> {
    let vote = vote_in(begin.vote)?;
    let last = log_id_in(begin.last.ok_or_else(|| missing("place in the log"))?);
    let membership = begin.membership.ok_or_else(|| missing("membership"))?;
    let membership = membership_in(membership)?;
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::new(begin.membership_id.map(log_id_in), membership),
        // Made of numbers by whoever wrote it; it names no file here.
        snapshot_id: begin.snapshot_id.chars().take(64).collect(),
    };
    if !vote.committed {
        return Err(Status::invalid_argument(
            "a snapshot of a manager that does not lead",
        ));
    }
    Ok((vote, meta))
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("the {what} is missing"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use waxseal_cluster::Wiped;

    use super::*;

    fn id(term: u64, index: u64) -> LogId<RaftId> {
        LogId::new(CommittedLeaderId::new(term, u64::MAX), index)
    }

    fn request(prev: Option<LogId<RaftId>>, ids: &[LogId<RaftId>]) -> AppendRequest {
        let entry = |id: &LogId<RaftId>| openraft::Entry {
            log_id: *id,
            payload: EntryPayload::Normal(Payload::from(Wiped::new(vec![7; 3]))),
        };
        append_out(
            RaftHeader::default(),
            AppendEntriesRequest {
                vote: Vote::new_committed(3, 9),
                prev_log_id: prev,
                entries: ids.iter().map(entry).collect(),
                leader_commit: prev,
            },
            &Sealing::danger_pair().0,
        )
    }

    fn received(request: AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
        append_in(request, &Sealing::danger_pair().1)
    }

    #[test]
    fn entries_with_holes_or_without_a_leader_are_refused() {
        assert!(received(request(Some(id(1, 4)), &[id(2, 6)])).is_err());
        assert!(received(request(None, &[id(2, 1)])).is_err());
        assert!(received(request(Some(id(2, 4)), &[id(1, 5)])).is_err());
        let mut headless = request(None, &[]);
        headless.vote = Some(RaftVote {
            committed: false,
            ..headless.vote.unwrap()
        });
        assert!(received(headless).is_err());
        let mut voteless = request(None, &[]);
        voteless.vote = None;
        assert!(received(voteless).is_err());
    }

    #[test]
    fn memberships_name_their_voters_and_are_bounded() {
        let member = |raft_id| RaftMember {
            raft_id,
            ..RaftMember::default()
        };
        let of = |ids: &[u64], members: &[u64]| RaftMembership {
            configs: vec![RaftVoters { ids: ids.to_vec() }],
            members: members.iter().copied().map(member).collect(),
        };
        assert!(membership_in(of(&[1, 2], &[1])).is_err());
        assert!(membership_in(of(&[], &[1])).is_err());
        let many: Vec<_> = (0..=MAX_MEMBERS as u64).collect();
        assert!(membership_in(of(&[1], &many)).is_err());
        assert!(membership_in(of(&[1, 2], &[1, 2, 3])).is_ok());
    }

    #[test]
    fn answers_that_claim_too_much_are_refused() {
        let sent = Sent {
            vote: Vote::new_committed(3, 9),
            prev: Some(id(1, 4)),
            last: Some(id(2, 6)),
        };
        let partial = |matched| appended_out(AppendEntriesResponse::PartialSuccess(Some(matched)));
        assert!(appended_in(partial(id(2, 7)), &sent).is_err());
        assert!(appended_in(partial(id(1, 3)), &sent).is_err());
        assert!(appended_in(partial(id(2, 5)), &sent).is_ok());
        let lower = appended_out(AppendEntriesResponse::HigherVote(Vote::new(2, 1)));
        assert!(appended_in(lower, &sent).is_err());
    }

    #[test]
    fn no_message_shows_what_it_carries() {
        let marker = b"marker-of-a-secret".to_vec();
        let chunk = waxseal_wire::waxseal::SnapshotRequest {
            part: Some(waxseal_wire::waxseal::snapshot_request::Part::Chunk(
                marker.clone(),
            )),
        };
        let mut append = request(None, &[id(1, 0)]);
        append.entries[0].payload = Some(raft_entry::Payload::Batch(marker.clone()));
        let numbers = format!("{marker:?}");
        let numbers = numbers.trim_matches(['[', ']']);
        for shown in [format!("{chunk:?}"), format!("{append:?}")] {
            assert!(
                !shown.contains("marker") && !shown.contains(numbers),
                "{shown}"
            );
        }
    }

    #[test]
    fn messages_round_trip() {
        let back = received(request(Some(id(1, 4)), &[id(2, 5), id(2, 6)])).unwrap();
        assert_eq!(back.prev_log_id, Some(id(1, 4)));
        assert_eq!(back.entries.len(), 2);
        let EntryPayload::Normal(payload) = &back.entries[1].payload else {
            panic!("not a batch");
        };
        assert_eq!(payload.batch(), [7; 3]);
        let member = Member {
            node_id: "n".into(),
            addr: "a:1".into(),
        };
        let membership = Membership::new(
            vec![BTreeSet::from([1]), BTreeSet::from([2])],
            BTreeMap::from([(1, member.clone()), (2, member)]),
        );
        let meta = SnapshotMeta {
            last_log_id: Some(id(3, 8)),
            last_membership: StoredMembership::new(Some(id(2, 5)), membership),
            snapshot_id: "3-8".into(),
        };
        let vote = Vote::new_committed(3, 9);
        let sent = begin_out(RaftHeader::default(), &vote, &meta);
        assert_eq!(begin_in(sent).unwrap(), (vote, meta));
    }
}
