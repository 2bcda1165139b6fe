//! Huge frames set aside for hugetlb areas: where memory has become too fragmented to find any.
//!
//! ```text
//!   buddy ──grow──► pool ──fault──► area ──last reference──► pool
//!      ▲             │  empty: from the buddy, and back to it
//!      └───shrink────┘
//! ```

use crate::frames::{FrameMeta, GROUP, PageFlags};
use crate::host::{Host, OutOfFrames};
use crate::mm::Mm;
use addr::{PageSize, Pfn};
use alloc::vec::Vec;
use mutants::{Mutant, intact};
use sync::{Mutex, Rank};

/// Huge frames that nobody uses, by size. Each has one reference, which is the pool's.
pub(crate) struct Pools(Mutex<[Vec<Pfn>; 2]>);

const fn place(size: PageSize) -> Option<usize> {
    match size {
        PageSize::Size4K => None,
        PageSize::Size2M => Some(0),
        PageSize::Size1G => Some(1),
    }
}

impl Pools {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Rank::Pool, [const { Vec::new() }; 2]))
    }

    fn take(&self, size: PageSize) -> Option<Pfn> {
        self.0.lock()[place(size)?].pop()
    }

    fn give(&self, frame: Pfn, size: PageSize) {
        if let Some(place) = place(size) {
            self.0.lock()[place].push(frame);
        }
    }

    pub(crate) fn len(&self, size: PageSize) -> usize {
        place(size).map_or(0, |place| self.0.lock()[place].len())
    }
}

impl<H: Host> Mm<H> {
    /// Sets `count` more huge frames aside.
    ///
    /// # Errors
    /// [`OutOfFrames`]: as many were set aside as there were.
    pub fn grow_pool(&self, size: PageSize, count: usize) -> Result<(), OutOfFrames> {
        for _ in 0..count {
            let frames = self.host().frames();
            let frame = self.or_recall(size, || frames.allocate(self.host().current_cpu(), size))?;
            self.host().frames().meta(frame).set(PageFlags::POOL);
            self.pools().give(frame, size);
        }
        Ok(())
    }

    /// Huge frames that are set aside and not in use.
    pub fn pooled(&self, size: PageSize) -> usize {
        self.pools().len(size)
    }

    /// A zeroed huge frame, from the pool if it has one.
    pub(crate) fn allocate_huge(&self, size: PageSize) -> Result<Pfn, OutOfFrames> {
        match self.pools().take(size) {
            Some(frame) => {
                if intact(Mutant::NoZeroOfPooled) {
                    self.host().zero(frame, size);
                }
                Ok(frame)
            }
            None => self.or_recall(size, || self.host().allocate_zeroed(size)),
        }
    }

    /// Allocates; if that fails for want of a block, with what was zeroed ahead: whoever wants huge pages for good takes no others.
    fn or_recall(
        &self,
        size: PageSize,
        allocate: impl Fn() -> Result<Pfn, OutOfFrames>,
    ) -> Result<Pfn, OutOfFrames> {
        let frames = self.host().frames();
        allocate().or_else(|error| {
            let helps = frames.spare() >= size.base_pages() && frames.recall_zeroed();
            if helps { allocate() } else { Err(error) }
        })
    }

    /// Drops one reference on each base frame of a page. Those whose last it was are freed, the whole page in one
    /// piece if it can be. Nobody can reach them any more.
    pub(crate) fn put_page(&self, frame: Pfn, size: PageSize) {
        if size == PageSize::Size4K {
            return self.put(frame);
        }
        let metas = self.host().frames().metas(frame, size);
        if metas[0].has(PageFlags::POOL) && metas.iter().all(|meta| meta.count() == 1) {
            metas.iter().for_each(FrameMeta::forget);
            metas[0].set(PageFlags::POOL);
            self.host().poison(frame, size);
            return self.pools().give(frame, size);
        }
        // No count that was looked at before will do: merging holds any frame for a moment (`merge/stable.rs`).
        for (group, first) in metas.as_chunks::<GROUP>().0.iter().zip((0..).step_by(GROUP)) {
            let lasts = group.each_ref().map(FrameMeta::put);
            if lasts != [true; GROUP] {
                let of_group = (first..).zip(lasts).filter_map(|(index, last)| last.then_some(index));
                let free = (0..first).chain(of_group);
                free.for_each(|index| self.host().retire(frame.add(index as u64), PageSize::Size4K));
                (first + GROUP..metas.len()).for_each(|index| self.put(frame.add(index as u64)));
                return;
            }
        }
        self.host().retire(frame, size);
    }

    /// Gives all huge frames that are not in use back.
    pub fn drain_pools(&self) {
        for size in [PageSize::Size2M, PageSize::Size1G] {
            while let Some(frame) = self.pools().take(size) {
                self.host().frames().meta(frame).clear(PageFlags::POOL);
                self.put_page(frame, size);
            }
        }
    }
}
