//! Views of the file system as tasks get them, each in a forked process with its own namespaces:
//! as root, and again without root in a user namespace. Forking needs a process of one thread, so
//! this binary has its own `main`.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, exit};

use waxseal_mount::{
    BindMount, CapSet, FileKind, Forked, MountError, TaskFile, TmpfsMount, UserNamespace, View,
    child_status, fork, harden, isolate,
};
use zeroize::Zeroizing;

/// Debian's `nobody`.
const UNPRIVILEGED: u32 = 65534;

const MARKER: &str = "marker-5f1c";

struct Host<'a> {
    /// A directory of the test's own on the host's disk.
    dir: &'a Path,
    root: bool,
}

type Case = (&'static str, fn(&Host<'_>));

const CASES: &[Case] = &[
    ("a default secret", default_secret),
    ("a config at the root", config_at_the_root),
    ("a file over an existing one", over_existing),
    ("one directory, several files", one_directory),
    ("new directories, nested", nested),
    ("through links", through_links),
    ("refusals", refusals),
    ("owners", owners),
    ("read-only with /dev writable", read_only),
    ("bind and tmpfs mounts", mounts),
    ("covered paths", covered),
    ("covers outlive a daemon", covers_outlive),
    ("no binds of covered paths", covered_sources),
    ("read-only control groups", control_groups),
    ("own /proc", own_proc),
    ("loopback only", loopback),
    ("locked pages without noswap", locked_pages),
    ("hardening", hardening),
    ("capabilities", capabilities),
];

fn main() -> ExitCode {
    let unprivileged = std::env::args().any(|argument| argument == "--unprivileged");
    let root = rustix::process::geteuid().is_root();
    if !root {
        match UserNamespace::enter() {
            Ok(_) => {}
            Err(error) => {
                println!("user namespaces: {error}; nothing can be tested without root");
                return if unprivileged {
                    ExitCode::FAILURE
                } else {
                    ExitCode::SUCCESS
                };
            }
        }
    }
    let mut failed = 0;
    for (name, case) in CASES {
        let passed = run(*case, root);
        println!(
            "{} {name}: {}",
            if root { "root" } else { "user" },
            verdict(passed)
        );
        failed += usize::from(!passed);
    }
    if root && !again_unprivileged() {
        failed += 1;
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn verdict(passed: bool) -> &'static str {
    if passed { "ok" } else { "FAILED" }
}

fn again_unprivileged() -> bool {
    let mut again = Command::new("/proc/self/exe");
    again
        .arg("--unprivileged")
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED)
        .current_dir("/");
    again.status().is_ok_and(|status| status.success())
}

/// Runs a case as pid 1 of a new pid namespace and compares the host's mounts before and after.
fn run(case: fn(&Host<'_>), root: bool) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let dir_path = dir.path().canonicalize().unwrap();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let run_secrets = Path::new("/run/secrets").exists();
    let child = match fork(true).unwrap() {
        Forked::Child => {
            let host = Host {
                dir: &dir_path,
                root,
            };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(&host)));
            exit(i32::from(result.is_err()));
        }
        Forked::Parent(child) => child,
    };
    let status = loop {
        if let Some((_, status)) = child_status(Some(child)).unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert_eq!(before, fs::read_to_string("/proc/self/mountinfo").unwrap());
    assert_eq!(run_secrets, Path::new("/run/secrets").exists());
    status.exit_status() == Some(0)
}

fn file(kind: FileKind, name: &str, mode: u32, data: &str) -> TaskFile {
    let path = kind.path_of(name).unwrap();
    let data = Zeroizing::new(data.as_bytes().to_vec());
    TaskFile {
        kind,
        path,
        uid: 0,
        gid: 0,
        mode,
        data,
    }
}

fn secret(name: &str, data: &str) -> TaskFile {
    file(FileKind::Secret, name, 0o400, data)
}

/// The options of the mount at exactly `path`, and its file system's.
fn mount_options(path: &str) -> Option<(String, String)> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let found = table
        .lines()
        .rfind(|line| line.split(' ').nth(4) == Some(path))?;
    let own = found.split(' ').nth(5).unwrap().to_owned();
    Some((own, found.rsplit(' ').next().unwrap().to_owned()))
}

#[track_caller]
fn assert_sealed(path: &str) {
    let (own, _) = mount_options(path).unwrap_or_else(|| panic!("{path} is not mounted"));
    for option in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(
            own.split(',').any(|given| given == option),
            "{path} is {own}"
        );
    }
}

