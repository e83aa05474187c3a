//! The one way of writing: commands wait together and share an entry.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};
use waxseal_cluster::{Applied, CodecError, Refusal, Wiped, batch_takes, encode_batch};
use waxseal_raft_store::{LogFull, LogStore};

use crate::{
    error::ProposeError,
    raft::{Outcomes, Payload, Raft, TypeConfig},
};

/// Commands in one entry at most.
const MAX_BATCH_COMMANDS: usize = 256;
/// Commands that wait at most; who comes later waits in its own call.
const QUEUE: usize = 4 * MAX_BATCH_COMMANDS;

/// An encoded command and who waits for its outcome.
struct Proposal {
    command: Wiped,
    reply: oneshot::Sender<Result<Applied, ProposeError>>,
}

/// Hands commands to the coalescing loop.
#[derive(Clone)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Proposal>,
}

impl Proposer {
    /// A proposer and the loop behind it, which ends when all proposers are gone.
    pub(crate) fn new(
        raft: Raft,
        log: LogStore<TypeConfig>,
    ) -> (Proposer, impl Future<Output = ()>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        (Proposer { queue }, run(waiting, raft, log))
    }

    /// One that refuses everything.
    #[cfg(test)]
    pub(crate) fn ended() -> Proposer {
        let (queue, _) = mpsc::channel(1);
        Proposer { queue }
    }

    /// Makes an encoded command durable and applies it.
    pub(crate) async fn propose(&self, command: Wiped) -> Result<Applied, ProposeError> {
        let (reply, outcome) = oneshot::channel();
        self.queue
            .send(Proposal { command, reply })
            .await
            .map_err(|_| ProposeError::Stopped)?;
        outcome.await.map_err(|_| ProposeError::Stopped)?
    }
}

async fn run(mut waiting: mpsc::Receiver<Proposal>, raft: Raft, log: LogStore<TypeConfig>) {
    let mut queue = VecDeque::with_capacity(MAX_BATCH_COMMANDS);
    let mut arrived = Vec::with_capacity(MAX_BATCH_COMMANDS);
    loop {
        if queue.is_empty() {
            if waiting.recv_many(&mut arrived, MAX_BATCH_COMMANDS).await == 0 {
                return;
            }
            queue.extend(arrived.drain(..));
        }
        while queue.len() < MAX_BATCH_COMMANDS {
            match waiting.try_recv() {
                Ok(proposal) => queue.push_back(proposal),
                Err(_) => break,
            }
        }
        let (commands, replies) = take_batch(&mut queue);
        let had_company = replies.len() > 1;
        match write(commands, &raft, &log).await {
            Ok(outcomes) => answer_each(replies, outcomes),
            Err(error) => answer_all(replies, &error),
        }
        // Those who were answered just now may have more: the next batch waits for whoever is
        // ready, and not for anybody else.
        if had_company {
            tokio::task::yield_now().await;
        }
    }
}

async fn write(
    commands: Vec<Wiped>,
    raft: &Raft,
    log: &LogStore<TypeConfig>,
) -> Result<Outcomes, ProposeError> {
    let batch = encode_batch(&commands).map_err(ProposeError::Malformed)?;
    drop(commands);
    log.can_accept(batch.len()).map_err(|full| match full {
        LogFull::Stopped => ProposeError::Stopped,
        LogFull::TooLarge { bytes, limit } => {
            ProposeError::Malformed(CodecError::TooLarge { bytes, limit })
        }
        full => ProposeError::NoSpace {
            reason: full.to_string(),
        },
    })?;
    let written = raft.client_write(Payload::from(batch)).await;
    written
        .map(|response| response.data)
        .map_err(|error| ProposeError::from_raft(&error))
}

type Reply = oneshot::Sender<Result<Applied, ProposeError>>;

/// The commands at the head of the queue that make one entry, and who waits for them.
fn take_batch(queue: &mut VecDeque<Proposal>) -> (Vec<Wiped>, Vec<Reply>) {
    let mut bytes = 0;
    let mut count = 0;
    for proposal in queue.iter().take(MAX_BATCH_COMMANDS) {
        if !batch_takes(bytes, proposal.command.len()) {
            break;
        }
        bytes += proposal.command.len();
        count += 1;
    }
    queue
        .drain(..count)
        .map(|proposal| (proposal.command, proposal.reply))
        .unzip()
}

fn answer_each(replies: Vec<Reply>, outcomes: Vec<Result<Applied, Refusal>>) {
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        // Whoever asked may have gone away; the command took effect all the same.
        let _ = reply.send(outcome.map_err(ProposeError::Refused));
    }
}

fn answer_all(replies: Vec<Reply>, error: &ProposeError) {
    for reply in replies {
        let _ = reply.send(Err(error.clone()));
    }
}
