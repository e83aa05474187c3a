//! Managers that are stopped in order and started again, as for an upgrade.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use waxseal_manager::{Manager, Start};

use crate::{
    group::Group,
    support::{DEADLINE, create_secret},
};

/// Creates secrets through a manager until it is told to stop; the longest that one took.
async fn longest_write(manager: &Manager, prefix: &str, stop: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let id = format!("{prefix}-{number}");
        create_secret(manager, &id, 100).await.unwrap();
        longest = longest.max(begun.elapsed());
        number += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_leader_is_a_short_pause_to_clients_of_others() {
    let mut group = Group::of(3).await;
    let mut pauses = Vec::new();
    for round in 0..6 {
        let leader = group.leader().await;
        let client = (leader + 1 + round % 2) % 3;
        let stopping = group.sites[leader].manager.take().unwrap();
        let manager = group.sites[client].manager.take().unwrap();
        let stop = AtomicBool::new(false);
        let prefix = format!("round{round}");
        let restart = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let begun = Instant::now();
            stopping.shutdown(DEADLINE).await;
            drop(stopping);
            let stopped = begun.elapsed();
            group.start(leader, Start::Resume).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            stop.store(true, Ordering::Relaxed);
            stopped
        };
        let (longest, stopped) = tokio::join!(longest_write(&manager, &prefix, &stop), restart);
        group.sites[client].manager = Some(manager);
        println!("stopped in {stopped:?}; the longest write took {longest:?}");
        pauses.push(longest);
    }
    pauses.sort_unstable();
    assert!(
        pauses[pauses.len() / 2] < Duration::from_millis(500),
        "{pauses:?}"
    );
    group.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_does_not_wait_for_the_dead() {
    let mut group = Group::of(3).await;
    let leader = group.leader().await;
    // Its own lease is over, and it need not wait for that.
    tokio::time::sleep(Duration::from_secs(1)).await;
    group.kill((leader + 1) % 3);
    let stopping = group.sites[leader].manager.take().unwrap();
    let begun = Instant::now();
    stopping.shutdown(DEADLINE).await;
    println!("with one dead: stopped in {:?}", begun.elapsed());
    drop(stopping);
    group.start(leader, Start::Resume).await.unwrap();
    let pause = group.write("one-dead").await;
    println!("with one dead: the next write took {pause:?}");

    let leader = group.leader().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let last: Vec<_> = group.running().filter(|site| *site != leader).collect();
    for site in last {
        group.kill(site);
    }
    let stopping = group.sites[leader].manager.take().unwrap();
    let begun = Instant::now();
    stopping.shutdown(DEADLINE).await;
    let took = begun.elapsed();
    println!("with all others dead: stopped in {took:?}");
    assert!(took < Duration::from_millis(2_500), "{took:?}");
}
