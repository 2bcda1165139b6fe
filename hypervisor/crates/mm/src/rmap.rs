//! Reverse maps: from a frame to the primary entries that map it.
//!
//! ```text
//!   frame ─ owner, index ─► Rmap ─ links ─► (space, addresses, first index) ─► entry at first + index
//! ```
//!
//! There is one reverse map for each file, and one for each anonymous area and all areas that fork, split and
//! mremap have made of it. An area has it from its first moment: no fault has to make one. A link covers one area. Links are kept a superset of the truth: a new one is added
//! before the entries that need it, an old one removed after they are gone; so a visit misses no entry, and
//! finds out about places that map something else by looking at the entry itself.
//!
//! A merged page has none: its owner is a number in the book of merged pages (`merge/book.rs`), which names the pages that have become
//! this one, each by its reverse map and index. So a fork, a split or a move of one of their areas need not know of it.
//!
//! Visitors hold the map's lock from the first link to the last, and so does whoever moves entries from one
//! place to another (mremap, patch site `move_ptes`): an entry is never behind *and* ahead of a visitor.

use crate::file::File;
use crate::host::Host;
use crate::space::AddressSpace;
use addr::{Hva, HvaRange, PAGE_SHIFT};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::num::NonZeroU32;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, Ordering};
use mutants::{Mutant, intact};
use sync::{Mutex, MutexGuard, Once, Rank, RwLock};

/// Names a reverse map in a frame's metadata, or a merged page in the book of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RmapId(NonZeroU32);

/// Set in the numbers of merged pages.
const MERGED: u32 = 1 << 31;

impl RmapId {
    pub(crate) const fn new(raw: u32) -> Option<Self> {
        match NonZeroU32::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    pub(crate) const fn get(self) -> u32 {
        self.0.get()
    }

    /// Of the merged page with that number in the book.
    pub(crate) const fn of_merged(number: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(MERGED - 1 + number))
    }

    /// The number in the book, if it is a merged page's.
    pub(crate) const fn merged(self) -> Option<u32> {
        if self.get() & MERGED == 0 { None } else { Some(self.get() & !MERGED) }
    }
}

/// An area in which pages of one owner are mapped.
pub(crate) struct Link<H: Host> {
    pub(crate) space: Weak<AddressSpace<H>>,
    pub(crate) range: HvaRange,
    /// The index of the page at the start of the range.
    pub(crate) first: u64,
    /// Non-linear: any page may be anywhere in the range.
    pub(crate) nonlinear: bool,
    /// Reclaim leaves alone what is mapped there.
    pub(crate) locked: bool,
}

impl<H: Host> Link<H> {
    /// Where page `index` is mapped, if it is.
    pub(crate) fn place(&self, index: u64) -> Option<Hva> {
        let offset = index.checked_sub(self.first)? << PAGE_SHIFT;
        (offset < self.range.len()).then(|| self.range.start().add(offset))
    }

    fn is(&self, space: &Weak<AddressSpace<H>>, start: Hva) -> bool {
        self.range.start() == start && Weak::ptr_eq(&self.space, space)
    }
}

/// One reverse map.
pub(crate) struct Rmap<H: Host> {
    id: RmapId,
    /// Whose pages it finds; empty for anonymous pages.
    file: Once<Weak<File<H>>>,
    /// Whether an anonymous page may have it as its owner. Written by faults under the mmap lock, held for reading; relaxed: who asks
    /// holds that of the same space for writing, and of others' pages nothing is decided.
    used: AtomicBool,
    links: Mutex<Vec<Link<H>>>,
    table: Arc<Rmaps<H>>,
}

/// What finds the entries of a frame.
pub(crate) enum Owner<H: Host> {
    /// A reverse map, which has links.
    Map(Arc<Rmap<H>>),
    /// The book of merged pages, by this number.
    Merged(RmapId),
}

impl<H: Host> Owner<H> {
    /// As the frame names it.
    pub(crate) fn id(&self) -> RmapId {
        match self {
            Self::Map(map) => map.id(),
            Self::Merged(id) => *id,
        }
    }

    /// If it is a file's.
    pub(crate) fn of_file(&self) -> Option<&Arc<Rmap<H>>> {
        match self {
            Self::Map(map) if map.is_file() => Some(map),
            Self::Map(_) | Self::Merged(_) => None,
        }
    }

    /// Whether a locked area of `space` has any of these addresses; of a merged page the answer is no, which does no harm: none of the
    /// pages around has such an owner and goes with others, and one that goes alone is asked itself. Takes the rmap lock.
    pub(crate) fn is_locked_in(&self, space: &Arc<AddressSpace<H>>, range: HvaRange) -> bool {
        match self {
            Self::Map(map) => map.is_locked_in(space, range),
            Self::Merged(_) => false,
        }
    }
}

/// Address spaces that a visit has found alive. To be dropped after the map's lock: one of them may be the
/// last reference, and tearing a space down unlinks its areas.
pub(crate) type Visited<H> = Vec<Arc<AddressSpace<H>>>;

