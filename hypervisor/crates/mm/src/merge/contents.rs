//! The contents of base pages, where a machine has no faster way to them: a checksum that tells volatile pages from others, and
//! a comparison that is believed.

use crate::host::FrameMemory;
use addr::{PAGE_SIZE, Pfn};

/// Bytes that are looked at together: a stack is small.
const PIECE: usize = 256;
/// An odd number without a pattern (rustc's `FxHasher`).
const FACTOR: u64 = 0x517c_c1b7_2722_0a95;

/// Calls `look` for each piece of a page until it says no; whether it never did.
fn each_piece(mut look: impl FnMut(usize) -> bool) -> bool {
    (0..PAGE_SIZE as usize).step_by(PIECE).all(&mut look)
}

/// See [`FrameMemory::checksum`].
pub(crate) fn checksum_by_pieces<H: FrameMemory + ?Sized>(host: &H, frame: Pfn) -> u32 {
    let (mut sum, mut bytes) = (0_u64, [0; PIECE]);
    each_piece(|offset| {
        host.read_bytes(frame, offset, &mut bytes);
        for word in bytes.as_chunks::<8>().0 {
            sum = (sum.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        true
    });
    (sum >> 32) as u32
}

/// See [`FrameMemory::equal`].
pub(crate) fn equal_by_pieces<H: FrameMemory + ?Sized>(host: &H, a: Pfn, b: Pfn) -> bool {
    let (mut left, mut right) = ([0; PIECE], [0; PIECE]);
    each_piece(|offset| {
        host.read_bytes(a, offset, &mut left);
        host.read_bytes(b, offset, &mut right);
        left == right
    })
}
