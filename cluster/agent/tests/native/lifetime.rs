//! Stopping, outliving the daemon, being found again.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use waxseal_agent::native::{Adopted, LogOptions, NativeExecutor, OrphanPolicy, RunningTask};

use crate::support::{
    Case, Host, Setting, case, changed, config, end_of, script, secret, shim_of, within,
};

pub(crate) const CASES: &[(&str, Case)] = &[
    case!(stopped_by_its_signal),
    case!(killed_after_its_grace),
    case!(removed_while_it_runs),
    case!(adopted_after_the_daemon_was_killed),
    case!(ended_while_no_daemon_was_there),
    case!(killed_shims_are_found_by_the_next_daemon),
    case!(cut_short_launches_leave_nothing),
    case!(lost_with_the_machine),
    case!(orphans_are_stopped_if_asked),
    case!(many_at_once),
];

/// The argument with which this binary is a daemon that starts a task and is killed.
pub(crate) const DAEMON: &str = "--daemon";

async fn stopped_by_its_signal(_: Setting) {
    let host = Host::new();
    let trap =
        |signal: &str| format!("trap 'exit 5' {signal}; echo up; while :; do sleep 0.01; done");
    let running = host.launch(script("t1", &trap("TERM"))).await;
    host.log_has("t1", "up").await;
    running.stop(None, None).await.unwrap();
    assert_eq!(end_of(&running).await.code, 5);
    let own = changed("t2", &trap("USR1"), |spec| {
        spec.stop_signal = "SIGUSR1".into()
    });
    let running = host.launch(own).await;
    host.log_has("t2", "up").await;
    running.stop(None, None).await.unwrap();
    assert_eq!(end_of(&running).await.code, 5);
    let running = host.launch(script("t3", &trap("INT"))).await;
    host.log_has("t3", "up").await;
    assert!(running.stop(Some("SIGNONE"), None).await.is_err());
    running.stop(Some("INT"), None).await.unwrap();
    assert_eq!(end_of(&running).await.code, 5);
    let plain = host.launch(script("t4", "exec sleep 60")).await;
    plain.stop(None, None).await.unwrap();
    assert_eq!(end_of(&plain).await.signal, Some(15));
}

async fn killed_after_its_grace(_: Setting) {
    let host = Host::new();
    let deaf = "trap '' TERM; echo up; while :; do sleep 0.01; done";
    let running = host.launch(script("t1", deaf)).await;
    host.log_has("t1", "up").await;
    let began = Instant::now();
    running
        .stop(None, Some(Duration::from_millis(300)))
        .await
        .unwrap();
    let exit = end_of(&running).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(290) && took < Duration::from_secs(5),
        "{took:?}"
    );
    // A shorter wish counts.
    let own = changed("t2", deaf, |spec| {
        spec.stop_grace_period = Some(prost_types::Duration {
            seconds: 3600,
            nanos: 0,
        });
    });
    let running = host.launch(own).await;
    host.log_has("t2", "up").await;
    running.stop(None, None).await.unwrap();
    running
        .stop(None, Some(Duration::from_millis(50)))
        .await
        .unwrap();
    assert_eq!(end_of(&running).await.signal, Some(9));
}

async fn removed_while_it_runs(_: Setting) {
    let host = Host::new();
    let running = host.launch(script("t1", "sleep 60")).await;
    let shim = shim_of(host.dir.path(), "t1");
    within(host.executor.remove("t1")).await.unwrap();
    end_of(&running).await;
    assert!(!Path::new(&format!("/proc/{}", running.pid())).exists());
    within(gone(shim)).await;
    assert!(host.executor.adopt_all().await.unwrap().is_empty());
}

/// Waits until a process has ended (a status that nobody took yet does not count).
async fn gone(pid: u32) {
    let path = format!("/proc/{pid}/stat");
    while std::fs::read_to_string(&path).is_ok_and(|stat| !stat.contains(") Z ")) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Starts a task in a daemon of its own, which is then killed.
async fn launch_and_kill(dir: &Path, id: &str, text: &str) {
    let mut daemon = Command::new("/proc/self/exe");
    daemon
        .arg(DAEMON)
        .arg(dir)
        .args([id, text])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let status = tokio::task::spawn_blocking(move || daemon.status().unwrap())
        .await
        .unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
}

pub(crate) fn daemon_that_dies(arguments: &[String]) -> ExitCode {
    waxseal_mount::harden::harden_process().unwrap();
    let [dir, id, text] = arguments else {
        return ExitCode::FAILURE;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let executor = NativeExecutor::new(config(Path::new(dir))).unwrap();
        let mut task = script(id, text);
        task.files = vec![secret("a", 0o400, "still here\n")];
        let running = executor.launch(task).await.unwrap();
        crate::secrecy::kill(std::process::id());
        drop(running);
    });
    ExitCode::FAILURE
}

fn only_running(adopted: Vec<Adopted>) -> RunningTask {
    match <[Adopted; 1]>::try_from(adopted) {
        Ok([Adopted::Running(task)]) => task,
        other => panic!("{other:?}"),
    }
}

async fn adopted_after_the_daemon_was_killed(_: Setting) {
    let host = Host::new();
    let text = "trap 'cat /run/secrets/a; exit 7' TERM; echo up; while :; do sleep 0.01; done";
    launch_and_kill(host.dir.path(), "t1", text).await;
    let task = only_running(host.executor.adopt_all().await.unwrap());
    assert_eq!(task.task_id(), "t1");
    assert!(Path::new(&format!("/proc/{}", task.pid())).exists());
    // A second daemon's look changes nothing.
    let again = only_running(host.executor.adopt_all().await.unwrap());
    host.log_has("t1", "up").await;
    task.stop(None, None).await.unwrap();
    assert_eq!(end_of(&task).await.code, 7);
    assert_eq!(end_of(&again).await.code, 7);
    assert_eq!(host.log("t1").await, "up\nstill here\n");
}

