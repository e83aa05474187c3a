//! The `waxseal` command on a disk with faults, for scenarios; see `waxseal_tests::fault`.

use std::{alloc::System, path::Path, process::ExitCode, sync::Arc};

use waxseal_raft_store::Disk;
use waxseal_tests::fault::{FaultyDisk, SOCKET_VARIABLE, serve};
use zeroizing_alloc::ZeroAlloc;

/// As in `waxseal`.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    waxseal::main_on(disk)
}

fn disk() -> Arc<dyn Disk> {
    let disk = FaultyDisk::default();
    if let Some(socket) = std::env::var_os(SOCKET_VARIABLE) {
        serve(disk.clone(), Path::new(&socket)).expect("the socket of faults can be made");
    }
    Arc::new(disk)
}
