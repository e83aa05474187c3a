//! What managers ask of the one that leads.

use std::{pin::Pin, sync::Arc};

use futures::StreamExt;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status};
use waxseal_cluster::Wiped;
use waxseal_wire::{
    Peer,
    swarmkit::{LogSelector, LogSubscriptionOptions},
    waxseal::{
        LogsRequest, LogsResponse, Member, MembersRequest, MembersResponse, ProposeRequest,
        ProposeResponse, ReadIndexRequest, ReadIndexResponse, UnlockKeyRequest, UnlockKeyResponse,
        control_server,
    },
};

use super::outcome;
use crate::{
    authorize,
    core::Core,
    engine::Engine,
    log_broker::{LogLines, TooManyReaders},
};

/// Subscribes to the output of tasks; `None` where this manager does not lead.
pub(crate) type Logs = dyn Fn(LogSelector, LogSubscriptionOptions) -> Option<Result<LogLines, TooManyReaders>>
    + Send
    + Sync;

/// Serves `Control`.
pub(crate) struct ControlService {
    pub(crate) core: Arc<Core>,
    pub(crate) engine: Engine,
    pub(crate) logs: Box<Logs>,
}

impl ControlService {
    /// Refuses who is no manager now, or of another incarnation.
    fn check<T>(&self, request: &Request<T>, incarnation: u64) -> Result<(), Status> {
        authorize::manager(&self.core, request)?;
        self.core
            .read(|state| authorize::check_incarnation(state, incarnation))
    }
}

fn not_leading() -> Status {
    Status::unavailable("this manager does not lead the swarm")
}

#[tonic::async_trait]
impl control_server::Control for ControlService {
    type LogsStream = Pin<Box<dyn Stream<Item = Result<LogsResponse, Status>> + Send>>;

    async fn propose(
        &self,
        mut request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeResponse>, Status> {
        self.check(&request, request.get_ref().incarnation)?;
        let sealed = std::mem::take(&mut request.get_mut().command);
        let encoded = Peer::of(&request)?.sealing()?.open(sealed)?;
        let encoded = self.core.group.stamped(&encoded).map_err(|error| {
            Status::failed_precondition(format!("the command cannot be proposed: {error}"))
        })?;
        // Before and after: whoever asked applies it before it answers.
        self.engine.commits.awaited();
        let outcome = self.core.group.propose_as_leader(encoded).await;
        self.engine.commits.awaited();
        Ok(Response::new(ProposeResponse {
            version: self.core.read(|state| state.version()),
            outcome: Some(outcome::to_wire(outcome)),
        }))
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexResponse>, Status> {
        self.check(&request, request.get_ref().incarnation)?;
        // The lease first: what it covers is applied by now.
        if !self.core.group.holds_lease() {
            return Err(not_leading());
        }
        self.engine.commits.awaited();
        let version = self.core.read(|state| state.version());
        Ok(Response::new(ReadIndexResponse { version }))
    }

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        self.check(&request, 0)?;
        let LogsRequest { selector, options } = request.into_inner();
        let lines = (self.logs)(selector.unwrap_or_default(), options.unwrap_or_default());
        let lines = lines
            .ok_or_else(not_leading)?
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        let answers = ReceiverStream::new(lines).map(|line| {
            Ok(match line {
                Ok(message) => LogsResponse {
                    messages: vec![message],
                    incomplete_nodes: Vec::new(),
                },
                Err(missing) => LogsResponse {
                    messages: Vec::new(),
                    incomplete_nodes: missing.nodes,
                },
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn unlock_key(
        &self,
        request: Request<UnlockKeyRequest>,
    ) -> Result<Response<UnlockKeyResponse>, Status> {
        self.check(&request, 0)?;
        self.core
            .group
            .linearize()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        // Once more: it may have been demoted meanwhile.
        self.check(&request, 0)?;
        let sealing = Peer::of(&request)?.sealing()?;
        let (mut unlock_key, version) = self.core.read(|state| {
            let cluster = state.cluster();
            let key = cluster.and_then(|cluster| cluster.unlock_key.clone());
            let meta = cluster.and_then(|cluster| cluster.meta.as_ref());
            (key, waxseal_cluster::version_of(meta))
        });
        if let Some(record) = &mut unlock_key
            && !record.key.is_empty()
        {
            let key = Wiped::new(std::mem::take(&mut record.key));
            record.key = sealing.seal(&key);
        }
        Ok(Response::new(UnlockKeyResponse {
            unlock_key,
            version,
        }))
    }

    async fn members(
        &self,
        request: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        self.check(&request, 0)?;
        if !self.core.group.leads() {
            return Err(not_leading());
        }
        let members = self.engine.members().into_iter().map(|member| Member {
            raft_id: member.raft_id,
            node_id: member.node_id,
            addr: member.addr,
            voter: member.voter,
            leader: member.leader,
            reachable: member.reachable,
        });
        Ok(Response::new(MembersResponse {
            members: members.collect(),
        }))
    }
}
