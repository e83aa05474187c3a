//! Certificates: who asks, what was decided, signing, waiting for the result.

mod external;
mod issuer;
mod own;
mod reclaim;
mod records;
mod refusals;
mod rotation;
mod service;
mod tokens;

pub use external::{ExternalConfigError, ExternalError, ExternalSigner};
pub use issuer::IssuerError;
pub use own::OwnCertificate;
pub(crate) use reclaim::{ReclaimService, RootPathService};
pub(crate) use rotation::Rotation;
pub(crate) use service::{Ca, CaService, NodeCaService};
