//! What is done to the entries of neighbours that go together (`batch.rs` of the crate).
//!
//! The caller holds the pages' locks, a reference on each, and no mmap lock: an entry itself is asked whether it maps the
//! frame, under the page-table lock.

use super::AddressSpace;
use super::entry::Tables;
use crate::batch::Few;
use crate::frames::PageFlags;
use crate::host::Host;
use addr::{Hva, HvaRange, PAGE_SIZE, Pfn};
use mutants::{Mutant, PageSite, intact};
use paging::{Entries, Found, HostEntry, Level, Note, PageTable, Part, TableEntry};

/// A page that is about to go, and its place in swap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaving {
    pub(crate) address: Hva,
    pub(crate) frame: Pfn,
    pub(crate) slot: u64,
}

impl<H: Host> AddressSpace<H> {
    /// Patch site `try_to_unmap_one`, for neighbours: the entry of each page that still is where it was becomes a note of
    /// its slot, then one flush, then `invalidate_pages`. On return nobody can use the pages any more.
    pub(crate) fn unmap_together<'p>(&self, pages: impl Iterator<Item = &'p Leaving>) {
        let tables = self.tables.lock();
        let mut pages = pages.peekable();
        let Some(table) = pages.peek().and_then(|page| self.table_of(page.address)) else { return };
        let entries = self.host().entries(table.table);
        let gone: Few<Hva> = pages
            .filter(|page| {
                let index = Level::Pt.index(page.address.as_u64());
                let found = table.visit(index, HostEntry::from_bits(entries.load(index))).found;
                self.note_in_place(&tables, page, &found)
            })
            .map(|page| page.address)
            .collect();
        let (Some(first), Some(last)) = (gone.first(), gone.last()) else { return };
        if intact(Mutant::NoFlushOfBatch) {
            self.flush_primary(HvaRange::new(*first, last.add(PAGE_SIZE)));
        }
        self.chain.invalidate_pages(PageSite::UnmapTogether, &gone);
    }

    /// The page table that translates an address, and the pages of its cluster.
    fn table_of(&self, address: Hva) -> Option<PageTable> {
        let page = HvaRange::new(address, address.add(PAGE_SIZE));
        match self.parts(page).next()? {
            Part::Table(table) => Some(table),
            Part::Leaf(_) => None,
        }
    }

    /// Puts a note in place of the entry, in one step: a fault that meets the note waits for the page lock. Whether the
    /// frame was mapped there, in no shared table.
    fn note_in_place(&self, _tables: &Tables<'_>, page: &Leaving, found: &Found<HostEntry>) -> bool {
        if found.shared || !found.entry.is_page() || found.entry.page() != page.frame {
            return false;
        }
        let meta = self.host().frames().meta(page.frame);
        self.mm.swap().add_note(page.slot);
        self.swapped.count_out();
        if intact(Mutant::UnmapLeavesExclusive) {
            meta.clear(PageFlags::EXCLUSIVE);
        }
        let entry = self.replace(found.at, found.entry, |_| HostEntry::note(Note::Swap(page.slot)));
        let Some(leaf) = (Found { entry, ..*found }).leaf() else { return false };
        // The last D: no CPU sets it in an entry that is not present.
        if leaf.dirty && intact(Mutant::NoDirtyOnUnmap) {
            meta.mark_dirty();
        }
        if self.uncount_leaf(&leaf) {
            // The caller's own reference keeps the frame.
            let last = meta.put();
            debug_assert!(!last, "{} was unmapped without a reference", page.frame);
        }
        true
    }
}
