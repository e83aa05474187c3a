//! What a session's stream says of the node, of managers and of the root, and when.
//!
//! A node that is told of another root makes a new session, and a fleet is told of it at the same
//! moment. So that it does not come back in one, nodes are told in turn: the next as one is back.

use std::{
    hash::{BuildHasher, RandomState},
    ops::ControlFlow,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};
use tonic::Status;
use waxseal_ca::PublicKeyDigest;
use waxseal_cluster::{issuer_rules, objects::Node};
use waxseal_wire::swarmkit::{Peer, SessionMessage, WeightedPeer};

use super::{
    service::ToNode,
    session::{Session, Sessions},
};
use crate::core::Core;

/// Weight of each manager in the list (swarmkit's default).
const MANAGER_WEIGHT: i64 = 10;
/// Nodes that make a new session at once because the root is another: as many handshakes are
/// taken at once from members however few descriptors there are.
pub(super) const ROOT_TURNS: usize = 256;
/// A node that is not back by then does not come, or does not mind: another has its turn.
const ROOT_TURN: Duration = Duration::from_secs(2);

/// A turn to be told of another root, and when it is over at the latest.
struct Turn {
    _place: OwnedSemaphorePermit,
    until: Instant,
}

/// What was sent last, as far as it tells whether to send again: the message itself would be most
/// of what an idle session costs.
struct Shown {
    hasher: RandomState,
    last: Option<Last>,
}

#[derive(PartialEq)]
struct Last {
    /// Hash of the message without its root.
    content: u64,
    /// Hash of the root.
    root: u64,
    issuers: Vec<Vec<u8>>,
}

/// What to do about a message. In a box: whoever waits to send it has room for it ever after.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Nothing is news.
    Same,
    /// It goes out.
    Send(Box<SessionMessage>),
    /// It goes out without an opinion on the root, if it goes out at all; that has to wait.
    Later(Option<Box<SessionMessage>>),
}

impl Shown {
    fn nothing() -> Shown {
        Shown {
            hasher: RandomState::new(),
            last: None,
        }
    }

    /// Looks at what the state shows now; `None` once the node is gone.
    fn look(&mut self, core: &Core, session: &Session, has_turn: bool) -> Option<Verdict> {
        let message = session_message(core, session)?;
        Some(self.judge(message, has_turn))
    }

    /// Judges the message that the state makes now. Only with a turn another root is shown than
    /// before, and with it whose leaves count below it.
    fn judge(&mut self, mut message: SessionMessage, has_turn: bool) -> Verdict {
        let root_ca = std::mem::take(&mut message.root_ca);
        let root = self.hasher.hash_one(&root_ca);
        let is_kept = |last: &Last| last.root != root && !has_turn;
        if let Some(last) = self.last.as_mut().filter(|last| is_kept(last)) {
            message.issuers.clone_from(&last.issuers);
            let content = self.hasher.hash_one(message.encode_to_vec());
            let before = std::mem::replace(&mut last.content, content);
            return Verdict::Later((before != content).then(|| Box::new(message)));
        }
        let now = Last {
            content: self.hasher.hash_one(message.encode_to_vec()),
            root,
            issuers: message.issuers.clone(),
        };
        if self.last.as_ref() == Some(&now) {
            return Verdict::Same;
        }
        self.last = Some(now);
        Verdict::Send(Box::new(SessionMessage { root_ca, ..message }))
    }
}

/// Runs the stream of a session until it ends on either side.
pub(super) async fn run_session(
    core: Arc<Core>,
    sessions: Arc<Sessions>,
    session: Arc<Session>,
    sender: ToNode<SessionMessage>,
) {
    let ended = session.ended.clone();
    let mut turn = None;
    // In a box: what drives it holds it twice, for as long as the session.
    let messages = Box::pin(send_session(
        &core,
        &session,
        &sessions.root_turns,
        &sender,
        &mut turn,
    ));
    match ended.run_until_cancelled(messages).await {
        Some(ControlFlow::Break(())) => {
            // The turn lasts until the node is back, which ends this session.
            if let Some(Turn { until, .. }) = &turn {
                let _ = timeout_at(*until, ended.cancelled()).await;
            }
            return;
        }
        // The node was removed, maybe before the session was in the table.
        Some(ControlFlow::Continue(())) => sessions.close(&session.node_id),
        None => {}
    }
    let _ = sender.try_send(Err(Status::aborted("node must disconnect")));
}

