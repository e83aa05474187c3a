//! To be filled.

use axum::Router;

use crate::{cluster::Cluster, server::Shared};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Router<Shared<C>> {
    Router::new()
}
