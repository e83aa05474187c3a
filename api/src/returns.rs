//! `/waxseal/v1/returns`: nodes that come back by proof of possession, or wait to.
//!
//! Errors are problem documents (RFC 9457).

use std::time::Duration;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use waxseal_cluster::{
    hostname,
    objects::{ApproveReturn, Node, SetReturnWindow, command::Op},
    returns, timestamp,
};

use crate::{
    cluster::Cluster,
    error::{ApiError, Code, found},
    extract::{Caller, Id, Json},
    json::common::{Time, hex},
    respond,
    server::Shared,
    status::Problem,
    table::{Routes, doc},
};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/waxseal/v1/returns",
            doc("Nodes that want to return").answers("Returns"),
            list::<C>,
        )
        .post(
            "/waxseal/v1/returns/window",
            doc("How long nodes may return").empty(),
            set_window::<C>,
        )
        .post(
            "/waxseal/v1/nodes/{id}/approve",
            doc("Let a node return").answers("Approval"),
            approve::<C>,
        )
}

#[derive(Serialize)]
struct Returns {
    window_secs: u64,
    nodes: Vec<Returning>,
}

/// A node that waits, or that may have been copied.
#[derive(Serialize)]
struct Returning {
    node_id: String,
    hostname: String,
    waiting: Option<Waiting>,
    possible_clone: Option<PossibleClone>,
}

#[derive(Serialize)]
struct Waiting {
    /// SHA-256 of the public key that it proved to hold, in hexadecimal.
    key: String,
    addr: String,
    since: Time,
    asked_at: Time,
    reason: String,
    approved: bool,
}

#[derive(Serialize)]
struct PossibleClone {
    serial: String,
    addr: String,
    at: Time,
    count: u32,
}

async fn list<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, Problem> {
    let now = timestamp(api.cluster.now());
    let listed = api
        .read(move |state| {
            let window = state
                .cluster()
                .map(|cluster| returns::return_window(cluster));
            Returns {
                window_secs: window.unwrap_or(returns::DEFAULT_RETURN_WINDOW).as_secs(),
                nodes: state
                    .nodes()
                    .filter_map(|node| returning(node, &now))
                    .collect(),
            }
        })
        .await?;
    Ok(respond::ok(&listed)?)
}

fn returning(node: &Node, now: &prost_types::Timestamp) -> Option<Returning> {
    let waiting = returns::pending_return(node, now).map(|pending| Waiting {
        key: hex(&pending.public_key_digest),
        addr: pending.addr.clone(),
        since: Time::of(pending.since.as_ref()),
        asked_at: Time::of(pending.asked_at.as_ref()),
        reason: pending.reason.clone(),
        approved: returns::is_approved(node, &pending.public_key_digest, now),
    });
    let possible_clone = returns::possible_clone(node, now).map(|clone| PossibleClone {
        serial: hex(&clone.serial),
        addr: clone.addr.clone(),
        at: Time::of(clone.at.as_ref()),
        count: clone.count,
    });
    let shown = waiting.is_some() || possible_clone.is_some();
    shown.then(|| Returning {
        node_id: node.id.clone(),
        hostname: hostname(node).to_owned(),
        waiting,
        possible_clone,
    })
}

/// `POST /waxseal/v1/returns/window`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WindowBody {
    /// Required: a window of nothing has to be said.
    secs: Option<u64>,
}

async fn set_window<C: Cluster>(
    State(api): State<Shared<C>>,
    Caller(actor): Caller,
    Json(body): Json<WindowBody>,
) -> Result<Response, Problem> {
    check_level(&api).await?;
    let secs = body
        .secs
        .ok_or_else(|| ApiError::bad_request("secs is missing; give the window in seconds"))?;
    let window = prost_types::Duration::try_from(Duration::from_secs(secs))
        .map_err(|_| ApiError::bad_request("the window is too long; give 876000h at most"))?;
    let window = Some(window);
    let op = Op::SetReturnWindow(SetReturnWindow { window });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::OK))
}

/// `POST /waxseal/v1/nodes/{id}/approve`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ApproveBody {
    /// The key as it was shown, or its start; empty: whichever the node waits with.
    key: String,
}

#[derive(Serialize)]
struct Approved {
    node_id: String,
    key: String,
    addr: String,
}

/// Lets a node back in that waits; it asks again within seconds.
async fn approve<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    Caller(actor): Caller,
    Json(body): Json<ApproveBody>,
) -> Result<Response, Problem> {
    check_level(&api).await?;
    let wanted = id.clone();
    let lookup = api.read(move |state| state.find_node(&wanted)).await?;
    let node = found(lookup, "node", &id)?;
    let now = api.cluster.now();
    let refuse = |text: String| ApiError::rpc(Code::FailedPrecondition, text);
    let Some(pending) = returns::pending_return(&node, &timestamp(now)) else {
        return Err(refuse(format!(
            "node {} does not wait to be let back in; `waxseal node returns` shows who does",
            node.id
        ))
        .into());
    };
    let key = hex(&pending.public_key_digest);
    let said = body.key.trim_start_matches("sha256:").to_ascii_lowercase();
    if !key.starts_with(&said) {
        return Err(refuse(format!(
            "node {} waits with key sha256:{key}, which is not the one that was given; compare \
             it with what `waxseal status` says on the node",
            node.id
        ))
        .into());
    }
    let op = Op::ApproveReturn(ApproveReturn {
        node_id: node.id.clone(),
        public_key_digest: pending.public_key_digest.clone(),
        until: Some(timestamp(now + returns::APPROVAL_LIFE)),
    });
    let approved = Approved {
        node_id: node.id.clone(),
        addr: pending.addr.clone(),
        key,
    };
    api.propose(actor, op).await?;
    Ok(respond::ok(&approved)?)
}

