//! Fault-ahead: where a guest writes to one fresh page after the other, the first touch of a page brings those behind it, too (Linux, for files:
//! readahead).
//!
//! ```text
//!   first touches in order:   1  1  1  2   4       8               16              …      pages of each
//!                             └─────┴ none ahead   └ as many again, up to 15 behind
//!
//!   page table:   L L L [fault] · · · · · L · ·        L: a leaf, ·: nothing yet
//!                          └─ frames ─┘                zeroed; one look at the area, one page-table lock for all
//! ```
//!
//! Nobody has asked for these pages: there are up to 15 for each fault of the stream, and they end where the first of these does: what is
//! wanted beside the page, the area, the page table, what is empty, the space's limit, frames that nobody will miss. They are no use: A is
//! clear, and their generation is the oldest, so that reclaim takes them first, unless a processor has used them since. They are dirty like
//! any fresh page (I7): what may be written at once cannot be dropped as clean.
//!
//! Only who asks what lies beside a page gets them: a secondary MMU. A stream is a hint, whatever it says: no lock, no order.

use super::AddressSpace;
use super::beside::{AskBeside, PAGES};
use super::fault::{Fault, Mapped};
use crate::host::Host;
use crate::shrink::AGES;
use crate::vma::VmaFlags;
use addr::{Hva, PAGE_SHIFT, PageSize, Pfn};
use core::sync::atomic::{AtomicU64, Ordering};
use mutants::{Mutant, intact};
use paging::{Entries, EntryRef, HostEntry, Leaf, TableEntry};

/// Most pages behind the one that is touched.
pub const MOST_AHEAD: usize = 15;

/// Streams that are known: places are told apart by the 2 MiB that they are in.
const STREAMS: usize = 8;
/// Pages ahead of a first touch, by how many came before it in order.
const AHEAD: [usize; 7] = [0, 0, 0, 1, 3, 7, MOST_AHEAD];
/// Bits that hold that number.
const LEVEL_BITS: u32 = 3;
const LEVEL: u64 = (1 << LEVEL_BITS) - 1;

/// One part in so many of all frames stays free: four times what reclaim keeps.
const PART: u64 = 64;

/// Areas in which no page comes that nobody has touched: it would be a huge one, or stay for ever.
pub(super) const UNFIT: VmaFlags = VmaFlags::HUGE.union(VmaFlags::LOCKED);

/// Of each stream, the number of the page that comes next, and how many first touches have led there.
#[derive(Debug, Default)]
pub(super) struct Streams([AtomicU64; STREAMS]);

impl Streams {
    #[inline]
    const fn of(&self, page: u64) -> &AtomicU64 {
        &self.0[page as usize / PAGES % STREAMS]
    }

    #[inline]
    fn note(&self, next: u64, level: u64) {
        self.of(next).store(next << LEVEL_BITS | level, Ordering::Relaxed);
    }

    /// A page is touched first: how many behind it may come, too, which takes a page table.
    #[inline]
    pub(super) fn pages_ahead(&self, page: Hva, ask: &AskBeside<'_>, has_table: bool) -> usize {
        let page = page.as_u64() >> PAGE_SHIFT;
        let stream = self.of(page).load(Ordering::Relaxed);
        if stream >> LEVEL_BITS != page && intact(Mutant::AheadAtOnce) {
            self.note(page + 1, 1);
            return 0;
        }
        self.pages_in_stream((page, stream & LEVEL), ask, has_table)
    }

    #[inline(never)]
    fn pages_in_stream(&self, (page, level): (u64, u64), ask: &AskBeside<'_>, has_table: bool) -> usize {
        let most = if intact(Mutant::AheadUnwanted) { ask.wanted.behind } else { MOST_AHEAD };
        let level = if intact(Mutant::AheadAtOnce) { level as usize } else { AHEAD.len() };
        let level = level.min(AHEAD.len() - 1);
        let ahead = if has_table { AHEAD[level].min(most) } else { 0 };
        self.note(page + 1 + ahead as u64, (level as u64 + 1).min(LEVEL));
        ahead
    }

    /// So many came less.
    fn note_less(&self, page: Hva, ahead: usize, less: usize) {
        let wanted = (page.as_u64() >> PAGE_SHIFT) + 1 + ahead as u64;
        let stream = self.of(wanted).load(Ordering::Relaxed);
        if less > 0 && stream >> LEVEL_BITS == wanted {
            self.note(wanted - less as u64, stream & LEVEL);
        }
    }
}

impl<H: Host> AddressSpace<H> {
    /// [`Self::map_fresh`], for pages behind it as well; the answer has the entries of all. `first` is the page's own frame, and `at` its
    /// entry.
    #[inline(never)]
    pub(super) fn map_ahead(
        &self,
        fault: &Fault<'_, H>,
        at: EntryRef,
        (first, ahead): (Pfn, usize),
        ask: AskBeside<'_>,
    ) -> Mapped {
        let mut frames = [first; MOST_AHEAD + 1];
        let more = self.room_ahead(fault, at, ahead);
        let count = 1 + self.host().allocate_few_zeroed(&mut frames[1..=more]);
        let frames = &frames[..count];
        self.own_ahead(fault, &frames[1..]);
        let rights = fault.vma.protection.rights();
        let leaf = Leaf { pfn: first, size: PageSize::Size4K, rights, accessed: false, dirty: true };
        let tables = self.tables.lock();
        debug_assert_eq!(self.walk(fault.page).at, at, "a page table has gone under the mmap lock");
        let mapped = self.map_run(at, frames, leaf);
        drop(tables);
        self.streams.note_less(fault.page, ahead, ahead + 1 - mapped);
        // Never visible: no flush is owed.
        frames[mapped..].iter().for_each(|&frame| self.mm.put(frame));
        let entries = frames[..mapped].iter().map(|&pfn| HostEntry::leaf(Leaf { pfn, ..leaf }));
        ask.answer_brought(fault.page, entries);
        Ok((mapped > 0).then_some(leaf))
    }

    /// How many pages behind a page may come with it. The entries are looked at again when they are written.
    fn room_ahead(&self, fault: &Fault<'_, H>, at: EntryRef, wanted: usize) -> usize {
        let frames = self.host().frames();
        let plenty = if intact(Mutant::AheadTakesLastFrames) { frames.total() / PART } else { 0 };
        let behind = ((fault.vma.range.end().as_u64() - fault.page.as_u64()) >> PAGE_SHIFT) - 1;
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
