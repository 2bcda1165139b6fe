//! What lies beside a page that a fault has found: entries of the same page table, read under the lock that keeps it there.
//!
//! ```text
//!   page table:   · L L n · L [page] L L · L ·          L: a leaf, n: a note
//!                       └────── wanted ──────┘          read once, with no promise: by the time of use they may have changed,
//!                                                       which is what the invalidation sequence is for (I2)
//! ```
//!
//! A shared table (I18) is passed over: what is in it allows less than it says.

use super::{AddressSpace, Mapping};
use crate::host::Host;
use addr::{Hva, HvaRange, PAGE_SHIFT, PageSize};
use mutants::{Mutant, intact};
use paging::{Entries, Found, HostEntry, Leaf, Level, TableEntry, View};

/// Entries of a page table.
pub(super) const PAGES: usize = 512;

/// Most pages that are asked for at once.
pub const MOST_BESIDE: usize = 64;

/// Entries beside a page, as they were when that was found.
#[derive(Debug)]
pub struct Beside {
    range: HvaRange,
    entries: [u64; MOST_BESIDE],
}

impl Beside {
    /// Room for the entries of so many pages from `first` on, at most [`MOST_BESIDE`], where they will be looked at: it is too large to be
    /// moved about.
    fn room(place: &mut Option<Self>, first: Hva, count: usize) -> &mut [u64] {
        let range = HvaRange::new(first, first.add((count as u64) << PAGE_SHIFT));
        &mut place.insert(Self { range, entries: [0; MOST_BESIDE] }).entries[..count]
    }

    /// Reads of the page table in which `found` is what `wanted` asks for, but for what lies outside that table.
    fn read<H: Host>(
        place: &mut Option<Self>,
        host: &H,
        found: &Found<HostEntry>,
        (page, wanted): (Hva, Stretch),
    ) {
        if found.level != Level::Pt || found.shared && intact(Mutant::AroundReadsShared) {
            return;
        }
        let index = usize::from(found.at.index());
        let before = wanted.before.min(index);
        let first = index - before;
        let count = (before + 1 + wanted.behind).min(PAGES - first);
        let table = host.entries(found.at.table());
        let start = page.align_down(PageSize::Size2M).add((first as u64) << PAGE_SHIFT);
        for (entry, index) in Self::room(place, start, count).iter_mut().zip(first as u16..) {
            *entry = table.load(index);
        }
    }

    /// The addresses that were looked at.
    #[must_use]
    pub const fn range(&self) -> HvaRange {
        self.range
    }
}

/// So many pages before a page, and behind it; [`MOST_BESIDE`] with the page itself, at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Before it.
    pub before: usize,
    /// Behind it.
    pub behind: usize,
}

/// Who wants to know what lies beside a page, and where the answer goes. Where the page had to be put there first, there is one only if
/// pages behind it have come with it (`ahead.rs`).
#[derive(Debug)]
pub struct AskBeside<'a> {
    /// What is wanted.
    pub wanted: Stretch,
    /// The answer.
    pub found: &'a mut Option<Beside>,
}

impl AskBeside<'_> {
    /// Apart, so that who finds nothing does not pay for it.
    #[inline(never)]
    pub(super) fn answer<H: Host>(self, host: &H, found: &Found<HostEntry>, page: Hva) {
        *self.found = None;
        Beside::read(self.found, host, found, (page, self.wanted));
    }

    /// The pages from `page` on have these entries, at most [`MOST_BESIDE`].
    pub(super) fn answer_brought(self, page: Hva, brought: impl ExactSizeIterator<Item = HostEntry>) {
        let room = Beside::room(self.found, page, brought.len());
        room.iter_mut().zip(brought).for_each(|(entry, new)| *entry = new.bits());
    }
}

impl<H: Host> AddressSpace<H> {
    /// What is mapped beside the page, with the index of each page in the range. Whether frames are dirty is as it is by now.
    #[inline(always)]
    pub fn each_beside(&self, beside: &Beside, mut take: impl FnMut(u64, Mapping)) {
        let is_dirty = self.mm.dirty_frames();
        let count = (beside.range.len() >> PAGE_SHIFT) as usize;
        for (&bits, index) in beside.entries[..count.min(MOST_BESIDE)].iter().zip(0..) {
            if bits & HostEntry::PRESENT == 0 {
                continue;
            }
            if let View::Leaf(Leaf { pfn, size, rights, .. }) = HostEntry::from_bits(bits).view(Level::Pt) {
                take(
                    index,
                    Mapping { pfn, size, writable: rights.write, dirty: is_dirty(pfn), announced: 0 },
                );
            }
        }
    }
}
