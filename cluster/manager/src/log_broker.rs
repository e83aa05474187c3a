//! The LogBroker service: asks nodes for their tasks' output and gathers it.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{Request, Response, Status, Streaming};
use waxseal_cluster::{
    Change, State,
    objects::{Task, TaskState},
};
use waxseal_wire::swarmkit::{
    ListenSubscriptionsRequest, LogMessage, LogSelector, LogSubscriptionOptions,
    PublishLogsMessage, PublishLogsResponse, SubscriptionMessage, log_broker_server,
};

use crate::{
    authorize,
    core::{Core, random_id},
};

/// Subscriptions that may wait for a node to read them.
const LISTENER_BACKLOG: usize = 64;
/// Messages of lines that may wait for the reader; then the nodes wait.
const LINE_BACKLOG: usize = 64;
/// Subscriptions at once: each is a reader of the API.
const MAX_SUBSCRIPTIONS: usize = 256;

/// Output of tasks, as nodes send it; the error names nodes that did not.
pub type LogLines = mpsc::Receiver<Result<LogMessage, IncompleteLogs>>;

/// Some nodes did not send their part.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "warning: incomplete log stream. some logs could not be retrieved for the following reasons: {}",
    nodes.iter().map(|node| format!("node {node} is not available")).collect::<Vec<_>>().join(", ")
)]
pub struct IncompleteLogs {
    /// Ids of the nodes.
    pub nodes: Vec<String>,
}

/// Too many readers of logs at once.
#[derive(Debug, thiserror::Error)]
#[error(
    "{MAX_SUBSCRIPTIONS} log readers are served at once already; end one of them and try again"
)]
pub struct TooManyReaders;

/// What was asked of nodes and not ended yet.
pub(crate) struct Subscriptions {
    core: Arc<Core>,
    tasks: TaskTracker,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    active: BTreeMap<String, Subscription>,
    listeners: BTreeMap<String, mpsc::Sender<Result<SubscriptionMessage, Status>>>,
}

struct Subscription {
    selector: LogSelector,
    options: LogSubscriptionOptions,
    lines: mpsc::Sender<Result<LogMessage, IncompleteLogs>>,
    /// Nodes that were asked and have not ended their part.
    open: BTreeSet<String>,
    asked: BTreeSet<String>,
    missing: BTreeSet<String>,
    /// Lets go of the lines when the subscription is removed.
    _ended: DropGuard,
}

impl Subscription {
    fn follow(&self) -> bool {
        self.options.follow
    }

    fn selects(&self, task: &Task) -> bool {
        self.selector.service_ids.contains(&task.service_id)
            || self.selector.task_ids.contains(&task.id)
            || self.selector.node_ids.contains(&task.node_id)
    }

    fn message(&self, id: &str, close: bool) -> SubscriptionMessage {
        SubscriptionMessage {
            id: id.to_owned(),
            selector: Some(self.selector.clone()),
            options: Some(self.options.clone()),
            close,
        }
    }
}

