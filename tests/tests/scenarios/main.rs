//! All scenarios, one subject per file, in one binary.

mod autolock;
mod certificates;
mod dependencies;
mod disk;
mod engine_manager;
mod engine_worker;
mod events;
mod formats;
mod join;
mod kill;
mod lint;
mod managers;
mod managers_keys;
mod markers;
mod native_tasks;
mod own_cli;
mod refusals;
mod returns;
mod revocation;
mod secrets;
mod services;
mod stack;
mod swarm;
mod texts;
mod tokens;
mod wire;
