//! Frames for whoever wants zeros in them: those that an idle CPU has zeroed ahead, where there are some.
//!
//! ```text
//!           begin_zeroing            zero_next                        16 at a time
//!   buddy ────────────────► Zeroing ───────────► zeroed, in the queue ────────────► a CPU's own ─► allocate_fresh
//!     ▲                        │ not zeroed          │
//!     ├────────────────────────┘                     │ nothing else is left, or a huge page is wanted
//!     └──────────────────────────────────────────────┘
//! ```
//!
//! They are free all the while, and count so. Nobody has an entry for a free frame (I6), so zeros stay zeros (I15).

use super::cache::{BATCH, CpuFrames};
use super::{Frames, runs};
use crate::host::{CpuIndex, OutOfFrames};
use addr::{PageSize, Pfn};
use core::sync::atomic::Ordering;
use mutants::{Mutant, intact};

/// One frame in so many is to be zeroed ahead.
const ZEROED_PART: u64 = 64;
/// None is where fewer than one in so many can be had by anybody.
const SPARE_PART: u64 = 8;

/// What is in frames that were allocated for whoever wants zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Fresh {
    /// The first so many hold zeros; the others whatever is in them.
    pub zeroed: usize,
    /// Frames that were zeroed ahead have just become few.
    pub run_low: bool,
}

/// Frames that were zeroed ahead, since the machine's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZeroedCounts {
    /// All of them.
    pub ahead: u64,
    /// Of these, those that CPUs have taken for whoever wants zeros.
    pub taken: u64,
}

/// Free frames that are being zeroed. Dropped, those that were are handed out to whoever wants zeros, the others to anybody.
#[derive(Debug)]
#[must_use]
pub struct Zeroing<'f> {
    frames: &'f Frames,
    batch: [Pfn; BATCH],
    count: usize,
    zeroed: usize,
}

impl Zeroing<'_> {
    /// Has the next one zeroed; whether there was one.
    pub fn zero_next(&mut self, zero: impl FnOnce(Pfn)) -> bool {
        let Some(&frame) = self.batch[..self.count].get(self.zeroed) else { return false };
        if intact(Mutant::ZeroingSkipped) {
            zero(frame);
        }
        self.zeroed += 1;
        true
    }
}

impl Drop for Zeroing<'_> {
    fn drop(&mut self) {
        let (zeroed, rest) = self.batch[..self.count].split_at(self.zeroed);
        self.frames.zeroed_ahead.fetch_add(zeroed.len() as u64, Ordering::Relaxed);
        let mut pool = self.frames.pool.lock();
        zeroed.iter().for_each(|&frame| pool.zeroed.push(&self.frames.meta, frame));
        self.frames.zeroed.store(pool.zeroed.count(), Ordering::Relaxed);
        if intact(Mutant::ZeroingLosesRest) {
            runs(rest, |start, end| pool.buddy.free_run(&self.frames.meta, start, end));
        }
    }
}

impl Frames {
    /// Free frames that hold zeros, but for those in CPUs' caches.
    #[must_use]
    pub fn zeroed_count(&self) -> u64 {
        self.zeroed.load(Ordering::Relaxed)
    }

    /// What has been zeroed ahead so far.
    #[must_use]
    pub fn zeroed_counts(&self) -> ZeroedCounts {
        let [ahead, taken] =
            [&self.zeroed_ahead, &self.zeroed_taken].map(|count| count.load(Ordering::Relaxed));
        ZeroedCounts { ahead, taken }
    }

