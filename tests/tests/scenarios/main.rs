//! All scenarios, one subject per file, in one binary.

mod autolock;
mod engine_manager;
mod engine_worker;
mod secrets;
mod services;
mod swarm;
mod texts;
