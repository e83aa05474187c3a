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
    pub use crate::port_status::PortStatus;
}

mod apply;
mod bans;
mod certificates;
mod change;
mod cidr;
mod codec;
mod credentials;
mod defaults;
pub mod events;
mod feature;
pub mod generic;
mod ids;
mod index;
mod join_tokens;
mod lookup;
mod meta;
mod naming;
mod needs;
pub mod plan;
mod port_status;
mod record;
mod redact;
pub mod returns;
mod signers;
mod snapshot;
mod state;
mod store;
mod templates;
#[cfg(test)]
mod testing;
mod text;
mod timestamps;
mod trust;
mod validate;
mod vault;
mod wiped;

pub use apply::{MAX_LIVE_CERTIFICATES, MAX_PAST_ROOTS, UNASKED_RENEWAL_SECS, bound_task_status};
pub use certificates::{Record, Revoked, SUPERSEDED_GRACE_SECS, SerialKey, Standing, serial_of};
pub use change::{Applied, Change, Refusal};
pub use cidr::{Cidr, CidrError};
pub use codec::{
    COMMAND_FORMAT, CodecError, MAX_BATCH_BYTES, MAX_COMMAND_BYTES, batch_takes, decode_batch,
    decode_command, encode_batch, encode_command,
};
pub use credentials::MAX_REGISTRY_AUTH_BYTES;
pub use defaults::{NewCluster, default_cluster_spec, new_cluster};
pub use feature::{
    FEATURE_LEVEL, GENERIC_LEVEL, ISSUERS_LEVEL, RECORDS_LEVEL, ROTATION_LEVEL, SERVICES_LEVEL,
    TEMPLATES_LEVEL, described_level, feature_level_plugin, is_ours,
};
pub use ids::new_id;
pub use join_tokens::{
    MAX_LIMITED_TOKENS, MAX_TOKEN_CIDRS, MAX_TOKEN_TTL_SECS, MAX_TOKEN_USES, RESERVATION_SECS,
    TokenRefusal, TokenStanding,
};
pub use lookup::Lookup;
pub use meta::version_of;
pub use naming::{config_name, hostname, node_name, secret_name, service_name, task_name};
pub use needs::{config_ids, is_final, observed_state, secret_ids};
pub use record::ChangeRecord;
pub use signers::signer_urls;
pub use snapshot::{FrozenState, Restorer, SNAPSHOT_FORMAT};
pub use state::State;
pub use text::is_harmless;
pub use timestamps::{date_time, timestamp};
pub use trust::{
    COMPROMISED_END, Renewed, RotationOptions, TokenSecrets, abort_rotation, change_issuer,
    close_issuers, closing_time, finish_rotation, forget_ways, is_closed_issuer, issuer_rules,
    leads_on, signing_certificate, signing_issuer, signing_root, signs_on_record_only,
    start_rotation,
};
pub use validate::{
    validate_annotations, validate_cluster_spec, validate_config_spec, validate_secret_spec,
    validate_service_spec,
};
pub use vault::{PlainVault, Vault};
pub use wiped::Wiped;
