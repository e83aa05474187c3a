//! Routes of nodes.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use http::StatusCode;
use waxseal_cluster::{
    Lookup, date_time, hostname,
    objects::{self, Membership, NodeRole, RemoveNode, UpdateNode, command::Op},
    returns, timestamp,
};

use crate::{
    cluster::Cluster,
    error::{ApiError, found},
    extract::{Caller, Id, Json, Params},
    filters::Filters,
    json::node::{Node, NodeSpec},
    respond,
    server::Shared,
    table::{Routes, doc},
};

const KIND: &str = "node";
const FILTERS: &[&str] = &["id", "name", "label", "node.label", "role", "membership"];
/// How long the id of a removed node that was never certified stays refused:
/// as long as a certificate that may just be on its way to it is valid.
const UNCERTIFIED_BAN: time::Duration = time::Duration::days(91);

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/nodes",
            doc("List nodes").query(&["filters"]).lists("Node"),
            list::<C>,
        )
        .get("/nodes/{id}", doc("A node").answers("Node"), inspect::<C>)
        .delete(
            "/nodes/{id}",
            doc("Remove a node").query(&["force"]).empty(),
            remove::<C>,
        )
        .post(
            "/nodes/{id}/update",
            doc("Replace what is asked of a node")
                .query(&["version"])
                .empty(),
            update::<C>,
        )
}

async fn list<C: Cluster>(
    State(api): State<Shared<C>>,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = params.filters(FILTERS)?;
    check_values(&filters)?;
    let now = timestamp(api.cluster.now());
    let nodes = api
        .read(move |state| {
            let shown = state.nodes().filter(|node| passes(&filters, node));
            shown
                .map(|node| (Arc::clone(node), standing(state, node, &now)))
                .collect::<Vec<_>>()
        })
        .await?;
    respond::list(
        nodes
            .iter()
            .map(|(node, standing)| Node::from(&**node).with_message(standing.as_deref())),
    )
}

/// What an operator should know of a node's certificate.
fn standing(
    state: &waxseal_cluster::State,
    node: &objects::Node,
    now: &prost_types::Timestamp,
) -> Option<String> {
    returns::standing(node, state.cluster()?, now)
}

/// Refuses values that no node can have.
fn check_values(filters: &Filters) -> Result<(), ApiError> {
    let allowed: [(&str, &[&str]); 2] = [
        ("role", &["manager", "worker"]),
        ("membership", &["accepted", "pending"]),
    ];
    for (key, words) in allowed {
        let mut values = filters.values(key).iter();
        let is_word = |value: &str| words.iter().any(|word| word.eq_ignore_ascii_case(value));
        if let Some(value) = values.find(|value| !value.is_empty() && !is_word(value)) {
            return Err(ApiError::internal(format!(
                "Invalid {key} filter: '{value}'"
            )));
        }
    }
    Ok(())
}

fn passes(filters: &Filters, node: &objects::Node) -> bool {
    let none = BTreeMap::new();
    let spec = node.spec.as_ref();
    let engine = node
        .description
        .as_ref()
        .and_then(|description| description.engine.as_ref());
    let spec_labels = spec
        .and_then(|spec| spec.annotations.as_ref())
        .map(|annotations| &annotations.labels);
    let role = match node.role() {
        NodeRole::Manager => "manager",
        NodeRole::Worker => "worker",
    };
    let membership = match spec.map(objects::NodeSpec::membership) {
        Some(Membership::Pending) => "pending",
        Some(Membership::Accepted) | None => "accepted",
    };
    filters.prefix("id", &node.id)
        && filters.prefix("name", hostname(node))
        && filters.stored_labels("label", engine.map_or(&none, |engine| &engine.labels))
        && filters.stored_labels("node.label", spec_labels.unwrap_or(&none))
        && filters.word("role", role)
        && filters.word("membership", membership)
}

async fn find<C: Cluster>(api: &Shared<C>, input: &str) -> Result<Arc<objects::Node>, ApiError> {
    found(look_up(api, input).await?, KIND, input)
}

async fn look_up<C: Cluster>(
    api: &Shared<C>,
    input: &str,
) -> Result<Lookup<objects::Node>, ApiError> {
    let wanted = input.to_owned();
    api.read(move |state| state.find_node(&wanted)).await
}

async fn inspect<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let node = find(&api, &id).await?;
    let now = timestamp(api.cluster.now());
    let read = Arc::clone(&node);
    let standing = api.read(move |state| standing(state, &read, &now)).await?;
    respond::ok(&Node::from(&*node).with_message(standing.as_deref()))
}

async fn update<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    params: Params,
    Caller(actor): Caller,
    Json(spec): Json<NodeSpec>,
) -> Result<Response, ApiError> {
    let expected_version = params.version(KIND)?;
    let lookup = look_up(&api, &id).await?;
    let mut spec = spec.into_object()?;
    let node = found(lookup, KIND, &id)?;
    spec.membership = node.spec.as_ref().map_or(0, |spec| spec.membership);
    let op = Op::UpdateNode(UpdateNode {
        node_id: node.id.clone(),
        expected_version,
        spec: Some(spec),
        ..UpdateNode::default()
    });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::OK))
}

async fn remove<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    params: Params,
    Caller(actor): Caller,
) -> Result<Response, ApiError> {
    let node = find(&api, &id).await?;
    // By the time on record: this host's clock may be wrong.
    let recorded = api.read(|state| state.last_time().copied()).await?;
    let recorded = recorded.as_ref().and_then(date_time);
    let ban_expires_at = node.certified_until.unwrap_or_else(|| {
        let now = recorded.unwrap_or_else(|| api.cluster.now());
        timestamp(now + UNCERTIFIED_BAN)
    });
    let op = Op::RemoveNode(RemoveNode {
        node_id: node.id.clone(),
        force: params.loose("force"),
        ban_expires_at: Some(ban_expires_at),
    });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::OK))
}
