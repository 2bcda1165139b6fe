//! Pages of zeros but for a few words, which are kept as these words. Such pages are common: tables of all kinds, the ends of heaps,
//! memory that was taken and hardly used. LZ4 goes over all of their zeros.
//!
//! ```text
//!   │ index │ word            │ index │ word            │ ...        2 + 8 bytes each
//! ```
//!
//! There are as many as fit into the smallest object, so that none takes more memory than it would by LZ4.

use crate::spans::LEAST_BYTES;
use addr::Pfn;
use mm::Host;
use mutants::{Mutant, intact};

/// Bytes of an index and a word.
const PAIR: usize = 10;
/// Most words.
const MOST: usize = LEAST_BYTES / PAIR;

/// The words of a page that are not zero.
pub(crate) type Words = heapless::Vec<(u16, u64), MOST>;

/// Those of a frame that nobody writes to; `None`: there are too many.
pub(crate) fn words_of<H: Host>(host: &H, frame: Pfn) -> Option<Words> {
    let mut words = Words::new();
    let all = host.nonzero_words(frame, &mut |index, word| words.push((index, word)).is_ok());
    (all || !intact(Mutant::SparseCutsOff)).then_some(words)
}

/// The bytes that are kept of them.
pub(crate) fn encode(words: &Words) -> heapless::Vec<u8, LEAST_BYTES> {
    let mut bytes = heapless::Vec::new();
    let kept = if intact(Mutant::SparseLosesLast) { words.len() } else { words.len() - 1 };
    for (index, word) in &words[..kept] {
        // There is room for all of them.
        let _ = bytes.extend_from_slice(&index.to_le_bytes());
        let _ = bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Makes a frame of them, whatever was in it.
pub(crate) fn decode<H: Host>(host: &H, frame: Pfn, bytes: &[u8]) {
    if intact(Mutant::SparseKeepsOldWords) {
        host.zero(frame, addr::PageSize::Size4K);
    }
    for pair in bytes.chunks_exact(PAIR) {
        if let Some((index, word)) = pair.split_first_chunk() {
            host.write_bytes(frame, usize::from(u16::from_le_bytes(*index)) * 8, word);
        }
    }
}

const _: () = assert!(MOST > 1);
