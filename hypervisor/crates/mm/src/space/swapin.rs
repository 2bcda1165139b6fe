//! Pages that come back from swap.
//!
//! ```text
//!   mmap lock ─► note ─► swap cache? ── frame ──────────────────────────────► page lock, page-table lock: mapped
//!                          │ no                                                  ▲
//!                          ├─ device that does not wait: reads ─► cached ───────┤
//!                        unlock ─► device reads, maybe for long ─► cached ───────┘  mmap lock, walk again
//! ```
//!
//! A device may take its time: nothing is locked while it does, unless it is memory. Whoever has read a page keeps a reference until it is
//! mapped, so that it cannot go again before that.

use super::fault::Fault;
use super::{AddressSpace, FaultError};
use crate::frames::PageFlags;
use crate::host::Host;
use crate::merge::Sharer;
use crate::mm::Mm;
use crate::swap::{Comeback, Probe, SwapDevice};
use crate::vma::Access;
use addr::{PageSize, Pfn};
use mutants::{Mutant, intact};
use paging::{Found, HostEntry, Leaf, TableEntry, TableReserve};

/// A frame in the swap cache, with a reference, for a fault that will map it.
pub(super) struct SwappedIn<'m, H: Host> {
    mm: &'m Mm<H>,
    slot: u64,
    frame: Pfn,
}

impl<H: Host> SwappedIn<'_, H> {
    /// The frame, if it has what is wanted; its reference is the caller's.
    fn take(self, slot: u64) -> Option<Pfn> {
        let wanted = self.slot == slot;
        wanted.then(|| core::mem::ManuallyDrop::new(self).frame)
    }
}

/// It was not wanted after all. Locks of rank `Page` and later are free.
impl<H: Host> Drop for SwappedIn<'_, H> {
    fn drop(&mut self) {
        let Self { mm, slot, frame } = *self;
        let meta = mm.host().frames().meta(frame);
        let lock = meta.lock();
        let unused = meta.swap_slot() == Some(slot) && meta.map_count() == 0 && !meta.is_dirty();
        // The cache's reference and this one: nobody else would ever take the frame out of the cache.
        if unused && mm.swap().uncache_if(slot, || meta.count() == 2) {
            meta.set_swap_slot(None);
            mm.put(frame);
        }
        drop(lock);
        mm.put(frame);
    }
}

impl<H: Host> Mm<H> {
    /// Reads a page from the swap device into the swap cache. `None`: somebody was faster, one way or another; look at
    /// the entry again. No lock is held: the device may take its time.
    ///
    /// # Errors
    /// [`FaultError::OutOfFrames`], [`FaultError::Swap`].
    pub(super) fn read_swapped(&self, slot: u64) -> Result<Option<SwappedIn<'_, H>>, FaultError> {
        match self.swap().probe(slot, |frame| self.host().frames().meta(frame).get()) {
            Probe::Cached(frame) => Ok(Some(SwappedIn { mm: self, slot, frame })),
            Probe::OnDevice { generation } => self.read_slot(slot, generation),
            Probe::Free => Ok(None),
        }
    }

    /// The same, of a slot that no frame caches. The mmap lock may be held where the device does not wait.
    fn read_slot(&self, slot: u64, generation: u32) -> Result<Option<SwappedIn<'_, H>>, FaultError> {
        let frames = self.host().frames();
        let Some(device) = self.swap().device() else { return Ok(None) };
        // The device fills all of it, or it is nobody's page.
        let frame = self.host().allocate_to_fill()?;
        if let Err(error) = device.read(slot, frame) {
            self.put(frame);
            // Whoever was faster may have given the slot back meanwhile: then nothing is lost.
            let lost = self.swap().holds(slot, generation) || !intact(Mutant::SwapInBelievesError);
            return if lost { Err(FaultError::Swap(error)) } else { Ok(None) };
        }
        let meta = frames.meta(frame);
        meta.set_swap_slot(Some(slot));
        meta.get();
        let in_use = frames.total() - frames.free_count();
        if let Some(comeback) = self.swap().cache(slot, frame, generation, in_use) {
            if comeback == Comeback::Late {
                frames.come_back_late(frame);
            }
            return Ok(Some(SwappedIn { mm: self, slot, frame }));
        }
        // Nobody has seen the frame.
        self.put(frame);
        self.put(frame);
        Ok(None)
    }
}

/// What has become of the attempt to bring a page back.
pub(super) enum Back {
    /// It is there.
    Mapped(Leaf),
    /// Whatever there is now, another look will tell.
    Changed,
    /// No frame has it: it has to be read, see [`Mm::read_swapped`].
    InSwap,
}

impl<H: Host> AddressSpace<H> {
    /// Brings a page back, if a frame has it. The swap cache is asked first: while a frame caches the slot, the device may
    /// hold an older copy (I14).
    ///
    /// # Errors
    /// [`FaultError`]: there is no frame for a copy.
    pub(super) fn swap_in(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        slot: u64,
    ) -> Result<Back, FaultError> {
        match fault.swapped.take().and_then(|page| page.take(slot)) {
            Some(frame) => self.map_or_put(fault, found, slot, frame),
            None => self.swap_in_cached(fault, found, slot),
        }
    }

