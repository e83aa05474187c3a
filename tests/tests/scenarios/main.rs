//! All scenarios, one file each, in one binary.

mod cli_walk;
