//! The session with a manager: who this node is, that it lives, what it is to run.
//!
//! One session at a time, with one manager. Whatever ends a part of it ends the whole;
//! the next one begins with a complete set of assignments. Tasks do not notice.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, time};
use tonic::{Code, Request, Status, Streaming};
use tracing::{debug, info, warn};
use waxseal_ca::{IssuerRules, PublicKeyDigest, Role, TrustBundle};
use waxseal_cluster::objects::{Node, NodeDescription, NodeRole, NodeSpec};
use waxseal_wire::{
    DialError, ManagerChannel, Unreachable, announce_time, engine_text,
    swarmkit::{AssignmentsRequest, HeartbeatRequest, SessionMessage, SessionRequest},
    waxseal::HelloRequest,
};

use crate::{
    assignments::{AssignedSet, AssignmentStream, ChainBreak},
    backoff::SessionBackoff,
    certificate::{bounded, is_role_change},
    logs,
    managers::managers_of,
    random::spread,
    renew::{role_of, vouches_for_us, wants_renewal},
    shared::Shared,
    status::SessionStatus,
};

/// Time for the first message of a session.
const FIRST_MESSAGE: Duration = Duration::from_secs(5);
/// The period between heartbeats if a manager names none.
const DEFAULT_PERIOD: Duration = Duration::from_secs(5);
/// The shortest period: what a manager names below it would be a busy loop.
const SHORTEST_PERIOD: Duration = Duration::from_millis(100);
/// How often the description is looked at for changes.
const DESCRIPTION_CHECK: Duration = Duration::from_secs(20);

const IGNORED_KEYS: &str =
    "network keys: this node has no overlay networks, so that it starts no gossip";
const IGNORED_ROLE: &str = "promotion to manager by a Docker Engine: this node stays a worker; if the manager cannot demote \
     it, remove it with `docker node rm --force` and join again";
const IGNORED_ISSUERS: &str =
    "rules of issuers that cannot be read: those of before hold; update the managers";
const IGNORED_ROOT: &str =
    "a root certificate that does not cover this node's own: see the managers' root rotation";

/// Keys in one list of issuers: more than a manager keeps on record.
const MAX_ISSUERS: usize = 256;

