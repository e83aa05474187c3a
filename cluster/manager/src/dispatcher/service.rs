//! The Dispatcher service.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use waxseal_ca::NodeIdentity;
use waxseal_cluster::{
    Change,
    objects::{
        NodeClock, NodeObservation, NodeState, NodeStatus, ObserveNodes, ReportTasks, TaskReport,
        command::Op,
    },
    returns,
};
use waxseal_wire::{
    Peer as Caller, limits,
    swarmkit::{
        AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, HeartbeatResponse,
        SessionMessage, SessionRequest, UpdateTaskStatusRequest, UpdateTaskStatusResponse,
        dispatcher_server,
    },
};

use super::{
    assignments::Sent,
    description,
    messages::run_session,
    reports,
    session::{AssignmentsTurn, Session, Sessions},
};
use crate::{
    authorize,
    core::{Core, random_id},
    error::propose_status,
};

/// Messages that wait in one stream; a node that does not read holds no more.
const STREAM_BACKLOG: usize = 2;
/// The least time between two assignment messages to a node: changes that come
/// together go together. swarmkit waits 100 ms after the latest one.
const ASSIGNMENT_PAUSE: Duration = Duration::from_millis(20);
/// Reports of one node within this time share a command.
const REPORT_PAUSE: Duration = Duration::from_millis(100);
/// Nodes beat no faster: with a shorter period each delay makes one flap.
const LEAST_PERIOD: Duration = Duration::from_secs(1);
/// Heartbeat period if the cluster's spec has none.
const DEFAULT_PERIOD: Duration = Duration::from_secs(5);

/// Serves sessions and assignments.
pub(crate) struct Dispatcher {
    core: Arc<Core>,
    sessions: Arc<Sessions>,
    tasks: TaskTracker,
}

impl Dispatcher {
    pub(crate) fn new(core: Arc<Core>, sessions: Arc<Sessions>, tasks: TaskTracker) -> Dispatcher {
        Dispatcher {
            core,
            sessions,
            tasks,
        }
    }

    fn session(&self, node_id: &str, session_id: &str) -> Result<Arc<Session>, Status> {
        self.sessions
            .current(node_id, session_id)
            .ok_or_else(|| Status::invalid_argument("session invalid"))
    }

    /// Where a node is reached: where it calls from. A manager calls itself at home,
    /// and says where others reach it.
    fn shown_address(&self, node_id: &str, caller: SocketAddr) -> String {
        let advertised: Option<SocketAddr> = self.core.advertise_addr.parse().ok();
        match advertised {
            Some(advertised) if *node_id == self.core.node_id => advertised,
            _ => caller,
        }
        .ip()
        .to_canonical()
        .to_string()
    }

    /// The serial that goes on record with a session, once all managers keep it there.
    fn session_serial(&self, identity: &NodeIdentity) -> Vec<u8> {
        match self.core.read(returns::are_on_record) {
            true => identity.serial.as_bytes().to_vec(),
            false => Vec::new(),
        }
    }

    /// The node's clock, if it told it and that is news, once all managers keep it.
    fn clock_told<T>(&self, session: &Session, request: &Request<T>) -> Option<NodeClock> {
        let now = self.core.clock.now();
        self.core.read(|state| {
            let node = state.node(&session.node_id).map(|node| &**node);
            let told = session.clock.told(request, node, now);
            told.filter(|_| returns::are_on_record(state))
        })
    }

    /// Puts on record what an engine's reports say of its clock. Nobody waits for it.
    fn guess_clock(&self, session: &Session, reports: &[TaskReport]) {
        let now = self.core.clock.now();
        let clock = self.core.read(|state| {
            let guessed = session.clock.guess(state, &session.node_id, reports, now);
            guessed.filter(|_| returns::are_on_record(state))
        });
        if clock.is_none() {
            return;
        }
        let observed = NodeObservation {
            node_id: session.node_id.clone(),
            clock,
            ..NodeObservation::default()
        };
        let op = Op::ObserveNodes(ObserveNodes {
            nodes: vec![observed],
        });
        let noting = self.core.propose_as("dispatcher", op);
        self.tasks.spawn(async move {
            if let Err(error) = noting.await {
                tracing::debug!(%error, "a node's clock is not on record");
            }
        });
    }

