//! The flush debt of one operation: frames and tables that may be reused only after a flush.
//!
//! ```text
//!   primary entries cleared ──► page / frame / table ──► settle: flush, then retire, neighbours together
//!                                       └─ batch full: settle at once, go on
//! ```
//!
//! A batch of fixed size, so that nothing is allocated under the page-table lock, and unmapping a terabyte
//! needs no more memory than unmapping a page. Linux's name for it is `mmu_gather`.

use crate::host::Host;
use crate::mm::Mm;
use addr::{Hva, HvaRange, PageSize, Pfn};
use core::ops::Range;
use mutants::{Mutant, RangeSite, intact};
use paging::{FlushScope, PageTable};

/// Base pages that one flush pays for.
const PAGES: usize = 256;
/// Huge pages and tables that one flush pays for.
const BATCH: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Owed {
    Frame(Pfn, PageSize),
    Table(Pfn),
    Share(Pfn),
}

/// What was unlinked from one address space and not yet flushed. Owns the entries' references on the frames.
#[must_use = "a debt is paid by `settle`"]
pub(crate) struct Gather<'h, H: Host> {
    mm: &'h Mm<H>,
    root: Pfn,
    site: RangeSite,
    touched: Option<HvaRange>,
    pages: [Pfn; PAGES],
    count: usize,
    owed: [Owed; BATCH],
    len: usize,
}

impl<'h, H: Host> Gather<'h, H> {
    /// An empty debt against the tables below `root`.
    pub(crate) const fn new(mm: &'h Mm<H>, root: Pfn, site: RangeSite) -> Self {
        let (pages, owed) = ([Pfn::ZERO; PAGES], [Owed::Table(Pfn::ZERO); BATCH]);
        Self { mm, root, site, touched: None, pages, count: 0, owed, len: 0 }
    }

    /// The primary entry for `size` bytes at `address` was changed or cleared.
    pub(crate) fn touch(&mut self, address: Hva, size: PageSize) {
        let page = HvaRange::new(address, address.add(size.bytes()));
        self.touched = Some(self.touched.map_or(page, |touched| touched.hull(&page)));
    }

    /// Entries of a page table were changed or cleared, from the first of `pages` to the last.
    pub(crate) fn touch_pages(&mut self, table: &PageTable, pages: Range<u16>) {
        if pages.is_empty() {
            return;
        }
        let last = if intact(Mutant::TouchesFirstOfTable) { pages.end - 1 } else { pages.start };
        for page in [pages.start, last] {
            self.touch(Hva::new(table.address_of(page)), PageSize::Size4K);
        }
    }

    /// An entry for the frame was cleared, and the address touched; its reference passes to the gather.
    pub(crate) fn frame(&mut self, frame: Pfn, size: PageSize) {
        if size != PageSize::Size4K {
            return self.push(Owed::Frame(frame, size));
        }
        if self.room() == 0 {
            self.settle();
        }
        self.page(frame);
    }

    /// So many base pages may be gathered before they have to be flushed: whoever goes over a table takes no more at a time, and
    /// touches them all at once, afterwards.
    pub(crate) const fn room(&self) -> usize {
        PAGES - self.count
    }

    /// The same of a base page for which there is room, and whose address is about to be touched.
    #[inline]
    pub(crate) fn page(&mut self, frame: Pfn) {
        self.pages[self.count] = frame;
        self.count += 1;
    }

    /// A table that translated `address` was unlinked, empty; CPUs may still have cached the way to it (I11).
    pub(crate) fn table(&mut self, address: Hva, table: Pfn) {
        self.touch(address, PageSize::Size4K);
        self.push(Owed::Table(table));
    }

    /// A shared table that translated the 2 MiB at `address` was unlinked; its share passes to the gather.
    pub(crate) fn share(&mut self, address: Hva, table: Pfn) {
        self.touch(address, PageSize::Size2M);
        self.push(Owed::Share(table));
    }

    fn push(&mut self, owed: Owed) {
        if self.len == BATCH {
            self.settle();
        }
        self.owed[self.len] = owed;
        self.len += 1;
    }

    /// Flushes what was touched; what is owed stays owed.
    pub(crate) fn flush(&mut self) {
        let touched = self.touched.take().filter(|_| intact(Mutant::NoFlush(self.site)));
        if let Some(range) = touched {
            self.mm.host().flush(FlushScope::Primary { root: self.root, range });
        }
    }

    /// Flushes, then frees (I6, I10).
    pub(crate) fn settle(&mut self) {
        if intact(Mutant::FreesBeforeFlush) {
            self.flush();
        }
        self.mm.put_pages(&mut self.pages[..core::mem::take(&mut self.count)]);
        for owed in &self.owed[..core::mem::take(&mut self.len)] {
            match *owed {
                Owed::Frame(frame, size) => self.mm.put_page(frame, size),
                Owed::Table(table) => self.mm.host().free_table(table),
                Owed::Share(table) => self.mm.put_table(table),
            }
        }
    }
}

impl<H: Host> Drop for Gather<'_, H> {
    fn drop(&mut self) {
        self.settle();
    }
}
