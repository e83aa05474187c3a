//! Who may vote, and for whom, after starts and stops that are not the usual ones.

use waxseal_manager::{JoinCluster, Start};

use crate::group::Group;

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