impl Subscriptions {
    pub(crate) fn new(core: Arc<Core>, tasks: TaskTracker) -> Arc<Subscriptions> {
        Arc::new(Subscriptions {
            core,
            tasks,
            table: Mutex::default(),
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the nodes that hold matching tasks. The lines end when each of them
    /// has, or never with `follow`; dropping the receiver tells the nodes to stop.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        selector: LogSelector,
        options: LogSubscriptionOptions,
    ) -> Result<LogLines, TooManyReaders> {
        let (lines, receiver) = mpsc::channel(LINE_BACKLOG);
        let ended = CancellationToken::new();
        let mut subscription = Subscription {
            selector,
            options,
            lines: lines.clone(),
            open: BTreeSet::new(),
            asked: BTreeSet::new(),
            missing: BTreeSet::new(),
            _ended: ended.clone().drop_guard(),
        };
        let nodes = self.core.read(|state| nodes_of(state, &subscription));
        let Ok(id) = random_id() else {
            return Err(TooManyReaders);
        };
        {
            let mut table = self.table();
            if table.active.len() >= MAX_SUBSCRIPTIONS {
                return Err(TooManyReaders);
            }
            for node in nodes {
                ask(&table.listeners, &mut subscription, &id, &node);
            }
            table.active.insert(id.clone(), subscription);
        }
        self.end_if_done(&id);
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = lines.closed() => this.close(&id),
                () = ended.cancelled() => {}
            }
        });
        Ok(receiver)
    }

    /// Asks a node that was given a task which a follower wants.
    pub(crate) fn task_changed(&self, change: &Change) {
        let Change::Task {
            new: Some(task), ..
        } = change
        else {
            return;
        };
        if task.node_id.is_empty() {
            return;
        }
        let mut table = self.table();
        let Table { active, listeners } = &mut *table;
        for (id, subscription) in active.iter_mut() {
            if subscription.follow()
                && subscription.selects(task)
                && !subscription.asked.contains(&task.node_id)
            {
                ask(listeners, subscription, id, &task.node_id);
            }
        }
    }

    /// A node listens: it gets what it has not been asked yet.
    fn listen(&self, node_id: &str) -> mpsc::Receiver<Result<SubscriptionMessage, Status>> {
        let (sender, receiver) = mpsc::channel(LISTENER_BACKLOG);
        let mut table = self.table();
        table.listeners.insert(node_id.to_owned(), sender);
        let Table { active, listeners } = &mut *table;
        for (id, subscription) in active.iter_mut().filter(|(_, sub)| sub.follow()) {
            let concerned = self.core.read(|state| nodes_of(state, subscription));
            if concerned.contains(node_id) {
                ask(listeners, subscription, id, node_id);
            }
        }
        receiver
    }

    /// A node does not listen any more: its open parts are missing.
    fn unlisten(&self, node_id: &str) {
        let mut ended = Vec::new();
        {
            let mut table = self.table();
            // A newer stream of the same node may have taken the place.
            if table
                .listeners
                .get(node_id)
                .is_some_and(|sender| !sender.is_closed())
            {
                return;
            }
            table.listeners.remove(node_id);
            for (id, subscription) in &mut table.active {
                if subscription.open.remove(node_id) {
                    subscription.missing.insert(node_id.to_owned());
                    ended.push(id.clone());
                }
            }
        }
        for id in ended {
            self.end_if_done(&id);
        }
    }

    fn node_done(&self, id: &str, node_id: &str) {
        if let Some(subscription) = self.table().active.get_mut(id) {
            subscription.open.remove(node_id);
        }
        self.end_if_done(id);
    }

    /// Ends a subscription that waits for nobody; a follower ends by itself.
    fn end_if_done(&self, id: &str) {
        let mut table = self.table();
        let done = table
            .active
            .get(id)
            .is_some_and(|subscription| !subscription.follow() && subscription.open.is_empty());
        if !done {
            return;
        }
        if let Some(subscription) = table.active.remove(id)
            && !subscription.missing.is_empty()
        {
            let nodes = subscription.missing.into_iter().collect();
            // The reader's buffer may be full; then a task of its own delivers it.
            let lines = subscription.lines;
            self.tasks.spawn(async move {
                let _ = lines.send(Err(IncompleteLogs { nodes })).await;
            });
        }
    }

    fn close(&self, id: &str) {
        let mut table = self.table();
        let Some(subscription) = table.active.remove(id) else {
            return;
        };
        for node in &subscription.open {
            if let Some(listener) = table.listeners.get(node) {
                let _ = listener.try_send(Ok(subscription.message(id, true)));
            }
        }
    }

    /// The sender of lines of a subscription that this node was asked for.
    fn lines_for(
        &self,
        id: &str,
        node_id: &str,
    ) -> Option<mpsc::Sender<Result<LogMessage, IncompleteLogs>>> {
        let table = self.table();
        let subscription = table.active.get(id)?;
        subscription
            .asked
            .contains(node_id)
            .then(|| subscription.lines.clone())
    }

    /// Keeps the lines of tasks that the node holds and the reader asked for.
    fn keep_own(&self, id: &str, node_id: &str, messages: Vec<LogMessage>) -> Vec<LogMessage> {
        let table = self.table();
        let Some(subscription) = table.active.get(id) else {
            return Vec::new();
        };
        self.core.read(|state| {
            messages
                .into_iter()
                .filter(|message| {
                    message
                        .context
                        .as_ref()
                        .and_then(|context| state.task(&context.task_id))
                        .is_some_and(|task| task.node_id == node_id && subscription.selects(task))
                })
                .collect()
        })
    }
}

