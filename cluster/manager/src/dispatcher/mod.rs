//! Sessions of nodes, what they are to run, and what they report.

mod assignments;
mod clock;
mod description;
mod messages;
mod reports;
mod service;
mod session;

pub(crate) use service::{Dispatcher, notify, notify_all};
pub(crate) use session::{RATE_LIMIT, Sessions, note_call};
