//! Who can see a task's secrets, and what is left of them.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::support::{
    Case, Host, Setting, case, end_of, pids_with, script, secret, shim_of, within,
};

pub(crate) const CASES: &[(&str, Case)] = &[
    case!(files_as_asked),
    case!(sealed_in_the_tasks_view_only),
    case!(strangers_read_nothing, root),
    case!(nothing_on_disk_or_in_names),
    case!(the_shims_memory_is_wiped, root),
    case!(a_killed_shim_leaves_nothing),
    case!(nothing_is_left_at_the_end),
];

/// The argument with which this binary tries to look into processes, as a user that is no friend.
pub(crate) const STRANGER: &str = "--stranger";

const STRANGER_UID: u32 = 54321;
const MARKER: &str = "marker-9e107d9d372bb682";

async fn files_as_asked(setting: Setting) {
    let host = Host::new();
    let text = "cd /run/secrets; for f in a b sub/c; do stat -c '%n %a %u:%g' $f; cat $f; echo; done; \
                cat /run/same; touch new; rm a";
    let mut task = script("t1", text);
    task.files = vec![
        secret("a", 0o400, "one"),
        secret("b", 0o444, "one"),
        secret("sub/c", 0o640, "three"),
        secret("/run/same", 0o400, "one\n"),
    ];
    if setting.root {
        (task.files[1].uid, task.files[1].gid) = (12, 34);
    }
    let (_, log) = host.output(task).await;
    let owner = if setting.root { "12:34" } else { "0:0" };
    let expected = format!("a 400 0:0\none\nb 444 {owner}\none\nsub/c 640 0:0\nthree\none\n");
    let (seen, errors) = log.split_at(expected.len());
    assert_eq!(seen, expected);
    assert_eq!(
        errors.matches("Read-only file system").count(),
        2,
        "{errors}"
    );
}

async fn sealed_in_the_tasks_view_only(setting: Setting) {
    let host = Host::new();
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut task = script("t1", "echo up; exec sleep 60");
    task.files = vec![secret("a", 0o400, MARKER)];
    let running = host.launch(task).await;
    // Its mount table is not ours to read from outside without root: ask a task for its own.
    let mut asks = script("t2", "grep ' /run/secrets ' /proc/self/mountinfo");
    asks.files = vec![secret("a", 0o400, MARKER)];
    let (_, line) = host.output(asks).await;
    let options = line.split(' ').nth(5).unwrap();
    assert!(options.starts_with("ro,nosuid,nodev,noexec"), "{line}");
    assert!(line.contains(" - tmpfs "), "{line}");
    let noswap = host.executor.probe().await.unwrap().noswap;
    assert_eq!(line.contains("noswap"), noswap);
    if setting.root {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", running.pid())).unwrap();
        assert!(
            table
                .lines()
                .any(|line| line.contains(" /run/secrets ro,nosuid,nodev,noexec"))
        );
        assert!(!table.contains(" shared:"), "mounts propagate: {table}");
    }
    let shim = shim_of(host.dir.path(), "t1");
    for table in [
        "/proc/self/mountinfo".to_owned(),
        format!("/proc/{shim}/mountinfo"),
    ] {
        if let Ok(table) = fs::read_to_string(table) {
            // Others on the host mount what they like meanwhile.
            let dir = host.dir.path().display().to_string();
            let ours = |line: &&str| line.contains(" /run/secrets") || line.contains(&dir);
            let added = table
                .lines()
                .filter(|line| !before.contains(line))
                .find(ours);
            assert_eq!(added, None);
        }
    }
    assert!(!Path::new("/run/secrets").exists());
    running.kill().await.unwrap();
    end_of(&running).await;
}

async fn strangers_read_nothing(_: Setting) {
    let host = Host::new();
    for (id, user) in [("t1", "0"), ("t2", "1234")] {
        let mut task = script(id, "echo up; exec sleep 60");
        task.spec.user = user.to_owned();
        task.files = vec![secret("a", 0o444, MARKER)];
        let running = host.launch(task).await;
        let shim = shim_of(host.dir.path(), id);
        let init = parent(running.pid());
        assert_eq!(parent(init), shim);
        let pids = [shim, init, running.pid()].map(|pid| pid.to_string());
        let mut stranger = Command::new("/proc/self/exe");
        stranger
            .arg(STRANGER)
            .args(&pids)
            .uid(STRANGER_UID)
            .gid(STRANGER_UID)
            .current_dir("/");
        assert!(stranger.status().unwrap().success(), "as {user}");
        running.kill().await.unwrap();
        end_of(&running).await;
    }
}

fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    line.trim().parse().unwrap()
}

