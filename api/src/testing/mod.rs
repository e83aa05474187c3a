//! A cluster in memory, and recorded exchanges replayed against it.

mod described;
mod fake;
mod replay;
mod scenarios;
mod transcript;
mod transport;
mod world;

pub(crate) use described::compare;
pub(crate) use fake::FakeCluster;
pub(crate) use replay::Client;
