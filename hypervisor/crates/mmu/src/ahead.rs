//! Streams: where a guest writes to one page after the other, its first touches bring pages ahead (`mm`: `space/ahead.rs`; Linux does so for
//! files: readahead).
//!
//! ```text
//!   write faults in order:   1  1  1  2   4       8               16              …      pages of each
//!                            └─────┴ none ahead   └ as many again, up to 15 behind
//! ```
//!
//! So what comes unasked is less than what was touched in the same row, 15 pages at most; a fault anywhere else begins with none. A stream is a
//! hint, whatever it says: no lock, no order, and virtual processors that meet in one disturb each other.

use crate::secondary::SecondaryMmu;
use crate::slots::Slot;
use addr::Gfn;
use core::sync::atomic::{AtomicU64, Ordering};
use mm::{Access, Host, MOST_AHEAD};
use mutants::{Mutant, intact};

/// Streams that are known: places are told apart by the 2 MiB that they are in.
const STREAMS: usize = 8;
/// Base pages of these.
const BLOCK: u64 = 512;
/// Pages ahead of a fault, by how many came before it in order.
const AHEAD: [usize; 7] = [0, 0, 0, 1, 3, 7, MOST_AHEAD];
/// Bits that hold that number.
const LEVEL_BITS: u32 = 3;
const LEVEL: u64 = (1 << LEVEL_BITS) - 1;

/// Of each stream, the guest frame that comes next, and how many faults have led there.
#[derive(Debug, Default)]
pub(crate) struct Streams([AtomicU64; STREAMS]);

impl Streams {
    fn of(&self, gfn: Gfn) -> &AtomicU64 {
        &self.0[(gfn.as_u64() / BLOCK) as usize % STREAMS]
    }

    /// How many faults in order lead to this one, as far as that matters.
    #[inline]
    fn level(&self, gfn: Gfn) -> u64 {
        let stream = self.of(gfn).load(Ordering::Relaxed);
        if stream >> LEVEL_BITS == gfn.as_u64() { stream & LEVEL } else { 0 }
    }

    #[inline]
    fn note(&self, next: Gfn, level: u64) {
        let level = level.min(AHEAD.len() as u64 - 1);
        self.of(next).store(next.as_u64() << LEVEL_BITS | level, Ordering::Relaxed);
    }
}

impl<H: Host> SecondaryMmu<H> {
    /// How many faults in order lead to this one; of loads none, which bring no page of the guest's own.
    #[inline]
    pub(crate) fn stream_to(&self, gfn: Gfn, access: Access) -> u64 {
        if access == Access::Write { self.streams.level(gfn) } else { 0 }
    }

    /// Pages that may come with a fault: not behind the slot, nor behind the page table, whose entries alone are written at once.
    #[inline]
    pub(crate) fn ahead_of(&self, slot: &Slot, gfn: Gfn, level: u64) -> usize {
        let level = if intact(Mutant::AheadAtOnce) { level } else { LEVEL };
        let wanted = AHEAD[(level as usize).min(AHEAD.len() - 1)];
        if wanted == 0 {
            return 0;
        }
        let slot_end = if intact(Mutant::AheadLeavesSlot) { slot.gfns().end().as_u64() } else { u64::MAX };
        let table_end =
            if intact(Mutant::AheadLeavesTable) { (gfn.as_u64() / BLOCK + 1) * BLOCK } else { u64::MAX };
        wanted.min((slot_end.min(table_end) - gfn.as_u64() - 1) as usize)
    }

    /// A fault has mapped a page, and so many around it.
    #[inline]
    pub(crate) fn note_stream(&self, gfn: Gfn, access: Access, level: u64, around: u64) {
        if access == Access::Write {
            self.streams.note(gfn.add(1 + around), level + 1);
        }
    }
}
