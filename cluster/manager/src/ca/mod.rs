//! Certificates: who asks, what was decided, signing, waiting for the result.

mod external;
mod issuer;
mod refusals;
mod service;
mod tokens;

pub use external::ExternalConfigError;
pub use issuer::IssuerError;
pub(crate) use service::{Ca, CaService, NodeCaService};