    /// Frames for the caller to zero, if more are to be: a batch at most. He owns them until he drops them; they are free, so he touches
    /// nothing but their contents.
    pub fn begin_zeroing(&self) -> Option<Zeroing<'_>> {
        let wanted =
            (self.total() / ZEROED_PART).saturating_sub(self.zeroed_count()).min(BATCH as u64) as usize;
        if wanted == 0 || (self.spare() < self.total() / SPARE_PART && intact(Mutant::ZeroingTakesLast)) {
            return None;
        }
        let (mut batch, mut count) = ([Pfn::ZERO; BATCH], 0);
        let mut pool = self.pool.lock();
        while count < wanted
            && let Some((first, more)) = pool.buddy.allocate_run(&self.meta, wanted - count)
        {
            (0..more).for_each(|index| batch[count + index] = first.add(index as u64));
            count += more;
        }
        if !intact(Mutant::ZeroingTakesNothing) {
            runs(&batch[..count], |start, end| pool.buddy.free_run(&self.meta, start, end));
        }
        drop(pool);
        (count > 0).then_some(Zeroing { frames: self, batch, count, zeroed: 0 })
    }

    /// A base frame with one reference for whoever wants zeros in it. The reserve stays.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    #[inline]
    pub fn allocate_fresh(&self, cpu: CpuIndex) -> Result<(Pfn, Fresh), OutOfFrames> {
        const NONE_LEFT: OutOfFrames = OutOfFrames { size: PageSize::Size4K };
        if self.spare() == 0 {
            return Err(NONE_LEFT);
        }
        let (mut own, mut place) = (self.caches[cpu.0].lock(), [Pfn::ZERO]);
        let fresh =
            if self.has_zeroed(&own) { self.pop_zeroed(&mut own, &mut place) } else { Fresh::default() };
        let frame = if fresh.zeroed == 0 { self.pop(&mut own).ok_or(NONE_LEFT)? } else { place[0] };
        drop(own);
        self.hand_out(frame, self.generation());
        self.free.fetch_sub(1, Ordering::Relaxed);
        Ok((frame, fresh))
    }

    /// The same for as many as there are places, or as can be had; how many.
    pub fn allocate_few_fresh(&self, cpu: CpuIndex, places: &mut [Pfn]) -> (usize, Fresh) {
        let (wanted, generation) = (self.spare().min(places.len() as u64) as usize, self.generation());
        let (mut own, places) = (self.caches[cpu.0].lock(), &mut places[..wanted]);
        let fresh = if self.has_zeroed(&own) { self.pop_zeroed(&mut own, places) } else { Fresh::default() };
        places[..fresh.zeroed].iter().for_each(|&frame| self.hand_out(frame, generation));
        let mut count = fresh.zeroed;
        for place in &mut places[fresh.zeroed..] {
            let Some(frame) = self.pop(&mut own) else { break };
            self.hand_out(frame, generation);
            *place = frame;
            count += 1;
        }
        drop(own);
        self.free.fetch_sub(count as u64, Ordering::Relaxed);
        (count, fresh)
    }

    fn has_zeroed(&self, own: &CpuFrames) -> bool {
        !own.zeroed.is_empty() || self.zeroed_count() != 0
    }

    /// Zeroed frames into the first of these places, as long as there are some.
    #[cold]
    #[inline(never)]
    fn pop_zeroed(&self, own: &mut CpuFrames, places: &mut [Pfn]) -> Fresh {
        let mut fresh = Fresh::default();
        for place in places {
            if own.zeroed.is_empty() {
                fresh.run_low |= self.refill_zeroed(own);
            }
            let Some(frame) = own.zeroed.pop() else { break };
            *place = frame;
            fresh.zeroed += 1;
        }
        fresh
    }

    /// Whether those that are left in the queue have become few by that: fewer than half of what is wanted.
    fn refill_zeroed(&self, own: &mut CpuFrames) -> bool {
        let few = self.total() / ZEROED_PART / 2;
        let mut pool = self.pool.lock();
        let before = pool.zeroed.count();
        own.zeroed.refill(|_| Some((pool.zeroed.pop(&self.meta)?, 1)));
        let left = pool.zeroed.count();
        self.zeroed.store(left, Ordering::Relaxed);
        self.zeroed_taken.fetch_add(before - left, Ordering::Relaxed);
        before >= few && left < few
    }
}
