//! The contents of base pages, where a machine has no faster way to them: a checksum that tells volatile pages from others, and
//! a comparison that is believed.
//!
//! The checksum is that of a sample, a word of each line of 64 bytes; of all words, where those are zeros: pages of zeros with a
//! word somewhere are common, and shall not be taken for zeros. What the sample does not tell, the comparison does.

use crate::host::FrameMemory;
use addr::{PAGE_SIZE, Pfn};
use mutants::{Mutant, intact};

/// Bytes that are looked at together: a stack is small.
const PIECE: usize = 256;
/// An odd number without a pattern (rustc's `FxHasher`).
const FACTOR: u64 = 0x517c_c1b7_2722_0a95;

/// Calls `look` for each piece of a page until it says no; whether it never did.
fn each_piece(mut look: impl FnMut(usize) -> bool) -> bool {
    (0..PAGE_SIZE as usize).step_by(PIECE).all(&mut look)
}

/// Words of a page, and of a line of 64 bytes.
const WORDS: u16 = (PAGE_SIZE / 8) as u16;
const LINE: u16 = 8;

/// The word of a line, of which `line` is the number, that is in the sample: of neighbours another one each.
#[must_use]
pub const fn sampled_word(line: u16) -> u16 {
    line * LINE + line * 3 % LINE
}

const fn mix(sum: u64, word: u64) -> u64 {
    (sum.rotate_left(5) ^ word).wrapping_mul(FACTOR)
}

/// See [`FrameMemory::checksum`].
pub(crate) fn checksum_by_words<H: FrameMemory + ?Sized>(host: &H, frame: Pfn) -> u32 {
    let sum = |sum, place| mix(sum, host.load_word(frame, place));
    let sample = (0..WORDS / LINE).map(sampled_word).fold(0, sum);
    let sum = if sample == 0 && intact(Mutant::MergeSamplesZeros) { (0..WORDS).fold(0, sum) } else { sample };
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
