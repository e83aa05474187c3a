//! The server on a real socket.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::oneshot,
};
use waxseal_cluster::objects::actor::Who;

use super::FakeCluster;
use crate::serve;

/// A server on a socket in a directory of its own, removed at the end.
struct Running {
    directory: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(name: &str, cluster: &Arc<FakeCluster>) -> Running {
        let directory =
            std::env::temp_dir().join(format!("waxseal-api-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let listener = UnixListener::bind(directory.join("sock")).unwrap();
        let (stop, stopped) = oneshot::channel();
        let cluster = Arc::clone(cluster);
        let task = tokio::spawn(serve(listener, cluster, async {
            // A dropped sender stops it as well.
            let _ = stopped.await;
        }));
        Running {
            directory,
            stop: Some(stop),
            task,
        }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.directory.join("sock"))
            .await
            .unwrap()
    }

    async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        // Left over if the test failed in between; the name is of this process.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Sends a request and reads an answer with a length.
async fn exchange(stream: &mut UnixStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "closed: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&seen);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return text.into_owned();
            }
        }
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests_of_a_known_user() {
    let cluster = FakeCluster::manager().await;
    let server = Running::start("many", &cluster);
    let mut stream = server.connect().await;
    for number in 0..3 {
        let body = format!("{{\"Name\":\"s{number}\",\"Data\":\"eA==\"}}");
        let request = format!(
            "POST /v1.44/secrets/create HTTP/1.1\r\nHost: api.moby.localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = exchange(&mut stream, &request).await;
        assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
        assert!(answer.contains("api-version: 1.44\r\n"), "{answer}");
    }
    let uid = stream.peer_cred().unwrap().uid();
    let who = cluster.actors().pop().unwrap().who;
    assert_eq!(who, Some(Who::SocketUid(uid)));

    let ping = exchange(&mut stream, "HEAD /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(ping.contains("content-length: 0\r\n"), "{ping}");
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_streams_and_idle_connections() {
    let cluster = FakeCluster::manager().await;
    let server = Running::start("stop", &cluster);
    let mut events = server.connect().await;
    let request = "GET /events HTTP/1.1\r\nHost: x\r\n\r\n";
    let head = exchange(&mut events, request).await;
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut idle = server.connect().await;
    exchange(&mut idle, "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
    tokio::time::timeout(Duration::from_secs(2), server.stop())
        .await
        .unwrap();
    let mut rest = Vec::new();
    events.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"), "the last chunk is sent");
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let cluster = FakeCluster::manager().await;
    let server = Running::start("late", &cluster);
    let head = |length: usize| {
        format!(
            "POST /v1.44/secrets/create HTTP/1.1\r\nHost: x\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    // They hold all the room that there is for large bodies, and one sends a byte at times.
    let mut idle = Vec::new();
    for _ in 0..16 {
        let mut stream = server.connect().await;
        stream.write_all(head(4 << 20).as_bytes()).await.unwrap();
        idle.push(stream);
    }
    let mut dripping = idle.pop().unwrap();
    let drip = tokio::spawn(async move {
        // Until the server closes.
        while dripping.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
    });
    for stream in &mut idle {
        let answer = exchange(stream, "").await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("did not come in time"), "{answer}");
    }
    let mut late = server.connect().await;
    let body = format!("{{\"Name\":\"s\",\"Data\":\"{}\"}}", "eA==".repeat(25_000));
    let answer = exchange(&mut late, &(head(body.len()) + &body)).await;
    assert!(!answer.starts_with("HTTP/1.1 408"), "{answer}");
    drip.await.unwrap();
    server.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_is_given_up() {
    let cluster = FakeCluster::manager().await;
    let server = Running::start("silent", &cluster);
    let mut silent = server.connect().await;
    let mut begun = server.connect().await;
    begun
        .write_all(b"GET /_ping HTTP/1.1\r\nHos")
        .await
        .unwrap();
    let mut idle = server.connect().await;
    exchange(&mut idle, "GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
    // A stream that is answered for long is none of them.
    let mut events = server.connect().await;
    exchange(&mut events, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let an_hour = Duration::from_secs(60 * 60);
    for stream in [&mut silent, &mut begun, &mut idle] {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(an_hour, stream.read_to_end(&mut rest));
        closed.await.expect("closed by the server").unwrap();
    }
    let mut next = [0; 16];
    let open = tokio::time::timeout(an_hour, events.read(&mut next));
    assert!(
        open.await.is_err(),
        "events come for as long as they are read"
    );
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let cluster = FakeCluster::manager().await;
    let server = Running::start("garbage", &cluster);
    let mut stream = server.connect().await;
    let answer = exchange(&mut stream, "\u{16}\u{3}\u{1} garbage\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut stream = server.connect().await;
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(100_000));
    // The server may close before all of it is written.
    let _ = stream.write_all(long.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 4"));
    server.stop().await;
}
