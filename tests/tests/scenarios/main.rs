//! All scenarios, one subject per file, in one binary.

mod autolock;
mod secrets;
mod services;
mod swarm;
mod texts;
