//! A whole manager in this process, and nodes that call it.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

mod calls;
mod elections;
mod external;
mod group;
mod life;
mod members;
mod relay;
mod restarts;
mod returns;
mod roles;
mod slow;
mod support;
mod trust;
mod way;
