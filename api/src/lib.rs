//! The Docker Engine HTTP API, swarm part, over a [`Cluster`].

mod cluster;

pub use cluster::*;
