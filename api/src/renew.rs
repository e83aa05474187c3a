//! `POST /waxseal/v1/nodes/{id}/renew`: a node renews its certificate now.
//!
//! The record is marked; the dispatcher shows it to the node, which asks for a new certificate
//! by itself. Docker Engines do the same.

use axum::{Router, extract::State, response::Response, routing::post};
use http::StatusCode;
use waxseal_cluster::objects::{
    Certificate, IssuanceState, IssuanceStatus, Node, RequestCertificate, command::Op,
};

use crate::{
    cluster::Cluster,
    error::{ApiError, Code, found},
    extract::{Caller, Id},
    respond,
    server::Shared,
    status::Problem,
};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Router<Shared<C>> {
    Router::new().route("/waxseal/v1/nodes/{id}/renew", post(renew::<C>))
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
