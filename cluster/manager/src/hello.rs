//! Our own greeting: who knows it is one of ours.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use waxseal_cluster::timestamp;
use waxseal_wire::{
    FEATURES,
    waxseal::{HelloRequest, HelloResponse, hello_server},
};

use crate::core::Core;

/// Serves `Hello`, also to callers without a certificate.
pub(crate) struct HelloService(pub(crate) Arc<Core>);

#[tonic::async_trait]
impl hello_server::Hello for HelloService {
    async fn greet(
        &self,
        _request: Request<HelloRequest>,
    ) -> Result<Response<HelloResponse>, Status> {
        Ok(Response::new(HelloResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            feature_level: self.0.feature_level,
            features: FEATURES.iter().map(|name| (*name).to_owned()).collect(),
            server_time: Some(timestamp(self.0.clock.now())),
        }))
    }
}
