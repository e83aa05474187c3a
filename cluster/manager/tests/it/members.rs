//! Several managers: members, elections, failover.

use std::time::Duration;

use tokio::sync::broadcast;
use tonic::Code;
use waxseal_ca::Role;
use waxseal_cluster::{
    ChangeRecord,
    events::Event,
    objects::{NodeRole, RemoveNode, command::Op},
};
use waxseal_manager::{JoinCluster, Leader, Manager, ProposeError, Start, StartError, component};
use waxseal_wire::{
    Credentials, ManagerChannel,
    waxseal::{HelloRequest, RaftHeader, RaftVote, VoteRequest},
};

use crate::{
    group::{Group, Site},
    support::{CLUSTER, DEADLINE, World, add_node, create_secret, dek},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_out_of_reach_does_not_join() {
    let mut group = Group::of(1).await;
    let site = Site::new(2);
    let addr = group.sites[0].addr();
    add_node(group.sites[0].manager(), "manager2", NodeRole::Manager).await;
    // It says that it is where nobody listens.
    let mut config = group.world.config("manager2", site.raft_id, site.port);
    config.advertise_addr = "127.0.0.1:1".into();
    let join = || {
        Start::Join(JoinCluster {
            remotes: vec![addr.clone()],
        })
    };
    let refused = Manager::start_on(site.disk.clone(), config, join()).await;
    let Err(StartError::Join { reason, may_count }) = refused else {
        panic!("it joined");
    };
    assert!(!may_count, "a refusal undoes it");
    assert!(
        reason.contains("127.0.0.1:1") && reason.contains("--advertise-addr"),
        "{reason}"
    );
    assert_eq!(group.sites[0].manager().members().len(), 1);
    // Nor one that is no manager on record.
    let config = group.world.config("manager9", 0x99, Site::new(9).port);
    let joining = Manager::start_on(Site::new(9).disk, config, join());
    assert!(matches!(joining.await, Err(StartError::Join { .. })));
    assert_eq!(group.sites[0].manager().members().len(), 1);
    // What was refused harmed nothing.
    group.sites.push(site);
    group.start(1, join()).await.unwrap();
    assert_eq!(group.sites[0].manager().members().len(), 2);
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_managers_of_this_membership_are_heard() {
    let group = Group::of(2).await;
    add_node(group.sites[0].manager(), "w1", NodeRole::Worker).await;
    let to = group.sites[0].raft_id;
    let request = |from, to, incarnation| VoteRequest {
        header: Some(RaftHeader {
            cluster_id: CLUSTER.into(),
            incarnation,
            from,
            to,
        }),
        vote: Some(RaftVote {
            term: 1_000,
            leader: from,
            committed: false,
        }),
        last: None,
    };
    let asks = async |node_id: &str, role, request: VoteRequest| {
        let credentials = group.world.credentials(node_id, role);
        let channel = group
            .world
            .dial(group.sites[0].manager(), credentials)
            .await;
        let answer = channel.raft().vote(request).await;
        answer.map(|answer| answer.into_inner().granted)
    };
    let second = group.sites[1].raft_id;
    // A worker; a manager's certificate of a worker on record; another's Raft id; an id of
    // its own beside the one that its node has; a former membership; a former life.
    assert!(
        asks("w1", Role::Worker, request(second, to, 1))
            .await
            .is_err()
    );
    assert!(asks("w1", Role::Manager, request(9, to, 1)).await.is_err());
    assert!(
        asks("manager1", Role::Manager, request(second, to, 1))
            .await
            .is_err()
    );
    assert!(
        asks("manager2", Role::Manager, request(9, to, 1))
            .await
            .is_err()
    );
    assert!(
        asks("manager2", Role::Manager, request(second, 9, 1))
            .await
            .is_err()
    );
    let old = asks("manager2", Role::Manager, request(second, to, 0)).await;
    assert!(!old.unwrap(), "a leader that works is not deposed");
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_managers_replicate_and_survive_their_leader() {
    let mut group = Group::of(3).await;
    let watched = group.sites.iter().map(|site| site.changes.subscribe());
    let mut watched: Vec<_> = watched.collect();
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
    assert!(pause < Duration::from_secs(5), "{pause:?}");
    ids.push("after".into());
    group.all_have(&ids).await;
    // Events go on, and are the same whoever tells them.
    watched.remove(leader);
    let one = secret_events(&mut watched[0], "after").await;
    assert_eq!(one, secret_events(&mut watched[1], "after").await);
    let told: Vec<_> = one.into_iter().map(|event| event.id).collect();
    assert_eq!(told, ids);

    group.start(leader, Start::Resume).await.unwrap();
    group.all_have(&ids).await;
    group.end().await;
}

/// What is told of secrets, until one of them is there.
async fn secret_events(changes: &mut broadcast::Receiver<ChangeRecord>, last: &str) -> Vec<Event> {
    let mut events = Vec::<Event>::new();
    while events.last().is_none_or(|event| event.id != last) {
        let record = tokio::time::timeout(DEADLINE, changes.recv()).await;
        let of_record: Vec<_> = Event::of_record(&record.unwrap().unwrap()).collect();
        events.extend(of_record.into_iter().filter(|event| event.kind == "secret"));
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_others_leads_no_more_and_all_restart() {
    let mut group = Group::of(3).await;
    group.write("before").await;
    let leader = group.leader().await;
    for site in (0..3).filter(|site| *site != leader) {
        group.kill(site);
    }
    let mut known = group.sites[leader].manager().leader();
    let lost = known.wait_for(|known| *known == Leader::None);
    let lost = tokio::time::timeout(Duration::from_secs(5), lost).await;
    assert!(lost.is_ok(), "it still leads");
    drop(lost);
    let refused = create_secret(group.sites[leader].manager(), "lost", 10);
    let refused = tokio::time::timeout(DEADLINE, refused).await;
    assert!(
        !matches!(refused, Ok(Ok(()))),
        "acknowledged without a quorum"
    );
    group.kill(leader);
    // One by one; none waits for the others.
    for site in 0..3 {
        group.start(site, Start::Resume).await.unwrap();
    }
    let pause = group.write("after").await;
    println!("all restarted; the first write took {pause:?}");
    group.all_have(&["before".into(), "after".into()]).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leadership_is_handed_over_and_a_stop_does_so() {
    let mut group = Group::of(3).await;
    group.write("one").await;
    let leader = group.leader().await;
    let heir = (leader + 1) % 3;
    let heir_id = group.sites[heir].raft_id;
    let begun = std::time::Instant::now();
    let manager = group.sites[leader].manager();
    manager.transfer_leadership(Some(heir_id)).await.unwrap();
    println!("handed over in {:?}", begun.elapsed());
    assert_eq!(group.leader().await, heir);
    group.write("two").await;

    let begun = std::time::Instant::now();
    let stopped = group.sites[heir].manager.take().unwrap();
    stopped.shutdown(DEADLINE).await;
    drop(stopped);
    println!("stopped in {:?}", begun.elapsed());
    let pause = group.write("three").await;
    println!("the leader was stopped; the next write took {pause:?}");
    group.start(heir, Start::Resume).await.unwrap();
    group
        .all_have(&["one".into(), "two".into(), "three".into()])
        .await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_taken_out_and_a_new_one_takes_its_place() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let gone = (leader + 1) % 3;
    let gone_id = group.sites[gone].raft_id;
    let manager = group.sites[leader].manager();
    manager.remove_member(gone_id).await.unwrap();
    assert_eq!(manager.members().len(), 2);
    // Its silence is not followed by an election of its own.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(group.leader().await, leader);
    group.kill(gone);
    group.write("without").await;
    group.join(4).await.unwrap();
    assert_eq!(group.sites[leader].manager().members().len(), 3);
    group.all_have(&["without".into()]).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_goes_on_alone_when_the_others_are_lost() {
    let mut group = Group::of(3).await;
    let ids: Vec<_> = (0..5).map(|n| format!("s{n}")).collect();
    for id in &ids {
        group.write(id).await;
    }
    group.all_have(&ids).await;
    let leader = group.leader().await;
    let left = (leader + 1) % 3;
    for site in 0..3 {
        group.kill(site);
    }
    group.start(left, Start::ForceNew).await.unwrap();
    let manager = group.sites[left].manager();
    assert_eq!(manager.members().len(), 1);
    let incarnation = manager.read(|state| state.cluster().unwrap().incarnation);
    assert_eq!(incarnation, 2);
    group.all_have(&ids).await;
    group.write("alone").await;

    // The former leader comes back: it is told what to do, and takes no part.
    let former = &group.sites[leader];
    let credentials = group.world.credentials(&former.node_id, Role::Manager);
    let channel = group
        .world
        .dial(group.sites[left].manager(), credentials)
        .await;
    let vote = VoteRequest {
        header: Some(RaftHeader {
            cluster_id: CLUSTER.into(),
            incarnation: 1,
            from: former.raft_id,
            to: group.sites[left].raft_id,
        }),
        vote: Some(RaftVote {
            term: 1_000,
            leader: former.raft_id,
            committed: false,
        }),
        last: None,
    };
    let refused = channel.raft().vote(vote).await.unwrap_err();
    assert!(
        refused.message().contains("docker swarm leave --force"),
        "{refused}"
    );
    group.start(leader, Start::Resume).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    group.write("still-alone").await;
    group.kill(leader);
    // It stays alone over a restart, and others join.
    group.kill(left);
    group.start(left, Start::Resume).await.unwrap();
    group.write("after").await;
    group.join(5).await.unwrap();
    group.all_have(&["alone".into(), "after".into()]).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_is_not_forced() {
    let world = World::new();
    let forced = world.start(Start::ForceNew).await;
    assert!(matches!(forced, Err(StartError::NothingToForce)));
    // Nothing was written.
    world.found().await.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_forced_hears_no_former_member_before_it_is_parted_from_them() {
    let mut group = Group::of(2).await;
    group.write("before").await;
    group.all_have(&["before".into()]).await;
    let former = group.leader().await;
    let left = 1 - former;
    group.kill(0);
    group.kill(1);
    let former = &group.sites[former];
    let vote = VoteRequest {
        header: Some(RaftHeader {
            cluster_id: CLUSTER.into(),
            incarnation: 1,
            from: former.raft_id,
            to: group.sites[left].raft_id,
        }),
        vote: Some(RaftVote {
            term: 1_000,
            leader: former.raft_id,
            committed: false,
        }),
        last: None,
    };
    let credentials = group.world.credentials(&former.node_id, Role::Manager);
    let live = group.world.live(group.world.root.trust(), credentials);
    let addr = group.sites[left].addr();
    // It calls all the while that the other starts, on a disk that takes its time.
    let calling = tokio::spawn(async move {
        loop {
            let dialled = ManagerChannel::dial(&addr, Credentials::Member(&live)).await;
            if let Ok(channel) = dialled {
                match channel.raft().vote(vote.clone()).await {
                    Err(status) if status.code() == Code::Unavailable => {}
                    answer => return answer,
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    group.sites[left].slow.set(Duration::from_millis(300));
    group.start(left, Start::ForceNew).await.unwrap();
    group.sites[left].slow.set(Duration::ZERO);
    let refused = calling.await.unwrap().unwrap_err();
    assert!(
        refused.message().contains("docker swarm leave --force"),
        "{refused}"
    );
    // Begun anew, as after a crash before that was on record, it keeps all.
    group.write("alone").await;
    group.kill(left);
    group.start(left, Start::ForceNew).await.unwrap();
    group.all_have(&["before".into(), "alone".into()]).await;
    assert_eq!(group.sites[left].manager().members().len(), 1);
    group.write("again").await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_removed_meanwhile_is_cut_off_by_one_that_catches_up() {
    let mut group = Group::of(3).await;
    add_node(group.sites[0].manager(), "w1", NodeRole::Worker).await;
    group.write("before").await;
    group.all_have(&["before".into()]).await;
    let behind = (group.leader().await + 1) % 3;
    group.kill(behind);
    let leader = group.leader().await;
    let removal = RemoveNode {
        node_id: "w1".into(),
        force: true,
        ..RemoveNode::default()
    };
    let manager = group.sites[leader].manager();
    let removed = manager.propose(component("test"), Op::RemoveNode(removal));
    removed.await.unwrap();
    let others: Vec<_> = group.running().collect();
    for other in &others {
        group.kill(*other);
    }
    // Its log has the node, and nobody tells otherwise.
    group.start(behind, Start::Resume).await.unwrap();
    let worker = group
        .world
        .worker(group.sites[behind].manager(), "w1")
        .await;
    worker.hello().greet(HelloRequest::default()).await.unwrap();
    for other in others {
        group.start(other, Start::Resume).await.unwrap();
    }
    tokio::time::timeout(DEADLINE, worker.closed())
        .await
        .unwrap();
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_cuts_off_whom_it_leaves_out() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    add_node(group.sites[leader].manager(), "w1", NodeRole::Worker).await;
    group.write("before").await;
    group.all_have(&["before".into()]).await;
    let behind = (leader + 1) % 3;
    group.kill(behind);
    let removal = RemoveNode {
        node_id: "w1".into(),
        force: true,
        ..RemoveNode::default()
    };
    let manager = group.sites[leader].manager();
    let removed = manager.propose(component("test"), Op::RemoveNode(removal));
    removed.await.unwrap();
    group.write("after").await;
    group.all_have(&["after".into()]).await;
    // What others have of it is in a snapshot alone.
    let others: Vec<_> = group.running().collect();
    for other in &others {
        let manager = group.sites[*other].manager();
        manager.rotate_dek(dek(2)).await.unwrap();
    }
    for other in &others {
        group.kill(*other);
    }
    group.world.retire(dek(2), dek(1));
    group.start(behind, Start::Resume).await.unwrap();
    let manager = group.sites[behind].manager();
    let worker = group.world.worker(manager, "w1").await;
    worker.hello().greet(HelloRequest::default()).await.unwrap();
    for other in others {
        group.start(other, Start::Resume).await.unwrap();
    }
    let closed = tokio::time::timeout(DEADLINE, worker.closed());
    closed.await.unwrap();
    group.all_have(&["after".into()]).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_after_a_stop_that_had_too_little_time() {
    let group = Group::of(1).await;
    let site = &group.sites[0];
    site.slow.set(Duration::from_millis(1_500));
    let manager = site.manager();
    let (_, ()) = tokio::join!(create_secret(manager, "late", 100), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(site.slow.is_syncing());
        manager.shutdown(Duration::from_millis(200)).await;
        assert!(!site.slow.is_syncing());
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_was_set_back_costs_nothing_that_was_acknowledged() {
    let mut group = Group::of(3).await;
    group.write("before").await;
    group.all_have(&["before".into()]).await;
    let leader = group.leader().await;
    let (set_back, lagging) = ((leader + 1) % 3, (leader + 2) % 3);
    // 1. A copy of one disk, taken while its manager is stopped.
    group.kill(set_back);
    let copy = group.sites[set_back].disk.copy();
    group.start(set_back, Start::Resume).await.unwrap();
    // 2. Written with that one and without the third.
    group.kill(lagging);
    let ids: Vec<_> = (0..10).map(|n| format!("s{n}")).collect();
    for id in &ids {
        group.write(id).await;
    }
    // 3. The copy comes back beside the third: they are a quorum that knows nothing of
    //    it, and elect one of them if they do not ask. The one that has it is there soon.
    group.kill(set_back);
    group.kill(leader);
    group.sites[set_back].disk = std::sync::Arc::new(copy);
    group.start(set_back, Start::Resume).await.unwrap();
    group.start(lagging, Start::Resume).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    group.start(leader, Start::Resume).await.unwrap();
    group.all_have(&ids).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_that_missed_much_gets_a_snapshot() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let behind = (leader + 1) % 3;
    group.kill(behind);
    // A rotation of the key ends with a snapshot and an empty log.
    for n in 0..30 {
        create_secret(group.sites[leader].manager(), &format!("s{n}"), 100_000)
            .await
            .unwrap();
    }
    group.sites[leader]
        .manager()
        .rotate_dek(dek(2))
        .await
        .unwrap();
    group.join(4).await.unwrap();
    group.start(behind, Start::Resume).await.unwrap();
    let ids: Vec<_> = (0..30).map(|n| format!("s{n}")).collect();
    group.all_have(&ids).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn managers_that_move_find_each_other_again() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let moved = (leader + 1) % 3;
    // One comes back elsewhere and tells.
    group.kill(moved);
    group.sites[moved].port = Site::new(0).port;
    group.start(moved, Start::Resume).await.unwrap();
    let (id, addr) = (group.sites[moved].raft_id, group.sites[moved].addr());
    let begun = std::time::Instant::now();
    loop {
        let members = group.sites[leader].manager().members();
        if members
            .iter()
            .any(|member| member.raft_id == id && member.addr == addr)
        {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "{members:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    group.write("one").await;
    group.all_have(&["one".into()]).await;
    // All do: one address is given to each.
    for site in 0..3 {
        group.kill(site);
    }
    for site in 0..3 {
        group.sites[site].port = Site::new(0).port;
        group.start(site, Start::Resume).await.unwrap();
    }
    let first = group.sites[0].addr();
    for site in [1, 2] {
        group.sites[site].manager().add_peer(&first).await.unwrap();
    }
    group.write("two").await;
    group.all_have(&["one".into(), "two".into()]).await;
    // Who is none of them is not taken for one.
    let other = Group::of(1).await;
    let stranger = other.sites[0].addr();
    assert!(group.sites[0].manager().add_peer(&stranger).await.is_err());
    other.end().await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_the_disk_costs_no_election_and_a_slow_disk_the_leadership() {
    let group = Group::of(3).await;
    let leader = group.leader().await;
    let term = group.sites[leader].manager().leader().borrow().clone();
    // 1. One sync takes a second and a half: the write waits, nothing else happens.
    group.sites[leader].slow.set(Duration::from_millis(1_500));
    let stalled = group.write("stalled").await;
    group.sites[leader].slow.set(Duration::ZERO);
    println!("a write over a stall took {stalled:?}");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(*group.sites[leader].manager().leader().borrow(), term);
    // 2. Each does.
    group.sites[leader].slow.set(Duration::from_millis(700));
    let begun = std::time::Instant::now();
    let mut n = 0;
    while group.leader().await == leader {
        group.write(&format!("slow{n}")).await;
        n += 1;
        assert!(begun.elapsed() < Duration::from_secs(40), "it still leads");
    }
    println!("handed over after {n} writes, {:?}", begun.elapsed());
    group.write("after").await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manager_with_a_wrong_clock_does_not_lead() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    let wrong = (leader + 1) % 3;
    group.kill(wrong);
    group.sites[wrong].ahead = Duration::from_secs(2 * 60 * 60);
    group.start(wrong, Start::Resume).await.unwrap();
    group.write("one").await;
    group.all_have(&["one".into()]).await;
    let id = group.sites[wrong].raft_id;
    let manager = group.sites[leader].manager();
    let mut known = group.sites[wrong].manager().leader();
    let led = tokio::spawn(async move {
        let leads = known.wait_for(|known| matches!(known, Leader::Me { .. }));
        tokio::time::timeout(Duration::from_secs(6), leads)
            .await
            .is_ok()
    });
    // Whether it takes over for a moment or not: it proposes nothing.
    let _ = manager.transfer_leadership(Some(id)).await;
    group.write("two").await;
    assert_ne!(group.leader().await, wrong);
    assert!(!led.await.unwrap(), "it led");
    group.end().await;
}

/// Five managers lose two of them at a time, over and over, some by a power failure, while
/// secrets are created: whatever was acknowledged is there at the end, on all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_managers_keep_what_they_acknowledged() {
    const ROUNDS: u64 = 8;
    let mut group = Group::of(5).await;
    let mut seed = std::time::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .subsec_nanos()
        .into();
    println!("seed {seed}");
    let mut random = move |below: usize| {
        seed = u64::wrapping_mul(seed, 6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % below
    };
    let mut written = Vec::new();
    for round in 0..ROUNDS {
        let leader = group.leader().await;
        let first = if random(2) == 0 { leader } else { random(5) };
        let second = (first + 1 + random(4)) % 5;
        for site in [first, second] {
            if random(2) == 0 {
                // The power fails: what was not synced is lost.
                group.sites[site].disk.power_cycle();
            }
            group.kill(site);
            for n in 0..1 + random(5) {
                let id = format!("r{round}-{site}-{n}");
                group.write(&id).await;
                written.push(id);
            }
        }
        for site in [first, second] {
            group.start(site, Start::Resume).await.unwrap();
        }
        if random(2) == 0 {
            group.all_have(&written).await;
        }
    }
    group.all_have(&written).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_full_disk_waits_for_space() {
    let group = Group::of(3).await;
    group.write("before").await;
    let leader = group.leader().await;
    let full = &group.sites[(leader + 1) % 3];
    full.disk.set_capacity(Some(full.disk.used()));
    let mut ids = vec!["before".to_owned()];
    // More than the segments that are allocated already.
    for n in 0..90 {
        let id = format!("s{n}");
        let leader = group.sites[group.leader().await].manager();
        create_secret(leader, &id, 400_000).await.unwrap();
        ids.push(id);
    }
    assert_eq!(group.leader().await, leader);
    let failed = tokio::time::timeout(Duration::from_millis(500), full.manager().failure());
    assert!(failed.await.is_err(), "it ended");
    let last = full.manager().read(|state| state.secret("s89").is_none());
    assert!(last, "it had room");
    full.disk.set_capacity(None);
    group.all_have(&ids).await;
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_with_a_full_disk_hands_over() {
    let group = Group::of(3).await;
    let full = group.leader().await;
    let follower = group.sites[(full + 1) % 3].manager();
    let disk = &group.sites[full].disk;
    disk.set_capacity(Some(disk.used()));
    // No call fails, whom it asks, until others have what it has no room for.
    let mut ids = Vec::new();
    while group.leader().await == full {
        let id = format!("s{}", ids.len());
        let asked = match ids.len() % 2 {
            0 => follower,
            _ => group.sites[full].manager(),
        };
        create_secret(asked, &id, 400_000).await.unwrap();
        ids.push(id);
    }
    // Without room anywhere it is said so, by a leader that is one still.
    for site in &group.sites {
        site.disk.set_capacity(Some(site.disk.used()));
    }
    let begun = std::time::Instant::now();
    let refused = loop {
        let id = format!("more{}", ids.len());
        match create_secret(follower, &id, 400_000).await {
            Ok(()) => ids.push(id),
            Err(refused) => break refused,
        }
    };
    assert!(
        matches!(refused, ProposeError::NoSpace { .. }),
        "{refused}, after {:?}",
        begun.elapsed()
    );
    let manager = group.sites[group.leader().await].manager();
    let begun = std::time::Instant::now();
    let refused = create_secret(manager, "at-once", 400_000).await;
    assert!(matches!(refused, Err(ProposeError::NoSpace { .. })));
    println!("refused after {:?}", begun.elapsed());
    manager.linearize().await.unwrap();
    for site in &group.sites {
        site.disk.set_capacity(None);
    }
    group.write("after").await;
    // The first one has much to catch up with.
    let has = group.sites[full].manager();
    let begun = std::time::Instant::now();
    while has.read(|state| state.secret("after").is_none()) {
        assert!(begun.elapsed() < DEADLINE * 4, "it lacks what came last");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("caught up after {:?}", begun.elapsed());
    group.all_have(&ids).await;
    group.end().await;
}
