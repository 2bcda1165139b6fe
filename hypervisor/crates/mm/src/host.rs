//! The seam to a machine. A machine is a value: two can exist in one process.

use crate::frames::{Frames, Fresh};
use addr::{PAGE_SIZE, PageSize, Pfn};
use core::fmt;
use mutants::{Mutant, intact};
use paging::{OutOfTables, Shootdown, TableMemory};

/// Index of a CPU of the host, dense from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuIndex(pub usize);

/// No free frame of the wanted size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames {
    /// The size that was wanted.
    pub size: PageSize,
}

impl fmt::Display for OutOfFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "out of memory: no free frame of {} KiB", self.size.bytes() >> 10)
    }
}

/// The contents of frames. A frame is addressed by its number, never through a guest's translation.
pub trait FrameMemory {
    /// Fills with zeros.
    fn zero(&self, frame: Pfn, size: PageSize);
    /// Copies a base page.
    fn copy(&self, from: Pfn, to: Pfn);
    /// Overwrites a freed frame with junk, in debug builds (I15).
    fn poison(&self, frame: Pfn, size: PageSize);
    /// Reads bytes of a base page, from byte `offset` on. Nobody frees the frame meanwhile; a guest may write
    /// to it.
    ///
    /// # Panics
    /// If they do not all lie in the page.
    fn read_bytes(&self, frame: Pfn, offset: usize, bytes: &mut [u8]);
    /// Writes bytes of a base page, from byte `offset` on. Nobody frees the frame meanwhile.
    ///
    /// # Panics
    /// If they do not all lie in the page.
    fn write_bytes(&self, frame: Pfn, offset: usize, bytes: &[u8]);

    /// Reads an aligned word of a base page, in one access.
    fn load_word(&self, frame: Pfn, word: u16) -> u64;
    /// Writes an aligned word of a base page that is the caller's alone.
    fn store_word(&self, frame: Pfn, word: u16, value: u64) {
        self.write_bytes(frame, usize::from(word) * 8, &value.to_ne_bytes());
    }
    /// Writes `new` where an aligned word of a base page holds `old`, in one access: a guest may write to it.
    ///
    /// # Errors
    /// What the word held instead.
    fn exchange_word(&self, frame: Pfn, word: u16, old: u64, new: u64) -> Result<(), u64>;

    /// Calls `found` with the aligned words of a base page that are not zero, and their places, in order, as long as it says so; whether
    /// it always has. Nobody writes to the page meanwhile.
    fn nonzero_words(&self, frame: Pfn, found: &mut dyn FnMut(u16, u64) -> bool) -> bool {
        (0..(PAGE_SIZE / 8) as u16).all(|place| match self.load_word(frame, place) {
            0 => true,
            word => found(place, word),
        })
    }

    /// Whether two base pages are equal. It is so afterwards only if nobody can write to either.
    fn equal(&self, a: Pfn, b: Pfn) -> bool {
        crate::merge::equal_by_pieces(self, a, b)
    }

    /// A checksum of a base page, the same for equal ones, and most often another one for others. Somebody may write to the page
    /// meanwhile.
    fn checksum(&self, frame: Pfn) -> u32 {
        crate::merge::checksum_by_words(self, frame)
    }
}

/// A machine: memory, tables and CPUs.
pub trait Host: TableMemory + FrameMemory + Shootdown + Send + Sync {
    /// The allocator of this machine's frames.
    fn frames(&self) -> &Frames;

    /// The CPU that runs this code.
    fn current_cpu(&self) -> CpuIndex;

    /// A root for a new address space: empty below [`crate::USER_END`]. A machine whose own mappings live in
    /// the upper half puts them there.
    ///
    /// # Errors
    /// [`OutOfTables`].
    fn allocate_root(&self) -> Result<Pfn, OutOfTables> {
        self.allocate_table()
    }

    /// Gives a frame back whose last reference is gone. No CPU can reach it any more (I6).
    fn retire(&self, frame: Pfn, size: PageSize) {
        self.poison(frame, size);
        self.frames().free(self.current_cpu(), frame, size);
    }

    /// The same for many base frames.
    fn retire_pages(&self, frames: &[Pfn]) {
        frames.iter().for_each(|&frame| self.poison(frame, PageSize::Size4K));
        self.frames().free_pages(self.current_cpu(), frames);
    }

    /// Frames that were zeroed ahead are few: some CPU that is idle may call [`crate::zero_ahead`]. Locks may be held: it takes none, and
    /// waits for no other CPU's answer.
    fn zeroed_run_low(&self) {}

    /// A zeroed frame (I15) with one reference.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    fn allocate_zeroed(&self, size: PageSize) -> Result<Pfn, OutOfFrames> {
        let cpu = self.current_cpu();
        if size == PageSize::Size4K {
            let (frame, fresh) = self.frames().allocate_fresh(cpu)?;
            self.fill_fresh(&[frame], fresh);
            return Ok(frame);
        }
        let frame = self.frames().allocate(cpu, size)?;
        self.zero(frame, size);
        Ok(frame)
    }

    /// Zeroed base frames with one reference each, as many as there are places, or as can be had; how many.
    fn allocate_few_zeroed(&self, places: &mut [Pfn]) -> usize {
        let (count, fresh) = self.frames().allocate_few_fresh(self.current_cpu(), places);
        self.fill_fresh(&places[..count], fresh);
        count
    }

    /// Zeroes those of these frames that were not zeroed ahead.
    #[inline(always)]
    fn fill_fresh(&self, frames: &[Pfn], fresh: Fresh) {
        if fresh != Fresh::default() {
            self.note_zeroed(&frames[..fresh.zeroed], fresh);
        }
        frames[fresh.zeroed..].iter().for_each(|&frame| self.zero(frame, PageSize::Size4K));
    }

    /// These frames were zeroed ahead.
    #[inline(never)]
    fn note_zeroed(&self, frames: &[Pfn], fresh: Fresh) {
        let is_zero = |&frame| self.nonzero_words(frame, &mut |_, _| false);
        debug_assert!(frames.iter().all(is_zero), "a free frame was written to (I15)");
        if fresh.run_low && intact(Mutant::RunsLowUnheard) {
            self.zeroed_run_low();
        }
    }

    /// A base frame with one reference, and whatever is in it: the caller overwrites all of it before anybody sees it (I15).
    ///
    /// # Errors
    /// [`OutOfFrames`].
    fn allocate_to_fill(&self) -> Result<Pfn, OutOfFrames> {
        self.frames().allocate(self.current_cpu(), PageSize::Size4K)
    }

    /// A copy of a base page that nobody writes meanwhile, with one reference.
    ///
    /// # Errors
    /// [`OutOfFrames`].
    fn allocate_copy(&self, of: Pfn) -> Result<Pfn, OutOfFrames> {
        let frame = self.frames().allocate(self.current_cpu(), PageSize::Size4K)?;
        self.copy(of, frame);
        Ok(frame)
    }
}

/// Zeroes free frames for those who will want zeros (I15), as long as `goes_on`, which is asked before each, and there are to be more.
/// For CPUs that have nothing else to do; no lock is held.
pub fn zero_ahead<H: Host>(host: &H, goes_on: impl Fn() -> bool) {
    while goes_on()
        && let Some(mut frames) = host.frames().begin_zeroing()
    {
        while goes_on() && frames.zero_next(|frame| host.zero(frame, PageSize::Size4K)) {}
    }
}
