//! `/waxseal/v1/managers`: the Raft group as this manager sees it.
//!
//! Works without a leader, which is when it is wanted most: addresses and voters are
//! what this manager's own log says. Errors are problem documents (RFC 9457).

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use waxseal_cluster::{
    hostname,
    objects::{ManagerStatus, Reachability},
};

use crate::{
    cluster::{Cluster, ClusterError, ManagerGroup},
    error::ApiError,
    extract::Json,
    respond,
    server::Shared,
    status::Problem,
    swarm::remote,
    table::{Routes, doc},
};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/waxseal/v1/managers",
            doc("The Raft group").answers("Managers"),
            list::<C>,
        )
        .post(
            "/waxseal/v1/managers/peer",
            doc("Give this manager the address of another")
                .success(StatusCode::ACCEPTED)
                .empty(),
            peer::<C>,
        )
}

/// The group as it is shown.
#[derive(Serialize)]
struct Group {
    /// Node id of who leads; nothing while nobody does.
    leader: Option<String>,
    quorum: Quorum,
    /// Entries of the log that this manager's state does not have yet.
    lag: Option<u64>,
    managers: Vec<Manager>,
}

/// How many managers count, and how many of them a change needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Quorum {
    pub(crate) voters: usize,
    pub(crate) needed: usize,
}

impl Quorum {
    pub(crate) fn of(group: &ManagerGroup) -> Quorum {
        let voters = group.members.iter().filter(|member| member.voter).count();
        Quorum {
            voters,
            needed: voters / 2 + 1,
        }
    }
}

#[derive(Serialize)]
struct Manager {
    node_id: String,
    hostname: String,
    /// In hexadecimal: JSON has no whole numbers of 64 bits.
    raft_id: String,
    addr: String,
    voter: bool,
    leader: bool,
    reachability: &'static str,
    #[serde(rename = "self")]
    is_self: bool,
}

/// What the state knows of a manager, which the leader writes there.
type Known = BTreeMap<String, (String, Option<ManagerStatus>)>;

async fn list<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, Problem> {
    let Some(group) = api.cluster.managers() else {
        // Why there is none is told as for every call that managers answer.
        api.read(|_| ()).await?;
        return Err(ApiError::from(ClusterError::Preparing).into());
    };
    // Without a leader the state may be of yesterday, and reading it waits in vain.
    let known = match &group.leader {
        Some(_) => api.read(known).await.unwrap_or_default(),
        None => Known::new(),
    };
    let own_id = api.cluster.local().node_id;
    let quorum = Quorum::of(&group);
    let managers = group
        .members
        .into_iter()
        .map(|member| {
            let is_leader = group.leader.as_ref() == Some(&member.node_id);
            let (name, status) = known.get(&member.node_id).cloned().unwrap_or_default();
            let is_self = member.node_id == own_id;
            Manager {
                hostname: name,
                raft_id: format!("{:016x}", member.raft_id),
                voter: member.voter,
                leader: is_leader,
                reachability: reachability(is_leader || is_self, status.as_ref()),
                addr: member.addr,
                node_id: member.node_id,
                is_self,
            }
        })
        .collect();
    Ok(respond::ok(&Group {
        leader: group.leader,
        quorum,
        lag: group.lag,
        managers,
    })?)
}

fn known(state: &waxseal_cluster::State) -> Known {
    state
        .nodes()
        .filter(|node| node.manager_status.is_some())
        .map(|node| {
            let seen = (hostname(node).to_owned(), node.manager_status.clone());
            (node.id.clone(), seen)
        })
        .collect()
}

fn reachability(certain: bool, status: Option<&ManagerStatus>) -> &'static str {
    match status.map(ManagerStatus::reachability) {
        _ if certain => "reachable",
        Some(Reachability::Reachable) => "reachable",
        Some(Reachability::Unreachable) => "unreachable",
        Some(Reachability::Unknown) | None => "unknown",
    }
}

/// `POST /waxseal/v1/managers/peer`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PeerBody {
    addr: String,
}

/// Gives this manager the address of another one, when the addresses it knows lead
/// nowhere any more. Answers 202: it is dialled from now on.
async fn peer<C: Cluster>(
    State(api): State<Shared<C>>,
    Json(body): Json<PeerBody>,
) -> Result<Response, Problem> {
    let addr = remote(&body.addr)?;
    api.cluster
        .contact_manager(addr)
        .await
        .map_err(ApiError::from)?;
    Ok(respond::empty(StatusCode::ACCEPTED))
}
