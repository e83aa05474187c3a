//! Each field of a specification is carried out or refused by name.

use super::*;
use waxseal_mount::{FileKind, TaskFile};

fn task(change: impl FnOnce(&mut TaskLaunch)) -> TaskLaunch {
    let mut task = TaskLaunch {
        task_id: "t1".into(),
        spec: ContainerSpec {
            image: "host:latest".into(),
            command: vec!["run".into()],
            ..ContainerSpec::default()
        },
        ..TaskLaunch::default()
    };
    change(&mut task);
    task
}

fn with_spec(change: impl FnOnce(&mut ContainerSpec)) -> TaskLaunch {
    task(|task| change(&mut task.spec))
}

const NO_LIMITS: Result<(), &str> = Err("there is no cgroup");

fn planned(
    task: &TaskLaunch,
    root: bool,
    users: UserPolicy,
    limits: Result<(), &str>,
) -> Result<(Launch, Limits), LaunchError> {
    let database = Database {
        passwd: "root:x:0:0:root:/root:/bin/sh\nweb:x:1001:1002::/srv/web:/bin/sh".into(),
        group: "root:x:0:\nadm:x:4:root".into(),
    };
    plan(
        task,
        &Host {
            root,
            users,
            limits,
            database: &database,
            hostname: "node-1",
        },
    )
}

fn as_root(task: &TaskLaunch) -> Launch {
    planned(task, true, UserPolicy::Any, Ok(())).unwrap().0
}

#[track_caller]
fn refusal(result: Result<(Launch, Limits), LaunchError>) -> String {
    let error = result.err().unwrap();
    assert!(error.is_rejected(), "{error}");
    error.to_string()
}

#[track_caller]
fn assert_refused(change: impl FnOnce(&mut ContainerSpec), word: &str) {
    let text = refusal(planned(&with_spec(change), true, UserPolicy::Any, Ok(())));
    assert!(text.contains(word), "{text}");
}

#[test]
fn fields_that_native_tasks_lack_are_named() {
    assert_refused(|spec| spec.tty = true, "a tty");
    assert_refused(|spec| spec.open_stdin = true, "standard input");
    assert_refused(|spec| spec.hosts = vec!["1.2.3.4 a".into()], "extra hosts");
    assert_refused(|spec| spec.isolation = 1, "isolation");
    assert_refused(
        |spec| {
            spec.sysctls.insert("kernel.msgmax".into(), "1".into());
            spec.tty = true;
        },
        "a tty, sysctls",
    );
    let test = vec!["CMD".to_owned(), "true".to_owned()];
    let check = objects::HealthConfig {
        test,
        ..Default::default()
    };
    assert_refused(|spec| spec.healthcheck = Some(check), "health checks");
    let dns = objects::container_spec::DnsConfig {
        nameservers: vec!["1.1.1.1".into()],
        ..Default::default()
    };
    assert_refused(|spec| spec.dns_config = Some(dns), "DNS");
    let seccomp = objects::Privileges {
        seccomp: Some(objects::privileges::SeccompOpts::default()),
        ..Default::default()
    };
    assert_refused(|spec| spec.privileges = Some(seccomp), "seccomp");
    let ulimit = |name: &str| objects::container_spec::Ulimit {
        name: name.into(),
        soft: 1,
        hard: 1,
    };
    assert_refused(|spec| spec.ulimits = vec![ulimit("core")], "ulimit `core`");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    assert_refused(|spec| spec.command = vec![], "no command");
    assert_refused(|spec| spec.command = vec!["a\0".into()], "NUL");
    assert_refused(|spec| spec.image = "nginx".into(), "Docker Engine worker");
    assert_refused(|spec| spec.dir = "relative".into(), "working directory");
    assert_refused(|spec| spec.hostname = "x".repeat(65), "hostname");
    assert_refused(|spec| spec.stop_signal = "SIGFOO".into(), "stop signal");
    assert_refused(|spec| spec.stop_signal = "SIGSTOP".into(), "stop signal");
    assert_refused(|spec| spec.env = vec!["=x".into()], "env");
    assert_refused(
        |spec| spec.user = "nobody-here".into(),
        "user `nobody-here` is not known",
    );
    assert_refused(|spec| spec.capability_add = vec!["FLY".into()], "`FLY`");
    let negative = prost_types::Duration {
        seconds: -1,
        nanos: 0,
    };
    assert_refused(
        |spec| spec.stop_grace_period = Some(negative),
        "grace period",
    );
}

