//! Certificates: who asks, what was decided, signing, waiting for the result.

mod issuer;
mod refusals;
mod service;
mod tokens;

pub use issuer::IssuerError;
pub(crate) use service::{Ca, CaService, NodeCaService};
