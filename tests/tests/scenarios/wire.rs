//! Garbage, silence and floods at the port that nodes call.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncReadExt, io::AsyncWriteExt, runtime::Runtime, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::Code;
use waxseal_cluster::objects::{Availability, NodeRole};
use waxseal_tests::{Waxseal, eventually, scenario};
use waxseal_wire::{
    Credentials, ManagerChannel,
    swarmkit::{IssueNodeCertificateRequest, NodeCertificateStatusRequest},
};

const SOON: Duration = Duration::from_secs(30);
/// The deadline of a handshake is 5 s; twice that on a busy machine.
const CLOSED: Duration = Duration::from_secs(10);
/// More than the 256 connections without a certificate that are held.
const CROWD: usize = 300;
/// Refused joins: 50 at once, then 10 in a second.
const FLOOD: usize = 200;
/// What a manager may grow by while it is shouted at.
const GROWTH_BYTES: u64 = 150 << 20;

#[test]
fn garbage_and_silence_end_and_harm_nobody() -> Result<()> {
    scenario("garbage", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let worker = scene.waxseal("worker")?;
        worker.join(&manager.worker_token()?, &manager.remote())?;
        let before = resident(&manager)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        bytes_instead_of_tls(&manager)?;
        runtime.block_on(bytes_instead_of_http(&manager))?;
        runtime.block_on(bytes_instead_of_grpc(&manager))?;
        silence(&manager)?;
        // Who is a member did not notice, and who comes is let in.
        all_ready(&manager, 2)?;
        let late = scene.waxseal("late")?;
        late.join(&manager.worker_token()?, &manager.remote())?;
        all_ready(&manager, 3)?;
        unharmed(&manager, before)?;
        for node in [&late, &worker] {
            node.docker.ok(&["swarm", "leave"])?;
        }
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn resident(node: &Waxseal) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid()?))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

fn unharmed(node: &Waxseal, before: u64) -> Result<()> {
    let now = resident(node)?;
    ensure!(
        now < before + GROWTH_BYTES,
        "grew from {before} to {now} bytes"
    );
    let log = fs::read_to_string(node.log())?;
    ensure!(!log.contains("panicked"), "something panicked: see the log");
    Ok(())
}

fn all_ready(manager: &Waxseal, count: usize) -> Result<()> {
    eventually(format!("{count} nodes are ready"), SOON, || {
        let rows = manager
            .docker
            .ok(&["node", "ls", "--format", "{{.Status}}"])?;
        ensure!(
            rows.lines().count() == count && rows.lines().all(|row| row == "Ready"),
            "{rows}"
        );
        Ok(())
    })
}

/// The other side must close within the deadline; what it said before.
fn closed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    stream.set_read_timeout(Some(CLOSED))?;
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => Ok(said),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(said),
        Err(error) => bail!("not closed after {CLOSED:?}: {error}"),
    }
}

fn bytes_instead_of_tls(manager: &Waxseal) -> Result<()> {
    let mut large_hello = vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xff];
    large_hello.extend(vec![0x41; 70_000]);
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"\0\0\0\0\0\0\0\0",
        b"\x15\x03\x03\x00\x02\x02\x28",
        &large_hello,
    ] {
        let mut stream = TcpStream::connect(manager.remote())?;
        let _ = stream.write_all(bytes);
        let said = closed(&mut stream)?;
        // Nothing, or one TLS alert.
        ensure!(
            said.is_empty() || (said[0] == 0x15 && said.len() < 32),
            "answered {said:?}"
        );
    }
    Ok(())
}

async fn tls(manager: &Waxseal) -> Result<TlsStream<tokio::net::TcpStream>> {
    let config = waxseal_ca::fetch_root_tls()?;
    let stream = tokio::net::TcpStream::connect(manager.remote()).await?;
    let name = rustls::pki_types::ServerName::try_from("swarm-manager")?;
    Ok(TlsConnector::from(config).connect(name, stream).await?)
}

