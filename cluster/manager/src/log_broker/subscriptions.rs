//! Who reads which output, and which nodes were asked for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use time::OffsetDateTime;
use tokio::sync::mpsc;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::Status;
use waxseal_cluster::{
    Change, State, date_time,
    objects::{Task, TaskState},
};
use waxseal_wire::swarmkit::{
    LogContext, LogMessage, LogSelector, LogSubscriptionOptions, SubscriptionMessage,
};

use super::budget::{Budget, bound_line, dropped_note};
use crate::core::{Core, random_id};

/// Subscriptions at once: each is a reader of the API.
const MAX_SUBSCRIPTIONS: usize = 256;
/// Messages that may wait for a node to read them: each subscription is begun and
/// ended once.
const LISTENER_BACKLOG: usize = 2 * MAX_SUBSCRIPTIONS;
/// Lines on their way to a reader, for whom more waits where it is answered; then the nodes wait.
const LINE_BACKLOG: usize = 4;

/// Output of tasks, as nodes send it; the error names nodes that did not.
pub type LogLines = mpsc::Receiver<Result<LogMessage, IncompleteLogs>>;

type Lines = mpsc::Sender<Result<LogMessage, IncompleteLogs>>;
// Boxed: a channel makes room for 32 at once, and each node has one.
type ToNode = mpsc::Sender<Result<Box<SubscriptionMessage>, Status>>;
type FromBroker = mpsc::Receiver<Result<Box<SubscriptionMessage>, Status>>;

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
    /// Ends all subscriptions and listeners, also later ones.
    stopped: CancellationToken,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    active: BTreeMap<String, Subscription>,
    nodes: BTreeMap<String, Listens>,
    next_listener: u64,
}

/// The stream on which a node is asked.
struct Listens {
    number: u64,
    sender: ToNode,
    budget: Budget,
    /// Ends the stream when another takes its place.
    _over: DropGuard,
}

struct Subscription {
    selector: LogSelector,
    options: LogSubscriptionOptions,
    since: OffsetDateTime,
    lines: Lines,
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

    /// Asks a node, if it listens.
    fn ask(&mut self, nodes: &BTreeMap<String, Listens>, id: &str, node_id: &str) {
        let message = self.message(id, false);
        let sent = nodes
            .get(node_id)
            .is_some_and(|node| node.sender.try_send(Ok(Box::new(message))).is_ok());
        if sent {
            self.asked.insert(node_id.to_owned());
            self.open.insert(node_id.to_owned());
            self.missing.remove(node_id);
        } else {
            self.missing.insert(node_id.to_owned());
        }
    }

    /// A node has ended its part, or will not send it. One that a follower waits
    /// for can be asked again.
    fn end_part(&mut self, node_id: &str, complete: bool) {
        if self.open.remove(node_id) && !complete {
            self.missing.insert(node_id.to_owned());
            self.asked.remove(node_id);
        }
    }

    fn is_done(&self) -> bool {
        !self.follow() && self.open.is_empty()
    }
}

impl Table {
    /// Takes out what waits for nobody; a follower ends by itself.
    fn take_done(&mut self) -> Vec<Subscription> {
        self.active
            .extract_if(.., |_, subscription| subscription.is_done())
            .map(|(_, subscription)| subscription)
            .collect()
    }

    /// A stream of a node has ended: what was asked on it does not come any more.
    fn end_parts_of(&mut self, node_id: &str) {
        for subscription in self.active.values_mut() {
            subscription.end_part(node_id, false);
        }
    }
}

