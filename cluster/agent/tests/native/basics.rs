//! What a task sees and how its fields are carried out.

use std::path::Path;
use std::time::Duration;

use waxseal_agent::native::{FileKind, LaunchError, LogOptions, LogStream, Network, TaskFile};
use waxseal_cluster::objects::{self, mount};
use zeroize::Zeroizing;

use crate::support::{Case, Host, Setting, case, changed, end_of, script, secret, within};

pub(crate) const CASES: &[(&str, Case)] = &[
    case!(rejected_before_anything_starts),
    case!(commands_that_cannot_start),
    case!(exit_codes_and_signals),
    case!(output_goes_to_the_log),
    case!(a_log_is_followed_to_its_end),
    case!(environment_directory_hostname),
    case!(privileges),
    case!(user_and_groups, root),
    case!(pid_one_and_init, pid_namespace),
    case!(no_network),
    case!(read_only_root),
    case!(mounts),
    case!(configs_at_the_root),
    case!(probe),
];

async fn rejected_before_anything_starts(_: Setting) {
    let host = Host::new();
    let limited = changed("t1", "true", |spec| spec.pids_limit = 5);
    let tty = changed("t2", "true", |spec| spec.tty = true);
    let mut nowhere = script("t3", "true");
    nowhere.files = vec![secret("/proc/x", 0o400, "")];
    let unbound = changed("t4", "true", |spec| {
        spec.mounts = vec![bind("/does/not/exist", "/mnt", false)];
    });
    for task in [limited, tty, nowhere, unbound] {
        let error = host.executor.launch(task).await.unwrap_err();
        assert!(error.is_rejected(), "{error:?}");
    }
    let left = std::fs::read_dir(host.dir.path().join("exec/tasks"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
    assert!(!host.executor.limits_enforceable());
}

async fn commands_that_cannot_start(_: Setting) {
    let host = Host::new();
    let command = |id: &str, words: &[&str]| {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let mut task = changed(id, "", |spec| spec.command = words);
        task.spec.args.clear();
        task
    };
    for (words, text) in [
        (
            &["no-such-command"][..],
            "exec: \"no-such-command\": executable file not found in $PATH",
        ),
        (
            &["/no/such/file"],
            "exec: \"/no/such/file\": no such file or directory",
        ),
        (&["/etc"], "exec: \"/etc\": is a directory"),
        (&["/etc/passwd"], "exec: \"/etc/passwd\": permission denied"),
    ] {
        let error = host
            .executor
            .launch(command("t1", words))
            .await
            .unwrap_err();
        assert!(
            matches!(&error, LaunchError::Failed { what } if what == text),
            "{error:?}"
        );
    }
    let astray = changed("t1", "true", |spec| spec.dir = "/no/such/dir".into());
    let error = host.executor.launch(astray).await.unwrap_err();
    assert!(matches!(error, LaunchError::Failed { .. }), "{error:?}");
    // Nothing is left of it: the same id can be used.
    let (exit, _) = host.output(script("t1", "true")).await;
    assert_eq!(exit.code, 0);
}

async fn exit_codes_and_signals(_: Setting) {
    let host = Host::new();
    for (id, text, code, signal) in [
        ("t1", "exit 0", 0, None),
        ("t2", "exit 3", 3, None),
        ("t3", "exit 255", 255, None),
        ("t4", "kill -9 $$", 137, Some(9)),
        ("t5", "kill -15 $$", 143, Some(15)),
    ] {
        let (exit, _) = host.output(script(id, text)).await;
        assert_eq!((exit.code, exit.signal), (code, signal), "{text}");
        assert!(!exit.oom);
    }
    let running = host.launch(script("t6", "sleep 60")).await;
    let again = host
        .executor
        .launch(script("t6", "true"))
        .await
        .unwrap_err();
    assert!(matches!(again, LaunchError::Exists { .. }), "{again:?}");
    running.kill().await.unwrap();
    assert_eq!(end_of(&running).await.signal, Some(9));
    assert_eq!(
        end_of(&running).await.code,
        137,
        "asked again after the end"
    );
    running.kill().await.unwrap();
    host.executor.remove("t6").await.unwrap();
    host.executor.remove("t6").await.unwrap();
}

async fn output_goes_to_the_log(_: Setting) {
    let host = Host::new();
    let text = "echo out; sleep 0.05; echo err >&2; sleep 0.05; printf '%020000d\\nend' 0";
    let (_, log) = host.output(script("t1", text)).await;
    let expected = format!("out\nE:err\n{}\nend", "0".repeat(20_000));
    assert_eq!(log, expected);
    assert!(
        host.executor.logs("t1", LogOptions::default()).is_err(),
        "removed with the task"
    );
    let stdin = host.output(script("t2", "cat; echo done")).await;
    assert_eq!(stdin.1, "done\n");
}

async fn a_log_is_followed_to_its_end(_: Setting) {
    let host = Host::new();
    let text = "for i in 1 2 3; do echo $i; sleep 0.1; done; exec sleep 60";
    let running = host.launch(script("t1", text)).await;
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let mut records = host.executor.logs("t1", follow).unwrap();
    for expected in ["1\n", "2\n", "3\n"] {
        let record = within(records.recv()).await.unwrap();
        assert_eq!(
            (record.data.as_slice(), record.lost),
            (expected.as_bytes(), 0)
        );
        assert_eq!(record.stream, LogStream::Stdout);
    }
    running.kill().await.unwrap();
    assert_eq!(within(records.recv()).await, None);
}

async fn environment_directory_hostname(_: Setting) {
    let host = Host::new();
    let task = changed("t1", "env | sort; pwd; uname -n; umask", |spec| {
        spec.env = ["A=1", "B=x y=z", "PATH=/usr/bin:/bin", "T=t1"]
            .map(Into::into)
            .into();
        spec.dir = "/usr".into();
        spec.hostname = "box-node1".into();
    });
    let (_, log) = host.output(task).await;
    let home = if log.contains("HOME=/root") {
        "/root"
    } else {
        "/"
    };
    let expected = format!(
        "A=1\nB=x y=z\nHOME={home}\nHOSTNAME=box-node1\nPATH=/usr/bin:/bin\nPWD=/usr\nT=t1\n\
         /usr\nbox-node1\n0022\n"
    );
    assert_eq!(log, expected);
    assert_ne!(rustix::system::uname().nodename().to_bytes(), b"box-node1");
}

async fn privileges(_: Setting) {
    let host = Host::new();
    let text = "grep -E '^(NoNewPrivs|SigBlk|SigIgn|CapEff|CapBnd|CapInh|CapAmb)' /proc/self/status; \
                ulimit -Hc; for f in /proc/$$/fd/*; do [ -L $f ] && echo fd ${f##*/}; done; true";
    let (_, log) = host.output(script("t1", text)).await;
    let line = |name: &str| {
        let found = log.lines().find_map(|line| line.strip_prefix(name));
        found.unwrap_or_else(|| panic!("{log}")).trim().to_owned()
    };
    assert_eq!(line("NoNewPrivs:"), "1");
    assert_eq!(line("SigBlk:"), "0000000000000000");
    assert_eq!(line("SigIgn:"), "0000000000000000");
    assert_eq!(line("CapEff:"), "00000000a00425fb");
    assert_eq!(line("CapBnd:"), "00000000a00425fb");
    assert_eq!(line("CapInh:"), "0000000000000000");
    assert_eq!(line("CapAmb:"), "0000000000000000");
    assert!(log.ends_with("\n0\nfd 0\nfd 1\nfd 2\n"), "{log}");
    let fewer = changed("t2", "grep CapEff /proc/$$/status; ulimit -n", |spec| {
        spec.capability_drop = vec!["ALL".into()];
        spec.capability_add = vec!["CAP_CHOWN".into()];
        let limit = objects::container_spec::Ulimit {
            name: "nofile".into(),
            soft: 99,
            hard: 100,
        };
        spec.ulimits = vec![limit];
    });
    let (_, log) = host.output(fewer).await;
    assert_eq!(log, "CapEff:\t0000000000000001\n99\n");
}

async fn user_and_groups(_: Setting) {
    let host = Host::new();
    let run = async |id: &str, user: &str, groups: &[&str]| {
        let text =
            "echo $(id -u):$(id -g) $(id -G); grep CapEff /proc/$$/status; cat /run/secrets/a";
        let mut task = changed(id, text, |spec| {
            spec.user = user.to_owned();
            spec.groups = groups.iter().map(|group| (*group).to_owned()).collect();
        });
        let mut file = secret("a", 0o440, "seen");
        (file.uid, file.gid) = (4321, 8765);
        task.files = vec![file];
        host.output(task).await
    };
    let no_caps = "CapEff:\t0000000000000000\n";
    let (exit, log) = run("t1", "1234:567", &[]).await;
    assert!(
        log.starts_with(&format!("1234:567 567\n{no_caps}E:")),
        "{log}"
    );
    assert_eq!(exit.code, 1, "not its secret");
    let (exit, log) = run("t2", "4321", &[]).await;
    assert_eq!(
        (exit.code, log),
        (0, format!("4321:4321 4321\n{no_caps}seen"))
    );
    let (exit, log) = run("t3", "nobody", &["8765", "adm"]).await;
    assert_eq!(
        (exit.code, log),
        (0, format!("65534:65534 65534 4 8765\n{no_caps}seen"))
    );
}

async fn pid_one_and_init(_: Setting) {
    let host = Host::new();
    let ours = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let text =
        "echo $$ $PPID; cat /proc/1/comm; readlink /proc/self/ns/pid; ls /proc | grep -c ^[0-9]";
    let (_, log) = host.output(script("t1", text)).await;
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines[..2], ["2 1", "waxseal-init"]);
    assert_ne!(Path::new(lines[2]), ours);
    assert!(lines[3].parse::<u32>().unwrap() <= 5, "{log}");
    let direct = changed("t2", "echo $$; cat /proc/1/comm", |spec| {
        spec.init = Some(false)
    });
    assert_eq!(host.output(direct).await.1, "1\nsh\n");
    // The init takes orphans and does not end before the main process.
    let orphan = script(
        "t3",
        "(sleep 0.05 & ); sleep 0.2; ls /proc | grep -c ^[0-9]; exit 4",
    );
    let (exit, log) = host.output(orphan).await;
    assert_eq!(exit.code, 4);
    assert!(log.trim().parse::<u32>().unwrap() <= 4, "{log}");
}

async fn no_network(_: Setting) {
    let host = Host::new();
    let mut alone = script("t1", "grep -c : /proc/net/dev; readlink /proc/self/ns/net");
    alone.network = Network::None;
    let (_, log) = host.output(alone).await;
    let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
    let (count, namespace) = log.trim().split_once('\n').unwrap();
    assert_eq!(count, "1", "{log}");
    assert_ne!(Path::new(namespace), ours);
    let (_, log) = host
        .output(script("t2", "readlink /proc/self/ns/net"))
        .await;
    assert_eq!(Path::new(log.trim()), ours);
}

async fn read_only_root(_: Setting) {
    let host = Host::new();
    let dir = host.dir.path().display().to_string();
    let text = format!("touch {dir}/x; echo $?; echo y > /dev/null; echo $?; cat /run/secrets/a");
    let mut task = changed("t1", &text, |spec| spec.read_only = true);
    task.files = vec![secret("a", 0o400, "seen")];
    let (_, log) = host.output(task).await;
    for part in ["Read-only file system", "1\n0\n", "seen"] {
        assert!(log.contains(part), "{log}");
    }
}

fn bind(source: &str, target: &str, readonly: bool) -> objects::Mount {
    objects::Mount {
        r#type: mount::Type::Bind as i32,
        source: source.to_owned(),
        target: target.to_owned(),
        readonly,
        ..objects::Mount::default()
    }
}

async fn mounts(_: Setting) {
    let host = Host::new();
    let source = host.dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "x").unwrap();
    let source = source.to_str().unwrap();
    let text = "cat /mnt-t1/file; touch /ro/file; echo new > /rw/new; \
                touch /pad/x && echo pad";
    let task = changed("t1", text, |spec| {
        spec.mounts = vec![
            bind(source, "/mnt-t1", true),
            bind(source, "/ro", true),
            bind(source, "/rw", false),
            objects::Mount {
                r#type: mount::Type::Tmpfs as i32,
                target: "/pad".into(),
                ..objects::Mount::default()
            },
        ];
    });
    let (_, log) = host.output(task).await;
    for part in ["x", "Read-only", "pad\n"] {
        assert!(log.contains(part), "{log}");
    }
    assert_eq!(
        std::fs::read_to_string(format!("{source}/new")).unwrap(),
        "new\n"
    );
    assert!(!Path::new("/ro").exists());
}

