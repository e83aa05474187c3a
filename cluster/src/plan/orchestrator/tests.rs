//! Scenarios of services on a small cluster.

mod generative;
mod replicas;
mod restarts;
mod updates;