    fn swap_in_cached(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        slot: u64,
    ) -> Result<Back, FaultError> {
        match self.mm.swap().probe(slot, |frame| self.host().frames().meta(frame).get()) {
            Probe::Cached(frame) => self.map_or_put(fault, found, slot, frame),
            Probe::OnDevice { generation } if self.reads_at_once(slot) => {
                match self.mm.read_slot(slot, generation)?.and_then(|page| page.take(slot)) {
                    Some(frame) => self.map_or_put(fault, found, slot, frame),
                    None => Ok(Back::Changed),
                }
            }
            Probe::OnDevice { .. } => Ok(Back::InSwap),
            Probe::Free => {
                // Whoever was faster may be about to change the entry: his turn comes first.
                drop(self.tables.lock());
                Ok(Back::Changed)
            }
        }
    }

    /// Whether a page may be read where it is missed: no thread is put aside with a lock in its hands.
    fn reads_at_once(&self, slot: u64) -> bool {
        let waits = |device: &dyn SwapDevice| device.waits(slot) && intact(Mutant::SwapInWaitsLocked);
        self.mm.swap().device().is_some_and(|device| !waits(device))
    }

    /// Maps a frame that cached the slot, or a copy of it, unless that has changed. Takes the caller's reference.
    fn map_or_put(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        slot: u64,
        frame: Pfn,
    ) -> Result<Back, FaultError> {
        let meta = self.host().frames().meta(frame);
        let lock = meta.lock();
        let still_cached = meta.swap_slot() == Some(slot);
        let foreign = still_cached && intact(Mutant::SwapInIgnoresOwner) && self.is_anothers(fault, frame);
        let mapped = match foreign {
            false if still_cached => self.map_swapped(fault, found, slot, frame),
            _ => None,
        };
        let copied = if foreign { self.copy_swapped(fault, found.entry, slot, frame) } else { Ok(()) };
        drop(lock);
        if mapped.is_none() {
            drop(SwappedIn { mm: &self.mm, slot, frame });
        }
        copied.map(|()| mapped.map_or(Back::Changed, Back::Mapped))
    }

    /// Whether no entry here would be found from the frame: pages that were merged have gone to one slot, and another of
    /// them was back first (Linux: `ksm_might_need_to_copy`). The page lock is held.
    fn is_anothers(&self, fault: &Fault<'_, H>, frame: Pfn) -> bool {
        let meta = self.host().frames().meta(frame);
        let Some((owner, index)) = meta.owner() else { return false };
        if owner == fault.vma.anon.id() && index == fault.index() {
            return false;
        }
        let here = Sharer::new(fault.vma.anon.id(), fault.index());
        let names = |here| self.mm.book().names(&**self.host(), owner, here);
        !(owner.merged().is_some() && here.is_some_and(names))
    }

    /// Maps a copy of a cached frame in place of a note. The page lock is held, and nobody writes to the frame: it is not
    /// exclusive while a note names its slot.
    fn copy_swapped(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        slot: u64,
        frame: Pfn,
    ) -> Result<(), FaultError> {
        let copy = self.private_copy(fault, frame)?;
        let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, copy);
        let dirty = fault.access == Access::Write;
        let leaf = Leaf { pfn: copy, size: PageSize::Size4K, rights, accessed: false, dirty };
        let mut reserve = TableReserve::new(&**self.host());
        let tables = self.tables.lock();
        let installed = self.install(&tables, fault.page, seen, leaf, &mut reserve);
        if installed {
            self.swapped.count_back();
            if self.mm.swap().remove_note(slot) == 0 {
                self.mm.leave_swap_cache(frame, slot);
            }
        }
        drop(tables);
        if !installed {
            // Never visible: no flush is owed.
            self.mm.put(copy);
        }
        Ok(())
    }

    /// Maps a cached frame in place of a note, if that still is there. The page lock is held; the entry takes the caller's
    /// reference.
    fn map_swapped(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        slot: u64,
        frame: Pfn,
    ) -> Option<Leaf> {
        let meta = self.host().frames().meta(frame);
        let tables = self.tables.lock();
        if self.again(&tables, found).entry != found.entry {
            return None;
        }
        if meta.owner().is_none() {
            meta.set_owner(fault.vma.anon.owner_id(), fault.index());
            meta.set_swap_slot(Some(slot));
        }
        self.swapped.count_back();
        if self.mm.swap().remove_note(slot) == 0 {
            // The last user of the slot: nobody else finds the frame by it any more.
            // References: the cache's and the caller's. Whoever has another shall not see later writes.
            let alone = meta.count() == 2 || !intact(Mutant::SwapInIgnoresReferences);
            if meta.map_count() == 0 && alone && !meta.has(PageFlags::MERGED) {
                meta.set(PageFlags::EXCLUSIVE);
            }
            if fault.access == Access::Write || !self.mm.swap().keeps(slot) {
                self.mm.leave_swap_cache(frame, slot);
            }
        }
        let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, frame);
        let dirty = fault.access == Access::Write && rights.write;
        let leaf = Leaf { pfn: frame, size: PageSize::Size4K, rights, accessed: false, dirty };
        self.count_leaf(&leaf);
        // From a note to a leaf: no CPU can have cached the entry, no flush (SDM vol. 3A 4.10.4.3).
        self.host().store(found.at, HostEntry::leaf(leaf).bits());
        Some(leaf)
    }
}
