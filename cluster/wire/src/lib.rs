//! swarmkit's and our own gRPC: messages, conversion, dial and accept.

/// swarmkit's services and messages; the objects in them are the state's own.
#[expect(missing_docs, reason = "the fields are documented in proto/")]
#[allow(clippy::all, unreachable_pub, reason = "generated")]
pub mod swarmkit {
    include!(concat!(env!("OUT_DIR"), "/docker.swarmkit.v1.rs"));
}

/// Our own services and messages.
#[expect(missing_docs, reason = "the fields are documented in proto/")]
#[allow(clippy::all, unreachable_pub, reason = "generated")]
pub mod waxseal {
    include!(concat!(env!("OUT_DIR"), "/waxseal.v1.rs"));
}

mod accept;
mod dial;
mod features;
pub mod limits;
mod peer;
mod redact;
mod status;
mod text;

pub use accept::{Acceptor, Admit, Connections, Listening};
pub use dial::{Credentials, DialError, ManagerChannel, Unreachable, tls_cause};
pub use features::{FEATURE_LEVEL, FEATURES, announce_features, announced_features};
pub use peer::Peer;
pub use status::{engine_text, issuance_status, refusal_status};
pub use text::{PEER_TEXT_LIMIT, peer_text};
