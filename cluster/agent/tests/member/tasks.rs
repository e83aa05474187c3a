//! Tasks: started, reported, stopped, adopted, logged.

use std::{sync::Arc, time::Duration};

use prost_types::Timestamp;
use waxseal_agent::native::{LogRecord, LogStream};
use waxseal_ca::Clock;
use waxseal_cluster::objects::TaskState;
use waxseal_wire::swarmkit::{
    LogSelector, LogStream as WireStream, LogSubscriptionOptions, SubscriptionMessage,
    assignment::Item, assignment_change::Action,
};

use crate::{
    host::{Host, exit, wait_for_status},
    manager::{Manager, secret, task},
};

fn desired(item: Item, state: TaskState) -> Item {
    let Item::Task(mut task) = item else {
        panic!("not a task")
    };
    task.desired_state = state.into();
    Item::Task(task)
}

/// When a manager was told of a state before.
const SEEN: Timestamp = Timestamp {
    seconds: 1_700_000_000,
    nanos: 5,
};

fn seen(item: Item, state: TaskState) -> Item {
    let Item::Task(mut task) = item else {
        panic!("not a task")
    };
    let status = task.status.as_mut().unwrap();
    status.state = state.into();
    status.timestamp = Some(SEEN);
    Item::Task(task)
}

fn image(item: Item, image: &str) -> Item {
    let Item::Task(mut task) = item else {
        panic!("not a task")
    };
    task.spec
        .as_mut()
        .unwrap()
        .container
        .as_mut()
        .unwrap()
        .image = image.to_owned();
    Item::Task(task)
}

#[tokio::test]
async fn another_image_is_rejected_with_what_helps() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![image(task("t", ""), "nginx:latest")]);
    let _agent = host.agent(&manager);
    let status = manager
        .wait_for_state("t", TaskState::Rejected.into())
        .await;
    assert!(status.err.contains("`nginx:latest`"), "{}", status.err);
    assert!(
        status.err.contains("--constraint-add node.id!=node"),
        "{}",
        status.err
    );
    assert!(host.with(|kept| kept.launched.is_empty()));
}

#[tokio::test]
async fn a_task_without_its_secret_fails() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "missing")]);
    let _agent = host.agent(&manager);
    let status = manager.wait_for_state("t", TaskState::Failed.into()).await;
    assert!(
        status
            .err
            .starts_with("unable to get secret from secret store"),
        "{}",
        status.err
    );
}

#[tokio::test]
async fn a_task_gets_its_secret_and_its_exit_code_is_reported() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "s"), secret("s", b"hunter2")]);
    let agent = host.agent(&manager);
    let running = manager.wait_for_state("t", TaskState::Running.into()).await;
    assert_eq!(running.container.unwrap().pid, 4711);
    assert_eq!(running.applied_by, "node");
    assert_eq!(
        host.with(|kept| kept.launched[0].1.clone()),
        [b"hunter2".to_vec()]
    );
    wait_for_status(&agent, |status| status.running_tasks == 1).await;
    host.end_task("t", exit(7)).await;
    let failed = manager.wait_for_state("t", TaskState::Failed.into()).await;
    assert_eq!(failed.err, "task: non-zero exit (7)");
    assert_eq!(failed.container.unwrap().exit_code, 7);
    wait_for_status(&agent, |status| status.running_tasks == 0).await;
    // Kept until it is not assigned any more, and never started again.
    assert!(host.with(|kept| kept.removed.is_empty()));
    manager.assign(vec![(Action::Remove, task("t", ""))]).await;
    host.wait_for(|kept| kept.removed.contains(&"t".to_owned()).then_some(()))
        .await;
    assert_eq!(host.with(|kept| kept.launched.len()), 1);
}

#[tokio::test]
async fn an_exit_of_zero_is_complete() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "")]);
    let _agent = host.agent(&manager);
    host.end_task("t", exit(0)).await;
    manager
        .wait_for_state("t", TaskState::Complete.into())
        .await;
}

#[tokio::test]
async fn desired_shutdown_stops_and_a_lower_state_does_not_start_again() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "")]);
    let _agent = host.agent(&manager);
    manager.wait_for_state("t", TaskState::Running.into()).await;
    let shutdown = desired(task("t", ""), TaskState::Shutdown);
    manager.assign(vec![(Action::Update, shutdown)]).await;
    let status = manager
        .wait_for_state("t", TaskState::Shutdown.into())
        .await;
    assert_eq!(status.container.unwrap().exit_code, 143);
    manager.assign(vec![(Action::Update, task("t", ""))]).await;
    manager.assign(vec![(Action::Remove, task("t", ""))]).await;
    host.wait_for(|kept| kept.removed.contains(&"t".to_owned()).then_some(()))
        .await;
    assert_eq!(host.with(|kept| kept.launched.len()), 1);
}

