//! What tasks print, on its way to those who ask a manager for it.

use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prost_types::Timestamp;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tracing::{debug, warn};
use waxseal_cluster::objects::Task;
use waxseal_wire::{
    ManagerChannel,
    swarmkit::{
        ListenSubscriptionsRequest, LogContext, LogMessage, LogSelector, LogStream as WireStream,
        LogSubscriptionOptions, PublishLogsMessage, SubscriptionMessage,
    },
};

use crate::{
    assignments::AssignedSet,
    native::{LogOptions, LogRecord, LogStream, Streams},
    shared::{Shared, moment, timestamp},
};

/// Bytes of logs that this node sends in a second, all subscriptions together.
const BYTES_PER_SECOND: u64 = 1024 * 1024;
/// How far a follower may lag behind before lines are dropped.
const LAG_LIMIT: Duration = Duration::from_secs(5);
/// Subscriptions at once; further ones are refused.
const SUBSCRIPTIONS: usize = 64;
/// Messages between a subscription's tasks and its call.
const QUEUE: usize = 16;
/// Records that go together if they are there already.
const BATCH_RECORDS: usize = 64;
/// Bytes that go together.
const BATCH_BYTES: usize = 64 * 1024;

/// The pauses between looks for the log of a task that has none yet: they double.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// Serves the log subscriptions of a session.
///
/// # Errors
/// Any end of the stream but `Unimplemented`, which managers without a log broker give.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    channel: &ManagerChannel,
    assigned: &watch::Sender<Option<AssignedSet>>,
) -> Result<Infallible, Status> {
    let listening = channel
        .log_broker()
        .listen_subscriptions(ListenSubscriptionsRequest {})
        .await;
    let mut messages = match listening {
        Ok(answer) => answer.into_inner(),
        Err(status) => return tolerate(status).await,
    };
    // The calls end with the session: aborted when the set is dropped.
    let mut calls = JoinSet::new();
    let mut open = HashMap::new();
    loop {
        let message = tokio::select! {
            message = messages.message() => match message {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Status::unavailable("the manager ended the stream")),
                Err(status) => return tolerate(status).await,
            },
            Some(ended) = calls.join_next() => {
                if let Ok(id) = ended {
                    open.remove(&id);
                }
                continue;
            }
        };
        if message.close {
            if let Some(call) = open.remove(&message.id) {
                tokio::task::AbortHandle::abort(&call);
            }
            continue;
        }
        if open.len() >= SUBSCRIPTIONS {
            warn!("too many log subscriptions at once; one is not served");
            continue;
        }
        if open.contains_key(&message.id) {
            continue;
        }
        let id = message.id.clone();
        let subscription = Subscription {
            shared: Arc::clone(shared),
            channel: channel.clone(),
            assigned: assigned.subscribe(),
            message,
        };
        let call = calls.spawn({
            let id = id.clone();
            async move {
                if let Err(status) = subscription.publish().await {
                    debug!(%status, "publishing logs failed");
                }
                id
            }
        });
        open.insert(id, call);
    }
}

async fn tolerate(status: Status) -> Result<Infallible, Status> {
    if status.code() == Code::Unimplemented {
        warn!("the manager takes no logs");
        return std::future::pending().await;
    }
    Err(status)
}

/// One subscription of this node's tasks.
struct Subscription {
    shared: Arc<Shared>,
    channel: ManagerChannel,
    assigned: watch::Receiver<Option<AssignedSet>>,
    message: SubscriptionMessage,
}

