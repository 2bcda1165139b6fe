//! Address spaces: VMAs, primary tables, and the operations on them.
//!
//! | lock | protects |
//! |---|---|
//! | mmap lock (reader-writer) | the VMA tree; held for writing, also the shape of the tables |
//! | page-table lock | every change of a primary entry |
//!
//! Faults, discards, aging and migration hold the mmap lock for reading: tables may grow under them but
//! never vanish. Nothing is allocated under the page-table lock: frames and tables are prepared before (I4,
//! I16), flushed and freed after.

mod error;
mod fault;
mod map;
mod page;
mod zap;

use crate::host::Host;
use crate::notifier::{MmuNotifier, NotifierChain};
use crate::vma::{Vma, VmaTree};
use addr::{Hva, HvaRange, PageSize, Pfn};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use paging::{HostEntry, OutOfTables};
use sync::{Mutex, Rank, RwLock};

pub use error::{FaultError, MapError, MigrateError};
pub use map::{MapRequest, Placement};

/// First address above every mapping: the last page of the lower half stays unused, as in Linux.
pub const USER_END: Hva = Hva::new(0x7fff_ffff_f000);
/// First number that is no address of the lower half: no canonical address, so a plain number.
const LOWER_HALF_END: u64 = 1 << 47;
/// Lowest address of a mapping that did not name one.
const MAP_BASE: Hva = Hva::new(0x10_0000_0000);

/// What a primary entry maps, at the moment of asking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First frame of the leaf.
    pub pfn: Pfn,
    /// Bytes that the leaf maps, naturally aligned around the address.
    pub size: PageSize,
    /// Whether the primary entry allows writes.
    pub writable: bool,
    /// Whether the frame counts as dirty already: only then may a read fault make a secondary entry
    /// writable (I7).
    pub dirty: bool,
}

/// A host address space.
pub struct AddressSpace<H: Host> {
    host: Arc<H>,
    root: Pfn,
    vmas: RwLock<VmaTree>,
    tables: Mutex<()>,
    chain: NotifierChain,
    resident: AtomicU64,
}

impl<H: Host> AddressSpace<H> {
    /// An empty address space, without subscribers (patch site: `mm_init`).
    ///
    /// # Errors
    /// [`OutOfTables`] where there is no frame for the root.
    pub fn new(host: Arc<H>) -> Result<Self, OutOfTables> {
        let root = host.allocate_root()?;
        Ok(Self {
            host,
            root,
            vmas: RwLock::new(Rank::Mmap, VmaTree::default()),
            tables: Mutex::new(Rank::PageTable, ()),
            chain: NotifierChain::default(),
            resident: AtomicU64::new(0),
        })
    }

    /// The root of the primary tables, for CR3.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// The machine.
    pub fn host(&self) -> &Arc<H> {
        &self.host
    }

    /// Frames that primary entries hold, in base pages.
    pub fn resident_frames(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// The areas, by address. Takes the mmap lock for reading.
    pub fn vmas(&self) -> Vec<Vma> {
        self.vmas.read().iter().collect()
    }

    /// Subscribes to changes. Takes the mmap lock for writing, so that no operation is under way.
    pub fn register(&self, subscriber: Arc<dyn MmuNotifier>) {
        let _no_operation = self.vmas.write();
        self.chain.register(subscriber);
    }

    /// Ends a subscription; on return none of the subscriber's operations runs or will run. Takes the mmap
    /// lock for writing. `false` where it was not subscribed, or the address space has been released.
    pub fn unregister(&self, subscriber: &Arc<dyn MmuNotifier>) -> bool {
        let _no_operation = self.vmas.write();
        self.chain.unregister(subscriber)
    }

    /// What the primary entry for `address` maps, without faulting it in. Lock-free: by the time of return it
    /// may have changed, which is what the invalidation sequence is for (I2).
    pub fn lookup(&self, address: Hva) -> Option<Mapping> {
        let leaf = self.walk(address).leaf().filter(|leaf| leaf.rights.read)?;
        let dirty = self.host.frames().meta(leaf.pfn).is_dirty();
        Some(Mapping { pfn: leaf.pfn, size: leaf.size, writable: leaf.rights.write, dirty })
    }

    /// Notes that the frame of a mapping will be written through a secondary entry. Called under the mmu
    /// lock, when that entry is installed (I7).
    pub fn mark_dirty(&self, mapping: &Mapping) {
        self.host.frames().meta(mapping.pfn).mark_dirty();
    }

    /// Tears everything down (patch site: `exit_mmap`): `release` first, before any unmap. The root stays
    /// until the value is dropped. Takes the mmap lock for writing: nobody subscribes between the last notice
    /// and the unlinking, and no begin loses its end.
    pub fn exit(&self) {
        let everything = HvaRange::new(Hva::ZERO, USER_END);
        let mut vmas = self.vmas.write();
        self.chain.release();
        self.unmap_region(&mut vmas, everything);
    }

    fn walk(&self, address: Hva) -> paging::Found<HostEntry> {
        paging::walk(&*self.host, self.root, address.as_u64())
    }
}

impl<H: Host> Drop for AddressSpace<H> {
    fn drop(&mut self) {
        self.exit();
        self.host.free_table(self.root);
    }
}

impl<H: Host> fmt::Debug for AddressSpace<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSpace")
            .field("root", &self.root)
            .field("resident_frames", &self.resident_frames())
            .finish_non_exhaustive()
    }
}
