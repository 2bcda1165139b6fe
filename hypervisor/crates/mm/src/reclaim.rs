//! The mechanism of reclaim, without its policy: what can be done to one frame, whoever maps it.
//!
//! ```text
//!   anonymous page                                        page of a file
//!   page lock                                             page lock
//!   swap slot, frame cached                               page_mkclean everywhere, clear dirty, write out
//!   unmap everywhere: clear, flush, invalidate, note      unmap everywhere
//!   dirty: write to the slot        (I14: after the flush)  nobody else holds it: out of the cache
//!   nobody else holds it: out of the swap cache
//! ```

use crate::file::{File, StoreError};
use crate::frames::{FrameMeta, PageFlags};
use crate::host::Host;
use crate::mm::Mm;
use crate::rmap::{Link, Owner, Rmap, Visited};
use crate::space::{AddressSpace, Instead, Unmapped, Youth};
use crate::swap::{SlotError, Unwritten};
use addr::{Hva, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::ops::ControlFlow;
use mutants::{Mutant, intact};

/// Why a page was not reclaimed. It is as it was, but may be old now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spared {
    /// It is locked in memory, or part of nothing that can be reclaimed.
    Unevictable,
    /// It was used since it was last asked.
    Young,
    /// Somebody works on it, or holds on to it.
    Busy,
    /// There is no free swap slot.
    NoSlot,
    /// The swap device failed; the page stays in memory.
    Swap(SlotError),
    /// Swap takes no page that does not compress; it stays in memory.
    Refused,
    /// The file's store failed; the page stays in memory, dirty.
    Store(StoreError),
}