fn ask(
    listeners: &BTreeMap<String, mpsc::Sender<Result<SubscriptionMessage, Status>>>,
    subscription: &mut Subscription,
    id: &str,
    node_id: &str,
) {
    let message = subscription.message(id, false);
    let sent = listeners
        .get(node_id)
        .is_some_and(|sender| sender.try_send(Ok(message)).is_ok());
    if sent {
        subscription.asked.insert(node_id.to_owned());
        subscription.open.insert(node_id.to_owned());
    } else {
        subscription.missing.insert(node_id.to_owned());
    }
}

/// The nodes that hold output a subscription wants: tasks that have started.
fn nodes_of(state: &State, subscription: &Subscription) -> BTreeSet<String> {
    let LogSelector {
        service_ids,
        task_ids,
        ..
    } = &subscription.selector;
    let of_services = service_ids.iter().flat_map(|id| state.tasks_of_service(id));
    let of_tasks = task_ids.iter().filter_map(|id| state.task(id));
    of_services
        .chain(of_tasks)
        .filter(|task| !task.node_id.is_empty())
        .filter(|task| {
            task.status
                .as_ref()
                .is_some_and(|status| status.state() >= TaskState::Starting)
                || subscription.follow()
        })
        .map(|task| task.node_id.clone())
        .collect()
}

/// Serves the node side.
pub(crate) struct LogBroker {
    core: Arc<Core>,
    subscriptions: Arc<Subscriptions>,
}

impl LogBroker {
    pub(crate) fn new(core: Arc<Core>, subscriptions: Arc<Subscriptions>) -> LogBroker {
        LogBroker {
            core,
            subscriptions,
        }
    }
}

/// Tells the broker when the node's stream is dropped.
struct Listening {
    messages: ReceiverStream<Result<SubscriptionMessage, Status>>,
    subscriptions: Arc<Subscriptions>,
    node_id: String,
}

impl Stream for Listening {
    type Item = Result<SubscriptionMessage, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        Pin::new(&mut self.messages).poll_next(context)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.messages.close();
        self.subscriptions.unlisten(&self.node_id);
    }
}

#[tonic::async_trait]
impl log_broker_server::LogBroker for LogBroker {
    type ListenSubscriptionsStream =
        Pin<Box<dyn Stream<Item = Result<SubscriptionMessage, Status>> + Send>>;

    async fn listen_subscriptions(
        &self,
        request: Request<ListenSubscriptionsRequest>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        let identity = authorize::member(&self.core, &request)?;
        let messages = ReceiverStream::new(self.subscriptions.listen(&identity.node_id));
        Ok(Response::new(Box::pin(Listening {
            messages,
            subscriptions: Arc::clone(&self.subscriptions),
            node_id: identity.node_id,
        })))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let identity = authorize::member(&self.core, &request)?;
        let node_id = identity.node_id.as_str();
        let mut stream = request.into_inner();
        let mut subscription_id = None;
        while let Some(message) = stream.next().await {
            let PublishLogsMessage {
                subscription_id: id,
                messages,
                close,
            } = message?;
            if subscription_id.get_or_insert_with(|| id.clone()) != &id {
                return Err(Status::invalid_argument(
                    "one stream publishes one subscription",
                ));
            }
            let Some(lines) = self.subscriptions.lines_for(&id, node_id) else {
                return Err(Status::not_found("log subscription not found"));
            };
            for line in self.subscriptions.keep_own(&id, node_id, messages) {
                if lines.send(Ok(line)).await.is_err() {
                    return Ok(Response::new(PublishLogsResponse {}));
                }
            }
            if close {
                break;
            }
        }
        if let Some(id) = subscription_id {
            self.subscriptions.node_done(&id, node_id);
        }
        Ok(Response::new(PublishLogsResponse {}))
    }
}
