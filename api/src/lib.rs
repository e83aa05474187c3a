//! The Docker Engine HTTP API, swarm part, over a [`Cluster`].
//!
//! A request enters through [`Server`] (transport, version prefix, headers),
//! is routed to a module of this crate by subject, becomes objects of
//! `waxseal_cluster::objects` in `json`, and leaves as an `Op` to the
//! [`Cluster`], which the daemon implements. `error` is the only place where
//! an error becomes a status and a text.
//!
//! A route module has `pub(crate) fn routes<C: Cluster>() -> Routes<C>`, merged in
//! `server`; what is served and what `openapi` says of it are one `table`. Its handlers are `async fn` over `C: Cluster` that take
//! `State<Shared<C>>` and the extractors of `extract` (`Id`, `Params`,
//! `Caller`, `ApiVersion`, `Json<T>` for a body) and answer
//! `Result<Response, ApiError>` by `respond`.

mod bypass;
mod ca;
mod certificates;
mod cluster;
mod configs;
mod distribution;
mod elsewhere;
mod error;
mod events;
mod extract;
mod filters;
mod info;
mod join_tokens;
mod json;
mod listen;
mod logs;
mod managers;
mod networks;
mod nodes;
mod openapi;
mod reader;
mod renew;
mod respond;
mod returns;
mod secrets;
mod server;
mod services;
mod status;
mod swarm;
mod system;
mod table;
mod tasks;
#[cfg(test)]
mod testing;
mod trace;
mod version;

pub use cluster::*;
pub use listen::Listener;
pub use server::{EngineService, Server, serve};
