//! The store as openraft and a manager use it, on real and on treacherous disks.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its short cuts too"
)]

mod conformance;
mod corruption;
mod full_disk;
mod power_failure;
mod rotation;
mod single_node;
mod support;
