//! `GET /waxseal/v1/status`: this node in one answer, with what to do next.
//!
//! Errors under `/waxseal/v1/` are problem documents (RFC 9457).

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    cluster::{Cluster, LocalNode, LocalState},
    error::{ApiError, LOCKED},
    info::state_word,
    json::common::Time,
    managers::Quorum,
    respond,
    server::Shared,
    system::VERSION,
    table::{Routes, doc},
};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new().get(
        "/waxseal/v1/status",
        doc("Where the node stands and what to do next").answers("OwnStatus"),
        status::<C>,
    )
}

/// An error of this part of the API.
pub(crate) struct Problem(ApiError);

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Problem {
        Problem(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        self.0.into_problem()
    }
}

#[derive(Serialize)]
struct Status<'a> {
    version: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    error: &'a str,
    node_id: Option<&'a str>,
    node_addr: Option<&'a str>,
    role: Option<&'static str>,
    certificate_expires_at: Option<Time>,
    certificate_renews_at: Option<Time>,
    managers: Vec<Manager<'a>>,
    /// Of a manager: who leads, how many it takes, how far behind it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<Group>,
    warnings: &'a [String],
    next: Vec<&'static str>,
}

#[derive(Serialize)]
struct Group {
    leader: Option<String>,
    quorum: Quorum,
    lag: Option<u64>,
}

#[derive(Serialize)]
struct Manager<'a> {
    node_id: &'a str,
    addr: &'a str,
}

async fn status<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, Problem> {
    let mut local = api.cluster.local();
    if local.state == LocalState::Locked && local.error.is_empty() {
        LOCKED.clone_into(&mut local.error);
    }
    let group = api.cluster.managers().map(|group| Group {
        quorum: Quorum::of(&group),
        leader: group.leader,
        lag: group.lag,
    });
    let next = next_steps(&local, group.as_ref());
    let some = |text: &str| -> Option<String> { (!text.is_empty()).then(|| text.to_owned()) };
    let (node_id, node_addr) = (some(&local.node_id), some(&local.node_addr));
    Ok(respond::ok(&Status {
        version: VERSION,
        state: state_word(local.state),
        error: &local.error,
        node_id: node_id.as_deref(),
        node_addr: node_addr.as_deref(),
        role: role(&local),
        certificate_expires_at: api.cluster.certificate_expiry().map(Time::from),
        certificate_renews_at: api.cluster.certificate_renewal().map(Time::from),
        managers: local
            .remote_managers
            .iter()
            .map(|(node_id, addr)| Manager { node_id, addr })
            .collect(),
        group,
        warnings: &local.warnings,
        next,
    })?)
}

/// `manager`, `worker` or what is in between; nothing while that cannot be told.
fn role(local: &LocalNode) -> Option<&'static str> {
    match local.state {
        LocalState::Locked => Some("manager"),
        LocalState::Active if local.control_available => Some("manager"),
        LocalState::Active if local.entering => Some("becoming a manager"),
        LocalState::Active => Some("worker"),
        LocalState::Inactive | LocalState::Pending | LocalState::Error => None,
    }
}

/// Commands that lead on from a state.
fn next_steps(local: &LocalNode, group: Option<&Group>) -> Vec<&'static str> {
    match local.state {
        LocalState::Inactive => vec![
            "waxseal swarm init, to create a cluster on this node",
            "waxseal swarm join, with the line that a manager prints for waxseal swarm join-token worker",
        ],
        LocalState::Pending => vec![
            "wait, the node goes on trying to reach a manager",
            "waxseal swarm leave --force, to give up",
        ],
        LocalState::Locked => vec![
            "waxseal unlock, with the unlock key; an unlocked manager prints it with waxseal swarm unlock-key",
        ],
        LocalState::Error => vec![
            "see to the cause above and start the daemon again",
            "waxseal swarm leave --force, to make the node inactive; it must join again then",
        ],
        LocalState::Active if local.entering => vec![
            "wait, the other managers take this one in; a warning says what stands in the way, if anything does",
            "waxseal node demote NODE, on another manager, to make it a worker again",
        ],
        LocalState::Active if group.is_some_and(|group| group.leader.is_none()) => vec![
            "start the other managers, and unlock those that are locked: more than half must be up",
            "waxseal manager peer HOST:PORT, with where another manager is now, if their addresses changed",
            "waxseal swarm init --force-new-cluster, on one manager only, if the others are lost for good",
        ],
        LocalState::Active => Vec::new(),
    }
}
