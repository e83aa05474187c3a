//! `POST /waxseal/v1/nodes/{id}/renew`: a node renews its certificate now; and
//! `GET /waxseal/v1/nodes/certificates`: how far each is.
//!
//! The record is marked; the dispatcher shows it to the node, which asks for a new certificate
//! by itself. Docker Engines do the same.

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use waxseal_cluster::{
    hostname,
    objects::{
        Certificate, IssuanceState, IssuanceStatus, Node, NodeState, RequestCertificate,
        command::Op,
    },
    returns, timestamp,
};

use crate::{
    cluster::Cluster,
    error::{ApiError, Code, found},
    extract::{Caller, Id},
    json::common::{Time, hex},
    respond,
    server::Shared,
    status::Problem,
    table::{Routes, doc},
};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .post(
            "/waxseal/v1/nodes/{id}/renew",
            doc("Have a node renew its certificate")
                .success(StatusCode::ACCEPTED)
                .empty(),
            renew::<C>,
        )
        .get(
            "/waxseal/v1/nodes/certificates",
            doc("The newest certificate of each node").lists("NodeCertificate"),
            list::<C>,
        )
}

/// The newest certificate of a node, or its request for one.
#[derive(Serialize)]
struct Newest {
    node_id: String,
    hostname: String,
    /// Whether the node has a session.
    ready: bool,
    state: &'static str,
    serial: String,
    not_after: Time,
    /// Why it was not signed.
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    /// What stands in the way, and what helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    standing: Option<String>,
}

async fn list<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, Problem> {
    let now = timestamp(api.cluster.now());
    let listed: Vec<_> = api
        .read(move |state| {
            let standing = |node: &Node| returns::standing(node, state.cluster()?, &now);
            let nodes = state.nodes();
            nodes
                .map(|node| newest(node, standing(node)))
                .collect::<Vec<_>>()
        })
        .await?;
    Ok(respond::ok(&listed)?)
}

fn newest(node: &Node, standing: Option<String>) -> Newest {
    let none = Certificate::default();
    let certificate = node.certificate.as_ref().unwrap_or(&none);
    let status = certificate.status.as_ref();
    let node_state = node.status.as_ref().map(|status| status.state());
    Newest {
        node_id: node.id.clone(),
        hostname: hostname(node).to_owned(),
        ready: node_state == Some(NodeState::Ready),
        state: match state_of(node) {
            IssuanceState::Unknown => "none",
            IssuanceState::Renew | IssuanceState::Pending => "requested",
            IssuanceState::Issued => "issued",
            IssuanceState::Failed => "failed",
            IssuanceState::Rotate => "marked",
        },
        serial: hex(&certificate.serial),
        not_after: Time::of(certificate.not_after.as_ref()),
        error: status.map_or_else(String::new, |status| status.err.clone()),
        standing,
    }
}

/// Answers 202: the node has been asked, or a renewal was under way already.
async fn renew<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    Caller(actor): Caller,
) -> Result<Response, Problem> {
    let wanted = id.clone();
    let lookup = api.read(move |state| state.find_node(&wanted)).await?;
    let node = found(lookup, "node", &id)?;
    match state_of(&node) {
        IssuanceState::Renew | IssuanceState::Pending | IssuanceState::Rotate => {}
        IssuanceState::Issued | IssuanceState::Failed => {
            let op = Op::RequestCertificate(RequestCertificate {
                node_id: node.id.clone(),
                certificate: Some(Certificate {
                    status: Some(IssuanceStatus {
                        state: IssuanceState::Rotate.into(),
                        err: String::new(),
                    }),
                    ..Certificate::default()
                }),
            });
            api.propose(actor, op).await?;
        }
        IssuanceState::Unknown => {
            return Err(ApiError::rpc(
                Code::FailedPrecondition,
                format_args!("node {} has no certificate yet; it renews nothing", node.id),
            )
            .into());
        }
    }
    Ok(respond::empty(StatusCode::ACCEPTED))
}

fn state_of(node: &Node) -> IssuanceState {
    node.certificate
        .as_ref()
        .and_then(|certificate| certificate.status.as_ref())
        .map_or(IssuanceState::Unknown, IssuanceStatus::state)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;
    use waxseal_cluster::objects::{Actor, StoreCertificate};

    use super::*;
    use crate::{Server, testing::FakeCluster};

    async fn ask(cluster: &std::sync::Arc<FakeCluster>, id: &str) -> StatusCode {
        let request = Request::post(format!("/waxseal/v1/nodes/{id}/renew"))
            .body(Full::<Bytes>::default())
            .unwrap();
        let service = Server::new(std::sync::Arc::clone(cluster)).service(Some(0));
        service.answer(request).await.status()
    }

    async fn certify(cluster: &FakeCluster, id: &str) {
        let certificate = |state: IssuanceState| Certificate {
            csr: vec![1],
            serial: vec![1],
            certificate: vec![1],
            not_after: Some(waxseal_cluster::timestamp(cluster.now())),
            status: Some(IssuanceStatus {
                state: state.into(),
                err: String::new(),
            }),
            ..Certificate::default()
        };
        let requested = Op::RequestCertificate(RequestCertificate {
            node_id: id.to_owned(),
            certificate: Some(certificate(IssuanceState::Pending)),
        });
        cluster.propose(Actor::default(), requested).await.unwrap();
        let stored = Op::StoreCertificate(StoreCertificate {
            node_id: id.to_owned(),
            certificate: Some(certificate(IssuanceState::Issued)),
        });
        cluster.propose(Actor::default(), stored).await.unwrap();
    }

    #[tokio::test]
    async fn refuses_unknown_nodes_and_those_without_a_certificate() {
        let cluster = FakeCluster::manager().await;
        assert_eq!(ask(&cluster, "nobody").await, StatusCode::NOT_FOUND);
        let id = cluster.add_worker("w", true);
        assert_eq!(ask(&cluster, &id).await, StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn marks_the_record_once() {
        let cluster = FakeCluster::manager().await;
        let id = cluster.add_worker("w", true);
        certify(&cluster, &id).await;
        for _ in 0..2 {
            assert_eq!(ask(&cluster, "w").await, StatusCode::ACCEPTED);
            let state = cluster.look(|state| state.node(&id).map(|node| state_of(node)));
            assert_eq!(state, Some(IssuanceState::Rotate));
        }
    }
}
