//! Logs through the routes.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{broadcast, oneshot};
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
/// to follow, or fail.
struct Talkative {
    inner: Arc<FakeCluster>,
    asked: Mutex<Vec<LogRequest>>,
    fails: bool,
    dropped: Mutex<Option<oneshot::Sender<()>>>,
}

impl Talkative {
    async fn new(fails: bool) -> (Arc<Talkative>, oneshot::Receiver<()>) {
        let (dropped, is_dropped) = oneshot::channel();
        let cluster = Talkative {
            inner: FakeCluster::manager().await,
            asked: Mutex::new(Vec::new()),
            fails,
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
        let end = if self.fails {
            let failure = || Err(ClusterError::Internal("node is gone".to_owned()));
            stream::iter([failure(), failure()]).boxed()
        } else if request.follow {
            stream::pending().boxed()
        } else {
            stream::empty().boxed()
        };
        self.asked.lock().unwrap().push(request);
        // The sender goes away with the stream.
        Ok(lines
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
    let (cluster, _) = Talkative::new(true).await;
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
    let (cluster, _) = Talkative::new(false).await;
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
    let (cluster, _) = Talkative::new(false).await;
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
    let (cluster, is_dropped) = Talkative::new(false).await;
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