/// Continues with the end of the session when the node is gone from the table,
/// and breaks when it hung up.
async fn send_session(
    core: &Core,
    session: &Session,
    turns: &Arc<Semaphore>,
    sender: &ToNode<SessionMessage>,
    turn: &mut Option<Turn>,
) -> ControlFlow<()> {
    let mut shown = Shown::nothing();
    let mut waiting: Option<Pin<Box<dyn Future<Output = Option<Turn>> + Send>>> = None;
    while let Some(verdict) = shown.look(core, session, turn.is_some()) {
        let news = match verdict {
            Verdict::Same => None,
            Verdict::Send(message) => Some(message),
            Verdict::Later(message) => {
                waiting.get_or_insert_with(|| Box::pin(next_turn(Arc::clone(turns))));
                message
            }
        };
        if let Some(message) = news
            && sender.send(Ok(message)).await.is_err()
        {
            return ControlFlow::Break(());
        }
        let until = turn.as_ref().map(|turn| turn.until);
        tokio::select! {
            () = session.node_changed.notified() => {}
            () = sender.closed() => return ControlFlow::Break(()),
            next = some(waiting.as_mut()) => {
                waiting = None;
                *turn = next;
            }
            () = some(until.map(sleep_until)) => *turn = None,
        }
    }
    ControlFlow::Continue(())
}

/// A turn, once it is its time; none if there are no more.
async fn next_turn(turns: Arc<Semaphore>) -> Option<Turn> {
    let place = turns.acquire_owned().await.ok()?;
    Some(Turn {
        _place: place,
        until: Instant::now() + ROOT_TURN,
    })
}

/// Completes with what there is; never, if there is nothing.
async fn some<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// What the session stream shows now; `None` once the node is gone.
///
/// Status and versions are left out of the node: a worker acts on its spec,
/// role and certificate only, and would be woken by each of its own reports.
fn session_message(core: &Core, session: &Session) -> Option<SessionMessage> {
    let managers = weighted_managers(core);
    core.read(|state| {
        let node = state.node(&session.node_id)?;
        let cluster = state.cluster()?;
        let node = Node {
            meta: None,
            status: None,
            manager_status: None,
            state_since: None,
            renewal_asked_at: None,
            renewal_reason: String::new(),
            quarantined_at: None,
            ..Node::clone(node)
        };
        let rules = issuer_rules(cluster);
        let bytes = |keys: Vec<PublicKeyDigest>| -> Vec<Vec<u8>> {
            keys.iter().map(|key| key.as_bytes().to_vec()).collect()
        };
        Some(SessionMessage {
            session_id: session.id.clone(),
            node: Some(node),
            managers,
            network_bootstrap_keys: Vec::new(),
            root_ca: cluster
                .root_ca
                .as_ref()
                .map(|root| root.ca_cert.clone())
                .unwrap_or_default(),
            issuers: bytes(rules.only.unwrap_or_default()),
            refused_issuers: bytes(rules.refused),
            issuer_rules: true,
        })
    })
}

/// All managers alike, so that nodes spread over them: whom a node has trouble with, it
/// finds out itself. Never empty, or the node would not find back.
fn weighted_managers(core: &Core) -> Vec<WeightedPeer> {
    let weighted = |node_id: String, addr: String| WeightedPeer {
        peer: Some(Peer { node_id, addr }),
        weight: MANAGER_WEIGHT,
    };
    let members = core.group.managers().into_iter();
    let managers: Vec<_> = members
        .filter(|member| !member.addr.is_empty())
        .map(|member| weighted(member.node_id, member.addr))
        .collect();
    match managers.is_empty() {
        true => vec![weighted(core.node_id.clone(), core.advertise_addr.clone())],
        false => managers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(message: &SessionMessage) -> Verdict {
        Verdict::Send(Box::new(message.clone()))
    }

    fn message(session_id: &str, root: &str) -> SessionMessage {
        SessionMessage {
            session_id: session_id.to_owned(),
            root_ca: root.as_bytes().to_vec(),
            ..SessionMessage::default()
        }
    }

    #[test]
    fn only_news_is_sent() {
        let mut shown = Shown::nothing();
        let first = message("s", "A");
        assert_eq!(shown.judge(first.clone(), false), send(&first));
        assert_eq!(shown.judge(first.clone(), false), Verdict::Same);
        let second = message("t", "A");
        assert_eq!(shown.judge(second.clone(), false), send(&second));
        assert_eq!(shown.judge(first.clone(), true), send(&first));
    }

    #[test]
    fn another_root_waits_for_its_turn_and_the_rest_does_not() {
        let mut shown = Shown::nothing();
        shown.judge(message("s", "A"), false);
        assert_eq!(shown.judge(message("s", "B"), false), Verdict::Later(None));
        let without = Verdict::Later(Some(Box::new(message("t", ""))));
        assert_eq!(shown.judge(message("t", "B"), false), without);
        assert_eq!(shown.judge(message("t", "B"), false), Verdict::Later(None));
        let pinned = SessionMessage {
            issuers: vec![vec![7]],
            ..message("t", "B")
        };
        assert_eq!(shown.judge(pinned, false), Verdict::Later(None));
        // The rotation came to nothing: the root that it knows is no news.
        assert_eq!(shown.judge(message("t", "A"), false), Verdict::Same);
        let second = message("t", "B");
        assert_eq!(shown.judge(second.clone(), true), send(&second));
        assert_eq!(shown.judge(second, false), Verdict::Same);
    }
}
