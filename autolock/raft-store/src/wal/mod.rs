//! The sealed, segmented log and the vote beside it.
//!
//! **A full disk.** openraft takes every storage error as fatal, so the log never runs into one:
//! the segment that is written and the next one are allocated beforehand, the vote is overwritten
//! in place, and whoever proposes a command asks [`LogStore::can_accept`] first. It refuses while
//! the next segment cannot be allocated and only the reserve for Raft's own small records is left;
//! reads go on, and every refusal tries to allocate again, so that writes go on by themselves once
//! there is space.

mod core;
mod index;
mod log_store;
mod open;
mod pace;
mod recovery;
mod segment_file;
mod spare;
#[cfg(test)]
mod tests;
mod vote_file;
mod writer;

pub use log_store::{LogReader, LogStore};
pub use open::{LogFull, Opened, Recovery, TornTail, open, remove_all};
