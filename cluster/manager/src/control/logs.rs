//! The output of tasks on a manager that nodes do not send it to.

use std::time::Duration;

use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Streaming};
use waxseal_wire::{
    ToLeader,
    swarmkit::{LogSelector, LogSubscriptionOptions},
    waxseal::{LogsRequest, LogsResponse},
};

use crate::log_broker::{IncompleteLogs, LogLines, TooManyReaders};

/// Lines on their way to the reader; then the leader waits, and the nodes.
const BACKLOG: usize = 4;

/// The output of tasks cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogsError {
    /// Too many readers.
    #[error(transparent)]
    TooManyReaders(#[from] TooManyReaders),
    /// No leader, which nodes send it to.
    #[error("the swarm does not have a leader")]
    NoLeader,
    /// The leader gave none.
    #[error("the leader of the swarm sends no logs: {reason}")]
    Refused {
        /// Its words.
        reason: String,
    },
}

/// Subscribes through the leader; the lines end with its leadership.
pub(super) async fn from(
    leader: std::sync::Arc<ToLeader>,
    selector: LogSelector,
    options: LogSubscriptionOptions,
    tasks: &TaskTracker,
) -> Result<LogLines, LogsError> {
    let request = LogsRequest {
        selector: Some(selector),
        options: Some(options),
    };
    let mut control = leader.channel.control();
    let asking = control.logs(request);
    let answer = leader.over.run_until_cancelled(asking).await;
    let answers = match answer {
        Some(Ok(answer)) => answer.into_inner(),
        None => return Err(LogsError::NoLeader),
        Some(Err(status)) => {
            return Err(match status.code() {
                Code::Unavailable => LogsError::NoLeader,
                Code::ResourceExhausted => LogsError::TooManyReaders(TooManyReaders),
                _ => LogsError::Refused {
                    reason: waxseal_wire::peer_text(status.message()),
                },
            });
        }
    };
    let (lines, receiver) = mpsc::channel(BACKLOG);
    tasks.spawn(async move {
        let pumping = pump(answers, &lines);
        tokio::select! {
            () = pumping => {}
            () = leader.over.cancelled() => {}
            // Dropping the stream tells the leader, and it the nodes.
            () = lines.closed() => {}
        }
    });
    Ok(receiver)
}

/// How long a follower waits before it asks for a leader again.
const PAUSE: Duration = Duration::from_millis(200);

/// Lines that go on with the next leader: when they end, `subscribe` is asked for those
/// after the newest, until nobody reads them.
///
/// Nodes tell the time themselves: where their clocks differ, lines that were printed
/// around the change may be missing.
pub(crate) fn across_leaders<S, F>(
    first: LogLines,
    mut options: LogSubscriptionOptions,
    now: Timestamp,
    subscribe: S,
    tasks: &TaskTracker,
    stopped: CancellationToken,
) -> LogLines
where
    S: Fn(LogSubscriptionOptions) -> F + Send + 'static,
    F: Future<Output = Result<LogLines, LogsError>> + Send,
{
    let (sender, receiver) = mpsc::channel(BACKLOG);
    // What was there already was told, or left out, at the beginning.
    let mut newest = now;
    let following = async move {
        let mut lines = first;
        loop {
            while let Some(line) = lines.recv().await {
                if let Ok(message) = &line
                    && let Some(time) = message.timestamp
                    && (time.seconds, time.nanos) > (newest.seconds, newest.nanos)
                {
                    newest = time;
                }
                if sender.send(line).await.is_err() {
                    return;
                }
            }
            options.since = Some(after(newest));
            options.tail = 0;
            lines = loop {
                match subscribe(options.clone()).await {
                    Ok(lines) => break lines,
                    Err(error) => tracing::debug!(%error, "following logs waits for a leader"),
                }
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = sender.closed() => return,
                }
            };
        }
    };
    tasks.spawn(stopped.run_until_cancelled_owned(following));
    receiver
}

fn after(time: Timestamp) -> Timestamp {
    match time.nanos {
        0..999_999_999 => Timestamp {
            nanos: time.nanos + 1,
            ..time
        },
        _ => Timestamp {
            seconds: time.seconds.saturating_add(1),
            nanos: 0,
        },
    }
}

async fn pump(
    mut answers: Streaming<LogsResponse>,
    lines: &mpsc::Sender<Result<waxseal_wire::swarmkit::LogMessage, IncompleteLogs>>,
) {
    while let Ok(Some(answer)) = answers.message().await {
        let LogsResponse {
            messages,
            incomplete_nodes: nodes,
        } = answer;
        for message in messages {
            if lines.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if !nodes.is_empty() && lines.send(Err(IncompleteLogs { nodes })).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use waxseal_wire::swarmkit::LogMessage;

    use super::*;

    fn line(seconds: i64, nanos: i32) -> Result<LogMessage, IncompleteLogs> {
        Ok(LogMessage {
            timestamp: Some(Timestamp { seconds, nanos }),
            ..LogMessage::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn lines_go_on_after_the_newest_with_the_next_leader() {
        let (before, first) = mpsc::channel(4);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (after_it, second) = mpsc::channel(4);
        let second = Mutex::new(Some(second));
        let subscribe = {
            let asked = Arc::clone(&asked);
            move |options: LogSubscriptionOptions| {
                let mut asked = asked.lock().unwrap();
                asked.push((options.since.unwrap(), options.tail));
                // The first time there is no leader yet.
                let lines = (asked.len() > 1).then(|| second.lock().unwrap().take().unwrap());
                async move { lines.ok_or(LogsError::NoLeader) }
            }
        };
        let options = LogSubscriptionOptions {
            follow: true,
            tail: -11,
            ..LogSubscriptionOptions::default()
        };
        let now = Timestamp {
            seconds: 5,
            nanos: 0,
        };
        let (tasks, stopped) = (TaskTracker::new(), CancellationToken::new());
        let mut lines = across_leaders(first, options, now, subscribe, &tasks, stopped);
        before.send(line(7, 999_999_999)).await.unwrap();
        before.send(line(6, 0)).await.unwrap();
        drop(before);
        after_it.send(line(9, 1)).await.unwrap();
        for seconds in [7, 6, 9] {
            let message = lines.recv().await.unwrap().unwrap();
            assert_eq!(message.timestamp.unwrap().seconds, seconds);
        }
        let since = Timestamp {
            seconds: 8,
            nanos: 0,
        };
        assert_eq!(*asked.lock().unwrap(), [(since, 0), (since, 0)]);
        // Nobody reads: the subscription is let go.
        drop(lines);
        let _ = after_it.send(line(10, 0)).await;
        after_it.closed().await;
    }
}