impl Subscriptions {
    pub(crate) fn new(
        core: Arc<Core>,
        tasks: TaskTracker,
        stopped: CancellationToken,
    ) -> Arc<Subscriptions> {
        Arc::new(Subscriptions {
            core,
            tasks,
            stopped,
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
        let ended = self.stopped.child_token();
        let mut subscription = Subscription {
            selector,
            options,
            since: self.core.clock.now(),
            lines: lines.clone(),
            open: BTreeSet::new(),
            asked: BTreeSet::new(),
            missing: BTreeSet::new(),
            _ended: ended.clone().drop_guard(),
        };
        let Ok(id) = random_id() else {
            return Err(TooManyReaders);
        };
        {
            let mut table = self.table();
            if table.active.len() >= MAX_SUBSCRIPTIONS {
                return Err(TooManyReaders);
            }
            // Under the lock: a change after it finds the subscription.
            let nodes = self.core.read(|state| nodes_of(state, &subscription));
            for node in nodes {
                subscription.ask(&table.nodes, &id, &node);
            }
            table.active.insert(id.clone(), subscription);
        }
        self.end_done();
        let this = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = lines.closed() => {}
                () = ended.cancelled() => {}
            }
            this.close(&id);
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
        let Table { active, nodes, .. } = &mut *table;
        for (id, subscription) in active.iter_mut() {
            if subscription.follow()
                && subscription.selects(task)
                && !subscription.asked.contains(&task.node_id)
            {
                subscription.ask(nodes, id, &task.node_id);
            }
        }
    }

    /// Asks whoever holds what a follower wants and was not asked: changes were lost.
    pub(crate) fn look_again(&self) {
        let mut table = self.table();
        let Table { active, nodes, .. } = &mut *table;
        for (id, subscription) in active.iter_mut().filter(|(_, sub)| sub.follow()) {
            let wanted = self.core.read(|state| nodes_of(state, subscription));
            for node_id in wanted.difference(&subscription.asked.clone()) {
                subscription.ask(nodes, id, node_id);
            }
        }
    }

    /// A node listens: it gets what it has not been asked yet. A stream that it
    /// had before ends.
    pub(super) fn listen(this: &Arc<Self>, node_id: &str) -> (FromBroker, Listener) {
        let (sender, receiver) = mpsc::channel(LISTENER_BACKLOG);
        let over = this.stopped.child_token();
        let number = {
            let mut table = this.table();
            let number = table.next_listener;
            table.next_listener += 1;
            let before = table.nodes.remove(node_id);
            if before.is_some() {
                table.end_parts_of(node_id);
            }
            let listens = Listens {
                number,
                sender,
                // A new stream is no new budget.
                budget: before.map_or_else(Budget::default, |before| before.budget),
                _over: over.clone().drop_guard(),
            };
            table.nodes.insert(node_id.to_owned(), listens);
            let Table { active, nodes, .. } = &mut *table;
            for (id, subscription) in active.iter_mut().filter(|(_, sub)| sub.follow()) {
                let concerned = this.core.read(|state| nodes_of(state, subscription));
                if concerned.contains(node_id) {
                    subscription.ask(nodes, id, node_id);
                }
            }
            number
        };
        this.end_done();
        let listener = Listener {
            subscriptions: Arc::clone(this),
            node_id: node_id.to_owned(),
            number,
            over,
        };
        (receiver, listener)
    }

    /// A node does not listen any more: its open parts are missing.
    fn unlisten(&self, node_id: &str, number: u64) {
        {
            let mut table = self.table();
            // A newer stream of the same node may have taken the place.
            let listens = table.nodes.get(node_id);
            if listens.is_none_or(|listens| listens.number != number) {
                return;
            }
            table.nodes.remove(node_id);
            table.end_parts_of(node_id);
        }
        self.end_done();
    }

    /// Begins a node's part of a subscription that it was asked for.
    pub(super) fn publish(this: &Arc<Self>, id: &str, node_id: &str) -> Option<Part> {
        let table = this.table();
        let subscription = table.active.get(id)?;
        if !subscription.open.contains(node_id) {
            return None;
        }
        let live_since = subscription.follow().then_some(subscription.since);
        let part = Part {
            id: id.to_owned(),
            node_id: node_id.to_owned(),
            lines: subscription.lines.clone(),
            live_since,
            budget: table.nodes.get(node_id)?.budget.clone(),
            dropped: None,
            complete: false,
            subscriptions: Arc::clone(this),
        };
        drop(table);
        Some(part)
    }

    fn part_ended(&self, id: &str, node_id: &str, complete: bool) {
        if let Some(subscription) = self.table().active.get_mut(id) {
            subscription.end_part(node_id, complete);
        }
        self.end_done();
    }

    fn end_done(&self) {
        let done = self.table().take_done();
        for subscription in done.into_iter().filter(|sub| !sub.missing.is_empty()) {
            let Subscription { missing, lines, .. } = subscription;
            let nodes = missing.into_iter().collect();
            // The reader's buffer may be full; then a task of its own delivers it.
            self.tasks.spawn(async move {
                let _ = lines.send(Err(IncompleteLogs { nodes })).await;
            });
        }
    }

    /// The reader has gone: tells the nodes.
    fn close(&self, id: &str) {
        let mut table = self.table();
        let Some(subscription) = table.active.remove(id) else {
            return;
        };
        for node in &subscription.open {
            if let Some(listens) = table.nodes.get(node) {
                let end = Box::new(subscription.message(id, true));
                let _ = listens.sender.try_send(Ok(end));
            }
        }
    }

    /// Keeps the lines of tasks that the node holds and the reader asked for;
    /// `None` if nobody reads any more.
    fn keep_own(
        &self,
        id: &str,
        node_id: &str,
        messages: Vec<LogMessage>,
    ) -> Option<Vec<LogMessage>> {
        let table = self.table();
        let subscription = table.active.get(id)?;
        let own = self.core.read(|state| {
            let own_line = |mut message: LogMessage| {
                let task = state.task(&message.context?.task_id)?;
                if task.node_id != node_id || !subscription.selects(task) {
                    return None;
                }
                // Of a line the node says when and what, not whose it is.
                message.context = Some(LogContext {
                    service_id: task.service_id.clone(),
                    node_id: node_id.to_owned(),
                    task_id: task.id.clone(),
                });
                Some(message)
            };
            messages.into_iter().filter_map(own_line).collect()
        });
        Some(own)
    }
}

/// A node that listens, until it is dropped.
pub(super) struct Listener {
    subscriptions: Arc<Subscriptions>,
    node_id: String,
    number: u64,
    /// Cancelled when its stream has to end.
    pub(super) over: CancellationToken,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.subscriptions.unlisten(&self.node_id, self.number);
    }
}

