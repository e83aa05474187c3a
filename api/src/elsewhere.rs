//! Engine routes that belong to container engines, and paths nobody knows.

use axum::response::{IntoResponse, Response};
use http::Uri;

use crate::error::ApiError;

/// First path segments of the Engine API that are not about the swarm.
const ENGINE_ONLY: &[&str] = &[
    "auth",
    "build",
    "commit",
    "containers",
    "exec",
    "grpc",
    "images",
    "plugins",
    "session",
    "volumes",
];

/// Whole paths of the Engine API that are not about the swarm.
const ENGINE_ONLY_PATHS: &[&str] = &["/system/df"];

/// Ends of paths that attach containers to networks.
const CONTAINERS_OF_NETWORK: [&str; 2] = ["/connect", "/disconnect"];

/// 501 for what an engine would do, else 404 `page not found`.
pub(crate) async fn fallback(uri: Uri) -> Response {
    let path = uri.path();
    let first = path.split('/').nth(1).unwrap_or("");
    let of_network =
        first == "networks" && CONTAINERS_OF_NETWORK.iter().any(|end| path.ends_with(end));
    if (ENGINE_ONLY.contains(&first) && !path.ends_with('/'))
        || ENGINE_ONLY_PATHS.contains(&path)
        || of_network
    {
        return ApiError::not_implemented(
            "containers are run by Docker Engine workers; point DOCKER_HOST at such a worker for this command, or run tasks from here with \"docker service create\"",
        )
        .into_response();
    }
    match first {
        "waxseal" => ApiError::page_not_found().into_problem(),
        _ => ApiError::page_not_found().into_response(),
    }
}
