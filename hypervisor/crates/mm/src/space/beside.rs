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
    /// Of the page table in which `found` is, what `wanted` asks for, but for what lies outside that table.
    fn read<H: Host>(host: &H, found: &Found<HostEntry>, page: Hva, wanted: Stretch) -> Option<Self> {
        if found.level != Level::Pt || found.shared && intact(Mutant::AroundReadsShared) {
            return None;
        }
        let index = usize::from(found.at.index());
        let before = wanted.before.min(index);
        let first = index - before;
        let count = (before + 1 + wanted.behind).min(PAGES - first);
        let table = host.entries(found.at.table());
        let mut entries = [0; MOST_BESIDE];
        for (entry, index) in entries[..count].iter_mut().zip(first as u16..) {
            *entry = table.load(index);
        }
        let start = page.align_down(PageSize::Size2M).add((first as u64) << PAGE_SHIFT);
        let range = HvaRange::new(start, start.add((count as u64) << PAGE_SHIFT));
        Some(Self { range, entries })
    }

    /// Entries of pages from `page` on, at most [`MOST_BESIDE`].
    pub(super) fn from_entries(page: Hva, brought: impl ExactSizeIterator<Item = HostEntry>) -> Self {
        let range = HvaRange::new(page, page.add((brought.len() as u64) << PAGE_SHIFT));
        let mut entries = [0; MOST_BESIDE];
        entries.iter_mut().zip(brought).for_each(|(entry, new)| *entry = new.bits());
        Self { range, entries }
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
        *self.found = Beside::read(host, found, page, self.wanted);
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