/// What one node sends to one reader. Dropped before it is complete, the node's
/// output is missing.
pub(super) struct Part {
    subscriptions: Arc<Subscriptions>,
    id: String,
    node_id: String,
    lines: Lines,
    /// Lines newer than this cannot wait, as their task goes on; `None` for a
    /// reader that does not follow.
    live_since: Option<OffsetDateTime>,
    budget: Budget,
    dropped: Option<Dropped>,
    complete: bool,
}

/// Lines that were dropped since the last one that was sent.
struct Dropped {
    count: u64,
    /// The last of them, without its content.
    last: LogMessage,
}

impl Part {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The node has sent all.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    /// Hands lines to the reader; `false` if there is none any more.
    ///
    /// What a task has printed before waits, and its node with it, while the node
    /// is over its budget; what it prints now is dropped and counted then.
    pub(super) async fn send(&mut self, messages: Vec<LogMessage>) -> bool {
        let own = self
            .subscriptions
            .keep_own(&self.id, &self.node_id, messages);
        let Some(own) = own else { return false };
        for mut line in own {
            bound_line(&mut line);
            if !self.is_live(&line) {
                self.budget.take(&line).await;
            } else if !self.budget.try_take(&line) {
                self.note_dropped(line);
                continue;
            }
            if !self.send_note().await || self.lines.send(Ok(line)).await.is_err() {
                return false;
            }
        }
        true
    }

    fn note_dropped(&mut self, mut line: LogMessage) {
        line.data = Vec::new();
        let count = self.dropped.take().map_or(0, |dropped| dropped.count) + 1;
        self.dropped = Some(Dropped { count, last: line });
    }

    /// Whether the reader was not told yet of lines that were dropped.
    pub(super) fn owes_note(&self) -> bool {
        self.dropped.is_some()
    }

    /// Tells the reader how many lines were dropped here, if any; `false` if there
    /// is no reader any more.
    pub(super) async fn send_note(&mut self) -> bool {
        let Some(Dropped { count, last }) = self.dropped.take() else {
            return true;
        };
        self.lines.send(Ok(dropped_note(count, last))).await.is_ok()
    }

