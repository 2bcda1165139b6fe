//! mremap.
//!
//! A move keeps each page's index, and so the reverse maps' idea of it; only the area's link changes:
//!
//! ```text
//!   prepare: split huge pages, tables for the target        (may fail)
//!   new area, linked
//!   for each page table: reverse-map locks, page-table lock, begin ─ move, flush ─ end
//!   old area, empty, unlinked                                (cannot fail)
//! ```

use super::map::{checked_range, refuse_too_many};
use super::{AddressSpace, MAP_BASE, MapError, USER_END};
use crate::host::Host;
use crate::vma::{Vma, VmaTree};
use addr::{Hva, HvaRange, PageSize};
use mutants::{Mutant, RangeSite, intact};
use paging::{HostEntry, Level, TableEntry, TableReserve, walk_or_grow};

/// Where mremap may put the mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remap {
    /// It stays.
    InPlace,
    /// It stays if it can, and moves if it must (MREMAP_MAYMOVE).
    MayMove,
    /// It moves there; what is mapped there is unmapped first (MREMAP_FIXED).
    Fixed(Hva),
}

impl<H: Host> AddressSpace<H> {
    /// Grows, shrinks or moves the part of one area in `start..start + old_len`; its new start. Takes the mmap lock
    /// for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also for hugetlb areas, [`MapError::Hole`] where the old range is not in one area,
    /// [`MapError::NoRoom`], [`MapError::OutOfTables`], [`MapError::TooManyAreas`]. Nothing has changed then, but what
    /// a fixed target replaces may be gone, and so may the tail of an area that shrinks, as in Linux.
    pub fn mremap(&self, start: Hva, old_len: u64, new_len: u64, to: Remap) -> Result<Hva, MapError> {
        let old = checked_range(start, old_len, PageSize::Size4K)?;
        let wanted = checked_range(start, new_len, PageSize::Size4K)?;
        let mut vmas = self.vmas.write();
        let vma = vmas.find(start).filter(|vma| vma.range.contains_span(&old)).ok_or(MapError::Hole(old))?;
        let align = vma.kind.page_size();
        if align != PageSize::Size4K {
            return Err(MapError::BadRange { start, len: old_len, align });
        }
        // The target's bounds, and the area there.
        refuse_too_many(&vmas, Some(old), 3)?;
        let result = self.remap_area(&mut vmas, old, wanted, to);
        drop(vmas);
        self.mm.drop_orphans();
        result
    }

    fn remap_area(
        &self,
        vmas: &mut VmaTree<H>,
        old: HvaRange,
        wanted: HvaRange,
        to: Remap,
    ) -> Result<Hva, MapError> {
        let bad = MapError::BadRange { start: old.start(), len: wanted.len(), align: PageSize::Size4K };
        if let Remap::Fixed(target) = to {
            let target = checked_range(target, wanted.len(), PageSize::Size4K)?;
            if target.overlaps(&old) {
                return Err(bad);
            }
            self.prepare_bounds(vmas, target)?;
            self.unmap_region(vmas, target);
            let kept = self.shrink(vmas, old, wanted)?;
            return self.move_area(vmas, kept, target);
        }
        let kept = self.shrink(vmas, old, wanted)?;
        if kept == wanted {
            return Ok(old.start());
        }
        if self.grow(vmas, old, wanted) {
            return Ok(old.start());
        }
        if to == Remap::InPlace {
            return Err(MapError::NoRoom { len: wanted.len() });
        }
        let within = HvaRange::new(MAP_BASE, USER_END);
        let target = vmas.gap(within, wanted.len(), PageSize::Size4K);
        let target = target.ok_or(MapError::NoRoom { len: wanted.len() })?;
        self.move_area(vmas, kept, target)
    }

    /// Unmaps what is more than wanted; what is left of the old range.
    fn shrink(&self, vmas: &mut VmaTree<H>, old: HvaRange, wanted: HvaRange) -> Result<HvaRange, MapError> {
        if wanted.len() >= old.len() {
            return Ok(old);
        }
        let tail = HvaRange::new(wanted.end(), old.end());
        self.prepare_bounds(vmas, tail)?;
        self.unmap_region(vmas, tail);
        Ok(wanted)
    }

