//! Frames: metadata for each, and the allocator that hands them out.
//!
//! ```text
//!            allocate                      put (last reference)
//!   Free ─────────────► Used, count = 1 ─────────────────────► Free
//!    ▲                     get / put: count ± 1
//!    └── per-CPU cache of base frames ◄──► buddy, orders 0..=18
//!                                          zeroed ahead: `fresh.rs`
//! ```
//!
//! A frame that no region of the memory map made allocatable is `Reserved` for ever. A huge allocation
//! marks each of its base frames `Used`, so that a split needs no metadata of its own: the pieces are
//! freed one by one and the buddy joins them again.

mod buddy;
mod cache;
mod fresh;
mod generations;
mod meta;
mod zeroed;

use crate::host::{CpuIndex, OutOfFrames};
use addr::{PageSize, Pfn, PfnRange};
use alloc::boxed::Box;
use alloc::vec::Vec;
use buddy::Buddy;
use cache::CpuFrames;
use core::sync::atomic::{AtomicU64, Ordering};
use generations::Generations;
use meta::State;
use mutants::{Mutant, intact};
use sync::{Mutex, Rank};
use zeroed::Zeroed;

pub use cache::MOST_CACHED;
pub use fresh::{Fresh, ZeroedCounts, Zeroing};
pub use generations::{METADATA_BYTES, Uses};
pub use meta::{FrameMeta, PageFlags};
pub(crate) use meta::{GROUP, INDEX_BITS, MOST_SLOTS, PageTurn, TriedLock};

/// Frames that can be numbered: 16 TiB. A link of a free list is 32 bits, and one number means none.
pub const MAX_FRAMES: u64 = meta::NIL as u64;

/// All frames of a machine.
#[derive(Debug)]
pub struct Frames {
    meta: Box<[FrameMeta]>,
    pool: Mutex<Pool>,
    caches: Box<[Mutex<CpuFrames>]>,
    total: AtomicU64,
    free: AtomicU64,
    /// How many frames the queue of zeroed ones has, to be looked at without the lock.
    zeroed: AtomicU64,
    zeroed_ahead: AtomicU64,
    zeroed_taken: AtomicU64,
    /// CPUs that are zeroing some.
    zeroers: AtomicU64,
    /// Frames that only reclaim may take.
    reserve: AtomicU64,
    generations: Generations,
}

/// Free frames that no CPU has.
#[derive(Debug)]
struct Pool {
    buddy: Buddy,
    zeroed: Zeroed,
}

impl Pool {
    /// Takes up to `most` frames in a row; one that was zeroed ahead where nothing else is left.
    fn allocate_run(&mut self, meta: &[FrameMeta], most: usize) -> Option<(Pfn, usize)> {
        let run = self.buddy.allocate_run(meta, most);
        run.or_else(|| intact(Mutant::ZeroedLeftBehind).then(|| Some((self.zeroed.pop(meta)?, 1))).flatten())
    }
}

impl Frames {
    /// An allocator without a frame, for `meta.len()` frames from frame 0 and `cpus` CPUs.
    ///
    /// # Panics
    /// If there are more than [`MAX_FRAMES`].
    #[must_use]
    pub fn new(meta: Box<[FrameMeta]>, cpus: usize) -> Self {
        assert!(meta.len() as u64 <= MAX_FRAMES, "{} frames are more than can be numbered", meta.len());
        let caches: Vec<_> =
            (0..cpus.max(1)).map(|_| Mutex::new(Rank::FrameCache, CpuFrames::new())).collect();
        let generations = Generations::new(meta.len());
        Self {
            meta,
            pool: Mutex::new(Rank::Buddy, Pool { buddy: Buddy::new(), zeroed: Zeroed::new() }),
            caches: caches.into_boxed_slice(),
            total: AtomicU64::new(0),
            free: AtomicU64::new(0),
            zeroed: AtomicU64::new(0),
            zeroed_ahead: AtomicU64::new(0),
            zeroed_taken: AtomicU64::new(0),
            zeroers: AtomicU64::new(0),
            reserve: AtomicU64::new(0),
            generations,
        }
    }

    /// Makes frames allocatable that were reserved; frames beyond the metadata are left out.
    pub fn add(&self, range: PfnRange) {
        let end = range.end().as_u64().min(self.meta.len() as u64);
        let mut next = range.start().as_u64();
        while next < end {
            let start = next;
            while next < end && self.meta(Pfn::new(next)).release_reserved() {
                next += 1;
            }
            self.add_run(start, next);
            next = next.max(start + 1);
        }
    }

