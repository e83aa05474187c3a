//! What a copy or a cipher leaves in the processor and on the stack.

use std::hint::black_box;

/// Larger than any block that a copy moves through registers at once.
const LONGEST: usize = 4096;

/// Copies zeros as secrets are copied, so that the vector registers of this thread
/// hold zeros.
///
/// A thread that waits keeps its registers, and a core file shows them: without
/// this, up to 256 bytes of what was copied last. Called before a thread that has
/// handled plaintext waits for more. Not a guarantee, as the compiler chooses the
/// registers; it goes the way of the copies that were found to leave something.
pub fn scrub_registers() {
    let zeros = black_box([0u8; LONGEST]);
    let mut copy = [0u8; LONGEST];
    for length in [16, 32, 64, 128, 256, 512, 1024, LONGEST] {
        copy[..length].copy_from_slice(black_box(&zeros[..length]));
        black_box(&mut copy);
    }
}

/// More than a cipher uses of the stack, in builds without optimisation too.
const FRAMES: usize = 16 * 1024;

/// Zeroes the stack below the caller, where what it called has left its locals.
///
/// A cipher works on copies of the blocks in its own frames; there the last of them
/// stay until something else calls as deep. Called by whoever sealed or opened
/// plaintext, right after, as then the frames lie where they were.
#[inline(never)]
pub fn scrub_stack() {
    let mut frames = [0u8; FRAMES];
    black_box(&mut frames);
}
