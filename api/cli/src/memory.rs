//! The memory of the process: wiped as it is freed, and not taken for what is only set aside.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    thread,
    time::Duration,
};

use rustix::mm::{Advice, madvise};
use zeroizing_alloc::ZeroAlloc;

/// What HTTP/2 sets aside for each connection to write from (`DEFAULT_BUFFER_CAPACITY` of h2 0.4).
/// An idle session ever uses some hundred bytes of it, and a fleet has thousands.
const SET_ASIDE_BYTES: usize = 16 * 1024;
/// Where pages are larger the kernel refuses the advice, and nothing else happens.
const PAGE_BYTES: usize = 4096;

/// Pause between two looks at what was freed.
const PAUSE: Duration = Duration::from_secs(10);

/// Wipes what is freed: secrets pass through buffers of libraries that do not wipe theirs.
pub type Memory = ZeroAlloc<SetAside<System>>;

/// The allocator of the binaries.
pub const MEMORY: Memory = ZeroAlloc(SetAside(System));

/// An allocator whose blocks of 16 KiB hold no page until it is written to.
///
/// Such a block is mostly made of what others have freed, whose pages are still there: three of
/// its four would stay with it for as long as its connection, with nothing in them.
#[derive(Debug)]
pub struct SetAside<A>(A);

#[expect(unsafe_code, reason = "an allocator is")]
// SAFETY: every block comes from and goes to the allocator within, as it is; what it holds before
// its owner writes to it is nobody's.
unsafe impl<A: GlobalAlloc> GlobalAlloc for SetAside<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: under the caller's promise.
        let block = unsafe { self.0.alloc(layout) };
        if layout.size() == SET_ASIDE_BYTES && !block.is_null() {
            let before = block.addr().next_multiple_of(PAGE_BYTES) - block.addr();
            let pages = (SET_ASIDE_BYTES - before) / PAGE_BYTES * PAGE_BYTES;
            // Refused, of locked memory for instance, the pages stay.
            // SAFETY: the pages lie within the block, which nobody else has and its owner has not
            // got yet. Given back, they read as zeros.
            let _ = unsafe { madvise(block.add(before).cast(), pages, Advice::LinuxDontNeed) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: under the caller's promise.
        unsafe { self.0.dealloc(block, layout) };
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: under the caller's promise.
        unsafe { self.0.alloc_zeroed(layout) }
    }
}

/// From now on gives whole pages that were freed back to the system every [`PAUSE`], for as long
/// as the process lives. A fleet that joins or moves to another root needs them for a moment only,
/// and the system's allocator keeps them otherwise.
pub(crate) fn give_back() {
    let rounds = || {
        loop {
            thread::sleep(PAUSE);
            trim();
        }
    };
    let started = thread::Builder::new()
        .name("memory".to_owned())
        .spawn(rounds);
    if let Err(error) = started {
        tracing::warn!(%error, "freed memory is kept: there is no thread for it");
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    #[expect(unsafe_code, reason = "a call of the C library")]
    // SAFETY: it may be called at any time, by any thread (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::fs::FileExt};

    use super::*;

    /// Whole pages of a block, and how many of them are there.
    fn pages(block: *const u8) -> (usize, usize) {
        let first = block.addr().div_ceil(PAGE_BYTES);
        let end = (block.addr() + SET_ASIDE_BYTES) / PAGE_BYTES;
        let map = File::open("/proc/self/pagemap").unwrap();
        let there = (first..end).filter(|page| {
            let mut entry = [0; 8];
            map.read_exact_at(&mut entry, *page as u64 * 8).unwrap();
            // Present, or swapped.
            u64::from_ne_bytes(entry) >> 62 != 0
        });
        (end - first, there.count())
    }

    #[test]
    #[expect(unsafe_code, reason = "an allocator is")]
    fn what_is_set_aside_takes_no_page_until_it_is_written_to() {
        let layout = Layout::from_size_align(SET_ASIDE_BYTES, 1).unwrap();
        // SAFETY: each block is freed once, as it was allocated, and written to before.
        unsafe {
            // What others have used and freed is there for the next.
            let used: Vec<_> = (0..8).map(|_| System.alloc(layout)).collect();
            for block in used {
                block.write_bytes(1, SET_ASIDE_BYTES);
                let (whole, there) = pages(block);
                assert_eq!(whole, there);
                System.dealloc(block, layout);
            }
            let memory = SetAside(System);
            let blocks: Vec<_> = (0..16).map(|_| memory.alloc(layout)).collect();
            for block in blocks {
                let (whole, there) = pages(block);
                assert!(whole >= 3);
                assert_eq!(there, 0);
                block.write_bytes(1, SET_ASIDE_BYTES);
                assert_eq!(pages(block), (whole, whole));
                memory.dealloc(block, layout);
            }
        }
    }
}
