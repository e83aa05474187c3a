//! The member: join, renew, session, task executor and shim.
//!
//! [`join()`] turns a token into an identity; [`Agent`] keeps a session with a manager, renews
//! the identity and runs what is assigned. What is kept on disk is the host's business,
//! through [`IdentityStore`].

mod agent;
mod assignments;
mod backoff;
mod certificate;
mod describe;
mod executor;
mod expand;
mod generic;
mod join;
mod logs;
mod managers;
pub mod native;
mod order;
mod random;
mod renew;
mod reports;
mod returning;
mod session;
mod shared;
mod status;
mod store;
mod task;
mod worker;

pub use agent::{Agent, AgentConfig, Renewals, StartError};
pub use certificate::CertificateError;
pub use describe::HostFacts;
pub use executor::{Execution, Executor, Found};
pub use generic::{GenericResourceError, parse_generic_resources};
pub use join::{JoinError, JoinRequest, Joined, join};
pub use managers::ManagerAddress;
pub use status::{AgentStatus, RenewalStatus, SessionStatus};
pub use store::{IdentityStore, OwnAuthority, OwnChain};
pub use worker::NotRemoved;
