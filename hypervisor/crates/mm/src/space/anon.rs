//! Anonymous pages: the zero page, fresh pages, pages that come back from swap.

use super::fault::Fault;
use super::{AddressSpace, FaultError};
use crate::frames::PageFlags;
use crate::host::Host;
use crate::swap::Probe;
use crate::vma::{Access, VmaFlags};
use addr::{PageSize, Pfn};
use mutants::{Mutant, intact};
use paging::{HostEntry, Leaf, Rights, TableReserve};

impl<H: Host> AddressSpace<H> {
    /// First touch: a read maps the zero page, a write a page of its own, huge where the area wants that.
    pub(super) fn map_anonymous(&self, fault: &Fault<'_, H>) -> Result<(), FaultError> {
        if fault.vma.flags.contains(VmaFlags::HUGE) && self.map_transparent_huge(fault)? {
            return Ok(());
        }
        match fault.access {
            Access::Read => self.map_zero_page(fault),
            Access::Write => {
                let frame = self.host().allocate_zeroed(PageSize::Size4K)?;
                self.own(fault, frame);
                self.map_new(fault, HostEntry::EMPTY, frame)
            }
        }
    }

    /// Maps the zero page. Its entry is not counted, and a write will replace it.
    pub(super) fn map_zero_page(&self, fault: &Fault<'_, H>) -> Result<(), FaultError> {
        self.map_uncounted(fault, HostEntry::EMPTY, (self.mm.zero_page(), Rights::READ), || true)
    }

    /// Maps a frame that is nobody's to free, if `still` says so, which is asked under the page-table lock: whoever
    /// takes the frame away visits the entry under it, before or after.
    pub(super) fn map_uncounted(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        (pfn, rights): (Pfn, Rights),
        still: impl FnOnce() -> bool,
    ) -> Result<(), FaultError> {
        let mut reserve = TableReserve::new(&**self.host());
        reserve.top_up(self.missing_tables(fault.page, PageSize::Size4K))?;
        let dirty = fault.access == Access::Write;
        let leaf = Leaf { pfn, size: PageSize::Size4K, rights, accessed: false, dirty };
        let tables = self.tables.lock();
        if still() {
            self.install(&tables, fault.page, seen, leaf, &mut reserve);
        }
        Ok(())
    }

    /// Makes a frame that nobody else knows an anonymous page of the fault's area. No copy of it exists elsewhere:
    /// it is dirty from its first moment.
    pub(super) fn own(&self, fault: &Fault<'_, H>, frame: Pfn) {
        let chain = fault.vmas.prepare_anon(fault.vma, self.mm.rmaps());
        let meta = self.host().frames().meta(frame);
        meta.set_owner(chain.id(), fault.index());
        let dirty = if intact(Mutant::NoDirtyOnFresh) { PageFlags::DIRTY } else { PageFlags::empty() };
        meta.set(dirty | PageFlags::EXCLUSIVE);
    }

    /// Maps an anonymous page that nobody else knows, where the entry still is `seen`; frees it where it is not.
    pub(super) fn map_new(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        frame: Pfn,
    ) -> Result<(), FaultError> {
        self.map_new_if(fault, seen, frame, || true)
    }

    /// The same, if `still` says so, which is asked under the page-table lock.
    pub(super) fn map_new_if(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        frame: Pfn,
        still: impl FnOnce() -> bool,
    ) -> Result<(), FaultError> {
        let mut reserve = TableReserve::new(&**self.host());
        let prepared = reserve.top_up(self.missing_tables(fault.page, PageSize::Size4K));
        let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, frame);
        let dirty = fault.access == Access::Write;
        let leaf = Leaf { pfn: frame, size: PageSize::Size4K, rights, accessed: false, dirty };
        let tables = self.tables.lock();
        let installed =
            prepared.is_ok() && still() && self.install(&tables, fault.page, seen, leaf, &mut reserve);
        drop(tables);
        if !installed {
            // Never visible: no flush is owed.
            self.mm.put(frame);
        }
        Ok(prepared?)
    }

    /// Brings a page back. The swap cache is asked first: while a frame caches the slot, the device may hold an
    /// older copy (I14).
    pub(super) fn swap_in(&self, fault: &Fault<'_, H>, seen: HostEntry, slot: u64) -> Result<(), FaultError> {
        let Some(frame) = self.swapped_frame(slot)? else {
            // Whoever was faster may be about to change the entry: his turn comes first.
            drop(self.tables.lock());
            return Ok(());
        };
        let meta = self.host().frames().meta(frame);
        let lock = meta.lock();
        let still_cached = meta.swap_slot() == Some(slot);
        let mapped = still_cached && self.map_swapped(fault, seen, slot, frame);
        drop(lock);
        if !mapped {
            self.mm.put(frame);
        }
        Ok(())
    }

    /// The frame that caches a slot, read from the device if need be, with a reference for the caller. `None`:
    /// somebody was faster, one way or another; look at the entry again.
    fn swapped_frame(&self, slot: u64) -> Result<Option<Pfn>, FaultError> {
        let frames = self.host().frames();
        let generation = match self.mm.swap().probe(slot, |frame| frames.meta(frame).get()) {
            Probe::Cached(frame) => return Ok(Some(frame)),
            Probe::OnDevice { generation } => generation,
            Probe::Free => return Ok(None),
        };
        let Some(device) = self.mm.swap().device() else { return Ok(None) };
        let frame = self.host().allocate_zeroed(PageSize::Size4K)?;
        if let Err(error) = device.read(slot, frame) {
            self.mm.put(frame);
            // Whoever was faster may have given the slot back meanwhile: then nothing is lost.
            let lost = self.mm.swap().holds(slot, generation) || !intact(Mutant::SwapInBelievesError);
            return if lost { Err(FaultError::Swap(error)) } else { Ok(None) };
        }
        let meta = frames.meta(frame);
        meta.set_swap_slot(Some(slot));
        meta.get();
        if self.mm.swap().cache(slot, frame, generation) {
            return Ok(Some(frame));
        }
        // Nobody has seen the frame.
        self.mm.put(frame);
        self.mm.put(frame);
        Ok(None)
    }

    /// Maps a cached frame in place of a note. The page lock is held; the entry takes the caller's reference.
    fn map_swapped(&self, fault: &Fault<'_, H>, seen: HostEntry, slot: u64, frame: Pfn) -> bool {
        let meta = self.host().frames().meta(frame);
        let chain = fault.vmas.prepare_anon(fault.vma, self.mm.rmaps());
        let mut reserve = TableReserve::new(&**self.host());
        let tables = self.tables.lock();
        if self.walk(fault.page).entry != seen {
            return false;
        }
        if meta.owner().is_none() {
            meta.set_owner(chain.id(), fault.index());
            meta.set_swap_slot(Some(slot));
        }
        self.swapped.count_back();
        if self.mm.swap().remove_note(slot) == 0 {
            // The last user of the slot: the frame is the only copy now.
            // References: the cache's and the caller's. Whoever has another shall not see later writes.
            let alone = meta.count() == 2 || !intact(Mutant::SwapInIgnoresReferences);
            if meta.map_count() == 0 && alone {
                meta.set(PageFlags::EXCLUSIVE);
            }
            self.mm.leave_swap_cache(frame, slot);
        }
        let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, frame);
        let dirty = fault.access == Access::Write && rights.write;
        let leaf = Leaf { pfn: frame, size: PageSize::Size4K, rights, accessed: false, dirty };
        let installed = self.install(&tables, fault.page, seen, leaf, &mut reserve);
        debug_assert!(installed, "the entry was looked at under the lock");
        true
    }
}
