//! The output of tasks on a manager that nodes do not send it to.

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tonic::{Code, Streaming};
use waxseal_wire::{
    ToLeader,
    swarmkit::{LogSelector, LogSubscriptionOptions},
    waxseal::{LogsRequest, LogsResponse},
};

use crate::log_broker::{IncompleteLogs, LogLines, TooManyReaders};

/// Messages of lines that may wait for the reader; then the leader waits, and the nodes.
const BACKLOG: usize = 64;

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
