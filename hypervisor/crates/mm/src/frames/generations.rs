//! Which pass of aging has found each page used: four bytes a frame, apart from the other metadata. So a pass finds its place
//! by the frame's number alone, and sixteen neighbours share a cache line.
//!
//! ```text
//!   used in 5   6   7   8   9 = now
//!                   ╰─ counts from here: of a page that has come back late, in 5, use in 5 and 6 does not make it younger
//! ```

use super::{FrameMeta, Frames};
use addr::Pfn;
use alloc::boxed::Box;
use mutants::{Mutant, intact};
use sync::atomic::{AtomicU32, Ordering};

/// Generations after that of a late comeback in which use begins to count.
const LATE: u32 = 2;

/// The present generation, and the last one in which each frame was found used.
#[derive(Debug)]
pub(super) struct Generations {
    now: AtomicU32,
    used: Box<[AtomicU32]>,
}

/// Where aging notes what it finds: the frames, and the generation. By value, so that a loop over a table keeps it in registers.
#[derive(Clone, Copy, Debug)]
pub struct Uses<'f> {
    used: &'f [AtomicU32],
    generation: u32,
}

impl Uses<'_> {
    /// The page in this frame was used. The caller has an entry that maps it, and keeps that from going. The zero page, and frames
    /// that nobody reclaims, may well have a generation; frames without metadata have none.
    #[inline]
    pub fn note(self, frame: u64) {
        if let Some(used) = self.used.get(frame as usize) {
            used.store(self.generation, Ordering::Relaxed);
        }
    }
}

impl Generations {
    /// The first one, for so many frames.
    pub(super) fn new(frames: usize) -> Self {
        Self { now: AtomicU32::new(0), used: (0..frames).map(|_| AtomicU32::new(0)).collect() }
    }
}

/// Bytes of metadata a frame.
pub const METADATA_BYTES: u64 = (size_of::<FrameMeta>() + size_of::<AtomicU32>()) as u64;

impl Frames {
    /// The present generation of aging.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generations.now.load(Ordering::Relaxed)
    }

    /// Begins the next generation.
    pub(crate) fn next_generation(&self) -> u32 {
        self.generations.now.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// For whoever finds pages used: notes it in this generation.
    #[must_use]
    pub fn uses(&self, generation: u32) -> Uses<'_> {
        Uses { used: &self.generations.used, generation }
    }

    /// The last generation in which the page was used; of a frame that is in use. As long as no use has counted, it is the one
    /// before that in which the page came back.
    #[must_use]
    pub(crate) fn generation_of(&self, frame: Pfn) -> u32 {
        let (used, counts_from) = (self.used(frame).load(Ordering::Relaxed), self.meta(frame).counts_from());
        let counts = used.wrapping_sub(counts_from) <= u32::MAX / 2;
        if counts { used } else { counts_from.wrapping_sub(LATE + 1) }
    }

    /// The page is as young as if it had been used in this generation.
    pub(crate) fn set_generation(&self, frame: Pfn, generation: u32) {
        self.meta(frame).set_counts_from(generation);
        self.used(frame).store(generation, Ordering::Relaxed);
    }

    /// The page comes back long after it went, in an older generation than the present one, and has to be used twice to get
    /// younger: the access that brings it in is found in this generation or by the next pass, and does not count.
    pub(crate) fn come_back_late(&self, frame: Pfn) {
        let now = self.generation();
        let waits = if intact(Mutant::LateComebackIsUse) { LATE } else { 0 };
        self.meta(frame).set_counts_from(now.wrapping_add(waits));
        self.used(frame).store(now, Ordering::Relaxed);
    }

    fn used(&self, frame: Pfn) -> &AtomicU32 {
        &self.generations.used[frame.as_u64() as usize]
    }
}
