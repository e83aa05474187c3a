//! The agent against a manager in the same process, over real connections.

#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

mod host;
mod joining;
mod manager;
mod renewing;
mod sessions;
mod tasks;
