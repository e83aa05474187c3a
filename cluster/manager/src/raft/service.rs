//! The engine's messages as they come in, from managers alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use openraft::{
    EntryPayload, RaftMetrics, Snapshot, Vote,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest},
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_stream::StreamExt;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use waxseal_ca::{NodeIdentity, Role};
use waxseal_cluster::{Wiped, objects::NodeRole, timestamp};
use waxseal_raft_store::{Member, SnapshotData, SnapshotDraft};
use waxseal_wire::{
    Peer, Sealing, peer_text,
    waxseal::{
        AppendRequest, AppendResponse, BeatRequest, BeatResponse, CampaignRequest,
        CampaignResponse, JoinRequest, JoinResponse, MoveRequest, ProbeRequest, ProbeResponse,
        RaftHeader, RaftVote, SnapshotRequest, VoteRequest as VoteMessage, VoteResponse,
        raft_server, snapshot_request::Part,
    },
};

use super::{RaftId, TypeConfig, codec};
use crate::{authorize, core::Core, engine::Engine, pulse::NoVote};

/// Appends that the engine works on at once, all senders together: the engine's own
/// queue has no bound, and a sender gives up and tries again while the disk is slow.
const APPENDS: usize = 2;
/// A leader that sends no piece of a snapshot for so long has given up.
const PIECE_WAIT: Duration = Duration::from_secs(15);
/// An address is no longer than a DNS name with its port.
const MAX_ADDR: usize = 260;

/// Serves `Raft`.
#[derive(Clone)]
pub(crate) struct RaftService(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    engine: Engine,
    tasks: TaskTracker,
    appends: Arc<Semaphore>,
    snapshots: Arc<Semaphore>,
}

/// What is done on behalf of a caller that the membership does not name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    /// A leader may be newer than this manager's membership.
    Leader,
    /// So may a candidate, but not under another id of a member's node.
    Candidate,
    /// Not a member yet, or at another address.
    Newcomer,
}

