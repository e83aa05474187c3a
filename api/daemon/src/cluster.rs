//! The daemon as the API's cluster.

use std::time::Duration;

use futures::{StreamExt, stream::BoxStream};
use time::OffsetDateTime;
use tokio::sync::broadcast;
use tokio_stream::wrappers::ReceiverStream;
use waxseal_agent::native::check_spec;
use waxseal_api::{
    Cluster, ClusterError, DaemonInfo, InitRequest, JoinRequest, LocalNode, LogLine, LogRequest,
    ManagerGroup,
};
use waxseal_ca::rotation::UnsignedRoot;
use waxseal_cluster::{
    Applied, ChangeRecord, State, date_time,
    objects::{Actor, Cluster as ClusterObject, ContainerSpec, UpdateCluster, command::Op},
    timestamp,
};
use waxseal_manager::{LogsError, ProposeError, ReadError};
use waxseal_wire::swarmkit::{LogMessage, LogSelector, LogStream, LogSubscriptionOptions};
use zeroize::Zeroizing;

use crate::{daemon::Daemon, text::chain_text};

/// Implemented for a handle, so that work can go on behind a caller's back.
#[derive(Clone)]
pub struct DaemonCluster(pub std::sync::Arc<Daemon>);

impl Cluster for DaemonCluster {
    fn daemon(&self) -> DaemonInfo {
        self.0.shared.info.clone()
    }

    fn local(&self) -> LocalNode {
        self.0.local_node()
    }

    fn now(&self) -> OffsetDateTime {
        self.0.now()
    }

    fn certificate_expiry(&self) -> Option<OffsetDateTime> {
        Some(self.0.view().tls.as_ref()?.identity()?.not_after)
    }

    fn certificate_renewal(&self) -> Option<OffsetDateTime> {
        self.0.view().agent.as_ref()?.borrow().renewal.due
    }

    fn managers(&self) -> Option<ManagerGroup> {
        self.0.manager_group()
    }

    fn check_native(&self, spec: &ContainerSpec) -> Result<(), String> {
        check_spec(spec).map_err(|error| chain_text(&error))
    }

    async fn contact_manager(&self, addr: String) -> Result<(), ClusterError> {
        let manager = self.0.manager()?;
        let found = manager.add_peer(&addr).await;
        found.map_err(|error| ClusterError::Unavailable(chain_text(&error)))?;
        self.0.know_manager(addr).await
    }

    async fn reaches_signer(&self, urls: Vec<String>, root: Vec<u8>) -> Result<bool, ClusterError> {
        let signer = self.0.manager()?.external_signer(urls, &root);
        let signer = signer.map_err(|error| ClusterError::InvalidArgument(chain_text(&error)))?;
        Ok(signer.is_reachable().await)
    }

    async fn cross_sign(
        &self,
        urls: Vec<String>,
        root: Vec<u8>,
        new: &UnsignedRoot,
    ) -> Result<String, ClusterError> {
        let internal =
            |error: &(dyn std::error::Error + 'static)| ClusterError::Internal(chain_text(error));
        let signer = self.0.manager()?.external_signer(urls, &root);
        let signer = signer.map_err(|error| internal(&error))?;
        let signed = signer.cross_sign(new.request.clone(), &new.info, self.now());
        signed.await.map_err(|error| internal(&error))
    }

    async fn init(&self, request: InitRequest) -> Result<String, ClusterError> {
        // A caller that goes away does not leave half a cluster.
        detached(&self.0, async move |daemon| daemon.create(request).await).await
    }

    async fn join(&self, request: JoinRequest) -> Result<(), ClusterError> {
        self.0.join_cluster(request).await
    }

    async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        detached(&self.0, async move |daemon| {
            daemon.leave_cluster(force).await
        })
        .await
    }

    async fn unlock(&self, key: Zeroizing<String>) -> Result<(), ClusterError> {
        detached(&self.0, async move |daemon| daemon.unlock_with(key).await).await
    }

