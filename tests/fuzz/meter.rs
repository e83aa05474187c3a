//! How much heap the input under test takes on this thread.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static ON: Cell<bool> = const { Cell::new(false) };
}

struct Meter;

#[global_allocator]
static METER: Meter = Meter;

#[expect(
    unsafe_code,
    reason = "an allocator is unsafe to be; it hands everything on"
)]
// SAFETY: every call goes to the system's allocator with the arguments that it came with; the
// counters are plain cells without a destructor, so that they allocate nothing themselves.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        grow(-layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn grow(by: isize) {
    if !ON.get() {
        return;
    }
    let live = LIVE.get() + by;
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

/// Counts from zero.
pub(crate) fn begin() {
    LIVE.set(0);
    PEAK.set(0);
    ON.set(true);
}

/// Counts no more.
pub(crate) fn end() {
    ON.set(false);
}

/// The most bytes that were in use at once since [`begin`], less what was freed.
pub(crate) fn peak() -> usize {
    usize::try_from(PEAK.get()).unwrap_or(0)
}
