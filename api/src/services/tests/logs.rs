//! Logs through the routes.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    sync::{broadcast, oneshot},
    time::Instant,
};
use waxseal_cluster::{
    Applied, ChangeRecord, State,
    objects::{self, Actor, command::Op},
};
use zeroize::Zeroizing;

use super::client::Client;
use crate::{
    cluster::{
        Cluster, ClusterError, DaemonInfo, InitRequest, JoinRequest, LocalNode, LogLine, LogRequest,
    },
    testing::FakeCluster,
};

/// The fake cluster, with two lines of output that go on without end, if asked
/// to follow, and then more.
struct Talkative {
    inner: Arc<FakeCluster>,
    asked: Mutex<Vec<LogRequest>>,
    more: More,
    dropped: Mutex<Option<oneshot::Sender<()>>>,
}

/// What comes after the two lines.
#[derive(Clone, Copy)]
enum More {
    Nothing,
    /// Two failures.
    Failures,
    /// Long lines, so many, printed so long after now.
    Lines(usize, time::Duration),
}

/// Bytes of a long line.
const LONG: usize = 16 * 1024;

impl Talkative {
    async fn new(more: More) -> (Arc<Talkative>, oneshot::Receiver<()>) {
        let (dropped, is_dropped) = oneshot::channel();
        let cluster = Talkative {
            inner: FakeCluster::manager().await,
            asked: Mutex::new(Vec::new()),
            more,
            dropped: Mutex::new(Some(dropped)),
        };
        (Arc::new(cluster), is_dropped)
    }
}

fn line(data: &'static str, stderr: bool) -> LogLine {
    LogLine {
        node_id: "n".to_owned(),
        service_id: "s".to_owned(),
        task_id: "t".to_owned(),
        time: OffsetDateTime::UNIX_EPOCH,
        stderr,
        data: Bytes::from_static(data.as_bytes()),
    }
}

impl Cluster for Talkative {
    fn daemon(&self) -> DaemonInfo {
        self.inner.daemon()
    }
    fn local(&self) -> LocalNode {
        self.inner.local()
    }
    fn now(&self) -> OffsetDateTime {
        self.inner.now()
    }
    async fn init(&self, request: InitRequest) -> Result<String, ClusterError> {
        self.inner.init(request).await
    }
    async fn join(&self, request: JoinRequest) -> Result<(), ClusterError> {
        self.inner.join(request).await
    }
    async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        self.inner.leave(force).await
    }
    async fn unlock(&self, key: Zeroizing<String>) -> Result<(), ClusterError> {
        self.inner.unlock(key).await
    }
    fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> impl Future<Output = Result<R, ClusterError>> + Send {
        self.inner.read(read)
    }
    async fn propose(&self, actor: Actor, op: Op) -> Result<Applied, ClusterError> {
        self.inner.propose(actor, op).await
    }
    async fn update_cluster(
        &self,
        actor: Actor,
        cluster: objects::Cluster,
        expected_version: u64,
    ) -> Result<(), ClusterError> {
        self.inner
            .update_cluster(actor, cluster, expected_version)
            .await
    }
    fn changes(&self) -> broadcast::Receiver<ChangeRecord> {
        self.inner.changes()
    }
    async fn logs(
        &self,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, ClusterError>>, ClusterError> {
        let dropped = self.dropped.lock().unwrap().take();
        let lines = stream::iter([Ok(line("out\n", false)), Ok(line("err\n", true))]);
        let more: Vec<_> = match self.more {
            More::Nothing => Vec::new(),
            More::Failures => (0..2)
                .map(|_| Err(ClusterError::Internal("node is gone".to_owned())))
                .collect(),
            More::Lines(count, after) => {
                let long = LogLine {
                    time: self.now() + after,
                    data: Bytes::from_static(&[b'x'; LONG]),
                    ..line("", false)
                };
                (0..count).map(|_| Ok(long.clone())).collect()
            }
        };
        let end = if request.follow {
            stream::pending().boxed()
        } else {
            stream::empty().boxed()
        };
        self.asked.lock().unwrap().push(request);
        // The sender goes away with the stream.
        Ok(lines
            .chain(stream::iter(more))
            .chain(end)
            .map(move |item| {
                let _held = &dropped;
                item
            })
            .boxed())
    }
}

fn service(tty: bool) -> Value {
    json!({"Name": "web", "TaskTemplate": {"ContainerSpec": {"Image": "bb:1", "TTY": tty}}})
}

async fn body(client: &Client, path: &str) -> (u16, Option<String>, Bytes) {
    let response = client.open("GET", path, &[], &Value::Null).await;
    let content_type = response.headers().get("content-type");
    let content_type = content_type.map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, content_type, body)
}

#[tokio::test]
async fn a_failure_ends_the_stream_with_a_frame_of_its_own() {
    let (cluster, _) = Talkative::new(More::Failures).await;
    let client = Client::of(&cluster);
    client.create(&service(false)).await;
    let (status, _, body) = body(&client, "/services/web/logs?stdout=1").await;
    assert_eq!(status, 200);
    let expected = [
        &b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n"[..],
        b"\x03\0\0\0\0\0\0\x22Error grabbing logs: node is gone\n",
    ];
    assert_eq!(&body[..], expected.concat());
}

