//! What of its daemon a task sees: nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

use waxseal_cluster::objects::{self, mount};

use crate::support::{Case, Host, Setting, case, changed, script};

pub(crate) const CASES: &[(&str, Case)] = &[
    case!(the_daemon_is_hidden),
    case!(the_daemon_cannot_be_bound),
    case!(control_groups_are_read_only),
    case!(devices_are_not_made, root),
];

/// The argument with which this binary, as a task, connects to a socket.
pub(crate) const CONNECT: &str = "--connect";

const MARKER: &str = "marker-c0e4";

pub(crate) fn connect(arguments: &[String]) -> ExitCode {
    let answer = UnixStream::connect(&arguments[0]).map(drop);
    println!("{CONNECT}: {answer:?}");
    ExitCode::from(u8::from(answer.is_err()))
}

/// A daemon's socket and files, open to anybody who gets there.
fn open_daemon(dir: &Path) -> UnixListener {
    let socket = dir.join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    fs::write(dir.join("data").join(MARKER), "").unwrap();
    for path in [dir, &dir.join("data"), &dir.join("exec"), &socket] {
        fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    }
    listener
}

/// Everything a task may try, as `user`.
async fn look(host: &Host, user: &str) -> String {
    let dir = host.dir.path().display();
    let exe = std::env::current_exe().unwrap();
    let text = format!(
        "ls -A {dir}/exec {dir}/data; {exe} {CONNECT} {dir}/socket; \
         umount {dir}/data; umount {dir}/socket; touch {dir}/data/made; \
         unshare -Urm sh -c 'umount {dir}/data; umount {dir}/socket; ls -A {dir}/data; \
         {exe} {CONNECT} {dir}/socket'",
        exe = exe.display()
    );
    let id = format!("t{user}").replace(':', "u");
    let (_, log) = host
        .output(changed(&id, &text, |spec| spec.user = user.to_owned()))
        .await;
    log
}

async fn the_daemon_is_hidden(setting: Setting) {
    let socket_too = Host::with(|config| {
        let socket = config.exec_root.with_file_name("socket");
        config.covered.push(socket);
    });
    let nothing = Host::with(|config| config.covered.clear());
    let users: &[&str] = if setting.root { &["", "1234:5"] } else { &[""] };
    let _listeners = [&socket_too, &nothing].map(|host| open_daemon(host.dir.path()));
    for user in users {
        let log = look(&socket_too, user).await;
        assert!(!log.contains(MARKER), "{log}");
        assert!(!log.contains("Ok("), "{log}");
        assert!(log.contains("ConnectionRefused"), "{log}");
        assert!(log.contains("Read-only file system"), "{log}");
        let log = look(&nothing, user).await;
        assert!(log.contains(MARKER) && log.contains("Ok("), "{log}");
    }
    let mut names: Vec<_> = fs::read_dir(socket_too.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["data", "exec", "socket"]);
    assert!(!socket_too.dir.path().join("data/made").exists());
}

async fn the_daemon_cannot_be_bound(_: Setting) {
    let host = Host::new();
    for (id, name) in [("t1", "data"), ("t2", "exec/tasks")] {
        let source = host.dir.path().join(name).display().to_string();
        let task = changed(id, "ls /mnt", |spec| {
            spec.mounts = vec![objects::Mount {
                r#type: mount::Type::Bind as i32,
                source: source.clone(),
                target: "/mnt".into(),
                ..objects::Mount::default()
            }];
        });
        let refused = host.executor.launch(task).await.unwrap_err();
        assert!(refused.is_rejected(), "{refused}");
        assert!(refused.to_string().contains(&source), "{refused}");
    }
}

async fn control_groups_are_read_only(_: Setting) {
    let host = Host::new();
    let text = "echo; grep ' - cgroup' /proc/self/mountinfo | while read a b c d path options rest; \
                do echo \"$options\"; mkdir $path/waxseal-test; done";
    let (_, log) = host.output(script("t1", text)).await;
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let expected = table.matches(" - cgroup").count();
    assert_eq!(log.matches("\nro").count(), expected, "{log}");
    assert!(!log.contains("\nrw"), "{log}");
    assert_eq!(log.matches("Read-only").count(), expected, "{log}");
}

async fn devices_are_not_made(_: Setting) {
    let host = Host::new();
    let text = format!("mknod {}/disk b 7 0", host.dir.path().display());
    let (exit, log) = host.output(script("t1", &text)).await;
    assert!(exit.code != 0 && log.contains("not permitted"), "{log}");
    let asked = changed("t2", &text, |spec| {
        spec.capability_add = vec!["MKNOD".into()];
    });
    let (exit, log) = host.output(asked).await;
    assert_eq!(exit.code, 0, "{log}");
}