impl Subscription {
    async fn publish(self) -> Result<(), Status> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut log_broker = self.channel.log_broker();
        let publishing = log_broker.publish_logs(ReceiverStream::new(receiver));
        let (answer, ()) = tokio::join!(publishing, self.pump(sender));
        answer.map(drop)
    }

    /// Sends the logs of all matching tasks, then the closing message.
    async fn pump(mut self, sender: mpsc::Sender<PublishLogsMessage>) {
        let options = self.message.options.clone().unwrap_or_default();
        let selector = self.message.selector.clone().unwrap_or_default();
        let mut known = HashSet::new();
        let mut pumps = JoinSet::new();
        loop {
            let assigned = self
                .assigned
                .borrow_and_update()
                .clone()
                .unwrap_or_default();
            for task in assigned.tasks.values() {
                if matches(&selector, task, &self.shared.node_id) && known.insert(task.id.clone()) {
                    let pump = TaskPump::new(&self, task, &options, sender.clone());
                    pumps.spawn(pump.run());
                }
            }
            if pumps.is_empty() && !options.follow {
                break;
            }
            tokio::select! {
                // The manager hung up.
                () = sender.closed() => return,
                ended = pumps.join_next(), if !pumps.is_empty() => drop(ended),
                changed = self.assigned.changed(), if options.follow => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
        let close = PublishLogsMessage {
            subscription_id: self.message.id,
            messages: Vec::new(),
            close: true,
        };
        // The manager may have hung up; then nobody waits for the end.
        let _ = sender.send(close).await;
    }
}

fn matches(selector: &LogSelector, task: &Task, node_id: &str) -> bool {
    selector.task_ids.contains(&task.id)
        || selector.service_ids.contains(&task.service_id)
        || selector.node_ids.iter().any(|id| id == node_id)
}

/// Sends the log of one task.
struct TaskPump {
    shared: Arc<Shared>,
    subscription_id: String,
    context: LogContext,
    options: LogOptions,
    sender: mpsc::Sender<PublishLogsMessage>,
}

impl TaskPump {
    fn new(
        subscription: &Subscription,
        task: &Task,
        options: &LogSubscriptionOptions,
        sender: mpsc::Sender<PublishLogsMessage>,
    ) -> TaskPump {
        TaskPump {
            shared: Arc::clone(&subscription.shared),
            subscription_id: subscription.message.id.clone(),
            context: LogContext {
                service_id: task.service_id.clone(),
                node_id: subscription.shared.node_id.clone(),
                task_id: task.id.clone(),
            },
            options: log_options(options),
            sender,
        }
    }

    /// Opens the task's log; who follows waits until there is one.
    async fn open(&self) -> io::Result<mpsc::Receiver<LogRecord>> {
        let mut options = self.options.clone();
        let mut pause = FIRST_LOOK;
        loop {
            let opened = self
                .shared
                .executor
                .logs(&self.context.task_id, options.clone());
            match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound && options.follow => {
                    time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_LOOK);
                    // All that it will hold is new.
                    options.tail = None;
                }
                opened => return opened,
            }
        }
    }

    async fn run(self) {
        let started = self.shared.now();
        let mut records = match self.open().await {
            Ok(records) => records,
            Err(error) => {
                debug!(task = %self.context.task_id, %error, "no log to send");
                return;
            }
        };
        let mut dropped = 0u64;
        while let Some(first) = records.recv().await {
            let mut messages = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(record) = next {
                // Only what was printed since the subscription can be late.
                let late = self.options.follow
                    && record.time > started
                    && self.shared.now() - record.time > LAG_LIMIT;
                if late && !self.shared.log_budget.is_free() {
                    dropped += 1 + u64::from(record.lost);
                } else {
                    let lost = dropped + u64::from(record.lost);
                    dropped = 0;
                    bytes += record.data.len();
                    self.push(&mut messages, record, lost);
                }
                let full = messages.len() >= BATCH_RECORDS || bytes >= BATCH_BYTES;
                next = if full { None } else { records.try_recv().ok() };
            }
            if messages.is_empty() {
                continue;
            }
            self.shared.log_budget.take(bytes).await;
            let message = PublishLogsMessage {
                subscription_id: self.subscription_id.clone(),
                messages,
                close: false,
            };
            if self.sender.send(message).await.is_err() {
                return;
            }
        }
        if dropped > 0 {
            let message = PublishLogsMessage {
                subscription_id: self.subscription_id.clone(),
                messages: vec![self.note(dropped, Some(timestamp(self.shared.now())))],
                close: false,
            };
            // The manager may have hung up.
            let _ = self.sender.send(message).await;
        }
    }

    /// Adds a record, after a line that counts what was lost before it.
    fn push(&self, messages: &mut Vec<LogMessage>, record: LogRecord, lost: u64) {
        let time = Some(timestamp(record.time));
        if lost > 0 {
            messages.push(self.note(lost, time));
        }
        let stream = match record.stream {
            LogStream::Stdout => WireStream::Stdout,
            LogStream::Stderr => WireStream::Stderr,
        };
        messages.push(self.message(stream, time, record.data));
    }

    /// A line of the node's own that says how many of the task's are not there.
    fn note(&self, lost: u64, time: Option<Timestamp>) -> LogMessage {
        let note = format!("waxseal: {lost} log lines dropped here\n");
        self.message(WireStream::Stderr, time, note.into_bytes())
    }

    fn message(&self, stream: WireStream, time: Option<Timestamp>, data: Vec<u8>) -> LogMessage {
        LogMessage {
            context: Some(self.context.clone()),
            timestamp: time,
            stream: stream.into(),
            data,
            attrs: Vec::new(),
        }
    }
}

