//! Start, stop, restart; a full disk.

use std::{
    ops::RangeInclusive,
    path::Path,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::Code;
use waxseal_cluster::objects::{UpdateCluster, command::Op};
use waxseal_manager::{ProposeError, RotateError, Start, component};
use waxseal_raft_store::Disk as _;
use waxseal_wire::swarmkit::{AssignmentsRequest, ListenSubscriptionsRequest};

use crate::support::{DEADLINE, World, create_secret, dek, open_session};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_the_state() {
    let world = World::new();
    let manager = world.found().await;
    for n in 0..50 {
        create_secret(&manager, &format!("s{n}"), 1_000)
            .await
            .unwrap();
    }
    let version = manager.read(|state| state.version());
    manager.shutdown(DEADLINE).await;
    drop(manager);
    let manager = world.start(Start::Resume).await.unwrap();
    manager.read(|state| {
        assert!(state.version() >= version);
        assert_eq!(state.secrets().count(), 50);
        assert_eq!(*state.secret_payload("s49").unwrap(), [7; 1_000]);
        assert!(state.node("w1").is_some());
    });
    manager.shutdown(DEADLINE).await;
}

/// Of `--snapshot-interval` and `--max-snapshots`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_are_taken_and_kept_as_the_settings_say() {
    let world = World::new();
    let manager = world.found().await;
    let set = async |interval: u64, older: u64| {
        let cluster = manager.read(|state| state.cluster().cloned()).unwrap();
        let mut cluster = (*cluster).clone();
        let spec = cluster.spec.as_mut().unwrap();
        let raft = spec.raft.as_mut().unwrap();
        (raft.snapshot_interval, raft.keep_old_snapshots) = (interval, older);
        let update = UpdateCluster {
            cluster: Some(cluster),
            expected_version: 0,
        };
        let updating = manager.propose(component("test"), Op::UpdateCluster(update));
        updating.await.unwrap();
    };
    let stored = async |wanted: RangeInclusive<usize>| {
        let count = || {
            let names = world.disk.list(Path::new("/sim")).unwrap();
            names.iter().filter(|name| name.ends_with(".snap")).count()
        };
        let seen = async {
            while !wanted.contains(&count()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(DEADLINE, seen).await.unwrap();
    };
    set(20, 1).await;
    for round in 0..3 {
        for n in 0..25 {
            let id = format!("s{round}x{n}");
            create_secret(&manager, &id, 10).await.unwrap();
        }
        stored(1 + 1.min(round)..=2).await;
    }
    set(0, 0).await;
    stored(1..=1).await;
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_with_open_streams_takes_less_than_a_second() {
    let world = World::new();
    let manager = world.found().await;
    let worker = world.worker(&manager, "w1").await;
    let (mut session, first) = open_session(&worker).await.unwrap();
    let session_id = first.session_id;
    let assignments = AssignmentsRequest { session_id };
    let answer = worker.dispatcher().assignments(assignments).await.unwrap();
    let mut assignments = answer.into_inner();
    assert!(assignments.next().await.unwrap().is_ok());
    let listening = ListenSubscriptionsRequest {};
    let answer = worker.log_broker().listen_subscriptions(listening).await;
    let mut subscriptions = answer.unwrap().into_inner();
    let mut lines = manager
        .logs(
            Default::default(),
            waxseal_wire::swarmkit::LogSubscriptionOptions {
                follow: true,
                ..Default::default()
            },
        )
        .await
        .unwrap();

    let begin = Instant::now();
    manager.shutdown(DEADLINE).await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    let ended = session.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Aborted);
    let ended = assignments.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Aborted);
    assert!(
        subscriptions
            .next()
            .await
            .is_none_or(|message| message.is_err())
    );
    assert!(lines.recv().await.is_none());
    timeout(DEADLINE, worker.closed()).await.unwrap();
    let late = create_secret(&manager, "late", 10).await;
    assert!(matches!(late, Err(ProposeError::Stopped)));
    // A second stop has nothing to do, and the directory is free.
    manager.shutdown(DEADLINE).await;
    world
        .start(Start::Resume)
        .await
        .unwrap()
        .shutdown(DEADLINE)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_rotation_on_a_full_disk_waits_and_nothing_stops() {
    let mut world = World::new();
    let manager = world.found().await;
    create_secret(&manager, "s1", 1_000).await.unwrap();
    let failure = manager.failure();
    tokio::pin!(failure);
    // Room for the writes, none for a snapshot.
    world.disk.set_capacity(Some(world.disk.used()));
    let refused = manager.rotate_dek(dek(2)).await.unwrap_err();
    assert!(
        matches!(&refused, RotateError::Store(error) if error.is_full()),
        "{refused}"
    );
    assert_eq!(manager.read(|state| state.secrets().count()), 1);
    assert!(futures::poll!(&mut failure).is_pending());
    create_secret(&manager, "s0", 1_000).await.unwrap();
    world.disk.set_capacity(None);
    manager.rotate_dek(dek(2)).await.unwrap();
    create_secret(&manager, "s2", 1_000).await.unwrap();
    assert!(futures::poll!(&mut failure).is_pending());
    manager.shutdown(DEADLINE).await;
    assert!(failure.await.is_none(), "a stop is no failure");
    world.retire(dek(2), dek(1));
    let manager = world.start(Start::Resume).await.unwrap();
    assert_eq!(manager.read(|state| state.secrets().count()), 3);
    manager.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_is_a_failure_with_its_cause() {
    let world = World::new();
    let manager = world.found().await;
    let failure = manager.failure();
    let fault = waxseal_raft_store::Fault::WriteFails;
    world.disk.set_fault(Some((fault, "log-")));
    assert!(create_secret(&manager, "s1", 10).await.is_err());
    let cause = timeout(DEADLINE, failure).await.unwrap().unwrap();
    assert!(cause.to_string().contains("check the disk"), "{cause}");
    assert_eq!(manager.read(|state| state.secrets().count()), 0);
    manager.shutdown(DEADLINE).await;
}
