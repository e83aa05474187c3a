//! What clients rely on, by recorded exchanges and by hand.

mod events;
mod nodes;
mod objects;
mod openapi;
mod recorded_events;
mod swarm;
mod system;
mod transcripts;
mod trust;
