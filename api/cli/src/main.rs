//! The `waxseal` command, on the system's files.

use std::process::ExitCode;

use waxseal::{MEMORY, Memory, Underlay};

#[global_allocator]
static ALLOCATOR: Memory = MEMORY;

fn main() -> ExitCode {
    waxseal::main_on(Underlay::default)
}
