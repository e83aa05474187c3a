//! Scenarios of services on a small cluster.

mod generative;
mod jobs;
mod replicas;
mod restarts;
mod updates;