#[test]
fn what_every_node_rejects_is_known_without_a_node() {
    type Change<'a> = &'a dyn Fn(&mut ContainerSpec);
    let refusal = |change: Change<'_>| {
        let task = with_spec(|spec| change(spec));
        // A node says the same.
        let by_node = refusal(planned(&task, true, UserPolicy::Any, Ok(())));
        let error = check_spec(&task.spec).unwrap_err().to_string();
        assert_eq!(error, by_node);
        error
    };
    let add = |name: &str| vec![name.to_owned()];
    let mount = |target: &str| objects::Mount {
        source: "/srv".into(),
        target: target.into(),
        ..Default::default()
    };
    let cases: [(Change<'_>, &str); 9] = [
        (&|spec| spec.dir = "relative".into(), "--workdir"),
        (&|spec| spec.stop_signal = "SIGFOO".into(), "--stop-signal"),
        (&|spec| spec.capability_add = add("FLY"), "--cap-add"),
        (&|spec| spec.capability_drop = add("FLY"), "--cap-drop"),
        (&|spec| spec.hostname = "x".repeat(65), "hostname"),
        (&|spec| spec.env = vec!["=x".into()], "env"),
        (&|spec| spec.command = vec!["a\0".into()], "NUL"),
        (&|spec| spec.mounts = vec![mount("data")], "target"),
        (
            &|spec| {
                spec.user = "1001".into();
                spec.capability_add = add("CHOWN");
            },
            "for root only",
        ),
    ];
    for (change, word) in cases {
        let error = refusal(change);
        assert!(error.contains(word), "{error}");
    }
    // What depends on the node, or on what a template becomes there, is left to it.
    let open = with_spec(|spec| {
        spec.user = "nobody-here".into();
        spec.capability_add = add("CHOWN");
        spec.hostname = format!("{{{{.Task.ID}}}}{}", "x".repeat(60));
        spec.env = vec!["{{.Task.ID}}=x".into()];
        spec.mounts = vec![mount("{{.Task.ID}}")];
    });
    check_spec(&open.spec).unwrap();
}

#[test]
fn mounts_that_native_tasks_lack_are_refused() {
    let mount = |kind: mount::Type, target: &str| objects::Mount {
        r#type: kind as i32,
        source: "/srv".into(),
        target: target.into(),
        ..Default::default()
    };
    assert_refused(
        |spec| spec.mounts = vec![mount(mount::Type::Volume, "/data")],
        "no volumes",
    );
    assert_refused(
        |spec| spec.mounts = vec![mount(mount::Type::Bind, "/")],
        "over `/`",
    );
    assert_refused(
        |spec| spec.mounts = vec![mount(mount::Type::Bind, "data")],
        "target",
    );
    assert_refused(
        |spec| spec.mounts = vec![mount(mount::Type::Tmpfs, "/data")],
        "tmpfs",
    );
    let mut shared = mount(mount::Type::Bind, "/data");
    let propagation = mount::bind_options::Propagation::Rshared as i32;
    shared.bind_options = Some(mount::BindOptions {
        propagation,
        ..Default::default()
    });
    assert_refused(|spec| spec.mounts = vec![shared], "propagation");
}

#[test]
fn the_nodes_policy_is_obeyed() {
    let off = refusal(planned(&task(|_| {}), true, UserPolicy::Off, Ok(())));
    assert!(off.contains("--native-tasks"), "{off}");
    let root = refusal(planned(&task(|_| {}), true, UserPolicy::NonRoot, Ok(())));
    assert!(root.contains("--user"), "{root}");
    let nonroot = |user: &str, groups: &[&str]| {
        let task = with_spec(|spec| {
            spec.user = user.into();
            spec.groups = groups.iter().map(|group| (*group).to_owned()).collect();
        });
        planned(&task, true, UserPolicy::NonRoot, Ok(()))
    };
    for (user, groups) in [("1000:0", &[][..]), ("web:root", &[]), ("web", &["0"])] {
        let text = refusal(nonroot(user, groups));
        assert!(text.contains("group 0"), "{user}: {text}");
    }
    let guessed = refusal(nonroot("777", &[]));
    assert!(guessed.contains("--user 777:GROUP"), "{guessed}");
    assert!(nonroot("777:778", &["4"]).is_ok());
    let any = as_root(&with_spec(|spec| spec.user = "777".into()));
    assert_eq!((any.identity.uid, any.identity.gid), (777, 777));
    let web = with_spec(|spec| spec.user = "web".into());
    let (launch, _) = planned(&web, true, UserPolicy::NonRoot, Ok(()))
        .ok()
        .unwrap();
    assert_eq!((launch.identity.uid, launch.identity.gid), (1001, 1002));
}