async fn bytes_instead_of_http(manager: &Waxseal) -> Result<()> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut frames = vec![preface.to_vec()];
    // A frame of 16 MiB, an unknown setting, a window of nothing, a continuation of nothing.
    for frame in [
        &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..],
        &[
            0, 0, 6, 4, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ],
        &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 1, 9, 4, 0, 0, 0, 1, 0x82],
    ] {
        frames.push([preface, frame].concat());
    }
    frames.push(b"GET /docker.swarmkit.v1.CA/GetRootCACertificate HTTP/1.1\r\n\r\n".to_vec());
    frames.push(vec![0xff; 100_000]);
    frames.push(Vec::new());
    for bytes in frames {
        let mut stream = tls(manager).await?;
        let begin = Instant::now();
        let _ = stream.write_all(&bytes).await;
        let mut said = Vec::new();
        // A connection that keeps the preface's rules may stay; nothing else may.
        let polite = bytes.starts_with(preface);
        let ended = timeout(CLOSED, stream.read_to_end(&mut said)).await;
        ensure!(
            ended.is_ok() || polite,
            "{:?}… is still served after {:?}",
            &bytes[..bytes.len().min(40)],
            begin.elapsed()
        );
        if polite && ended.is_err() {
            break;
        }
    }
    Ok(())
}

/// The code of an answer to a request with this path and body.
async fn call(
    manager: &Waxseal,
    path: &str,
    kind: &str,
    body: Vec<u8>,
) -> Result<(u16, Option<i32>)> {
    let stream = TokioIo::new(tls(manager).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("https://swarm-manager{path}"))
        .header("content-type", kind)
        .header("te", "trailers")
        .body(Full::new(Bytes::from(body)))?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = body.collect().await?;
        let field = |map: &http::HeaderMap| map.get("grpc-status")?.to_str().ok()?.parse().ok();
        let code = field(&head.headers).or_else(|| body.trailers().and_then(field));
        anyhow::Ok((head.status.as_u16(), code))
    };
    let answer = timeout(CLOSED, exchange).await.context("no answer")?;
    driver.abort();
    answer
}