#[tokio::test]
async fn frames_have_the_content_type_of_the_version() {
    let (cluster, _) = Talkative::new(More::Nothing).await;
    let client = Client::of(&cluster);
    let id = client.create(&service(false)).await;
    let frames: &[u8] = b"\x01\0\0\0\0\0\0\x04out\n\x02\0\0\0\0\0\0\x04err\n";
    let newer = body(&client, "/services/web/logs?stdout=1&stderr=1&tail=3").await;
    assert_eq!(
        newer.1.as_deref(),
        Some("application/vnd.docker.multiplexed-stream")
    );
    assert_eq!(&newer.2[..], frames);
    let older = body(&client, "/v1.41/services/web/logs?stdout=1&stderr=1").await;
    assert_eq!(older.1, None);
    assert_eq!(&older.2[..], frames);
    let asked = cluster.asked.lock().unwrap();
    assert_eq!(asked[0].service_ids, [id]);
    assert_eq!(asked[0].tail, Some(3));
    assert!(asked[0].task_ids.is_empty() && !asked[0].follow);
}

#[tokio::test]
async fn a_terminal_has_bare_lines() {
    let (cluster, _) = Talkative::new(More::Nothing).await;
    let client = Client::of(&cluster);
    client.create(&service(true)).await;
    let (_, content_type, body) = body(&client, "/services/web/logs?stdout=1&stderr=1").await;
    assert_eq!(
        content_type.as_deref(),
        Some("application/vnd.docker.raw-stream")
    );
    assert_eq!(&body[..], b"out\nerr\n");
}

#[tokio::test]
async fn lines_are_not_asked_for_when_the_client_is_gone() {
    let (cluster, is_dropped) = Talkative::new(More::Nothing).await;
    let client = Client::of(&cluster);
    client.create(&service(false)).await;
    let path = "/services/web/logs?stdout=1&stderr=1&follow=1";
    let response = client.open("GET", path, &[], &Value::Null).await;
    let mut lines = response.into_body();
    let first = lines.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[8..], b"out\n");
    drop(lines);
    // The sender was dropped with the stream, unused.
    let gone = tokio::time::timeout(Duration::from_secs(5), is_dropped)
        .await
        .unwrap();
    assert!(gone.is_err());
}

/// What the daemon says last.
fn frame(stream: u8, text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap();
    let mut frame = vec![stream, 0, 0, 0];
    frame.extend(length.to_be_bytes());
    frame.extend(text);
    frame
}

async fn opened(client: &Client, query: &str) -> Body {
    let path = format!("/services/web/logs?stdout=1&stderr=1{query}");
    let response = client.open("GET", &path, &[], &Value::Null).await;
    assert_eq!(response.status(), 200);
    response.into_body()
}

async fn rest(body: Body) -> Bytes {
    body.collect().await.unwrap().to_bytes()
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_reads_nothing_of_what_is_printed_now_is_ended() {
    let now = More::Lines(1000, time::Duration::SECOND);
    let (cluster, is_dropped) = Talkative::new(now).await;
    let client = Client::of(&cluster);
    client.create(&service(false)).await;
    let begin = Instant::now();
    let body = opened(&client, "&follow=1").await;
    // Nobody asks for lines any more, though the client is there still.
    assert!(is_dropped.await.is_err());
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
    let all = rest(body).await;
    let last = frame(
        3,
        b"Error grabbing logs: lines came faster than they were read, and none was read for 10 s; ask again with since\n",
    );
    assert!(all.ends_with(&last));
    let waited = all.len() - last.len();
    assert!(
        waited <= 1 << 20 && waited > (1 << 20) - 2 * LONG,
        "{waited}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_printed_before_waits_for_its_reader() {
    for (query, age) in [("&follow=1", -1), ("", 1)] {
        let lines = More::Lines(200, time::Duration::seconds(age));
        let (cluster, is_dropped) = Talkative::new(lines).await;
        let client = Client::of(&cluster);
        client.create(&service(false)).await;
        let mut body = opened(&client, query).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let mut bytes = 0;
        while bytes < 200 * LONG {
            bytes += body
                .frame()
                .await
                .unwrap()
                .unwrap()
                .into_data()
                .unwrap()
                .len();
        }
        drop(body);
        assert!(is_dropped.await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn lines_after_until_are_left_out_and_following_ends_there() {
    let (cluster, _) = Talkative::new(More::Lines(1, time::Duration::seconds(30))).await;
    let client = Client::of(&cluster);
    client.create(&service(false)).await;
    let two = [frame(1, b"out\n"), frame(2, b"err\n")].concat();
    let now = cluster.now().unix_timestamp();
    for until in [now - 10, now + 10] {
        let left = OffsetDateTime::from_unix_timestamp(until).unwrap() - cluster.now();
        let begin = Instant::now();
        let body = opened(&client, &format!("&follow=1&until={until}")).await;
        assert_eq!(&rest(body).await[..], two);
        // Timers count in milliseconds.
        let (left, spent) = (left.max(time::Duration::ZERO), begin.elapsed());
        assert!(spent >= left && spent < left + Duration::from_millis(2));
    }
    let follow: Vec<bool> = cluster
        .asked
        .lock()
        .unwrap()
        .iter()
        .map(|asked| asked.follow)
        .collect();
    assert_eq!(follow, [false, true]);
    let body = opened(&client, &format!("&until={}", now + 31)).await;
    assert_eq!(rest(body).await.len(), two.len() + 8 + LONG);
}
