//! Routes of the cluster itself.

mod address;
pub(crate) mod ca;
mod join;
mod overlay;
mod signer;
mod update;

pub(crate) use address::remote;

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::Serialize;
use waxseal_autolock::UnlockKey;
use waxseal_cluster::objects;

use crate::{
    cluster::{Cluster, ClusterError},
    error::{ApiError, NOT_A_MANAGER, NOT_PART},
    extract::{Json, Params},
    json::swarm::{Swarm, UnlockBody},
    respond,
    server::Shared,
    table::{Routes, doc},
};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get("/swarm", doc("The cluster").answers("Swarm"), inspect::<C>)
        .post(
            "/swarm/init",
            doc("Make a cluster; answers the node's id").answers("NodeId"),
            join::init::<C>,
        )
        .post(
            "/swarm/join",
            doc("Join a cluster").empty(),
            join::join::<C>,
        )
        .post(
            "/swarm/leave",
            doc("Leave the cluster").query(&["force"]).empty(),
            leave::<C>,
        )
        .post(
            "/swarm/update",
            doc("Change the cluster's settings, rotate tokens or the unlock key")
                .query(&[
                    "version",
                    "rotateWorkerToken",
                    "rotateManagerToken",
                    "rotateManagerUnlockKey",
                ])
                .empty(),
            update::update::<C>,
        )
        .get(
            "/swarm/unlockkey",
            doc("The unlock key").answers("UnlockKey"),
            unlock_key::<C>,
        )
        .post(
            "/swarm/unlock",
            doc("Unlock this manager").empty(),
            unlock::<C>,
        )
}

/// The cluster object as it is now.
pub(crate) async fn cluster_object<C: Cluster>(
    api: &Shared<C>,
) -> Result<std::sync::Arc<objects::Cluster>, ApiError> {
    api.read(|state| state.cluster().cloned())
        .await?
        .ok_or_else(|| ClusterError::Preparing.into())
}

async fn inspect<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, ApiError> {
    let cluster = cluster_object(&api).await?;
    respond::ok(&Swarm::with_tokens(&cluster, api.cluster.now()))
}

async fn leave<C: Cluster>(
    State(api): State<Shared<C>>,
    params: Params,
) -> Result<Response, ApiError> {
    match api.cluster.leave(params.loose("force")).await {
        Ok(()) => {
            api.hub.forget();
            Ok(respond::empty(StatusCode::OK))
        }
        Err(ClusterError::NotInSwarm) => Err(ApiError::unavailable(NOT_PART)),
        Err(error) => Err(error.into()),
    }
}

async fn unlock_key<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, ApiError> {
    #[derive(Serialize)]
    struct Shown<'a> {
        #[serde(rename = "UnlockKey")]
        unlock_key: &'a str,
    }
    let cluster = cluster_object(&api).await?;
    let text = match cluster.unlock_key.as_ref() {
        Some(record) if !record.key.is_empty() => {
            let key = UnlockKey::from_slice(&record.key)
                .map_err(|error| ApiError::internal(error.to_string()))?;
            Some(key.to_text())
        }
        _ => None,
    };
    respond::ok(&Shown {
        unlock_key: text.as_ref().map_or("", |text| text),
    })
}

async fn unlock<C: Cluster>(
    State(api): State<Shared<C>>,
    Json(body): Json<UnlockBody>,
) -> Result<Response, ApiError> {
    match api.cluster.unlock(body.unlock_key.0).await {
        Ok(()) => Ok(respond::empty(StatusCode::OK)),
        Err(ClusterError::NotInSwarm) => Err(ApiError::unavailable(NOT_A_MANAGER)),
        Err(error) => Err(error.into()),
    }
}
