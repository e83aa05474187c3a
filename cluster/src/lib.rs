//! How the members of a cluster act together: the replicated state, the
//! commands that change it, and the plans over it.
//!
//! Everything here is pure: no clock, no randomness, no I/O. [`State::apply`]
//! is deterministic; the leader puts time, ids, serials and random bytes into
//! the [`Command`](objects::Command) before it proposes it.

/// Objects and commands, generated from `proto/`.
#[expect(missing_docs, reason = "the fields are documented in proto/")]
#[allow(clippy::all, reason = "generated")]
pub mod objects {
    include!(concat!(env!("OUT_DIR"), "/waxseal.objects.v1.rs"));
}

mod change;
mod ids;
pub mod plan;
mod redact;
mod state;
mod vault;

pub use change::{Applied, Change, ChangeRecord, Refusal};
pub use ids::new_id;
pub use state::{Lookup, State};
pub use vault::{PlainVault, Vault};