fn errno(result: io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn default_secret(host: &Host<'_>) {
    let mut view = View::enter().unwrap();
    let other = file(FileKind::Secret, "again", 0o444, MARKER);
    let vault = view.files(&[secret("db", MARKER), other]).unwrap().unwrap();
    assert_eq!(fs::read_to_string("/run/secrets/db").unwrap(), MARKER);
    assert_eq!(fs::read_to_string("/run/secrets/again").unwrap(), MARKER);
    let meta = fs::metadata("/run/secrets/db").unwrap();
    assert_eq!(
        (meta.mode() & 0o7777, meta.uid(), meta.gid()),
        (0o400, 0, 0)
    );
    assert_eq!(
        fs::metadata("/run/secrets/again").unwrap().mode() & 0o7777,
        0o444
    );
    assert_sealed("/run/secrets");
    let (_, file_system) = mount_options("/run/secrets").unwrap();
    assert_eq!(vault.noswap(), file_system.contains("noswap"));
    assert_eq!(errno(fs::write("/run/secrets/db", "x")), Some(libc::EROFS));
    assert_eq!(errno(fs::write("/run/secrets/new", "x")), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file("/run/secrets/db")), Some(libc::EROFS));
    let notes = view.notes();
    assert_eq!(notes.mirrored, [Path::new("/run")]);
    assert_eq!(notes.needs_locking, !vault.noswap());
    assert_eq!(notes.lock_failure, None);
    // The host's own entries are still there and the same.
    for entry in fs::read_dir("/run").unwrap() {
        entry.unwrap().metadata().unwrap();
    }
    if host.root {
        fs::write("/run/of-the-task", "").unwrap();
    }
}

fn config_at_the_root(_: &Host<'_>) {
    let old = fs::read_dir("/").unwrap().count();
    let mut view = View::enter().unwrap();
    view.mount_proc().unwrap();
    let config = file(FileKind::Config, "app.conf", 0o444, "key = 1\n");
    view.files(&[config, secret("db", MARKER)]).unwrap();
    assert_eq!(fs::read_to_string("/app.conf").unwrap(), "key = 1\n");
    assert_eq!(fs::read_to_string("/run/secrets/db").unwrap(), MARKER);
    assert_sealed("/app.conf");
    assert_eq!(fs::read_dir("/").unwrap().count(), old + 1);
    assert!(fs::metadata("/usr/bin/env").unwrap().is_file());
    assert_eq!(
        fs::read_to_string("/proc/self/stat")
            .unwrap()
            .split(' ')
            .next(),
        Some("1")
    );
    fs::write("/dev/null", "x").unwrap();
    assert_eq!(view.notes().mirrored, [Path::new("/"), Path::new("/run")]);
}

fn over_existing(host: &Host<'_>) {
    let place = host.dir.join("key");
    fs::write(&place, "the host's").unwrap();
    let mut view = View::enter().unwrap();
    view.files(&[secret(place.to_str().unwrap(), MARKER)])
        .unwrap();
    assert_eq!(fs::read_to_string(&place).unwrap(), MARKER);
    assert_sealed(place.to_str().unwrap());
    assert!(view.notes().mirrored.is_empty());
}

fn one_directory(host: &Host<'_>) {
    let at = |name: &str| host.dir.join(name);
    fs::write(at("old"), "old").unwrap();
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/inner"), "inner").unwrap();
    symlink("old", at("link")).unwrap();
    fs::set_permissions(host.dir, fs::Permissions::from_mode(0o751)).unwrap();
    let name = |name: &str| at(name).to_str().unwrap().to_owned();
    let mut view = View::enter().unwrap();
    let files = [
        secret(&name("a"), "1"),
        secret(&name("b"), "2"),
        secret(&name("old"), "3"),
        secret(&name("sub/c"), "4"),
    ];
    view.files(&files).unwrap();
    let read = |path: &str| fs::read_to_string(at(path)).unwrap();
    assert_eq!(
        [read("a"), read("b"), read("old"), read("sub/c")],
        ["1", "2", "3", "4"]
    );
    assert_eq!([read("link"), read("sub/inner")], ["3", "inner"]);
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("old"));
    assert_eq!(fs::metadata(host.dir).unwrap().mode() & 0o7777, 0o751);
    // What is bound in is the host's own.
    fs::write(at("sub/inner"), "changed").unwrap();
    let mut mirrored = view.notes().mirrored.clone();
    mirrored.sort();
    assert_eq!(mirrored, [host.dir.to_path_buf(), at("sub")]);
}

