//! The one way of writing: commands wait together and share an entry.

use std::{collections::VecDeque, time::Duration};

use openraft::error::{ClientWriteError, RaftError};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};
use tokio_util::task::TaskTracker;
use waxseal_cluster::{Applied, CodecError, Refusal, Wiped, batch_takes, encode_batch};
use waxseal_raft_store::{LogFull, LogStore};

use crate::{
    error::ProposeError,
    leadership::Leader,
    raft::{Outcomes, Payload, Raft, TypeConfig},
    room::Room,
};

/// Commands in one entry at most.
const MAX_BATCH_COMMANDS: usize = 256;
/// Commands that wait at most; who comes later waits in its own call.
const QUEUE: usize = 4 * MAX_BATCH_COMMANDS;

/// For how long what was proposed is waited for once the leadership it was proposed in
/// has ended: the next leader may have it.
const FATE_WAIT: Duration = Duration::from_secs(5);

/// An encoded command and who waits for its outcome.
struct Proposal {
    command: Wiped,
    reply: Reply,
}

/// Why there is no outcome; whoever asked has its command back.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// It certainly takes no effect: this manager does not lead.
    NotProposed(Wiped),
    /// Nor has it any yet: this manager's disk is full, and another one is to lead.
    NoRoom {
        /// The command.
        command: Wiped,
        /// What is full and what to do.
        reason: String,
    },
    /// It may take effect, or have taken it.
    Unknown(Wiped),
    /// It takes none, wherever it is proposed.
    Failed(ProposeError),
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
        leader: watch::Receiver<Leader>,
        room: Room,
        tasks: TaskTracker,
    ) -> (Proposer, impl Future<Output = ()>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer = Writer {
            raft,
            log,
            leader,
            room,
            tasks,
        };
        (Proposer { queue }, writer.run(waiting))
    }

    /// One that refuses everything.
    #[cfg(test)]
    pub(crate) fn ended() -> Proposer {
        let (queue, _) = mpsc::channel(1);
        Proposer { queue }
    }

    /// Makes an encoded command durable and applies it.
    pub(crate) async fn propose(&self, command: Wiped) -> Result<Applied, Rejected> {
        let (reply, outcome) = oneshot::channel();
        let stopped = || Rejected::Failed(ProposeError::Stopped);
        self.queue
            .send(Proposal { command, reply })
            .await
            .map_err(|_| stopped())?;
        outcome.await.map_err(|_| stopped())?
    }
}

/// Turns batches into entries, as long as this manager leads.
struct Writer {
    raft: Raft,
    log: LogStore<TypeConfig>,
    leader: watch::Receiver<Leader>,
    room: Room,
    tasks: TaskTracker,
}

impl Writer {
    async fn run(mut self, mut waiting: mpsc::Receiver<Proposal>) {
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
            let leadership = self.leader.borrow_and_update().clone();
            if !matches!(leadership, Leader::Me { .. }) {
                for Proposal { command, reply } in queue.drain(..) {
                    let _ = reply.send(Err(Rejected::NotProposed(command)));
                }
                continue;
            }
            let batch = take_batch(&mut queue);
            let had_company = batch.replies.len() > 1;
            self.write(batch, &leadership).await;
            // Those who were answered just now may have more: the next batch waits for whoever
            // is ready, and not for anybody else.
            if had_company {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Writes a batch and answers; what this leadership leaves open is waited for behind
    /// the back of the batches that follow.
    async fn write(&mut self, batch: Batch, leadership: &Leader) {
        let payload = match self.payload(&batch.commands) {
            Ok(payload) => payload,
            Err(ProposeError::NoSpace { reason }) if self.room.is_missed() => {
                return batch.answer_all(|command| Rejected::NoRoom {
                    command,
                    reason: reason.clone(),
                });
            }
            Err(error) => return batch.answer_all(|_| Rejected::Failed(error.clone())),
        };
        let raft = self.raft.clone();
        let mut writing = Box::pin(async move {
            let written = raft.client_write(payload.clone()).await;
            written.map(|response| response.data).map_err(|error| {
                let error = match error {
                    RaftError::APIError(
                        ClientWriteError::ForwardToLeader(_)
                        | ClientWriteError::ChangeMembershipError(_),
                    ) => None,
                    RaftError::Fatal(_) => Some(ProposeError::Stopped),
                };
                (error, payload.is_written())
            })
        });
        tokio::select! {
            biased;
            written = &mut writing => batch.answer(written),
            _ = self.leader.wait_for(|leader| leader != leadership) => {
                self.tasks.spawn(async move {
                    match time::timeout(FATE_WAIT, writing).await {
                        Ok(written) => batch.answer(written),
                        Err(_) => batch.answer_all(Rejected::Unknown),
                    }
                });
            }
        }
    }

    fn payload(&self, commands: &[Wiped]) -> Result<Payload, ProposeError> {
        let batch = encode_batch(commands).map_err(ProposeError::Malformed)?;
        self.log
            .can_accept(batch.len())
            .map_err(|full| match full {
                LogFull::Stopped => ProposeError::Stopped,
                LogFull::TooLarge { bytes, limit } => {
                    ProposeError::Malformed(CodecError::TooLarge { bytes, limit })
                }
                full => ProposeError::NoSpace {
                    reason: full.to_string(),
                },
            })?;
        Ok(Payload::from(batch))
    }
}

type Reply = oneshot::Sender<Result<Applied, Rejected>>;
/// Outcomes, or an error of the engine and whether the log was given the entry.
type Written = Result<Outcomes, (Option<ProposeError>, bool)>;

/// The commands of one entry, and who waits for them.
struct Batch {
    commands: Vec<Wiped>,
    replies: Vec<Reply>,
}

impl Batch {
    fn answer(self, written: Written) {
        match written {
            Ok(outcomes) => {
                for (reply, outcome) in self.replies.into_iter().zip(outcomes) {
                    let failed = |refusal: Refusal| Rejected::Failed(refusal.into());
                    // Whoever asked may have gone away; the command took effect all the same.
                    let _ = reply.send(outcome.map_err(failed));
                }
            }
            Err((Some(error), _)) => self.answer_all(|_| Rejected::Failed(error.clone())),
            Err((None, false)) => self.answer_all(Rejected::NotProposed),
            Err((None, true)) => self.answer_all(Rejected::Unknown),
        }
    }

    fn answer_all(self, rejected: impl Fn(Wiped) -> Rejected) {
        for (reply, command) in self.replies.into_iter().zip(self.commands) {
            let _ = reply.send(Err(rejected(command)));
        }
    }
}

/// The commands at the head of the queue that make one entry.
fn take_batch(queue: &mut VecDeque<Proposal>) -> Batch {
    let mut bytes = 0;
    let mut count = 0;
    for proposal in queue.iter().take(MAX_BATCH_COMMANDS) {
        if !batch_takes(bytes, proposal.command.len()) {
            break;
        }
        bytes += proposal.command.len();
        count += 1;
    }
    let (commands, replies) = queue
        .drain(..count)
        .map(|proposal| (proposal.command, proposal.reply))
        .unzip();
    Batch { commands, replies }
}
