//! Map-around: a fault that finds its page there maps those beside it, too, and one that brings some ahead maps these (Linux: `filemap_map_pages`; KVM, for shadows: `PTE_PREFETCH_NUM`).
//!
//! ```text
//!   group: 64 guest frames, aligned, as far as the slot goes
//!
//!   host    · L L n · L L L · ...      read once, with the page      no allocation, no change, no fault of theirs
//!             │ │     │ │ │
//!   guest   · x · · · · P · · ...      where nothing is: r-x, A and D clear; W where a load's fault would give it
//!             (kept)    └ the fault's own         those of a store only where stores may go on: a page that is to be copied would
//!                                                 have to be zapped and flushed for it
//! ```
//!
//! They come by the fault protocol of the one that has faulted: read after its snapshot, tested as a range under the mmu lock, and
//! installed under that (I2). Where a range that is in progress has some of the group, none is mapped.
//!
//! **It is no use.** A is clear, so aging finds what the processor has used since, and nothing else; where there are no A bits, an
//! entry could not be told from a used one, and nothing is mapped around. A page whose frame is clean is not writable, and none
//! becomes dirty (I7). A log admits them as it does after a load. Nothing is read from swap, and no frame is taken here.

use crate::entry;
use crate::secondary::{Locked, SecondaryMmu};
use crate::slots::Slot;
use crate::stats::add;
use addr::{Gfn, Hva, PAGE_SHIFT, PageSize};
use mm::{Beside, Host, MOST_BESIDE, Mapping, Stretch};
use mutants::{Mutant, intact};
use paging::{EntryRef, Leaf, Rights};
use sync::Snapshot;

/// Entries of a table.
const ENTRIES: u16 = 512;

/// Pages of a group.
const GROUP: u64 = MOST_BESIDE as u64;

/// A page that was found, with what is beside it.
pub(crate) struct Around<'a> {
    pub(crate) gfn: Gfn,
    pub(crate) hva: Hva,
    /// The fault is a store's.
    pub(crate) stores: bool,
    pub(crate) beside: &'a Beside,
    pub(crate) snapshot: Snapshot,
}

impl<H: Host> SecondaryMmu<H> {
    /// The group of a guest frame, where its pages may be mapped unused.
    #[inline]
    pub(crate) fn group_of(&self, slot: &Slot, gfn: Gfn) -> Option<Stretch> {
        if !self.has_accessed_bits() && intact(Mutant::AroundWithoutBits) {
            return None;
        }
        let (gfn, slot) = (gfn.as_u64(), slot.gfns());
        let before = (gfn & (GROUP - 1)).min(gfn - slot.start().as_u64());
        let most = if intact(Mutant::AroundLeavesSlot) { slot.end().as_u64() - 1 - gfn } else { GROUP };
        let behind = (GROUP - 1 - (gfn & (GROUP - 1))).min(most);
        Some(Stretch { before: before as usize, behind: behind as usize })
    }

    /// Maps what is beside a page whose entry, a new one, is at `at`; how many pages. The mmu lock is held, shared at least.
    #[inline(never)]
    pub(crate) fn map_around(&self, locked: &Locked, at: EntryRef, around: &Around<'_>) -> u64 {
        let Around { gfn, hva, beside, snapshot, .. } = around;
        let before = (hva.as_u64() - beside.range().start().as_u64()) >> PAGE_SHIFT;
        let first = Gfn::new(gfn.as_u64() - before);
        let (start, end) = (beside.range().start().as_u64(), beside.range().end().as_u64());
        let permitted = locked.in_progress.permits(&self.sequence, *snapshot, start, end);
        if permitted.is_err() && intact(Mutant::AroundUnchecked) {
            return 0;
        }
        let logs = self.is_logging().then(|| self.logs.read());
        let mapped = match &logs {
            Some(logs) if intact(Mutant::AroundUnlogged) => {
                self.map_each(at, around, |index, leaf| logs.admit(first.add(index), leaf))
            }
            _ => self.map_each(at, around, |_, leaf| leaf),
        };
        add(&self.stats.mapped_around, mapped);
        mapped
    }

    /// The same for pages that `admit` may take rights from. Each way by itself, so that a leaf is bits from the start where there
    /// is no log.
    #[inline(always)]
    fn map_each(&self, at: EntryRef, around: &Around<'_>, admit: impl Fn(u64, Leaf) -> Leaf) -> u64 {
        let before = (around.hva.as_u64() - around.beside.range().start().as_u64()) >> PAGE_SHIFT;
        let start = at.index().wrapping_sub(before as u16);
        let mut mapped = 0;
        self.space.each_beside(around.beside, |index, mapping| {
            let leaf = admit(index, unused_leaf(&mapping));
            let at = EntryRef::new(at.table(), start.wrapping_add(index as u16) & (ENTRIES - 1));
            let is_wanted = leaf.rights.write || !around.stores;
            mapped += u64::from(is_wanted && entry::install_beside(&*self.host, at, leaf));
        });
        mapped
    }
}

/// What a load's fault would install, not used yet.
#[inline(always)]
fn unused_leaf(mapping: &Mapping) -> Leaf {
    let write = mapping.writable && (mapping.dirty || !intact(Mutant::AroundWritesClean));
    let accessed = !intact(Mutant::AroundCountsAsUse);
    Leaf {
        pfn: mapping.pfn,
        size: PageSize::Size4K,
        rights: Rights { write, ..Rights::ALL },
        accessed,
        dirty: false,
    }
}
