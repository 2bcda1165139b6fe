//! Demand faults: an area says a page may be there, a fault puts it there.
//!
//! ```text
//!   find the area ─► already mapped? ─► prepare frame and tables ─► lock ─► still empty? ─► install
//!                        └─ yes: done                                         └─ no: give back, done
//! ```

use super::{AddressSpace, FaultError, Mapping};
use crate::gather::drop_mapping;
use crate::host::Host;
use crate::vma::{Access, Vma, VmaTree};
use addr::Hva;
use core::sync::atomic::Ordering;
use paging::{HostEntry, Leaf, Level, TableEntry, TableReserve, walk_or_grow};

impl<H: Host> AddressSpace<H> {
    /// Makes sure that a primary entry allows `access` at `address`, and tells what it maps. Takes the mmap
    /// lock for reading; call it with no memory-manager lock held.
    ///
    /// The frame is not referenced: whoever builds a secondary entry from the answer checks the invalidation
    /// sequence under its own lock before he installs it (I2, I6).
    ///
    /// # Errors
    /// [`FaultError`]; nothing has changed then (I16).
    pub fn fault_in(&self, address: Hva, access: Access) -> Result<Mapping, FaultError> {
        let vmas = self.vmas.read();
        let vma = area_for(&vmas, address, access)?;
        loop {
            // Lock-free: held for reading, the mmap lock keeps the tables from vanishing.
            if let Some(mapping) = self.lookup(address) {
                return Ok(mapping);
            }
            self.install_zeroed(&vma, address, access)?;
        }
    }

    /// Installs a fresh frame at the page of `address`, unless somebody else was faster.
    fn install_zeroed(&self, vma: &Vma, address: Hva, access: Access) -> Result<(), FaultError> {
        let size = vma.kind.page_size();
        let lowest = Level::of_leaf(size);
        let mut reserve = TableReserve::new(&*self.host);
        reserve.top_up(self.walk(address).level as usize - lowest as usize)?;
        let pfn = self.host.allocate_zeroed(size)?;
        // No copy of an anonymous page exists elsewhere: it is dirty from its first moment.
        self.host.frames().meta(pfn).mark_dirty();
        let leaf = Leaf {
            pfn,
            size,
            rights: vma.protection.rights(),
            accessed: true,
            dirty: access == Access::Write,
        };
        if !self.install(address, leaf, &mut reserve) {
            // Never visible: no flush is owed.
            drop_mapping(&*self.host, pfn, size);
        }
        Ok(())
    }

    /// Writes the leaf if the entry is empty. The only step of a fault under the page-table lock.
    fn install(&self, address: Hva, leaf: Leaf, reserve: &mut TableReserve<'_, H>) -> bool {
        let _tables = self.tables.lock();
        let lowest = Level::of_leaf(leaf.size);
        let found = walk_or_grow::<HostEntry, H>(&self.host, self.root, address.as_u64(), lowest, reserve);
        let empty = found.level == lowest && found.entry == HostEntry::EMPTY;
        if empty {
            // Empty to present: no CPU can have cached the entry, no flush (SDM vol. 3A 4.10.4.3).
            self.host.store(found.at, HostEntry::leaf(leaf).bits());
            self.resident.fetch_add(leaf.size.base_pages(), Ordering::Relaxed);
        }
        empty
    }
}

fn area_for(vmas: &VmaTree, address: Hva, access: Access) -> Result<Vma, FaultError> {
    let vma = vmas.find(address).ok_or(FaultError::Unmapped(address))?;
    if !vma.protection.allows(access) {
        return Err(FaultError::Denied { address, access, protection: vma.protection });
    }
    Ok(vma)
}
