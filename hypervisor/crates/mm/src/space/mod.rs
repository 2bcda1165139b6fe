//! Address spaces: areas, primary tables, and the operations on them.
//!
//! | lock | protects |
//! |---|---|
//! | mmap lock (reader-writer) | the areas; held for writing, also the shape of the tables |
//! | page-table lock | every change of a primary entry |
//!
//! Faults, discards, aging and migration hold the mmap lock for reading: tables may grow under them but
//! never vanish. Whoever comes by a reverse map holds no mmap lock, and walks under the page-table lock, under
//! which alone tables are unlinked. Nothing is allocated under the page-table lock: frames and tables are prepared
//! before (I4, I16), flushed and freed after.

mod advise;
mod age;
mod ahead;
mod anon;
mod apply;
mod batch;
mod beside;
mod cow;
mod entry;
mod error;
mod fault;
mod file;
mod fork;
mod fork_shared;
mod huge;
mod map;
mod merge;
mod merge_huge;
mod nonlinear;
mod page;
mod protect;
mod remap;
mod rmapped;
mod share;
mod swapin;
mod swapped;
mod used;
mod zap;

use crate::host::Host;
use crate::limits::Allowance;
use crate::mm::Mm;
use crate::notifier::{MmuNotifier, NotifierChain};
use crate::vma::{Vma, Vmas};
use addr::{Hva, HvaRange, PageSize, Pfn};
use ahead::Streams;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use mutants::{Mutant, intact};
use paging::{HostEntry, Leaf, OutOfTables};
use swapped::Swapped;
use sync::atomic::AtomicU32;
use sync::{Mutex, Rank, RwLock};

pub use advise::Advice;
pub use ahead::MOST_AHEAD;
pub use apply::Change;
pub(crate) use batch::Leaving;
pub use beside::{AskBeside, Beside, MOST_BESIDE, Stretch};
pub use error::{FaultError, MapError, MigrateError};
pub use map::{MapRequest, Placement};
pub use remap::Remap;
pub(crate) use rmapped::{Instead, Unmapped, Youth};
pub use swapped::SwappedPages;

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
    /// Whether the frame counts as dirty already, or the fault was a write's: only then may a read fault make a secondary entry
    /// writable (I7).
    pub dirty: bool,
    /// How often the fault that has put it there has called `invalidate_page` for the page that was there before: so many
    /// times each subscriber's sequence has risen on its behalf.
    pub announced: u64,
}

impl Mapping {
    fn of(leaf: &Leaf, dirty: bool) -> Self {
        Self { pfn: leaf.pfn, size: leaf.size, writable: leaf.rights.write, dirty, announced: 0 }
    }
}

/// A host address space.
pub struct AddressSpace<H: Host> {
    mm: Arc<Mm<H>>,
    this: Weak<Self>,
    root: Pfn,
    vmas: RwLock<Vmas<H>>,
    tables: Mutex<()>,
    /// See [`Self::bar_huge_pages`]; written under the page-table lock.
    huge_barred: AtomicU32,
    /// How many entries name shared tables; written under the page-table lock.
    shared: AtomicU32,
    registration: RwLock<()>,
    chain: NotifierChain,
    resident: AtomicU64,
    allowance: Allowance,
    swapped: Swapped,
    streams: Streams,
}

impl<H: Host> AddressSpace<H> {
    /// An empty address space, without subscribers (patch site: `mm_init`).
    ///
    /// # Errors
    /// [`OutOfTables`] where there is no frame for the root.
    pub fn new(mm: &Arc<Mm<H>>) -> Result<Arc<Self>, OutOfTables> {
        let root = mm.host().allocate_root()?;
        Ok(Self::build(mm, root, Vmas::new))
    }

    fn build(mm: &Arc<Mm<H>>, root: Pfn, vmas: impl FnOnce(Weak<Self>) -> Vmas<H>) -> Arc<Self> {
        let space = Arc::new_cyclic(|this| Self {
            mm: Arc::clone(mm),
            this: Weak::clone(this),
            root,
            vmas: RwLock::new(Rank::Mmap, vmas(Weak::clone(this))),
            tables: Mutex::new(Rank::PageTable, ()),
            huge_barred: AtomicU32::new(0),
            shared: AtomicU32::new(0),
            registration: RwLock::new(Rank::Registration, ()),
            chain: NotifierChain::new(),
            resident: AtomicU64::new(0),
            allowance: Allowance::new(),
            swapped: Swapped::default(),
            streams: Streams::default(),
        });
        mm.add_space(&space);
        space
    }

    /// The root of the primary tables, for CR3.
    pub fn root(&self) -> Pfn {
        self.root
    }

    /// The machine.
    pub fn host(&self) -> &Arc<H> {
        self.mm.host()
    }

    /// What all address spaces of the machine share.
    pub fn mm(&self) -> &Arc<Mm<H>> {
        &self.mm
    }