/// Refuses what managers of before cannot keep on record.
async fn check_level<C: Cluster>(api: &Shared<C>) -> Result<(), Problem> {
    if api.read(returns::are_on_record).await? {
        return Ok(());
    }
    Err(ApiError::rpc(
        Code::FailedPrecondition,
        "not all managers of this swarm can keep that on record; update waxseal on all of them",
    )
    .into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use serde_json::{Value, json};
    use waxseal_cluster::objects::{Actor, NoteReturn, PendingReturn};

    use super::*;
    use crate::{Server, testing::FakeCluster};

    async fn call(cluster: &Arc<FakeCluster>, path: &str, body: Option<&Value>) -> (u16, Value) {
        let request = Request::builder().uri(format!("/waxseal/v1/{path}"));
        let request = match body {
            None => request.method("GET").body(Full::<Bytes>::default()),
            Some(body) => request
                .method("POST")
                .header("content-type", "application/json")
                .body(Full::from(body.to_string())),
        };
        let service = Server::new(Arc::clone(cluster)).service(Some(0));
        let answer = service.answer(request.unwrap()).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn with_waiting() -> (Arc<FakeCluster>, String) {
        let cluster = FakeCluster::manager().await;
        let id = cluster.add_worker("w", true);
        let pending = PendingReturn {
            public_key_digest: vec![0xab; 32],
            addr: "192.0.2.7".to_owned(),
            reason: "away for long".to_owned(),
            ..PendingReturn::default()
        };
        let op = Op::NoteReturn(NoteReturn {
            node_id: id.clone(),
            pending: Some(pending),
            clone: None,
        });
        cluster.propose(Actor::default(), op).await.unwrap();
        (cluster, id)
    }

    #[tokio::test]
    async fn a_node_that_does_not_wait_or_waits_with_another_key_is_not_approved() {
        let cluster = FakeCluster::manager().await;
        cluster.add_worker("w", true);
        let approve = json!({});
        let (status, body) = call(&cluster, "nodes/w/approve", Some(&approve)).await;
        assert_eq!(status, 400, "{body}");
        assert_eq!(
            call(&cluster, "nodes/x/approve", Some(&approve)).await.0,
            404
        );
        let (cluster, _) = with_waiting().await;
        let other = json!({ "key": "sha256:abac" });
        let (status, body) = call(&cluster, "nodes/w/approve", Some(&other)).await;
        assert_eq!(status, 400);
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains("sha256:abab"), "{detail}");
    }

    #[tokio::test]
    async fn who_waits_is_shown_and_approved() {
        let (cluster, id) = with_waiting().await;
        let (status, shown) = call(&cluster, "returns", None).await;
        assert_eq!(
            (status, shown["window_secs"].as_u64()),
            (200, Some(2_592_000))
        );
        let waiting = &shown["nodes"][0]["waiting"];
        assert_eq!(waiting["addr"], "192.0.2.7");
        assert_eq!(waiting["approved"], false);
        let start = json!({ "key": "SHA256:ABab" });
        assert_eq!(call(&cluster, "nodes/w/approve", Some(&start)).await.0, 400);
        let start = json!({ "key": "ABab" });
        let (status, approved) = call(&cluster, "nodes/w/approve", Some(&start)).await;
        assert_eq!(
            (status, approved["node_id"].as_str()),
            (200, Some(id.as_str()))
        );
        let shown = call(&cluster, "returns", None).await.1;
        assert_eq!(shown["nodes"][0]["waiting"]["approved"], true);
        // The Engine API says it too.
        let request = Request::get(format!("/nodes/{id}")).body(Full::<Bytes>::default());
        let service = Server::new(Arc::clone(&cluster)).service(Some(0));
        let answer = service.answer(request.unwrap()).await.into_body();
        let node: Value =
            serde_json::from_slice(&answer.collect().await.unwrap().to_bytes()).unwrap();
        let message = node["Status"]["Message"].as_str().unwrap();
        assert!(message.contains("waxseal node approve"), "{message}");
    }

    #[tokio::test]
    async fn the_window_is_set_and_has_to_be_said() {
        let cluster = FakeCluster::manager().await;
        let set = async |body: Value| call(&cluster, "returns/window", Some(&body)).await.0;
        assert_eq!(set(json!({})).await, 400);
        assert_eq!(set(json!({ "secs": u64::MAX })).await, 400);
        assert_eq!(set(json!({ "secs": 0 })).await, 200);
        let shown = call(&cluster, "returns", None).await.1;
        assert_eq!(shown["window_secs"], 0);
    }
}