/// Tries to look into processes by all doors; fails if one opens.
pub(crate) fn stranger(pids: &[String]) -> ExitCode {
    let mut opened = Vec::new();
    for pid in pids {
        for file in [
            "mem",
            "environ",
            "maps",
            "root/run/secrets/a",
            "cwd/meta.json",
            "auxv",
        ] {
            let path = format!("/proc/{pid}/{file}");
            if fs::File::open(&path)
                .and_then(|mut file| file.read(&mut [0; 1]))
                .is_ok()
            {
                opened.push(path);
            }
        }
        for dir in ["root", "fd", "map_files", "cwd"] {
            let path = format!("/proc/{pid}/{dir}/");
            if fs::read_dir(&path).is_ok() {
                opened.push(path);
            }
        }
    }
    if opened.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("a stranger opened {opened:?}");
    ExitCode::FAILURE
}

async fn nothing_on_disk_or_in_names(_: Setting) {
    let host = Host::new();
    let mut task = script("t1", "echo up; exec sleep 60");
    task.files = vec![secret("a", 0o400, MARKER)];
    task.spec.env = vec![format!("TOKEN={MARKER}")];
    let running = host.launch(task).await;
    let shim = shim_of(host.dir.path(), "t1");
    assert!(pids_with(MARKER).is_empty(), "in a command line");
    let environ = fs::read(format!("/proc/{shim}/environ")).unwrap_or_default();
    assert_eq!(environ, b"", "the shim's environment");
    let mut grep = Command::new("grep");
    grep.arg("-r").arg(MARKER).arg(host.dir.path());
    assert_eq!(grep.status().unwrap().code(), Some(1), "on disk");
    running.kill().await.unwrap();
    end_of(&running).await;
}

async fn the_shims_memory_is_wiped(_: Setting) {
    let host = Host::new();
    // Made at run time: the binary's own text has the marker's halves only.
    let marker = ["wiped", "marker", &std::process::id().to_string()].join("-");
    let mut task = script("t1", "echo up; exec sleep 60");
    task.files = vec![
        secret("a", 0o400, &marker),
        secret("big", 0o400, &marker.repeat(9000)),
    ];
    let running = host.launch(task).await;
    let init = parent(running.pid());
    for pid in [init, parent(init)] {
        assert!(
            !memory_has(pid, marker.as_bytes()),
            "process {pid} still holds the secret"
        );
    }
    assert!(
        memory_has(std::process::id(), marker.as_bytes()),
        "the search finds nothing"
    );
    running.kill().await.unwrap();
    end_of(&running).await;
}

fn memory_has(pid: u32, marker: &[u8]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    maps.lines().any(|line| {
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        if !rest.starts_with("rw") || end - start > 256 << 20 {
            return false;
        }
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(start)).unwrap();
        let _ = (&memory).take(end - start).read_to_end(&mut bytes);
        bytes.windows(marker.len()).any(|part| part == marker)
    })
}

async fn a_killed_shim_leaves_nothing(setting: Setting) {
    let host = Host::new();
    // Its own number finds the task's processes again.
    let word = format!("6{}", std::process::id());
    let text = format!("sleep {word} & (setsid sleep {word} &); echo up; wait; sleep {word}");
    let mut task = script("t1", &text);
    task.files = vec![secret("a", 0o400, MARKER)];
    let running = host.launch(task).await;
    host.log_has("t1", "up").await;
    within(async {
        while pids_with(&format!("sleep\0{word}")).len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let shim = shim_of(host.dir.path(), "t1");
    kill(shim);
    let exit = end_of(&running).await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    assert!(exit.message.is_some());
    if setting.covered {
        // Said in the task's notes: without a pid namespace some may stay.
        assert!(
            running
                .notes()
                .iter()
                .any(|note| note.contains("pid namespace"))
        );
        pids_with(&word).into_iter().for_each(kill);
    } else {
        within(async {
            while !pids_with(&word).is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
    // The same answer from the record, for any later daemon.
    assert_eq!(end_of(&running).await, exit);
}

pub(crate) fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

async fn nothing_is_left_at_the_end(setting: Setting) {
    let host = Host::new();
    let word = format!("7{}", std::process::id());
    let text = format!("sleep {word} & (setsid sleep {word} > /dev/null &); exit 6");
    let shared_before = tmpfs_memory();
    let mut task = script("t1", &text);
    task.files = vec![secret("a", 0o400, &"x".repeat(8 << 20))];
    let (exit, _) = host.output(task).await;
    assert_eq!(exit.code, 6);
    assert!(pids_with(&format!("sleep\0{word}")).is_empty());
    assert!(!host.dir.path().join("exec/tasks/t1").exists());
    assert!(!host.dir.path().join("data/tasks/t1").exists());
    if setting.root {
        within(async {
            while tmpfs_memory() > shared_before + (4 << 10) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// KiB that all tmpfs of the machine hold together.
fn tmpfs_memory() -> u64 {
    let info = fs::read_to_string("/proc/meminfo").unwrap();
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("Shmem:"))
        .unwrap();
    line.split_ascii_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}