    /// Gives a run of new frames to the buddy, in blocks as large as alignment allows.
    fn add_run(&self, start: u64, end: u64) {
        self.pool.lock().buddy.free_run(&self.meta, start, end);
        self.total.fetch_add(end - start, Ordering::Relaxed);
        self.free.fetch_add(end - start, Ordering::Relaxed);
    }

    /// The metadata of a frame.
    ///
    /// # Panics
    /// If the frame lies beyond the metadata: no entry may name such a frame.
    #[must_use]
    pub fn meta(&self, frame: Pfn) -> &FrameMeta {
        &self.meta[frame.as_u64() as usize]
    }

    /// The metadata of the base frames of a page.
    ///
    /// # Panics
    /// If one lies beyond the metadata.
    #[inline]
    #[must_use]
    pub fn metas(&self, frame: Pfn, size: PageSize) -> &[FrameMeta] {
        &self.meta[frame.as_u64() as usize..][..size.base_pages() as usize]
    }

    /// Whether the frame has metadata.
    #[must_use]
    pub fn knows(&self, frame: Pfn) -> bool {
        frame.as_u64() < self.meta.len() as u64
    }

    /// Frames that have metadata, from frame 0 on.
    #[must_use]
    pub fn known(&self) -> u64 {
        self.meta.len() as u64
    }

    /// Frames that were ever allocatable.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Frames that are free now, those in CPU caches included.
    #[must_use]
    pub fn free_count(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Keeps so many frames for whoever makes others free ([`Self::allocate_reserved`]).
    pub fn set_reserve(&self, frames: u64) {
        self.reserve.store(frames, Ordering::Relaxed);
    }

    /// Frames that may be allocated by anybody.
    #[must_use]
    pub fn spare(&self) -> u64 {
        self.free_count().saturating_sub(self.reserve.load(Ordering::Relaxed))
    }

    /// A frame of this size, naturally aligned, contents unspecified, with one reference. The reserve stays.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn allocate(&self, cpu: CpuIndex, size: PageSize) -> Result<Pfn, OutOfFrames> {
        if self.spare() < size.base_pages() {
            return Err(OutOfFrames { size });
        }
        self.allocate_reserved(cpu, size)
    }