    fn period(&self) -> Duration {
        self.core.read(|state| {
            state
                .cluster()
                .and_then(|cluster| cluster.spec.as_ref()?.dispatcher.as_ref()?.heartbeat_period)
                .and_then(|period| Duration::try_from(period).ok())
                .filter(|period| !period.is_zero())
                .unwrap_or(DEFAULT_PERIOD)
                .max(LEAST_PERIOD)
        })
    }
}

/// Messages on their way into a stream. Boxed: a channel makes room for 32 at once.
pub(super) type ToNode<T> = mpsc::Sender<Result<Box<T>, Status>>;
type MessageStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl dispatcher_server::Dispatcher for Dispatcher {
    type SessionStream = MessageStream<SessionMessage>;
    type AssignmentsStream = MessageStream<AssignmentsMessage>;

    async fn session(
        &self,
        mut request: Request<SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        // 1. Who calls, and is it a member.
        let identity = authorize::member(&self.core, &request)?;
        let address = self.shown_address(&identity.node_id, Caller::of(&request)?.address);
        let description = description::kept(request.get_mut().description.take())?;
        // 2. Not more often than a healthy node would.
        let fresh = random_id().map_err(|_| Status::internal("no random bytes"))?;
        let session_id = &request.get_ref().session_id;
        let session = self
            .sessions
            .open(&identity.node_id, session_id, fresh, self.period())
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let clock = self.clock_told(&session, &request);
        let opening = Opening {
            sessions: &self.sessions,
            session: Some(session),
        };
        // 3. On record before the first message.
        let observed = NodeObservation {
            node_id: identity.node_id.clone(),
            description,
            status: Some(NodeStatus {
                state: NodeState::Ready.into(),
                message: String::new(),
                addr: address,
            }),
            session_started: true,
            clock,
            session_serial: self.session_serial(&identity),
            ..NodeObservation::default()
        };
        self.core
            .propose_as(
                "dispatcher",
                Op::ObserveNodes(ObserveNodes {
                    nodes: vec![observed],
                }),
            )
            .await
            .map_err(|error| propose_status(&error))?;
        // 4. The stream, until the session ends on either side.
        let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
        let core = Arc::clone(&self.core);
        let sessions = Arc::clone(&self.sessions);
        let running = run_session(core, sessions, opening.done(), sender);
        self.tasks.spawn(running);
        Ok(Response::new(stream_of(receiver)))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let identity = authorize::member(&self.core, &request)?;
        let session = self.session(&identity.node_id, &request.get_ref().session_id)?;
        let period = jittered(self.period());
        session.beat(period);
        Ok(Response::new(HeartbeatResponse {
            period: Some(prost_types::Duration::try_from(period).unwrap_or_default()),
        }))
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        let identity = authorize::member(&self.core, &request)?;
        let request = request.into_inner();
        let session = self.session(&identity.node_id, &request.session_id)?;
        if request.too_many {
            return Err(Status::resource_exhausted(format!(
                "more than {} statuses or {} ports in one call; send fewer at once",
                limits::STATUS_UPDATES,
                limits::STATUS_PORTS
            )));
        }
        let updates = request.updates.into_iter().map(|update| TaskReport {
            task_id: update.task_id,
            status: update.status,
        });
        let node_id = identity.node_id;
        let reports = self
            .core
            .read(|state| reports::news(state, &node_id, updates));
        if reports.is_empty() {
            return Ok(Response::new(UpdateTaskStatusResponse {}));
        }
        self.guess_clock(&session, &reports);
        let core = Arc::clone(&self.core);
        let write = move |reports| {
            let core = Arc::clone(&core);
            let node_id = node_id.clone();
            let op = Op::ReportTasks(ReportTasks { node_id, reports });
            async move { core.propose_as("dispatcher", op).await.map(drop) }
        };
        session
            .reports
            .add(reports, REPORT_PAUSE, &self.tasks, write)
            .await
            .map_err(|error| propose_status(&error))?;
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        request: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let identity = authorize::member(&self.core, &request)?;
        let session = self.session(&identity.node_id, &request.get_ref().session_id)?;
        let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
        let core = Arc::clone(&self.core);
        let turn = session
            .begin_assignments()
            .map_err(|error| Status::resource_exhausted(error.to_string()))?;
        self.tasks
            .spawn(run_assignments(core, session, turn, sender));
        Ok(Response::new(stream_of(receiver)))
    }
}