#[tokio::test]
async fn desired_ready_waits_until_running_is_wanted() {
    let (manager, host) = (Manager::start().await, Host::default());
    let ready = desired(task("t", ""), TaskState::Ready);
    manager.with(|behaviour| behaviour.complete = vec![ready]);
    let _agent = host.agent(&manager);
    manager.wait_for_state("t", TaskState::Ready.into()).await;
    assert!(host.with(|kept| kept.launched.is_empty()));
    manager.assign(vec![(Action::Update, task("t", ""))]).await;
    manager.wait_for_state("t", TaskState::Running.into()).await;
}

#[tokio::test]
async fn what_managers_saw_run_or_end_is_not_started_again() {
    let (manager, host) = (Manager::start().await, Host::default());
    let ran = seen(task("ran", ""), TaskState::Running);
    let ended = seen(task("ended", ""), TaskState::Complete);
    manager.with(|behaviour| behaviour.complete = vec![ran, ended]);
    let _agent = host.agent(&manager);
    let status = manager
        .wait_for_state("ran", TaskState::Failed.into())
        .await;
    assert!(status.err.contains("process is gone"), "{}", status.err);
    assert!(host.with(|kept| kept.launched.is_empty()));
    assert!(manager.with(|behaviour| behaviour.statuses.iter().all(|(id, _)| id != "ended")));
}

#[tokio::test]
async fn tasks_of_an_earlier_daemon_are_adopted_after_the_first_complete_set() {
    let (manager, host) = (Manager::start().await, Host::default());
    host.with(|kept| {
        kept.found.insert("runs".to_owned(), None);
        kept.found.insert("orphan".to_owned(), None);
        kept.found.insert("ended".to_owned(), Some(exit(3)));
    });
    manager.with(|behaviour| behaviour.hold_assignments = true);
    let agent = host.agent(&manager);
    host.wait_for(|kept| (kept.adoptions > 0).then_some(()))
        .await;
    manager
        .wait_for(|behaviour| (behaviour.beats > 2).then_some(()))
        .await;
    assert!(host.with(|kept| kept.stopped.is_empty() && kept.removed.is_empty()));
    assert!(manager.with(|behaviour| behaviour.statuses.is_empty()));
    manager.with(|behaviour| {
        behaviour.hold_assignments = false;
        behaviour.complete = vec![
            seen(task("runs", ""), TaskState::Running),
            seen(task("ended", ""), TaskState::Running),
        ];
    });
    manager.connections.close_node("node");
    let runs = manager
        .wait_for_state("runs", TaskState::Running.into())
        .await;
    assert_eq!(
        runs.timestamp,
        Some(SEEN),
        "it runs since then, not since now"
    );
    let ended = manager
        .wait_for_state("ended", TaskState::Failed.into())
        .await;
    assert_eq!(ended.container.unwrap().exit_code, 3);
    host.wait_for(|kept| kept.removed.contains(&"orphan".to_owned()).then_some(()))
        .await;
    assert_eq!(host.with(|kept| kept.stopped.clone()), ["orphan"]);
    assert!(host.with(|kept| kept.launched.is_empty()));
    assert!(manager.with(|behaviour| behaviour.statuses.iter().all(|(id, _)| id != "orphan")));
    agent.shutdown().await;
    assert_eq!(host.with(|kept| kept.stopped.len()), 1);
}

#[tokio::test]
async fn shutdown_keeps_tasks_and_leave_stops_them() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "")]);
    let agent = host.agent(&manager);
    manager.wait_for_state("t", TaskState::Running.into()).await;
    agent.shutdown().await;
    assert!(host.with(|kept| kept.stopped.is_empty() && kept.removed.is_empty()));

    host.with(|kept| kept.found.insert("t".to_owned(), None));
    let agent = host.agent(&manager);
    manager
        .wait_for(|behaviour| behaviour.sessions.get(1).map(drop))
        .await;
    agent.leave().await;
    assert_eq!(host.with(|kept| kept.stopped.clone()), ["t"]);
    assert_eq!(host.with(|kept| kept.removed.clone()), ["t"]);
}

#[tokio::test]
async fn leave_goes_on_without_a_task_that_cannot_be_removed_and_says_so() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", ""), task("stuck", "")]);
    host.with(|kept| kept.stuck = Some("stuck".to_owned()));
    let agent = host.agent(&manager);
    for id in ["t", "stuck"] {
        manager.wait_for_state(id, TaskState::Running.into()).await;
    }
    let leaving = tokio::time::timeout(Duration::from_secs(20), agent.leave());
    let left = leaving.await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].task_id.as_deref(), Some("stuck"));
    assert!(left[0].to_string().contains("read-only"), "{}", left[0]);
    assert!(host.with(|kept| kept.removed.contains(&"t".to_owned())));
}

