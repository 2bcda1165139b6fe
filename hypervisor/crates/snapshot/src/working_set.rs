//! The working set: the pages that a restored guest has asked for first, in that order. Whoever restores the snapshot records
//! them in the room that the file has for it, and whoever restores it next reads them ahead.
//!
//! ```text
//!  0   "HERALDWS"   8   count   12   CRC-32 of what follows   16   numbers of pages, 4 bytes each
//! ```
//!
//! It is a hint: one that is not good is none.

use crate::{PAGE_BYTES, sum};
use alloc::vec::Vec;

/// Pages of the room for it.
pub(crate) const AREA_PAGES: u64 = 8;
const MAGIC: [u8; 8] = *b"HERALDWS";
const HEAD: usize = 16;
/// Most pages that it can have.
pub const MOST_PAGES: usize = (AREA_PAGES as usize * PAGE_BYTES - HEAD) / 4;

/// Pages of memory, in the order of their first use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WorkingSet {
    /// Their numbers.
    pub pages: Vec<u32>,
}

impl WorkingSet {
    /// As the room holds it.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let count = self.pages.len().min(MOST_PAGES);
        let body: Vec<u8> = self.pages[..count].iter().flat_map(|page| page.to_le_bytes()).collect();
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&(count as u32).to_le_bytes());
        bytes.extend_from_slice(&sum(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.resize(AREA_PAGES as usize * PAGE_BYTES, 0);
        bytes
    }

    /// What the room holds; empty where that is nothing good.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        Self::read(bytes).unwrap_or_default()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_at_checked(HEAD)?;
        let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let count = word(8)? as usize;
        let body = body.get(..count.checked_mul(4)?)?;
        let good = head.starts_with(&MAGIC) && word(12)? == sum(body);
        let pages =
            || body.chunks_exact(4).map(|page| u32::from_le_bytes(page.try_into().unwrap_or_default()));
        good.then(|| Self { pages: pages().collect() })
    }
}
