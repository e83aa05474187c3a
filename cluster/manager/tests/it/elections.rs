//! Who may vote, and for whom, after starts and stops that are not the usual ones.

use std::time::Duration;

use tonic::Code;
use waxseal_ca::Role;
use waxseal_manager::{JoinCluster, Start};
use waxseal_wire::{
    ManagerChannel,
    waxseal::{BeatRequest, RaftHeader, RaftLogId, RaftVote, VoteRequest},
};

use crate::{group::Group, support::CLUSTER};

/// How `from` calls `to`.
async fn caller(group: &Group, from: usize, to: usize) -> (ManagerChannel, Option<RaftHeader>) {
    let header = RaftHeader {
        cluster_id: CLUSTER.into(),
        incarnation: 1,
        from: group.sites[from].raft_id,
        to: group.sites[to].raft_id,
    };
    let from = &group.sites[from].node_id;
    let credentials = group.world.credentials(from, Role::Manager);
    let manager = group.sites[to].manager();
    let channel = group.world.dial(manager, credentials).await;
    (channel, Some(header))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gives_signs_of_life_of_another() {
    let group = Group::of(2).await;
    let (channel, header) = caller(&group, 1, 0).await;
    let beat = |leader| BeatRequest {
        header: header.clone(),
        vote: Some(RaftVote {
            term: 0,
            leader,
            committed: true,
        }),
        ..BeatRequest::default()
    };
    let refused = channel.raft().beat(beat(9)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let own = channel.raft().beat(beat(group.sites[1].raft_id)).await;
    assert!(own.is_ok());
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_nobody_answers_votes_for_nobody() {
    let mut group = Group::of(3).await;
    group.write("one").await;
    for site in 0..3 {
        group.kill(site);
    }
    group.start(0, Start::Resume).await.unwrap();
    let (channel, header) = caller(&group, 1, 0).await;
    let poll = VoteRequest {
        header,
        vote: Some(RaftVote {
            term: 1_000,
            leader: group.sites[1].raft_id,
            committed: false,
        }),
        last: Some(RaftLogId {
            term: 999,
            leader: group.sites[1].raft_id,
            index: 1_000,
        }),
    };
    // Longer than anybody is waited for who does not answer.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let answer = channel.raft().poll(poll).await.unwrap();
    assert!(!answer.into_inner().granted);
    group.start(1, Start::Resume).await.unwrap();
    group.write("two").await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_goes_on_without_who_asked_for_it() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    // Its own lease is over, and it need not wait for that.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let heir = (leader + 1) % 3;
    let handing = group.sites[leader].manager();
    let handing = handing.transfer_leadership(Some(group.sites[heir].raft_id));
    assert!(
        tokio::time::timeout(Duration::ZERO, handing).await.is_err(),
        "handed over at once"
    );
    // Less than it takes until the silence of a leader is followed by an election.
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(group.leader().await, heir);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_joins_again_on_its_log_votes() {
    let mut group = Group::of(3).await;
    group.write("one").await;
    let leader = group.leader().await;
    let again = (leader + 1) % 3;
    group.kill(again);
    let remotes = group.running().map(|site| group.sites[site].addr());
    let remotes = remotes.collect();
    let start = Start::Join(JoinCluster { remotes });
    group.start(again, start).await.unwrap();
    group.write("two").await;
    group.kill(leader);
    group.write("three").await;
    group.end().await;
}
