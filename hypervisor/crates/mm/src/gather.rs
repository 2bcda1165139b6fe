//! The flush debt of one operation: frames and tables that may be reused only after a flush.
//!
//! ```text
//!   primary entries cleared ──► frame / table ──► settle: flush, then retire
//!                                    └─ batch full: settle at once, go on
//! ```
//!
//! A batch of fixed size, so that nothing is allocated under the page-table lock, and unmapping a terabyte
//! needs no more memory than unmapping a page. Linux's name for it is `mmu_gather`.

use crate::host::Host;
use crate::mm::Mm;
use addr::{Hva, HvaRange, PageSize, Pfn};
use mutants::{Mutant, RangeSite, intact};
use paging::FlushScope;

/// Frames and tables that one flush pays for.
const BATCH: usize = 128;

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
    owed: [Owed; BATCH],
    len: usize,
}

impl<'h, H: Host> Gather<'h, H> {
    /// An empty debt against the tables below `root`.
    pub(crate) const fn new(mm: &'h Mm<H>, root: Pfn, site: RangeSite) -> Self {
        Self { mm, root, site, touched: None, owed: [Owed::Table(Pfn::ZERO); BATCH], len: 0 }
    }

    /// The primary entry for `size` bytes at `address` was changed or cleared.
    pub(crate) fn touch(&mut self, address: Hva, size: PageSize) {
        let page = HvaRange::new(address, address.add(size.bytes()));
        self.touched = Some(self.touched.map_or(page, |touched| touched.hull(&page)));
    }

    /// An entry for the frame was cleared, and the address touched; its reference passes to the gather.
    pub(crate) fn frame(&mut self, frame: Pfn, size: PageSize) {
        self.push(Owed::Frame(frame, size));
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