async fn ended_while_no_daemon_was_there(_: Setting) {
    let host = Host::new();
    launch_and_kill(host.dir.path(), "t1", "sleep 0.3; echo bye; exit 9").await;
    within(gone(shim_of(host.dir.path(), "t1"))).await;
    for _ in 0..2 {
        let adopted = host.executor.adopt_all().await.unwrap();
        let [Adopted::Ended { task_id, exit }] = &adopted[..] else {
            panic!("{adopted:?}")
        };
        assert_eq!((task_id.as_str(), exit.code, exit.signal), ("t1", 9, None));
    }
    assert_eq!(host.log("t1").await, "bye\n");
    host.executor.remove("t1").await.unwrap();
    assert!(host.executor.adopt_all().await.unwrap().is_empty());
    assert!(host.executor.logs("t1", LogOptions::default()).is_err());
}

async fn killed_shims_are_found_by_the_next_daemon(_: Setting) {
    let host = Host::new();
    launch_and_kill(host.dir.path(), "t1", "exec sleep 60").await;
    let pid = only_running(host.executor.adopt_all().await.unwrap()).pid();
    crate::secrecy::kill(shim_of(host.dir.path(), "t1"));
    let adopted = within(host.executor.adopt_all()).await.unwrap();
    let [Adopted::Ended { exit, .. }] = &adopted[..] else {
        panic!("{adopted:?}")
    };
    assert_eq!(exit.code, 137);
    assert!(
        exit.message
            .as_ref()
            .is_some_and(|text| text.contains("shim"))
    );
    within(gone(pid)).await;
    let again = host.executor.adopt_all().await.unwrap();
    let [Adopted::Ended { exit: same, .. }] = &again[..] else {
        panic!("{again:?}")
    };
    assert_eq!(same, exit);
}

async fn cut_short_launches_leave_nothing(_: Setting) {
    let host = Host::new();
    // As a daemon leaves it that was killed between making the directories and starting the shim.
    for root in ["exec", "data"] {
        std::fs::create_dir(host.dir.path().join(root).join("tasks/t1")).unwrap();
    }
    assert!(host.executor.adopt_all().await.unwrap().is_empty());
    assert!(!host.dir.path().join("exec/tasks/t1").exists());
    assert!(!host.dir.path().join("data/tasks/t1").exists());
}

async fn lost_with_the_machine(_: Setting) {
    let host = Host::new();
    launch_and_kill(host.dir.path(), "t1", "echo bye; exit 0").await;
    launch_and_kill(host.dir.path(), "t2", "exit 0").await;
    within(gone(shim_of(host.dir.path(), "t1"))).await;
    within(gone(shim_of(host.dir.path(), "t2"))).await;
    // An exec root in memory is gone after a restart, one on disk has another boot's records.
    let tasks = host.dir.path().join("exec/tasks");
    std::fs::remove_dir_all(tasks.join("t1")).unwrap();
    std::fs::remove_file(tasks.join("t2/exit.json")).unwrap();
    let path = tasks.join("t2/meta.json");
    let mut meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    meta["boot_id"] = "another".into();
    let me = std::process::id();
    for name in ["pid", "shim_pid"] {
        meta[name] = me.into();
    }
    for name in ["pid_start", "shim_start"] {
        meta[name] = waxseal_mount::start_time(me).into();
    }
    std::fs::write(&path, meta.to_string()).unwrap();
    let adopted = host.executor.adopt_all().await.unwrap();
    assert_eq!(adopted.len(), 2);
    for task in adopted {
        let Adopted::Ended { exit, .. } = task else {
            panic!("{task:?}")
        };
        assert!(exit.code == 137 && exit.message.is_some());
    }
    assert_eq!(host.log("t1").await, "bye\n");
    host.executor.remove("t1").await.unwrap();
    host.executor.remove("t2").await.unwrap();
    assert!(host.executor.adopt_all().await.unwrap().is_empty());
}

async fn orphans_are_stopped_if_asked(_: Setting) {
    let stopping = Host::with(|config| {
        config.orphans = OrphanPolicy::Stop;
        config.orphan_after = Duration::from_millis(400);
    });
    let text = "trap 'exit 8' TERM; while :; do sleep 0.01; done";
    let running = stopping.launch(script("t1", text)).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(
        !stopping.dir.path().join("exec/tasks/t1/exit.json").exists(),
        "it has a daemon"
    );
    drop(running);
    within(async {
        while !stopping.dir.path().join("exec/tasks/t1/exit.json").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let adopted = stopping.executor.adopt_all().await.unwrap();
    let [Adopted::Ended { exit, .. }] = &adopted[..] else {
        panic!("{adopted:?}")
    };
    assert_eq!(exit.code, 8);
}

async fn many_at_once(_: Setting) {
    let host = Host::new();
    let ids: Vec<_> = (0..12).map(|number| format!("t{number}")).collect();
    let launches = ids.iter().enumerate().map(async |(number, id)| {
        let mut task = script(id, &format!("cat /run/secrets/a; exit {number}"));
        task.files = vec![secret("a", 0o400, id)];
        let running = host.launch(task).await;
        assert_eq!(end_of(&running).await.code, i32::try_from(number).unwrap());
        assert_eq!(host.log(id).await, *id);
    });
    within(futures::future::join_all(launches)).await;
}
