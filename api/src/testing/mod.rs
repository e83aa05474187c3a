//! A cluster in memory, and recorded exchanges replayed against it.

mod fake;
mod replay;
mod scenarios;
mod transport;

pub(crate) use fake::FakeCluster;
pub(crate) use replay::Client;
