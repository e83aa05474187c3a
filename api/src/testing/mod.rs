//! A cluster in memory, and recorded exchanges replayed against it.

mod fake;
mod replay;
mod scenarios;
mod transcript;
mod transport;
mod world;

pub(crate) use fake::FakeCluster;
pub(crate) use replay::Client;
