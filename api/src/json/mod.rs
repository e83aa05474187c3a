//! The Engine's JSON types and their conversion from and to the objects.

pub(crate) mod common;
pub(crate) mod config;
pub(crate) mod decode;
pub(crate) mod node;
pub(crate) mod node_text;
pub(crate) mod secret;
pub(crate) mod swarm;
