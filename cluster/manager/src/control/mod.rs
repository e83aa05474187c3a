//! The managers together: whoever is asked, the one that leads writes, and says how far
//! a state must be for a read.

mod fate;
mod group;
mod link;
mod logs;
mod outcome;
mod reads;
mod service;
mod voucher;

pub(crate) use group::Group;
pub(crate) use link::Link;
pub use logs::LogsError;
pub(crate) use logs::across_leaders;
pub use reads::ReadError;
pub(crate) use service::{ControlService, Logs};
pub(crate) use voucher::Voucher;
