//! The `waxseal` command, on the system's files.

use std::{alloc::System, process::ExitCode};

use waxseal::Underlay;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: secrets pass through buffers of libraries that do not wipe theirs.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    waxseal::main_on(Underlay::default)
}