fn record(manager: &Manager, stream: LogStream, data: &str, lost: u32) -> LogRecord {
    LogRecord {
        time: manager.clock.now(),
        stream,
        data: data.as_bytes().to_vec(),
        lost,
    }
}

#[tokio::test]
async fn logs_are_sent_with_their_context_and_what_was_lost_is_counted() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", ""), task("other", "")]);
    host.with(|kept| {
        kept.log = vec![
            record(&manager, LogStream::Stdout, "out\n", 0),
            record(&manager, LogStream::Stderr, "err\n", 4),
        ];
    });
    let _agent = host.agent(&manager);
    manager.wait_for_state("t", TaskState::Running.into()).await;
    let selector = LogSelector {
        task_ids: vec!["t".to_owned()],
        ..Default::default()
    };
    manager
        .subscribe(SubscriptionMessage {
            id: "sub".to_owned(),
            selector: Some(selector),
            ..Default::default()
        })
        .await;
    manager
        .wait_for(|behaviour| behaviour.logs_closed.then_some(()))
        .await;
    let logs = manager.with(|behaviour| std::mem::take(&mut behaviour.logs));
    let lines: Vec<_> = logs
        .iter()
        .map(|log| (log.stream, String::from_utf8(log.data.clone()).unwrap()))
        .collect();
    let (out, err) = (WireStream::Stdout.into(), WireStream::Stderr.into());
    let expected = [
        (out, "out\n".to_owned()),
        (err, "waxseal: 4 log lines dropped here\n".to_owned()),
        (err, "err\n".to_owned()),
    ];
    assert_eq!(lines, expected);
    let context = logs[0].context.clone().unwrap();
    assert_eq!(
        (context.service_id, context.task_id),
        ("service".to_owned(), "t".to_owned())
    );
    assert_eq!(context.node_id, "node");
}

#[tokio::test]
async fn who_follows_waits_for_the_log_of_a_task_that_has_none_yet() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "")]);
    host.with(|kept| {
        kept.log = vec![record(&manager, LogStream::Stdout, "out\n", 0)];
        kept.looks_in_vain = 2;
    });
    let _agent = host.agent(&manager);
    manager.wait_for_state("t", TaskState::Running.into()).await;
    let options = LogSubscriptionOptions {
        follow: true,
        ..Default::default()
    };
    let selector = LogSelector {
        service_ids: vec!["service".to_owned()],
        ..Default::default()
    };
    manager
        .subscribe(SubscriptionMessage {
            id: "sub".to_owned(),
            selector: Some(selector),
            options: Some(options),
            ..Default::default()
        })
        .await;
    manager
        .wait_for(|behaviour| (!behaviour.logs.is_empty()).then_some(()))
        .await;
    assert_eq!(host.with(|kept| kept.looks_in_vain), 0);
}

#[tokio::test]
async fn following_goes_on_until_the_manager_closes() {
    let (manager, host) = (Manager::start().await, Host::default());
    manager.with(|behaviour| behaviour.complete = vec![task("t", "")]);
    host.with(|kept| kept.log = vec![record(&manager, LogStream::Stdout, "out\n", 0)]);
    let agent = Arc::new(host.agent(&manager));
    manager.wait_for_state("t", TaskState::Running.into()).await;
    let selector = LogSelector {
        service_ids: vec!["service".to_owned()],
        ..Default::default()
    };
    let options = LogSubscriptionOptions {
        follow: true,
        ..Default::default()
    };
    let message = SubscriptionMessage {
        id: "sub".to_owned(),
        selector: Some(selector),
        options: Some(options),
        close: false,
    };
    manager.subscribe(message.clone()).await;
    manager
        .wait_for(|behaviour| (behaviour.logs.len() == 1).then_some(()))
        .await;
    // A task of the service that comes later is followed too.
    manager
        .assign(vec![(Action::Update, task("later", ""))])
        .await;
    manager
        .wait_for(|behaviour| (behaviour.logs.len() == 2).then_some(()))
        .await;
    manager
        .subscribe(SubscriptionMessage {
            close: true,
            ..message
        })
        .await;
    let beats = manager.with(|behaviour| behaviour.beats);
    manager
        .wait_for(|behaviour| (behaviour.beats > beats + 2).then_some(()))
        .await;
    assert_eq!(manager.with(|behaviour| behaviour.sessions.len()), 1);
    drop(agent);
}