/// swarmkit's options in the executor's terms.
fn log_options(options: &LogSubscriptionOptions) -> LogOptions {
    let asked = |stream: WireStream| {
        options.streams.is_empty() || options.streams.contains(&i32::from(stream))
    };
    LogOptions {
        since: options.since.as_ref().and_then(moment),
        // 0: all; -1: none; -(n + 1): the last n.
        tail: (options.tail < 0)
            .then(|| usize::try_from(-(options.tail + 1)).unwrap_or(usize::MAX)),
        follow: options.follow,
        streams: Streams {
            stdout: asked(WireStream::Stdout),
            stderr: asked(WireStream::Stderr),
        },
    }
}

/// What this node may send: a bucket that holds one second's worth.
#[derive(Debug)]
pub(crate) struct LogBudget {
    /// When the bytes taken so far will have been sent at the allowed rate.
    spent_until: Mutex<Instant>,
}

impl LogBudget {
    pub(crate) fn new() -> LogBudget {
        LogBudget {
            spent_until: Mutex::new(Instant::now()),
        }
    }

    /// Whether something could be sent without a wait.
    fn is_free(&self) -> bool {
        let spent_until = *self
            .spent_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        spent_until <= Instant::now() + BURST
    }

    /// Waits until so many bytes may be sent.
    async fn take(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let wait_until = {
            let mut spent_until = self
                .spent_until
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let begin = (*spent_until).max(now);
            *spent_until = begin + Duration::from_micros(bytes * 1_000_000 / BYTES_PER_SECOND);
            begin.checked_sub(BURST).unwrap_or(now)
        };
        time::sleep_until(wait_until).await;
    }
}

/// What may be sent at once.
const BURST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn more_than_the_budget_waits() {
        let budget = LogBudget::new();
        let start = Instant::now();
        budget.take(1024 * 1024).await;
        assert!(budget.is_free());
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            budget.take(1024 * 1024).await;
        }
        assert!(!budget.is_free());
        assert!(
            start.elapsed() >= Duration::from_secs(9),
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn options_follow_swarmkits_numbers() {
        let options = |tail| {
            log_options(&LogSubscriptionOptions {
                tail,
                ..Default::default()
            })
        };
        assert_eq!(options(0).tail, None);
        assert_eq!(options(-1).tail, Some(0));
        assert_eq!(options(-11).tail, Some(10));
        assert_eq!(options(i64::MIN).tail, Some(usize::MAX >> 1));
        let both = options(0).streams;
        assert!(both.stdout && both.stderr);
        let only = log_options(&LogSubscriptionOptions {
            streams: vec![WireStream::Stderr.into()],
            ..Default::default()
        });
        assert!(!only.streams.stdout && only.streams.stderr);
    }

    #[test]
    fn tasks_are_selected_by_id_service_or_node() {
        let task = Task {
            id: "t".into(),
            service_id: "s".into(),
            ..Default::default()
        };
        let none = LogSelector::default();
        assert!(!matches(&none, &task, "n"));
        assert!(matches(
            &LogSelector {
                task_ids: vec!["t".into()],
                ..none.clone()
            },
            &task,
            "n"
        ));
        assert!(matches(
            &LogSelector {
                service_ids: vec!["s".into()],
                ..none.clone()
            },
            &task,
            "n"
        ));
        assert!(matches(
            &LogSelector {
                node_ids: vec!["n".into()],
                ..none
            },
            &task,
            "n"
        ));
    }
}
