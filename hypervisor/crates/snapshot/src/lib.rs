//! The file format of snapshots (`docs/snapshots.md`): a guest at an instant, written page by page in the order of its
//! memory, read lazily and in any order.
//!
//! ```text
//!  page 0            Header of the newest part: what it has and where; written last
//!  page 1 ...        chunks: a page of checksums, and behind it up to 1,023 pages of memory that hold something
//!  behind them       Machine, board, page map: sections, each with a checksum in the header
//!  then              room for the working set, which who restores it writes
//!
//!  next part         Header of the part before, which page 0 had until this part was complete
//!  behind it ...     chunks of what has changed since, sections, room: as above
//! ```
//!
//! Nothing of a file is believed before its checksum is right, and nothing is read that is not asked for: whoever restores a
//! guest of any size reads the header and the sections, and a page and its chunk's checksums when the guest wants the page.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec;

mod digest;
mod error;
mod features;
mod header;
mod layout;
mod machine;
mod map;
mod part;
mod read;
#[cfg(test)]
mod tests;
mod working_set;
mod write;

pub use digest::Digest;
pub use error::{Found, OpenError, PageError};
pub use features::{Features, Missing};
pub use header::{EMPTY, Extent, Header, MAGIC, VERSION, is_labelled};
pub use layout::most_bytes;
pub use machine::{Event, Machine, Processor, Range};
pub use map::PageMap;
pub use read::{Blocks, Place, Snapshot, Sums};
pub use working_set::{MOST_PAGES as WORKING_SET_PAGES, WorkingSet};
pub use write::{Chain, Sink, Writer};

/// Bytes of a page, of memory and of the file.
pub const PAGE_BYTES: usize = 4096;
/// A page.
pub type Page = [u8; PAGE_BYTES];

/// A page of zeros on the heap: stacks may be small.
///
/// # Panics
/// Never.
#[must_use]
pub fn empty_page() -> Box<Page> {
    vec![0; PAGE_BYTES].try_into().expect("a page has a page's length")
}

/// The checksum of everything: CRC-32 (IEEE 802.3).
fn sum(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}
