//! The memory manager of one machine: what all its address spaces share.

use crate::frames::FrameMeta;
use crate::host::{Host, OutOfFrames};
use crate::merge::{Book, Merge};
use crate::pool::Pools;
use crate::rmap::{Owner, Rmaps};
use crate::shrink::Clock;
use crate::space::AddressSpace;
use crate::swap::{Probe, Swap, SwapCounts, SwapDevice};
use addr::{PageSize, Pfn};
use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use mutants::{Mutant, intact};
use sync::{Mutex, Rank};

/// Why there is no memory manager.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewError {
    /// There is no frame for the zero page.
    OutOfFrames(OutOfFrames),
    /// There is no memory for a table of so many swap slots.
    NoTable {
        /// How many.
        slots: u64,
    },
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfFrames(error) => error.fmt(f),
            Self::NoTable { slots } => write!(f, "no memory for a table of {slots} swap slots"),
        }
    }
}

impl From<OutOfFrames> for NewError {
    fn from(error: OutOfFrames) -> Self {
        Self::OutOfFrames(error)
    }
}

/// What all address spaces of a machine share.
pub struct Mm<H: Host> {
    host: Arc<H>,
    rmaps: Arc<Rmaps<H>>,
    book: Book,
    swap: Swap,
    zero_page: Pfn,
    pools: Pools,
    spaces: Mutex<Vec<Weak<AddressSpace<H>>>>,
    clock: Mutex<Clock>,
    merge: Mutex<Merge<H>>,
}

impl<H: Host> Mm<H> {
    /// The memory manager of a machine, with a swap device if there is one.
    ///
    /// # Errors
    /// [`NewError`].
    pub fn new(host: Arc<H>, swap: Option<Box<dyn SwapDevice>>) -> Result<Arc<Self>, NewError> {
        let swap = Swap::new(swap).map_err(|slots| NewError::NoTable { slots })?;
        let zero_page = host.allocate_zeroed(PageSize::Size4K)?;
        let merge = Merge::new(host.checksum(zero_page), host.frames().known());
        Ok(Arc::new(Self {
            host,
            rmaps: Rmaps::new(),
            book: Book::new(),
            swap,
            zero_page,
            pools: Pools::new(),
            spaces: Mutex::new(Rank::Spaces, Vec::new()),
            clock: Mutex::new(Rank::Reclaim, Clock::default()),
            merge: Mutex::new(Rank::Merge, merge),
        }))
    }

    /// The machine.
    pub fn host(&self) -> &Arc<H> {
        &self.host
    }

    /// The frame that untouched anonymous memory reads as. It is mapped read-only, and its entries are not counted.
    pub fn zero_page(&self) -> Pfn {
        self.zero_page
    }

    /// Swap slots in use.
    pub fn swap_used(&self) -> u64 {
        self.swap.used()
    }

    /// The swap slots in use, and how many entries name each. For checks.
    pub fn swap_notes(&self) -> Vec<(u64, u32)> {
        self.swap.notes()
    }

    /// What the swap device keeps, and what it has done.
    pub fn swap_counts(&self) -> SwapCounts {
        self.swap.device().map_or_else(SwapCounts::default, SwapDevice::counts)
    }

    /// Pages that have come back from swap so soon that with twice the frames they would not have gone.
    pub fn refaults(&self) -> u64 {
        self.swap.refaults()
    }

    /// Frames in the swap cache.
    pub fn swap_cached_frames(&self) -> Vec<Pfn> {
        self.swap.cached_frames()
    }

    /// Who makes frames free holds it.
    pub(crate) const fn clock(&self) -> &Mutex<Clock> {
        &self.clock
    }

    /// Who merges equal pages holds it.
    pub(crate) const fn merger(&self) -> &Mutex<Merge<H>> {
        &self.merge
    }

    /// A new address space is to be aged like the others.
    pub(crate) fn add_space(&self, space: &Arc<AddressSpace<H>>) {
        let mut spaces = self.spaces.lock();
        spaces.retain(|other| other.strong_count() > 0);
        spaces.push(Arc::downgrade(space));
    }