async fn bytes_instead_of_grpc(manager: &Waxseal) -> Result<()> {
    let issue = "/docker.swarmkit.v1.NodeCA/IssueNodeCertificate";
    let grpc = "application/grpc";
    let frame = |length: u32, bytes: &[u8]| [&[0][..], &length.to_be_bytes(), bytes].concat();
    for (path, body) in [
        (issue, Vec::new()),
        (issue, b"garbage".to_vec()),
        (issue, frame(4, b"\xff\xff\xff\xff")),
        (issue, frame(100, b"short")),
        (issue, frame(u32::MAX, b"x")),
        (issue, [&[1][..], &frame(3, b"abc")[1..]].concat()),
        (issue, frame(5 << 20, &vec![0; 5 << 20])),
        // A field's length that goes past the message.
        (issue, frame(6, &[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("/docker.swarmkit.v1.NodeCA/Nothing", frame(0, b"")),
        ("/docker.swarmkit.v1.Nothing/Nothing", frame(0, b"")),
        // For nodes with a certificate only.
        ("/docker.swarmkit.v1.Dispatcher/Session", frame(0, b"")),
        ("/docker.swarmkit.v1.Dispatcher/Heartbeat", frame(0, b"")),
        ("/docker.swarmkit.v1.Dispatcher/Assignments", frame(0, b"")),
        (
            "/docker.swarmkit.v1.Dispatcher/UpdateTaskStatus",
            frame(0, b""),
        ),
        (
            "/docker.swarmkit.v1.LogBroker/ListenSubscriptions",
            frame(0, b""),
        ),
        ("/docker.swarmkit.v1.LogBroker/PublishLogs", frame(0, b"")),
        ("/docker.swarmkit.v1.CA/GetUnlockKey", frame(0, b"")),
        // Of managers among themselves, which no engine may call.
        ("/docker.swarmkit.v1.Raft/ProcessRaftMessage", frame(0, b"")),
        ("/docker.swarmkit.v1.Control/ListSecrets", frame(0, b"")),
    ] {
        let short = &body[..body.len().min(16)];
        let (status, code) = match call(manager, path, grpc, body.clone()).await {
            Ok(answer) => answer,
            // A connection that is dropped is a refusal too.
            Err(_) => continue,
        };
        ensure!(
            status == 200 && code.is_some_and(|code| code != 0),
            "{path} {short:?}: {status} {code:?}"
        );
    }
    let (status, code) = call(manager, issue, "text/plain", b"x".to_vec()).await?;
    ensure!(status != 200 || code != Some(0), "{status} {code:?}");
    Ok(())
}

/// Connections that say nothing are closed, and more of them than are held harm nobody.
fn silence(manager: &Waxseal) -> Result<()> {
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(TcpStream::connect(manager.remote())?);
    }
    for stream in &mut crowd {
        closed(stream)?;
    }
    Ok(())
}

#[test]
fn a_flood_of_wrong_joins_is_slowed_and_good_ones_pass() -> Result<()> {
    scenario("flood", |scene| {
        let manager = scene.waxseal("manager")?;
        manager.init(&[])?;
        let before = resident(&manager)?;
        let token = manager.worker_token()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        refusals(&runtime, &manager, &token)?;
        let codes = runtime.block_on(flood(&manager, &token))?;
        let count = |code: Code| codes.get(&(code as i32)).copied().unwrap_or(0);
        ensure!(count(Code::Ok) == 0, "{codes:?}");
        ensure!(
            count(Code::InvalidArgument) >= 10,
            "none was told that its token is wrong: {codes:?}"
        );
        ensure!(
            count(Code::ResourceExhausted) >= FLOOD / 4,
            "the flood was not slowed: {codes:?}"
        );
        // A good token passes, also from the address of the flood.
        let worker = scene.waxseal("worker")?;
        worker.join(&token, &manager.remote())?;
        all_ready(&manager, 2)?;
        unharmed(&manager, before)?;
        worker.docker.ok(&["swarm", "leave"])?;
        manager.docker.ok(&["swarm", "leave", "--force"])?;
        Ok(())
    })
}

fn request(token: &str, csr: &[u8]) -> IssueNodeCertificateRequest {
    IssueNodeCertificateRequest {
        role: NodeRole::Worker.into(),
        csr: csr.to_vec(),
        token: token.as_bytes().to_vec(),
        availability: Availability::Active.into(),
    }
}

async fn channel(manager: &Waxseal) -> Result<ManagerChannel> {
    ManagerChannel::dial(&manager.remote(), Credentials::FetchRoot)
        .await
        .map_err(Into::into)
}

/// Bad requests with a good token, and a caller without a certificate that asks for others.
fn refusals(runtime: &Runtime, manager: &Waxseal, token: &str) -> Result<()> {
    let secrets = manager
        .data_root()
        .join("swarm/certificates/swarm-root-ca.crt");
    let certificate = fs::read(secrets)?;
    runtime.block_on(async {
        let channel = channel(manager).await?;
        for csr in [&b""[..], b"not PEM", &certificate, &vec![b'A'; 1 << 20]] {
            let answer = channel
                .node_ca()
                .issue_node_certificate(request(token, csr))
                .await;
            let code = answer.err().map(|status| status.code());
            // The largest is more than any message of this call may have.
            let too_large = csr.len() == 1 << 20 && code == Some(Code::OutOfRange);
            ensure!(too_large || code == Some(Code::InvalidArgument), "{code:?}");
        }
        let node = manager.docker.ok(&["node", "ls", "-q"])?;
        for id in ["", "none", &node] {
            let request = NodeCertificateStatusRequest {
                node_id: id.to_owned(),
            };
            let answer = channel.node_ca().node_certificate_status(request).await;
            ensure!(answer.is_err(), "a stranger was told of {id:?}: {answer:?}");
        }
        Ok(())
    })?;
    ensure!(
        manager.docker.ok(&["node", "ls", "-q"])?.lines().count() == 1,
        "a record was made"
    );
    Ok(())
}

/// How many wrong joins got which code.
async fn flood(manager: &Waxseal, token: &str) -> Result<BTreeMap<i32, usize>> {
    let (head, _) = token.rsplit_once('-').context("no token")?;
    let wrong = Arc::new(format!("{head}-{}", "0".repeat(25)));
    let mut codes = BTreeMap::new();
    let channel = channel(manager).await?;
    let calls = (0..FLOOD).map(|_| {
        let (channel, wrong) = (channel.clone(), Arc::clone(&wrong));
        tokio::spawn(async move {
            let answer = channel
                .node_ca()
                .issue_node_certificate(request(&wrong, b"csr"))
                .await;
            match answer {
                Ok(_) => Code::Ok,
                Err(status) => status.code(),
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        *codes.entry(call.await? as i32).or_insert(0) += 1;
    }
    Ok(codes)
}
