//! Fault-ahead: where somebody goes through fresh memory in order, the first touch of a page brings those behind it, too.
//!
//! ```text
//!   page table:   L L L [fault] · · · · · L · ·        L: a leaf, ·: nothing yet
//!                          └─ frames ─┘                zeroed; one look at the area, one page-table lock for all
//! ```
//!
//! Nobody has asked for these pages, so they end where the first of these does: what is wanted, the area, the page table, what is
//! empty, the space's limit, frames that nobody will miss. They are no use: A is clear, and their generation is the oldest, so that
//! reclaim takes them first, unless a processor has used them since. They are dirty like any fresh page (I7): what may be written at
//! once cannot be dropped as clean.

use super::AddressSpace;
use super::beside::{AskBeside, Beside, PAGES};
use super::fault::{Fault, Mapped};
use crate::host::Host;
use crate::shrink::AGES;
use crate::vma::VmaFlags;
use addr::{PAGE_SHIFT, PageSize, Pfn};
use mutants::{Mutant, intact};
use paging::{Entries, EntryRef, HostEntry, Leaf, TableEntry};

/// Most pages behind the one that is touched.
pub const MOST_AHEAD: usize = 15;

/// One part in so many of all frames stays free: four times what reclaim keeps.
const PART: u64 = 64;

/// Areas in which no page comes that nobody has touched: it would be a huge one, or stay for ever.
const UNFIT: VmaFlags = VmaFlags::HUGE.union(VmaFlags::LOCKED);

impl<H: Host> AddressSpace<H> {
    /// [`Self::map_fresh`], for pages behind it as well; the answer has the entries of all. `first` is the page's own frame, and `at` its
    /// entry.
    #[inline(never)]
    pub(super) fn map_ahead(
        &self,
        fault: &Fault<'_, H>,
        at: EntryRef,
        first: Pfn,
        ask: AskBeside<'_>,
    ) -> Mapped {
        let mut frames = [first; MOST_AHEAD + 1];
        let more = self.room_ahead(fault, at, ask.ahead.min(MOST_AHEAD));
        let count = 1 + self.host().allocate_few_zeroed(&mut frames[1..=more]);
        let frames = &frames[..count];
        self.own_ahead(fault, &frames[1..]);
        let rights = fault.vma.protection.rights();
        let leaf = Leaf { pfn: first, size: PageSize::Size4K, rights, accessed: false, dirty: true };
        let tables = self.tables.lock();
        debug_assert_eq!(self.walk(fault.page).at, at, "a page table has gone under the mmap lock");
        let mapped = self.map_run(at, frames, leaf);
        drop(tables);
        // Never visible: no flush is owed.
        frames[mapped..].iter().for_each(|&frame| self.mm.put(frame));
        let entries = frames[..mapped].iter().map(|&pfn| HostEntry::leaf(Leaf { pfn, ..leaf }));
        *ask.found = Some(Beside::from_entries(fault.page, entries));
        Ok((mapped > 0).then_some(leaf))
    }

    /// How many pages behind a page may come with it. The entries are looked at again when they are written.
    fn room_ahead(&self, fault: &Fault<'_, H>, at: EntryRef, wanted: usize) -> usize {
        if fault.vma.flags.intersects(UNFIT) {
            return 0;
        }
        let frames = self.host().frames();
        let plenty = if intact(Mutant::AheadTakesLastFrames) { frames.total() / PART } else { 0 };
        let behind = (fault.vma.range.end().as_u64() - fault.page.as_u64() >> PAGE_SHIFT) - 1;
        let area = if intact(Mutant::AheadBeyondArea) { behind } else { u64::MAX };
        let room = area.min(frames.spare().saturating_sub(plenty)).min(self.room_below_limit());
        let (table, first) = (self.host().entries(at.table()), at.index() + 1);
        let last = wanted.min(room.min(PAGES as u64) as usize).min(PAGES - usize::from(first));
        (first..).take(last).take_while(|&index| table.load(index) == HostEntry::EMPTY.bits()).count()
    }

    /// Frames become pages of the area behind the fault's page, and the oldest there are.
    fn own_ahead(&self, fault: &Fault<'_, H>, frames: &[Pfn]) {
        let all = self.host().frames();
        let oldest = all.generation().wrapping_sub(AGES);
        for (&frame, index) in frames.iter().zip(fault.index() + 1..) {
            self.own_at(fault, frame, index);
            if intact(Mutant::AheadIsYoung) {
                all.set_generation(frame, oldest);
            }
        }
    }

    /// Maps frames that nobody else knows, from the entry at `at` on, up to one that is not empty; how many. The page-table lock is held.
    fn map_run(&self, at: EntryRef, frames: &[Pfn], leaf: Leaf) -> usize {
        let (host, all) = (self.host(), self.host().frames());
        let mut mapped = 0;
        for (&pfn, index) in frames.iter().zip(at.index()..) {
            let at = EntryRef::new(at.table(), index);
            if host.load(at) != HostEntry::EMPTY.bits() && intact(Mutant::AheadMapsUnseen) {
                break;
            }
            all.meta(pfn).add_entry();
            // Not present to present: no flush (SDM vol. 3A 4.10.4.3).
            host.store(at, HostEntry::leaf(Leaf { pfn, ..leaf }).bits());
            mapped += 1;
        }
        self.count_pages(mapped as u64);
        mapped
    }
}