    /// The address spaces that live. To be dropped where no lock is held: one of them may be the last reference.
    pub(crate) fn spaces(&self) -> Vec<Arc<AddressSpace<H>>> {
        self.spaces.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn rmaps(&self) -> &Arc<Rmaps<H>> {
        &self.rmaps
    }

    /// The book of merged pages.
    pub(crate) const fn book(&self) -> &Book {
        &self.book
    }

    /// Frames that the book of merged pages has. For checks.
    pub fn book_frames(&self) -> u64 {
        self.book.frames()
    }

    pub(crate) const fn pools(&self) -> &Pools {
        &self.pools
    }

    pub(crate) fn swap(&self) -> &Swap {
        &self.swap
    }

    /// The metadata of a frame whose entries are counted; `None` for the zero page and for frames of
    /// execute-in-place stores, which are nobody's to free.
    pub fn counted(&self, frame: Pfn) -> Option<&FrameMeta> {
        if frame == self.zero_page { None } else { self.host.frames().meta_in_use(frame) }
    }

    /// Tells of frames whether they are counted, and dirty. What is asked of each is one load: where the metadata is, is found once.
    #[inline(always)]
    pub(crate) fn dirty_frames(&self) -> impl Fn(Pfn) -> bool + use<'_, H> {
        let (zero, is_dirty) = (self.zero_page, self.host.frames().dirty_ones());
        move |frame| frame != zero && is_dirty(frame)
    }

    /// What finds a frame's entries, and the frame's place in it.
    pub(crate) fn owner_of(&self, frame: Pfn) -> Option<(Owner<H>, u64)> {
        let (id, index) = self.host.frames().meta(frame).owner()?;
        let owner = match id.merged() {
            Some(_) => Owner::Merged(id),
            None => Owner::Map(self.rmaps.get(id)?),
        };
        Some((owner, index))
    }

    /// Drops a reference on a base frame; the last one frees it. Nobody can reach it any more.
    pub(crate) fn put(&self, frame: Pfn) {
        if self.host.frames().meta(frame).put() {
            self.host.retire(frame, PageSize::Size4K);
        }
    }

    /// The same for many, which are freed together.
    pub(crate) fn put_pages(&self, frames: &mut [Pfn]) {
        let mut last = 0;
        for index in 0..frames.len() {
            let frame = frames[index];
            if self.host.frames().meta(frame).put() {
                frames[last] = frame;
                last += 1;
            }
        }
        self.host.retire_pages(&frames[..last]);
    }

    /// Takes frames out of the swap cache whose slots nobody names any more. No lock of rank `Page` or later is held.
    pub(crate) fn drop_orphans(&self) {
        while let Some(slot) = self.swap.take_orphan() {
            let probe = self.swap.probe(slot, |frame| self.host.frames().meta(frame).get());
            let Probe::Cached(frame) = probe else { continue };
            let meta = self.host.frames().meta(frame);
            let lock = meta.lock();
            // Reclaim may have found a new use for the frame and its slot; under the page lock it cannot. A page that is
            // mapped, and only read so far, has its copy there.
            let kept = meta.map_count() > 0 && self.swap.keeps(slot);
            if meta.swap_slot() == Some(slot) && self.swap.is_unnoted(slot) && !kept {
                self.leave_swap_cache(frame, slot);
            }
            drop(lock);
            self.put(frame);
        }
    }

    /// Takes a frame out of the swap cache. From now on no copy of it exists elsewhere if nobody names the slot.
    /// The page lock is held, and a reference beside the cache's.
    pub(crate) fn leave_swap_cache(&self, frame: Pfn, slot: u64) {
        let meta = self.host.frames().meta(frame);
        // Dirty before the slot can go: a page without a copy must not look clean (I7).
        if intact(Mutant::NoDirtyOnLeavingSwap) {
            meta.mark_dirty();
        }
        meta.set_swap_slot(None);
        self.swap.uncache(slot);
        self.put(frame);
    }
}

impl<H: Host> Drop for Mm<H> {
    fn drop(&mut self) {
        self.drop_orphans();
        self.drain_pools();
        self.book.close(&*self.host);
        self.put(self.zero_page);
    }
}

impl<H: Host> fmt::Debug for Mm<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mm").field("swap_used", &self.swap_used()).finish_non_exhaustive()
    }
}
