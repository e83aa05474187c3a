//! Several managers: members, elections, failover.

use crate::group::Group;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_managers_replicate_and_survive_their_leader() {
    let mut group = Group::of(3).await;
    let mut ids: Vec<_> = (0..20).map(|n| format!("s{n}")).collect();
    for id in &ids {
        group.write(id).await;
    }
    group.all_have(&ids).await;
    let leader = group.leader().await;
    let members = group.sites[leader].manager().members();
    assert_eq!(members.len(), 3);
    assert!(
        members
            .iter()
            .all(|member| member.voter && member.reachable)
    );

    group.kill(leader);
    let pause = group.write("after").await;
    println!("the leader was killed; the next write took {pause:?}");
    ids.push("after".into());
    group.all_have(&ids).await;

    group
        .start(leader, waxseal_manager::Start::Resume)
        .await
        .unwrap();
    group.all_have(&ids).await;
    group.end().await;
}