/// What managers, stock ones too, say to a node that was removed.
const REMOVED: &str = "was removed from swarm";

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionEnd {
    #[error("no manager is known; leave the cluster and join it again")]
    NoManager,
    #[error(transparent)]
    Unreachable(#[from] DialError),
    #[error("the manager sent nothing for 5 s; see the manager's log")]
    Silent,
    #[error("{call}: {}; the manager's log says more", engine_text(.status))]
    Call { call: &'static str, status: Status },
    #[error("the manager ended {0}; its log says why")]
    Ended(&'static str),
    #[error(transparent)]
    Chain(#[from] ChainBreak),
    /// Not a failure: something that a session is made with has changed.
    #[error("{0}")]
    Renewed(&'static str),
}

impl SessionEnd {
    /// Whether managers do not take this node for a member any more.
    fn is_refusal(&self) -> bool {
        match self {
            SessionEnd::Unreachable(error) => {
                matches!(error.cause, Unreachable::CertificateRefused { .. })
            }
            SessionEnd::Call { status, .. } => {
                matches!(
                    status.code(),
                    Code::PermissionDenied | Code::Unauthenticated
                ) && !self.is_role_change()
            }
            _ => false,
        }
    }

    /// Whether certificates stood in the way of a connection, on either side.
    fn is_certificate_failure(&self) -> bool {
        matches!(self, SessionEnd::Unreachable(error) if error.is_certificate_failure())
    }

    /// Whether the managers have another role on record for this node: its next
    /// certificate names it, and is taken with the present one.
    fn is_role_change(&self) -> bool {
        matches!(
            self,
            SessionEnd::Call { status, .. } if is_role_change(status)
        )
    }

    /// Whether a manager, known by its certificate, says that this node was removed.
    fn is_removal(&self) -> bool {
        matches!(
            self,
            SessionEnd::Call { status, .. } if status.code() == Code::PermissionDenied
                && status.message().contains(REMOVED)
        )
    }
}

/// Keeps a session with one of the managers. Never ends by itself.
pub(crate) async fn hold_sessions(
    shared: Arc<Shared>,
    assigned: watch::Sender<Option<AssignedSet>>,
) {
    let mut holder = Holder {
        shared,
        assigned,
        session_id: String::new(),
        backoff: SessionBackoff::default(),
        failures: 0,
        tried: Vec::new(),
    };
    loop {
        let end = match holder.session().await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        holder.note_end(&end);
        if !matches!(end, SessionEnd::Renewed(_)) {
            time::sleep(holder.pause()).await;
        }
    }
}

struct Holder {
    shared: Arc<Shared>,
    assigned: watch::Sender<Option<AssignedSet>>,
    /// Of the last session, so that a manager can resume it.
    session_id: String,
    backoff: SessionBackoff,
    failures: u32,
    /// The managers that had no session for this node since the last pause.
    tried: Vec<String>,
}

impl Holder {
    /// One session, from dialling to its end.
    async fn session(&mut self) -> Result<Infallible, SessionEnd> {
        let shared = Arc::clone(&self.shared);
        let mut renewals = shared.renewals.subscribe();
        renewals.mark_unchanged();
        let (manager, is_another) = shared
            .choose_manager(&self.tried)
            .ok_or(SessionEnd::NoManager)?;
        self.tried.push(manager.address.clone());
        let channel = shared.dial(&manager, is_another).await?;
        let description = shared.facts.describe(&shared.tls);
        let registering = self.register(&channel, description.clone());
        let (messages, first) = registering
            .await
            .inspect_err(|_| shared.observed().failed(&manager.address))?;
        info!(manager = %manager.address, session = %first.session_id, "session registered");
        self.session_id.clone_from(&first.session_id);
        self.backoff.reset();
        self.failures = 0;
        self.tried.clear();
        shared.observed().served(&manager.address);
        let since = shared.now();
        let registered = SessionStatus::Registered {
            manager: manager.address,
            since,
        };
        shared
            .status
            .send_modify(|status| status.session = registered);

        let session_id = &self.session_id;
        tokio::select! {
            end = follow_messages(&shared, &channel, first, messages) => end,
            end = beat(&channel, session_id) => end,
            end = follow_assignments(&channel, session_id, &self.assigned) => end,
            end = shared.reports.send_all(&channel, session_id) => {
                end.map_err(|status| SessionEnd::Call { call: "UpdateTaskStatus", status })
            }
            end = logs::serve(&shared, &channel, &self.assigned) => {
                end.map_err(|status| SessionEnd::Call { call: "ListenSubscriptions", status })
            }
            () = description_changes(&shared, &description) => {
                Err(SessionEnd::Renewed("this node's description changed"))
            }
            _ = renewals.changed() => {
                Err(SessionEnd::Renewed("this node's certificate was renewed"))
            }
            () = channel.closed() => Err(SessionEnd::Ended("the connection")),
        }
    }

    /// The wait before the next try: short as long as there are managers that were not
    /// tried, then longer with each round.
    fn pause(&mut self) -> Duration {
        let managers = self.shared.status.borrow().managers.len();
        if !self.tried.is_empty() && self.tried.len() < managers {
            return SessionBackoff::default().next(spread());
        }
        // Whoever was last is tried last.
        let last = self.tried.pop();
        self.tried.clear();
        self.tried.extend(last.filter(|_| managers > 1));
        self.backoff.next(spread())
    }

    async fn register(
        &self,
        channel: &ManagerChannel,
        description: NodeDescription,
    ) -> Result<(Streaming<SessionMessage>, SessionMessage), SessionEnd> {
        let call = "Session";
        let mut request = Request::new(SessionRequest {
            description: Some(description),
            session_id: self.session_id.clone(),
        });
        announce_time(&mut request, self.shared.now());
        let mut dispatcher = channel.dispatcher();
        let registering = async {
            let mut messages = dispatcher.session(request).await?.into_inner();
            let first = messages.message().await?;
            Ok((messages, first))
        };
        let (messages, first) = time::timeout(FIRST_MESSAGE, registering)
            .await
            .map_err(|_| SessionEnd::Silent)?
            .map_err(|status| SessionEnd::Call { call, status })?;
        Ok((messages, first.ok_or(SessionEnd::Ended("the session"))?))
    }

    fn note_end(&mut self, end: &SessionEnd) {
        if matches!(end, SessionEnd::Renewed(_)) {
            debug!(%end, "making a new session");
            return;
        }
        self.failures = self.failures.saturating_add(1);
        let failures = self.failures;
        if end.is_role_change() {
            self.shared.renew.notify_one();
        }
        let tasks_end = end.is_removal() && self.shared.executor.stops_orphans();
        if tasks_end
            && self
                .assigned
                .borrow()
                .as_ref()
                .is_none_or(|set| !set.tasks.is_empty())
        {
            warn!("this node was removed from its cluster; its tasks are stopped");
            self.assigned.send_replace(Some(AssignedSet::default()));
        }
        let session = if end.is_refusal() {
            let tasks = if tasks_end { "stopped" } else { "kept" };
            let error = format!(
                "the managers refuse this node ({end}); its tasks are {tasks}: if it was removed, \
                 leave the cluster with `docker swarm leave` and join it again"
            );
            SessionStatus::Refused { error }
        } else {
            SessionStatus::Failing {
                failures,
                error: end.to_string(),
            }
        };
        if failures == 1 {
            warn!(%end, "session ended, trying again");
        } else {
            debug!(%end, failures, "session failed, trying again");
        }
        self.shared
            .status
            .send_modify(|status| status.session = session);
        // Each of the managers has been tried since there was a session.
        let managers = self.shared.status.borrow().managers.len();
        if end.is_certificate_failure() && failures as usize >= managers {
            self.shared.absent.notify_one();
        }
    }
}

/// Handles what a manager says of this node, of managers and of the root.
async fn follow_messages(
    shared: &Shared,
    channel: &ManagerChannel,
    first: SessionMessage,
    mut messages: Streaming<SessionMessage>,
) -> Result<Infallible, SessionEnd> {
    let mut message = first;
    loop {
        follow_message(shared, channel, message).await?;
        message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return Err(SessionEnd::Ended("the session")),
            Err(status) => {
                return Err(SessionEnd::Call {
                    call: "Session",
                    status,
                });
            }
        };
    }
}

async fn follow_message(
    shared: &Shared,
    channel: &ManagerChannel,
    message: SessionMessage,
) -> Result<(), SessionEnd> {
    note_ignored(
        shared,
        IGNORED_KEYS,
        !message.network_bootstrap_keys.is_empty(),
    );
    follow_issuers(shared, &message).await;
    if let Some(node) = message.node {
        follow_role(shared, channel, &node).await;
        follow_node(shared, node);
    }
    let managers = managers_of(&message.managers);
    // An empty list would leave this node without a way back.
    if !managers.is_empty() && shared.status.borrow().managers != managers {
        shared.observed().retain(&managers);
        // Not kept on disk is no reason not to use it now.
        if let Err(error) = shared.store.save_managers(&managers).await {
            warn!(%error, "cannot keep the list of managers");
        }
        shared
            .status
            .send_modify(|status| status.managers = managers);
    }
    if message.root_ca.is_empty() || message.root_ca == shared.tls.trust().pem() {
        note_ignored(shared, IGNORED_ROOT, false);
        return Ok(());
    }
    follow_root(shared, &message.root_ca).await
}

/// Takes whose leaves count from a manager whose own does. What was said once holds until a
/// manager says otherwise in words: one that says nothing, as a stock one, or nothing that can be
/// read, takes no pin away. A manager's node has the rules of its own state, and keeps those that
/// hold should it become a worker.
async fn follow_issuers(shared: &Shared, message: &SessionMessage) {
    let rules = rules_of(message);
    if let Err(Unreadable) = rules
        && !shared.status.borrow().ignored.contains(&IGNORED_ISSUERS)
    {
        warn!("the manager sent rules of issuers that cannot be read");
    }
    note_ignored(shared, IGNORED_ISSUERS, rules.is_err());
    let Ok(Some(rules)) = rules else {
        return;
    };
    // Not kept on disk is no reason not to go by them now.
    let trust = shared.tls.trust();
    if let Err(error) = shared.store.save_issuers(&rules, &trust).await {
        warn!(%error, "cannot keep whose certificates count");
    }
    let role = shared.tls.identity().map(|identity| identity.role);
    if role == Some(Role::Worker) && *shared.tls.issuer_rules() != rules {
        shared.tls.rule_issuers(rules);
    }
}

/// A list with something in it that is no key, or with too many.
#[derive(Debug, PartialEq)]
struct Unreadable;

/// The rules in a message; nothing if the manager says nothing of them.
fn rules_of(message: &SessionMessage) -> Result<Option<IssuerRules>, Unreadable> {
    if !message.issuer_rules {
        return Ok(None);
    }
    let only = keys_of(&message.issuers)?;
    Ok(Some(IssuerRules {
        only: (!only.is_empty()).then_some(only),
        refused: keys_of(&message.refused_issuers)?,
    }))
}

fn keys_of(keys: &[Vec<u8>]) -> Result<Vec<PublicKeyDigest>, Unreadable> {
    if keys.len() > MAX_ISSUERS {
        return Err(Unreadable);
    }
    let key = |bytes: &Vec<u8>| <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| Unreadable);
    let keys = keys.iter().map(key);
    keys.map(|key| key.map(PublicKeyDigest::from_bytes))
        .collect()
}

/// Has the certificate renewed if the record gives this node another role than it
/// says. A node of ours is no manager of a stock cluster, whose Raft it does not speak.
async fn follow_role(shared: &Shared, channel: &ManagerChannel, node: &Node) {
    let Some(identity) = shared.tls.identity() else {
        return;
    };
    let recorded = role_of(node);
    let desired = node.spec.as_ref().map(NodeSpec::desired_role);
    let promoted = recorded == Role::Manager || desired == Some(NodeRole::Manager);
    let refused = promoted && identity.role == Role::Worker && is_stock(channel).await;
    note_ignored(shared, IGNORED_ROLE, refused);
    if recorded != identity.role && !refused {
        info!(role = recorded.ou(), "this node has another role now");
        shared.renew.notify_one();
    }
}

/// Whether a manager is a stock one: it does not know our greeting.
async fn is_stock(channel: &ManagerChannel) -> bool {
    let mut hello = channel.hello();
    let answer = bounded(HelloRequest::default(), |request| hello.greet(request)).await;
    matches!(answer, Err(status) if status.code() == Code::Unimplemented)
}

fn follow_node(shared: &Shared, node: Node) {
    if wants_renewal(&node, shared.newest_csr().as_deref()) {
        shared.renew.notify_one();
    }
    shared
        .status
        .send_modify(|status| status.node = Some(Arc::new(node)));
}

/// Takes a new trust bundle, if it covers this node's own certificate.
async fn follow_root(shared: &Shared, pem: &[u8]) -> Result<(), SessionEnd> {
    let trust = match TrustBundle::from_pem(pem, shared.now()) {
        Ok(trust) => trust,
        Err(error) => {
            warn!(%error, "the manager sent a root certificate that cannot be used");
            note_ignored(shared, IGNORED_ROOT, true);
            return Ok(());
        }
    };
    if let Err(error) = vouches_for_us(shared, &trust) {
        warn!(%error, "the manager sent a root certificate that does not cover this node's own");
        note_ignored(shared, IGNORED_ROOT, true);
        return Ok(());
    }
    note_ignored(shared, IGNORED_ROOT, false);
    if let Err(error) = shared.store.save_trust(&trust).await {
        warn!(%error, "cannot keep the cluster's new root certificate, using the old one");
        return Ok(());
    }
    info!(digest = %trust.digest(), "the cluster's root certificate changed");
    shared.tls.swap_trust(Arc::new(trust));
    Err(SessionEnd::Renewed(
        "the cluster's root certificate changed",
    ))
}

fn note_ignored(shared: &Shared, what: &'static str, ignored: bool) {
    shared.status.send_if_modified(|status| {
        let noted = status.ignored.contains(&what);
        if ignored && !noted {
            status.ignored.push(what);
        } else if !ignored && noted {
            status.ignored.retain(|other| *other != what);
        }
        ignored != noted
    });
}

/// Beats at once, then after the period that each answer names.
async fn beat(channel: &ManagerChannel, session_id: &str) -> Result<Infallible, SessionEnd> {
    loop {
        let request = HeartbeatRequest {
            session_id: session_id.to_owned(),
        };
        let mut dispatcher = channel.dispatcher();
        let answer = bounded(request, |request| dispatcher.heartbeat(request))
            .await
            .map_err(|status| SessionEnd::Call {
                call: "Heartbeat",
                status,
            })?;
        let period = answer
            .period
            .and_then(|period| Duration::try_from(period).ok());
        let period = period
            .filter(|period| !period.is_zero())
            .unwrap_or(DEFAULT_PERIOD);
        time::sleep(period.max(SHORTEST_PERIOD)).await;
    }
}

async fn follow_assignments(
    channel: &ManagerChannel,
    session_id: &str,
    assigned: &watch::Sender<Option<AssignedSet>>,
) -> Result<Infallible, SessionEnd> {
    let failed = |status| SessionEnd::Call {
        call: "Assignments",
        status,
    };
    let request = AssignmentsRequest {
        session_id: session_id.to_owned(),
    };
    let mut messages = channel.assignments(request).await.map_err(failed)?;
    let mut stream = AssignmentStream::default();
    while let Some(message) = messages.message().await.map_err(failed)? {
        let set = stream.apply(message)?.clone();
        assigned.send_replace(Some(set));
    }
    Err(SessionEnd::Ended("the assignments"))
}

/// Completes when this node has something else to say of itself.
async fn description_changes(shared: &Shared, sent: &NodeDescription) {
    loop {
        time::sleep(DESCRIPTION_CHECK).await;
        if shared.facts.describe(&shared.tls) != *sent {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_issuers_are_taken_whole_or_not_at_all() {
        let key = |byte: u8| vec![byte; 32];
        let digest = |byte: u8| PublicKeyDigest::from_bytes([byte; 32]);
        let message = |issuers: &[Vec<u8>], refused: &[Vec<u8>]| SessionMessage {
            issuers: issuers.to_vec(),
            refused_issuers: refused.to_vec(),
            issuer_rules: true,
            ..SessionMessage::default()
        };
        for lists in [
            message(&[key(1), vec![1; 31]], &[]),
            message(&[key(1)], &[vec![]]),
            message(&[], &[vec![2; 33]]),
            message(&vec![key(1); MAX_ISSUERS + 1], &[]),
        ] {
            assert_eq!(rules_of(&lists), Err(Unreadable));
        }
        // No opinion, whatever else stands there, is not that everybody counts.
        let silent = SessionMessage {
            issuer_rules: false,
            ..message(&[key(1)], &[])
        };
        assert_eq!(rules_of(&silent), Ok(None));
        let open = rules_of(&message(&[], &[]));
        assert_eq!(open, Ok(Some(IssuerRules::default())));
        let rules = IssuerRules {
            only: Some(vec![digest(1)]),
            refused: vec![digest(2)],
        };
        assert_eq!(rules_of(&message(&[key(1)], &[key(2)])), Ok(Some(rules)));
    }
}
