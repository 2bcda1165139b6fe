//! Operations on the page at an address: aging and migration.

use super::{AddressSpace, MigrateError};
use crate::frames::PageFlags;
use crate::host::Host;
use addr::{Hva, HvaRange, PageSize, Pfn};
use mutants::{Mutant, PageSite, YoungSite, intact};
use paging::{HostEntry, Leaf, TableEntry};

impl<H: Host> AddressSpace<H> {
    /// Whether the page was used since it was last asked for, by anybody; `None` where none is resident. Takes the
    /// mmap lock for reading. As at patch site `page_referenced_one`, the answers are OR-ed.
    pub fn test_and_clear_young(&self, address: Hva) -> Option<bool> {
        let _areas = self.vmas.read();
        let tables = self.tables.lock();
        let found = self.walk(address);
        let leaf = found.leaf()?;
        Some(self.clear_flush_young_notify(
            YoungSite::ByAddress,
            &tables,
            address.align_down(leaf.size),
            &found,
        ))
    }

    /// Whether the page was used lately, by anybody; changes nothing. `None` where none is resident. Takes the mmap
    /// lock for reading.
    pub fn test_young(&self, address: Hva) -> Option<bool> {
        let _areas = self.vmas.read();
        let _tables = self.tables.lock();
        let leaf = self.walk(address).leaf()?;
        let start = address.align_down(leaf.size);
        let secondary = self.chain.test_young(HvaRange::new(start, start.add(leaf.size.bytes())));
        Some(leaf.accessed | secondary)
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
        self.own_table(page).map_err(|_| MigrateError::Shared(page))?;
        let frames = self.host().frames();
        let size = PageSize::Size4K;
        let target = frames.allocate(self.host().current_cpu(), size).map_err(MigrateError::OutOfFrames)?;
        let moved = self.move_leaf(page, target);
        let spare = match moved {
            Ok(old) => old,
            Err(_) => target,
        };
        self.mm.put(spare);
        moved.map(|_| target)
    }

    /// The part of a migration under the page-table lock. Returns the old frame, which nobody can reach.
    fn move_leaf(&self, page: Hva, target: Pfn) -> Result<Pfn, MigrateError> {
        let tables = self.tables.lock();
        let found = self.walk(page);
        let leaf = found.leaf().ok_or(MigrateError::NotResident(page))?;
        if leaf.size != PageSize::Size4K {
            return Err(MigrateError::Huge(leaf.size));
        }
        let frames = self.host().frames();
        let old =
            self.mm.counted(leaf.pfn).filter(|meta| meta.has(PageFlags::EXCLUSIVE) && meta.count() == 1);
        let old = old.ok_or(MigrateError::Shared(page))?;
        let cleared = self.clear_flush_notify(PageSite::Migrate, &tables, page, &found);
        self.host().copy(leaf.pfn, target);
        let new = frames.meta(target);
        if let Some((owner, index)) = old.owner() {
            new.set_owner(owner, index);
        }
        let lost = if intact(Mutant::NoDirtyOnMigrate) { PageFlags::empty() } else { PageFlags::DIRTY };
        new.set(old.flags() - PageFlags::LOCKED - lost);
        let last = if intact(Mutant::MigrateTakesOldEntry) { cleared.leaf() } else { None };
        let moved = Leaf { pfn: target, ..last.unwrap_or(leaf) };
        if self.uncount_leaf(&leaf) {
            self.count_leaf(&moved);
        }
        self.host().store(found.at, HostEntry::leaf(moved).bits());
        Ok(leaf.pfn)
    }
}