impl<H: Host> Rmap<H> {
    pub(crate) fn id(&self) -> RmapId {
        self.id
    }

    /// Its number, for a frame that is to be an anonymous page of it.
    #[inline]
    pub(crate) fn owner_id(&self) -> RmapId {
        if !self.used.load(Ordering::Relaxed) && intact(Mutant::OwnLeavesUnused) {
            self.used.store(true, Ordering::Relaxed);
        }
        self.id
    }

    /// Whether an anonymous page may have it as its owner.
    pub(crate) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Makes it a file's. Before any page has it as its owner.
    pub(crate) fn set_file(&self, file: Weak<File<H>>) {
        self.file.call_once(|| file);
    }

    /// Whether it finds pages of a file.
    pub(crate) fn is_file(&self) -> bool {
        self.file.get().is_some()
    }

    /// The file, if it is still there.
    pub(crate) fn file(&self) -> Option<Arc<File<H>>> {
        self.file.get()?.upgrade()
    }

    /// Adds an area.
    pub(crate) fn link(&self, link: Link<H>) {
        self.links.lock().push(link);
    }

    /// Removes the area of `space` that starts at `start`; of two with the same start, the older.
    pub(crate) fn unlink(&self, space: &Weak<AddressSpace<H>>, start: Hva) {
        let mut links = self.links.lock();
        if let Some(place) = links.iter().position(|link| link.is(space, start)) {
            // In order: of two links with one start, another space's must not make the newer come first.
            links.remove(place);
        }
    }

    /// Whether a locked area of `space` has any of these addresses. Takes the rmap lock.
    pub(crate) fn is_locked_in(&self, space: &Arc<AddressSpace<H>>, range: HvaRange) -> bool {
        let is_there =
            |link: &Link<H>| link.space.as_ptr() == Arc::as_ptr(space) && link.range.overlaps(&range);
        self.links.lock().iter().any(|link| link.locked && is_there(link))
    }

    /// Takes the lock, for whoever moves entries.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<Link<H>>> {
        self.links.lock()
    }

    /// Calls `visit` for each place where page `index` may be mapped by a linear area. The rmap lock is held
    /// meanwhile; `visit` takes page-table locks.
    pub(crate) fn each_place(
        &self,
        index: u64,
        mut visit: impl FnMut(&AddressSpace<H>, Hva) -> ControlFlow<()>,
    ) -> Visited<H> {
        self.each_link(|link, space| match link.place(index).filter(|_| !link.nonlinear) {
            Some(address) => visit(space, address),
            None => ControlFlow::Continue(()),
        })
    }

    /// Calls `visit` for each link whose address space is alive. The rmap lock is held meanwhile.
    pub(crate) fn each_link(
        &self,
        mut visit: impl FnMut(&Link<H>, &AddressSpace<H>) -> ControlFlow<()>,
    ) -> Visited<H> {
        let mut visited = Vec::new();
        let links = self.links.lock();
        for link in links.iter() {
            let Some(space) = link.space.upgrade() else { continue };
            let flow = visit(link, &space);
            visited.push(space);
            if flow.is_break() {
                break;
            }
        }
        drop(links);
        visited
    }
}

impl<H: Host> Drop for Rmap<H> {
    fn drop(&mut self) {
        self.table.remove(self.id);
    }
}

/// All reverse maps of a machine, by number.
pub(crate) struct Rmaps<H: Host> {
    slots: RwLock<Slots<H>>,
}

struct Slots<H: Host> {
    maps: Vec<Weak<Rmap<H>>>,
    free: Vec<u32>,
}

impl<H: Host> Rmaps<H> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { slots: RwLock::new(Rank::Rmaps, Slots { maps: Vec::new(), free: Vec::new() }) })
    }

    /// A new reverse map, without links.
    /// `rank` is that of a file's, or of anonymous pages.
    pub(crate) fn create(self: &Arc<Self>, rank: Rank) -> Arc<Rmap<H>> {
        let mut slots = self.slots.write();
        let index = slots.free.pop().unwrap_or_else(|| {
            slots.maps.push(Weak::new());
            slots.maps.len() as u32 - 1
        });
        let id = RmapId(NonZeroU32::MIN.saturating_add(index));
        let map = Arc::new(Rmap {
            id,
            file: Once::new(),
            used: AtomicBool::new(false),
            links: Mutex::new(rank, Vec::new()),
            table: Arc::clone(self),
        });
        slots.maps[index as usize] = Arc::downgrade(&map);
        map
    }

    /// The reverse map of that number, if it is still in use.
    pub(crate) fn get(&self, id: RmapId) -> Option<Arc<Rmap<H>>> {
        self.slots.read().maps.get(id.get() as usize - 1)?.upgrade()
    }

    fn remove(&self, id: RmapId) {
        let index = id.get() - 1;
        let mut slots = self.slots.write();
        slots.maps[index as usize] = Weak::new();
        slots.free.push(index);
    }
}