    /// Enlarges the area where it is, if it ends with the old range and nothing follows.
    fn grow(&self, vmas: &mut VmaTree<H>, old: HvaRange, wanted: HvaRange) -> bool {
        let more = HvaRange::new(old.end(), wanted.end());
        let Some(vma) = vmas.find(old.start()).filter(|vma| vma.range.end() == old.end()) else {
            return false;
        };
        if vmas.overlapping(more).next().is_some() {
            return false;
        }
        let grown = vma.at(more, vma.index_of(old.start()) + (old.len() >> addr::PAGE_SHIFT));
        vmas.insert(grown);
        true
    }

    /// Moves `old`, which lies in one area, to the start of `target`, which is free and not shorter.
    fn move_area(&self, vmas: &mut VmaTree<H>, old: HvaRange, target: HvaRange) -> Result<Hva, MapError> {
        let vma = vmas.find(old.start()).ok_or(MapError::Hole(old))?;
        let moved = vma.at(target, vma.index_of(old.start()));
        let same = vma.clone();
        self.split_all(vma, old).map_err(|_| MapError::OutOfTables)?;
        if self.prepare_tables(old, target).is_err() {
            let mut gather = self.gather(RangeSite::MovePtes);
            self.prune(vmas, target, &mut gather);
            gather.settle();
            return Err(MapError::OutOfTables);
        }
        vmas.insert(moved);
        // From one entry to the next: an empty table's worth costs nothing, neither here nor at the subscribers.
        let mut next = old.start();
        while let Some(first) = self.first_entry(HvaRange::new(next, old.end())) {
            let chunk = chunk_at(Hva::new(first.address), old);
            next = chunk.end();
            let offset = chunk.start().as_u64() - old.start().as_u64();
            self.move_ptes(&same, chunk, target.start().add(offset));
        }
        // Nothing is mapped there any more: no notice is due.
        vmas.remove(old);
        let mut gather = self.gather(RangeSite::MovePtes);
        self.prune(vmas, old, &mut gather);
        gather.settle();
        Ok(target.start())
    }

    /// Links the tables that the target will need: for each table's worth of entries in the old range.
    fn prepare_tables(&self, old: HvaRange, target: HvaRange) -> Result<(), paging::OutOfTables> {
        let mut next = old.start();
        loop {
            let visit = {
                let _tables = self.tables.lock();
                self.cursor(HvaRange::new(next, old.end())).next()
            };
            let Some(visit) = visit else { return Ok(()) };
            let page = Hva::new(visit.address);
            let place = target.start().add(page.as_u64() - old.start().as_u64());
            let mut reserve = TableReserve::new(&**self.host());
            reserve.top_up(self.missing_tables(place, PageSize::Size4K))?;
            let tables = self.tables.lock();
            walk_or_grow::<HostEntry, H>(self.host(), self.root, place.as_u64(), Level::Pt, &mut reserve);
            drop(tables);
            next = page.add(PageSize::Size4K.bytes()).min(old.end());
        }
    }

    /// Patch site `move_ptes`: begin and end over the source range, inside the reverse maps' locks and the
    /// page-table lock. The old translations are flushed before either lock is dropped (CVE-2018-18281).
    fn move_ptes(&self, vma: &Vma<H>, source: HvaRange, target: Hva) {
        let _file = vma.kind.file().map(|file| file.rmap().lock());
        let _anon = vma.anon.get().map(|chain| chain.lock());
        let _tables = self.tables.lock();
        let invalidation = self.chain.invalidate(RangeSite::MovePtes, source);
        for visit in self.cursor(source) {
            let (from, found) = (Hva::new(visit.address), &visit.found);
            let entry = match found.leaf() {
                Some(_) => self.clear_flush(from, found).entry,
                None => self.replace(found.at, found.entry, |_| HostEntry::EMPTY),
            };
            let to = target.add(visit.address - source.start().as_u64());
            let place = self.walk(to);
            debug_assert!(place.level == Level::Pt && place.entry == HostEntry::EMPTY, "{to} is taken");
            let entry = if intact(Mutant::MoveLosesDirty) { entry } else { entry.cleaned() };
            self.host().store(place.at, entry.bits());
        }
        drop(invalidation);
    }
}

/// What a page table maps from `address` on, which lies in the range: so much v8 moves at once.
fn chunk_at(address: Hva, range: HvaRange) -> HvaRange {
    let span = PageSize::Size2M;
    let table_end = address.align_down(span).checked_add(span.bytes()).unwrap_or(range.end());
    HvaRange::new(address, table_end.min(range.end()))
}