#[test]
fn one_uid_is_all_there_is_without_root() {
    let without = |task: &TaskLaunch| planned(task, false, UserPolicy::NonRoot, NO_LIMITS);
    let (launch, _) = without(&task(|_| {})).ok().unwrap();
    assert_eq!((launch.identity.uid, launch.identity.groups.len()), (0, 0));
    for user in ["web", "0:4", "1001"] {
        let text = refusal(without(&with_spec(|spec| spec.user = user.into())));
        assert!(text.contains("not root"), "{text}");
    }
    assert!(refusal(without(&with_spec(|spec| spec.groups = vec!["adm".into()]))).contains("root"));
    let owned = task(|task| {
        task.files.push(TaskFile {
            kind: FileKind::Secret,
            path: "/run/secrets/a".into(),
            uid: 0,
            gid: 7,
            mode: 0o400,
            data: Default::default(),
        });
    });
    assert!(refusal(without(&owned)).contains("/run/secrets/a"));
}

#[test]
fn capabilities_that_uncover_need_a_daemon_that_is_root() {
    let adding = |add: &str, drop: &[&str]| {
        with_spec(|spec| {
            spec.capability_add = vec![add.to_owned()];
            spec.capability_drop = drop.iter().map(|name| (*name).to_owned()).collect();
        })
    };
    for add in ["ALL", "cap_sys_admin", "SYS_PTRACE"] {
        let task = adding(add, &[]);
        let text = refusal(planned(&task, false, UserPolicy::Any, NO_LIMITS));
        assert!(text.contains("the capability SYS_"), "{add}: {text}");
        assert_ne!(as_root(&task).capabilities, 0);
    }
    for task in [
        adding("MKNOD", &[]),
        adding("ALL", &["SYS_ADMIN", "SYS_PTRACE"]),
    ] {
        assert!(planned(&task, false, UserPolicy::Any, NO_LIMITS).is_ok());
    }
}

#[test]
fn limits_need_a_cgroup() {
    let pids = with_spec(|spec| spec.pids_limit = 5);
    let text = refusal(planned(&pids, true, UserPolicy::Any, NO_LIMITS));
    assert!(text.contains("there is no cgroup"), "{text}");
    let resources = objects::ResourceRequirements {
        limits: Some(objects::Resources {
            nano_cpus: 2_000_000_000,
            memory_bytes: 1 << 20,
            generic: vec![],
        }),
        ..Default::default()
    };
    let limited = task(|task| task.resources = Some(resources));
    assert!(planned(&limited, true, UserPolicy::Any, NO_LIMITS).is_err());
    let (_, limits) = planned(&limited, true, UserPolicy::Any, Ok(()))
        .ok()
        .unwrap();
    assert_eq!(limits.nano_cpus, Some(2_000_000_000));
    assert_eq!((limits.memory_bytes, limits.pids), (Some(1 << 20), None));
}

#[test]
fn the_environment_is_the_engines() {
    let launch = as_root(&with_spec(|spec| {
        spec.env = ["A=1", "HOME=/x", "A=2=3", "HOSTNAME", "T=t1"]
            .map(Into::into)
            .into();
    }));
    let pairs: Vec<_> = launch
        .env
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        pairs,
        [&format!("PATH={DEFAULT_PATH}"), "HOME=/x", "A=2=3", "T=t1"]
    );
}

#[test]
fn defaults_are_the_engines_but_for_devices() {
    let launch = as_root(&task(|_| {}));
    assert_eq!(launch.stop_signal, 15);
    assert_eq!(launch.grace_ms, 10_000);
    assert_eq!(launch.capabilities, CapSet::native_default().bits());
    assert_eq!(launch.dir, Path::new("/"));
    assert_eq!((launch.identity.uid, launch.identity.gid), (0, 0));
    assert!(launch.init && !launch.read_only && !launch.own_network);
    let direct = as_root(&with_spec(|spec| spec.init = Some(false)));
    assert!(!direct.init);
}
