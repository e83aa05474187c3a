//! Events.
use axum::Router;
use crate::{cluster::Cluster, server::Shared};

/// The events of late, and who listens.
#[derive(Default)]
pub(crate) struct Hub;
impl Hub {
    pub(crate) async fn follow<C: Cluster>(&self, _c: &C) { std::future::pending().await }
}
/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Router<Shared<C>> {
    Router::new()
}
