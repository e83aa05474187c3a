//! Bad input: a clear error in two parts, and a state as it was.

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_remount, unmount};
use serde_json::json;
use waxseal_tests::{DaemonOptions, Scene, Waxseal, eventually, raw_exchange, scenario};

const SOON: Duration = Duration::from_secs(20);

/// A daemon that must end by itself with an error.
fn does_not_start(scene: &Scene, name: &str, options: &DaemonOptions) -> Result<String> {
    let mut daemon = Waxseal::prepare(scene, name, options)?;
    daemon.launch()?;
    let code = daemon.ends()?;
    let said = fs::read_to_string(daemon.log())?;
    ensure!(code == 1, "ended with {code}: {said}");
    let last = said.lines().rev().take(4).collect::<Vec<_>>().join("\n");
    ensure!(last.contains("error: "), "{said}");
    Ok(said)
}

#[test]
fn a_daemon_does_not_start_where_it_must_not() -> Result<()> {
    scenario("start", |scene| {
        // 1. A state directory in use.
        let mut first = scene.waxseal("first")?;
        let data_root = Some(first.data_root().to_owned());
        let options = DaemonOptions {
            data_root,
            ..DaemonOptions::default()
        };
        let said = does_not_start(scene, "second", &options)?;
        ensure!(
            said.contains("is in use by another waxseal daemon"),
            "{said}"
        );
        first.init(&[])?;
        // 2. A socket in use, one that cannot be made, one that is a file.
        let socket = first.engine.socket().to_owned();
        let plain = scene.dir().join("plain");
        fs::write(&plain, b"file")?;
        for (name, path) in [
            ("busy", socket),
            ("plain1", plain.join("s")),
            ("plain2", plain.clone()),
        ] {
            let arguments = vec!["-H".to_owned(), format!("unix://{}", path.display())];
            let options = DaemonOptions {
                arguments,
                ..DaemonOptions::default()
            };
            let said = does_not_start(scene, name, &options)?;
            ensure!(
                said.contains(&*path.to_string_lossy()) && said.contains("-H"),
                "{said}"
            );
        }
        ensure!(
            fs::read(&plain)? == b"file",
            "a file was replaced by a socket"
        );
        first.docker.ok(&["node", "ls"])?;
        // 3. A stock engine's directory stays untouched.
        let engine = scene.dockerd("engine")?;
        let data = engine.dir().join("data");
        drop(engine);
        let before = names(&data)?;
        let options = DaemonOptions {
            data_root: Some(data.clone()),
            ..DaemonOptions::default()
        };
        let said = does_not_start(scene, "stock", &options)?;
        ensure!(
            said.contains("Docker Engine") && said.contains("--data-root"),
            "{said}"
        );
        ensure!(
            names(&data)? == before,
            "the engine's directory was changed"
        );
        // 4. A directory that cannot be made.
        let options = DaemonOptions {
            data_root: Some(plain.join("data")),
            ..DaemonOptions::default()
        };
        let said = does_not_start(scene, "nowhere", &options)?;
        ensure!(said.contains("plain"), "{said}");
        first.docker.ok(&["swarm", "leave", "--force"])?;
        first.stop()
    })
}

fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        names.push(entry.path());
        if entry.file_type()?.is_dir() {
            names.extend(self::names(&entry.path())?);
        }
    }
    names.sort();
    Ok(names)
}

/// A manager with some secrets, stopped.
fn stopped(scene: &Scene, name: &str) -> Result<Waxseal> {
    let mut node = scene.waxseal(name)?;
    node.init(&[])?;
    for number in 0..20 {
        let name = format!("s{number}");
        node.docker
            .ok_with_input(&["secret", "create", &name, "-"], &[b'x'; 3000])?;
    }
    node.stop()?;
    Ok(node)
}