    fn is_live(&self, line: &LogMessage) -> bool {
        let printed = line.timestamp.as_ref().and_then(date_time);
        match (self.live_since, printed) {
            (Some(since), Some(printed)) => printed > since,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.subscriptions
            .part_ended(&self.id, &self.node_id, self.complete);
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

#[cfg(test)]
mod tests {
    use waxseal_cluster::timestamp;

    use super::*;
    use crate::testing::{NOW, World};

    struct Broker {
        subscriptions: Arc<Subscriptions>,
        tasks: TaskTracker,
        stopped: CancellationToken,
    }

    /// One task of `svc1` runs on each of `w1` and `w2`.
    fn broker() -> Broker {
        let mut world = World::new();
        world.create_task("svc1", "t1", "w1", TaskState::Running);
        world.create_task("svc1", "t2", "w2", TaskState::Running);
        let (tasks, stopped) = (TaskTracker::new(), CancellationToken::new());
        let subscriptions = Subscriptions::new(world.core(), tasks.clone(), stopped.clone());
        Broker {
            subscriptions,
            tasks,
            stopped,
        }
    }

    impl Broker {
        fn subscribe(&self, follow: bool) -> LogLines {
            let selector = LogSelector {
                service_ids: vec!["svc1".into()],
                ..LogSelector::default()
            };
            let options = LogSubscriptionOptions {
                follow,
                ..LogSubscriptionOptions::default()
            };
            self.subscriptions.subscribe(selector, options).unwrap()
        }

        fn listen(&self, node_id: &str) -> (FromBroker, Listener) {
            Subscriptions::listen(&self.subscriptions, node_id)
        }

        fn publish(&self, id: &str, node_id: &str) -> Option<Part> {
            Subscriptions::publish(&self.subscriptions, id, node_id)
        }
    }

    fn asked(messages: &mut FromBroker) -> Option<SubscriptionMessage> {
        messages.try_recv().ok().map(|message| *message.unwrap())
    }

    fn line(task_id: &str, node_id: &str, seconds: i64, text: &str) -> LogMessage {
        let time = OffsetDateTime::from_unix_timestamp(NOW + seconds).unwrap();
        LogMessage {
            context: Some(LogContext {
                service_id: "svc1".into(),
                node_id: node_id.into(),
                task_id: task_id.into(),
            }),
            timestamp: Some(timestamp(time)),
            data: text.into(),
            ..LogMessage::default()
        }
    }

    async fn rest(lines: &mut LogLines) -> (Vec<String>, Vec<String>) {
        let (mut texts, mut missing) = (Vec::new(), Vec::new());
        while let Some(line) = lines.recv().await {
            match line {
                Ok(line) => texts.push(String::from_utf8(line.data).unwrap()),
                Err(error) => missing.extend(error.nodes),
            }
        }
        (texts, missing)
    }

    #[tokio::test(start_paused = true)]
    async fn lines_of_others_tasks_and_unasked_nodes_are_not_taken() {
        let broker = broker();
        let (mut first, _listener) = broker.listen("w1");
        let mut lines = broker.subscribe(false);
        let id = asked(&mut first).unwrap().id;
        assert!(broker.publish("other", "w1").is_none());
        assert!(broker.publish(&id, "w2").is_none(), "it was not asked");
        let mut part = broker.publish(&id, "w1").unwrap();
        let own = line("t1", "w1", -1, "own\n");
        let foreign = line("t2", "w1", -1, "foreign\n");
        let mut forged = own.clone();
        let context = forged.context.as_mut().unwrap();
        context.node_id = "w2".into();
        context.service_id = "other".into();
        assert!(part.send(vec![foreign, own, forged]).await);
        for _ in 0..2 {
            let line = lines.recv().await.unwrap().unwrap();
            let context = line.context.unwrap();
            assert_eq!((&*context.node_id, &*context.service_id), ("w1", "svc1"));
        }
        part.complete();
        drop(part);
        let expected = (Vec::new(), vec!["w2".to_owned()]);
        assert_eq!(rest(&mut lines).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_breaks_off_leaves_nobody_waiting() {
        let broker = broker();
        let (mut first, _first) = broker.listen("w1");
        let (mut second, listener) = broker.listen("w2");
        let mut lines = broker.subscribe(false);
        let id = asked(&mut first).unwrap().id;
        assert!(asked(&mut second).is_some());
        // One call is cut off, the other node goes away before it calls.
        drop(broker.publish(&id, "w1").unwrap());
        drop(listener);
        let (texts, missing) = rest(&mut lines).await;
        assert!(texts.is_empty());
        assert_eq!(missing, ["w1", "w2"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_stream_takes_over_and_what_the_first_was_asked_is_missing() {
        let broker = broker();
        let (mut old, old_listener) = broker.listen("w1");
        let mut lines = broker.subscribe(false);
        let mut following = broker.subscribe(true);
        assert!(asked(&mut old).is_some() && asked(&mut old).is_some());
        let (mut new, _new) = broker.listen("w1");
        assert!(old_listener.over.is_cancelled());
        assert_eq!(rest(&mut lines).await.1, ["w1", "w2"]);
        let again = asked(&mut new).unwrap();
        assert!(again.options.unwrap().follow, "a follower asks again");
        drop(old_listener);
        let mut part = broker.publish(&again.id, "w1").unwrap();
        assert!(part.send(vec![line("t1", "w1", 1, "x\n")]).await);
        assert!(following.recv().await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_leaves_ends_the_nodes_part() {
        let broker = broker();
        let (mut first, _listener) = broker.listen("w1");
        let lines = broker.subscribe(true);
        let id = asked(&mut first).unwrap().id;
        let mut part = broker.publish(&id, "w1").unwrap();
        drop(lines);
        let close = first.recv().await.unwrap().unwrap();
        assert!(close.close && close.id == id);
        assert!(!part.send(vec![line("t1", "w1", 1, "x\n")]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_readers_and_listeners_also_later_ones() {
        let broker = broker();
        let (_first, listener) = broker.listen("w1");
        let mut lines = broker.subscribe(true);
        broker.stopped.cancel();
        assert!(lines.recv().await.is_none());
        assert!(listener.over.is_cancelled());
        assert!(broker.listen("w2").1.over.is_cancelled());
        assert!(broker.subscribe(true).recv().await.is_none());
        broker.tasks.close();
        broker.tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_task_prints_beyond_the_budget_is_dropped_and_counted() {
        let broker = broker();
        let (mut first, _listener) = broker.listen("w1");
        let mut lines = broker.subscribe(true);
        let id = asked(&mut first).unwrap().id;
        let mut part = broker.publish(&id, "w1").unwrap();
        let sending = async {
            let text = "x".repeat(16 * 1024);
            for _ in 0..1_000 {
                assert!(part.send(vec![line("t1", "w1", 1, &text)]).await);
            }
            assert!(part.owes_note());
            assert!(part.send_note().await);
            drop(part);
        };
        let reading = async {
            let mut taken = 0;
            loop {
                let line = lines.recv().await.unwrap().unwrap();
                if line.data.starts_with(b"waxseal: ") {
                    return (taken, String::from_utf8(line.data).unwrap());
                }
                taken += 1;
            }
        };
        let ((), (taken, note)) = tokio::join!(sending, reading);
        assert!((60..140).contains(&taken), "{taken}");
        assert_eq!(
            note,
            format!("waxseal: {} log lines dropped here\n", 1_000 - taken)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_task_has_printed_before_waits_and_comes_whole() {
        let broker = broker();
        let (mut first, _listener) = broker.listen("w1");
        let mut lines = broker.subscribe(true);
        let id = asked(&mut first).unwrap().id;
        let mut part = broker.publish(&id, "w1").unwrap();
        let sending = async {
            let text = "x".repeat(16 * 1024);
            for _ in 0..300 {
                assert!(part.send(vec![line("t1", "w1", -1, &text)]).await);
            }
        };
        let reading = async {
            for _ in 0..300 {
                assert_eq!(lines.recv().await.unwrap().unwrap().data.len(), 16 * 1024);
            }
        };
        let ((), ()) = tokio::join!(sending, reading);
    }
}
