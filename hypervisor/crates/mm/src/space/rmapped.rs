//! What is done to one entry when a reverse map has led to it: aging, unmapping, write-protecting for write-back.
//!
//! The caller holds the reverse map's lock and a reference on the frame, and no mmap lock: the area may be gone, so
//! the entry itself is asked whether it maps the frame, under the page-table lock.

use super::AddressSpace;
use super::entry::Tables;
use crate::frames::PageFlags;
use crate::host::Host;
use crate::rmap::Link;
use addr::{Hva, HvaRange, PAGE_SHIFT, PageSize, Pfn};
use mutants::{Mutant, PageSite, RangeSite, YoungSite, intact};
use paging::{Found, HostEntry, Leaf, Note, Rights, TableEntry};

/// What an entry becomes that loses its frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Instead {
    /// A note of the slot that has the page.
    Slot(u64),
    /// Nothing: a fault finds the page in its file.
    Nothing,
    /// In a non-linear area, a note of the page's place in the file.
    Offset,
    /// Nothing, if the page is still as clean as `MADV_FREE` left it.
    NothingIfClean,
}

/// Whether a page that was used lately is to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Youth {
    /// It stays, and is old from now on.
    Spares,
    /// It goes all the same.
    Ignored,
}

/// What became of an attempt to unmap a frame at one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unmapped {
    /// Something else is mapped there, or nothing.
    Elsewhere,
    /// The entry is gone, and so is its reference on the frame.
    Done,
    /// Somebody has used the page since it was last asked.
    Young,
    /// Somebody has written to it: what `MADV_FREE` allowed does not hold any more.
    Dirty,
}

impl<H: Host> AddressSpace<H> {
    /// The entry at `address`, if it maps this base frame, alone or in a huge page.
    fn entry_of(&self, _tables: &Tables<'_>, address: Hva, frame: Pfn) -> Option<(Found<HostEntry>, Leaf)> {
        let found = self.walk(address);
        let leaf = found.leaf()?;
        let offset = address.offset_in(leaf.size) >> PAGE_SHIFT;
        (leaf.pfn.add(offset) == frame).then_some((found, leaf))
    }

    /// The entry at `address`, if it maps just this base frame, and in no shared table: one that may be changed.
    pub(super) fn mapped_here(
        &self,
        tables: &Tables<'_>,
        address: Hva,
        frame: Pfn,
    ) -> Option<(Found<HostEntry>, Leaf)> {
        self.entry_of(tables, address, frame)
            .filter(|(found, leaf)| leaf.size == PageSize::Size4K && !found.shared)
    }

    /// Splits the transparent huge page that maps the frame at `address`, if one does. Without a table for it the
    /// page stays.
    fn split_around(&self, address: Hva, frame: Pfn) {
        let huge = self.entry_of(&self.tables.lock(), address, frame);
        if huge.is_some_and(|(_, leaf)| leaf.size != PageSize::Size4K) {
            let _no_subscriber = self.registration.read();
            // Tables grow under the page-table lock; the mmap lock is needed only where they vanish.
            let _ = self.split_at(address);
        }
    }

    /// Makes the table that maps the frame at `address` this space's own. Without a table for that the page stays.
    fn own_around(&self, address: Hva, frame: Pfn) {
        if self.shares_tables() && self.maps(address, frame) {
            let _ = self.own_table(address);
        }
    }

    /// Whether the entry at `address`, of whatever size, maps the base frame.
    pub(crate) fn maps(&self, address: Hva, frame: Pfn) -> bool {
        self.entry_of(&self.tables.lock(), address, frame).is_some()
    }

    /// Patch site `page_referenced_one`: whether the page was used through this entry or by any subscriber since
    /// it was last asked. The answers are OR-ed, never short-circuited.
    pub(crate) fn page_referenced_one(&self, address: Hva, frame: Pfn) -> bool {
        let tables = self.tables.lock();
        match self.entry_of(&tables, address, frame) {
            Some((found, leaf)) => {
                let site = YoungSite::PageReferencedOne;
                self.clear_flush_young_notify(site, &tables, address.align_down(leaf.size), &found)
            }
            None => false,
        }
    }

    /// `ptep_clear_flush_young_notify` of the patch.
    pub(super) fn clear_flush_young_notify(
        &self,
        site: YoungSite,
        _tables: &Tables<'_>,
        address: Hva,
        found: &Found<HostEntry>,
    ) -> bool {
        let page = HvaRange::new(address, address.add(found.level.span()));
        let entry = self.replace(found.at, found.entry, HostEntry::aged);
        let young = (Found { entry, ..*found }).leaf().is_some_and(|leaf| leaf.accessed);
        if young && intact(Mutant::NoFlushOfAged) {
            self.flush_primary(page);
        }
        let secondary = self.chain.clear_flush_young(site, page);
        young | secondary
    }

