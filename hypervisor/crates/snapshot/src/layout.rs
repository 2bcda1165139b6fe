//! Where what lies in a file, in pages from its start.

use crate::PAGE_BYTES;
use crate::working_set::AREA_PAGES;

/// Pages of a chunk behind its page of checksums: one checksum each, and one for the checksums.
pub(crate) const CHUNK: u64 = PAGE_BYTES as u64 / 4 - 1;
/// A file is a whole number of these pages: cylinders of the disks that emulators make of files, 16 heads of 63 sectors.
const UNIT: u64 = 126;
/// Most pages of all but memory and its map: header, machine, board.
const BESIDE: u64 = 1024;
/// Most bytes of the sections machine and board, which who restores reads at once.
pub(crate) const MOST_BESIDE: u64 = (BESIDE - 1) * PAGE_BYTES as u64;
/// Most pages of memory, 64 GiB: what a guest of Herald's can have.
pub(crate) const MOST_MEMORY: u64 = 1 << 24;
/// Most parts of a file: who restores has the page maps of all in memory.
pub(crate) const MOST_PARTS: u32 = 64;

/// The page of checksums of a chunk, of the part that starts with page `first`.
pub(crate) const fn sums_at(first: u64, chunk: u64) -> u64 {
    first + 1 + chunk * (CHUNK + 1)
}

/// The page of memory that a part has stored as its `number`th.
pub(crate) const fn stored_at(first: u64, number: u64) -> u64 {
    sums_at(first, number / CHUNK) + 1 + number % CHUNK
}

/// The first page behind so many stored ones.
pub(crate) const fn behind(first: u64, stored: u64) -> u64 {
    if stored == 0 { first + 1 } else { stored_at(first, stored - 1) + 1 }
}

/// Pages that hold so many bytes.
pub(crate) const fn pages_of(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES as u64)
}

/// Bytes of a map of so many pages.
pub(crate) const fn map_bytes(pages: u64) -> u64 {
    pages.div_ceil(64) * 8
}

/// So many pages, in whole units, in bytes.
pub(crate) const fn padded_bytes(pages: u64) -> u64 {
    pages.next_multiple_of(UNIT) * PAGE_BYTES as u64
}

/// Bytes that one part can have at most, of so much memory.
#[must_use]
pub const fn most_bytes(memory: u64) -> u64 {
    let pages = pages_of(memory);
    padded_bytes(behind(0, pages) + 2 * pages_of(pages.div_ceil(8)) + BESIDE + AREA_PAGES)
}
