//! What an address space has in swap, in numbers: how many of its entries name a slot, and how many have come and gone.

use core::sync::atomic::{AtomicU64, Ordering};

/// Entries of an address space that name a swap slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SwappedPages {
    /// There are so many.
    pub now: u64,
    /// Pages that reclaim has unmapped into swap, since the space was made.
    pub out: u64,
    /// Pages that faults have mapped from there.
    pub back: u64,
}

/// The counts as they change, each under the page-table lock.
#[derive(Debug, Default)]
pub(super) struct Swapped {
    now: AtomicU64,
    out: AtomicU64,
    back: AtomicU64,
}

impl Swapped {
    /// Reclaim has left a note in place of a page.
    pub(super) fn count_out(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
        self.out.fetch_add(1, Ordering::Relaxed);
    }

    /// A fault has mapped a page in place of its note.
    pub(super) fn count_back(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
        self.back.fetch_add(1, Ordering::Relaxed);
    }

    /// Fork has copied a note.
    pub(super) fn count_copy(&self) {
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    /// A note was dropped, with its page.
    pub(super) fn count_drop(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn pages(&self) -> SwappedPages {
        let [now, out, back] = [&self.now, &self.out, &self.back].map(|count| count.load(Ordering::Relaxed));
        SwappedPages { now, out, back }
    }
}