fn nested(host: &Host<'_>) {
    let at = |name: &str| host.dir.join(name).to_str().unwrap().to_owned();
    let mut view = View::enter().unwrap();
    let files = [secret(&at("new/x"), "1"), secret(&at("new/deep/er/y"), "2")];
    view.files(&files).unwrap();
    assert_eq!(fs::read_to_string(at("new/x")).unwrap(), "1");
    assert_eq!(fs::read_to_string(at("new/deep/er/y")).unwrap(), "2");
    assert_sealed(&at("new"));
    assert_eq!(fs::metadata(at("new/deep")).unwrap().mode() & 0o7777, 0o755);
    // A mirrored directory is found again by a later call.
    view.tmpfs(&[TmpfsMount {
        target: at("scratch/pad").into(),
        bytes: 4096,
        mode: 0o700,
    }])
    .unwrap();
    fs::write(at("scratch/pad/file"), "x").unwrap();
    // Without a size it has the kernel's bound, and shows it.
    view.tmpfs(&[TmpfsMount {
        target: at("scratch/wide").into(),
        bytes: 0,
        mode: 0o700,
    }])
    .unwrap();
    let room = rustix::fs::statvfs(at("scratch/wide")).unwrap();
    assert!(room.f_blocks > 0);
    assert_eq!(view.notes().mirrored, [host.dir]);
}

fn through_links(host: &Host<'_>) {
    fs::create_dir(host.dir.join("real")).unwrap();
    symlink("real", host.dir.join("link")).unwrap();
    let mut view = View::enter().unwrap();
    let place = host.dir.join("link/key");
    view.files(&[secret(place.to_str().unwrap(), MARKER)])
        .unwrap();
    assert_eq!(
        fs::read_to_string(host.dir.join("real/key")).unwrap(),
        MARKER
    );
}

fn refusals(host: &Host<'_>) {
    let at = |name: &str| host.dir.join(name).to_str().unwrap().to_owned();
    fs::create_dir(host.dir.join("directory")).unwrap();
    let mut view = View::enter().unwrap();
    let mut refused = |files: &[TaskFile]| {
        let error = view.files(files).unwrap_err();
        assert!(error.is_refusal(), "{error}");
        error
    };
    assert!(matches!(
        refused(&[secret(&at("directory"), "")]),
        MountError::WrongType { .. }
    ));
    let twice = [secret(&at("x"), "1"), secret(&at("x"), "2")];
    assert!(matches!(refused(&twice), MountError::Duplicate { .. }));
    let below = [secret(&at("n/x"), "1"), secret(&at("n/x/y"), "2")];
    assert!(matches!(refused(&below), MountError::Duplicate { .. }));
    assert!(matches!(
        refused(&[secret("/proc/x", "")]),
        MountError::Reserved { .. }
    ));
    let bind = BindMount {
        source: host.dir.join("missing"),
        target: host.dir.join("directory"),
        read_only: false,
        read_only_below: false,
        recursive: true,
    };
    let missing = view.bind(&[bind]).unwrap_err();
    assert!(matches!(missing, MountError::SourceMissing { .. }));
}

fn owners(host: &Host<'_>) {
    let mut view = View::enter().unwrap();
    let mut owned = secret("owned", MARKER);
    (owned.uid, owned.gid, owned.mode) = (1234, 567, 0o440);
    let made = view.files(&[owned]);
    if !host.root {
        assert!(
            matches!(
                made,
                Err(MountError::Owner {
                    uid: 1234,
                    gid: 567,
                    ..
                })
            ),
            "{made:?}"
        );
        return;
    }
    let meta = fs::metadata("/run/secrets/owned").unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o7777),
        (1234, 567, 0o440)
    );
}

fn read_only(host: &Host<'_>) {
    let place = host.dir.join("file");
    fs::write(&place, "x").unwrap();
    let mut view = View::enter().unwrap();
    view.make_read_only().unwrap();
    view.mount_proc().unwrap();
    let scratch = host.dir.to_path_buf();
    assert_eq!(errno(fs::write(&place, "y")), Some(libc::EROFS));
    fs::write("/dev/null", "y").unwrap();
    if Path::new("/dev/shm").is_dir() {
        fs::write("/dev/shm/waxseal-view-test", "y").unwrap();
        fs::remove_file("/dev/shm/waxseal-view-test").unwrap();
    }
    view.tmpfs(&[TmpfsMount {
        target: scratch,
        bytes: 4096,
        mode: 0,
    }])
    .unwrap();
    fs::write(&place, "y").unwrap();
    view.files(&[secret("db", MARKER)]).unwrap();
    assert_eq!(fs::read_to_string("/run/secrets/db").unwrap(), MARKER);
}

