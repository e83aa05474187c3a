//! The `waxseal` command on a disk with faults, with a clock that is moved, at a feature level of
//! choice, for scenarios; see `waxseal_tests::fault`.

use std::{path::Path, process::ExitCode, sync::Arc};

use waxseal::{MEMORY, Memory, Underlay};
use waxseal_ca::{Clock, SystemClock};
use waxseal_tests::fault::{
    CLOCK_VARIABLE, FaultyDisk, LEVEL_VARIABLE, MovedClock, SOCKET_VARIABLE, serve,
};

/// As in `waxseal`.
#[global_allocator]
static ALLOCATOR: Memory = MEMORY;

fn main() -> ExitCode {
    waxseal::main_on(underlay)
}

fn underlay() -> Underlay {
    let disk = FaultyDisk::default();
    if let Some(socket) = std::env::var_os(SOCKET_VARIABLE) {
        serve(disk.clone(), Path::new(&socket)).expect("the socket of faults can be made");
    }
    let level = std::env::var(LEVEL_VARIABLE).ok();
    let clock: Arc<dyn Clock> = match std::env::var_os(CLOCK_VARIABLE) {
        Some(file) => Arc::new(MovedClock::of(file.into())),
        None => Arc::new(SystemClock),
    };
    Underlay {
        disk: Arc::new(disk),
        clock,
        danger_feature_level: level.map(|level| level.parse().expect("a feature level")),
    }
}