impl fmt::Display for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unevictable => f.write_str("the page is not to be reclaimed"),
            Self::Young => f.write_str("the page was used lately"),
            Self::Busy => f.write_str("the page is in use"),
            Self::NoSlot => f.write_str("no swap slot is free"),
            Self::Swap(error) => error.fmt(f),
            Self::Refused => f.write_str("the page does not compress"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl From<Unwritten> for Spared {
    fn from(error: Unwritten) -> Self {
        match error {
            Unwritten::Failed(error) => Self::Swap(error),
            Unwritten::Refused => Self::Refused,
        }
    }
}

impl<H: Host> Mm<H> {
    fn meta(&self, frame: Pfn) -> &FrameMeta {
        self.host().frames().meta(frame)
    }

    /// Where the reverse map finds entries for a frame: the roots of their tables, and their addresses. For checks. The
    /// caller holds no lock of rank `FileRmap` or later.
    pub fn places_of(&self, frame: Pfn) -> Vec<(Pfn, Hva)> {
        let mut places = Vec::new();
        let Some((owner, index)) = self.owner_of(frame) else { return places };
        let visited = self.each_place(&owner, frame, index, |_, space, address| {
            if space.maps(address, frame) {
                places.push((space.root(), address));
            }
            ControlFlow::Continue(())
        });
        drop(visited);
        places
    }

    /// Whether anybody has used the page since it was last asked: 2008's `page_referenced`. The caller holds a
    /// reference, and no lock of rank `FileRmap` or later.
    pub fn page_referenced(&self, frame: Pfn) -> bool {
        let Some((owner, index)) = self.owner_of(frame) else { return false };
        let mut young = false;
        let visited = self.each_place(&owner, frame, index, |_, space, address| {
            young |= space.page_referenced_one(address, frame);
            ControlFlow::Continue(())
        });
        drop(visited);
        young
    }

    /// Reclaims a page that is old: to swap, to its file, or to nowhere if `MADV_FREE` allows. The caller holds a
    /// reference, and no lock of rank `Page` or later; when it puts the reference, the frame is free.
    ///
    /// # Errors
    /// [`Spared`].
    pub fn reclaim(&self, frame: Pfn) -> Result<(), Spared> {
        self.evict(frame, Youth::Spares)
    }

    /// Reclaims a page, also if it is young.
    ///
    /// # Errors
    /// [`Spared`].
    pub fn page_out(&self, frame: Pfn) -> Result<(), Spared> {
        self.evict(frame, Youth::Ignored)
    }

    /// The same, and a page that is young goes or stays.
    pub(crate) fn evict(&self, frame: Pfn, youth: Youth) -> Result<(), Spared> {
        let meta = self.meta(frame);
        // Found before the page lock, put after it: the last reference on a reverse map frees it.
        let (owner, index) = self.owner_of(frame).ok_or(Spared::Unevictable)?;
        let rmap = owner.of_file();
        let file = rmap.and_then(|rmap| rmap.file());
        let lock = meta.lock();
        let fixed = meta.has(PageFlags::HUGETLB) || self.is_locked(&owner, frame, index);
        if meta.owner() != Some((owner.id(), index)) || fixed {
            return Err(Spared::Unevictable);
        }
        let result = match &file {
            Some(file) => self.evict_file_page((&owner, file), frame, index, youth),
            None if rmap.is_some() => Err(Spared::Unevictable),
            None => self.evict_anonymous(&owner, frame, index, youth),
        };
        drop(lock);
        result
    }

    /// Calls `visit` for each place where the page may be mapped, as [`each_link_place`]: of a merged page, for those of one sharer
    /// after the other.
    pub(crate) fn each_place(
        &self,
        owner: &Owner<H>,
        frame: Pfn,
        index: u64,
        mut visit: impl FnMut(&Link<H>, &AddressSpace<H>, Hva) -> ControlFlow<()>,
    ) -> Visited<H> {
        let page = match owner {
            Owner::Map(rmap) => return each_link_place(rmap, frame, index, visit),
            Owner::Merged(page) => *page,
        };
        let (mut visited, mut flow) = (Visited::new(), ControlFlow::Continue(()));
        let parts = (0..).map_while(|part| self.book().part(&**self.host(), page, part));
        for sharer in parts.flatten() {
            let rmap = sharer.rmap().and_then(|id| self.rmaps().get(id));
            // A number that was given out again may be a file's: its areas have no merged page, and where one is not linear all of
            // it would be searched.
            let Some(rmap) = rmap.filter(|rmap| !rmap.is_file()) else { continue };
            visited.extend(each_link_place(&rmap, frame, sharer.index(), |link, space, address| {
                flow = visit(link, space, address);
                flow
            }));
            if flow.is_break() {
                break;
            }
        }
        visited
    }

    /// Whether a locked area maps the page: asked anew each time, since a page can be in several areas, and leaves a
    /// locked one in many ways. The page lock is held.
    fn is_locked(&self, owner: &Owner<H>, frame: Pfn, index: u64) -> bool {
        let mut locked = false;
        let visited = self.each_place(owner, frame, index, |link, space, address| {
            locked |= link.locked && space.maps(address, frame);
            if locked { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        drop(visited);
        locked
    }

    /// Unmaps a frame wherever a reverse map finds it: 2008's `try_to_unmap`. The page lock is held.
    fn try_to_unmap(
        &self,
        owner: &Owner<H>,
        frame: Pfn,
        index: u64,
        instead: Instead,
        youth: Youth,
    ) -> Result<(), Spared> {
        let mut spared = None;
        let visited = self.each_place(owner, frame, index, |link, space, address| {
            let instead = if link.nonlinear { Instead::Offset } else { instead };
            match space.try_to_unmap_one(address, frame, instead, youth) {
                Unmapped::Elsewhere | Unmapped::Done => return ControlFlow::Continue(()),
                Unmapped::Young => spared = Some(Spared::Young),
                Unmapped::Dirty => spared = Some(Spared::Busy),
            }
            ControlFlow::Break(())
        });
        drop(visited);
        match spared {
            Some(spared) => Err(spared),
            None if self.meta(frame).map_count() > 0 => Err(Spared::Busy),
            None => Ok(()),
        }
    }

    fn evict_anonymous(&self, owner: &Owner<H>, frame: Pfn, index: u64, youth: Youth) -> Result<(), Spared> {
        let meta = self.meta(frame);
        if meta.has(PageFlags::LAZY_FREE) {
            let dropped = self.try_to_unmap(owner, frame, index, Instead::NothingIfClean, youth);
            if dropped != Err(Spared::Busy) {
                return dropped;
            }
            meta.clear(PageFlags::LAZY_FREE);
        }
        let slot = self.swap_slot_for(frame)?;
        if !intact(Mutant::SwapWritesFirst) {
            self.write_dirty(frame, slot)?;
        }
        let unmapped = self.try_to_unmap(owner, frame, index, Instead::Slot(slot), youth);
        let evicted = unmapped.and_then(|()| self.write_to_slot(frame, slot));
        self.keep_cached_if_noted(frame, slot, evicted);
        evicted
    }

    /// A page in the swap cache that nobody maps goes, and is written before if need be. Nobody is asked whose it was: of merged
    /// pages that have gone to one slot it was that of the first to come back, which may have ended since. The caller holds
    /// a reference.
    pub(crate) fn evict_stranded(&self, frame: Pfn, slot: u64) -> Result<(), Spared> {
        let meta = self.meta(frame);
        let _lock = meta.lock();
        if meta.swap_slot() != Some(slot) || meta.map_count() > 0 {
            return Err(Spared::Busy);
        }
        let evicted = self.write_to_slot(frame, slot);
        self.keep_cached_if_noted(frame, slot, evicted);
        evicted
    }

    /// Entries that went are notes of a cached slot: they come back by a fault. Where none went, because others had
    /// unmapped the page before, nobody else would ever take the frame out of the cache. The page lock is held.
    pub(crate) fn keep_cached_if_noted(&self, frame: Pfn, slot: u64, evicted: Result<(), Spared>) {
        if evicted.is_err() && self.swap().is_unnoted(slot) {
            self.leave_swap_cache(frame, slot);
        }
    }

    /// The slot that the frame caches, a new one if it has none. The page lock is held.
    pub(crate) fn swap_slot_for(&self, frame: Pfn) -> Result<u64, Spared> {
        let meta = self.meta(frame);
        if let Some(slot) = meta.swap_slot() {
            return Ok(slot);
        }
        let slot = self.swap().reserve(frame).ok_or(Spared::NoSlot)?;
        meta.get();
        meta.set_swap_slot(Some(slot));
        // The slot holds nothing yet.
        if intact(Mutant::NoDirtyOnSlot) {
            meta.mark_dirty();
        }
        Ok(slot)
    }

    /// The page is unmapped everywhere, and every translation flushed: only now is it written (I14).
    pub(crate) fn write_to_slot(&self, frame: Pfn, slot: u64) -> Result<(), Spared> {
        let meta = self.meta(frame);
        self.write_dirty(frame, slot)?;
        // Two references: the swap cache's and the caller's. A fault that found the frame has a third.
        if !self.swap().uncache_if(slot, || meta.count() == 2) {
            return Err(Spared::Busy);
        }
        meta.set_swap_slot(None);
        self.put(frame);
        Ok(())
    }

    /// What was written later than the slot's copy goes there.
    pub(crate) fn write_dirty(&self, frame: Pfn, slot: u64) -> Result<(), Spared> {
        let (meta, device) = (self.meta(frame), self.swap().device().ok_or(Spared::NoSlot)?);
        if meta.is_dirty() {
            device.write(slot, frame)?;
            meta.clear(PageFlags::DIRTY);
        }
        Ok(())
    }

    fn evict_file_page(
        &self,
        (owner, file): (&Owner<H>, &Arc<File<H>>),
        frame: Pfn,
        index: u64,
        youth: Youth,
    ) -> Result<(), Spared> {
        let meta = self.meta(frame);
        // The number of a reverse map is used again: the owner of a page that nobody maps may be another's by now.
        if file.cached_frame(index) != Some(frame) {
            return Err(Spared::Unevictable);
        }
        if meta.is_dirty() {
            self.write_page(file, frame, index).map_err(Spared::Store)?;
        }
        self.try_to_unmap(owner, frame, index, Instead::Nothing, youth)?;
        if meta.is_dirty() {
            return Err(Spared::Busy);
        }
        // The cache's reference and the caller's.
        if !file.remove_if(index, frame, || meta.count() == 2) {
            return Err(Spared::Busy);
        }
        Ok(())
    }

    /// Writes a page of a file back. The page lock is held: no write fault makes it dirty meanwhile.
    fn write_page(&self, file: &Arc<File<H>>, frame: Pfn, index: u64) -> Result<(), StoreError> {
        if !intact(Mutant::WriteBackWritesFirst) {
            file.store().write(index, frame)?;
        }
        let visited = each_link_place(file.rmap(), frame, index, |_, space, address| {
            space.page_mkclean_one(address, frame);
            ControlFlow::Continue(())
        });
        drop(visited);
        // Clean only now that no entry and no cached translation allows a write (I7).
        let meta = self.meta(frame);
        meta.clear(PageFlags::DIRTY);
        if !intact(Mutant::WriteBackWritesFirst) {
            return Ok(());
        }
        let written = file.store().write(index, frame);
        if written.is_err() && intact(Mutant::NoDirtyOnFailedWrite) {
            meta.mark_dirty();
        }
        written
    }

    /// Writes the dirty pages of a file back. Takes page locks.
    ///
    /// # Errors
    /// [`StoreError`] of the first page that could not be written; it stays dirty. The others were written.
    pub fn write_back(&self, file: &Arc<File<H>>) -> Result<(), StoreError> {
        let mut result = Ok(());
        if !file.store().keeps_pages() {
            return result;
        }
        for (index, frame) in file.cached_pages() {
            let meta = self.meta(frame);
            let lock = meta.lock();
            if file.owns(frame, index) && meta.is_dirty() {
                result = result.and(self.write_page(file, frame, index));
            }
            drop(lock);
            self.put(frame);
        }
        result
    }

    /// Changes the length of a file, in pages: what lies behind it is unmapped everywhere, private copies too
    /// (patch site `zap_page_range`), and forgotten. Takes page locks and the file's reverse map. The caller lets no other
    /// change of the file's length run meanwhile (Linux: the inode's lock).
    pub fn truncate(&self, file: &Arc<File<H>>, len: u64) {
        let behind = file.set_len(len);
        let zap = || {
            let visited = file.rmap().each_link(|link, space| {
                space.zap_behind(link, len);
                ControlFlow::Continue(())
            });
            drop(visited);
        };
        zap();
        let owner = Owner::Map(Arc::clone(file.rmap()));
        for &(index, frame) in &behind {
            let meta = self.meta(frame);
            let lock = meta.lock();
            if file.owns(frame, index) {
                // A fault that had found the page before the new length may have mapped it since.
                let _ = self.try_to_unmap(&owner, frame, index, Instead::Nothing, Youth::Ignored);
                file.remove(index, frame);
            }
            drop(lock);
            self.put(frame);
        }
        if !behind.is_empty() && intact(Mutant::TruncateZapsOnce) {
            // A private copy of one of those pages may have been mapped after the first look, and no more after this.
            zap();
        }
        file.store().truncate(len);
        self.drop_orphans();
    }
}

/// Calls `visit` for each place where the page may be mapped; in a non-linear area, where it is. The rmap lock is
/// held meanwhile.
fn each_link_place<H: Host>(
    rmap: &Rmap<H>,
    frame: Pfn,
    index: u64,
    mut visit: impl FnMut(&Link<H>, &AddressSpace<H>, Hva) -> ControlFlow<()>,
) -> Visited<H> {
    rmap.each_link(|link, space| {
        if link.nonlinear {
            return space.places_in(link, frame).try_for_each(|address| visit(link, space, address));
        }
        link.place(index).map_or(ControlFlow::Continue(()), |address| visit(link, space, address))
    })
}
