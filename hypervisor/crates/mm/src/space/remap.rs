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
use crate::vma::{Vma, VmaFlags, Vmas};
use addr::{Hva, HvaRange, PageSize};
use mutants::{Mutant, RangeSite, intact};
use paging::{HostEntry, Level, TableEntry, TableReserve, walk_or_grow, walk_to};

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
    /// Grows, shrinks or moves what lies in `start..start + old_len`; its new start. What is grown or moved must be in
    /// one area; what merely shrinks need not. What is added to a locked area is brought in, as far as that is possible.
    /// Takes the mmap lock for writing.
    ///
    /// # Errors
    /// [`MapError::BadRange`], also for hugetlb areas, and for no pages at all: shared memory is not mapped a second time.
    /// [`MapError::Hole`] where `start` is in no area, or the part to be moved or grown not in one; [`MapError::NoRoom`],
    /// [`MapError::OutOfTables`], [`MapError::TooManyAreas`]. Nothing has changed then, but what a fixed target replaces
    /// may be gone, and so may the tail of what shrinks, as in Linux.
    pub fn mremap(&self, start: Hva, old_len: u64, new_len: u64, to: Remap) -> Result<Hva, MapError> {
        let size = PageSize::Size4K;
        let bad = MapError::BadRange { start, len: new_len, align: size };
        let whole = |len: u64| len.checked_next_multiple_of(size.bytes());
        let new_len = whole(new_len).filter(|&len| 0 < len && len <= USER_END.as_u64()).ok_or(bad)?;
        // What is too long wraps to nothing.
        let old_len = whole(old_len).unwrap_or(0);
        let target = match to {
            Remap::Fixed(target) => Some(checked_range(target, new_len, size)?),
            Remap::InPlace | Remap::MayMove => None,
        };
        let old_end = start.as_u64().saturating_add(old_len);
        let overlaps = |target: HvaRange| target.start().as_u64() < old_end && start < target.end();
        if !start.is_aligned(size) || target.is_some_and(overlaps) {
            return Err(bad);
        }
        let mut vmas = self.vmas.write();
        let hole = MapError::Hole(HvaRange::new(start, start));
        let vma = vmas.find(start).ok_or(hole)?;
        let align = vma.kind.page_size();
        if align != size {
            return Err(MapError::BadRange { start, len: old_len, align });
        }
        let looked_at = if target.is_some() || old_len < new_len { old_len.min(new_len) } else { 0 };
        if looked_at > vma.range.end().as_u64() - start.as_u64() {
            return Err(hole);
        }
        let old = checked_range(start, old_len, size)?;
        // The target's bounds, and the area there.
        refuse_too_many(&vmas, Some(old), 3)?;
        let locked = vma.flags.contains(VmaFlags::LOCKED);
        let result = self.remap_area(&mut vmas, old, new_len, (to, target));
        drop(vmas);
        self.mm.drop_orphans();
        let now = result?;
        if locked && old_len < new_len {
            // A page that cannot be brought in now is another call's failure.
            let _ = self.bring_in(HvaRange::new(now.add(old_len), now.add(new_len)));
        }
        Ok(now)
    }

    fn remap_area(
        &self,
        vmas: &mut Vmas<H>,
        old: HvaRange,
        new_len: u64,
        (to, target): (Remap, Option<HvaRange>),
    ) -> Result<Hva, MapError> {
        if let Some(target) = target {
            self.prepare_bounds(vmas, target)?;
            self.unmap_region(vmas, target);
            let kept = self.shrink(vmas, old, new_len)?;
            return self.move_area(vmas, kept, target);
        }
        let kept = self.shrink(vmas, old, new_len)?;
        if kept.len() == new_len || self.grow(vmas, old, new_len) {
            return Ok(old.start());
        }
        let no_room = MapError::NoRoom { len: new_len };
        if to == Remap::InPlace {
            return Err(no_room);
        }
        let within = HvaRange::new(MAP_BASE, USER_END);
        let target = vmas.gap(within, new_len, PageSize::Size4K).ok_or(no_room)?;
        self.move_area(vmas, kept, target)
    }

    /// Unmaps what is more than wanted; what is left of the old range.
    fn shrink(&self, vmas: &mut Vmas<H>, old: HvaRange, new_len: u64) -> Result<HvaRange, MapError> {
        if new_len >= old.len() {
            return Ok(old);
        }
        let kept = HvaRange::new(old.start(), old.start().add(new_len));
        let tail = HvaRange::new(kept.end(), old.end());
        self.prepare_bounds(vmas, tail)?;
        self.unmap_region(vmas, tail);
        Ok(kept)
    }

    /// Enlarges the area where it is, if it ends with the old range and nothing follows.
    fn grow(&self, vmas: &mut Vmas<H>, old: HvaRange, new_len: u64) -> bool {
        let wanted = HvaRange::sized(old.start(), new_len).filter(|wanted| wanted.end() <= USER_END);
        let Some(wanted) = wanted else { return false };
        let more = HvaRange::new(old.end(), wanted.end());
        let Some(vma) = vmas.find(old.start()).filter(|vma| vma.range.end() == old.end()) else {
            return false;
        };
        if vmas.overlapping(more).next().is_some() {
            return false;
        }
        let grown = vma.at(more, vma.index_of(old.start()) + (old.len() >> addr::PAGE_SHIFT));
        vmas.insert(grown);
        self.appeared(more);
        true
    }

    /// Moves `old`, which lies in one area, to the start of `target`, which is free and not shorter.
    fn move_area(&self, vmas: &mut Vmas<H>, old: HvaRange, target: HvaRange) -> Result<Hva, MapError> {
        let vma = vmas.find(old.start()).ok_or(MapError::Hole(old))?;
        let moved = vma.at(target, vma.index_of(old.start()));
        let same = vma.clone();
        self.split_all(vma, old).map_err(|_| MapError::OutOfTables)?;
        self.own_tables(old).and_then(|()| self.own_tables(target)).map_err(|_| MapError::OutOfTables)?;
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
        self.appeared(target);
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
        let _anon = vma.anon.lock();
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
            if entry.bits() & HostEntry::ACCESSED != 0 && intact(Mutant::MoveLosesUse) {
                self.note_use_above(to);
            }
        }
        drop(invalidation);
    }

    /// What was used is found by the A bits above it, too. The page-table lock is held.
    fn note_use_above(&self, page: Hva) {
        let above = walk_to::<HostEntry, H>(self.host(), self.root, page.as_u64(), Level::Pd);
        debug_assert_eq!(above.level, Level::Pd, "{page} has no page table");
        if above.entry.bits() & HostEntry::ACCESSED == 0 {
            self.replace(above.at, above.entry, |entry| {
                HostEntry::from_bits(entry.bits() | HostEntry::ACCESSED)
            });
        }
    }
}

/// What a page table maps from `address` on, which lies in the range: so much v8 moves at once.
fn chunk_at(address: Hva, range: HvaRange) -> HvaRange {
    let span = PageSize::Size2M;
    let table_end = address.align_down(span).checked_add(span.bytes()).unwrap_or(range.end());
    HvaRange::new(address, table_end.min(range.end()))
}
