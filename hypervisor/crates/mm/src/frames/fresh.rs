//! Frames for whoever wants zeros in them: those that an idle CPU has zeroed ahead, where there are some.
//!
//! ```text
//!           begin_zeroing            zero_next                        16 at a time
//!   buddy ────────────────► Zeroing ───────────► zeroed, in the queue ────────────► a CPU's own ─► allocate_fresh
//!     ▲                        │ not zeroed          │
//!     ├────────────────────────┘                     │ nothing else is left, or huge pages are set aside
//!     └──────────────────────────────────────────────┘
//! ```
//!
//! Where fewer than half of what is wanted are left, and no CPU zeroes any, whoever takes some is told so, once for each refill of his
//! CPU's cache ([`Fresh::run_low`]).
//!
//! They are free all the while, and count so. Nobody has an entry for a free frame (I6), so zeros stay zeros (I15).

use super::cache::{BATCH, CpuFrames};
use super::{Frames, Pool, runs};
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
    /// At the last refill of the CPU's cache frames that hold zeros were few, and no CPU was zeroing any.
    pub run_low: bool,
}

/// Frames that were zeroed ahead, since the machine's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ZeroedCounts {
    /// All of them.
    pub ahead: u64,
    /// Of these, those that CPUs have put into their caches for whoever wants zeros.
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
        self.frames.zeroers.fetch_sub(1, Ordering::Relaxed);
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
        if wanted == 0 || !self.may_zero() {
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
        if count == 0 {
            return None;
        }
        self.zeroers.fetch_add(1, Ordering::Relaxed);
        drop(pool);
        Some(Zeroing { frames: self, batch, count, zeroed: 0 })
    }

    fn may_zero(&self) -> bool {
        self.spare() >= self.total() / SPARE_PART || !intact(Mutant::ZeroingTakesLast)
    }

    /// Gives the frames that are in the queue now back to the buddy: somebody cannot do without huge blocks. A batch at a time, since others want
    /// frames, too. Those that CPUs have, to zero them or to hand them out, stay there. Whether there was one.
    pub fn recall_zeroed(&self) -> bool {
        let some = if intact(Mutant::HugeLeavesZeroed) { self.zeroed_count() } else { 0 };
        let mut left = some;
        while left > 0 {
            let mut pool = self.pool.lock();
            for _ in 0..left.min(BATCH as u64) {
                let Some(frame) = pool.zeroed.pop(&self.meta) else { break };
                pool.buddy.free(&self.meta, frame, 0);
            }
            left = left.saturating_sub(BATCH as u64).min(pool.zeroed.count());
            self.zeroed.store(pool.zeroed.count(), Ordering::Relaxed);
        }
        some > 0
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
        let zeroed = if self.has_zeroed(&own) { self.pop_zeroed(&mut own, &mut place) } else { 0 };
        let frame = if zeroed == 0 { self.pop(&mut own).ok_or(NONE_LEFT)? } else { place[0] };
        let fresh = Fresh { zeroed, run_low: core::mem::take(&mut own.run_low) };
        drop(own);
        self.hand_out(frame, self.generation());
        self.free.fetch_sub(1, Ordering::Relaxed);
        Ok((frame, fresh))
    }

    /// The same for as many as there are places, or as can be had; how many.
    pub fn allocate_few_fresh(&self, cpu: CpuIndex, places: &mut [Pfn]) -> (usize, Fresh) {
        let (wanted, generation) = (self.spare().min(places.len() as u64) as usize, self.generation());
        let (mut own, places) = (self.caches[cpu.0].lock(), &mut places[..wanted]);
        let zeroed = if self.has_zeroed(&own) { self.pop_zeroed(&mut own, places) } else { 0 };
        places[..zeroed].iter().for_each(|&frame| self.hand_out(frame, generation));
        let mut count = zeroed;
        for place in &mut places[zeroed..] {
            let Some(frame) = self.pop(&mut own) else { break };
            self.hand_out(frame, generation);
            *place = frame;
            count += 1;
        }
        let fresh = Fresh { zeroed, run_low: core::mem::take(&mut own.run_low) };
        drop(own);
        self.free.fetch_sub(count as u64, Ordering::Relaxed);
        (count, fresh)
    }

    fn has_zeroed(&self, own: &CpuFrames) -> bool {
        !own.zeroed.is_empty() || self.zeroed_count() != 0
    }

    /// Zeroed frames into the first of these places, as long as there are some; how many.
    #[cold]
    #[inline(never)]
    fn pop_zeroed(&self, own: &mut CpuFrames, places: &mut [Pfn]) -> usize {
        for (count, place) in places.iter_mut().enumerate() {
            if own.zeroed.is_empty() {
                self.refill_zeroed(own);
            }
            let Some(frame) = own.zeroed.pop() else { return count };
            *place = frame;
        }
        places.len()
    }

    fn refill_zeroed(&self, own: &mut CpuFrames) {
        let mut pool = self.pool.lock();
        let before = pool.zeroed.count();
        own.zeroed.refill(|_| Some((pool.zeroed.pop(&self.meta)?, 1)));
        self.zeroed_taken.fetch_add(before - pool.zeroed.count(), Ordering::Relaxed);
        self.note_zeroed(&pool, own);
    }

    /// After a refill: how many frames are left that hold zeros, and whether somebody has to hear of it. Where none was ever zeroed ahead
    /// nobody is to.
    pub(super) fn note_zeroed(&self, pool: &Pool, own: &mut CpuFrames) {
        let left = pool.zeroed.count();
        self.zeroed.store(left, Ordering::Relaxed);
        let is_wanted = self.zeroed_ahead.load(Ordering::Relaxed) > 0 && self.may_zero();
        let are_few = left < self.total() / ZEROED_PART / 2;
        own.run_low = are_few && is_wanted && self.zeroers.load(Ordering::Relaxed) == 0;
    }
}