    /// The same for whoever makes others free: the reserve is there for him.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    pub fn allocate_reserved(&self, cpu: CpuIndex, size: PageSize) -> Result<Pfn, OutOfFrames> {
        let frame = match size {
            PageSize::Size4K => self.allocate_base(cpu),
            PageSize::Size2M | PageSize::Size1G => {
                self.pool.lock().buddy.allocate(&self.meta, order_of(size))
            }
        };
        let frame = frame.ok_or(OutOfFrames { size })?;
        if size == PageSize::Size4K {
            self.hand_out(frame, self.generation());
            self.free.fetch_sub(1, Ordering::Relaxed);
            return Ok(frame);
        }
        let generation = self.generation();
        (0..size.base_pages()).for_each(|index| self.set_generation(frame.add(index), generation));
        self.metas(frame, size).iter().for_each(FrameMeta::take);
        self.free.fetch_sub(size.base_pages(), Ordering::Relaxed);
        Ok(frame)
    }

    #[inline(always)]
    fn hand_out(&self, frame: Pfn, generation: u32) {
        self.set_generation(frame, generation);
        self.meta(frame).take();
    }

    fn allocate_base(&self, cpu: CpuIndex) -> Option<Pfn> {
        self.pop(&mut self.caches[cpu.0].lock())
    }

    #[inline(always)]
    fn pop(&self, own: &mut CpuFrames) -> Option<Pfn> {
        if own.any.is_empty() {
            self.refill(own);
        }
        own.any.pop()
    }

    /// The CPU's own zeroed ones come last of all.
    #[inline(never)]
    fn refill(&self, own: &mut CpuFrames) {
        let mut pool = self.pool.lock();
        own.any.refill(|most| pool.allocate_run(&self.meta, most));
        self.note_zeroed(&pool, own);
        drop(pool);
        if own.any.is_empty() {
            core::mem::swap(&mut own.any, &mut own.zeroed);
        }
    }

    /// Frees a frame, without its contents being looked at. Its reference count must have fallen to zero.
    ///
    /// # Panics
    /// If it is free already, or still referenced: the caller's accounting is wrong, and going on would
    /// hand one frame to two owners.
    pub fn free(&self, cpu: CpuIndex, frame: Pfn, size: PageSize) {
        match size {
            PageSize::Size4K => {
                self.meta(frame).release(frame);
                let cache = &mut self.caches[cpu.0].lock().any;
                if cache.is_full() {
                    let buddy = &mut self.pool.lock().buddy;
                    cache.spill(|frames| runs(frames, |start, end| buddy.free_run(&self.meta, start, end)));
                }
                cache.push(frame);
            }
            PageSize::Size2M | PageSize::Size1G => {
                let (groups, _) = self.metas(frame, size).as_chunks::<GROUP>();
                for (group, first) in groups.iter().zip((0..).step_by(GROUP)) {
                    if !FrameMeta::try_release_all(group) {
                        release_each(group, frame.add(first));
                    }
                }
                self.pool.lock().buddy.free(&self.meta, frame, order_of(size));
            }
        }
        self.free.fetch_add(size.base_pages(), Ordering::Relaxed);
    }

    /// The same for many base frames, which may lie anywhere: what the CPU's cache has no room for goes to the buddy, neighbours in one
    /// block.
    ///
    /// # Panics
    /// As [`Self::free`].
    pub fn free_pages(&self, cpu: CpuIndex, frames: &[Pfn]) {
        frames.iter().for_each(|&frame| self.meta(frame).release(frame));
        let mut own = self.caches[cpu.0].lock();
        let (few, rest) = frames.split_at(own.any.room().min(frames.len()));
        few.iter().for_each(|&frame| own.any.push(frame));
        drop(own);
        if !rest.is_empty() {
            let buddy = &mut self.pool.lock().buddy;
            runs(rest, |start, end| buddy.free_run(&self.meta, start, end));
        }
        self.free.fetch_add(frames.len() as u64, Ordering::Relaxed);
    }

    /// Tells of a frame whether it is a page that one address space has alone ([`PageFlags::EXCLUSIVE`]). For loops: where the metadata
    /// is, is read once.
    #[inline]
    pub(crate) fn are_exclusive(&self) -> impl Fn(Pfn) -> bool + use<'_> {
        let metas = &*self.meta;
        move |frame| metas.get(frame.as_u64() as usize).is_some_and(FrameMeta::is_exclusive)
    }

    /// Tells of frames whether they are in use, and dirty.
    #[inline(always)]
    pub(crate) fn dirty_ones(&self) -> impl Fn(Pfn) -> bool + use<'_> {
        let all = &*self.meta;
        move |frame| all.get(frame.as_u64() as usize).is_some_and(FrameMeta::is_used_and_dirty)
    }

    /// Whether the frame is allocated.
    #[must_use]
    pub fn is_used(&self, frame: Pfn) -> bool {
        self.meta_in_use(frame).is_some()
    }

    /// The metadata of the frame, if it is allocated.
    #[inline]
    pub(crate) fn meta_in_use(&self, frame: Pfn) -> Option<&FrameMeta> {
        self.meta.get(frame.as_u64() as usize).filter(|meta| meta.state() == State::Used)
    }

    /// Whether the frame waits to be allocated. Neither used nor free is memory that was never the allocator's.
    #[must_use]
    pub fn is_free(&self, frame: Pfn) -> bool {
        let meta = self.meta.get(frame.as_u64() as usize);
        meta.is_some_and(|meta| matches!(meta.state(), State::Free | State::FreeHead))
    }
}

/// One of them is not to be released: says which.
#[cold]
#[inline(never)]
fn release_each(metas: &[FrameMeta], first: Pfn) {
    metas.iter().zip(0..).for_each(|(meta, index)| meta.release(first.add(index)));
}

/// Frames that lie next to each other, in either order, as runs: the first one, and the one behind the last.
fn runs(frames: &[Pfn], mut run: impl FnMut(u64, u64)) {
    let mut numbers = frames.iter().map(|frame| frame.as_u64());
    let Some(first) = numbers.next() else { return };
    let (mut start, mut end) = (first, first + 1);
    for number in numbers {
        match number {
            above if above == end => end += 1,
            below if below + 1 == start => start = below,
            _ => {
                run(start, end);
                (start, end) = (number, number + 1);
            }
        }
    }
    if intact(Mutant::RunsLoseLast) {
        run(start, end);
    }
}

const fn order_of(size: PageSize) -> u8 {
    (size.shift() - addr::PAGE_SHIFT) as u8
}

#[cfg(test)]
mod tests;