/// Up in state error, naming the file; every call says so; the file stays as it is.
fn in_error(node: &mut Waxseal, file: &Path) -> Result<String> {
    let damaged = fs::read(file)?;
    node.up()?;
    node.reaches("error")?;
    let error = &node.engine.get("/info")?["Swarm"]["Error"];
    let error = error.as_str().context("no error")?.to_owned();
    let name = file
        .file_name()
        .context("no name")?
        .to_string_lossy()
        .into_owned();
    ensure!(error.contains(&name), "{error} does not name {name}");
    let answer = node.engine.call("GET", "/secrets", None)?.expect(503)?;
    ensure!(!answer.message()?.is_empty());
    node.engine.call("GET", "/_ping", None)?.expect(200)?;
    node.stop()?;
    ensure!(fs::read(file)? == damaged, "the damaged file was changed");
    Ok(error)
}

/// One bit in the middle, turned.
fn flip(file: &Path) -> Result<()> {
    let length = fs::metadata(file)?.len();
    flip_at(file, length / 2)
}

fn flip_at(file: &Path, place: u64) -> Result<()> {
    let mut open = fs::OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    open.seek(SeekFrom::Start(place))?;
    open.read_exact(&mut byte)?;
    byte[0] ^= 0x10;
    open.seek(SeekFrom::Start(place))?;
    open.write_all(&byte)?;
    Ok(())
}

/// The log's first segment.
fn segment(node: &Waxseal) -> Result<PathBuf> {
    let found = names(&node.data_root().join("swarm"))?;
    let mut found = found
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "seg"));
    found.next().context("no segment")
}

