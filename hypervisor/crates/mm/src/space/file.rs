//! Pages of files: shared and private mappings, execute-in-place.

use super::fault::{Fault, Mapped};
use super::{AddressSpace, FaultError};
use crate::file::{Direct, File, PageError};
use crate::host::Host;
use crate::vma::{Access, VmaKind};
use addr::{Hva, PageSize, Pfn};
use alloc::sync::Arc;
use core::ops::ControlFlow;
use mutants::{Mutant, PageSite, intact};
use paging::{Found, HostEntry, Leaf, Rights, TableReserve};

impl<H: Host> AddressSpace<H> {
    /// Maps page `index` of the area's file where the entry still is `seen`.
    pub(super) fn map_file_page(&self, fault: &Fault<'_, H>, seen: HostEntry, index: u64) -> Mapped {
        let Some(file) = fault.vma.kind.file() else { return Err(FaultError::Unmapped(fault.page)) };
        match file.direct(index).map_err(|error| page_error(error, fault.page))? {
            Some(direct) => self.map_direct(fault, seen, file, index, direct),
            None => self.map_cached(fault, seen, file, index),
        }
    }

    fn map_cached(&self, fault: &Fault<'_, H>, seen: HostEntry, file: &Arc<File<H>>, index: u64) -> Mapped {
        let page = file.page_at_once(index).map_err(|error| page_error(error, fault.page))?;
        // It went since the fault looked: he looks again, and waits without a lock.
        let Some(frame) = page else { return Ok(None) };
        if fault.vma.kind.is_private() && fault.access == Access::Write {
            let copy = self.private_copy(fault, frame);
            let mapped = copy.and_then(|copy| self.map_copy(fault, seen, file, (frame, index), copy));
            file.put(frame);
            return mapped;
        }
        let mut reserve = TableReserve::new(&**self.host());
        let prepared = reserve.top_up(fault.lacking.get());
        let meta = self.host().frames().meta(frame);
        let lock = meta.lock();
        // Under the page lock a page that is the file's stays so: truncation waits (`file.rs`).
        let lasting = || file.owns(frame, index) || !intact(Mutant::MapIgnoresTruncation);
        let mut mapped = None;
        if prepared.is_ok() && lasting() {
            if fault.access == Access::Write && intact(Mutant::NoDirtyOnMapShared) {
                // Dirty first, then writable: write-back that comes between finds it dirty (I7).
                meta.mark_dirty();
            }
            let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, frame);
            let dirty = fault.access == Access::Write;
            let leaf = Leaf { pfn: frame, size: PageSize::Size4K, rights, accessed: false, dirty };
            let installed = self.install(&self.tables.lock(), fault.page, seen, leaf, &mut reserve);
            mapped = installed.then_some(leaf);
        }
        drop(lock);
        if mapped.is_none() {
            file.put(frame);
        }
        prepared?;
        Ok(mapped)
    }

    /// Maps a private copy, if the page that it was made of still is the file's. Under the page lock, which truncation
    /// takes before it looks for copies the last time.
    fn map_copy(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        file: &Arc<File<H>>,
        (frame, index): (Pfn, u64),
        copy: Pfn,
    ) -> Mapped {
        let lock = self.host().frames().meta(frame).lock();
        if file.owns(frame, index) {
            return self.map_new(fault, seen, copy);
        }
        drop(lock);
        self.mm.put(copy);
        Ok(None)
    }

    /// A write to a page of a shared mapping that is mapped read-only.
    pub(super) fn write_shared(
        &self,
        fault: &Fault<'_, H>,
        found: &Found<HostEntry>,
        leaf: &Leaf,
    ) -> Result<(), FaultError> {
        if leaf.pfn == self.mm.zero_page() {
            return self.fill_hole(fault);
        }
        let Some(meta) = self.mm.counted(leaf.pfn) else {
            // A frame of an execute-in-place store: nobody keeps account of its writes.
            let tables = self.tables.lock();
            let now = self.walk(fault.page);
            if super::entry::same_leaf(&now, found) {
                self.make_writable(&tables, &now);
            }
            return Ok(());
        };
        // The page lock keeps write-back from finding the frame clean and the entry writable.
        let referenced = {
            let _tables = self.tables.lock();
            if !super::entry::same_leaf(&self.walk(fault.page), found) {
                return Ok(());
            }
            meta.get();
            meta
        };
        let locked = referenced.lock();
        let tables = self.tables.lock();
        let now = self.walk(fault.page);
        if super::entry::same_leaf(&now, found) {
            if intact(Mutant::NoDirtyOnWriteShared) {
                meta.mark_dirty();
            }
            self.make_writable(&tables, &now);
        }
        drop(tables);
        drop(locked);
        self.mm.put(leaf.pfn);
        Ok(())
    }

    /// Execute-in-place: the store's frame itself, or the zero page over a hole.
    fn map_direct(
        &self,
        fault: &Fault<'_, H>,
        seen: HostEntry,
        file: &Arc<File<H>>,
        index: u64,
        direct: Direct,
    ) -> Mapped {
        let private = fault.vma.kind.is_private();
        // Truncation changes the length before it clears entries, under the lock under which this is asked: a page
        // behind the new end is not mapped, or is found.
        let inside = || index < file.len();
        match (direct, fault.access) {
            (Direct::Frame(frame), Access::Write) if private => {
                let copy = self.private_copy(fault, frame)?;
                self.map_new_if(fault, seen, copy, inside)
            }
            (Direct::Hole, Access::Write) if private => {
                let copy = self.private_copy(fault, self.mm.zero_page())?;
                self.map_new_if(fault, seen, copy, inside)
            }
            (Direct::Hole, Access::Write) => {
                file.store().fill_hole(index).map_err(FaultError::Store)?;
                self.unmap_zero_page(file, index);
                Ok(None)
            }
            (Direct::Hole, Access::Read) => {
                let still_hole = || inside() && file.store().direct(index) == Some(Direct::Hole);
                self.map_uncounted(fault, seen, (self.mm.zero_page(), Rights::READ), still_hole)
            }
            (Direct::Frame(frame), _) => {
                let rights = self.rights_for(fault.vma.protection, &fault.vma.kind, frame);
                self.map_uncounted(fault, seen, (frame, rights), inside)
            }
        }
    }

    /// A write to a hole of a shared execute-in-place mapping, which reads as the zero page.
    fn fill_hole(&self, fault: &Fault<'_, H>) -> Result<(), FaultError> {
        let VmaKind::Shared(file, _) = &fault.vma.kind else { return Ok(()) };
        let index = fault.index();
        if file.store().direct(index) == Some(Direct::Hole) {
            file.store().fill_hole(index).map_err(FaultError::Store)?;
        }
        self.unmap_zero_page(file, index);
        Ok(())
    }

    /// Patch site `__xip_unmap`: the zero page that stood for a hole is unmapped wherever the file is, under each
    /// page-table lock with `invalidate_page`. The next touch maps the store's frame.
    fn unmap_zero_page(&self, file: &Arc<File<H>>, index: u64) {
        let visited = file.rmap().each_place(index, |space, address| {
            space.clear_zero_page(address);
            ControlFlow::Continue(())
        });
        // This address space is alive beyond the visit: dropping the others' handles tears down none of its areas.
        drop(visited);
    }

    fn clear_zero_page(&self, address: Hva) {
        let tables = self.tables.lock();
        let found = self.walk(address);
        if found.leaf().is_some_and(|leaf| leaf.pfn == self.mm.zero_page()) {
            let old = self.clear_flush_notify(PageSite::XipUnmap, &tables, address, &found);
            // The patch asserts it, too: nobody can have written to the zero page.
            debug_assert!(old.leaf().is_some_and(|leaf| !leaf.dirty), "the zero page was written");
        }
    }
}

pub(super) fn page_error(error: PageError, address: Hva) -> FaultError {
    match error {
        PageError::Beyond => FaultError::BeyondEnd(address),
        PageError::Store(error) => FaultError::Store(error),
        PageError::OutOfFrames(error) => FaultError::OutOfFrames(error),
    }
}