async fn configs_at_the_root(_: Setting) {
    let host = Host::new();
    let config = |name: &str, data: &str| TaskFile {
        kind: FileKind::Config,
        path: FileKind::Config.path_of(name).unwrap(),
        uid: 0,
        gid: 0,
        mode: 0o444,
        data: Zeroizing::new(data.as_bytes().to_vec()),
    };
    let mut task = script(
        "t1",
        "cat /app.conf /etc/waxseal-test/x.conf /run/secrets/a; ls -d /usr",
    );
    task.files = vec![
        config("app.conf", "1 "),
        config("/etc/waxseal-test/x.conf", "2 "),
        secret("a", 0o400, "3 "),
    ];
    let running = host.launch(task).await;
    assert!(
        running
            .notes()
            .iter()
            .any(|note| note.starts_with("`/etc`")),
        "{running:?}"
    );
    assert_eq!(end_of(&running).await.code, 0);
    assert_eq!(host.log("t1").await, "1 2 3 /usr\n");
    assert!(!Path::new("/app.conf").exists() && !Path::new("/etc/waxseal-test").exists());
}

async fn probe(setting: Setting) {
    let host = Host::new();
    let report = tokio::time::timeout(Duration::from_secs(10), host.executor.probe()).await;
    let report = report.unwrap().unwrap();
    assert_eq!(report.user_namespace, !setting.root);
    assert_eq!(report.pid_namespace, !setting.covered);
    assert!(!report.limits && !report.notes.is_empty(), "{report:?}");
    assert!(setting.root || !report.noswap);
}