impl RaftService {
    pub(crate) fn new(core: Arc<Core>, engine: Engine, tasks: TaskTracker) -> RaftService {
        RaftService(Arc::new(Shared {
            core,
            engine,
            tasks,
            appends: Arc::new(Semaphore::new(APPENDS)),
            snapshots: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Decides whether the caller may speak to this manager so.
    ///
    /// # Errors
    /// `PermissionDenied` for whoever is no manager of this cluster now,
    /// `FailedPrecondition` for one of another incarnation or membership.
    fn admit<T>(
        &self,
        request: &Request<T>,
        header: Option<&RaftHeader>,
        call: Call,
    ) -> Result<NodeIdentity, Status> {
        let header = header.ok_or_else(|| Status::invalid_argument("the header is missing"))?;
        let identity = Peer::of(request)?.member()?.clone();
        // 1. By its certificate and its record a manager of this cluster, now. One that
        //    has no record here may be newer than what this manager has applied.
        self.check_manager(&identity)?;
        let me = &self.0.engine.me;
        if header.cluster_id != me.cluster_id {
            return Err(denied("the call is for another cluster"));
        }
        // 2. Of the same life of it.
        let (theirs, ours) = (header.incarnation, me.incarnation());
        if theirs != 0 && ours != 0 && theirs < ours {
            return Err(Status::failed_precondition(
                "this manager is of the swarm as it was before `docker swarm init \
                 --force-new-cluster`; run `docker swarm leave --force` on it and join it again",
            ));
        }
        if theirs != 0 && ours != 0 && theirs > ours && call != Call::Leader {
            return Err(Status::failed_precondition(
                "the manager that was called is of the swarm as it was before `docker swarm init \
                 --force-new-cluster`",
            ));
        }
        // 3. For this membership of this node, not one on a disk that was wiped since.
        if header.to != me.raft_id && !(header.to == 0 && call == Call::Newcomer) {
            return Err(Status::failed_precondition(
                "the call is for a former membership of this manager",
            ));
        }
        // 4. Under the id that its node has.
        self.check_membership(header.from, &identity.node_id, call)?;
        Ok(identity)
    }

    fn check_manager(&self, identity: &NodeIdentity) -> Result<(), Status> {
        let core = &self.0.core;
        if identity.role != Role::Manager {
            return Err(denied("this call is for managers of the swarm"));
        }
        if identity.cluster_id != core.cluster_id {
            return Err(denied("the certificate is of another cluster"));
        }
        if core.clock.now() > identity.not_after {
            return Err(Status::unauthenticated(
                "the node certificate has expired; the node must renew it or leave and join again",
            ));
        }
        core.read(|state| {
            if state.is_banned(&identity.node_id) {
                return Err(denied("the node was removed from the swarm"));
            }
            authorize::check_certificate(state, core.clock.now(), identity)?;
            match state.node(&identity.node_id) {
                Some(node) if node.role() != NodeRole::Manager => Err(denied(
                    "the certificate says manager, the node's record says worker",
                )),
                _ => Ok(()),
            }
        })
    }

    fn check_membership(&self, from: RaftId, node_id: &str, call: Call) -> Result<(), Status> {
        let metrics = self.0.engine.raft.server_metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let other = || Status::failed_precondition("the Raft id belongs to another node");
        match membership.get_node(&from) {
            Some(member) if member.node_id == node_id => Ok(()),
            Some(_) => Err(other()),
            None if call == Call::Candidate => {
                match membership
                    .nodes()
                    .find(|(_, member)| member.node_id == node_id)
                {
                    Some(_) => Err(Status::failed_precondition(
                        "this node is a member under another Raft id",
                    )),
                    None => Ok(()),
                }
            }
            None => Ok(()),
        }
    }

    fn own_vote(&self) -> Vote<RaftId> {
        self.0.engine.raft.server_metrics().borrow().vote
    }

    /// Hears a leader, unless it is none any more.
    fn hear(&self, vote: &Vote<RaftId>) -> Result<(), Status> {
        let engine = &self.0.engine;
        if engine.pulse.hear(vote, &self.own_vote(), Instant::now()) {
            return Ok(());
        }
        Err(Status::unavailable(
            "another leader is being elected, or was",
        ))
    }

    fn refusal(&self, why: NoVote) -> VoteResponse {
        tracing::debug!(?why, "a vote is not given");
        let last = self.0.engine.last_log();
        // The candidate's next term is to be one in which this manager votes.
        let floor = Vote::new(self.0.engine.pulse.floor_term(), 0);
        let own = self.own_vote();
        let vote = if floor > own { floor } else { own };
        VoteResponse {
            vote: Some(codec::vote_out(&vote)),
            granted: false,
            last: last.map(codec::log_id_out),
        }
    }

    async fn append(
        &self,
        request: AppendRequest,
        sealing: &Sealing,
    ) -> Result<AppendResponse, Status> {
        let rpc = codec::append_in(request, sealing)?;
        let vote = rpc.vote;
        let own = self.own_vote();
        if own > vote && own.leader_id != vote.leader_id {
            // What the engine would say; a leader of a former term is to know at once.
            return Ok(codec::appended_out(AppendEntriesResponse::HigherVote(own)));
        }
        self.hear(&vote)?;
        self.check_room(&rpc)?;
        let place = Arc::clone(&self.0.appends).acquire_owned().await;
        let place = place.map_err(|_| stopped())?;
        let raft = self.0.engine.raft.clone();
        // Goes on if the caller gives up: the engine has it either way, and the place
        // is taken as long as it does.
        let appending = self.0.tasks.spawn(async move {
            let answer = raft.append_entries(rpc).await;
            drop(place);
            answer
        });
        let answer = appending.await.map_err(|_| stopped())?;
        let answer = answer.map_err(|_| stopped())?;
        if matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.0.engine.pulse.unhear(&vote);
        }
        Ok(codec::appended_out(answer))
    }

    /// Refuses entries that the disk has no room for: the engine would end of them. The
    /// leader tries again, and each time it is looked for space.
    fn check_room(&self, rpc: &AppendEntriesRequest<TypeConfig>) -> Result<(), Status> {
        let bytes = rpc.entries.iter().map(|entry| match &entry.payload {
            EntryPayload::Normal(payload) => payload.batch().len(),
            EntryPayload::Blank | EntryPayload::Membership(_) => 0,
        });
        // Raft's own small entries have a reserve.
        match bytes.sum() {
            0 => Ok(()),
            bytes => self.0.engine.log.can_accept(bytes).map_err(|full| {
                tracing::debug!(%full, "no room for entries of the leader");
                Status::resource_exhausted(full.to_string())
            }),
        }
    }

    async fn vote(&self, request: VoteMessage) -> Result<VoteResponse, Status> {
        let engine = &self.0.engine;
        let vote = codec::vote_in(request.vote)?;
        let last = request.last.map(codec::log_id_in);
        let considered =
            engine.with_quorum(|quorum| engine.pulse.consider(&vote, last, quorum, Instant::now()));
        let considering = match considered {
            Ok(considering) => considering,
            Err(why) => return Ok(self.refusal(why)),
        };
        let raft = engine.raft.clone();
        // To its end, whatever the caller does: until then no former leader is heard.
        let voting = self.0.tasks.spawn(async move {
            let answer = raft.vote(VoteRequest::new(vote, last)).await;
            match &answer {
                Ok(answer) if answer.vote_granted => considering.granted(),
                _ => drop(considering),
            }
            answer
        });
        let answer = voting.await.map_err(|_| stopped())?;
        let answer = answer.map_err(|_| stopped())?;
        Ok(VoteResponse {
            vote: Some(codec::vote_out(&answer.vote)),
            granted: answer.vote_granted,
            last: answer.last_log_id.map(codec::log_id_out),
        })
    }

    fn poll(&self, request: VoteMessage) -> Result<VoteResponse, Status> {
        let engine = &self.0.engine;
        let vote = codec::vote_in(request.vote)?;
        let last = request.last.map(codec::log_id_in);
        let own_last = engine.last_log();
        let candidate = vote.leader_id.node_id;
        let would = engine.with_quorum(|quorum| {
            engine
                .pulse
                .would_vote(candidate, last, quorum, Instant::now())
        });
        if let Err(why) = would {
            return Ok(self.refusal(why));
        }
        Ok(VoteResponse {
            vote: Some(codec::vote_out(&self.own_vote())),
            granted: last >= own_last,
            last: own_last.map(codec::log_id_out),
        })
    }

    async fn install(
        &self,
        begin: waxseal_wire::waxseal::SnapshotBegin,
        mut parts: Streaming<SnapshotRequest>,
        sealing: &Sealing,
    ) -> Result<VoteResponse, Status> {
        let engine = &self.0.engine;
        let _place = Arc::clone(&self.0.snapshots)
            .try_acquire_owned()
            .map_err(|_| Status::resource_exhausted("another snapshot is being received"))?;
        let (vote, meta) = codec::begin_in(begin)?;
        self.hear(&vote)?;
        let data = engine.raft.begin_receiving_snapshot().await;
        let data = data.map_err(|_| stopped())?;
        let SnapshotData::Draft(draft) = &*data else {
            return Err(Status::internal("no draft of a snapshot"));
        };
        loop {
            let part = timeout(PIECE_WAIT, parts.next())
                .await
                .map_err(|_| Status::deadline_exceeded("the rest of the snapshot did not come"))?
                .ok_or_else(|| Status::aborted("the snapshot ended before its end"))??;
            match part.part {
                Some(Part::Chunk(chunk)) => write(draft.clone(), sealing.open(chunk)?).await?,
                Some(Part::End(true)) => break,
                _ => return Err(Status::invalid_argument("no piece of a snapshot")),
            }
        }
        let snapshot = Snapshot {
            meta,
            snapshot: data,
        };
        let answer = engine.raft.install_full_snapshot(vote, snapshot).await;
        let answer = answer.map_err(|_| stopped())?;
        Ok(VoteResponse {
            vote: Some(codec::vote_out(&answer.vote)),
            granted: answer.vote <= vote,
            last: None,
        })
    }
}

#[tonic::async_trait]
impl raft_server::Raft for RaftService {
    async fn append(
        &self,
        request: Request<AppendRequest>,
    ) -> Result<Response<AppendResponse>, Status> {
        let call = request.get_ref();
        self.admit(&request, call.header.as_ref(), Call::Leader)?;
        check_speaker(call.header.as_ref(), call.vote.as_ref())?;
        let (_, extensions, call) = request.into_parts();
        let caller = Request::from_parts(Default::default(), extensions, ());
        let appended = self.append(call, Peer::of(&caller)?.sealing()?).await;
        appended.map(Response::new)
    }

    async fn vote(&self, request: Request<VoteMessage>) -> Result<Response<VoteResponse>, Status> {
        let call = request.get_ref();
        self.admit(&request, call.header.as_ref(), Call::Candidate)?;
        check_speaker(call.header.as_ref(), call.vote.as_ref())?;
        self.vote(request.into_inner()).await.map(Response::new)
    }

    async fn poll(&self, request: Request<VoteMessage>) -> Result<Response<VoteResponse>, Status> {
        let call = request.get_ref();
        self.admit(&request, call.header.as_ref(), Call::Candidate)?;
        check_speaker(call.header.as_ref(), call.vote.as_ref())?;
        self.poll(request.into_inner()).map(Response::new)
    }

    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatResponse>, Status> {
        self.admit(&request, request.get_ref().header.as_ref(), Call::Leader)?;
        let beat = request.into_inner();
        check_speaker(beat.header.as_ref(), beat.vote.as_ref())?;
        let vote = codec::vote_in(beat.vote)?;
        let pulse = &self.0.engine.pulse;
        let own = self.own_vote();
        let follows = pulse.hear(&vote, &own, Instant::now());
        if follows {
            let matched = beat
                .matched
                .into_iter()
                .filter_map(|known| Some((known.raft_id, codec::log_id_in(known.matched?))));
            pulse.told(beat.committed.map(codec::log_id_in), matched);
        }
        Ok(Response::new(BeatResponse {
            vote: Some(codec::vote_out(&own)),
            follows,
            time: Some(timestamp(self.0.core.clock.now())),
        }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<SnapshotRequest>>,
    ) -> Result<Response<VoteResponse>, Status> {
        let (metadata, extensions, mut parts) = request.into_parts();
        let first = timeout(PIECE_WAIT, parts.next())
            .await
            .map_err(|_| Status::deadline_exceeded("the snapshot did not begin"))?
            .ok_or_else(|| Status::aborted("the snapshot did not begin"))??;
        let Some(Part::Begin(begin)) = first.part else {
            return Err(Status::invalid_argument("a snapshot without a beginning"));
        };
        let request = Request::from_parts(metadata, extensions, ());
        self.admit(&request, begin.header.as_ref(), Call::Leader)?;
        check_speaker(begin.header.as_ref(), begin.vote.as_ref())?;
        let sealing = Peer::of(&request)?.sealing()?;
        let installed = self.install(begin, parts, sealing).await;
        installed.map(Response::new)
    }

    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        self.admit(&request, request.get_ref().header.as_ref(), Call::Leader)?;
        let campaign = request.into_inner();
        check_speaker(campaign.header.as_ref(), campaign.vote.as_ref())?;
        let vote = codec::vote_in(campaign.vote)?;
        let engine = &self.0.engine;
        // Only the leader that is followed hands over.
        if engine.pulse.leader(Instant::now()) != Some(vote) {
            return Err(Status::failed_precondition("another manager leads"));
        }
        if !engine.has_room() {
            return Err(Status::resource_exhausted(
                "this manager's disk is full as well",
            ));
        }
        if campaign.ask {
            return match engine.pulse.has_floor() {
                true => Ok(Response::new(CampaignResponse {})),
                false => Err(Status::failed_precondition(
                    "this manager does not know yet what its disk may have lost",
                )),
            };
        }
        engine.stand(true).await.map_err(|why| {
            Status::failed_precondition(format!("this manager cannot stand for election ({why:?})"))
        })?;
        Ok(Response::new(CampaignResponse {}))
    }

    async fn probe(
        &self,
        request: Request<ProbeRequest>,
    ) -> Result<Response<ProbeResponse>, Status> {
        self.admit(&request, request.get_ref().header.as_ref(), Call::Newcomer)?;
        let probe = request.into_inner();
        let from = probe.header.map_or(0, |header| header.from);
        let engine = &self.0.engine;
        if !probe.addr.is_empty() && probe.addr.len() <= MAX_ADDR {
            engine.peers.moved(from, &probe.addr);
        }
        let metrics: RaftMetrics<RaftId, Member> = engine.raft.metrics().borrow().clone();
        let replicated = metrics.replication.as_ref();
        let replicated = replicated.and_then(|known| *known.get(&from)?);
        let matched = engine.pulse.matched(from).max(replicated);
        let leader = engine.leading_member();
        let members = engine.peers.members().into_iter();
        let members = members.map(|(raft_id, member)| codec::member_out(raft_id, &member));
        Ok(Response::new(ProbeResponse {
            raft_id: engine.me.raft_id,
            node_id: engine.me.node_id.clone(),
            vote: Some(codec::vote_out(&metrics.vote)),
            last: engine.last_log().map(codec::log_id_out),
            committed: metrics.last_applied.map(codec::log_id_out),
            matched: matched.map(codec::log_id_out),
            leader: leader.map(|(raft_id, member)| codec::member_out(raft_id, &member)),
            feature_level: self.0.core.feature_level,
            time: Some(timestamp(self.0.core.clock.now())),
            members: members.collect(),
        }))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let identity = self.admit(&request, request.get_ref().header.as_ref(), Call::Newcomer)?;
        let join = request.into_inner();
        let raft_id = join.header.map_or(0, |header| header.from);
        let member = Member {
            node_id: identity.node_id,
            addr: addr_of(&join.addr)?,
        };
        let engine = &self.0.engine;
        let answer = engine.take_in(&self.0.core, raft_id, member, join.feature_level);
        answer.await.map(Response::new)
    }

    async fn r#move(
        &self,
        request: Request<MoveRequest>,
    ) -> Result<Response<JoinResponse>, Status> {
        let identity = self.admit(&request, request.get_ref().header.as_ref(), Call::Newcomer)?;
        let moved = request.into_inner();
        let raft_id = moved.header.map_or(0, |header| header.from);
        let member = Member {
            node_id: identity.node_id,
            addr: addr_of(&moved.addr)?,
        };
        let answer = self.0.engine.take_address(&self.0.core, raft_id, member);
        answer.await.map(Response::new)
    }
}

/// Nobody stands or leads in the name of another.
fn check_speaker(header: Option<&RaftHeader>, vote: Option<&RaftVote>) -> Result<(), Status> {
    let from = header.map(|header| header.from);
    if from == vote.map(|vote| vote.leader) {
        return Ok(());
    }
    Err(denied("a vote for another than the caller"))
}

/// Writes a piece on a blocking thread.
async fn write(draft: SnapshotDraft, chunk: Wiped) -> Result<(), Status> {
    let writing = move || {
        let written = draft.write(&chunk);
        drop(chunk);
        waxseal_autolock::scrub_registers();
        written
    };
    let written = tokio::task::spawn_blocking(writing).await;
    let written = written.map_err(|_| stopped())?;
    written.map_err(|error| Status::resource_exhausted(error.to_string()))
}

fn addr_of(text: &str) -> Result<String, Status> {
    let is_address = text.len() <= MAX_ADDR
        && text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    match is_address {
        true => Ok(text.to_owned()),
        false => Err(Status::invalid_argument(format!(
            "{} is no address of a manager, host:port",
            peer_text(text)
        ))),
    }
}

fn denied(reason: &str) -> Status {
    Status::permission_denied(format!("Permission denied: {reason}"))
}

fn stopped() -> Status {
    Status::unavailable("the manager is stopping")
}