    /// Patch sites `try_to_unmap_one` and `try_to_unmap_cluster`, under the page-table lock: `clear_flush_young`, then
    /// `invalidate_page`; a page that is young stays. The page lock is held.
    pub(crate) fn try_to_unmap_one(
        &self,
        address: Hva,
        frame: Pfn,
        instead: Instead,
        youth: Youth,
    ) -> Unmapped {
        self.split_around(address, frame);
        self.own_around(address, frame);
        let tables = self.tables.lock();
        let Some((found, _)) = self.mapped_here(&tables, address, frame) else { return Unmapped::Elsewhere };
        let young = self.clear_flush_young_notify(YoungSite::TryToUnmapOne, &tables, address, &found);
        if young && youth == Youth::Spares {
            return Unmapped::Young;
        }
        self.unmap_entry(&tables, address, frame, instead)
    }

    fn unmap_entry(&self, tables: &Tables<'_>, address: Hva, frame: Pfn, instead: Instead) -> Unmapped {
        let Some((found, _)) = self.mapped_here(tables, address, frame) else { return Unmapped::Elsewhere };
        let meta = self.host().frames().meta(frame);
        let offset = self.offset_note(&found);
        let old = self.clear_flush_notify(PageSite::TryToUnmapOne, tables, address, &found);
        let Some(leaf) = old.leaf() else { return Unmapped::Elsewhere };
        if leaf.dirty && intact(Mutant::NoDirtyOnUnmap) {
            meta.mark_dirty();
        }
        if instead == Instead::NothingIfClean && meta.is_dirty() {
            self.host().store(old.at, old.entry.bits());
            return Unmapped::Dirty;
        }
        if let Instead::Slot(slot) = instead {
            self.mm.swap().add_note(slot);
            self.swapped.count_out();
            if intact(Mutant::UnmapLeavesExclusive) {
                meta.clear(PageFlags::EXCLUSIVE);
            }
        }
        let entry = match instead {
            Instead::Slot(slot) => HostEntry::note(Note::Swap(slot)),
            Instead::Offset => offset,
            Instead::Nothing | Instead::NothingIfClean => HostEntry::EMPTY,
        };
        self.host().store(old.at, entry.bits());
        // The next touch finds zeros.
        if instead == Instead::NothingIfClean && intact(Mutant::NoLogOfFreed) {
            self.chain.contents_changed(HvaRange::new(address, address.add(leaf.size.bytes())));
        }
        if self.uncount_leaf(&leaf) {
            // The caller's own reference keeps the frame.
            let last = meta.put();
            debug_assert!(!last, "{frame} was unmapped without a reference");
        }
        Unmapped::Done
    }

    /// Where a non-linear area maps a frame (patch site `try_to_unmap_cluster` walks it in the same way). The
    /// page-table lock is taken for each step: nothing is collected under it.
    pub(crate) fn places_in(&self, link: &Link<H>, frame: Pfn) -> impl Iterator<Item = Hva> {
        let mut rest = link.range;
        core::iter::from_fn(move || {
            let _tables = self.tables.lock();
            let mut visits = self.cursor(rest);
            let place = visits.find(|visit| visit.found.leaf().is_some_and(|leaf| leaf.pfn == frame))?;
            let place = Hva::new(place.address);
            rest = HvaRange::new(place.add(PageSize::Size4K.bytes()), rest.end());
            Some(place)
        })
    }

    /// Patch site `page_mkclean_one`, under the page-table lock: the entry is cleared and flushed, `invalidate_page`,
    /// and then it returns, write-protected and clean. Whether it was dirty or writable. The page lock is held.
    pub(crate) fn page_mkclean_one(&self, address: Hva, frame: Pfn) -> bool {
        let tables = self.tables.lock();
        let Some((found, leaf)) = self.mapped_here(&tables, address, frame) else { return false };
        if !leaf.rights.write && !leaf.dirty {
            return false;
        }
        let old = self.clear_flush_notify(PageSite::PageMkcleanOne, &tables, address, &found);
        let write = leaf.rights.write && !intact(Mutant::MkcleanLeavesWritable);
        let entry = old.entry.with_rights(Rights { write, ..leaf.rights });
        let entry = if intact(Mutant::MkcleanLeavesDirty) { entry.cleaned() } else { entry };
        self.host().store(old.at, entry.bits());
        true
    }

    /// Truncation: what the link maps from page `len` on goes (patch site `zap_page_range`). The reverse map's lock
    /// is held.
    pub(crate) fn zap_behind(&self, link: &Link<H>, len: u64) {
        let _no_subscriber = self.registration.read();
        if link.nonlinear {
            return self.zap_nonlinear_behind(link.range, len);
        }
        let kept = len.saturating_sub(link.first) << PAGE_SHIFT;
        if kept < link.range.len() {
            let behind = HvaRange::new(link.range.start().add(kept), link.range.end());
            self.zap_page_range(behind, super::zap::Keep::Nothing);
        }
    }

    fn zap_nonlinear_behind(&self, range: HvaRange, len: u64) {
        let invalidation = self.chain.invalidate(RangeSite::ZapNonlinear, range);
        let mut gather = self.gather(RangeSite::ZapNonlinear);
        self.clear_offsets_behind(range, len, &mut gather);
        drop(invalidation);
        gather.settle();
    }
}
