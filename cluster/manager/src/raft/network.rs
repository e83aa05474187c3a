//! The engine's messages on their way out.

use std::{
    future::Future,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{
    LogId, Snapshot, Vote,
    error::{
        Fatal, NetworkError, PayloadTooLarge, RPCError, RaftError, ReplicationClosed,
        StreamingError, Unreachable,
    },
    network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};
use waxseal_raft_store::{Member, SnapshotData, SnapshotReader, StoredSnapshot};
use waxseal_wire::{
    Sealing,
    waxseal::{SnapshotRequest, snapshot_request::Part},
};

use super::{Identity, RaftId, TypeConfig, codec, commits::Commits};
use crate::{
    peers::{Lane, PeerError, Peers},
    pulse::Pulse,
};

/// Pause of replication to a member that is out of reach.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(200);
/// Entries that were taken within this time are followed by more.
const FLOW: Duration = Duration::from_millis(50);
/// Time for a member to take note of a commit.
const NOTE_WAIT: Duration = Duration::from_millis(800);
/// Bytes of a piece of a snapshot: what a stream's message may have at most is 256 KiB.
const PIECE_BYTES: usize = 192 * 1024;
/// Pieces that are read ahead.
const PIECES_AHEAD: usize = 4;
/// A member that takes no piece of a snapshot for so long is given up for now.
const PIECE_WAIT: Duration = Duration::from_secs(10);
/// Time to make a whole snapshot the state: sync, read, decode.
const INSTALL_WAIT: Duration = Duration::from_secs(120);

type RpcError = RPCError<RaftId, Member, RaftError<RaftId>>;

/// Makes clients for members.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) me: Arc<Identity>,
    pub(crate) peers: Peers,
    pub(crate) pulse: Pulse,
    pub(crate) commits: Commits,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: RaftId, node: &Member) -> Client {
        self.peers.note(target, node);
        Client::new(target, self)
    }
}

/// Carries messages to one member.
pub(crate) struct Client {
    target: RaftId,
    network: Network,
    /// Entries of an append that was given up before it was answered.
    unanswered: u64,
    /// The last entry that the member took of this client, and when.
    taken: Option<(LogId<RaftId>, Instant)>,
    /// Cancels the note of a commit that has not gone yet.
    note: Option<DropGuard>,
}