fn mounts(host: &Host<'_>) {
    let at = |name: &str| host.dir.join(name);
    fs::create_dir(at("data")).unwrap();
    fs::write(at("data/file"), "x").unwrap();
    let mount = |source: &str, target: &str, read_only| BindMount {
        source: at(source),
        target: at(target),
        read_only,
        read_only_below: true,
        recursive: true,
    };
    let mut view = View::enter().unwrap();
    let binds = [
        mount("data", "writable", false),
        mount("data", "readable", true),
        mount("data/file", "single", true),
    ];
    view.bind(&binds).unwrap();
    fs::write(at("writable/file"), "y").unwrap();
    assert_eq!(fs::read_to_string(at("data/file")).unwrap(), "y");
    assert_eq!(fs::read_to_string(at("readable/file")).unwrap(), "y");
    assert_eq!(fs::read_to_string(at("single")).unwrap(), "y");
    assert_eq!(
        errno(fs::write(at("readable/file"), "z")),
        Some(libc::EROFS)
    );
    view.tmpfs(&[TmpfsMount {
        target: at("tmp"),
        bytes: 65536,
        mode: 0o750,
    }])
    .unwrap();
    assert_eq!(fs::metadata(at("tmp")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(
        errno(fs::write(at("tmp/big"), vec![0; 1 << 20])),
        Some(libc::ENOSPC)
    );
}

/// A daemon's directories and socket, as far as a view is concerned; gives what to cover.
fn daemon(host: &Host<'_>) -> Vec<std::path::PathBuf> {
    let at = |name: &str| host.dir.join(name);
    fs::create_dir_all(at("data/swarm")).unwrap();
    fs::write(at("data/swarm/key"), MARKER).unwrap();
    fs::create_dir(at("beside")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("other")).unwrap());
    [
        at("data/swarm"),
        at("data"),
        at("socket"),
        at("later/socket"),
    ]
    .to_vec()
}

fn connect(path: &Path) -> Option<i32> {
    errno(std::os::unix::net::UnixStream::connect(path))
}

fn covered(host: &Host<'_>) {
    let paths = daemon(host);
    let at = |name: &str| host.dir.join(name);
    let _listening = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    fs::set_permissions(at("socket"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(connect(&at("socket")), None);
    let mut view = View::enter().unwrap();
    view.cover(&paths).unwrap();
    assert_eq!(fs::read_dir(at("data")).unwrap().count(), 0);
    assert_eq!(errno(fs::read(at("data/swarm/key"))), Some(libc::ENOENT));
    assert_eq!(errno(fs::write(at("data/new"), "")), Some(libc::EROFS));
    assert_sealed(at("data").to_str().unwrap());
    assert_sealed(at("socket").to_str().unwrap());
    assert_eq!(connect(&at("socket")), Some(libc::ECONNREFUSED));
    assert!(view.notes().mirrored.is_empty());
    // What is put there afterwards covers nothing up again.
    view.files(&[secret(at("beside/a").to_str().unwrap(), MARKER)])
        .unwrap();
    view.files(&[secret(at("b").to_str().unwrap(), MARKER)])
        .unwrap();
    assert_eq!(fs::read_dir(at("data")).unwrap().count(), 0);
    assert_eq!(connect(&at("socket")), Some(libc::ECONNREFUSED));
    assert_eq!(view.notes().mirrored, [at("beside"), host.dir.to_owned()]);
}

/// A daemon that starts again makes its socket anew.
fn covers_outlive(host: &Host<'_>) {
    let paths = daemon(host);
    let socket = host.dir.join("socket");
    let first = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (mut ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let child = match fork(false).unwrap() {
        Forked::Child => {
            drop((ours, first));
            let tried = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut view = View::enter().unwrap();
                view.cover(&paths).unwrap();
                theirs.write_all(b"x").unwrap();
                theirs.read_exact(&mut [0]).unwrap();
                assert!(connect(&socket).is_some());
                assert!(connect(&host.dir.join("later/socket")).is_some());
            }));
            exit(i32::from(tried.is_err()));
        }
        Forked::Parent(child) => child,
    };
    drop(theirs);
    ours.read_exact(&mut [0]).unwrap();
    let mut names: Vec<_> = fs::read_dir(host.dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["beside", "data", "other", "socket"]);
    drop(first);
    fs::remove_file(&socket).unwrap();
    let _second = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::create_dir(host.dir.join("later")).unwrap();
    let _third = std::os::unix::net::UnixListener::bind(host.dir.join("later/socket")).unwrap();
    assert_eq!(connect(&socket), None);
    ours.write_all(b"x").unwrap();
    let status = loop {
        if let Some((_, status)) = child_status(Some(child)).unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    assert_eq!(status.exit_status(), Some(0));
}

fn covered_sources(host: &Host<'_>) {
    let paths = daemon(host);
    let at = |name: &str| host.dir.join(name);
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    symlink("data", at("link")).unwrap();
    let mount = |source: &Path, recursive| BindMount {
        source: source.to_owned(),
        target: at("beside"),
        read_only: false,
        read_only_below: false,
        recursive,
    };
    let mut view = View::enter().unwrap();
    view.cover(&paths).unwrap();
    let hidden = ["data", "data/swarm/key", "link", "link/swarm", "socket"];
    let whole = (host.dir.to_owned(), false);
    for (source, recursive) in hidden
        .map(|name| (at(name), true))
        .into_iter()
        .chain([whole])
    {
        let refused = view.bind(&[mount(&source, recursive)]).unwrap_err();
        assert!(refused.is_refusal(), "{refused}");
        assert!(
            matches!(&refused, MountError::Covered { path } if *path == source),
            "{}: {refused}",
            source.display()
        );
    }
    // A larger part shows the covers with it.
    view.bind(&[mount(host.dir, true)]).unwrap();
    assert_eq!(fs::read_dir(at("beside/data")).unwrap().count(), 0);
    assert!(connect(&at("beside/socket")).is_some());
    assert!(at("beside/other").exists());
}

fn control_groups(_: &Host<'_>) {
    let writable = || {
        let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let groups = table.lines().filter(|line| line.contains(" - cgroup"));
        let is_writable = |line: &&str| line.split(' ').nth(5).unwrap().starts_with("rw");
        groups.filter(is_writable).count()
    };
    let before = writable();
    let mut view = View::enter().unwrap();
    assert_eq!(writable(), before);
    view.protect_cgroups().unwrap();
    assert_eq!(writable(), 0, "of {before}");
}

fn own_proc(_: &Host<'_>) {
    let mut view = View::enter().unwrap();
    view.mount_proc().unwrap();
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    assert_eq!(pids, [1]);
}

fn loopback(_: &Host<'_>) {
    isolate(true).unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    assert_eq!(interfaces.lines().skip(2).count(), 1, "{interfaces}");
}

fn locked_pages(host: &Host<'_>) {
    let mut view = View::enter().unwrap();
    let big = "x".repeat(20_000);
    let vault = view
        .files(&[secret("deep/a", &big), secret("empty", "")])
        .unwrap()
        .unwrap();
    let directory = vault.directory().unwrap();
    let before = locked_kib();
    let pages = waxseal_mount::LockedPages::lock(directory.as_fd()).unwrap();
    assert!(locked_kib() >= before + 20, "{} KiB", locked_kib());
    if !host.root {
        assert!(before >= 20, "the vault has not locked its pages");
    }
    drop(pages);
    assert_eq!(locked_kib(), before);
}

fn locked_kib() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmLck:"))
        .unwrap();
    line.split_ascii_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

fn hardening(_: &Host<'_>) {
    harden::harden_process().unwrap();
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("NoNewPrivs:\t1"));
    let limits = fs::read_to_string("/proc/thread-self/limits").unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert!(
        core.split_ascii_whitespace()
            .filter(|word| *word == "0")
            .count()
            == 2,
        "{core}"
    );
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    assert_eq!(dumpable, rustix::process::DumpableBehavior::NotDumpable);
}

fn capabilities(_: &Host<'_>) {
    let set = CapSet::engine_default();
    set.bound().unwrap();
    set.hold().unwrap();
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    for name in ["CapPrm", "CapEff", "CapBnd"] {
        assert!(
            status.contains(&format!("{name}:\t00000000a80425fb")),
            "{status}"
        );
    }
    assert!(
        View::enter().is_err(),
        "a mount namespace without SYS_ADMIN"
    );
}
