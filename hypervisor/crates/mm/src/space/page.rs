//! Operations on one resident page, under the page-table lock: aging and migration.

use super::{AddressSpace, MigrateError};
use crate::gather::drop_mapping;
use crate::host::Host;
use addr::{Hva, HvaRange, PageSize, Pfn};
use paging::{FlushScope, Found, HostEntry, Leaf, TableEntry};

impl<H: Host> AddressSpace<H> {
    /// Whether the page was used since it was last asked for, by anybody; `None` where none is resident.
    /// Patch site `page_referenced_one`: the primary answer and those of all subscribers are OR-ed.
    pub fn test_and_clear_young(&self, address: Hva) -> Option<bool> {
        let _areas = self.vmas.read();
        let _tables = self.tables.lock();
        let found = self.walk(address);
        let leaf = found.leaf()?;
        let start = address.align_down(leaf.size);
        let page = HvaRange::new(start, start.add(leaf.size.bytes()));
        let old = Found { entry: self.replace(found.at, found.entry, HostEntry::aged), ..found };
        let primary = old.leaf().is_some_and(|leaf| leaf.accessed);
        if primary {
            self.host.flush(FlushScope::Primary { root: self.root, range: page });
        }
        Some(primary | self.chain.clear_flush_young(page))
    }

    /// Moves the page at `address` to another frame. Nothing observable changes but the frame. Takes the mmap
    /// lock for reading.
    ///
    /// The order is that of every site which points a primary entry at a new frame (I8): the old entry is
    /// cleared and flushed, the secondaries lose the page, and only then is it copied and mapped again.
    ///
    /// # Errors
    /// [`MigrateError`]; nothing has changed then.
    pub fn migrate_page(&self, address: Hva) -> Result<Pfn, MigrateError> {
        let _areas = self.vmas.read();
        let page = address.align_down(PageSize::Size4K);
        let size = PageSize::Size4K;
        let frames = self.host.frames();
        let target = frames.allocate(self.host.current_cpu(), size).map_err(MigrateError::OutOfFrames)?;
        let moved = self.move_leaf(page, target);
        let spare = match moved {
            Ok(old) => old,
            Err(_) => target,
        };
        drop_mapping(&*self.host, spare, size);
        moved.map(|_| target)
    }

    /// The part of a migration under the page-table lock. Returns the old frame, which nobody can reach.
    fn move_leaf(&self, page: Hva, target: Pfn) -> Result<Pfn, MigrateError> {
        let _tables = self.tables.lock();
        let found = self.walk(page);
        let leaf = found.leaf().ok_or(MigrateError::NotResident(page))?;
        if leaf.size != PageSize::Size4K {
            return Err(MigrateError::Huge(leaf.size));
        }
        let old = Found { entry: self.replace(found.at, found.entry, |_| HostEntry::EMPTY), ..found };
        let range = HvaRange::new(page, page.add(leaf.size.bytes()));
        self.host.flush(FlushScope::Primary { root: self.root, range });
        self.chain.invalidate_page(page);
        self.host.copy(leaf.pfn, target);
        let frames = self.host.frames();
        if frames.meta(leaf.pfn).is_dirty() {
            frames.meta(target).mark_dirty();
        }
        let moved = Leaf { pfn: target, ..old.leaf().unwrap_or(leaf) };
        self.host.store(found.at, HostEntry::leaf(moved).bits());
        Ok(leaf.pfn)
    }
}
