//! The connections to the other managers.
//!
//! One for each member and purpose, made when first asked for and again when it
//! ended. The manager at the other end must be the node that the membership names.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout};
use waxseal_ca::{LiveTls, NodeIdentity, Role};
use waxseal_raft_store::Member;
use waxseal_wire::{Credentials, ManagerChannel};

use crate::raft::RaftId;

/// After a dial failed the next one waits this long: whoever asks meanwhile gets the
/// same answer.
const BACKOFF: Duration = Duration::from_millis(100);
/// Time for a dial: a lost first packet is sent again after a second, so a dial that
/// takes longer is best begun anew.
const DIAL: Duration = Duration::from_millis(900);

/// What a connection is for. What is large or slow must not keep the rest waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Signs of life, votes, probes.
    Pulse,
    /// Entries of the log, snapshots.
    Log,
}

const LANES: usize = 2;

/// Why there is no connection to a manager.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// No member has this id.
    #[error("no member of the Raft group has the id {0:x}")]
    Unknown(RaftId),
    /// It could not be reached.
    #[error("{0}")]
    Unreachable(String),
    /// It shows a certificate that was revoked or superseded.
    #[error(
        "the manager at {addr} shows a certificate that counts no more; `waxseal cert ls` says why"
    )]
    Refused {
        /// The address.
        addr: String,
    },
    /// Another node answers there.
    #[error("at {addr} another node answers ({node_id})")]
    Stranger {
        /// The address.
        addr: String,
        /// Who is there.
        node_id: String,
    },
}

/// The connections to all members; clones share them.
#[derive(Clone)]
pub(crate) struct Peers(Arc<Shared>);

/// Whether a manager's verified certificate still counts.
type Counts = dyn Fn(&NodeIdentity) -> bool + Send + Sync;

struct Shared {
    live: Arc<LiveTls>,
    counts: OnceLock<Box<Counts>>,
    table: Mutex<BTreeMap<RaftId, Arc<Peer>>>,
}

struct Peer {
    node_id: String,
    addr: Mutex<Addr>,
    lanes: [tokio::sync::Mutex<Slot>; LANES],
}

#[derive(Default)]
struct Addr {
    /// As the membership says.
    member: String,
    /// Where it said it is since, or an operator did.
    moved: Option<String>,
}

#[derive(Default)]
struct Slot {
    channel: Option<ManagerChannel>,
    failed: Option<(Instant, PeerError)>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.table().keys()).finish()
    }
}

impl Peers {
    pub(crate) fn new(live: Arc<LiveTls>) -> Peers {
        Peers(Arc::new(Shared {
            live,
            counts: OnceLock::new(),
            table: Mutex::default(),
        }))
    }

    /// From now on only managers are called whose certificate counts.
    pub(crate) fn call_only(&self, counts: impl Fn(&NodeIdentity) -> bool + Send + Sync + 'static) {
        // Set once, when the state is there.
        let _ = self.0.counts.set(Box::new(counts));
    }