impl RaftNetwork<TypeConfig> for Client {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<RaftId>, RpcError> {
        let entries = rpc.entries.len() as u64;
        if entries == 0 && self.flows(rpc.prev_log_id) && !self.network.commits.are_awaited() {
            self.note = Some(self.note_later(rpc));
            // For the engine it went: that the log matches is known, and what relies on a
            // sign of life of the member goes by `pulse`.
            return Ok(AppendEntriesResponse::Success);
        }
        // This says the same, and more.
        self.note = None;
        // On a slow link fewer at a time get through within the engine's time.
        let before = std::mem::take(&mut self.unanswered);
        if before > 1 && entries >= before {
            return Err(RPCError::PayloadTooLarge(
                PayloadTooLarge::new_entries_hint(before / 2),
            ));
        }
        self.unanswered = entries;
        let last = rpc.entries.last().map(|entry| entry.log_id);
        let answer = self.append(rpc).await;
        self.unanswered = 0;
        match (&answer, last) {
            (Ok(AppendEntriesResponse::Success), Some(last)) => {
                self.taken = Some((last, Instant::now()));
            }
            (Ok(AppendEntriesResponse::Success), None) => {}
            _ => self.taken = None,
        }
        answer
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<RaftId>,
        _option: RPCOption,
    ) -> Result<VoteResponse<RaftId>, RpcError> {
        let channel = self.channel(Lane::Pulse).await?;
        let request = waxseal_wire::waxseal::VoteRequest {
            header: Some(self.network.me.header(self.target)),
            vote: Some(codec::vote_out(&rpc.vote)),
            last: rpc.last_log_id.map(codec::log_id_out),
        };
        let answer = channel.raft().vote(request).await;
        let answer = answer.map_err(|status| failed(&status))?.into_inner();
        let vote = codec::vote_in(answer.vote).map_err(|status| failed(&status))?;
        let last = answer.last.map(codec::log_id_in);
        Ok(VoteResponse::new(vote, last, answer.granted))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote<RaftId>,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<RaftId>, StreamingError<TypeConfig, Fatal<RaftId>>> {
        tokio::select! {
            sent = self.send_snapshot(vote, snapshot) => sent,
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}

impl Client {
    async fn channel(&self, lane: Lane) -> Result<waxseal_wire::ManagerChannel, RpcError> {
        let channel = self.network.peers.channel(self.target, lane).await;
        channel.map_err(|error| RPCError::Unreachable(unreachable(&error)))
    }

    fn new(target: RaftId, network: &Network) -> Client {
        Client {
            target,
            network: network.clone(),
            unanswered: 0,
            taken: None,
            note: None,
        }
    }

    /// Whether entries come one after the other, of which the member just took the one at
    /// `prev`: then an append without entries asks nothing that is not known.
    fn flows(&self, prev: Option<LogId<RaftId>>) -> bool {
        self.taken
            .is_some_and(|(last, at)| prev == Some(last) && at.elapsed() < FLOW)
    }

    /// Sends a message without entries once none are to be expected that say the same;
    /// dropped before, it is not sent.
    fn note_later(&self, rpc: AppendEntriesRequest<TypeConfig>) -> DropGuard {
        let client = Client::new(self.target, &self.network);
        let overtaken = CancellationToken::new();
        let note = overtaken.clone().drop_guard();
        // Owned by the guard until it is sent, and short after.
        tokio::spawn(async move {
            let due = client.network.commits.due();
            if overtaken.run_until_cancelled(due).await.is_none() {
                return;
            }
            match timeout(NOTE_WAIT, client.append(rpc)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a commit is not noted"),
                Err(_) => tracing::debug!("a commit is not noted in time"),
            }
        });
        note
    }

    async fn append(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<RaftId>, RpcError> {
        let channel = self.channel(Lane::Log).await?;
        let sent = codec::Sent::of(&rpc);
        let request =
            codec::append_out(self.network.me.header(self.target), rpc, channel.sealing());
        let at = Instant::now();
        let answer = channel.raft().append(request).await;
        let answer = answer.map_err(|status| failed(&status))?.into_inner();
        let answer = codec::appended_in(answer, &sent).map_err(|status| failed(&status))?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.network.pulse.acked(self.target, &sent.vote, at);
        }
        Ok(answer)
    }

    async fn send_snapshot(
        &self,
        vote: Vote<RaftId>,
        snapshot: Snapshot<TypeConfig>,
    ) -> Result<SnapshotResponse<RaftId>, StreamingError<TypeConfig, Fatal<RaftId>>> {
        let SnapshotData::Stored(stored) = *snapshot.snapshot else {
            let error = io::Error::other("a snapshot that is not whole cannot be sent");
            return Err(StreamingError::Network(NetworkError::new(&error)));
        };
        let channel = self.network.peers.channel(self.target, Lane::Log).await;
        let channel = channel.map_err(|error| StreamingError::Unreachable(unreachable(&error)))?;
        let lost = |status: Status| StreamingError::Network(NetworkError::new(&status));
        let header = self.network.me.header(self.target);
        let begin = codec::begin_out(header, &vote, &snapshot.meta);
        let (pieces, stream) = mpsc::channel(PIECES_AHEAD);
        let feeding = feed(pieces, Part::Begin(begin), stored, channel.sealing());
        let mut client = channel.raft();
        let calling = client.snapshot(ReceiverStream::new(stream));
        tokio::pin!(calling);
        // The answer may come before the end: a refusal.
        let answer = tokio::select! {
            answer = &mut calling => answer,
            fed = feeding => match fed {
                Ok(()) => timeout(INSTALL_WAIT, calling)
                    .await
                    .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))),
                Err(status) => Err(status),
            },
        };
        let answer = answer.map_err(lost)?.into_inner();
        let vote = codec::vote_in(answer.vote).map_err(lost)?;
        Ok(SnapshotResponse::new(vote))
    }
}

/// Reads a snapshot and hands it on in pieces.
async fn feed(
    pieces: mpsc::Sender<SnapshotRequest>,
    begin: Part,
    stored: StoredSnapshot,
    sealing: &Sealing,
) -> Result<(), Status> {
    send(&pieces, begin).await?;
    let mut reader = Some(stored.reader());
    while let Some(reading) = reader.take() {
        let (chunk, after) = next_chunk(reading).await?;
        let Some(chunk) = chunk else { break };
        reader = Some(after);
        for piece in chunk.chunks(PIECE_BYTES) {
            send(&pieces, Part::Chunk(sealing.seal(piece))).await?;
        }
    }
    send(&pieces, Part::End(true)).await
}

type Chunk = Option<zeroize::Zeroizing<Vec<u8>>>;

/// Reads the disk on a blocking thread.
async fn next_chunk(mut reader: SnapshotReader) -> Result<(Chunk, SnapshotReader), Status> {
    let reading = move || {
        let chunk = reader.next_chunk();
        waxseal_autolock::scrub_registers();
        chunk.map(|chunk| (chunk, reader))
    };
    tokio::task::spawn_blocking(reading)
        .await
        .map_err(|_| Status::aborted("the snapshot was not read"))?
        .map_err(|error| Status::data_loss(error.to_string()))
}

async fn send(pieces: &mpsc::Sender<SnapshotRequest>, part: Part) -> Result<(), Status> {
    let request = SnapshotRequest { part: Some(part) };
    match timeout(PIECE_WAIT, pieces.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(Status::cancelled(
            "the member takes no more of the snapshot",
        )),
        Err(_) => Err(Status::deadline_exceeded(
            "the member takes no piece of the snapshot",
        )),
    }
}

fn unreachable(error: &PeerError) -> Unreachable {
    Unreachable::new(error)
}

/// After `Unreachable` the engine pauses, after others it tries again at once.
fn failed(status: &Status) -> RpcError {
    match status.code() {
        Code::DeadlineExceeded | Code::Aborted => RPCError::Network(NetworkError::new(status)),
        _ => RPCError::Unreachable(Unreachable::new(status)),
    }
}
