//! The manager: Raft node, CA and Dispatcher services, control loops.
