//! No secret outside of where it must be: not on disk, in logs, in answers, in a core file,
//! nor open to another user.

mod credentials;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{fs::MetadataExt, net::UnixStream, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::process::Signal;
use serde_json::json;
use waxseal_tests::{
    Cli, DaemonOptions, Dockerd, Managers, Markers, NetworkNamespace, Scene, Waxseal, eventually,
    manager_token, node_id, require, run, scenario,
};

const SECRETS: u64 = 1000;
/// From the last call to the look at the memory.
const REST: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(120);
/// Between the parts of a request, so that each is read by itself.
const PAUSE: Duration = Duration::from_millis(30);
const SOON: Duration = Duration::from_secs(30);
/// `nobody` on Debian.
const NOBODY: u32 = 65534;

#[test]
fn no_marker_is_found_with_autolock() -> Result<()> {
    scenario("marker-on", |scene| search(scene, &["--autolock"]))
}

#[test]
fn no_marker_is_found_without_autolock() -> Result<()> {
    scenario("marker-off", |scene| search(scene, &[]))
}

fn search(scene: &Scene, init: &[&str]) -> Result<()> {
    let markers = Markers::new()?;
    let mut node = scene.waxseal("node")?;
    node.init(init)?;
    let key = if init.is_empty() {
        None
    } else {
        Some(node.unlock_key()?)
    };
    // 1. As it is after 1,000 creations.
    create(&node, &markers)?;
    answers(&node, &markers)?;
    memory(scene, &node, &markers, "after creation")?;
    disk(&node, &markers)?;
    // 2. After a restart, which reads them from the log.
    node.restart()?;
    if let Some(key) = key {
        node.reaches("locked")?;
        node.unlock(&key)?;
    }
    node.reaches("active")?;
    answers(&node, &markers)?;
    memory(scene, &node, &markers, "after a restart")?;
    disk(&node, &markers)?;
    // 3. While a task has some of them: nothing on a disk, in an answer, or in /proc.
    use_some(&node)?;
    answers(&node, &markers)?;
    in_proc(&markers)?;
    disk(&node, &markers)?;
    node.docker.ok(&["service", "rm", "user"])?;
    gone(&node)?;
    no_core(&mut node)?;
    disk(&node, &markers)
}

#[test]
fn nothing_stays_in_memory_after_a_task() -> Result<()> {
    scenario("marker-used", |scene| {
        let markers = Markers::new()?;
        let manager = scene.waxseal("node")?;
        manager.init(&[])?;
        let worker = scene.waxseal("worker")?;
        worker.join(&manager.worker_token()?, &manager.remote())?;
        create(&manager, &markers)?;
        large(&manager, &markers)?;
        // Expanded on the nodes, with others in it.
        let template = [
            &markers.secret(7)[..],
            b"{{secret \"m0\"}}{{secret \"large\" | len}}",
        ];
        let words = [
            "secret",
            "create",
            "--template-driver",
            "golang",
            "made",
            "-",
        ];
        manager.docker.ok_with_input(&words, &template.concat())?;
        for round in 1..=2 {
            run_with(
                &manager.docker,
                &["m0", "m1", "large", "made"],
                &["--mode", "global"],
                2,
            )?;
            manager.docker.ok(&["service", "rm", "user"])?;
            gone(&manager)?;
            gone(&worker)?;
            // Both sessions are open, and do no more than beat.
            let when = format!("after task {round}");
            memory(scene, &manager, &markers, &when)?;
            memory(scene, &worker, &markers, &format!("of the worker {when}"))?;
        }
        worker.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// Neither of managers that replicate them, nor of one that relays them to nodes.
#[test]
fn nothing_stays_in_memory_of_several_managers() -> Result<()> {
    scenario("marker-group", |scene| {
        let markers = Markers::new()?;
        let mut group = Managers::start(scene, 3, &["--autolock", "--availability", "drain"])?;
        let leader = group.leader(0)?;
        let relaying = group.followers()?[0];
        for index in group.followers()? {
            let id = node_id(&group.nodes[index].engine)?;
            let drain = ["node", "update", "--availability", "drain", &id];
            group.nodes[leader].docker.ok(&drain)?;
        }
        let worker = scene.waxseal("worker")?;
        let asked = &group.nodes[relaying];
        worker.join(&asked.worker_token()?, &asked.remote())?;
        // 1. Through a follower, and so from manager to manager twice.
        create(asked, &markers)?;
        large(asked, &markers)?;
        run_with(
            &asked.docker,
            &["m0", "m1", "large"],
            &["--mode", "global"],
            1,
        )?;
        asked.docker.ok(&["service", "rm", "user"])?;
        gone(&worker)?;
        for (index, node) in group.nodes.iter().enumerate() {
            let what = match index {
                _ if index == leader => "of the leader",
                _ if index == relaying => "of the manager that relays",
                _ => "of a follower",
            };
            memory(scene, node, &markers, what)?;
        }
        memory(scene, &worker, &markers, "of the worker")?;
        // 2. A manager that comes later gets them as a snapshot, or as a long log.
        let token = manager_token(&group.nodes[leader])?;
        let late = scene.waxseal("late")?;
        late.join(&token, &group.nodes[leader].remote())?;
        group.nodes.push(late);
        group.settled()?;
        for (node, what) in [(3, "of one that came late"), (leader, "of who sent it all")] {
            memory(scene, &group.nodes[node], &markers, what)?;
        }
        Ok(())
    })
}

#[test]
fn nothing_stays_in_memory_after_a_task_of_an_engine() -> Result<()> {
    scenario("marker-engine", |scene| {
        let markers = Markers::new()?;
        let manager = scene.waxseal("manager")?;
        manager.init(&["--availability", "drain"])?;
        let engine = scene.dockerd("engine")?;
        engine.join(&manager.worker_token()?, &manager.remote())?;
        manager
            .docker
            .ok_with_input(&["secret", "create", "m0", "-"], &markers.secret(0))?;
        large(&manager, &markers)?;
        let image = ["--no-resolve-image", "--stop-grace-period", "1s"];
        run_image(&manager.docker, &["m0", "large"], &image, "bb:1", 1)?;
        manager.docker.ok(&["service", "rm", "user"])?;
        eventually("no container is left", SOON, || {
            let left = engine.docker.ok(&["ps", "-aq"])?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        memory(scene, &manager, &markers, "after a task of an engine")
    })
}

#[test]
fn nothing_stays_in_memory_of_an_engines_worker() -> Result<()> {
    scenario("marker-stock", |scene| {
        let markers = Markers::new()?;
        // A stock manager makes bridges and tunnels: it gets a network of its own.
        let namespace = NetworkNamespace::new(scene)?;
        let manager = Dockerd::start(scene, "manager", Some(&namespace))?;
        let options = DaemonOptions {
            wrapper: namespace.enter(),
            ..DaemonOptions::default()
        };
        let worker = Waxseal::start(scene, "worker", &options)?;
        let remote = format!("{}:2377", manager.address);
        let words = ["--listen-addr", &remote, "--advertise-addr", &remote];
        let init = ["swarm", "init", "--availability", "drain"];
        manager.docker.ok(&[&init[..], &words].concat())?;
        let token = manager
            .docker
            .ok(&["swarm", "join-token", "-q", "worker"])?;
        worker.join(&token, &remote)?;
        for (name, data) in [("m0", markers.secret(0)), ("large", repeated(&markers))] {
            manager
                .docker
                .ok_with_input(&["secret", "create", name, "-"], &data)?;
        }
        run_with(
            &manager.docker,
            &["m0", "large"],
            &["--no-resolve-image"],
            1,
        )?;
        manager.docker.ok(&["service", "rm", "user"])?;
        gone(&worker)?;
        memory(scene, &worker, &markers, "of an engine's worker")?;
        worker.docker.ok(&["swarm", "leave"])?;
        Ok(())
    })
}

/// Clients that sent secrets and stay connected.
#[test]
fn nothing_stays_in_memory_behind_idle_clients() -> Result<()> {
    scenario("marker-idle", |scene| {
        let markers = Markers::new()?;
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        let mut idle = Vec::new();
        for (what, answers, parts) in conversations(&markers) {
            let client = converse(&node, &parts, answers).with_context(|| what.to_owned())?;
            idle.push(client);
        }
        memory(scene, &node, &markers, "with idle clients")?;
        drop(idle);
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// What a client sends, in parts that the daemon reads one by one, and how many answers
/// it waits for.
fn conversations(markers: &Markers) -> Vec<(&'static str, usize, Vec<Vec<u8>>)> {
    let small = |name: &str| {
        let data = STANDARD.encode(markers.secret(1));
        json!({"Name": name, "Data": data}).to_string().into_bytes()
    };
    let large = |name: &str| {
        let data = STANDARD.encode(repeated(markers));
        json!({"Name": name, "Data": data}).to_string().into_bytes()
    };
    let head = |extra: &str, length: usize| {
        let text = format!(
            "POST /secrets/create HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\n\
             {extra}Content-Length: {length}\r\n\r\n"
        );
        text.into_bytes()
    };
    let whole = |body: &[u8]| [&head("", body.len()), body].concat();
    let ping = || b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n".to_vec();
    let (late, cut, long) = (small("late"), small("cut"), small("long"));
    let late_head = head("", late.len());
    let cut_head = head("", cut.len());
    let padding = format!("X-Padding: {}\r\n", "x".repeat(20_000));
    let long_head = head(&padding, long.len());
    let chunked = |name: &str, size: usize| {
        let mut request = b"POST /secrets/create HTTP/1.1\r\nHost: docker\r\n\
            Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
        for chunk in large(name).chunks(size) {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
        request
    };
    let elsewhere = {
        let body = small("elsewhere");
        let head = format!(
            "POST /elsewhere HTTP/1.1\r\nHost: docker\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), &body].concat()
    };
    vec![
        ("one request", 1, vec![whole(&small("one"))]),
        ("head and body apart", 1, vec![late_head, late]),
        (
            "all in pieces",
            1,
            vec![
                cut_head[..9].to_vec(),
                cut_head[9..].to_vec(),
                cut[..50].to_vec(),
                cut[50..].to_vec(),
            ],
        ),
        (
            "a long head in pieces",
            1,
            vec![
                long_head[..9_000].to_vec(),
                long_head[9_000..].to_vec(),
                long,
            ],
        ),
        ("a large body", 1, vec![whole(&large("large0"))]),
        (
            "a large body, then others",
            5,
            vec![
                whole(&large("large1")),
                ping(),
                ping(),
                ping(),
                whole(&small("after")),
            ],
        ),
        (
            "a body in many pieces",
            1,
            whole(&large("large2"))
                .chunks(60_000)
                .map(<[u8]>::to_vec)
                .collect(),
        ),
        ("chunks", 1, vec![chunked("chunks0", 5_000)]),
        (
            "chunks in pieces",
            1,
            chunked("chunks1", 30_000)
                .chunks(70_000)
                .map(<[u8]>::to_vec)
                .collect(),
        ),
        (
            "two requests at once",
            2,
            vec![[whole(&small("two0")), whole(&small("two1"))].concat()],
        ),
        (
            "a request and a half",
            1,
            vec![[whole(&small("half")), ping()[..9].to_vec()].concat()],
        ),
        ("a body that no route takes", 1, vec![elsewhere]),
        ("a refused name", 1, vec![whole(&small("not/allowed"))]),
    ]
}

/// Sends parts one after the other, reads the answers, and stays connected.
fn converse(node: &Waxseal, parts: &[Vec<u8>], answers: usize) -> Result<UnixStream> {
    let mut client = UnixStream::connect(node.engine.socket())?;
    client.set_read_timeout(Some(SOON))?;
    for part in parts {
        client.write_all(part)?;
        sleep(PAUSE);
    }
    let mut said = String::new();
    let mut room = [0; 4096];
    while said.matches("HTTP/1.1 ").count() < answers {
        let read = client.read(&mut room).context("no answer")?;
        ensure!(read > 0, "the daemon hung up: {said}");
        said.push_str(&String::from_utf8_lossy(&room[..read]));
    }
    Ok(client)
}

/// A secret that passes no buffer in one piece.
fn repeated(markers: &Markers) -> Vec<u8> {
    (0..1_500).flat_map(|n| markers.secret(n)).collect()
}

fn large(node: &Waxseal, markers: &Markers) -> Result<()> {
    let data = repeated(markers);
    node.docker
        .ok_with_input(&["secret", "create", "large", "-"], &data)?;
    Ok(())
}

fn create(node: &Waxseal, markers: &Markers) -> Result<()> {
    let mut connection = node.engine.connect()?;
    for number in 0..SECRETS {
        let data = STANDARD.encode(markers.secret(number));
        let body = json!({"Name": format!("m{number}"), "Data": data});
        let answer = connection
            .call("POST", "/secrets/create", Some(&body))?
            .expect(201)?;
        clean("the answer of create", &answer.body, markers)?;
    }
    // Refusals and updates carry content too.
    let body = json!({"Name": "m1", "Data": STANDARD.encode(markers.secret(1))});
    let answer = connection
        .call("POST", "/secrets/create", Some(&body))?
        .expect(409)?;
    clean("a refusal", &answer.body, markers)?;
    let secret = node.engine.get("/secrets/m2")?;
    let data = STANDARD.encode(markers.secret(2));
    let body = json!({"Name": "m2", "Labels": {"a": "b"}, "Data": data});
    let path = format!("/secrets/m2/update?version={}", secret["Version"]["Index"]);
    connection.call("POST", &path, Some(&body))?.expect(200)?;
    // JSON that breaks off behind the content, and content in the place of a number.
    for text in [
        format!(r#"{{"Name":"m2","Data":"{data}""#),
        format!(r#"{{"Name":"m2","Labels":"{data}"}}"#),
        format!(r#"{{"Name":{{"{data}":1}}}}"#),
    ] {
        let answer = node
            .engine
            .send_bytes("POST", "/secrets/create", text.into_bytes())?;
        clean(
            "a refusal of malformed JSON",
            &answer.expect(400)?.body,
            markers,
        )?;
    }
    Ok(())
}

fn clean(what: &str, bytes: &[u8], markers: &Markers) -> Result<()> {
    match markers.in_bytes(bytes) {
        None => Ok(()),
        Some(form) => bail!(
            "{what} has a marker as {form}: {}",
            String::from_utf8_lossy(bytes)
        ),
    }
}

fn answers(node: &Waxseal, markers: &Markers) -> Result<()> {
    let mut paths: Vec<String> = [
        "/_ping",
        "/version",
        "/info",
        "/swarm",
        "/swarm/unlockkey",
        "/nodes",
        "/secrets",
        "/configs",
        "/services",
        "/tasks",
        "/networks",
        "/events?since=1&until=2",
        "/secrets/m0",
        "/secrets/m2",
    ]
    .map(str::to_owned)
    .to_vec();
    for list in ["/services", "/tasks", "/nodes"] {
        let objects = node.engine.get(list)?;
        let ids = objects.as_array().context("no list")?.iter();
        paths.extend(ids.filter_map(|object| Some(format!("{list}/{}", object["ID"].as_str()?))));
    }
    // Replays what was kept and ends.
    let now = node.engine.get("/info")?["SystemTime"]
        .as_str()
        .map(str::to_owned);
    let until = seconds(&now.context("no time")?)?;
    paths.push(format!("/events?since=1&until={until}"));
    for path in paths {
        let answer = node.engine.call("GET", &path, None)?.expect(200)?;
        clean(&path, &answer.body, markers)?;
    }
    for words in [
        &["status"][..],
        &["status", "--format", "json"],
        &["secret", "inspect", "m0"],
    ] {
        let output = node.cli.run(words)?;
        clean("our CLI", &output.stdout, markers)?;
        clean("our CLI", &output.stderr, markers)?;
    }
    Ok(())
}

fn seconds(time: &str) -> Result<i64> {
    let output = run(Command::new("date").args(["-u", "+%s", "-d", time]), SOON)?;
    ensure!(output.code == 0, "{}", output.err());
    Ok(output.out().parse()?)
}

/// Every byte of the daemon's memory that a debugger can take, 2 s after the last call.
fn memory(scene: &Scene, node: &Waxseal, markers: &Markers, when: &str) -> Result<()> {
    sleep(REST);
    let core = scene.dir().join("core");
    let pid = node.pid()?.to_string();
    let gcore = require("gcore", "gdb")?;
    // For whoever finds something: registers are in the core too, by thread.
    fs::write(scene.dir().join("threads"), threads(&pid)?)?;
    let output = run(
        Command::new(gcore).arg("-a").arg("-o").arg(&core).arg(&pid),
        LIMIT,
    )?;
    ensure!(output.code == 0, "gcore: {} {}", output.out(), output.err());
    let path = PathBuf::from(format!("{}.{pid}", core.display()));
    let bytes = fs::metadata(&path)?.len();
    ensure!(bytes > 10 << 20, "the core file has only {bytes} bytes");
    let found = markers.in_file(&path)?;
    ensure!(
        found.is_empty(),
        "the daemon's memory has markers ({when}): {found:?}"
    );
    fs::remove_file(path)?;
    Ok(())
}

/// Number and name of each thread.
fn threads(pid: &str) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        text.push_str(&format!("{} {name}", entry.file_name().display()));
    }
    Ok(text)
}

fn disk(node: &Waxseal, markers: &Markers) -> Result<()> {
    // Data root, exec root, pid file and the log at trace.
    let found = markers.below(node.dir())?;
    ensure!(found.is_empty(), "markers on disk: {found:?}");
    let log = fs::metadata(node.log())?.len();
    ensure!(log > 1 << 20, "that is no log at trace: {log} bytes");
    Ok(())
}

fn use_some(node: &Waxseal) -> Result<()> {
    run_with(&node.docker, &["m0", "m1"], &[], 1)
}

/// Runs a service with secrets until its tasks have read them.
fn run_with(docker: &Cli, secrets: &[&str], words: &[&str], tasks: usize) -> Result<()> {
    let words = [words, &["--stop-signal", "KILL"]].concat();
    run_image(docker, secrets, &words, "host", tasks)
}

fn run_image(
    docker: &Cli,
    secrets: &[&str],
    words: &[&str],
    image: &str,
    tasks: usize,
) -> Result<()> {
    let mut line = vec!["service", "create", "--name", "user", "--network", "host"];
    line.extend(secrets.iter().flat_map(|name| ["--secret", name]));
    line.extend(["--update-monitor", "1s"]);
    line.extend(words);
    let script = "cat /run/secrets/* >/dev/null; echo read; exec sleep 1000";
    line.extend([image, "sh", "-c", script]);
    docker.ok(&line)?;
    eventually("the tasks have read", SOON, || {
        let said = docker.ok(&["service", "logs", "--raw", "user"])?;
        ensure!(said.lines().eq(vec!["read"; tasks]), "{said}");
        Ok(())
    })
}

fn gone(node: &Waxseal) -> Result<()> {
    eventually("the task is gone", SOON, || {
        let left = fs::read_dir(node.exec_root().join("tasks"))?.count();
        ensure!(left == 0, "{left} tasks");
        Ok(())
    })
}

/// Environment, command line and open names of every process.
fn in_proc(markers: &Markers) -> Result<()> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        for file in ["environ", "cmdline", "comm", "mountinfo"] {
            let bytes = fs::read(path.join(file)).unwrap_or_default();
            clean(&path.join(file).display().to_string(), &bytes, markers)?;
        }
    }
    Ok(())
}

/// Aborted with all limits off, it leaves no core.
fn no_core(node: &mut Waxseal) -> Result<()> {
    let pid = node.pid()?.to_string();
    let prlimit = require("prlimit", "util-linux")?;
    let mut raise = Command::new(prlimit);
    if run(raise.args(["--pid", &pid, "--core=unlimited"]), SOON)?.code != 0 {
        // Even root may not raise what the daemon has set to nothing for good.
        let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
        let line = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let mut words = line
            .context("no limit of core files")?
            .split_whitespace()
            .skip(4);
        ensure!(
            words.next() == Some("0") && words.next() == Some("0"),
            "{limits}"
        );
    }
    let status = node.aborted()?;
    ensure!(status.signal() == Some(Signal::ABORT.as_raw()), "{status}");
    ensure!(!status.core_dumped(), "the daemon left a core");
    Ok(())
}

/// What another user may read of a process.
fn refused(pid: u32, user: u32) -> Result<()> {
    let user = user.to_string();
    let path = |name: &str| format!("/proc/{pid}/{name}");
    for command in [
        vec!["cat".to_owned(), path("mem")],
        vec!["cat".to_owned(), path("environ")],
        vec!["cat".to_owned(), path("maps")],
        vec!["ls".to_owned(), path("fd")],
        vec!["ls".to_owned(), format!("{}/", path("root"))],
        vec!["ls".to_owned(), format!("{}/run/secrets", path("root"))],
    ] {
        let output = run(
            Command::new("setpriv")
                .args(["--reuid", &user, "--regid", &user, "--clear-groups", "--"])
                .args(&command),
            SOON,
        )?;
        ensure!(
            output.code != 0 && output.stdout.is_empty(),
            "{command:?}: {}",
            output.out()
        );
        ensure!(
            output.err().contains("Permission denied"),
            "{command:?}: {}",
            output.err()
        );
    }
    Ok(())
}

#[test]
fn another_user_learns_nothing_of_daemon_shim_and_task() -> Result<()> {
    scenario("proc", |scene| {
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        node.docker
            .ok_with_input(&["secret", "create", "m0", "-"], b"content")?;
        node.docker
            .ok_with_input(&["secret", "create", "m1", "-"], b"content")?;
        use_some(&node)?;
        let list = node.engine.get("/tasks")?;
        let task = list[0]["Status"]["ContainerStatus"]["PID"]
            .as_u64()
            .context("no pid")?;
        let task = u32::try_from(task)?;
        let shims = waxseal_tests::processes_below(&node.exec_root())?;
        ensure!(!shims.is_empty(), "no shim was found");
        refused(node.pid()?, NOBODY)?;
        refused(task, NOBODY)?;
        for (pid, words) in &shims {
            refused(*pid, NOBODY)?;
            ensure!(!words.contains("content"), "{words}");
        }
        no_descriptor_is_inherited(&node, task)?;
        node.docker.ok(&["service", "rm", "user"])?;
        gone(&node)?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// A task has its three streams and nothing of the daemon's.
fn no_descriptor_is_inherited(node: &Waxseal, task: u32) -> Result<()> {
    let mut open = Vec::new();
    for entry in fs::read_dir(format!("/proc/{task}/fd"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        open.push((name, fs::read_link(entry.path())?));
    }
    open.sort();
    let names: Vec<&str> = open.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names == ["0", "1", "2"], "{open:?}");
    let inside = |path: &Path| path.starts_with(node.dir());
    ensure!(!open.iter().any(|(_, path)| inside(path)), "{open:?}");
    Ok(())
}

/// A daemon of another user is closed to that user's other processes: it is not dumpable.
#[test]
fn a_daemon_without_root_is_not_dumpable() -> Result<()> {
    scenario("dumpable", |scene| {
        let nobody = NOBODY.to_string();
        let home = scene.dir().join("home");
        fs::create_dir(&home)?;
        std::os::unix::fs::chown(scene.dir(), Some(NOBODY), Some(NOBODY))?;
        let options = DaemonOptions {
            wrapper: [
                "setpriv",
                "--reuid",
                &nobody,
                "--regid",
                &nobody,
                "--clear-groups",
                "--",
            ]
            .map(str::to_owned)
            .to_vec(),
            ..DaemonOptions::default()
        };
        let mut node = Waxseal::prepare(scene, "node", &options)?;
        std::os::unix::fs::chown(node.dir(), Some(NOBODY), Some(NOBODY))?;
        node.up()?;
        let owner = fs::metadata(format!("/proc/{}/environ", node.pid()?))?.uid();
        ensure!(owner == 0, "the kernel calls the daemon dumpable");
        refused(node.pid()?, NOBODY)?;
        node.stop()
    })
}