#[test]
fn damaged_files_stop_the_node_and_are_named() -> Result<()> {
    scenario("damage", |scene| {
        let mut node = stopped(scene, "node")?;
        let swarm = node.data_root().join("swarm");
        let log = segment(&node)?;
        let whole = |path: &Path| fs::read(path);
        // What is put back works again: nothing else was changed meanwhile.
        let put_back = |path: &Path, bytes: &[u8]| fs::write(path, bytes);
        let mut faults = Vec::new();
        for file in [
            swarm.join("certificates/swarm-node.key"),
            swarm.join("certificates/swarm-node.crt"),
            swarm.join("certificates/swarm-root-ca.crt"),
            swarm.join("node.pb"),
        ] {
            let good = whole(&file)?;
            for damage in ["flipped", "cut", "emptied"] {
                match damage {
                    "flipped" if file.ends_with("node.pb") => fs::write(&file, b"\xff\xff\xff")?,
                    "flipped" => flip(&file)?,
                    "cut" if file.ends_with("node.pb") => continue,
                    "cut" => fs::write(&file, &good[..good.len() / 2])?,
                    _ => fs::write(&file, b"")?,
                }
                if let Err(error) = in_error(&mut node, &file).and_then(|error| helps(&error)) {
                    faults.push(format!("{damage} {}: {error:#}", file.display()));
                    node.kill().ok();
                }
                put_back(&file, &good)?;
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        // The log: a bit in a record that was acknowledged.
        let good = whole(&log)?;
        flip_at(&log, 4096)?;
        let error = in_error(&mut node, &log)?;
        helps(&error)?;
        ensure!(
            error.bytes().any(|byte| byte.is_ascii_digit()),
            "no offset: {error}"
        );
        put_back(&log, &good)?;
        node.up()?;
        node.reaches("active")?;
        ensure!(node.docker.ok(&["secret", "ls", "-q"])?.lines().count() == 20);
        // In state error, leaving by force still works.
        node.stop()?;
        fs::write(&log, b"no log")?;
        node.up()?;
        node.reaches("error")?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        node.reaches("inactive")?;
        node.init(&[])?;
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

/// The second part of a message: what to do.
fn helps(error: &str) -> Result<()> {
    let words = ["restore", "leave", "join again", "start", "fetch"];
    ensure!(
        words.iter().any(|word| error.contains(word)),
        "no help in: {error}"
    );
    Ok(())
}

#[test]
fn a_full_disk_refuses_writes_and_answers_reads() -> Result<()> {
    scenario("full", |scene| {
        let disk = scene.dir().join("disk");
        fs::create_dir(&disk)?;
        mount(
            "tmpfs",
            disk.as_path(),
            "tmpfs",
            MountFlags::empty(),
            Some(c"size=64m"),
        )?;
        let played = full(scene, &disk);
        unmount(disk.as_path(), UnmountFlags::DETACH)?;
        played
    })
}

fn full(scene: &Scene, disk: &Path) -> Result<()> {
    let data_root = Some(disk.join("data"));
    let mut node = Waxseal::start(
        scene,
        "node",
        &DaemonOptions {
            data_root,
            ..DaemonOptions::default()
        },
    )?;
    node.init(&[])?;
    node.docker
        .ok_with_input(&["secret", "create", "before", "-"], b"x")?;
    // 1. Something else fills the disk to the last byte.
    let filler = disk.join("filler");
    let mut file = fs::File::create(&filler)?;
    while file.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    drop(file);
    // 2. The log has space of its own for a while; then a write is refused.
    let data = STANDARD.encode(vec![b'x'; 400_000]);
    let mut made = vec!["before".to_owned()];
    let refusal = (0..300).find_map(|number| {
        let name = format!("big{number}");
        let body = json!({"Name": name, "Data": data});
        match node.engine.call("POST", "/secrets/create", Some(&body)) {
            Ok(answer) if answer.status == 201 => {
                made.push(name);
                None
            }
            other => Some(other),
        }
    });
    let refusal = refusal.context("a full disk took 120 MB")??;
    let message = refusal.message()?;
    ensure!(
        refusal.status.is_server_error(),
        "{}: {message}",
        refusal.status
    );
    ensure!(message.to_lowercase().contains("no space"), "{message}");
    // 3. Reads are answered, with all that was acknowledged.
    let list = node.docker.ok(&["secret", "ls", "--format", "{{.Name}}"])?;
    let found: Vec<&str> = list.lines().collect();
    for name in &made {
        ensure!(found.contains(&name.as_str()), "{name} was lost");
    }
    node.docker.ok(&["node", "ls"])?;
    node.docker.ok(&["info"])?;
    // 4. With space again, writes are taken again, at the latest after a restart.
    fs::remove_file(&filler)?;
    for number in 0..10 {
        let name = format!("more{number}");
        let body = json!({"Name": name, "Data": data});
        // The log asks for its next file behind the refusal: the first one may still be late.
        eventually(format!("{name} is taken, {}", free(disk)), SOON, || {
            node.engine
                .call("POST", "/secrets/create", Some(&body))?
                .expect(201)
        })?;
        made.push(name);
    }
    node.docker
        .ok_with_input(&["secret", "create", "after", "-"], b"x")?;
    // 5. A start needs room for a file of the log.
    mount_remount(disk, MountFlags::empty(), c"size=128m")?;
    node.restart()?;
    node.reaches("active")?;
    let list = node.docker.ok(&["secret", "ls", "--format", "{{.Name}}"])?;
    for name in made.iter().map(String::as_str).chain(["after"]) {
        ensure!(list.lines().any(|found| found == name), "{name} was lost");
    }
    node.docker.ok(&["swarm", "leave", "--force"])?;
    node.stop()
}

/// Free bytes of a file system.
fn free(path: &Path) -> String {
    let stat = rustix::fs::statvfs(path);
    stat.map_or_else(
        |error| error.to_string(),
        |stat| format!("{} free", stat.f_bavail * stat.f_bsize),
    )
}

#[test]
fn malformed_requests_are_answered_with_json() -> Result<()> {
    scenario("http", |scene| {
        let node = scene.waxseal("node")?;
        node.init(&[])?;
        let mode = fs::metadata(node.engine.socket())?.permissions().mode() & 0o777;
        ensure!(mode == 0o660, "the socket has mode {mode:o}");
        paths(&node)?;
        bodies(&node)?;
        raw(&node)?;
        ensure!(
            node.docker.ok(&["secret", "ls", "-q"])?.is_empty(),
            "something was made"
        );
        node.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn paths(node: &Waxseal) -> Result<()> {
    for (method, path, status, text) in [
        ("GET", "/nothing", 404, "page not found"),
        ("PUT", "/secrets", 404, "page not found"),
        ("GET", "/secrets/", 404, "page not found"),
        ("GET", "/secrets/a%2Fb", 404, "page not found"),
        ("GET", "/v1.x/info", 404, "page not found"),
        ("GET", "/v9.99/info", 400, "client version 9.99 is too new"),
        ("GET", "/v1.11/info", 400, "client version 1.11 is too old"),
        ("GET", "/secrets/none", 404, "secret none not found"),
        ("GET", "/services/none", 404, "service none not found"),
        ("GET", "/secrets?filters=%7B", 400, "invalid filter"),
        (
            "GET",
            "/secrets?filters=%7B%22color%22:%5B%22a%22%5D%7D",
            400,
            "nvalid filter 'color'",
        ),
        (
            "POST",
            "/swarm/update?version=x",
            400,
            "invalid swarm version 'x'",
        ),
        (
            "GET",
            "/containers/json",
            501,
            "containers are run by Docker Engine workers",
        ),
        (
            "GET",
            "/images/json",
            501,
            "containers are run by Docker Engine workers",
        ),
    ] {
        let body = json!({});
        let body = (method == "POST").then_some(&body);
        let answer = node.engine.call(method, path, body)?;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(
            answer.status == status,
            "{method} {path}: {} {said}",
            answer.status
        );
        ensure!(said.contains(text), "{method} {path}: {said}");
        if !path.starts_with("/v1.11") {
            ensure!(
                answer.headers["content-type"] == "application/json",
                "{path}: {:?}",
                answer.headers
            );
            answer.message()?;
        }
    }
    Ok(())
}

fn bodies(node: &Waxseal) -> Result<()> {
    let deep = "[".repeat(100_000);
    let path = "/v1.44/secrets/create";
    for body in [
        "",
        "{",
        "[]",
        "1",
        "\"text\"",
        "{\"Name\":1}",
        "{\"Name\":\"a\",\"Data\":\"?\"}",
        "{\"Name\":\"a\",\"Data\":\"eA\"}",
        "{\"Labels\":[]}",
        "{\"Name\":\"a\"} {}",
        &deep,
        "\u{0}",
    ] {
        let answer = node
            .engine
            .send_bytes("POST", path, body.as_bytes().to_vec())?;
        ensure!(answer.status == 400, "{:.40}: {}", body, answer.status);
        answer.message()?;
    }
    let answer = node
        .engine
        .send_bytes("POST", path, vec![0xff; 1000])?
        .expect(400)?;
    answer.message()?;
    let mut connection = node.engine.connect()?;
    let answer = connection
        .send("POST", path, "text/plain", b"{}".to_vec())?
        .expect(400)?;
    ensure!(
        answer.message()?.contains("Content-Type"),
        "{}",
        answer.message()?
    );
    // Larger than any object: refused before it is all read, and nothing is kept of it.
    let head = format!("POST {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n");
    let huge = format!("{head}Content-Length: {}\r\n\r\n", 1_u64 << 40);
    let mut bytes = huge.into_bytes();
    bytes.extend(vec![b' '; 8 << 20]);
    let answer = raw_exchange(node.engine.socket(), &bytes, SOON)?;
    let said = String::from_utf8_lossy(&answer).into_owned();
    ensure!(said.starts_with("HTTP/1.1 4"), "{said}");
    Ok(())
}

/// Bytes that are no HTTP at all.
fn raw(node: &Waxseal) -> Result<()> {
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(1 << 20));
    let headers = format!(
        "GET / HTTP/1.1\r\nHost: d\r\n{}\r\n",
        "X: y\r\n".repeat(10_000)
    );
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"\0\0\0",
        b"GET\r\n\r\n",
        long.as_bytes(),
        headers.as_bytes(),
    ] {
        let answer = raw_exchange(node.engine.socket(), bytes, SOON)?;
        let said = String::from_utf8_lossy(&answer).into_owned();
        ensure!(
            answer.is_empty() || said.starts_with("HTTP/1.1 4"),
            "{said}"
        );
    }
    node.engine.call("GET", "/_ping", None)?.expect(200)?;
    Ok(())
}
