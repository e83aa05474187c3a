//! swarmkit's and our own gRPC: messages, conversion, dial and accept.

/// swarmkit's services and messages; the objects in them are the state's own.
#[expect(missing_docs, reason = "the fields are documented in proto/")]
#[allow(clippy::all, unreachable_pub, reason = "generated")]
pub mod swarmkit {
    pub use crate::updates::UpdateTaskStatusRequest;

    include!(concat!(env!("OUT_DIR"), "/docker.swarmkit.v1.rs"));
}

/// Our own services and messages.
pub mod waxseal {
    pub use v1::*;

    #[expect(missing_docs, reason = "the fields are documented in proto/")]
    #[allow(clippy::all, unreachable_pub, reason = "generated")]
    mod v1 {
        include!(concat!(env!("OUT_DIR"), "/waxseal.v1.rs"));
    }
}

/// Where what is generated looks for swarmkit's messages.
mod docker {
    pub(crate) mod swarmkit {
        pub(crate) use crate::swarmkit as v1;
    }
}

mod accept;
mod bypass;
mod codec;
mod dial;
mod envelope;
mod features;
pub mod limits;
mod peer;
mod reclaim;
mod redact;
mod sealing;
mod status;
mod text;
mod updates;
mod writes;

pub use accept::{
    Acceptor, Admit, Connections, Course, Listening, Relay, RelayClaim, ToLeader, Vouch, listen,
};
pub use bypass::{Assignments, DispatcherService};
pub use dial::{Credentials, DialError, ManagerChannel, Unreachable, tls_cause};
pub use features::{
    FEATURE_LEVEL, FEATURE_MANAGER, FEATURES, announce_features, announce_time, announced_features,
    announced_time,
};
pub use peer::Peer;
pub use sealing::Sealing;
pub use status::{engine_text, issuance_status, reclaim_status, refusal_status};
pub use text::{PEER_TEXT_LIMIT, clean_name, clean_text, peer_text};
