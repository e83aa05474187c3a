//! The log broker: asks nodes for their tasks' output and gathers it.

mod budget;
mod service;
mod subscriptions;

pub(crate) use service::LogBroker;
pub(crate) use subscriptions::Subscriptions;
pub use subscriptions::{IncompleteLogs, LogLines, TooManyReaders};