fn stream_of<T: Send + 'static>(
    receiver: mpsc::Receiver<Result<Box<T>, Status>>,
) -> MessageStream<T> {
    let messages = ReceiverStream::new(receiver);
    Box::pin(messages.map(|message| message.map(|message| *message)))
}

/// A session without a stream yet; dropped, it ends: the caller went away, or its
/// node could not be put on record.
struct Opening<'a> {
    sessions: &'a Sessions,
    session: Option<Arc<Session>>,
}

impl Opening<'_> {
    fn done(mut self) -> Arc<Session> {
        self.session.take().expect("taken here only")
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            self.sessions.end(session);
        }
    }
}

/// Wakes the sessions that a change concerns.
pub(crate) fn notify(sessions: &Sessions, change: &Change) {
    match change {
        Change::Cluster { .. } => {
            for session in sessions.all() {
                session.node_changed.notify_one();
            }
        }
        Change::Node { old, new } => {
            let Some(node) = new.as_ref().or(old.as_ref()) else {
                return;
            };
            if new.is_none() {
                sessions.close(&node.id);
            } else if let Some(session) = sessions.of_node(&node.id) {
                session.node_changed.notify_one();
            }
        }
        Change::Task { old, new } => {
            let nodes = [old, new].map(|task| task.as_ref().map(|task| task.node_id.as_str()));
            for node_id in nodes.into_iter().flatten().filter(|id| !id.is_empty()) {
                if let Some(session) = sessions.of_node(node_id) {
                    session.wake_assignments();
                }
            }
        }
        Change::Secret { .. }
        | Change::Config { .. }
        | Change::Service { .. }
        | Change::Certificate { .. } => {}
    }
}

/// Wakes every session: changes were lost, so anything may have changed.
pub(crate) fn notify_all(sessions: &Sessions) {
    for session in sessions.all() {
        session.node_changed.notify_one();
        session.wake_assignments();
    }
}

async fn run_assignments(
    core: Arc<Core>,
    session: Arc<Session>,
    turn: AssignmentsTurn,
    sender: ToNode<AssignmentsMessage>,
) {
    let AssignmentsTurn {
        mut tasks_changed,
        over,
    } = turn;
    let messages = send_assignments(&core, &session.node_id, &mut tasks_changed, &sender);
    let messages = Box::pin(messages);
    if over.run_until_cancelled(messages).await.is_some() {
        return;
    }
    let reason = match session.ended.is_cancelled() {
        true => "node must disconnect",
        false => "another stream of assignments has taken over",
    };
    let _ = sender.try_send(Err(Status::aborted(reason)));
}

/// Ends when the node hung up.
async fn send_assignments(
    core: &Core,
    node_id: &str,
    tasks_changed: &mut watch::Receiver<()>,
    sender: &ToNode<AssignmentsMessage>,
) {
    // What changes from here on is looked at again.
    tasks_changed.mark_unchanged();
    let (mut sent, mut messages) = core.read(|state| Sent::first(state, node_id));
    loop {
        for message in messages.drain(..) {
            if sender.send(Ok(Box::new(message))).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = tasks_changed.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
        tokio::time::sleep(ASSIGNMENT_PAUSE).await;
        tasks_changed.mark_unchanged();
        messages = core.read(|state| sent.next(state, node_id));
    }
}

/// `period` give or take a tenth, so that beats of many nodes spread.
fn jittered(period: Duration) -> Duration {
    let mut random = [0u8; 2];
    // Without random bytes all beat alike, which is only less even.
    let _ = getrandom::fill(&mut random);
    let part = f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX);
    period.mul_f64(0.9 + 0.2 * part)
}