    /// Asked each time: the certificate may have been revoked since the channel was made.
    fn counts(&self, channel: &ManagerChannel) -> bool {
        let counts = self.0.counts.get();
        counts.is_none_or(|counts| channel.server().is_none_or(counts))
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<RaftId, Arc<Peer>>> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn peer(&self, raft_id: RaftId) -> Option<Arc<Peer>> {
        self.table().get(&raft_id).cloned()
    }

    /// Takes note of a member, or of its new address.
    pub(crate) fn note(&self, raft_id: RaftId, member: &Member) {
        let mut table = self.table();
        let peer = table
            .entry(raft_id)
            .or_insert_with(|| Arc::new(Peer::new(&member.node_id)));
        let mut addr = peer.addr();
        if addr.member != member.addr {
            // The membership is newer than what was heard before.
            *addr = Addr {
                member: member.addr.clone(),
                moved: None,
            };
        }
    }

    /// Where the members are reached, as far as is known here.
    pub(crate) fn members(&self) -> Vec<(RaftId, Member)> {
        let table = self.table();
        let member = |(raft_id, peer): (&RaftId, &Arc<Peer>)| {
            let member = Member {
                node_id: peer.node_id.clone(),
                addr: peer.addr().current().to_owned(),
            };
            (*raft_id, member)
        };
        table.iter().map(member).collect()
    }

    /// Forgets all others than these.
    pub(crate) fn retain(&self, members: &[RaftId]) {
        self.table().retain(|raft_id, _| members.contains(raft_id));
    }

    /// Dials a member elsewhere from now on, until the membership names another address.
    pub(crate) fn moved(&self, raft_id: RaftId, addr: &str) {
        if let Some(peer) = self.peer(raft_id) {
            let mut known = peer.addr();
            let is_news = known.current() != addr;
            known.moved = (known.member != addr).then(|| addr.to_owned());
            drop(known);
            if is_news {
                peer.forget_failures();
            }
        }
    }

    /// The connection to a member, made if there is none.
    ///
    /// # Errors
    /// [`PeerError`], after at most a second.
    pub(crate) async fn channel(
        &self,
        raft_id: RaftId,
        lane: Lane,
    ) -> Result<ManagerChannel, PeerError> {
        let peer = self.peer(raft_id).ok_or(PeerError::Unknown(raft_id))?;
        let mut slot = peer.lanes[lane as usize].lock().await;
        let is_good = |channel: &&ManagerChannel| !channel.is_closed() && self.counts(channel);
        if let Some(channel) = slot.channel.as_ref().filter(is_good) {
            return Ok(channel.clone());
        }
        slot.channel = None;
        if let Some((at, error)) = slot
            .failed
            .as_ref()
            .filter(|(at, _)| at.elapsed() < BACKOFF)
        {
            tracing::trace!(since = ?at.elapsed(), "not dialled again yet");
            return Err(error.clone());
        }
        let addr = peer.addr().current().to_owned();
        match self.dial_as(&addr, Some(&peer.node_id)).await {
            Ok(channel) => {
                *slot = Slot {
                    channel: Some(channel.clone()),
                    failed: None,
                };
                Ok(channel)
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    /// Dials an address that the membership does not name (yet).
    ///
    /// # Errors
    /// [`PeerError::Unreachable`], after at most a second.
    pub(crate) async fn dial(&self, addr: &str) -> Result<ManagerChannel, PeerError> {
        self.dial_as(addr, None).await
    }

    async fn dial_as(
        &self,
        addr: &str,
        expected: Option<&str>,
    ) -> Result<ManagerChannel, PeerError> {
        let dialling = ManagerChannel::dial(addr, Credentials::Member(&self.0.live));
        let channel = match timeout(DIAL, dialling).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(PeerError::Unreachable(chain_text(&error))),
            Err(_) => {
                let text = format!("{addr} did not answer within {} ms", DIAL.as_millis());
                return Err(PeerError::Unreachable(text));
            }
        };
        let server = channel.server();
        let is_expected = server.is_some_and(|server| {
            server.role == Role::Manager && expected.is_none_or(|id| server.node_id == id)
        });
        if is_expected && !self.counts(&channel) {
            return Err(PeerError::Refused {
                addr: addr.to_owned(),
            });
        }
        if is_expected {
            return Ok(channel);
        }
        Err(PeerError::Stranger {
            addr: addr.to_owned(),
            node_id: server.map_or_else(String::new, |server| server.node_id.clone()),
        })
    }

    /// Ends the connections to a member that does not answer: what is sent on them
    /// may wait long for the network to notice that they lead nowhere.
    pub(crate) fn suspect(&self, raft_id: RaftId) {
        if let Some(peer) = self.peer(raft_id) {
            for lane in &peer.lanes {
                if let Ok(mut slot) = lane.try_lock() {
                    slot.channel = None;
                }
            }
        }
    }
}

impl Peer {
    fn new(node_id: &str) -> Peer {
        Peer {
            node_id: node_id.to_owned(),
            addr: Mutex::default(),
            lanes: Default::default(),
        }
    }

    fn addr(&self) -> MutexGuard<'_, Addr> {
        self.addr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_failures(&self) {
        for lane in &self.lanes {
            if let Ok(mut slot) = lane.try_lock() {
                *slot = Slot::default();
            }
        }
    }
}

impl Addr {
    fn current(&self) -> &str {
        self.moved.as_deref().unwrap_or(&self.member)
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain_text(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = error.source();
    }
    text
}