    /// Frames that primary entries hold, in base pages; each is counted once for each entry.
    pub fn resident_frames(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    /// What it may have.
    pub(crate) const fn allowance(&self) -> &Allowance {
        &self.allowance
    }

    /// Itself, unless it is being dropped.
    pub(crate) fn myself(&self) -> Option<Arc<Self>> {
        self.this.upgrade()
    }

    /// Entries that name a swap slot, in numbers.
    pub fn swapped_pages(&self) -> SwappedPages {
        self.swapped.pages()
    }

    /// The areas, by address. Takes the mmap lock for reading.
    pub fn vmas(&self) -> Vec<Vma<H>> {
        self.vmas.read().iter().cloned().collect()
    }

    /// Subscribes to changes. No end may be heard whose begin was not: the mmap lock, taken for writing, keeps out
    /// the range operations on areas, the registration lock those that come by a reverse map. (v8 missed the second;
    /// Linux takes every reverse map's lock.)
    pub fn register(&self, subscriber: Arc<dyn MmuNotifier>) {
        let _no_operation = intact(Mutant::RegisterWithoutMmapLock).then(|| self.vmas.write());
        let _nor_by_reverse_map =
            intact(Mutant::RegisterWithoutRegistrationLock).then(|| self.registration.write());
        self.chain.register(subscriber);
    }

    /// Ends a subscription; on return none of the subscriber's operations runs or will run, and none of its begins has
    /// lost its end. Takes the mmap lock and the registration lock for writing. `false` where it was not subscribed, or
    /// the address space has been released.
    pub fn unregister(&self, subscriber: &Arc<dyn MmuNotifier>) -> bool {
        let _no_operation = self.vmas.write();
        let _nor_by_reverse_map =
            intact(Mutant::UnregisterWithoutRegistrationLock).then(|| self.registration.write());
        self.chain.unregister(subscriber)
    }

    /// What the primary entry for `address` maps, without faulting it in. Lock-free: by the time of return it
    /// may have changed, which is what the invalidation sequence is for (I2). For checks: the way may lead through a shared
    /// table that others free.
    pub fn lookup(&self, address: Hva) -> Option<Mapping> {
        let leaf = self.walk(address).leaf().filter(|leaf| leaf.rights.read)?;
        Some(self.mapping(&leaf))
    }

    fn mapping(&self, leaf: &Leaf) -> Mapping {
        Mapping::of(leaf, self.is_dirty(leaf.pfn))
    }

    /// Whether the frame is counted, and dirty.
    #[inline(always)]
    fn is_dirty(&self, frame: Pfn) -> bool {
        self.mm.dirty_frames()(frame)
    }

    /// Notes that a frame, the first one of a mapping, will be written through a secondary entry. Called under the mmu
    /// lock, when that entry is installed (I7).
    #[inline]
    pub fn mark_dirty(&self, frame: Pfn) {
        // It mostly is already: then the frame's line of memory stays as it is in all caches.
        if !self.is_dirty(frame)
            && let Some(meta) = self.mm.counted(frame)
        {
            meta.mark_dirty();
        }
    }

    /// Herald has written to memory, by the primary entries or by frames that they name: whoever logs what guests write hears
    /// of it. Called after the bytes were moved, with no lock of the memory manager held.
    pub fn wrote(&self, range: HvaRange) {
        if intact(Mutant::NoLogOfOwnWrites) {
            self.chain.contents_changed(range);
        }
    }

    /// An area was made or moved: its pages are there from now on. The mmap lock is held for writing.
    fn appeared(&self, range: HvaRange) {
        if intact(Mutant::NoLogOfMapped) {
            self.chain.contents_changed(range);
        }
    }

    /// Tears everything down (patch site: `exit_mmap`): `release` first, before any unmap. The root stays
    /// until the value is dropped. Takes the mmap lock for writing: nobody subscribes between the last notice
    /// and the unlinking, and no begin loses its end.
    pub fn exit(&self) {
        self.tear_down(&mut self.vmas.write());
        self.mm.drop_orphans();
    }

    fn tear_down(&self, vmas: &mut Vmas<H>) {
        self.chain.release();
        self.unmap_region(vmas, HvaRange::new(Hva::ZERO, USER_END));
    }

    fn walk(&self, address: Hva) -> paging::Found<HostEntry> {
        paging::walk(&**self.host(), self.root, address.as_u64())
    }

    /// A walk without the page-table lock, which ends above a shared table: that one is not kept by the mmap lock.
    #[inline(always)]
    fn walk_owned(&self, address: Hva) -> paging::Found<HostEntry> {
        paging::walk_owned(&**self.host(), self.root, address.as_u64())
    }
}

/// The last user has gone: nobody waits for a lock of this space, and none is taken. A visitor of a reverse map
/// may be that last user, and hold locks that rank behind the mmap lock.
impl<H: Host> Drop for AddressSpace<H> {
    fn drop(&mut self) {
        let unreachable = Vmas::new(Weak::clone(&self.this));
        let mut vmas = core::mem::replace(self.vmas.get_mut(), unreachable);
        self.tear_down(&mut vmas);
        self.host().free_table(self.root);
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