    async fn read<R: Send + 'static>(
        &self,
        read: impl FnOnce(&State) -> R + Send + 'static,
    ) -> Result<R, ClusterError> {
        let manager = self.0.manager()?;
        manager.linearize().await.map_err(read_error)?;
        Ok(manager.read(read))
    }

    fn propose(
        &self,
        actor: Actor,
        op: Op,
    ) -> impl Future<Output = Result<Applied, ClusterError>> + Send {
        let proposed = self.0.manager().map(|manager| manager.propose(actor, op));
        async move { proposed?.await.map_err(cluster_error) }
    }

    async fn update_cluster(
        &self,
        actor: Actor,
        cluster: ClusterObject,
        expected_version: u64,
    ) -> Result<(), ClusterError> {
        let update = UpdateCluster {
            cluster: Some(cluster),
            expected_version,
        };
        self.propose(actor, Op::UpdateCluster(update)).await?;
        detached(&self.0, async move |daemon| daemon.follow_key().await).await
    }

    fn changes(&self) -> broadcast::Receiver<ChangeRecord> {
        self.0.shared.changes.subscribe()
    }

    async fn logs(
        &self,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, ClusterError>>, ClusterError> {
        let (selector, options) = subscription(request);
        let lines =
            self.0
                .manager()?
                .logs(selector, options)
                .await
                .map_err(|error| match error {
                    LogsError::NoLeader => ClusterError::NoLeader,
                    other => ClusterError::Unavailable(other.to_string()),
                })?;
        let lines = ReceiverStream::new(lines).map(|line| match line {
            Ok(message) => Ok(log_line(message)),
            Err(missing) => Err(ClusterError::Unavailable(missing.to_string())),
        });
        Ok(lines.boxed())
    }

    fn deadline(&self) -> Duration {
        Duration::from_secs(20)
    }
}

/// Runs a transition to its end even if the caller goes away.
async fn detached<T, F>(
    daemon: &std::sync::Arc<Daemon>,
    work: impl FnOnce(std::sync::Arc<Daemon>) -> F,
) -> Result<T, ClusterError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ClusterError>> + Send + 'static,
{
    match tokio::spawn(work(std::sync::Arc::clone(daemon))).await {
        Ok(result) => result,
        Err(error) => Err(ClusterError::Internal(chain_text(&error))),
    }
}

fn cluster_error(error: ProposeError) -> ClusterError {
    match error {
        ProposeError::Refused(refusal) => ClusterError::Refused(refusal),
        ProposeError::Malformed(error) => ClusterError::InvalidArgument(error.to_string()),
        ProposeError::NoLeader | ProposeError::Stopped => ClusterError::NoLeader,
        ProposeError::Unknown => ClusterError::Unavailable(error.to_string()),
        ProposeError::NoSpace { reason } => ClusterError::Storage(reason),
        other => ClusterError::Internal(chain_text(&other)),
    }
}

fn read_error(error: ReadError) -> ClusterError {
    match error {
        ReadError::NoLeader => ClusterError::NoLeader,
        other => ClusterError::Unavailable(other.to_string()),
    }
}

fn subscription(request: LogRequest) -> (LogSelector, LogSubscriptionOptions) {
    let mut streams = Vec::new();
    if request.stdout {
        streams.push(LogStream::Stdout.into());
    }
    if request.stderr {
        streams.push(LogStream::Stderr.into());
    }
    // 0: all; -1: none; -(n + 1): the last n.
    let tail = request
        .tail
        .map_or(0, |lines| -1 - i64::try_from(lines).unwrap_or(i64::MAX - 1));
    let selector = LogSelector {
        service_ids: request.service_ids,
        node_ids: Vec::new(),
        task_ids: request.task_ids,
    };
    let options = LogSubscriptionOptions {
        streams,
        follow: request.follow,
        tail,
        since: request.since.map(timestamp),
    };
    (selector, options)
}

fn log_line(message: LogMessage) -> LogLine {
    let stderr = message.stream() == LogStream::Stderr;
    let context = message.context.unwrap_or_default();
    LogLine {
        node_id: context.node_id,
        service_id: context.service_id,
        task_id: context.task_id,
        time: message
            .timestamp
            .as_ref()
            .and_then(date_time)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        stderr,
        data: message.data.into(),
    }
}
